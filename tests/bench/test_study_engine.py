"""Studies that are kept: killed and gone on with, shared by two processes, read again."""

import math
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
import sqlalchemy
from study_planted import PLAN, WORKLOAD, Slow, ledger

from lrdiff_bench.study.describe import versions_line
from lrdiff_bench.study.folder import MUST_AGREE, list_studies, read_study
from lrdiff_bench.study.search import ledger as ledger_module
from lrdiff_bench.study.search.engine import run_study
from lrdiff_bench.study.search.ledger import MemoryLedger, StorageLedger
from lrdiff_bench.study.search.optuna_storage import hidden, open_storage
from lrdiff_bench.study.search.trial_rows import TrialRows
from lrdiff_core.errors import CheckpointError, ConfigError, UnavailableError

SCRIPT = Path(__file__).with_name("study_planted.py")
STATE = optuna.trial.TrialState


@pytest.fixture(scope="module")
def uninterrupted():
    """All rows of the study, run in one go in memory."""
    return run_study(Slow(**WORKLOAD), PLAN, MemoryLedger())


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'studies.db'}"


def start(url, seconds, count=1):
    """Processes that run the study and have just begun, all at once."""
    started = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), url, str(seconds)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(count)
    ]  # fmt: skip
    for process in started:
        assert process.stdout.readline() == "ready\n"
    for process in started:
        process.stdin.write("go\n")
        process.stdin.flush()
    return started


def trials(url):
    storage = open_storage(url, create=False)
    return [
        trial
        for name in ("planted", "planted.report")
        for trial in optuna.load_study(storage=storage, study_name=name).get_trials(deepcopy=False)
    ]


def assert_whole(url, uninterrupted):
    """One COMPLETE trial for each task, none open, and the numbers of the study that nothing interrupted."""
    kept = trials(url)
    complete = Counter(trial.user_attrs["task"] for trial in kept if trial.state == STATE.COMPLETE)
    assert set(complete) == set(uninterrupted.results)
    assert set(complete.values()) == {1}
    assert {trial.state for trial in kept} <= {STATE.COMPLETE, STATE.FAIL}
    again = run_study(Slow(**WORKLOAD), PLAN, ledger(url, Slow(**WORKLOAD)))
    assert set(again.results) == set(uninterrupted.results)
    for id, row in uninterrupted.results.items():
        np.testing.assert_array_equal(again.results[id].final, row.final, err_msg=id)
        np.testing.assert_array_equal(again.results[id].metric, row.metric, err_msg=id)
    assert [s.winners for s in again.searches] == [s.winners for s in uninterrupted.searches]


@pytest.mark.slow
def test_a_killed_study_goes_on_with_nothing_lost_and_nothing_twice(url, uninterrupted):
    (process,) = start(url, 0.05)
    for _ in range(5):  # in the middle of the fifth batch
        assert process.stdout.readline().startswith("training")
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    before = trials(url)
    done = {trial.user_attrs["task"] for trial in before if trial.state == STATE.COMPLETE}
    running = {trial.user_attrs["task"] for trial in before if trial.state == STATE.RUNNING}
    assert 0 < len(done) < len(uninterrupted.results)
    assert running  # those it was training
    with pytest.raises(CheckpointError, match="is not finished"):
        read_study(url, "planted")

    (second,) = start(url, 0.0)
    out, err = second.communicate(timeout=120)
    assert second.returncode == 0, err
    assert "finished" in out
    trained = sum(int(line.split()[1]) for line in out.splitlines() if line.startswith("training"))
    seeds = {id: len(task.seeds) for id, task in uninterrupted.tasks.items()}
    assert trained == sum(seeds.values()) - sum(seeds[id] for id in done)  # nothing that was done is trained again
    assert {t.user_attrs["task"] for t in trials(url) if t.state == STATE.FAIL} == running
    assert_whole(url, uninterrupted)


