"""What can be done with a finished run: predict, export, verify, show again."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from lrdiff_bench.run.files.training_files import read_settings
from lrdiff_bench.run.own_model.commands import predict_own, retrace_own, verify_own
from lrdiff_bench.run.own_model.files import is_own, load_shipped
from lrdiff_bench.run.own_model.on_table import OnTable
from lrdiff_bench.run.use.predictions import predictions_table
from lrdiff_bench.system.manifest import MANIFEST, check_files
from lrdiff_bench.system.ownership import is_owned
from lrdiff_bench.system.run_folder import read_summary
from lrdiff_core.checkpoint import load_checkpoint
from lrdiff_core.config import RunConfig
from lrdiff_core.data import read_rows
from lrdiff_core.errors import CheckpointError, ModelFileError
from lrdiff_core.model import Predictor, TabularNet

if TYPE_CHECKING:
    import polars as pl

__all__ = ["list_runs", "onnx_of", "open_run", "held_out", "predict_file", "retrace", "shipped", "verify_against_run"]


def open_run(run: Path) -> tuple[TabularNet | OnTable, dict[str, Any], RunConfig]:
    """Return the model on its table, the checkpoint's info and the settings of a run folder.

    Raises:
        CheckpointError: no run there, a damaged one, or one of a model that takes no table.
        ConfigError: its settings cannot be read.
    """
    missing = read_summary(run).get("missing", [])
    if "metrics" in missing and not (run / "model.safetensors").exists():
        raise CheckpointError(
            f"the training of {run} was interrupted", help=f"lrdiff run --resume {run} goes on with it"
        )
    if is_own(run):
        module, info, config = load_shipped(run)
        if not isinstance(module, OnTable):
            raise CheckpointError(
                f"{run} holds {config.model}, which takes no table",
                help="predict, verify, export, parity, latency, trace and rates work with it",
            )
        return module, info, config
    net, info = load_checkpoint(run / "model.safetensors")
    return net, info, read_settings(run)


def shipped(net: TabularNet | OnTable) -> nn.Module:
    """What a run exports: raw rows in, answers out."""
    return net if isinstance(net, OnTable) else Predictor(net)


def list_runs(folder: Path) -> list[dict[str, Any]]:
    """What the runs in a folder are and ended with, oldest first; one that cannot be read says why.

    Args:
        folder: that holds run folders.
    """
    files = sorted(folder.glob("*/summary.json"), key=lambda file: file.stat().st_mtime)
    return [_describe(file) for file in files]


def _describe(file: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"run": str(file.parent), "ended": file.stat().st_mtime}
    try:
        summary = read_summary(file.parent, check=())
        if not summary.get("missing") and (file.parent / MANIFEST).is_file():  # no word about each earlier run
            check_files(file.parent, file.name)
        row |= {"missing": summary.get("missing", []), "running": is_owned(file.parent)}
        metrics = summary.get("metrics", {"score": None, "observations": []})
        test: dict[str, Any] = next((one for one in metrics["observations"] if one["split"] == "test"), {})
        return row | {
            "data": summary["data"]["name"],
            "task": summary["data"]["task"],
            "optimizer": summary["training"]["optimizer"],
            "rates": [layer["rate"] for layer in summary["training"]["layers"]],
            "epochs": summary["training"]["epochs"],
            "loss": test.get("loss"),
            "score_name": metrics["score"],
            "score": test.get("score"),
            "passed": None if row["missing"] else all(summary["checks"].values()),
            "problem": None,
        }
    except CheckpointError as problem:
        return row | {"problem": problem.message}
    except (AttributeError, KeyError, TypeError):
        return row | {"problem": f"{file} lacks what a run's summary holds"}


def predict_file(run: Path, data: str) -> pl.DataFrame:
    """Predict every row of a file.

    Args:
        run: a run folder.
        data: a file with the model's columns, in any order; others are ignored. Cells are read as in training.
            ``-`` is standard input. For a model of one's own that takes tensors: ``.npy``, or ``.npz``.

    Returns:
        As :func:`lrdiff_bench.run.use.predictions.predictions_table`.

    Raises:
        CheckpointError: the run cannot be read.
        DataError: the rows cannot be used.
    """
    if is_own(run) and (predicted := predict_own(run, data)) is not None:
        return predicted
    net, info, _ = open_run(run)
    spec = net.spec
    rows = read_rows(
        data,
        feature_names=spec.feature_names,
        columns=spec.columns,
        ids=spec.ids,
        impute=info.get("impute", "none"),
    )
    with torch.no_grad():
        answers = net.predict(torch.from_numpy(rows.features)).numpy()
    return predictions_table(answers, target=spec.target_name, classes=spec.classes, ids=rows.ids)


def onnx_of(run: Path) -> Path:
    """Where the ONNX file of a run lies, held against the run's manifest and the golden vectors beside it.

    Raises:
        CheckpointError, ModelFileError: it was changed or damaged, or is missing though the manifest names it.
    """
    from lrdiff_export.verify.golden import check_beside

    file = run / "model.onnx"
    read_summary(run, check=(file.name,))
    if file.is_file():
        check_beside(file)
    return file


def verify_against_run(model: Path, run: Path) -> dict[str, Any]:
    """Check an ONNX file, which may be hostile, against a run's model on the run's held-out rows.

    Raises:
        ModelFileError: not an ONNX file, or one that costs more than the limits of a sandbox.
        CheckpointError: the run cannot be read.
    """
    from lrdiff_export import Sandbox, text_inputs_of, verify_onnx

    with Sandbox() as sandbox:
        ports = sandbox.inspect(model)  # before the run is opened: a bad file is the more likely mistake
        if is_own(run) and (report := verify_own(model, run, sandbox)) is not None:
            return _with_hash(model, report.to_dict())
        net, _, config = open_run(run)
        rows, _ = held_out(net, config)
        predictor = shipped(net)
        text = text_inputs_of(predictor, output_names=[name for name, *_ in ports.outputs])
        report = verify_onnx(model, predictor, rows=rows, sandbox=sandbox, text=text if ports.takes_words else None)
    return _with_hash(model, report.to_dict())


def _with_hash(model: Path, report: dict[str, Any]) -> dict[str, Any]:
    """A report, failed where the file is not the one that the golden vectors beside it are of."""
    from lrdiff_export.verify.golden import check_beside

    try:
        check_beside(model)
    except ModelFileError as problem:
        report |= {"passed": False, "problems": [*report["problems"], problem.message]}
    return {"file": str(model), **report}


def held_out(net: TabularNet | OnTable, config: RunConfig) -> tuple[np.ndarray, np.ndarray]:
    """Return the raw rows of a run's test split and what they are to be answered with, from its data and seed."""
    table = config.load_table()
    if table.feature_names != net.spec.feature_names or (table.columns != net.spec.columns and net.spec.columns):
        raise CheckpointError(
            f"{config.data} no longer has the columns the run was trained on",
            help=f"put the file back as it was; the run has {len(net.spec.feature_names)} columns",
        )
    split = config.split(table)
    return np.ascontiguousarray(table.features[split.test]), table.target[split.test]


