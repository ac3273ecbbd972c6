"""``lrdiff study``: studies, one after the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lrdiff_bench.report.json import print_json
from lrdiff_bench.report.tables import line, make_console
from lrdiff_bench.study import screen
from lrdiff_bench.study.analysis.document import suite_of
from lrdiff_bench.study.commands.finished import FORMAT, ls
from lrdiff_bench.study.commands.one_study import deadline_of, growth_of, run_one, write_study
from lrdiff_bench.study.commands.sources import sources_of
from lrdiff_bench.study.folder import DEFAULT_FOLDER, study_name, workload_from
from lrdiff_bench.study.search.engine import check_workload
from lrdiff_bench.study.search.optuna_storage import default_url, storage_trouble
from lrdiff_bench.study.search.plan import make_plan
from lrdiff_bench.study.search.stopping import TimeIsUpError
from lrdiff_bench.system.factory import user_code
from lrdiff_core.errors import ConfigError

__all__ = ["run"]


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
    stop_at = deadline_of(minutes)
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
