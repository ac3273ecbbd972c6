"""What the stages up to the prediction say of a model of one's own: sections of the summary, as for a table."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from lrdiff_bench.run.own_model.results import own_results
from lrdiff_bench.run.own_model.setup import OwnSetup
from lrdiff_bench.run.own_model.tasks import first_output
from lrdiff_bench.run.own_model.training import OwnTrained
from lrdiff_core.errors import LrdiffError
from lrdiff_core.rates.plan.table import FOLD_ABOVE, rows_of

__all__ = ["own_data_sections", "own_training_section", "own_training_sections", "trace_of"]

MOST_VALUES = 64  # of one step of the sample row's way
MOST_STEPS = 12


def own_data_sections(setup: OwnSetup) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield data, and the preprocessing of a table."""
    table, held = setup.table, setup.held
    first = held.tensors()[0]
    shapes = [list(one.shape[1:]) for one in held.tensors()]
    names = list(held.inputs) if isinstance(held.inputs, dict) else _argument_names(setup, len(shapes))
    data: dict[str, Any] = {
        "own_model": setup.user.source,
        "name": setup.user.source if table is None else table.rows.table.name,
        "source": setup.parts["train"].kind if table is None else table.rows.table.source,
        "rows": _sum(part.rows for part in setup.parts.values()),
        "inputs": [{"name": name, "shape": shape} for name, shape in zip(names, shapes, strict=True)],
        "features": math.prod(shapes[0]),
        "target": None if table is None else table.rows.table.target_name,
        "task": setup.task.kind,
        "classes": [str(i) for i in range(setup.task.classes)] if table is None else list(table.rows.table.classes),
        "split": {name: part.rows for name, part in setup.parts.items()},
        "split_by": setup.split_by,
        "sample": {"row": 0, "values": _values(first[:1])},
        "notes": [] if table is None else list(table.rows.table.notes),
    }
    data["sample"]["label"] = _label(setup)
    yield "data", data
    if table is not None:
        from lrdiff_core.model import constant_columns

        fitted = {
            "what": "zero mean, unit variance, fitted on the training rows only",
            "constant_columns": list(constant_columns(table.net)),
            "fills_missing": table.net.spec.fills_missing,
            "shape_in": [data["rows"], data["features"]],
            "shape_out": [data["rows"], data["features"]],
            "sample": _values(table.rows.inputs["test"][:1]),
        }
        yield "preprocessing", fitted


def own_training_sections(trained: OwnTrained) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield metrics, and the prediction of one row."""
    setup, results = trained.setup, own_results(trained)
    yield (
        "metrics",
        {
            "score": setup.task.score_name,
            "observations": [asdict(row) for row in trained.observations],
            "patience": setup.patience,
            "epochs": trained.epochs,
            "kept_epoch": trained.kept_epoch,
            "stopped_early": trained.epochs < setup.epochs,
            **({} if results is None else {"test": results}),
        },
    )
    yield "prediction", _prediction(setup)


def trace_of(setup: OwnSetup) -> list[dict[str, Any]]:
    """The first test row's way through the children of the model: name, rate, shape and values of each step."""
    held, steps = setup.held, []
    module, shipped = setup.module, setup.shipped
    rates = {entry.name: entry.lr for entry in setup.plan}

    def note(name: str, output: Any) -> None:
        first = first_output(output)
        if first is None or first.ndim == 0:
            return
        own = [rate for parameter, rate in rates.items() if parameter.startswith(f"{name}.") or parameter == name]
        steps.append({
            "name": name, "layer": name if own else None, "rate": max(own) if own else None,
            "shape": [1, *first.shape[1:]], "values": _values(first[:1]),
        })  # fmt: skip

    for i, one in enumerate(held.tensors()):
        note("input" if i == 0 else f"input {i + 1}", one[:1])
    row = type(held)(inputs=_first_row(held.inputs), targets=None)
    hooks = [
        child.register_forward_hook(lambda _, __, output, name=name: note(name, output))
        for name, child in list(module.named_children())[:MOST_STEPS]
    ]
    was = shipped.training
    try:
        with torch.no_grad():
            note("answer", row.answer(shipped.eval()))
    finally:
        shipped.train(was)
        for hook in hooks:
            hook.remove()
    return steps


def own_training_section(setup: OwnSetup) -> dict[str, Any]:
    """The plan, and how long it is followed."""
    plan, steps = setup.plan, setup.steps_an_epoch
    frozen = set(plan.frozen)
    rows = rows_of(plan, frozen, fold=len(plan) > FOLD_ABOVE)
    return {
        "parameters": [
            {
                "name": ".".join(row.name), "shape": list(row.entry.shape), "rule": row.entry.rule,
                "low": min(row.rates), "high": max(row.rates), "decay": row.entry.weight_decay, "frozen": row.frozen,
            }
            for row in rows
        ],
        "notes": list(plan.notes),
        "layers": [
            {
                "name": group["name"], "weight": [len(group["params"])], "rate": group["lr"],
                "parameters": sum(p.numel() for p in group["params"]),
            }
            for group in setup.groups()
        ],
        "frozen": sum(p.numel() for p in setup.module.parameters() if not p.requires_grad),
        "optimizer": setup.config.optimizer,
        "batch_size": setup.batch_size,
        "epochs": setup.epochs,
        "patience": setup.patience,
        "steps": None if steps is None else steps * setup.epochs,
        "device": str(setup.device),
        "schedule": setup.config.schedule,
        "warmup": setup.config.warmup,
        "compile": False,
        "threads": setup.config.threads,
        "seed": setup.config.seed,
    }  # fmt: skip


def _prediction(setup: OwnSetup) -> dict[str, Any]:
    steps = trace_of(setup)
    return {
        "row": 0,
        "label": _label(setup),
        "task": setup.task.kind,
        "own_model": setup.user.source,
        "classes": [] if setup.table is None else list(setup.table.rows.table.classes),
        "answer": steps[-1]["values"],
        "trace": steps,
    }


def _label(setup: OwnSetup) -> Any:
    """The first test row's target, as the table or the factory has it."""
    if setup.table is not None:
        rows = setup.table.rows
        value = rows.table.target[rows.split.test[0]]
        return rows.table.classes[int(value)] if rows.table.classes else float(value)
    targets = setup.held.targets
    if not isinstance(targets, Tensor) or targets.ndim == 0:
        return "its targets"
    first = targets[0]
    if first.numel() > 1:
        return f"{list(first.shape)} numbers"
    return str(int(first)) if not first.is_floating_point() else float(first)


def _values(rows: Tensor) -> list[float]:
    return [float(v) for v in rows.detach().cpu().flatten()[:MOST_VALUES]]


def _first_row(inputs: Any) -> Any:
    return {k: v[:1] for k, v in inputs.items()} if isinstance(inputs, dict) else tuple(one[:1] for one in inputs)


def _sum(counts: Any) -> int | None:
    known = list(counts)
    return None if None in known else sum(known)


def _argument_names(setup: OwnSetup, count: int) -> list[str]:
    from lrdiff_export.model.signature import input_names_of

    try:
        return list(input_names_of(setup.module, setup.held.tensors(), None))[:count]
    except LrdiffError:  # inputs that no file takes, such as float16
        return [f"input {i + 1}" for i in range(count)]
