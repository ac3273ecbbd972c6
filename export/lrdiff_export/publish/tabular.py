"""The main model as a file: names, card and inputs of words follow from the model and its settings."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from lrdiff_core.model import Predictor, TabularNet
from lrdiff_export.model.ports import Port
from lrdiff_export.publish.export import export
from lrdiff_export.publish.metadata import model_card, text_inputs_of
from lrdiff_export.publish.report import ExportReport

if TYPE_CHECKING:
    from lrdiff_core.config import RunConfig

__all__ = ["export_tabular", "word_options"]

ANSWERS = {"binary": "probability", "multiclass": "probabilities", "regression": "prediction"}
"""What the model's output is called in the file, by task."""
RECIPE = {"optimizer", "epochs", "patience", "schedule", "dropout", "class_weight", "batch_size", "seed", "hidden"}
"""Settings that the card tells."""


def export_tabular(
    net: TabularNet,
    rows: np.ndarray,
    *,
    out: str | os.PathLike[str],
    config: RunConfig,
    words: bool = True,
    warnings: Sequence[str] = (),
    **options: Any,
) -> ExportReport:
    """Export a model of tables with everything that its file says of itself, and golden vectors beside it.

    Args:
        net: on the CPU.
        rows: held-out raw rows [rows, features] to verify on.
        out: the file.
        config: the settings it was trained by, resolved.
        words: whether the file takes columns of categories as words; else it takes their codes.
        warnings: what its users must know of its quality.
        options: further ones of :func:`lrdiff_export.export`.

    Raises:
        VerificationFailed: the file did not predict as the model; nothing was written.
    """
    predictor, name = Predictor(net), ANSWERS[net.spec.task]
    options = word_options(predictor, {**options, "output_names": (name,)}, words=words)
    recipe = config.model_dump(include=RECIPE, mode="json")
    return export(
        predictor,
        torch.from_numpy(rows[:2]),
        out=out,
        rows=rows,
        card=model_card(predictor, rates=config.rates, recipe=recipe, warnings=warnings),
        **options,
    )


def word_options(module: nn.Module, options: dict[str, Any], *, words: bool = True) -> dict[str, Any]:
    """Return options of :func:`lrdiff_export.export` for a model of a table, with its columns of categories.

    Args:
        module: that is exported.
        options: so far, ``output_names`` among them.
        words: whether the file takes them as words; else it takes codes, and is tried on codes alone.
    """
    text = text_inputs_of(module, output_names=options["output_names"])
    if text is None:
        return options
    given = {port.name: port for port in options.get("ports", ())}
    numbers = given.pop(text.numbers, Port(name=text.numbers))
    codes = {column.place: len(column.words) + 1 for column in text.columns}
    ports = [*given.values(), replace(numbers, categories=codes)]
    return {**options, "ports": ports, "text": text if words else None}
