"""The gate: no file gets its name before its very bytes were verified."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
from torch import nn

from lrdiff_core.errors import CheckFailed
from lrdiff_export.model.signature import Arrays, Tensors
from lrdiff_export.onnx_file.convert import DEFAULT_OPSET, Converted, convert
from lrdiff_export.onnx_file.external_data import HASH_KEY, ModelBytes
from lrdiff_export.onnx_file.load import parse_onnx
from lrdiff_export.publish.bundle import write_bundle
from lrdiff_export.publish.files import staged, write_files
from lrdiff_export.publish.metadata import (
    PREFIX,
    ModelCard,
    measured_errors,
    model_card,
    ports_of,
    weights_sha256,
)
from lrdiff_export.publish.report import ExportReport
from lrdiff_export.publish.request import ExportOptions, ExportRequest, rows_around
from lrdiff_export.publish.variants import HeldOut, VariantReport, make_variant
from lrdiff_export.publish.words import network_bytes, variant_with_words, with_words
from lrdiff_export.verify.diagnose import Diagnosis, diagnose
from lrdiff_export.verify.empty_batch import answers_no_rows
from lrdiff_export.verify.golden import golden_paths, make_golden
from lrdiff_export.verify.inputs import Battery
from lrdiff_export.verify.verify import VerificationReport, run_again, run_battery

__all__ = ["ExportReport", "VerificationFailed", "export", "export_onnx", "rows_around"]


class VerificationFailed(CheckFailed):
    """An exported model does not predict as its module does.

    Attributes:
        report: what was run and how far off it was; None after the error crossed a process boundary.
        diagnosis: where it goes wrong first; None if that could not be found.
    """

    report: VerificationReport | None = None
    diagnosis: Diagnosis | None = None


def export(
    module: nn.Module,
    example: Tensors,
    *,
    out: str | os.PathLike[str],
    rows: Arrays | None = None,
    options: ExportOptions | None = None,
    **changes: Any,
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
        options: names, operator set, target, variants, metadata.
        changes: options one by one: ``export(module, example, out="m.onnx", opset=21)``; see :class:`ExportOptions`.

    Raises:
        VerificationFailed: the model does not agree with the module; carries the report and a diagnosis.
        CheckFailed: a variant loses more than it may, or a runtime answers the golden rows of the bundle otherwise.
        ConfigError, DataError, InputError: an option, the rows, the module or the folder is wrong.
        UnavailableError: the exporter is not here, or does not reach the opset.

    Example:
        >>> import pathlib, tempfile, torch
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "model.onnx"
        >>> report = export(nn.Linear(3, 1), torch.zeros(1, 3), out=file)
        >>> sorted(path.name for path in file.parent.iterdir())
        ['model.golden.json', 'model.golden.npz', 'model.onnx']
    """
    chosen = (options or ExportOptions()).with_changes(changes)
    report = _publish(ExportRequest.of(module, example, out=out, rows=rows, options=chosen))
    if chosen.bundle is None:
        return report
    return replace(report, bundle=write_bundle(report, chosen.bundle, key=chosen.sign_key))


def _publish(request: ExportRequest) -> ExportReport:
    prepared, options, final = request.prepared, request.options, request.final
    card = options.card if options.card is not None else model_card(prepared.inner)
    weights = weights_sha256(prepared.inner)
    with staged(final, prepared.weights_size) as beside:
        begun = time.perf_counter()
        options.watch("converting")
        converted = convert(prepared, opset=request.opset, metadata=options.metadata, beside=beside)
        middle = time.perf_counter()
        options.watch("computing what is expected, in float64")
        battery = Battery(prepared, request.rows, converted.batches, request.domain)
        data, report = _verified(request, converted, battery, card, weights)
        request.check_ir(report.ir_version)
        files: dict[Path, bytes] = {final: data}
        golden = options.golden and prepared.batched and not prepared.half
        if golden:
            vectors = make_golden(battery, model_sha256=report.sha256, data=converted.weights, text=options.text)
            files |= dict(zip(golden_paths(final), vectors.files(), strict=True))
        made: list[VariantReport] = []
        if request.variants or options.labels is not None:
            held_out = HeldOut.of(
                battery,
                labels=options.labels,
                score=options.score,
                decide=options.decide,
                classes=bool(card.classes),
                counts_flips=options.allowance.flipped is not None,
            )
        network = data if options.text is None else network_bytes(data, converted)
        for name in request.variants:
            file = final.with_name(f"{final.stem}.{name}{final.suffix}")
            content, variant = make_variant(name, network, battery, held_out, path=file, allowance=options.allowance)
            if options.text is not None:
                content = variant_with_words(content, options.text, battery.given[0], name=name)
                digest, size = hashlib.sha256(content).hexdigest(), len(content)
                variant = replace(variant, sha256=digest, size=size, size_ratio=size / len(data))
            files[file] = content
            made.append(variant)
        seconds = {"convert": middle - begun, "verify": time.perf_counter() - middle}
        write_files(files, converted)
    inputs, outputs = ports_of(onnx.ModelProto.FromString(data), card.units, request.told_ports)
    return ExportReport(
        path=str(final),
        sha256=report.sha256,
        size=report.size,
        data=converted.weights,
        opset=report.opset,
        ir_version=report.ir_version,
        input_name=inputs[0].name,
        output_names=prepared.output_names,
        inputs=inputs,
        outputs=outputs,
        rows_are="drawn" if request.drawn else "held out",
        target=request.target.name if request.target is not None else "",
        golden=tuple(str(path) for path in golden_paths(final)) if golden else (),
        variants=tuple(made),
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
        >>> import pathlib, tempfile, torch
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
        metadata=metadata or {},
        golden=False,
    )


def _verified(
    request: ExportRequest, converted: Converted, battery: Battery, card: ModelCard, weights: str
) -> tuple[ModelBytes, VerificationReport]:
    """Run the graph, write what was measured into the file, and run those very bytes."""
    final = request.final
    first = run_battery(converted.data, battery, watch=request.options.watch)
    if not first.passed:
        raise _failure(final, first, converted, battery)
    if answers_no_rows(converted.data, converted.prepared):
        first = replace(first, domain=replace(first.domain, least_batch=0))
    model, text = onnx.ModelProto(), request.options.text
    model.CopyFrom(converted.model)
    if text is not None:
        first = with_words(first, model, text, converted, battery, watch=request.options.watch)
        if not first.passed:
            raise _failure(final, first, converted, battery)
    inputs, outputs = ports_of(model, card.units, request.told_ports)
    texts = {entry.key: entry.value for entry in model.metadata_props}
    texts |= card.texts(inputs, outputs) | measured_errors(first) | {PREFIX + "weights_sha256": weights}
    if converted.prepared.widened:
        texts[PREFIX + "widened"] = "the module computes in bfloat16, this file in float32 with the same weights"
    if converted.weights is not None:
        texts[HASH_KEY] = converted.weights.sha256
    onnx.helper.set_model_props(model, dict(sorted(texts.items())))
    data = converted.serialised(model)
    parse_onnx(data, name=final.name)
    report = run_again(first, data, battery, text)
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
    if report.cases and (report.words is None or not report.words.problems):
        failed.diagnosis = diagnose(converted, battery)
        if failed.diagnosis is not None:
            failed = _with_help(failed, failed.diagnosis)
    return failed


def _with_help(failed: VerificationFailed, diagnosis: Diagnosis) -> VerificationFailed:
    located = VerificationFailed(failed.message, help=f"nothing was written; {diagnosis.sentence}")
    located.report, located.diagnosis = failed.report, diagnosis
    return located
