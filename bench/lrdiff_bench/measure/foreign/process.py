"""Processes that measure a foreign suite, seen from the one that drives them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from lrdiff_bench.measure.asked import AskedProcess
from lrdiff_bench.measure.engine.case import Case
from lrdiff_bench.measure.engine.process import Effort
from lrdiff_bench.measure.engine.timer import Sample
from lrdiff_bench.system.machine import Code, describe_conditions, describe_machine
from lrdiff_core.data.formats.room import free_bytes
from lrdiff_core.errors import InputError

__all__ = ["TIMEOUT", "ForeignCase", "ForeignProcess", "Place", "list_cases"]

CHILD = Path(__file__).parent / "inside" / "child.py"
READING = 300.0  # seconds that importing a whole suite may take
TIMEOUT = 60.0  # asv's default

Kind = Literal["asv", "pytest"]
_LONGER: dict[Kind, str] = {
    "asv": "give the benchmark an attribute timeout, in seconds, as asv knows it",
    "pytest": "mark the test with pytest.mark.timeout(SECONDS)",
}


@dataclass(frozen=True, kw_only=True)
class ForeignCase:
    """One benchmark of a suite with one choice of parameters.

    Args:
        id: as asv or pytest writes it.
        name: for the process that measures it.
        parameters: as texts.
        index: of the choice of parameters, for asv.
        cache: names the suite's setup_cache; None where there is none.
        timeout: seconds that its set-up, and each block, may take.
        cache_timeout: seconds that its setup_cache may take.
    """

    id: str
    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    index: int | None = None
    cache: str | None = None
    timeout: float = TIMEOUT
    cache_timeout: float = TIMEOUT

    def case(self) -> Case:
        """As the engine knows cases; it is built in the foreign environment alone."""
        return Case(name=self.id, version="1", factory=_elsewhere)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where one side is measured.

    Args:
        kind: of the suite.
        python: that runs it.
        tree: the commit's.
        checkout: the folder that holds it and what was installed from it.
        suite: the suite inside the tree.
        path: folders that its packages are imported from.
        packages: top-level names that must come from there.
        scratch: for what the suite itself writes.
        affinity: processors to keep to.
        planted: turns of an empty loop after every call, by the case's id: what `benchmarks.ab_counts` is to find.
        memory: bytes that a process may take, on Linux: what is free when it starts, if left out.
        timeout: seconds that the set-up of a benchmark, and each block, may take where it names no limit itself.
    """

    kind: Kind
    python: str
    tree: Path
    checkout: Path
    suite: Path
    path: tuple[Path, ...]
    packages: tuple[str, ...]
    scratch: Path
    affinity: tuple[int, ...] = ()
    planted: Mapping[str, int] = field(default_factory=dict)
    memory: int | None = None
    timeout: float = TIMEOUT

    def request(self) -> dict[str, Any]:
        """What every request says."""
        return {
            "kind": self.kind,
            "suite": str(self.suite),
            "checkout": str(self.checkout.resolve()),
            "packages": self.packages,
            "memory": free_bytes() if self.memory is None else self.memory,
        }


