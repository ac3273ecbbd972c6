"""Everything before the first step: model, rate plan and standardized rows, from a table and settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from lrdiff_core import optim
from lrdiff_core.data import Split, Table
from lrdiff_core.data.spec import wishes_of
from lrdiff_core.devices import choose_device, compiler_status, repeatable
from lrdiff_core.errors import ConfigError, UnavailableError
from lrdiff_core.model import ModelSpec, TabularNet, build_model
from lrdiff_core.optimizers import OPTIMIZERS
from lrdiff_core.rates import MuonRouter, RatePlan, layer_rates
from lrdiff_core.streaming import fit_stream, target_tensor, training_blocks
from lrdiff_core.text import nearest

if TYPE_CHECKING:  # names of types alone: the loop trains where pydantic is not installed
    from lrdiff_core.config import RunConfig
    from lrdiff_core.optimizers import OptimizerName

__all__ = [
    "Prepared",
    "Setup",
    "class_weights",
    "default_rates",
    "make_optimizer",
    "model_spec",
    "plan_rates",
    "prepare",
    "rate_table",
    "set_mode",
    "set_up",
    "with_rates",
]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Rows ready for training: standardized once, on the device, with targets as the loss wants them."""

    table: Table
    split: Split
    inputs: dict[str, Tensor]  # split -> [rows, features], standardized
    targets: dict[str, Tensor]  # split -> [rows, 1] float or [rows] int64
    class_weight: Tensor | None = None  # [classes], what a row of each counts in the loss; None: all count one
    blocks: Callable[[], Iterator[tuple[Tensor, Tensor]]] | None = None  # a stream's training rows, anew at every call
    streamed_rows: int | None = None  # that the blocks have

    @property
    def training_rows(self) -> int:
        """Rows of an epoch."""
        return len(self.split.train) if self.streamed_rows is None else self.streamed_rows


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Everything decided before the first step, from :func:`set_up`."""

    net: TabularNet  # on ``device``, with its preprocessing fitted
    plan: RatePlan
    rows: Prepared
    device: torch.device
    config: RunConfig  # resolved: nothing in it that training depends on is left open
    rates_given: bool = True  # somebody set the rates; they are no default

    @property
    def batch_size(self) -> int:
        """Rows a step."""
        return self.config.rows_per_step(self.rows.training_rows)

    @property
    def epochs(self) -> int:
        """Passes over the training rows, at most."""
        return self.config.most_epochs(self.rows.training_rows)

    @property
    def patience(self) -> int:
        """Epochs without a better validation loss that end the training; 0: none do."""
        return self.config.epochs_of_patience(self.rows.training_rows)

    @property
    def seed(self) -> int:
        """Of the split, the first weights and the order of rows."""
        return self.config.seed

    @property
    def rates(self) -> dict[str, float]:
        """Rate of every layer, as the plan has it."""
        return {layer: self.plan[f"{layer}.weight"].lr for layer in self.net.layer_names}


def with_rates(setup: Setup, rates: Mapping[str, float]) -> Setup:
    """Return the setup with other rates of its layers; nothing of it has been trained yet.

    Raises:
        RateError: the rates do not fit the layers.
    """
    config = setup.config.model_copy(update={"rates": {name: rates[name] for name in setup.net.layer_names}})
    return replace(setup, plan=plan_rates(setup.net, rates, config), config=config, rates_given=True)


def default_rates(layer_names: Sequence[str]) -> dict[str, float]:
    """Return the seed example's rates for any depth: 0.01 for every layer but the last, 0.001 for the last.

    Example:
        >>> default_rates(["layer1", "layer2"])
        {'layer1': 0.01, 'layer2': 0.001}
    """
    last = 0.001 if len(layer_names) > 1 else 0.01
    return {**dict.fromkeys(layer_names[:-1], 0.01), layer_names[-1]: last}


def make_optimizer(
    name: OptimizerName, groups: list[dict[str, Any]], *, momentum: float = 0.0
) -> torch.optim.Optimizer:
    """Build the optimizer called ``name`` over parameter groups that carry their own rates and decay.

    Args:
        name: one of :data:`lrdiff_core.optimizers.OPTIMIZERS`.
        groups: as a plan gives them.
        momentum: for those that take it.
    """
    entry = OPTIMIZERS[name]
    options = {"momentum": momentum} if entry.momentum else {}
    made: torch.optim.Optimizer = getattr(optim, entry.kind)(groups, **options)
    set_mode(made, "train")
    return made


def set_mode(optimizer: torch.optim.Optimizer, mode: Literal["train", "eval"]) -> None:
    """Let parameters be what is trained or what is to be evaluated, for optimizers that tell the two apart."""
    if hasattr(optimizer, mode):
        getattr(optimizer, mode)()


def plan_rates(net: TabularNet, rates: Mapping[str, float], config: RunConfig) -> RatePlan:
    """Plan the rates of layers for the optimizer of a run; Muon's updates are as large as AdamW's at the same rate.

    Raises:
        RateError: the rates do not fit the layers.
        ConfigError: Muon, and no hidden matrix for it.
    """
    if config.optimizer != "muon":
        return layer_rates(net, rates, weight_decay=config.weight_decay)
    router = MuonRouter(lr=max(rates.values()), options={"adjust_lr_fn": "match_rms_adamw"})
    plan = layer_rates(net, rates, weight_decay=config.weight_decay, router=router)
    if not any(group.get("use_muon") for group in plan.groups()):
        sizes = " - ".join(map(str, (net.spec.features, *net.spec.hidden, net.spec.outputs)))
        raise ConfigError(
            f"muon finds no matrix between hidden layers in a network of {sizes}",
            help='give two hidden layers, such as hidden = [64, 64], or set optimizer = "adamw"',
        )
    return plan


def model_spec(table: Table, config: RunConfig) -> ModelSpec:
    """Return the sizes and names of the model for ``table``: they follow the data."""
    columns = table.columns
    return ModelSpec(
        features=table.features.shape[1],
        hidden=config.hidden_sizes(sum(one.width for one in columns) if columns else len(table.feature_names)),
        outputs=len(table.classes) if table.task == "multiclass" else 1,
        task=table.task,
        feature_names=table.feature_names,
        classes=table.classes,
        target_name=table.target_name,
        fills_missing=config.impute in ("mean", "median") or any(column.flags_missing for column in columns),
        columns=columns,
        ids=tuple(column.column for column in table.left_out if column.kind in ("id", "index")),
    )


def class_weights(table: Table, split: Split, given: str | Mapping[str, float]) -> Tensor:
    """Return what a row of each class counts in the loss [classes].

    Args:
        table: of classes.
        split: its training rows give the shares.
        given: ``"balanced"``: rows / (classes * rows of the class), with which a training row counts 1 on average;
            or weights by class, 1 for those left out.

    Raises:
        ConfigError: the target is a number, or a class that is not there.
    """
    if table.task == "regression":
        raise ConfigError(
            f"class_weight is set, and {table.target_name} is a number", help="leave class_weight out, or set task"
        )
    if isinstance(given, str):
        counts = np.bincount(table.target[split.train].astype(np.int64), minlength=len(table.classes))
        shares = counts * np.count_nonzero(counts) / counts.sum()
        return torch.from_numpy(np.where(counts > 0, 1.0 / np.maximum(shares, 1e-30), 1.0)).to(torch.float32)
    for name in given:
        if name not in table.classes:
            raise ConfigError(f'class_weight names the class "{name}"', help=nearest(name, table.classes, "classes"))
    return torch.tensor([given.get(name, 1.0) for name in table.classes], dtype=torch.float32)


def prepare(
    net: TabularNet,
    table: Table,
    split: Split,
    *,
    device: torch.device,
    impute: str = "none",
    class_weight: str | Mapping[str, float] | None = None,
) -> Prepared:
    """Fit the preprocessing on the training rows alone and put all rows on the device, standardized.

    Args:
        net: its ``standardize`` (and target scale, for regression) are fitted in place.
        table: the rows.
        split: which rows are for what.
        device: where training happens.
        impute: ``"mean"``, ``"median"`` or ``"auto"`` (the median too) when missing values are filled.
        class_weight: as in the settings.
    """
    training = torch.from_numpy(table.features[split.train])
    encoded = training if net.encode is None else net.encode(training)
    net.standardize.fit(encoded.numpy(), fill="median" if impute in ("auto", "median") else "mean")
    if table.task == "regression":
        values = table.target[split.train].astype(np.float64)
        net.target_mean.fill_(values.mean())
        net.target_std.fill_(values.std() or 1.0)
    inputs, targets = _place(net, table, split, device)
    weight = None if class_weight is None else class_weights(table, split, class_weight).to(device)
    return Prepared(table=table, split=split, inputs=inputs, targets=targets, class_weight=weight)


def _place(
    net: TabularNet, table: Table, split: Split, device: torch.device
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    inputs, targets = {}, {}
    with torch.no_grad():
        for part, index in (("train", split.train), ("validation", split.validation), ("test", split.test)):
            inputs[part] = net.preprocess(torch.from_numpy(table.features[index])).to(device)
            targets[part] = target_tensor(net, table.target[index]).to(device)
    return inputs, targets


def _stream(net: TabularNet, rows: Prepared, config: RunConfig, device: torch.device) -> Prepared:
    """Fit the preprocessing anew, on all training rows of the file, and train on them in place of the sample's."""
    stream = rows.table.stream
    assert stream is not None
    edges = config.edges()
    number = fit_stream(net, stream, edges)
    inputs, targets = _place(net, rows.table, rows.split, device)
    size = config.rows_per_step(number)
    return replace(
        rows,
        inputs=inputs,
        targets=targets,
        streamed_rows=number,
        blocks=lambda: training_blocks(net, stream, edges, batch_size=size, device=device),
    )


