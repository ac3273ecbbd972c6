"""What a study study says: verdicts, columns, best-of-k, time to target, loss by step.

The scheme that stands for differential rates in the workload's verdict is chosen by validation data of the tuning seeds
alone; the test data of the fresh seeds judge it. Every other scheme gets a verdict of its own beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lrdiff_bench.stats.gain import Gain, gains_of, holm, judge_gain
from lrdiff_bench.stats.intervals import Interval, median_interval
from lrdiff_bench.stats.location import DRAWS
from lrdiff_bench.stats.verdict import Verdict
from lrdiff_bench.study.analysis.best_of import Curves, best_of_curves
from lrdiff_bench.study.search.engine import SchemeSearches, StudyResult
from lrdiff_bench.study.search.winner import lower_is_better

__all__ = ["Analysis", "Column", "TimeToTarget", "analyse", "report_matrix"]

TARGET_AT = 0.75  # of the steps: what the baseline has reached there, it reaches on most other seeds in the end
Numbers = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One way to set rates, on the fresh seeds; in the metric's own direction.

    Attributes:
        name: that of an untuned setting or a scheme.
        values: of each search's winner and seed, NaN where it diverged. [searches, seeds]
        median: over searches (the median over seeds of each), with its 95 % interval.
        diverged: share of these runs.
        curve, low, high: median of the metric over searches by evaluation, with its interval. [evaluations]
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
        steps: median over searches (the median over seeds of each), with its 95 % interval.
        seconds: the same times the seconds of a step; neither evaluation nor what is compiled once is in it.
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
        columns: the untuned settings, then every scheme.
        gain_by_pair: of the chosen scheme, positive is better. [searches, seeds]
        untuned: gain of every untuned setting over the tuned single rate.
        untuned_gain_by_pair: of the first of them. [searches, seeds]
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
    untuned: dict[str, Gain]
    untuned_gain_by_pair: Numbers
    search_diverged: dict[str, float]
    target: float | None
    times: dict[str, TimeToTarget]
    untrained: float
    curves: Curves | None


def analyse(study: StudyResult, *, draws: int = DRAWS, curves: bool = True) -> Analysis:
    """Judge a study.

    Args:
        study: from :func:`lrdiff_bench.study.search.engine.run_study`.
        draws: of each bootstrap.
        curves: also estimate best-of-k.
    """
    workload = study.workload
    smallest, metric = workload.smallest_difference, workload.metric
    settings = [one.name for one in workload.untuned]
    tables = {(kind, name): report_matrix(study, kind, name) for kind, name in _columns(study)}
    lower = {key: lower_is_better(table, metric) for key, table in tables.items()}
    single = lower["report", study.searches[0].scheme.name]
    gains = {
        key: judge_gain(single, values, smallest=smallest, draws=draws)
        for key, values in lower.items()
        if values is not single
    }
    own = {name: gain for (kind, name), gain in gains.items() if kind == "report"}
    if study.void:
        own = {name: _voided(one, study.void) for name, one in own.items()}
    chosen = chosen_scheme(study.searches, study.plan.first_look)
    target = _target(study)
    untrained = [lower_is_better(found.final, metric) for found in study.of("untrained", study.searches[0].scheme.name)]
    return Analysis(
        chosen=chosen,
        gain=own[chosen],
        schemes=holm(own),
        columns=tuple(_column(study, kind, name, table) for (kind, name), table in tables.items()),
        gain_by_pair=gains_of(single, lower["report", chosen]),
        untuned={name: gains["untuned", name] for name in settings},
        untuned_gain_by_pair=gains_of(single, lower["untuned", settings[0]]),
        search_diverged={s.scheme.name: float(np.isinf(s.scores).mean()) for s in study.searches},
        target=target,
        times={} if target is None else _times(study, target),
        untrained=(-1.0 if metric == "accuracy" else 1.0) * float(np.median(untrained)),
        curves=_curves(study) if curves else None,
    )


def _columns(study: StudyResult) -> list[tuple[str, str]]:
    """Kind and name of every column: the untuned settings, then the schemes."""
    untuned = [("untuned", one.name) for one in study.workload.untuned]
    return [*untuned, *(("report", one.scheme.name) for one in study.searches)]


def chosen_scheme(searches: Sequence[SchemeSearches], first_look: int) -> str:
    """The differential scheme whose winners have the best validation score, on average; the first of equal ones.

    One scheme for all searches: if each search chose its own, differential rates would have the trials of all schemes.
    The searches of the first look choose it, so that going on does not change what is judged.
    """
    rivals = [search for search in searches[1:] if not search.scheme.reference]
    means = [float(np.mean([winner.score for winner in search.winners[:first_look]])) for search in rivals]
    return rivals[int(np.argmin(means))].scheme.name


def report_matrix(study: StudyResult, kind: str, name: str) -> Numbers:
    """Final metric of each search's winner on each fresh seed; NaN where there is none, [searches, seeds]."""
    parts = [study.of(kind, name, search) for search in range(study.plan.searches)]
    nothing = np.full(study.plan.report_seeds, np.nan)
    return np.array([np.concatenate([one.final for one in found]) if found else nothing for found in parts])


