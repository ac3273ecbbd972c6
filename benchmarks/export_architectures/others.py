"""Graphs, latent variables, branches, buffers, odd answers, and weights of other kinds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations


class GraphNet(nn.Module):
    """Two rounds of messages along the edges of one graph."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 8), nn.Linear(16, 3)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:  # [nodes, 6], [2, edges]
        inside = torch.relu(self.first(self._gathered(nodes, edges)))
        return self.second(self._gathered(inside, edges))

    @staticmethod
    def _gathered(nodes: Tensor, edges: Tensor) -> Tensor:
        return torch.cat([nodes, torch.zeros_like(nodes).index_add(0, edges[1], nodes[edges[0]])], dim=1)


class VAE(nn.Module):
    """An autoencoder whose evaluation takes the mean of the latent variable."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 8))
        self.decode = nn.Sequential(nn.Linear(4, 12), nn.Tanh(), nn.Linear(12, 16))

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, spread = self.encode(rows).chunk(2, dim=1)
        drawn = mean + torch.exp(spread / 2) * torch.randn_like(mean) if self.training else mean
        return self.decode(drawn), mean, spread


class Codebook(nn.Module):
    """The nearest of 32 code words, as in van den Oord et al. 2017."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(10, 6), nn.Linear(6, 10)
        self.words = nn.Parameter(torch.randn(32, 6))

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        found = self.encode(rows)
        distance = found.square().sum(1, keepdim=True) - 2 * found @ self.words.T + self.words.square().sum(1)
        chosen = distance.argmin(dim=1)
        return self.decode(nn.functional.embedding(chosen, self.words)), chosen


class Conditional(nn.Module):
    """One of two branches, by the size of the whole batch's numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.calm, self.wild = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, rows: Tensor) -> Tensor:
        return torch.cond(rows.abs().mean() > 1.0, lambda x: torch.tanh(self.wild(x)), lambda x: self.calm(x), (rows,))


class Counting(nn.Module):
    """A buffer that counts calls, and that the answer does not depend on."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)
        self.register_buffer("calls", torch.zeros(1, dtype=torch.int64))

    def forward(self, rows: Tensor) -> Tensor:
        self.calls += 1
        return self.linear(rows)


class Answers(NamedTuple):
    """What :class:`Structured` gives."""

    scores: Tensor
    attention: Tensor | None


@dataclass
class Fields:
    """What :class:`WithDataclass` gives."""

    scores: Tensor
    hidden: Tensor | None = None


class Structured(nn.Module):
    """A tuple of which one entry is None."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, rows: Tensor) -> Answers:
        return Answers(self.linear(rows), None)


class WithDataclass(Structured):
    """A dataclass of which one field is None."""

    def forward(self, rows: Tensor) -> Fields:  # type: ignore[override]
        return Fields(scores=self.linear(rows))


class Tempered(nn.Module):
    """Probabilities at a temperature, which is a number."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)

    def forward(self, rows: Tensor, temperature: Tensor) -> Tensor:
        return torch.softmax(self.linear(rows) / temperature, dim=-1)


def weight_norm() -> nn.Module:
    layers = [parametrizations.weight_norm(nn.Linear(8, 16)), nn.ELU(), parametrizations.weight_norm(nn.Linear(16, 2))]
    return nn.Sequential(*layers)


class LoRA(nn.Module):
    """A frozen layer with an update of low rank: Hu et al. 2022."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(16, 16).requires_grad_(False)
        self.down, self.up = nn.Parameter(torch.randn(2, 16) / 4), nn.Parameter(torch.randn(16, 2) / 4)
        self.head = nn.Linear(16, 3)

    def forward(self, rows: Tensor) -> Tensor:
        return self.head(torch.relu(self.frozen(rows) + 2.0 * (rows @ self.down.T @ self.up.T)))


class Ranged(nn.Module):
    """A module that refuses pixels outside 0 to 1."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, images: Tensor) -> Tensor:
        assert ((images >= 0) & (images <= 1)).all(), "pixels must lie between 0 and 1"
        return self.body(images)


class Half(nn.Module):
    """Weights and arithmetic in float16, answers in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)).half()

    def forward(self, rows: Tensor) -> Tensor:
        return self.body(rows.half()).float()


def bfloat16() -> nn.Module:
    layers = [nn.Embedding(40, 8), nn.Flatten(), nn.Linear(48, 16), nn.GELU(), nn.Linear(16, 3)]
    return nn.Sequential(*layers).bfloat16()
