"""What a map shows, in words and numbers, at 80 columns."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from lrdiff_bench.report.gains import beside, verdict_text

__all__ = ["as_text", "axis_in_words", "interval", "number", "seeds_in_words"]

WIDTH = 80


def as_text(document: Mapping[str, Any]) -> str:
    """The findings as the command prints them.

    Args:
        document: of :class:`lrdiff_bench.maps.findings.Findings`.
    """
    height, width = document["cells"]
    seeds = document["seeds"]
    count = len(seeds["all"])
    axes = ", ".join(f"{name} {axis_in_words(document['axes'][name])}" for name in ("x", "y"))
    lines = [
        *textwrap.wrap(document["title"], WIDTH, subsequent_indent="  "),
        *_wrapped(f"{width} x {height} cells, {count} seed{'s'[: count > 1]}, {_length(document['workload'])}"),
        *_wrapped(axes),
    ]
    if seeds["apart"]:
        level = f"medians with {100 * document['level']:.3g} % intervals" if document["level"] else "no intervals"
        lines += _wrapped(
            f"chosen by the lowest mean loss over {seeds_in_words(seeds['choosing'])}, reported on "
            f"{seeds_in_words(seeds['reporting'])}: {level}"
        )
    else:
        lines += _wrapped("one seed chooses and reports: nothing here says how another seed would do")
    lines += ["", *_table(document), ""]
    lines += _gain(document)
    lines += _shares(document)
    lines += ["", "  what a wrong rate costs (added loss)", *_costs(document)]
    edges = [name for name, choice in document["choices"].items() if choice["at_edge"]]
    if edges:
        lines += _wrapped(f"{' and '.join(edges)}: at the edge of the plane; a wider one may hold a better one")
    return "\n".join(lines)


def number(value: float | None, digits: int = 3) -> str:
    """A number as tables show it.

    Example:
        >>> number(0.012345), number(None), number(float("inf"))
        ('0.0123', '-', 'inf')
    """
    return "-" if value is None else f"{value:.{digits}g}"


def interval(value: Mapping[str, float | None], *, signed: bool = False) -> str:
    """Median and interval to as many decimals as the interval is worth.

    Example:
        >>> interval({"median": 0.2512, "low": 0.2401, "high": 0.2987})
        '0.251 [0.240, 0.299]'
        >>> interval({"median": 0.00121, "low": -0.0021, "high": 0.0145}, signed=True)
        '+0.0012 [-0.0021, +0.0145]'
    """
    numbers = [value[key] for key in ("median", "low", "high")]
    finite = [abs(n) for n in numbers if n is not None and math.isfinite(n)]
    largest = max(finite, default=0.0)
    decimals = max(0, min(8, 2 - math.floor(math.log10(largest)))) if largest > 0 else 3
    sign = "+" if signed else ""
    median, low, high = ("-" if n is None else f"{n:{sign}.{decimals}f}" for n in numbers)
    return f"{median} [{low}, {high}]"


def axis_in_words(axis: str) -> str:
    """An axis with short numbers.

    Example:
        >>> axis_in_words("hidden:33.333333333333336:300")
        'hidden 33.33 to 300'
    """
    name, low, high = axis.rsplit(":", 2)
    return f"{name} {float(low):.4g} to {float(high):.4g}"


def seeds_in_words(seeds: Sequence[int]) -> str:
    """Seeds that follow each other, shortly.

    Example:
        >>> seeds_in_words([0, 1, 2]), seeds_in_words([5])
        ('seeds 0 to 2', 'seed 5')
    """
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}"


def _length(workload: Mapping[str, Any]) -> str:
    if workload["epochs"] is not None:
        length = f"{workload['epochs']} epochs"
    else:
        length = f"{workload['steps']} steps"
    batch = "all rows" if workload["batch_size"] is None else f"{workload['batch_size']} rows"
    return f"{workload['optimizer']}, {length}, {batch} a step"


def _table(document: Mapping[str, Any]) -> list[str]:
    unit = "" if document["unit"] == "1" else f", {document['unit']}"
    rows = [["", "x", "y", f"loss{unit}", document["score"], "steps"]]
    for name, choice in document["choices"].items():
        place = [number(value) for value in choice["place"]]
        steps = "-" if choice["steps_to_target"] in (None, math.inf) else f"{choice['steps_to_target']:.0f}"
        rows.append([name, *place, _with_interval(choice["loss"], document), number(choice["score"]), steps])
    if all(row[4] == "-" for row in rows[1:]):
        rows = [[*row[:4], row[5]] for row in rows]
    wide = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join([f"  {row[0]:<{wide[0]}}", *(f"{cell:>{w}}" for cell, w in zip(row[1:], wide[1:], strict=True))])
        for row in rows
    ]
    return [*lines, *_wrapped(f"steps: to {document['target']}; - where half the seeds do not reach it")]


def _gain(document: Mapping[str, Any]) -> list[str]:
    if not document["singles"]:
        return _wrapped("no single rate lies in this plane, so nothing is compared with one")
    height, width = document["cells"]
    tries = f"the pair was chosen among {height * width}, the single rate among {document['singles']}"
    gain = document["gain"]
    if gain is None:
        return _wrapped(
            "one reporting seed cannot say what the best pair gains over the best single rate: the best of many is "
            f"partly luck; {tries}"
        )
    smallest = f"{document['smallest_difference']:g} is the smallest difference that matters"
    return [
        *_wrapped(f"the best pair against the best single rate: {verdict_text(gain)} ({smallest})"),
        *_wrapped(f"gain in loss, interquartile mean over pairs of one seed with 95 % interval; {beside(gain)}"),
        *_wrapped(tries),
    ]


def _shares(document: Mapping[str, Any]) -> list[str]:
    share = document["share"]
    lines = []
    if share["better"] is not None:
        text = f"of the plane, {_percent(share['better'])} is better than the best single rate"
        if document["level"]:
            text += f" ({_percent(share['surely_better'])} is shown to be)"
        lines += _wrapped(text)
    if document["level"]:
        height, width = document["cells"]
        lines += _wrapped(
            f"{_percent(share['as_good'])} is shown to be as good as the best pair, to "
            f"{document['smallest_difference']:g}; both corrected for {height * width} cells"
        )
    lines += _wrapped(
        f"{_percent(share['diverged'])} diverged (not finite, or ended no lower than it began)"
        + (f"; {document['border_cells']} cells lie at that border" if document["border_cells"] else "")
    )
    return lines


def _costs(document: Mapping[str, Any]) -> list[str]:
    rows = []
    for cost in document["cost"]:
        if cost["cost"] is None:
            text = "outside the plane"
        elif cost["cost"]["median"] in (None, math.inf):
            text = "diverges"
        else:
            text = _with_interval(cost["cost"], document, signed=True)
        rows.append((f"{cost['of']}, {'halved' if cost['factor'] < 1 else 'doubled'}", text))
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [f"    {name:<{wide[0]}}  {text:>{wide[1]}}" for name, text in rows]


def _with_interval(value: Mapping[str, float | None], document: Mapping[str, Any], *, signed: bool = False) -> str:
    """With its interval, where more than one seed reports."""
    shown = interval(value, signed=signed)
    return shown if document["level"] else shown.partition(" ")[0]


def _percent(share: float) -> str:
    if 0 < share < 0.001:
        return "under 0.1 %"
    return f"{100 * share:.3g} %"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="  ")
