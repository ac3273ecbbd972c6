"""Records of a run as a page of docs/results, with the pictures that can be drawn of them beside it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from lrdiff_bench.measure.engine.record import Record
from lrdiff_bench.measure.screen import COLUMNS, constant_parameters, record_cells
from lrdiff_bench.report.page import as_given, render
from lrdiff_core.files import write_text

__all__ = ["records_page", "write_page"]


def write_page(records: Sequence[Record], to: Path) -> None:
    """Write the page of a run, and its pictures beside it."""
    from lrdiff_bench.measure.pictures import draw_rates, draw_sizes

    drawn = [*draw_rates(records, to.parent), *draw_sizes(records, to.parent)]
    pictures = [file.name for file in drawn if file.suffix == ".png"]
    write_text(to, records_page(records, as_given(), pictures))


def records_page(records: Sequence[Record], command: str, pictures: Sequence[str] = ()) -> str:
    """Return the page: machine, versions and commit, pictures, then a table a case.

    Args:
        records: of one run.
        command: that made them.
        pictures: names of files beside the page.
    """
    first = records[0]
    loads = [record.conditions.load for record in records if record.conditions.load is not None]
    return render(
        "benchmarks.md",
        command=command,
        first=first,
        amount=_amount(records),
        device=first.machine.cpu if first.machine.device == "cpu" else first.machine.device,
        load=f", load {min(loads):.1f} to {max(loads):.1f} while measuring" if loads else "",
        pictures=pictures,
        families=[
            _family(name, [record for record in records if record.name == name])
            for name in dict.fromkeys(record.name for record in records)
        ],
    )


def _family(name: str, records: Sequence[Record]) -> dict[str, Any]:
    hidden = constant_parameters(records)
    parameters = records[0].parameters
    keys = [key for key in parameters if key not in hidden]
    return {
        "name": name,
        "fixed": ", ".join(f"{key} {value}" for key, value in parameters.items() if key in hidden),
        "heads": [*keys, *COLUMNS],
        "rows": [[*(record.parameters[key] for key in keys), *record_cells(record)] for record in records],
    }


def _amount(records: Sequence[Record]) -> str:
    """How many cases, and how long they took: between records, as each is made when its case is done."""
    if len(records) == 1:
        return "1 case"
    made = [datetime.fromisoformat(record.created) for record in records]
    return f"{len(records)} cases in {(max(made) - min(made)).total_seconds() / 60:.1f} minutes"
