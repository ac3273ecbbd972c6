"""Does training with ``state_format`` come to the same? Three workloads for ``lrdiff study`` and its court.

The schemes have one rate each, tuned with the same budget, and differ in how weights and state are kept; the first is
float32, and all compute in float32. NO DIFFERENCE means that the whole interval of the gain is within the workload's
smallest difference that matters. From the checkout's root::

    lrdiff study benchmarks.state_formats.study:digits benchmarks.state_formats.study:tokens \
        benchmarks.state_formats.study:relearn --budget 16
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
    from torch.optim import Optimizer

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
        return 64

    @override
    def train(self, trials: Trials) -> Outcomes:
        check_trials(self, trials)
        self.inner.prepare(trials)
        factory = self.inner.network(trials)
        begin = time.perf_counter()
        members = _Members.of(self.inner, factory, trials, steps=self.steps)
        found = np.array(members.train(self.steps, set(self.evaluated_after())))  # [evaluations, 2, trials]
        each = (time.perf_counter() - begin) / (len(trials.seeds) * self.steps)
        return mask_diverged(
            found[:, 0].T, found[:, 1].T, evaluated_after=np.array(self.evaluated_after()), seconds_a_step=each
        )

    def evaluated_after(self) -> list[int]:
        """Numbers of steps after which the metric is taken."""
        return [round(self.steps * (i + 1) / self.evaluations) for i in range(self.evaluations)]

    @override
    def tiny(self) -> FormatWorkload:
        inner: Any = self.inner.tiny()
        return replace(self, inner=inner, steps=10, evaluations=2)


@dataclass(frozen=True, kw_only=True)
class _Members:
    """Networks that are trained side by side by one optimizer, each a group of its own.

    Args:
        net: any of them: how inputs become outputs.
        params: of each network by name, the leaves that the optimizer steps.
        optimizer: of all.
        inputs, targets: rows of training, ``[members, rows, ...]``.
        held, right: rows to be judged on and what is right there.
        order: rows in the order of training, ``[members, epochs, rows]``.
        size: of a batch.
        metric: that is taken on the rows to be judged on.
    """

    net: nn.Module
    params: list[dict[str, Tensor]]
    optimizer: Optimizer
    inputs: Tensor
    targets: Tensor
    held: Tensor
    right: Tensor
    order: Tensor
    size: int
    metric: str

    @classmethod
    def of(cls, inner: PopulationWorkload, factory: ModelFactory, trials: Trials, *, steps: int) -> _Members:
        """Networks, rows and optimizer of the trials, by their seeds."""
        import torch

        from lrdiff_core import optim
        from lrdiff_core.population.members import build, row_order

        options = dict(trials.scheme.options)
        dtype = getattr(torch, options.pop("weights", "float32"))
        seeds = [int(seed) for seed in trials.seeds]
        nets = [build(factory, seed).to(dtype) for seed in seeds]
        assert not list(nets[0].buffers()), "one network stands for all"
        data: list[Any] = [inner.rows(seed, trials.judged_on) for seed in seeds]  # all of them with rows held back
        an_epoch = -(-data[0].rows // inner.batch_size)
        epochs = -(-steps // an_epoch)
        kind: Any = {"adam": optim.Adam, "adamw": optim.AdamW}[inner.optimizer]
        groups = [
            {"params": list(net.parameters()), "lr": float(rates[0])}
            for net, rates in zip(nets, trials.rates, strict=True)
        ]
        return cls(
            net=nets[0],
            params=[dict(net.named_parameters()) for net in nets],
            optimizer=kind(groups, **options),
            inputs=torch.stack([one.inputs for one in data]),
            targets=torch.stack([one.targets for one in data]),
            held=torch.stack([one.held_inputs for one in data]),
            right=torch.stack([one.held_targets for one in data]),
            order=torch.stack([row_order(seed, data[0].rows, epochs).long().view(epochs, -1) for seed in seeds]),
            size=inner.batch_size,
            metric=inner.metric,
        )

    def train(self, steps: int, wanted: set[int]) -> list[tuple[list[float], list[float]]]:
        """Metric and loss on the rows of training of each member, after the steps that are wanted."""
        import torch

        found, member = [], torch.arange(len(self.params))[:, None]
        an_epoch = -(-self.inputs.shape[1] // self.size)
        for step in range(steps):
            epoch, batch = divmod(step, an_epoch)
            rows = self.order[:, epoch, batch * self.size : (batch + 1) * self.size]
            self.optimizer.zero_grad()
            _losses(self.outputs(self.inputs[member, rows]), self.targets[member, rows]).sum().backward()
            self.optimizer.step()
            if step + 1 in wanted:
                found.append(self.judge())
        return found

    def outputs(self, inputs: Tensor) -> Tensor:
        """Of all members, each on its own rows: ``[members, rows, classes]``, computed in float32.

        Weights in bfloat16 get gradients in bfloat16.
        """
        import torch
        from torch.func import functional_call, vmap

        stacked = {name: torch.stack([one[name] for one in self.params]).float() for name in self.params[0]}
        found: Tensor = vmap(lambda params, rows: functional_call(self.net, params, (rows,)))(stacked, inputs)
        return found

    def judge(self) -> tuple[list[float], list[float]]:
        import torch

        with torch.no_grad():
            held, train = self.outputs(self.held), _losses(self.outputs(self.inputs), self.targets)
            if self.metric == "accuracy":
                metric = (held.argmax(2) == self.right).double().mean(1)
            else:
                metric = _losses(held, self.right)
            return metric.where(held.isfinite().flatten(1).all(1), torch.nan).tolist(), train.tolist()


def _losses(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean loss of each member."""
    from torch.nn import functional

    return (
        functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape).mean(1)
    )


def _formats(name: str, **changes: Any) -> FormatWorkload:
    inner: Any = replace(make_workload(name), **changes)
    return FormatWorkload(
        name=f"formats-{name}",
        title=f"{inner.title}: weights and state in fewer bytes",
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
    return _formats("width-64", tuned_at=64, title="digits, width 64")


def tokens() -> FormatWorkload:
    """Rare tokens: most rows of an embedding have no gradient at most steps."""
    return _formats("tokens-adam")


def relearn() -> FormatWorkload:
    """A pretrained network that learns other names of its classes."""
    return _formats("relearn-adam")
