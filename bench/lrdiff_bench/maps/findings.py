"""What a map shows, in numbers: the best single rate, the best pair, the gain, and how forgiving each choice is.

The best of thousands of cells on a few seeds is partly luck. So one half of the seeds chooses and the other half
reports: both choices (the best single rate and the best pair) are made by the lowest mean loss over the choosing
seeds, and every number about them comes from the reporting seeds alone. The mean and not the median chooses, because
what a seed adds to the loss of all cells cancels in it; a run that diverged makes it infinite.

The plane is read a band of rows at a time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from lrdiff_bench.maps.grid import Grid, parse_axis
from lrdiff_bench.stats.gain import SMALLEST_DIFFERENCE, holm_adjusted, judge_gain
from lrdiff_bench.stats.intervals import LEVEL, median_interval, paired_difference
from lrdiff_bench.stats.looks import ERROR
from lrdiff_bench.stats.verdict import Verdict
from lrdiff_core.errors import DataError

__all__ = ["Findings", "find"]

BAND_NUMBERS = 8_000_000  # of a band of rows (float64): 64 MB
OFF = (0.5, 2.0)  # errors in a rate whose cost is shown


@dataclass(frozen=True, kw_only=True, eq=False)
class Findings:
    """A map summed up: a JSON-ready document of what is said in words, and what the pictures show.

    Args:
        document: see :func:`find`.
        grid: the plane.
        median: [rows, columns] median loss over all seeds.
        diverged: [rows, columns] whether half the seeds or more diverged.
        as_good: [rows, columns] whether a cell is shown to be as good as the best pair.
        single: [rates, seeds] losses of the single rates; no rates where the plane holds none.
        lines: losses through the best pair on all seeds: ``x`` [columns, seeds], ``y`` [rows, seeds].
    """

    document: dict[str, Any]
    grid: Grid
    median: np.ndarray
    diverged: np.ndarray
    as_good: np.ndarray
    single: np.ndarray
    lines: dict[str, np.ndarray]


def find(dataset: Any) -> Findings:
    """Sum up a map.

    Args:
        dataset: from :func:`lrdiff_bench.maps.open_map`.

    Returns:
        Findings whose document has: ``choices`` (``best single``, ``best pair``, ``as configured``: rates, place, loss
        with interval, score, steps to target), ``gain`` of the pair over the single rate, ``share``
        of the plane better than the single rate, as good as the pair and diverged, ``cost`` of a rate 2 times off.

    Raises:
        DataError: no cell has finite losses.
    """
    settings = json.loads(dataset.attrs["settings"])
    grid = Grid(x=_axis(dataset, "x"), y=_axis(dataset, "y"))
    seeds = dataset["seed"].values
    # A single seed chooses and reports: then nothing is known of other seeds, and the words say so.
    half = len(seeds) // 2
    choosing, reporting = (slice(0, half), slice(half, None)) if half else (slice(0, 1), slice(0, 1))
    single = _losses(dataset["single_loss"].values) if len(grid.single) else np.empty((0, len(seeds)))
    median, chosen, lost = (np.empty(grid.shape) for _ in range(3))
    for rows, losses in _bands(dataset, "loss"):
        median[rows], chosen[rows] = np.median(losses, axis=2), losses[:, :, choosing].mean(axis=2)
    for rows, values in _bands(dataset, "diverged"):
        lost[rows] = values.mean(axis=2)
    if not np.isfinite(chosen).any():
        raise DataError(
            "no pair of rates of this plane trains on every choosing seed", help="try lower rates with --x and --y"
        )
    best = np.unravel_index(int(np.argmin(chosen)), grid.shape)
    best_single = int(np.argmin(single[:, choosing].mean(axis=1))) if len(single) else None
    lines = {
        "x": _losses(dataset["loss"][best[0]].values),
        "y": _losses(dataset["loss"][:, best[1]].values),
    }
    pair = lines["x"][best[1]]
    reference = None if best_single is None else single[best_single]
    as_good, shares = _compare(dataset, grid, reporting, pair, reference)
    choices = _choices(dataset, grid, best, best_single, reporting)
    document = {
        "format": "lrdiff.map.findings",
        "version": 3,
        "title": dataset.attrs["title"],
        "loss": dataset.attrs["loss"],
        "unit": dataset["loss"].attrs["units"],
        "score": dataset["score"].attrs["long_name"].partition(" of ")[0],
        "target": dataset.attrs["target"],
        "workload": settings["workload"],
        "axes": {"x": str(grid.x), "y": str(grid.y)},
        "cells": list(grid.shape),
        "singles": len(single),
        "seeds": {
            "all": seeds.tolist(),
            "choosing": seeds[choosing].tolist(),
            "reporting": seeds[reporting].tolist(),
            "apart": half > 0,
        },
        "level": median_interval(np.zeros(len(seeds[reporting]))).level if half else 0.0,
        "choices": choices,
        "gain": None if reference is None or not half else _gain(reference[reporting], pair[reporting]),
        "smallest_difference": SMALLEST_DIFFERENCE,
        "share": {**shares, "diverged": float((lost >= 0.5).mean()), "as_good": float(as_good.mean())},
        "cost": _costs(grid, lines, best, single, best_single, reporting),
        "border_cells": _border(lost >= 0.5),
        "trained_by": dataset.attrs["trained_by"],
        "trained_seconds": dataset.attrs["trained_seconds"],
        "provenance": {k.removeprefix("provenance_"): v for k, v in dataset.attrs.items() if k.startswith("prov")},
    }
    return Findings(
        document=document, grid=grid, median=median, diverged=lost >= 0.5, as_good=as_good, single=single, lines=lines
    )


def _gain(single: np.ndarray, pair: np.ndarray) -> dict[str, Any] | None:
    """Of the pair over the single rate [seeds]; there was one search, so that luck in choosing is not in it."""
    if len(pair) < 2:
        return None
    found = judge_gain(single[None], pair[None], smallest=SMALLEST_DIFFERENCE)
    if median_interval(pair).level < LEVEL:  # fewer than six
        found = replace(found, verdict=Verdict.INCONCLUSIVE, p=1.0, reason="a verdict takes 12 seeds or more")
    return asdict(found)


def _compare(
    dataset: Any, grid: Grid, reporting: slice, pair: np.ndarray, single: np.ndarray | None
) -> tuple[np.ndarray, dict[str, float | None]]:
    """Every cell against the best pair and the best single rate, by sign tests over the reporting seeds.

    A cell is as good as the pair where the median of what it costs more is shown to be less than the smallest
    difference; surely better than the single rate where the median gain is shown to be above zero. Both are corrected
    for the number of cells (Holm), so few seeds show little, and never a region that is not there.
    """
    pair_p, single_p = np.ones(grid.shape), np.ones(grid.shape)
    better = 0
    for rows, losses in _bands(dataset, "loss"):
        own = losses[:, :, reporting]
        pair_p[rows] = _sign_test(_difference(own, pair[reporting]) < SMALLEST_DIFFERENCE)
        if single is not None:
            lower = _difference(own, single[reporting])
            with np.errstate(invalid="ignore"):  # halfway between -inf and inf is NaN, which is not better
                better += int((np.median(lower, axis=2) < 0).sum())
            single_p[rows] = _sign_test(lower < 0)
    as_good = holm_adjusted(pair_p) <= ERROR
    if single is None:
        return as_good, {"better": None, "surely_better": None}
    surely = float((holm_adjusted(single_p) <= ERROR).mean())
    return as_good, {"better": better / as_good.size, "surely_better": surely}


def _sign_test(below: np.ndarray) -> np.ndarray:
    """One-sided p that the median lies below, from which seeds do, [rows, columns, seeds] to [rows, columns]."""
    from scipy.special import bdtrc

    count = below.sum(axis=2)
    return np.where(count == 0, 1.0, bdtrc(count - 1.0, below.shape[2], 0.5))


def _choices(
    dataset: Any, grid: Grid, best: tuple[Any, ...], best_single: int | None, reporting: slice
) -> dict[str, dict[str, Any]]:
    """The best single rate, the best pair and the marked rates, as the reporting seeds see them."""
    found: dict[str, dict[str, Any]] = {}
    if best_single is not None:
        rate = float(grid.single[best_single])
        at_edge = best_single in (0, len(grid.single) - 1)
        columns = {name: dataset[f"single_{name}"][best_single].values for name in _TOLD}
        found["best single"] = _choice(grid, (rate, rate), columns, reporting, at_edge=at_edge)
    y, x = (int(i) for i in best)
    rates = tuple(float(rate) for rate in grid.rates([y * grid.x.size + x])[0])
    at_edge = y in (0, grid.y.size - 1) or x in (0, grid.x.size - 1)
    columns = {name: dataset[name][y, x].values for name in _TOLD}
    found["best pair"] = _choice(grid, (rates[0], rates[1]), columns, reporting, at_edge=at_edge)
    marked = [float(rate) for rate in dataset.attrs["marked_rates"]]
    if marked:
        columns = {name: dataset[f"marked_{name}"].values for name in _TOLD}
        found["as configured"] = _choice(grid, (marked[0], marked[1]), columns, reporting, at_edge=False)
    return found


_TOLD = ("loss", "score", "best_step", "steps_to_target")


def _choice(
    grid: Grid, rates: tuple[float, float], columns: dict[str, np.ndarray], reporting: slice, *, at_edge: bool
) -> dict[str, Any]:
    loss = median_interval(_losses(columns["loss"])[reporting])
    score = columns["score"][reporting]
    steps = np.where(np.isnan(columns["steps_to_target"]), np.inf, columns["steps_to_target"])[reporting]
    return {
        "rates": list(rates),
        "place": list(grid.place(*rates)),
        "loss": {"median": loss.estimate, "low": loss.low, "high": loss.high},
        "score": float(np.median(score)) if np.isfinite(score).all() else None,
        "steps_to_target": float(np.median(steps)),
        "at_edge": at_edge,
    }


def _costs(
    grid: Grid,
    lines: dict[str, np.ndarray],
    best: tuple[Any, ...],
    single: np.ndarray,
    best_single: int | None,
    reporting: slice,
) -> list[dict[str, Any]]:
    """What a rate that is half or twice the best one adds to the loss; between cells, the loss is interpolated."""
    y, x = (int(i) for i in best)
    choices: list[tuple[str, np.ndarray, int, np.ndarray]] = [
        (f"best pair, {grid.x.name}", grid.x.values, x, lines["x"]),
        (f"best pair, {grid.y.name}", grid.y.values, y, lines["y"]),
    ]
    if best_single is not None:
        choices.append(("best single", grid.single, best_single, single))
    found = []
    for name, values, at, losses in choices:
        own = losses[at, reporting]
        for factor in OFF:
            off = _between(values, losses[:, reporting], values[at] * factor)
            cost = None if off is None else paired_difference(off, own)
            shift = None if cost is None else {"median": cost.median, "low": cost.low, "high": cost.high}
            found.append({"of": name, "factor": factor, "cost": shift})
    return found


def _between(values: np.ndarray, losses: np.ndarray, value: float) -> np.ndarray | None:
    """Losses [seeds] at a rate between cells, linear in the rate's logarithm; None outside the plane."""
    place = math.log(value / values[0]) / math.log(values[-1] / values[0]) * (len(values) - 1)
    if not -1e-9 <= place <= len(values) - 1 + 1e-9:
        return None
    below = min(int(max(place, 0.0)), len(values) - 2)
    share = min(max(place - below, 0.0), 1.0)
    lower, upper = losses[below], losses[below + 1]
    # A cell that diverged makes what lies next to it infinite; at the cell itself its neighbour has no say.
    if share == 0.0 or share == 1.0:
        return lower if share == 0.0 else upper
    return np.asarray((1 - share) * lower + share * upper)


