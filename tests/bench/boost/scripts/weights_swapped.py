"""Weights loaded, cast and moved to new memory while the optimizer lives."""

# boost: 1 of 1
import sys

import torch
from torch import nn

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 6

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 16))
x = torch.randn(64, 16)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
for number in range(steps):
    if number == 2:
        model[0].weight.data = model[0].weight.data.clone()
    if number == 3:
        model.load_state_dict({name: value.clone() * 0.5 for name, value in model.state_dict().items()})
    if number == 4:
        optimizer.param_groups[0]["lr"] *= 0.1
    loss = (model(x) - x.sin()).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(repr(loss.item()))