def retrace(run: Path) -> dict[str, Any]:
    """Return a run's summary, as far as that goes, with the prediction of its sample row computed again.

    Raises:
        CheckpointError: the run cannot be read, or its checkpoint does not predict what its summary says.
    """
    summary = read_summary(run)
    if is_own(run):
        return retrace_own(run)
    net, _, _ = open_run(run)
    assert isinstance(net, TabularNet)
    if "prediction" not in summary:  # interrupted before it
        return summary
    try:
        values = summary["data"]["sample"]["values"]
        row = torch.tensor([math.nan if one is None else one for one in values], dtype=torch.float32)  # JSON has no NaN
        trace = net.trace(row)
        stored = np.array(summary["prediction"]["trace"][-1]["values"], np.float64)
        pairs = list(zip(trace, summary["prediction"]["trace"], strict=True))
        if stored.shape != (len(trace[-1].values),):
            raise ValueError("another number of answers")
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as problem:
        raise CheckpointError(
            f"{run / 'summary.json'} lacks what a run's summary holds: its sample row", help="run again"
        ) from problem
    if not np.allclose(trace[-1].values, stored, rtol=1e-5, atol=1e-6):
        raise CheckpointError(
            f"{run / 'model.safetensors'} predicts {trace[-1].values}, its summary says {stored.tolist()}",
            help="the folder was changed after the run; run again",
        )
    for step, written in pairs:
        written["values"] = list(step.values)
    if "folder" in summary:
        summary["folder"] = {**summary["folder"], "path": str(run)}
    return summary
