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

from lrdiff_bench.run.own_model.setup import DECAY, OwnSetup, set_up_own
from lrdiff_bench.run.own_model.training import fit_own
from lrdiff_bench.run.single_rates import CONFIGURED, EXTENSIONS, RATIOS, SINGLE, SIZES, RateComparison, longer
from lrdiff_bench.stats.gain import SMALLEST_DIFFERENCE
from lrdiff_bench.study.analysis.analyse import analyse
from lrdiff_bench.study.search.engine import StudyResult, StudyWatcher, run_study, trainings
from lrdiff_bench.study.search.ledger import MemoryLedger
from lrdiff_bench.study.search.plan import Plan
from lrdiff_bench.study.search.training import train_together
from lrdiff_bench.study.workloads.outcomes import mask_diverged, outcomes
from lrdiff_bench.study.workloads.workload import Outcomes, Scheme, Trials, UntunedSetting, Workload
from lrdiff_bench.system.batches import Batch, TensorPart, stacked
from lrdiff_bench.system.user_code import user_code
from lrdiff_core.config import RunConfig
from lrdiff_core.devices import torch_threads
from lrdiff_core.errors import LrdiffError, RateError
from lrdiff_core.rates import LayerDecay, param_groups

__all__ = ["OwnComparison", "compare_own"]

SECONDS = 60.0  # that a comparison one after the other may take
SMALL = 200_000  # parameters up to which a population pays
MOST_MEMBERS_ROWS = 20_000  # rows that a population is given
STEPS = (0.3, 1.0, 3.0, 10.0, 30.0)  # the sweep of a comparison one after the other, around the configured rate
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
        return {**self.found.section(), "price": dict(self.price)}


def compare_own(setup: OwnSetup, *, on_training: Callable[[int, int], None] | None = None) -> OwnComparison:
    """Tune the plan's ratios and a single rate with the same budget, and judge them on fresh seeds.

    Args:
        setup: not yet trained, or trained: each training begins with a model of its own.
        on_training: called with how many trainings of a stage are done, and how many there are.
    """
    groups = _groups(setup)
    if len(groups) < 2:
        return OwnComparison(found=None, why_not="the model has one layer that learns: there are no rates to compare")
    rates = {name: rate for name, (rate, _) in groups.items()}
    columns = {name: i for i, (_, names) in enumerate(groups.values()) for name in names}
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
        steps=setup.epochs,
        config=setup.config,
        columns=columns,
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
        columns: group of every parameter by name.
        listed_rates: base rates that every search tries.
        untuned_settings: reported beside.
        together: whether populations train it.
        counted: trainings so far, in its one place.
    """

    config: RunConfig
    columns: Mapping[str, int]
    listed_rates: tuple[float, ...]
    untuned_settings: tuple[UntunedSetting, ...]
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
        metric, train_loss, seconds, score = [], [], 0.0, []
        for rates, seed in zip(trials.rates, trials.seeds, strict=True):
            setup = set_up_own(_bare(self.config), seed=int(seed))
            begun = time.perf_counter()
            by_name = {name: float(rates[i]) for i, name in enumerate(self.groups)}
            wanted = {group["name"]: by_name[self._name_of(group)] for group in setup.groups()}
            rows, _ = fit_own(setup, rates=wanted, epochs=self.steps, patience=0, judged_on=trials.judged_on)
            seconds += time.perf_counter() - begun
            metric.append([row.loss for row in rows if row.split == trials.judged_on])
            train_loss.append([row.loss for row in rows if row.split == "train"])
            score.append(rows[-1].score)
        found = mask_diverged(
            np.array(metric),
            np.array(train_loss),
            evaluated_after=np.arange(1, self.steps + 1),
            seconds_a_step=seconds / max(1, len(metric) * self.steps),
        )
        return replace(found, score=np.array(score))

    def tiny(self) -> _OwnWorkload:
        return replace(self, steps=1)

    def _name_of(self, group: Mapping[str, Any]) -> str:
        return self.groups[self.columns[group["param_names"][0]]]

    def _side_by_side(self, trials: Trials) -> Outcomes:
        from lrdiff_core.population import PopulationOptions, train_population

        setups = {int(seed): self.setup_of(int(seed)) for seed in dict.fromkeys(trials.seeds)}
        first = next(iter(setups.values()))
        steps = first.steps_an_epoch
        assert steps is not None  # streams are trained alone
        data = {seed: self.population_data(one, trials.judged_on) for seed, one in setups.items()}
        population = train_population(
            lambda seed: copy.deepcopy(setups[seed].module),
            data,
            trials.rates,
            [int(seed) for seed in trials.seeds],
            PopulationOptions(
                batch_size=first.batch_size,
                steps=self.steps * steps,
                evaluate=steps,
                optimizer=self.config.optimizer,
                momentum=self.config.momentum,
                weight_decay=self.config.weight_decay,
                device=self.config.device,
            ),
            groups=dict(self.columns),
        )
        return outcomes(population, self.metric, seconds_a_step=math.nan, seconds_to_compile=0.0)

    @cached_property
    def _setups(self) -> dict[int, OwnSetup]:
        return {}

    def setup_of(self, seed: int) -> OwnSetup:
        """Of a seed; made once."""
        if seed not in self._setups:
            self._setups[seed] = set_up_own(_bare(self.config), seed=seed)
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


def _groups(setup: OwnSetup) -> dict[str, tuple[float, list[str]]]:
    """Rate and parameters of each group; where the plan has one rate, those of layer-wise decay."""
    groups = {group["name"]: (float(group["lr"]), list(group["param_names"])) for group in setup.groups()}
    if len({rate for rate, _ in groups.values()}) > 1:
        return groups
    trained = {n for _, names in groups.values() for n in names}
    try:
        plan = param_groups(setup.module, lr=max(rate for rate, _ in groups.values()), scale=[LayerDecay(DECAY)])
    except RateError:
        return {}
    found = {}
    for group in plan.groups():
        if names := [name for name in group["param_names"] if name in trained]:
            found[str(group["name"])] = (float(group["lr"]), names)
    return found


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
        for size in SIZES:
            sizes = {**size, **changes}
            report = config.compare.seeds or sizes["seeds"]
            plan = _plan_of(sizes, report, len(sweep), config)
            if _count(together, plan) * a_training <= seconds:
                return together, plan
    sweep = tuple(sorted(config.compare.sweep)) if listed else tuple(float(f"{top * step:.6g}") for step in STEPS)
    alone = replace(workload, listed_rates=sweep, base_rates=(sweep[0], sweep[-1]))
    sizes = {**SMALLEST, **changes}
    plan = _plan_of(sizes, config.compare.seeds or sizes["searches"] * sizes["report_seeds"], len(sweep), config)
    epoch = _seconds_alone(setup)
    count = _count(alone, plan)
    epochs = min(setup.epochs, int(seconds / (count * epoch)))
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
    if any(not isinstance(part, TensorPart) and (part.rows or math.inf) > MOST_MEMBERS_ROWS for part in setup.parts.values()):  # fmt: skip  # noqa: E501
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


def _seconds_alone(setup: OwnSetup) -> float:
    """Of one epoch with its evaluations."""
    own = set_up_own(_bare(setup.config))
    begun = time.perf_counter()
    fit_own(own, epochs=1, patience=0)
    return time.perf_counter() - begun


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
