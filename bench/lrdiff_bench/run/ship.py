"""The stages that end in a proven file: export with verification, and parity on every backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from lrdiff_bench.report.json import write_document
from lrdiff_core.config import RunConfig
from lrdiff_core.errors import InputError
from lrdiff_core.loop import Trained
from lrdiff_core.model import Predictor, TabularNet

__all__ = ["decider", "export_net", "export_trained", "parity_of_trained", "refuse_diverged", "test_rows", "with_words"]


def export_net(
    net: TabularNet,
    rows: np.ndarray,
    targets: np.ndarray,
    file: Path,
    *,
    config: RunConfig,
    words: bool = True,
    warnings: Sequence[str] = (),
    **options: Any,
) -> dict[str, Any]:
    """Export the main model with everything that its file says of itself, and golden vectors beside it.

    Args:
        net: on the CPU.
        rows: held-out raw rows [rows, features] to verify on.
        targets: [rows] class indices or numbers, for the metric of variants.
        file: where to.
        config: the run's settings, resolved.
        words: whether the file takes columns of categories as words; else it takes their codes.
        warnings: what its users must know of its quality.
        options: further ones of :func:`lrdiff_export.export`.

    Raises:
        InputError: the training diverged: weights are not finite.
        VerificationFailed: the file did not predict as the model; nothing was written.
    """
    from lrdiff_export import export_tabular  # here: it takes a second to import

    refuse_diverged(net)
    report = export_tabular(
        net,
        rows,
        out=file,
        config=config,
        words=words,
        warnings=warnings,
        decide=decider(net.spec.task),
        labels=targets,
        score=r_squared if net.spec.task == "regression" else None,  # else the share of right decisions
        **options,
    )
    return {**report.to_dict(), "passed": True, "preprocessing": True}


def refuse_diverged(net: nn.Module) -> None:
    """Let no model through whose training diverged, whatever it answers on the rows that are tried.

    Raises:
        InputError: a parameter is infinite or no number.

    Example:
        >>> refuse_diverged(nn.Linear(2, 1))
    """
    lost = next((name for name, one in net.named_parameters() if not one.isfinite().all()), None)
    if lost is not None:
        raise InputError(
            f"{lost} is not finite: a model whose training diverged is not exported", help="train with lower rates"
        )


def with_words(module: nn.Module, options: dict[str, Any], *, words: bool = True) -> dict[str, Any]:
    """Return options of :func:`lrdiff_export.export` for a model of a table, with its columns of categories.

    Args:
        module: that is exported.
        options: so far, ``output_names`` among them.
        words: whether the file takes them as words; else it takes codes, and is tried on codes alone.
    """
    from lrdiff_export import word_options

    return word_options(module, options, words=words)


def export_trained(trained: Trained, folder: Path, *, warnings: Sequence[str] = ()) -> dict[str, Any]:
    """Export into a run folder, with the report beside the file; ``passed`` is false where it was not written."""
    from lrdiff_export import VerificationFailed

    rows = trained.setup.rows
    targets = rows.table.target[rows.split.test]
    try:
        report = export_net(
            trained.net,
            test_rows(trained),
            targets,
            folder / "model.onnx",
            config=trained.setup.config,
            warnings=warnings,
        )
    except VerificationFailed as problem:
        if problem.report is None:
            raise
        report = {"verification": problem.report.to_dict(), "golden": [], "passed": False}
    # The names they will have; while the run is being written its folder has another one. Seconds differ every time.
    report = {**report, "path": "model.onnx", "golden": [Path(name).name for name in report["golden"]]}
    write_document(folder / "verification.json", report)
    return report


def parity_of_trained(trained: Trained, folder: Path) -> dict[str, Any]:
    """Compare the predictions of the backends that start fast, and of the file where there is one."""
    from lrdiff_export import BACKENDS, check_parity

    model = folder / "model.onnx"
    report = check_parity(
        Predictor(trained.net),
        test_rows(trained),
        # Those that take many seconds to start are left to `lrdiff parity`.
        backends=[name for name, backend in BACKENDS.items() if not backend.heavy],
        onnx_bytes_or_path=model if model.is_file() else None,
        decide=decider(trained.net.spec.task),
    ).to_dict()
    write_document(folder / "parity.json", report)
    return report


def decider(task: str) -> Callable[[np.ndarray], np.ndarray] | None:
    """Return how an answer [batch, outputs] becomes a decision [batch]; regression has none."""
    if task == "binary":
        return lambda answer: answer[:, 0] > 0.5
    if task == "multiclass":
        return lambda answer: answer.argmax(axis=1)
    return None


def r_squared(answers: np.ndarray, targets: np.ndarray) -> float:
    """Return the explained share of the variance of targets [rows] for answers [rows, 1].

    Example:
        >>> r_squared(np.array([[1.0], [2.0]]), np.array([1.0, 3.0]))
        0.5
    """
    wanted = targets.astype(np.float64)
    residual, total = np.sum((answers[:, 0] - wanted) ** 2), np.sum((wanted - wanted.mean()) ** 2)
    return float(1.0 - residual / total) if total else 0.0


def test_rows(trained: Trained) -> np.ndarray:
    """Return the raw rows of the test split."""
    return np.ascontiguousarray(trained.setup.rows.table.features[trained.setup.rows.split.test])
