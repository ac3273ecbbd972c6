"""Rates of their own, momentum, decay."""

# boost: 1 of 1
import sys

import torch
from torch import nn

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 6

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 16))
x = torch.randn(64, 16)
optimizer = torch.optim.SGD(
    [{"params": model[0].parameters(), "lr": 0.05}, {"params": model[2].parameters(), "nesterov": True}],
    lr=0.1,
    momentum=0.9,
    weight_decay=1e-3,
)
for _ in range(steps):
    loss = (model(x) - x.sin()).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(repr(loss.item()))
