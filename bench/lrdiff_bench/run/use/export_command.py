"""What ``lrdiff export``, ``verify``, ``predict`` and ``targets`` do: plain arguments in, JSON-ready reports out."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from lrdiff_bench.report.tables import doing
from lrdiff_bench.run.own_model.commands import export_own_run
from lrdiff_bench.run.own_model.files import is_own, open_own
from lrdiff_bench.run.own_model.ship import rows_of
from lrdiff_bench.run.ship import export_net
from lrdiff_bench.run.use.onnx_rows import names_of, rows_for
from lrdiff_bench.run.use.open_run import held_out, onnx_of, open_run, shipped, verify_against_run
from lrdiff_bench.run.use.predictions import predictions_table
from lrdiff_bench.system.factory import is_factory, load_model, user_code
from lrdiff_bench.system.manifest import rewriting, say_once
from lrdiff_bench.system.run_folder import kept_warnings
from lrdiff_core.errors import ConfigError, ModelFileError
from lrdiff_core.model import TabularNet

if TYPE_CHECKING:
    import polars as pl

    from lrdiff_export import Allowance

__all__ = [
    "export_model",
    "latency",
    "list_targets",
    "on_or_off",
    "predict_onnx",
    "verify_model",
    "whole_numbers",
]


def export_model(
    source: str,
    out: Path | None = None,
    *,
    target: str | None = None,
    variants: Sequence[str] = ("fp32",),
    opset: int | None = None,
    allow: Sequence[str] = (),
    bundle: Path | None = None,
    sign: Path | None = None,
    ports: Path | None = None,
    words: bool = True,
) -> dict[str, Any]:
    """Export a run or any module, with golden vectors beside the file, and return the report.

    Args:
        source: a run folder, or ``MODULE:FACTORY`` (:mod:`lrdiff_bench.system.factory`).
        out: the file; ``RUN/model.onnx``, or ``model.onnx`` here.
        target: the runtime that must read the file.
        variants: any of fp32, fp16, int8, int8-qdq.
        opset: operator set, exactly.
        allow: ``key=value`` each, what variants may lose: fields of :class:`lrdiff_export.Allowance`.
        bundle: a folder or ``.zip`` for the file with its proof.
        sign: a private key to sign the bundle with.
        words: whether columns of categories of a run are inputs of strings; else the file takes their codes.
        ports: a TOML file that declares what may stand in inputs (:func:`lrdiff_export.read_ports`).

    Raises:
        CheckFailed: the file did not predict as the model, or a variant loses too much; nothing was written.
        CheckpointError, ConfigError, DataError: the run or the factory cannot be used.
    """
    from lrdiff_export import export, read_ports

    options: dict[str, Any] = {"target": target, "opset": opset, "bundle": bundle, "sign_key": sign}
    options = {key: value for key, value in options.items() if value is not None}  # else what the factory says
    if list(variants) != ["fp32"]:
        options["variants"] = variants
    if allow:
        options["allowance"] = _allowance(allow)
    if ports is not None:
        options["ports"] = read_ports(ports)
    if is_factory(source):
        model = load_model(source, needs=("example",))
        with user_code(), doing() as options["watch"]:
            report = export(
                model.module, model.example, out=out or Path("model.onnx"), **{**model.export_options(), **options}
            )
        rows_are = "given" if report.rows_are == "held out" else report.rows_are
        return {**report.to_dict(), "passed": True, "preprocessing": False, "rows_are": rows_are}
    run = Path(source)
    if is_own(run):
        with doing() as options["watch"], _unnamed(run, out):
            return export_own_run(run, out or run / "model.onnx", options, words=words)
    net, _, config = open_run(run)
    assert isinstance(net, TabularNet)
    rows, targets = held_out(net, config)
    options |= {"config": config, "words": words, "warnings": kept_warnings(run)}
    with _unnamed(run, out):
        return export_net(net, rows, targets, out or run / "model.onnx", **options)


def _unnamed(run: Path, out: Path | None) -> AbstractContextManager[None]:
    """While files of a run's own model are written, its manifest does not name them."""
    file = out or run / "model.onnx"
    inside = file.parent.resolve() == run.resolve()
    stem = glob.escape(file.stem)
    return rewriting(run, f"{stem}.*", f"{stem}-*") if inside else nullcontext()


def verify_model(model: Path, run: Path | None = None, runtime: str = "onnxruntime") -> dict[str, Any]:
    """Check an ONNX file against a run, or against the golden vectors beside it; or a bundle. It may be hostile.

    Args:
        model: the file, or a bundle: a folder or zip.
        run: the run that it must agree with; None to use the golden vectors.
        runtime: a backend that runs files, for golden vectors.

    Raises:
        ModelFileError: not an ONNX file, or no golden vectors.
        UnavailableError: the runtime is not here.
    """
    from lrdiff_export import verify_bundle, verify_golden

    if run is None and (model.is_dir() or model.suffix == ".zip") and model.exists():
        return {**verify_bundle(model, runtime=runtime).to_dict(), "file": str(model)}
    if not model.is_file():
        raise ModelFileError(f"{model} does not exist", help="name an ONNX file, such as RUN/model.onnx")
    return verify_golden(model, runtime=runtime).to_dict() if run is None else verify_against_run(model, run)


