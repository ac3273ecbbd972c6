"""The model is evaluated inside of the step."""

# boost: 1 of 1
import sys

import torch
from torch import nn

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 6

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 16))
x = torch.randn(64, 16)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)


def closure():
    optimizer.zero_grad()
    loss = (model(x) - x.sin()).square().mean()
    loss.backward()
    return loss


for _ in range(steps):
    print(repr(optimizer.step(closure).item()))
print(repr(optimizer.step(closure=closure).item()))
