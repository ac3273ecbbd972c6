"""One case, two sides, fresh processes, block against block: what a change costs.

A side is a commit, the working tree (``.``), or a value of one of the case's parameters. For every pair of processes
both sides are built and warmed up, then measured in rounds of four blocks, a b b a or b a a b by lot, each block in
its side's own process while the other one waits: a drift of the machine hits both. Then both processes end and the
next pair begins, because two processes differ although they run the same code.
"""

from __future__ import annotations

import random
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

from lrdiff_bench.measure.engine.case import Case
from lrdiff_bench.measure.engine.process import Effort, MeasuringProcess, code_path
from lrdiff_bench.measure.engine.record import Record
from lrdiff_bench.measure.engine.record_builder import RecordBuilder
from lrdiff_bench.measure.engine.registry import CASES
from lrdiff_bench.measure.engine.timer import Sample
from lrdiff_bench.stats.hierarchical import Outcome, compare_paired
from lrdiff_bench.stats.verdict import BAND
from lrdiff_core.errors import ConfigError, UnavailableError

__all__ = ["Pairing", "Side", "compare_sides", "open_sides"]

LEAST_ROUNDS = 3  # taken even where the time is up


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of two things to compare.

    Args:
        label: as the table shows it.
        case: what is measured.
        path: folders of the code, where it is not the installed one.
        commit: of that code.
    """

    label: str
    case: Case
    path: tuple[Path, ...] = ()
    commit: str | None = None


class Measured(Protocol):
    """A process that measures; a protocol, so that tests can plant their own samples."""

    def start(self, case: Case, effort: Effort) -> None:
        """Build the case and warm it up."""

    def block(self) -> Sample:
        """Measure one block."""

    def end(self) -> dict[str, Any]:
        """Finish, and tell everything that is not a sample."""

    def close(self) -> None:
        """End the process."""


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """Two sides, measured.

    Args:
        outcome: b judged against a.
        ratios: time of b over time of a, one a round. [processes][rounds]
        records: of a and of b, with every sample.
    """

    outcome: Outcome
    ratios: tuple[tuple[float, ...], ...]
    records: tuple[Record, Record]


def compare_sides(
    a: Side,
    b: Side,
    effort: Effort,
    *,
    band: float = BAND,
    seed: int = 0,
    affinity: Sequence[int] = (),
    launch: Callable[[Side], Measured] | None = None,
    watch: Callable[[int], None] = lambda done: None,
) -> Pairing:
    """Measure two sides in fresh processes and judge ``b`` against ``a``.

    Args:
        a, b: the sides; the same side twice is an A/A comparison.
        effort: pairs of processes; its samples are the rounds of a pair.
        band: relative difference that is of no consequence.
        seed: of the order of blocks.
        affinity: processors to keep to.
        launch: starts a process for a side; another one only in tests.
        watch: called after every pair with the number of pairs done.

    Raises:
        LrdiffError: what a measuring process says.
    """
    launch = launch or (lambda side: MeasuringProcess(path=side.path, affinity=affinity))
    lot = random.Random(seed)
    building = RecordBuilder(a.case), RecordBuilder(b.case)
    ratios: list[tuple[float, ...]] = []
    order = 0
    for index in range(effort.processes):
        with ExitStack() as stack:
            pair = [launch(side) for side in (a, b)]
            for process in pair:
                stack.callback(process.close)
            for i in lot.sample((0, 1), 2):
                pair[i].start((a, b)[i].case, effort)
            rounds: list[float] = []
            blocks = [0, 0]
            began = time.perf_counter()
            while len(rounds) < effort.samples and (
                len(rounds) < LEAST_ROUNDS or time.perf_counter() - began < effort.most_seconds
            ):
                seconds = [0.0, 0.0]
                first = lot.randrange(2)
                for i in (first, 1 - first, 1 - first, first):
                    taken = pair[i].block()
                    building[i].add(taken, process=index, block=blocks[i], order=order)
                    seconds[i] += taken.seconds
                    blocks[i] += 1
                    order += 1
                rounds.append(seconds[1] / seconds[0])
            ratios.append(tuple(rounds))
            for i in (0, 1):
                building[i].finish(index, pair[i].end())
        watch(index + 1)
    return Pairing(
        outcome=compare_paired(ratios, band=band),
        ratios=tuple(ratios),
        records=(_of_commit(building[0].record(), a), _of_commit(building[1].record(), b)),
    )


@contextmanager
def open_sides(ref_a: str, ref_b: str, case: Case, *, repository: Path) -> Iterator[tuple[Side, Side]]:
    """The two sides that a command line names; checkouts of commits are gone afterwards.

    A reference is a value of one of the case's parameters (``ours``, or ``implementation=ours`` where two parameters
    have that value), ``.`` for the code as it is installed, or anything git takes for a commit.

    Raises:
        ConfigError: a reference that is none of these, or could be several.
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
                sides.append(Side(label="as installed", case=case))
            else:
                commit = _commit(repository, ref)
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


def _commit(repository: Path, ref: str) -> str:
    done = _git(repository, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
    if done.returncode != 0:
        raise ConfigError(
            f"{ref!r} is neither a commit of {repository.name or repository} nor a value of the case's parameters",
            help="name a commit, . for what is installed, or key=value",
        )
    return done.stdout.decode().strip()


def _extract(repository: Path, commit: str, folder: Path) -> None:
    # An archive, not a worktree: nothing is left in the repository, and a bare clone will do.
    done = _git(repository, "archive", "--format=tar", commit)
    with tarfile.open(fileobj=BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    if not (folder / "lrdiff_core").is_dir():
        raise ConfigError(f"commit {commit[:12]} holds no lrdiff_core", help="name a commit of this project")


def _git(repository: Path, *command: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(["git", "-C", str(repository), *command], capture_output=True, check=False)
    except FileNotFoundError as problem:
        raise UnavailableError(
            "git is not installed", help="install git, or compare values of a parameter"
        ) from problem


def _of_commit(record: Record, side: Side) -> Record:
    """Say which commit was measured: the process saw files without a repository."""
    if side.commit is None:
        return record
    return record.model_copy(update={"code": replace(record.code, commit=side.commit, dirty=False)})
