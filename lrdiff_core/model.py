"""The main model: preprocessing, named linear layers, prediction; raw rows in, answers out."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from lrdiff_core.data.encode import Encode, needs_encoding
from lrdiff_core.data.spec import MODEL_KINDS, ColumnSpec, encoded_names, names_under, scaled_columns
from lrdiff_core.errors import ConfigError
from lrdiff_core.seeds import make_generator
from lrdiff_core.text import count

__all__ = ["ModelSpec", "Predictor", "Standardize", "TabularNet", "TraceStep", "build_model", "constant_columns"]

# A column whose spread is below the rounding of its own float32 values carries no information.
CONSTANT_SPREAD = 4 * float(np.finfo(np.float32).eps)

MOST_CHARACTERS = 2**26  # of names in a file of unknown origin: a long one stands before each of many categories

COPIES = 4  # of every weight while training with Adam: itself, its gradient, two averages


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What is needed to build the model again: sizes, task, and what its rows and answers are called.

    Args:
        features: columns of the matrix [batch, features] that the model takes.
        hidden: sizes of the hidden layers.
        outputs: of the last layer.
        task: what is predicted.
        feature_names: one name a column of the matrix.
        classes: labels in index order, ``()`` for regression.
        target_name: of what is predicted.
        fills_missing: whether NaN is filled in.
        columns: what each column of the matrix is; ``()`` where all are plain numbers.
        ids: columns of the file that name a row: no features, repeated beside predictions.
    """

    features: int
    hidden: tuple[int, ...]
    outputs: int
    task: Literal["binary", "multiclass", "regression"]
    feature_names: tuple[str, ...]
    classes: tuple[str, ...]
    target_name: str
    fills_missing: bool = False
    columns: tuple[ColumnSpec, ...] = ()
    ids: tuple[str, ...] = ()

    @property
    def encoded_names(self) -> tuple[str, ...]:
        """What the first layer gets, by name."""
        return encoded_names(self.columns) if self.columns else self.feature_names

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes from the first layer's inputs to the outputs."""
        inputs = sum(column.width for column in self.columns) if self.columns else len(self.feature_names)
        return (inputs, *self.hidden, self.outputs)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        plain = asdict(self)
        for key in ("columns", "ids"):
            if not plain[key]:  # as files were before there were kinds
                del plain[key]
        return plain

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> ModelSpec:
        """Build a spec from :meth:`to_dict`'s result, which anyone may have written.

        Raises:
            KeyError, TypeError, ValueError: it is not that, or says what cannot be.
        """
        plain = dict(document)
        for key in ("feature_names", "classes", "ids"):
            plain[key] = names_under(key, plain.get(key, ()) if key == "ids" else plain[key])
        names_under("target_name", [plain["target_name"]])
        plain["hidden"] = tuple(plain["hidden"])
        plain["columns"] = tuple(ColumnSpec.from_dict(column) for column in plain.get("columns", ()))
        spec = cls(**plain)
        spec._check()
        return spec

    def _check(self) -> None:
        if not isinstance(self.fills_missing, bool):
            raise TypeError(f"fills_missing is {self.fills_missing!r:.40}")
        for size in (self.features, self.outputs, *self.hidden):
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ValueError(f"{size!r:.40} is no size of a layer")
        if self.features != len(self.feature_names):
            raise ValueError(f"{self.features} features have {len(self.feature_names)} names")
        if self.columns and tuple(column.name for column in self.columns) != self.feature_names:
            raise ValueError("its columns are not its features")
        if odd := next((column for column in self.columns if column.kind not in MODEL_KINDS), None):
            raise ValueError(f"column {odd.name!r:.40} is of the kind {odd.kind}, which no model takes")
        if (long := sum(len(column.name) * column.width for column in self.columns)) > MOST_CHARACTERS:
            raise ValueError(f"the names of what its first layer gets have {long} characters")
        fits = {"binary": (1, 2), "multiclass": (self.outputs, self.outputs), "regression": (self.outputs, 0)}
        if fits.get(self.task) != (self.outputs, len(self.classes)):
            raise ValueError(
                f"{self.task!r:.40} with {count(self.outputs, 'output')} and "
                f"{count(len(self.classes), 'class', 'classes')}"
            )


@dataclass(frozen=True, kw_only=True)
class TraceStep:
    """One step of a row on its way through the network."""

    name: str
    layer: str | None  # the layer whose rate applies, if the step has parameters
    values: tuple[float, ...]


