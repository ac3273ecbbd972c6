"""Workers and the driver are killed, clusters are lost: the map comes out whole, and no tile twice."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import xarray
from map_helpers import dies_of_many, same, small, write_own
from waiting import PATIENCE_S, runs, wait_until

from lrdiff_bench.maps import MapRequest, compute_map, make_plan, pool
from lrdiff_bench.maps.plan import MapPlan
from lrdiff_bench.maps.pool import open_pool, run_tiles
from lrdiff_bench.maps.tiles import Tile
from lrdiff_bench.system import cluster as cluster_module
from lrdiff_core.errors import ConfigError, UnavailableError

MODELS = 9  # that a worker makes before it stops: two for the fingerprint, two a tile
FREE = 1.85  # of two cores: less, and the machine is busy with something else
GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "maps.md"

pytestmark = pytest.mark.slow


def stopped_workers(folder: Path) -> set[int]:
    """Processes that stand still in the middle of a tile."""
    log = folder / "calls.log"
    lines = log.read_text().split("\n")[:-1] if log.exists() else []
    return {int(pid) for pid, calls in map(str.split, lines) if int(calls) == MODELS + 1}


def tiles_there(folder: Path) -> list[Path]:
    return sorted((folder / "out" / "tiles").glob("[0-9]*.npz"))


def start_map(folder: Path, target: str, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "lrdiff_bench", "map", target, "--out", "out", "--tile", "2", "--workers", "2"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, **pipes, **options)


def undisturbed(folder: Path, target: str) -> xarray.Dataset:
    """The same map, trained in this process."""
    compute_map(make_plan(MapRequest(workload=target, tile=2)), folder / "undisturbed", workers=0)
    return xarray.open_zarr(folder / "undisturbed" / "map.zarr").load()


@pytest.fixture
def held_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[
    tuple[Path, str, subprocess.Popen[str]]
]:  # fmt: skip
    """A map whose two workers each stand in the middle of a tile."""
    monkeypatch.chdir(tmp_path)
    target = write_own(tmp_path, f"held_{request.node.name}", stop_after=MODELS)
    driver = start_map(tmp_path, target)
    try:
        wait_until(lambda: len(stopped_workers(tmp_path)) == 2 or driver.poll() is not None, "two workers stopped")
        assert driver.poll() is None, driver.communicate()
        yield tmp_path, target, driver
    finally:
        (tmp_path / "go").touch()
        if driver.poll() is None:
            driver.kill()
        driver.communicate()


@pytest.mark.long
def test_a_killed_workers_tile_is_done_again(held_map: tuple[Path, str, subprocess.Popen[str]]) -> None:
    folder, target, driver = held_map
    workers = stopped_workers(folder)
    for pid in workers:  # as Ctrl-C in a terminal does; it is for the command alone
        psutil.Process(pid).send_signal(signal.SIGINT)
    lost = min(workers)
    psutil.Process(lost).send_signal(signal.SIGKILL)
    (folder / "go").touch()
    out, err = driver.communicate(timeout=PATIENCE_S)
    assert driver.returncode == 0, err
    assert "8 x 8 cells, 2 seeds" in out
    assert "Traceback" not in err
    assert not psutil.pid_exists(lost)
    there = {int(line.split()[0]) for line in (folder / "calls.log").read_text().splitlines()}
    assert there - {driver.pid} >= workers
    assert len(there - {driver.pid} - workers) <= 1  # one was started in its place, and no more
    assert same(xarray.open_zarr(folder / "out" / "map.zarr").load(), undisturbed(folder, target))


def test_a_killed_driver_goes_on_from_whole_tiles(held_map: tuple[Path, str, subprocess.Popen[str]]) -> None:
    folder, target, driver = held_map
    workers = stopped_workers(folder)
    whole = {file.name: file.stat().st_mtime_ns for file in tiles_there(folder)}
    assert 0 < len(whole) < 16
    driver.kill()
    driver.communicate()
    wait_until(lambda: not any(map(runs, workers)), "the workers of a killed driver ended")
    assert {file.name: file.stat().st_mtime_ns for file in tiles_there(folder)} == whole
    assert not (folder / "out" / "map.zarr").exists()
    (folder / "go").touch()
    again = start_map(folder, target)
    _, err = again.communicate(timeout=PATIENCE_S)
    assert again.returncode == 0, err
    total = len(make_plan(MapRequest(workload=target, tile=2)).tiles)
    assert f"going on: {len(whole)} of {total} tiles are there" in err
    assert same(xarray.open_zarr(folder / "out" / "map.zarr").load(), undisturbed(folder, target))


def test_an_interrupt_ends_everything_without_a_traceback(held_map: tuple[Path, str, subprocess.Popen[str]]) -> None:
    """Ctrl-C reaches every process of a terminal; the workers leave it to the command."""
    folder, _, driver = held_map
    workers = stopped_workers(folder)
    for pid in (*workers, driver.pid):
        psutil.Process(pid).send_signal(signal.SIGINT)
    out, err = driver.communicate(timeout=PATIENCE_S)
    assert driver.returncode == 130, err
    assert out == ""
    assert err.splitlines()[-2:] == [
        "error: interrupted",
        "help: nothing was left half-written; start it again when you like",
    ]
    assert "Traceback" not in err
    wait_until(lambda: not any(map(runs, workers)), "the workers of an interrupted driver ended")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no process groups")
def test_an_interrupt_while_workers_start_ends_the_command(tmp_path: Path) -> None:
    target = write_own(tmp_path, "own_interrupted")
    driver = start_map(tmp_path, target, start_new_session=True)
    wait_until(lambda: len(psutil.Process(driver.pid).children()) > 1 or driver.poll() is not None, "workers start")
    workers = psutil.Process(driver.pid).children()
    os.killpg(driver.pid, signal.SIGINT)  # as a terminal does
    out, err = driver.communicate(timeout=PATIENCE_S)
    assert (driver.returncode, out) == (130, ""), err
    assert err == "error: interrupted\nhelp: nothing was left half-written; start it again when you like\n"
    wait_until(lambda: not any(runs(one.pid) for one in workers), "the workers of an interrupted driver ended")


@pytest.mark.skipif(sys.platform == "win32", reason="signals are not blocked there")
def test_no_interrupt_reaches_a_worker_or_the_one_in_its_place() -> None:
    def asked() -> tuple[int, bool]:
        return os.getpid(), signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())

    with open_pool(None, 1, 1) as client:
        (pid, blocked), *_ = client.run(asked).values()
        assert blocked
        psutil.Process(pid).kill()
        answers = {pid: blocked}

        def another() -> bool:
            answers.update(client.run(asked, on_error="ignore").values())
            return len(answers) == 2

        wait_until(another, "another worker answers")
        assert all(answers.values())
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_cluster_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(workers: int) -> None:
        raise RuntimeError(f"no room for {workers}")

    monkeypatch.setattr(pool, "_start_cluster", fail)
    with pytest.raises(RuntimeError, match="^no room for 1$"), open_pool(None, 1, 8):
        pass


@pytest.mark.long
def test_tiles_of_which_workers_die_are_done_in_smaller_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Linux ends a process where there is no memory left: without a word."""
    import dask

    monkeypatch.setattr(pool, "run_job", dies_of_many)
    said: list[str] = []
    plan = make_plan(small())
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        compute_map(plan, tmp_path / "map", workers=1, tell=said.append)
    monkeypatch.undo()
    compute_map(plan, tmp_path / "undisturbed", workers=0)
    one, other = (xarray.open_zarr(tmp_path / name / "map.zarr").load() for name in ("map", "undisturbed"))
    assert same(one, other)
    text = "workers died of 4 cells at once, perhaps for want of memory; going on with 2 at once"
    assert [one for one in said if "silent" not in one] == [text]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The guide's two commands, on a free port: a scheduler and two workers."""
    folder = tmp_path_factory.mktemp("cluster")
    commands = re.findall(r"^(dask .*)$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    assert [command.split()[1] for command in commands] == ["scheduler", "worker"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    running = []
    try:
        for command in commands:
            words = command.replace("8786", port).split()[1:]
            more = ["--no-dashboard"] if words[0] == "worker" else ["--no-show", "--dashboard-address", "127.0.0.1:0"]
            log = open(folder / f"{words[0]}.log", "w")  # noqa: SIM115  closed with the process
            running.append(
                subprocess.Popen([sys.executable, "-m", "dask", *words, *more], cwd=folder, stdout=log, stderr=log)
            )
            log.close()
        yield f"tcp://127.0.0.1:{port}", folder
    finally:
        for process in running:
            children = psutil.Process(process.pid).children(recursive=True)
            process.kill()
            process.wait()
            for child in children:
                with suppress(psutil.NoSuchProcess):
                    child.kill()


def test_a_cluster_started_with_two_commands(
    cluster: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, folder = cluster
    monkeypatch.chdir(folder)
    target = write_own(folder, "own_cluster")
    plan = make_plan(MapRequest(workload=target, tile=2))
    compute_map(plan, tmp_path / "map", scheduler=address)
    assert same(xarray.open_zarr(tmp_path / "map" / "map.zarr").load(), undisturbed(folder, target))


WAITING = """
import time
from lrdiff_bench.maps import MapWorkload
from torch import nn
from own_cluster_speed import rows

def model(seed):
    time.sleep(0.4)
    return nn.Sequential(nn.Linear(10, 5), nn.ReLU(), nn.Linear(5, 1))

def workload():
    return MapWorkload(
        name="waiting", model=model, data=rows, batch_size=10, epochs=1, x="0:1e-3:1", y="2:1e-3:1", size=4, seeds=1
    )
"""


def timed(client: object, target: str, jobs: int) -> float:
    return timed_plan(client, make_plan(MapRequest(workload=target, tile=1)), jobs)


def timed_plan(client: object, plan: MapPlan, jobs: int) -> float:
    """Seconds that some of a plan's tiles take, each handed over once."""
    reference: dict[str, object] = {}
    run_tiles(client, {plan.tiles[0]: plan.job(plan.tiles[0], None)}, lambda _, found: reference.update(found))
    tiles = [tile for tile in plan.tiles if tile.kind == "cells"][:jobs]
    done: list[Tile] = []
    started = time.perf_counter()
    run_tiles(client, {t: plan.job(t, reference) for t in tiles}, lambda tile, _: done.append(tile))  # type: ignore[arg-type]
    seconds = time.perf_counter() - started
    assert sorted(tile.number for tile in done) == [tile.number for tile in tiles]
    return seconds


def test_two_workers_take_little_more_than_half_the_time_of_one(
    cluster: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tiles that wait and do not compute: a busy machine changes nothing, a pool that lets workers wait would."""
    address, folder = cluster
    monkeypatch.chdir(folder)
    write_own(folder, "own_cluster_speed")
    (folder / "waiting.py").write_text(WAITING)
    with open_pool(None, 1, 8) as one, open_pool(address, None, 8) as two:
        two.wait_for_workers(2)
        assert len(one.nthreads()) == 1
        assert len(two.nthreads()) == 2
        timed(two, "waiting:workload", 4), timed(one, "waiting:workload", 1)  # modules and kernels are loaded
        for _ in range(4):  # one round without a hiccup is enough: the pool adds its own delay to each
            ratio = timed(one, "waiting:workload", 8) / timed(two, "waiting:workload", 8)
            if ratio >= 1.7:
                break
    assert ratio >= 1.7


def free_cores(client: Any) -> float:
    """How many of two cores are free: the same work on one worker and on both."""
    workers = list(client.nthreads())

    def seconds(of: list[str]) -> float:
        started = time.perf_counter()
        for future in [client.submit(sum, range(8_000_000), workers=[one], pure=False) for one in of]:
            future.result()
        return time.perf_counter() - started

    return 2 * seconds(workers[:1]) / seconds(workers)


@pytest.mark.long
def test_two_workers_compute_on_two_cores(cluster: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The seed preset's tiles; judged only by rounds in which both cores were free before and after."""
    address, folder = cluster
    monkeypatch.chdir(folder)
    ratios: list[float] = []
    with open_pool(address, None, 8) as two, ExitStack() as stack:
        two.wait_for_workers(2)
        one = None
        plan = make_plan(MapRequest(tile=16))
        for _ in range(4):
            if free_cores(two) < FREE:
                continue
            if one is None:  # the first round, for rows to be made and kept
                one = stack.enter_context(open_pool(None, 1, 8))
                timed_plan(one, plan, 1), timed_plan(two, plan, 4)
            ratio = timed_plan(one, plan, 8) / timed_plan(two, plan, 8)
            if ratio >= 1.7:
                return
            if free_cores(two) >= FREE:
                ratios.append(ratio)
    if len(ratios) < 3:
        pytest.skip("two cores were not free while this was measured")
    assert max(ratios) >= 1.7


def test_a_worker_without_the_code_says_so(cluster: tuple[str, Path], tmp_path: Path, monkeypatch) -> None:
    address, _ = cluster
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    target = write_own(elsewhere, "own_moved")
    plan = make_plan(MapRequest(workload=target, tile=2))
    (elsewhere / "own_moved.py").unlink()
    with pytest.raises(Exception, match="there is no module own_moved"):
        compute_map(plan, tmp_path / "map", scheduler=address)
    assert not list((tmp_path / "map" / "tiles").iterdir())


def test_no_scheduler_at_the_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "CONNECT_S", 1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(UnavailableError) as caught:
            compute_map(make_plan(small()), tmp_path / "map", scheduler=address)
    assert caught.value.message.startswith(f"there is no Dask scheduler at {address}")
    assert caught.value.help == "start one with `dask scheduler` and give the address it prints"


def test_a_scheduler_without_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from distributed import LocalCluster

    monkeypatch.setattr(cluster_module, "WAIT_FOR_WORKERS_S", 1)
    with (
        LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0", host="127.0.0.1") as empty,
        pytest.raises(UnavailableError) as caught,
    ):
        compute_map(make_plan(small()), tmp_path / "map", scheduler=empty.scheduler_address)
    assert caught.value.message.endswith("has had no worker for 1 s")
    assert caught.value.help.startswith("start some with `dask worker tcp://127.0.0.1:")


@pytest.mark.parametrize(("scheduler", "workers"), [(None, -1), ("tcp://127.0.0.1:1", 2)])
def test_workers_that_cannot_be(scheduler: str | None, workers: int) -> None:
    with pytest.raises(ConfigError, match=f"workers is {workers}"), open_pool(scheduler, workers, 1):
        pass


def test_without_dask_the_map_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zarr", None)
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "zarr" else found(name, *a))
    with pytest.raises(UnavailableError) as caught:
        compute_map(make_plan(small()), tmp_path / "map", workers=0)
    assert "not installed: zarr" in caught.value.message
    assert caught.value.exit_status == 3
    assert not (tmp_path / "map").exists()
