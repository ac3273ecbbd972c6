"""A scheduler and two workers of Dask's, as real processes: one is killed or stopped, addresses lead nowhere."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
from contextlib import ExitStack, contextmanager, suppress

import psutil
import pytest
from map_helpers import same, write_own
from waiting import PATIENCE_S, wait_until

from lrdiff_bench.maps import MapRequest, compute_map, make_plan
from lrdiff_bench.study.remote import missing, workers_for
from lrdiff_bench.system import cluster as cluster_module
from lrdiff_core.errors import LrdiffError, UnavailableError

pytest.importorskip("distributed", reason="Dask is not installed: pip install dask distributed")
xarray = pytest.importorskip("xarray")

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

MODELS = 9  # that a worker makes before it stops: two for the fingerprint, two a tile


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def run(folder, *words, timeout=PATIENCE_S):
    return subprocess.run(
        [sys.executable, "-m", "lrdiff_bench", *words], cwd=folder, capture_output=True, text=True, timeout=timeout
    )


def start_map(folder, target, address):
    command = [sys.executable, "-m", "lrdiff_bench", "map", target, "--out", "out", "--tile", "2"]
    return subprocess.Popen(
        [*command, "--scheduler", address], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


class Cluster:
    def __init__(self, folder):
        port = free_port()
        self.address, self.folder = f"tcp://127.0.0.1:{port}", folder
        self.scheduler = self._start("scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-show",
                                     "--dashboard-address", "127.0.0.1:0")  # fmt: skip
        self.workers = [self.worker() for _ in range(2)]

    def worker(self):
        return self._start("worker", self.address, "--nthreads", "1", "--no-dashboard")

    def _start(self, *words):
        with open(self.folder / "dask.log", "a") as log:
            return subprocess.Popen([sys.executable, "-m", "dask", *words], cwd=self.folder, stdout=log, stderr=log)

    def end(self):
        for process in (self.scheduler, *self.workers):
            with suppress(psutil.NoSuchProcess):
                for child in psutil.Process(process.pid).children(recursive=True):
                    with suppress(psutil.NoSuchProcess):
                        child.kill()
            process.kill()
            process.wait()


@pytest.fixture
def cluster(tmp_path):
    made = Cluster(tmp_path)
    try:
        yield made
    finally:
        (tmp_path / "go").touch()
        made.end()


def standing(folder):
    """Processes that stand still in the middle of a tile."""
    log = folder / "calls.log"
    lines = log.read_text().split("\n")[:-1] if log.exists() else []
    return {int(pid) for pid, calls in map(str.split, lines) if int(calls) == MODELS + 1}


@pytest.fixture
def held(cluster, tmp_path, monkeypatch, request):
    """A map on a cluster, both of whose workers stand in the middle of a tile."""
    monkeypatch.chdir(tmp_path)
    target = write_own(tmp_path, re.sub(r"\W", "_", f"dask_{request.node.name}"), stop_after=MODELS)
    driver = start_map(tmp_path, target, cluster.address)
    try:
        wait_until(lambda: len(standing(tmp_path)) == 2 or driver.poll() is not None, "two workers stand")
        assert driver.poll() is None, driver.communicate()
        yield cluster, target, driver
    finally:
        if driver.poll() is None:
            driver.kill()
        driver.communicate()


def assert_whole(folder, target):
    compute_map(make_plan(MapRequest(workload=target, tile=2)), folder / "undisturbed", workers=0)
    one, other = (xarray.open_zarr(folder / name / "map.zarr").load() for name in ("out", "undisturbed"))
    assert same(one, other)


@pytest.mark.long
def test_a_killed_worker_changes_nothing(held, tmp_path):
    _, target, driver = held
    psutil.Process(min(standing(tmp_path))).send_signal(signal.SIGKILL)
    (tmp_path / "go").touch()
    _, err = driver.communicate(timeout=PATIENCE_S)
    assert driver.returncode == 0, err
    assert "Traceback" not in err
    assert_whole(tmp_path, target)


def test_a_killed_scheduler_is_told_in_two_lines_and_the_map_goes_on_elsewhere(held, tmp_path):
    cluster, target, driver = held
    cluster.scheduler.kill()
    begun = time.monotonic()
    _, err = driver.communicate(timeout=PATIENCE_S)
    assert time.monotonic() - begun < 60
    assert driver.returncode == 3, err
    assert "Traceback" not in err
    assert err.splitlines()[-2:] == [
        "error: the Dask cluster was lost",
        "help: start it again; whole tiles are kept, the same command goes on",
    ]
    whole = len(list((tmp_path / "out" / "tiles").glob("[0-9]*.npz")))
    assert whole
    (tmp_path / "go").touch()
    cluster.end()
    again = run(tmp_path, "map", target, "--out", "out", "--tile", "2", "--workers", "0")
    assert again.returncode == 0, again.stderr
    assert f"going on: {whole} of" in again.stderr
    assert_whole(tmp_path, target)


@pytest.mark.long
def test_a_stopped_worker_is_told_of_and_the_other_does_its_tiles(held, tmp_path):
    _, target, driver = held
    stopped = psutil.Process(min(standing(tmp_path)))
    stopped.suspend()
    (tmp_path / "go").touch()
    begun = time.monotonic()
    try:
        _, err = driver.communicate(timeout=PATIENCE_S)
        took = time.monotonic() - begun
    finally:
        stopped.resume()
    assert driver.returncode == 0, err
    assert took < 75, "Dask itself waits for five minutes"
    assert re.search(r"worker tcp://\S+ is silent for 20 s with \d+ tasks?; the others do\s+them, too", err), err
    assert_whole(tmp_path, target)


def test_results_that_lie_on_a_worker_that_stands_still_are_made_once_more(cluster, monkeypatch):
    """Dask's own gather waits for it without end, and nobody would look whether it is silent meanwhile."""
    monkeypatch.setattr(cluster_module, "SILENT_S", 3.0)
    monkeypatch.setattr(cluster_module, "FETCH_S", 1.0)
    client = cluster_module.connect(cluster.address)
    told: list[str] = []
    try:
        client.wait_for_workers(2, timeout=PATIENCE_S)
        names, pids = zip(*client.run(os.getpid).items(), strict=True)
        tasks = cluster_module.Tasks(client, told.append)
        for i in range(6):
            tasks.send(i, os.getpid, key=f"held-{i}", workers=[names[i % 2]], allow_other_workers=True)
        wait_until(lambda: all(future.done() for future in tasks._futures.values()), "all are done")
        stopped = psutil.Process(pids[0])
        stopped.suspend()
        begun = time.monotonic()
        try:
            found = dict(tasks.results())
        finally:
            stopped.resume()
        assert time.monotonic() - begun < 40
    finally:
        cluster_module.disconnect(client)
    assert found == dict.fromkeys(range(6), pids[1])
    assert len(told) == 1
    assert f"worker {names[0]} is silent for 3 s with 3 tasks; the others do them, too" in told[0]


