"""Clip, step and zero: ours against torch's ``clip_grad_norm_``, fused AdamW and ``zero_grad``, paired in one run.

``hot`` has fresh gradients put in place before each turn, ``loop`` comes after a forward and backward pass; only what
follows is timed. Ours is ``clipped_step``, and the three calls. ``python -m benchmarks.overhead.clip --out
docs/results/clip.md --record docs/results/records/clip.json`` writes torch's time over ours: the larger the better.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_

from benchmarks.overhead.turns import in_turn, ratio_text
from lrdiff_bench.measure.cases.models import MODELS
from lrdiff_bench.measure.cases.state import rate_groups
from lrdiff_bench.report.page import as_given, markdown_table, render
from lrdiff_bench.report.record import PageFiles, add_page_options
from lrdiff_bench.report.tables import seconds
from lrdiff_bench.stats.verdict import Goal
from lrdiff_bench.system.machine import pinned, provenance
from lrdiff_core.optim import AdamW, clip_grad_norms_, clipped_step

CLIP: Mapping[str, Any] = {"format": "lrdiff.clip", "version": 1}
HEADS = ("model", "groups", "in", "norm", "gradients", "caches", "torch", "ours", "torch over ours [95 %]", "goal")
GOAL = Goal(least=1.3, text="at least 1.3x")
NAMES = ("mlp", "transformer", "convolution", "splats")
LIMITS = {"clipped": 1e-3, "unclipped": 1e6}


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


CALLS = {"one call": in_one, "three calls": in_three}
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


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


def measure(given: argparse.Namespace) -> dict[str, Any]:
    origin, rows = provenance(), []
    Side.clock = staticmethod(CLOCKS[given.clock])
    with pinned(given.threads):
        for name, (calls, take), where in itertools.product(given.models, CALLS.items(), ("hot", "loop")):
            a = Side(name, AdamW, take, where)
            b = Side(name, partial(torch.optim.AdamW, fused=True), theirs, where)
            for by, (kind, limit) in itertools.product(("all", "group"), LIMITS.items()):
                found = in_turn(partial(a.turn, by, limit), partial(b.turn, by, limit), given.rounds)
                rows.append({"model": name, "groups": len(a.optimizer.param_groups), "calls": calls, "by": by,
                             "kind": kind, "where": where, "torch": found.second, "ours": found.first,
                             "ratio": found.ratio})  # fmt: skip
                print(" | ".join(cells(rows[-1])), file=sys.stderr, flush=True)
    return {"command": as_given(), **origin, "threads": given.threads, "rounds": given.rounds, "clock": given.clock,
            "rows": rows}  # fmt: skip


def cells(row: Mapping[str, Any]) -> list[str]:
    low, _, high = row["ratio"]
    judged = row["model"] == "transformer" and row["calls"] == "one call"
    norm = "over all" if row["by"] == "all" else "by group"
    return [row["model"], str(row["groups"]), row["calls"], norm, row["kind"], row["where"],
            seconds(row["torch"]), seconds(row["ours"]), ratio_text(row["ratio"]),
            f"{GOAL.text}: {GOAL.verdict(low, high)}" if judged else ""]  # fmt: skip


def page(document: Mapping[str, Any]) -> str:
    return f"""# Clipping, step and zero

{render("written_by.md", **document, quick=False).rstrip()}

Torch's `clip_grad_norm_`, fused AdamW and `zero_grad` beside ours: `clipped_step` in *one call*, or the *three calls*
that it stands for. *loop*: after a forward and backward pass, as in training; *hot*: on gradients just put in place.
*unclipped*: norms are measured and nothing is above its limit. Threads: {document["threads"]}. Medians by
{document["clock"]} time of {document["rounds"]} rounds in turn, ratios with 95 % intervals; more is better.

{markdown_table(HEADS, [cells(one) for one in document["rows"]], "lrllllrrrl")}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=NAMES, choices=list(MODELS))
    parser.add_argument("--rounds", type=int, default=60, help="of two turns each [60]")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", default="wall", choices=list(CLOCKS), help="processor: beside other load [wall]")
    add_page_options(parser)
    given = parser.parse_args()
    files = PageFiles.of(given)
    files.write(page(files.document(lambda: measure(given), **CLIP)))


if __name__ == "__main__":
    main()
