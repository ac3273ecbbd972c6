"""Optimizers that step all parameter groups in one pass: drop-in for torch's own, at the price of one rate.

>>> from lrdiff_core.optim import AdamW
"""

from .adam import Adam
from .adamw import AdamW
from .muon import MuonAdamW
from .sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "MuonAdamW"]
