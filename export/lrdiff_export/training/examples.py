"""Jobs for training parity: any module with rows, and a few small ones of the kinds that people train."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lrdiff_core.errors import ConfigError, InputError
from lrdiff_core.model import ModelSpec, build_model
from lrdiff_core.optimizers import OPTIMIZERS as TABLE
from lrdiff_core.rates import LayerDecay, RatePlan, param_groups
from lrdiff_core.seeds import make_generator
from lrdiff_export.examples import Attending, Convolutional
from lrdiff_export.model.float64 import evaluation_copy
from lrdiff_export.records import first_line
from lrdiff_export.training.job import TrainingJob, plan_groups

__all__ = ["TRAINING_ZOO", "make_job", "zoo_job"]

RATES = {"sgd": 0.05, "adam": 0.003, "adamw": 0.003, "muon": 0.003}
MUON_RATE = 0.02  # of its matrices, Keller Jordan's choice
LAYER_DECAY = 0.7  # so that every layer has a rate of its own


def make_job(
    module: nn.Module,
    inputs: Tensor | Sequence[Tensor],
    *,
    name: str,
    steps: int,
    targets: Tensor | None = None,
    loss: Callable[[Any, Tensor], Tensor] | None = None,
    plan: RatePlan | None = None,
    optimizer: str = "adamw",
    batch_size: int | None = None,
    seed: int = 0,
) -> TrainingJob:
    """Make a job of a module and rows.

    Args:
        module: takes the inputs by position.
        inputs: one tensor an input, ``[rows, ...]``.
        name: for people.
        steps: how many updates; the rows are gone through again and again in a seeded order.
        targets: ``[rows, ...]``; left out, normal random numbers of the shape of the module's first floating output.
        loss: from what the module gives and the targets to a scalar; left out, the mean squared error of the first
            floating output.
        plan: of the module; left out, the optimizer's usual rate at the output and 0.7 times that for each layer below.
        optimizer: one of :data:`~lrdiff_export.training.OPTIMIZERS`; ``sgd`` and ``rmsprop`` with momentum 0.9.
        batch_size: rows a step; left out, a quarter of the rows.
        seed: of targets and order.

    Raises:
        ConfigError: numbers of rows differ, an argument is out of range.
        InputError: the module does not take the rows, or gives nothing that can be trained.

    Example:
        >>> make_job(nn.Linear(3, 1), torch.randn(8, 3), name="line", steps=5).steps
        5
    """
    rows = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    count = len(rows[0])
    remarks = []
    if steps < 1 or count < 1:
        raise ConfigError(f"{name}: {count} rows, {steps} steps", help="give at least one row and one step")
    generator = make_generator(seed, "training parity")
    if targets is None:
        like = _floating(_run(module, rows, name), name)
        targets = torch.randn(like.shape, generator=generator)
        remarks.append("targets are random numbers: none were given")
    if any(len(one) != count for one in (*rows, targets)):
        sizes = ", ".join(str(len(one)) for one in (*rows, targets))
        raise ConfigError(f"{name}: inputs and targets have {sizes} rows", help="give the same number of rows each")
    size = min(batch_size or max(1, count // 4), count)
    batches = []
    order: list[Tensor] = []
    for _ in range(steps):
        if not order:  # what is left of an epoch is dropped: all batches have one shape
            order = [part for part in torch.randperm(count, generator=generator).split(size) if len(part) == size]
        chosen = order.pop(0)
        batches.append(tuple(one[chosen] for one in (*rows, targets)))
    if any(isinstance(part, nn.modules.dropout._DropoutNd) and part.p > 0 for part in module.modules()):
        remarks.append("dropout is switched off: devices draw different numbers")
    return TrainingJob(
        name=name,
        module=module,
        batches=batches,
        loss=_SquaredError() if loss is None else _OnOutput(loss),
        optimizer=optimizer,
        groups=_groups(module, optimizer, plan),
        remarks=tuple(remarks),
    )


class _SquaredError:
    """Mean squared error of the first floating output."""

    def __call__(self, module: nn.Module, *batch: Tensor) -> Tensor:
        *rows, targets = batch
        output = module(*rows)
        first = output if isinstance(output, Tensor) else output[0]
        return (first.to(targets.dtype) - targets).square().mean()


class _OnOutput:
    """A loss of outputs and targets."""

    def __init__(self, loss: Callable[[Any, Tensor], Tensor]) -> None:
        self.loss = loss

    def __call__(self, module: nn.Module, *batch: Tensor) -> Tensor:
        *rows, targets = batch
        return self.loss(module(*rows), targets)


def _run(module: nn.Module, rows: Sequence[Tensor], name: str) -> Any:
    still = evaluation_copy(module)  # no dropout drawn, no statistics of the caller's moved
    try:
        with torch.no_grad():
            return still(*rows)
    except Exception as problem:
        raise InputError(
            f"{name} does not take these rows: {first_line(problem)}", help="give one tensor per input, [rows, ...]"
        ) from problem


def _floating(output: Any, name: str) -> Tensor:
    first = output[0] if isinstance(output, tuple | list) and output else output
    if not isinstance(first, Tensor) or not first.is_floating_point():
        raise InputError(
            f"{name} gives {type(first).__name__} first, not a floating tensor", help="give a loss and targets"
        )
    return first


def _groups(module: nn.Module, optimizer: str, plan: RatePlan | None) -> Any:
    if plan is None:
        scale = [LayerDecay(LAYER_DECAY)] if len(list(module.children())) > 1 else []
        plan = param_groups(module, lr=RATES.get(optimizer, TABLE[optimizer].rate), scale=scale)
    if optimizer != "muon":
        return plan_groups(plan, **({"momentum": 0.9} if TABLE[optimizer].momentum else {}))
    groups = []
    shapes = {name: weight.dim() for name, weight in module.named_parameters()}
    for group in plan_groups(plan):
        for matrices in (True, False):
            names = tuple(name for name in group.names if (shapes[name] == 2) == matrices)
            more = {"use_muon": True, "lr": group.lr * MUON_RATE / RATES["muon"]} if matrices else {"use_muon": False}
            if names:
                groups.append(type(group)(names=names, options={**group.options, **more}))
    return tuple(groups)


class _Cubes(nn.Module):
    """Linear layers over three dimensions: where one device's kernel was wrong (pytorch#192934)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(12, 16)
        self.norm = nn.LayerNorm(16)
        self.last = nn.Linear(16, 3)

    def forward(self, rows: Tensor) -> Tensor:  # [batch, time, 12] -> [batch, time, 3]
        result: Tensor = self.last(torch.tanh(self.norm(self.first(rows))))
        return result


