"""Which parameter learns how fast: rules, scales that compose, and plain optimizer groups.

::

    names, values  <-  rules  <-  depth  <-  scales, width  <-  entry, table, plan  <-  build
"""

from lrdiff_core.rates.build import RateWarning, layer_rates, param_groups
from lrdiff_core.rates.depth import layer_depths
from lrdiff_core.rates.entry import PlanDiff, PlanEntry
from lrdiff_core.rates.names import ParamInfo, canonical_name, list_parameters
from lrdiff_core.rates.plan import RatePlan
from lrdiff_core.rates.rules import Rule
from lrdiff_core.rates.scales import HeadMultiplier, LayerDecay, LoRAPlus, Scale, Slices
from lrdiff_core.rates.width import WidthScale

__all__ = [
    "HeadMultiplier",
    "LayerDecay",
    "LoRAPlus",
    "ParamInfo",
    "PlanDiff",
    "PlanEntry",
    "RatePlan",
    "RateWarning",
    "Rule",
    "Scale",
    "Slices",
    "WidthScale",
    "canonical_name",
    "layer_depths",
    "layer_rates",
    "list_parameters",
    "param_groups",
]
