"""What the stages up to the prediction say of a run, as plain JSON types: sections of its summary."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch

from lrdiff_bench.run.columns_text import encoding_text
from lrdiff_bench.run.compare.baselines import test_results
from lrdiff_core.data import Table, describe_split, find_doubts
from lrdiff_core.loop import Trained, score_name
from lrdiff_core.model import constant_columns
from lrdiff_core.setup import Setup

__all__ = ["data_sections", "training_section", "training_sections"]


def data_sections(setup: Setup) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the stages that end before rates matter: data, preprocessing, features."""
    shape = list(setup.rows.table.features.shape)
    encoded = [shape[0], setup.net.spec.sizes[0]]
    same = {"shape_in": encoded, "shape_out": encoded, "sample": [float(v) for v in setup.rows.inputs["test"][0]]}
    yield "data", _data(setup)
    yield (
        "preprocessing",
        {
            "what": "zero mean, unit variance, fitted on the training rows only",
            "encoding": encoding_text([column.to_dict() for column in setup.net.spec.columns]),
            "constant_columns": constant_columns(setup.net),
            "fills_missing": setup.net.spec.fills_missing,
            **same,
            "shape_in": shape,
        },
    )
    yield "features", {"what": "none", **same}


def training_sections(trained: Trained) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what a trained model is first asked for: metrics, and the prediction of one row."""
    yield (
        "metrics",
        {
            "score": score_name(trained.net.spec.task),
            "observations": [asdict(row) for row in trained.observations],
            "patience": trained.setup.patience,
            "epochs": trained.epochs,
            "kept_epoch": trained.kept_epoch,
            "stopped_early": trained.epochs < trained.setup.epochs,
            "test": test_results(trained),
        },
    )
    yield "prediction", _prediction(trained)


def _data(setup: Setup) -> dict[str, Any]:
    table, sample = setup.rows.table, _sample_row(setup)
    return {
        "name": table.name,
        "source": table.source,
        "rows": len(table.features),
        "streamed_rows": None if table.stream is None else table.stream.rows,
        "features": table.features.shape[1],
        "feature_names": table.feature_names,
        "columns": [column.to_dict() for column in table.columns],
        "left_out": [column.to_dict() for column in table.left_out],
        "target": table.target_name,
        "task": table.task,
        "classes": table.classes,
        "split": describe_split(table, setup.rows.split),
        "sample": {"row": sample, "values": table.features[sample], "label": _label_of(table, sample)},
        "notes": table.notes,
        "warnings": [asdict(doubt) for doubt in find_doubts(table, setup.rows.split)],
    }


def training_section(setup: Setup) -> dict[str, Any]:
    """How the model is about to be trained."""
    net, rates, config = setup.net, setup.rates, setup.config
    steps = -(-setup.rows.training_rows // setup.batch_size)
    layers = []
    for name in net.layer_names:
        layer = net.get_submodule(name)
        layers.append({
            "name": name,
            "weight": list(layer.get_parameter("weight").shape),
            "parameters": sum(p.numel() for p in layer.parameters()),
            "rate": rates[name],
        })  # fmt: skip
    return {
        "layers": layers,
        "optimizer": config.optimizer,
        "batch_size": setup.batch_size,
        "epochs": setup.epochs,
        "steps": steps * setup.epochs,
        "patience": setup.patience,
        "schedule": config.schedule,
        "warmup": config.warmup,
        "dropout": config.dropout,
        "class_weight": _class_weight(setup),
        "device": str(setup.device),
        "compile": config.compile,
        "threads": config.threads,
        "seed": config.seed,
    }


def _class_weight(setup: Setup) -> dict[str, float] | None:
    weight = setup.rows.class_weight
    return None if weight is None else dict(zip(setup.rows.table.classes, weight.tolist(), strict=True))


def _prediction(trained: Trained) -> dict[str, Any]:
    setup, net = trained.setup, trained.net
    table, sample = setup.rows.table, _sample_row(setup)
    row = torch.from_numpy(table.features[sample])
    with torch.no_grad():
        answer = net.predict(row[None])[0]
    return {
        "row": sample,
        "label": _label_of(table, sample),
        "task": table.task,
        "classes": table.classes,
        "answer": answer.numpy(),
        "trace": [{**asdict(step), "rate": setup.rates.get(step.layer or "")} for step in net.trace(row)],
    }


def _sample_row(setup: Setup) -> int:
    """Return the row that is followed through all stages: the first of the test split."""
    return int(setup.rows.split.test[0])


def _label_of(table: Table, row: int) -> str | float:
    """Return the label of one row: the class's name, or the value."""
    return table.classes[int(table.target[row])] if table.classes else float(table.target[row])
