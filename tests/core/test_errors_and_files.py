"""The exception tree, and files that are whole or not there."""

import os
import pickle

import pytest

from lrdiff_core import errors
from lrdiff_core.files import atomic_path, write_bytes, write_json, write_text


def test_the_tree_drawn_in_the_docstring_is_the_tree():
    for name in set(errors.__all__) - {"warn"}:
        assert name in errors.__doc__, f"{name} is missing from the tree in the docstring"
        assert issubclass(getattr(errors, name), errors.LrdiffError | errors.LrdiffWarning)


def test_a_warning_points_to_the_line_outside_and_has_two_lines():
    with pytest.warns(errors.OptimizerWarning, match="^what\nhelp: do$") as caught:
        errors.warn("what", errors.OptimizerWarning, help="do")
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("kind", "status"),
    [("InputError", 2), ("ConfigError", 2), ("DataError", 2), ("RateError", 2), ("OptimizerError", 2),
     ("CheckpointError", 2), ("ModelFileError", 2), ("UnavailableError", 3), ("CheckFailed", 1)],
)  # fmt: skip
def test_the_exit_status_of_each_kind(kind, status):
    assert getattr(errors, kind)("what", help="do").exit_status == status


def test_message_and_help_are_a_line_each_whatever_was_given():
    error = errors.RateError('rule "a\nb\u2028c" matches nothing', help="d\r\ne")
    assert str(error) == 'rule "a b c" matches nothing\nhelp: d e'
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_an_error_survives_the_way_between_processes():
    error = pickle.loads(pickle.dumps(errors.RateError("what", help="do")))
    assert (type(error), error.message, error.help) == (errors.RateError, "what", "do")


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path):
    file = tmp_path / "a.txt"
    write_text(file, "old")
    with pytest.raises(RuntimeError), atomic_path(file) as beside:
        beside.write_text("half")
        raise RuntimeError
    assert file.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_crash_while_renaming_leaves_no_temporary_file(tmp_path, monkeypatch):
    def crash(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(errors.InputError, match="cannot write .*a.txt: No space left on device"):
        write_bytes(tmp_path / "a.txt", b"x")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(errors.InputError, match="cannot write .*nowhere/a.txt: No such file or directory"):
        write_text(tmp_path / "nowhere" / "a.txt", "x")


def test_a_written_file_has_the_usual_mode(tmp_path):
    write_text(tmp_path / "a.txt", "x")
    (tmp_path / "b.txt").write_text("x")
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "b.txt").stat().st_mode


def test_json_that_json_cannot_hold_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []
