"""Scores and statistics. The package is also the function `synthmr.api.evaluate`."""

from synthmr.face import make_callable

make_callable(__name__)
