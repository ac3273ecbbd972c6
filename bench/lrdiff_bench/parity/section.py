"""What a parity check adds to a report: how much of what is allowed each backend uses, and the error layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lrdiff_bench.parity.training_screen import bits_text, grouped, report_notes, step_text, worst_text
from lrdiff_bench.report import charts
from lrdiff_bench.report.parity_section import backend_rows, error_bars
from lrdiff_bench.report.parity_table import notes
from lrdiff_bench.report.parts import Part, fill_part

__all__ = ["parity_part", "training_parity_part"]

TOLD = (worst_text, step_text, bits_text)


def parity_part(document: Mapping[str, Any], name: str) -> Part:
    """The part of a report that shows a document of ``lrdiff parity``."""
    models = [
        {
            "name": model,
            "rows": report["rows"],
            "reference": report["reference"],
            "chart": error_bars(report["results"], f"{model}: error on each backend as a share of what is allowed"),
            "layers": _layers(model, document["layers"].get(model, [])),
            "notes": [text for text, _ in notes([("", row) for row in report["results"]])],
            **backend_rows(report["results"]),
        }
        for model, report in document["models"].items()
    ]
    ran = sum(len(one["ran"]) for one in models)
    finding = f"{'PASSED' if document['passed'] else 'FAILED'}: {ran} predictions on backends compared with float64."
    machine = f"{document['machine']['cpu']}, torch {document['torch']}"
    return Part(title=f"Parity {name}", finding=finding, body=fill_part("parity.html", models=models, machine=machine))


def _layers(model: str, found: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    told = [one for one in found if one["errors"]]
    if not told:
        return None
    layers = told[0]["layers"]
    series = [
        # An exact layer has no place on a logarithmic axis.
        charts.Line(name=one["backend"], x=list(range(1, len(layers) + 1)), y=[_floor(e) for e in one["errors"]])
        for one in told
        if one["layers"] == layers
    ]
    label = f"{model}: error by layer against float64, those of earlier layers carried along"
    return {
        "chart": charts.lines(series, label=label, x="layer", y="eps of float32", log_y=True, whole_x=True),
        "names": [[str(i), name] for i, name in enumerate(layers, start=1)],
    }


def _floor(error: float | None) -> float | None:
    return None if error is None else max(error, 0.05)


def training_parity_part(document: Mapping[str, Any], name: str) -> Part:
    """The part of a report that shows a document of ``lrdiff parity --training``."""
    reports = [
        {
            **report,
            "rows": [
                [row["implementation"], device, arithmetic, row["status"], *(of(row) for of in TOLD)]
                for (device, arithmetic), rows in grouped(report["results"]).items()
                for row in rows
            ],
            "notes": [*report["remarks"], *report_notes(report)],
        }
        for report in document["reports"]
    ]
    count = sum(len(one["rows"]) for one in reports)
    finding = f"{'PASSED' if document['passed'] else 'FAILED'}: {count} trainings compared with float64 step by step."
    body = fill_part("training_parity.html", reports=reports)
    return Part(title=f"Training parity {name}", finding=finding, body=body)
