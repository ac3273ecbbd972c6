"""Groups as timm's helper makes them: by layer and by decay."""

# boost: 1 of 1
import sys

import torch
from torch import nn

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 6

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.LayerNorm(32), nn.GELU(), nn.Linear(32, 16))
x = torch.randn(64, 16)
groups = {}
for name, parameter in model.named_parameters():
    layer, decay = int(name.split(".")[0]), 0.0 if parameter.ndim < 2 else 0.05
    group = groups.setdefault((layer, decay), {"params": [], "weight_decay": decay, "lr_scale": 0.7 ** (4 - layer)})
    group["params"].append(parameter)
for group in groups.values():
    group["lr"] = 1e-2 * group["lr_scale"]
optimizer = torch.optim.AdamW(list(groups.values()), betas=(0.9, 0.95))
for _ in range(steps):
    loss = (model(x) - x.sin()).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(repr(loss.item()))
