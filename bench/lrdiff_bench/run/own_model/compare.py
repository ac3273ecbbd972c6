"""Stage 7 for a model of one's own: its rates against a single rate, both tuned with the same budget.

The protocol and the engine are those of ``lrdiff study``. A model that :mod:`lrdiff_core.population` takes is trained
many times at once; any other one after the other, within a budget of seconds that is said beside the result.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch

from lrdiff_bench.report.tables import duration
from lrdiff_bench.run.compare.single_rates import (
    CONFIGURED,
    EXTENSIONS,
    RATIOS,
    SINGLE,
    SIZES,
    SMALLER,
    ComparisonProgress,
    RateComparison,
    longer,
)
from lrdiff_bench.run.own_model.development import development_of
from lrdiff_bench.run.own_model.setup import DECAY, OwnSetup, set_up_own
from lrdiff_bench.run.own_model.training import fit_own
from lrdiff_bench.run.own_model.trials import MOST_MEMBERS_ROWS, OwnWorkload, bare
from lrdiff_bench.stats.gain import SMALLEST_DIFFERENCE
from lrdiff_bench.study.analysis.analyse import analyse
from lrdiff_bench.study.search.engine import StudyResult, StudyWatcher, run_study, trainings
from lrdiff_bench.study.search.ledger import MemoryLedger
from lrdiff_bench.study.search.plan import Plan
from lrdiff_bench.study.search.training import train_together
from lrdiff_bench.study.workloads.workload import Scheme, Trials, UntunedSetting
from lrdiff_bench.system.batches import TensorPart
from lrdiff_bench.system.user_code import user_code
from lrdiff_core.config import RunConfig
from lrdiff_core.devices import torch_threads
from lrdiff_core.errors import LrdiffError, RateError
from lrdiff_core.rates import LayerDecay, param_groups

__all__ = ["OwnComparison", "compare_own", "rate_keys"]

SECONDS = 60.0  # that a comparison one after the other may take
SMALL = 200_000  # parameters up to which a population pays
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
        workload = cast(OwnWorkload, self.found.study.workload)
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
    first = OwnWorkload(
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
        study = _studied(workload, plan, ComparisonProgress(on_training))
        workload = cast(OwnWorkload, study.workload)
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


def _studied(workload: OwnWorkload, plan: Plan, watcher: StudyWatcher) -> StudyResult:
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


def _sized(workload: OwnWorkload, setup: OwnSetup, top: float) -> tuple[OwnWorkload, Plan] | str:
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
            f"{count} trainings of one epoch would take {duration(count * epoch)}, and {duration(seconds)} may be "
            "spent: set minutes in [compare]"
        )
    return replace(alone, steps=epochs), plan


def _plan_of(sizes: Mapping[str, Any], seeds: int, rates: int, config: RunConfig) -> Plan:
    report = max(3, -(-seeds // sizes["searches"]))
    kept = {key: sizes[key] for key in ("searches", "tuning_seeds", "finalists", "final_seeds")}
    return Plan(
        budget=max(4, rates), target_seeds=0, widenings=0, seeds_from=config.seed % 2**62, report_seeds=report, **kept
    )


def _count(workload: OwnWorkload, plan: Plan) -> int:
    counts = trainings(workload, plan)
    listed = len(workload.listed_rates) / plan.budget
    return int(counts["search"] * listed) + (counts["final"] if plan.finalists else 0) + counts["report"]


def _fits_a_population(workload: OwnWorkload, setup: OwnSetup) -> bool:
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


def _seconds_together(workload: OwnWorkload) -> float:
    """Of one training among others, measured on a few members; the first call of a kind is left out."""
    short = replace(workload, steps=1, counted=[0])
    short.train(_still(short, 16))
    begun = time.perf_counter()
    short.train(_still(short, 16))
    return (time.perf_counter() - begun) / 16 * workload.steps


def _seconds_alone(workload: OwnWorkload) -> float:
    """Of one epoch with its evaluations; a short one twice, since whatever is made once is made in the first."""
    own, took = set_up_own(bare(workload.config), rows=workload.development), math.inf
    for _ in range(2):
        begun = time.perf_counter()
        fit_own(own, epochs=1, patience=0)
        took = min(took, time.perf_counter() - begun)
        if took > _LONG:
            break
    return took


def _still(workload: OwnWorkload, count: int) -> Trials:
    return Trials(
        rates=np.full((count, len(workload.groups)), 1e-9),
        seeds=np.full(count, workload.config.seed, dtype=np.int64),
        scheme=workload.schemes[0],
        judged_on="validation",
    )
