"""What was proven of a file, in words and numbers: ``proof.json`` of a bundle."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata as installed
from typing import Any

from lrdiff_core.text import count
from lrdiff_export.model.domain import Domain
from lrdiff_export.publish.report import ExportReport
from lrdiff_export.verify.compare import Budget, Verdict

__all__ = ["proof_of"]

ROWS = {"held out": "rows that were given", "drawn": "rows drawn around the example"}
JUDGED = "that the module itself is right, or fair, or fit for a purpose: the file is compared with it"


def proof_of(report: ExportReport, file: str, card: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``proof.json``: what was proven, on what, and what is outside of it.

    Args:
        report: of the export.
        file: the model's name.
        card: what it says of itself.
    """
    verified, domain = report.verification, report.verification.domain
    sizes = sorted({case.batch for case in verified.cases})
    rows = f"{verified.rows} {ROWS[report.rows_are]}"
    proven = [
        f"the file answers as its module does in {len(verified.cases)} cases: {rows}, drawn and extreme ones, batches "
        f"of {sizes[0]} to {sizes[-1]} rows, graph optimisations off and full",
        *(_error_sentence(verdict, verified.budgets[verdict.output]) for verdict in verified.worst),
        "the exported program puts no limit on the rows of a batch"
        if domain.most_batch is None
        else f"batches of up to {domain.most_batch} rows",
    ]
    if verified.words is not None:
        proven.insert(1, verified.words.sentence)
    if verified.agrees_up_to is not None:
        proven.append(f"the given rows up to {verified.agrees_up_to:g} times as large")
    return {
        "format": "lrdiff.proof",
        "version": 1,
        "model": {
            "file": file,
            "sha256": report.sha256,
            "size": report.size,
            "data": None if report.data is None else asdict(report.data),
            "weights_sha256": card.get("weights_sha256"),
            "opset": report.opset,
            "ir_version": report.ir_version,
        },
        "proven": proven,
        "words": None if verified.words is None else verified.words.to_dict(),
        "outside": [*_too_few(domain), *domain.sentences, JUDGED],
        "domain": domain.to_dict(),
        "inputs": [port.to_dict() for port in report.inputs],
        "outputs": [port.to_dict() for port in report.outputs],
        "budgets": {name: asdict(budget) for name, budget in verified.budgets.items()},
        "cases": [
            {
                "name": case.name,
                "batch": case.batch,
                "optimisation": case.optimisation,
                "not_compared": case.skipped,
                "errors_eps": {one.output: one.error for one in case.verdicts},
            }
            for case in verified.cases
        ],
        "environment": {
            "onnxruntime": verified.onnxruntime,
            **{name: installed.version(name) for name in ("lrdiff", "torch", "onnx", "onnxscript", "numpy")},
            "Python": platform.python_version(),
            "on": f"{platform.system()} {platform.machine()}",
        },
        "card": {key: value for key, value in card.items() if key not in ("domain", "schema", "versions", "errors")},
    }


def _error_sentence(verdict: Verdict, budget: Budget) -> str:
    if budget.dtype.startswith("float"):
        return f"{verdict.output}: max error {verdict.error:.3g} eps, allowed {verdict.allowed:.3g} ({budget.dtype})"
    return f"{verdict.output}: equal ({budget.dtype})"


def _too_few(domain: Domain) -> list[str]:
    return [f"batches of fewer than {count(domain.least_batch, 'row')}"] if domain.least_batch else []
