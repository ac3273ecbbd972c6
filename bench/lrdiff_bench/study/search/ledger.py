"""Where tasks are kept and handed out: in memory, or in a storage of Optuna's that several processes share.

A task is one trial of Optuna's, in the state WAITING, RUNNING or COMPLETE, and its user attributes hold the numbers.
Several processes may put the same tasks in, claim them, die and come back:

- a task is put in once: whoever puts tasks in locks the study's row, and looks again what is there. (Studies of earlier
  versions may have two trials of one task: the one with the lowest number counts, the other is marked FAIL.);
- a trial is claimed by the storage's own compare-and-set from WAITING to RUNNING;
- a claimant says what it claims in an attribute of the study and counts it up while it lives. A RUNNING trial whose
  claimant is gone
  (its process is not there any more, or it has not counted for :data:`LEASE` seconds) is marked FAIL, and its task is
  put in anew. A claimant that was only slow finds its trial finished, and drops what it has.

So every task has one COMPLETE trial in the end, and trials that failed stay to be seen.
"""

from __future__ import annotations

import hashlib
import math
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from lrdiff_bench.study.search.optuna_storage import hidden, open_storage, optuna_module
from lrdiff_bench.study.search.seals import check_facts, checked_row, sealed_row, whole_or_damaged
from lrdiff_bench.study.search.tasks import Task, TaskResult
from lrdiff_bench.study.search.trial_rows import TrialRows
from lrdiff_core.errors import ConfigError

__all__ = ["LEASE", "Ledger", "MemoryLedger", "StorageLedger", "TrainBatches"]

LEASE = 60.0  # seconds without a sign of life after which a claimant on another machine counts as gone
_BEAT = 5.0
_POLL = 0.5

TrainBatches = Callable[[Sequence[Sequence[Task]], Callable[[int, list[TaskResult]], None]], None]
"""Trains batches and calls back with the number of each and its rows as soon as they are there."""


class Ledger(Protocol):
    """What the engine needs to know of either."""

    def complete(
        self, batches: Sequence[Sequence[Task]], train: TrainBatches, on_done: Callable[[int], None]
    ) -> dict[str, TaskResult]:
        """Have all tasks trained that are not, by whom ever, and return the rows of all."""


class MemoryLedger:
    """A ledger for studies that nobody wants to keep: simulations and tests."""

    def __init__(self) -> None:
        self.results: dict[str, TaskResult] = {}

    def complete(
        self, batches: Sequence[Sequence[Task]], train: TrainBatches, on_done: Callable[[int], None]
    ) -> dict[str, TaskResult]:
        """See :class:`Ledger`."""
        open_ = [batch for batch in batches if any(task.id not in self.results for task in batch)]

        def keep(number: int, rows: list[TaskResult]) -> None:
            self.results |= {row.id: row for row in rows}
            on_done(len(rows))

        train(open_, keep)
        return {task.id: self.results[task.id] for batch in batches for task in batch}


