"""One measurement for all who ask: asv wants the time of a case and its error in two benchmarks.

asv starts a process for each benchmark. Whoever asks first measures and leaves the record in a folder that all of them
share; the others read it there.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

from lrdiff_bench.measure.engine.case import Case
from lrdiff_bench.measure.engine.process import Effort
from lrdiff_bench.measure.engine.record import Record, parse_record
from lrdiff_bench.measure.engine.store import SUFFIX, replace_record
from lrdiff_bench.measure.engine.suite import measure_in_copies
from lrdiff_bench.system.machine import commit_seconds
from lrdiff_core.files import write_json

__all__ = ["commit_run", "shared_record"]


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
