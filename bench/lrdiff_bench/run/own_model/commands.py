"""What commands do with the run of a model of one's own: predict, verify, show again, export."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lrdiff_bench.run.own_model.files import load_shipped, open_own
from lrdiff_bench.run.own_model.on_table import OnTable
from lrdiff_bench.run.own_model.ship import example_of, export_options, rows_of
from lrdiff_bench.run.own_model.summary import trace_of
from lrdiff_bench.run.own_model.tasks import first_output
from lrdiff_bench.run.ship import refuse_diverged, with_words
from lrdiff_bench.system.arrays import read_arrays
from lrdiff_bench.system.batches import Batch
from lrdiff_bench.system.run_folder import kept_warnings, read_summary
from lrdiff_bench.system.user_code import their_fault, user_code
from lrdiff_core.errors import CheckpointError, DataError, LrdiffError

if TYPE_CHECKING:
    import polars as pl

__all__ = ["export_own_run", "predict_own", "retrace_own", "verify_own"]

AT_ONCE = 1024  # rows of one call


def predict_own(run: Path, data: str) -> pl.DataFrame | None:
    """The first output as a table, a column a number; None where the run is on a table, whose rows others predict.

    Args:
        run: a run folder.
        data: ``.npy`` with the rows of the one input, or ``.npz`` with an array an input.

    Raises:
        DataError: the file cannot be read, or the model does not take its rows.
    """
    module, _, config = load_shipped(run)
    if isinstance(module, OnTable):
        return None
    arrays = read_arrays(Path(data))
    names = list(arrays) if isinstance(arrays, Mapping) else None
    tensors = [torch.from_numpy(np.ascontiguousarray(one)) for one in (arrays.values() if names else [arrays])]
    if len({len(one) for one in tensors}) != 1:
        raise DataError(f"{data} has arrays of {', '.join(str(len(one)) for one in tensors)} rows", help="give as many")
    answers = []
    with user_code(), torch.no_grad():
        for begin in range(0, len(tensors[0]), AT_ONCE):
            rows = [one[begin : begin + AT_ONCE] for one in tensors]
            answers.append(_answer(module, rows, names, str(config.model), data))
    flat = np.concatenate(answers)
    import polars as pl

    wide = flat.shape[1]
    return pl.DataFrame({f"output{i + 1}" if wide > 1 else "output": flat[:, i] for i in range(wide)})


def verify_own(model: Path, run: Path, sandbox: Any) -> Any:
    """The report of an ONNX file against the run's model on its test rows; None where that is on a table."""
    from lrdiff_export import verify_onnx

    setup = open_own(run)
    if setup.table is not None:
        return None
    with user_code():
        return verify_onnx(model, setup.shipped, rows=rows_of(setup.held), sandbox=sandbox)


def retrace_own(run: Path) -> dict[str, Any]:
    """A run's summary with the way of its sample row computed again.

    Raises:
        CheckpointError: the checkpoint does not predict what the summary says.
    """
    summary = read_summary(run)
    if "prediction" in summary:
        setup = open_own(run)
        with user_code():
            trace = trace_of(setup)
        now, stored = trace[-1]["values"], [np.nan if v is None else v for v in summary["prediction"]["answer"]]
        if len(now) != len(stored) or not np.allclose(now, stored, rtol=1e-4, atol=1e-5, equal_nan=True):
            raise CheckpointError(
                f"{run / 'model.safetensors'} predicts {now[:3]}, its summary says {stored[:3]}",
                help="the folder, the factory or its rows were changed after the run; run again",
            )
        summary["prediction"]["trace"] = trace
    if "folder" in summary:
        summary["folder"] = {**summary["folder"], "path": str(run)}
    return summary


def export_own_run(run: Path, out: Path, options: Mapping[str, Any], *, words: bool = True) -> dict[str, Any]:
    """Export the trained model of a run.

    Args:
        run: a run folder.
        out: the file.
        options: arguments of :func:`lrdiff_export.export`.
        words: whether the file takes a table's columns of categories as words; else it takes their codes.
    """
    from lrdiff_export import export

    setup = open_own(run)
    refuse_diverged(setup.shipped)
    own = {k: v for k, v in setup.user.export_options().items() if k not in ("rows", "labels", "score")}
    options = {**export_options(setup, kept_warnings(run)), **own, **options}
    if setup.table is not None:
        options = with_words(setup.shipped, options, words=words)
    with user_code():
        report = export(setup.shipped, example_of(setup.held), out=out, rows=rows_of(setup.held), **options)
    return {**report.to_dict(), "passed": True, "preprocessing": setup.table is not None}


def _answer(module: torch.nn.Module, rows: list[torch.Tensor], names: list[str] | None, source: str, data: str) -> Any:
    inputs: Any = tuple(rows) if names is None else dict(zip(names, rows, strict=True))
    batch = Batch(inputs=inputs, targets=None)
    try:
        try:
            outputs = batch.answer(module)
        except TypeError:  # names of a file that forward does not have: by position
            outputs = replace(batch, inputs=tuple(rows)).answer(module)
    except LrdiffError:
        raise
    except Exception as problem:
        fault = their_fault(f"{source} on the rows of {data}", problem)
        raise DataError(fault.message, help="give one array an input, [rows, ...]") from problem
    first = first_output(outputs)
    if first is None or first.ndim == 0:
        raise DataError(f"{source} gives no tensor of rows", help="nothing can be written of it")
    return first.reshape(len(first), -1).numpy()