@pytest.mark.slow
def test_two_processes_share_a_study(url, uninterrupted):
    both = start(url, 0.1, count=2)
    outputs = [process.communicate(timeout=180) for process in both]
    for process, (_, err) in zip(both, outputs, strict=True):
        assert process.returncode == 0, err
    trained = [
        sum(int(line.split()[1]) for line in out.splitlines() if line.startswith("training")) for out, _ in outputs
    ]
    assert sum(trained) == sum(len(task.seeds) for task in uninterrupted.tasks.values())
    assert min(trained) > 0
    assert_whole(url, uninterrupted)


def test_no_trial_can_be_claimed_twice(url):
    """One claimant is held up between reading WAITING and writing RUNNING, and another one tries meanwhile."""
    first, second = open_storage(url), open_storage(url)
    study = optuna.create_study(storage=first, study_name="s")
    study.add_trial(optuna.trial.create_trial(state=STATE.WAITING))
    id = study.get_trials(deepcopy=False)[0]._trial_id
    won, rows = [], TrialRows(second)
    rival = threading.Thread(target=lambda: won.append(rows.claim([id]) == {id}))

    def hold_up(connection, cursor, statement, *rest):
        if statement.startswith("SELECT") and rival.ident is None:
            rival.start()
            rival.join(timeout=1.0)  # time enough to claim it, if it can

    sqlalchemy.event.listen(first.engine, "after_cursor_execute", hold_up)
    won.append(TrialRows(first).claim([id]) == {id})
    rival.join()
    assert sorted(won) == [False, True]


def test_many_trials_at_once_are_what_optunas_own_calls_write(url):
    """The same trials by either way, read by Optuna: parameters, attributes, numbers, states and values."""
    storage = open_storage(url)
    studies = [optuna.create_study(storage=storage, study_name=name) for name in ("rows", "calls")]
    distribution = optuna.distributions.FloatDistribution(1e-12, 1e12, log=True)
    told = [0.5, -2.0, math.inf, -math.inf, 0.25]
    rows, ours = TrialRows(storage), studies[0]
    one = ({"base rate": 0.01}, optuna.distributions.distribution_to_json(distribution), {"task": "a", "n": [1, 2]})
    rows.add(ours._study_id, [one] * 3, once="task")
    rows.add(ours._study_id, [({}, "", {"task": "b"})] * 4, once="task")
    ids = [trial._trial_id for trial in ours.get_trials(deepcopy=False)]
    assert rows.claim(ids[:6]) == set(ids[:6])
    assert rows.claim(ids[5:]) == {ids[6]}
    rows.complete({id: (value, "row", {"x": value}) for id, value in zip(ids, told, strict=False)})
    rows.complete({ids[0]: (9.0, "row", {})})  # too late
    for i in range(7):
        template = optuna.trial.create_trial(
            state=STATE.WAITING, params={"base rate": 0.01} if i < 3 else {},
            distributions={"base rate": distribution} if i < 3 else {},
            user_attrs={"task": "a", "n": [1, 2]} if i < 3 else {"task": "b"},
        )  # fmt: skip
        studies[1].add_trial(template)
        id = studies[1].get_trials(deepcopy=False)[-1]._trial_id
        storage.set_trial_state_values(id, STATE.RUNNING)
        if i < len(told):
            storage.set_trial_user_attr(id, "row", {"x": told[i]})
            storage.set_trial_state_values(id, STATE.COMPLETE, [told[i]])
    said = ("number", "state", "values", "params", "distributions", "user_attrs", "system_attrs")
    first, second = ([[getattr(t, name) for name in said] for t in one.get_trials()] for one in studies)
    assert first == second
    times = [[(t.datetime_start, t.datetime_complete) for t in one.get_trials()] for one in studies]
    assert [[a is None for a in pair] for pair in times[0]] == [[a is None for a in pair] for pair in times[1]]
    assert abs(times[0][0][0] - times[1][0][0]).total_seconds() < 600  # the same clock


