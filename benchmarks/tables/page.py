"""The page: a row a table, and whether the bar holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.tables.models import MODELS
from benchmarks.tables.sources import Source
from lrdiff_bench.stats.gain import Gain, judge_gain
from lrdiff_bench.stats.intervals import median_interval

__all__ = ["write_page"]

SMALLEST = 0.01  # of a score that matters: one point of balanced accuracy, or of explained variance
SECONDS = 60.0  # that a whole run may take on two cores
OTHERS = {"mlp": "MLP", "linear": "linear"}


def write_page(
    rows: Sequence[dict[str, Any]], sources: Sequence[Source], *, seeds: int, head: str = ""
) -> tuple[str, bool]:
    """The page as Markdown, and whether everything that the bar asks held.

    Args:
        rows: of :func:`benchmarks.tables.models.measure`; failed ones have ``problem``.
        sources: the tables of the page.
        seeds: wanted of each table.
        head: where the records come from.
    """
    good = {source.name: [row for row in rows if row["table"] == source.name and "problem" not in row and
                          row["seed"] < seeds] for source in sources}  # fmt: skip
    failed = {row["table"]: row["problem"] for row in rows if "problem" in row}
    measured = [source for source in sources if len(good[source.name]) >= 2]
    gains = {(source.name, other): _gain(good[source.name], other) for source in measured for other in OTHERS}
    lines = [
        "# Twenty tables",
        "",
        "Our default against scikit-learn's multilayer perceptron and linear models at theirs.",
        "",
        *([head, ""] if head else []),
        *(f"- *{name}*: {text}." for name, text in MODELS.items()),
        "",
        f"Each of {seeds} seeds cuts a table anew into 70 % training, 15 % validation and 15 % test rows. Our model "
        "trains on the first and stops by the second; scikit-learn's are fitted on both together, behind a median "
        "filler, StandardScaler and OneHotEncoder. All are scored on the test rows: balanced accuracy for classes, "
        "R2 for numbers (in brackets log loss, or RMSE in the target's units). Differences are ours minus theirs, "
        "the interquartile mean over seeds with its 95 % interval, judged as everything here, with 0.01 as the "
        "smallest difference that matters. Splits of one table share rows, so these intervals are of this table, "
        "not of tables like it.",
    ]  # fmt: skip
    for task, title in (("classification", "Classes"), ("regression", "Numbers")):
        chosen = [source for source in measured if source.task == task]
        if chosen:
            lines += ["", f"## {title}", "", *_scores(chosen, good), "", *_differences(chosen, gains)]
    verdict, held = _bar(measured, sources, good, gains, failed)
    return "\n".join([*lines, "", "## The bar", "", *verdict, "", *_about(sources)]) + "\n", held


def _gain(rows: Sequence[dict[str, Any]], other: str) -> Gain:
    ours, theirs = (np.array([[1.0 - row[name]["score"] for row in rows]]) for name in ("ours", other))
    return judge_gain(theirs, ours, smallest=SMALLEST)


def _scores(sources: Sequence[Source], good: dict[str, list[dict[str, Any]]]) -> list[str]:
    lines = ["| table | rows | columns | ours | MLP | linear | s ours | s MLP |", "|---|---|---|---|---|---|---|---|"]
    for source in sources:
        rows = good[source.name]
        cells = [
            f"{_middle(rows, name, 'score'):.3f} ({_short(_middle(rows, name, 'loss'))})"
            for name in ("ours", "mlp", "linear")
        ]
        seconds = [f"{_whole(rows, name):.1f}" for name in ("ours", "mlp")]
        lines.append(f"| {source.name} | {rows[0]['rows']} | {rows[0]['columns']} | {' | '.join([*cells, *seconds])} |")
    lines += ["", "Medians over seeds; s: seconds of processor time, of a whole run for ours, of fitting for the MLP."]
    return lines


def _differences(sources: Sequence[Source], gains: dict[tuple[str, str], Gain]) -> list[str]:
    lines = ["| table | ours - MLP | | ours - linear | |", "|---|---|---|---|---|"]
    for source in sources:
        cells = []
        for other in OTHERS:
            one = gains[source.name, other]
            cells += [f"{one.estimate:+.3f} [{one.low:+.3f}, {one.high:+.3f}]", one.verdict.value]
        lines.append(f"| {source.name} | {' | '.join(cells)} |")
    return lines


def _bar(
    measured: Sequence[Source],
    sources: Sequence[Source],
    good: dict[str, list[dict[str, Any]]],
    gains: dict[tuple[str, str], Gain],
    failed: dict[str, str],
) -> tuple[list[str], bool]:
    """Whether the median over tables is not below the others by more than its interval, and every run is in time."""
    lines, held = [], bool(measured) and len(measured) == len(sources)
    for name, problem in failed.items():
        if not good[name]:
            lines.append(f"- {name} was not measured: {problem}.")
    for other, label in OTHERS.items() if measured else ():
        found = [gains[source.name, other] for source in measured]
        middle = median_interval([one.estimate for one in found])
        reached = middle.high >= 0.0
        held &= reached
        words = [one.verdict.value for one in found]
        counts = ", ".join(f"{word} {words.count(word)}" for word in dict.fromkeys(sorted(words)))
        lines.append(
            f"- Against the {label} model the median over {len(found)} tables is {middle.estimate:+.4f} "
            f"[{middle.low:+.4f}, {middle.high:+.4f}] ({middle.level:.0%}): "
            f"{'reached' if reached else 'MISSED'}. By table: {counts}."
        )
    slowest = max(measured, key=lambda source: _in_time(good[source.name]), default=None)
    if slowest is not None:
        clock, work = (_whole(good[slowest.name], "ours", what) for what in ("wall", "seconds"))
        fast = min(clock, work) < SECONDS
        held &= fast
        lines.append(
            f"- The longest whole run is {slowest.name}: {clock:.0f} s by the clock, {work:.0f} s of processor time. "
            f"One of the two below {SECONDS:.0f} s shows that it fits (a busy machine stretches the first): "
            f"{'reached' if fast else 'MISSED'}."
        )
    return lines, held


def _about(sources: Sequence[Source]) -> list[str]:
    lines = ["## The tables", "", "| table | package | target | what is predicted |", "|---|---|---|---|"]
    return [*lines, *(f"| {one.name} | {one.package} | `{one.target}` | {one.about} |" for one in sources)]


def _middle(rows: Sequence[dict[str, Any]], name: str, what: str) -> float:
    return float(np.median([row[name][what] for row in rows]))


def _in_time(rows: Sequence[dict[str, Any]]) -> float:
    """Seconds that a whole run surely fits into: by the clock, or of processor time on a single core."""
    return min(_whole(rows, "ours", "wall"), _whole(rows, "ours", "seconds"))


def _whole(rows: Sequence[dict[str, Any]], name: str, what: str = "seconds") -> float:
    """Seconds: of ours those of the whole run, where it was made."""
    whole = [row for row in rows if name != "ours" or row[name]["whole"]] or rows
    return _middle(whole, name, what)


def _short(value: float) -> str:
    return f"{value:.3g}"
