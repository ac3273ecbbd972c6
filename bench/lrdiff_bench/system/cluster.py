"""A Dask cluster of somebody's: finding it, waiting for its workers, and telling in two lines what befalls it."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from lrdiff_core.errors import ConfigError, UnavailableError
from lrdiff_core.text import count

__all__ = ["Tasks", "ask_workers", "cluster_trouble", "connect", "disconnect", "wait_for_workers"]

CONNECT_S = 15
WAIT_FOR_WORKERS_S = 60
SILENT_S = 20.0  # without a sign of life, which workers give about twice a second
SCHEDULER_SILENT_S = 60.0
LOOK_S = 2.0
FETCH_S = 5.0  # that a result may take to come here, at first; each time it does not, twice as long
_CLOSE_S = 2
_LOUD = ("distributed", "tornado.application", "asyncio")  # they log tracebacks of what is told in two lines here


def connect(address: str) -> Any:
    """A client of the scheduler at ``address``; :func:`disconnect` ends it.

    Raises:
        ConfigError: it is no address of Dask's, or lacks what encryption needs.
        UnavailableError: Dask is not installed, or nothing answers there.
    """
    try:
        from distributed import Client
    except ModuleNotFoundError as problem:
        raise UnavailableError(
            "--scheduler needs Dask, which is not installed", help="pip install dask distributed"
        ) from problem
    _be_quiet()
    try:
        _check_address(address)
        return Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, TimeoutError, ValueError, TypeError, ImportError, RuntimeError) as problem:
        raise UnavailableError(
            f"there is no Dask scheduler at {address}: {' '.join(str(problem).split())[:200]}",
            help="start one with `dask scheduler` and give the address it prints",
        ) from problem


def disconnect(client: Any) -> None:
    """Close a client, soon, and without a word about a scheduler that is gone."""
    with suppress(Exception):
        client.close(timeout=_CLOSE_S)
    client.status = "closed"  # or it would try once more when Python ends, and complain


def _check_address(address: str) -> None:
    """Refuse what no scheduler can be at, before anything waits for it."""
    from distributed.comm.registry import backends, get_backend
    from distributed.security import Security

    scheme, found, rest = address.partition("://")
    scheme, rest = (scheme, rest) if found else ("tcp", address)
    try:
        get_backend(scheme).get_connector()
    except (ValueError, ImportError, RuntimeError, TypeError) as problem:
        known = sorted(name for name in backends if name not in ("inproc", "ucx"))
        raise ConfigError(
            f"{address} is no address of a Dask scheduler: {scheme}:// is not among {', '.join(known)}",
            help="write tcp://HOST:PORT, as `dask scheduler` prints it",
        ) from problem
    host, _, port = rest.rpartition(":")
    if scheme in ("tcp", "tls") and (not host or not port.isdecimal() or not 0 < int(port) < 2**16):
        raise ConfigError(
            f"{address} is no address of a Dask scheduler: it has no {'host' if port.isdecimal() else 'port'}",
            help="write tcp://HOST:PORT, as `dask scheduler` prints it",
        )
    if scheme == "tls" and Security().get_connection_args("client").get("ssl_context") is None:
        raise ConfigError(
            f"{address} is encrypted, and Dask's configuration names no certificates",
            help="set distributed.comm.tls.ca-file, .client.cert and .client.key in ~/.config/dask, or use tcp://",
        )

    if scheme in ("tcp", "tls"):
        _wait_for_an_answer(host.strip("[]"), int(port), speaks=scheme == "tcp")


def _wait_for_an_answer(host: str, port: int, *, speaks: bool) -> None:
    """Wait until something is there, and says something, as a scheduler does at once: Dask waits without end for that.

    Raises:
        OSError: nothing is there, or it says nothing.
    """
    deadline = time.monotonic() + CONNECT_S
    while True:
        left = max(0.1, deadline - time.monotonic())
        try:
            with socket.create_connection((host, port), timeout=left) as connection:
                connection.settimeout(max(0.1, deadline - time.monotonic()))
                if speaks and not connection.recv(1):
                    raise ConnectionError("what is there closes the connection")
                return
        except TimeoutError as problem:
            raise TimeoutError(f"no answer within {CONNECT_S} s") from problem
        except OSError:
            if time.monotonic() > deadline or not _is_known(host):
                raise
            time.sleep(0.2)  # it may be starting


def _is_known(host: str) -> bool:
    try:
        return bool(socket.getaddrinfo(host, None))
    except OSError:
        return False


def _be_quiet() -> None:
    import distributed  # noqa: F401 (it gives each of its loggers a level of its own, when it is imported)

    theirs = [name for name in logging.root.manager.loggerDict if name.split(".")[0] in ("distributed", "tornado")]
    for name in (*theirs, *_LOUD):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)


def wait_for_workers(client: Any) -> None:
    """Wait until there is one.

    Raises:
        UnavailableError: there is none after :data:`WAIT_FOR_WORKERS_S` seconds.
    """
    try:
        # the limit of its own does not hold for a scheduler that is silent
        client.sync(
            client.wait_for_workers, 1, timeout=WAIT_FOR_WORKERS_S, callback_timeout=WAIT_FOR_WORKERS_S + CONNECT_S
        )
    except TimeoutError as problem:
        raise UnavailableError(
            f"the Dask scheduler at {client.scheduler.address} has had no worker for {WAIT_FOR_WORKERS_S} s",
            help=f"start some with `dask worker {client.scheduler.address}`",
        ) from problem


def ask_workers(
    client: Any, function: Callable[..., Any], *arguments: Any, tell: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """What each worker answers, beside whatever it does; an exception where it fails or dies.

    A worker that stands still would be waited for without end: what has not answered after :data:`SILENT_S` seconds is
    told of and left out, unless nobody has.

    Args:
        client: of Dask's.
        function, arguments: what to call on each; it is short.
        tell: gets a line about a worker that does not answer.

    Raises:
        UnavailableError: none answers within :data:`WAIT_FOR_WORKERS_S` seconds.
    """

    async def ask() -> tuple[dict[str, Any], list[str]]:
        asked = {
            name: asyncio.ensure_future(client.run(function, *arguments, workers=[name], on_error="return"))
            for name in (await client.scheduler.identity(n_workers=-1))["workers"]
        }
        if not asked:
            return {}, []
        begun = time.monotonic()
        done, waiting = await asyncio.wait(asked.values(), timeout=SILENT_S)
        if not done:
            left = WAIT_FOR_WORKERS_S - (time.monotonic() - begun)
            done, waiting = await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        answers: dict[str, Any] = {}
        for one in done:
            answers.update(one.result())
        return answers, sorted(name for name, one in asked.items() if one in waiting)

    answers, waiting = client.sync(ask, callback_timeout=WAIT_FOR_WORKERS_S + CONNECT_S)
    if not answers:
        raise UnavailableError(
            f"none of {count(len(waiting), 'worker')} of the Dask scheduler at {client.scheduler.address} answers "
            f"within {WAIT_FOR_WORKERS_S} s",
            help="end them and start others",
        )
    if tell is not None:
        for name in waiting:
            tell(f"worker {name} does not answer within {SILENT_S:g} s; the others do the work")
    return answers


@dataclass(frozen=True)
class _Sent:
    """How a task is submitted, with an end of its key and for some workers, and which of them may do it."""

    submit: Callable[..., Any]
    allowed: frozenset[str] | None

    def among(self, workers: Sequence[str]) -> list[str]:
        return [name for name in workers if self.allowed is None or name in self.allowed]


class Tasks:
    """Tasks that workers do, and their results as they come.

    A worker that gives no sign of life is told of, and the others are given its tasks, too, as soon as there are some;
    the first result of each counts. Tasks that it has done are among them as long as their results lie there. (Dask
    itself waits five minutes.)

    Args:
        client: of Dask's.
        tell: gets a line about a worker that is silent.
    """

    def __init__(self, client: Any, tell: Callable[[str], None] | None = None) -> None:
        from distributed import as_completed

        self._client, self._tell = client, tell or (lambda text: None)
        self._going = as_completed(loop=client.loop)
        self._labels: dict[Any, Hashable] = {}  # by the key of each future
        self._again: dict[Hashable, _Sent] = {}  # of each label that is not done
        self._futures: dict[Any, Any] = {}
        self._fetching: dict[Any, float] = {}  # seconds that each result may take that did not come at once
        self._threads = 0
        self._seen: dict[str, tuple[float, float]] = {}
        self._silent: set[str] = set()
        self._doubled: set[Any] = set()  # keys of tasks that others do, too
        self._answered = time.monotonic()
        self._next_look = self._answered + LOOK_S

    def __len__(self) -> int:
        """How many have no result yet."""
        return len(self._again)

    @property
    def threads(self) -> int:
        """Of all workers that give signs of life, as last seen."""
        if not self._threads:
            self._look()
        return self._threads

    def send(self, label: Hashable, function: Callable[..., Any], *arguments: Any, key: str, **more: Any) -> None:
        """Have one done; ``label`` comes back with its result.

        Args:
            label: of the task.
            function, arguments: what to do.
            key: under which the cluster knows it; no other task has it.
            more: for ``Client.submit``; only those of ``workers`` may do it, unless ``allow_other_workers``.
        """
        allowed = None if more.get("allow_other_workers") else more.get("workers")

        def submit(end: str, **where: Any) -> Any:
            # pure=False: a task that was trained and lost is trained again, not looked up
            return self._client.submit(function, *arguments, key=key + end, pure=False, **{**more, **where})

        self._again[label] = _Sent(submit, None if allowed is None else frozenset(allowed))
        self._follow(label, submit(""))

    def _follow(self, label: Hashable, future: Any) -> None:
        self._labels[future.key], self._futures[future.key] = label, future
        self._going.add(future)

    def results(self, halve: Callable[[Any], bool] | None = None) -> Iterator[tuple[Any, Any]]:
        """Each label with its result, until none is open; more may be sent meanwhile.

        Args:
            halve: called with a label that workers died of again and again; True: it has sent others in its place.
        """
        from distributed.scheduler import KilledWorker

        while self._again:
            future = self._next()
            label = self._labels.get(future.key)
            if label not in self._again:
                self._drop(future.key)
                continue  # another worker was faster
            try:
                found = self._fetch(future)
            except KilledWorker:
                self._drop(future.key)
                if halve is None or not halve(label):
                    raise
                del self._again[label]
                continue
            if found is None:
                self._going.add(future)
                continue
            self._drop(future.key)
            (result,) = found
            del self._again[label], future, found  # the cluster forgets the result
            for key in [key for key, other in self._labels.items() if other == label]:
                self._cancel(self._futures[key])
            yield label, result

    def _cancel(self, future: Any) -> None:
        with suppress(TimeoutError):  # the scheduler is silent: _look tells, if that lasts
            self._client.sync(future.cancel, callback_timeout=LOOK_S)

    def _drop(self, key: Any) -> None:
        self._labels.pop(key, None)
        self._futures.pop(key, None)
        self._fetching.pop(key, None)

    def _fetch(self, future: Any) -> tuple[Any] | None:
        """The result of a task that is done, alone in a tuple; None while it does not come from where it lies."""
        if future.status in ("error", "cancelled"):
            return (future.result(),)  # which says what befell it
        if future.status != "finished":
            return None  # the cluster has lost it since, and does it once more
        seconds = self._fetching.get(future.key, FETCH_S)
        try:
            return (future.result(timeout=seconds),)
        except TimeoutError:
            if future.status == "error":  # it is the task's own
                raise
            self._fetching[future.key] = 2 * seconds
            return None

    def _next(self) -> Any:
        while True:
            if time.monotonic() >= self._next_look:
                self._look()
                self._next_look = time.monotonic() + LOOK_S
            if self._going.has_ready():
                return next(self._going)
            with self._going.thread_condition:
                self._going.thread_condition.wait(timeout=0.1)

    def _look(self) -> None:
        """Give the tasks of silent workers to the others, too."""
        try:
            workers = self._ask_scheduler(self._client.scheduler.identity, n_workers=-1)["workers"]
            now = self._answered = time.monotonic()
            for name, worker in workers.items():
                if name not in self._seen or self._seen[name][0] != worker["last_seen"]:
                    self._seen[name] = (worker["last_seen"], now)
                    self._silent.discard(name)
            others = [name for name in workers if now - self._seen[name][1] <= SILENT_S]
            self._threads = sum(workers[name]["nthreads"] for name in others)
            for name in workers:
                if name not in others:
                    self._double(name, others)
        except TimeoutError:
            if time.monotonic() - self._answered > SCHEDULER_SILENT_S:
                raise

    def _ask_scheduler(self, question: Callable[..., Any], **about: Any) -> Any:
        return self._client.sync(question, **about, callback_timeout=LOOK_S)

    def _double(self, silent: str, others: Sequence[str]) -> None:
        """Give what lies on a worker to the others, too, unless they have it already."""
        scheduler = self._client.scheduler
        found = self._ask_scheduler(scheduler.processing), self._ask_scheduler(scheduler.has_what, workers=[silent])
        doing, done = ([key for key in there.get(silent, ()) if self._is_open(key)] for there in found)
        able = {key: self._again[self._labels[key]].among(others) for key in (*doing, *done)}
        if able and silent not in self._silent:
            waits = "the others do them, too" if all(able.values()) else "there is no other that can, so they wait"
            self._tell(f"worker {silent} is silent for {SILENT_S:g} s with {count(len(able), 'task')}; {waits}")
            self._silent.add(silent)
        for key, workers in able.items():
            if not workers:
                continue
            label = self._labels[key]
            self._doubled.add(key)
            if key in done:
                self._drop(key)
            self._follow(label, self._again[label].submit(f"-again-{len(self._doubled)}", workers=workers))

    def _is_open(self, key: Any) -> bool:
        return self._labels.get(key) in self._again and key not in self._doubled


@contextmanager
def cluster_trouble(*, what: str, smaller: str) -> Iterator[None]:
    """Tell in two lines that workers die, lack the code, or are gone with their scheduler.

    Args:
        what: is kept, such as ``"whole tiles are kept"``.
        smaller: what to try where workers may lack memory.

    Raises:
        UnavailableError: one of these.
    """
    from concurrent.futures import CancelledError

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
    except (FutureCancelledError, CancelledError, CommClosedError, OSError) as problem:
        theirs = isinstance(problem, ConnectionError | TimeoutError) or getattr(problem, "errno", None) is None
        if not theirs:  # such as a disk that is full
            raise
        raise UnavailableError("the Dask cluster was lost", help=f"start it again; {on}") from problem
