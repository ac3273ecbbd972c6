"""Ten small models of the kinds that people ship, seeded, with rows: for tests and for comparing exporters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lrdiff_core.model import ModelSpec, Predictor, build_model

__all__ = ["ZOO", "Sample"]

ROWS = 100


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A model with rows to run it on.

    Attributes:
        make: makes the module; call :meth:`module` instead, which seeds it.
        rows: one array an input, ``[100, ...]``, by the names of forward's arguments.
        outputs: their names.
    """

    make: Callable[[], nn.Module]
    rows: Mapping[str, np.ndarray]
    outputs: tuple[str, ...] = ("output",)

    def module(self, seed: int = 0) -> nn.Module:
        """Return the module with weights from ``seed`` alone, in evaluation mode."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.make().eval()

    def example(self, rows: int = 2) -> tuple[Tensor, ...]:
        """Return the first rows as tensors, by position."""
        return tuple(torch.tensor(one[:rows]) for one in self.rows.values())


def _tabular(task: str, outputs: int, classes: tuple[str, ...]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        spec = ModelSpec(
            features=10,
            hidden=(5,),
            outputs=outputs,
            task=task,  # type: ignore[arg-type]
            feature_names=tuple(f"f{i}" for i in range(10)),
            classes=classes,
            target_name="y",
        )
        net = build_model(spec, seed=int(torch.randint(0, 2**31, ())))
        net.standardize.fit(_normal(200, 10, spread=3.0, mean=2.0))
        return Predictor(net)

    return make


class Convolutional(nn.Module):
    """Convolution, batch norm with statistics of its own as after training, pooling, head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(64, 3)
        with torch.no_grad():
            assert self.norm.running_mean is not None
            assert self.norm.running_var is not None
            self.norm.running_mean.uniform_(-0.3, 0.3)
            self.norm.running_var.uniform_(0.5, 2.0)

    def forward(self, images: Tensor) -> Tensor:  # [batch, 1, 8, 8] -> [batch, 3]
        maps = torch.relu(self.norm(self.conv(images)))
        return torch.softmax(self.head(nn.functional.max_pool2d(maps, 2).flatten(1)), dim=1)


class Attending(nn.Module):
    """A transformer block: attention, layer norm, feed-forward, mean over time, head."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.TransformerEncoderLayer(16, 2, 32, activation="gelu", batch_first=True)
        self.head = nn.Linear(16, 2)

    def forward(self, tokens: Tensor) -> Tensor:  # [batch, time, 16] -> [batch, 2]
        result: Tensor = self.head(self.block(tokens).mean(dim=1))
        return result


class Recurrent(nn.Module):
    """A two-layer LSTM and a head on its last step."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 8, num_layers=2, batch_first=True)
        self.head = nn.Linear(8, 1)

    def forward(self, steps: Tensor) -> Tensor:  # [batch, time, 6] -> [batch, 1]
        result: Tensor = self.head(self.lstm(steps)[0][:, -1])
        return result


class Tied(nn.Module):
    """Dropout, a buffer, and one weight used twice: encode, decode with the transposed weight."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(10, 6)
        self.drop = nn.Dropout(0.5)
        self.decode_bias = nn.Parameter(torch.randn(10))
        self.register_buffer("scale", torch.linspace(0.5, 1.5, 10))

    def forward(self, rows: Tensor) -> Tensor:  # [batch, 10] -> [batch, 10]
        hidden: Tensor = self.drop(torch.tanh(self.encode(rows * self.scale)))
        return hidden @ self.encode.weight + self.decode_bias


class TwoInputs(nn.Module):
    """Numbers and an index into a table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 4)
        self.head = nn.Linear(7, 1)

    def forward(self, numbers: Tensor, kind: Tensor) -> Tensor:  # [batch, 3], [batch] -> [batch, 1]
        return torch.sigmoid(self.head(torch.cat([numbers, self.table(kind)], dim=1)))


class Tokens(nn.Module):
    """Integers alone: a bag of embedded tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, ids: Tensor) -> Tensor:  # [batch, time] -> [batch, 4]
        return torch.softmax(self.head(torch.relu(self.table(ids).mean(dim=1))), dim=1)


class ScoresAndLabel(nn.Module):
    """Probabilities, and the class they mean: one output of floats and one of integers."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(10, 3)

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:  # [batch, 10] -> [batch, 3], [batch]
        scores = torch.softmax(self.linear(rows), dim=1)
        return scores, scores.argmax(dim=1)


def _normal(*shape: int, spread: float = 1.0, mean: float = 0.0) -> np.ndarray:
    return (mean + spread * np.random.default_rng(0).standard_normal(shape)).astype(np.float32)


def _integers(high: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, high, size=shape)


_RAW = {"rows": _normal(ROWS, 10, spread=3.0, mean=2.0)}

ZOO: dict[str, Sample] = {
    "main, binary": Sample(make=_tabular("binary", 1, ("no", "yes")), rows=_RAW, outputs=("probability",)),
    "main, multi-class": Sample(
        make=_tabular("multiclass", 4, ("a", "b", "c", "d")), rows=_RAW, outputs=("probabilities",)
    ),
    "main, regression": Sample(make=_tabular("regression", 1, ()), rows=_RAW, outputs=("prediction",)),
    "convolution, batch norm": Sample(make=Convolutional, rows={"images": _normal(ROWS, 1, 8, 8)}),
    "transformer block": Sample(make=Attending, rows={"tokens": _normal(ROWS, 5, 16)}),
    "LSTM": Sample(make=Recurrent, rows={"steps": _normal(ROWS, 7, 6)}),
    "dropout, buffer, tied": Sample(make=Tied, rows={"rows": _normal(ROWS, 10)}),
    "two inputs": Sample(make=TwoInputs, rows={"numbers": _normal(ROWS, 3), "kind": _integers(7, ROWS)}),
    "integer tokens": Sample(make=Tokens, rows={"ids": _integers(50, ROWS, 9)}),
    "scores and label": Sample(make=ScoresAndLabel, rows={"rows": _normal(ROWS, 10)}, outputs=("scores", "label")),
}
