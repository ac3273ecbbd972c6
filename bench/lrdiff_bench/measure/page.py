"""Records of a run as a page of docs/results, with the pictures that can be drawn of them beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from types import SimpleNamespace
from typing import Any

from lrdiff_bench.measure.engine.record import Record
from lrdiff_bench.measure.screen import COLUMNS, constant_parameters, summary_cells, summary_of
from lrdiff_bench.report.page import as_given, render
from lrdiff_bench.report.record import PageFiles
from lrdiff_bench.report.tables import duration

__all__ = ["BENCHMARKS", "page_document", "records_page", "write_page"]

BENCHMARKS: Mapping[str, Any] = {"format": "lrdiff.bench.page", "version": 1}


def write_page(records: Sequence[Record], files: PageFiles) -> None:
    """Write the page of a run, with its pictures beside it, and its record: medians and quartiles, no samples.

    Nothing is done where neither is asked for.
    """
    if files.out is None and files.record is None:
        return
    from lrdiff_bench.measure.pictures import draw_rates, draw_sizes

    pictures = []
    if files.out is not None:
        drawn = [*draw_rates(records, files.out.parent), *draw_sizes(records, files.out.parent)]
        pictures = [file.name for file in drawn if file.suffix == ".png"]
    files.write(records_page(files.keep(page_document(records, as_given(), pictures))))


def page_document(records: Sequence[Record], command: str, pictures: Sequence[str] = ()) -> dict[str, Any]:
    """What the page tells.

    Args:
        records: of one run.
        command: that made them.
        pictures: names of files beside the page.
    """
    first = records[0]
    loads = [record.conditions.load for record in records if record.conditions.load is not None]
    machine = asdict(first.machine)
    del machine["id"]  # it is published
    return {
        **BENCHMARKS,
        "command": command,
        "created": first.created,
        "amount": _amount(records),
        "machine": machine,
        "load": [min(loads), max(loads)] if loads else None,
        "versions": {"torch": first.code.torch, "Python": first.code.python, "numpy": first.code.numpy},
        "commit": str(first.code),
        "pictures": list(pictures),
        "rows": [{"name": one.name, "parameters": one.parameters, **summary_of(one)} for one in records],
    }


def records_page(document: Mapping[str, Any]) -> str:
    """The document as Markdown: machine, versions and commit, pictures, then a table a case."""
    families = [
        _family(name, [row for row in document["rows"] if row["name"] == name])
        for name in dict.fromkeys(row["name"] for row in document["rows"])
    ]
    return render("benchmarks.md", **document, families=families)


def _family(name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    hidden = constant_parameters([SimpleNamespace(**row) for row in rows])
    parameters = rows[0]["parameters"]
    keys = [key for key in parameters if key not in hidden]
    return {
        "name": name,
        "fixed": ", ".join(f"{key} {value}" for key, value in parameters.items() if key in hidden),
        "heads": [*keys, *COLUMNS],
        "rows": [[*(row["parameters"][key] for key in keys), *summary_cells(row)] for row in rows],
    }


def _amount(records: Sequence[Record]) -> str:
    """How many cases, and how long they took: between records, as each is made when its case is done."""
    if len(records) == 1:
        return "1 case"
    made = [datetime.fromisoformat(record.created) for record in records]
    return f"{len(records)} cases in {duration((max(made) - min(made)).total_seconds())}"
