"""Studies that are kept: what one is about, finding them again, and reading them without training anything."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

from lrdiff_bench.stats.verdict import COURT
from lrdiff_bench.study.analysis.analyse import analyse
from lrdiff_bench.study.analysis.document import document_of
from lrdiff_bench.study.search.engine import run_study
from lrdiff_bench.study.search.ledger import TrainBatches
from lrdiff_bench.study.search.optuna_storage import hidden, open_storage, optuna_module, storage_trouble
from lrdiff_bench.study.search.plan import FEWEST_SEARCHES, Plan
from lrdiff_bench.study.search.seals import FACTS_SEAL, check_facts, checked_row, facts_seal, whole_or_damaged
from lrdiff_bench.study.search.tasks import Task, TaskResult
from lrdiff_bench.study.search.trial_rows import TrialRows
from lrdiff_bench.study.workloads.workload import Outcomes, Scheme, Trials, Workload
from lrdiff_core.config import name_from
from lrdiff_core.errors import CheckpointError, ConfigError
from lrdiff_core.files import is_whole, sealed
from lrdiff_core.text import quoted

__all__ = [
    "DEFAULT_FOLDER",
    "MUST_AGREE",
    "facts_of",
    "list_names",
    "list_studies",
    "read_study",
    "said_of",
    "study_name",
    "workload_from",
]

DEFAULT_FOLDER = Path("runs", "study")
PROTOCOL = "study 2"  # each search has fresh seeds of its own
MUST_AGREE = ("lrdiff", "plan", "spec", "training")  # a study is gone on with only if these are what they were


def study_name(workload: Workload, plan: Plan) -> str:
    """What a study is called in its storage."""
    replication = f"-from-{plan.seeds_from}" if plan.seeds_from else ""
    return f"{workload.name}{replication}{'-quick' if plan.quick else ''}"


def facts_of(workload: Workload, plan: Plan, source: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept with a study, so that it can be read where its workload cannot be made.

    Args:
        workload: that is studied.
        plan: of it.
        source: how to make the workload again, for :func:`workload_from`.
    """
    from lrdiff_bench.system.machine import describe_code, describe_machine

    code, machine = describe_code(), describe_machine()
    commit = "none" if code.commit is None else code.commit[:10] + (" with changes" if code.dirty else "")
    facts = {
        "lrdiff": PROTOCOL,
        "name": study_name(workload, plan),
        "plan": _fixed(plan),
        "searches": plan.searches,
        "spec": _spec_of(workload),
        "training": _training_of(workload, source),
        "source": source,
        "versions": {
            "lrdiff": code.project,
            "commit": commit,
            "torch": code.torch,
            "numpy": code.numpy,
            "scipy": installed_version("scipy"),
            "optuna": installed_version("optuna"),
            "Python": code.python,
            "processor": f"{machine.cpu} x {machine.cpus}",
            "begun": datetime.now(UTC).strftime("%Y-%m-%d"),
        },
    }
    facts = dict(json.loads(json.dumps(facts)))  # as it comes back from the storage
    return facts | {FACTS_SEAL: facts_seal(facts)}


def _fixed(plan: Plan) -> dict[str, Any]:
    """What may not change: all but the searches, which a study by the full protocol adds look by look."""
    kept = plan.to_dict()
    if plan.searches >= FEWEST_SEARCHES:
        del kept["searches"]
    return kept


def plan_from(facts: Mapping[str, Any], name: str) -> Plan:
    """The plan of a kept study, as far as it has come.

    Raises:
        CheckpointError: an earlier protocol made the study.
    """
    if facts["lrdiff"] != PROTOCOL:
        raise CheckpointError(
            f'study "{name}" was made by an earlier protocol ({facts["lrdiff"]}, this is {PROTOCOL})',
            help="run it again with another --out",
        )
    return Plan(**{**facts["plan"], "searches": facts["searches"]})


