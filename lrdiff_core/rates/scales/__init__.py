"""Scales: factors that compose with the base rate, one class a scheme."""

from lrdiff_core.rates.scales.head_multiplier import HeadMultiplier
from lrdiff_core.rates.scales.layer_decay import LayerDecay
from lrdiff_core.rates.scales.lora_plus import LoRAPlus
from lrdiff_core.rates.scales.scale import Scale, Scaled
from lrdiff_core.rates.scales.slices import Slices
from lrdiff_core.rates.scales.width import WidthScale

__all__ = ["HeadMultiplier", "LayerDecay", "LoRAPlus", "Scale", "Scaled", "Slices", "WidthScale"]
