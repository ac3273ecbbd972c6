"""Optimizers that step all parameter groups in one pass: drop-in for torch's own, at the price of one rate.

>>> from lrdiff_core.optim import AdamW
"""

from lrdiff_core.optim.adagrad import Adagrad
from lrdiff_core.optim.adam import Adam
from lrdiff_core.optim.adamw import AdamW
from lrdiff_core.optim.clipping import clip_grad_norms_, clipped_step
from lrdiff_core.optim.lamb import LAMB
from lrdiff_core.optim.lion import Lion
from lrdiff_core.optim.loading import LoadReport, load_state_only
from lrdiff_core.optim.muon import MuonAdamW
from lrdiff_core.optim.nadam import NAdam
from lrdiff_core.optim.radam import RAdam
from lrdiff_core.optim.rmsprop import RMSprop
from lrdiff_core.optim.schedule_free import ScheduleFreeAdamW
from lrdiff_core.optim.sgd import SGD

__all__ = [
    "LAMB", "SGD", "Adagrad", "Adam", "AdamW", "Lion", "LoadReport", "MuonAdamW", "NAdam", "RAdam", "RMSprop",
    "ScheduleFreeAdamW", "clip_grad_norms_", "clipped_step", "load_state_only",
]  # fmt: skip
