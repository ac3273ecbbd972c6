"""The studies of a storage as one page, ``docs/results/convergence.md``, with the pictures beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lrdiff_bench.report import gains
from lrdiff_bench.report.page import render
from lrdiff_bench.study import describe
from lrdiff_bench.study.again import Again

__all__ = ["studies_page"]

Document = Mapping[str, Any]


def studies_page(
    documents: Sequence[Document],
    suite: Mapping[str, Any] | None,
    pictures: Sequence[Path],
    command: str,
    *,
    title: str,
    repeated: Again | None = None,
) -> str:
    """Return the page.

    Args:
        documents: of finished studies.
        suite: of all of them together; None for one.
        pictures: that lie beside the page.
        command: that wrote it.
        title: of the page.
        repeated: which numbers of these came again on other seeds; None where that was not asked.
    """
    return render(
        "studies.md",
        title=title,
        command=command,
        reduced={document["mode"] for document in documents} != {"full"},
        verdicts=describe.suite_rows(documents, suite),
        overall=None if suite is None else gains.interval(suite["interquartile_mean"], sign=True),
        repeated=repeated,
        shown=_shown(pictures, "verdicts", "profile"),
        studies=[_study(document, suite, pictures) for document in documents],
    )


def _study(document: Document, suite: Mapping[str, Any] | None, pictures: Sequence[Path]) -> dict[str, Any]:
    workload, name, target = document["workload"], document["name"], document["target"]
    label = f" ({workload['label']})" if workload["label"] else ""
    return {
        "name": name,
        "title": f"{name}: {workload['title']}{label}",
        "question": workload["question"],
        "claimed_by": document["claimed_by"],
        "mode": describe.MODES[document["mode"]],
        "verdict": describe.verdict_text(document),
        "metric": workload["metric"],
        "columns": describe.column_rows(document),
        "schemes": describe.scheme_rows(document, None if suite is None else suite["schemes"]),
        "notes": [
            "*: chosen on validation data.",
            *(f"{text}." for text in (*describe.look_lines(document), *describe.space_lines(document))),
            *(f"Best of k trials, {text}." for text in describe.crossing_lines(document)),
            "No target: the baseline diverged." if target is None else f"Target: {gains.number(target)}.",
            f"{describe.budget_line(document)}; {_seeds(document['seeds'])}.",
        ],
        "shown": _shown(pictures, f"{name}-best-of", f"{name}-pairs", f"{name}-steps"),
        "versions": describe.versions_line(document),
    }


def _seeds(seeds: Mapping[str, Any]) -> str:
    tuning, report, points = seeds["tuning"], seeds["report"], seeds["points"]
    return (
        f"tuning seeds {tuning[0][0]} to {tuning[-1][1]}, reporting seeds {report[0]} to {report[1]}, "
        f"points' seeds {points[0]} to {points[-1]}"
    )


def _shown(pictures: Sequence[Path], *endings: str) -> list[Path]:
    return [p for ending in endings for p in pictures if p.suffix == ".png" and p.stem.endswith(ending)]
