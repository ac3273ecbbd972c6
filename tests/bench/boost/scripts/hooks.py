"""Hooks around every step."""

# boost: 1 of 1
import sys

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 6

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 16))
x = torch.randn(64, 16)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
seen = []
before = optimizer.register_step_pre_hook(
    lambda one, args, kwargs: seen.append((type(one).__name__, len(args), list(kwargs)))
)
after = optimizer.register_step_post_hook(lambda one, args, kwargs: seen.append(float(one.param_groups[0]["lr"])))
every = register_optimizer_step_pre_hook(lambda one, args, kwargs: seen.append("all"))
for _ in range(steps):
    loss = (model(x) - x.sin()).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(repr(loss.item()))
every.remove()
print(seen)
