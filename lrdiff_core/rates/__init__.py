"""Which parameter learns how fast: rules, scales that compose, and plain optimizer groups.

::

    values  <-  names, options, patterns  <-  rules  <-  layers (tree, stacks, depth, head)
            <-  assignment, scales, router  <-  plan (entry, grouping, table, bound, freezing)  <-  build
"""

from lrdiff_core.rates.build import RateWarning, layer_rates, param_groups
from lrdiff_core.rates.layers import layer_depths
from lrdiff_core.rates.names import ParamInfo, canonical_name, list_parameters
from lrdiff_core.rates.plan import PlanDiff, PlanEntry, RatePlan
from lrdiff_core.rates.router import MuonRouter
from lrdiff_core.rates.rules import Rule
from lrdiff_core.rates.scales import HeadMultiplier, LayerDecay, LoRAPlus, Scale, Slices, WidthScale

__all__ = [
    "HeadMultiplier",
    "LayerDecay",
    "LoRAPlus",
    "MuonRouter",
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
