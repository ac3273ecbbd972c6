"""The step of large models, whose time is memory's: ours, torch's fused one, and the same streams without arithmetic.

AdamW reads four numbers and writes three for each parameter. ``streams.c`` does that and an addition, in pieces of
several sizes; the fastest of these is what memory allows on as many threads.
``python -m benchmarks.overhead.large --out docs/results/large.md --record docs/results/records/large.json`` takes 13 GB
of memory and needs a quiet machine.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lrdiff_bench.report.page import as_given, markdown_table, render
from lrdiff_bench.report.record import PageFiles, add_page_options
from lrdiff_bench.report.tables import seconds
from lrdiff_bench.stats.intervals import bootstrap_interval
from lrdiff_bench.stats.verdict import Goal
from lrdiff_bench.system.machine import pinned, provenance
from lrdiff_core.errors import UnavailableError
from lrdiff_core.machine.compiled import FLAGS, find_compiler
from lrdiff_core.optim import AdamW

LARGE: Mapping[str, Any] = {"format": "lrdiff.large_steps", "version": 1}
HEADS = ("parameters", "threads", "rounds", "ours", "torch fused", "fused over ours [95 %]", "goal", "streams",
         "of their bandwidth [95 %]", "goal", "fastest streams")  # fmt: skip
TENSORS, RATES = 8, 2
WARM = 2
BYTES = 28  # a parameter: four float32 read, three written
PIECES = (16_384, 1 << 20, 1 << 40)  # the last: a thread's share whole
FUSED = Goal(least=1.0, text="not slower")
STREAMS = Goal(least=0.95, text="at least 95 %")

Step = Callable[[], object]


def streams_library(folder: Path) -> ctypes.CDLL:
    """``streams.c`` for this processor.

    Raises:
        UnavailableError: no compiler is here.
    """
    compiler = find_compiler("CC", "cc", "gcc", "clang")
    if not compiler:
        raise UnavailableError("no C compiler found", help="install gcc or clang, or set CC")
    built = folder / "streams.so"
    source = Path(__file__).with_name("streams.c")
    subprocess.run([*compiler, *FLAGS, "-march=native", str(source), "-o", str(built)], check=True)
    library = ctypes.CDLL(str(built))
    library.streams.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_int64, ctypes.c_int, ctypes.c_int64]
    library.streams.restype = None
    return library


def sides(library: ctypes.CDLL, parameters: int, threads: int) -> dict[str, Step]:
    """What is timed in turn, by name: all of it on the same parameters and gradients."""
    params = [torch.nn.Parameter(torch.rand(parameters // TENSORS)) for _ in range(TENSORS)]
    for param in params:
        param.grad = torch.rand_like(param).mul_(1e-6)

    def groups() -> list[dict[str, Any]]:  # anew for each: an optimizer writes its defaults into them
        return [{"params": params[i::RATES], "lr": 1e-6 * (i + 1)} for i in range(RATES)]

    ours, fused = AdamW(groups()), torch.optim.AdamW(groups(), fused=True)
    assert all(group["fused"] for group in fused.param_groups)
    ours.step()
    if set(ours.forms()) != {"kernel"}:
        raise UnavailableError(f"our step ran as {ours.forms()}", help="lrdiff doctor says why there is no kernel")
    found: dict[str, Step] = {"ours": ours.step, "fused": fused.step}
    state = [(ours.state[param]["exp_avg"], ours.state[param]["exp_avg_sq"]) for param in params]
    at = [[one.data_ptr() for one in (param, param.grad, *two)] for param, two in zip(params, state, strict=True)]

    def stream(piece: int) -> Step:
        def run() -> None:
            for four in at:
                library.streams(*four, params[0].numel(), threads, piece)

        return run

    for piece in PIECES:
        found["a thread's share whole" if piece == PIECES[-1] else f"pieces of {piece:,}"] = stream(piece)
    return found


def timed(step: Step) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def measure_row(library: ctypes.CDLL, parameters: int, threads: int, rounds: int) -> dict[str, Any]:
    with pinned(threads):
        steps = sides(library, parameters, threads)
        for step in list(steps.values()) * WARM:
            step()
        names = list(steps)
        times = np.empty((rounds, len(names)))
        for i in range(rounds):
            for k in np.roll(range(len(names)), i):  # in turn, each first as often as the others
                times[i, k] = timed(steps[names[k]])
    best = 2 + int(np.argmin(np.median(times[:, 2:], axis=0)))
    columns = {"ours": 0, "fused": 1, "streams": best}
    fused, share = (bootstrap_interval((times[:, k] / times[:, 0]).tolist()) for k in (1, best))
    return {"parameters": parameters, "threads": threads, "rounds": rounds,
            **{name: float(np.median(times[:, k])) for name, k in columns.items()},
            "over": [fused.low, fused.estimate, fused.high], "share": [share.low, share.estimate, share.high],
            "fastest": names[best]}  # fmt: skip


def measure(sizes: Sequence[int], threads: Sequence[int], rounds: int) -> dict[str, Any]:
    origin, rows = provenance(), []
    with tempfile.TemporaryDirectory() as folder:
        library = streams_library(Path(folder))
        for count, size in itertools.product(threads, sizes):
            rows.append(measure_row(library, size, count, rounds))
            gc.collect()
            print(" | ".join(cells(rows[-1])), file=sys.stderr, flush=True)
    return {"command": as_given(), **origin, "rows": rows}


def cells(row: Mapping[str, Any]) -> list[str]:
    def between(three: Sequence[float], form: str) -> str:
        low, middle, high = three
        return f"{middle:{form}} [{low:{form}}, {high:{form}}]"

    over, share = row["over"], row["share"]
    speed = BYTES * row["parameters"] / row["streams"] / 1e9
    return [f"{row['parameters']:,}".replace(",", " "), str(row["threads"]), str(row["rounds"]), seconds(row["ours"]),
            seconds(row["fused"]), between(over, ".3f"), f"{FUSED.text}: {FUSED.verdict(over[0], over[2])}",
            f"{seconds(row['streams'])}, {speed:.1f} GB/s", between(share, ".1%"),
            f"{STREAMS.text}: {STREAMS.verdict(share[0], share[2])}", row["fastest"]]  # fmt: skip


def page(document: Mapping[str, Any]) -> str:
    return f"""# The step of large models

{render("written_by.md", **document, quick=False).rstrip()}

AdamW over {TENSORS} tensors with {RATES} rates, float32, larger than every cache, so that a step takes as long as
memory does: our step, torch's fused one, and *streams*: the same four reads and three writes a parameter with an
addition each. They were tried in pieces of three sizes; the fastest stands here. All take turns in one run; wall clock,
medians, ratios with 95 % intervals over rounds. *Of their bandwidth*: the time of the streams over ours.

{markdown_table(HEADS, [cells(one) for one in document["rows"]], "rrrrrrlrrll")}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parameters", default="100000000,400000000", help="sizes, separated by commas")
    parser.add_argument("--threads", default="1,2", help="numbers of threads, separated by commas")
    parser.add_argument("--rounds", type=int, default=32)
    add_page_options(parser)
    given = parser.parse_args()
    sizes, threads = ([int(one) for one in text.split(",")] for text in (given.parameters, given.threads))
    files = PageFiles.of(given)
    files.write(page(files.document(lambda: measure(sizes, threads, given.rounds), **LARGE)))


if __name__ == "__main__":
    main()
