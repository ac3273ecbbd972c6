"""``lrdiff bench step``: what an optimizer step costs, as a table of pairs of registered cases.

Every row compares two cases of ``optimizer_step`` in one run, in alternating order
(:mod:`lrdiff_bench.measure.engine.compare`): with hot caches, step after step, and with cold ones, each step after the
forward and backward pass of its model (after a stream through memory where only the model's shapes are here). Rows are
measured one after the other, and each frees its tensors before the next, since BERT-base takes 2 GB a side.
"""

from __future__ import annotations

import gc
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from lrdiff_bench.measure.cases.models import MODELS
from lrdiff_bench.measure.cases.optimizer_step import IMPLEMENTATIONS
from lrdiff_bench.measure.cases.state import BYTES_STEP
from lrdiff_bench.measure.cases.step_pairs import MEMORY, ONE_RATE, SHAPES, StepPair, select_pairs
from lrdiff_bench.measure.engine.case import Case, Workload
from lrdiff_bench.measure.engine.compare import TimingComparison, compare_cases
from lrdiff_bench.measure.engine.registry import find_case
from lrdiff_bench.measure.engine.timing import time_case
from lrdiff_bench.report.page import as_given, render
from lrdiff_bench.report.record import NO_FILES, PageFiles
from lrdiff_bench.report.tables import seconds
from lrdiff_bench.stats.intervals import bootstrap_interval
from lrdiff_bench.stats.verdict import Goal, Verdict
from lrdiff_bench.system.machine import provenance
from lrdiff_core.errors import ConfigError
from lrdiff_core.optim import AdamW

__all__ = ["STEP", "StepRow", "beside_fused", "measure_pair", "measure_pairs", "run_table", "step_page"]

HEADS = (
    "shapes", "tensors", "parameters", "moved", "caches", "against", "ours", "theirs", "ratio [95 %]", "goal", "result",
    "noise", "of bandwidth",
)  # fmt: skip
STEP: Mapping[str, Any] = {"format": "lrdiff.step_table", "version": 2}
QUICK_ROUNDS = 6  # of four blocks; the least that an interval can be made of


@dataclass(frozen=True, kw_only=True)
class StepRow:
    """A pair, measured.

    Args:
        shapes: what is stepped, and at how many rates.
        tensors, parameters: how much that is.
        bytes: that a step moves.
        caches: "hot" or "cold".
        against: the other side.
        question: what the ratio means.
        goal: what it is to reach, None where there is no goal.
        threads: torch's intra-op threads.
        ours, theirs: median seconds a step.
        ratio: with the ends of its 95 % interval.
        noise: interquartile range over median, the larger of both sides.
        bandwidth: bytes a second of our step, as a share of what an addition in place reaches.
        verdict: whether the goal is met; None without one.
        reason: why it is unavailable.
    """

    shapes: str
    tensors: int
    parameters: int
    bytes: int
    caches: str
    against: str
    question: str
    goal: Goal | None
    threads: int
    ours: float | None = None
    theirs: float | None = None
    ratio: tuple[float, float, float] | None = None
    noise: float | None = None
    bandwidth: float | None = None
    verdict: Verdict | None = Verdict.UNAVAILABLE
    reason: str | None = None


