"""Parity: the same weights on every backend here, judged against float64 on the CPU."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from lrdiff_core.errors import ConfigError, LrdiffError, UnavailableError
from lrdiff_export.backends import BACKENDS, Backend
from lrdiff_export.budget import Yardstick
from lrdiff_export.convert import convert_to_onnx
from lrdiff_export.judging import Verdict
from lrdiff_export.modelfile import load_onnx, parse_onnx
from lrdiff_export.ports import Arrays, as_arrays
from lrdiff_export.records import first_line, json_ready
from lrdiff_export.reference import prepare_module

__all__ = ["AGREES", "DIFFERS", "REFUSED", "UNAVAILABLE", "BackendResult", "ParityReport", "check_parity"]

AGREES = "agrees"  # ran where it should, every output within its budget
DIFFERS = "differs"  # ran, and an output left its budget
REFUSED = "refused"  # is here, and would not run this model, or ran elsewhere than asked
UNAVAILABLE = "unavailable"  # is not here

Decide = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class BackendResult:
    """One line of the matrix.

    Attributes:
        backend: its name in the registry.
        device: where it promises to run.
        dtype: the arithmetic it promises.
        status: ``agrees``, ``differs``, ``refused`` or ``unavailable``.
        reason: why it does not agree, in one line; None when it does.
        error: of the worst output, in eps units; None when it did not run.
        allowed: the budget of that output; None when it did not run.
        decisions_flipped: rows whose decision differs from that of float64; None when not asked for, or not run.
        outputs: one verdict an output.
    """

    backend: str
    device: str
    dtype: str
    status: str
    reason: str | None = None
    error: float | None = None
    allowed: float | None = None
    decisions_flipped: int | None = None
    outputs: tuple[Verdict, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """The matrix.

    Attributes:
        reference: what everything is compared with.
        rows: number of rows compared.
        results: one a backend, in the order asked for.
    """

    reference: str
    rows: int
    results: tuple[BackendResult, ...]

    @property
    def passed(self) -> bool:
        """Whether at least one backend agrees and none differs or refused; unavailable ones do not count."""
        statuses = {result.status for result in self.results}
        return AGREES in statuses and not statuses & {DIFFERS, REFUSED}

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; errors that are not finite become None."""
        return {"passed": self.passed, **json_ready(self)}


def check_parity(
    module: nn.Module,
    rows: Arrays,
    *,
    backends: Sequence[str] | None = None,
    onnx_bytes_or_path: bytes | str | os.PathLike[str] | None = None,
    decide: Decide | None = None,
) -> ParityReport:
    """Predict the same rows with the same weights on every backend and compare with float64 on the CPU.

    Args:
        module: takes tensors by position, or by keyword where ``rows`` is a mapping; it is copied.
        rows: ``[batch, ...]`` an input, float32, integer or bool.
        backends: names from the registry; all of them by default.
        onnx_bytes_or_path: what ONNX backends run; converted from ``module`` when not given.
        decide: from the first output ``[batch, ...]`` to one decision a row ``[batch]``; flips against the decisions
            of float64 are counted. It judges nothing: a flip inside the budget is the model's margin, not a fault.

    Raises:
        ConfigError: no such backend.
        DataError: the rows cannot be fed to a model.
        InputError: the module cannot be evaluated in float64.
        ModelFileError: the ONNX file is not one.

    Example:
        >>> rows = np.ones((4, 3), np.float32)
        >>> report = check_parity(nn.Linear(3, 1), rows, backends=["eager", "onnxruntime"])
        >>> [result.status for result in report.results]
        ['agrees', 'agrees']
    """
    names = list(BACKENDS) if backends is None else list(backends)
    for name in names:
        if name not in BACKENDS:
            raise ConfigError(f'no backend "{name}"', help=f"backends: {', '.join(BACKENDS)}")
    keywords = tuple(rows) if isinstance(rows, Mapping) else None
    arrays = as_arrays(rows)
    prepared = prepare_module(module, [torch.from_numpy(one[:2].copy()) for one in arrays], keywords=keywords)
    yardstick = Yardstick(prepared, arrays)
    get_onnx = _OnnxSource(prepared, arrays, onnx_bytes_or_path)
    results = [_compare(BACKENDS[name], prepared, arrays, yardstick, get_onnx, decide) for name in names]
    return ParityReport(reference="eager float64 on cpu", rows=len(arrays[0]), results=tuple(results))


class _OnnxSource:
    """ONNX bytes, given or converted once and only if a backend asks."""

    def __init__(
        self, module: nn.Module, rows: tuple[np.ndarray, ...], given: bytes | str | os.PathLike[str] | None
    ) -> None:
        self._module = module
        self._rows = rows
        self._data: bytes | None = None
        if isinstance(given, bytes):
            parse_onnx(given)
            self._data = given
        elif given is not None:
            self._data = load_onnx(given)

    def __call__(self, outputs: int) -> bytes:
        if self._data is None:
            names = [f"output{index}" for index in range(outputs)]
            example = [torch.tensor(one[:2]) for one in self._rows]
            self._data = convert_to_onnx(self._module, example=example, output_names=names)
        return self._data


def _compare(
    backend: Backend,
    module: nn.Module,
    rows: tuple[np.ndarray, ...],
    yardstick: Yardstick,
    get_onnx: _OnnxSource,
    decide: Decide | None,
) -> BackendResult:
    def result(status: str, reason: str | None, **measured: Any) -> BackendResult:
        return BackendResult(
            backend=backend.name, device=backend.device, dtype=backend.dtype, status=status, reason=reason, **measured
        )

    reference = yardstick.answers
    missing = backend.availability()
    if missing is not None:
        return result(UNAVAILABLE, missing)
    try:
        onnx = get_onnx(len(reference)) if backend.needs_onnx else None
        outputs = backend.prepare(module, onnx)(*(one.copy() for one in rows))
    except UnavailableError as problem:
        return result(UNAVAILABLE, problem.message)
    except LrdiffError as problem:
        return result(REFUSED, problem.message)
    except Exception as problem:  # noqa: BLE001 - whatever a backend raises is its answer, and one line of the matrix
        return result(REFUSED, f"{type(problem).__name__}: {first_line(problem)}")
    finally:
        backend.release()

    verdicts = tuple(yardstick.judge(outputs, reference))
    worst = max(verdicts, key=lambda verdict: verdict.severity)
    flipped = None
    if decide is not None and outputs and outputs[0].shape == reference[0].shape:
        flipped = int(np.sum(np.asarray(decide(outputs[0])) != np.asarray(decide(reference[0]))))
    reason = None if worst.agrees else f"{worst.output}: {worst.reason}"
    return result(
        AGREES if worst.agrees else DIFFERS,
        reason,
        error=worst.error,
        allowed=worst.allowed,
        decisions_flipped=flipped,
        outputs=verdicts,
    )