def test_a_claimant_that_stopped_giving_signs_on_another_machine_is_given_up(url, uninterrupted, monkeypatch):
    own = ledger(url, Slow(**WORKLOAD))
    study = own._studies["search"]
    own._rows.add(study._study_id, [own._new_trial(next(iter(uninterrupted.tasks.values())))], once="task")
    trial = study.get_trials(deepcopy=False)[0]

    def orphan(beat):
        sign = {"beat": beat, "claims": [trial._trial_id], "host": "another", "pid": 1, "started": ""}
        return own._is_orphan(trial, {"worker-elsewhere": sign})

    now = [0.0]
    monkeypatch.setattr(ledger_module.time, "monotonic", lambda: now[0])
    assert not orphan(3)
    now[0] += ledger_module.LEASE - 1
    assert not orphan(3)
    now[0] += 2
    assert not orphan(4)  # it counted: alive
    now[0] += ledger_module.LEASE + 1
    assert orphan(4)


def test_a_process_number_that_was_used_again_is_not_taken_for_the_old_process():
    own = os.getpid()
    assert ledger_module._is_alive(own, ledger_module._started(own))
    assert not ledger_module._is_alive(own, "1")
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert not ledger_module._is_alive(process.pid, "")


def test_a_claimant_that_was_only_slow_drops_what_it_has(url, uninterrupted):
    """Somebody took it for dead and finished its task: its own row must not replace that one's."""
    workload = Slow(**WORKLOAD)
    first, second = ledger(url, workload), ledger(url, workload)
    task = uninterrupted.searches[0].tasks[0][0]
    row = uninterrupted.results[task.id]
    study = first._studies["search"]
    first._rows.add(study._study_id, [first._new_trial(task)], once="task")
    slow = study.get_trials(deepcopy=False)[0]
    first.storage.set_trial_state_values(slow._trial_id, STATE.RUNNING)
    second._give_up(slow)
    first._tell(study, [slow], [row])
    states = [trial.state for trial in study.get_trials(deepcopy=False)]
    assert states == [STATE.FAIL]


def test_a_task_is_put_in_once_and_anew_after_it_failed(url, uninterrupted):
    """Both processes have seen that it is missing; the second looks again under the lock."""
    first, second = ledger(url, Slow(**WORKLOAD)), ledger(url, Slow(**WORKLOAD))
    study = first._studies["search"]
    tasks = uninterrupted.searches[0].tasks[0][:2]
    first._rows.add(study._study_id, [first._new_trial(tasks[0])], once="task")
    second._rows.add(study._study_id, [second._new_trial(task) for task in tasks], once="task")
    there = study.get_trials(deepcopy=False)
    assert [trial.user_attrs["task"] for trial in there] == [task.id for task in tasks]
    first._give_up(there[0])
    second._rows.add(study._study_id, [second._new_trial(tasks[0])], once="task")
    states = [trial.state for trial in study.get_trials(deepcopy=False)]
    assert states == [STATE.FAIL, STATE.WAITING, STATE.WAITING]


def test_a_trial_that_another_process_claimed_first_is_given_up_when_that_one_is_dead(url, uninterrupted):
    """Both said that they claim it, and one got it; the other must not wait for itself."""
    first, second = ledger(url, Slow(**WORKLOAD)), ledger(url, Slow(**WORKLOAD))
    study = first._studies["search"]
    task = uninterrupted.searches[0].tasks[0][0]
    with first._heart(study), second._heart(study):
        view = first._current(study, {task.id: task})
        assert first._claim(study, [[task]], view)
        assert not second._claim(study, [[task]], view)
        signs = dict(study.user_attrs)
        trial = study.get_trials(deepcopy=False)[0]
        assert not second._is_orphan(trial, {name: signs[name] for name in (first.worker, second.worker)})
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        dead = {**signs[first.worker], "pid": gone.pid}
        assert second._is_orphan(trial, {first.worker: dead, second.worker: signs[second.worker]})
        third = ledger(url, Slow(**WORKLOAD))
        assert third._is_orphan(trial, {first.worker: dead, second.worker: signs[second.worker]})