def measure_pair(
    pair: StepPair, caches: str, *, threads: int = 1, quick: bool = False, bandwidth: float | None = None
) -> StepRow:
    """Measure one row; both sides are built anew and freed afterwards.

    Args:
        pair: one of :data:`PAIRS`.
        caches: "hot" or "cold".
        threads: torch's intra-op threads. (XLA, under optax, runs on threads of its own.)
        quick: with the fewest rounds.
        bandwidth: bytes a second that memory gives on as many threads.
    """
    tensors, parameters = pair.sizes
    mine = {**pair.case, "implementation": "ours", "caches": caches}
    theirs = {**mine, "rates": 1} if pair.against == ONE_RATE else {**mine, "implementation": pair.against}
    rule = pair.case.get("optimizer", "adamw")
    row = StepRow(
        shapes=pair.text, tensors=tensors, parameters=parameters, bytes=BYTES_STEP[rule] * parameters, caches=caches,
        against=pair.against if pair.against in (ONE_RATE, MEMORY) else IMPLEMENTATIONS[pair.against].label,
        question={ONE_RATE: "times as long", MEMORY: "of its bandwidth"}.get(pair.against, "times faster"),
        goal=pair.cold if caches == "cold" else pair.hot, threads=threads,
    )  # fmt: skip
    if row.against not in (ONE_RATE, MEMORY):
        reason = IMPLEMENTATIONS[pair.against].unavailable(rule, "cpu")
        if reason is not None:
            return replace(row, reason=reason)
    other = find_case("memory_copy") if pair.against == MEMORY else find_case("optimizer_step", **theirs)
    a = _guarded(find_case("optimizer_step", **mine), ours=True)
    b = _guarded(other, ours=pair.against in (ONE_RATE, MEMORY))
    try:
        results = _both_orders(pair, a, b, QUICK_ROUNDS if quick else pair.rounds, threads)
    except _SideError as problem:  # a result, not an end: a peer's own, or ours, and then the goal is missed
        return replace(row, reason=str(problem), verdict=Verdict.MISSED if problem.ours else Verdict.UNAVAILABLE)
    finally:
        gc.collect()
        if "torch._dynamo" in sys.modules:
            torch._dynamo.reset()  # compiled steps hold on to their tensors
    ratio = _ratio(pair, results)
    # The second run has the sides exchanged.
    sides = [(result.a, result.b) if i == 0 else (result.b, result.a) for i, result in enumerate(results)]
    our_seconds = _mean([one.median for one, _ in sides])
    return replace(
        row,
        ours=our_seconds,
        theirs=_mean([other.median for _, other in sides]),
        ratio=ratio,
        noise=max(side.noise.relative_iqr for pair in sides for side in pair),
        bandwidth=None if bandwidth is None else row.bytes / our_seconds / bandwidth,
        verdict=None if row.goal is None else row.goal.verdict(*ratio[1:]),
    )


def _both_orders(pair: StepPair, a: Case, b: Case, rounds: int, threads: int) -> list[TimingComparison]:
    """Against itself a few per cent decide, and so much lies in which side was built first: then both orders."""
    results = [compare_cases(a, b, rounds=rounds, threads=threads)]
    if pair.against == ONE_RATE:
        results.append(compare_cases(b, a, rounds=rounds, threads=threads))
    return results


def _ratio(pair: StepPair, results: Sequence[TimingComparison]) -> tuple[float, float, float]:
    """Time of theirs over time of ours; the inverse against one rate, and bytes a second against memory."""
    measured = results[0].ratio
    if len(results) == 2:
        pairs = zip(results[0].ratios, results[1].ratios, strict=True)
        measured = bootstrap_interval([math.sqrt(there / back) for there, back in pairs])
        return 1 / measured.estimate, 1 / measured.high, 1 / measured.low
    scale = 1.0
    if pair.against == MEMORY:
        scale = float(str(results[0].a.facts["bytes"])) / float(str(results[0].b.facts["bytes"]))
    return scale * measured.estimate, scale * measured.low, scale * measured.high


def measure_pairs(
    pairs: Sequence[StepPair],
    *,
    threads: Sequence[int],
    quick: bool = False,
    on_row: Callable[[StepRow, int, int], None] = lambda row, number, total: None,
) -> dict[str, Any]:
    """Measure every pair at every thread count and return the document of the table.

    Args:
        pairs: from :func:`select_pairs`.
        threads: thread counts, one table each.
        quick: with the fewest rounds.
        on_row: called after each row with it, its number and how many there are.
    """
    peers = ("optax", "jax", "deepspeed", "torchao", "heavyball", "schedulefree", "pytorch_optimizer")
    before = provenance(*peers)  # before our own load is part of it
    rows: list[StepRow] = []
    total = len(threads) * sum(len(pair.caches) for pair in pairs)
    bandwidths = {}
    for count in threads:
        copy = time_case(find_case("memory_copy"), samples=5 if quick else 20, threads=count, most_seconds=3.0)
        bandwidths[count] = copy.bytes_a_second
        for pair in pairs:
            for caches in pair.caches:
                rows.append(measure_pair(pair, caches, threads=count, quick=quick, bandwidth=bandwidths[count]))
                on_row(rows[-1], len(rows), total)
    return {
        "command": as_given(),
        "quick": quick,
        **before,
        "forms": _forms(),
        "bandwidth": {str(count): rate for count, rate in bandwidths.items()},
        "rows": [asdict(row) for row in rows],
    }


