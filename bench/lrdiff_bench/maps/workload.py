"""What a map trains: a model and rows for each seed, an optimizer, a length, and how the end is judged."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from lrdiff_bench.system import factory
from lrdiff_core.config import RunConfig
from lrdiff_core.errors import ConfigError, InputError
from lrdiff_core.loop import score_name
from lrdiff_core.population import PopulationData, population_task
from lrdiff_core.population.members import build
from lrdiff_core.schedules import Shape

__all__ = ["MapWorkload", "from_config", "from_factory", "from_own_table"]

RANGES = {"sgd": (1e-3, 100.0), "adam": (1e-4, 10.0)}  # of an axis that nobody named
DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True, kw_only=True)
class MapWorkload:
    """A training whose two rates a map varies; a factory of one's own returns one of these.

    Args:
        name: in file names and titles.
        model: the model of a seed; torch's global generator is seeded for the call.
        data: rows for all seeds, or the rows of a seed. The held-out rows judge; without any the training rows do.
        optimizer, momentum, weight_decay, schedule: as for :func:`lrdiff_core.population.train_population`.
        batch_size: rows a step; None takes all rows.
        epochs, steps: the length; one of them.
        rates: rates to be marked in the map, by group (``{"body": 0.001, "head": 0.01}``); what they end with
            gives the target that ``steps_to_target`` counts to. May be empty.
        x, y: axes where the command line gives none, ``GROUP:LOW:HIGH``.
        size, seeds: cells along each axis, and seeds, where the command line gives none; seeds left out: 200 where
            that takes about a minute on two cores, else 20.
        first_seed: seeds are counted from here.
        last_losses: judge by the mean of so many last training losses, normalised by the first (Sohl-Dickstein
            2024), in place of a held-out loss.
        dtype: ``"float32"`` or ``"float64"``.
        device: ``"cpu"``, ``"cuda"``, ``"mps"`` or ``"auto"``, on the machine that trains.
        settings: whatever else the map's own record should hold, JSON-ready.

    Raises:
        ConfigError: a field has a value that cannot be.

    Example:
        >>> rows = torch.arange(8.0)[:, None]
        >>> data = PopulationData(inputs=rows, targets=(rows > 3.5).float(), task="binary")
        >>> MapWorkload(name="tiny", model=lambda seed: nn.Linear(1, 1), data=data, steps=3).loss_name
        'training loss'
    """

    name: str
    model: Callable[[int], nn.Module]
    data: PopulationData | Callable[[int], PopulationData]
    optimizer: str = "adam"
    batch_size: int | None = None
    epochs: int | None = None
    steps: int | None = None
    momentum: float = 0.0
    weight_decay: float = 0.0
    schedule: str | Shape | None = None
    rates: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    x: str | None = None
    y: str | None = None
    size: int = 64
    seeds: int | None = None
    first_seed: int = 0
    last_losses: int | None = None
    dtype: str = "float32"
    device: str = "cpu"
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise ConfigError(f"the length of workload {self.name} is ambiguous", help="give either epochs or steps")
        for name in ("epochs", "steps", "batch_size", "last_losses"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ConfigError(f"{name} is {value!r}", help="write a whole number from 1 up")
        if self.dtype not in DTYPES:
            raise ConfigError(f"dtype is {self.dtype!r}", help=f"write one of: {', '.join(DTYPES)}")
        if self.last_losses is not None and self.steps is not None and self.last_losses > self.steps:
            raise ConfigError(
                f"the last {self.last_losses} losses of {self.steps} steps are wanted", help="train longer"
            )

    def rows(self, seed: int) -> PopulationData:
        """The rows of a seed."""
        return self.data if isinstance(self.data, PopulationData) else self.data(seed)

    def judged_on(self, rows: PopulationData) -> str:
        """``"validation"``, ``"training"`` or ``"last losses"``: what gives a cell its loss."""
        if self.last_losses is not None:
            return "last losses"
        return "validation" if rows.held_rows else "training"

    @property
    def loss_name(self) -> str:
        """What a cell's loss is called."""
        names = {"validation": "validation loss", "training": "training loss"}
        last = f"last {self.last_losses} training losses over the first"
        return names.get(self.judged_on(self.rows(self.first_seed)), last)

    @property
    def loss_unit(self) -> str:
        """The unit of a cell's loss."""
        rows = self.rows(self.first_seed)
        if self.last_losses is not None or rows.loss is not None:
            return "1"
        return "squared error" if rows.task == "regression" else "nats"

    @property
    def score_name(self) -> str:
        """What a cell's score is called."""
        return score_name(self.rows(self.first_seed).task)

    def describe(self) -> dict[str, Any]:
        """Settings that change a result, JSON-ready."""
        schedule = self.schedule if self.schedule is None or isinstance(self.schedule, str) else repr(self.schedule)
        return {
            "name": self.name,
            "optimizer": self.optimizer,
            "batch_size": self.batch_size,
            "epochs": self.epochs,
            "steps": self.steps,
            "momentum": self.momentum,
            "weight_decay": self.weight_decay,
            "schedule": schedule,
            "last_losses": self.last_losses,
            "dtype": self.dtype,
            "device": self.device,
            "rates": dict(self.rates),
            **self.settings,
        }

    def fingerprint(self, seeds: list[int]) -> str:
        """A hash of settings, first weights and rows of the first and the last seed.

        Tiles with different fingerprints do not belong to one map: the code or the rows have changed, or a worker
        has others.
        """
        digest = hashlib.sha256(repr(sorted(self.describe().items())).encode())
        for seed in sorted({seeds[0], seeds[-1]}):
            model, rows = build(self.model, seed), self.rows(seed)
            tensors = [*model.state_dict().values(), rows.inputs, rows.targets, rows.held_inputs, rows.held_targets]
            # The names of modules stand for what they compute: an activation has no weights.
            digest.update(repr([(name, type(part).__name__) for name, part in model.named_modules()]).encode())
            for tensor in tensors:
                if tensor is not None:
                    digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
                    digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]


