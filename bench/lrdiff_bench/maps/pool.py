"""Who trains the tiles: processes of this machine, or a Dask cluster at an address; tiles are Dask tasks either way.

Processes and not threads: training seeds torch's global generator and sets its number of threads, so one process
trains one tile at a time. ``distributed`` also on one machine: it starts a worker again that was killed and gives its
tile to another, where a plain process pool ends with an error.
"""

from __future__ import annotations

import itertools
import logging
import signal
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from multiprocessing import resource_tracker
from typing import Any, NamedTuple

import numpy as np

from lrdiff_bench.maps.tiles import COLUMNS, Job, Tile, run_job
from lrdiff_bench.system.cluster import Tasks, cluster_trouble, connect, disconnect, wait_for_workers
from lrdiff_bench.system.machine import usable_cpus
from lrdiff_core.errors import ConfigError

__all__ = ["open_pool", "run_tiles", "unavailable_reason"]

LIBRARIES = ("dask", "distributed", "xarray", "zarr")  # of the extra `maps`
TASKS_A_THREAD = 3  # sent ahead: enough that no worker waits, few enough that results do not pile up

Pool = Any  # a distributed.Client, or None for this process


def unavailable_reason() -> str | None:
    """Why maps cannot be computed here, or None."""
    import importlib.util

    missing = [n for n in LIBRARIES if importlib.util.find_spec(n) is None]
    return f"not installed: {', '.join(missing)}" if missing else None


@contextmanager
def open_pool(scheduler: str | None, workers: int | None, tiles: int) -> Iterator[Pool]:
    """Connect to a cluster, or start processes of this machine, and end what was started.

    Args:
        scheduler: address of a cluster; None starts processes here.
        workers: how many processes; None takes one a processor; 0 trains in this process.
        tiles: how many there are to do; no more processes than that are started.

    Raises:
        ConfigError: a negative number of workers, or workers of a cluster that is not ours.
        UnavailableError: there is no scheduler at the address.
    """
    if workers is not None and (workers < 0 or scheduler is not None):
        help = "write how many processes, from 0 up" if workers < 0 else "leave --workers out: the cluster has its own"
        raise ConfigError(f"workers is {workers}", help=help)
    if workers == 0:
        yield None
        return
    from distributed import Client

    with ExitStack() as stack:
        if scheduler is None:
            count = min(workers or usable_cpus(), max(1, tiles))
            starting = stack.enter_context(ThreadPoolExecutor(1)).submit(_start_cluster, count)
            stack.callback(lambda: starting.result().close())  # also where it is interrupted while it starts
            client = Client(starting.result(), set_as_default=False)
        else:
            client = connect(scheduler)
        stack.callback(disconnect, client)
        yield client


def run_tiles(
    pool: Pool,
    jobs: Mapping[Tile, Job],
    done: Callable[[Tile, dict[str, Any]], None],
    *,
    tell: Callable[[str], None] | None = None,
) -> None:
    """Train tiles, and hand each on once, as soon as it is there.

    Args:
        pool: from :func:`open_pool`.
        jobs: what to do.
        done: called in this process with the tile and what :func:`run_job` returned.
        tell: gets a line about a worker that gives no sign of life, and about a tile of which workers died.

    Raises:
        LrdiffError: a tile cannot be trained.
        UnavailableError: the cluster has no workers, was lost, or lacks lrdiff.
    """
    if pool is None:
        for tile, job in jobs.items():
            done(tile, run_job(job, threads=usable_cpus()))
        return
    _run_on_cluster(pool, jobs, done, tell)


