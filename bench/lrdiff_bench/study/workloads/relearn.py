"""W4, relearning a head: a network that knows the digits is told other names for them, 100 times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from typing_extensions import override

from lrdiff_bench.study.workloads.parts.digits import PIXELS, load_digits, permutation
from lrdiff_bench.study.workloads.parts.pretrained import Pretrained
from lrdiff_bench.study.workloads.workload import Scheme, register_workload

__all__ = ["Relearn", "relearn_adam", "relearn_sgd"]

SIZES = (PIXELS, 32, 32, 10)
PARTS = (900, 100, 300, 497)  # rows of pretraining, tuning, validation, test
RATIOS = (3.0, 10.0, 30.0, 100.0)


@dataclass(frozen=True, kw_only=True)
class Relearn(Pretrained):
    """A 64-32-32-10 network, pretrained on 900 digits; body: the two hidden layers; head: the last layer.

    The head starts as pretraining left it, so every class but the few that keep their names is wrong at first.
    """

    @property
    @override
    def sizes(self) -> tuple[int, ...]:
        return SIZES

    @override
    def parts_of(self, seed: int) -> list[np.ndarray]:
        return np.split(permutation(seed, "split", sum(PARTS)), np.cumsum(PARTS)[:-1])

    @override
    def changed(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        pixels, labels = load_digits()
        return pixels, permutation(seed, "labels", 10)[labels]

    @override
    def columns(self) -> Mapping[str, int]:
        return {f"{layer}.{kind}": int(layer == 4) for layer in (0, 2, 4) for kind in ("weight", "bias")}

    @override
    def tiny(self) -> Relearn:
        return replace(self, steps=10, evaluations=2, pretraining_epochs=2, known={})


def _head(ratio: float) -> dict[str, float]:
    return {"body": 1 / ratio, "head": 1.0}


def _relearn(optimizer: str, *, base_rates: tuple[float, float]) -> Relearn:
    return Relearn(
        name=f"relearn-{optimizer}",
        title=f"relearning a head, {'SGD' if optimizer == 'sgd' else 'Adam'}",
        question="When only the names of the classes change, does a faster head or a slower body help?",
        groups=("body", "head"),
        schemes=(
            Scheme(name="single", ratios=_head(1.0)),
            Scheme(name="frozen body", ratios={"body": 0.0, "head": 1.0}),
            *(Scheme(name=f"head {ratio:g}x", ratios=_head(ratio)) for ratio in RATIOS),
            Scheme(name="free", ratios={"head": 1.0}, free={"body": (1e-4, 10.0)}),
        ),
        metric="accuracy",
        base_rates=base_rates,
        default_rate=0.001,
        smallest_difference=0.01,  # one point of accuracy
        steps=100,  # five epochs: with more, a frozen body is as good at any large rate, and no rate is best
        optimizer=optimizer,
        batch_size=5,
    )


@register_workload("relearn-adam")
def relearn_adam() -> Relearn:
    """Relearning a head with Adam."""
    return _relearn("adam", base_rates=(1e-4, 10.0))


@register_workload("relearn-sgd")
def relearn_sgd() -> Relearn:
    """Relearning a head with SGD."""
    return _relearn("sgd", base_rates=(1e-3, 100.0))
