"""Rules that are not ours."""

# boost: 0 of 2: none of SGD, Adam, AdamW and Adagrad
import sys

import torch
from torch import nn

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 6

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 16))
x = torch.randn(64, 16)
optimizer = torch.optim.RMSprop(model[0].parameters(), lr=1e-2)
second = torch.optim.LBFGS(model[2].parameters(), max_iter=2)


def closure():
    second.zero_grad()
    loss = (model(x) - x.sin()).square().mean()
    loss.backward()
    return loss


for _ in range(steps):
    loss = second.step(closure)
    optimizer.step()
    print(repr(loss.item()))
