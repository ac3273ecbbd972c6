"""What is measured: every case once, in one registry, for asv, pytest-benchmark and the command line alike.

A new case is one function here::

    @case_family(version="1", parameters={"rates": (1, 2)})
    def step(rates: int) -> Workload:
        "Optimizer step of the main model on fixed gradients."
        ...

Raise the version when numbers taken before can no longer be compared with those taken after.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from lrdiff_bench.timing import Case, Workload
from lrdiff_core.errors import ConfigError, UnavailableError

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from lrdiff_core.loop import Setup

__all__ = ["CASES", "CaseFamily", "case_family", "find_case", "peak_resident_bytes"]

Metric = Literal["time", "memory"]

CASES: dict[str, CaseFamily] = {}

EPOCHS_OF_MEMORY = 10


@dataclass(frozen=True, kw_only=True)
class CaseFamily:
    """One case over all its parameters.

    Args:
        name: of the family, and of its cases.
        version: see :class:`~lrdiff_bench.timing.Case`.
        parameters: the values of every parameter; the cases are their product, in that order.
        metric: "time", or "memory" for the peak of the whole process, which needs a process of its own.
        build: makes the workload of one choice of parameters.
        summary: one line that says what is measured.
    """

    name: str
    version: str
    parameters: Mapping[str, tuple[Any, ...]]
    metric: Metric
    build: Callable[..., Workload]
    summary: str

    def cases(self) -> list[Case]:
        """All cases of the family, in the order of the product of the parameters."""
        choices = itertools.product(*self.parameters.values())
        return [self.case(**dict(zip(self.parameters, choice, strict=True))) for choice in choices]

    def case(self, **parameters: Any) -> Case:
        """The case of one choice of parameters.

        Raises:
            ConfigError: a parameter is missing, unknown, or has a value the family does not have.
        """
        if set(parameters) != set(self.parameters):
            raise ConfigError(
                f"case {self.name!r} was given the parameters {sorted(parameters)}",
                help=f"its parameters are: {', '.join(self.parameters) or 'none'}",
            )
        for key, value in parameters.items():
            if value not in self.parameters[key]:
                raise ConfigError(
                    f"case {self.name!r} has no {key}={value!r}",
                    help=f"values of {key}: {', '.join(map(repr, self.parameters[key]))}",
                )
        return Case(
            name=self.name, parameters=parameters, version=self.version, factory=partial(self.build, **parameters)
        )


def case_family(
    *, version: str, parameters: Mapping[str, tuple[Any, ...]] | None = None, metric: Metric = "time"
) -> Callable[[Callable[..., Workload]], Callable[..., Workload]]:
    """Register the decorated function, which builds a workload from keyword parameters, under its own name.

    Raises:
        ConfigError: the name is taken.
    """

    def register(build: Callable[..., Workload]) -> Callable[..., Workload]:
        name = build.__name__
        if name in CASES:
            raise ConfigError(f"two cases are called {name!r}", help="give the function another name")
        CASES[name] = CaseFamily(
            name=name,
            version=version,
            parameters=dict(parameters or {}),
            metric=metric,
            build=build,
            summary=(build.__doc__ or "").strip().split("\n")[0],
        )
        return build

    return register


def find_case(name: str, **parameters: Any) -> Case:
    """The case of that name and those parameters.

    Raises:
        ConfigError: there is no such case.

    Example:
        >>> find_case("step", rates=2).label
        'step[rates=2]'
    """
    if name not in CASES:
        raise ConfigError(f"there is no case {name!r}", help=f"cases: {', '.join(CASES)}")
    return CASES[name].case(**parameters)


@case_family(version="1", parameters={"rates": (1, 2)})
def step(rates: int) -> Workload:
    """Optimizer step of the main model (10-5-1) on fixed gradients."""
    setup, optimizer = main_job(rates)
    _run_epoch(setup, optimizer, steps=1)  # makes the gradients and the optimizer's state
    return Workload(step=optimizer.step, reset=restorer(setup.net, optimizer))


@case_family(version="1", parameters={"rates": (1, 2)})
def epoch(rates: int) -> Workload:
    """One training epoch of the main job: 700 training rows of 10 features in batches of 25."""
    setup, optimizer = main_job(rates)

    def train() -> None:
        _run_epoch(setup, optimizer)
        optimizer.zero_grad()  # the gradients of an epoch belong to it: none are left to restore

    train()  # makes the optimizer's state
    return Workload(step=train, reset=restorer(setup.net, optimizer))


@case_family(version="1", parameters={"rates": (1, 2)}, metric="memory")
def memory(rates: int) -> Workload:
    """Ten training epochs of the main job, for the peak of the memory of the whole process."""
    setup, optimizer = main_job(rates)

    def epochs() -> None:
        for _ in range(EPOCHS_OF_MEMORY):
            _run_epoch(setup, optimizer)

    epochs()
    return Workload(step=epochs, reset=restorer(setup.net, optimizer))


def peak_resident_bytes() -> int:
    """Peak resident memory of this process since it began, in bytes; Python and torch themselves are part of it.

    The operating system's figure, because torch allocates its tensors outside Python: tracemalloc sees none of them.
    It never goes down, so one process can measure one case.

    Raises:
        UnavailableError: the system has no ``getrusage`` (Windows).

    Source: getrusage(2): ``ru_maxrss`` is in KiB on Linux and in bytes on macOS.
    """
    try:
        import resource
    except ImportError as problem:
        raise UnavailableError(
            "peak memory cannot be read on this system", help="measure memory on Linux or macOS"
        ) from problem
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main_job(rates: int) -> tuple[Setup, Optimizer]:
    """Everything of the preset ``seed`` before its first step, with its two rates or the first of them alone."""
    from lrdiff_core import PRESETS, load_table, make_config, set_up
    from lrdiff_core.loop import make_optimizer

    config = make_config({**PRESETS["seed"], "device": "cpu"})
    table = dict(config.rates or {})
    if rates == 1:
        table = dict.fromkeys(table, max(table.values()))
    setup = set_up(load_table("seed"), config, rates=table)
    return setup, make_optimizer(config.optimizer, setup.plan.groups())


def _run_epoch(setup: Setup, optimizer: Optimizer, steps: int | None = None) -> None:
    """Train one epoch, or its first steps, over the rows in the order they have."""
    import torch

    from lrdiff_core.loop import loss_function, train_epoch

    inputs, targets = setup.rows.inputs["train"], setup.rows.targets["train"]
    batches = torch.arange(len(inputs)).split(setup.batch_size)[:steps]
    train_epoch(setup.net.network, optimizer, loss_function("binary"), inputs, targets, batches)


def restorer(model: nn.Module, optimizer: Optimizer) -> Callable[[], None]:
    """A function that puts weights, gradients and optimizer state back, in place, to what they are now.

    Most optimizers build their state on the first step: take one before, or there is nothing to put back.
    """
    import torch

    weights = list(model.parameters())
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    state = [value for entry in optimizer.state.values() for value in entry.values() if torch.is_tensor(value)]
    tensors = [*weights, *gradients, *state]
    saved = [tensor.detach().clone() for tensor in tensors]

    def restore() -> None:
        with torch.no_grad():
            for tensor, value in zip(tensors, saved, strict=True):
                tensor.copy_(value)

    return restore
