"""Optimizers that step all parameter groups in one pass: drop-in for torch's own, at the price of one rate.

>>> from lrdiff_core.optim import AdamW
"""

from lrdiff_core.optim.clipping import clip_grad_norms_, clipped_step
from lrdiff_core.optim.loading import LoadReport, load_state_only
from lrdiff_core.optim.rules.adafactor import Adafactor
from lrdiff_core.optim.rules.adagrad import Adagrad
from lrdiff_core.optim.rules.adam import Adam
from lrdiff_core.optim.rules.adamw import AdamW
from lrdiff_core.optim.rules.lamb import LAMB
from lrdiff_core.optim.rules.lion import Lion
from lrdiff_core.optim.rules.muon import MuonAdamW
from lrdiff_core.optim.rules.nadam import NAdam
from lrdiff_core.optim.rules.radam import RAdam
from lrdiff_core.optim.rules.rmsprop import RMSprop
from lrdiff_core.optim.rules.schedule_free import ScheduleFreeAdamW
from lrdiff_core.optim.rules.sgd import SGD

__all__ = [
    "LAMB", "SGD", "Adafactor", "Adagrad", "Adam", "AdamW", "Lion", "LoadReport", "MuonAdamW", "NAdam", "RAdam",
    "RMSprop", "ScheduleFreeAdamW", "clip_grad_norms_", "clipped_step", "load_state_only",
]  # fmt: skip
