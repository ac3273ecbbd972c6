"""A parity check as a page: Markdown with the matrix, what it leaves unsaid, machine, versions and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lrdiff_bench.report.parity_table import SHORT, eps, notes

__all__ = ["parity_page"]


def parity_page(document: Mapping[str, Any], command: str) -> str:
    """Return the page of a document of ``lrdiff parity``.

    Args:
        document: as written to ``parity.json``.
        command: that made it.
    """
    models, machine = document["models"], document["machine"]
    names = list(models)
    first = models[names[0]]["results"]
    lines = [
        "# Parity of predictions",
        "",
        f"Written by `{command}` on {machine['cpu']} ({machine['cpus']} cores, {machine['system']}), "
        f"lrdiff {document['lrdiff']}, Python {document['python']}.",
        "",
        "The same weights predict the same rows on every backend. Each cell is the largest error against float64, of "
        "what is allowed, in eps of the arithmetic in the second column at the scale of the output; see the "
        "[guide](../guide/parity.md)."
        if document["guide"]
        else "arithmetic in the second column at the output's scale.",
        "",
        "| backend | dtype | " + " | ".join(f"{name} ({models[name]['rows']} rows)" for name in names) + " |",
        "|---|---|" + "---|" * len(names),
    ]
    for i, head in enumerate(first):
        rows = [models[name]["results"][i] for name in names]
        if any(row["status"] != "unavailable" for row in rows):
            dtypes = "/".join(dict.fromkeys(SHORT[row["dtype"]] for row in rows))
            lines.append(f"| {head['backend']} | {dtypes} | " + " | ".join(map(_cell, rows)) + " |")
    flips = [row["decisions_flipped"] for name in names for row in models[name]["results"] if row["decisions_flipped"]]
    unexplained = sum(row["flips_unexplained"] or 0 for name in names for row in models[name]["results"])
    lines += [
        "",
        f"Decisions that differ from those of float64: {sum(flips)}; {unexplained} of them no margin explains.",
        "",
    ]
    rows_of = ((name, row) for name in names for row in models[name]["results"])
    lines += [f"- {text}" for text, _ in notes(rows_of)]
    lines += ["", f"| backend | ran with, on {names[-1]} |", "|---|---|"]
    for i, head in enumerate(first):
        facts = models[names[-1]]["results"][i]["facts"]
        if facts:
            said = ", ".join(f"{key}: {_fact(value)}" for key, value in facts.items() if key != "ran_on")
            lines.append(f"| {head['backend']} | {said} |")
    lines += ["", "![The matrix in colours](parity.png)", ""]
    if document["layers"]:
        lines += [
            "Error by layer: how far each layer's output is from float64, errors of earlier layers carried along.",
            "",
            "![Error by layer](parity-layers.png)",
            "",
        ]
    return "\n".join(lines)


def _cell(row: Mapping[str, Any]) -> str:
    if row["status"] in ("refused", "unavailable"):
        return str(row["status"])
    words = f"{eps(row['error'])} of {eps(row['allowed'])}"
    return words if row["status"] == "agrees" else f"**differs**: {words}"


def _fact(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{count} {key}" for key, count in value.items())
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