def rate_table(config: RunConfig, net: TabularNet) -> dict[str, float]:
    """Return the rate of each layer: the configured table, or the seed example's rule."""
    return dict(config.rates) if config.rates is not None else default_rates(net.layer_names)


def set_up(
    table: Table,
    config: RunConfig,
    *,
    rates: dict[str, float] | None = None,
    seed: int | None = None,
    split: Split | None = None,
) -> Setup:
    """Split the rows, build the model and its rate plan, fit the preprocessing and resolve the settings, once.

    :func:`train` goes on from there.

    Args:
        table: the rows, from :func:`lrdiff_core.load_table`.
        config: the settings.
        rates: rate of each layer, in place of the configured ones.
        seed: in place of the configured one.
        split: in place of the one that settings and seed give, such as a fold.

    Raises:
        DataError: too few rows to split.
        RateError: the rates do not fit the layers.
        UnavailableError: the device or the compiler is not here.
    """
    seed = config.seed if seed is None else seed
    device = choose_device(config.device)
    if config.compile and (status := compiler_status()).reason is not None:
        raise UnavailableError(
            f"--compile needs a compiler: {status.reason}", help="install g++, or leave --compile out"
        )
    net = build_model(model_spec(table, config), seed=seed)
    rates = rate_table(config, net) if rates is None else rates
    plan = plan_rates(net, rates, config)
    if table.stream is not None and (split is not None or config.cv is not None):
        raise ConfigError(
            f"table {table.name} is streamed, and split by the places of its rows: there are no folds",
            help='leave cv out, or write stream = "never" to read the whole file into memory',
        )
    split = config.split(table, seed=seed) if split is None else split
    net.dropout = config.dropout
    with repeatable(device, threads=config.threads):
        rows = prepare(net, table, split, device=device, impute=config.impute, class_weight=config.class_weight)
        if table.stream is not None:
            rows = _stream(net, rows, config, device)
    resolved = config.model_copy(
        update={
            "task": table.task,
            "hidden": net.spec.hidden,
            "rates": {name: rates[name] for name in net.layer_names},
            "batch_size": config.rows_per_step(rows.training_rows),
            "epochs": config.most_epochs(rows.training_rows),
            "patience": config.epochs_of_patience(rows.training_rows),
            "device": str(device),
            "seed": seed,
            **(wishes_of(table.columns, table.left_out, config.numeric) if table.columns else {}),
        }
    )
    given = config.rates is not None
    return Setup(net=net.to(device), plan=plan, rows=rows, device=device, config=resolved, rates_given=given)
