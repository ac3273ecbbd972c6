"""A step that gradients flow through."""

# boost: 0 of 1: differentiable=True is asked for
import sys

import torch
from torch import nn

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 6

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 16))
x = torch.randn(64, 16)
optimizer = torch.optim.SGD(model.parameters(), lr=1e-2, differentiable=True)
for _ in range(steps):
    loss = (model(x) - x.sin()).square().mean()
    optimizer.zero_grad()
    loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        optimizer.step()
        for parameter in model.parameters():
            parameter.requires_grad_(True)
    print(repr(loss.item()))
