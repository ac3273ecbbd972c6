"""What the commands of ``lrdiff study`` do; each returns the exit status."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.text import Text

from lrdiff_bench.report.json import print_json
from lrdiff_bench.report.page import as_given
from lrdiff_bench.report.tables import duration, line, make_console, plain_table
from lrdiff_bench.stats.looks import LOOKS
from lrdiff_bench.study import describe, screen
from lrdiff_bench.study.analysis.analyse import analyse
from lrdiff_bench.study.analysis.document import document_of, seconds_a_search, suite_of
from lrdiff_bench.study.folder import (
    MUST_AGREE,
    facts_of,
    list_names,
    list_studies,
    read_study,
    said_of,
    study_name,
    workload_from,
)
from lrdiff_bench.study.records import keep_records, read_records
from lrdiff_bench.study.search.engine import StudyResult, check_workload, run_study, trainings
from lrdiff_bench.study.search.ledger import StorageLedger
from lrdiff_bench.study.search.optuna_storage import default_url, hidden, storage_trouble
from lrdiff_bench.study.search.plan import Plan, make_plan
from lrdiff_bench.study.search.stopping import TimeIsUpError, WatchedClock
from lrdiff_bench.study.workloads.workload import LONG, Workload
from lrdiff_bench.system.cluster import connect, disconnect
from lrdiff_bench.system.factory import user_code
from lrdiff_core.errors import ConfigError
from lrdiff_core.files import sealed, write_json, write_text
from lrdiff_core.text import nearest

__all__ = [
    "DEFAULT_FOLDER",
    "Growth",
    "export",
    "growth_of",
    "ls",
    "run",
    "run_one",
    "show",
    "sources_of",
    "verdict",
    "write_study",
]

# Clark et al. 2020 (0.8), Bao et al. 2021 (0.65 to 0.95), Howard and Ruder 2018 (1/2.6).
DECAYS: dict[str, Any] = {"0.8": 0.8, "0.95": 0.95, "1/2.6": 1 / 2.6, "tuned": [0.3, 1.5]}
DEFAULT_FOLDER = Path("runs", "study")
FORMAT = "lrdiff studies 1"


def run(
    targets: Sequence[str],
    *,
    every: bool,
    sizes: dict[str, Any],
    storage: str | None,
    out: Path | None,
    scheduler: str | None,
    own: dict[str, Any],
    until_resolved: bool = False,
    minutes: float | None = None,
    json: bool,
) -> int:
    """Run studies, or go on with them, and say what came of each; ``sizes`` are options of ``make_plan``."""
    stop_at = _deadline(minutes)
    growth = growth_of(sizes, until_resolved, minutes if until_resolved else None)
    folder = out or DEFAULT_FOLDER
    sources = sources_of(targets, every, own)
    if not sources:
        return ls(storage=storage, out=out, json=json)
    # All are made before the first is trained: a mistake in the last should not show after an hour.
    plans = []
    for source in sources:
        with user_code():
            workload = workload_from(source)
            check_workload(workload)
            workload.require()
        plan = make_plan(report_seeds=workload.report_seeds, own=workload.plan_sizes, **sizes)
        plans.append((source, workload, plan))
    names = [study_name(workload, plan) for _, workload, plan in plans]
    if len(set(names)) < len(names):
        raise ConfigError(f"two studies would have one name: {', '.join(names)}", help="rename one of the files")
    url = storage or default_url(folder)
    folder.mkdir(parents=True, exist_ok=True)
    console = make_console(stderr=json)  # with --json the studies still show, but on stderr
    documents = []
    for number, (source, workload, plan) in enumerate(plans, start=1):
        of = f" ({number} of {len(plans)})" if len(plans) > 1 else ""
        with storage_trouble(url), user_code():
            try:
                stop = math.inf if until_resolved else stop_at
                documents.append(run_one(source, workload, plan, url, console, scheduler, growth, of=of, stop_at=stop))
            except TimeIsUpError as left:
                said = f"{minutes:g} min are over; {screen.STAGES[left.stage]}: {left.done} of {left.total} trainings"
                line(console, f"{names[number - 1]}: {said}. The same command goes on")
                break
        screen.draw_study(console, documents[-1])
        write_study(documents[-1], folder)
    if not documents:
        if json:
            print_json({"format": FORMAT, "studies": [], "suite": None})
        return 0
    suite = suite_of(documents)
    if suite is not None:
        screen.draw_suite(console, documents, suite)
    from lrdiff_bench.study.pictures import draw_suite_pictures

    if suite is not None:
        draw_suite_pictures(documents, suite, folder)
    line(console, f"written: {folder}; where a verdict comes from: lrdiff study verdict {documents[-1]['name']}", "dim")
    if json:
        print_json({"format": FORMAT, "studies": documents, "suite": suite})
    return 0


def ls(*, storage: str | None, out: Path | None, json: bool) -> int:
    """List what can be studied, and the studies that are there."""
    from lrdiff_bench.study.workloads.registry import make_workload, workload_names

    workloads: list[dict[str, Any]] = [
        {
            "name": w.name,
            "title": w.title,
            "question": w.question,
            "label": w.label,
            "schemes": [s.name for s in w.schemes],
        }
        for w in map(make_workload, workload_names())
    ]
    folder = out or DEFAULT_FOLDER
    there = storage is not None or (folder / "studies.db").is_file()
    studies = list_studies(storage or default_url(folder)) if there else []
    if json:
        print_json({"format": FORMAT, "workloads": workloads, "studies": studies})
        return 0
    console = make_console()
    table = plain_table("workload", "why")
    table.columns[1].header = "question"
    for one in workloads:
        label = f" ({one['label']})" if one["label"] else ""
        table.add_row(f"{one['name']}{label}", Text(one["question"]))
    console.print(table)
    console.print()
    if studies:
        table = plain_table("study", "trials", "result")
        for one in studies:
            mode = "" if one["mode"] == "full" else f" {one['mode'].upper()}"
            table.add_row(one["name"], str(one["trials"]), f"{one['state']}{mode}")
        console.print(table)
    else:
        line(console, "no studies yet; begin with: lrdiff study NAME --quick")
    return 0


def show(names: Sequence[str], *, storage: str | None, out: Path | None, json: bool) -> int:
    """Show finished studies again, computed from their trials."""
    documents = _documents(names, storage, out)
    suite = suite_of(documents)
    if json:
        print_json({"format": FORMAT, "studies": documents, "suite": suite})
        return 0
    console = make_console()
    for document in documents:
        screen.draw_study(console, document)
    if suite is not None:
        screen.draw_suite(console, documents, suite)
    return 0


def verdict(name: str, *, storage: str | None, out: Path | None, json: bool) -> int:
    """Show where a verdict comes from, down to the trials in the storage."""
    url = storage or default_url(out or DEFAULT_FOLDER)
    document = read_study(url, name, curves=False)
    if json:
        print_json(document)
        return 0
    screen.draw_trace(make_console(), document, storage=hidden(url))
    return 0


def export(
    names: Sequence[str],
    *,
    to: Path,
    storage: str | None,
    source: Path | None,
    records: Path | None = None,
    pictures: bool,
) -> int:
    """Write finished studies as one page with its pictures beside it, and those whose records are kept."""
    from lrdiff_bench.study.page import studies_page
    from lrdiff_bench.study.pictures import draw_document, draw_suite_pictures

    if to.suffix != ".md":
        raise ConfigError(f"--out is {to}", help="name a Markdown file, such as docs/results/convergence.md")
    if not to.parent.is_dir():
        raise ConfigError(f"there is no folder {to.parent}", help="make it, or name another file")
    documents = (
        _documents(names, storage, source) if records is None else _with_records(names, storage, source, records)
    )
    suite = suite_of(documents)
    files: list[Path] = []
    if pictures:
        prefix = f"{to.stem}-"
        files += draw_suite_pictures(documents, suite, to.parent, prefix)
        for document in documents:
            files += draw_document(document, to.parent, prefix)
    write_text(to, studies_page(documents, suite, files, as_given()))
    console = make_console()
    line(console, f"{to}: {len(documents)} {'study' if len(documents) == 1 else 'studies'}, {len(files)} pictures")
    return 0


@dataclass(frozen=True)
class Growth:
    """How far a study may be taken: to so many searches, and no look is begun that would end after the deadline."""

    most: int
    deadline: float


def _deadline(minutes: float | None) -> float:
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
    deadline = _deadline(minutes)
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

        workers = workers_for(client, source)
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


def sources_of(targets: Sequence[str], every: bool, own: dict[str, Any]) -> list[dict[str, Any]]:
    """How to make each workload that was asked for."""
    from lrdiff_bench.study.own_training import workload_named
    from lrdiff_bench.study.settings import COMMAND_LINE, check_study_settings, load_study_settings
    from lrdiff_bench.study.workloads.registry import make_workload, workload_names

    if every and (targets or own):
        raise ConfigError("--all was given together with something else to study", help="leave one of the two out")
    if targets and own:
        raise ConfigError(
            "a workload or file was given together with --model, --data or --groups",
            help="put all of it into the TOML file",
        )
    if every:
        return [{"kind": "workload", "name": name} for name in workload_names() if not make_workload(name).fetched]
    if own:
        checked = check_study_settings(own_settings(own), where=COMMAND_LINE)
        return [
            {
                "kind": "claim",
                "settings": checked.model_dump(mode="json", exclude_unset=True),
                "where": COMMAND_LINE,
            }
        ]
    sources: list[dict[str, Any]] = []
    for target in targets:
        if target.endswith(".toml") or Path(target).is_file():
            settings = load_study_settings(Path(target)).model_dump(mode="json", exclude_unset=True)
            sources.append({"kind": "claim", "settings": settings, "where": Path(target).name})
        else:
            workload_named(target)
            sources.append({"kind": "workload", "name": target})
    return sources


def own_settings(own: dict[str, Any]) -> dict[str, Any]:
    settings = {key: value for key, value in own.items() if key not in ("groups", "layer_decay")}
    if own.get("layer_decay"):
        settings["schemes"] = [{"name": f"layer decay {name}", "layer_decay": decay} for name, decay in DECAYS.items()]
    if "groups" in own:
        groups: dict[str, Any] = {}
        for part in str(own["groups"]).split(","):
            name, equals, pattern = part.partition("=")
            if not (equals and name.strip() and pattern.strip()):
                raise ConfigError(
                    f'--groups has "{part}"', help="write NAME=PATTERN,NAME=PATTERN, such as body=layer1.*,head=fc"
                )
            groups.setdefault(name.strip(), []).append(pattern.strip())
        settings["groups"] = groups
    from lrdiff_core.config import name_from

    stem = str(own.get("model") or own.get("data") or "own").rpartition(":")[2]
    settings["name"] = name_from(Path(stem).stem).replace(".", "-")[:60]
    return settings


def _with_records(
    names: Sequence[str], storage: str | None, source: Path | None, records: Path
) -> list[dict[str, Any]]:
    """Finished studies of the storage, which are kept as records now, and those that were kept before."""
    kept = read_records(records)
    url = storage or default_url(source or DEFAULT_FOLDER)
    there = list_names(url) if storage is not None or not kept or _has_storage(source) else []
    if unknown := [name for name in names if name not in there and name not in kept]:
        raise ConfigError(f'there is no study "{unknown[0]}"', help=nearest(unknown[0], [*there, *kept], "studies"))
    wanted = [name for name in names if name in there]
    fresh = _documents(wanted, storage, source) if wanted or (there and not names) else []
    keep_records(fresh, records)
    kept |= {document["name"]: document for document in fresh}
    return [kept[name] for name in sorted(kept) if not names or name in names]


def _has_storage(source: Path | None) -> bool:
    return ((source or DEFAULT_FOLDER) / "studies.db").is_file()


def _documents(names: Sequence[str], storage: str | None, out: Path | None) -> list[dict[str, Any]]:
    url = storage or default_url(out or DEFAULT_FOLDER)
    if not names:
        found = [one for one in list_studies(url) if one["state"] != "not finished"]
        # without names: the full studies, or all that there are where there is no full one
        full = [one["name"] for one in found if one["mode"] == "full"]
        names = full or [one["name"] for one in found]
        if not names:
            raise ConfigError("there is no finished study", help="run one: lrdiff study NAME --quick")
    return [read_study(url, name) for name in names]
