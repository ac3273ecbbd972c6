"""What ``lrdiff tune`` does: search, let the court judge what was found, and say which rates to use."""

from __future__ import annotations

import json as json_module
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lrdiff_bench.report.json import print_json
from lrdiff_bench.report.tables import make_console
from lrdiff_bench.study.commands.one_study import growth_of, run_one, write_study
from lrdiff_bench.study.commands.sources import sources_of
from lrdiff_bench.study.folder import DEFAULT_FOLDER, workload_from
from lrdiff_bench.study.search.engine import check_workload, trainings
from lrdiff_bench.study.search.optuna_storage import default_url, storage_trouble
from lrdiff_bench.study.tune import screen
from lrdiff_bench.study.tune.api import seconds_of_training_side_by_side
from lrdiff_bench.study.tune.found import FoundRates, trainings_of
from lrdiff_bench.study.tune.proof import TUNED, answer_of, plan_of
from lrdiff_bench.study.tune.search import find_rates
from lrdiff_bench.study.workloads.workload import Workload
from lrdiff_bench.system.factory import user_code
from lrdiff_bench.system.manifest import say_once
from lrdiff_core.errors import ConfigError, InputError
from lrdiff_core.files import is_whole, sealed, write_json

__all__ = ["tune"]

FORMAT = "lrdiff tune 1"


def tune(
    target: str | None,
    *,
    own: dict[str, Any],
    trainings: int | None,
    searches: int | None,
    until_resolved: bool,
    minutes: float | None,
    verdict: bool,
    seeds_from: int | None,
    out: Path | None,
    json: bool,
) -> int:
    """Find rates and have them judged."""
    sizes: dict[str, Any] = {"searches": searches}
    growth = growth_of(sizes, until_resolved, minutes)
    source = _source(target, own)
    with user_code():
        workload = workload_from(source)
        check_workload(workload)
    count = trainings_of(workload, trainings)
    plan_of(
        workload, searches=sizes["searches"], seeds_from=seeds_from
    )  # a wrong size should not show after the search
    folder = out or DEFAULT_FOLDER
    name = f"{workload.name}-{TUNED}"[:50] + ("" if trainings is None else f"-{count}")
    console = make_console(stderr=json)
    with user_code():
        found = _found(workload, count, seeds_from or 0, folder / name / "found.json", console)
    document = None
    if verdict and any(ratio != 1.0 for ratio in found.ratios.values()):
        document = _verdict(source, found, name, folder, console, sizes["searches"], seeds_from, growth)
    answer = answer_of(workload, found, document)
    written = {
        "format": FORMAT,
        "name": name,
        "found": found.to_dict(),
        "verdict": document,
        "answer": {**vars(answer), "rates": dict(answer.rates)},
    }
    if json:
        print_json(written)
    else:
        screen.draw(console, workload, found, document, answer)
    return 0


def _source(target: str | None, own: dict[str, Any]) -> dict[str, Any]:
    """How to make the workload: one that has a name, or a model with rows."""
    from lrdiff_bench.system.factory import is_factory

    if target is None and "data" not in own:
        raise ConfigError("there is nothing to tune", help="name a model (with --data), a training, or a workload")
    if target is not None and not (own and is_factory(target)):
        try:
            (source,) = sources_of([target], False, own)
        except InputError as problem:
            if "gives a model" not in problem.message:
                raise
            raise InputError(
                f"{target} gives a model, and there are no rows to tune it on",
                help="add --data FILE, or put your own loop under @training (docs/guide/own-training.md)",
            ) from problem
        return source
    settings = dict(own) if target is None else {**own, "model": target}
    (source,) = sources_of([], False, settings)
    checked = source["settings"]
    if "groups" not in checked and target is not None:
        checked["groups"] = _few_groups(target)
    return {**source, "settings": {key: value for key, value in checked.items() if value}}


MOST_GROUPS = 4  # that few trainings can tell apart


def _few_groups(model: str) -> dict[str, str | list[str]]:
    """First, middle and last, where there are more layers than a search of few trainings can tell apart."""
    from lrdiff_bench.system.factory import load_model

    names = [name for name, one in load_model(model).module.named_parameters() if one.requires_grad]
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in names))
    if len(layers) <= MOST_GROUPS:
        return {}
    return {"first": f"{layers[0]}.*", "middle": [f"{one}.*" for one in layers[1:-1]], "last": f"{layers[-1]}.*"}


def _found(workload: Workload, count: int, seeds_from: int, file: Path, console: Any) -> FoundRates:
    """What the search found, now or when the same command was run before."""
    asked = {"trainings": count, "seeds_from": seeds_from, "groups": list(workload.groups)}
    asked["fingerprint"] = workload.fingerprint()
    if file.is_file():
        try:
            kept = json_module.loads(file.read_text(encoding="utf-8"))
            if is_whole(kept) is False:
                raise ValueError("it was changed after it was written")
            if kept["asked"] == asked:
                del kept["found"]["rates"]
                return FoundRates(**kept["found"])
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as problem:
            say_once(f"{file} is damaged ({problem}): the search is made again")
    watcher = screen.SearchWatcher(console, workload, count)
    try:
        found = find_rates(workload, count, seeds_from=seeds_from, told=watcher)
    finally:
        watcher.close()
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, sealed({"asked": asked, "found": found.to_dict()}))
    return found


def _verdict(
    source: Mapping[str, Any],
    found: FoundRates,
    name: str,
    folder: Path,
    console: Any,
    searches: int | None,
    seeds_from: int | None,
    growth: Any,
) -> dict[str, Any]:
    """The document of the study that judges the ratios: a claim like any other, kept like any other."""
    settings = source["settings"] if source["kind"] == "claim" else {"workload": source["name"]}
    claim = {**settings, "name": name, "schemes": [{"name": TUNED, "ratios": dict(found.ratios)}]}
    judged: dict[str, Any] = {"kind": "claim", "settings": claim, "where": "lrdiff tune"}
    with user_code():
        workload = workload_from(judged)
    plan = plan_of(workload, searches=searches, seeds_from=seeds_from)
    seconds = seconds_of_training_side_by_side(workload, found.single)
    price = None if seconds is None else seconds * sum(trainings(workload, plan).values())
    screen.draw_price(console, found, price)
    url = default_url(folder)
    with storage_trouble(url), user_code():
        document = run_one(judged, workload, plan, url, console, None, growth, of="")
    write_study(document, folder)
    return document
