"""W3, transfer across width: a rate tuned on a narrow network, used on a wide one.

Yang et al. 2022, "Tensor Programs V: tuning large neural networks via zero-shot hyperparameter transfer",
arXiv:2203.03466. Only the rates of muP are used here, not its initialization.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from typing_extensions import override

from lrdiff_bench.study.workloads.common import PopulationWorkload, check_trials
from lrdiff_bench.study.workloads.parts.digits import PIXELS, load_digits, multiclass, permutation, relu_network
from lrdiff_bench.study.workloads.workload import CHEAP, FEWEST, Outcomes, Scheme, Trials, register_workload

if TYPE_CHECKING:
    from lrdiff_core.population import PopulationData
    from lrdiff_core.population.members import ModelFactory

__all__ = ["TUNED_AT", "Width", "factors", "width_64", "width_128", "width_256", "width_512"]

TUNED_AT = 32
"""Width of the network on which rates are tuned."""

TRAIN_ROWS, HELD_ROWS = 700, 300
SINGLE = {"input": 1.0, "hidden": 1.0, "output": 1.0}


@dataclass(frozen=True, kw_only=True)
class Width(PopulationWorkload):
    """Digits, two hidden layers of ``width`` units, Adam.

    Searches run at width 32 and reports at ``width``, with rates multiplied by what the scheme's ``rule`` says. A
    scheme with ``tuned_at_width`` is tuned at ``width`` itself.
    """

    width: int
    tuned_at: int = TUNED_AT
    train_rows: int = TRAIN_ROWS

    @override
    def rows(self, seed: int, judged_on: str) -> PopulationData:
        pixels, labels = load_digits()
        order = permutation(seed, "split", len(labels))
        held = order[-HELD_ROWS:] if judged_on == "test" else order[-2 * HELD_ROWS : -HELD_ROWS]
        return multiclass(pixels, labels, order[: self.train_rows], held)

    @override
    def network(self, trials: Trials) -> ModelFactory:
        width = self.width_of(trials)
        # Without biases, so that each layer is one group: muP gives a bias another rate than its weights.
        return lambda seed: relu_network(PIXELS, width, width, 10, bias=False)

    def width_of(self, trials: Trials) -> int:
        """Width at which these trials are trained."""
        wide = trials.judged_on == "test" or trials.scheme.options.get("tuned_at_width", False)
        return self.width if wide else self.tuned_at

    def path(self) -> str:
        """The kernel at every width: it is the faster one here, also beyond the size at which ``"auto"`` takes it."""
        from lrdiff_core.population.native import kernel_status

        return "kernel" if kernel_status().reason is None else "auto"

    def train(self, trials: Trials) -> Outcomes:
        """Train at the width that the split asks for, at the rates of the scheme's rule."""
        check_trials(self, trials)
        rule = trials.scheme.options.get("rule", "none")
        scale = factors(rule, self.width_of(trials), base=self.tuned_at)
        return super().train(replace(trials, rates=trials.rates * np.array([scale[group] for group in self.groups])))

    @override
    def tiny(self) -> Width:
        return replace(self, width=12, tuned_at=8, train_rows=200, steps=12, evaluations=3)


def factors(rule: str, width: int, *, base: int = TUNED_AT) -> Mapping[str, float]:
    """What a rule multiplies the rates of a network of ``width`` by.

    ``"none"``: nothing; ``"mup"``: :class:`lrdiff_core.rates.WidthScale` for Adam, weights of the hidden and of the
    output layer by base / width; ``"hidden"``: the hidden layer's alone.

    Example:
        >>> factors("mup", 128)
        {'input': 1.0, 'hidden': 0.25, 'output': 0.25}
    """
    narrow = base / width
    return {
        "none": {"input": 1.0, "hidden": 1.0, "output": 1.0},
        "hidden": {"input": 1.0, "hidden": narrow, "output": 1.0},
        "mup": {"input": 1.0, "hidden": narrow, "output": narrow},
    }[rule]


def _width(width: int) -> Width:
    return Width(
        name=f"width-{width}",
        title=f"digits, tuned at width {TUNED_AT}, used at {width}",
        question=f"Tuned at width {TUNED_AT}, which rates are still right at width {width}?",
        groups=("input", "hidden", "output"),
        schemes=(
            Scheme(name="single", ratios=SINGLE),
            Scheme(name="muP", ratios=SINGLE, options={"rule": "mup"}),
            Scheme(name="hidden only", ratios=SINGLE, options={"rule": "hidden"}),
            Scheme(name="single, tuned here", ratios=SINGLE, options={"tuned_at_width": True}, reference=True),
        ),
        metric="loss",
        base_rates=(1e-5, 1.0),
        default_rate=0.001,
        smallest_difference=0.02,  # nats
        steps=100,
        report_seeds=CHEAP if width <= 128 else FEWEST,
        optimizer="adam",
        batch_size=50,
        width=width,
    )


@register_workload("width-64")
def width_64() -> Width:
    """Rates tuned at width 32, used at 64."""
    return _width(64)


@register_workload("width-128")
def width_128() -> Width:
    """Rates tuned at width 32, used at 128."""
    return _width(128)


@register_workload("width-256")
def width_256() -> Width:
    """Rates tuned at width 32, used at 256."""
    return _width(256)


@register_workload("width-512")
def width_512() -> Width:
    """Rates tuned at width 32, used at 512."""
    return _width(512)
