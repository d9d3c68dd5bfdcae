"""A simulated brain MR cohort with known truth: real anatomy, published tissue values, the scanner's own equations.

    template (MNI152) -> warp -> tissue fractions -> lesions -> signal equations -> point spread
    -> bias field -> Rician noise -> gain

``docs/phantom.md`` has the equations and the values with their sources. Read `subject.simulate_subject` first.
"""

from __future__ import annotations

from synthmr.data.phantom.cohort import make_phantom, write_cohort
from synthmr.data.phantom.settings import CONTRASTS, LESIONS, PhantomConfig
from synthmr.data.phantom.subject import PhantomSubject, simulate_subject

__all__ = ["CONTRASTS", "LESIONS", "PhantomConfig", "PhantomSubject", "make_phantom", "simulate_subject", "write_cohort"]
