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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.tables.page import write_page
from benchmarks.tables.sources import TABLES, Source

SEEDS = 5
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
MINUTES = 15  # that one measurement may take before it counts as failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="the page to write; left out: only the verdict is printed")
    parser.add_argument("--records", type=Path, default=Path("runs/tables.jsonl"), help="a line a table and seed")
    parser.add_argument("--tables", help="names, separated by commas; left out: all")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"split seeds of each table (default {SEEDS})")
    parser.add_argument("--jobs", type=int, default=1, help="measurements at a time; seconds are of processor time")
    parser.add_argument("--only-page", action="store_true", help="measure nothing: write the page from the records")
    given = parser.parse_args()
    chosen = [table for table in TABLES if not given.tables or table.name in given.tables.split(",")]
    if not chosen:
        parser.error(f"no such table; there are: {', '.join(table.name for table in TABLES)}")
    rows = _read(given.records)
    if not given.only_page:
        done = {(row["table"], row["seed"]) for row in rows}
        every = [(table, seed) for seed in range(given.seeds) for table in chosen]  # a whole seed before the next
        wanted = [one for one in every if (one[0].name, one[1]) not in done]
        with ThreadPoolExecutor(max_workers=given.jobs) as pool:
            for number, row in enumerate(pool.map(lambda one: _measure(*one), wanted), start=1):
                rows.append(row)
                _append(given.records, row)
                print(f"{number}/{len(wanted)}  {_told(row)}", flush=True)
    names = [table.name for table in chosen]
    text, held = write_page([row for row in rows if row["table"] in names], chosen, seeds=given.seeds)
    if given.out is not None:
        given.out.write_text(text, encoding="utf-8")
        print(f"wrote {given.out}")
    print(text.partition("## The bar")[2].partition("\n## ")[0].strip())
    return 0 if held else 1


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
    """The records that are whole; a failed measurement is tried again."""
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:  # the last line of a run that was killed
            continue
    return [row for row in rows if "problem" not in row]


def _append(file: Path, row: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as out:
        out.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    sys.exit(main())
