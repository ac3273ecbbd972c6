"""What ``lrdiff ab`` hands on: a table for the screen and for a pull request, Bencher's metrics, JUnit's cases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from rich.console import Group
from rich.padding import Padding
from rich.text import Text

from lrdiff_bench.measure.engine.pairs.comparison import Comparison
from lrdiff_bench.measure.foreign.job import CaseResult
from lrdiff_bench.measure.screen import price
from lrdiff_bench.report.tables import INDENT, duration, plain_table, seconds
from lrdiff_bench.stats.verdict import Verdict
from lrdiff_core.files import write_text

__all__ = ["ab_document", "ab_table", "bencher_document", "junit_text", "markdown_text", "regressions", "write_files"]

SIGNS = {Verdict.FASTER: "green", Verdict.SLOWER: "red", Verdict.EQUIVALENT: "green", Verdict.UNRESOLVED: "yellow"}


def regressions(rows: Sequence[CaseResult], threshold: float) -> list[Comparison]:
    """Cases that are slower by more than the threshold with their whole interval.

    Args:
        rows: of a job.
        threshold: relative; 0.05 is 5 %, 0 every case that is called slower.
    """
    found = [row.comparison for row in rows if row.comparison is not None]
    return [one for one in found if one.verdict == Verdict.SLOWER and one.low > 1.0 + threshold]


def ab_table(rows: Sequence[CaseResult]) -> Group:
    """The screen's table: a line a case, and below what could not be measured and what a verdict would cost."""
    table = plain_table("benchmark", "before", "after", "ratio", "result")
    table.columns[0].no_wrap, table.columns[0].overflow = False, "fold"
    notes: list[Text] = [Text()]
    for row in rows:
        one = row.comparison
        if one is None:
            notes.append(Text(f"{row.case.id}: {row.reason}", style="red" if row.failed else "dim"))
            continue
        before, after = _times(one)
        table.add_row(row.case.id, before, after, f"{one.ratio:.3f}", Text(_result(one), style=SIGNS[one.verdict]))
        if one.doubt is not None:
            notes.append(Text(f"{row.case.id}: held back, {one.doubt}", style="dim"))
        if one.verdict == Verdict.UNRESOLVED:
            notes.append(Text(f"{row.case.id}: {price(one.minutes, one.more_processes)}", style="dim"))
    return Group(table, *(Padding(note, (0, 0, 0, len(INDENT))) for note in [*notes, Text(summary(rows))]))


def summary(rows: Sequence[CaseResult]) -> str:
    """How many of which verdict, by which clock, how far the same code differed, and what the rest would cost."""
    found = [row.comparison for row in rows if row.comparison is not None]
    words = Counter(str(one.verdict) for one in found)
    left = len(rows) - len(found)
    told = ", ".join(
        [*(f"{count} {word}" for word, count in words.items()), *([f"{left} not measured"] if left else [])]
    )
    if not found:
        return told
    clocks = Counter(one.clock for one in found)
    by = ", ".join(
        f"{count} by the {'wall' if clock == 'wall' else 'processor'} clock" for clock, count in clocks.items()
    )
    bands = [one.judged.same_band for one in found if one.judged.same_band is not None]
    same = f"; the same code differed by up to {100 * max(bands):.1f} %" if bands else ""
    open_ = [one.minutes for one in found if one.verdict == Verdict.UNRESOLVED]
    costs = [minutes for minutes in open_ if minutes is not None]
    time = duration(60 * sum(costs))
    settling = f"; to settle {len(costs)} of {len(open_)} unresolved: about {time}" if costs else ""
    return f"{told}; judged {by}{same}{settling}"


def _times(one: Comparison) -> tuple[str, str]:
    if one.clock == "processor" and one.a.processor is not None and one.b.processor is not None:
        return seconds(one.a.processor), seconds(one.b.processor)
    return seconds(one.a.wall), seconds(one.b.wall)


def _result(one: Comparison) -> str:
    return f"{one.verdict}, {one.low:.3f} to {'inf' if one.high is None else format(one.high, '.3g')}"