def test_two_trials_of_one_task_from_an_earlier_version_leave_one(url, uninterrupted):
    own = ledger(url, Slow(**WORKLOAD))
    study = own._studies["search"]
    task = uninterrupted.searches[0].tasks[0][0]
    own._rows.add(study._study_id, [own._new_trial(task)] * 2, once="task")
    current = own._current(study, {task.id: task})
    assert current[task.id].number == 0
    assert [trial.state for trial in study.get_trials(deepcopy=False)] == [STATE.WAITING, STATE.FAIL]


def test_a_study_is_gone_on_with_only_as_it_was_begun(url):
    workload = Slow(**WORKLOAD)
    ledger(url, workload)
    with pytest.raises(
        ConfigError, match=r'study "planted" was made with smallest_difference 0.02, not 0.5'
    ) as problem:
        ledger(url, Slow(**WORKLOAD, smallest_difference=0.5))
    assert "another --out" in problem.value.help


def test_a_study_of_an_earlier_protocol_is_neither_read_nor_continued(url):
    """Its winners shared their fresh seeds: judged as if they had not, its intervals would be too narrow."""
    workload = Slow(**WORKLOAD)
    run_study(workload, PLAN, ledger(url, workload))
    study = optuna.load_study(storage=open_storage(url), study_name="planted")
    study.set_user_attr("lrdiff", "study 1")
    with pytest.raises(CheckpointError, match=r"was made by an earlier protocol \(study 1") as problem:
        read_study(url, "planted")
    assert "another --out" in problem.value.help
    with pytest.raises(ConfigError, match='study "planted" was made with study 1, not study 2'):
        ledger(url, workload)
    assert list_studies(url)[0]["state"] == "earlier protocol"


def test_optuna_sees_values_directions_and_parameters(url, uninterrupted):
    run_study(Slow(**WORKLOAD), PLAN, ledger(url, Slow(**WORKLOAD)))
    study = optuna.load_study(storage=open_storage(url), study_name="planted")
    assert study.direction.name == "MINIMIZE"
    best = study.best_trial
    assert set(best.params) <= {"base rate", "head"}
    assert best.value == pytest.approx(np.mean(uninterrupted.results[best.user_attrs["task"]].final))
    lost = [trial for trial in study.trials if trial.user_attrs["row"]["diverged"] > 0]
    assert lost
    assert all(trial.value == float("inf") and trial.state == STATE.COMPLETE for trial in lost)


def test_a_study_that_is_read_says_the_same_as_the_one_that_ran(url):
    run_study(Slow(**WORKLOAD), PLAN, ledger(url, Slow(**WORKLOAD)))
    document = read_study(url, "planted")
    assert document["mode"] == "reduced"
    assert document["chosen"] == "ratio 10"
    winner = document["schemes"][1]["winners"][0]
    kept = optuna.load_study(storage=open_storage(url), study_name="planted").trials[winner["trial"]]
    assert kept.params == pytest.approx(winner["parameters"])
    further = optuna.load_study(storage=open_storage(url), study_name="planted.report").trials
    assert further[winner["final_trial"]].value == pytest.approx(winner["validation"])
    assert further[winner["report_trials"][0]].user_attrs["row"]["final"] == winner["report"]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("nonsense", "cannot open the storage"),
        ("sqlite:///{tmp}/text.db", "file is not a database"),
        ("nosuch://host/name", "cannot open the storage"),
    ],
)
def test_a_storage_that_cannot_be_opened_is_one_line(address, message, tmp_path):
    (tmp_path / "text.db").write_text("this is no database, it is a text of some length" * 40)
    with pytest.raises(ConfigError, match=message):
        open_storage(address.format(tmp=tmp_path))


