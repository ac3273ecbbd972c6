"""W9, low-rank adapters: two factors in front of frozen weights, the second of which starts at zero.

LoRA: Hu et al. 2021, arXiv:2106.09685. A rate of its own for the second factor: Hayou, Ghosh, Yu 2024, "LoRA+:
efficient low rank adaptation of large models", arXiv:2402.12354. Its argument is about wide networks: there are three.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from typing_extensions import override

from lrdiff_bench.study.workloads.parts.digits import PIXELS, load_digits, permutation
from lrdiff_bench.study.workloads.parts.pretrained import Pretrained
from lrdiff_bench.study.workloads.workload import Scheme, Trials, register_workload

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lrdiff_core.population.members import ModelFactory

__all__ = ["Adapters", "lora_32", "lora_64", "lora_128"]

RANK = 4
RATIO = 16.0  # of the rates of B and A, that the authors recommend
TUNING_ROWS, VALIDATION_ROWS = 200, 300


@dataclass(frozen=True, kw_only=True)
class Adapters(Pretrained):
    """A network pretrained on the digits 0 to 4, whose adapters learn the digits 5 to 9.

    Every layer computes ``W x + b + B (A x)`` with W and b frozen; A starts as linear layers do, B at zero.
    """

    width: int

    @property
    @override
    def sizes(self) -> tuple[int, ...]:
        return (PIXELS, self.width, self.width, 5)

    @override
    def parts_of(self, seed: int) -> list[np.ndarray]:
        _, labels = load_digits()
        order = permutation(seed, "split", len(labels))
        before, after = order[labels[order] < 5], order[labels[order] >= 5]
        return [before, *np.split(after, np.cumsum([TUNING_ROWS, VALIDATION_ROWS]))]

    @override
    def changed(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        pixels, labels = load_digits()
        return pixels, labels - 5  # rows of the lower digits are not asked for

    @override
    def columns(self) -> Mapping[str, int]:
        return {f"{layer}.{factor}": column for layer in (0, 2, 4) for column, factor in enumerate("AB")}

    @override
    def network(self, trials: Trials) -> ModelFactory:
        return lambda seed: _adapted(self.known[seed])

    @override
    def tiny(self) -> Adapters:
        return replace(self, width=12, steps=8, evaluations=2, pretraining_epochs=2, known={})


def _adapted(weights: Mapping[str, Tensor]) -> nn.Module:
    """The pretrained layers, frozen, each with its adapter."""
    import torch
    from torch import nn

    class Adapter(nn.Module):
        def __init__(self, weight: Tensor, bias: Tensor) -> None:
            super().__init__()
            fan_out, fan_in = weight.shape
            self.register_buffer("weight", weight.clone())
            self.register_buffer("bias", bias.clone())
            bound = 1 / math.sqrt(fan_in)  # as linear layers are drawn
            self.A = nn.Parameter(torch.empty(RANK, fan_in).uniform_(-bound, bound))
            self.B = nn.Parameter(torch.zeros(fan_out, RANK))

        def forward(self, rows: Tensor) -> Tensor:  # [batch, fan_in] -> [batch, fan_out]
            frozen = nn.functional.linear(rows, self.get_buffer("weight"), self.get_buffer("bias"))
            return frozen + rows @ self.A.T @ self.B.T

    layers: list[nn.Module] = []
    for layer in (0, 2, 4):
        layers += [Adapter(weights[f"{layer}.weight"], weights[f"{layer}.bias"]), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _lora(width: int) -> Adapters:
    def ratio(of: float) -> dict[str, float]:
        return {"A": 1.0, "B": of}

    return Adapters(
        name=f"lora-{width}",
        title=f"adapters of rank {RANK}, width {width}",
        question="Does the second factor of an adapter want a larger rate than the first?",
        groups=("A", "B"),
        schemes=(
            Scheme(name="single", ratios=ratio(1.0)),
            *(Scheme(name=f"B {of:g}x", ratios=ratio(of)) for of in (4.0, RATIO)),
            Scheme(name="frozen A", ratios={"A": 0.0, "B": 1.0}),
            Scheme(name="free", ratios={"A": 1.0}, free={"B": (0.01, 100.0)}),
        ),
        metric="accuracy",
        base_rates=(1e-4, 10.0),
        default_rate=0.001,
        smallest_difference=0.01,  # one point of accuracy
        steps=100,
        optimizer="adam",
        batch_size=20,
        width=width,
    )


@register_workload("lora-32")
def lora_32() -> Adapters:
    """Adapters in a network of width 32."""
    return _lora(32)


@register_workload("lora-64")
def lora_64() -> Adapters:
    """Adapters in a network of width 64."""
    return _lora(64)


@register_workload("lora-128")
def lora_128() -> Adapters:
    """Adapters in a network of width 128."""
    return _lora(128)
