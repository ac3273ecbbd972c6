"""A generator against a critic."""

# boost: 2 of 2
import sys

import torch
from torch import nn

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 6

torch.manual_seed(0)
maker = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16))
judge = nn.Sequential(nn.Linear(16, 32), nn.LeakyReLU(0.2), nn.Linear(32, 16))
x = torch.randn(64, 16)
of_maker = torch.optim.Adam(maker.parameters(), lr=2e-3, betas=(0.5, 0.999))
of_judge = torch.optim.Adam(judge.parameters(), lr=2e-3, betas=(0.5, 0.999))
for _ in range(steps):
    fake = maker(torch.randn(64, 16))
    of_judge.zero_grad()
    found = nn.functional.softplus(-judge(x)).mean() + nn.functional.softplus(judge(fake.detach())).mean()
    found.backward()
    of_judge.step()
    of_maker.zero_grad()
    fooled = nn.functional.softplus(-judge(fake)).mean()
    fooled.backward()
    of_maker.step()
    print(repr(found.item()), repr(fooled.item()))
