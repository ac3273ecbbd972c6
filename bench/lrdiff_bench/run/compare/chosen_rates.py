"""What follows from the comparison: the rates that are trained, and what a reader must be warned of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from lrdiff_core.config import TEST_SHARE, RunConfig
from lrdiff_core.data import Table
from lrdiff_core.setup import Setup

__all__ = ["MOST_ROWS", "choose_rates", "development", "inline_rates", "warnings_of"]

MOST_STEPS = 1000  # of a training that rates are compared by; what is trained then may go on
MOST_ROWS = 20_000  # that rates are compared on: more cost time and change no choice between rates a factor 3 apart
Section = Mapping[str, Any]


def development(setup: Setup) -> tuple[RunConfig, Table]:
    """The settings and rows that rates are compared on: without the run's own test rows, which no choice may see.

    Rows of a generator are drawn anew for every seed, so nothing has to be taken away from them.
    """
    table, split = setup.rows.table, setup.rows.split
    drawn_anew = table.source == "generator"
    rows = np.arange(len(table.features))
    if not drawn_anew:
        rows = np.sort(np.concatenate([split.train, split.validation]))
    if cut := len(rows) > MOST_ROWS and not drawn_anew:
        rows = np.sort(np.random.default_rng([setup.seed, 0xDE7]).choice(rows, MOST_ROWS, replace=False))
    config = _shorter(setup, len(rows), cut=cut or setup.rows.streamed_rows is not None)
    if drawn_anew:
        return config, table
    if isinstance(config.test, str):
        config = config.model_copy(update={"test": TEST_SHARE})
    # A streamed file's sample is split anew for every seed: what decided of its parts left no test rows here.
    keys = replace(table.split_keys.take(rows), test=None, test_file=None, drawn=None)
    return config, replace(
        table, features=table.features[rows], target=table.target[rows], split_keys=keys, stream=None
    )


def _shorter(setup: Setup, rows: int, *, cut: bool) -> RunConfig:
    """The settings with at most so many steps that rates can be told apart, where training stops by itself."""
    config, batch = setup.config, setup.batch_size
    if not setup.patience and not cut:
        return config
    test = TEST_SHARE if isinstance(config.test, str) else config.test
    steps_an_epoch = max(1, round(rows * (1.0 - config.validation - test) / batch))
    steps = min(MOST_STEPS, setup.epochs * -(-setup.rows.training_rows // batch))
    epochs = max(10, -(-steps // steps_an_epoch))
    if not cut:
        epochs = min(setup.epochs, epochs)
    patience = min(setup.patience, max(10, epochs // 5)) if not cut else setup.patience and max(10, epochs // 5)
    return config.model_copy(update={"epochs": epochs, "patience": patience})


def choose_rates(comparison: Section, *, configured: bool) -> dict[str, Any]:
    """The scheme whose rates are trained, and these rates.

    Args:
        comparison: the section of the summary.
        configured: whether somebody set the rates; they stay where a tuned single rate does not differ from them.

    Returns:
        ``scheme``: its name, the best one that is better than the tuned single rate by enough to matter and with a
        95 % interval above zero, else that one; ``rates``: of each layer; ``configured``.
    """
    gains = comparison["gains"]
    matters = {name: one for name, one in gains.items() if one["verdict"] != "NO DIFFERENCE"}
    better = [(one["estimate"], name) for name, one in matters.items() if one["low"] is not None and one["low"] > 0]
    if better:
        name = max(better)[1]
    elif configured and gains["as configured"]["verdict"] == "NO DIFFERENCE":
        name = "as configured"
    else:
        name = "tuned single"
    scheme = next(one for one in comparison["schemes"] if one["name"] == name)
    return {"scheme": name, "rates": scheme["pooled_rates"], "configured": configured}


def inline_rates(rates: Mapping[str, float]) -> str:
    """Rates as one line of a settings file.

    Example:
        >>> inline_rates({"layer1": 0.01, "layer2": 0.001})
        'rates = { layer1 = 0.01, layer2 = 0.001 }'
    """
    parts = (f"{k if k.replace('_', '').isalnum() else json.dumps(k)} = {rate:.6g}" for k, rate in rates.items())
    return f"rates = {{ {', '.join(parts)} }}"


def warnings_of(summary: Section) -> list[str]:
    """What a user of the model must know of its quality, a sentence each; none where all is well."""
    found = []
    if first := summary["metrics"].get("not_finite"):
        where = "" if first["layer"] is None else f", first in layer {first['layer']} (rate {first['rate']:g})"
        found.append(
            f"the loss was not finite at step {first['step']} of epoch {first['epoch']}{where}: try lower rates"
        )
    test = summary["metrics"].get("test") or {}
    if beaten := test.get("beaten_by"):
        name = "RMSE" if "RMSE" in test["metrics"] else "log loss"
        own, other = (next(row[name] for row in test["models"] if row["name"] == who) for who in ("this model", beaten))
        own = "no number" if own is None else f"{own:.4g}"
        found.append(f"this model does not beat {beaten} on the test rows: {name} {own} against {other:.4g}")
    never = [str(row["class"]) for row in test.get("classes", []) if row["rows"] and not row["predicted"]]
    if never:
        shown = ", ".join(never[:5]) + (", ..." if len(never) > 5 else "")
        found.append(f"this model never predicts class {shown} on the test rows, where it occurs")
    if better := _better(summary.get("comparison")):
        found.append(better)
    return found


def _better(comparison: Section | None) -> str | None:
    """Which rates the run's own comparison found clearly better than those that were trained."""
    if comparison is None or "gains" not in comparison or comparison.get("chosen") or comparison["void"]:
        return None
    own, ratios = (comparison["gains"][name] for name in ("as configured", "tuned ratios"))
    if ratios["verdict"] == "HELPS" and ratios["low"] > own["high"]:
        name, gain = "tuned ratios", None
    elif own["verdict"] == "HURTS":
        name, gain = "tuned single", -own["estimate"]
    else:
        return None
    rates = next(one["pooled_rates"] for one in comparison["schemes"] if one["name"] == name)
    by = "" if gain is None else f", by {gain:.3g} in test loss"
    return f"the run's comparison found other rates clearly better ({name}{by}): {inline_rates(rates)}"