@pytest.fixture
def client(cluster, monkeypatch):
    monkeypatch.setattr(cluster_module, "SILENT_S", 3.0)
    made = cluster_module.connect(cluster.address)
    try:
        yield made
    finally:
        cluster_module.disconnect(made)


@contextmanager
def suspended(pid):
    stopped = psutil.Process(pid)
    stopped.suspend()
    try:
        yield
    finally:
        stopped.resume()


def test_a_study_that_begins_beside_a_worker_that_stands_still_asks_the_other(cluster, client):
    client.wait_for_workers(2, timeout=PATIENCE_S)
    pids = client.run(os.getpid)
    client.run(missing, "cpu")  # which imports torch: that may take longer than a worker may be silent here
    silent, other = sorted(pids)
    source = {"kind": "claim", "where": "tiny.toml", "settings": tomllib.loads(STUDY.format(device="cpu"))}
    told: list[str] = []
    with suspended(pids[silent]):
        begun = time.monotonic()
        workers = workers_for(client, source, told.append)
        assert time.monotonic() - begun < 60
    assert workers.names == (other,)
    assert told == [f"worker {silent} does not answer within 3 s; the others do the work"]


@pytest.mark.long
def test_workers_all_of_which_stand_still_are_told_of(cluster, client, monkeypatch):
    monkeypatch.setattr(cluster_module, "WAIT_FOR_WORKERS_S", 5)
    client.wait_for_workers(2, timeout=PATIENCE_S)
    with ExitStack() as stack:
        for pid in client.run(os.getpid).values():
            stack.enter_context(suspended(pid))
        with pytest.raises(UnavailableError, match="none of 2 workers of the Dask scheduler .* answers within 5 s"):
            cluster_module.ask_workers(client, os.getpid)


def test_a_worker_that_comes_later_does_what_lies_on_one_that_stands_still(cluster, client):
    client.wait_for_workers(2, timeout=PATIENCE_S)
    pids = client.run(os.getpid)
    silent, gone = sorted(pids)
    client.retire_workers([gone])
    told: list[str] = []
    tasks = cluster_module.Tasks(client, told.append)
    with suspended(pids[silent]):
        for i in range(2):  # a worker of one thread is given two
            tasks.send(i, os.getpid, key=f"waits-{i}")
        later = threading.Timer(8, lambda: cluster.workers.append(cluster.worker()))
        later.start()
        found = dict(tasks.results())
        later.join()
    assert len(told) == 1
    assert f"worker {silent} is silent for 3 s with 2 tasks; there is no other that can, so they wait" in told[0]
    assert set(found) == {0, 1}
    assert not set(found.values()) & set(pids.values())


@pytest.mark.long
def test_what_a_worker_may_not_do_is_not_given_to_it(cluster, client):
    client.wait_for_workers(2, timeout=PATIENCE_S)
    pids = client.run(os.getpid)
    silent, other = sorted(pids)
    told: list[str] = []
    tasks = cluster_module.Tasks(client, told.append)
    with suspended(pids[silent]):
        tasks.send("bound", os.getpid, key="bound", workers=[silent])
        tasks.send("free", time.sleep, 12, key="free", workers=[other])  # meanwhile the other one is told of
        found = tasks.results()
        assert next(found) == ("free", None)
        assert "with 1 task; there is no other that can, so they wait" in told[0]
    assert list(found) == [("bound", pids[silent])]


