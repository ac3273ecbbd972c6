"""Training parity as a page: a table for each device and arithmetic, machine, versions and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lrdiff_bench.parity.training_screen import bits_text, grouped, report_notes, step_text, worst_text
from lrdiff_bench.report.page import made_by, render

__all__ = ["training_parity_page"]


def training_parity_page(document: Mapping[str, Any]) -> str:
    """Return the page of a document of ``lrdiff parity --training``.

    Args:
        document: as written to ``training-parity.json``, and whether the ``guide`` lies beside it.
    """
    several = len(document["reports"]) > 1
    reports = [
        {
            **report,
            "rows": [
                [device, arithmetic, *_cells(row)]
                for (device, arithmetic), rows in grouped(report["results"]).items()
                for row in rows
            ],
            "notes": [*report["remarks"], *report_notes(report)],
            "picture": f"training-parity-{number}" if several else "training-parity",
        }
        for number, report in enumerate(document["reports"], start=1)
    ]
    return render("training_parity.md", made_by=made_by(document), guide=document["guide"], reports=reports)


def _cells(row: Mapping[str, Any]) -> list[str]:
    status = row["status"] if row["status"] == "agrees" else f"**{row['status']}**"
    return [f"`{row['implementation']}`", status, worst_text(row), step_text(row), bits_text(row)]
