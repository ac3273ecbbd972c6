"""A schedule that looks at the loss."""

# boost: 1 of 1
import sys

import torch
from torch import nn

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 6

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 16))
x = torch.randn(64, 16)
optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.95)
schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=1)
for _ in range(steps):
    loss = (model(x) - x.sin()).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step(loss.item())
    print(repr(loss.item()), optimizer.param_groups[0]["lr"])
