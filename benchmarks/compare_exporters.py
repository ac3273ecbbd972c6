"""This exporter against ``torch.onnx.export(verify=True)``, feature by feature, by running both on the same models.

``python -m benchmarks.compare_exporters`` prints the page that is kept as ``docs/results/export-compare.md``.
"""

from __future__ import annotations

import argparse
import io
import logging
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
import torch
from torch import nn

import lrdiff_export.publish.export as ours
from lrdiff_bench.report.page import as_given, render
from lrdiff_bench.report.record import PageFiles, add_page_options
from lrdiff_bench.system.machine import provenance
from lrdiff_core.errors import LrdiffError
from lrdiff_export.examples import ZOO, Sample
from lrdiff_export.onnx_file.convert import Converted
from lrdiff_export.onnx_file.load import opset_of
from lrdiff_export.records import json_ready
from lrdiff_export.runtimes.predictor import open_session

__all__ = ["ExporterComparison", "compare_exporters", "comparison_table", "page"]

COMPARED: Mapping[str, Any] = {"format": "lrdiff.export_comparison", "version": 1}
ASKED_OPSET = 20
UNREACHABLE_OPSET = 13  # torch 2.13 writes 18 instead, with a warning


@dataclass(frozen=True, kw_only=True)
class ExporterComparison:
    """What was seen on one model; ``theirs`` is ``torch.onnx.export(verify=True)``.

    Attributes:
        model: its name in the zoo.
        theirs: a finding by feature.
        ours: the same of :func:`lrdiff_export.export`.
    """

    model: str
    theirs: dict[str, Any]
    ours: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return json_ready(self)


def compare_exporters(models: list[str] | None = None) -> list[ExporterComparison]:
    """Export models of the zoo with both and look at what comes out.

    Each model is exported healthy, with one weight of its last layer off by 1 % in the file that is about to be
    verified, and asked for an operator set that cannot be reached.

    Args:
        models: names from :data:`lrdiff_export.examples.ZOO`; all by default.

    Example:
        >>> compare_exporters([])
        []
    """
    names = list(ZOO) if models is None else models
    return [
        ExporterComparison(model=name, theirs=_look(_export_theirs, ZOO[name]), ours=_look(_export_ours, ZOO[name]))
        for name in names
    ]


