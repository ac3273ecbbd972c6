"""A case measured in forked copies of this process, for asv, which has a process of its own for each benchmark.

asv wants the time of a case and its error in two benchmarks. Whoever asks first measures and leaves the record in a
folder that all of them share; the others read it there.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path

from lrdiff_bench.measure.engine.case import Case
from lrdiff_bench.measure.engine.process import Effort, can_fork
from lrdiff_bench.measure.engine.record import Record, join_records, parse_record
from lrdiff_bench.measure.engine.store import SUFFIX, replace_record
from lrdiff_bench.measure.engine.suite import measure_here
from lrdiff_bench.system.machine import commit_seconds
from lrdiff_core.errors import CheckFailed
from lrdiff_core.files import write_json

__all__ = ["commit_run", "measure_in_copies", "shared_record"]


def shared_record(case: Case, effort: Effort, shared: Path, *, reader: str, records: Path | None = None) -> Record:
    """The record of a timed case, measured once for all its readers.

    A reader that asks again wants new samples (``asv run --attribute rounds=3``) and gets them.

    Args:
        case: to measure in copies of this process.
        effort: if it is measured.
        shared: folder of the records that others have measured.
        reader: who asks.
        records: folder of runs to put a new record into, a run a commit; it takes the place of an earlier one.

    Raises:
        CheckFailed: it could not be measured.
    """
    file = shared / f"{hashlib.sha256(case.label.encode()).hexdigest()[:16]}.json"
    if file.is_file():
        found = json.loads(file.read_text(encoding="utf-8"))
        if reader not in found["readers"]:
            write_json(file, {**found, "readers": [*found["readers"], reader]})
            return parse_record(found["record"], where=str(file))
    record = measure_in_copies(case, effort)
    write_json(file, {"readers": [reader], "record": record.model_dump_json()})
    run = None if records is None else commit_run(records, record)
    if run is not None:
        replace_record(run, record)
    return record


def commit_run(folder: Path, record: Record) -> Path | None:
    """The file of a commit's records, named so that ``latest`` is the newest commit; None outside a checkout."""
    seconds = commit_seconds()
    if record.code.commit is None or seconds is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{datetime.fromtimestamp(seconds, UTC):%Y%m%dT%H%M%SZ}-{record.code.commit[:10]}{SUFFIX}"


def measure_in_copies(case: Case, effort: Effort) -> Record:
    """Measure a timed case in forked copies of this process, one after the other.

    There are as many as the effort has processes and time for. Where forking will not do (see :func:`can_fork`), it is
    measured in this process, once.

    Raises:
        CheckFailed: a copy ended before it had measured; its traceback is on stderr.
    """
    if not can_fork(str(case.parameters.get("device", "cpu"))):
        return measure_here(case, effort)
    began = time.perf_counter()
    parts = [_measure_in_copy(case, effort)]
    while len(parts) < effort.processes and time.perf_counter() - began < effort.case_seconds:
        parts.append(_measure_in_copy(case, effort))
    return join_records(parts)


def _measure_in_copy(case: Case, effort: Effort) -> Record:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reading)
            with os.fdopen(writing, "w", encoding="utf-8") as answer:
                answer.write(measure_here(case, effort).model_dump_json())
            status = 0
        except BrokenPipeError:  # whoever asked is gone
            pass
        except Exception:  # noqa: BLE001  # whatever it is, its traceback is the answer
            traceback.print_exc()
        finally:  # whatever happens, this copy must not go on as if it were the original
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as answer:
        text = answer.read()
    _, status = os.waitpid(child, 0)
    if status:
        raise CheckFailed(
            f"the process that measured {case.label} ended with status {os.waitstatus_to_exitcode(status)}",
            help="its output is above; out of memory ends a process with status -9",
        )
    return parse_record(text, where=case.label)
