"""``lrdiff tune`` in Python: search, verdict and answer for a workload, kept in memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lrdiff_bench.stats.looks import LOOKS
from lrdiff_bench.study.analysis.analyse import analyse
from lrdiff_bench.study.analysis.document import document_of
from lrdiff_bench.study.folder import facts_of
from lrdiff_bench.study.search.engine import check_workload, run_study, trainings
from lrdiff_bench.study.search.ledger import MemoryLedger
from lrdiff_bench.study.search.training import train_here, train_together
from lrdiff_bench.study.tune.found import SEEDS_FROM, FoundRates
from lrdiff_bench.study.tune.proof import Answer, answer_of, judged_workload, plan_of
from lrdiff_bench.study.tune.search import find_rates
from lrdiff_bench.study.workloads.workload import Trials, Workload
from lrdiff_core.errors import ConfigError

__all__ = ["TuneOptions", "TunedRates", "seconds_of_training_side_by_side", "tune_rates"]

PRICED = 32  # trainings that tell what a verdict takes: about as many as a study trains at once


@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    """How much is spent.

    Args:
        trainings: of the search; left out, 56 where they run side by side, 12 where they do not.
        verdict: have the court judge what was found.
        searches: of the verdict: 16, 24, 40, 64 or 100 by the protocol; left out, 16, and 5 where a training is dear.
        most_searches: go on look by look, up to so many, until the verdict is settled; 0: no.
        seeds_from: added to every seed.
    """

    trainings: int | None = None
    verdict: bool = True
    searches: int | None = None
    most_searches: int = 0
    seeds_from: int = 0

    def __post_init__(self) -> None:
        looks = [look.searches for look in LOOKS]
        if self.most_searches and self.most_searches not in looks:
            raise ConfigError(
                f"most_searches is {self.most_searches}", help=f"write one of {', '.join(map(str, looks))}"
            )


@dataclass(frozen=True, kw_only=True)
class TunedRates:
    """What came of it.

    Attributes:
        found: by the search.
        document: of the study that judged the ratios, as ``study.json``; None without a verdict.
        answer: what to do.
        trainings: of the search and of the verdict.
    """

    found: FoundRates
    document: Mapping[str, Any] | None
    answer: Answer
    trainings: Mapping[str, int]


def tune_rates(
    workload: Workload, options: TuneOptions = TuneOptions(), *, told: Callable[[str, int, int], None] | None = None
) -> TunedRates:
    """Find rates by group, and let the court judge them against one rate that is tuned with the same budget.

    The verdict is a study of two schemes, the single rate and the ratios that were found: 16 searches of each, on
    seeds that the search has not seen. It does not judge the search, but what the search found.

    Args:
        workload: from ``lrdiff_bench.study``: one of :func:`~lrdiff_bench.study.training`, or any other.
        options: how much is spent.
        told: is told stage, trainings done and trainings in all of the search.

    Raises:
        ConfigError: the workload breaks the protocol's contract, or too few trainings.
        InputError: every training diverged.

    Example:
        >>> from benchmarks.simulate_study import Planted
        >>> tuned = tune_rates(Planted(), TuneOptions(most_searches=40))  # no ratio helps there
        >>> tuned.answer.word, str(tuned.document["gain"]["verdict"])
        ('one rate', 'NO DIFFERENCE')
    """
    check_workload(workload)
    found = find_rates(workload, options.trainings, seeds_from=options.seeds_from, told=told)
    spent = {"search": found.trainings, "verdict": 0}
    if not options.verdict or all(ratio == 1.0 for ratio in found.ratios.values()):
        return TunedRates(found=found, document=None, answer=answer_of(workload, found, None), trainings=spent)
    judged = judged_workload(workload, found, f"{workload.name}-tuned")
    plan = plan_of(workload, searches=options.searches, seeds_from=options.seeds_from)
    ledger = MemoryLedger()
    # both schemes differ in nothing but rates, so that all that is wanted at once can be one population
    train = train_here(judged) if judged.at_once == 1 else train_together(judged)
    while True:
        study = run_study(judged, plan, ledger, train=train)
        further = next((one.searches for one in LOOKS if plan.searches < one.searches <= options.most_searches), None)
        analysis = analyse(study, curves=False)
        if further is None or study.void or not analysis.gain.is_open:
            break
        plan = replace(plan, searches=further)
    facts = facts_of(judged, plan, {"kind": "memory"})
    document = document_of(study, analysis, facts)
    spent["verdict"] = sum(trainings(judged, plan).values())
    return TunedRates(found=found, document=document, answer=answer_of(workload, found, document), trainings=spent)


def seconds_of_training_side_by_side(workload: Workload, rate: float) -> float | None:
    """Seconds of a training that runs beside others, measured; None where they come one after the other.

    Args:
        workload: that is trained.
        rate: of all groups, such that trainings do not diverge at once.
    """
    if workload.at_once == 1:
        return None
    seeds = SEEDS_FROM - 1 - np.arange(PRICED, dtype=np.int64)
    trials = Trials(
        rates=np.full((PRICED, len(workload.groups)), rate), seeds=seeds, scheme=workload.schemes[0], judged_on="test"
    )
    begin = time.perf_counter()
    workload.train(trials)
    return (time.perf_counter() - begin) / PRICED
