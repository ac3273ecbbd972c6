"""Accelerate's own loop: prepared objects, accumulated gradients, clipping."""

# boost: 1 of 1
import sys

import torch
from accelerate import Accelerator
from torch import nn

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 6

torch.manual_seed(0)
accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 16))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
rows = torch.utils.data.TensorDataset(torch.randn(16 * steps, 16))
loader = torch.utils.data.DataLoader(rows, batch_size=8)
model, optimizer, loader, schedule = accelerator.prepare(model, optimizer, loader, schedule)
for (x,) in loader:
    with accelerator.accumulate(model):
        loss = (model(x) - x.sin()).square().mean()
        accelerator.backward(loss)
        if accelerator.sync_gradients:
            accelerator.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        print(repr(loss.item()))
