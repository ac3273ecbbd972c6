"""Gradients of several batches, set to zero in place."""

# boost: 1 of 1
import sys

import torch
from torch import nn

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 6

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 16))
x = torch.randn(64, 16)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(steps):
    for part in x.chunk(4):
        loss = (model(part) - part.sin()).square().mean() / 4
        loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)
    print(repr(loss.item()))
