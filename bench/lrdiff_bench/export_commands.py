"""What ``lrdiff export``, ``verify``, ``predict`` and ``targets`` do: plain arguments in, JSON-ready reports out."""

from __future__ import annotations

import csv
import importlib
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lrdiff_bench.job import export_net
from lrdiff_bench.use import held_out_rows, open_run, verify_against_run
from lrdiff_core.data import read_features
from lrdiff_core.errors import ConfigError, ModelFileError
from lrdiff_core.model import Predictor

__all__ = [
    "compare_files",
    "export_model",
    "from_factory",
    "latency",
    "list_targets",
    "predict_onnx",
    "thread_counts",
    "verify_model",
]


def export_model(
    source: str,
    out: Path | None = None,
    *,
    target: str | None = None,
    variants: Sequence[str] = ("fp32",),
    opset: int | None = None,
) -> dict[str, Any]:
    """Export a run or any module, with golden vectors beside the file, and return the report.

    Args:
        source: a run folder, or ``MODULE:FACTORY``; the factory takes nothing and returns a module and an example, or
            a module, an example and a mapping of further arguments for :func:`lrdiff_export.export`.
        out: the file; ``RUN/model.onnx``, or ``model.onnx`` here.
        target: the runtime that must read the file.
        variants: any of fp32, fp16, int8, int8-qdq.
        opset: operator set, exactly.

    Raises:
        CheckFailed: the file did not predict as the model, or a variant loses too much; nothing was written.
        CheckpointError, ConfigError, DataError: the run or the factory cannot be used.
    """
    from lrdiff_export import export

    options: dict[str, Any] = {"target": target, "variants": variants, "opset": opset}
    if ":" in source and not Path(source).exists():
        module, example, more = from_factory(source)
        return {**export(module, example, out=out or Path("model.onnx"), **options, **more).to_dict(), "passed": True}
    run = Path(source)
    net, info, config = open_run(run)
    rates = {str(name): float(rate) for name, rate in info.get("rates", {}).items()}
    return export_net(net, held_out_rows(net, config), out or run / "model.onnx", rates=rates, config=config, **options)


def verify_model(model: Path, run: Path | None = None, runtime: str = "onnxruntime") -> dict[str, Any]:
    """Check an ONNX file against a run, or against the golden vectors beside it; the file may be hostile.

    Args:
        model: the file.
        run: the run that it must agree with; None to use the golden vectors.
        runtime: ``onnxruntime``, ``openvino`` or ``node``, for golden vectors.

    Raises:
        ModelFileError: not an ONNX file, or no golden vectors.
        UnavailableError: the runtime is not here.
    """
    from lrdiff_export import inspect_untrusted, verify_golden

    if run is None:
        return verify_golden(model, runtime=runtime).to_dict()
    inspect_untrusted(model)
    return verify_against_run(model, run)


def predict_onnx(model: Path, data: str) -> str:
    """Predict every row of a file with an ONNX file of ours, opened in a process of its own, and return CSV text.

    Args:
        model: an exported file; its card names the columns and classes.
        data: a file with these columns, in any order; others are ignored.

    Raises:
        ModelFileError: the file cannot be used, or does not name its columns.
        DataError: the rows cannot be used.
    """
    from lrdiff_export import Sandbox, read_card

    with Sandbox() as sandbox:
        sandbox.inspect(model)
        card = read_card(model)
        columns = card.get("features")
        if not columns:
            raise ModelFileError(f"{model} does not name its columns", help="export it with lrdiff export RUN")
        fills = "missing_values_become" in card.get("normalisation", {})
        rows = read_features(data, feature_names=tuple(columns), impute="mean" if fills else "none")
        (answers,) = sandbox.run(model, [np.ascontiguousarray(rows)])
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    classes, name = card.get("classes", []), card.get("target", "prediction")
    if not classes:
        table.writerow([name])
        table.writerows([f"{value:.9g}"] for value in answers[:, 0])
        return out.getvalue()
    if answers.shape[1] == 1:
        answers = np.concatenate([1 - answers, answers], axis=1)
    table.writerow([name, *(f"p({one})" for one in classes)])
    for row in answers:
        table.writerow([classes[int(row.argmax())], *(f"{value:.9g}" for value in row)])
    return out.getvalue()


def latency(
    source: str, *, batches: Sequence[int] = (1, 32, 1024), threads: Sequence[int] = (1,), provider: str | None = None
) -> dict[str, Any]:
    """Time a run's ``model.onnx`` against eager PyTorch, call by call.

    Raises:
        CheckpointError, ModelFileError: the run or its file cannot be used.
        CheckFailed: a node is run by another provider than the one asked for.
        UnavailableError: the provider is not here.
    """
    from lrdiff_export import measure_latency
    from lrdiff_export.predictor import CPU_PROVIDER

    run = Path(source)
    net, _, config = open_run(run)
    rows = held_out_rows(net, config)
    report = measure_latency(
        run / "model.onnx",
        rows,
        module=Predictor(net).eval(),
        provider=provider or CPU_PROVIDER,
        batches=batches,
        threads=threads,
    )
    return report.to_dict()


def thread_counts(text: str) -> list[int]:
    """Read a list of thread counts such as ``"1,2"``.

    Raises:
        ConfigError: it is not one.

    Example:
        >>> thread_counts("1,2")
        [1, 2]
    """
    parts = text.split(",")
    if not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise ConfigError(f"--threads is {text!r}", help="write whole numbers from 1 up, such as 1,2")
    return [int(part) for part in parts]


def list_targets() -> list[dict[str, Any]]:
    """Return the table of runtimes: name, newest operator set, newest IR version."""
    from lrdiff_export import TARGETS

    return [{"target": row.name, "opset": row.opset, "ir_version": row.ir_version} for row in TARGETS]


def compare_files(models: Sequence[str] | None = None) -> str:
    """Return the Markdown table of this exporter against ``torch.onnx.export(verify=True)``."""
    from lrdiff_export.compare import compare_exporters, comparison_table

    return comparison_table(compare_exporters(list(models) if models else None))


def from_factory(source: str) -> tuple[torch.nn.Module, Any, dict[str, Any]]:
    """Return the module, the example and the further arguments that ``MODULE:FACTORY`` makes.

    Raises:
        ConfigError: it cannot be imported, or gives something else.
    """
    name, _, attribute = source.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # as `python -m` does: the user's own module lies in this folder
    try:
        factory = getattr(importlib.import_module(name), attribute)
    except (ImportError, AttributeError, ValueError) as problem:
        raise ConfigError(
            f"{source} cannot be imported: {problem}", help="write MODULE:FACTORY, as in models:make"
        ) from problem
    made = factory() if callable(factory) else factory
    if not isinstance(made, tuple) or len(made) not in (2, 3) or not isinstance(made[0], torch.nn.Module):
        raise ConfigError(
            f"{source} gives {type(made).__name__}, not a module and an example",
            help="return module, example or module, example, {'rows': ..., 'output_names': ...}",
        )
    return made[0], made[1], dict(made[2]) if len(made) == 3 else {}
