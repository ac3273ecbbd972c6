"""What a run looks like in a terminal: one function a section of the summary, used live and by ``lrdiff trace``."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from lrdiff_bench.report.parity_table import draw_parity
from lrdiff_bench.report.tables import INDENT, heading, label, line, number, numbers, plain_table, shape
from lrdiff_bench.report.terminal_chart import draw_curves
from lrdiff_bench.run.columns_text import columns_text, row_text
from lrdiff_bench.run.comparison_screen import draw_comparison
from lrdiff_bench.run.export_screen import draw_export, draw_golden, draw_latency, draw_targets, draw_verification
from lrdiff_bench.run.own_model.screen import draw_own_data, draw_own_plan, draw_own_prediction
from lrdiff_bench.run.split_text import split_text

__all__ = ["DRAW", "TITLES", "Screen", "draw_runs", "draw_unfinished", "unfinished_text"]

SHORT = {"balanced accuracy": "balanced\naccuracy"}
MOST_CLASSES = 12  # that are shown one by one
MOST_EPOCHS = 12  # that are shown; metrics.parquet has all
TITLES = {
    "data": "Data",
    "preprocessing": "Preprocessing",
    "features": "Feature engineering",
    "training": "Training",
    "metrics": "Metrics",
    "prediction": "Prediction",
    "folds": "Cross-validation",
    "comparison": "Comparison with single rates",
    "step_cost": "Cost of a step",
    "export": "Export",
    "parity": "Parity",
    "folder": "Run folder",
}


class Screen:
    """A :class:`lrdiff_bench.run.job.Watcher` that draws on a terminal; progress bars only where one is attached."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.shown = 0
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def stage(self, name: str, section: dict[str, Any]) -> None:
        """Draw the section that a stage has finished."""
        self.close()
        self.shown += 1
        heading(self.console, self.shown, TITLES[name])
        DRAW[name](self.console, section)

    def progress(self, name: str, done: int, total: int, note: str) -> None:
        """Show how far a stage is: so many of a total, with a note."""
        if not self.console.is_terminal:
            return
        if self._progress is None:
            self._progress = Progress(
                TextColumn(INDENT + "{task.description}", markup=False), BarColumn(bar_width=16), MofNCompleteColumn(),
                TimeRemainingColumn(), TextColumn("{task.fields[note]}", markup=False),
                console=self.console, transient=True,
            )  # fmt: skip
            self._task = self._progress.add_task(TITLES[name], total=total, note="")
            self._progress.start()
        assert self._task is not None
        self._progress.update(self._task, completed=done, note=note)

    def close(self) -> None:
        """Take a progress bar off the screen."""
        if self._progress is not None:
            self._progress.stop()
        self._progress = self._task = None


def draw_data(console: Console, s: dict[str, Any]) -> None:
    if "own_model" in s:
        draw_own_data(console, s)
        return
    kinds = {"generator": "the built-in generator", "scikit-learn": "scikit-learn", "file": "a file"}
    names = ", ".join([*map(label, s["classes"][:10]), *(["..."] if len(s["classes"]) > 10 else [])])
    classes = f", classes {names}" if names else ""
    line(console, f"{shape([s['rows'], s['features']])} rows from {kinds.get(s['source'], s['source'])} ({s['name']})")
    line(console, f"target {label(s['target'])}: {s['task']}{classes}")
    for text in split_text(s["split"], s["task"]):
        line(console, text)
    for text in columns_text(s.get("columns", ()), s.get("left_out", ())):  # older runs have none
        line(console, text)
    sample = s["sample"]
    row = row_text(sample["values"], s["columns"]) if s.get("columns") else numbers(sample["values"])
    line(console, f"row {sample['row']}: {row}, label {label(sample['label'])}")
    for column in (column for column in s.get("left_out", ()) if column["kind"] == "text"):
        line(console, f"note: column {label(column['name'])} is not used: {column['rule']}", "yellow")
    for note in s["notes"]:
        line(console, f"note: {note}", "yellow")
    for warning in s.get("warnings", ()):  # older runs have none
        line(console, f"warning: {warning['text']}", "yellow")


