"""Stage 7, the run's rates against single rates: a small study of the run's own training.

It has the protocol and the engine of ``lrdiff study`` (:mod:`lrdiff_bench.study.search.engine`). Two families are
tuned with the same rates of the sweep on the same seeds, the single rate and the run's own ratios; validation data
choose, test data of fresh seeds report. All of it is trained as populations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from lrdiff_bench.stats.gain import SMALLEST_DIFFERENCE
from lrdiff_bench.study.analysis.analyse import Analysis, Column, analyse
from lrdiff_bench.study.search.engine import StudyResult, run_study
from lrdiff_bench.study.search.ledger import MemoryLedger
from lrdiff_bench.study.search.plan import Plan
from lrdiff_bench.study.search.tasks import TaskResult
from lrdiff_bench.study.search.training import train_together
from lrdiff_bench.study.workloads.common import RunWorkload, trained_one_by_one
from lrdiff_bench.study.workloads.workload import Scheme, UntunedSetting
from lrdiff_core.config import RunConfig
from lrdiff_core.data import Table
from lrdiff_core.population import PopulationTask, population_task

__all__ = [
    "ComparisonProgress",
    "RateComparison",
    "compare_single_rates",
    "describe_rates",
    "longer",
    "middle_of_best",
    "plan_of",
]

SINGLE, RATIOS, CONFIGURED = "tuned single", "tuned ratios", "as configured"
EXTENSIONS = 3  # how often the sweep is made longer where the best rate lies at its edge
OPERATIONS = 4e11  # that a comparison may take, about five seconds of two cores in the population kernel
TUNING = 1e11  # where it takes longer trainings, which are evaluated after every epoch
TUNING_ALONE = 2e11  # where, besides, they are trained one by one
A_STEP = 2e6  # that the loop takes for a step besides its arithmetic, where models are trained one by one

ADAPTIVE = (0.0003, 0.001, 0.003, 0.01, 0.03)  # where Adam's best rate lies, nearly always; else the sweep gets longer

# From the plan that resolves most comparisons to what the largest tables can afford; seeds are those of all searches.
SIZES: tuple[dict[str, Any], ...] = (
    {"searches": 8, "tuning_seeds": 4, "finalists": 3, "final_seeds": 16, "seeds": 200},
    {"searches": 5, "tuning_seeds": 3, "finalists": 3, "final_seeds": 8, "seeds": 200},
    {"searches": 3, "tuning_seeds": 2, "finalists": 0, "final_seeds": 1, "seeds": 20},
)
# The same where trainings stop by themselves: they take longer, and all searches together choose.
SMALLER: tuple[dict[str, Any], ...] = (
    {"searches": 3, "tuning_seeds": 8, "finalists": 0, "final_seeds": 1, "seeds": 60},
    {"searches": 3, "tuning_seeds": 4, "finalists": 0, "final_seeds": 1, "seeds": 24},
    {"searches": 2, "tuning_seeds": 3, "finalists": 0, "final_seeds": 1, "seeds": 12},
    {"searches": 2, "tuning_seeds": 1, "finalists": 0, "final_seeds": 1, "seeds": 6},
)


@dataclass(frozen=True, kw_only=True)
class RateComparison:
    """What the study of a run gave.

    Args:
        study: every training.
        analysis: of it; ``gain`` is that of the tuned ratios, ``untuned["as configured"]`` that of the run's rates.
        sweep: base rates that both families tried.
    """

    study: StudyResult
    analysis: Analysis
    sweep: tuple[float, ...]

    def section(self) -> dict[str, Any]:
        """The section ``comparison`` of the summary; plain numbers and texts."""
        plan, workload = self.study.plan, self.study.workload
        own = {}
        if isinstance(workload, RunWorkload):
            own = {
                "patience": workload.patience,
                "one_by_one": trained_one_by_one(workload.task.config),
                "rows": len(workload.task.table.features),
            }
        return {
            "plan": plan.to_dict(),
            "sweep": self.sweep,
            "smallest_difference": workload.smallest_difference,
            "schemes": [self._scheme(column) for column in self.analysis.columns],
            "gains": {
                CONFIGURED: asdict(self.analysis.untuned[CONFIGURED]),
                RATIOS: asdict(self.analysis.gain),
            },
            "void": self.study.void,
            **own,
        }

    def _scheme(self, column: Column) -> dict[str, Any]:
        chosen = self._chosen(column.name)
        (rates, often), *others = chosen.most_common()
        return {
            "name": column.name,
            "pooled_rates": dict(zip(self.study.workload.groups, self._pooled(column.name) or rates, strict=True)),
            "rates": dict(zip(self.study.workload.groups, rates, strict=True)),
            "rates_text": describe_rates(rates),
            "searches": often,
            "other_rates": {describe_rates(one): count for one, count in others},
            "trials": len(self.sweep) if column.name in (SINGLE, RATIOS) else 1,
            "train_loss": _bands(column.train_curve, column.train_low, column.train_high),
            "test_loss": _bands(column.curve, column.low, column.high),
            "final": list(column.median[:3]),
            "score": float(np.median(np.concatenate([one.score for one in self._results(column.name)]))),
            "diverged": column.diverged,
        }

    def _chosen(self, name: str) -> Counter[tuple[float, ...]]:
        """Rates of a column's winners, and of how many searches."""
        for own in self.study.searches:
            if own.scheme.name == name:
                rates = [task.rates for task in own.winning_tasks if task is not None]
                return Counter(rates or [own.tasks[0][0].rates])
        task = self.study.by_kind["untuned", name][0]
        return Counter({task.rates: self.study.plan.searches})

    def _pooled(self, name: str) -> tuple[float, ...] | None:
        """The rates that do well over the seeds of all searches together; None for what is not tuned."""
        for own in self.study.searches:
            if own.scheme.name == name and np.isfinite(own.scores).any():
                # diverged trials count as the worst that did not
                finite = np.where(np.isfinite(own.scores), own.scores, own.scores[np.isfinite(own.scores)].max())
                # the mean: one model is going to be trained, and how often a rate goes wrong counts
                losses = finite.transpose(1, 0, 2).reshape(finite.shape[1], -1)
                rates = own.tasks[0][middle_of_best(losses)].rates
                return tuple(float(f"{rate:.6g}") for rate in rates)
        return None

    def _results(self, name: str) -> list[TaskResult]:
        return self.study.of("report" if name in (SINGLE, RATIOS) else "untuned", name)


