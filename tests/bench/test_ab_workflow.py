"""The workflow that the guide hands out, run step by step as a hosted machine runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOW = ROOT / "docs" / "guide" / "ab-workflow.yml"

PACKAGE = """
def total(n):
    return sum(range(n)){more}
"""
SUITE = """
from summing import total


def time_total():
    total(2000)
"""
PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "summing"
version = "1"
"""


@pytest.mark.long
def test_its_steps_find_what_a_pull_request_makes_slower(tmp_path: Path) -> None:
    clone, environment = _pull_request(tmp_path), _environment(tmp_path)
    statuses = {}
    for step in yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["jobs"]["ab"]["steps"]:
        if "run" not in step or (any(statuses.values()) and step.get("if") != "always()"):
            continue
        own = {name: _value(value, tmp_path) for name, value in step.get("env", {}).items()}
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", step["run"]],
            cwd=clone, env={**environment, **own}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        statuses[step["name"]] = done.returncode
        print(step["name"], done.returncode, done.stdout, done.stderr)
    assert list(statuses.values()) == [0, 0, 1, 0], statuses
    assert "slower" in Path(environment["GITHUB_STEP_SUMMARY"]).read_text(encoding="utf-8")
    for name in ("ab.md", "ab.xml", "ab.json", "runs/bench"):
        assert (clone / name).exists(), name


def _pull_request(folder: Path) -> Path:
    """A clone that stands at the head of a branch, as the checkout of a pull request does."""
    origin, clone = folder / "origin", folder / "clone"
    (origin / "src" / "summing").mkdir(parents=True)
    (origin / "benchmarks").mkdir()
    (origin / "benchmarks" / "__init__.py").write_text("")
    (origin / "benchmarks" / "speed.py").write_text(SUITE)
    (origin / "pyproject.toml").write_text(PROJECT)
    _git(origin, "init", "-q", "-b", "main")
    for branch, more in (("main", ""), ("change", " + sum(range(n // 2))")):
        (origin / "src" / "summing" / "__init__.py").write_text(PACKAGE.format(more=more))
        if branch != "main":
            _git(origin, "checkout", "-q", "-b", branch)
        _git(origin, "add", "-A")
        _git(origin, "commit", "-q", "-m", branch)
    _git(folder, "clone", "-q", "--branch", "change", str(origin), str(clone))
    return clone


def _environment(folder: Path) -> dict[str, str]:
    """What a hosted machine sets: a Python of the job's own, places for files, the branch that is asked into."""
    subprocess.run([sys.executable, "-m", "venv", str(folder / "python")], check=True)
    left_out = ("VIRTUAL_ENV", "PYTHONPATH", "PYTEST_ADDOPTS", "PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    return {
        **{name: value for name, value in os.environ.items() if name not in left_out},
        "PATH": f"{folder / 'python' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "RUNNER_TEMP": str(folder),
        "GITHUB_STEP_SUMMARY": str(folder / "summary.md"),
        "PIP_CONSTRAINT": str(ROOT / "constraints.txt"),
    }


def _value(text: str, folder: Path) -> str:
    if text == "lrdiff":
        words = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder / "dist"), str(ROOT)]
        subprocess.run(words, check=True, capture_output=True)
        (wheel,) = (folder / "dist").glob("*.whl")
        return str(wheel)
    assert text == "${{ github.base_ref }}"
    return "main"


def _git(folder: Path, *words: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True)
