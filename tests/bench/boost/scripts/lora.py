"""Adapters beside frozen weights."""

# boost: 1 of 1
import sys

import torch
from torch import nn


class Adapted(nn.Module):
    """A frozen layer with an adapter of rank four."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.a = nn.Parameter(torch.randn(4, layer.in_features) / 4)
        self.b = nn.Parameter(torch.zeros(layer.out_features, 4))

    def forward(self, x):
        return self.layer(x) + x @ self.a.T @ self.b.T


steps = int(sys.argv[1]) if len(sys.argv) > 1 else 6

torch.manual_seed(0)
model = nn.Sequential(Adapted(nn.Linear(16, 32)), nn.Tanh(), Adapted(nn.Linear(32, 16)))
x = torch.randn(64, 16)
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
for _ in range(steps):
    loss = (model(x) - x.sin()).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(repr(loss.item()))
