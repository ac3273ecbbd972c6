"""A step of the rules that torch has no fused kernel for (and Adagrad): ours against torch's loop, paired in one run.

``hot`` steps on gradients that stay, ``loop`` after a forward and backward pass; only the step is timed. Against are
torch's class as it is on a CPU, with ``--foreach`` its foreach code, with ``fused=True`` for Adagrad, and the plain
loop of the rule's own file where torch has no class. It prints their time over ours: the larger the better.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

from lrdiff_bench.measure.cases.models import MODELS
from lrdiff_bench.measure.cases.state import rate_groups
from lrdiff_bench.stats.intervals import bootstrap_interval
from lrdiff_bench.system.machine import pinned
from lrdiff_core import optim
from lrdiff_core.optimizers import OPTIMIZERS
from lrdiff_core.setup import set_mode

LINE = "{:<18} {:<12} {:<5} {:>11} {:>11}  {}"
KINDS = tuple(entry.kind for entry in OPTIMIZERS.values() if entry.kind not in ("SGD", "Adam", "AdamW", "MuonAdamW"))
NAMES = ("mlp", "transformer", "convolution", "splats")
WARM = 8


class Side:
    """One model in training."""

    clock = staticmethod(time.perf_counter)

    def __init__(self, name: str, kind: Any, where: str, **options: Any) -> None:
        self.model, self.where = MODELS[name](), where
        self.optimizer = kind(rate_groups(self.model.trainable(), "layers"), **options)
        set_mode(self.optimizer, "train")
        self.model.backward()

    def turn(self) -> float:
        """Seconds of a step."""
        if self.where == "loop":
            self.optimizer.zero_grad()
            self.model.backward()
        began = self.clock()
        self.optimizer.step()
        return self.clock() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--models", nargs="+", default=NAMES, choices=list(MODELS))
    parser.add_argument("--rounds", type=int, default=40, help="of two turns each [40]")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--foreach", action="store_true", help="torch's foreach code in place of its loop")
    parser.add_argument("--processor", action="store_true", help="processor time: for machines with other load")
    given = parser.parse_args()
    if given.processor:
        Side.clock = staticmethod(time.process_time)
    print(LINE.format("rule", "model", "", "other", "ours", "other / ours"))
    with pinned(given.threads):
        for kind, name, where in ((k, n, w) for k in given.kinds for n in given.models for w in ("hot", "loop")):
            ours = getattr(optim, kind)
            options = {"fused": True} if kind == "Adagrad" else {"foreach": True} if given.foreach else {}
            if given.foreach and "foreach" not in ours._torch_class.__init__.__code__.co_varnames:
                continue
            a, b = Side(name, ours, where), Side(name, ours._torch_class, where, **options)
            for _ in range(WARM):
                a.turn(), b.turn()
            rows = []
            for _ in range(given.rounds):
                a1, b1, b2, a2 = a.turn(), b.turn(), b.turn(), a.turn()
                rows.append((a1 + a2, b1 + b2))
            times = np.array(rows)  # [rounds, 2]
            found = bootstrap_interval((times[:, 1] / times[:, 0]).tolist())
            mine, other = (f"{1e6 * value / 2:.0f} us" for value in np.median(times, axis=0))
            print(
                LINE.format(kind, name, where, other, mine, f"{found.estimate:.2f} [{found.low:.2f}, {found.high:.2f}]")
            )


if __name__ == "__main__":
    main()