class ForeignProcess:
    """One process that measures one benchmark of one side.

    Args:
        place: the side.
        known: the cases by id.
    """

    def __init__(self, place: Place, known: Mapping[str, ForeignCase]) -> None:
        self.place, self.known = place, known
        self._process: AskedProcess | None = None
        self._seconds, self._longer = 0.0, ""
        self._log = tempfile.TemporaryFile("w+", dir=place.scratch, errors="replace")  # noqa: SIM115 - closed with the process
        self._conditions = describe_conditions("cpu", 1)

    def start(self, case: Case, effort: Effort) -> None:
        """Set the benchmark up there and warm it up.

        Raises:
            LrdiffError: whatever went wrong there.
        """
        one = self.known[case.name]
        self._open(self._folder(one), seconds=one.timeout, longer=_LONGER[self.place.kind])
        self._ask(
            {
                **self.place.request(),
                "do": "measure",
                "name": one.name,
                "index": one.index,
                "planted": self.place.planted.get(one.id),
                "block_seconds": effort.block_seconds,
                "warmup_seconds": effort.warmup_seconds,
            },
            "its set-up",
        )

    def block(self) -> Sample:
        """Measure one block."""
        return Sample(**self._ask({"do": "block"}, "a block"))

    def keep_to(self, processors: Sequence[int]) -> None:
        """Compute on these processors alone from now on."""
        if self._process is not None:
            self._process.keep_to(processors)

    def end(self) -> dict[str, Any]:
        """Finish, and tell everything that is not a sample."""
        told = self._ask({"do": "end"}, "the end")
        code = Code(commit=None, dirty=False, project="", torch=told["torch"], python=told["python"],
                    numpy=told["numpy"])  # fmt: skip
        process = {
            "number": told["number"], "first_call": told["first_call"], "first_graphs": 0, "recompilations": 0,
            "warmup": told["warmup"], "settled": told["settled"], "clock_share": 0.0, "host_before": None,
            "host_peak": None, "device_peak": None,
        }  # fmt: skip
        return {
            "process": process,
            "parity": None,
            "facts": {"suite": self.place.kind},
            "code": asdict(code),
            "machine": asdict(describe_machine()),
            "conditions": asdict(self._conditions),
        }

    def close(self) -> None:
        """End the process; harmless when it has ended."""
        if self._process is not None:
            self._process.close()
            self._process = None
        self._log.close()

    def list(self) -> tuple[list[ForeignCase], dict[str, str]]:
        """Every benchmark that the suite has here, and what of it cannot be read, with the reason."""
        self._open(self.place.tree, seconds=READING, longer="import less at the top of its modules")
        told = self._ask({**self.place.request(), "do": "list"}, "reading the suite")
        usual = {"timeout": self.place.timeout, "cache_timeout": self.place.timeout}
        return [ForeignCase(**{**usual, **one}) for one in told["cases"]], told["broken"]

    def _folder(self, one: ForeignCase) -> Path:
        """Where the benchmark runs: pytest in the checkout, asv where its setup_cache has left what it made."""
        if self.place.kind == "pytest":
            return self.place.tree
        folder = self.place.scratch / sha256((one.cache or one.name).encode()).hexdigest()[:12]
        folder.mkdir(exist_ok=True)
        if one.cache is not None and not (folder / "cache.pickle").exists():
            filling = ForeignProcess(self.place, self.known)
            try:
                filling._open(
                    folder, seconds=one.cache_timeout, longer="give setup_cache an attribute timeout, in seconds"
                )
                filling._ask({**self.place.request(), "do": "cache", "name": one.name}, "its setup_cache")
            finally:
                filling.close()
        return folder

    def _open(self, folder: Path, *, seconds: float, longer: str) -> None:
        """Start it; each of its answers may take so long, and ``longer`` says how to allow for more."""
        place = self.place
        self._seconds, self._longer = seconds, longer
        variables = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, place.path))}
        try:
            self._process = AskedProcess(
                [place.python, str(CHILD)], variables=variables, folder=folder, log=self._log, affinity=place.affinity
            )
        except OSError as problem:
            raise InputError(
                f"{place.python} cannot be started: {problem.strerror}", help="name a Python with --python"
            ) from problem

    def _ask(self, request: Mapping[str, Any], what: str) -> dict[str, Any]:
        assert self._process is not None
        return self._process.ask(request, what, seconds=self._seconds, help=self._longer)


def list_cases(place: Place) -> tuple[list[ForeignCase], dict[str, str]]:
    """Every benchmark that the suite has in a place, and what of it cannot be read, with the reason.

    Raises:
        LrdiffError: the suite cannot be read there.
    """
    process = ForeignProcess(place, {})
    try:
        return process.list()
    finally:
        process.close()


def _elsewhere() -> Any:
    raise NotImplementedError("a benchmark of a foreign suite is built in its own environment")
