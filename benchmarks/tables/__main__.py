"""Our default on twenty tables, against scikit-learn's MLP and linear models at theirs.

::

    python -m benchmarks.tables --out docs/results/tables.md

Every measurement is a line of JSON in ``--records``. What is there is not measured again: an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.tables.page import write_page
from benchmarks.tables.sources import TABLES, Source
from lrdiff_bench.report.page import as_given, render
from lrdiff_bench.report.record import PageFiles, add_page_options
from lrdiff_bench.system.machine import joined_provenance, provenance

TWENTY: Mapping[str, Any] = {"format": "lrdiff.tables", "version": 1}
SEEDS = 5
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
MINUTES = 15  # that one measurement may take before it counts as failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_page_options(parser)
    parser.add_argument("--records", type=Path, default=Path("runs/tables.jsonl"), help="a line a table and seed")
    parser.add_argument("--tables", help="names, separated by commas; left out: all")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"split seeds of each table (default {SEEDS})")
    parser.add_argument("--jobs", type=int, default=1, help="measurements at a time; seconds are of processor time")
    given = parser.parse_args()
    chosen = [table for table in TABLES if not given.tables or table.name in given.tables.split(",")]
    if not chosen:
        parser.error(f"no such table; there are: {', '.join(table.name for table in TABLES)}")
    files = PageFiles.of(given)
    document = files.document(lambda: _measured(chosen, given.records, given.seeds, given.jobs), **TWENTY)
    text, held = tables_page(document)
    files.write(text)
    print(text.partition("## The bar")[2].partition("\n## ")[0].strip())
    return 0 if held else 1


def tables_page(document: Mapping[str, Any]) -> tuple[str, bool]:
    """The document as Markdown, and whether the bar is held."""
    chosen = [table for table in TABLES if table.name in document["tables"]]
    head = render("written_by.md", **document).rstrip()
    return write_page(document["rows"], chosen, seeds=document["seeds"], head=head)


def _measured(chosen: Sequence[Source], records: Path, seeds: int, jobs: int) -> dict[str, Any]:
    """What the records lack is measured; every record says where and at which commit that was."""
    here = provenance("scikit-learn")
    rows, names = _read(records), [table.name for table in chosen]
    done = {(row["table"], row["seed"]) for row in rows}
    every = [(table, seed) for seed in range(seeds) for table in chosen]  # a whole seed before the next
    wanted = [one for one in every if (one[0].name, one[1]) not in done]
    if wanted:
        joined_provenance([*rows, here])  # before the hours that measuring may take
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        for number, row in enumerate(pool.map(lambda one: _measure(*one), wanted), start=1):
            rows.append({**row, **here})
            _append(records, rows[-1])
            print(f"{number}/{len(wanted)}  {_told(row)}", flush=True)
    rows = [row for row in rows if row["table"] in names]
    plain = [{key: value for key, value in row.items() if key not in ("machine", "versions")} for row in rows]
    return {"command": as_given(), "quick": False, **joined_provenance(rows or [here]), "seeds": seeds, "tables": names,
            "rows": plain}  # fmt: skip


def _measure(table: Source, seed: int) -> dict[str, Any]:
    """In a process of its own, so that no measurement pays for another's memory or threads."""
    command = [sys.executable, "-m", "benchmarks.tables.models", table.name, str(seed)]
    if seed == 0:
        command.append("whole")  # the first seed does the whole run, for its time
    try:
        done = subprocess.run(
            command, env=os.environ | ONE_THREAD, capture_output=True, text=True, timeout=60 * MINUTES, check=False
        )
    except subprocess.TimeoutExpired:
        return {"table": table.name, "seed": seed, "problem": f"longer than {MINUTES} minutes"}
    if done.returncode:
        said = re.sub(r"\S*/", "", done.stderr.strip())  # names of files without their temporary folder
        return {"table": table.name, "seed": seed, "problem": " | ".join(said.splitlines()[-2:])[:500]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _told(row: dict[str, Any]) -> str:
    if "problem" in row:
        return f"{row['table']} seed {row['seed']}: {row['problem']}"
    scores = "  ".join(f"{name} {row[name]['score']:.3f}/{row[name]['loss']:.3f}" for name in ("ours", "mlp", "linear"))
    return f"{row['table']} seed {row['seed']}: {scores}  {row['ours']['seconds']:.0f} s"


def _read(file: Path) -> list[dict[str, Any]]:
    """The records that are whole; one that failed, or does not say where it was measured, is measured again."""
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:  # the last line of a run that was killed
            continue
    return [row for row in rows if "problem" not in row and "machine" in row]


def _append(file: Path, row: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as out:
        out.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    sys.exit(main())
