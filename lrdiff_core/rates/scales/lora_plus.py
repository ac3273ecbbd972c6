"""LoRA+: the B matrices of adapters learn faster than the A matrices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from typing_extensions import override

from lrdiff_core.errors import RateError
from lrdiff_core.rates.names import ParamInfo
from lrdiff_core.rates.scales.scale import BuiltInScale, Scaled
from lrdiff_core.rates.values import check_rate

__all__ = ["LoRAPlus"]


@dataclass(frozen=True)
class LoRAPlus(BuiltInScale):
    """LoRA+: the B matrices of low-rank adapters learn ``ratio`` times as fast as the A matrices.

    ::

        factor = ratio for lora_B matrices, 1 for everything else

    Biases, heads and norms are untouched. (PEFT's helper gives the B rate to every 1-D parameter.) LoRA matrices of
    embeddings (``lora_embedding_B``) are untouched too: the authors' code gives embeddings a rate of their own, which
    is a rule here.

    Source: Hayou, Ghosh and Yu 2024, "LoRA+", arXiv:2402.12354, lr_B = ratio * lr_A, ratio about 16.

    Args:
        ratio: a positive number, 16 in the paper.
        component: the part of the name that marks B, ``lora_B`` as PEFT names it.

    Raises:
        RateError: the ratio is not a positive finite number; the model has no B matrices (when the plan is made).

    Example:
        >>> from torch import nn
        >>> from lrdiff_core.rates import param_groups
        >>> adapter = nn.ModuleDict({"lora_A": nn.Linear(8, 2, bias=False), "lora_B": nn.Linear(2, 8, bias=False)})
        >>> [group["lr"] for group in param_groups(adapter, lr=0.5, scale=[LoRAPlus(16)]).groups()]
        [0.5, 8.0]
    """

    ratio: float = 16.0
    component: str = "lora_B"

    def __post_init__(self) -> None:
        check_rate(self.ratio, "ratio of LoRAPlus")

    @property
    @override
    def label(self) -> str:
        return f"LoRAPlus({self.ratio:g})"

    @property
    @override
    def neutral(self) -> bool:
        return self.ratio == 1

    @override
    def scaled(self, infos: Sequence[ParamInfo]) -> Scaled:
        found = {
            info.name: float(self.ratio)
            for info in infos
            if len(info.shape) >= 2 and any(self.component in place.name.split(".") for place in info.occurrences)
        }
        if not found:
            raise RateError(
                f"LoRAPlus finds no {self.component} matrix in this model",
                help="add the adapters first, or name the part that marks them: component=...",
            )
        return Scaled(found)
