"""Two commits of a foreign repository as work trees, with one and the same suite in both."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lrdiff_bench.measure.asv_config import read_asv_config
from lrdiff_bench.measure.engine.pairs.sides import git, resolve_commit
from lrdiff_bench.measure.foreign.process import TIMEOUT, Kind, Place
from lrdiff_core.errors import CheckFailed, ConfigError, InputError

__all__ = ["Checkout", "Suite", "find_suite", "open_checkouts"]

# Folders at the root of a repository that are no packages of it.
NO_PACKAGES = {"asv_bench", "bench", "benchmarks", "build", "ci", "conftest", "dist", "docs", "doc", "env", "examples",
               "html", "noxfile", "results", "scripts", "setup", "tasks", "test", "tests", "tools", "venv"}  # fmt: skip
IGNORED = shutil.ignore_patterns(
    "__pycache__", ".git", ".asv", ".benchmarks", ".pytest_cache", "env", "html", "results"
)
_TIMED = re.compile(r"^\s*(def time_\w|class Time[A-Z_]|timeraw_)", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A suite as it lies in the working tree.

    Args:
        kind: asv's or pytest-benchmark's.
        root: of the repository.
        path: of the suite, from there.
        timeout: seconds that a benchmark may take which names no limit itself.
    """

    kind: Kind
    root: Path
    path: Path
    timeout: float = TIMEOUT


@dataclass(frozen=True, kw_only=True)
class Checkout:
    """One side: its label, its commit, and where it is measured."""

    label: str
    commit: str
    dirty: bool
    place: Place


def find_suite(path: Path) -> Suite:
    """The suite at a path: a folder or file of asv's or of pytest-benchmark's, or an ``asv.conf.json``.

    Raises:
        InputError: there is nothing, or nothing of either kind, or it lies in no working tree of git.
    """
    if not path.exists():
        raise InputError(f"no suite at {path}", help="name a folder of asv benchmarks or of tests, with --suite")
    path = path.resolve()
    done = git(path if path.is_dir() else path.parent, "rev-parse", "--show-toplevel")
    if done.returncode != 0:
        raise InputError(
            f"{path} is in no working tree of git", help="name a suite inside a clone; a bare one has none"
        )
    root = Path(done.stdout.decode().strip()).resolve()
    config = path if path.name.startswith("asv.conf") else path / "asv.conf.json"
    if config.is_file():
        settings = read_asv_config(config)
        path = (config.parent / str(settings.get("benchmark_dir", "benchmarks"))).resolve()
        if not path.is_dir():
            raise InputError(
                f"{config.name} names the folder {path.name}, which is not there", help="mend benchmark_dir"
            )
        return Suite(kind="asv", root=root, path=path.relative_to(root), timeout=_timeout(settings))
    if path == root:
        raise InputError(f"{path.name} is the whole repository", help="name the folder of the suite inside it")
    files = [path] if path.is_file() else sorted(path.rglob("*.py"))
    tests = [one for one in files if (one.name.startswith("test_") or one.name.endswith("_test.py")
                                      or one == path) and "benchmark" in one.read_text(errors="replace")]  # fmt: skip
    timed = [one for one in files if _TIMED.search(one.read_text(errors="replace"))]
    if tests and (path.is_file() or not timed):
        return Suite(kind="pytest", root=root, path=path.relative_to(root))
    if timed and path.is_dir():
        return Suite(kind="asv", root=root, path=path.relative_to(root), timeout=_timeout(_settings_above(path, root)))
    raise InputError(
        f"{path.name} holds no benchmark: no time_ function of asv, no test that asks for the fixture benchmark",
        help="name the folder of the suite, or one of its test files",
    )


def _settings_above(path: Path, root: Path) -> Mapping[str, Any]:
    """Of the asv.conf.json that the folder belongs to; none where asv_runner alone is here, which reads none."""
    above = [folder / "asv.conf.json" for folder in path.parents if folder.is_relative_to(root)]
    found = next((one for one in above if one.is_file()), None)
    return {} if found is None or find_spec("asv") is None else read_asv_config(found)


def _timeout(settings: Mapping[str, Any]) -> float:
    return float(settings.get("default_benchmark_timeout", TIMEOUT))


