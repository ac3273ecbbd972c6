"""Verification: does ONNX Runtime answer as the module does, for these very bytes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from lrdiff_core.errors import LrdiffError, ModelFileError
from lrdiff_export.model.domain import Domain, read_domain
from lrdiff_export.model.prepared import prepare
from lrdiff_export.model.signature import Arrays, as_arrays
from lrdiff_export.model.text_inputs import TextInputs
from lrdiff_export.onnx_file.constraints import BatchConstraints
from lrdiff_export.onnx_file.load import load_onnx, model_inputs, opset_of, parse_onnx
from lrdiff_export.records import first_line, json_ready
from lrdiff_export.runtimes.predictor import describe_shape, fits, open_session
from lrdiff_export.runtimes.sandbox import Sandbox
from lrdiff_export.verify.compare import Budget, Verdict
from lrdiff_export.verify.effort import BATCH_SIZES
from lrdiff_export.verify.expected import compare_outputs
from lrdiff_export.verify.inputs import Battery, Case
from lrdiff_export.verify.words import WordsReport, interface_problems, takes_words

__all__ = ["BATCH_SIZES", "CaseResult", "VerificationReport", "run_again", "run_battery", "verify_onnx"]

_OPTIMISATIONS = {"off": False, "full": True}

Run = Callable[[Sequence[np.ndarray]], list[np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class CaseResult:
    """One case of the battery at one optimisation level.

    Attributes:
        name: of the case.
        batch: rows in the batch.
        optimisation: ``off`` or ``full``, of ONNX Runtime's graph optimisations.
        verdicts: one an output; empty when the run itself failed.
        problem: why the run failed, in one line; None when it ran.
        skipped: elements that were not compared.
        bitwise: for rows alone: whether they equal rows together to the last bit; None for other cases.
    """

    name: str
    batch: int
    optimisation: str
    verdicts: tuple[Verdict, ...]
    problem: str | None = None
    skipped: int = 0
    bitwise: bool | None = None

    @property
    def passed(self) -> bool:
        """Whether it ran and every output agrees."""
        return self.problem is None and all(verdict.agrees for verdict in self.verdicts)

    @property
    def where(self) -> str:
        """Name and optimisation level in one line."""
        return f"{self.name}, {self.batch} row{'s' if self.batch > 1 else ''}, optimisations {self.optimisation}"


@dataclass(frozen=True, kw_only=True)
class VerificationReport:
    """What was verified and how far off it was.

    Attributes:
        sha256: of the bytes that were run.
        size: of them, in bytes.
        opset: operator set of the file.
        ir_version: format version of the file.
        onnxruntime: version of the runtime.
        rows: number of held-out rows that were run.
        budgets: one an output, under the file's names.
        worst: the worst verdict of each output over all cases.
        cases: every case at every optimisation level.
        domain: for which inputs the file is proven.
        not_tried: what was not, because it would take many times as long as the conversion; one line each.
        words: what was tried of columns of words; None where the file takes numbers alone.
        agrees_up_to: the largest factor of :data:`lrdiff_export.verify.effort.LADDER` by which held-out rows may be
            multiplied with every smaller one agreeing too; 1 if not even the smallest, None without a floating input.
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
    domain: Domain
    not_tried: tuple[str, ...]
    agrees_up_to: float | None
    problems: tuple[str, ...]
    words: WordsReport | None = None

    @property
    def passed(self) -> bool:
        """Whether something was run and nothing failed."""
        return bool(self.cases) and not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; errors that are not finite become None."""
        return {"passed": self.passed, **json_ready(self)}


def verify_onnx(
    path_or_bytes: str | os.PathLike[str] | bytes,
    module: nn.Module,
    *,
    rows: Arrays,
    sandbox: Sandbox | None = None,
    text: TextInputs | None = None,
) -> VerificationReport:
    """Run an ONNX model in ONNX Runtime against the module it came from.

    Every case of :mod:`lrdiff_export.verify.inputs`, graph optimisations off and full, every output: dtype, shape,
    places of NaN and infinity, and the error against float64 within the budget
    of :mod:`lrdiff_export.verify.tolerance`.

    Args:
        path_or_bytes: an ONNX file, or its bytes.
        module: the original module, any device and mode; it is copied.
        rows: held out from training: ``[batch, ...]`` for one input, a sequence by position, or a mapping by the names
            of forward's arguments, which are then the names of the file's inputs.
        sandbox: where to run a file that nobody vouches for, with limits on each run; it takes a path, not bytes.
        text: of a file that takes words: how it takes the columns of the rows, which hold their codes.

    Returns:
        A report; a model that does not agree is reported, not raised.

    Raises:
        ModelFileError: not an ONNX file, or one that does not run within the limits of the sandbox.
        DataError: the rows cannot be fed to a model.
        InputError: the module does not take them, or cannot be evaluated in float64.

    Example:
        >>> import torch
        >>> from lrdiff_export import convert_to_onnx
        >>> module = nn.Sequential(nn.Linear(3, 2), nn.Sigmoid())
        >>> data = convert_to_onnx(module, example=torch.zeros(1, 3))
        >>> verify_onnx(data, module, rows=np.ones((5, 3), np.float32)).passed
        True
    """
    opened: Callable[[bool], Run] | None = None
    if sandbox is not None:
        assert not isinstance(path_or_bytes, bytes)
        sandbox.inspect(path_or_bytes)  # before it is parsed here
        opened = partial(_runner_in, sandbox, path_or_bytes)
    data = path_or_bytes if isinstance(path_or_bytes, bytes) else load_onnx(path_or_bytes)
    model = parse_onnx(data)
    named = isinstance(rows, Mapping)
    names = [one.name for one in model_inputs(model)] if text is None else [text.numbers]
    inputs = names if named else None
    arrays = as_arrays(rows, inputs)
    outputs = [output.name for output in model.graph.output]
    examples = [torch.from_numpy(one[:2].copy()) for one in arrays]
    example = examples if inputs is None else dict(zip(inputs, examples, strict=True))
    ranks = [len(one.type.tensor_type.shape.dim) for one in model_inputs(model)] if text is None else [arrays[0].ndim]
    batched = ranks != [one.ndim - 1 for one in arrays]
    said = read_domain({one.key: one.value for one in model.metadata_props})
    fitting = len(ranks) == len(arrays)  # otherwise the report says so
    prepared = prepare(
        module,
        example,
        input_names=None if named or not fitting else names,
        output_names=outputs,
        batched=batched,
        dynamic_axes=_dynamic_axes(model, batched) if fitting else None,
    )
    declared = said.declared if text is None else text.coded(Domain(), text.numbers)
    return run_battery(
        data, Battery(prepared, arrays, BatchConstraints(most=said.most_batch), declared), opened=opened, text=text
    )


def _dynamic_axes(model: onnx.ModelProto, batched: bool) -> dict[str, dict[int, str]]:
    """Free dimensions of the inputs besides the batch, by input."""
    found: dict[str, dict[int, str]] = {}
    for one in model_inputs(model):
        for axis, dim in enumerate(one.type.tensor_type.shape.dim):
            if axis >= int(batched) and dim.dim_param.isidentifier():
                found.setdefault(one.name, {})[axis] = dim.dim_param
    return found


def run_battery(
    data: bytes,
    battery: Battery,
    *,
    opened: Callable[[bool], Run] | None = None,
    watch: Callable[[str], object] = lambda doing: None,
    text: TextInputs | None = None,
) -> VerificationReport:
    """Run the bytes of a model through every case of a battery.

    Args:
        data: a valid ONNX file.
        battery: of the module that it should answer as.
        opened: gives what runs the model with or without optimisations; ONNX Runtime in this process by default.
        watch: told what is being run.
        text: how the file takes numbers and words in place of the battery's rows.
    """
    opened = opened or partial(_runner, data)
    model = onnx.ModelProto.FromString(data)
    reference = battery.reference
    if text is None:
        problems = _input_problems(model, battery)
    else:
        problems, opened = interface_problems(model, text), _opened_to_words(opened, text)
    problems += _output_problems(model, outputs=len(reference.expected))
    cases: list[CaseResult] = []
    scale: float | None = None
    domain = battery.domain
    if not problems:
        cases, domain, scale, problems = _run_levels(opened, battery, domain, watch)
    problems += _problems_of(cases)
    return VerificationReport(
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
        opset=opset_of(model),
        ir_version=model.ir_version,
        onnxruntime=onnxruntime.__version__,
        rows=len(battery.rows[0]),
        budgets={one.name: one.budget for one in reference.expected},
        worst=_worst(cases),
        cases=tuple(cases),
        domain=domain,
        not_tried=battery.not_tried,
        agrees_up_to=scale,
        problems=tuple(problems),
    )


def run_again(
    first: VerificationReport, data: bytes, battery: Battery, text: TextInputs | None = None
) -> VerificationReport:
    """Run the held-out rows through a file whose graph was verified, and which only tells more of itself now.

    Args:
        first: of the file that said less.
        data: the file with what was measured in it.
        battery: of both.
        text: as for :func:`run_battery`.

    Returns:
        The first report, with the hash and size of these bytes and what they answered.
    """
    run = _runner(data, optimise=True)
    run = _in_pieces(run if text is None else takes_words(run, text), battery)
    again = _run_case(run, battery.cases[0], "full")
    cases = tuple(again if (one.name, one.optimisation) == ("held out", "full") else one for one in first.cases)
    return replace(
        first,
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
        cases=cases,
        worst=_worst(cases),
        problems=tuple(_problems_of([again])),
    )


def _run_levels(
    opened: Callable[[bool], Run], battery: Battery, domain: Domain, watch: Callable[[str], object]
) -> tuple[list[CaseResult], Domain, float | None, list[str]]:
    """Run every case at every level of optimisation; one session at a time, because each holds all weights.

    Returns:
        The results, for which inputs the file is proven, the largest scale at which backends agree, and why it could
        not be opened, where it could not.
    """
    found: list[list[CaseResult]] = []
    scale: float | None = None
    for level, optimise in _OPTIMISATIONS.items():
        try:
            run = _in_pieces(opened(optimise), battery)
        except LrdiffError as problem:
            return [], domain, None, [problem.message]
        results = []
        for case in battery.cases:
            watch(f"{case.name}, optimisations {level}")
            results.append(_run_case(run, case, level))
        if all(result.passed for result in results):  # what fails otherwise has no domain
            for case in battery.limits:
                watch(f"{case.name}, optimisations {level}")
                result = _run_case(run, case, level)
                if case.limit is None:
                    results.append(result)
                elif not result.passed:
                    domain = case.limit(domain)
            if optimise:
                scale = _largest_scale(run, battery)
        found.append(results)
        del run
    return [one for pair in zip_longest(*found) for one in pair if one is not None], domain, scale, []


def _in_pieces(run: Run, battery: Battery) -> Run:
    """Run larger batches in pieces that the program is made for, and samples without a batch one after the other."""
    most = battery.batches.most

    def samples(feeds: Sequence[np.ndarray]) -> list[np.ndarray]:
        answers = [run([np.asarray(one) for one in sample]) for sample in zip(*feeds, strict=True)]
        return [np.stack(several) for several in zip(*answers, strict=True)]

    if not battery.prepared.batched:
        return samples
    if most is None:
        return run

    def pieces(feeds: Sequence[np.ndarray]) -> list[np.ndarray]:
        parts = [run([one[first : first + most] for one in feeds]) for first in range(0, len(feeds[0]), most)]
        return [np.concatenate(several) for several in zip(*parts, strict=True)]

    return pieces


def _opened_to_words(opened: Callable[[bool], Run], text: TextInputs) -> Callable[[bool], Run]:
    return lambda optimise: takes_words(opened(optimise), text)


def _input_problems(model: onnx.ModelProto, battery: Battery) -> list[str]:
    """Compare inputs of the graph with what the module takes."""
    inputs, batched = model_inputs(model), battery.prepared.batched
    rows = battery.rows if batched else [one[0] for one in battery.rows]
    if len(inputs) != len(rows):
        return [f"the file takes {len(inputs)} inputs, the module {len(rows)}"]
    problems = []
    for value, array in zip(inputs, rows, strict=True):
        kind = value.type.tensor_type
        shape = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in kind.shape.dim]
        wanted = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        if kind.elem_type != wanted:
            problems.append(f"input {value.name!r} is not {array.dtype}")
        elif batched and shape and isinstance(shape[0], int):
            problems.append(f"input {value.name!r} takes batches of {shape[0]} only: the batch dimension is not free")
        elif not fits(array.shape, shape):
            problems.append(f"input {value.name!r} takes {describe_shape(shape)}, the rows are {list(array.shape)}")
    return problems


def _output_problems(model: onnx.ModelProto, *, outputs: int) -> list[str]:
    if len(model.graph.output) != outputs:
        return [f"the file gives {len(model.graph.output)} outputs, the module {outputs}"]
    return []


def _runner_in(sandbox: Sandbox, path: str | os.PathLike[str], optimise: bool) -> Run:
    model = sandbox.open(path, backend="onnxruntime" if optimise else "onnxruntime-disabled")
    return lambda feeds: model(*feeds)


def _runner(data: bytes, optimise: bool) -> Run:
    session = open_session(data, optimise=optimise)
    names = [one.name for one in session.get_inputs()]

    def run(feeds: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [np.asarray(output) for output in session.run(None, dict(zip(names, feeds, strict=True)))]

    return run


def _run_case(run: Run, case: Case, level: str) -> CaseResult:
    bitwise: bool | None = None
    try:
        outputs = run(case.feeds)
        if case.alone:
            together = outputs
            rows = [run([one[i : i + 1] for one in case.feeds]) for i in range(case.batch)]
            outputs = [np.concatenate(parts) for parts in zip(*rows, strict=True)]
            bitwise = all(one.tobytes() == other.tobytes() for one, other in zip(outputs, together, strict=True))
    except ModelFileError:  # of a sandbox: what has used its time up once would use it up in every case
        raise
    except Exception as problem:  # noqa: BLE001 - its exceptions share no base below Exception
        text = f"onnxruntime failed: {first_line(problem)}"
        return CaseResult(name=case.name, batch=case.batch, optimisation=level, verdicts=(), problem=text)
    return CaseResult(
        name=case.name,
        batch=case.batch,
        optimisation=level,
        verdicts=tuple(compare_outputs(outputs, case.expected)),
        skipped=case.skipped,
        bitwise=bitwise,
    )


def _largest_scale(run: Run, battery: Battery) -> float | None:
    largest: float | None = None
    for scale, case in battery.ladder():
        largest = largest or 1.0
        if case.overflows or not _run_case(run, case, "full").passed:
            return largest
        largest = scale
    return largest


def _problems_of(cases: Sequence[CaseResult]) -> list[str]:
    return [*(f"{case.where}: {case.problem}" for case in cases if case.problem), *_first_failures(cases)]


def _first_failures(cases: Sequence[CaseResult]) -> list[str]:
    """Where each output fails first: held-out rows come before drawn ones, and those before rows that nobody sends."""
    found: dict[str, str] = {}
    for case in cases:
        for verdict in case.verdicts:
            if not verdict.agrees:
                found.setdefault(verdict.output, f"output {verdict.output!r}: {verdict.reason} ({case.where})")
    return list(found.values())


def _worst(cases: Sequence[CaseResult]) -> tuple[Verdict, ...]:
    """The worst verdict of each output, in the order of the outputs."""
    worst: dict[str, Verdict] = {}
    for case in cases:
        for verdict in case.verdicts:
            if verdict.output not in worst or verdict.severity > worst[verdict.output].severity:
                worst[verdict.output] = verdict
    return tuple(worst.values())
