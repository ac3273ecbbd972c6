"""Processes that measure a foreign suite, seen from the one that drives them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from lrdiff_bench.measure.engine.case import Case
from lrdiff_bench.measure.engine.process import Effort
from lrdiff_bench.measure.engine.timer import Sample
from lrdiff_bench.report.json import json_line
from lrdiff_bench.system.machine import Code, describe_conditions, describe_machine
from lrdiff_core.errors import CheckFailed, InputError, LrdiffError, UnavailableError

__all__ = ["ForeignCase", "ForeignProcess", "Place", "list_cases"]

CHILD = Path(__file__).parent / "inside" / "child.py"
LOG_LINES = 15  # of a suite's own output that are shown where it fails
_ERRORS: dict[int, type[LrdiffError]] = {1: CheckFailed, 2: InputError, 3: UnavailableError}

Kind = Literal["asv", "pytest"]


@dataclass(frozen=True, kw_only=True)
class ForeignCase:
    """One benchmark of a suite with one choice of parameters.

    Args:
        id: as asv or pytest writes it.
        name: for the process that measures it.
        parameters: as texts.
        index: of the choice of parameters, for asv.
        cache: names the suite's setup_cache; None where there is none.
    """

    id: str
    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    index: int | None = None
    cache: str | None = None

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

    def request(self) -> dict[str, Any]:
        """What every request says."""
        return {
            "kind": self.kind,
            "suite": str(self.suite),
            "checkout": str(self.checkout.resolve()),
            "packages": self.packages,
        }


class ForeignProcess:
    """One process that measures one benchmark of one side.

    Args:
        place: the side.
        known: the cases by id.
    """

    def __init__(self, place: Place, known: Mapping[str, ForeignCase]) -> None:
        self.place, self.known = place, known
        self._process: subprocess.Popen[str] | None = None
        self._log = tempfile.TemporaryFile("w+", dir=place.scratch, errors="replace")  # noqa: SIM115 - closed with the process
        self._conditions = describe_conditions("cpu", 1)

    def start(self, case: Case, effort: Effort) -> None:
        """Set the benchmark up there and warm it up.

        Raises:
            LrdiffError: whatever went wrong there.
        """
        one = self.known[case.name]
        folder = self._folder(one)
        self._open(folder)
        self._ask(
            {
                **self.place.request(),
                "do": "measure",
                "name": one.name,
                "index": one.index,
                "planted": self.place.planted.get(one.id),
                "block_seconds": effort.block_seconds,
                "warmup_seconds": effort.warmup_seconds,
            }
        )

    def block(self) -> Sample:
        """Measure one block."""
        return Sample(**self._ask({"do": "block"}))

    def end(self) -> dict[str, Any]:
        """Finish, and tell everything that is not a sample."""
        told = self._ask({"do": "end"})
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
        process = self._process
        if process is not None:
            assert process.stdin is not None
            assert process.stdout is not None
            if process.poll() is None and sys.exc_info()[0]:
                process.kill()
            with suppress(BrokenPipeError):
                process.stdin.close()
            process.wait()
            process.stdout.close()
            self._process = None
        self._log.close()

    def list(self) -> tuple[list[ForeignCase], dict[str, str]]:
        """Every benchmark that the suite has here, and what of it cannot be read, with the reason."""
        self._open(self.place.tree)
        told = self._ask({**self.place.request(), "do": "list"})
        return [ForeignCase(**one) for one in told["cases"]], told["broken"]

    def _folder(self, one: ForeignCase) -> Path:
        """Where the benchmark runs: pytest in the checkout, asv where its setup_cache has left what it made."""
        if self.place.kind == "pytest":
            return self.place.tree
        folder = self.place.scratch / sha256((one.cache or one.name).encode()).hexdigest()[:12]
        folder.mkdir(exist_ok=True)
        if one.cache is not None and not (folder / "cache.pickle").exists():
            filling = ForeignProcess(self.place, self.known)
            try:
                filling._open(folder)
                filling._ask({**self.place.request(), "do": "cache", "name": one.name})
            finally:
                filling.close()
        return folder

    def _open(self, folder: Path) -> None:
        place = self.place
        variables = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, place.path)), "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            self._process = subprocess.Popen(
                [place.python, str(CHILD)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log,
                cwd=folder, env=variables, text=True, bufsize=1,
            )  # fmt: skip
        except OSError as problem:
            raise InputError(
                f"{place.python} cannot be started: {problem.strerror}", help="name a Python with --python"
            ) from problem
        if place.affinity:
            os.sched_setaffinity(self._process.pid, place.affinity)

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json_line(request))
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise CheckFailed(
                f"the measuring process ended with status {self._process.wait()}{self._tail()}",
                help="run the benchmark by itself; out of memory ends a process with status -9",
            )
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            tail = self._tail() if answer["exit_status"] == 1 else ""
            raise _ERRORS.get(answer["exit_status"], CheckFailed)(answer["error"] + tail, help=answer["help"])
        return answer

    def _tail(self) -> str:
        self._log.seek(0)
        lines = [line.rstrip() for line in self._log if line.strip()][-LOG_LINES:]
        return ": " + " | ".join(lines) if lines else ""


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
