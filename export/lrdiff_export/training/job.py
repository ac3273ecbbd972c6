"""A training that can be repeated elsewhere step for step: initial weights, batches, loss, rates.

Every job carries one parameter more than its module, the *denormal probe*: numbers below the smallest normal one with
constant gradients of the same size. It has a group of its own and touches nothing else; where it stands still,
denormals are flushed to zero.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lrdiff_core.errors import ConfigError, InputError
from lrdiff_core.optimizers import OPTIMIZERS as TABLE
from lrdiff_core.rates import RatePlan
from lrdiff_core.schedules import Shape

__all__ = ["OPTIMIZERS", "PROBE", "Batch", "Loss", "Placed", "RateGroup", "TrainingJob", "plan_groups"]

Batch = tuple[Tensor, ...]
Loss = Callable[..., Tensor]  # (module, *batch) -> scalar

NO_BUDGET = {"lion": "it steps by a sign, which rounding turns near 0, and no budget of roundings holds a whole rate"}
OPTIMIZERS = tuple(name for name in TABLE if name not in NO_BUDGET)
PROBE = "denormal probe"
_PROBED = 16  # numbers of the probe
PROBE_RATE = 0.25  # a power of two: the products stay exact
# Adam divides by sqrt(v) + eps, and v is far below any number here: with eps 1 its step is the rate times m.
_PROBE_OPTIONS: dict[str, dict[str, Any]] = {
    **{name: {"eps": 1.0} for name in OPTIMIZERS if name not in ("sgd", "adafactor")},
    "muon": {"eps": 1.0, "use_muon": False},
}


@dataclass(frozen=True, kw_only=True)
class RateGroup:
    """Parameters that share every setting.

    Attributes:
        names: as the module names them.
        options: as torch's groups have them: ``lr``, ``weight_decay``, ``momentum``, ...
    """

    names: tuple[str, ...]
    options: Mapping[str, Any]

    @property
    def lr(self) -> float:
        """The rate."""
        return float(self.options["lr"])


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """What is trained, the same everywhere.

    Attributes:
        name: for people.
        module: in float32 on the CPU with its initial weights, in training mode; it is copied.
        batches: what ``loss`` takes after the module, a tuple a step.
        loss: from the module and a batch to a scalar; it must not draw random numbers.
        optimizer: one of ``OPTIMIZERS``; ``muon`` for groups with ``use_muon``, AdamW for the others.
        groups: every trainable parameter once.
        schedule: by which every group's rate moves, each from its own; None where rates stay.
        schedule_steps: over how many steps; None for those of the job.
        remarks: what a reader should know, a line each.

    Raises:
        ConfigError: no such optimizer, no batches, a parameter in no group or in two.
        RateError: the schedule does not fit its steps.

    Example:
        >>> job = TrainingJob(
        ...     name="line", module=nn.Linear(2, 1), batches=[(torch.ones(4, 2),)],
        ...     loss=lambda module, x: module(x).square().mean(), optimizer="sgd",
        ...     groups=(RateGroup(names=("weight", "bias"), options={"lr": 0.1}),),
        ... )
        >>> job.steps, job.parameters
        (1, 3)
    """

    name: str
    module: nn.Module
    batches: Sequence[Batch]
    loss: Loss
    optimizer: str
    groups: tuple[RateGroup, ...]
    schedule: Shape | None = None
    schedule_steps: int | None = None
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            why = NO_BUDGET.get(self.optimizer)
            raise ConfigError(
                f"{self.optimizer} cannot be judged: {why}" if why else f'no optimizer "{self.optimizer}"',
                help=f"optimizers: {', '.join(OPTIMIZERS)}",
            )
        if not self.batches:
            raise ConfigError(f"{self.name} has no batches", help="give at least one step's worth of rows")
        if self.schedule is not None:
            self.schedule.check(self.schedule_steps or self.steps)
        trained = [name for name, weight in self.module.named_parameters() if weight.requires_grad]
        grouped = [name for group in self.groups for name in group.names]
        if twice := sorted({name for name in grouped if grouped.count(name) > 1}):
            raise ConfigError(f"{twice[0]} is in two groups", help="put every parameter into one group")
        if wrong := sorted(set(trained) ^ set(grouped)):
            where = "no group" if wrong[0] in trained else "a group, and the module does not train it"
            raise ConfigError(f"{wrong[0]} is in {where}", help="put every trainable parameter into one group")

    @property
    def steps(self) -> int:
        """How many updates."""
        return len(self.batches)

    @property
    def parameters(self) -> int:
        """Trained numbers, without the probe."""
        return sum(weight.numel() for weight in self.module.parameters() if weight.requires_grad)

    def first(self, steps: int) -> TrainingJob:
        """The same job, its first steps alone."""
        return replace(self, batches=self.batches[:steps], schedule_steps=self.schedule_steps or self.steps)

    def factor(self, step: int) -> float:
        """By what the schedule multiplies every rate in a step, from 1."""
        return 1.0 if self.schedule is None else self.schedule.factor(step - 1, self.schedule_steps or self.steps)

    def group_of(self, name: str) -> int | None:
        """Which group a parameter is in; None for the probe and the loss."""
        return next((i for i, group in enumerate(self.groups) if name in group.names), None)

    def place(self, device: str, dtype: torch.dtype, *, through: torch.dtype | None = None) -> Placed:
        """A copy with weights and rows in ``dtype`` on a device.

        Args:
            device: ``cpu``, ``cuda`` or ``mps``.
            dtype: of weights and floating rows.
            through: rounded to this first, so that a float64 copy begins at another dtype's numbers.
        """
        return Placed(self, device, dtype, through or dtype)


class Placed:
    """A job on one device in one dtype, ready to be trained there.

    Attributes:
        job: it is a copy of.
        device, dtype: where its weights are, and in what.
        module: the copy.
        names: of what is trained, the probe last.
        params: the same order.
    """

    def __init__(self, job: TrainingJob, device: str, dtype: torch.dtype, through: torch.dtype) -> None:
        self.job, self.device, self.dtype, self._through = job, device, dtype, through
        try:
            module = copy.deepcopy(job.module)
        except Exception as problem:
            raise InputError(
                f"{type(job.module).__name__} cannot be copied", help="keep computed tensors out of its attributes"
            ) from problem
        self.module = _without_dropout(module).to("cpu", through).to(dtype).to(device)
        trained = {name: weight for name, weight in self.module.named_parameters() if weight.requires_grad}
        tiny, slope = _probe(through)
        self._slope = slope.to(dtype).to(device)
        probe = nn.Parameter(tiny.to(dtype).to(device))
        self.names = [*trained, PROBE]
        self.params: list[nn.Parameter] = [*trained.values(), probe]
        self._by_name = dict(zip(self.names, self.params, strict=True))
        self._names = dict(zip(self.params, self.names, strict=True))

    def groups(self) -> list[dict[str, Any]]:
        """Parameter groups as torch takes them, the probe's last."""
        made: list[dict[str, Any]] = [
            {"params": [self._by_name[name] for name in group.names], **group.options} for group in self.job.groups
        ]
        probe = {"lr": PROBE_RATE, "weight_decay": 0.0, **_PROBE_OPTIONS.get(self.job.optimizer, {})}
        return [*made, {"params": [self._by_name[PROBE]], **probe}]

    def is_probe(self, group: Mapping[str, Any]) -> bool:
        """Whether a group of an optimizer is that of the probe, whose rate stays."""
        return group["params"][0] is self.params[-1]

    def set_rates(self, optimizer: Any, step: int) -> None:
        """Give every group its rate of a step, from 1, whatever it had."""
        for part in getattr(optimizer, "parts", [optimizer]):
            for group in part.param_groups:
                name = self._names[group["params"][0]]
                at = self.job.group_of(name)
                group["lr"] = PROBE_RATE if at is None else self.job.groups[at].lr * self.job.factor(step)

    def batch(self, step: int) -> Batch:
        """The rows of one step, from 0."""
        return tuple(
            one.to("cpu", self._through).to(self.dtype).to(self.device) if one.is_floating_point() else
            one.to(self.device) for one in self.job.batches[step]
        )  # fmt: skip

    def loss(self, *batch: Tensor) -> Tensor:
        """The job's loss, to which the probe adds its gradient and (below the last digit) nothing."""
        value = self.job.loss(self.module, *batch)
        if self.dtype is torch.float64 and value.dtype is not torch.float64:
            raise InputError(
                f"the loss of {self.job.name} is {str(value.dtype).removeprefix('torch.')} in float64",
                help="make constants and casts in forward() and in the loss follow the dtype of the input",
            )
        return value + (self._by_name[PROBE] * self._slope).sum()


