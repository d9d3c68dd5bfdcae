"""synthmr: predict the MR contrast that was never acquired from the ones that were."""

__version__ = "0.1.0"
