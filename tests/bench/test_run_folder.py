"""The run folder appears whole or not at all, whatever happens on the way."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from lrdiff_bench.report.json import json_ready
from lrdiff_bench.system import ownership, run_folder
from lrdiff_bench.system.ownership import OWNER
from lrdiff_bench.system.run_folder import RunFolder, new_run_folder, read_summary
from lrdiff_core.errors import CheckpointError, InputError

SUMMARY = {"format": "lrdiff.run", "version": 2}


def make_run(final, text):
    with new_run_folder(final) as folder:
        (folder.path / "summary.json").write_text(json.dumps({**SUMMARY, "text": text}))


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_nothing_stands_under_the_name_before_the_end(tmp_path):
    final = tmp_path / "runs" / "a"
    with new_run_folder(final) as folder:
        assert not final.exists()
        (folder.path / "summary.json").write_text("{}")
    assert names(final) == ["summary.json"]
    assert names(final.parent) == ["a"]


def test_an_error_leaves_nothing_not_even_the_folder_above(tmp_path):
    with pytest.raises(ZeroDivisionError), new_run_folder(tmp_path / "x" / "y" / "a") as folder:
        (folder.path / "half.txt").write_text("half")
        raise ZeroDivisionError
    assert names(tmp_path) == []


def test_an_error_leaves_the_earlier_run(tmp_path):
    make_run(tmp_path / "a", "old")
    with pytest.raises(ZeroDivisionError), new_run_folder(tmp_path / "a"):
        raise ZeroDivisionError
    assert read_summary(tmp_path / "a")["text"] == "old"
    assert names(tmp_path) == ["a"]


def test_an_earlier_run_is_replaced_as_a_whole(tmp_path):
    make_run(tmp_path / "a", "old")
    (tmp_path / "a" / "stale.txt").write_text("of the old run")
    make_run(tmp_path / "a", "new")
    assert read_summary(tmp_path / "a")["text"] == "new"
    assert names(tmp_path / "a") == ["summary.json"]
    assert names(tmp_path) == ["a"]


def test_a_run_that_ended_meanwhile_is_replaced(tmp_path):
    with new_run_folder(tmp_path / "a") as folder:
        make_run(tmp_path / "b", "of another process")
        (tmp_path / "b").rename(tmp_path / "a")
        (folder.path / "summary.json").write_text(json.dumps({**SUMMARY, "text": "last"}))
    assert read_summary(tmp_path / "a")["text"] == "last"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("taken", [True, False])
def test_an_interrupt_right_after_the_rename_leaves_no_sign_of_an_owner(tmp_path, monkeypatch, overwrite, taken):
    if taken:
        with new_run_folder(tmp_path / "run") as folder:
            (folder.path / "summary.json").write_text("{}")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "_is_at", interrupted)
    with pytest.raises(KeyboardInterrupt), new_run_folder(tmp_path / "run", overwrite=overwrite) as folder:
        (folder.path / "summary.json").write_text("{}")
    assert (tmp_path / "run" / "summary.json").is_file()
    assert not list(tmp_path.rglob(OWNER))


def test_what_is_being_removed_is_not_put_back_while_another_run_is_between_its_renames(tmp_path, monkeypatch):
    make_run(tmp_path / "a", "old")
    rmtree, seen = shutil.rmtree, []

    def in_the_middle(folder, **options):
        monkeypatch.setattr(shutil, "rmtree", rmtree)
        (folder / "summary.json").unlink()  # half of the old run is gone
        (folder / "left.txt").write_text("")
        (tmp_path / "a").rename(tmp_path / "elsewhere")  # a third process replaces the new one
        run_folder._remove_left_overs(tmp_path / "a")
        seen.append((tmp_path / "a").exists())
        (tmp_path / "elsewhere").rename(tmp_path / "a")
        rmtree(folder, **options)

    with new_run_folder(tmp_path / "a") as folder:
        (folder.path / "summary.json").write_text(json.dumps({**SUMMARY, "text": "new"}))
        monkeypatch.setattr(shutil, "rmtree", in_the_middle)
    assert seen == [False]
    assert read_summary(tmp_path / "a")["text"] == "new"
    assert names(tmp_path) == ["a"]


def test_runs_that_end_at_once_leave_one_whole(tmp_path):
    """Eight processes put their folders under one name, again and again; each of them ends without an error."""
    script = (
        "import json, sys; from pathlib import Path; from lrdiff_bench.system.run_folder import new_run_folder\n"
        "for i in range(40):\n"
        "    with new_run_folder(Path(sys.argv[1])) as folder:\n"
        "        for name in 'abcdef': (folder.path / name).write_text(sys.argv[2])\n"
        "        (folder.path / 'summary.json').write_text(json.dumps({'format': 'lrdiff.run', 'version': 1}))\n"
    )
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "runs" / "a"), str(i)], stderr=subprocess.PIPE, text=True
        )
        for i in range(8)
    ]
    for run in runs:
        _, told = run.communicate()
        assert run.returncode == 0, told
    assert names(tmp_path / "runs") == ["a"]
    assert names(tmp_path / "runs" / "a") == [*"abcdef", "summary.json"]
    assert len({(tmp_path / "runs" / "a" / name).read_text() for name in "abcdef"}) == 1


@pytest.mark.parametrize("at_once", [False, True])
def test_runs_that_replace_nothing_take_the_next_number(tmp_path, at_once):
    found = []

    def one(text, inner=lambda: None):
        with new_run_folder(tmp_path / "a", overwrite=False) as folder:
            (folder.path / "summary.json").write_text(json.dumps({**SUMMARY, "text": text}))
            inner()
        found.append(folder.path)

    if at_once:  # the second is begun and ends while the first is being written
        make_run(tmp_path / "a-2", "there before")
        make_run(tmp_path / "b", "of another process")
        one("first", lambda: (tmp_path / "b").rename(tmp_path / "a"))
        assert [file.name for file in found] == ["a-3"]
        assert read_summary(tmp_path / "a")["text"] == "of another process"
    else:
        one("first")
        one("second")
        assert [file.name for file in found] == ["a", "a-2"]
        assert read_summary(tmp_path / "a")["text"] == "first"
        assert read_summary(tmp_path / "a-2")["text"] == "second"


def test_what_appears_there_meanwhile_is_left_alone(tmp_path):
    with pytest.raises(InputError, match="is no longer a run folder"), new_run_folder(tmp_path / "a"):
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "mine.txt").write_text("mine")
    assert names(tmp_path / "a") == ["mine.txt"]
    assert names(tmp_path) == ["a"]


def test_what_is_not_a_run_is_left_alone(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.txt").write_text("x")
    (tmp_path / "b").write_text("a file")
    for name in ("a", "b"):
        with pytest.raises(InputError, match="exists and is not a run folder"), new_run_folder(tmp_path / name):
            raise AssertionError("never entered")
    assert names(tmp_path) == ["a", "b"]


KILLED = """
import os, sys, time
from pathlib import Path
from lrdiff_bench.system import ownership, run_folder
if sys.argv[2] == "between":
    rename = Path.rename
    def stop(self, target):
        rename(self, target)
        print("ready", flush=True); time.sleep(60)
    Path.rename = stop
