"""W6, controls: transfers of which the literature says which part should learn.

Discriminative: a rate 2.6 times lower for each layer further down (Howard, Ruder 2018, "Universal language model
fine-tuning for text classification", arXiv:1801.06146). Surgical: the first layer alone where the inputs changed
(Lee et al. 2022, "Surgical fine-tuning improves adaptation to distribution shifts", arXiv:2210.11466).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from typing_extensions import override

from lrdiff_bench.study.workloads.parts.digits import PIXELS, load_digits, permutation
from lrdiff_bench.study.workloads.parts.pretrained import Pretrained
from lrdiff_bench.study.workloads.workload import Scheme, register_workload

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Control", "control_classes", "control_pixels"]

DISCRIMINATIVE = 2.6  # of Howard and Ruder
HIDDEN = (32, 32)
TUNING_ROWS, VALIDATION_ROWS = 200, 300


@dataclass(frozen=True, kw_only=True)
class Control(Pretrained):
    """A network pretrained on digits and then moved to digits that differ in one known respect.

    Args:
        shift: ``"classes"``: from 0 to 4 to 5 to 9, with a head drawn anew; ``"pixels"``: to other digits whose
            pixels are shuffled by one permutation, with the pretrained head.
    """

    shift: str

    @property
    @override
    def sizes(self) -> tuple[int, ...]:
        return (PIXELS, *HIDDEN, 5 if self.shift == "classes" else 10)

    @override
    def parts_of(self, seed: int) -> list[np.ndarray]:
        _, labels = load_digits()
        order = permutation(seed, "split", len(labels))
        if self.shift == "classes":
            before, after = order[labels[order] < 5], order[labels[order] >= 5]
        else:
            before, after = order[:900], order[900:]
        return [before, *np.split(after, np.cumsum([TUNING_ROWS, VALIDATION_ROWS]))]

    @override
    def changed(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        pixels, labels = load_digits()
        if self.shift == "pixels":
            return np.ascontiguousarray(pixels[:, permutation(seed, "pixels", PIXELS)]), labels
        return pixels, labels - 5  # rows of the lower digits are not asked for

    @override
    def inherited(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        if self.shift == "pixels":
            return weights
        return {name: value for name, value in weights.items() if not name.startswith("4.")}  # another head

    @override
    def tiny(self) -> Control:
        return replace(self, steps=8, evaluations=2, pretraining_epochs=2, known={})


def _control(shift: str, *, title: str, question: str) -> Control:
    down = 1 / DISCRIMINATIVE
    return Control(
        name=f"control-{shift}",
        title=title,
        question=question,
        groups=("input", "hidden", "head"),
        schemes=(
            Scheme(name="single", ratios={"input": 1.0, "hidden": 1.0, "head": 1.0}),
            Scheme(name="discriminative", ratios={"input": down**2, "hidden": down, "head": 1.0}),
            Scheme(name="surgical", ratios={"input": 1.0, "hidden": 0.0, "head": 0.0}),
            Scheme(name="frozen", ratios={"input": 0.0, "hidden": 0.0, "head": 1.0}),
        ),
        metric="accuracy",
        base_rates=(1e-4, 10.0),
        default_rate=0.001,
        smallest_difference=0.01,  # one point of accuracy
        steps=100,
        label="control",
        optimizer="adam",
        batch_size=20,
        shift=shift,
    )


@register_workload("control-classes")
def control_classes() -> Control:
    """From the digits 0 to 4 to the digits 5 to 9."""
    return _control(
        "classes",
        title="control: digits 0 to 4, then 5 to 9",
        question="Where the inputs stay and the classes change, is it right to hold the lower layers back?",
    )


@register_workload("control-pixels")
def control_pixels() -> Control:
    """From digits to digits with shuffled pixels."""
    return _control(
        "pixels",
        title="control: shuffled pixels",
        question="Where the inputs change and the classes stay, is it right to tune the first layer alone?",
    )
