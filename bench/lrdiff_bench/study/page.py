"""``docs/results/convergence.md``: the studies of a storage as one page, with the pictures beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lrdiff_bench.report import gains
from lrdiff_bench.study import words

__all__ = ["markdown"]

Document = Mapping[str, Any]


def markdown(
    documents: Sequence[Document], suite: Mapping[str, Any] | None, pictures: Sequence[Path], command: str
) -> str:
    """The page.

    Args:
        documents: of finished studies.
        suite: of all of them together; None for one.
        pictures: that lie beside the page.
        command: that wrote it.
    """
    lines = [
        "# Does it help?",
        "",
        f"Written by `{command}` from {len(documents)} finished {_studies(documents)}; they were made by the",
        "[protocol](../guide/protocol.md). The single rate and every scheme were tuned with the same number of trials.",
    ]
    modes = {document["mode"] for document in documents}
    if modes != {"full"}:
        lines += ["", "**QUICK or REDUCED studies are among these: they are looks, not the protocol.**"]
    head = ["workload", "metric", "untuned default", "tuned single", "tuned differential", "scheme"]
    head += ["gain [95 %]", "better in % of pairs", "verdict"]
    lines += ["", "## Verdicts", "", *_table(head, words.suite_rows(documents, suite)), ""]
    lines.append(
        "Medians over fresh seeds on test data; the gain is that of the tuned differential scheme (chosen on "
        "validation data) over the tuned single rate, an interquartile mean over pairs; positive is better."
    )
    if suite is not None:
        lines += [
            f"Verdicts are after Holm's correction over {len(documents)} workloads. Over all runs the gain is "
            f"{gains.interval(suite['interquartile_mean'], sign=True)} smallest differences",
            "(interquartile mean, stratified bootstrap over seeds, luck in tuning not counted; above zero is better).",
        ]
    lines += _shown(pictures, ("verdicts", "profile"))
    for document in documents:
        lines += _study(document, suite, pictures)
    lines += ["", "## Versions", ""]
    for document in documents:
        lines.append(f"- {document['name']}: {words.versions_line(document)}")
    return "\n".join(lines) + "\n"


def _study(document: Document, suite: Mapping[str, Any] | None, pictures: Sequence[Path]) -> list[str]:
    workload = document["workload"]
    corrected = None if suite is None else suite["schemes"]
    over = "its schemes" if suite is None else "all schemes of all workloads"
    label = f" ({workload['label']})" if workload["label"] else ""
    lines = ["", f"## {document['name']}: {workload['title']}{label}", "", workload["question"]]
    if document["claimed_by"]:
        lines += ["", f"Claimed by: {document['claimed_by']}."]
    if document["mode"] != "full":
        lines += ["", f"**{words.MODES[document['mode']]}**"]
    lines += ["", f"By itself: {words.verdict_text(document)}.", ""]
    lines += _table(
        [f"{workload['metric']} on test data", "median [95 %]", "diverged", "time to target"],
        words.column_rows(document),
    )
    lines += ["", f"Every scheme against the tuned single rate, verdicts after Holm's correction over {over}:", ""]
    lines += _table(
        [
            "scheme",
            "gain [95 %]",
            "better in % of pairs",
            "verdict",
            "diverged in the search",
            "winning base rates and ratios",
            "beside the interquartile mean",
        ],
        words.scheme_rows(document, corrected),
    )
    target = document["target"]
    notes = [
        "*: chosen on validation data.",
        *(f"{text}." for text in words.space_lines(document)),
        *(f"Best of k trials, {text}." for text in words.crossing_lines(document)),
        "No target: the baseline diverged." if target is None else f"Target: {gains.number(target)}.",
        f"{words.budget_line(document)}; {_seeds(document)}.",
    ]
    lines += ["", *(f"- {note}" for note in notes)]
    return lines + _shown(
        pictures, (f"{document['name']}-best-of", f"{document['name']}-pairs", f"{document['name']}-steps")
    )


def _seeds(document: Document) -> str:
    seeds = document["seeds"]
    tuning = f"{seeds['tuning'][0][0]} to {seeds['tuning'][-1][1]}"
    report = f"{seeds['report'][0]} to {seeds['report'][1]}"
    return (
        f"tuning seeds {tuning}, reporting seeds {report}, points' seeds {seeds['points'][0]} to {seeds['points'][-1]}"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return [
        f"| {' | '.join(head)} |",
        "| " + " | ".join(["---"] * len(head)) + " |",
        *(f"| {' | '.join(row)} |" for row in cells),
    ]


def _shown(pictures: Sequence[Path], endings: Sequence[str]) -> list[str]:
    found = [p for ending in endings for p in pictures if p.suffix == ".png" and p.stem.endswith(ending)]
    return ["", *(f"![{path.stem.replace('-', ' ')}]({path.name})" for path in found)] if found else []


def _studies(documents: Sequence[Document]) -> str:
    return "study" if len(documents) == 1 else "studies"