def predict_onnx(model: Path, data: str) -> pl.DataFrame:
    """Predict every row of a file with an ONNX file of ours, opened in a process of its own.

    Args:
        model: an exported file; its card names the columns and classes.
        data: a file with these columns, in any order; others are ignored. ``-`` is standard input.

    Returns:
        As :func:`lrdiff_bench.run.use.predictions.predictions_table`.

    Raises:
        ModelFileError: the file cannot be used, or does not name its columns.
        DataError: the rows cannot be used.
    """
    from lrdiff_export import Sandbox, read_model_card
    from lrdiff_export.verify.golden import check_beside

    with Sandbox() as sandbox:
        ports = sandbox.inspect(model)
        if not check_beside(model):
            say_once(f"{model} has no golden vectors beside it: whether it was changed cannot be told")
        card = read_model_card(model)
        classes = names_of(card, "classes", model)
        feeds, ids = rows_for(data, card, ports, model)
        outputs = sandbox.run(model, feeds)
    answers = outputs[0]
    if len(classes) == 1:
        raise ModelFileError(f"{model} names one class, {classes[0]}", help="export it again with lrdiff export RUN")
    wide = {len(classes), 1} if len(classes) == 2 else {max(len(classes), 1)}
    if len(outputs) != 1 or answers.ndim != 2 or len(answers) != len(feeds[0]) or answers.shape[1] not in wide:
        raise ModelFileError(
            f"{model} answers {' and '.join(str(list(one.shape)) for one in outputs)} for {len(feeds[0])} rows",
            help=f"one output is needed, [rows, {' or '.join(map(str, sorted(wide)))}]",
        )
    name = "".join(names_of({"target": [card.get("target", "prediction")]}, "target", model))
    return predictions_table(answers, target=name, classes=classes, ids=ids)


def latency(
    source: str, *, batches: Sequence[int] = (1, 32, 1024), threads: Sequence[int] = (1,), provider: str | None = None
) -> dict[str, Any]:
    """Time a run's ``model.onnx`` against eager PyTorch, call by call; or an ONNX file alone on its golden vectors.

    Args:
        source: a run folder, or an ONNX file from anywhere: it runs in a sandbox.
        batches: batch sizes.
        threads: numbers of threads.
        provider: the execution provider that must run every node.

    Raises:
        CheckpointError, ModelFileError: the run or its file cannot be used.
        CheckFailed: a node is run by another provider than the one asked for.
        UnavailableError: the provider is not here.
    """
    from lrdiff_export import inspect_untrusted, measure_latency, text_inputs_of
    from lrdiff_export.runtimes.predictor import CPU_PROVIDER
    from lrdiff_export.verify.golden import check_beside, read_golden

    model = Path(source)
    text = None
    if model.suffix == ".onnx":
        module, rows = None, read_golden(model).inputs
        check_beside(model)
    else:
        module, rows = _of_run(model)
        model = onnx_of(model)
        ports = inspect_untrusted(model)
        names = [name for name, *_ in ports.outputs]
        text = text_inputs_of(module, output_names=names) if ports.takes_words else None
    report = measure_latency(
        model, rows, module=module, text=text, provider=provider or CPU_PROVIDER, batches=batches, threads=threads
    )
    return report.to_dict()


def _of_run(run: Path) -> tuple[nn.Module, tuple[np.ndarray, ...]]:
    """A run's model as it is shipped, and its test rows."""
    if is_own(run):
        setup = open_own(run)
        rows = rows_of(setup.held)
        rows = tuple(rows.values()) if isinstance(rows, dict) else rows
        return setup.shipped, rows if isinstance(rows, tuple) else (rows,)
    net, _, config = open_run(run)
    return shipped(net).eval(), (held_out(net, config)[0],)


def whole_numbers(option: str, text: str) -> list[int]:
    """Read a list of whole numbers such as ``"1,2"``.

    Raises:
        ConfigError: it is not one.

    Example:
        >>> whole_numbers("--threads", "1,2")
        [1, 2]
    """
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise ConfigError(f"{option} is {text!r}", help="write whole numbers from 1 up, such as 1,2")
    return [int(part) for part in parts]


def on_or_off(option: str, text: str) -> bool:
    """Read a switch.

    Raises:
        ConfigError: it is none.

    Example:
        >>> on_or_off("--string-inputs", "off")
        False
    """
    if text not in ("on", "off"):
        raise ConfigError(f"{option} is {text!r}", help="write on or off")
    return text == "on"


def list_targets() -> list[dict[str, Any]]:
    """Return the table of runtimes: name, newest operator set, newest IR version."""
    from lrdiff_export import TARGETS

    return [{"target": row.name, "opset": row.opset, "ir_version": row.ir_version} for row in TARGETS]


def _allowance(texts: Sequence[str]) -> Allowance:
    from lrdiff_export import Allowance

    given: dict[str, float] = {}
    for text in texts:
        key, _, value = text.partition("=")
        try:
            given[key] = float(value)
            Allowance(**{key: given[key]})
        except (TypeError, ValueError) as problem:
            raise ConfigError(
                f"--allow {text} is not KEY=NUMBER", help=f"keys: {', '.join(Allowance.__dataclass_fields__)}"
            ) from problem
    return Allowance(**given)