def _training_of(workload: Workload, source: Mapping[str, Any]) -> dict[str, Any]:
    """What changes a trial and stands in no field that all workloads have."""
    from lrdiff_bench.study.settings import DESCRIBES_TRAINING

    settings = source.get("settings", {})
    said = {key: settings[key] for key in ("workload", *DESCRIBES_TRAINING) if key in settings}
    return {**said, "rows or first weights": workload.fingerprint()}


def workload_from(source: Mapping[str, Any]) -> Workload:
    """Make a workload from what is kept of it, in this process or another.

    Raises:
        ConfigError: it cannot be made here.
    """
    if source["kind"] == "workload":
        from lrdiff_bench.study.own_training import workload_named

        return workload_named(str(source["name"]))
    if source["kind"] == "claim":
        from lrdiff_bench.study.settings import check_study_settings, workload_of

        return workload_of(check_study_settings(source["settings"], where=str(source["where"])))
    raise ConfigError(
        f"a study's source is {source['kind']!r}", help="it was written by a newer lrdiff: update this one"
    )


class _Stored(Workload):
    """A workload as its study tells it; it cannot train."""

    def train(self, trials: Trials) -> Outcomes:
        raise NotImplementedError("a study that is read trains nothing")

    def tiny(self) -> _Stored:
        return self


def _spec_of(workload: Workload) -> dict[str, Any]:
    """Every field that all workloads have; the inverse of :func:`_stored`."""
    spec = {field.name: getattr(workload, field.name) for field in fields(Workload)}
    schemes = [
        {"name": s.name, "ratios": dict(s.ratios), "free": dict(s.free), "reference": s.reference,
         "options": {key: str(value) for key, value in s.options.items()},
         **({"depths": dict(s.depths)} if s.depths else {})}
        for s in workload.schemes
    ]  # fmt: skip
    return {**spec, "schemes": schemes}


def _stored(spec: Mapping[str, Any]) -> _Stored:
    schemes = tuple(
        Scheme(
            name=s["name"],
            ratios=s["ratios"],
            free={g: (i[0], i[1]) for g, i in s["free"].items()},
            options=s["options"],
            reference=s["reference"],
            depths=s.get("depths", {}),
        )
        for s in spec["schemes"]
    )
    low, high = spec["base_rates"]
    return _Stored(**{**spec, "groups": tuple(spec["groups"]), "schemes": schemes, "base_rates": (low, high)})


class _Reader:
    """A ledger that only reads."""

    def __init__(self, optuna: Any, storage: Any, name: str) -> None:
        self.name = name
        complete = optuna.trial.TrialState.COMPLETE
        self.results: dict[str, TaskResult] = {}
        self.open = 0
        for study in (name, f"{name}.report"):
            for trial in optuna.load_study(storage=storage, study_name=study).get_trials(deepcopy=False):
                id = trial.user_attrs.get("task")
                if trial.state == complete and id is not None:
                    row = checked_row(id, trial.user_attrs.get("row"), trial.number, study)
                    self.results[id] = TaskResult.from_dict(id, row, trial.number)

    def complete(
        self, batches: Sequence[Sequence[Task]], train: TrainBatches, on_done: Callable[[int], None]
    ) -> dict[str, TaskResult]:
        """Hand out what is there, or say that it is not all there."""
        ids = [task.id for batch in batches for task in batch]
        missing = sum(id not in self.results for id in ids)
        if missing:
            raise CheckpointError(
                f'study "{self.name}" is not finished: {len(ids) - missing} of {len(ids)} trials of a stage are there',
                help="run the same `lrdiff study` command again, it continues where it stopped",
            )
        return {id: self.results[id] for id in ids}