def compare_single_rates(
    config: RunConfig,
    *,
    table: Table | None = None,
    rates: Mapping[str, float] | None = None,
    configured: bool = True,
    on_training: Callable[[int, int], None] | None = None,
) -> RateComparison:
    """Tune the run's ratios and a single rate with the same budget, and compare them on fresh seeds.

    Args:
        config: the run's settings; ``config.compare`` gives the sweep and may set the sizes.
        table: the run's rows, where they have been read; a generator's rows are drawn anew for every seed.
        rates: rate of each layer; left out, the run's own.
        configured: whether somebody set the rates; if not, single rates of their size are not reported, and where the
            rates are one, the ratios of :func:`lrdiff_core.setup.default_rates` are tuned.
        on_training: called with how many trainings of a stage are done, and how many there are.

    Example:
        >>> from lrdiff_core import make_config
        >>> config = make_config({"epochs": 1, "compare": {"seeds": 10, "searches": 2, "sweep": [0.001, 0.01, 0.1]}})
        >>> found = compare_single_rates(config)
        >>> [column.name for column in found.analysis.columns]
        ['as configured', 'single 0.001', 'single 0.01', 'tuned single', 'tuned ratios']
    """
    task = population_task(config, table=table)
    own = dict(task.rates if rates is None else rates)
    sweep = tuple(sorted(set(config.compare.sweep)))
    plan = plan_of(config, task, len(sweep))
    ratios, train = _schemes(own), None
    for extension in range(EXTENSIONS + 1):
        workload = _workload(config, task, own, ratios, sweep)
        if not configured:
            workload = replace(workload, untuned_settings=workload.untuned_settings[:1])
        train = train or train_together(workload)
        own_plan = replace(plan, budget=max(4, len(sweep)))
        study = run_study(workload, own_plan, MemoryLedger(), train=train, watcher=ComparisonProgress(on_training))
        sides = {side for searches in study.searches for _, side in searches.edges}
        if not sides or extension == EXTENSIONS:
            break
        sweep = longer(sweep, sides)
    return RateComparison(study=study, analysis=analyse(study, curves=False), sweep=sweep)


