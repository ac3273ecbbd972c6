"""Clip, step and zero: ours against torch's ``clip_grad_norm_``, fused AdamW and ``zero_grad``, paired in one run.

``hot`` has fresh gradients put in place before each turn, ``loop`` comes after a forward and backward pass; only what
follows is timed. Ours is ``clipped_step``, or with ``--calls 3`` the three calls. Running this file prints torch's time
over ours: the larger the better.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch.nn.utils import clip_grad_norm_

from lrdiff_bench.measure.cases.models import MODELS
from lrdiff_bench.measure.cases.state import rate_groups
from lrdiff_bench.stats.intervals import bootstrap_interval
from lrdiff_bench.system.machine import pinned
from lrdiff_core.optim import AdamW, clip_grad_norms_, clipped_step

LINE = "{:<18} {:>6} {:<5} {:<9} {:<5} {:>10} {:>10}  {}"
NAMES = ("mlp", "transformer", "convolution", "splats")
LIMITS = {"clipped": 1e-3, "unclipped": 1e6}
WARM = 10


def theirs(optimizer: torch.optim.Optimizer, by: str, limit: float) -> None:
    if by == "all":
        clip_grad_norm_([param for group in optimizer.param_groups for param in group["params"]], limit)
    else:
        for group in optimizer.param_groups:
            clip_grad_norm_(group["params"], limit)

    optimizer.step()
    optimizer.zero_grad()


def in_three(optimizer: torch.optim.Optimizer, by: str, limit: float) -> None:
    clip_grad_norms_(optimizer, limit, by=by)
    optimizer.step()
    optimizer.zero_grad()


def in_one(optimizer: torch.optim.Optimizer, by: str, limit: float) -> None:
    clipped_step(optimizer, limit, by=by)


class Side:
    """One model in training."""

    clock = staticmethod(time.perf_counter)

    def __init__(self, name: str, make: Callable[..., torch.optim.Optimizer], take: Callable[..., None], where: str):
        self.model, self.take, self.where = MODELS[name](), take, where
        self.optimizer = make(rate_groups(self.model.trainable(), "layers"))
        self.model.backward()
        having = [(param, param.grad) for param in self.model.trainable().values() if param.grad is not None]
        self.held = [(param, grad.clone(), grad.clone()) for param, grad in having]

    def turn(self, by: str, limit: float) -> float:
        """Seconds of clipping, the step, and letting the gradients go."""
        if self.where == "hot":
            for param, grad, kept in self.held:
                param.grad = grad.copy_(kept)
        else:
            self.model.backward()
        began = self.clock()
        self.take(self.optimizer, by, limit)
        return self.clock() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=NAMES, choices=list(MODELS))
    parser.add_argument("--rounds", type=int, default=60, help="of two turns each [60]")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--calls", type=int, default=1, choices=[1, 3], help="ours: clipped_step, or three calls [1]")
    parser.add_argument("--processor", action="store_true", help="processor time: for machines with other load")
    given = parser.parse_args()
    if given.processor:
        Side.clock = staticmethod(time.process_time)
    print(LINE.format("model", "groups", "norm", "", "", "torch", "ours", "torch / ours"))
    with pinned(given.threads):
        for name in given.models:
            for where in ("hot", "loop"):
                a = Side(name, AdamW, in_one if given.calls == 1 else in_three, where)
                b = Side(name, partial(torch.optim.AdamW, fused=True), theirs, where)
                for by in ("all", "group"):
                    for kind, limit in LIMITS.items():
                        turn_a, turn_b = partial(a.turn, by, limit), partial(b.turn, by, limit)
                        for _ in range(WARM):
                            turn_a(), turn_b()
                        rows = []
                        for _ in range(given.rounds):
                            a1, b1, b2, a2 = turn_a(), turn_b(), turn_b(), turn_a()
                            rows.append((a1 + a2, b1 + b2))
                        times = np.array(rows)  # [rounds, 2]
                        found = bootstrap_interval((times[:, 1] / times[:, 0]).tolist())
                        mine, other = (f"{1e6 * value / 2:.0f} us" for value in np.median(times, axis=0))
                        ratio = f"{found.estimate:.2f} [{found.low:.2f}, {found.high:.2f}]"
                        count = len(a.optimizer.param_groups)
                        print(LINE.format(name, count, by, kind, where, other, mine, ratio), flush=True)


if __name__ == "__main__":
    main()
