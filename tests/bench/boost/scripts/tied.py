"""One table at both ends of a model."""

# boost: 1 of 1
import sys

import torch
from torch import nn

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 6

torch.manual_seed(0)
model = nn.ModuleDict(
    {"words": nn.Embedding(32, 16), "inner": nn.Linear(16, 16), "head": nn.Linear(16, 32, bias=False)}
)
model["head"].weight = model["words"].weight
x = torch.randn(64, 16)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
for number in range(steps):
    word = (torch.arange(24) + number) % 32
    loss = nn.functional.cross_entropy(model["head"](model["inner"](model["words"](word)).tanh()), (word + 1) % 32)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(repr(loss.item()))
