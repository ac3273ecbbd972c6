"""LoRA adapters from PEFT on a frozen model."""

# boost: 1 of 1
import sys

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 6

torch.manual_seed(0)
base = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 16))
model = get_peft_model(base, LoraConfig(target_modules=["0", "2"], r=4, lora_dropout=0.0))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)  # the frozen ones, too
x = torch.randn(64, 16)
for _ in range(steps):
    loss = (model(x) - x.sin()).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(repr(loss.item()))