class StorageLedger:
    """A ledger in a storage of Optuna's.

    Args:
        url: of the storage, such as ``sqlite:///runs/study/studies.db`` or ``postgresql://...``.
        name: of the study; ``name`` holds the searches and ``name.report`` what was trained on fresh seeds.
        direction: ``"minimize"`` or ``"maximize"``, of the metric.
        facts: about the study, kept with it; what is in ``must_agree`` has to be the same when it is gone on with.
        must_agree: keys of ``facts``.

    Raises:
        ConfigError: the storage cannot be opened, or the study there was made with other facts.
    """

    def __init__(
        self, url: str, name: str, *, direction: str, facts: Mapping[str, Any], must_agree: Sequence[str]
    ) -> None:
        optuna = optuna_module()
        self.storage = open_storage(url)
        self._states = optuna.trial.TrialState
        self._rows = TrialRows(self.storage)
        # a generous interval: the study's own is kept with its facts
        self._distribution = optuna.distributions.distribution_to_json(
            optuna.distributions.FloatDistribution(1e-12, 1e12, log=True)
        )
        self._gone = optuna.exceptions.UpdateFinishedTrialError
        with whole_or_damaged(f"the storage {hidden(url)}"):
            self._studies = {
                part: optuna.create_study(
                    storage=self.storage, study_name=full, direction=direction, load_if_exists=True,
                    sampler=optuna.samplers.RandomSampler(seed=0),
                )
                for part, full in (("search", name), ("report", f"{name}.report"))
            }  # fmt: skip
            kept = self._studies["search"].user_attrs
        check_facts(kept, name)
        for key in must_agree:
            if key in kept and kept[key] != facts[key]:
                raise ConfigError(
                    f'study "{name}" was made with {_difference(key, kept[key], facts[key])}',
                    help="leave the option out to continue it, or start a new one with another --out",
                )
        for key, value in facts.items():
            if key not in kept:
                self._studies["search"].set_user_attr(key, value)
        self.facts: dict[str, Any] = {**facts, **kept}
        self._versions: dict[str, Any] | None = facts.get("versions")
        self.worker = f"worker-{uuid.uuid4().hex[:12]}"
        self._seen: dict[str, tuple[int, float]] = {}
        self._sign: dict[str, Any] = {"beat": 0, "claims": []}
        self._held: set[int] = set()  # trials that this process has claimed and not told
        self._lock = threading.Lock()

    def complete(
        self, batches: Sequence[Sequence[Task]], train: TrainBatches, on_done: Callable[[int], None]
    ) -> dict[str, TaskResult]:
        """See :class:`Ledger`."""
        tasks = {task.id: task for batch in batches for task in batch}
        part = "search" if next(iter(tasks.values())).kind == "search" else "report"
        study = self._studies[part]
        told: set[str] = set()

        def keeper(claimed: Sequence[Sequence[tuple[Task, Any]]]) -> Callable[[int, list[TaskResult]], None]:
            def keep(number: int, rows: list[TaskResult]) -> None:
                self._tell(study, [trial for _, trial in claimed[number]], rows)
                told.update(row.id for row in rows)
                on_done(len(rows))

            return keep

        with self._heart(study):
            while True:
                trials = self._current(study, tasks)
                done = {id for id, trial in trials.items() if trial.state == self._states.COMPLETE}
                on_done(len(done - told))
                told |= done
                if len(done) == len(tasks):
                    return {id: _row_of(id, trial, study.study_name) for id, trial in trials.items()}
                idle = True
                for start in range(0, len(batches), self.at_a_time):
                    claimed = self._claim(study, batches[start : start + self.at_a_time], trials)
                    if claimed:
                        idle = False
                        self._note_versions()
                        train([[task for task, _ in batch] for batch in claimed], keeper(claimed))
                if idle:
                    time.sleep(_POLL)  # others have the rest; one of them may yet die

    def note(self, key: str, value: Any) -> None:
        """Keep a further fact about the study."""
        if self.facts.get(key) != value or key not in self._studies["search"].user_attrs:
            self._studies["search"].set_user_attr(key, value)
        self.facts[key] = value

    def _note_versions(self) -> None:
        """Say in the study that it is gone on with by other versions than it was begun with."""
        now, self._versions = self._versions, None  # once
        begun = self.facts.get("versions")
        if now is None or begun is None:
            return
        changed = {key: value for key, value in now.items() if key != "begun" and begun.get(key) != value}
        since = list(self._studies["search"].user_attrs.get("versions_since", []))
        if changed and changed not in since:
            self.facts["versions_since"] = [*since, changed]
            self._studies["search"].set_user_attr("versions_since", self.facts["versions_since"])

    def _current(self, study: Any, tasks: Mapping[str, Task]) -> dict[str, Any]:
        """The trial that counts of every task; what is missing is put in, what is orphaned is given up."""
        while True:
            found: dict[str, Any] = {}
            signs = {name: sign for name, sign in study.user_attrs.items() if name.startswith("worker-")}
            for trial in study.get_trials(deepcopy=False):  # by rising number
                id = trial.user_attrs.get("task")
                if id not in tasks or trial.state == self._states.FAIL:
                    continue
                if id in found or (trial.state == self._states.RUNNING and self._is_orphan(trial, signs)):
                    self._give_up(trial)
                    continue
                found[id] = trial
            missing = [task for id, task in tasks.items() if id not in found]
            if not missing:
                return {id: found[id] for id in tasks}
            self._rows.add(study._study_id, [self._new_trial(task) for task in missing], once="task")

    def _claim(
        self, study: Any, batches: Sequence[Sequence[Task]], trials: Mapping[str, Any]
    ) -> list[list[tuple[Task, Any]]]:
        """Claim what is left of some batches; the view of the trials may be old, the storage decides."""
        waiting = [
            [(task, trials[task.id]) for task in batch if trials[task.id].state == self._states.WAITING]
            for batch in batches
        ]
        # said before it is done: a claim that nobody has said would have to be waited for
        self._say(study, [trial._trial_id for batch in waiting for _, trial in batch])
        mine = self._rows.claim([trial._trial_id for batch in waiting for _, trial in batch])
        self._held |= mine
        if lost := [claim for claim in self._sign["claims"] if claim not in mine]:
            # Another process has them: said on, they would be waited for after that one is dead.
            self._say(study, sorted(mine), even_none=bool(lost))
        claimed = [[one for one in batch if one[1]._trial_id in mine] for batch in waiting]
        return [batch for batch in claimed if batch]

    def _say(self, study: Any, claims: list[int], *, even_none: bool = False) -> None:
        """Write which trials this process claims; nothing is written where there are none, unless that is news."""
        if claims or even_none:
            with self._lock:
                self._sign["claims"] = claims
                study.set_user_attr(self.worker, self._sign)

    at_a_time = 1  # batches claimed together: more where several machines train them

    def _tell(self, study: Any, trials: Sequence[Any], rows: Sequence[TaskResult]) -> None:
        """Write results; where somebody took this process for dead and trained a task anew, that one's row counts."""
        worst = math.inf if study.direction.name == "MINIMIZE" else -math.inf
        told = {}
        for trial, row in zip(trials, rows, strict=True):
            finite = row.final[~_isnan(row.final)]
            diverged = 1.0 - len(finite) / len(row.final)
            value = float(finite.mean()) if len(finite) == len(row.final) else worst
            told[trial._trial_id] = (value, "row", sealed_row(row.id, {**row.to_dict(), "diverged": diverged}))
        self._rows.complete(told)
        self._held -= set(told)

    def _new_trial(self, task: Task) -> tuple[dict[str, float], str, dict[str, Any]]:
        about = {"kind": task.kind, "search": task.search, "space": task.space, "rates": list(task.rates)}
        about |= {"seeds": list(task.seeds), "judged_on": task.judged_on}
        attributes = {"task": task.id, "scheme": task.scheme.name, "about": about}  # few: each is a row of a table
        return dict(task.parameters), self._distribution, attributes

    def _give_up(self, trial: Any) -> None:
        with suppress(self._gone):  # another process was faster
            self.storage.set_trial_state_values(trial._trial_id, self._states.FAIL)

    def _is_orphan(self, trial: Any, signs: Mapping[str, Any]) -> bool:
        """Whether nobody is training a RUNNING trial any more.

        Args:
            trial: in the state RUNNING.
            signs: of all workers, by name: what they claim, and how often they have counted.
        """
        claimants = {name: sign for name, sign in signs.items() if trial._trial_id in sign["claims"]}
        for name, sign in claimants.items():
            if name == self.worker:
                if trial._trial_id in self._held:
                    return False
                continue  # it was claimed, and another process was faster
            if sign["host"] == _host() and not _is_alive(sign["pid"], sign["started"]):
                continue
            if not self._stands_still(name, int(sign["beat"])):
                return False
        # Every claim is said before it is made, so a trial that nobody claims was never seen by its claimant's storage
        # as claimed: some other program put it to RUNNING, and the lease decides.
        return bool(claimants) or self._stands_still(f"trial {trial._trial_id}", 0)

    def _stands_still(self, what: str, beat: int) -> bool:
        """Whether a count has been the same for longer than the lease, by this process's own clock."""
        now = time.monotonic()
        if what not in self._seen or self._seen[what][0] != beat:
            self._seen[what] = (beat, now)
        return now - self._seen[what][1] > LEASE

    @contextmanager
    def _heart(self, study: Any) -> Any:
        """Count up beside the work. The clock of this machine says nothing to another; a count that stands does."""
        stop = threading.Event()
        self._sign |= {"claims": [], "host": _host(), "pid": os.getpid(), "started": _started(os.getpid())}

        def beat() -> None:
            while not stop.wait(_BEAT):
                # A beat that fails is no end: the next one may not, and a storage that is gone is told by the work.
                with self._lock, suppress(Exception):
                    self._sign["beat"] += 1
                    study.set_user_attr(self.worker, self._sign)

        thread = threading.Thread(target=beat, name="lrdiff-study-heart", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def _row_of(id: str, trial: Any, study: str) -> TaskResult:
    return TaskResult.from_dict(id, checked_row(id, trial.user_attrs["row"], trial.number, study), trial.number)


def _isnan(values: Any) -> Any:
    return values != values


def _difference(key: str, kept: Any, given: Any) -> str:
    if isinstance(kept, Mapping) and isinstance(given, Mapping):
        for name in [*kept, *given]:
            if kept.get(name) != given.get(name):
                return f"{name} {kept.get(name)!r:.60}, not {given.get(name)!r:.60}"
    if isinstance(kept, str) and isinstance(given, str):
        return f"{kept}, not {given}"  # the protocol
    return f"another {key}"


def _host() -> str:
    """The same for processes that see each other's numbers: machine, boot, and (in containers) process namespace."""
    parts = [platform.node()]
    for source in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        path = Path(source)
        if path.is_symlink():
            parts.append(os.readlink(path))
        elif path.is_file():
            parts.append(path.read_text().strip())
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]


def _started(pid: int) -> str:
    """When a process began, so that a number used again is not taken for the old process; empty where unknown."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _is_alive(pid: int, started: str) -> bool:
    if os.name != "posix":
        return True  # signal 0 means something else there; the lease will tell
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return _started(pid) == started
