"""READ FIRST. The stages in order, one short function each; `synthmr.cli` calls them, and so can you.

    index -> audit -> prepare -> (store) -> train -> synthesize -> evaluate -> report

Imports are inside the functions, so that asking for one stage does not load the others' libraries.
"""

from synthmr.pipeline.cohort import audit, describe, index, phantom
from synthmr.pipeline.gate import Gate
from synthmr.pipeline.predicting import predict_settings, predictor_of, synthesize_cohort, synthesize_files
from synthmr.pipeline.scoring import compare, evaluate, protocols, report, score
from synthmr.pipeline.ticks import Tick
from synthmr.pipeline.training import check_hardware, check_out, configure, extend, extension, needed, prepared, train

__all__ = [
    "Gate",
    "Tick",
    "audit",
    "check_hardware",
    "check_out",
    "compare",
    "configure",
    "describe",
    "evaluate",
    "extend",
    "extension",
    "index",
    "needed",
    "phantom",
    "predict_settings",
    "predictor_of",
    "prepared",
    "protocols",
    "report",
    "score",
    "synthesize_cohort",
    "synthesize_files",
    "train",
]
