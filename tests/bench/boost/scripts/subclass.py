"""A class of one's own around torch's step."""

# boost: 1 of 1
import sys

import torch
from torch import nn


class Counting(torch.optim.AdamW):
    """Counts, and clips what is too large."""

    count = 0

    @torch.no_grad()
    def step(self, closure=None):
        self.count += 1
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad.clamp_(-0.1, 0.1)
        return super().step(closure)


steps = int(sys.argv[1]) if len(sys.argv) > 1 else 6

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 16))
x = torch.randn(64, 16)
optimizer = Counting(model.parameters(), lr=1e-2)
for _ in range(steps):
    loss = (model(x) - x.sin()).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(repr(loss.item()))
print(optimizer.count)