with run_folder.new_run_folder(Path(sys.argv[1])) as folder:
    (folder.path / "half.txt").write_text("half")
    if sys.argv[2] == "within":
        print("ready", flush=True); time.sleep(60)
    (folder.path / "summary.json").write_text("{}")
"""


@pytest.mark.skipif(os.name != "posix", reason="kill -9 is a POSIX test")
@pytest.mark.parametrize("when", ["within", "between"])
def test_kill_9_leaves_no_half_run_and_the_next_run_cleans_up(tmp_path, when):
    final = tmp_path / "a"
    make_run(final, "old")
    killed = subprocess.Popen([sys.executable, "-c", KILLED, str(final), when], stdout=subprocess.PIPE, text=True)
    assert killed.stdout.readline() == "ready\n"
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    killed.stdout.close()
    if when == "within":
        assert read_summary(final)["text"] == "old"
    else:  # the old run stands whole under its retired name until the next run puts it back
        assert not final.exists()
    with pytest.raises(ZeroDivisionError), new_run_folder(final):
        assert read_summary(final)["text"] == "old"
        raise ZeroDivisionError
    assert names(tmp_path) == (["a"] if when == "within" else ["a", "a-2"])  # the new one was whole, too


def test_a_run_in_progress_of_another_process_is_not_cleaned_up(tmp_path):
    final = tmp_path / "a"
    other = subprocess.Popen([sys.executable, "-c", KILLED, str(final), "within"], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "ready\n"
        make_run(final, "mine")
        assert [name for name in names(tmp_path) if name.endswith(".partial")]
    finally:
        other.kill()
        other.wait()
        other.stdout.close()


def of_another_machine(folder):
    """Make the owner of a folder one whose lock is not seen here: another machine, or another container."""
    fcntl = pytest.importorskip("fcntl")
    fcntl.flock(folder._owner._handle, fcntl.LOCK_UN)
    (folder.path / OWNER).write_text(json.dumps({"host": "", "boot": "another", "process": os.getpid(), "done": False}))


def test_a_run_in_progress_of_another_machine_is_left_alone_as_long_as_it_gives_signs_of_life(tmp_path):
    final = tmp_path / "a"
    with pytest.raises(ZeroDivisionError), new_run_folder(final) as theirs:
        of_another_machine(theirs)
        make_run(final, "mine")
        assert theirs.path.is_dir()
        silent = time.time() - ownership._SILENT_SECONDS - 1
        os.utime(theirs.path / OWNER, (silent, silent))
        make_run(final, "mine")
        assert not theirs.path.exists()
        raise ZeroDivisionError
    assert names(tmp_path) == ["a"]


def test_an_interrupted_run_is_not_gone_on_with_while_another_machine_writes_it(tmp_path):
    with new_run_folder(tmp_path / "a") as theirs:
        (theirs.path / "summary.json").write_text(json.dumps(SUMMARY))
        theirs.keep()
        of_another_machine(theirs)
        with (
            pytest.raises(InputError, match="is being written by another process"),
            run_folder.unfinished_run(tmp_path / "a"),
        ):
            raise AssertionError("never entered")


def test_an_owner_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(ownership, "_BEAT_SECONDS", 0.01)
    owner = ownership.Owner.of(tmp_path)
    os.utime(tmp_path / OWNER, (0, 0))
    until = time.monotonic() + 30
    while not (tmp_path / OWNER).stat().st_mtime and time.monotonic() < until:
        time.sleep(0.01)
    assert (tmp_path / OWNER).stat().st_mtime
    owner.release()


def test_numbers_that_json_cannot_hold_become_null():
    assert json_ready({"a": [float("nan"), 1.0], "b": (float("-inf"),)}) == {"a": [None, 1.0], "b": [None]}


@pytest.mark.parametrize("text", ["", "[1]", "null", '"x"', '{"format": "other"}'])
def test_a_foreign_summary_is_refused(tmp_path, text):
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(CheckpointError):
        read_summary(tmp_path)
