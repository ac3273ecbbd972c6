"""What a finished study says: verdicts, columns, best-of-k, time to target, loss by step.

The scheme that stands for differential rates in the workload's verdict is chosen by validation data of the tuning seeds
alone; the test data of the fresh seeds judge it. Every other scheme gets a verdict of its own beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lrdiff_bench.stats.gain import DRAWS, Gain, gains_of, holm, judge_gain
from lrdiff_bench.stats.intervals import Interval, median_interval
from lrdiff_bench.stats.verdict import Verdict
from lrdiff_bench.study.analysis.best_of import Curves, best_of_curves
from lrdiff_bench.study.search.choose import lower_is_better
from lrdiff_bench.study.search.engine import Finished, Search
from lrdiff_bench.study.search.tasks import Row

__all__ = ["Analysis", "Column", "TimeToTarget", "analyse", "report_matrix"]

TARGET_AT = 0.75  # of the steps: what the baseline has reached there, it reaches on most other seeds in the end
Numbers = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One way to set rates, on the fresh seeds; in the metric's own direction.

    Attributes:
        name: ``"untuned default"`` or a scheme's.
        values: of each search's winner and seed, NaN where it diverged. [searches, seeds]
        median: over seeds (the median over searches of each), with its 95 % interval.
        diverged: share of these runs.
        curve, low, high: median of the metric over seeds by evaluation, with its interval. [evaluations]
        train_curve, train_low, train_high: the same of the training loss. [evaluations]
    """

    name: str
    values: Numbers
    median: Interval
    diverged: float
    curve: Numbers
    low: Numbers
    high: Numbers
    train_curve: Numbers
    train_low: Numbers
    train_high: Numbers


@dataclass(frozen=True, kw_only=True)
class TimeToTarget:
    """How long until the metric is as good as the target; infinite where half of the runs never get there.

    Attributes:
        steps: median over seeds (the median over searches of each), with its 95 % interval.
        seconds: the same times the seconds of a step, compiling included; evaluation is not.
        reached: share of the runs that got there.
    """

    steps: Interval
    seconds: float
    reached: float


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """All of it.

    Attributes:
        chosen: name of the differential scheme, chosen on validation data.
        gain: of it; not corrected for other workloads (:func:`lrdiff_bench.stats.gain.holm` does that).
        schemes: gain of every differential scheme, after Holm's correction over them.
        columns: the untuned default, then every scheme.
        gain_by_pair: of the chosen scheme, positive is better. [searches, seeds]
        default_gain_by_pair: of the untuned default. [searches, seeds]
        search_diverged: share of the runs of each scheme's searches.
        target: in the metric; None where the baseline diverged.
        times: time to target of every column.
        untrained: what the untrained model has in the metric, and where best-of-k stops.
        curves: best-of-k, lower is better; None where it was not asked for.
    """

    chosen: str
    gain: Gain
    schemes: dict[str, Gain]
    columns: tuple[Column, ...]
    gain_by_pair: Numbers
    default_gain_by_pair: Numbers
    search_diverged: dict[str, float]
    target: float | None
    times: dict[str, TimeToTarget]
    untrained: float
    curves: Curves | None


