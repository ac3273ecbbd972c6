"""A study as one JSON document, from which screens, pages and pictures are made."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lrdiff_bench.stats.gain import CLIP, Gain, holm
from lrdiff_bench.stats.intervals import Interval
from lrdiff_bench.stats.location import interquartile_mean
from lrdiff_bench.stats.verdict import Verdict
from lrdiff_bench.study.analysis.analyse import Analysis, Column, TimeToTarget
from lrdiff_bench.study.analysis.best_of import Curves
from lrdiff_bench.study.search.engine import SchemeSearches, StudyResult

__all__ = ["FORMAT", "document_of", "gain_from", "seconds_a_search", "suite_of"]

FORMAT = "lrdiff study 3"
_THRESHOLDS = [step / 4 for step in range(-24, 49)]  # of the profile, in smallest differences


def document_of(study: StudyResult, analysis: Analysis, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that a table, a picture or a trace needs; numbers that are not finite are None.

    Args:
        study: with its results.
        analysis: of it.
        facts: kept with the study: name, plan, spec, versions.
    """
    workload, plan = study.workload, study.plan
    return {
        "format": FORMAT,
        "name": facts["name"],
        "mode": plan.mode,
        "shortcomings": plan.shortcomings(),
        "workload": facts["spec"],
        "claimed_by": facts["source"].get("settings", {}).get("source", ""),
        "plan": plan.to_dict(),
        "versions": facts["versions"],
        "versions_since": facts.get("versions_since", []),
        "seeds": {
            "report": [plan.report(0)[0], plan.report(plan.searches - 1)[-1]],
            "target": _range(plan.target()) if plan.target_seeds else None,
            "tuning": [_range(plan.tuning(r)) for r in range(plan.searches)],
            "final": [_range(plan.final(r)) for r in range(plan.searches)] if plan.finalists else [],
            "points": [plan.scramble(r) for r in range(plan.searches)],
        },
        "void": study.void,
        "seconds_a_search": seconds_a_search(study),
        "seconds_are_whole": all(math.isfinite(one.seconds_a_training) for one in study.results.values()),
        "chosen": analysis.chosen,
        "gain": _gain(analysis.gain),
        "schemes": [_scheme(study, one, analysis) for one in study.searches],
        "columns": [_column(column, analysis.times.get(column.name)) for column in analysis.columns],
        "target": analysis.target,
        "untrained": _finite(analysis.untrained),
        "best_of": None if analysis.curves is None else _curves(analysis.curves, study, workload.metric),
        "evaluated_after": list(_steps(study)),
        "gain_by_pair": _nested(np.clip(analysis.gain_by_pair, *_limits(workload.smallest_difference))),
        "untuned": {name: _gain(one) for name, one in analysis.untuned.items()},
        "untuned_gain_by_pair": _nested(np.clip(analysis.untuned_gain_by_pair, *_limits(workload.smallest_difference))),
    }