def run_table(
    *,
    peers: bool = False,
    shapes: Sequence[str] | None = None,
    threads: int | None = None,
    quick: bool = False,
    files: PageFiles = NO_FILES,
) -> tuple[dict[str, Any], str]:
    """What the command does: choose pairs, measure them with a line each on stderr, write the table.

    Args:
        peers, shapes: as for :func:`select_pairs`; with ``quick`` BERT-base is left out unless it is named.
        threads: one count; None: one and two threads.
        quick: as for :func:`measure_pair`.
        files: a Markdown file to write too, a record to keep, or one to read instead of measuring.

    Returns:
        The document and its Markdown.

    Raises:
        ConfigError: unknown shapes, or a thread count below 1.
    """
    chosen = list(shapes or [name for name in SHAPES if not (quick and name == "bert")])
    if threads is not None and threads < 1:
        raise ConfigError(f"threads is {threads}", help="write a whole number from 1 up")

    def tell(row: StepRow, number: int, total: int) -> None:
        result = row.reason or row.verdict or "measured"
        print(
            f"{number}/{total} {row.shapes}, {row.threads} threads, {row.caches}, {row.against}: {result}",
            file=sys.stderr,
        )

    pairs = select_pairs(chosen, peers=peers)
    counts = [threads] if threads is not None else [1, 2]
    document = files.document(lambda: measure_pairs(pairs, threads=counts, quick=quick, on_row=tell), **STEP)
    text = step_page(document if files.out is None else {**document, "picture": f"{files.out.stem}-roofline"})
    files.write(text)
    return document, text


class _SideError(Exception):
    """One side of a comparison cannot be built or cannot step."""

    def __init__(self, problem: Exception, *, ours: bool) -> None:
        super().__init__(f"{type(problem).__name__}: {problem}".splitlines()[0][:200])
        self.ours = ours


def _guarded(case: Case, *, ours: bool) -> Case:
    """The case, whose building and first step say whose fault a fault is."""

    def build() -> Workload:
        try:
            workload = case.factory()
            workload.step()  # compiles: what can fail fails here
            workload.reset()
        except (ImportError, RuntimeError, MemoryError) as problem:
            raise _SideError(problem, ours=ours) from problem
        return workload

    return replace(case, factory=build)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _forms() -> str:
    """How our optimizer steps float32 on this CPU."""
    model = MODELS["mlp"]()
    model.backward()
    optimizer = AdamW(model.net.parameters())
    optimizer.step()
    return ", ".join(optimizer.forms())


def step_page(document: Mapping[str, Any]) -> str:
    """The document as Markdown: a header that says where the numbers come from, and a table a thread count.

    It may be told the name of its ``picture``, else that is ``step-roofline``.
    """
    parts = [
        {
            "threads": threads,
            "gigabytes": document["bandwidth"][str(threads)] / 1e9,
            "rows": [_cells(row) for row in document["rows"] if row["threads"] == threads],
        }
        for threads in dict.fromkeys(row["threads"] for row in document["rows"])
    ]
    told = {"picture": "step-roofline", **document}
    return render("step.md", **told, heads=HEADS, parts=parts, pictured=bool(beside_fused(document)))


def beside_fused(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows that compare ours with torch's fused step, on the fewest threads: what the picture shows."""
    rows = [row for row in document["rows"] if row["ratio"] is not None and row["against"] == "torch fused"]
    threads = min((row["threads"] for row in rows), default=1)
    return [row for row in rows if row["threads"] == threads]


def _cells(row: dict[str, Any]) -> list[str]:
    size = [str(row["tensors"]), f"{row['parameters']:,}".replace(",", " "), _bytes(row["bytes"])]
    cells = [row["shapes"], *size, row["caches"], row["against"]]
    goal = row["goal"]["text"] if row["goal"] else ""
    if row["ratio"] is None:
        return [*cells, "", "", "", goal, f"{row['verdict']}: {row['reason']}", "", ""]
    middle, low, high = row["ratio"]
    return [
        *cells, seconds(row["ours"]), seconds(row["theirs"]),
        f"{middle:.3g} [{low:.3g}, {high:.3g}] {row['question']}", goal, row["verdict"] or "",
        f"{row['noise']:.0%}", "" if row["bandwidth"] is None else f"{row['bandwidth']:.0%}",
    ]  # fmt: skip


def _bytes(count: int) -> str:
    return f"{count / 2**20:.3g} MiB" if count >= 2**20 else f"{count / 2**10:.3g} KiB"
