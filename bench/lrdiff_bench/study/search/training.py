"""How the batches of a study are trained in this process: one after the other, or all together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from lrdiff_bench.study.search.ledger import TrainBatches
from lrdiff_bench.study.search.tasks import Task, TaskResult, trained
from lrdiff_bench.study.workloads.workload import Workload

__all__ = ["train_here", "train_together"]

OnBatch = Callable[[int, list[TaskResult]], None]


def train_here(workload: Workload) -> TrainBatches:
    """Train batches one after the other, so that little is lost when the study is killed."""

    def train(batches: Sequence[Sequence[Task]], on_batch: OnBatch) -> None:
        for number, batch in enumerate(batches):
            on_batch(number, trained(workload, batch))

    return train


def train_together(workload: Workload) -> TrainBatches:
    """Train all batches that are handed over as one population, and the same rates on the same seed once.

    For studies that take seconds and whose searches try the same base rates. Schemes must differ in nothing but rates.
    """
    known: dict[tuple[str, tuple[float, ...], int], TaskResult] = {}

    def train(batches: Sequence[Sequence[Task]], on_batch: OnBatch) -> None:
        for judged_on in ("validation", "test"):
            tasks = [task for batch in batches for task in batch if task.judged_on == judged_on]
            every = [(judged_on, task.rates, seed) for task in tasks for seed in task.seeds]
            new = dict.fromkeys(key for key in every if key not in known)
            if new:
                # one task for each seed, so that the results of any batch can be put together from these
                alone = [replace(tasks[0], kind="report", rates=rates, seeds=(seed,)) for _, rates, seed in new]
                known.update(zip(new, trained(workload, alone), strict=True))
        for number, batch in enumerate(batches):
            on_batch(number, [_together(task, known) for task in batch])

    return train


def _together(task: Task, known: dict[tuple[str, tuple[float, ...], int], TaskResult]) -> TaskResult:
    parts = [known[task.judged_on, task.rates, seed] for seed in task.seeds]
    arrays = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("final", "train_final", "score", "metric", "train_loss")
    }
    return replace(parts[0], id=task.id, **arrays)  # type: ignore[arg-type]
