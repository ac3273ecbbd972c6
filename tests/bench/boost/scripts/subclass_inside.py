"""A class that changes what torch's step is made of."""

# boost: 0 of 1: its class prepares the step in a way of its own
import sys

import torch
from torch import nn


class Signs(torch.optim.SGD):
    """Steps along the signs."""

    def _init_group(self, group, params, grads, buffers):
        sparse = super()._init_group(group, params, grads, buffers)
        grads[:] = [grad.sign() for grad in grads]
        return sparse


steps = int(sys.argv[1]) if len(sys.argv) > 1 else 6

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 16))
x = torch.randn(64, 16)
optimizer = Signs(model.parameters(), lr=1e-2)
for _ in range(steps):
    loss = (model(x) - x.sin()).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(repr(loss.item()))