def _run_on_cluster(
    client: Any,
    jobs: Mapping[Tile, Job],
    done: Callable[[Tile, dict[str, Any]], None],
    tell: Callable[[str], None] | None,
) -> None:
    wait_for_workers(client)
    run = uuid.uuid4().hex[:12]
    left = iter(jobs.items())
    tasks = Tasks(client, tell)
    number = itertools.count()
    parts = _Parts(jobs, lambda part, job: tasks.send(part, run_job, job, key=f"lrdiff-map-{run}-{next(number)}"), tell)

    def send(count: int) -> None:
        for _, (tile, _job) in zip(range(count), left, strict=False):
            parts.send(tile)

    with cluster_trouble(what="whole tiles are kept", smaller="give them more"):
        send(_ahead(tasks))
        for part, found in tasks.results(parts.halve):
            whole = parts.add(part, found)
            if whole is not None:
                done(*whole)
            send(max(1, _ahead(tasks) - len(tasks)))


class _Part(NamedTuple):
    """Cells of a tile, [begin, end), that are one task."""

    tile: int
    begin: int
    end: int

    @property
    def cells(self) -> int:
        return self.end - self.begin


class _Parts:
    """Tiles as tasks, one each, until workers die of one: it is halved, and all that come later are cut as small.

    A system that is out of memory ends the process that takes most of it, without a word.

    Args:
        jobs: of all tiles.
        start: has a part done.
        tell: gets a line when a tile is halved.
    """

    def __init__(
        self, jobs: Mapping[Tile, Job], start: Callable[[_Part, Job], None], tell: Callable[[str], None] | None
    ) -> None:
        self._jobs = {tile.number: (tile, job) for tile, job in jobs.items()}
        self._start, self._tell = start, tell or (lambda text: None)
        self._most: int | None = None
        self._open: set[_Part] = set()
        self._found: dict[int, dict[int, dict[str, Any]]] = {}

    def send(self, tile: Tile) -> None:
        """Have a tile done."""
        self._send(_Part(tile.number, 0, len(self._jobs[tile.number][1].rates)))

    def _send(self, part: _Part) -> None:
        job = self._jobs[part.tile][1]
        step = self._most or part.cells
        for begin in range(part.begin, part.end, step):
            one = _Part(part.tile, begin, min(begin + step, part.end))
            self._open.add(one)
            self._start(one, replace(job, rates=job.rates[one.begin : one.end]))

    def halve(self, part: _Part) -> bool:
        """Have a part done in halves, or once more where it only waited for a worker that died of a larger one.

        False where it is one cell, and nothing larger is open.
        """
        self._open.remove(part)
        if part.cells >= max((one.cells for one in self._open), default=0):
            if part.cells == 1:
                return False
            if self._most is None or self._most >= part.cells:
                self._most = part.cells // 2
                self._tell(
                    f"workers died of {part.cells} cells at once, perhaps for want of memory; "
                    f"going on with {self._most} at once"
                )
        self._send(part)
        return True

    def add(self, part: _Part, found: dict[str, Any]) -> tuple[Tile, dict[str, Any]] | None:
        """Take what was found of a part; the whole tile as soon as it is there."""
        self._open.discard(part)
        tile, job = self._jobs[part.tile]
        parts = self._found.setdefault(part.tile, {})
        parts[part.begin] = found
        if sum(len(one["loss"]) for one in parts.values()) < len(job.rates):
            return None
        del self._found[part.tile]
        ordered = [parts[begin] for begin in sorted(parts)]
        columns = {name: np.concatenate([one[name] for one in ordered]) for name in COLUMNS}
        return tile, {**ordered[0], **columns, "notes": [note for one in ordered for note in one.get("notes", ())]}


def _start_cluster(workers: int) -> Any:
    """Processes of this machine that Ctrl-C does not reach; to be called in a thread of its own.

    A terminal sends it to every process, and the command ends the others. That a signal is blocked is inherited by
    threads and processes from the first instruction on, by those that are started later in place of others, too.
    """
    from distributed import LocalCluster

    if hasattr(signal, "pthread_sigmask"):  # not on Windows
        resource_tracker.ensure_running()  # multiprocessing unblocks the signal in the thread that starts it
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    return LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0",
        silence_logs=logging.CRITICAL, host="127.0.0.1",
    )  # fmt: skip


def _ahead(tasks: Tasks) -> int:
    return max(2, TASKS_A_THREAD * tasks.threads)
