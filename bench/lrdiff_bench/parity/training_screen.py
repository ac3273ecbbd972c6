"""Training parity in a terminal: a table for each device and arithmetic, then what is wrong and what budgets mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from lrdiff_bench.parity.training_pictures import sharp_text
from lrdiff_bench.report.tables import INDENT, line, plain_table
from lrdiff_core.devices import device_status

__all__ = ["bits_text", "draw_report", "grouped", "report_notes", "step_text", "worst_text"]

STYLES = {"agrees": "green", "differs": "bold red", "refused": "red", "unavailable": "yellow"}


def draw_report(console: Console, report: Mapping[str, Any]) -> None:
    """Draw the matrix, then what is wrong, then what the budget means."""
    console.print(Text(f"\n{report['job']}", style="bold cyan"))
    line(
        console,
        f"{report['optimizer']}, rates {report['rates']}, {report['steps']} steps, {report['parameters']} weights; "
        f"against {report['reference']}; torch {report['flags']['torch']}, threads: {report['flags']['threads']}",
    )
    for remark in report["remarks"]:
        line(console, remark)
    for (device, arithmetic), rows in grouped(report["results"]).items():
        table = plain_table(f"{device}, {arithmetic}", "result", "max error\nof tolerance", "one step", "bits")
        for column in table.columns:
            column.justify = "left"
        for row in rows:
            table.add_row(
                Text(INDENT + row["implementation"]),
                Text(row["status"], style=STYLES[row["status"]]),
                worst_text(row),
                step_text(row),
                bits_text(row),
            )
        console.print(table)
    for text in report_notes(report):
        line(console, text)


def report_notes(report: Mapping[str, Any]) -> list[str]:
    """Return what the tables leave unsaid: what is wrong, which bits came twice, what each budget still means."""
    said = [f"{', '.join(lanes)}: {reason}" for reason, lanes in _by_reason(report["results"]).items()]
    twice = [row["repeats"]["equal"] for row in report["results"] if row["repeats"] is not None]
    if twice:
        said.append(f"bitwise repeatable when trained twice: {sum(twice)} of {len(twice)}")
    for budget in report["budgets"]:
        judged = [value for value in budget["allowed"][: budget["judged"]] if value is not None] or [0.0]
        words = f"{budget['arithmetic']}: tolerance {judged[0]:.3g} eps after step 1, {judged[-1]:.3g} at the end; "
        words += sharp_text(budget)
        if budget["judged"] < report["steps"]:
            words += f"; compared up to step {budget['judged']}, where plain arithmetic overflows"
        if budget["blind"]:
            words += f"; too wide over all steps to test {', '.join(budget['blind'])}"
        said.append(words)
    return said


def grouped(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """Rows by device and arithmetic; those of a device that is not here are told by their reason alone."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["status"] != "unavailable" or device_status(row["device"]).available:
            found.setdefault((row["device"], row["arithmetic"]), []).append(row)
    return found


def step_text(row: Mapping[str, Any]) -> str:
    """How sharply single steps were judged: their budget as a share of the way that they go.

    Example:
        >>> step_text({"one_step": {"unseen": None, "covers": 0.047}}), step_text({"one_step": {"unseen": "why"}})
        ('to 4.7 %', 'not checked')
    """
    found = row["one_step"]
    if found is None:
        return ""
    if found["unseen"] is not None:
        return "not checked"
    return "no change" if found["covers"] is None else f"to {100 * found['covers']:.2g} %"


def bits_text(row: Mapping[str, Any]) -> str:
    """How long a lane has the bits of torch's fused optimizer, or that it gives other bits the second time.

    Example:
        >>> bits_text({"repeats": {"equal": True}, "bits": [{"other": "torch-fused", "equal": False, "step": 4}]})
        'fused to step 3'
    """
    if row["repeats"] is not None and not row["repeats"]["equal"]:
        return f"twice to step {row['repeats']['step'] - 1}"
    for one in row["bits"][:1]:
        other = one["other"].removeprefix("torch-")
        return f"= {other}" if one["equal"] else f"{other} to step {one['step'] - 1}"
    return ""


def _by_reason(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in rows:
        away = row["status"] == "unavailable" and not device_status(row["device"]).available
        where = row["device"] if away else f"{row['implementation']} ({row['device']}, {row['arithmetic']})"
        unseen = None if row["one_step"] is None else row["one_step"]["unseen"]
        told = [row["reason"], None if unseen is None else f"single steps are not checked: {unseen}", *row["remarks"]]
        for text in filter(None, told):
            found.setdefault(text, []).append(where)
    return found


def worst_text(row: Mapping[str, Any]) -> str:
    """The error of the tensor that came closest to its tolerance, and that tolerance.

    Example:
        >>> worst_text({"error": 2.82, "allowed": 29.6})
        '2.82 of 29.6 eps'
    """
    if row["allowed"] is None:
        return ""
    error = "inf" if row["error"] is None else f"{row['error']:.3g}"
    return f"{error} of {row['allowed']:.3g} eps"
