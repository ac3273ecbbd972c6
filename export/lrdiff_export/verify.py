"""Verification: does ONNX Runtime answer as the module does, for these very bytes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from torch import nn

from lrdiff_core.errors import LrdiffError
from lrdiff_export.budget import Budget, Verdict, Yardstick
from lrdiff_export.modelfile import load_onnx, parse_onnx
from lrdiff_export.predictor import describe_shape, fits, open_session
from lrdiff_export.records import first_line, json_ready
from lrdiff_export.reference import check_rows

__all__ = ["BATCH_SIZES", "CaseResult", "VerificationReport", "verify_onnx"]

# One row, the smallest batches, one that no vector width divides, and one larger than any unrolled tail.
BATCH_SIZES = (1, 2, 3, 7, 64)
_OPTIMISATIONS = {"off": False, "full": True}


@dataclass(frozen=True, kw_only=True)
class CaseResult:
    """One batch size at one optimisation level.

    Attributes:
        batch: rows in the batch.
        optimisation: ``off`` or ``full``, of ONNX Runtime's graph optimisations.
        verdicts: one an output; empty when the run itself failed.
        problem: why the run failed, in one line; None when it ran.
    """

    batch: int
    optimisation: str
    verdicts: tuple[Verdict, ...]
    problem: str | None = None

    @property
    def passed(self) -> bool:
        """Whether it ran and every output agrees."""
        return self.problem is None and all(verdict.agrees for verdict in self.verdicts)


@dataclass(frozen=True, kw_only=True)
class VerificationReport:
    """What was verified and how far off it was.

    Attributes:
        sha256: of the bytes that were run.
        size: of them, in bytes.
        opset: operator set of the file.
        ir_version: format version of the file.
        onnxruntime: version of the runtime.
        rows: number of rows given; small batches take the first of them, again from the start where they are few.
        budgets: one an output, under the file's names.
        worst: the worst verdict of each output over all cases.
        cases: every batch size at every optimisation level.
        problems: what failed, one line each; empty when it passed.
    """

    sha256: str
    size: int
    opset: int
    ir_version: int
    onnxruntime: str
    rows: int
    budgets: dict[str, Budget]
    worst: tuple[Verdict, ...]
    cases: tuple[CaseResult, ...]
    problems: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether something was run and nothing failed."""
        return bool(self.cases) and not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; errors that are not finite become None."""
        return {"passed": self.passed, **json_ready(self)}


def verify_onnx(
    path_or_bytes: str | os.PathLike[str] | bytes, module: nn.Module, *, rows: np.ndarray
) -> VerificationReport:
    """Run an ONNX model in ONNX Runtime against the module it came from.

    Batches of 1, 2, 3, 7, 64 and all rows, graph optimisations off and full, every output: dtype, shape, places of NaN
    and infinity, and the error against float64 within the budget of :mod:`lrdiff_export.budget`. Verification is for
    rows like those given; it says nothing of rows unlike them.

    Args:
        path_or_bytes: an ONNX file, or its bytes.
        module: the original module, any device and mode; it is copied.
        rows: ``[batch, features...]``, float32, held out from training.

    Returns:
        A report; a model that does not agree is reported, not raised.

    Raises:
        ModelFileError: not an ONNX file.
        DataError: the rows cannot be fed to a model.
        InputError: the module cannot be evaluated in float64.

    Example:
        >>> import torch
        >>> from lrdiff_export import convert_to_onnx
        >>> module = nn.Sequential(nn.Linear(3, 2), nn.Sigmoid())
        >>> data = convert_to_onnx(module, example=torch.zeros(1, 3))
        >>> verify_onnx(data, module, rows=np.ones((5, 3), np.float32)).passed
        True
    """
    data = path_or_bytes if isinstance(path_or_bytes, bytes) else load_onnx(path_or_bytes)
    model = parse_onnx(data)
    rows = check_rows(rows)
    names = [output.name for output in model.graph.output]
    yardstick = Yardstick(module, rows)
    if len(names) == len(yardstick.budgets):
        yardstick.names = names
    problems = _interface_problems(model, rows, outputs=len(yardstick.budgets))
    cases: tuple[CaseResult, ...] = ()
    if not problems:
        cases, problems = _run_cases(data, model.graph.input[0].name, yardstick, rows)
    worst = _worst(cases)
    problems += [f"output {verdict.output!r}: {verdict.reason}" for verdict in worst if not verdict.agrees]
    return VerificationReport(
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
        opset=next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0),
        ir_version=model.ir_version,
        onnxruntime=onnxruntime.__version__,
        rows=len(rows),
        budgets=dict(zip(yardstick.names, yardstick.budgets, strict=True)),
        worst=worst,
        cases=cases,
        problems=tuple(problems),
    )


def _interface_problems(model: onnx.ModelProto, rows: np.ndarray, *, outputs: int) -> list[str]:
    """Compare inputs and outputs of the graph with what the module takes and gives."""
    # Files of IR version 3 list the weights among the inputs.
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [one for one in model.graph.input if one.name not in weights]
    if len(inputs) != 1:
        return [f"the file takes {len(inputs)} inputs, the module one"]
    kind = inputs[0].type.tensor_type
    shape = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in kind.shape.dim]
    problems = []
    if kind.elem_type != onnx.TensorProto.FLOAT:
        problems.append(f"input {inputs[0].name!r} is not float32")
    elif shape and isinstance(shape[0], int):
        problems.append(f"input {inputs[0].name!r} takes batches of {shape[0]} only: the batch dimension is not free")
    elif not fits(rows.shape, shape):
        problems.append(f"input {inputs[0].name!r} takes {describe_shape(shape)}, the rows are {list(rows.shape)}")
    if len(model.graph.output) != outputs:
        problems.append(f"the file gives {len(model.graph.output)} outputs, the module {outputs}")
    return problems


def _run_cases(
    data: bytes, input_name: str, yardstick: Yardstick, rows: np.ndarray
) -> tuple[tuple[CaseResult, ...], list[str]]:
    try:
        sessions = {name: open_session(data, optimise=optimise) for name, optimise in _OPTIMISATIONS.items()}
    except LrdiffError as problem:
        return (), [problem.message]
    cases = []
    for batch in dict.fromkeys((*BATCH_SIZES, len(rows))):
        part = rows[np.arange(batch) % len(rows)]
        reference = yardstick.reference(part)
        for name, session in sessions.items():
            try:
                outputs = session.run(None, {input_name: part})
            except Exception as problem:  # noqa: BLE001 - its exceptions share no base below Exception
                text = f"batch {batch}, optimisations {name}: onnxruntime failed: {first_line(problem)}"
                cases.append(CaseResult(batch=batch, optimisation=name, verdicts=(), problem=text))
                continue
            verdicts = tuple(yardstick.judge(outputs, reference))
            cases.append(CaseResult(batch=batch, optimisation=name, verdicts=verdicts))
    return tuple(cases), [case.problem for case in cases if case.problem]


def _worst(cases: Sequence[CaseResult]) -> tuple[Verdict, ...]:
    """The worst verdict of each output, in the order of the outputs."""
    worst: dict[str, Verdict] = {}
    for case in cases:
        for verdict in case.verdicts:
            if verdict.output not in worst or verdict.severity > worst[verdict.output].severity:
                worst[verdict.output] = verdict
    return tuple(worst.values())
