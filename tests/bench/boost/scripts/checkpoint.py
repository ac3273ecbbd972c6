"""Saved and loaded in the middle, into an optimizer made anew."""

# boost: 2 of 2
import io
import sys

import torch
from torch import nn

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 6

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 16))
x = torch.randn(64, 16)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
for number in range(steps):
    if number == steps // 2:
        file = io.BytesIO()
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
        file.seek(0)
        saved = torch.load(file)
        model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 16))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1.0)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
    loss = (model(x) - x.sin()).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(repr(loss.item()))
