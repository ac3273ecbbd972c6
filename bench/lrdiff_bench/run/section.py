"""What a run adds to a report: the finding with its rates, the pipeline, training, results, the proof of its file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from lrdiff_bench.report import charts, gains
from lrdiff_bench.report.parity_section import backend_rows, error_bars, share_text
from lrdiff_bench.report.parts import Part, fill_part
from lrdiff_bench.report.tables import label, number, numbers, shape
from lrdiff_bench.run.columns_text import columns_text, row_text
from lrdiff_bench.run.comparison_screen import curves_of
from lrdiff_bench.run.own_model.section import own_stages
from lrdiff_bench.run.screen import unfinished_text
from lrdiff_bench.run.split_text import split_text, spread_text
from lrdiff_core.rates import RatePlan
from lrdiff_core.rates.plan.table import FOLD_ABOVE, rows_of

__all__ = ["plan_part", "run_part"]

MOST_BARS = 40  # layers whose rates are drawn as bars


def run_part(summary: Mapping[str, Any], plan: RatePlan, folder: str) -> Part:
    """The part of a report that shows one run; one that was interrupted after its metrics says what is missing.

    Args:
        summary: of the run.
        plan: its rates.
        folder: where it lies, for the commands that are shown.
    """
    finding, rates = _found(summary)
    metrics, comparison = summary["metrics"], _compared(summary)
    missing = [name for name in summary.get("missing", ()) if name != "folder"]  # of which this page is part
    unfinished = [f"{text[:1].upper()}{text[1:]}." for text in [unfinished_text(folder, missing)] if missing]
    body = fill_part(
        "run.html",
        s=summary,
        folder=folder,
        stages=own_stages(summary) if "own_model" in summary["data"] else _stages(summary),
        warnings=[*unfinished, *_warnings(summary)],
        epochs=_epochs(metrics),
        losses=_losses(metrics, summary["data"]["task"]),
        comparison=None if comparison is None else _comparison(comparison),
        folds=None if "folds" not in summary else _folds(summary["folds"]),
        path=None if "prediction" not in summary else _path(summary["prediction"]),
        results=_results(metrics, summary["data"]["classes"]),
        export=None if "verification" not in summary.get("export", {}) else _export(summary["export"]),
        parity=None if "parity" not in summary else _parity(summary["parity"]),
        plan=_plan(plan),
        cost=_cost(summary["step_cost"]) if "step_cost" in summary else "",
    )
    return Part(title=f"Run {summary['name']}", finding=finding, body=body, rates=rates)


def plan_part(plan: RatePlan, name: str) -> Part:
    """The part of a report that shows a rate plan by itself."""
    drawn = _plan(plan)
    distinct = len({entry.lr for entry in plan})
    finding = (
        f"{len(plan)} parameters learn at {distinct} different rates." if distinct > 1 else "All learn at one rate."
    )
    return Part(title=f"Rates {name}", finding=finding, body=fill_part("rates.html", plan=drawn))


def _found(summary: Mapping[str, Any]) -> tuple[str, str]:
    """The finding in a sentence, and the rates that follow from it."""
    test = next((row for row in summary["metrics"]["observations"] if row["split"] == "test"), None)
    score = (
        ""
        if test is None or summary["metrics"]["score"] is None
        else f" This model's {summary['metrics']['score']} on test rows: {number(test['score'])}."
    )
    comparison = _compared(summary)
    if comparison is None:
        rates = {layer["name"]: layer["rate"] for layer in summary["training"]["layers"]}
        return f"Trained, not compared with single rates.{score}", _toml(rates)
    own, tuned = comparison["gains"]["as configured"], comparison["gains"]["tuned ratios"]
    schemes = {scheme["name"]: scheme for scheme in comparison["schemes"]}
    helps = {name for name, one in comparison["gains"].items() if one["verdict"] == "HELPS"}
    chosen = next((name for name in ("tuned ratios", "as configured") if name in helps), "tuned single")
    trained = comparison.get("chosen")
    given = "the default rates" if trained and not trained["configured"] else "the configured rates"
    words = gains.found(own, given, "one tuned rate")
    if own["verdict"] != tuned["verdict"]:
        words += f" With ratios kept and tuned as hard, {gains.found(tuned, 'different rates', 'one tuned rate')}"
    if trained:
        return f"{words} Trained with: {trained['scheme']}.{score}", _toml(trained["rates"], trained["scheme"])
    return words + score, _toml(schemes[chosen]["rates"], chosen)


def _folds(s: Mapping[str, Any]) -> dict[str, Any]:
    """Each fold's results, and mean and standard deviation over them."""
    spread = [
        [row["name"], *("" if row[name] is None else spread_text(row[name]) for name in s["metrics"])]
        for row in s["models"]
    ]
    each = [
        [
            str(place),
            str(fold["split"]["train"]),
            str(fold["split"]["test"]),
            *("" if fold[name] is None else f"{fold[name]:.4g}" for name in s["metrics"]),
        ]
        for place, fold in enumerate(s["folds"], start=1)
    ]
    return {"heads": s["metrics"], "spread": spread, "each": each}


