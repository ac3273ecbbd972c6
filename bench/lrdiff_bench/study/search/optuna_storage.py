"""Optuna, quiet, and its storages opened so that two processes cannot claim the same trial."""

from __future__ import annotations

import sqlite3
import time
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from lrdiff_core.errors import CheckpointError, ConfigError, InputError, UnavailableError

__all__ = ["default_url", "hidden", "open_storage", "optuna_module", "storage_trouble"]

_PATIENCE = 120.0  # seconds that a process waits for another one's write to an SQLite file
_TRIES = 5
_DRIVERS = {"psycopg": 'pip install "psycopg[binary]"', "psycopg2": "pip install psycopg2-binary"}


def optuna_module() -> Any:
    """Optuna, with nothing but warnings on the screen.

    Raises:
        UnavailableError: it is not installed.
    """
    try:
        import optuna
    except ModuleNotFoundError as problem:
        raise UnavailableError(
            f"studies need {problem.name}, which is not installed", help="pip install optuna"
        ) from problem
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def default_url(folder: Path) -> str:
    """The SQLite file of a folder of studies."""
    return f"sqlite:///{folder / 'studies.db'}"


def open_storage(url: str, *, create: bool = True) -> Any:
    """Open a storage by its address.

    SQLite knows no ``SELECT ... FOR UPDATE``: under Python's default, two processes can both read WAITING before either
    writes RUNNING. Here every transaction begins as a write (``BEGIN IMMEDIATE``), so they come one by one.

    Args:
        url: as SQLAlchemy takes it.
        create: make what is not there; without, a missing SQLite file is an error.

    Raises:
        ConfigError: it cannot be opened.
        UnavailableError: its driver is not installed.

    Source: SQLAlchemy 2 documentation, "Serializable isolation / Savepoints / Transactional DDL" of pysqlite.
    """
    optuna = optuna_module()
    import sqlalchemy

    file = Path(url.removeprefix("sqlite:///")) if url.startswith("sqlite:///") else None
    if file is not None:
        if create:
            file.parent.mkdir(parents=True, exist_ok=True)
        elif not file.is_file():
            raise ConfigError(f"there are no studies at {file}", help="run one: lrdiff study NAME --quick")
        _check_pages(file)
    engine_options = {"connect_args": {"timeout": _PATIENCE}} if file is not None else {}
    for attempt in range(_TRIES):
        try:
            storage = optuna.storages.RDBStorage(url, engine_kwargs=engine_options)
            break
        except ImportError as problem:  # of the driver; Optuna raises one of its own from it
            missing = next((e.name for e in (problem, problem.__cause__) if isinstance(e, ModuleNotFoundError)), None)
            raise UnavailableError(
                f"the storage {hidden(url)} needs {missing or 'a driver'}, which is not installed",
                help=_DRIVERS.get(missing or "", f"pip install {missing}" if missing else "install its driver"),
            ) from problem
        except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.OptunaError, RuntimeError, ValueError) as problem:
            # Two processes that open a new storage at once both make its tables; the second finds them the next time.
            at_once = file is not None or "already exists" in str(problem)
            if not at_once or attempt == _TRIES - 1 or "not a database" in str(problem):
                first = str(getattr(problem, "orig", None) or problem).strip().splitlines()[0]
                raise ConfigError(
                    f"cannot open the storage {hidden(url)}: {first}",
                    help="write an address such as sqlite:///studies.db or postgresql://user@host/name",
                ) from problem
            time.sleep(0.2 * (attempt + 1))
    if file is not None:
        sqlalchemy.event.listen(storage.engine, "connect", _no_implicit_begin)
        sqlalchemy.event.listen(storage.engine, "begin", _begin_as_writer)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            storage.engine.dispose()  # connections from before the listeners
    return storage


def _check_pages(file: Path) -> None:
    """SQLite's own check of a database: broken pages, indices that do not fit their tables.

    Raises:
        CheckpointError: it finds some.
    """
    if not file.is_file() or not file.stat().st_size:
        return
    address = f"{file.resolve().as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(address, uri=True, timeout=_PATIENCE)) as opened:
            (said,) = opened.execute("PRAGMA integrity_check(1)").fetchone()
    except sqlite3.OperationalError:  # it is told when it is opened to be written
        return
    except sqlite3.DatabaseError as problem:
        if "not a database" in str(problem):
            return
        said = str(problem)
    if said != "ok":
        said = said.strip().splitlines()[-1]
        raise CheckpointError(
            f"{file} is damaged: {said}",
            help=f"get a whole copy; what can be read: sqlite3 {file} .recover",
        )


@contextmanager
def storage_trouble(url: str) -> Iterator[None]:
    """Tell in one line what befalls a storage while it is worked on: a full disk, a server that is gone.

    Raises:
        InputError: an SQLite file cannot be written.
        UnavailableError: another storage fails.
    """
    optuna = optuna_module()
    import sqlalchemy

    try:
        yield
    except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.DBAPIError) as problem:
        cause = problem.__cause__ if isinstance(problem, optuna.exceptions.StorageInternalError) else problem
        told = str(getattr(cause, "orig", None) or cause or problem).strip().splitlines()[0]
        kind = InputError if url.startswith("sqlite:") else UnavailableError
        raise kind(
            f"the storage {hidden(url)} failed: {told}",
            help="fix it; what is trained is kept, and the same command continues",
        ) from problem


def _no_implicit_begin(connection: Any, _: Any) -> None:
    connection.isolation_level = None
    # A write-ahead log needs no flush to disk at every commit (27 ms on a busy machine, and a study has thousands).
    # A process that is killed loses nothing by it; a machine that loses power may lose its last commits, and no others.
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")


def _begin_as_writer(connection: Any) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def hidden(url: str) -> str:
    """The address of a storage without a password."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return f'"{url}"'