def comparison_table(rows: list[ExporterComparison]) -> str:
    """Return a Markdown table: a line a feature, how many of the models showed it, medians for numbers.

    Example:
        >>> rows = [ExporterComparison(model="a", theirs={"held": False}, ours={"held": True})]
        >>> comparison_table(rows).splitlines()[-1]
        '| held | 0 of 1 | 1 of 1 |'
    """
    lines = ["| feature | torch.onnx.export(verify=True) | lrdiff_export.export |", "|---|---|---|"]
    for feature in rows[0].ours:
        cells = [_cell([getattr(row, side)[feature] for row in rows]) for side in ("theirs", "ours")]
        lines.append(f"| {feature} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines) + "\n"


def _cell(found: list[Any]) -> str:
    if all(isinstance(one, bool) for one in found):
        return f"{sum(found)} of {len(found)}"
    known = [one for one in found if one is not None]
    return f"{np.median(known):.4g}" if known else "-"


Export = Callable[[Sample, nn.Module, Path, int, bool], None]


def _look(export: Export, sample: Sample) -> dict[str, Any]:
    module = sample.module()
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        file = Path(first) / "model.onnx"
        export(sample, module, file, ASKED_OPSET, False)
        begun = time.perf_counter()
        export(sample, module, Path(second) / "model.onnx", ASKED_OPSET, False)
        seconds = time.perf_counter() - begun
        data = file.read_bytes()
        model = onnx.load(file)
        files = [path.name for path in Path(first).iterdir()]
        return {
            "bytes of the model file": len(data),
            "seconds, warm": seconds,
            "no second file for the weights": not any(name.endswith(".data") for name in files),
            "no paths or stack traces inside": re.search(rb"\.py|File \"|/site-packages", data) is None,
            "same bytes when exported twice": data == (Path(second) / "model.onnx").read_bytes(),
            "lowest IR version of its opset": model.ir_version
            == onnx.helper.find_min_ir_version_for(list(model.opset_import), ignore_unknown=True),
            "opset asked for is the file's": next(o.version for o in model.opset_import if not o.domain) == ASKED_OPSET,
            "opset 13 is written or refused, never replaced": _keeps_opset(export, sample, module, UNREACHABLE_OPSET),
            "free batch dimension, run at 1 and 1000 rows": _runs_at(model.SerializeToString(), sample, (1, 1000)),
            "planted 1 % weight refused": _refuses(export, sample, module, ASKED_OPSET, spoil=True),
            "errors and schema inside the file": any("errors" in entry.key for entry in model.metadata_props),
            "golden vectors beside it": any("golden" in name for name in files),
        }


def _runs_at(data: bytes, sample: Sample, batches: tuple[int, ...]) -> bool:
    session = open_session(data)
    arrays = tuple(sample.rows.values())
    names = [one.name for one in session.get_inputs()]
    for batch in batches:
        places = np.arange(batch) % len(arrays[0])
        try:
            session.run(None, dict(zip(names, (one[places] for one in arrays), strict=True)))
        except Exception:  # noqa: BLE001 - that it does not run is the finding
            return False
    return True


def _keeps_opset(export: Export, sample: Sample, module: nn.Module, opset: int) -> bool:
    """Whether asking ends in an error, or in a file of that operator set."""
    if _refuses(export, sample, module, opset, spoil=False):
        return True
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        export(sample, module, file, opset, False)
        return opset_of(onnx.load(file)) == opset


def _refuses(export: Export, sample: Sample, module: nn.Module, opset: int, *, spoil: bool) -> bool:
    """Whether asking ends in an error and without a file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        try:
            export(sample, module, file, opset, spoil)
        except (LrdiffError, RuntimeError, ValueError, torch.onnx.errors.OnnxExporterError):
            return not file.exists()
        return False


def _export_ours(sample: Sample, module: nn.Module, file: Path, opset: int, spoil: bool) -> None:
    real = ours.convert

    def spoiled(*arguments: Any, **options: Any) -> Converted:
        converted = real(*arguments, **options)
        _spoil(converted.model)
        return converted

    with mock.patch.object(ours, "convert", spoiled if spoil else real):
        ours.export(
            module,
            sample.example(),
            out=file,
            rows=tuple(sample.rows.values()),
            output_names=sample.outputs,
            opset=opset,
        )


def _export_theirs(sample: Sample, module: nn.Module, file: Path, opset: int, spoil: bool) -> None:
    """The file is spoilt after conversion and before their verification, as ours is."""
    import onnx_ir  # torch's exporter depends on it
    from torch.onnx._internal.exporter import _verification

    real = _verification.verify_onnx_program

    def spoiled(program: Any, *arguments: Any, **options: Any) -> Any:
        model = program.model_proto
        _spoil(model)
        values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        for name, value in program.model.graph.initializers.items():
            value.const_value = onnx_ir.tensor(values[name], name=name)
        return real(program, *arguments, **options)

    batch = torch.export.Dim("batch")
    example = sample.example()
    with _quiet(), mock.patch.object(_verification, "verify_onnx_program", spoiled if spoil else real):
        torch.onnx.export(
            module,
            example,
            str(file),
            dynamo=True,
            verify=True,
            opset_version=opset,
            output_names=list(sample.outputs),
            dynamic_shapes=tuple({0: batch} for _ in example),
        )


def _spoil(model: onnx.ModelProto) -> None:
    """The largest weight of the last layer by 1 %."""
    matrices = {t.name: t for t in model.graph.initializer if len(t.dims) > 1 and t.data_type == onnx.TensorProto.FLOAT}
    used = [name for node in model.graph.node for name in node.input if name in matrices]
    tensor = matrices[used[-1]]
    values = onnx.numpy_helper.to_array(tensor).copy()
    values.flat[np.abs(values).argmax()] *= 1.01
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


@contextmanager
def _quiet() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def page(document: Mapping[str, Any]) -> str:
    """The page of docs/results: machine, versions, commit and the table."""
    rows = [ExporterComparison(**row) for row in document["rows"]]
    return (
        f"# Two exporters on the same models\n\n{render('written_by.md', **document)}"
        f"- models: {'; '.join(row.model for row in rows)}\n\n"
        "Counts are of models; bytes and seconds are medians over them. The planted fault is one weight off by 1 %,\n"
        "in the file, before its verification.\n\n"
        f"{comparison_table(rows)}"
    )


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add_page_options(parser)
    files = PageFiles.of(parser.parse_args())

    def measured() -> dict[str, Any]:
        made = provenance("onnx", "onnxscript", "onnxruntime")
        return {"command": as_given(), "quick": False, **made, "rows": [row.to_dict() for row in compare_exporters()]}

    text = page(files.document(measured, **COMPARED))
    print(text)
    files.write(text)


if __name__ == "__main__":
    main()
