"""An optimizer for each parameter, stepped while gradients come in."""

# boost: 4 of 4
import sys

import torch
from torch import nn

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 6

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 16))
x = torch.randn(64, 16)
optimizers = {parameter: torch.optim.Adam([parameter], lr=1e-2) for parameter in model.parameters()}


def step(parameter):
    optimizers[parameter].step()
    optimizers[parameter].zero_grad()


for parameter in model.parameters():
    parameter.register_post_accumulate_grad_hook(step)

for _ in range(steps):
    loss = (model(x) - x.sin()).square().mean()
    loss.backward()
    print(repr(loss.item()))
