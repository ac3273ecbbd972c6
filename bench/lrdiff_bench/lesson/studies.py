"""The page of the studies as data.

After new studies: ``python -m lrdiff_bench.lesson.studies docs/results/convergence.md``. The storage that the studies
were made in is not part of the project, their page is; what the lesson says of them it says from the numbers on that
page, and a test compares the two.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from lrdiff_core.files import write_text

__all__ = ["STORED", "read_page"]

STORED = Path(__file__).parent / "assets" / "studies.json"
_NUMBER = r"[-+]?[0-9.]+(?:e[-+]?\d+)?"


def read_page(text: str) -> dict[str, Any]:
    """The verdicts of ``docs/results/convergence.md``, and how long each training took to its target.

    Args:
        text: the page, in Markdown.

    Returns:
        ``studies``: for each its name, title, question, metric, medians on test data (``untuned``, ``single``,
        ``differential``), ``gain`` [estimate, low, high] (positive where different rates are better), the
        ``smallest`` gain that matters, the ``verdict``, and ``reached`` (steps to the target, or the share of
        seeds that get there).
    """
    sections = re.split(r"^## ", text, flags=re.MULTILINE)
    verdicts = next(section for section in sections if section.startswith("Verdicts"))
    head, *rows = [_cells(line) for line in verdicts.splitlines() if line.startswith("|") and "---" not in line]
    at = {name: i for i, name in enumerate(head)}
    signed = "gain [95 %]" in at  # earlier pages have differences, which are negative where a lower loss is better
    studies = []
    for row in rows:
        name = row[at["workload"]].split(" (")[0]
        section = next(section for section in sections if section.startswith(f"{name}: "))
        metric = row[at["metric"]]
        gain = _numbers(row[at["gain [95 %]" if signed else "difference [95 %]"]])
        if not signed and metric == "loss":
            gain = [-gain[0], -gain[2], -gain[1]]
        smallest = re.search(rf"({_NUMBER}) is the smallest difference that matters", section)
        assert smallest is not None, name
        lines = section.splitlines()
        studies.append(
            {
                "name": name,
                "title": lines[0].partition(": ")[2],
                "question": lines[2],
                "metric": metric,
                "scheme": row[at["scheme"]],
                "untuned": _numbers(row[at["untuned default"]])[0],
                "single": _numbers(row[at["tuned single"]])[0],
                "differential": _numbers(row[at["tuned differential"]])[0],
                "gain": gain,
                "smallest": float(smallest[1]),
                "verdict": row[at["verdict"]],
                "reached": {
                    "single": _reached(section, "tuned single"),
                    "differential": _reached(section, f"tuned {row[at['scheme']]}"),
                },
            }
        )
    return {"page": "docs/results/convergence.md", "studies": studies}


def _reached(section: str, scheme: str) -> dict[str, float | None]:
    cell = next(_cells(line)[3] for line in section.splitlines() if line.startswith(f"| {scheme} |"))
    steps, share = re.match(r"([\d ]+) steps", cell), re.match(r"(\d+) % get there", cell)
    return {
        "steps": None if steps is None else float(steps[1].replace(" ", "")),
        "percent": None if share is None else float(share[1]),
    }


def _cells(line: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def _numbers(cell: str) -> list[float]:
    return [float(found) for found in re.findall(_NUMBER, cell)]


if __name__ == "__main__":
    write_text(STORED, json.dumps(read_page(Path(sys.argv[1]).read_text("utf-8")), indent=1) + "\n")
