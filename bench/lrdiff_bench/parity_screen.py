"""The matrix of a parity check in a terminal: one model in full, or several beside each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from lrdiff_bench.screen_parts import line, plain_table

__all__ = ["SHORT", "eps", "draw_matrix", "draw_parity", "notes"]

SHORT = {"float32": "fp32", "tfloat32": "tf32", "float16": "fp16", "bfloat16": "bf16"}
STYLES = {"agrees": "green", "differs": "bold red", "refused": "bold yellow", "unavailable": "dim"}


def eps(value: float | None) -> str:
    """Write an error in units of eps.

    Example:
        >>> eps(0.75), eps(46012.0), eps(None)
        ('0.75', '4.6e+04', 'inf')
    """
    return "inf" if value is None else f"{value:.3g}" if value < 1e4 else f"{value:.2g}"


def draw_parity(console: Console, s: dict[str, Any]) -> None:
    """Draw one model's matrix: those that ran in a table, the others with their reasons below."""
    table = plain_table("backend", "result", "dtype", "error", "of", "flips", "again", "alone")
    for row in s["results"]:
        if row["status"] == "unavailable":
            continue
        ran = row["status"] in ("agrees", "differs")
        flipped = row["decisions_flipped"]
        table.add_row(
            row["backend"],
            Text(row["status"], style=STYLES[row["status"]]),
            SHORT[row["dtype"]],
            Text(eps(row["error"]), style=STYLES[row["status"]]) if ran else "",
            eps(row["allowed"]) if ran else "",
            "" if flipped is None else str(flipped),
            {True: "same", False: "other", None: ""}[row["repeats"]],
            _alone(row),
        )
    console.print(table)
    rows = [("", row) for row in s["results"]]
    for text, style in notes(rows):
        line(console, text, style)
    line(
        console,
        f"against {s['reference']} on {s['rows']} rows; errors in eps of the dtype at the largest output; again: bits of a "
        "second run; alone: of rows run one by one, the same or this far from float64",
    )


def _alone(row: Mapping[str, Any]) -> str:
    if row["alone_equal"] is None:
        return ""
    return "same" if row["alone_equal"] else eps(row["alone_error"])


def draw_matrix(console: Console, models: Mapping[str, dict[str, Any]]) -> None:
    """Draw several models beside each other: error of allowed, coloured by the result."""
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
        f"error of allowed, in eps of the dtype at the largest output, against float64; green agrees; rows: {rows_of}",
    )


def _cell(row: Mapping[str, Any]) -> Text:
    style = STYLES[row["status"]]
    if row["status"] in ("refused", "unavailable"):
        return Text(row["status"], style=style)
    return Text(f"{eps(row['error'])} of {eps(row['allowed'])}", style=style)


def notes(rows: Iterable[tuple[str, Mapping[str, Any]]]) -> list[tuple[str, str]]:
    """Return what a matrix leaves unsaid, as lines with their styles: what is wrong first, what is not here last.

    Args:
        rows: model (or nothing, where there is only one) and result.
    """
    rows = list(rows)
    bad: dict[tuple[str, str, str], list[str]] = {}
    kinds: dict[str, dict[str, list[str]]] = {key: {} for key in ("arithmetic", "again", "alone", "zero")}
    missing: dict[str, list[str]] = {}
    for model, row in rows:
        name = row["backend"]
        if row["status"] == "unavailable":
            missing.setdefault(row["reason"], []).append(name)
            continue
        if row["status"] in ("differs", "refused"):
            bad.setdefault((name, row["status"], row["reason"]), []).append(model)
            continue
        where = f"{name} ({model})" if model else name
        if row["arithmetic"] not in (None, "float32"):
            kinds["arithmetic"].setdefault(row["arithmetic"], []).append(where)
        if row["repeats"] is False:
            kinds["again"].setdefault("", []).append(where)
        if row["denormals"] == "flushed":
            kinds["zero"].setdefault("", []).append(name)
        if model and row["alone_equal"] is False:
            kinds["alone"].setdefault("", []).append(where)
    found = [
        (f"{name} {status}{_models(models)}: {reason}", STYLES[status])
        for (name, status, reason), models in bad.items()
    ]
    for arithmetic, names in kinds["arithmetic"].items():
        found.append((f"computed in {arithmetic}, by the error: {_list(names)}", "yellow"))
    texts = {
        "again": "a second run gave other bits: ",
        "zero": "flush denormal numbers to zero: ",
        "alone": "rows alone gave other bits than together, within the budget: ",
    }
    for key, text in texts.items():
        found += [(text + _list(names), "") for names in kinds[key].values()]
    found += [(f"not here: {_list(names)}: {reason}", "dim") for reason, names in missing.items()]
    return found


def _models(models: list[str]) -> str:
    return f" on {', '.join(models)}" if any(models) else ""


def _list(names: list[str]) -> str:
    return ", ".join(dict.fromkeys(names))