def suite_of(documents: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Several studies together; None for fewer than two."""
    if len(documents) < 2:
        return None
    from lrdiff_bench.study.analysis.suite import performance_profile, suite_gain

    corrected = holm({d["name"]: gain_from(d["gain"]) for d in documents})
    every = holm(
        {
            f"{d['name']} / {s['name']}": gain_from(s["gain"])
            for d in documents
            for s in d["schemes"]
            if s["gain"] is not None
        }
    )
    parts = {}
    for key in ("gain_by_pair", "untuned_gain_by_pair"):
        parts[key] = {
            d["name"]: interquartile_mean(np.array(d[key])) / d["workload"]["smallest_difference"] for d in documents
        }
    profiles = {
        name: performance_profile(parts[key], _THRESHOLDS)
        for name, key in (("tuned differential", "gain_by_pair"), ("untuned default", "untuned_gain_by_pair"))
    }
    return {
        "studies": [d["name"] for d in documents],
        "gains": {name: _gain(one) for name, one in corrected.items()},
        "schemes": {name: _gain(one) for name, one in every.items()},
        "interquartile_mean": _interval(suite_gain(parts["gain_by_pair"])),
        "profiles": {
            name: {
                "thresholds": _nested(one.thresholds),
                "share": _nested(one.share),
                "low": _nested(one.low),
                "high": _nested(one.high),
            }
            for name, one in profiles.items()
        },
    }


def gain_from(kept: Mapping[str, Any]) -> Gain:
    """The inverse of how a gain is written."""
    own = {"by_search": tuple(kept["by_search"]), "looks": tuple(kept["looks"]), "verdict": Verdict(kept["verdict"])}
    return Gain(**{**kept, **own})


def _scheme(study: StudyResult, searches: SchemeSearches, analysis: Analysis) -> dict[str, Any]:
    scheme = searches.scheme
    gain = analysis.schemes.get(scheme.name)
    return {
        "name": scheme.name,
        "ratios": dict(scheme.ratios),
        "free": {group: list(interval) for group, interval in scheme.free.items()},
        "options": {key: _plain(value) for key, value in scheme.options.items()},
        "space": searches.space.to_dict(),
        "space_label": searches.space.label,
        "widened": [list(side) for side in searches.widened],
        "edges": sorted(list(side) for side in searches.edges),
        "trials": int(np.prod(searches.scores.shape[:2])),
        "runs_diverged": analysis.search_diverged[scheme.name],
        "gain": None if gain is None else _gain(gain),
        "winners": [_winner(study, searches, search) for search in range(len(searches.winners))],
        "points": [_point(study, searches, i, j) for i, tasks in enumerate(searches.tasks) for j in range(len(tasks))],
    }


def _point(study: StudyResult, searches: SchemeSearches, search: int, point: int) -> dict[str, Any]:
    """One setting that was searched: its rates, and the mean of what validation data said on its seeds."""
    sign = -1.0 if study.workload.metric == "accuracy" else 1.0
    rates = list(searches.tasks[search][point].rates)
    mean = _finite(sign * float(searches.scores[search, point].mean()))
    return {"search": search, "point": point, "rates": rates, "validation": mean}


def _winner(study: StudyResult, searches: SchemeSearches, search: int) -> dict[str, Any]:
    winner, task = searches.winners[search], searches.winning_tasks[search]
    if task is None:
        return {"search": search, "trial": None, "parameters": {}, "rates": [], "validation": None}
    sign = -1.0 if study.workload.metric == "accuracy" else 1.0
    reported = study.of("report", searches.scheme.name, search)
    final = study.results.get(f"final/{task.id.removeprefix('search/')}")
    return {
        "search": search,
        "point": winner.index,
        "trial": study.results[task.id].trial,
        "final_trial": None if final is None else final.trial,
        "tuning_seeds": list(task.seeds),
        "parameters": dict(task.parameters),
        "rates": list(task.rates),
        "validation": _finite(sign * winner.score),
        "flat": sorted(list(side) for side in winner.flat),
        "report_trials": [one.trial for one in reported],
        "report": _nested(np.concatenate([one.final for one in reported])),
    }


def _column(column: Column, time: TimeToTarget | None) -> dict[str, Any]:
    return {
        "name": column.name,
        "median": _interval(column.median),
        "diverged": column.diverged,
        "curve": _nested(column.curve),
        "low": _nested(column.low),
        "high": _nested(column.high),
        "train_curve": _nested(column.train_curve),
        "train_low": _nested(column.train_low),
        "train_high": _nested(column.train_high),
        "steps_to_target": None if time is None else _interval(time.steps),
        "training_seconds_to_target": None if time is None else _finite(time.seconds),
        "reached": None if time is None else time.reached,
    }


def _curves(curves: Curves, study: StudyResult, metric: str) -> dict[str, Any]:
    sign = -1.0 if metric == "accuracy" else 1.0
    return {
        "k": curves.k.tolist(),
        "schemes": [
            {
                "name": search.scheme.name,
                "expected": _nested(sign * curves.expected[i]),
                "low": _nested(np.minimum(sign * curves.low[i], sign * curves.high[i])),
                "high": _nested(np.maximum(sign * curves.low[i], sign * curves.high[i])),
                "crossings": [vars(one) for one in curves.crossings[i]],
            }
            for i, search in enumerate(study.searches)
        ],
    }


def seconds_a_search(study: StudyResult) -> float:
    """What one more search of every scheme takes here: seconds of a training, as measured, times trainings.

    Of trainings that an earlier lrdiff made, the steps alone are known: evaluation and starts are missing.
    """
    seconds = 0.0
    for task in study.tasks.values():
        if task.kind != "target":
            one = study.results[task.id]
            known = math.isfinite(one.seconds_a_training)
            each = one.seconds_a_training if known else one.seconds_a_step * study.workload.steps
            seconds += each * len(task.seeds)
    return seconds / study.plan.searches


def _steps(study: StudyResult) -> tuple[int, ...]:
    return next((one.evaluated_after for one in study.results.values() if len(one.metric)), ())


def _gain(one: Gain) -> dict[str, Any]:
    return {name: (list(value) if isinstance(value, tuple) else value) for name, value in vars(one).items()}


def _interval(interval: Interval) -> list[float | None]:
    return [_finite(interval.estimate), _finite(interval.low), _finite(interval.high)]


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _nested(values: Any) -> list[Any]:
    return [_nested(one) if np.ndim(one) else _finite(one) for one in np.asarray(values)]


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str) or value is None else str(value)


def _limits(smallest: float) -> tuple[float, float]:
    return -CLIP * smallest, CLIP * smallest


def _range(seeds: Sequence[int]) -> list[int]:
    return [seeds[0], seeds[-1]]