class Standardize(nn.Module):
    """``(x - mean) * inverse_std`` for each column, statistics fixed as buffers.

    A constant column has ``inverse_std`` 0, so that it can never move the prediction. With ``fill`` set, values
    that are not finite are first replaced by the column's training mean or median.

    Args:
        features: number of columns.
        fills_missing: whether non-finite values are filled.
        scaled: whether each column is standardized; others stay as they are, unless constant. Left out: all.

    Example:
        >>> step = Standardize(1)
        >>> step.fit(np.array([[1.0], [3.0]], dtype=np.float32))
        >>> step(torch.tensor([[3.0]]))
        tensor([[1.]])
    """

    mean: Tensor  # [features]
    inverse_std: Tensor  # [features]
    fill: Tensor  # [features]

    def __init__(self, features: int, *, fills_missing: bool = False, scaled: Sequence[bool] | None = None) -> None:
        super().__init__()
        self.fills_missing = fills_missing
        self.scaled = np.ones(features, bool) if scaled is None else np.array(scaled, bool)
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("inverse_std", torch.ones(features))
        if fills_missing:
            self.register_buffer("fill", torch.zeros(features))

    def fit(self, rows: np.ndarray, *, fill: Literal["mean", "median"] = "mean") -> None:
        """Take the statistics of ``rows`` [rows, features], in float64; missing values are NaN."""
        exact = rows.astype(np.float64)
        if self.fills_missing:
            # A column without a value in these rows gets 0 and is constant: scikit-learn's imputer would drop it.
            known = np.where(np.isfinite(exact).any(axis=0), exact, 0.0)
            centre = np.nanmean(known, axis=0) if fill == "mean" else np.nanmedian(known, axis=0)
            exact = np.where(np.isfinite(exact), exact, centre)
            self.fill.copy_(torch.from_numpy(centre))
        self.set_statistics(exact.mean(axis=0), exact.std(axis=0))

    def set_statistics(self, mean: np.ndarray, std: np.ndarray) -> None:
        """Take mean and standard deviation of each column, float64 [features]."""
        constant = std <= CONSTANT_SPREAD * np.abs(mean)
        mean, std = np.where(self.scaled, mean, 0.0), np.where(self.scaled, std, 1.0)
        self.mean.copy_(torch.from_numpy(mean))
        self.inverse_std.copy_(torch.from_numpy(np.where(constant, 0.0, 1.0 / np.where(constant, 1.0, std))))

    def forward(self, rows: Tensor) -> Tensor:  # [batch, features] -> [batch, features]
        """Fill in missing values, where the model does, and standardize."""
        return (self.filled(rows) - self.mean) * self.inverse_std

    def filled(self, rows: Tensor) -> Tensor:  # [batch, features] -> [batch, features]
        """Fill in missing values, where the model does."""
        return torch.where(torch.isfinite(rows), rows, self.fill) if self.fills_missing else rows


