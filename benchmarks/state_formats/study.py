"""Does training with ``state_format`` come to the same? Three workloads for ``lrdiff study`` and its court.

The schemes have one rate each, tuned with the same budget, and differ in how numbers are kept; the first is float32. NO
DIFFERENCE means that the whole interval of the gain is within the workload's smallest difference that matters. From the
checkout's root::

    lrdiff study benchmarks.state_formats.study:digits benchmarks.state_formats.study:tokens \
        benchmarks.state_formats.study:relearn --quick
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from typing_extensions import override

from lrdiff_bench.study.workloads.common import PopulationWorkload, check_trials
from lrdiff_bench.study.workloads.outcomes import mask_diverged
from lrdiff_bench.study.workloads.registry import make_workload
from lrdiff_bench.study.workloads.workload import FEWEST, Outcomes, Scheme, Trials, Workload

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lrdiff_core.population import PopulationData
    from lrdiff_core.population.members import ModelFactory

__all__ = ["FormatWorkload", "digits", "relearn", "tokens"]

SCHEMES: dict[str, dict[str, str]] = {
    "float32": {},
    "bfloat16 state": {"state_format": "bfloat16"},
    "8-bit state": {"state_format": "8-bit"},
    "bfloat16 weights": {"state_format": "float32", "weights": "bfloat16"},
    "bfloat16 weights, 8-bit state": {"state_format": "8-bit", "weights": "bfloat16"},
}


@dataclass(frozen=True, kw_only=True)
class FormatWorkload(Workload):
    """Another workload's rows and network, one rate, trained by our own Adam in the formats of the schemes.

    Args:
        inner: whose rows, network, batches and steps these are.
        evaluations: how often the metric is taken, evenly over the steps.
    """

    inner: PopulationWorkload
    evaluations: int = 5

    @property
    @override
    def at_once(self) -> int:
        return 1

    @override
    def train(self, trials: Trials) -> Outcomes:
        check_trials(self, trials)
        self.inner.prepare(trials)
        factory = self.inner.network(trials)
        begin = time.perf_counter()
        found = np.array(
            [
                self._train(factory, float(rates[0]), int(seed), trials)
                for rates, seed in zip(trials.rates, trials.seeds, strict=True)
            ]
        )  # [trials, evaluations, 2]
        each = (time.perf_counter() - begin) / (len(found) * self.steps)
        return mask_diverged(
            found[..., 0], found[..., 1], evaluated_after=np.array(self.evaluated_after()), seconds_a_step=each
        )

    def evaluated_after(self) -> list[int]:
        """Numbers of steps after which the metric is taken."""
        return [round(self.steps * (i + 1) / self.evaluations) for i in range(self.evaluations)]

    def _train(self, factory: ModelFactory, rate: float, seed: int, trials: Trials) -> list[tuple[float, float]]:
        """The metric on the rows to be judged on, and the loss on those of training, at each evaluation."""
        import torch

        from lrdiff_core import optim
        from lrdiff_core.population.members import build, row_order

        options = dict(trials.scheme.options)
        dtype = getattr(torch, options.pop("weights", "float32"))
        data = self.inner.rows(seed, trials.judged_on)
        net = build(factory, seed).to(dtype)
        kind: Any = {"adam": optim.Adam, "adamw": optim.AdamW}[self.inner.optimizer]
        optimizer = kind(net.parameters(), lr=rate, **options)
        inputs, size = data.inputs.to(dtype), self.inner.batch_size
        an_epoch = -(-data.rows // size)
        order = row_order(seed, data.rows, -(-self.steps // an_epoch)).long().view(-1, data.rows)  # [epochs, rows]
        found, wanted = [], set(self.evaluated_after())
        for step in range(self.steps):
            epoch, batch = divmod(step, an_epoch)
            rows = order[epoch, batch * size : (batch + 1) * size]
            optimizer.zero_grad()
            _loss(net(inputs[rows]), data.targets[rows]).backward()
            optimizer.step()
            if step + 1 in wanted:
                found.append(self._judge(net, data, inputs))
        return found

    def _judge(self, net: nn.Module, data: PopulationData, inputs: Tensor) -> tuple[float, float]:
        import torch

        assert data.held_inputs is not None
        assert data.held_targets is not None
        with torch.no_grad():
            held, train = net(data.held_inputs.to(inputs.dtype)), _loss(net(inputs), data.targets)
            right = held.argmax(1) == data.held_targets
            metric = right.double().mean() if self.metric == "accuracy" else _loss(held, data.held_targets)
            return float(metric) if held.isfinite().all() else float("nan"), float(train)

    @override
    def tiny(self) -> FormatWorkload:
        inner: Any = self.inner.tiny()
        return replace(self, inner=inner, steps=10, evaluations=2)


def _loss(logits: Tensor, targets: Tensor) -> Tensor:
    from torch.nn import functional

    return functional.cross_entropy(logits.float(), targets)


def _formats(name: str, **changes: Any) -> FormatWorkload:
    inner: Any = replace(make_workload(name), **changes)
    return FormatWorkload(
        name=f"formats-{name}",
        title=f"{inner.title}: numbers in fewer bytes",
        question="Does training come to the same with weights and state in fewer bytes?",
        groups=("all",),
        schemes=tuple(Scheme(name=one, ratios={"all": 1.0}, options=options) for one, options in SCHEMES.items()),
        metric=inner.metric,
        base_rates=inner.base_rates,
        default_rate=inner.default_rate,
        smallest_difference=inner.smallest_difference,
        steps=inner.steps,
        report_seeds=FEWEST,
        label="control",
        inner=inner,
    )


def digits() -> FormatWorkload:
    """Two hidden layers of 64 units on digits."""
    return _formats("width-64", tuned_at=64)


def tokens() -> FormatWorkload:
    """Rare tokens: most rows of an embedding have no gradient at most steps."""
    return _formats("tokens-adam")


def relearn() -> FormatWorkload:
    """A pretrained network that learns other names of its classes."""
    return _formats("relearn-adam")
