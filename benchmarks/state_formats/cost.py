"""The step with parameters and state in fewer bytes beside the float32 step, both ours, paired in one run.

Cold: before each step memory is streamed until no cache holds anything of it. As a module,
``python -m benchmarks.state_formats.cost --out docs/results/state-formats.md`` writes the page.
"""

from __future__ import annotations

import argparse
import gc
import time
from functools import partial
from math import prod
from pathlib import Path

import torch

from lrdiff_bench.measure.cases.state import evict_caches, model_shapes, rate_groups, step_workload, tensors
from lrdiff_bench.measure.engine.case import Case, Workload
from lrdiff_bench.measure.engine.compare import TimingComparison, compare_cases
from lrdiff_bench.measure.engine.registry import find_case
from lrdiff_bench.measure.engine.timing import time_case
from lrdiff_bench.report.page import as_given, markdown_table
from lrdiff_bench.report.tables import seconds
from lrdiff_bench.stats.verdict import Goal
from lrdiff_bench.system.machine import provenance
from lrdiff_core.files import write_text
from lrdiff_core.optim import AdamW
from lrdiff_core.optim.formats.codes import BLOCK

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MOVED = {"float32": 16.0, "bfloat16": 8.0, "8-bit": 4 + 4 / BLOCK}  # by two moments: read and written
GOALS = {"bfloat16": Goal(least=1.5, text="at least 1.5x"), "8-bit": Goal(least=2.0, text="at least 2x")}
ROWS = [("float32", "bfloat16"), ("float32", "8-bit"), *(("bfloat16", state) for state in MOVED)]
HEADS = (
    "shapes", "parameters", "threads", "dtype", "state", "moved", "kept", "step", "float32 step", "ratio [95 %]",
    "by bytes", "goal", "of bandwidth",
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


def step_in(shapes: str, dtype: str, state: str, caches: str) -> Case:
    """The step of AdamW over a model's shapes, a rate a layer."""

    def build() -> Workload:
        params = tensors(model_shapes(shapes))
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


def row(shapes: str, dtype: str, state: str, found: TimingComparison, threads: int, bandwidth: float) -> list[str]:
    count = sum(map(prod, model_shapes(shapes).values()))
    bytes_, most = moved(dtype, state), moved("float32", "float32") / moved(dtype, state)
    low, ratio, high = sorted(1 / value for value in (found.ratio.low, found.ratio.estimate, found.ratio.high))
    goal = GOALS.get(state)
    return [
        shapes, f"{count:,}".replace(",", " "), str(threads), dtype, state,
        f"{bytes_:.3g} B", f"{kept(dtype, state):.3g} B",
        seconds(found.b.median), seconds(found.a.median), f"{ratio:.2f} [{low:.2f}, {high:.2f}]", f"{most:.2f}",
        "" if goal is None else f"{goal.text}: {goal.verdict(low, high)}",
        f"{bytes_ * count / found.b.median / bandwidth:.0%}",
    ]  # fmt: skip


def page(rows: list[list[str]], caches: str, origin: dict[str, object]) -> str:
    machine, versions = origin["machine"], origin["versions"]
    assert isinstance(machine, dict)
    assert isinstance(versions, dict)
    return f"""# Parameters and state in fewer bytes

Written by `{as_given()}` at commit {origin["commit"]} on {machine["cpu"]} ({machine["cpus"]} cores, load
{machine["load"]:.1f} before), {", ".join(f"{name} {version}" for name, version in versions.items())}.

AdamW, a rate for each layer, {caches} caches: the step with `state_format` beside our float32 step, medians of paired
blocks in one run, the float32 step's time over the other with a 95 % interval. *moved*: bytes a number that a step
reads and writes; *kept*: what parameter and state take. *by bytes*: the ratio if bytes were all; *of bandwidth*: bytes
a second as a share of what an addition in place reaches on as many threads.

{markdown_table(HEADS, rows, "lrrllrrrrrrlr")}
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.state_formats.cost", description=__doc__)
    parser.add_argument("--shapes", nargs="+", default=["resnet50", "bert_base"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=8, help="of four steps [8]")
    parser.add_argument("--caches", choices=["cold", "hot"], default="cold")
    parser.add_argument("--processor", action="store_true", help="processor time: for machines with other load")
    parser.add_argument("--out", type=Path, help="a Markdown file to write")
    given = parser.parse_args()
    origin, rows = provenance(), []
    clock = time.process_time if given.processor else time.perf_counter
    for threads in given.threads:
        bandwidth = time_case(find_case("memory_copy"), samples=10, threads=threads, most_seconds=3.0).bytes_a_second
        for shapes in given.shapes:
            case = partial(step_in, shapes, caches=given.caches)
            for dtype, state in ROWS:
                pair = case("float32", "float32"), case(dtype, state)
                found = compare_cases(*pair, rounds=given.rounds, threads=threads, clock=clock)
                gc.collect()
                rows.append(row(shapes, dtype, state, found, threads, bandwidth))
                print(" | ".join(rows[-1]), flush=True)
    text = page(rows, given.caches, origin)
    if given.out is not None:
        write_text(given.out, text)


if __name__ == "__main__":
    main()