def from_config(config: RunConfig) -> MapWorkload:
    """The training of a run: each seed has its own split, weights and order, and its own rows where they are generated.

    Example:
        >>> from lrdiff_core import PRESETS, make_config
        >>> workload = from_config(make_config(PRESETS["seed"]))
        >>> workload.x, workload.y, workload.batch_size
        ('layer1:0.0001:10', 'layer2:0.0001:10', 25)
    """
    task = population_task(config)
    low, high = RANGES["sgd" if config.optimizer == "sgd" else "adam"]
    body, head = ",".join(task.layers[:-1]), task.layers[-1]
    return MapWorkload(
        name=config.name,
        model=task.model,
        data=task.rows,
        epochs=task.epochs,
        rates=task.rates,
        x=f"{body}:{low:g}:{high:g}" if body else None,
        y=f"{head}:{low:g}:{high:g}" if body else None,
        first_seed=config.seed,
        settings={"data": config.data, "hidden": list(task.spec.hidden)},
        **task.options,
    )


def from_own_table(config: RunConfig, folder: str) -> MapWorkload:
    """The training of a model of one's own on a table: each seed has its own split, weights and order.

    Args:
        config: with ``model`` and ``data``.
        folder: where the factory's module lies.

    Raises:
        InputError: the factory fails, or the model does not map the table's rows to what its task needs.
    """
    target = str(config.model)
    first = factory.load_model(target, folder=folder).module
    base = from_config(config.model_copy(update={"model": None, "hidden": (1,), "rates": None}))
    check_outputs(target, first, base.rows(config.seed))
    layers, (low, high) = _layers(first), RANGES["sgd" if config.optimizer == "sgd" else "adam"]
    return replace(
        base,
        model=lambda seed: factory.load_model(target, folder=folder).module,
        rates={},
        x=f"{','.join(layers[:-1])}:{low:g}:{high:g}" if len(layers) > 1 else None,
        y=f"{layers[-1]}:{low:g}:{high:g}" if len(layers) > 1 else None,
        settings={"data": config.data, "model": target},
    )


def check_outputs(source: str, module: nn.Module, rows: PopulationData) -> None:
    """Refuse a model that does not take the rows, or whose outputs are not what the task's loss takes."""
    width = rows.targets.shape[1] if rows.targets.ndim == 2 else int(rows.targets.max()) + 1
    try:
        with torch.no_grad():
            outputs = copy.deepcopy(module).eval()(rows.inputs[:2].cpu())
    except Exception as problem:  # whatever the user's own code raises
        raise factory.their_fault(f"{source} on rows [2, {rows.inputs.shape[1]}]", problem) from problem
    got = list(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
    if not isinstance(outputs, torch.Tensor) or outputs.ndim != 2 or len(outputs) != 2 or outputs.shape[1] < width:
        raise InputError(
            f"{source} maps [2, {rows.inputs.shape[1]}] to {got}",
            help=f"a {rows.task} task over these rows needs [rows, {width}], logits without a sigmoid or softmax",
        )


def _layers(module: nn.Module) -> list[str]:
    return [name for name, part in module.named_children() if any(p.requires_grad for p in part.parameters())]


def from_factory(target: str, folder: str) -> MapWorkload:
    """The workload that ``MODULE:FACTORY`` gives, or the training of the model that it gives.

    Args:
        target: ``MODULE:FACTORY`` (:mod:`lrdiff_bench.system.factory`).
        folder: where its module lies.

    Raises:
        InputError: it cannot be made, or the model comes without targets.
    """
    made = factory.make(target, folder=folder)
    if isinstance(made, MapWorkload):
        return made
    first = factory.as_model(target, made, needs=("example", "targets"))
    options, rows = first.options, first.rows()
    if len(rows) != 1:
        raise InputError(f"{target} takes {len(rows)} inputs", help="return a MapWorkload: a map trains on one input")
    layers = _layers(first.module)
    optimizer = options.get("optimizer", "adamw")
    low, high = RANGES["sgd" if optimizer == "sgd" else "adam"]
    return MapWorkload(
        name=target.replace(":", "-").replace(".", "-"),
        model=lambda seed: factory.load_model(target, folder=folder).module,
        data=PopulationData(inputs=rows[0], targets=options["targets"], task="regression", loss=first.own_loss()),
        optimizer=optimizer,
        batch_size=options.get("batch_size"),
        steps=options.get("steps", factory.STEPS),
        momentum=0.9 if optimizer == "sgd" else 0.0,
        x=f"{','.join(layers[:-1])}:{low:g}:{high:g}" if len(layers) > 1 else None,
        y=f"{layers[-1]}:{low:g}:{high:g}" if len(layers) > 1 else None,
        first_seed=options.get("seed", 0),
    )
