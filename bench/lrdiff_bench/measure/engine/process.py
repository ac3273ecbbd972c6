"""Fresh processes that measure, seen from the one that drives them."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from lrdiff_bench.measure.asked import AskedProcess
from lrdiff_bench.measure.engine.case import Case
from lrdiff_bench.measure.engine.timer import Sample
from lrdiff_core.errors import ConfigError

__all__ = ["Effort", "MeasuringProcess", "can_fork", "code_path"]


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is measured.

    Args:
        processes: fresh ones a case.
        samples: blocks a process.
        block_seconds: least length of a block.
        warmup_seconds: warm-up ends at the latest after so long.
        most_seconds: no block is begun after so long in one process, once there are three.
        case_seconds: no process is begun after so long for one case, once there is one.

    Raises:
        ConfigError: a number below one, or a time that is not positive.
    """

    processes: int
    samples: int
    block_seconds: float
    warmup_seconds: float
    most_seconds: float
    case_seconds: float = math.inf

    def __post_init__(self) -> None:
        if self.processes < 1 or self.samples < 1:
            raise ConfigError(
                f"{self.processes} processes of {self.samples} samples", help="write whole numbers from 1 up"
            )
        if min(self.block_seconds, self.warmup_seconds, self.most_seconds, self.case_seconds) <= 0:
            raise ConfigError("a time of the effort is not positive", help="write seconds above 0")

    @classmethod
    def whole(cls, processes: int = 1) -> Effort:
        """What a whole run spends on a case: about two seconds a process."""
        return cls(
            processes=processes,
            samples=30,
            block_seconds=0.01,
            warmup_seconds=1.0,
            most_seconds=3.0,
        )

    @classmethod
    def quick(cls, processes: int = 1) -> Effort:
        """What a quick run spends on a case: a look, no basis for a decision."""
        return cls(
            processes=processes,
            samples=7,
            block_seconds=0.002,
            warmup_seconds=0.2,
            most_seconds=0.5,
        )

    @classmethod
    def history(cls) -> Effort:
        """What a history spends on a case of one commit: two processes, as two differ; one where it is slow."""
        return cls(
            processes=2,
            samples=10,
            block_seconds=0.005,
            warmup_seconds=0.3,
            most_seconds=0.5,
            case_seconds=3.0,
        )


class MeasuringProcess:
    """A process of :mod:`lrdiff_bench.measure.engine.child`, or with ``fork`` one whose copies measure case after case.

    Args:
        fork: several cases may be measured after one another, each in a copy.
        path: folders whose packages are measured instead of the installed ones; see :func:`code_path`.
        environment: variables beside the present ones.
        affinity: processors it may use; left out, all that this process may.
    """

    def __init__(
        self,
        *,
        fork: bool = False,
        path: Sequence[Path] = (),
        environment: Mapping[str, str] | None = None,
        affinity: Sequence[int] = (),
    ) -> None:
        variables = {**os.environ, **(environment or {})}
        if path:
            variables["PYTHONPATH"] = os.pathsep.join(map(str, path))
        # -P: the present folder must not win over what is to be measured.
        command = [sys.executable, "-P", "-m", "lrdiff_bench.measure.engine.child", *(["--fork"] if fork else [])]
        self._process = AskedProcess(command, variables=variables, affinity=affinity)

    def __enter__(self) -> MeasuringProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self, case: Case, effort: Effort) -> None:
        """Build the case there and warm it up.

        Raises:
            LrdiffError: whatever went wrong there.
        """
        request = {
            "case": case.name,
            "module": case.module,
            "parameters": dict(case.parameters),
            "device": str(case.parameters.get("device", "cpu")),
            "block_seconds": effort.block_seconds,
            "warmup_seconds": effort.warmup_seconds,
        }
        self._process.ask(request, case.label)

    def block(self) -> Sample:
        """Measure one block."""
        return Sample(**self._process.ask({"do": "block"}, "a block"))

    def keep_to(self, processors: Sequence[int]) -> None:
        """Compute on these processors alone from now on."""
        self._process.keep_to(processors)

    def end(self) -> dict[str, Any]:
        """Finish the case and tell everything that is not a sample."""
        return self._process.ask({"do": "end"}, "the end")

    def close(self) -> None:
        """End the process; harmless when it has ended."""
        self._process.close()


def can_fork(device: str) -> bool:
    """Whether a forked copy may measure: on Linux, and not where a GPU's driver is in the process."""
    return sys.platform == "linux" and device == "cpu"


def code_path(checkout: Path) -> tuple[Path, ...]:
    """The folders of a checkout that hold the code to be measured.

    ``lrdiff_bench`` is not among them: engine and cases are this program's own on every side, only what they call
    (``lrdiff_core``, ``lrdiff_export``) is the checkout's. Two commits are so measured by one and the same ruler.
    """
    return (checkout, checkout / "export")
