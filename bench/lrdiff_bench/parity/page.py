"""A parity check as a page: the matrix, what it leaves unsaid, machine, versions and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lrdiff_bench.report.page import made_by, render
from lrdiff_bench.report.parity_table import SHORT, eps, notes

__all__ = ["parity_page"]


def parity_page(document: Mapping[str, Any]) -> str:
    """Return the page of a document of ``lrdiff parity``.

    Args:
        document: as written to ``parity.json``, and whether the ``guide`` lies beside it.
    """
    models = document["models"]
    names = list(models)
    by_backend = [[models[name]["results"][i] for name in names] for i in range(len(models[names[0]]["results"]))]
    every = [(name, row) for name in names for row in models[name]["results"]]
    rows = [
        [same[0]["backend"], "/".join(dict.fromkeys(SHORT[row["dtype"]] for row in same)), *map(_cell, same)]
        for same in by_backend
        if any(row["status"] != "unavailable" for row in same)
    ]
    return render(
        "parity.md",
        made_by=made_by(document),
        guide=document["guide"],
        heads=["backend", "dtype", *(f"{name} ({models[name]['rows']} rows)" for name in names)],
        rows=rows,
        flips=sum(row["decisions_flipped"] or 0 for _, row in every),
        unexplained=sum(row["flips_unexplained"] or 0 for _, row in every),
        notes=[text for text, _ in notes(every)],
        last=names[-1],
        facts=[[same[-1]["backend"], _facts(same[-1]["facts"])] for same in by_backend if same[-1]["facts"]],
        layers=document["layers"],
    )


def _cell(row: Mapping[str, Any]) -> str:
    if row["status"] in ("refused", "unavailable"):
        return str(row["status"])
    words = f"{eps(row['max_error'])} of {eps(row['tolerance'])}"
    return words if row["status"] == "agrees" else f"**differs**: {words}"


def _facts(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}: {_fact(value)}" for key, value in facts.items() if key != "ran_on")


def _fact(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{count} {key}" for key, count in value.items())
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
