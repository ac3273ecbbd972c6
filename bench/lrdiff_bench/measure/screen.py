"""Records and comparisons as tables and words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.padding import Padding
from rich.text import Text

from lrdiff_bench.measure.engine.case import Case
from lrdiff_bench.measure.engine.pairs.comparison import ClockSays, Comparison
from lrdiff_bench.measure.engine.record import Record
from lrdiff_bench.measure.engine.suite import CaseRun
from lrdiff_bench.report.tables import INDENT, duration, plain_table, seconds
from lrdiff_bench.stats.hierarchical import Outcome

__all__ = [
    "brief_outcome",
    "comparison_table",
    "price",
    "outcome_document",
    "record_cells",
    "run_table",
    "short_label",
    "summary_cells",
    "summary_of",
]

LAUNCH_BOUND = 0.9  # share of the host
COLUMNS = ("median", "IQR", "first call", "peak MiB", "error, eps")
# Said only where they are otherwise.
USUAL = {"device": "cpu", "threads": 1}
NAMED = 3  # cases that a note names
_COLORS = {"faster": "green", "slower": "red", "equivalent": "green", "unresolved": "yellow"}


def short_label(record_or_case: Any, hidden: Iterable[str] = ()) -> str:
    """Parameters of a case in one line; words speak for themselves, numbers do not.

    Args:
        record_or_case: whose parameters.
        hidden: parameters to leave out, beside those of :data:`USUAL` that have their usual value.
    """
    return " ".join(
        value if isinstance(value, str) and not value.startswith("-") else f"{key}={value}"
        for key, value in record_or_case.parameters.items()
        if key not in hidden and USUAL.get(key) != value
    )


def constant_parameters(rows: Sequence[Any]) -> set[str]:
    """Parameters that have one value in all rows of their case and therefore need no place in a table."""
    values: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        for key, value in row.parameters.items():
            values.setdefault((row.name, key), set()).add(str(value))
    keys = {key for _, key in values}
    return {key for key in keys if all(len(seen) == 1 for (_, one), seen in values.items() if one == key)}


def run_table(rows: Sequence[CaseRun], *, working: Case | None = None) -> Group:
    """What a run has measured so far, and under the table what there is to say about single rows.

    Args:
        rows: those without a record are named below, with the reason.
        working: the case that is being measured.
    """
    table = plain_table("case", *COLUMNS)
    table.columns[0].no_wrap = False  # names give way, numbers stay whole
    notes: dict[tuple[str, str], list[str]] = {}  # style and text: what it is about
    for name in dict.fromkeys(row.case.name for row in rows):
        family = [row for row in rows if row.case.name == name]
        measured = [row for row in family if row.record is not None]
        hidden = constant_parameters([row.case for row in measured])
        if len(measured) > 1:
            table.add_row(name)
        for row in family:
            label = short_label(row.case, hidden)
            if row.record is not None:
                shown = f"  {label or _whole_label(row.case)}" if len(measured) > 1 else name
                table.add_row(shown, *record_cells(row.record))
                for note in [*_notes(row.record), *([row.note] if row.note else [])]:
                    notes.setdefault(("yellow", note), []).append(f"{name} {label}".strip())
            elif row.reason is not None:
                style = "red" if row.failed else "dim"
                notes.setdefault((style, row.reason), []).append(f"{name} {short_label(row.case)}".strip())
    lines = [Text(f"{_named(cases)}: {text}", style=style) for (style, text), cases in notes.items()]
    if working is not None:
        lines.append(Text(f"measuring {working.label}", style="dim"))
    return Group(table, *lines)


def _whole_label(case: Case) -> str:
    return " ".join(f"{key}={value}" for key, value in case.parameters.items())


def _named(cases: Sequence[str]) -> str:
    more = f" and {len(cases) - NAMED} more" if len(cases) > NAMED else ""
    return ", ".join(cases[:NAMED]) + more


def summary_of(record: Record) -> dict[str, Any]:
    """What a row of a table tells of a record, as numbers: seconds, bytes, eps; None where there is none."""
    timed = bool(record.samples)
    low, high = record.quartiles if timed else (None, None)
    parity = None if record.parity is None else {"error": record.parity.error, "held": record.parity.held}
    return {
        "median": record.median if timed else None,
        "low": low,
        "high": high,
        "first_call": record.processes[0].first_call if timed else None,
        "peak": record.peak,
        "parity": parity if timed else None,
    }


def record_cells(record: Record) -> list[str | Text]:
    """A record in the columns of :data:`COLUMNS`."""
    *cells, error = summary_cells(summary_of(record))
    held = record.parity is None or record.parity.held
    return [*cells, Text(error, style="" if held else "red") if error else ""]


def summary_cells(row: Mapping[str, Any]) -> list[str]:
    """A :func:`summary_of` in the columns of :data:`COLUMNS`."""
    peak = f"{row['peak'] / 2**20:.0f}" if row["peak"] is not None else ""
    if row["median"] is None:
        return ["", "", "", peak, ""]
    error = ""
    if row["parity"] is not None:
        error = "not finite" if row["parity"]["error"] is None else f"{row['parity']['error']:.1f}"
    spread = f"{100 * (row['high'] - row['low']) / row['median']:.0f} %"
    return [seconds(row["median"]), spread, seconds(row["first_call"]), peak, error]


def _notes(record: Record) -> list[str]:
    notes = []
    if record.parity is not None and not record.parity.held:
        notes.append(f"too far from float64: {record.parity.error} eps, budget {record.parity.budget:.1f}")
    if any(process.recompilations for process in record.processes):
        notes.append("torch.compile built code again while it was measured")
    if not all(process.settled for process in record.processes):
        notes.append("times had not settled when warm-up ended")
    if record.launch_share is not None and record.launch_share > LAUNCH_BOUND:
        notes.append(f"launch-bound: the host takes {100 * record.launch_share:.0f} % of the time")
    if record.instructions is not None:
        notes.append(f"{record.instructions:.5g} instructions a step")
    return notes


def comparison_table(one: Comparison, *, errors: Sequence[str] = ("", "")) -> Group:
    """A comparison: both sides by both clocks, what each clock says, the verdict, and what it was measured beside.

    Args:
        one: the comparison.
        errors: of either side, as text.
    """
    table = plain_table("side", "wall", "processor", "error")
    for side, error in zip((one.a, one.b), errors, strict=True):
        processor = "" if side.processor is None else seconds(side.processor)
        table.add_row(side.label, seconds(side.wall), processor, error)
    text = Text.assemble(f"{one.b.label} against {one.a.label}: ", (one.verdict, _COLORS[one.verdict]))
    if one.high is None:
        text.append(f", ratio {one.ratio:.3f}; one process a side cannot tell: --processes 8")
        return Group(table, Padding(text, (0, 0, 0, len(INDENT))))
    text.append(f", ratio {one.ratio:.3f} [{one.low:.3f}, {one.high:.3g}]")
    lines = [f"by the {_CLOCKS[one.clock]}: {one.why}"]
    for name, says in (("wall", one.wall), ("processor", one.processor)):
        if says is not None:
            lines.append(f"{_CLOCKS[name]}: {_says(says)}")
    if one.doubt is not None:
        lines.append(f"held back: {one.doubt}")
    if one.verdict == "unresolved":
        lines.append(price(one.minutes, one.more_processes))
    lines.append(f"{one.processes} processes a side, {one.rounds} rounds, {duration(one.seconds)}{_load(one.load)}")
    shown = [text, *(Text(line, style="dim") for line in lines)]
    return Group(table, *(Padding(one, (0, 0, 0, len(INDENT))) for one in shown))


_CLOCKS = {"wall": "wall clock", "processor": "processor's clock"}


def _says(says: ClockSays) -> str:
    high = "inf" if says.high is None else f"{says.high:.3g}"
    told = f"{says.ratio:.3f} [{says.low:.3f}, {high}], {says.verdict}"
    if says.same_ratio is not None:
        band = "unknown" if says.same_band is None else f"{100 * says.same_band:.1f} %"
        told += f"; A/A {says.same_ratio:.3f}, band {band}"
    return told


def _load(load: float | None) -> str:
    return "" if load is None else f", load {load:.1f} before"


def price(minutes: float | None, more_processes: int | None) -> str:
    """What settling an unresolved comparison would take.

    Example:
        >>> price(None, None), price(0.4, 3)
        ('it lies too near the edge to be settled in any time', 'to settle it: about 24 s (3 more processes)')
    """
    if minutes is None or more_processes is None:
        return "it lies too near the edge to be settled in any time"
    return f"to settle it: about {duration(60 * minutes)} ({more_processes} more processes)"


def brief_outcome(outcome: Outcome) -> Text:
    """Verdict and interval, for a column of a table."""
    text = Text(outcome.verdict, style=_COLORS[outcome.verdict])
    if outcome.processes > 1:
        text.append(f", {outcome.ratio.low:.3f} to {outcome.ratio.high:.3g}", style="none")
    if outcome.more_processes is not None and outcome.processes > 1:
        text.append(f"; {outcome.more_processes} more processes", style="none")
    return text


def outcome_document(outcome: Outcome) -> dict[str, Any]:
    """An outcome for ``--json``."""
    return {
        "ratio": outcome.ratio.estimate,
        "interval": [outcome.ratio.low, outcome.ratio.high],
        "level": outcome.ratio.level,
        "band": outcome.band,
        "verdict": outcome.verdict,
        "processes": outcome.processes,
        "values": outcome.values,
        "more_processes": outcome.more_processes,
        "more_samples": outcome.more_samples,
    }
