"""Small models of every kind that export and parity must handle, with rows to run them on."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


class Classifier(nn.Module):
    """Standardise, 10 to 5, ReLU, 5 to classes, sigmoid or softmax: raw rows in, probabilities out."""

    def __init__(self, classes: int = 1, features: int = 10) -> None:
        super().__init__()
        self.register_buffer("mean", torch.linspace(-1.0, 3.0, features))
        self.register_buffer("std", torch.linspace(0.5, 2.0, features))
        self.layer1 = nn.Linear(features, 5)
        self.layer2 = nn.Linear(5, classes)
        self.activation: nn.Module = nn.ReLU()

    def forward(self, rows: Tensor) -> Tensor:  # [batch, features] -> [batch, classes]
        hidden = self.activation(self.layer1((rows - self.mean) / self.std))
        logits = self.layer2(hidden)
        return torch.sigmoid(logits) if logits.shape[1] == 1 else torch.softmax(logits, dim=1)


class Convolutional(nn.Module):
    """Batch norm with statistics of its own, as after training."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4 * 4 * 4, 3)
        with torch.no_grad():
            self.norm.running_mean.copy_(torch.tensor([0.1, -0.2, 0.3, 0.0]))
            self.norm.running_var.copy_(torch.tensor([0.5, 1.5, 2.0, 1.0]))

    def forward(self, images: Tensor) -> Tensor:  # [batch, 1, 8, 8] -> [batch, 3]
        maps = torch.relu(self.norm(self.conv(images)))
        return self.head(nn.functional.max_pool2d(maps, 2).flatten(1))


class FillMissing(nn.Module):
    """NaN and infinity become the training mean."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("fill", torch.linspace(0.0, 1.0, 10))
        self.linear = nn.Linear(10, 2)

    def forward(self, rows: Tensor) -> Tensor:  # [batch, 10] -> [batch, 2]
        return self.linear(torch.where(torch.isfinite(rows), rows, self.fill))


class TwoOutputs(nn.Module):
    """A probability and the class it means, an exact dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(10, 3)

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:  # [batch, 10] -> [batch, 3], [batch]
        scores = torch.softmax(self.linear(rows), dim=1)
        return scores, scores.argmax(dim=1)


class Bfloat16(nn.Module):
    """Computes in bfloat16 what the module inside computes in float32, and gives float32: a silent loss."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner.to(torch.bfloat16)

    def forward(self, rows: Tensor) -> Tensor:
        return self.inner(rows.to(torch.bfloat16)).float()


def seeded(make: object, seed: int = 0) -> nn.Module:
    """Make a module from its own seed without touching the generator of the process."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = make()  # type: ignore[operator]
    return module


def rows_of(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    """Normal rows, float32."""
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def missing_rows() -> np.ndarray:
    rows = rows_of(40, 10)
    rows[3, 2], rows[4, 0], rows[5, 9] = np.nan, np.inf, -np.inf
    return rows


MODELS = {
    "binary": (Classifier, rows_of(100, 10)),
    "multi-class": (lambda: Classifier(classes=4), rows_of(100, 10)),
    "regression": (lambda: nn.Sequential(nn.Linear(10, 8), nn.GELU(), nn.Linear(8, 1)), rows_of(100, 10, scale=1e5)),
    "convolutional": (Convolutional, rows_of(20, 1, 8, 8)),
    "dropout": (lambda: nn.Sequential(nn.Linear(10, 6), nn.Dropout(0.5), nn.LayerNorm(6)), rows_of(30, 10)),
    "missing": (FillMissing, missing_rows()),
    "two outputs": (TwoOutputs, rows_of(100, 10)),
    "zero": (lambda: nn.Sequential(nn.Linear(10, 2), nn.Threshold(1e9, 0.0)), rows_of(20, 10)),
}
OUTPUTS = {"two outputs": ("scores", "label")}
