"""What benchmark records add to a report: cost against rates and size, the history by commit, and every case."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lrdiff_bench.measure import pictures
from lrdiff_bench.measure.cases.state import BYTES_STEP
from lrdiff_bench.measure.engine.record import Record
from lrdiff_bench.measure.screen import short_label
from lrdiff_bench.report import charts
from lrdiff_bench.report.parts import Part, fill_part
from lrdiff_bench.report.tables import seconds

__all__ = ["bench_part"]


def bench_part(runs: Sequence[Sequence[Record]], folder: str) -> Part:
    """The part of a report that shows benchmark records.

    Args:
        runs: of all runs, oldest first; the last one is shown, the others are its history.
        folder: where they lie.
    """
    records = list(runs[-1])
    first = records[0]
    own = [[r for r in run if r.machine.id == first.machine.id] for run in runs]
    shown = [chart for chart in (_by_rates(records), _by_size(records), _history(own)) if chart is not None]
    body = fill_part("bench.html", charts=shown, rows=[_row(r) for r in records], machine=_machine(first))
    finding = _found(records)
    return Part(title=f"Benchmarks {folder}", finding=finding, body=body)


def _found(records: Sequence[Record]) -> str:
    lines = pictures.steps_by_rates(records).get("ours", [])
    if len(lines) < 2:
        return f"{len(records)} cases measured."
    one, many = lines[0], lines[-1]
    few, rates = one.parameters["rates"], many.parameters["rates"]
    return f"A step with {rates} rates takes {many.median / one.median:.2f} times as long as with {few}."


def _machine(record: Record) -> str:
    code = record.code
    commit = f"{(code.commit or 'none')[:10]}{' with changes' if code.dirty else ''}"
    machine = f"{record.machine.cpu}, {record.machine.cpus} processors"
    return f"{machine}; torch {code.torch}, commit {commit}, {record.created[:10]}"


def _row(record: Record) -> list[Any]:
    if not record.samples:
        return [record.name, short_label(record), "", "", "", ""]
    low, high = record.quartiles
    parity = "" if record.parity is None else "yes" if record.parity.held else "NO"
    spread = f"{100 * (high - low) / record.median:.0f} %"
    return [
        record.name,
        short_label(record),
        f"{record.median * 1e6:.4g}",
        spread,
        seconds(record.processes[0].first_call),
        parity,
    ]


def _by_rates(records: Sequence[Record]) -> charts.Chart | None:
    lines = pictures.steps_by_rates(records)
    if not lines:
        return None
    series = []
    for name, line in lines.items():
        ends = [r.quartiles for r in line]
        series.append(charts.Line(
            name=pictures.LOOKS[name][3], x=[int(r.parameters["rates"] or 0) for r in line],
            y=[r.median * 1e3 for r in line], low=[low * 1e3 for low, _ in ends], high=[high * 1e3 for _, high in ends],
        ))  # fmt: skip
    label = "Cost of an AdamW step over 1000 tensors by the number of distinct rates, medians with quartiles"
    return charts.lines(series, label=label, x="number of distinct rates", y="ms a step", log_x=True, log_y=True)


def _by_size(records: Sequence[Record]) -> charts.Chart | None:
    lines = pictures.steps_by_size(records)
    if not lines:
        return None
    series = [
        charts.Line(
            name=f"{pictures.LOOKS[name][3]}, {'one rate' if rates == '1' else 'a rate each'}",
            x=[int(r.facts["parameters"] or 0) for r in line], y=[r.median * 1e3 for r in line],
        )
        for (name, rates), line in lines.items()
    ]  # fmt: skip
    sizes = sorted({x for one in series for x in one.x})
    for copy in [r for r in records if r.name == "memory_copy" and r.parameters["threads"] == 1][:1]:
        rate = int(copy.facts["bytes"] or 0) / copy.median
        limit = [size * BYTES_STEP["adamw"] / rate * 1e3 for size in sizes]
        series.append(charts.Line(name=f"limit: its bytes copied at {rate / 1e9:.1f} GB/s", x=sizes, y=limit))
    label = "Cost of an AdamW step over the shapes of real models, and what moving its bytes alone takes"
    return charts.lines(series, label=label, x="parameters", y="ms a step", log_x=True, log_y=True)


def _history(runs: Sequence[Sequence[Record]]) -> charts.Chart | None:
    lines, commits = pictures.history_lines(runs)
    if not lines:
        return None
    series = [
        charts.Line(
            name=f"{line[0][1].name} {short_label(line[0][1], ('device', 'threads'))}".strip(),
            x=[place + 1 for place, _ in line], y=[r.median / line[0][1].median for _, r in line],
        )
        for line in lines
    ]  # fmt: skip
    told = ", ".join(f"{i}: {commit}" for i, commit in enumerate(commits, start=1))
    label = f"Speed over runs, the first run is 1; by commit, {told}"
    return charts.lines(series, label=label, x="run", y="times the first", whole_x=True, limits=[(1.0, "")])
