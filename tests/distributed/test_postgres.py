"""Studies in a PostgreSQL server of the tests' own: two processes share one, one of them is killed."""

from __future__ import annotations

import gc
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
import sqlalchemy
from study_planted import PLAN, WORKLOAD, Slow
from test_study_engine import STATE, assert_whole, start, trials

from lrdiff_bench.study.search.engine import run_study
from lrdiff_bench.study.search.ledger import MemoryLedger

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.slow,
    # psycopg complains of connections whose engine Python has collected; Optuna closes none
    pytest.mark.filterwarnings("ignore:Exception ignored in.*BaseConnection:pytest.PytestUnraisableExceptionWarning"),
]

DRIVER = next((name for name in ("psycopg", "psycopg2") if find_spec(name)), None)


def programs():
    """The folder of initdb and postgres: on the path, or where Debian puts them."""
    found = shutil.which("initdb")
    here = [Path(found).resolve()] if found else []
    for program in [*here, *sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)]:
        if all(program.with_name(name).exists() for name in ("postgres", "pg_isready", "createdb")):
            return program.parent
    return None


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of a server that ends with the tests; it refuses to run as root, so Debian's own user runs it."""
    folder = programs()
    if folder is None:
        pytest.skip("PostgreSQL is not here: apt-get install postgresql")
    if DRIVER is None:
        pytest.skip('no driver for PostgreSQL is here: pip install "psycopg[binary]"')
    as_user = {}
    place = tmp_path_factory.mktemp("postgres")
    if os.getuid() == 0:
        try:
            owner = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
        as_user = {"user": owner.pw_uid, "group": owner.pw_gid}
        place = Path("/tmp") / f"lrdiff-postgres-{uuid.uuid4().hex[:8]}"  # pytest's own folders are root's alone
        place.mkdir()
        os.chown(place, owner.pw_uid, owner.pw_gid)
    data = place / "data"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": place, **as_user}
    made = subprocess.run(
        [folder / "initdb", "--pgdata", data, "--auth", "trust", "--username", "lrdiff", "--no-sync"], **quiet
    )
    assert made.returncode == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [folder / "postgres", "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", place, "-F"], **quiet
    )
    try:
        ready = [folder / "pg_isready", "-h", "127.0.0.1", "-p", str(port), "-t", "30"]
        for _ in range(300):
            if subprocess.run(ready, **quiet).returncode == 0:
                break
        yield folder, port
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def address(server):
    """A database of its own."""
    folder, port = server
    name = f"d{uuid.uuid4().hex[:10]}"
    create = [folder / "createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "lrdiff", name]
    subprocess.run(create, check=True)
    return f"postgresql+{DRIVER}://lrdiff@127.0.0.1:{port}/{name}"


@pytest.fixture(autouse=True)
def _connections_end():
    """The driver complains of those that Python finds open."""
    yield
    for one in gc.get_objects():
        if issubclass(type(one), sqlalchemy.Engine):  # isinstance asks objects, and torch's may warn
            one.dispose()
    gc.collect()


@pytest.fixture(scope="module")
def uninterrupted():
    return run_study(Slow(**WORKLOAD), PLAN, MemoryLedger())


def test_two_processes_put_each_point_in_once(address, uninterrupted):
    """Nobody died, so nothing failed."""
    both = start(address, 0.05, count=2)
    outputs = [process.communicate(timeout=180) for process in both]
    for process, (_, err) in zip(both, outputs, strict=True):
        assert process.returncode == 0, err
    kept = Counter(trial.state for trial in trials(address))
    assert kept[STATE.FAIL] == 0
    assert kept[STATE.COMPLETE] == len(uninterrupted.results)
    assert_whole(address, uninterrupted)


def test_a_killed_process_leaves_its_points_to_the_other(address, uninterrupted):
    first, second = start(address, 0.1, count=2)
    for _ in range(2):
        assert first.stdout.readline().startswith("training")
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    _, err = second.communicate(timeout=180)
    assert second.returncode == 0, err
    failed = [trial.user_attrs["task"] for trial in trials(address) if trial.state == STATE.FAIL]
    assert failed, "those that it was training"
    assert_whole(address, uninterrupted)


def test_a_server_that_is_not_there_is_told_in_two_lines(tmp_path):
    if DRIVER is None:
        pytest.skip('no driver for PostgreSQL is here: pip install "psycopg[binary]"')
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        other = free.getsockname()[1]
    ended = subprocess.run(
        [sys.executable, "-m", "lrdiff_bench", "study", "seed-adam", "--quick", "--storage",
         f"postgresql+{DRIVER}://lrdiff@127.0.0.1:{other}/none", "--out", str(tmp_path / "study")],
        capture_output=True, text=True, timeout=120, cwd=tmp_path,
    )  # fmt: skip
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.startswith("error: cannot open the storage postgresql+")
    assert len(ended.stderr.splitlines()) == 2
