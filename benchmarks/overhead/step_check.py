"""What a whole step costs beside its kernel alone, each after a forward and backward pass: the price of the check.

Processor time of one thread; the kernel is called on the same tensors with its table filled. ``python`` has the
compiled check switched off. ``python benchmarks/overhead/step_check.py`` prints the step's time over the kernel's: the
goal is at most 1.3.
"""

from __future__ import annotations

import argparse
import time
from contextlib import nullcontext

import numpy as np

from lrdiff_bench.measure.cases.models import MODELS
from lrdiff_bench.measure.cases.state import rate_groups
from lrdiff_bench.stats.intervals import bootstrap_interval
from lrdiff_bench.system.machine import pinned
from lrdiff_core.optim import AdamW, guard
from lrdiff_core.optim.forms import KernelForm
from lrdiff_core.optim.memory.layout import data_ptr

LINE = "{:<18} {:>7} {:<8} {:>10} {:>10}  {}"
NAMES = ("mlp", "transformer", "convolution", "splats")
WARM = 10


class Side:
    """One model in training, stepped as users do or by its kernel alone."""

    def __init__(self, name: str, rates: str, compiled: bool) -> None:
        self.model = MODELS[name]()
        self.optimizer = AdamW(rate_groups(self.model.trainable(), rates))
        with nullcontext() if compiled else guard.switched_off():
            for _ in range(3):
                self.model.backward()
                self.optimizer.step()
        prepared = self.optimizer._prepared
        assert prepared is not None
        form = prepared.forms[0][1]
        assert isinstance(form, KernelForm)
        assert compiled == (self.optimizer._quick is not None), guard.missing_reason()
        self.prepared, self.form = prepared, form

    def step(self) -> float:
        self.model.backward()
        began = time.thread_time()
        self.optimizer.step()
        return time.thread_time() - began

    def kernel(self) -> float:
        self.model.backward()
        self.form._grad[:] = [data_ptr(param.grad) for param in self.prepared.params if param.grad is not None]
        began = time.thread_time()
        self.form._call(self.form._address)
        return time.thread_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=NAMES, choices=list(MODELS))
    parser.add_argument("--rates", default="layers", help="layers, or each for a rate a tensor [layers]")
    parser.add_argument("--rounds", type=int, default=100, help="of two turns each [100]")
    given = parser.parse_args()
    print(LINE.format("model", "tensors", "check", "step", "kernel", "step / kernel"))
    with pinned(1):
        for name in given.models:
            for compiled in (True, False):
                side = Side(name, given.rates, compiled)
                with nullcontext() if compiled else guard.switched_off():
                    for _ in range(WARM):
                        side.step(), side.kernel()
                    rows = []
                    for _ in range(given.rounds):
                        a1, b1, b2, a2 = side.step(), side.kernel(), side.kernel(), side.step()
                        rows.append((a1 + a2, b1 + b2))
                times = np.array(rows)  # [rounds, 2]
                found = bootstrap_interval((times[:, 0] / times[:, 1]).tolist())
                whole, alone = (f"{1e6 * value / 2:.1f} us" for value in np.median(times, axis=0))
                ratio = f"{found.estimate:.2f} [{found.low:.2f}, {found.high:.2f}]"
                kind = "compiled" if compiled else "python"
                print(LINE.format(name, len(side.prepared.params), kind, whole, alone, ratio), flush=True)


if __name__ == "__main__":
    main()
