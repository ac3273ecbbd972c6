"""The same training in every implementation, on every device, in every arithmetic."""

from lrdiff_export.training import compiled
from lrdiff_export.training.arithmetic import ARITHMETICS, Arithmetic
from lrdiff_export.training.examples import TRAINING_ZOO, make_job, zoo_job
from lrdiff_export.training.implementations import (
    IMPLEMENTATIONS,
    Implementation,
    Lane,
    Running,
    TrainingImplementation,
    find_lanes,
    register_implementation,
    why_not,
)
from lrdiff_export.training.job import OPTIMIZERS, Placed, RateGroup, TrainingJob, plan_groups
from lrdiff_export.training.parity import check_training_parity
from lrdiff_export.training.report import Departure, LaneResult, SameBits, TrainingReport

__all__ = [
    "ARITHMETICS",
    "IMPLEMENTATIONS",
    "OPTIMIZERS",
    "TRAINING_ZOO",
    "Arithmetic",
    "Departure",
    "Implementation",
    "Lane",
    "LaneResult",
    "Placed",
    "RateGroup",
    "Running",
    "SameBits",
    "TrainingImplementation",
    "TrainingJob",
    "TrainingReport",
    "check_training_parity",
    "compiled",  # importing it fills the registry
    "find_lanes",
    "make_job",
    "plan_groups",
    "register_implementation",
    "why_not",
    "zoo_job",
]
