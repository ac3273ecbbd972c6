"""Training parity as a page: Markdown with a table for each device and arithmetic, machine, versions and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lrdiff_bench.parity.training_screen import bits_text, grouped, report_notes, step_text, worst_text

__all__ = ["training_parity_page"]


def training_parity_page(document: Mapping[str, Any], command: str) -> str:
    """Return the page of a document of ``lrdiff parity --training``.

    Args:
        document: as written to ``training-parity.json``, and whether the ``guide`` lies beside it.
        command: that made it.
    """
    machine = document["machine"]
    more = "; see the [guide](../guide/training-parity.md)." if document["guide"] else "."
    lines = [
        "# Parity of training",
        "",
        f"Written by `{command}` on {machine['cpu']} ({machine['cpus']} cores, {machine['system']}), "
        f"lrdiff {document['lrdiff']}, Python {document['python']}.",
        "",
        "The same weights, batches and rates, trained in every lane and compared with float64 step by step. *Worst of "
        "budget*: the tensor that came closest to its budget over the whole training. *One step*: each update judged "
        "from the state that the lane was in before it, to which share of the way it went. *Bits*: how long they are "
        f"those of torch's fused optimizer{more}",
    ]  # fmt: skip
    for number, report in enumerate(document["reports"], start=1):
        lines += [
            "",
            f"## {report['job']}",
            "",
            f"{report['optimizer']}, rates {report['rates']}, {report['steps']} steps, {report['parameters']} weights; "
            f"against {report['reference']}; torch {report['flags']['torch']}, threads: {report['flags']['threads']}.",
            "",
            "| device | arithmetic | implementation | result | worst of budget | one step | bits |",
            "|---|---|---|---|---|---|---|",
        ]
        for (device, arithmetic), rows in grouped(report["results"]).items():
            for row in rows:
                status = row["status"] if row["status"] == "agrees" else f"**{row['status']}**"
                cells = [device, arithmetic, f"`{row['implementation']}`", status, worst_text(row), step_text(row)]
                lines.append(f"| {' | '.join([*cells, bits_text(row)])} |")
        lines += ["", *(f"- {text}" for text in (*report["remarks"], *report_notes(report)))]
        name = "training-parity" if len(document["reports"]) == 1 else f"training-parity-{number}"
        lines += ["", f"![Distance from float64 and share of the budget by step]({name}.png)"]
    return "\n".join(lines) + "\n"
