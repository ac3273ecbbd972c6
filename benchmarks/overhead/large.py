"""The step of large models, whose time is memory's: ours, torch's fused one, and the same streams without arithmetic.

AdamW reads four numbers and writes three for each parameter. ``streams.c`` does that and an addition, in pieces of
several sizes; the fastest of these is what memory allows on as many threads.
``python -m benchmarks.overhead.large --out docs/results/large.md --record docs/results/records/large.json`` takes 13 GB
of memory and needs a quiet machine. ``--past`` tries stores past the caches, too.
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

from benchmarks.overhead.turns import ratio_of, ratio_text
from lrdiff_bench.report.page import as_given, markdown_table, render
from lrdiff_bench.report.record import PageFiles, add_page_options
from lrdiff_bench.report.tables import seconds
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
    library.streams.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_int64, ctypes.c_int, ctypes.c_int64, ctypes.c_int]
    library.streams.restype = None
    return library


def sides(library: ctypes.CDLL, parameters: int, threads: int, past: bool) -> dict[str, Step]:
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

    def stream(piece: int, past: bool) -> Step:
        def run() -> None:
            for four in at:
                library.streams(*four, params[0].numel(), threads, piece, past)

        return run

    for piece, beyond in itertools.product(PIECES, (False, True) if past else (False,)):
        name = "a thread's share whole" if piece == PIECES[-1] else f"pieces of {piece:,}"
        found[f"{name}, past the caches" if beyond else name] = stream(piece, beyond)
    return found


def timed(step: Step) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def measure_row(library: ctypes.CDLL, parameters: int, threads: int, rounds: int, past: bool) -> dict[str, Any]:
    with pinned(threads):
        steps = sides(library, parameters, threads, past)
        for step in list(steps.values()) * WARM:
            step()
        names = list(steps)
        times = np.empty((rounds, len(names)))
        for i in range(rounds):
            for k in np.roll(range(len(names)), i):  # in turn, each first as often as the others
                times[i, k] = timed(steps[names[k]])
    best = 2 + int(np.argmin(np.median(times[:, 2:], axis=0)))
    columns = {"ours": 0, "fused": 1, "streams": best}
    tried = {names[k]: float(np.median(times[:, k])) for k in range(2, len(names))}
    return {"parameters": parameters, "threads": threads, "rounds": rounds,
            **{name: float(np.median(times[:, k])) for name, k in columns.items()},
            "over": ratio_of(times[:, 1], times[:, 0]), "share": ratio_of(times[:, best], times[:, 0]),
            "fastest": names[best], **({"tried": tried} if past else {})}  # fmt: skip


def measure(sizes: Sequence[int], threads: Sequence[int], rounds: int, past: bool) -> dict[str, Any]:
    origin, rows = provenance(), []
    with tempfile.TemporaryDirectory() as folder:
        library = streams_library(Path(folder))
        if past and not library.writes_past():
            raise UnavailableError("no stores past the caches without AVX", help="leave out --past")
        for count, size in itertools.product(threads, sizes):
            rows.append(measure_row(library, size, count, rounds, past))
            gc.collect()
            print(" | ".join(cells(rows[-1])), file=sys.stderr, flush=True)
    return {"command": as_given(), **origin, "rows": rows}


def cells(row: Mapping[str, Any]) -> list[str]:
    over, share = row["over"], row["share"]
    speed = BYTES * row["parameters"] / row["streams"] / 1e9
    return [f"{row['parameters']:,}".replace(",", " "), str(row["threads"]), str(row["rounds"]), seconds(row["ours"]),
            seconds(row["fused"]), ratio_text(over, ".3f"), f"{FUSED.text}: {FUSED.verdict(over[0], over[2])}",
            f"{seconds(row['streams'])}, {speed:.1f} GB/s", ratio_text(share, ".1%"),
            f"{STREAMS.text}: {STREAMS.verdict(share[0], share[2])}", row["fastest"]]  # fmt: skip


def tried_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The time of each stream, where stores past the caches were tried, too; else nothing."""
    times = [[cells(row)[0], cells(row)[1], name, seconds(value)] for row in rows
             for name, value in row.get("tried", {}).items()]  # fmt: skip
    return "\n" + markdown_table(("parameters", "threads", "streams", "time"), times, "rrlr") + "\n" if times else ""


def page(document: Mapping[str, Any]) -> str:
    return f"""# The step of large models

{render("written_by.md", **document, quick=False).rstrip()}

AdamW over {TENSORS} tensors with {RATES} rates, float32: our step, torch's fused one, and *streams*: the same four
reads and three writes a parameter with an addition each, in pieces of several sizes, of which the fastest stands in the
table. Where they are larger than every cache, a step takes as long as memory does. All take turns in one run; wall
clock, medians, ratios with 95 % intervals over rounds. *Of their bandwidth*: the time of the streams over ours.

{markdown_table(HEADS, [cells(one) for one in document["rows"]], "rrrrrrlrrll")}
{tried_table(document["rows"])}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parameters", default="100000000,400000000", help="sizes, separated by commas")
    parser.add_argument("--threads", default="1,2", help="numbers of threads, separated by commas")
    parser.add_argument("--rounds", type=int, default=32)
    parser.add_argument("--past", action="store_true", help="try stores past the caches in the streams, too")
    add_page_options(parser)
    given = parser.parse_args()
    sizes, threads = ([int(one) for one in text.split(",")] for text in (given.parameters, given.threads))
    files = PageFiles.of(given)
    files.write(page(files.document(lambda: measure(sizes, threads, given.rounds, given.past), **LARGE)))


if __name__ == "__main__":
    main()