def _border(lost: np.ndarray) -> int:
    """Cells that trained beside a cell that diverged."""
    border = np.zeros_like(lost)
    border[:-1] |= lost[1:]
    border[1:] |= lost[:-1]
    border[:, :-1] |= lost[:, 1:]
    border[:, 1:] |= lost[:, :-1]
    return int((border & ~lost).sum())


def _difference(own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Own minus other; two infinite losses do not differ."""
    with np.errstate(invalid="ignore"):
        difference = own - other
    return np.where(np.isnan(difference), 0.0, difference)


def _losses(values: np.ndarray) -> np.ndarray:
    wide = values.astype(np.float64)
    return np.where(np.isfinite(wide), wide, np.inf)


def _bands(dataset: Any, name: str) -> Iterator[tuple[slice, np.ndarray]]:
    """Rows of a variable, [rows, columns, seeds] in float64, a band at a time."""
    variable = dataset[name]
    height, width, seeds = variable.shape
    step = max(1, BAND_NUMBERS // (width * seeds))
    for begin in range(0, height, step):
        rows = slice(begin, min(begin + step, height))
        values = variable[rows].values
        yield rows, _losses(values) if name == "loss" else values.astype(np.float64)


def _axis(dataset: Any, name: str) -> Any:
    coordinate = dataset[name]
    return parse_axis(coordinate.attrs["axis"], len(coordinate))