def markdown_text(rows: Sequence[CaseResult], *, title: str, command: str, threshold: float) -> str:
    """A comment for a pull request: the changes first, the rest folded away."""
    found = [row for row in rows if row.comparison is not None]
    changed = [row for row in found if row.comparison and row.comparison.verdict in (Verdict.SLOWER, Verdict.FASTER)]
    rest = [row for row in found if row not in changed]
    worse = regressions(rows, threshold)
    head = f"### {title}\n\n" + (
        f"**{len(worse)} slower**" + (f" by more than {100 * threshold:g} %" if threshold else "") if worse
        else "No benchmark became slower" + (f" by more than {100 * threshold:g} %" if threshold else "")
    )  # fmt: skip
    parts = [f"{head}: {summary(rows)}.\n"]
    if changed:
        parts.append(_markdown_rows(changed))
    if rest:
        parts.append(f"<details><summary>{len(rest)} others</summary>\n\n{_markdown_rows(rest)}\n</details>\n")
    left = [row for row in rows if row.comparison is None]
    if left:
        lines = "\n".join(f"- `{row.case.id}`: {row.reason}" for row in left)
        parts.append(f"<details><summary>{len(left)} not measured</summary>\n\n{lines}\n\n</details>\n")
    parts.append(f"Ratios are after over before, with intervals over fresh processes. `{command}`\n")
    return "\n".join(parts)


def _markdown_rows(rows: Sequence[CaseResult]) -> str:
    lines = ["| benchmark | before | after | ratio | interval | result | clock |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        one = row.comparison
        assert one is not None
        before, after = _times(one)
        name = row.case.id.replace("|", "\\|")
        high = "inf" if one.high is None else f"{one.high:.3g}"
        cells = (f"`{name}`", before, after, f"{one.ratio:.3f}", f"{one.low:.3f} to {high}", one.verdict, one.clock)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def bencher_document(rows: Sequence[CaseResult]) -> dict[str, Any]:
    """Bencher Metric Format: the latency of the judged side in nanoseconds, and the ratio with its interval.

    Source: https://bencher.dev/docs/reference/bencher-metric-format/
    """
    document: dict[str, Any] = {}
    for row in rows:
        one = row.comparison
        if one is None:
            continue
        after = one.b.processor if one.clock == "processor" and one.b.processor is not None else one.b.wall
        ratio = {"value": one.ratio, "lower_value": one.low}
        if one.high is not None:
            ratio["upper_value"] = one.high
        document[row.case.id] = {"latency": {"value": after * 1e9}, "ratio": ratio}
    return document


def junit_text(rows: Sequence[CaseResult], *, name: str, threshold: float) -> str:
    """JUnit: a case fails where it is slower beyond the threshold, and is skipped where nothing could be told."""
    worse = {one.id for one in regressions(rows, threshold)}
    suite = ElementTree.Element("testsuite", name=name, tests=str(len(rows)))
    counts = Counter[str]()
    for row in rows:
        one = row.comparison
        took = 0.0 if one is None else one.seconds
        case = ElementTree.SubElement(suite, "testcase", name=row.case.id, classname=name, time=f"{took:.3f}")
        if one is None:
            kind = "error" if row.failed else "skipped"
            counts[kind] += 1
            ElementTree.SubElement(case, kind, message=row.reason or "")
        elif one.id in worse:
            counts["failure"] += 1
            ElementTree.SubElement(case, "failure", message=f"ratio {one.ratio:.3f}, {_result(one)}")
        elif one.verdict == Verdict.UNRESOLVED:
            counts["skipped"] += 1
            text = f"ratio {one.ratio:.3f}, {_result(one)}; {price(one.minutes, one.more_processes)}"
            ElementTree.SubElement(case, "skipped", message=text)
        else:
            ElementTree.SubElement(case, "system-out").text = f"ratio {one.ratio:.3f}, {_result(one)}"
    for kind, plural in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        suite.set(plural, str(counts[kind]))
    ElementTree.indent(suite)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n"


def ab_document(rows: Sequence[CaseResult], *, file: Path, threshold: float) -> dict[str, Any]:
    """Everything for ``--json``."""
    return {
        "format": "lrdiff.ab",
        "version": 1,
        "file": str(file),
        "threshold": threshold,
        "comparisons": [row.comparison.model_dump(mode="json") for row in rows if row.comparison is not None],
        "not_measured": [
            {"case": row.case.id, "reason": row.reason, "failed": row.failed} for row in rows if row.comparison is None
        ],
        "regressions": [one.case for one in regressions(rows, threshold)],
    }


def write_files(texts: dict[Path, str]) -> None:
    """Write every file, whole or not at all."""
    for file, text in texts.items():
        write_text(file, text)
