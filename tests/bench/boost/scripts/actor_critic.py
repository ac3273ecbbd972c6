"""Two optimizers that take turns."""

# boost: 2 of 2
import sys

import torch
from torch import nn

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 6

torch.manual_seed(0)
policy = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 16))
value = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 16))
x = torch.randn(64, 16)
actor = torch.optim.Adam(policy.parameters(), lr=3e-3)
critic = torch.optim.Adam(value.parameters(), lr=1e-2)
for _ in range(steps):
    action = torch.distributions.Categorical(logits=policy(x)).sample()
    reward = (action % 4 == 0).float()
    estimate = value(x).mean(1)
    loss = (estimate - reward).square().mean()
    critic.zero_grad()
    loss.backward()
    critic.step()
    chosen = torch.distributions.Categorical(logits=policy(x)).log_prob(action)
    surrogate = -(chosen * (reward - estimate.detach())).mean()
    actor.zero_grad()
    surrogate.backward()
    actor.step()
    print(repr(loss.item()), repr(surrogate.item()))
