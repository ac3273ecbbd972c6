"""W4, relearning a head: a network that knows the digits is told other names for them, 100 times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from lrdiff_bench.study.workload import Scheme, Trials, register_workload
from lrdiff_bench.study.workloads.common import PopulationWorkload
from lrdiff_bench.study.workloads.digits import (
    PIXELS,
    PRETRAINING_EPOCHS,
    load_digits,
    multiclass,
    permutation,
    pretrain,
    relu_network,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lrdiff_core.population import PopulationData
    from lrdiff_core.population.members import ModelFactory

__all__ = ["Relearn", "relearn_adam", "relearn_sgd"]

SIZES = (PIXELS, 32, 32, 10)
PARTS = (900, 100, 300, 497)  # rows of pretraining, tuning, validation, test
RATIOS = (3.0, 10.0, 30.0, 100.0)


@dataclass(frozen=True, kw_only=True)
class Relearn(PopulationWorkload):
    """A 64-32-32-10 network, pretrained on 900 digits; body: the two hidden layers; head: the last layer.

    The head starts as pretraining left it, so every class but the few that keep their names is wrong at first.
    """

    pretraining_epochs: int = PRETRAINING_EPOCHS
    known: dict[int, dict[str, Tensor]] = field(default_factory=dict, repr=False, compare=False)

    def rows(self, seed: int, judged_on: str) -> PopulationData:
        pixels, labels = load_digits()
        _, train, validation, test = parts_of(seed)
        renamed = permutation(seed, "labels", 10)[labels]
        return multiclass(pixels, renamed, train, validation if judged_on == "validation" else test)

    def prepare(self, trials: Trials) -> None:
        pixels, labels = load_digits()
        pretrain(
            self.known,
            [int(seed) for seed in trials.seeds],
            lambda seed: multiclass(pixels, labels, parts_of(seed)[0]),
            SIZES,
            epochs=self.pretraining_epochs,
        )

    def network(self, trials: Trials) -> ModelFactory:
        def make(seed: int) -> nn.Module:
            net = relu_network(*SIZES)
            net.load_state_dict(self.known[seed])
            return net

        return make

    def columns(self) -> Mapping[str, int]:
        return {f"{layer}.{kind}": int(layer == 4) for layer in (0, 2, 4) for kind in ("weight", "bias")}

    def tiny(self) -> Relearn:
        return replace(self, steps=10, evaluations=2, pretraining_epochs=2, known={})


def parts_of(seed: int) -> list[np.ndarray]:
    """Rows of pretraining, tuning, validation and test: four sets that share no row."""
    return np.split(permutation(seed, "split", sum(PARTS)), np.cumsum(PARTS)[:-1])


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
