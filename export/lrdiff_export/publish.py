"""The gate: no file gets its name before its very bytes were verified."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from lrdiff_core.errors import CheckFailed, ConfigError, DataError, InputError
from lrdiff_core.files import atomic_path
from lrdiff_export import external
from lrdiff_export.battery import DRAWN_ROWS, Battery, drawn_rows
from lrdiff_export.card import PREFIX, Card, card_of, measured_errors, ports_of, weights_sha256
from lrdiff_export.convert import DEFAULT_OPSET, Converted, check_options, convert, weights_size
from lrdiff_export.diagnose import Diagnosis, diagnose
from lrdiff_export.external import HASH_KEY, DataFile, ModelBytes, old_weights
from lrdiff_export.golden import golden_paths, make_golden
from lrdiff_export.modelfile import load_onnx, parse_onnx
from lrdiff_export.ports import Arrays, Port, Tensors, as_arrays, as_tensors
from lrdiff_export.records import json_ready
from lrdiff_export.reference import prepare_module, unwrapped
from lrdiff_export.targets import Target, find_target
from lrdiff_export.variants import VARIANTS, Allowance, Judged, VariantReport, make_variant
from lrdiff_export.verify import VerificationReport, run_battery

__all__ = ["ExportReport", "VerificationFailed", "export", "export_onnx", "rows_around"]


class VerificationFailed(CheckFailed):
    """An exported model does not predict as its module does.

    Attributes:
        report: what was run and how far off it was; None after the error crossed a process boundary.
        diagnosis: where it goes wrong first; None if that could not be found.
    """

    report: VerificationReport | None = None
    diagnosis: Diagnosis | None = None


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was published.

    Attributes:
        path: the file's name as it was given.
        sha256: of the file.
        size: of the file, in bytes.
        data: the second file with the weights of a model past 2 GiB; None for one file.
        opset: operator set of the file.
        ir_version: format version of the file.
        input_name: name of the first input.
        output_names: names of the outputs.
        inputs: name, dtype, shape and unit of each input.
        outputs: the same of each output.
        rows_are: ``held out`` when the caller gave rows, ``drawn`` when they were made up around the example.
        target: the runtime that the file was made for; empty when none was named.
        golden: files of golden vectors beside the model.
        variants: what was published besides, and what it loses.
        seconds: spent in ``convert`` (torch's exporter) and ``verify`` (everything that comes on top).
        verification: the whole verification of these bytes.
    """

    path: str
    sha256: str
    size: int
    data: DataFile | None
    opset: int
    ir_version: int
    input_name: str
    output_names: tuple[str, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    rows_are: str
    target: str
    golden: tuple[str, ...]
    variants: tuple[VariantReport, ...]
    verification: VerificationReport
    seconds: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {**json_ready(self), "verification": self.verification.to_dict()}


def export(
    module: nn.Module,
    example: Tensors,
    *,
    out: str | os.PathLike[str],
    rows: Arrays | None = None,
    labels: np.ndarray | None = None,
    score: Callable[[np.ndarray, np.ndarray], float] | None = None,
    decide: Callable[[np.ndarray], np.ndarray] | None = None,
    input_names: str | Sequence[str] | None = None,
    output_names: Sequence[str] = ("output",),
    opset: int | None = None,
    target: str | None = None,
    variants: Sequence[str] = ("fp32",),
    allowance: Allowance | None = None,
    card: Card | None = None,
    metadata: Mapping[str, str] | None = None,
    golden: bool = True,
) -> ExportReport:
    """Convert a module, verify the bytes in ONNX Runtime, and only then write them under ``out``.

    If anything fails nothing appears in the folder, and files already there stay as they are.

    Args:
        module: takes tensors by position, or by keyword where ``example`` is a mapping; gives a tensor, a tuple of
            tensors, or a mapping that holds ``output_names``. It is copied, and keeps device and mode.
        example: ``[batch, ...]`` an input, float32, integer or bool; gives the shape of a row.
        out: the final name; its folder must exist. Variants go beside it: ``model.fp16.onnx``.
        rows: held-out rows ``[batch, ...]`` an input, to verify on. Without them 64 rows are drawn around the example
            (integers between the smallest and largest in it), and the report says so.
        labels: ``[batch]`` of ``rows``, for the change of the validation metric that a variant causes.
        score: from the first output ``[batch, ...]`` and labels to a number, larger is better; the share of right
            decisions by default.
        decide: from the first output ``[batch, ...]`` to a decision a row; the largest entry, or above one half where
            there is one column, by default, if the card says that there are classes.
        input_names: names of the inputs in the file; by default ``features`` for a single one, a mapping's keys, or
            the names of forward's arguments.
        output_names: one name an output.
        opset: operator set of the file, exactly; by default the target's, or 20.
        target: the runtime that must read the file, such as ``onnxruntime-web==1.30``; a row of
            :mod:`lrdiff_export.targets`.
        variants: any of ``fp32``, ``fp16``, ``int8`` (dynamic) and ``int8-qdq`` (calibrated on ``rows``); ``fp32`` is
            always written.
        allowance: what a variant may lose.
        card: what the file says of itself; taken from the module where it is one of ours.
        metadata: more text to keep in the file.
        golden: write golden vectors beside the model.

    Raises:
        VerificationFailed: the model does not agree with the module; carries the report and a diagnosis.
        CheckFailed: a variant loses more than it may.
        ConfigError, DataError, InputError: an option, the rows, the module or the folder is wrong.
        UnavailableError: the exporter is not here, or does not reach the opset.

    Example:
        >>> import pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "model.onnx"
        >>> report = export(nn.Linear(3, 1), torch.zeros(1, 3), out=file)
        >>> sorted(path.name for path in file.parent.iterdir())
        ['model.golden.json', 'model.golden.npz', 'model.onnx']
    """
    module = unwrapped(module)
    final = Path(out)
    aim = find_target(target) if target is not None else None
    options: dict[str, Any] = {
        "example": example,
        "input_name": input_names,
        "output_names": output_names,
        "opset": _opset_for(opset, aim),
        "metadata": dict(metadata or {}),
    }
    # All that can be refused at once is refused before the seconds that conversion takes.
    names = check_options(module, **options)
    if reserved := [key for key in options["metadata"] if key.startswith(PREFIX)]:
        raise ConfigError(
            f"metadata {reserved[0]!r} begins with {PREFIX!r}", help="such keys are written by the export"
        )
    _check_variants(variants, module)
    _check_place(final)
    arrays = _check_held_out(rows, example) if rows is not None else rows_around(example)

    with _beside(final, module) as beside:
        begun = time.perf_counter()
        converted = convert(module, beside=beside, **options)
        middle = time.perf_counter()
        keywords = tuple(example) if isinstance(example, Mapping) else None
        prepared = prepare_module(module, as_tensors(example), keywords=keywords, outputs=output_names)
        battery = Battery(prepared, arrays, names=output_names)
        card = card if card is not None else card_of(module)
        data, report = _verified(final, converted, battery, card, weights_sha256(module))
        if aim is not None and report.ir_version > aim.ir_version:
            raise ConfigError(
                f"the file has IR version {report.ir_version}, {aim.name} reads {aim.ir_version}",
                help="ask for an older opset",
            )
        files: dict[Path, bytes] = {final: data}
        if golden:
            vectors = make_golden(
                battery,
                model_sha256=report.sha256,
                data=converted.weights,
                input_names=names,
                output_names=output_names,
            )
            files |= dict(zip(golden_paths(final), vectors.files(), strict=True))
        judged = Judged.of(battery, labels=labels, score=score, decide=decide, classes=bool(card.classes))
        made, smaller = _variants(variants, data, battery, judged, final, allowance or Allowance())
        seconds = {"convert": middle - begun, "verify": time.perf_counter() - middle}
        _publish(files | smaller, converted)
    inputs, outputs = ports_of(converted.model, card.units)
    return ExportReport(
        path=str(final),
        sha256=report.sha256,
        size=report.size,
        data=converted.weights,
        opset=report.opset,
        ir_version=report.ir_version,
        input_name=names[0],
        output_names=tuple(output_names),
        inputs=inputs,
        outputs=outputs,
        rows_are="drawn" if rows is None else "held out",
        target=aim.name if aim is not None else "",
        golden=tuple(str(path) for path in golden_paths(final)) if golden else (),
        variants=made,
        verification=report,
        seconds=seconds,
    )


def export_onnx(
    module: nn.Module,
    path: str | os.PathLike[str],
    *,
    example: Tensors,
    rows: Arrays | None = None,
    input_name: str | Sequence[str] | None = None,
    output_names: Sequence[str] = ("output",),
    opset: int = DEFAULT_OPSET,
    metadata: Mapping[str, str] | None = None,
) -> ExportReport:
    """Do as :func:`export`, one float32 file and nothing beside it.

    Example:
        >>> import pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "model.onnx"
        >>> report = export_onnx(nn.Linear(3, 1), file, example=torch.zeros(1, 3))
        >>> report.size == file.stat().st_size
        True
    """
    return export(
        module,
        example,
        out=path,
        rows=rows,
        input_names=input_name,
        output_names=output_names,
        opset=opset,
        metadata=metadata,
        golden=False,
    )


def _verified(
    final: Path, converted: Converted, battery: Battery, card: Card, weights: str
) -> tuple[ModelBytes, VerificationReport]:
    """Run the graph, write what was measured into the file, and run those very bytes again."""
    first = run_battery(converted.data, battery)
    if not first.passed:
        raise _failure(final, first, converted, battery)
    model = onnx.ModelProto()
    model.CopyFrom(converted.model)
    inputs, outputs = ports_of(model, card.units)
    texts = {entry.key: entry.value for entry in model.metadata_props}
    texts |= card.texts(inputs, outputs) | measured_errors(first) | {PREFIX + "weights_sha256": weights}
    if converted.weights is not None:
        texts[HASH_KEY] = converted.weights.sha256
    onnx.helper.set_model_props(model, dict(sorted(texts.items())))
    data = converted.serialised(model)
    parse_onnx(data, name=final.name)
    report = run_battery(data, battery)
    if not report.passed:
        raise _failure(final, report, converted, battery)
    for once, again in zip(first.worst, report.worst, strict=True):
        if again.error > once.error * (1 + 1e-9):
            raise CheckFailed(
                f"{final.name} answers differently when run again: {once.error:.4g} and {again.error:.4g} eps",
                help="the errors stated inside the file would be wrong; nothing was written",
            )
    return data, report


def _failure(final: Path, report: VerificationReport, converted: Converted, battery: Battery) -> VerificationFailed:
    failed = VerificationFailed(
        f"{final.name} did not pass verification: {report.problems[0]}",
        help="nothing was written; the report lists every case, optimisation level and output",
    )
    failed.report = report
    if report.cases:
        failed.diagnosis = diagnose(converted, battery)
        if failed.diagnosis is not None:
            failed = _with_help(failed, failed.diagnosis)
    return failed


def _with_help(failed: VerificationFailed, diagnosis: Diagnosis) -> VerificationFailed:
    told = VerificationFailed(failed.message, help=f"nothing was written; {diagnosis.sentence}")
    told.report, told.diagnosis = failed.report, diagnosis
    return told


def _opset_for(opset: int | None, target: Target | None) -> int:
    if target is None:
        return DEFAULT_OPSET if opset is None else opset
    if opset is None:
        return min(DEFAULT_OPSET, target.opset)
    if isinstance(opset, int) and opset > target.opset:
        raise ConfigError(
            f"opset {opset} was asked for and {target.name} reads up to {target.opset}",
            help=f"leave the opset out, or ask for {target.opset} or older",
        )
    return opset


@contextmanager
def _beside(final: Path, module: nn.Module) -> Iterator[Path | None]:
    """Give a model past 2 GiB its name in a folder beside, which is gone afterwards; None to any smaller one.

    It is in the same file system, so that the very files that were verified there can be renamed.
    """
    if weights_size(module) <= external.ONE_FILE:
        yield None
        return
    try:
        folder = tempfile.TemporaryDirectory(prefix=f".{final.name}.", dir=final.parent)
    except OSError as problem:
        raise InputError(
            f"cannot write {final}: {problem.strerror}", help="name a folder that exists and that you may write to"
        ) from problem
    with folder as name:
        yield Path(name, final.name)


def _variants(
    names: Sequence[str], data: bytes, battery: Battery, judged: Judged, final: Path, allowance: Allowance
) -> tuple[tuple[VariantReport, ...], dict[Path, bytes]]:
    """Make every variant that is asked for; what each loses, and the files."""
    made: list[VariantReport] = []
    files: dict[Path, bytes] = {}
    for name in dict.fromkeys(names):
        if name != "fp32":
            file = final.with_name(f"{final.stem}.{name}{final.suffix}")
            files[file], told = make_variant(name, data, battery, judged, path=file, allowance=allowance)
            made.append(told)
    return tuple(made), files


def _check_variants(variants: Sequence[str], module: nn.Module) -> None:
    known = ("fp32", *VARIANTS)
    if isinstance(variants, str):
        raise ConfigError(f"variants is the text {variants!r}", help=f"write ({variants!r},)")
    for name in variants:
        if name not in known:
            raise ConfigError(f'no variant "{name}"', help=f"variants: {', '.join(known)}")
    if set(variants) - {"fp32"} and weights_size(module) > external.ONE_FILE:
        raise ConfigError("variants are made of models up to 2 GiB", help="leave them out")


def _check_place(final: Path) -> None:
    if final.is_dir():
        raise InputError(f"cannot write {final}: it is a folder", help="name a file, such as model.onnx in that folder")
    if not final.parent.is_dir():
        raise InputError(f"cannot write {final}: no folder {final.parent}", help="make the folder first")


def _check_held_out(rows: Arrays, example: Tensors) -> tuple[np.ndarray, ...]:
    arrays = as_arrays(rows, tuple(example) if isinstance(example, Mapping) else None)
    tensors = as_tensors(example)
    if len(arrays) != len(tensors):
        raise DataError(
            f"rows are given for {len(arrays)} inputs, the example has {len(tensors)}", help="give one array an input"
        )
    for array, tensor in zip(arrays, tensors, strict=True):
        if array.shape[1:] != tuple(tensor.shape[1:]):
            raise DataError(
                f"rows have shape {list(array.shape)} and the example {list(tensor.shape)}",
                help="rows and example must agree in all but the batch dimension",
            )
        if torch.from_numpy(array[:0].copy()).dtype != tensor.dtype:
            raise DataError(f"rows are {array.dtype} and the example is {tensor.dtype}", help="give both in one dtype")
    return arrays


def rows_around(example: Tensors) -> tuple[np.ndarray, ...]:
    """Return the example's rows and 64 drawn ones like them, the same in every process.

    Example:
        >>> [one.shape for one in rows_around(torch.zeros(1, 3))]
        [(65, 3)]
    """
    given = tuple(one.detach().to("cpu").numpy() for one in as_tensors(example))
    return tuple(np.concatenate(pair) for pair in zip(given, drawn_rows(given, DRAWN_ROWS), strict=True))


def _publish(files: Mapping[Path, bytes], converted: Converted) -> None:
    """Give all files their names: weights in a file of their own first, the model last, nothing where one fails.

    The weights' name is new, or that of the same bytes, so that an existing model keeps what it points to until it is
    replaced itself. Weights of models that are gone then go, too.
    """
    final, weights = next(iter(files)), converted.weights
    placed: Path | None = None
    if weights is not None and converted.folder is not None:
        proof = converted.folder / final.name
        _write_bytes(proof, files[final])
        load_onnx(proof)  # what lies on the disk, hash and all, is what was run
        placed = final.with_name(weights.name)
        known = placed.exists()
        _rename(converted.folder / weights.name, placed)
    try:
        _write(files)
    except BaseException:
        if placed is not None and not known:
            placed.unlink()
        raise
    for path in old_weights(final, None if weights is None else weights.name):
        path.unlink(missing_ok=True)


def _write(files: Mapping[Path, bytes]) -> None:
    """Write all files beside, then rename them, the first one last: what lies beside a model is there before it."""
    first, *others = files
    with atomic_path(first) as beside:
        _write_bytes(beside, files[first], name=first)
        if others:
            _write({path: files[path] for path in others})


def _write_bytes(path: Path, data: bytes, name: Path | None = None) -> None:
    try:
        path.write_bytes(data)
    except OSError as problem:
        raise InputError(f"cannot write {name or path}: {problem.strerror}", help="free some space there") from problem


def _rename(path: Path, final: Path) -> None:
    try:
        with atomic_path(final) as beside:
            os.replace(path, beside)
    except OSError as problem:
        raise InputError(
            f"cannot write {final}: {problem.strerror}", help="see what stands under that name"
        ) from problem