class TabularNet(nn.Module):
    """Encode columns that are no plain numbers, standardize, then ``layer1`` ... ``layerN`` with ReLU between them.

    ``forward`` gives logits (for regression the standardized value); ``predict`` gives what a person asks
    for. Layers are children named ``layer1``, ``layer2``, ..., so that rates are given by those names.

    Args:
        spec: sizes, task and names.

    Example:
        >>> spec = ModelSpec(features=2, hidden=(3,), outputs=1, task="binary", feature_names=("a", "b"),
        ...                  classes=("no", "yes"), target_name="y")
        >>> net = build_model(spec, seed=0)
        >>> net.predict(torch.zeros(4, 2)).shape
        torch.Size([4, 1])
    """

    target_mean: Tensor  # [1]
    target_std: Tensor  # [1]
    dropout: float = 0.0  # share of every hidden layer's outputs left out in training; no part of what is shipped

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.encode = Encode(spec.columns) if needs_encoding(spec.columns) else None
        sizes = spec.sizes
        scaled = scaled_columns(spec.columns) if spec.columns else None
        self.standardize = Standardize(sizes[0], fills_missing=spec.fills_missing, scaled=scaled)
        self.layer_names = tuple(f"layer{i}" for i in range(1, len(sizes)))
        for name, fan_in, fan_out in zip(self.layer_names, sizes[:-1], sizes[1:], strict=True):
            # Weights come from build_model or a checkpoint; nothing is drawn from the global generator here.
            self.add_module(name, nn.utils.skip_init(nn.Linear, fan_in, fan_out))
        if spec.task == "regression":
            self.register_buffer("target_mean", torch.zeros(1))
            self.register_buffer("target_std", torch.ones(1))

    def preprocess(self, rows: Tensor) -> Tensor:  # raw [batch, features] -> [batch, inputs of the first layer]
        """Encode raw rows, fill in what is missing, and standardize."""
        return self.standardize(rows if self.encode is None else self.encode(rows))  # type: ignore[no-any-return]

    def network(self, standardized: Tensor) -> Tensor:  # [batch, features] -> [batch, outputs]
        """Return the logits of rows that are standardized already."""
        hidden = standardized
        for name in self.layer_names[:-1]:
            hidden = torch.relu(self.get_submodule(name)(hidden))
            if self.training and self.dropout:
                hidden = nn.functional.dropout(hidden, self.dropout)
        logits: Tensor = self.get_submodule(self.layer_names[-1])(hidden)
        return logits

    def forward(self, rows: Tensor) -> Tensor:  # raw [batch, features] -> logits [batch, outputs]
        """Return the logits of raw rows; for regression the standardized value."""
        return self.network(self.preprocess(rows))

    def predict(self, rows: Tensor) -> Tensor:
        """Return the answer for raw rows.

        Args:
            rows: [batch, features], as they come.

        Returns:
            binary: probability of the second class [batch, 1]; multi-class: probabilities [batch, classes];
            regression: value in the target's own units [batch, 1].
        """
        return self.answer(self.forward(rows))

    def answer(self, logits: Tensor) -> Tensor:
        """Turn what :meth:`forward` gives into what :meth:`predict` gives."""
        if self.spec.task == "binary":
            return torch.sigmoid(logits)
        if self.spec.task == "multiclass":
            return torch.softmax(logits, dim=1)
        return logits * self.target_std + self.target_mean

    @torch.no_grad()
    def trace(self, row: Tensor) -> list[TraceStep]:
        """Follow one raw row [features] through the network, step by step."""
        steps: list[TraceStep] = []

        def note(name: str, value: Tensor, layer: str | None = None) -> Tensor:
            steps.append(TraceStep(name=name, layer=layer, values=tuple(value.flatten().tolist())))
            return value

        value = note("input", row.reshape(1, -1))
        if self.encode is not None:
            value = note("encoded", self.encode(value))
        value = note("standardized", self.standardize(value))
        for name in self.layer_names:
            value = note(name, self.get_submodule(name)(value), layer=name)
            if name != self.layer_names[-1]:
                value = note("ReLU", torch.relu(value))
        last = {"binary": "sigmoid", "multiclass": "softmax", "regression": "target units"}[self.spec.task]
        note(last, self.answer(value))
        return steps


class Predictor(nn.Module):
    """The model as it is shipped: raw rows [batch, features] in, :meth:`TabularNet.predict` out."""

    def __init__(self, net: TabularNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, rows: Tensor) -> Tensor:  # raw [batch, features] -> [batch, outputs]
        """Return :meth:`TabularNet.predict` of raw rows."""
        return self.net.predict(rows)


def build_model(spec: ModelSpec, *, seed: int) -> TabularNet:
    """Build the model with initial weights from ``seed`` alone (torch's default distribution for linear layers).

    Every weight and bias is uniform in ``±1/sqrt(fan_in)``, drawn from a generator of its own.

    Raises:
        ConfigError: training a network of these sizes takes more memory than the machine has.
    """
    _check_memory(spec)
    net = TabularNet(spec)
    generator = make_generator(seed, "init")
    with torch.no_grad():
        for name in net.layer_names:
            layer = net.get_submodule(name)
            assert isinstance(layer, nn.Linear)
            bound = layer.in_features**-0.5
            layer.weight.uniform_(-bound, bound, generator=generator)
            layer.bias.uniform_(-bound, bound, generator=generator)
    return net


def _check_memory(spec: ModelSpec) -> None:
    """Refuse before a network is made that the system would end the process for."""
    sizes = spec.sizes
    weights = sum((fan_in + 1) * fan_out for fan_in, fan_out in itertools.pairwise(sizes))
    needed = weights * 4 * COPIES
    try:
        here = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not told on this system
        return
    if needed > here:
        raise ConfigError(
            f"a network of {' - '.join(map(str, sizes))} takes {needed / 2**30:.0f} GiB to train, "
            f"this machine has {here / 2**30:.0f}",
            help="write smaller sizes: hidden = [64] in the settings",
        )


def constant_columns(net: TabularNet) -> tuple[str, ...]:
    """Name the columns that were constant in the training rows and so are switched off."""
    off = (net.standardize.inverse_std == 0).tolist()
    if not net.spec.columns:
        return tuple(name for name, is_off in zip(net.spec.feature_names, off, strict=True) if is_off)
    names, begin = [], 0
    for column in net.spec.columns:
        width = column.width
        # A category column is constant if no category varies; a single one may well occur in no training row.
        if all(off[begin : begin + width]):
            names.append(column.name)
        begin += width
    return tuple(names)
