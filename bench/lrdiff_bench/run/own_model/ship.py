"""Export and parity of a model of one's own, with what its factory says of the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lrdiff_bench.report.json import write_document
from lrdiff_bench.run.own_model.setup import OwnSetup
from lrdiff_bench.run.ship import decider, refuse_diverged, with_words
from lrdiff_bench.system.batches import Batch
from lrdiff_bench.system.user_code import user_code

__all__ = ["example_of", "export_own", "parity_of_own", "rows_of"]


def export_own(setup: OwnSetup, folder: Path, warnings: Sequence[str] = ()) -> dict[str, Any]:
    """Export into a run folder, with the report beside the file; ``passed`` is false where it was not written.

    Args:
        setup: trained.
        folder: of the run.
        warnings: what a user of the model must know, kept in the file.
    """
    from lrdiff_core.errors import CheckFailed, InputError, LrdiffError, UnavailableError
    from lrdiff_export import VerificationFailed, export  # here: the exporter takes a second to import

    options = {**export_options(setup, warnings), **setup.user.export_options()}
    options = {key: value for key, value in options.items() if key not in ("rows", "labels", "score", "bundle")}
    if setup.table is not None:
        options = with_words(setup.shipped, options)
    try:
        refuse_diverged(setup.shipped)
        with user_code():
            done = export(
                setup.shipped, example_of(setup.held), out=folder / "model.onnx", rows=rows_of(setup.held), **options
            )
        report = {**done.to_dict(), "passed": True, "preprocessing": setup.table is not None}
    except VerificationFailed as problem:
        if problem.report is None:
            raise
        report = {"verification": problem.report.to_dict(), "golden": [], "passed": False}
    except (UnavailableError, CheckFailed):
        raise
    except (InputError, LrdiffError) as problem:  # not every module can be exported; the training is not lost for that
        report = {"not_exported": problem.message, "help": problem.help, "golden": [], "passed": False}
    report = {**report, "path": "model.onnx", "golden": [Path(name).name for name in report["golden"]]}
    write_document(folder / "verification.json", report)
    return report


def parity_of_own(setup: OwnSetup, folder: Path) -> dict[str, Any]:
    """Compare the predictions of the backends that start fast, and of the file where there is one."""
    from lrdiff_export import BACKENDS, check_parity

    model = folder / "model.onnx"
    decide = None if setup.table is None else decider(setup.task.kind)
    with user_code():
        report = check_parity(
            setup.shipped,
            rows_of(setup.held),
            backends=[
                name
                for name, backend in BACKENDS.items()
                if not backend.heavy and (model.is_file() or "onnx" not in name.lower())
            ],
            onnx_bytes_or_path=model if model.is_file() else None,
            decide=decide,
        ).to_dict()
    write_document(folder / "parity.json", report)
    return report


def export_options(setup: OwnSetup, warnings: Sequence[str] = ()) -> dict[str, Any]:
    """What is known of the file without the factory."""
    from lrdiff_export import ModelCard, model_card

    config, table = setup.config, setup.table
    recipe = config.model_dump(include={"optimizer", "epochs", "batch_size", "seed", "model"}, mode="json")
    options: dict[str, Any] = {}
    if table is None:
        options["card"] = ModelCard(rates=setup.rates, recipe=recipe, warnings=tuple(warnings))
    else:
        from lrdiff_core.model import Predictor

        options["card"] = model_card(Predictor(table.net), rates=setup.rates, recipe=recipe, warnings=warnings)
        options["output_names"] = (
            {"binary": "probability", "multiclass": "probabilities"}.get(setup.task.kind, "prediction"),
        )
        options["decide"] = decider(setup.task.kind)
    return options


def example_of(held: Batch) -> Any:
    """Two rows as the module takes them."""
    inputs = held.inputs
    if isinstance(inputs, dict):
        return {name: one[:2] for name, one in inputs.items()}
    return inputs[0][:2] if len(inputs) == 1 else tuple(one[:2] for one in inputs)


def rows_of(held: Batch) -> Any:
    """All held rows as arrays."""
    inputs = held.inputs
    if isinstance(inputs, dict):
        return {name: np.ascontiguousarray(one.numpy()) for name, one in inputs.items()}
    arrays = tuple(np.ascontiguousarray(one.numpy()) for one in inputs)
    return arrays[0] if len(arrays) == 1 else arrays