def test_a_password_is_not_shown():
    assert hidden("postgresql://user:secret@host/name") == "postgresql://user:***@host/name"
    assert hidden("sqlite:///runs/study/studies.db") == "sqlite:///runs/study/studies.db"


def test_a_driver_that_is_not_installed_is_named(monkeypatch):
    for name in ("psycopg", "psycopg2"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        UnavailableError, match=r"postgresql://user:\*\*\*@host/name needs psycopg2?, which is not"
    ) as problem:
        open_storage("postgresql://user:secret@host/name")
    assert problem.value.help.startswith("pip install ")


@pytest.mark.slow
def test_batches_can_be_trained_by_dask(uninterrupted, url, monkeypatch):
    """Through a scheduler of this process's own, at an address on loopback."""
    distributed = pytest.importorskip("distributed")
    from lrdiff_bench.study.remote import workers_for
    from lrdiff_bench.system.cluster import connect, disconnect

    monkeypatch.setattr("lrdiff_bench.study.folder.workload_from", lambda source: Slow(**WORKLOAD))
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None, host="127.0.0.1", protocol="tcp"
    ) as cluster:
        client = connect(cluster.scheduler_address)
        try:
            own = ledger(url, Slow(**WORKLOAD))
            workers = workers_for(client, {"kind": "test"})
            assert len(workers.names) == 2
            assert (workers.together, workers.seconds) == (None, None)
            own.at_a_time = 2
            run_study(Slow(**WORKLOAD), PLAN, own, train=workers.train())
        finally:
            disconnect(client)
    assert_whole(url, uninterrupted)


def test_a_scheduler_without_workers_is_not_waited_for_without_end(monkeypatch):
    distributed = pytest.importorskip("distributed")
    from lrdiff_bench.study.remote import workers_for
    from lrdiff_bench.system import cluster

    monkeypatch.setattr(cluster, "WAIT_FOR_WORKERS_S", 1)
    with (
        distributed.LocalCluster(
            n_workers=0, processes=False, dashboard_address=None, host="127.0.0.1", protocol="tcp"
        ) as empty,
        distributed.Client(empty, set_as_default=False) as client,
        pytest.raises(UnavailableError, match="has had no worker for 1 s"),
    ):
        workers_for(client, {"kind": "test"})


@pytest.mark.parametrize(
    ("problem", "said", "help"),
    [
        ("FutureCancelledError", "the Dask cluster was lost", "start it again; what is trained is kept, the same"),
        ("KilledWorker", "workers died repeatedly on one task", "they may lack memory: train smaller models"),
        (
            "ModuleNotFoundError",
            "a worker cannot import mine",
            "install the same libraries, and the same lrdiff, for all workers",
        ),
    ],
)
def test_a_cluster_that_fails_half_way_is_told_in_two_lines(monkeypatch, uninterrupted, problem, said, help):
    distributed = pytest.importorskip("distributed")
    from distributed.client import FutureCancelledError
    from distributed.scheduler import KilledWorker

    from lrdiff_bench.study.remote import Workers

    problems = {
        "FutureCancelledError": FutureCancelledError("key", "lost"),
        "KilledWorker": KilledWorker("key", SimpleNamespace(address="tcp://one"), 3),
        "ModuleNotFoundError": ModuleNotFoundError("no", name="mine"),
    }

    class Client:
        loop, key, status = None, "one", "error"

        def submit(self, *_, **__):
            return self

        def result(self):
            raise problems[problem]

        def has_ready(self):
            return True

        def add(self, future):
            self.future = future

        def __next__(self):
            return self.future

    monkeypatch.setattr(distributed, "as_completed", lambda loop: Client())
    task = next(iter(uninterrupted.tasks.values()))
    workers = Workers(client=Client(), source={"kind": "test"}, names=(), together=None, seconds=None)
    with pytest.raises(UnavailableError, match=said) as caught:
        workers.train()([[task]], lambda *_: None)
    assert caught.value.help.startswith(help)


