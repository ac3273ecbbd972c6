"""The plan: an entry for each parameter, its table, its groups, what is frozen, and the model that it belongs to."""

from lrdiff_core.rates.plan.entry import PlanDiff, PlanEntry
from lrdiff_core.rates.plan.plan import RatePlan

__all__ = ["PlanDiff", "PlanEntry", "RatePlan"]
