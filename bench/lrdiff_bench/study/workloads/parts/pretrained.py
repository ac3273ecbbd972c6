"""Workloads that begin with a network which knows the digits, and then want something else of it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from typing_extensions import override

from lrdiff_bench.study.workloads.common import PopulationWorkload
from lrdiff_bench.study.workloads.parts.digits import (
    PRETRAINING_EPOCHS,
    load_digits,
    multiclass,
    pretrain,
    relu_network,
)
from lrdiff_bench.study.workloads.workload import Trials

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lrdiff_core.population import PopulationData
    from lrdiff_core.population.members import ModelFactory

__all__ = ["Pretrained"]


@dataclass(frozen=True, kw_only=True)
class Pretrained(PopulationWorkload):
    """Subclasses say which rows are for what, and how the digits change after pretraining.

    Args:
        pretraining_epochs: of the network that the trials begin with.
        known: its weights by seed, filled as they are wanted.
    """

    pretraining_epochs: int = PRETRAINING_EPOCHS
    known: dict[int, dict[str, Tensor]] = field(default_factory=dict, repr=False, compare=False)

    @property
    @abstractmethod
    def sizes(self) -> tuple[int, ...]:
        """Of the layers, inputs first."""

    @abstractmethod
    def parts_of(self, seed: int) -> list[np.ndarray]:
        """Rows of pretraining, tuning, validation and test: four sets that share no row."""

    @abstractmethod
    def changed(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Pixels [1797, 64] and labels [1797] as they are after pretraining."""

    def inherited(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Of the pretrained weights, those that a trial begins with; the others are drawn anew."""
        return weights

    @override
    def rows(self, seed: int, judged_on: str) -> PopulationData:
        _, train, validation, test = self.parts_of(seed)
        return multiclass(*self.changed(seed), train, validation if judged_on == "validation" else test)

    @override
    def prepare(self, trials: Trials) -> None:
        pixels, labels = load_digits()
        pretrain(
            self.known,
            [int(seed) for seed in trials.seeds],
            lambda seed: multiclass(pixels, labels, self.parts_of(seed)[0]),
            self.sizes,
            epochs=self.pretraining_epochs,
        )

    @override
    def network(self, trials: Trials) -> ModelFactory:
        def make(seed: int) -> nn.Module:
            net = relu_network(*self.sizes)
            net.load_state_dict({**net.state_dict(), **self.inherited(self.known[seed])})
            return net

        return make