def analyse(finished: Finished, *, draws: int = DRAWS, curves: bool = True) -> Analysis:
    """Judge a finished study.

    Args:
        finished: from :func:`lrdiff_bench.study.search.engine.run_study`.
        draws: of each bootstrap.
        curves: also estimate best-of-k.
    """
    workload = finished.workload
    smallest, metric = workload.smallest_difference, workload.metric
    tables = {s.scheme.name: report_matrix(finished, "report", s.scheme.name) for s in finished.searches}
    default = report_matrix(finished, "default", finished.searches[0].scheme.name)
    lower = {name: lower_is_better(table, metric) for name, table in tables.items()}
    single = finished.searches[0].scheme.name
    own = {
        s.scheme.name: judge_gain(lower[single], lower[s.scheme.name], smallest=smallest, draws=draws)
        for s in finished.searches[1:]
    }
    chosen = chosen_scheme(finished.searches)
    if finished.void:
        own = {name: _voided(one, finished.void) for name, one in own.items()}
    columns = (
        _column(finished, "untuned default", "default", single, default),
        *(_column(finished, name, "report", name, table) for name, table in tables.items()),
    )
    target = _target(finished)
    default_lower = lower_is_better(default, metric)
    untrained = float(np.median([lower_is_better(row.final, metric) for row in _rows(finished, "untrained", single)]))
    return Analysis(
        chosen=chosen,
        gain=own[chosen],
        schemes=holm(own),
        columns=columns,
        gain_by_pair=gains_of(lower[single], lower[chosen]),
        default_gain_by_pair=gains_of(lower[single], default_lower),
        search_diverged={s.scheme.name: float(np.isinf(s.scores).mean()) for s in finished.searches},
        target=target,
        times={} if target is None else _times(finished, target, tables),
        untrained=-untrained if metric == "accuracy" else untrained,
        curves=_curves(finished) if curves else None,
    )


def chosen_scheme(searches: Sequence[Search]) -> str:
    """The differential scheme whose winners have the best validation score, on average; the first of equal ones.

    One scheme for all searches: if each search chose its own, differential rates would have the trials of all schemes.
    """
    rivals = [search for search in searches[1:] if not search.scheme.reference]
    means = [float(np.mean([winner.score for winner in search.winners])) for search in rivals]
    return rivals[int(np.argmin(means))].scheme.name


def report_matrix(finished: Finished, kind: str, scheme: str) -> Numbers:
    """Final metric of each search's winner on each fresh seed; NaN where there is none. [searches, seeds]"""
    seeds = len(finished.plan.report())
    repeats = range(finished.plan.repeats) if kind == "report" else (-1,)
    table = np.full((len(repeats), seeds), np.nan)
    for i, repeat in enumerate(repeats):
        rows = _rows(finished, kind, scheme, repeat)
        if rows:
            table[i] = np.concatenate([row.final for row in rows])
    return table


def _rows(finished: Finished, kind: str, scheme: str, repeat: int | None = None) -> list[Row]:
    return [
        finished.rows[task.id] for task in finished.by_kind.get((kind, scheme), []) if repeat in (None, task.repeat)
    ]


def _voided(one: Gain, reason: str) -> Gain:
    return replace(one, verdict=Verdict.INCONCLUSIVE, p=1.0, reason=reason, seeds_needed=None, searches_needed=None)


def _column(finished: Finished, name: str, kind: str, scheme: str, values: Numbers) -> Column:
    metric = finished.workload.metric
    sign = -1.0 if metric == "accuracy" else 1.0
    bad = math.inf  # of what lower_is_better gives
    by_seed = np.median(lower_is_better(values, metric), axis=0)
    middle = median_interval(by_seed, nan_as=bad)
    curves = _by_step(finished, kind, scheme, "metric")
    train = _by_step(finished, kind, scheme, "train_loss")
    bands = [median_interval(column, nan_as=bad) for column in lower_is_better(curves, metric).T]
    losses = [median_interval(column) for column in train.T]
    low, high = np.array([b.low for b in bands]), np.array([b.high for b in bands])
    return Column(
        name=name,
        values=values,
        median=_signed(middle, sign),
        diverged=float(np.isnan(values).mean()),
        curve=sign * np.array([b.estimate for b in bands]),
        low=np.minimum(sign * low, sign * high),
        high=np.maximum(sign * low, sign * high),
        train_curve=np.array([one.estimate for one in losses]),
        train_low=np.array([one.low for one in losses]),
        train_high=np.array([one.high for one in losses]),
    )