@contextmanager
def open_checkouts(
    ref_a: str,
    ref_b: str,
    suite: Suite,
    *,
    python: str,
    install: str | None = None,
    import_from: Sequence[str] = (),
    affinity: Sequence[int] = (),
) -> Iterator[tuple[Checkout, Checkout]]:
    """Work trees of two commits, each with the suite of the working tree in it; they are gone afterwards.

    Args:
        ref_a, ref_b: commits as git takes them, or ``.`` for what the working tree holds of tracked files.
        suite: copied into both, so that both are measured by the same benchmarks.
        python: that runs them.
        install: a command run in each tree before; ``{target}`` is a folder that is then imported from first.
        import_from: folders to import from, from the root; left out, ``src`` where it is there, and the root.
        affinity: processors to keep to.

    Raises:
        ConfigError: a reference that names no commit.
        CheckFailed: the command to install failed.
    """
    with tempfile.TemporaryDirectory(prefix="lrdiff-ab-") as scratch:
        opened: list[Path] = []
        try:
            sides = []
            for name, ref in zip("ab", (ref_a, ref_b), strict=True):
                commit, dirty, label = _resolve(suite.root, ref)
                tree = Path(scratch, name, suite.root.name).resolve()
                tree.parent.mkdir()
                done = git(suite.root, "worktree", "add", "--detach", "--quiet", str(tree), commit)
                if done.returncode != 0:
                    raise CheckFailed(
                        f"git cannot check {ref} out: {done.stderr.decode().strip()}", help="try `git worktree prune`"
                    )
                opened.append(tree)
                _put_suite(suite, tree)
                target = Path(scratch, name, "installed")
                target.mkdir()
                folders = [*([target] if install else []), *_import_folders(tree, import_from)]
                place = Place(
                    kind=suite.kind, python=python, tree=tree, checkout=tree.parent, suite=tree / suite.path,
                    path=tuple(folders), packages=_packages(folders, suite),
                    scratch=Path(scratch, name, "scratch"), affinity=tuple(affinity), timeout=suite.timeout,
                )  # fmt: skip
                place.scratch.mkdir()
                if install:
                    _install(install, tree, target, label)
                    place = replace(place, packages=_packages(folders, suite))
                sides.append(Checkout(label=label, commit=commit, dirty=dirty, place=place))
            yield sides[0], sides[1]
        finally:
            for tree in opened:
                git(suite.root, "worktree", "remove", "--force", str(tree))


def _resolve(root: Path, ref: str) -> tuple[str, bool, str]:
    """Commit, whether it is changed, and label. The working tree's tracked files become a commit that nothing names."""
    if ref != ".":
        commit = resolve_commit(root, ref)
        return commit, False, f"{ref} ({commit[:10]})" if not commit.startswith(ref) else commit[:10]
    head = resolve_commit(root, "HEAD")
    identity = ["-c", "user.name=lrdiff", "-c", "user.email=lrdiff@localhost"]
    changed = git(root, *identity, "stash", "create").stdout.decode().strip()
    return changed or head, bool(changed), f"working tree ({head[:10]}{', changed' if changed else ''})"


def _put_suite(suite: Suite, tree: Path) -> None:
    source, target = suite.root / suite.path, tree / suite.path
    if source.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)
        return
    shutil.copytree(source, target, ignore=IGNORED, dirs_exist_ok=True)


def _import_folders(tree: Path, given: Sequence[str]) -> list[Path]:
    for one in given:
        if not (tree / one).is_dir():
            raise ConfigError(f"--import-from {one}: no such folder in the commit", help="name it from the root")
    if given:
        return [tree / one for one in given]
    return [*([tree / "src"] if (tree / "src").is_dir() else []), tree]


def _packages(folders: Sequence[Path], suite: Suite) -> tuple[str, ...]:
    """Names that can be imported from there and are the project's own."""
    left_out = NO_PACKAGES | {suite.path.parts[0] if suite.path.parts else ""}
    names = set()
    for folder in folders:
        for one in folder.iterdir():
            name = one.name.split(".")[0]
            module = one.suffix in (".py", ".so", ".pyd") or (one / "__init__.py").is_file()
            if module and name.isidentifier() and (name not in left_out or folder.name in ("src", "installed")):
                names.add(name)
    return tuple(sorted(names))


def _install(command: str, tree: Path, target: Path, label: str) -> None:
    done = subprocess.run(
        command.replace("{target}", str(target)), shell=True, cwd=tree, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        last = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()][-3:]
        raise CheckFailed(
            f"--install ended with status {done.returncode} in {label}: {' | '.join(last)}",
            help="run the command in a clone of that commit",
        )
