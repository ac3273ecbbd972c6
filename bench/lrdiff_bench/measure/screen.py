"""Records and comparisons as tables and words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from rich.console import Group
from rich.text import Text

from lrdiff_bench.measure.engine.case import Case
from lrdiff_bench.measure.engine.record import Record
from lrdiff_bench.measure.engine.suite import CaseRun
from lrdiff_bench.report.tables import plain_table, seconds
from lrdiff_bench.stats.hierarchical import Outcome

__all__ = [
    "brief_outcome",
    "describe_outcome",
    "markdown",
    "outcome_document",
    "run_table",
    "short_label",
]

LAUNCH_BOUND = 0.9  # share of the host
COLUMNS = ("median", "spread", "first", "MiB", "eps")
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
                table.add_row(shown, *_cells(row.record))
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


def _cells(record: Record) -> list[str | Text]:
    peak = f"{record.peak / 2**20:.0f}" if record.peak is not None else ""
    if not record.samples:
        return ["", "", "", peak, ""]
    low, high = record.quartiles
    error: str | Text = ""
    if record.parity is not None:
        text = "not finite" if record.parity.error is None else f"{record.parity.error:.1f}"
        error = Text(text, style="" if record.parity.held else "red")
    return [
        seconds(record.median),
        f"{100 * (high - low) / record.median:.0f} %",
        seconds(record.processes[0].first_call),
        peak,
        error,
    ]


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


def markdown(records: Sequence[Record], command: str, pictures: Sequence[str] = ()) -> str:
    """Records as a page of docs/results: machine, versions and commit, pictures, then a table a case.

    Args:
        records: of one run.
        command: that made them.
        pictures: names of files beside the page.
    """
    first = records[0]
    device = first.machine.cpu if first.machine.device == "cpu" else first.machine.device
    loads = [record.conditions.load for record in records if record.conditions.load is not None]
    load = f", load {min(loads):.1f} to {max(loads):.1f} while measuring" if loads else ""
    commit = f"`{first.code.commit[:10]}`{' with changes' if first.code.dirty else ''}" if first.code.commit else "none"
    machine = f"{device}, {first.machine.cpus} processors, {first.machine.system}"
    lines = [
        "# Benchmarks",
        "",
        f"`{command}` on {first.created[:10]}, {_count(records)}: {machine}{load}.",
        f"torch {first.code.torch}, Python {first.code.python}, numpy {first.code.numpy}, commit {commit}.",
        "Columns are explained in the [guide](../guide/benchmarks.md); times are of one step.",
    ]
    for name in pictures:
        lines += ["", f"![{name.partition('.')[0].replace('-', ' ')}]({name})"]
    for name in dict.fromkeys(record.name for record in records):
        family = [record for record in records if record.name == name]
        hidden = constant_parameters(family)
        keys = [key for key in family[0].parameters if key not in hidden]
        fixed = ", ".join(f"{key} {value}" for key, value in family[0].parameters.items() if key in hidden)
        head = [*keys, *COLUMNS]
        lines += ["", f"## {name}", "", *([fixed + ".", ""] if fixed else [])]
        lines += [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
        for record in family:
            cells = [*(str(record.parameters[key]) for key in keys), *map(str, _cells(record))]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _count(records: Sequence[Record]) -> str:
    """How many cases, and how long they took: between records, as each is made when its case is done."""
    if len(records) == 1:
        return "1 case"
    made = [datetime.fromisoformat(record.created) for record in records]
    return f"{len(records)} cases in {(max(made) - min(made)).total_seconds() / 60:.1f} minutes"


def describe_outcome(outcome: Outcome) -> Text:
    """Verdict, ratio with interval, and what is missing for a verdict."""
    ratio = outcome.ratio
    text = Text(outcome.verdict, style=_COLORS[outcome.verdict])
    if outcome.processes == 1:
        text.append(f", ratio {ratio.estimate:.3f}; one process a side cannot tell: --processes 8", style="none")
        return text
    inside = f"{ratio.low:.3f} to {ratio.high:.3g}"
    text.append(f", ratio {ratio.estimate:.3f} (95 %: {inside}), band {100 * outcome.band:.1f} %", style="none")
    if outcome.verdict == "unresolved":
        more = outcome.more_processes
        missing = (
            "too close to the edge of the band for any number of samples"
            if more is None
            else f"about {more} more processes ({outcome.more_samples} samples) would tell"
        )
        text.append(f"; {missing}", style="none")
    return text


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
