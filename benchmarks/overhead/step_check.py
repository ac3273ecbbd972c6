"""What a whole step costs beside its kernel alone, each after a forward and backward pass: the price of the check.

Processor time of one thread; the kernel is called on the same tensors with its table filled. ``python`` has the
compiled check switched off. What no check can be cheaper than stands beside it: a method that does nothing, and a
torch optimizer whose step does nothing. ``python -m benchmarks.overhead.step_check --out docs/results/step-check.md
--record docs/results/records/step-check.json`` writes the step's time over the kernel's: the goal is at most 1.3.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch

from benchmarks.overhead.turns import in_turn, ratio_text
from lrdiff_bench.measure.cases.models import MODELS
from lrdiff_bench.measure.cases.state import rate_groups
from lrdiff_bench.report.page import as_given, markdown_table, render
from lrdiff_bench.report.record import PageFiles, add_page_options
from lrdiff_bench.report.tables import seconds
from lrdiff_bench.stats.verdict import Goal
from lrdiff_bench.system.machine import pinned, provenance
from lrdiff_core.optim import AdamW, guard
from lrdiff_core.optim.forms import KernelForm
from lrdiff_core.optim.memory.layout import data_ptr

CHECK: Mapping[str, Any] = {"format": "lrdiff.step_check", "version": 2}
HEADS = ("model", "tensors", "check", "whole step", "kernel alone", "step over kernel [95 %]", "goal", "empty method",
         "empty torch step")  # fmt: skip
GOAL = Goal(most=1.3, text="at most 1.3x")
NAMES = ("mlp", "transformer", "convolution", "splats")


class Empty(torch.optim.Optimizer):
    """What torch puts around every step, around nothing."""

    def __init__(self, params: Iterable[torch.nn.Parameter]) -> None:
        super().__init__(params, {})

    def step(self, closure: Any = None) -> None: ...

    def method(self) -> None: ...


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
        self.empty = Empty(self.model.trainable().values())

    def step(self) -> float:
        return self.timed(self.optimizer.step)

    def timed(self, call: Callable[[], object]) -> float:
        """Seconds of a call after a forward and backward pass."""
        self.model.backward()
        began = time.thread_time()
        call()
        return time.thread_time() - began

    def kernel(self) -> float:
        self.model.backward()
        self.form._grad[:] = [data_ptr(param.grad) for param in self.prepared.params if param.grad is not None]
        began = time.thread_time()
        self.form._call(self.form._address)
        return time.thread_time() - began


def measure(given: argparse.Namespace) -> dict[str, Any]:
    origin, rows = provenance(), []
    with pinned(1):
        for name in given.models:
            for compiled in (True, False):
                side = Side(name, given.rates, compiled)
                with nullcontext() if compiled else guard.switched_off():
                    found = in_turn(side.kernel, side.step, given.rounds)
                    least = in_turn(partial(side.timed, side.empty.method), partial(side.timed, side.empty.step),
                                    given.rounds)  # fmt: skip
                rows.append({"model": name, "tensors": len(side.prepared.params), "compiled": compiled,
                             "step": found.second, "kernel": found.first, "ratio": found.ratio, "method": least.first,
                             "wrapper": least.second})  # fmt: skip
                print(" | ".join(cells(rows[-1])), file=sys.stderr, flush=True)
    return {"command": as_given(), **origin, "rates": given.rates, "rounds": given.rounds, "rows": rows}


def cells(row: Mapping[str, Any]) -> list[str]:
    low, _, high = row["ratio"]
    return [row["model"], str(row["tensors"]), "compiled" if row["compiled"] else "python", seconds(row["step"]),
            seconds(row["kernel"]), ratio_text(row["ratio"]),
            f"{GOAL.text}: {GOAL.verdict(low, high)}" if row["compiled"] else "", seconds(row["method"]),
            seconds(row["wrapper"])]  # fmt: skip


def page(document: Mapping[str, Any]) -> str:
    return f"""# What the check before a step costs

{render("written_by.md", **document, quick=False).rstrip()}

Before each step AdamW looks whether parameters, gradients, state and rates are where they were and what they were. Here
the whole call stands beside the kernel alone on the same tensors, each after a forward and backward pass of the model;
processor time of one thread, medians of {document["rounds"]} rounds in turn, with a 95 % interval. *python*: the check
as it is where no C++ compiler is. *Empty method*: one of Python that does nothing, called in the same place, where it
finds its memory cold, too; *empty torch step*: the same by a `torch.optim.Optimizer`.

{markdown_table(HEADS, [cells(one) for one in document["rows"]], "lrlrrrlrr")}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=NAMES, choices=list(MODELS))
    parser.add_argument("--rates", default="layers", help="layers, or each for a rate a tensor [layers]")
    parser.add_argument("--rounds", type=int, default=100, help="of two turns each [100]")
    add_page_options(parser)
    given = parser.parse_args()
    files = PageFiles.of(given)
    files.write(page(files.document(lambda: measure(given), **CHECK)))


if __name__ == "__main__":
    main()
