"""Schedules that keep the ratios between rates.

Every group's rate is its own base rate times a factor; the floor is a fraction of that base rate, so a group that
learns 100 times slower than another does so from the first step to the last. (A floor given as an absolute rate,
torch's ``eta_min``, pulls all groups towards one rate.)
"""

from lrdiff_core.schedules.schedule import Schedule, refuse_shared_rates, set_rate
from lrdiff_core.schedules.shape import Shape, as_shape

__all__ = ["Schedule", "Shape", "as_shape", "refuse_shared_rates", "set_rate"]
