"""The step with parameters and state in fewer bytes beside the float32 step, both ours, paired in one run.

Cold: before each step memory is streamed until no cache holds anything of it. As a module,
``python -m benchmarks.state_formats.cost --out docs/results/state-formats.md --record
docs/results/records/state-formats.json`` writes the page.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Mapping
from functools import partial
from math import prod
from typing import Any

import torch

from lrdiff_bench.measure.cases.state import evict_caches, model_shapes, rate_groups, step_workload, tensors
from lrdiff_bench.measure.engine.case import Case, Workload
from lrdiff_bench.measure.engine.compare import TimingComparison, compare_cases
from lrdiff_bench.measure.engine.registry import find_case
from lrdiff_bench.measure.engine.timing import time_case
from lrdiff_bench.report.page import as_given, markdown_table, render
from lrdiff_bench.report.record import PageFiles, add_page_options
from lrdiff_bench.report.tables import seconds
from lrdiff_bench.stats.verdict import Goal
from lrdiff_bench.system.machine import provenance
from lrdiff_core.optim import AdamW
from lrdiff_core.optim.formats.codes import BLOCK

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MOVED = {"float32": 16.0, "bfloat16": 8.0, "8-bit": 4 + 4 / BLOCK}  # by two moments: read and written
GOALS = {"bfloat16": Goal(least=1.5, text="at least 1.5x"), "8-bit": Goal(least=2.0, text="at least 2x")}
ROWS = [("float32", "bfloat16"), ("float32", "8-bit"), *(("bfloat16", state) for state in MOVED)]
HOT = 65_536  # numbers
FORMATS: Mapping[str, Any] = {"format": "lrdiff.state_formats", "version": 1}
HEADS = (
    "shapes", "parameters", "threads", "dtype", "state", "moved", "kept", "step", "float32 step", "ratio [95 %]",
    "by bytes", "goal", "of bandwidth", "hot",
)  # fmt: skip


def moved(dtype: str, state: str) -> float:
    """Bytes a number that a step reads and writes.

    >>> moved("float32", "float32"), moved("bfloat16", "bfloat16")
    (28.0, 14.0)
    """
    low = 4 if (dtype, state) == ("bfloat16", "float32") else 0  # the other half of a float32
    return 3 * DTYPES[dtype].itemsize + low + MOVED[state]


def kept(dtype: str, state: str) -> float:
    """Bytes a number that parameters and state take in memory."""
    return (moved(dtype, state) - DTYPES[dtype].itemsize) / 2


def step_in(shapes: Mapping[str, tuple[int, ...]], dtype: str, state: str, caches: str) -> Case:
    """The step of AdamW over tensors, a rate a layer."""

    def build() -> Workload:
        params = tensors(shapes)
        for name, param in params.items():
            grad, param.grad = param.grad, None
            assert grad is not None
            params[name] = torch.nn.Parameter(param.detach().to(DTYPES[dtype]))
            params[name].grad = grad.to(DTYPES[dtype])
        plain = (dtype, state) == ("float32", "float32")
        optimizer = AdamW(rate_groups(params, "layers"), state_format=None if plain else state)
        optimizer.step()
        before = evict_caches if caches == "cold" else None
        return step_workload(optimizer, before=before, parity=False, facts={"forms": optimizer.forms()})

    return Case(name="step", parameters={"dtype": dtype, "state": state}, version="1", factory=build)


def row(
    shapes: str, dtype: str, state: str, found: TimingComparison, threads: int, bandwidth: float, hot: float
) -> dict[str, Any]:
    count = sum(map(prod, model_shapes(shapes).values()))
    return {
        "shapes": shapes, "parameters": count, "threads": threads, "dtype": dtype, "state": state,
        "moved": moved(dtype, state), "kept": kept(dtype, state), "seconds": found.b.median,
        "float32_seconds": found.a.median,
        "ratio": sorted(1 / value for value in (found.ratio.low, found.ratio.estimate, found.ratio.high)),
        "bandwidth": moved(dtype, state) * count / found.b.median / bandwidth, "hot": hot,
    }  # fmt: skip


def cells(row: Mapping[str, Any]) -> list[str]:
    low, ratio, high = row["ratio"]
    goal = GOALS.get(row["state"])
    return [
        row["shapes"], f"{row['parameters']:,}".replace(",", " "), str(row["threads"]), row["dtype"], row["state"],
        f"{row['moved']:.3g} B", f"{row['kept']:.3g} B", seconds(row["seconds"]), seconds(row["float32_seconds"]),
        f"{ratio:.2f} [{low:.2f}, {high:.2f}]", f"{moved('float32', 'float32') / row['moved']:.2f}",
        "" if goal is None else f"{goal.text}: {goal.verdict(low, high)}", f"{row['bandwidth']:.0%}",
        f"{1e9 * row['hot']:.2f} ns",
    ]  # fmt: skip


def page(document: Mapping[str, Any]) -> str:
    return f"""# Parameters and state in fewer bytes

{render("written_by.md", **document, quick=False).rstrip()}

AdamW, a rate for each layer, {document["caches"]} caches: the step with `state_format` beside our float32 step, medians
of paired blocks in one run by the {document["clock"]} clock, the float32 step's time over the other with a 95 %
interval. *moved*: bytes a number that a step reads and writes; *kept*: what parameter and state take. *by bytes*: the
ratio if bytes were all; *of bandwidth*: bytes a second as a share of what an addition in place reaches on as many
threads. *hot*: a number's share of a step over {HOT:,} numbers that lie in the processor's own caches, where nothing
but computing is left; of the float32 step it is {1e9 * document["hot_float32"]:.2f} ns.

{markdown_table(HEADS, [cells(one) for one in document["rows"]], "lrrllrrrrrrlrr")}
"""


def measure(given: argparse.Namespace) -> dict[str, Any]:
    origin, rows = provenance(), []
    clock = time.process_time if given.processor else time.perf_counter
    hot = {
        formats: time_case(step_in({"weight": (HOT,)}, *formats, "hot"), threads=1, clock=clock).median / HOT
        for formats in [("float32", "float32"), *ROWS]
    }
    for threads in given.threads:
        bandwidth = time_case(find_case("memory_copy"), samples=10, threads=threads, most_seconds=3.0).bytes_a_second
        for shapes in given.shapes:
            case = partial(step_in, model_shapes(shapes), caches=given.caches)
            for dtype, state in ROWS:
                pair = case("float32", "float32"), case(dtype, state)
                found = compare_cases(*pair, rounds=given.rounds, threads=threads, clock=clock)
                gc.collect()
                rows.append(row(shapes, dtype, state, found, threads, bandwidth, hot[dtype, state]))
                print(" | ".join(cells(rows[-1])), file=sys.stderr, flush=True)
    return {
        "command": as_given(), **origin, "caches": given.caches,
        "clock": "processor's" if given.processor else "wall", "hot_float32": hot["float32", "float32"], "rows": rows,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.state_formats.cost", description=__doc__)
    parser.add_argument("--shapes", nargs="+", default=["resnet50", "bert_base"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=8, help="of four steps [8]")
    parser.add_argument("--caches", choices=["cold", "hot"], default="cold")
    parser.add_argument("--processor", action="store_true", help="processor time: for machines with other load")
    add_page_options(parser)
    given = parser.parse_args()
    files = PageFiles.of(given)
    files.write(page(files.document(lambda: measure(given), **FORMATS)))


if __name__ == "__main__":
    main()
