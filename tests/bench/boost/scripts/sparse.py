"""A table of words with sparse gradients, in a group beside a dense layer."""

# boost: 1 of 1: sparse gradients
import sys

import torch
from torch import nn

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 6

torch.manual_seed(0)
words = nn.Embedding(64, 16, sparse=True)
head = nn.Linear(16, 16)
x = torch.randn(64, 16)
optimizer = torch.optim.SGD([{"params": words.parameters()}, {"params": head.parameters()}], lr=0.1)
for number in range(steps):
    loss = head(words((torch.arange(8) + number) % 64)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(repr(loss.item()))
