"""The gate: no file gets its name before its very bytes were verified."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from lrdiff_core.errors import CheckFailed, DataError, InputError
from lrdiff_core.files import atomic_path
from lrdiff_export.convert import DEFAULT_OPSET, check_options, convert_to_onnx
from lrdiff_export.records import json_ready
from lrdiff_export.reference import check_rows
from lrdiff_export.verify import VerificationReport, verify_onnx

__all__ = ["ExportReport", "VerificationFailed", "export_onnx"]

DRAWN_ROWS = 64  # rows made up when the caller gives none


class VerificationFailed(CheckFailed):
    """An exported model does not predict as its module does.

    Attributes:
        report: what was run and how far off it was; None after the error crossed a process boundary.
    """

    report: VerificationReport | None = None


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was published.

    Attributes:
        path: the file's name as it was given.
        sha256: of the file.
        size: of the file, in bytes.
        opset: operator set of the file.
        ir_version: format version of the file.
        input_name: name of the input.
        output_names: names of the outputs.
        rows_are: ``held out`` when the caller gave rows, ``drawn`` when they were made up around the example.
        verification: the whole verification of these bytes.
    """

    path: str
    sha256: str
    size: int
    opset: int
    ir_version: int
    input_name: str
    output_names: tuple[str, ...]
    rows_are: str
    verification: VerificationReport

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {**json_ready(self), "verification": self.verification.to_dict()}


def export_onnx(
    module: nn.Module,
    path: str | os.PathLike[str],
    *,
    example: Tensor,
    rows: np.ndarray | None = None,
    input_name: str = "features",
    output_names: Sequence[str] = ("output",),
    opset: int = DEFAULT_OPSET,
    metadata: Mapping[str, str] | None = None,
) -> ExportReport:
    """Convert a module, verify the bytes in ONNX Runtime, and only then write them under ``path``.

    If anything fails nothing appears in the folder, and a file already there stays as it is.

    Args:
        module: takes one float32 tensor, gives a tensor or a tuple of tensors; it is copied, and keeps device and mode.
        path: the final name; its folder must exist.
        example: ``[batch, features...]``, float32; gives the shape of a row.
        rows: held-out rows ``[batch, features...]`` to verify on, float32. Without them 64 rows are drawn from a normal
            distribution with the example's mean and spread, and the report says so.
        input_name: name of the input in the file.
        output_names: one name an output.
        opset: operator set of the file, exactly.
        metadata: text to keep in the file.

    Raises:
        VerificationFailed: the model does not agree with the module; carries the report.
        ConfigError, DataError, InputError: an option, the rows, the module or the folder is wrong.
        UnavailableError: the exporter is not here, or does not reach the opset.

    Example:
        >>> import pathlib, tempfile
        >>> import torch
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "model.onnx"
        >>> report = export_onnx(nn.Linear(3, 1), file, example=torch.zeros(1, 3))
        >>> report.size == file.stat().st_size
        True
    """
    final = Path(path)
    metadata = dict(metadata or {})
    # All that can be refused at once is refused before the seconds that conversion takes.
    check_options(example=example, input_name=input_name, output_names=output_names, opset=opset, metadata=metadata)
    _check_place(final)
    held_out = _check_held_out(rows, example) if rows is not None else _draw_rows(example)
    data = convert_to_onnx(
        module, example=example, input_name=input_name, output_names=output_names, opset=opset, metadata=metadata
    )
    verification = verify_onnx(data, module, rows=held_out)
    if not verification.passed:
        failed = VerificationFailed(
            f"{final.name} did not pass verification: {verification.problems[0]}",
            help="nothing was written; the report lists every batch size, optimisation level and output",
        )
        failed.report = verification
        raise failed
    with atomic_path(final) as beside:
        try:
            beside.write_bytes(data)
        except OSError as problem:
            raise InputError(f"cannot write {final}: {problem.strerror}", help="free some space there") from problem
    return ExportReport(
        path=str(final),
        sha256=verification.sha256,
        size=verification.size,
        opset=verification.opset,
        ir_version=verification.ir_version,
        input_name=input_name,
        output_names=tuple(output_names),
        rows_are="drawn" if rows is None else "held out",
        verification=verification,
    )


def _check_place(final: Path) -> None:
    if final.is_dir():
        raise InputError(f"cannot write {final}: it is a folder", help="name a file, such as model.onnx in that folder")
    if not final.parent.is_dir():
        raise InputError(f"cannot write {final}: no folder {final.parent}", help="make the folder first")


def _check_held_out(rows: np.ndarray, example: Tensor) -> np.ndarray:
    rows = check_rows(rows)
    if rows.shape[1:] != tuple(example.shape[1:]):
        raise DataError(
            f"rows have shape {list(rows.shape)} and the example {list(example.shape)}",
            help="rows and example must agree in all but the batch dimension",
        )
    return rows


def _draw_rows(example: Tensor) -> np.ndarray:
    """Return the example's rows and 64 normal ones of its mean and spread, the same in every process."""
    given = example.detach().to("cpu").numpy()
    finite = np.where(np.isfinite(given), given, 0.0)
    spread = finite.std(axis=0)
    normal = np.random.default_rng(0).standard_normal((DRAWN_ROWS, *given.shape[1:]))
    # One row, or a constant feature, tells no spread: take that of standardised features.
    drawn = finite.mean(axis=0) + np.where(spread > 0, spread, 1.0) * normal
    return np.asarray(np.concatenate([given, drawn.astype(np.float32)]))
