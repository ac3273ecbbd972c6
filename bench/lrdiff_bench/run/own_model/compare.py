"""Stage 7 for a model of one's own: its rates against a single rate, both tuned with the same budget.

The protocol and the engine are those of ``lrdiff study``. A model that :mod:`lrdiff_core.population` takes is trained
many times at once; any other one after the other, within a budget of seconds that is said beside the result.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from lrdiff_bench.run.compare.single_rates import (
    CONFIGURED,
    EXTENSIONS,
    RATIOS,
    SINGLE,
    SIZES,
    SMALLER,
    RateComparison,
    longer,
)
from lrdiff_bench.run.own_model.setup import DECAY, Development, OwnSetup, development_of, set_up_own
from lrdiff_bench.run.own_model.training import evaluate_own, fit_own
from lrdiff_bench.stats.gain import SMALLEST_DIFFERENCE
from lrdiff_bench.study.analysis.analyse import analyse
from lrdiff_bench.study.search.engine import StudyResult, StudyWatcher, run_study, trainings
from lrdiff_bench.study.search.ledger import MemoryLedger
from lrdiff_bench.study.search.plan import Plan
from lrdiff_bench.study.search.training import train_together
from lrdiff_bench.study.workloads.outcomes import Courses
from lrdiff_bench.study.workloads.workload import Outcomes, Scheme, Trials, UntunedSetting, Workload
from lrdiff_bench.system.batches import Batch, TensorPart, stacked
from lrdiff_bench.system.user_code import user_code
from lrdiff_core.config import RunConfig
from lrdiff_core.devices import torch_threads
from lrdiff_core.errors import LrdiffError, RateError
from lrdiff_core.rates import LayerDecay, param_groups

__all__ = ["OwnComparison", "compare_own", "rate_keys"]

SECONDS = 60.0  # that a comparison one after the other may take
SMALL = 200_000  # parameters up to which a population pays
MOST_MEMBERS_ROWS = 20_000  # rows that a population is given
STEPS = (0.3, 1.0, 3.0, 10.0, 30.0)  # the sweep of a comparison one after the other, around the configured rate
_LONG = 10.0  # seconds of an epoch that is timed once
SMALLEST = {"searches": 2, "tuning_seeds": 1, "finalists": 0, "final_seeds": 1, "report_seeds": 3}


@dataclass(frozen=True, kw_only=True)
class OwnComparison:
    """What came of it.

    Args:
        found: the study, or None where there is none.
        why_not: then.
        price: trainings, epochs of each, seconds, and whether they ran side by side.
    """

    found: RateComparison | None
    why_not: str = ""
    price: Mapping[str, Any] = field(default_factory=dict)

    def section(self) -> dict[str, Any]:
        """The section ``comparison`` of the summary."""
        if self.found is None:
            return {"skipped": self.why_not}
        workload = cast(_OwnWorkload, self.found.study.workload)
        parts = [part.rows for part in workload.setup_of(workload.config.seed).parts.values()]
        return {
            **self.found.section(),
            "patience": workload.patience,
            "rows": None if None in parts else sum(part or 0 for part in parts),
            "one_by_one": "",  # the price says it
            "price": dict(self.price),
        }


def compare_own(setup: OwnSetup, *, on_training: Callable[[int, int], None] | None = None) -> OwnComparison:
    """Tune the plan's ratios and a single rate with the same budget, and judge them on fresh seeds.

    Args:
        setup: not yet trained, or trained: each training begins with a model of its own.
        on_training: called with how many trainings of a stage are done, and how many there are.
    """
    groups = rate_keys(_rates_to_compare(setup))
    if len(groups) < 2:
        return OwnComparison(found=None, why_not="the model has one layer that learns: there are no rates to compare")
    rates = {name: rate for name, (rate, _) in groups.items()}
    columns = {name: i for i, (_, names) in enumerate(groups.values()) for name in names}
    rows = development_of(setup)
    single = Scheme(name=SINGLE, ratios=dict.fromkeys(rates, 1.0))
    top = max(rates.values())
    ratios = Scheme(name=RATIOS, ratios={name: rate / top for name, rate in rates.items()})
    first = _OwnWorkload(
        name=setup.config.name,
        title=f"the run {setup.config.name}",
        question="Do the run's rates do better than a single rate?",
        groups=tuple(rates),
        schemes=(single, ratios),
        metric="loss",
        base_rates=(top / 10, top * 10),
        default_rate=top,
        smallest_difference=SMALLEST_DIFFERENCE,
        steps=rows.epochs or setup.epochs,
        config=setup.config,
        development=rows,
        columns=columns,
        patience=setup.patience,
        listed_rates=(),
        untuned_settings=(
            UntunedSetting(name=CONFIGURED, scheme=ratios, base_rate=top),
            UntunedSetting(name=f"single {top:g}", scheme=single, base_rate=top),
        ),
    )
    with user_code(), torch_threads(setup.config.threads):
        begun = time.perf_counter()
        chosen = _sized(first, setup, top)
        if isinstance(chosen, str):
            return OwnComparison(found=None, why_not=chosen)
        workload, plan = chosen
        study = _studied(workload, plan, _Progress(on_training))
        workload = cast(_OwnWorkload, study.workload)
        seconds = time.perf_counter() - begun
    if not all(any(task is not None for task in one.winning_tasks) for one in study.searches):
        return OwnComparison(
            found=None,
            why_not=f"with every rate from {workload.listed_rates[0]:g} to {workload.listed_rates[-1]:g} trainings "
            "end in no number: scale rows and targets, or give lower rates as sweep in [compare]",
        )
    found = RateComparison(study=study, analysis=analyse(study, curves=False), sweep=workload.listed_rates)
    price = {
        "trainings": workload.counted[0], "epochs": workload.steps, "of": setup.epochs, "seconds": round(seconds, 1),
        "side_by_side": workload.together,
    }  # fmt: skip
    return OwnComparison(found=found, price=price)


def _studied(workload: _OwnWorkload, plan: Plan, watcher: StudyWatcher) -> StudyResult:
    """Run the study; where trainings are cheap and a best rate lies at the edge, with a longer sweep."""
    train = train_together(workload)
    for extension in range(EXTENSIONS + 1):
        own = replace(plan, budget=max(4, len(workload.listed_rates)))
        study = run_study(workload, own, MemoryLedger(), train=train, watcher=watcher)
        sides = {side for searches in study.searches for _, side in searches.edges}
        if not sides or extension == EXTENSIONS or not workload.together:
            break
        sweep = longer(workload.listed_rates, sides)
        workload = replace(workload, listed_rates=sweep, base_rates=(sweep[0], sweep[-1]))
    return study


@dataclass(frozen=True, kw_only=True)
class _OwnWorkload(Workload):
    """Trainings of one's own model; a step of it is an epoch.

    Args:
        config: of the run, resolved.
        development: rows that are split anew for every seed.
        columns: group of every parameter by name.
        listed_rates: base rates that every search tries.
        untuned_settings: reported beside.
        patience: epochs without a better validation loss that end a training; 0: none do.
        together: whether populations train it.
        counted: trainings so far, in its one place.
    """

    config: RunConfig
    development: Development
    columns: Mapping[str, int]
    listed_rates: tuple[float, ...]
    untuned_settings: tuple[UntunedSetting, ...]
    patience: int
    together: bool = False
    counted: list[int] = field(default_factory=lambda: [0], compare=False)

    @property
    @override
    def base_points(self) -> tuple[float, ...]:
        return self.listed_rates

    @property
    @override
    def untuned(self) -> tuple[UntunedSetting, ...]:
        return self.untuned_settings

    def train(self, trials: Trials) -> Outcomes:
        self.counted[0] += len(trials.seeds)
        if self.together:
            return self._side_by_side(trials)
        judged = "test" if self.patience else trials.judged_on  # the epoch is chosen on the validation rows
        found = np.full((4, len(trials.seeds), self.steps), np.nan)
        for course, rates, seed in zip(found.transpose(1, 0, 2), trials.rates, trials.seeds, strict=True):
            setup = set_up_own(_bare(self.config), seed=int(seed), rows=self.development)
            wanted = {name: float(rates[column]) for name, column in self.columns.items()}

            def note(epoch: int, news: Any, setup: OwnSetup = setup, course: Any = course) -> None:
                held = news[1] if judged == "validation" else evaluate_own(setup, judged)
                course[:, epoch - 1] = news[1].loss, held.loss, held.score, news[0].loss

            fit_own(setup, rates=wanted, epochs=self.steps, patience=self.patience, on_epoch=note)
        return self._kept(Courses(
            chosen=found[0], held=found[1], score=found[2], train=found[3], evaluated_after=np.arange(1, self.steps + 1)
        ))  # fmt: skip

    def _kept(self, courses: Courses) -> Outcomes:
        return courses.kept(self.patience)

    def tiny(self) -> _OwnWorkload:
        return replace(self, steps=1)

    def _side_by_side(self, trials: Trials) -> Outcomes:
        from lrdiff_core.population import PopulationOptions, train_population

        setups = {int(seed): self.setup_of(int(seed)) for seed in dict.fromkeys(trials.seeds)}
        first = next(iter(setups.values()))
        steps = first.steps_an_epoch
        assert steps is not None  # streams are trained alone
        options = PopulationOptions(
            batch_size=first.batch_size,
            steps=self.steps * steps,
            evaluate=steps,
            optimizer=self.config.optimizer,
            momentum=self.config.momentum,
            weight_decay=self.config.weight_decay,
            device=self.config.device,
        )

        def held(part: str) -> Any:
            return train_population(
                lambda seed: copy.deepcopy(setups[seed].module),
                {seed: self.population_data(one, part) for seed, one in setups.items()},
                trials.rates,
                [int(seed) for seed in trials.seeds],
                options,
                groups=dict(self.columns),
            )

        # Trained alike twice: one is judged on the validation rows, which choose the epoch, one on those asked for.
        chosen = held("validation")
        judged = "test" if self.patience else trials.judged_on
        return self._kept(Courses.of(chosen, chosen if judged == "validation" else held(judged)))

    @cached_property
    def _setups(self) -> dict[int, OwnSetup]:
        return {}

    def setup_of(self, seed: int) -> OwnSetup:
        """Of a seed; made once."""
        if seed not in self._setups:
            self._setups[seed] = set_up_own(_bare(self.config), seed=seed, rows=self.development)
        return self._setups[seed]

    def population_data(self, setup: OwnSetup, judged_on: str) -> Any:
        """Rows of one seed in the form that a population takes."""
        from lrdiff_core.population import PopulationData

        train, held = (_whole(setup, name) for name in ("train", judged_on))
        task: Any = setup.task.kind if setup.task.kind != "own" else "regression"
        return PopulationData(
            inputs=train.tensors()[0],
            targets=train.targets,
            held_inputs=held.tensors()[0],
            held_targets=held.targets,
            task=task,
            loss=setup.user.options.get("loss") if setup.task.kind == "own" else None,
        )


def rate_keys(rates: Mapping[str, float]) -> dict[str, tuple[float, list[str]]]:
    """The largest modules whose parameters share a rate: keys for ``[rates]``, each with its rate and parameters.

    Example:
        >>> keys = rate_keys({"body.0.weight": 0.1, "body.0.bias": 0.1, "body.1.weight": 0.2, "head.weight": 0.3})
        >>> {key: rate for key, (rate, _) in keys.items()}
        {'body.0': 0.1, 'body.1': 0.2, 'head': 0.3}
    """
    found: dict[str, tuple[float, list[str]]] = {}

    def descend(names: list[str], depth: int) -> None:
        parts: dict[str, list[str]] = {}
        for name in names:
            parts.setdefault(".".join(name.split(".")[: depth + 1]), []).append(name)
        for key, below in parts.items():
            if len({rates[name] for name in below}) == 1:
                found[key] = (rates[below[0]], below)
            else:
                descend(below, depth + 1)

    descend(list(rates), 0)
    return found


def _rates_to_compare(setup: OwnSetup) -> dict[str, float]:
    """Rate of every parameter that learns; where the plan has one rate for all, those of layer-wise decay."""
    rates = {name: float(group["lr"]) for group in setup.groups() for name in group["param_names"]}
    if len(set(rates.values())) > 1:
        return rates
    try:
        plan = param_groups(setup.module, lr=max(rates.values()), scale=[LayerDecay(DECAY)])
    except RateError:
        return {"": 0.0}  # one layer
    return {name: plan[name].lr for name in rates}


def _sized(workload: _OwnWorkload, setup: OwnSetup, top: float) -> tuple[_OwnWorkload, Plan] | str:
    """How much of it fits into the budget; why nothing does."""
    config = setup.config
    given = {key: getattr(config.compare, key) for key in ("searches", "tuning_seeds")}
    changes: dict[str, Any] = {key: value for key, value in given.items() if value}
    seconds = SECONDS if config.compare.minutes is None else 60.0 * config.compare.minutes
    listed = "sweep" in config.compare.model_fields_set
    if _fits_a_population(workload, setup):
        sweep = tuple(sorted(config.compare.sweep))
        together = replace(workload, together=True, listed_rates=sweep, base_rates=(sweep[0], sweep[-1]))
        a_training = _seconds_together(together)
        for size in (*SIZES, *SMALLER):
            sizes = {**size, **changes}
            plan = _plan_of(sizes, config.compare.seeds or sizes["seeds"], len(sweep), config)
            if _count(together, plan) * a_training <= seconds:
                return together, plan
        fewer = int(together.steps * seconds / (_count(together, plan) * a_training))
        if fewer >= 1:
            return replace(together, steps=fewer), plan
    sweep = tuple(sorted(config.compare.sweep)) if listed else tuple(float(f"{top * step:.6g}") for step in STEPS)
    alone = replace(workload, listed_rates=sweep, base_rates=(sweep[0], sweep[-1]))
    sizes = {**SMALLEST, **changes}
    plan = _plan_of(sizes, config.compare.seeds or sizes["searches"] * sizes["report_seeds"], len(sweep), config)
    epoch = _seconds_alone(workload)
    count = _count(alone, plan)
    epochs = min(alone.steps, int(seconds / (count * epoch)))
    if epochs < 1:
        return (
            f"{count} trainings of one epoch would take {count * epoch / 60:.1f} min, and {seconds / 60:g} may be "
            "spent: set minutes in [compare]"
        )
    return replace(alone, steps=epochs), plan


def _plan_of(sizes: Mapping[str, Any], seeds: int, rates: int, config: RunConfig) -> Plan:
    report = max(3, -(-seeds // sizes["searches"]))
    kept = {key: sizes[key] for key in ("searches", "tuning_seeds", "finalists", "final_seeds")}
    return Plan(
        budget=max(4, rates), target_seeds=0, widenings=0, seeds_from=config.seed % 2**62, report_seeds=report, **kept
    )


def _count(workload: _OwnWorkload, plan: Plan) -> int:
    counts = trainings(workload, plan)
    listed = len(workload.listed_rates) / plan.budget
    return int(counts["search"] * listed) + (counts["final"] if plan.finalists else 0) + counts["report"]


def _fits_a_population(workload: _OwnWorkload, setup: OwnSetup) -> bool:
    """Whether ``torch.func`` and the rows allow it; tried with two members and two steps."""
    if sum(p.numel() for p in setup.module.parameters()) > SMALL or len(setup.held.tensors()) != 1:
        return False
    trial = workload.setup_of(setup.config.seed)  # of a streamed file a sample, which is at hand
    if any(not isinstance(part, TensorPart) and (part.rows or math.inf) > MOST_MEMBERS_ROWS for part in trial.parts.values()):  # fmt: skip  # noqa: E501
        return False
    decays = {group["weight_decay"] for group in setup.groups()}
    frozen = any(not p.requires_grad for p in setup.module.parameters())
    if decays != {setup.config.weight_decay} or frozen or setup.config.shape() is not None or _odd(setup):
        return False
    try:
        workload = replace(workload, together=True, steps=1, counted=[0])
        workload.train(_still(workload, 2))
    except (LrdiffError, RuntimeError, NotImplementedError, TypeError, ValueError):
        return False
    return True


def _odd(setup: OwnSetup) -> bool:
    """Whether trainings side by side would not be those of the run: a loss of its own, drawn numbers, statistics."""
    drawing = any(
        isinstance(part, torch.nn.modules.dropout._DropoutNd | torch.nn.modules.batchnorm._NormBase)
        for part in setup.module.modules()
    )
    table_loss = setup.table is not None and setup.user.options.get("loss") is not None
    return drawing or table_loss or setup.parts["train"].rows is None


def _seconds_together(workload: _OwnWorkload) -> float:
    """Of one training among others, measured on a few members; the first call of a kind is left out."""
    short = replace(workload, steps=1, counted=[0])
    short.train(_still(short, 16))
    begun = time.perf_counter()
    short.train(_still(short, 16))
    return (time.perf_counter() - begun) / 16 * workload.steps


def _seconds_alone(workload: _OwnWorkload) -> float:
    """Of one epoch with its evaluations; a short one twice, since whatever is made once is made in the first."""
    own, took = set_up_own(_bare(workload.config), rows=workload.development), math.inf
    for _ in range(2):
        begun = time.perf_counter()
        fit_own(own, epochs=1, patience=0)
        took = min(took, time.perf_counter() - begun)
        if took > _LONG:
            break
    return took


def _still(workload: _OwnWorkload, count: int) -> Trials:
    return Trials(
        rates=np.full((count, len(workload.groups)), 1e-9),
        seeds=np.full(count, workload.config.seed, dtype=np.int64),
        scheme=workload.schemes[0],
        judged_on="validation",
    )


def _whole(setup: OwnSetup, name: str) -> Batch:
    part = setup.parts[name]
    whole = stacked(part, MOST_MEMBERS_ROWS if part.rows is None else part.rows)
    if not isinstance(whole.targets, Tensor) or whole.rows != part.rows:
        raise RuntimeError("rows that cannot be stacked")
    return whole


def _bare(config: RunConfig) -> RunConfig:
    """The settings without what was filled in for this run's rows."""
    fields = {key: getattr(config, key) for key in config.model_fields_set}
    if not fields.get("data"):
        fields.pop("data", None)
    return RunConfig.model_construct(_fields_set=set(fields), **fields)


class _Progress(StudyWatcher):
    def __init__(self, on_training: Callable[[int, int], None] | None) -> None:
        self._on_training = on_training

    def progress(self, stage: str, done: int, total: int) -> None:
        if self._on_training is not None:
            self._on_training(done, total)

    def news(self, text: str) -> None:
        pass