def _voided(one: Gain, reason: str) -> Gain:
    return replace(one, verdict=Verdict.INCONCLUSIVE, p=1.0, reason=reason, seeds_needed=None, searches_needed=None)


def _column(study: StudyResult, kind: str, name: str, values: Numbers) -> Column:
    metric = study.workload.metric
    sign = -1.0 if metric == "accuracy" else 1.0
    bad = math.inf  # of what lower_is_better gives
    with np.errstate(invalid="ignore"):  # between infinities
        by_search = np.median(lower_is_better(values, metric), axis=1)
    middle = median_interval(by_search, nan_as=bad)
    curves = _by_step(study, kind, name, "metric")
    train = _by_step(study, kind, name, "train_loss")
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


def _by_step(study: StudyResult, kind: str, name: str, part: str) -> Numbers:
    """Curves of every search: the median over seeds; NaN where there is none, [searches, evaluations]."""
    parts = [study.of(kind, name, search) for search in range(study.plan.searches)]
    several = [np.concatenate([getattr(one, part) for one in found]) for found in parts if found]
    if not several:
        return np.full((1, 1), np.nan)
    stacked = np.where(np.isnan(several), -math.inf if part == "metric" and _rising(study) else math.inf, several)
    with np.errstate(invalid="ignore"):  # between infinities
        return np.asarray(np.median(stacked, axis=1))


def _rising(study: StudyResult) -> bool:
    return study.workload.metric == "accuracy"


def _target(study: StudyResult) -> float | None:
    """Median over fresh seeds of what the baseline has reached after three quarters of its steps."""
    found = study.of("target", study.searches[0].scheme.name)
    if not found:
        return None
    steps = np.array(found[0].evaluated_after)
    at = int(np.searchsorted(steps, TARGET_AT * steps[-1]))
    reached = lower_is_better(np.concatenate([one.metric for one in found]), study.workload.metric)
    best = float(np.median(np.minimum.accumulate(reached, axis=1)[:, at]))
    if not math.isfinite(best):
        return None
    return -best if _rising(study) else best


def _times(study: StudyResult, target: float) -> dict[str, TimeToTarget]:
    goal = -target if _rising(study) else target
    columns = _columns(study)
    times = {}
    for kind, name in columns:
        steps = np.full((study.plan.searches, study.plan.report_seeds), math.inf)
        for search in range(study.plan.searches):
            if found := study.of(kind, name, search):
                hit = lower_is_better(np.concatenate([one.metric for one in found]), study.workload.metric) <= goal
                after = np.array(found[0].evaluated_after, dtype=np.float64)
                steps[search] = np.where(hit.any(axis=1), after[hit.argmax(axis=1)], math.inf)
        with np.errstate(invalid="ignore"):
            middle = median_interval(np.median(steps, axis=1))
        found = study.of(kind, name)
        each = float(np.median([one.seconds_a_step for one in found])) if found else math.nan
        times[name] = TimeToTarget(
            steps=middle, seconds=middle.estimate * each, reached=float(np.isfinite(steps).mean())
        )
    return times


def _curves(study: StudyResult) -> Curves:
    """Best-of-k over the last space; what is worse than the untrained model counts as that, and so does diverging."""
    single, metric = study.searches[0].scheme.name, study.workload.metric
    ceiling = np.array([lower_is_better(one.final, metric) for one in study.of("untrained", single)])
    scores = np.stack([search.scores for search in study.searches])  # [schemes, searches, points, seeds]
    worst = np.where(np.isfinite(ceiling), ceiling, np.nan)
    if np.isnan(worst).any():  # an untrained model without a finite metric: the worst finite trial stands for it
        worst = np.full_like(worst, scores[np.isfinite(scores)].max())
    return best_of_curves(np.minimum(scores, worst[:, None, :]))
