"""The matrix of a parity check in a terminal: one model in full, or several beside each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from lrdiff_bench.report.tables import line, plain_table
from lrdiff_core.text import count

__all__ = ["SHORT", "eps", "draw_matrix", "draw_parity", "notes"]

SHORT = {"float32": "fp32", "tfloat32": "tf32", "float16": "fp16", "bfloat16": "bf16"}
YES_NO = {True: "yes", False: "no", None: ""}
STYLES = {"agrees": "green", "differs": "bold red", "refused": "bold yellow", "unavailable": "dim"}


def eps(value: float | None, digits: int = 3) -> str:
    """Write an error in units of eps.

    Example:
        >>> eps(0.75), eps(46012.0), eps(10.19, 2), eps(None)
        ('0.75', '4.6e+04', '10', 'inf')
    """
    return "inf" if value is None else f"{value:.{digits}g}" if value < 1e3 else f"{value:.2g}"


def draw_parity(console: Console, s: dict[str, Any]) -> None:
    """Draw one model's matrix: those that ran in a table, the others with their reasons below."""
    table = plain_table(
        "backend", "result", "dtype", "max\nerror", "tolerance", "bitwise\nrepeatable", "batch-\ninvariant"
    )
    for row in s["results"]:
        if row["status"] == "unavailable":
            continue
        ran = row["status"] in ("agrees", "differs")
        table.add_row(
            row["backend"],
            Text(row["status"], style=STYLES[row["status"]]),
            SHORT[row["dtype"]],
            Text(eps(row["max_error"]), style=STYLES[row["status"]]) if ran else "",
            eps(row["tolerance"]) if ran else "",
            YES_NO[row["bitwise_repeatable"]],
            YES_NO[row["batch_invariant"]],
        )
    console.print(table)
    rows = [("", row) for row in s["results"]]
    for text, style in notes(rows):
        line(console, text, style)
    line(
        console,
        f"compared with {s['reference']} on {s['rows']} rows; errors and tolerances are in eps of the dtype at the "
        "largest output",
    )


def draw_matrix(console: Console, models: Mapping[str, dict[str, Any]]) -> None:
    """Draw several models beside each other: max error of tolerance, coloured by the result."""
    table = plain_table("backend", "dtype", *models)
    first = next(iter(models.values()))
    for i, head in enumerate(first["results"]):
        rows = [report["results"][i] for report in models.values()]
        if all(row["status"] == "unavailable" for row in rows):
            continue
        dtypes = "/".join(dict.fromkeys(SHORT[row["dtype"]] for row in rows))
        table.add_row(head["backend"], dtypes, *(_cell(row) for row in rows))
    console.print(table)
    for text, style in notes((name, row) for name, report in models.items() for row in report["results"]):
        line(console, text, style)
    rows_of = ", ".join(f"{name} {report['rows']}" for name, report in models.items())
    line(
        console,
        f"max error of tolerance, in eps of the dtype at the largest output, compared with float64; rows: {rows_of}",
    )


def _cell(row: Mapping[str, Any]) -> Text:
    style = STYLES[row["status"]]
    if row["status"] in ("refused", "unavailable"):
        return Text(row["status"], style=style)
    return Text(f"{eps(row['max_error'], 2)} of {eps(row['tolerance'], 2)}", style=style)


def notes(rows: Iterable[tuple[str, Mapping[str, Any]]]) -> list[tuple[str, str]]:
    """Return what a matrix leaves unsaid, as lines with their styles: what is wrong first, what is unavailable last.

    Args:
        rows: model (or nothing, where there is only one) and result.
    """
    rows = list(rows)
    models = list(dict.fromkeys(model for model, _ in rows))
    told: dict[tuple[str, str, str], dict[str, list[str]]] = {}  # style, form and words: backends with their models
    for model, row in rows:
        for style, form, words in _remarks(model, row):
            told.setdefault((style, form, words), {}).setdefault(row["backend"], []).append(model)
    order = ["bold red", "bold yellow", "yellow", "", "dim"]
    found = []
    for (style, form, words), backends in sorted(told.items(), key=lambda one: order.index(one[0][0])):
        names = [
            name if where == models else f"{name} ({', '.join(dict.fromkeys(where))})"
            for name, where in backends.items()
        ]
        found.append((form.format(", ".join(names), words), style))
    return found


def _remarks(model: str, row: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Style, form and words of what is to be said of one result."""
    status = row["status"]
    if status == "unavailable":
        return [(STYLES[status], "not available here: {0}: {1}", row["reason"])]
    if status != "agrees":
        return [(STYLES[status], f"{{0}} {status}: {{1}}", row["reason"])]
    said = []
    if row["arithmetic"] not in (None, "float32"):
        said.append(("yellow", "{0}: the size of its error shows that it computed in {1}", row["arithmetic"]))
    if row["bitwise_repeatable"] is False:
        said.append(("", "{0}: {1}", "a second run gave different bits"))
    if row["denormals"] == "flushed":
        said.append(("", "{0}: {1}", "denormal numbers are flushed to zero"))
    if row["batch_invariant"] is False:
        words = "rows computed one by one differ in their bits from the same rows in a batch"
        words += "" if row["single_row_error"] is None else f" (error then: {eps(row['single_row_error'])} eps)"
        said.append(("", "{0}: {1}", words))
    if flipped := row["decisions_flipped"]:
        differ = "differs" if flipped == 1 else "differ"
        words = f"{count(flipped, 'decision')} {differ} from float64's, within the tolerance of the boundary"
        said.append(("", "{0}: {1}", words))
    return said