def read_study(url: str, name: str, *, curves: bool = True) -> dict[str, Any]:
    """The document of a finished study, computed anew from its trials.

    Args:
        url: of the storage.
        name: of the study.
        curves: also best-of-k, the slowest part.

    Raises:
        ConfigError: no such storage or study.
        CheckpointError: the study is not finished.
    """
    optuna = optuna_module()
    storage = open_storage(url, create=False)
    names = _names(optuna, storage, url)
    if name not in names:
        raise ConfigError(f'there is no study "{name}" in {hidden(url)}', help=f"studies: {', '.join(names) or 'none'}")
    with storage_trouble(url), whole_or_damaged(f'study "{name}"'):
        facts = optuna.load_study(storage=storage, study_name=name).user_attrs
        if "spec" not in facts or "plan" not in facts:
            raise ConfigError(f'study "{name}" is not one of `lrdiff study`', help=f"studies: {', '.join(names)}")
        check_facts(facts, name)
        if name_from(str(facts["name"])) != facts["name"]:  # files and folders are called by it
            raise CheckpointError(f"study {quoted(name)} calls itself {quoted(facts['name'])}", help="rename it")
        study = run_study(_stored(facts["spec"]), plan_from(facts, name), _Reader(optuna, storage, name))
        return document_of(study, analyse(study, curves=curves), facts)


def list_names(url: str) -> list[str]:
    """Names of the studies of a storage, in the order in which they were begun; none of them is read.

    Raises:
        ConfigError: no such storage.
    """
    return _names(optuna_module(), open_storage(url, create=False), url)


def said_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a verdict for the list of studies, and what it rests on: the searches, and the court's rules."""
    return sealed({"verdict": document["gain"]["verdict"], "searches": document["plan"]["searches"], "court": COURT})


def _state(url: str, name: str, facts: Mapping[str, Any]) -> str:
    """The verdict as it was kept; read from the trials where it was not, or rests on something else."""
    said = facts.get("said", {})
    rests = (said.get("searches"), said.get("court")) == (facts.get("searches"), COURT)
    if facts["lrdiff"] == PROTOCOL and rests and is_whole(said) is not False:
        return str(said["verdict"])
    try:
        return str(read_study(url, name, curves=False)["gain"]["verdict"])
    except CheckpointError as problem:
        if "damaged" in problem.message:
            return "damaged"
        return "earlier protocol" if "earlier protocol" in problem.message else "not finished"


def list_studies(url: str) -> list[dict[str, Any]]:
    """Name, mode and state of every study of a storage.

    Raises:
        ConfigError: no such storage.
    """
    optuna = optuna_module()
    storage = open_storage(url, create=False)
    found: list[dict[str, Any]] = []
    names = _names(optuna, storage, url)
    if not names:
        return found
    rows = TrialRows(storage)
    for name in names:
        try:
            with storage_trouble(url), whole_or_damaged(f'study "{name}"'):
                row = _listed(url, name, optuna.load_study(storage=storage, study_name=name), rows)
        except CheckpointError:  # one that is damaged does not hide the others
            row = {"name": name, "mode": "quick", "state": "damaged", "trials": 0, "title": ""}
        found += [] if row is None else [row]
    return found


def _listed(url: str, name: str, study: Any, rows: TrialRows) -> dict[str, Any] | None:
    """A study as it stands in the list; None for somebody else's, or one that was killed before it said what it is."""
    facts = study.user_attrs
    if not facts.keys() >= {"plan", "spec", "source"}:
        return None
    check_facts(facts, name)
    return {
        "name": name,
        "mode": Plan(**{**facts["plan"], "searches": facts.get("searches", FEWEST_SEARCHES)}).mode,
        "state": _state(url, name, facts),
        "trials": rows.count(study._study_id),
        "title": facts["spec"]["title"],
    }


def _names(optuna: Any, storage: Any, url: str) -> list[str]:
    """Studies of ours, in the order in which they were begun."""
    with whole_or_damaged(f"the storage {hidden(url)}"):
        every = optuna.get_all_study_names(storage)
    return [name for name in every if f"{name}.report" in every]
