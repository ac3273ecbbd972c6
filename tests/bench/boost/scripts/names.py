"""A script that asks for classes and names."""

# boost: 2 of 2
import inspect
import sys

import torch
from torch import nn

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 6

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 16))
x = torch.randn(64, 16)
optimizer = getattr(torch.optim, "AdamW")(model.parameters(), lr=1e-2)  # noqa: B009
other = torch.optim.SGD([nn.Parameter(torch.zeros(16))])
print(type(optimizer).__name__, type(optimizer) is torch.optim.AdamW, isinstance(optimizer, torch.optim.Adam))
print(type(optimizer).__module__, repr(other), sorted(other.state_dict()["param_groups"][0]))
print(inspect.signature(optimizer.step), inspect.signature(torch.optim.AdamW), torch.optim.SGD.step.__qualname__)
other.param_groups[0]["params"][0].grad = torch.ones(16)
other.step()
for _ in range(steps):
    loss = (model(x) - x.sin()).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(repr(loss.item()))
