"""What the auditor costs, as a share of whole training steps of models of a million parameters, paired in one run.

All of its work is done around the optimizer's step: there it is timed, step by step, without hooks, with hooks alone,
and with a look at the weights, of which there is one in fifty. ``python benchmarks/overhead/audit.py`` ends with 1
where it costs more than 3 % for certain.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from lrdiff_bench.stats.intervals import bootstrap_interval
from lrdiff_bench.system.machine import pinned
from lrdiff_core.audit.audit import EVERY
from lrdiff_core.audit.watch import FIRST, Watch

MOST = 0.03  # of a training step
NEVER = 10**9
SOME = 10
LINE = "{:<12} {:>10} {:>8} {:>9} {:>7} {:>8}  {}"


class Transformer(nn.Module):
    """Twelve layers of width 80: 147 tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(1000, 80)
        layers = (nn.TransformerEncoderLayer(80, 4, 320, dropout=0.0, batch_first=True) for _ in range(12))
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(80, 1000)

    def forward(self, words: Tensor) -> Tensor:  # [rows, words] to [rows, words, 1000]
        return self.head(self.layers(self.embed(words)))


def transformer() -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    words = torch.randint(0, 1000, (4, 32))
    return Transformer(), lambda model: nn.functional.cross_entropy(model(words).flatten(0, 1), words.flatten())


def mlp() -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    x = torch.randn(64, 784)
    model = nn.Sequential(nn.Linear(784, 800), nn.ReLU(), nn.Linear(800, 450), nn.ReLU(), nn.Linear(450, 10))
    return model, lambda model: model(x).square().mean()


class Side:
    """One model in training, and the watch that can be put on it."""

    def __init__(self, make: Callable[[], tuple[nn.Module, Callable[[nn.Module], Tensor]]], clock: Callable[[], float]):
        torch.manual_seed(0)
        self.model, self.loss_of = make()
        self.clock = clock
        parts = [list(part.parameters()) for part in self.model.children()]
        groups = [{"params": part, "lr": 1e-4 * (1 + i)} for i, part in enumerate(filter(None, parts))]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=0.1)
        self.watch = Watch(self.model, [self.optimizer], asked={}, planned=False, schedule=None, every=NEVER)
        self.watch.start()
        for _ in range(2 * FIRST):  # the dense looks of the beginning
            self.step()
        self.watch.stop()

    def step(self) -> tuple[float, float]:
        """Seconds of a training step, and of the optimizer's part of it, where all of the auditor's work is done."""
        began = self.clock()
        self.optimizer.zero_grad()
        self.loss_of(self.model).backward()
        middle = self.clock()
        self.optimizer.step()
        end = self.clock()
        return end - began, end - middle

    def round(self) -> tuple[float, float, float, float]:
        """Seconds of a training step; of the optimizer's step plain, with hooks alone, and with a look."""
        plain = [self.step() for _ in range(SOME)]
        self.watch.start()
        hooked = [self.step()[1] for _ in range(SOME)]
        self.watch.every = 1
        looked = [self.step()[1] for _ in range(3)][1:]  # with the comparison that follows a look
        self.watch.every = NEVER
        self.watch.stop()
        plain += [self.step() for _ in range(SOME)]
        whole, alone = np.median(plain, axis=0)
        return whole, alone, float(np.median(hooked)), float(np.median(looked))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="of 33 training steps each [20]")
    parser.add_argument("--processor-time", action="store_true", help="count that, on a machine that others use")
    given = parser.parse_args()
    clock = time.process_time if given.processor_time else time.perf_counter
    print(LINE.format("model", "parameters", "tensors", "step", "hooks", "a look", "share of a step"))
    exceeded = False
    with pinned(1):
        for make in (mlp, transformer):
            side = Side(make, clock)
            rows = np.array([side.round() for _ in range(given.rounds)])  # [rounds, 4]
            whole, alone, hooked, looked = rows.T
            shares = ((EVERY - 1) * (hooked - alone) + looked - alone) / (EVERY * whole)
            found = bootstrap_interval(shares.tolist())
            sizes = [parameter.numel() for parameter in side.model.parameters()]
            took = [np.median(one) for one in (whole, hooked - alone, looked - alone)]
            share = f"{found.estimate:.2%} [{found.low:.2%}, {found.high:.2%}]"
            texts = [f"{1e3 * took[0]:.1f} ms", f"{1e6 * took[1]:.0f} us", f"{1e3 * took[2]:.1f} ms"]
            print(LINE.format(make.__name__, f"{sum(sizes):,}", len(sizes), *texts, share))
            exceeded |= found.low > MOST
    return 1 if exceeded else 0


if __name__ == "__main__":
    sys.exit(main())