def draw_preprocessing(console: Console, s: dict[str, Any]) -> None:
    line(
        console,
        f"{shape(s['shape_in'])} to {shape(s['shape_out'])}: {s['what']}, "
        "stored inside the model: the checkpoint and the ONNX file take raw rows",
    )
    for text in s.get("encoding", ()):  # older runs have none
        line(console, text)
    if s["constant_columns"]:
        line(console, f"constant, ignored: {', '.join(map(label, s['constant_columns']))}", "yellow")
    if s["fills_missing"]:
        line(console, "missing values are filled inside the model, with values from the training rows", "yellow")
    line(console, f"same row: {numbers(s['sample'])}")


def draw_features(console: Console, s: dict[str, Any]) -> None:
    line(console, f"{shape(s['shape_in'])} to {shape(s['shape_out'])}: {s['what']}")
    line(console, f"same row: {numbers(s['sample'])}")


def draw_training(console: Console, s: dict[str, Any]) -> None:
    if "parameters" in s:
        draw_own_plan(console, s)
    else:
        draw_layers(console, s)
    compiled = ", compiled" if s["compile"] else ""
    most = "up to " if s.get("patience") else ""  # older runs have none
    steps = "" if s["steps"] is None else f" = {s['steps']} steps"
    line(
        console,
        f"{s['optimizer']}, {most}{s['epochs']} epochs of {s['batch_size']} rows a step{steps}; "
        f"{s['device']}{compiled}, {s['threads']} thread{'s' if s['threads'] > 1 else ''}, seed {s['seed']}",
    )
    if s.get("processes"):  # older runs have none
        rows = -(-s["batch_size"] // s["processes"])
        how = f"{s['backend']}, fsdp2" if s.get("parallel") == "fsdp2" else s["backend"]
        line(console, f"{s['processes']} processes ({how}), up to {rows} rows of every step each")
    if more := training_extras(s):
        line(console, "; ".join(more))


def draw_layers(console: Console, s: dict[str, Any]) -> None:
    """Write the layers of the project's network with their rates."""
    table = plain_table("layer", "weight", "parameters", "learning rate")
    for layer in s["layers"]:
        table.add_row(layer["name"], shape(layer["weight"]), str(layer["parameters"]), f"{layer['rate']:g}")
    console.print(table)


def training_extras(s: dict[str, Any]) -> list[str]:
    """What a training has beyond the plain loop: early stopping, schedule, dropout, class weights."""
    found = []
    if s.get("patience"):
        found.append(f"stops after {s['patience']} epochs without a better validation loss, and keeps the best epoch")
    if s.get("schedule", "constant") != "constant" or s.get("warmup"):
        warmup = f" after a warm-up over {s['warmup']:.0%} of the steps" if s["warmup"] else ""
        found.append(f"rates: {s['schedule']}{warmup}")
    if s.get("dropout"):
        found.append(f"dropout {s['dropout']:g}")
    if weights := s.get("class_weight"):
        shown = ", ".join(f"{label(name)} {weight:.4g}" for name, weight in list(weights.items())[:MOST_CLASSES])
        found.append(f"a row counts in the loss by its class: {shown}{', ...' if len(weights) > MOST_CLASSES else ''}")
    return found


def draw_metrics(console: Console, s: dict[str, Any]) -> None:
    rows = [row for row in s["observations"] if row["split"] != "test"]
    table = plain_table("epoch", "split", "loss", *([s["score"]] if s["score"] else []))
    shown = shown_epochs([row["epoch"] for row in rows], s.get("kept_epoch"))
    for row in (row for row in rows if row["epoch"] in shown):
        table.add_row(
            str(row["epoch"]), row["split"], number(row["loss"]), *([number(row["score"])] if s["score"] else [])
        )
    console.print(table)
    curves = {
        part: [math.nan if row["loss"] is None else row["loss"] for row in rows if row["split"] == part]
        for part in ("train", "validation")
    }
    console.print(draw_curves(curves, width=min(60, console.width - 14), height=9))
    test = next(row for row in s["observations"] if row["split"] == "test")
    if s.get("patience"):  # older runs have none
        stopped = "stopped after epoch" if s["stopped_early"] else "all epochs trained:"
        line(console, f"{stopped} {s['epochs']}, best epoch {s['kept_epoch']}: its weights are kept")
    score = f", {s['score']} {number(test['score'])}" if s["score"] else ""
    line(console, f"test split: loss {number(test['loss'])}{score}")
    if "test" in s:  # older runs have none
        draw_test_results(console, s["test"])


def shown_epochs(epochs: Sequence[int], kept: int | None) -> set[int]:
    """At most so many epochs, evenly spread: the first, the last and the one that is kept among them.

    Example:
        >>> sorted(shown_epochs(range(1, 101), 37))
        [1, 11, 21, 31, 37, 41, 51, 60, 70, 80, 90, 100]
    """
    every = sorted(set(epochs))
    if len(every) <= MOST_EPOCHS:
        return set(every)
    last, places = len(every) - 1, MOST_EPOCHS - 2
    return {every[round(i * last / places)] for i in range(places + 1)} | ({kept} if kept in every else set())


def draw_test_results(console: Console, s: dict[str, Any]) -> None:
    """Write what the model and the baselines have on the test split, and what each class has."""
    console.print()
    table = plain_table("test split", *(SHORT.get(name, name) for name in s["metrics"]))
    for row in s["models"]:
        table.add_row(row["name"], *("" if row[name] is None else f"{row[name]:.4g}" for name in s["metrics"]))
    console.print(table)
    if s["beaten_by"] is not None:
        name = "RMSE" if "RMSE" in s["metrics"] else "log loss"
        line(console, f"this model does not beat {s['beaten_by']} on these rows, by {name}", "yellow")
    if 0 < len(s["classes"]) <= MOST_CLASSES:
        table = plain_table("class", "rows", "predicted", "recall", "precision")
        for row in s["classes"]:
            shares = ("" if row[name] is None else f"{row[name]:.3f}" for name in ("recall", "precision"))
            table.add_row(label(row["class"]), str(row["rows"]), str(row["predicted"]), *shares)
        console.print(table)


def draw_prediction(console: Console, s: dict[str, Any]) -> None:
    if "own_model" in s:
        draw_own_prediction(console, s)
        return
    for i, step in enumerate(s["trace"]):
        name = step["name"] + (f" (rate {step['rate']:g})" if step["rate"] is not None else "")
        arrow = "  " if i == 0 else "→ "
        line(console, f"{arrow}{name:<20} {shape([1, len(step['values'])]):>7}  {numbers(step['values'])}")
    answer = s["answer"]
    if s["task"] == "binary":
        text = f"probability of class {label(s['classes'][1])}: {number(answer[0])}"
    elif s["task"] == "multiclass":
        best = max(range(len(answer)), key=lambda i: -1.0 if answer[i] is None else answer[i])
        text = f"class {label(s['classes'][best])} with probability {number(answer[best])}"
    else:
        text = f"value {number(answer[0], '.4g')}"
    line(console, f"row {s['row']}: {text}; its label is {label(s['label'])}")


def draw_folds(console: Console, s: dict[str, Any]) -> None:
    """Write what each fold has, and mean and standard deviation over them beside the baselines."""
    table = plain_table("fold", "train", "test", *(SHORT.get(name, name) for name in s["metrics"]))
    for place, fold in enumerate(s["folds"], start=1):
        cells = ("" if fold[name] is None else f"{fold[name]:.4g}" for name in s["metrics"])
        table.add_row(str(place), str(fold["split"]["train"]), str(fold["split"]["test"]), *cells)
    console.print(table)
    console.print()
    table = plain_table("mean ± sd", *(SHORT.get(name, name) for name in s["metrics"]))
    for row in s["models"]:
        cells = (
            "" if row[name] is None else f"{row[name]['mean']:.3g} ± {row[name]['sd']:.1g}" for name in s["metrics"]
        )
        table.add_row(row["name"], *cells)
    console.print(table)
    line(
        console,
        f"{len(s['folds'])} trainings at the settings of this run, each tested on the rows it left out; "
        "the model that is kept is the one above",
    )


def draw_step_cost(console: Console, s: dict[str, Any]) -> None:
    if "skipped" in s:
        line(console, f"not timed: {s['skipped']}")
        return
    table = plain_table("optimizer step", "groups", "median µs", "quartiles µs", "samples")
    for row in s["rows"]:
        quartiles = f"{row['low'] * 1e6:.2f} to {row['high'] * 1e6:.2f}"
        table.add_row(row["name"], str(row["groups"]), f"{row['median'] * 1e6:.2f}", quartiles, str(row["samples"]))
    console.print(table)
    low, high = s["interval"]
    line(
        console,
        f"{s['question']}: ratio {s['ratio']:.3f} [{low:.3f}, {high:.3f}] (95 %), verdict: {s['verdict']}; "
        f"{s['threads']} thread, alternating in one run",
    )


def draw_runs(console: Console, folder: Path, runs: Sequence[dict[str, Any]]) -> None:
    """Write the runs of a folder, oldest first."""
    if not runs:
        line(console, f"there are no runs in {folder}; `lrdiff run` makes one")
        return
    table = plain_table("run", "ended", "epochs", "rates", "test loss", "score", "checks")
    for one in (run for run in runs if run["problem"] is None):
        table.add_row(
            Path(one["run"]).name,
            time.strftime("%Y-%m-%d %H:%M", time.localtime(one["ended"])),
            str(one["epochs"]),
            " / ".join(f"{rate:g}" for rate in dict.fromkeys(one["rates"])),
            "" if one["score_name"] is None else number(one["loss"]),
            f"{one['score_name']} {number(one['score'])}" if one["score_name"] else "",
            _state(one),
        )
    console.print(table)
    for one in (run for run in runs if run["problem"] is None and run["missing"] and not run["running"]):
        line(console, f"{Path(one['run']).name} was interrupted: `lrdiff run --resume {one['run']}` goes on", "yellow")
    for one in (run for run in runs if run["problem"] is not None):
        line(console, one["problem"], "yellow")


def draw_unfinished(console: Console, folder: Path, missing: Sequence[str]) -> None:
    """Write what an interrupted run lacks."""
    console.print()
    line(console, unfinished_text(folder, missing), "yellow")


def unfinished_text(folder: Path | str, missing: Sequence[str]) -> str:
    """What an interrupted run lacks, and how to go on with it."""
    titles = ", ".join(TITLES[name].lower() for name in missing)
    return f"this run was interrupted before: {titles}; `lrdiff run --resume {folder}` goes on"


def _state(run: dict[str, Any]) -> str:
    if run["missing"]:
        return "running" if run["running"] else "unfinished"
    return "passed" if run["passed"] else "FAILED"


def draw_folder(console: Console, s: dict[str, Any]) -> None:
    line(console, f"{s['path']}: {', '.join(s['files'])}")
    for text in s.get("warnings", ()):
        line(console, f"warning: {text}", "bold yellow")


DRAW: dict[str, Callable[[Console, dict[str, Any]], None]] = {
    "data": draw_data,
    "preprocessing": draw_preprocessing,
    "features": draw_features,
    "training": draw_training,
    "metrics": draw_metrics,
    "prediction": draw_prediction,
    "folds": draw_folds,
    "comparison": draw_comparison,
    "step_cost": draw_step_cost,
    "export": draw_export,
    "verify": draw_verification,
    "golden": draw_golden,
    "latency": draw_latency,
    "targets": draw_targets,
    "parity": draw_parity,
    "folder": draw_folder,
}