def plan_groups(plan: RatePlan, **options: Any) -> tuple[RateGroup, ...]:
    """The groups of a rate plan by name, each with further options of the optimizer.

    Example:
        >>> from lrdiff_core.rates import param_groups
        >>> [group.lr for group in plan_groups(param_groups(nn.Linear(2, 1), lr=0.1))]
        [0.1]
    """
    groups = []
    for group in plan.groups():
        settings = {key: value for key, value in group.items() if key not in ("params", "param_names")}
        trained = [
            name
            for name, weight in zip(group["param_names"], group["params"], strict=True)
            if weight.requires_grad
        ]  # fmt: skip
        if trained:
            groups.append(RateGroup(names=tuple(trained), options={**options, **settings}))
    return tuple(groups)


def _probe(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weights and gradients below the smallest normal number of a dtype; float64 takes those of float32."""
    info = torch.finfo(torch.float32 if dtype is torch.float64 else dtype)
    place = torch.arange(1, _PROBED + 1, dtype=torch.float64) / (2 * _PROBED)  # up to a half
    return (place * info.tiny).to(dtype), (place.flip(0) * info.tiny / 4).to(dtype)


def _without_dropout(module: nn.Module) -> nn.Module:
    """Devices draw different numbers, so nothing is dropped."""
    for part in module.modules():
        if isinstance(part, nn.modules.dropout._DropoutNd):
            part.p = 0.0
        elif isinstance(part, nn.MultiheadAttention | nn.RNNBase):
            part.dropout = 0.0
    return module
