"""What maps and studies are made of, as cases: a block of a map, a batch of a search, trainings to a target."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lrdiff_bench.measure.engine.case import Workload
from lrdiff_bench.measure.engine.registry import case_family
from lrdiff_core.errors import CheckFailed

if TYPE_CHECKING:
    from lrdiff_bench.study.workloads.workload import Trials

__all__ = ["map_block", "study_batch", "time_to_target"]

POINTS, SEEDS = 16, 4  # of a batch: as many settings, each on these seeds
TRAININGS = 64  # to the target, side by side, each from a seed of its own
EVERY = 4  # steps between two looks at the validation loss
TARGET = 0.3  # nats on validation rows; the best rates end at 0.26
RATES = {"seed-adam": 0.01, "seed-sgd": 1.0}  # single, near the best of the studies


def _too_old(**parameters: Any) -> str | None:
    """Why the commit that is measured has none of this; None where it has."""
    try:
        from lrdiff_bench.maps import plan  # noqa: F401
        from lrdiff_bench.study import workloads  # noqa: F401
    except ImportError as problem:
        return f"this commit is older than what maps and studies stand on: {problem}"
    return None


@case_family(version="1", parameters={"cells": (8, 16)}, quick={"cells": (8,)}, unavailable=_too_old, parity=False)
def map_block(cells: int) -> Workload:
    """A map of the preset seed with so many cells along an edge, one epoch on four seeds; in one process, no store."""
    from lrdiff_bench.maps.plan import MapRequest, make_plan
    from lrdiff_bench.maps.tiles import CELLS, run_job

    plan = make_plan(MapRequest(workload="seed", size=cells, seeds=SEEDS, epochs=1, tile=cells))
    jobs = [plan.job(tile, None) for tile in plan.tiles if tile.kind == CELLS]

    def step() -> object:
        return [run_job(job, threads=1) for job in jobs]

    return Workload(step=step, facts={"trainings": cells * cells * SEEDS, "steps": plan.steps})


@case_family(version="1", parameters={"workload": tuple(RATES)}, quick={}, unavailable=_too_old, parity=False)
def study_batch(workload: str) -> Workload:
    """A batch of a search: sixteen settings on four seeds, trained side by side and judged on validation rows."""
    from lrdiff_bench.study.search.tasks import Task, batches_of
    from lrdiff_bench.study.search.training import train_here

    chosen = _workload(workload, timed=False)
    low, high = chosen.base_rates
    tasks = [
        Task(
            id=f"point {number}", kind="search", scheme=chosen.schemes[0], search=0, space="", judged_on="validation",
            parameters={}, rates=(float(rate),) * len(chosen.groups), seeds=tuple(range(SEEDS)),
        )
        for number, rate in enumerate(np.geomspace(low, high, POINTS))
    ]  # fmt: skip
    train = train_here(chosen)

    def step() -> object:
        return train(batches_of(tasks), lambda number, results: None)

    return Workload(step=step, facts={"trainings": POINTS * SEEDS, "steps": chosen.steps})


@case_family(
    version="1",
    parameters={"workload": tuple(RATES)},
    quick={"workload": tuple(RATES)},
    unavailable=_too_old,
    parity=False,
)
def time_to_target(workload: str) -> Workload:
    """Trainings of the seed example until their median seed has the target loss: a population, for as many steps."""
    chosen = _workload(workload, timed=False)
    trials = _trials(chosen, RATES[workload])

    def train(steps: int) -> object:
        return chosen.population_of(chosen.network(trials), trials, steps=steps, evaluate="never")

    steps = steps_to_target(replace(chosen, evaluations=chosen.steps // EVERY), trials, TARGET)
    return Workload(
        step=lambda: train(steps), facts={"trainings": TRAININGS, "steps_to_target": steps, "target": TARGET}
    )


def steps_to_target(workload: Any, trials: Trials, target: float) -> int:
    """Steps after which the median trial has first had a loss at or below the target.

    Raises:
        CheckFailed: half of them never do.
    """
    found = workload.train(trials)
    below = found.metric <= target  # NaN is not
    steps = np.where(below.any(axis=1), found.evaluated_after[below.argmax(axis=1)], np.inf)
    median = float(np.median(steps))
    if not np.isfinite(median):
        raise CheckFailed(
            f"half of the trainings of {workload.name} do not reach a loss of {target:g} in {workload.steps} steps",
            help="what trains them has changed: see `lrdiff study` of this workload",
        )
    return int(median)


def _workload(name: str, **changes: Any) -> Any:
    from lrdiff_bench.study import workloads  # noqa: F401 - registers them
    from lrdiff_bench.study.workloads.workload import WORKLOADS

    return replace(WORKLOADS[name](), **changes)


def _trials(workload: Any, rate: float) -> Trials:
    from lrdiff_bench.study.workloads.workload import Trials

    return Trials(
        rates=np.full((TRAININGS, len(workload.groups)), rate),
        seeds=np.arange(TRAININGS),
        scheme=workload.schemes[0],
        judged_on="validation",
    )