@pytest.mark.long
def test_a_scheduler_that_stands_still_is_lost(cluster, client, monkeypatch):
    monkeypatch.setattr(cluster_module, "SCHEDULER_SILENT_S", 6.0)
    client.wait_for_workers(2, timeout=PATIENCE_S)
    tasks = cluster_module.Tasks(client)
    assert tasks.threads == 2
    tasks.send(0, time.sleep, 600, key="long")
    with suspended(cluster.scheduler.pid):
        begun = time.monotonic()
        with (
            pytest.raises(UnavailableError, match="the Dask cluster was lost"),
            cluster_module.cluster_trouble(what="it is kept", smaller=""),
        ):
            dict(tasks.results())
        assert time.monotonic() - begun < 30


def test_a_tasks_own_timeout_is_no_result_that_does_not_come(cluster):
    client = cluster_module.connect(cluster.address)
    try:
        tasks = cluster_module.Tasks(client)
        tasks.send(0, eval, "(_ for _ in ()).throw(TimeoutError('of its own'))", key="fails")
        with pytest.raises(TimeoutError, match="of its own"):
            dict(tasks.results())
    finally:
        cluster_module.disconnect(client)


STUDY = """
name = "tiny"
data = "seed"
hidden = [5]
steps = 20
batch_size = 25
device = "{device}"
"""


@pytest.mark.long
def test_a_study_asks_the_workers_for_its_device(cluster, tmp_path):
    (tmp_path / "tiny.toml").write_text(STUDY.format(device="cuda:7"))
    ended = run(tmp_path, "study", "tiny.toml", "--quick", "--scheduler", cluster.address)
    assert ended.returncode == 3, ended.stderr
    lines = ended.stderr.splitlines()
    assert re.match(r"error: none of \d workers? can train on cuda:7; tcp://127.0.0.1:\d+: device cuda:7", lines[-2])


@pytest.mark.long
def test_a_study_on_two_workers_one_of_which_is_killed(cluster, tmp_path):
    (tmp_path / "tiny.toml").write_text(STUDY.format(device="cpu"))
    command = [sys.executable, "-m", "lrdiff_bench", "study", "tiny.toml", "--quick", "--scheduler", cluster.address]
    driver = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: (tmp_path / "runs/study/studies.db").exists() or driver.poll() is not None, "the study began")
    time.sleep(2)
    for child in psutil.Process(cluster.workers[0].pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.send_signal(signal.SIGKILL)
    out, err = driver.communicate(timeout=PATIENCE_S)
    assert driver.returncode == 0, err
    assert "Traceback" not in err
    assert "tiny" in out


ADDRESSES = {
    "tls://127.0.0.1:{port}": (2, "Dask's configuration names no certificates"),
    "ucx://127.0.0.1:{port}": (2, "is no address of a Dask scheduler: ucx:// is not among tcp, tls"),
    "unix:///tmp/scheduler": (2, "is no address of a Dask scheduler: unix:// is not among tcp, tls"),
    "tcp://127.0.0.1": (2, "it has no port"),
    "scheduler": (2, "it has no port"),
    "tcp://127.0.0.1:{port}": (3, "there is no Dask scheduler at"),
    "127.0.0.1:{port}": (3, "there is no Dask scheduler at"),
    "tcp://no.such.host.invalid:8786": (3, "there is no Dask scheduler at"),
    "tcp://127.0.0.1:{deaf}": (3, "there is no Dask scheduler at"),
}


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_that_leads_nowhere_is_told_soon(monkeypatch, address):
    monkeypatch.setattr(cluster_module, "CONNECT_S", 2)
    status, said = ADDRESSES[address]
    with socket.socket() as deaf:  # takes connections, and never answers
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        address = address.format(port=free_port(), deaf=deaf.getsockname()[1])
        begun = time.monotonic()
        with pytest.raises(LrdiffError) as caught:
            cluster_module.connect(address)
    assert time.monotonic() - begun < 10
    assert caught.value.exit_status == status
    assert said in caught.value.message


@pytest.mark.parametrize("command", [["map", "seed", "--size", "4", "--seeds", "2"], ["study", "seed-adam", "--quick"]])
def test_the_commands_tell_it_in_two_lines(tmp_path, command):
    begun = time.monotonic()
    ended = run(tmp_path, *command, "--scheduler", f"tcp://127.0.0.1:{free_port()}")
    assert time.monotonic() - begun < 60
    assert ended.returncode == 3, ended.stderr
    assert "Traceback" not in ended.stderr
    error, help = ended.stderr.splitlines()[-2:]
    assert error.startswith("error: there is no Dask scheduler at")
    assert help == "help: start one with `dask scheduler` and give the address it prints"
