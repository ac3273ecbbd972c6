"""Ctrl-C and SIGTERM end a command in two lines, soon, and with every process that it started."""

import os
import pkgutil
import signal
import subprocess
import sys
import time

import pytest
from waiting import runs, wait_until

from lrdiff_bench.system import ownership
from lrdiff_bench.system.ownership import OWNER, Owner, release_all
from lrdiff_core.files import atomic_path, remove_unfinished

COMMAND = """
import logging, subprocess, sys, threading, time
import lrdiff_bench.cli
from lrdiff_bench.__main__ import main
from lrdiff_bench.system import interruption

interruption._GRACE_SECONDS = 0.5
how = sys.argv[1]

def command():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print(child.pid, flush=True)
    if how == "has a thread that misses the child":
        def miss():
            child.wait()
            print("it died unexpectedly", file=sys.stderr, flush=True)
        threading.Thread(target=miss).start()
        interruption.remove_unfinished = lambda: time.sleep(0.2)
    if how == "turns it into something else":
        try:
            time.sleep(60)
        except KeyboardInterrupt as problem:
            raise ImportError("half a module") from problem
    if how == "logs it":
        try:
            time.sleep(60)
        except BaseException:
            logging.getLogger("a pool of connections").error("while it was given back", exc_info=True)
            raise
    if how == "prints it":  # as Cython does where a function has no way to raise
        try:
            time.sleep(60)
        except BaseException:
            sys.excepthook(*sys.exc_info())
    while how == "swallows it":
        try:
            time.sleep(60)
        except BaseException:
            pass
    if how == "cleans up":
        try:
            time.sleep(60)
        finally:
            time.sleep(0.2)
            print("cleaned up", flush=True)
    time.sleep(60)

lrdiff_bench.cli.app = lambda *_, **__: command()
sys.exit(main())
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="processes are looked up in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "how",
    [
        "cleans up", "swallows it", "logs it", "prints it", "turns it into something else",
        "has a thread that misses the child",
    ],
)  # fmt: skip
def test_a_signal_ends_the_command_and_its_children(number, how):
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, how], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    child = int(process.stdout.readline())
    time.sleep(0.1)
    process.send_signal(number)
    time.sleep(0.05)
    process.send_signal(number)  # impatience does not cut the cleaning up short
    out, err = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert err.startswith("error: interrupted\nhelp: ")
    assert len(err.splitlines()) == 2
    assert out == ("cleaned up\n" if how == "cleans up" else "")
    wait_until(lambda: not runs(child), "the child of an interrupted command ended")


def test_a_forked_child_is_ended_as_ever():
    code = (
        "import os, signal, time\n"
        "from lrdiff_bench.system.interruption import ends_on_signals\n"
        "with ends_on_signals():\n"
        "    child = os.fork()\n"
        "    if not child: time.sleep(60)\n"
        "    time.sleep(0.2); os.kill(child, signal.SIGTERM)\n"
        "    print(os.waitpid(child, 0)[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (f"{int(signal.SIGTERM)}\n", "")


def test_what_is_half_written_goes_when_a_process_ends_without_coming_back(tmp_path):
    def half():
        with atomic_path(tmp_path / "a.png") as beside:
            beside.write_bytes(b"half")
            yield

    owner = Owner.of(tmp_path)
    assert owner is not None
    writing = half()
    next(writing)
    assert len(list(tmp_path.iterdir())) == 2
    remove_unfinished()
    release_all()
    assert list(tmp_path.iterdir()) == []
    writing.close()
    with atomic_path(tmp_path / "b.txt") as beside:
        beside.write_text("whole")
    remove_unfinished()  # what is whole stays
    assert [file.name for file in tmp_path.iterdir()] == ["b.txt"]


def at_its_end(function):
    def interrupted(*given, **named):
        function(*given, **named)
        raise KeyboardInterrupt

    return interrupted


@pytest.mark.parametrize("place", ["os.open", "_lock", "_lives_elsewhere", "_write", "Owner.__init__"])
def test_an_interrupt_while_a_folder_is_taken_leaves_no_sign_of_an_owner(tmp_path, monkeypatch, place):
    holder, _, name = f"lrdiff_bench.system.ownership.{place}".rpartition(".")
    monkeypatch.setattr(f"{holder}.{name}", at_its_end(pkgutil.resolve_name(f"{holder}.{name}")))
    with pytest.raises(KeyboardInterrupt) as caught:  # its frames are there until the process ends
        Owner.of(tmp_path)
    monkeypatch.undo()
    release_all()
    assert list(tmp_path.iterdir()) == []
    assert caught.value.__traceback__ is not None


def test_a_folder_that_another_process_owns_is_left_to_it(tmp_path):
    (tmp_path / OWNER).touch()
    handle = os.open(tmp_path / OWNER, os.O_RDWR)
    fcntl = pytest.importorskip("fcntl")
    fcntl.flock(handle, fcntl.LOCK_EX)
    assert Owner.of(tmp_path) is None
    ownership._asked.add(tmp_path / OWNER)
    release_all()
    assert (tmp_path / OWNER).exists()
    ownership._asked.clear()
    os.close(handle)
