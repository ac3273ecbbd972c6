"""Optimizers copied and pickled whole."""

# boost: 3 of 3
import copy
import io
import sys

import torch
from torch import nn

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 6

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 16))
x = torch.randn(64, 16)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def train(model, optimizer):
    for _ in range(steps):
        loss = (model(x) - x.sin()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(repr(loss.item()))


train(model, optimizer)
both = copy.deepcopy((model, optimizer))
file = io.BytesIO()
torch.save((model, optimizer), file)
file.seek(0)
train(model, optimizer)
train(*both)
train(*torch.load(file, weights_only=False))