def _compared(summary: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The comparison with single rates; None where there is none."""
    comparison: Mapping[str, Any] | None = summary.get("comparison")
    return None if comparison is None or "skipped" in comparison else comparison


def _toml(rates: Mapping[str, float], what: str = "as configured") -> str:
    lines = (
        f"{key if key.replace('_', '').isalnum() else json.dumps(key)} = {rate:.4g}" for key, rate in rates.items()
    )
    return "\n".join([f"[rates]  # {what}", *lines])


def _stages(s: Mapping[str, Any]) -> list[dict[str, str]]:
    """Name, shape, what happens, and the followed row, of each stage."""
    data, training = s["data"], s["training"]
    sample, outputs = data["sample"], training["layers"][-1]["weight"][0]
    sizes = " → ".join(str(layer["weight"][1]) for layer in training["layers"]) + f" → {outputs}"
    split = data["split"]
    row = row_text(sample["values"], data["columns"]) if data.get("columns") else numbers(sample["values"])
    stages = [
        {
            "name": "Data in",
            "shape": shape([data["rows"], data["features"]]),
            "what": f"{data['name']}, {data['task']}: target {label(data['target'])}; "
            + "; ".join(split_text(split, data["task"]))
            + "".join(f"; {text}" for text in columns_text(data.get("columns", ()), data.get("left_out", ()))),
            "row": f"row {sample['row']}: {row}, label {label(sample['label'])}",
        },
        {
            "name": "Preprocessing",
            "shape": shape(s["preprocessing"]["shape_out"]),
            "what": "; ".join([s["preprocessing"]["what"], *s["preprocessing"].get("encoding", ())]),
            "row": numbers(s["preprocessing"]["sample"]),
        },
        {
            "name": "Feature engineering",
            "shape": shape(s["features"]["shape_out"]),
            "what": s["features"]["what"],
            "row": numbers(s["features"]["sample"]),
        },
        {
            "name": "Training",
            "shape": sizes,
            "what": f"{training['optimizer']}, {training['epochs']} epochs of {training['batch_size']} rows a step, "
            f"{training['steps']} steps on {training['device']}",
            "row": ", ".join(f"{layer['name']} at {layer['rate']:g}" for layer in training["layers"]),
        },
    ]
    if prediction := s.get("prediction"):
        stages.append({
            "name": "Prediction",
            "shape": shape([1, outputs]),
            "what": "answer for the same row",
            "row": f"{numbers(prediction['answer'])}; its label is {label(prediction['label'])}",
        })  # fmt: skip
    return stages


def _warnings(s: Mapping[str, Any]) -> list[str]:
    found = list(s["data"]["notes"])
    found += [warning["text"][:1].upper() + warning["text"][1:] + "." for warning in s["data"].get("warnings", ())]
    left_out = s["data"].get("left_out", ())  # older runs have none
    found += [f"Column {label(one['name'])} is not used: {one['rule']}." for one in left_out if one["kind"] == "text"]
    before = s.get("preprocessing", {})  # a model of one's own on its own rows has none
    if constant := before.get("constant_columns"):
        found.append(f"Constant columns, ignored: {', '.join(map(label, constant))}.")
    if before.get("fills_missing"):
        found.append("Missing values are filled inside the model with values from the training rows.")
    found += [f"{text[0].upper()}{text[1:]}." for text in s.get("warnings", ())]
    if (comparison := s.get("comparison")) and (said := comparison.get("skipped") or comparison["void"]):
        found.append(f"Not compared with single rates: {said}" if "skipped" in comparison else said)
    if "not_exported" in s.get("export", {}):
        found.append(f"No ONNX file was written: {s['export']['not_exported']}")
    return found


def _epochs(metrics: Mapping[str, Any]) -> list[list[str]]:
    by_epoch: dict[int, dict[str, Any]] = {}
    for row in metrics["observations"]:
        if row["split"] != "test":
            by_epoch.setdefault(row["epoch"], {})[row["split"]] = row
    return [
        [str(epoch), *(number(rows[part][key]) for part in ("train", "validation") for key in ("loss", "score"))]
        for epoch, rows in by_epoch.items()
    ]


def _losses(metrics: Mapping[str, Any], task: str) -> charts.Chart:
    parts = {part: [r for r in metrics["observations"] if r["split"] == part] for part in ("train", "validation")}
    unit = "variance units" if task == "regression" else "nats"
    return charts.lines(
        [
            charts.Line(name=part, x=[r["epoch"] for r in rows], y=[r["loss"] for r in rows])
            for part, rows in parts.items()
        ],
        label="Loss of this model by epoch", x="epoch", y=f"loss ({unit})", whole_x=True,
    )  # fmt: skip


def _comparison(s: Mapping[str, Any]) -> dict[str, Any]:
    seeds = s["plan"]["searches"] * s["plan"]["report_seeds"]
    curves = [
        charts.Line(
            name=name if rates in name else f"{name}: {rates}",
            x=list(range(1, len(bands) + 1)),
            y=[band[0] for band in bands],
            low=[band[1] for band in bands],
            high=[band[2] for band in bands],
        )
        for name, rates, bands in curves_of(s)
    ]
    rows = [
        charts.Bar(
            name=name, value=one["estimate"], low=one["low"], high=one["high"], text=one["verdict"],
            look=gains.LOOKS[one["verdict"]],
        )
        for name, one in s["gains"].items()
    ]  # fmt: skip
    return {
        "curves": charts.lines(
            curves, label=f"Test loss by epoch: median of {seeds} fresh seeds with 95 % bands", x="epoch",
            y="test loss", whole_x=True,
        ),
        "forest": charts.forest(
            rows, label="Gain over the tuned single rate, 95 % intervals; inside the band it is too small to matter",
            x="gain in test loss (positive: different rates are better)", band=s["smallest_difference"],
        ),
        "verdicts": [(name, one["verdict"], gains.gain(one), gains.beside(one)) for name, one in s["gains"].items()],
        "rows": [
            [
                one["name"], one["rates_text"], str(one["trials"]),
                gains.interval(one["final"]), number(one["score"]), gains.percent(one["diverged"]),
            ]
            for one in s["schemes"]
        ],
    }  # fmt: skip


def _path(s: Mapping[str, Any]) -> list[list[str]]:
    return [
        [
            step["name"],
            "" if step["rate"] is None else f"{step['rate']:g}",
            shape(step.get("shape") or [1, len(step["values"])]),
            numbers(step["values"], most=10),
        ]
        for step in s["trace"]
    ]


def _results(metrics: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any] | None:
    test = metrics.get("test")
    if test is None:  # of an older run
        return None
    drawn = test.get("drawn", {})
    found: dict[str, Any] = {
        "heads": ["on test rows", *test["metrics"]],
        "rows": [[row["name"], *(_share(row[m], ".4g") for m in test["metrics"])] for row in test["models"]],
        "classes": [
            [label(row["class"]), row["rows"], row["predicted"], _share(row["recall"]), _share(row["precision"])]
            for row in test["classes"]
        ],
        "names": list(map(label, classes)),
        "confusion": drawn.get("confusion"),
        "charts": [],
    }  # fmt: skip
    if roc := drawn.get("roc"):
        line = charts.Line(name="this model", x=roc["false"], y=roc["true"])
        found["charts"].append(charts.lines(
            [line], label="ROC curve: right alarms against false alarms, over all thresholds",
            x="false positive rate", y="true positive rate", diagonal=True, height=340,
        ))  # fmt: skip
    if calibration := drawn.get("calibration"):
        ends = [_wilson(b["was"], b["rows"]) for b in calibration]
        line = charts.Line(
            name="this model",
            x=[b["said"] for b in calibration],
            y=[b["was"] for b in calibration],
            low=[low for low, _ in ends],
            high=[high for _, high in ends],
        )
        what = f"class {label(classes[1])}" if len(classes) == 2 else "being right"
        found["charts"].append(charts.lines(
            [line], label=f"Calibration in tenths: how often {what} was true where the model said so, 95 % bands",
            x="probability said", y="share that was", diagonal=True, height=340,
        ))  # fmt: skip
    if "actual" in drawn:
        points = charts.Line(name="test row", x=drawn["actual"], y=drawn["predicted"], points=True)
        found["charts"].append(charts.lines(
            [points], label="Predicted against actual values of test rows", x="actual", y="predicted", diagonal=True,
            height=380,
        ))  # fmt: skip
    return found


def _export(s: Mapping[str, Any]) -> dict[str, Any]:
    verification = s["verification"]
    tried: dict[str, int] = {}
    for case in verification["cases"]:
        tried[case.get("name", f"batch {case['batch']}")] = case["batch"]
    return {
        "outputs": [
            [one["output"], share_text(one["error"], one["allowed"]), one["reason"] or "agrees"]
            for one in verification["worst"]
        ],
        "tried": [[name, rows] for name, rows in tried.items()],
        "problems": verification["problems"],
    }


def _parity(s: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "chart": error_bars(s["results"], "Error on each backend as a share of what is allowed"),
        **backend_rows(s["results"]),
    }


def _cost(s: Mapping[str, Any]) -> str:
    if "skipped" in s:
        return f"Not timed: {s['skipped']}."
    low, high = s["interval"]
    times = f"{s['ratio']:.3f} [{low:.3f}, {high:.3f}]"
    return f"A step of the optimizer takes {times} times as long, {s['question']}; verdict: {s['verdict']}."


def _plan(plan: RatePlan) -> dict[str, Any]:
    rows = rows_of(plan, (), fold=len(plan) > FOLD_ABOVE)
    layers: dict[str, list[float]] = {}
    for row in rows:
        layers.setdefault(".".join(row.name[:-1]) or row.name[0], []).extend(row.rates)
    bars = [
        charts.Bar(name=name, value=rates[0], text=_range(rates), look="s0")
        for name, rates in list(layers.items())[:MOST_BARS]
    ]
    return {
        "rows": [
            [
                ".".join(row.name), shape(row.entry.shape) or "scalar", row.entry.rule or "", _range(row.rates),
                f"{row.entry.weight_decay:.4g}",
            ]
            for row in rows
        ],
        "folded": sum(len(row.rates) for row in rows) - len(rows),
        "chart": charts.bars(bars, label="Learning rate by layer", x="learning rate", log=True),
    }  # fmt: skip


def _wilson(share: float, rows: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    z = 1.96
    middle, spread = share + z * z / (2 * rows), z * math.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows))
    return (middle - spread) / (1 + z * z / rows), (middle + spread) / (1 + z * z / rows)


def _share(value: float | None, form: str = ".3f") -> str:
    return "" if value is None else format(value, form)


def _range(rates: Sequence[float]) -> str:
    low, high = rates[0], rates[-1]
    return f"{low:.4g}" if len(set(rates)) == 1 else f"{low:.4g} to {high:.4g}"
