"""The guide's examples run, and the commands and options it names exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lrdiff_bench.cli import main
from lrdiff_bench.measure.engine.registry import CASES

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "benchmarks.md"
TEXT = GUIDE.read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
LINES = [line.split("#")[0].strip() for block in re.findall(r"```sh\n(.*?)```", TEXT, flags=re.DOTALL) for line in block.splitlines()]  # fmt: skip # noqa: E501
COMMANDS = sorted({line for line in LINES if line.startswith("lrdiff ")})


@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_an_example_runs(number: int, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PYTHON[number]], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_and_its_options_exist(line: str, capsys) -> None:
    words = shlex.split(line)[1:]
    if words[0] == "ab":
        assert main(["ab", "--help"]) == 0
        text = " ".join(capsys.readouterr().out.split())
        assert all(word in text for word in words if word.startswith("--") and "{" not in word)
        return
    known = {"ab", "calibrate", "compare", "history", "ls", "pictures", "regressions", "run", "show", "step"}
    command = words[1] if len(words) > 1 and words[1] in known else "run"
    assert main(["bench", command, "--help"]) == 0
    text = capsys.readouterr().out
    for word in words:
        if word.startswith("--"):
            assert word in text, f"{line}: {word}"
    for word in words[1:]:
        if "=" in word and not word.startswith("--"):
            key = word.split("=")[0]
            assert any(key in family.parameters for family in CASES.values()), word


def test_there_is_something_to_test() -> None:
    assert len(PYTHON) == 2
    assert len(COMMANDS) > 12
