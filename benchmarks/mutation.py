"""How many planted faults the tests see: a sample of mutants of a part of the code, by mutmut.

``python -m benchmarks.mutation rates`` (or ``stats``, ``verify``) copies the packages side by side into a folder of its
own, since mutmut wants a module's path to be its name, lets mutmut mutate that part, and runs a sample of the mutants
against the tests named here. A mutant that no test runs counts as survived.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
NO_TESTS = 33  # mutmut's status of a mutant that no test runs
# Tests that look at the stack or at a function's own file, which mutmut's wrappers change.
UNFIT = [
    "--deselect=tests/core/rates/test_rate_build.py::test_not_strict_lets_dead_and_shadowed_rules_pass_with_a_warning"
]


@dataclass(frozen=True, kw_only=True)
class Part:
    """What is mutated, and by which tests it is tried."""

    sources: tuple[str, ...]
    tests: tuple[str, ...]


PARTS = {
    "rates": Part(sources=("lrdiff_core/rates",), tests=("tests/core/rates",)),
    "stats": Part(
        sources=("lrdiff_bench/stats",),
        tests=(
            "tests/bench/test_statistics.py",
            "tests/bench/test_verdicts.py",
            "tests/bench/test_bench_hierarchical.py",
        ),
    ),
    "verify": Part(
        sources=("lrdiff_export/verify",),
        tests=(
            "tests/export/test_export_budget.py",
            "tests/export/test_export_columns.py",
            "tests/export/test_export_verify.py",
        ),
    ),
}


def flat_copy(tree: Path, place: Path, part: Part) -> None:
    """Copy what the tests need, with the three packages side by side, and write mutmut's settings."""
    skip = shutil.ignore_patterns("__pycache__", ".venv", "runs", "results")
    for source in ("lrdiff_core", "export/lrdiff_export", "bench/lrdiff_bench", "benchmarks", "tests", "docs"):
        shutil.copytree(tree / source, place / Path(source).name, ignore=skip)
    for file in ("README.md", "CONTRIBUTING.md", "Makefile"):
        shutil.copy(tree / file, place)
    ours = ["lrdiff_core", "lrdiff_export", "lrdiff_bench", "benchmarks", "tests", "docs"]
    settings = (tree / "pyproject.toml").read_text(encoding="utf-8")
    settings = settings.replace('testpaths = ["tests", "lrdiff_core", "export", "bench"]', 'testpaths = ["tests"]')
    settings += f"""
[tool.mutmut]
source_paths = {json.dumps(list(part.sources))}
pytest_add_cli_args_test_selection = {json.dumps(list(part.tests))}
pytest_add_cli_args = {json.dumps([*UNFIT, "-p", "no:cacheprovider", "-W", "ignore::DeprecationWarning"])}
also_copy = {json.dumps([*ours, "README.md", "CONTRIBUTING.md", "Makefile", "pyproject.toml"])}
"""
    (place / "pyproject.toml").write_text(settings, encoding="utf-8")


def mutmut(place: Path, *arguments: str) -> str:
    """Run mutmut there and return what it prints."""
    # One thread: mutmut forks after the tests have run once, and OpenMP's threads do not survive a fork.
    environment = {**os.environ, "PYTHONPATH": str(place / "mutants"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-m", "mutmut", *arguments]
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False).stdout


def outcomes(place: Path) -> dict[str, int | None]:
    """The exit status of pytest for each mutant by name; None where it has not run."""
    found: dict[str, int | None] = {}
    for file in (place / "mutants").rglob("*.meta"):
        found |= json.loads(file.read_text(encoding="utf-8"))["exit_code_by_key"]
    return found


def main() -> int:
    """Print the score of one part."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutation", description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--sample", type=int, default=100, help="mutants that are run, drawn at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tree", type=Path, default=ROOT, help="of the project; this one where left out")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        flat_copy(options.tree, place, PARTS[options.part])
        said = mutmut(place, "run", "--max-children", "2", "no mutant has this name")  # makes them, runs none
        names = sorted(outcomes(place))
        if not names:
            print(said[-2000:])
            return 1
        chosen = random.Random(options.seed).sample(names, min(options.sample, len(names)))
        said = mutmut(place, "run", "--max-children", "2", *chosen)
        codes = outcomes(place)
    if all(codes[name] is None for name in chosen):
        print(said[-3000:])
        return 1
    caught = [name for name in chosen if codes[name] not in (0, None, NO_TESTS)]
    print(f"{options.part}: {len(caught)} of {len(chosen)} mutants caught, drawn from {len(names)}")
    for name in sorted(set(chosen) - set(caught)):
        print(f"  not caught{', no test runs it' if codes[name] == NO_TESTS else ''}: {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