def _signed(interval: Interval, sign: float) -> Interval:
    ends = sorted((sign * interval.low, sign * interval.high))
    return Interval(sign * interval.estimate, ends[0], ends[1], interval.level)


def _by_step(finished: Finished, kind: str, scheme: str, part: str) -> Numbers:
    """Curves of every seed: the median over searches; NaN where it diverged. [seeds, evaluations]"""
    repeats = range(finished.plan.repeats) if kind == "report" else (-1,)
    several = []
    for repeat in repeats:
        if rows := _rows(finished, kind, scheme, repeat):
            several.append(np.concatenate([getattr(row, part) for row in rows]))
    if not several:
        return np.full((1, 1), np.nan)
    stacked = np.where(np.isnan(several), -math.inf if part == "metric" and _rising(finished) else math.inf, several)
    with np.errstate(invalid="ignore"):  # between infinities
        return np.asarray(np.median(stacked, axis=0))


def _rising(finished: Finished) -> bool:
    return finished.workload.metric == "accuracy"


def _target(finished: Finished) -> float | None:
    """Median over fresh seeds of what the baseline has reached after three quarters of its steps."""
    rows = [finished.rows[task.id] for task in finished.tasks.values() if task.kind == "target"]
    if not rows:
        return None
    steps = np.array(rows[0].evaluated_after)
    at = int(np.searchsorted(steps, TARGET_AT * steps[-1]))
    reached = lower_is_better(np.concatenate([row.metric for row in rows]), finished.workload.metric)
    best = float(np.median(np.minimum.accumulate(reached, axis=1)[:, at]))
    if not math.isfinite(best):
        return None
    return -best if _rising(finished) else best


def _times(finished: Finished, target: float, tables: dict[str, Numbers]) -> dict[str, TimeToTarget]:
    single = finished.searches[0].scheme.name
    wanted = [("untuned default", "default", single), *((name, "report", name) for name in tables)]
    goal = -target if _rising(finished) else target
    # Once for all columns: which of them was trained first, or after a restart, has nothing to do with its rates.
    compile_ = max(
        (row.seconds_to_compile for _, kind, name in wanted for row in _rows(finished, kind, name)), default=0.0
    )
    found = {}
    for name, kind, scheme in wanted:
        repeats = range(finished.plan.repeats) if kind == "report" else (-1,)
        steps = np.full((len(repeats), len(finished.plan.report())), math.inf)
        for i, repeat in enumerate(repeats):
            if rows := _rows(finished, kind, scheme, repeat):
                values = lower_is_better(np.concatenate([row.metric for row in rows]), finished.workload.metric)
                hit = values <= goal
                after = np.array(rows[0].evaluated_after, dtype=np.float64)
                steps[i] = np.where(hit.any(axis=1), after[hit.argmax(axis=1)], math.inf)
        with np.errstate(invalid="ignore"):
            middle = median_interval(np.median(steps, axis=0))
        rows = _rows(finished, kind, scheme)
        each = float(np.median([row.seconds_a_step for row in rows])) if rows else math.nan
        found[name] = TimeToTarget(
            steps=middle, seconds=middle.estimate * each + compile_, reached=float(np.isfinite(steps).mean())
        )
    return found


def _curves(finished: Finished) -> Curves:
    """Best-of-k over the last space; what is worse than the untrained model counts as that, and so does diverging."""
    single, metric = finished.searches[0].scheme.name, finished.workload.metric
    ceiling = np.array([lower_is_better(row.final, metric) for row in _rows(finished, "untrained", single)])
    scores = np.stack([search.scores for search in finished.searches])  # [schemes, searches, points, seeds]
    worst = np.where(np.isfinite(ceiling), ceiling, np.nan)
    if np.isnan(worst).any():  # an untrained model without a finite metric: the worst finite trial stands for it
        worst = np.full_like(worst, scores[np.isfinite(scores)].max())
    return best_of_curves(np.minimum(scores, worst[:, None, :]))
