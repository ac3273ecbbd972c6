"""Parity: the same weights on every backend here, judged against float64 on the CPU."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from torch import nn

from lrdiff_core.errors import CheckFailed, LrdiffError, UnavailableError
from lrdiff_export.model.precision import ARITHMETICS, EIGHT_BITS
from lrdiff_export.model.signature import Arrays
from lrdiff_export.parity.causes import cause_in_output, cause_in_weights
from lrdiff_export.parity.faults import DENORMALS, ELSEWHERE, PRECISION, Finding, reordered_classes
from lrdiff_export.parity.judge import Case
from lrdiff_export.parity.subjects import Decide, Subject, subject_of_module
from lrdiff_export.records import first_line
from lrdiff_export.runtimes import BACKENDS, Backend, find_backends
from lrdiff_export.runtimes.denormals import FLUSHED, denormals_of
from lrdiff_export.runtimes.protocol import Facts, RanElsewhereError, refuses_words
from lrdiff_export.runtimes.sandbox import Sandbox, in_sandbox
from lrdiff_export.verify.backend_result import AGREES, DIFFERS, REFUSED, UNAVAILABLE, BackendResult, ParityReport
from lrdiff_export.verify.compare import Verdict

__all__ = ["BackendResult", "ParityReport", "Subject", "check_parity", "check_subjects"]

ALONE_ROWS = 8  # rows run one by one and compared with the same rows run together

Watch = Callable[[str, str], object]


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
            of float64 are counted, and those that the margin does not explain fail.

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
    find_backends(backends or ())  # before anything is computed
    subject = subject_of_module(module, rows, onnx_bytes_or_path=onnx_bytes_or_path, decide=decide)
    return check_subjects({"model": subject}, backends=backends)["model"]


def check_subjects(
    subjects: Mapping[str, Subject], *, backends: Sequence[str] | None = None, watch: Watch | None = None
) -> dict[str, ParityReport]:
    """Compare several models; each backend is started once for all of them.

    Args:
        subjects: by name.
        backends: names from the registry; by default all that can run every subject.
        watch: told the backend's and the subject's name before each run.

    Raises:
        ConfigError: no such backend, or one that needs the module where there is only a file.
    """
    only_files = any(subject.module is None for subject in subjects.values())
    default = [name for name, backend in BACKENDS.items() if backend.needs_onnx or not only_files]
    found: dict[str, list[BackendResult]] = {name: [] for name in subjects}
    limits = [subject.limits for subject in subjects.values() if subject.limits is not None]
    with Sandbox(limits[0] if limits else None) as sandbox:  # starts nothing before it is needed
        for backend in find_backends(default if backends is None else backends, of_files=only_files):
            denormals: list[str | None] = []  # looked at once a backend
            limited = in_sandbox(backend, sandbox) if backend.needs_onnx and limits else backend
            try:
                for name, subject in subjects.items():
                    if watch is not None:
                        watch(backend.name, name)
                    result = _compare(backend if subject.limits is None else limited, subject, denormals)
                    lower = result.dtype != "float32" and backends is None
                    found[name].append(replace(result, counts=not lower))
            finally:
                for one in {id(backend): backend, id(limited): limited}.values():
                    one.release()
    return {
        name: ParityReport(reference=subject.reference, rows=len(subject.rows[0]), results=tuple(found[name]))
        for name, subject in subjects.items()
    }


class ChangedModel(CheckFailed):
    """A backend changed what is compared."""


@dataclass(frozen=True, kw_only=True)
class _Ran:
    """What a backend gave."""

    outputs: list[np.ndarray]
    again: list[np.ndarray]
    alone: list[np.ndarray] | None
    others: list[tuple[Case, list[np.ndarray]]]
    facts: Facts


def _compare(backend: Backend, subject: Subject, denormals: list[str | None]) -> BackendResult:
    blank = BackendResult(
        backend=backend.name, device=backend.device, dtype=backend.dtype or "float32", status=UNAVAILABLE
    )
    missing = backend.availability()
    if missing is None and any(one.dtype.kind in "OU" for one in subject.rows):
        missing = refuses_words(backend)
    if missing is not None:
        return replace(blank, reason=missing)
    try:
        ran = _run(backend, subject)
        if not denormals:
            exact = (backend.dtype or ran.facts.get("arithmetic")) == "float32"
            denormals.append(_denormals(backend) if exact else None)
    except UnavailableError as problem:
        return replace(blank, reason=problem.message)
    except RanElsewhereError as problem:
        return replace(blank, status=REFUSED, reason=problem.message, fault=ELSEWHERE)
    except ChangedModel:
        raise
    except LrdiffError as problem:
        return replace(blank, status=REFUSED, reason=problem.message)
    except Exception as problem:  # noqa: BLE001 - whatever a backend raises is its answer, and one line of the matrix
        return replace(blank, status=REFUSED, reason=f"{type(problem).__name__}: {first_line(problem)}")
    return _judge(backend, subject, ran, replace(blank, denormals=denormals[0] if denormals else None))


def _denormals(backend: Backend) -> str | None:
    """What the probe shows; nothing where a backend runs the model but not the probe."""
    try:
        return denormals_of(backend)
    except Exception:  # noqa: BLE001 - the model ran; only this stays unknown
        return None


def _run(backend: Backend, subject: Subject) -> _Ran:
    """Run all rows twice, the first ones by themselves, and then others."""
    before = subject.weights()
    model = subject.model_for(backend)
    predict = backend.prepare(model)

    def run_rows(rows: Sequence[np.ndarray]) -> list[np.ndarray]:
        if backend.needs_onnx and not subject.batched:
            answers = [predict(*map(np.array, sample)) for sample in zip(*rows, strict=True)]
            return [np.stack(several) for several in zip(*answers, strict=True)]
        return [np.asarray(one) for one in predict(*(one.copy() for one in rows))]

    def run(first: int = 0, end: int | None = None) -> list[np.ndarray]:
        return run_rows([rows[first:end] for rows in subject.rows])

    outputs = run()
    facts = _facts(backend)
    again, alone = run(), _alone(run, min(ALONE_ROWS, len(subject.rows[0])))
    others = []
    for case in subject.judge.cases():
        # Made for one size of batch, or made anew for each.
        if case.other_shape and (alone is None or getattr(backend, "builds_each_shape", False)):
            continue
        try:
            others.append((case, run_rows(case.rows)))
        except LrdiffError:
            raise
        except Exception as problem:
            raise CheckFailed(
                f"{case.name}: {type(problem).__name__}: {first_line(problem)}", help="see whether it runs other rows"
            ) from problem
        _facts(backend)
    if model is subject.module and subject.weights() != before:
        # Its weights are those that every later backend and the answers come from: nothing can be compared any more.
        raise ChangedModel(
            f"{backend.name} changes the module that it is given", help="let prepare() change a copy: copy.deepcopy()"
        )
    return _Ran(outputs=outputs, again=again, alone=alone, others=others, facts=facts)


def _facts(backend: Backend) -> Facts:
    """What was seen of the last run; refused where it ran elsewhere."""
    facts = dict(backend.facts())
    where = facts.get("ran_on")
    if where != backend.device:
        said = f"ran on {where}" if where else "does not say where it ran"
        raise RanElsewhereError(f"asked for {backend.device}, {said}", help="see lrdiff doctor")
    return facts


def _alone(run: Callable[[int, int], list[np.ndarray]], rows: int) -> list[np.ndarray] | None:
    """Run rows one by one; None where the model is made for one size of batch."""
    try:
        each = [run(row, row + 1) for row in range(rows)]
        return [np.concatenate(parts) for parts in zip(*each, strict=True)]
    except Exception:  # noqa: BLE001 - together they ran: what fails here is that a row is alone
        return None


def _judge(backend: Backend, subject: Subject, ran: _Ran, blank: BackendResult) -> BackendResult:
    judge = subject.judge
    dtype = backend.dtype or ran.facts.get("arithmetic")
    if not isinstance(dtype, str) or dtype not in ARITHMETICS:
        return replace(blank, status=REFUSED, reason=f"does not say in which arithmetic it computes, but {dtype!r}")
    together = judge.together()
    runs = [(together, ran.outputs), (together, ran.again)]
    if ran.alone:
        runs.append((judge.one_by_one(len(ran.alone[0])), ran.alone))
    try:
        verdicts = [max(case.judge(outputs, dtype), key=_severity) for case, outputs in (*runs, *ran.others)]
        outputs = together.judge(ran.outputs, dtype)
    except LrdiffError as problem:  # the model cannot be evaluated in that arithmetic: nobody knows what is right
        return replace(blank, dtype=dtype, status=REFUSED, reason=problem.message)
    # The rows as they were given say most; then, of the others, the first that is wrong.
    at = max(range(len(runs)), key=lambda one: _severity(verdicts[one]))
    if verdicts[at].agrees:
        at = next((i for i in range(len(runs), len(verdicts)) if not verdicts[i].agrees), at)
    worst, (case, given) = verdicts[at], [*runs, *ran.others][at]
    where = None if worst.agrees else case.locate(given, dtype, worst.output)
    prefix = "" if at < len(runs) else f"{case.name}: "
    result = replace(
        blank,
        dtype=dtype,
        status=AGREES if worst.agrees else DIFFERS,
        reason=None if worst.agrees else f"{prefix}{worst.output}: {worst.reason}",
        where=None if where is None else asdict(where),
        max_error=worst.error,
        tolerance=worst.allowed,
        bitwise_repeatable=_same_bits(ran.outputs, ran.again),
        batch_invariant=_same_bits(ran.alone, [one[:ALONE_ROWS] for one in ran.outputs]) if ran.alone else None,
        single_row_error=verdicts[2].error if ran.alone else None,
        other_errors={
            one.name: verdict.error for (one, _), verdict in zip(ran.others, verdicts[len(runs) :], strict=True)
        },
        facts=ran.facts,
        outputs=tuple(outputs),
    )
    if not prefix:
        result = _named(result, subject, ran)
    if where is not None and result.fault is None:
        result = replace(result, reason=f"{result.reason}; {where}")
    if result.denormals == FLUSHED and backend.keeps_denormals and result.status == AGREES:
        flushed = "denormal numbers are flushed to zero"
        return replace(result, status=DIFFERS, reason=flushed, fault=DENORMALS)
    return result


def _severity(verdict: Verdict) -> tuple[bool, int, float]:
    return verdict.severity


def _named(result: BackendResult, subject: Subject, ran: _Ran) -> BackendResult:
    """Add the arithmetic, the fault and the flips."""
    judge, answers = subject.judge, subject.judge.answers
    shapes = [one.shape for one in ran.outputs] == [one.shape for one in answers]
    if not shapes:
        return result
    exactly = all(verdict.agrees for verdict in judge.judge(ran.outputs, "float32"))
    arithmetic = "float32" if exactly else judge.name(ran.outputs)
    finding = _finding(subject, ran, result.dtype, arithmetic) if result.status == DIFFERS else None
    told = finding is None or finding.fault in (None, PRECISION)
    result = replace(result, arithmetic=arithmetic if told else None)
    if finding is not None:
        result = replace(result, fault=finding.fault, reason=f"{result.reason}; {finding.sentence}")
    if subject.decide is None:
        return result
    flips = np.asarray(subject.decide(ran.outputs[0])) != np.asarray(subject.decide(answers[0]))
    beyond = int(np.sum(flips & ~judge.within(ran.outputs[0], result.dtype)))
    result = replace(result, decisions_flipped=int(np.sum(flips)), flips_unexplained=beyond)
    if beyond and result.status == AGREES:
        return replace(result, status=DIFFERS, reason=f"{beyond} decisions flipped that no margin explains")
    return result


def _finding(subject: Subject, ran: _Ran, dtype: str, arithmetic: str | None) -> Finding | None:
    """What the outputs look like: classes in another order, another weight or function, a lower arithmetic."""
    expected = subject.judge.expected(dtype)
    outputs = [(output, one) for output, one in zip(ran.outputs, expected, strict=True)]
    wrong = [(output, one) for output, one in outputs if not one.compare(output).agrees]
    found = [reordered_classes(output, one.answer, one.widest()) for output, one in outputs]
    if not any(found) and subject.judge.module is not None and dtype == "float32":
        found = [cause_in_weights(subject.judge.module, subject.rows, ran.outputs, expected)]
    if not any(found):
        found = [cause_in_output(output, one) for output, one in wrong]
    if any(found):
        return next(one for one in found if one is not None)
    if arithmetic in (None, "float32"):
        return None
    if not subject.judge.shares_pattern(ran.outputs):
        return Finding(fault=None, sentence=f"its error has the size that {arithmetic} arithmetic makes")
    said = f"its error is that of {EIGHT_BITS}" if arithmetic == EIGHT_BITS else f"that is {arithmetic} arithmetic"
    return Finding(fault=PRECISION, sentence=said)


def _same_bits(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> bool:
    """Whether arrays are equal bit by bit, NaN and the sign of zero included."""
    return len(one) == len(other) and all(
        a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        for a, b in zip(one, other, strict=True)
    )
