"""A scheduler and two workers of Dask's, as real processes: one is killed or stopped, addresses lead nowhere."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress

import psutil
import pytest
from map_helpers import same, write_own

from lrdiff_bench.maps import MapRequest, compute_map, make_plan
from lrdiff_bench.system import cluster as cluster_module
from lrdiff_core.errors import LrdiffError

pytest.importorskip("distributed", reason="Dask is not installed: pip install dask distributed")
xarray = pytest.importorskip("xarray")

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

PATIENCE_S = 180
MODELS = 9  # that a worker makes before it stops: two for the fingerprint, two a tile


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_until(holds, what):
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.05)


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
        self.workers = [self._start("worker", self.address, "--nthreads", "1", "--no-dashboard") for _ in range(2)]

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
            tasks.send(i, os.getpid, key=f"held-{i}", workers=[names[i % 2]])
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
