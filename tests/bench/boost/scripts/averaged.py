"""Averaged weights and their schedule."""

# boost: 1 of 1
import sys

import torch
from torch import nn

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 6

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 16))
x = torch.randn(64, 16)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
averaged = torch.optim.swa_utils.AveragedModel(model)
schedule = torch.optim.swa_utils.SWALR(optimizer, swa_lr=0.05)
for _ in range(steps):
    loss = (model(x) - x.sin()).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    averaged.update_parameters(model)
    schedule.step()
    print(repr((averaged(x) - x.sin()).square().mean().item()))
