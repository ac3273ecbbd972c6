"""What the stages of a model of one's own look like, where they differ from those of a table."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from lrdiff_bench.report.tables import duration, label, line, number, numbers, plain_table, shape

__all__ = ["draw_own_data", "draw_own_plan", "draw_own_prediction", "draw_price"]

MOST_CLASSES = 10
MOST_PARAMETERS = 40


def draw_own_data(console: Console, s: dict[str, Any]) -> None:
    """Where the rows come from, what a row is, how they are split."""
    rows = "rows" if s["rows"] is None else f"{s['rows']} rows"
    where = "" if s["name"] == s["own_model"] else f" ({s['name']})"
    line(console, f"{rows} from {s['source']}{where} for {s['own_model']}")
    line(console, f"a row: {', '.join(_input(one, len(s['inputs']) > 1) for one in s['inputs'])}")
    classes = ""
    if s["classes"]:
        names = ", ".join(map(label, s["classes"][:MOST_CLASSES]))
        classes = f", classes {names}{', ...' if len(s['classes']) > MOST_CLASSES else ''}"
    task = "by the factory's own loss" if s["task"] == "own" else s["task"]
    what = "targets" if s["target"] is None else f"target {label(s['target'])}"
    line(console, f"{what}: {task}{classes}")
    parts = ", ".join(f"{'?' if rows is None else rows} {name}" for name, rows in s["split"].items())
    line(console, f"split by {s['split_by']}: {parts}")
    line(console, f"first test row: {numbers(s['sample']['values'], most=4)}, target {label(s['sample']['label'])}")
    for note in s["notes"]:
        line(console, f"note: {note}", "yellow")


def draw_own_plan(console: Console, s: dict[str, Any]) -> None:
    """The rate of every parameter; equal blocks are folded."""
    table = plain_table("parameter", "shape", "rates", "decay")
    rows = s["parameters"]
    for one in rows[:MOST_PARAMETERS]:
        low, high = f"{one['low']:.4g}", f"{one['high']:.4g}"
        rate = "frozen" if one["frozen"] else low if low == high else f"{low} to {high}"
        table.add_row(one["name"], shape(one["shape"]) or "scalar", rate, f"{one['decay']:.4g}")
    console.print(table)
    if len(rows) > MOST_PARAMETERS:
        line(console, f"and {len(rows) - MOST_PARAMETERS} parameters more: lrdiff rates RUN --full")
    for note in s["notes"]:
        line(console, note)
    learning = sum(layer["parameters"] for layer in s["layers"])
    frozen = f", {s['frozen']} are frozen" if s["frozen"] else ""
    rates = len({layer["rate"] for layer in s["layers"]})
    line(console, f"{learning} numbers learn at {rates} rate{'' if rates == 1 else 's'}{frozen}")


def draw_own_prediction(console: Console, s: dict[str, Any]) -> None:
    """The way of the first test row through the children of the model."""
    for i, step in enumerate(s["trace"]):
        name = step["name"] + (f" (rate {step['rate']:.4g})" if step["rate"] is not None else "")
        line(
            console,
            f"{'  ' if i == 0 else '→ '}{name:<24} {shape(step['shape']):>14}  {numbers(step['values'], most=4)}",
        )
    answer = s["answer"]
    shown = number(answer[0], ".4g") if len(answer) == 1 else numbers(answer)
    line(console, f"first test row: {shown}; its target is {label(s['label'])}")


def draw_price(console: Console, price: dict[str, Any]) -> None:
    """What the comparison cost, and what was saved on it."""
    how = "trained many at once" if price["side_by_side"] else "trained one after the other"
    epochs = "1 epoch" if price["epochs"] == 1 else f"{price['epochs']} epochs"
    text = f"{price['trainings']} trainings of {epochs}, {how}, in {duration(price['seconds'])}"
    line(console, text)
    if price["epochs"] < price["of"]:
        line(
            console,
            f"the run itself has up to {price['of']} epochs: more time for the comparison is minutes in [compare]",
            "yellow",
        )


def _input(one: dict[str, Any], named: bool) -> str:
    size = shape(one["shape"]) or "1"
    return f"{label(one['name'])} {size}" if named else size
