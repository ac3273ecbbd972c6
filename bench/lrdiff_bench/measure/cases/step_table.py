"""``lrdiff bench step``: what an optimizer step costs, against peers and against itself with one rate.

Every row is one comparison of two cases in one run, in alternating order (:mod:`lrdiff_bench.measure.engine.timing`).
Rows are measured one after the other, and each frees its tensors before the next, since BERT-base takes 2 GB a side.
"""

from __future__ import annotations

import gc
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lrdiff_bench.measure.cases import step_peers
from lrdiff_bench.measure.cases.state import model_shapes
from lrdiff_bench.measure.engine import timing
from lrdiff_bench.stats.intervals import Interval, bootstrap_interval
from lrdiff_bench.stats.verdict import BAND, Goal, Verdict
from lrdiff_bench.system.machine import provenance, provenance_lines
from lrdiff_core.devices import compiler_status
from lrdiff_core.errors import ConfigError
from lrdiff_core.files import write_text
from lrdiff_core.optim import AdamW

__all__ = ["Row", "SHAPES", "make_rows", "markdown", "measure", "measure_all", "run_table"]

OURS = "lrdiff"
SHAPES = ("mlp", "transformer", "many", "bert")
ROUNDS, QUICK_ROUNDS = 20, 6  # of four blocks; six is the least that an interval can be made of
BERT_ROUNDS = 8  # of four blocks of one step of 0.1 to 0.3 s
INSTALL = {"optax multi_transform": "optax"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One comparison of the table, measured or still to be.

    Args:
        shapes: what is stepped, and at how many rates.
        tensors, parameters: how much that is.
        against: the peer, or ``one rate`` for ourselves.
        question: what the ratio means.
        goal: what it is to reach.
        threads: torch's intra-op threads.
        ours, theirs: median seconds a step.
        ratio: with the ends of its 95 % interval.
        noise: interquartile range over median, the larger of both sides.
        verdict: whether the goal is met.
        reason: why it is unavailable.
    """

    shapes: str
    tensors: int
    parameters: int
    against: str
    question: str
    goal: Goal
    threads: int = 1
    ours: float | None = None
    theirs: float | None = None
    ratio: tuple[float, float, float] | None = None
    noise: float | None = None
    verdict: Verdict = Verdict.UNAVAILABLE
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and texts, as JSON takes them."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Task:
    """A row to measure: both sides, and how the ratio of times becomes the row's."""

    row: Row
    ours: Callable[[], step_peers.Peer]
    theirs: Callable[[], step_peers.Peer] | None  # None: not available here
    scale: float = 1.0  # the row's ratio is this times (time of theirs over time of ours), or its inverse
    inverse: bool = False
    large: bool = False


Factory = Callable[[step_peers.Case], step_peers.Peer]


def at_least(bound: float, text: str | None = None) -> Goal:
    """A goal from below: ``at least 4x faster``."""
    return Goal(least=bound, text=text or f"at least {bound:g}x faster")


def at_most(bound: float) -> Goal:
    """A goal from above, in times the step with one rate."""
    return Goal(most=bound, text=f"at most {bound:g}x")


def make_rows(shapes: Sequence[str] = SHAPES, *, peers: bool = True) -> list[Task]:
    """The rows of the table, not yet measured.

    Args:
        shapes: some of ``SHAPES``.
        peers: with the rows against other optimizers; without, only ours against itself and against the bandwidth.

    Raises:
        ConfigError: unknown shapes.

    Example:
        >>> [task.row.against for task in make_rows(["mlp"])]
        ['torch default', 'torch fused', 'one rate']
    """
    for name in shapes:
        if name not in SHAPES:
            raise ConfigError(f"there are no shapes called {name!r}", help=f"write one of: {', '.join(SHAPES)}")
    made: list[Task] = []
    installed = dict(step_peers.peers())
    for name in [name for name in SHAPES if name in shapes]:
        made += [task for task in _ROWS[name](installed) if peers or task.row.against in ("one rate", "a.add_(b)")]
    return made


def measure(task: Task, *, threads: int = 1, quick: bool = False) -> Row:
    """Measure one row; both sides are built anew and freed afterwards.

    Args:
        task: from :func:`make_rows`.
        threads: torch's intra-op threads. (XLA, under optax, runs on threads of its own.)
        quick: with the fewest rounds.
    """
    row = replace(task.row, threads=threads)
    if task.theirs is None:
        return row
    rounds = QUICK_ROUNDS if quick else BERT_ROUNDS if task.large else ROUNDS
    ours, theirs = _case(OURS, task.ours), _case(row.against, task.theirs)
    try:
        results = [timing.compare_cases(ours, theirs, rounds=rounds, threads=threads)]
        if task.inverse:  # against itself: a few per cent decide, and so much lies in where the tensors lie
            results.append(timing.compare_cases(theirs, ours, rounds=rounds, threads=threads))
    except _SideFault as problem:  # a result, not an end: a peer's own, or ours, and then the goal is missed
        return replace(row, reason=str(problem), verdict=Verdict.MISSED if problem.ours else Verdict.UNAVAILABLE)
    finally:
        gc.collect()
        if "torch._dynamo" in sys.modules:
            torch._dynamo.reset()  # compiled steps hold on to their tensors
    measured = results[0].ratio
    if task.inverse:
        pairs = zip(results[0].ratios, results[1].ratios, strict=True)
        measured = bootstrap_interval([math.sqrt(there / back) for there, back in pairs])
    ratio = _ratio(task, measured)
    # The second run has the sides exchanged.
    sides = [(result.a, result.b) if i == 0 else (result.b, result.a) for i, result in enumerate(results)]
    return replace(
        row,
        ours=_middle([one.median for one, _ in sides]),
        theirs=_middle([other.median for _, other in sides]),
        ratio=ratio,
        noise=max(side.noise.relative_iqr for pair in sides for side in pair),
        verdict=row.goal.verdict(*ratio[1:]),
    )


def measure_all(
    tasks: Sequence[Task],
    *,
    threads: Sequence[int],
    quick: bool = False,
    command: str = "lrdiff bench step",
    on_row: Callable[[Row, int, int], None] | None = None,
) -> dict[str, Any]:
    """Measure every row at every thread count and return the JSON-ready document of the table.

    Args:
        tasks: from :func:`make_rows`.
        threads: thread counts, one table each.
        quick: with the fewest rounds.
        command: what the reader can type to get it.
        on_row: called after each row with it, its number and how many there are.
    """
    before = provenance("optax", "jax")
    rows: list[Row] = []
    total = len(tasks) * len(threads)
    for count in threads:
        for task in tasks:
            rows.append(measure(task, threads=count, quick=quick))
            if on_row is not None:
                on_row(rows[-1], len(rows), total)
    return {
        "format": "lrdiff.step_table",
        "version": 1,
        "command": command,
        "quick": quick,
        **before,
        "forms": _forms(),
        "rows": [row.to_dict() for row in rows],
    }


def run_table(
    *,
    peers: bool = False,
    shapes: Sequence[str] | None = None,
    threads: int | None = None,
    quick: bool = False,
    out: Path | None = None,
) -> tuple[dict[str, Any], str]:
    """What the command does: choose rows, measure them with a line each on stderr, write the table.

    Args:
        peers, shapes: as for :func:`make_rows`; with ``quick`` BERT-base is left out unless it is named.
        threads: one count; None: one and two threads.
        quick: as for :func:`measure`.
        out: a Markdown file to write too.

    Returns:
        The document and its Markdown.

    Raises:
        ConfigError: unknown shapes, or a thread count below 1.
        InputError: the file cannot be written.
    """
    chosen = list(shapes or [name for name in SHAPES if not (quick and name == "bert")])
    if threads is not None and threads < 1:
        raise ConfigError(f"threads is {threads}", help="write a whole number from 1 up")
    if out is not None and not out.parent.is_dir():  # said now, not after half an hour
        raise ConfigError(f"cannot write {out}: no such folder", help="name a file in a folder that exists")
    words = ["lrdiff bench step", *(["--peers"] if peers else []), *(["--quick"] if quick else [])]
    words += [f"--shape {name}" for name in shapes or ()] + ([f"--threads {threads}"] if threads else [])

    def tell(row: Row, number: int, total: int) -> None:
        result = row.reason or row.verdict
        print(f"{number}/{total} {row.shapes}, {row.threads} threads, {row.against}: {result}", file=sys.stderr)

    document = measure_all(
        make_rows(chosen, peers=peers),
        threads=[threads] if threads is not None else [1, 2],
        quick=quick,
        command=" ".join(words),
        on_row=tell,
    )
    text = markdown(document)
    if out is not None:
        write_text(out, text)
    return document, text


def markdown(document: dict[str, Any]) -> str:
    """The document as Markdown: a header that says where the numbers come from, and a table a thread count."""
    lines = [
        "# What an optimizer step costs",
        "",
        f"`{document['command']}`" + (", quick: six rounds a row, no figures to quote" if document["quick"] else ""),
        "",
        *provenance_lines(document),
        f"- our step ran as: {document['forms']}",
        "- AdamW on fixed gradients, the step alone; medians of alternating blocks in one run, ratio with its 95 % "
        "interval; noise is the interquartile range over the median, of the noisier side",
        "- against one rate both orders of building the two are measured, and their ratios averaged: of two "
        "identical cases the one built second was seen up to 15 % faster",
        "- torch's thread count is set; XLA (optax) runs on threads of its own",
    ]
    for count in dict.fromkeys(row["threads"] for row in document["rows"]):
        lines += ["", f"## {count} thread{'s' if count > 1 else ''}", ""]
        lines += _table([row for row in document["rows"] if row["threads"] == count])
    return "\n".join(lines) + "\n"


# ---- the rows


def _mlp(installed: dict[str, Factory]) -> Iterator[Task]:
    case = step_peers.mlp()
    text = "10-5-1 MLP, 2 rates"
    yield _against(installed, case, text, "torch default", at_least(10))
    yield _against(installed, case, text, "torch fused", at_least(4))
    yield _against_one_rate(installed, case, text, at_most(1.5))


def _transformer(installed: dict[str, Factory]) -> Iterator[Task]:
    case = step_peers.transformer()
    text = "transformer, width 64, 12 layers, 14 rates"
    yield _against(installed, case, text, "torch default", at_least(10))
    yield _against(installed, case, text, "torch fused", at_least(3))
    yield _against(installed, case, text, "torch compiled", at_least(1.5))
    yield _against(installed, case, text, "optax multi_transform", at_least(8))
    each = step_peers.rate_each(case)
    yield _against(installed, each, "transformer, a rate for each tensor", "torch fused", at_least(7))
    for count in (2, 32):
        some = step_peers.rates(case, count)
        yield _against_one_rate(installed, some, f"transformer, {count} rates", at_most(1.1))


def _many(installed: dict[str, Factory]) -> Iterator[Task]:
    """A thousand rates need a thousand tensors."""
    shapes = dict(model_shapes("thousand"))
    case = step_peers.Case(name="many", shapes=shapes, groups=[(1e-3, 0.01, list(shapes))])
    for count, most in ((32, 1.1), (1000, 1.5)):
        some = step_peers.rates(case, count)
        yield _against_one_rate(installed, some, f"1000 tensors of 32x32, {count} rates", at_most(most))


def _bert(installed: dict[str, Factory]) -> Iterator[Task]:
    case = step_peers.bert_base()
    text = f"BERT-base, layer decay, {len(case.groups)} groups"
    goal = at_least(1 / (1 + BAND), "not slower")
    yield replace(_against(installed, case, text, "torch fused", goal), large=True)
    row = _row(case, text, "a.add_(b)", "share of its bandwidth", at_least(0.9, "at least 90 %"))
    yield Task(
        row=row,
        ours=lambda: installed[OURS](case),
        theirs=lambda: step_peers.BandwidthPeer(case),
        scale=step_peers.BYTES_STEP / step_peers.BYTES_ADD,
        large=True,
    )
    yield replace(_against_one_rate(installed, case, text, at_most(1.1)), large=True)


_ROWS: dict[str, Callable[[dict[str, Factory]], Iterator[Task]]] = {
    "mlp": _mlp,
    "transformer": _transformer,
    "many": _many,
    "bert": _bert,
}


def _against(installed: dict[str, Factory], case: step_peers.Case, text: str, peer: str, goal: Goal) -> Task:
    reason = None
    if peer not in installed:
        package = INSTALL.get(peer, peer)
        reason = f"{package} is not installed: pip install {package}"
    elif peer == "torch compiled":
        reason = compiler_status().reason
    row = replace(_row(case, text, peer, "times faster", goal), reason=reason)
    theirs = None if reason is not None else (lambda: installed[peer](case))
    return Task(row=row, ours=lambda: installed[OURS](case), theirs=theirs)


def _against_one_rate(installed: dict[str, Factory], case: step_peers.Case, text: str, goal: Goal) -> Task:
    return Task(
        row=_row(case, text, "one rate", "times as long", goal),
        ours=lambda: installed[OURS](case),
        theirs=lambda: installed[OURS](step_peers.one_rate(case)),
        inverse=True,
    )


def _row(case: step_peers.Case, text: str, against: str, question: str, goal: Goal) -> Row:
    return Row(
        shapes=text,
        tensors=len(case.shapes),
        parameters=case.parameters,
        against=against,
        question=question,
        goal=goal,
    )


class _SideFault(Exception):
    """One side of a comparison cannot be built or cannot step."""

    def __init__(self, problem: Exception, *, ours: bool) -> None:
        super().__init__(f"{type(problem).__name__}: {problem}".splitlines()[0][:200])
        self.ours = ours


def _case(name: str, make: Callable[[], step_peers.Peer]) -> timing.Case:
    def build() -> timing.Workload:
        try:
            peer = make()
            peer.step()  # compiles, and makes the state: what can fail fails here
            peer.reset()
        except (ImportError, RuntimeError, MemoryError) as problem:
            # Against one rate and against the memory's bandwidth, both sides are ours.
            raise _SideFault(problem, ours=name in (OURS, "one rate", "a.add_(b)")) from problem
        return timing.Workload(step=peer.step, reset=peer.reset)

    return timing.Case(name=name, version="1", factory=build)


def _middle(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _ratio(task: Task, measured: Interval) -> tuple[float, float, float]:
    """The row's ratio from that of ``compare_cases``: time of theirs over time of ours."""
    middle, low, high = measured.estimate, measured.low, measured.high
    if task.inverse:
        middle, low, high = 1 / middle, 1 / high, 1 / low
    return (task.scale * middle, task.scale * low, task.scale * high)


def _forms() -> str:
    """How our optimizer steps float32 on this CPU."""
    peer = step_peers.TorchPeer(step_peers.mlp(), AdamW, compiled=False)
    peer.step()
    assert isinstance(peer.optimizer, AdamW)
    forms = peer.optimizer.forms()
    return ", ".join(forms)


def _table(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        "| shapes | tensors | parameters | against | ours | theirs | ratio [95 %] | goal | | noise |",
        "|---|---:|---:|---|---:|---:|---:|---|---|---:|",
    ]
    shown = None
    for row in rows:
        shapes = "" if row["shapes"] == shown else row["shapes"]
        shown = row["shapes"]
        cells = [shapes, str(row["tensors"]), f"{row['parameters']:,}".replace(",", " "), row["against"]]
        if row["ratio"] is None:
            cells += ["", "", "", row["goal"]["text"], f"{row['verdict']}: {row['reason']}", ""]
        else:
            middle, low, high = row["ratio"]
            cells += [
                _microseconds(row["ours"]),
                _microseconds(row["theirs"]),
                f"{middle:.3g} [{low:.3g}, {high:.3g}] {row['question']}",
                row["goal"]["text"],
                row["verdict"],
                f"{row['noise']:.0%}",
            ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _microseconds(seconds: float) -> str:
    """Three digits, in µs or ms.

    Example:
        >>> _microseconds(4.321e-06), _microseconds(0.123456), _microseconds(99.96e-6), _microseconds(999.6e-6)
        ('4.32 µs', '123 ms', '100 µs', '1.00 ms')
    """
    rounded = float(f"{seconds:.2e}")  # first: 99.96 has three digits before it is rounded, and one more after
    value, unit = (rounded * 1e6, "µs") if rounded < 1e-3 else (rounded * 1e3, "ms")
    digits = max(0, 2 - math.floor(math.log10(value) + 1e-9)) if value > 0 else 0
    return f"{value:.{digits}f} {unit}"
