"""The page of the counts: every number from the records."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import Any

from benchmarks.ab_counts.suites import SUITES

KINDS = {"same": (0.0, 200), "five": (0.05, 100), "twenty": (0.20, 40)}
"""By name: what is planted, and how often."""

FALSE, FOUND, SECONDS = 2, 0.95, 60.0  # the bar: of 200, of those planted, a case of 20 %


def write_counts(rows: Sequence[dict[str, Any]], arguments: Sequence[str] = ()) -> tuple[str, bool]:
    """The page, and whether the bar is held by all that it asks for; ``arguments`` are those of its command."""
    by = {kind: [row for row in rows if row["kind"] == kind] for kind in KINDS}
    false = sum(row["verdict"] in ("faster", "slower") for row in by["same"])
    found = {kind: sum(row["verdict"] == "slower" for row in by[kind]) for kind in ("five", "twenty")}
    slow = sorted(row["seconds"] for row in by["twenty"] if row["verdict"] == "slower")
    longest = slow[-1] if slow else None
    whole = all(len(by[kind]) >= count for kind, (_, count) in KINDS.items())
    quick = longest is not None and longest < SECONDS
    enough = all(count >= FOUND * KINDS[kind][1] for kind, count in found.items())
    held = whole and false <= FALSE and enough and quick
    command = shlex.join(["python", "-m", "benchmarks.ab_counts", *arguments])
    lines = [
        "# How often `lrdiff ab` is wrong",
        "",
        f"Written by `{command}`: {len(rows)} comparisons beside",
        "busy loops that come and go. Both sides are one commit; what is planted is an empty loop after each call,",
        "of as many turns as lengthen the call by that share, which was measured of each case beforehand.",
        "",
        *_where(rows),
        *(f"- {one.name}: {one.url} at {one.commit[:12]}, `{one.path}`" for one in SUITES),
        "",
        "| planted | comparisons | median ratio | faster | slower | equivalent | unresolved | asv's rule "
        "| compare-fail min:5% | compare-fail median:5% |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for kind, (share, _) in KINDS.items():
        words = [sum(row["verdict"] == word for row in by[kind]) for word in
                 ("faster", "slower", "equivalent", "unresolved")]  # fmt: skip
        asv = sum(row["asv"] in (("faster", "slower") if kind == "same" else ("slower",)) for row in by[kind])
        fails = [sum(row[f"fail_{field}"] for row in by[kind]) for field in ("min", "median")]
        ratios = [row["ratio"] for row in by[kind] if "ratio" in row]  # one that failed has none
        middle = f"{median(ratios):.3f}" if ratios else ""
        cells = [f"{100 * share:.0f} %" if share else "nothing", len(by[kind]), middle, *words, asv, *fails]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += [
        "",
        "asv's rule and compare-fail judge the same blocks by the wall clock: how often they call the second side",
        "slower (asv, where nothing is planted: or faster). By themselves they would not take these blocks in turn.",
        "",
        "## The bar",
        "",
        f"- false verdicts: {false} of {len(by['same'])} ({FALSE} of {KINDS['same'][1]} are allowed)",
        f"- planted 5 % found: {found['five']} of {len(by['five'])} ({100 * FOUND:.0f} of 100 are asked for)",
        f"- planted 20 % found: {found['twenty']} of {len(by['twenty'])}, the longest in "
        + ("none" if longest is None else f"{longest:.0f} s")
        + f" (under {SECONDS:.0f} s are asked for)",
        f"- {'held' if held else 'not held' if whole else 'not yet all measured'}",
        "",
    ]
    return "\n".join(lines), held


def _where(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Machine, versions and commit of every part of the campaign, from its rows."""
    parts = Counter(
        f"- {row['cpu']}, {row['cpus']} CPUs; commit {row['commit']}; {row['load']} busy loops; no group of processes "
        f"begun after {row['case_seconds']:.0f} s; "
        + ", ".join(f"{name} {version}" for name, version in row["versions"].items())
        for row in rows
    )
    return [f"{part}: {count} comparisons" for part, count in parts.items()]
