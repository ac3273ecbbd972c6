"""What was done and what was found; and tasks side by side, each in a process of its own that writes such a record."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["Record", "side_by_side"]

Task = Callable[["Record"], None]


class Record:
    """Counts by kind, and every fault with its case.

    Example:
        >>> one, other = Record(), Record()
        >>> one.add("export, SIGKILL", "the third", [])
        >>> other.take(one.document())
        >>> dict(other.counts), other.found
        ({'export, SIGKILL': 1}, [])
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.found: list[dict[str, Any]] = []
        self.kills, self.finished = 0, 0
        self.slowest = 0.0  # seconds from SIGINT or SIGTERM to the end
        # Seconds by part and what they were spent on, of all tasks together; a Counter counts anything.
        self.work: Any = Counter()
        self.processor: Any = Counter()  # and those of a processor, with all children

    def add(self, kind: str, what: str, found: Sequence[str], *, tried: int = 1) -> None:
        """Count a case, or several that were tried as one."""
        self.counts[kind] += tried
        for fault in found:
            self.found.append({"case": what, "fault": fault})
            print(f"FOUND  {what}: {fault}", file=sys.stderr, flush=True)

    def take(self, document: dict[str, Any]) -> None:
        """Add what another process did."""
        self.counts.update(document["counts"])
        self.work.update(document["work"])
        self.processor.update(document["processor"])
        self.found += document["found"]
        self.kills += document["kills"]
        self.finished += document["finished"]
        self.slowest = max(self.slowest, document["slowest_end"])

    def text(self, seconds: float) -> str:
        """The counts, and a last line of the whole."""
        lines = [f"{count:6d}  {kind}" for kind, count in sorted(self.counts.items())]
        work = [f"{self.processor[part]:6.0f}  {part}" for part, _ in self.processor.most_common()]
        return "\n".join([
            *lines,
            "",
            "processor seconds",
            *work,
            "",
            f"{self.kills} kills, {self.finished} commands finished and compared; slowest end {self.slowest:.1f} s "
            f"after SIGINT or SIGTERM; {len(self.found)} faults; {seconds:.0f} s, "
            f"{self.processor.total():.0f} of a processor",
        ])  # fmt: skip

    def document(self) -> dict[str, Any]:
        """For a file."""
        return {
            "format": "lrdiff.faults",
            "version": 1,
            "counts": dict(self.counts),
            "kills": self.kills,
            "finished": self.finished,
            "slowest_end": self.slowest,
            "work": dict(self.work),
            "processor": dict(self.processor),
            "found": self.found,
        }


def side_by_side(tasks: Sequence[tuple[str, Task]], record: Record, scratch: Path, *, at_once: int) -> None:
    """Do tasks in processes that are forked from this one, and bring together what they found.

    Args:
        tasks: the part that each belongs to, and what it does with a record of its own.
        record: takes all of them.
        scratch: for files.
        at_once: how many processes there are.
    """
    left = list(enumerate(tasks))
    going: dict[int, Path] = {}
    while left or going:
        while left and len(going) < at_once:
            number, (part, task) = left.pop(0)
            file = scratch / f"record-{number}.json"
            going[_forked(part, task, file)] = file
        pid, status = os.wait()
        file = going.pop(pid)
        if status:
            raise SystemExit(f"a task ended with status {os.waitstatus_to_exitcode(status)}; what it said is above")
        record.take(json.loads(file.read_text()))
        file.unlink()


def _forked(part: str, task: Task, file: Path) -> int:
    if pid := os.fork():
        return pid
    status = 70
    try:
        record, begun = Record(), time.monotonic()
        task(record)
        record.work[part] = time.monotonic() - begun
        record.processor[part] = sum(os.times()[:4])
        file.write_text(json.dumps(record.document()))
        status = 0
    except BaseException:  # noqa: BLE001 - this process ends here
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)
