"""The two sides of ``lrdiff bench ab``: commits, the tree one stands in, or values of a parameter."""

from __future__ import annotations

import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from lrdiff_bench.measure.engine.case import Case
from lrdiff_bench.measure.engine.pairs.ab import Side
from lrdiff_bench.measure.engine.process import code_path
from lrdiff_bench.measure.engine.registry import CASES
from lrdiff_core.errors import ConfigError, UnavailableError

__all__ = ["git", "open_sides", "resolve_commit"]


@contextmanager
def open_sides(ref_a: str, ref_b: str, case: Case, *, repository: Path) -> Iterator[tuple[Side, Side]]:
    """The two sides that a command line names; checkouts of commits are gone afterwards.

    A reference is a value of one of the case's parameters (``ours``, or ``implementation=ours`` where two parameters
    have that value), ``.`` for the working tree that ``repository`` is, or anything git takes for a commit.

    Raises:
        ConfigError: a reference that is none of these, or could be several; ``.`` where there is no working tree of
            this project.
        UnavailableError: there is no git.
    """
    with tempfile.TemporaryDirectory(prefix="lrdiff-ab-") as scratch:
        sides = []
        for i, ref in enumerate((ref_a, ref_b)):
            key = _parameter(ref, case, other=(ref_b, ref_a)[i])
            if key is not None:
                value = CASES[case.name].parse(key, ref.removeprefix(f"{key}="))
                sides.append(
                    Side(label=f"{key}={value}", case=CASES[case.name].case(**{**case.parameters, key: value}))
                )
            elif ref == ".":
                sides.append(_working_tree(repository, case))
            else:
                commit = resolve_commit(repository, ref, "a value of the case's parameters", "key=value")
                checkout = Path(scratch, f"{'ab'[i]}-{commit[:12]}")
                _extract(repository, commit, checkout)
                sides.append(Side(label=f"{ref} ({commit[:12]})", case=case, path=code_path(checkout), commit=commit))
        yield sides[0], sides[1]


def _parameter(ref: str, case: Case, *, other: str) -> str | None:
    """The parameter that ``ref`` is a value of, None where it is none's."""
    family = CASES[case.name]
    key, equals, value = ref.partition("=")
    if equals:
        family.parse(key, value)
        return key

    def having(text: str) -> list[str]:
        return [key for key, values in family.parameters.items() if text in map(str, values)]

    found = [key for key in having(ref) if key in having(other)]
    if len(found) > 1:
        raise ConfigError(f"{ref} is a value of {' and of '.join(found)}", help=f"write {found[0]}={ref}")
    return found[0] if found else None


def _working_tree(repository: Path, case: Case) -> Side:
    done = git(repository, "rev-parse", "--show-toplevel")
    root = Path(done.stdout.decode().strip() or repository)
    if done.returncode != 0 or not (root / "lrdiff_core").is_dir():
        raise ConfigError(
            f". is the working tree, and {repository.resolve()} is in none of this project",
            help="run this in a clone, name one with --repository, or name a commit",
        )
    commit = git(root, "rev-parse", "HEAD").stdout.decode().strip() or None
    dirty = bool(git(root, "--no-optional-locks", "status", "--porcelain", "--untracked-files=no").stdout.strip())
    label = f"working tree ({(commit or 'no commit')[:12]}{', changed' if dirty else ''})"
    return Side(label=label, case=case, path=code_path(root), commit=commit, dirty=dirty)


def resolve_commit(repository: Path, ref: str, other: str = "", written: str = "") -> str:
    """The hash of the commit that ``ref`` names.

    Args:
        repository: a clone; a bare one is enough.
        ref: as git takes it.
        other: what ``ref`` could have been besides, for the error.
        written: how that is written, for the help.

    Raises:
        ConfigError: it names none.
        UnavailableError: there is no git.
    """
    done = git(repository, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
    if done.returncode != 0:
        name = repository.resolve().name
        raise ConfigError(
            f"{ref!r} is neither a commit of {name} nor {other}" if other else f"{ref!r} is no commit of {name}",
            help="name a commit, or . for the working tree" + (f", or {written}" if written else ""),
        )
    return done.stdout.decode().strip()


def _extract(repository: Path, commit: str, folder: Path) -> None:
    # An archive, not a worktree: nothing is left in the repository, and a bare clone will do.
    # From the root: inside a folder, git archives that folder alone.
    root = git(repository, "rev-parse", "--show-toplevel").stdout.decode().strip() or repository
    done = git(Path(root), "archive", "--format=tar", commit)
    with tarfile.open(fileobj=BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    if not (folder / "lrdiff_core").is_dir():
        raise ConfigError(f"commit {commit[:12]} holds no lrdiff_core", help="name a commit of this project")


def git(repository: Path, *command: str) -> subprocess.CompletedProcess[bytes]:
    """Run git in a repository; its status and output.

    Raises:
        UnavailableError: there is no git.
    """
    try:
        return subprocess.run(["git", "-C", str(repository), *command], capture_output=True, check=False)
    except FileNotFoundError as problem:
        raise UnavailableError(
            "git is not installed", help="install git, or compare values of a parameter"
        ) from problem