def test_a_disk_that_is_full_is_not_a_cluster_that_was_lost():
    pytest.importorskip("distributed")
    from lrdiff_bench.system.cluster import cluster_trouble

    with pytest.raises(OSError, match="No space left"), cluster_trouble(what="", smaller=""):
        raise OSError(28, "No space left on device")


def test_a_study_gone_on_with_by_other_versions_says_so(url, uninterrupted):
    workload = Slow(**WORKLOAD)
    first = ledger(url, workload)
    facts = {**first.facts, "versions": {**first.facts["versions"], "torch": "1.0"}}
    StorageLedger(url, "planted", direction="minimize", facts=facts, must_agree=MUST_AGREE)
    assert "versions_since" not in first._studies["search"].user_attrs  # nothing was trained with them
    other = StorageLedger(url, "planted", direction="minimize", facts=facts, must_agree=MUST_AGREE)
    run_study(workload, PLAN, other)
    document = read_study(url, "planted")
    assert document["versions_since"] == [{"torch": "1.0"}]
    assert versions_line(document).endswith("; gone on with torch 1.0")


def test_a_study_that_was_killed_before_it_said_what_it_is_about_does_not_hide_the_others(url):
    ledger(url, Slow(**WORKLOAD))
    storage = open_storage(url)
    for name in ("broken", "broken.report"):
        optuna.create_study(storage=storage, study_name=name)
    assert [one["name"] for one in list_studies(url)] == ["planted"]


def test_changed_numbers_of_a_trial_are_refused(url, tmp_path, capsys):
    workload = Slow(**WORKLOAD)
    run_study(workload, PLAN, ledger(url, workload))
    assert list_studies(url)[0]["state"] not in ("damaged", "not finished")

    def change(key, old, new):
        with closing(sqlite3.connect(tmp_path / "studies.db")) as opened, opened:
            table = "study_user_attributes" if key != "row" else "trial_user_attributes"
            found = opened.execute(f"SELECT rowid, value_json FROM {table} WHERE key = ?", (key,)).fetchall()
            rowid, text = found[0]
            assert old in text
            opened.execute(f"UPDATE {table} SET value_json = ? WHERE rowid = ?", (text.replace(old, new, 1), rowid))

    change("row", '"final": [', '"final": [1')
    with pytest.raises(CheckpointError, match='trial 0 of study "planted" was changed or damaged'):
        read_study(url, "planted")
    with pytest.raises(CheckpointError, match="was changed or damaged"):  # going on with it is no way round
        run_study(workload, PLAN, ledger(url, workload))
    change("row", '"final": [1', '"final": [')
    read_study(url, "planted")
    change("plan", '"budget": 8', '"budget": 9')
    with pytest.raises(CheckpointError, match='what study "planted" says of itself was changed or damaged'):
        read_study(url, "planted")
    assert list_studies(url)[0]["state"] == "damaged"
    change("plan", '"budget": 9', '"bud')
    with pytest.raises(CheckpointError, match="the storage .* is damaged: "):
        read_study(url, "planted")
    assert "unchecked" not in capsys.readouterr().err


def test_broken_pages_of_a_database_are_told(url, tmp_path):
    workload = Slow(**WORKLOAD)
    run_study(workload, PLAN, ledger(url, workload))
    with closing(sqlite3.connect(tmp_path / "studies.db")) as opened:
        opened.execute("VACUUM INTO ?", (str(tmp_path / "copy.db"),))
    data = bytearray((tmp_path / "copy.db").read_bytes())
    data[4096:4608] = bytes(512)
    (tmp_path / "copy.db").write_bytes(data)
    with pytest.raises(CheckpointError, match="copy.db is damaged: "):
        list_studies(f"sqlite:///{tmp_path / 'copy.db'}")
