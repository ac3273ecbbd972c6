"""The step over sharded parameters (DTensor) beside the same numbers as plain tensors, and torch's step over shards.

One process, gloo: nothing is sent. ``python -m benchmarks.overhead.shards --out docs/results/shards.md --record
docs/results/records/shards.json`` writes processor times and the ratio to plain tensors: the goal is at most 1.3.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from benchmarks.overhead.turns import ratio_of, ratio_text
from lrdiff_bench.report.page import as_given, markdown_table, render
from lrdiff_bench.report.record import PageFiles, add_page_options
from lrdiff_bench.report.tables import seconds as seconds_text
from lrdiff_bench.stats.verdict import Goal
from lrdiff_bench.system.machine import pinned, provenance
from lrdiff_core.optim import AdamW

SHARDS: Mapping[str, Any] = {"format": "lrdiff.shards", "version": 1}
HEADS = ("step", "rounds", "ours, plain", "over shards", "ratio [95 %]", "goal")
WARM = 3
TORCH_ROUNDS = 6  # half a second each
GOAL = Goal(most=1.3, text="at most 1.3x")


def groups(count: int, rates: int, size: int, wrap: Callable[[torch.Tensor], torch.Tensor]) -> list[dict[str, object]]:
    generator = torch.Generator().manual_seed(0)
    params = []
    for _ in range(count):
        param = torch.nn.Parameter(wrap(torch.randn(size, size, generator=generator)))
        param.grad = wrap(torch.randn(size, size, generator=generator))
        if hasattr(param, "_spec"):
            param.grad._spec = param._spec  # type: ignore[attr-defined]  # as FSDP does
        params.append(param)
    return [{"params": params[i::rates], "lr": 1e-3 / (i + 1)} for i in range(rates)]


def seconds(optimizer: torch.optim.Optimizer) -> float:
    began = time.process_time()
    optimizer.step()
    return time.process_time() - began


def measure(given: argparse.Namespace) -> dict[str, Any]:
    origin, rows = provenance(), []
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())  # type: ignore[attr-defined]
    mesh = init_device_mesh("cpu", (1,))
    shape = (given.tensors, given.rates, given.size)

    def sharded(tensor: torch.Tensor) -> torch.Tensor:
        return distribute_tensor(tensor, mesh, [Shard(0)])

    with pinned(1):
        plain = AdamW(groups(*shape, lambda tensor: tensor))
        for name, kind in (("lrdiff", AdamW), ("torch default", torch.optim.AdamW)):
            other = kind(groups(*shape, sharded))
            for _ in range(WARM):
                seconds(plain), seconds(other)
            rounds = given.rounds if kind is AdamW else TORCH_ROUNDS
            times = np.array([(seconds(plain), seconds(other)) for _ in range(rounds)])  # [rounds, 2]
            ours, theirs = np.median(times, axis=0).tolist()
            rows.append({"step": name, "rounds": rounds, "plain": ours, "sharded": theirs,
                         "ratio": ratio_of(times[:, 1], times[:, 0])})  # fmt: skip
            print(" | ".join(cells(rows[-1])), file=sys.stderr, flush=True)
    dist.destroy_process_group()
    return {"command": as_given(), **origin, "tensors": given.tensors, "rates": given.rates, "size": given.size,
            "rows": rows}  # fmt: skip


def cells(row: Mapping[str, Any]) -> list[str]:
    low, _, high = row["ratio"]
    ours = row["step"] == "lrdiff"
    return [row["step"], str(row["rounds"]), seconds_text(row["plain"]), seconds_text(row["sharded"]),
            ratio_text(row["ratio"]),
            f"{GOAL.text}: {GOAL.verdict(low, high)}" if ours else ""]  # fmt: skip


def page(document: Mapping[str, Any]) -> str:
    count, size = document["tensors"], document["size"]
    return f"""# The step over sharded parameters

{render("written_by.md", **document, quick=False).rstrip()}

{count} matrices of {size} x {size} with {document["rates"]} rates, AdamW on one thread: as DTensors that are sharded by
rows over one process, as FSDP2 leaves them, beside *our* step over the same numbers as plain tensors. Processor time,
medians; the time over shards by that over plain tensors with a 95 % interval over rounds in turn.

{markdown_table(HEADS, [cells(one) for one in document["rows"]], "lrrrrl")}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tensors", type=int, default=120)
    parser.add_argument("--rates", type=int, default=60)
    parser.add_argument("--size", type=int, default=128, help="rows and columns of each [128]")
    parser.add_argument("--rounds", type=int, default=40)
    add_page_options(parser)
    given = parser.parse_args()
    files = PageFiles.of(given)
    files.write(page(files.document(lambda: measure(given), **SHARDS)))


if __name__ == "__main__":
    main()
