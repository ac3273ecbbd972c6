"""Complex weights."""

# boost: 0 of 1: complex numbers
import sys

import torch
from torch import nn

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 6

torch.manual_seed(0)
weight = nn.Parameter(torch.randn(16, 16, dtype=torch.complex64))
x = torch.randn(64, 16)
optimizer = torch.optim.Adam([weight], lr=1e-2)
for _ in range(steps):
    loss = (x.to(torch.complex64) @ weight).abs().square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(repr(loss.item()))
