"""One study, run or gone on with: its price, its looks, its time, and the files that it leaves."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lrdiff_bench.report.tables import duration, line
from lrdiff_bench.stats.looks import LOOKS
from lrdiff_bench.study import describe, screen
from lrdiff_bench.study.analysis.analyse import analyse
from lrdiff_bench.study.analysis.document import document_of, seconds_a_search
from lrdiff_bench.study.folder import MUST_AGREE, facts_of, said_of, study_name
from lrdiff_bench.study.search.engine import StudyResult, run_study, trainings
from lrdiff_bench.study.search.ledger import StorageLedger
from lrdiff_bench.study.search.plan import Plan, make_plan
from lrdiff_bench.study.search.stopping import WatchedClock
from lrdiff_bench.study.workloads.workload import LONG, Workload
from lrdiff_bench.system.cluster import connect, disconnect
from lrdiff_core.errors import ConfigError
from lrdiff_core.files import sealed, write_json

__all__ = ["Growth", "deadline_of", "growth_of", "run_one", "write_study"]


@dataclass(frozen=True)
class Growth:
    """How far a study may be taken: to so many searches, and no look is begun that would end after the deadline."""

    most: int
    deadline: float


def deadline_of(minutes: float | None) -> float:
    """When so many minutes are over, on the clock of ``time.monotonic``."""
    if minutes is None:
        return math.inf
    if not minutes > 0:
        raise ConfigError(f"--minutes is {minutes:g}", help="write a number above 0")
    return time.monotonic() + 60.0 * minutes


def growth_of(sizes: dict[str, Any], until_resolved: bool, minutes: float | None) -> Growth | None:
    """What ``--until-resolved`` asks for; the plan then begins at the first look."""
    if not until_resolved:
        if minutes is not None:
            raise ConfigError("--minutes limits --until-resolved, which is not there", help="add --until-resolved")
        return None
    deadline = deadline_of(minutes)
    most = sizes.get("searches") or LOOKS[-1].searches
    if sizes.get("quick") or most < LOOKS[0].searches:
        raise ConfigError(
            f"--until-resolved adds searches from {LOOKS[0].searches} up, and a smaller study cannot be continued",
            help="leave out --quick and --searches, or --until-resolved",
        )
    sizes["searches"] = LOOKS[0].searches
    return Growth(most, deadline)


def run_one(
    source: dict[str, Any],
    workload: Any,
    plan: Plan,
    url: str,
    console: Any,
    scheduler: str | None,
    growth: Growth | None,
    *,
    of: str,
    stop_at: float = math.inf,
) -> dict[str, Any]:
    """Run one study, or go on with it, and return its document.

    Raises:
        TimeIsUpError: it is not finished at ``stop_at``, on the clock of ``time.monotonic``.
    """
    name = study_name(workload, plan)
    ledger = StorageLedger(
        url,
        name,
        direction="maximize" if workload.metric == "accuracy" else "minimize",
        facts=facts_of(workload, plan, source),
        must_agree=MUST_AGREE,
    )
    plan = replace(plan, searches=max(plan.searches, ledger.facts["searches"]))  # as far as it has come
    client = None if scheduler is None else connect(scheduler)
    try:
        return _run(source, workload, plan, ledger, console, client, growth, of=of, stop_at=stop_at)
    finally:
        if client is not None:
            disconnect(client)


def _run(
    source: dict[str, Any],
    workload: Any,
    plan: Plan,
    ledger: StorageLedger,
    console: Any,
    client: Any,
    growth: Growth | None,
    *,
    of: str,
    stop_at: float,
) -> dict[str, Any]:
    name, workers = study_name(workload, plan), None
    if client is not None:
        from lrdiff_bench.study.remote import workers_for

        workers = workers_for(client, source, lambda text: line(console, text, "yellow"))
        workload, ledger.at_a_time = workers.workload(workload), len(workers.names)
    counts = trainings(workload, plan)
    price = _price(workload, counts, ledger, measured=None if workers is None else workers.seconds)
    mode = f" - {describe.MODES[plan.mode]}" if plan.mode != "full" else ""
    line(
        console,
        f"{name}{of}: {len(workload.schemes)} schemes x {plan.budget} points x {plan.searches} searches x "
        f"{plan.tuning_seeds} seeds = {counts['search']} trainings, then {counts['final']} of the finalists and "
        f"{counts['report']} on fresh seeds, "
        f"{workload.steps} steps each{mode}",
        "dim",
    )
    if price:
        line(console, price)
    watcher = screen.LiveWatcher(console)
    train = None if workers is None else workers.train(watcher.news)
    begin = time.perf_counter()
    try:
        done = 0
        while True:
            at = time.perf_counter()
            finished = run_study(workload, plan, ledger, train=train, watcher=WatchedClock(watcher, stop_at))
            ledger.note("searches", plan.searches)
            further = _further_look(finished, growth, (time.perf_counter() - at) / (plan.searches - done), console)
            if further is None:
                break
            done, plan = plan.searches, replace(plan, searches=further)
    finally:
        watcher.close()
    document = document_of(finished, analyse(finished), ledger.facts)
    ledger.note("said", said_of(document))
    line(console, f"{name}: {duration(time.perf_counter() - begin)}", "dim")
    return document


def _price(workload: Workload, counts: dict[str, int], ledger: StorageLedger, *, measured: float | None) -> str:
    """What a study will take whose trainings come one after the other; empty for others, which take seconds."""
    seconds = ledger.facts.get("seconds_of_training")
    if seconds is None or (seconds <= LONG and "said" not in ledger.facts):
        # Measured again where that costs little: it may have been another machine, or a busier one.
        seconds = measured or workload.seconds_of_training()
    if seconds is None:
        return ""
    ledger.note("seconds_of_training", seconds)
    quick = sum(trainings(workload, make_plan(report_seeds=workload.report_seeds, quick=True)).values())
    total = sum(counts.values())
    shorter = f"; --quick: about {duration(quick * seconds)}" if quick < total else ""
    return (
        f"one training takes {duration(seconds)} here, all {total} about {duration(total * seconds)}{shorter}. "
        "What is done is kept, and two processes share the work"
    )


def _further_look(study: StudyResult, growth: Growth | None, seconds: float, console: Any) -> int | None:
    """Searches of the look to go on to; None where all is settled, or the budget does not reach that far."""
    if growth is None:
        return None
    gains = analyse(study, curves=False).schemes
    unsettled = [] if study.void else [name for name, one in gains.items() if one.is_open]
    searches = study.plan.searches
    settled = f"{searches} searches: {len(gains) - len(unsettled)} of {len(gains)} comparisons settled"
    following = next((look.searches for look in LOOKS if searches < look.searches <= growth.most), None)
    if not unsettled or following is None:
        line(console, settled, "dim")
        return None
    more = max(seconds, seconds_a_search(study)) * (following - searches)
    left = growth.deadline - time.monotonic()
    if more > left:
        line(console, f"{settled}; {following} take about {duration(more)} more, {duration(max(0.0, left))} are left")
        return None
    line(console, f"{settled}; on to {following} for {', '.join(unsettled)}", "dim")
    return following


def write_study(document: dict[str, Any], folder: Path) -> None:
    """Write ``study.json`` and its pictures into the study's own folder."""
    from lrdiff_bench.study.pictures import draw_document

    own = folder / document["name"]
    own.mkdir(parents=True, exist_ok=True)
    write_json(own / "study.json", sealed(document))
    draw_document(document, own)