def middle_of_best(losses: np.ndarray) -> int:
    """The middle one of the rates whose mean loss is within one standard error of the lowest; the lower of two.

    Args:
        losses: of each rate, rising, on the same seeds. [rates, seeds]

    Example:
        >>> middle_of_best(np.array([[0.9, 0.8], [0.31, 0.29], [0.28, 0.32], [0.33, 0.28], [0.7, 0.9]]))
        2
        >>> middle_of_best(np.array([[0.30, 0.32], [0.50, 0.52]]))
        0
    """
    gaps = losses - losses[int(losses.mean(axis=1).argmin())]  # paired by seed
    seeds = losses.shape[1]
    error = gaps.std(axis=1, ddof=1) / np.sqrt(seeds) if seeds > 1 else np.zeros(len(losses))
    if (error > 0).any():  # a rate that jumps about is not near because nobody knows where it is
        error = np.minimum(error, np.median(error[error > 0]))
    near = np.flatnonzero(gaps.mean(axis=1) <= error)
    return int(near[(len(near) - 1) // 2])


def describe_rates(rates: tuple[float, ...]) -> str:
    """Write rates shortly: one number where all are equal, else all of them.

    Example:
        >>> describe_rates((0.01, 0.001)), describe_rates((0.01, 0.01))
        ('0.01 / 0.001', '0.01')
    """
    distinct = list(dict.fromkeys(rates))
    return f"{distinct[0]:g}" if len(distinct) == 1 else " / ".join(f"{rate:g}" for rate in rates)


class ComparisonProgress:
    """Hands progress on; a sweep that is made longer shows in the section."""

    def __init__(self, on_training: Callable[[int, int], None] | None) -> None:
        self._on_training = on_training

    def progress(self, stage: str, done: int, total: int) -> None:
        """Trainings of a stage that are done."""
        if self._on_training is not None:
            self._on_training(done, total)

    def news(self, text: str) -> None:
        """Nothing: see the section."""


def _schemes(rates: Mapping[str, float]) -> tuple[Scheme, Scheme]:
    top = max(rates.values())
    single = Scheme(name=SINGLE, ratios=dict.fromkeys(rates, 1.0))
    return single, Scheme(name=RATIOS, ratios={name: rate / top for name, rate in rates.items()})


def _workload(
    config: RunConfig,
    task: PopulationTask,
    rates: Mapping[str, float],
    schemes: tuple[Scheme, Scheme],
    sweep: tuple[float, ...],
) -> RunWorkload:
    single, ratios = schemes
    top = max(rates.values())
    untuned = [UntunedSetting(name=CONFIGURED, scheme=ratios, base_rate=top)]
    for rate in sorted({min(rates.values()), top}):
        untuned.append(UntunedSetting(name=f"single {rate:g}", scheme=single, base_rate=rate))
    return RunWorkload(
        name=config.name,
        title=f"the run {config.name}",
        question="Do the run's rates do better than a single rate?",
        groups=tuple(rates),
        schemes=schemes,
        metric="loss",
        base_rates=(sweep[0], sweep[-1]),
        default_rate=top,
        smallest_difference=SMALLEST_DIFFERENCE,
        patience=config.epochs_of_patience(task.rows(config.seed).rows),
        steps=task.steps_an_epoch * task.epochs,
        optimizer=config.optimizer,
        batch_size=task.batch_size,
        evaluations=task.epochs,
        timed=False,
        listed_rates=sweep,
        untuned_settings=tuple(untuned),
        settings=task,
    )


def plan_of(config: RunConfig, task: PopulationTask, rates: int) -> Plan:
    """The largest size that the budget of operations allows, and what the settings say instead."""
    rows = task.rows(config.seed).rows
    parameters = sum(p.numel() for p in task.model(config.seed).parameters())
    a_training = 6.0 * parameters * rows * task.epochs
    if trained_one_by_one(config):
        a_training += A_STEP * task.steps_an_epoch * task.epochs
    stops, alone = config.epochs_of_patience(rows) > 0, bool(trained_one_by_one(config))
    given = {"searches": config.compare.searches, "tuning_seeds": config.compare.tuning_seeds}
    changes = {key: value for key, value in {**given, "seeds": config.compare.seeds}.items() if value}
    for size in SMALLER if stops or alone else SIZES:
        sizes = {**size, **changes}
        tried = rates * sizes["tuning_seeds"] + sizes["finalists"] * sizes["final_seeds"]
        cost = (2 * sizes["searches"] * tried + 6 * sizes["seeds"]) * a_training
        if cost <= (OPERATIONS if not stops and not alone else TUNING_ALONE if alone else TUNING):
            break
    sizes["report_seeds"] = max(3, -(-sizes.pop("seeds") // sizes["searches"]))  # shared out among the searches
    return Plan(budget=max(4, rates), target_seeds=0, widenings=0, seeds_from=config.seed % 2**62, **sizes)


def longer(sweep: tuple[float, ...], sides: set[str]) -> tuple[float, ...]:
    """The sweep with two more rates on each side where the best one lay, as far apart as the last two there.

    Example:
        >>> longer((0.01, 0.1), {"high"})
        (0.01, 0.1, 1.0, 10.0)
    """
    more = list(sweep)
    if "low" in sides:
        step = sweep[1] / sweep[0]
        more += [sweep[0] / step, sweep[0] / step**2]
    if "high" in sides:
        step = sweep[-1] / sweep[-2]
        more += [sweep[-1] * step, sweep[-1] * step**2]
    return tuple(sorted(float(f"{rate:.6g}") for rate in more))


def _bands(middle: Any, low: Any, high: Any) -> list[list[float]]:
    return np.stack([middle, low, high], axis=1).tolist()
