"""What a study trains and keeps: a task is one setting on some seeds, and has one result."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrdiff_bench.study.workloads.workload import AT_ONCE, Scheme, Trials, Workload

__all__ = ["KINDS", "Task", "TaskResult", "batches_of", "trained", "trials_of"]

KINDS = ("search", "final", "untrained", "untuned", "target", "report")


@dataclass(frozen=True, kw_only=True)
class Task:
    """One setting, to be trained on some seeds.

    Attributes:
        id: says what it is and is the same whenever and wherever the study is run.
        kind: of :data:`KINDS`.
        scheme: whose rates and options.
        search: that it belongs to; -1 for none.
        space: label of the space it was drawn from; empty where it was not.
        parameters: base rate and free ratios, by name.
        rates: of each group of the workload.
        seeds: to train on.
        judged_on: ``"validation"`` or ``"test"``.
    """

    id: str
    kind: str
    scheme: Scheme
    search: int
    space: str
    parameters: Mapping[str, float]
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    judged_on: str


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """What a task gave; NaN where it diverged.

    Attributes:
        id: of the task.
        final: the metric at the end. [seeds]
        train_final: the training loss at the end. [seeds]
        score: accuracy or R2 at the end, NaN where the workload has none. [seeds]
        metric, train_loss: by evaluation, kept for reports alone. [seeds, evaluations]
        evaluated_after: steps. [evaluations]
        seconds_a_step: of one trial.
        seconds_a_training: that passed, an equal share of those of the call; NaN where an earlier lrdiff wrote it.
        trial: its number in the storage; -1 in memory.
    """

    id: str
    final: NDArray[np.float64]
    train_final: NDArray[np.float64]
    score: NDArray[np.float64]
    metric: NDArray[np.float64]
    train_loss: NDArray[np.float64]
    evaluated_after: tuple[int, ...]
    seconds_a_step: float
    seconds_a_training: float = field(default=math.nan, compare=False)
    trial: int = field(default=-1, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON, None for what is not finite."""
        return {
            "final": _plain(self.final),
            "train_final": _plain(self.train_final),
            "score": _plain(self.score),
            "metric": _plain(self.metric),
            "train_loss": _plain(self.train_loss),
            "evaluated_after": list(self.evaluated_after),
            "seconds_a_step": self.seconds_a_step,
            "seconds_a_training": self.seconds_a_training,
        }

    @classmethod
    def from_dict(cls, id: str, kept: Mapping[str, Any], trial: int) -> TaskResult:
        """The inverse of :meth:`to_dict`."""
        final = _array(kept["final"])
        steps = tuple(int(one) for one in kept["evaluated_after"])
        return cls(
            id=id,
            final=final,
            train_final=_array(kept["train_final"]),
            score=_array(kept["score"]),
            metric=_array(kept["metric"]).reshape(-1, len(steps)) if kept["metric"] else np.empty((0, len(steps))),
            train_loss=_array(kept["train_loss"]).reshape(-1, len(steps)) if kept["train_loss"] else np.empty((0, len(steps))),  # noqa: E501
            evaluated_after=steps,
            seconds_a_step=float(kept["seconds_a_step"]),
            seconds_a_training=float(kept.get("seconds_a_training", math.nan)),
            trial=trial,
        )  # fmt: skip


def batches_of(tasks: Iterable[Task], at_once: int = AT_ONCE) -> list[list[Task]]:
    """Tasks to be trained in one call: of one scheme, judged on one split, at most ``at_once`` trainings.

    The cut depends on nothing but the tasks, so that a study gives the same numbers whoever runs which part.
    """
    batches: list[list[Task]] = []
    key: tuple[str, str, str, int] | None = None
    room = 0
    for task in tasks:
        same = (task.kind, task.scheme.name, task.judged_on, task.search)
        if same != key or room < len(task.seeds):
            batches.append([])
            key, room = same, max(at_once, len(task.seeds))
        batches[-1].append(task)
        room -= len(task.seeds)
    return batches


def trials_of(batch: Sequence[Task]) -> Trials:
    """One training for each task and seed, in order."""
    return Trials(
        rates=np.array([task.rates for task in batch for _ in task.seeds], dtype=np.float64),
        seeds=np.array([seed for task in batch for seed in task.seeds], dtype=np.int64),
        scheme=batch[0].scheme,
        judged_on=batch[0].judged_on,
    )


def trained(workload: Workload, batch: Sequence[Task]) -> list[TaskResult]:
    """Train a batch in one call: the results in the order of its tasks."""
    begin = time.perf_counter()
    outcomes = workload.train(trials_of(batch))
    seconds = (time.perf_counter() - begin) / sum(len(task.seeds) for task in batch)
    found, start = [], 0
    steps = tuple(int(step) for step in outcomes.evaluated_after)
    score = np.full(len(outcomes.metric), np.nan) if outcomes.score is None else outcomes.score
    for task in batch:
        part = slice(start, start + len(task.seeds))
        start += len(task.seeds)
        metric = np.asarray(outcomes.metric[part], dtype=np.float64)
        loss = np.asarray(outcomes.train_loss[part], dtype=np.float64)
        whole = task.kind in ("report", "untuned", "target")
        none = np.empty((0, len(steps)))
        found.append(
            TaskResult(
                id=task.id,
                final=metric[:, -1],
                train_final=loss[:, -1],
                score=np.asarray(score[part], dtype=np.float64),
                metric=metric if whole else none,
                train_loss=loss if whole else none,
                evaluated_after=steps,
                seconds_a_step=float(outcomes.seconds_a_step),
                seconds_a_training=seconds,
            )
        )
    return found


def _plain(values: NDArray[np.float64]) -> list[Any]:
    return [_plain(one) if one.ndim else (float(one) if math.isfinite(one) else None) for one in np.asarray(values)]


def _array(values: list[Any]) -> NDArray[np.float64]:
    return np.array(values, dtype=np.float64)  # None becomes NaN
