"""Models of tables: numbers, categories, bags of words and codes."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class WideAndDeep(nn.Module):
    """Crossed categories beside a network over their embeddings, as in Cheng et al. 2016."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Embedding(20 * 12, 1)
        self.first, self.second = nn.Embedding(20, 6), nn.Embedding(12, 4)
        self.deep = nn.Sequential(nn.Linear(15, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, numbers: Tensor, user: Tensor, item: Tensor) -> Tensor:
        deep = self.deep(torch.cat([numbers, self.first(user), self.second(item)], dim=1))
        return torch.sigmoid(self.wide(user * 12 + item) + deep)


class CategoryColumns(nn.Module):
    """A table whose last two columns are category codes in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList([nn.Embedding(9, 4), nn.Embedding(5, 3)])
        self.body = nn.Sequential(nn.Linear(13, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, rows: Tensor) -> Tensor:
        codes = rows[:, 6:].long()
        embedded = [table(codes[:, index]) for index, table in enumerate(self.tables)]
        return self.body(torch.cat([rows[:, :6], *embedded], dim=1))


class DLRM(nn.Module):
    """Bags of embeddings and products of all pairs, as in Naumov et al. 2019."""

    def __init__(self) -> None:
        super().__init__()
        self.bottom = nn.Sequential(nn.Linear(5, 8), nn.ReLU())
        self.tables = nn.ModuleList(nn.Embedding(30, 8) for _ in range(3))
        self.top = nn.Sequential(nn.Linear(8 + 6, 16), nn.ReLU(), nn.Linear(16, 1))
        self.register_buffer("pairs", torch.triu_indices(4, 4, 1), persistent=False)

    def forward(self, numbers: Tensor, bags: Tensor) -> Tensor:  # [batch, 5], [batch, 3, 4]
        bottom = self.bottom(numbers)
        bagged = [table(bags[:, index]).sum(dim=1) for index, table in enumerate(self.tables)]
        every = torch.stack([bottom, *bagged], dim=1)
        products = every @ every.transpose(1, 2)
        return torch.sigmoid(self.top(torch.cat([bottom, products[:, self.pairs[0], self.pairs[1]]], dim=1)))


class MeanOfTokens(nn.Module):
    """A bag of token embeddings, weighted by a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 12, padding_idx=0)
        self.head = nn.Linear(12, 4)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        weights = mask.unsqueeze(2)
        mean = (self.table(ids) * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)
        return nn.functional.log_softmax(self.head(mean), dim=1)


class MixtureOfExperts(nn.Module):
    """Two of four experts for each row, weighted by their gates."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(8, 4)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)) for _ in range(4))

    def forward(self, rows: Tensor) -> Tensor:
        weights, chosen = self.gate(rows).topk(2, dim=1)
        every = torch.stack([expert(rows) for expert in self.experts], dim=1)
        picked = every.gather(1, chosen.unsqueeze(2).expand(-1, -1, 8))
        return (torch.softmax(weights, dim=1).unsqueeze(2) * picked).sum(dim=1)
