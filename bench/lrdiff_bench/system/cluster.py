"""A Dask cluster of somebody's: finding it, waiting for its workers, and telling in two lines what befalls it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lrdiff_core.errors import UnavailableError

__all__ = ["cluster_trouble", "connect", "wait_for_workers"]

CONNECT_S = 15
WAIT_FOR_WORKERS_S = 60


def connect(address: str) -> Any:
    """A client of the scheduler at ``address``.

    Raises:
        UnavailableError: Dask is not installed, or nothing answers there.
    """
    try:
        from distributed import Client
    except ModuleNotFoundError as problem:
        raise UnavailableError(
            "--scheduler needs Dask, which is not installed", help="pip install dask distributed"
        ) from problem
    try:
        return Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as problem:
        raise UnavailableError(
            f"there is no Dask scheduler at {address}: {' '.join(str(problem).split())[:200]}",
            help="start one with `dask scheduler` and give the address it prints",
        ) from problem


def wait_for_workers(client: Any) -> None:
    """Wait until there is one.

    Raises:
        UnavailableError: there is none after :data:`WAIT_FOR_WORKERS_S` seconds.
    """
    try:
        client.wait_for_workers(1, timeout=WAIT_FOR_WORKERS_S)
    except TimeoutError as problem:
        raise UnavailableError(
            f"the Dask scheduler at {client.scheduler.address} has had no worker for {WAIT_FOR_WORKERS_S} s",
            help=f"start some with `dask worker {client.scheduler.address}`",
        ) from problem


@contextmanager
def cluster_trouble(*, what: str, smaller: str) -> Iterator[None]:
    """Tell in two lines that workers die, lack the code, or are gone with their scheduler.

    Args:
        what: is kept, such as ``"whole tiles are kept"``.
        smaller: what to try where workers may lack memory.

    Raises:
        UnavailableError: one of these.
    """
    from distributed.client import FutureCancelledError
    from distributed.comm.core import CommClosedError
    from distributed.scheduler import KilledWorker

    on = f"{what}, the same command goes on"
    try:
        yield
    except KilledWorker as problem:
        raise UnavailableError(
            f"workers died repeatedly on one task: {problem}",
            help=f"they may lack memory: {smaller}; {on}",
        ) from problem
    except ModuleNotFoundError as problem:
        raise UnavailableError(
            f"a worker cannot import {problem.name}",
            help="install the same libraries, and the same lrdiff, for all workers",
        ) from problem
    except (FutureCancelledError, CommClosedError, ConnectionError, TimeoutError) as problem:  # not a disk that is full
        raise UnavailableError("the Dask cluster was lost", help=f"start it again; {on}") from problem