def _main() -> nn.Module:
    spec = ModelSpec(
        features=10, hidden=(5,), outputs=1, task="binary", feature_names=tuple(f"f{i}" for i in range(10)),
        classes=("no", "yes"), target_name="y",
    )  # fmt: skip
    return build_model(spec, seed=0)


# module, shape of a row, rows, rows a step
_JOBS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int, int]] = {
    "main": (_main, (10,), 400, 25),
    "convolution": (Convolutional, (1, 8, 8), 96, 24),
    "transformer block": (Attending, (5, 16), 96, 24),
    "3-D linear": (_Cubes, (7, 12), 96, 24),
    "large batch": (_Cubes, (3, 12), 20_000, 10_000),
}
TRAINING_ZOO = tuple(_JOBS)


def zoo_job(name: str, *, optimizer: str = "adamw", steps: int = 20) -> TrainingJob:
    """Return a small job by name, seeded: one of :data:`TRAINING_ZOO`.

    Args:
        name: of the job.
        optimizer: as for :func:`make_job`.
        steps: how many updates.

    Raises:
        ConfigError: there is none of that name.

    Example:
        >>> zoo_job("main", steps=3).parameters
        61
    """
    if name not in _JOBS:
        raise ConfigError(f'no job "{name}"', help=f"jobs: {', '.join(_JOBS)}")
    make, shape, rows, size = _JOBS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = make().train()
        inputs = torch.randn(rows, *shape)
    return make_job(module, inputs, name=name, steps=steps, optimizer=optimizer, batch_size=size)
