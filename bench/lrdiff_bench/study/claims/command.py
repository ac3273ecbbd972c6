"""``lrdiff study claims``: published claims, and what the finished studies say of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from lrdiff_bench.report import gains
from lrdiff_bench.report.json import print_json
from lrdiff_bench.report.page import as_given, render
from lrdiff_bench.report.tables import line, make_console, plain_table
from lrdiff_bench.study.claims.claim import load_claims
from lrdiff_bench.study.claims.judge import Finding, judge
from lrdiff_bench.study.describe import column_rows, versions_line
from lrdiff_bench.study.folder import list_names, read_study
from lrdiff_bench.study.records import read_records
from lrdiff_bench.study.search.optuna_storage import default_url
from lrdiff_core.errors import CheckpointError, ConfigError
from lrdiff_core.files import write_text

__all__ = ["claims"]

FORMAT = "lrdiff claims 1"


def claims(
    names: Sequence[str],
    *,
    folder: Path,
    storage: str | None,
    records: Path | None = None,
    out: Path | None,
    json: bool,
) -> int:
    """Show claims with their verdicts, or write them as a page.

    Args:
        names: of claims, or files; none: all that come with the project.
        folder: that holds the studies.
        storage: of the studies, where it is not the folder's.
        records: folder of studies that were kept as records.
        out: the page to write, a Markdown file.
        json: print one JSON document and nothing else.

    Raises:
        ConfigError: no such claim, or a page that cannot be written there.
    """
    if out is not None and (out.suffix != ".md" or not out.parent.is_dir()):
        raise ConfigError(f"--out is {out}", help="name a Markdown file in a folder that is there")
    chosen = load_claims(list(names))
    wanted = {study for claim in chosen for study in claim.studies}
    kept = {} if records is None else read_records(records)
    findings = judge(chosen, {**kept, **_documents(wanted, folder, storage)})
    if json:
        print_json({"format": FORMAT, "findings": [_record(one) for one in findings]})
        return 0
    if out is not None:
        write_text(out, _page(findings))
        line(make_console(), f"{out}: {len(chosen)} {'claim' if len(chosen) == 1 else 'claims'}")
        return 0
    _draw(findings)
    return 0


def _documents(wanted: set[str], folder: Path, storage: str | None) -> dict[str, Any]:
    if storage is None and not (folder / "studies.db").is_file():
        return {}
    url = storage or default_url(folder)
    documents = {}
    for name in sorted(wanted & set(list_names(url))):
        try:
            documents[name] = read_study(url, name, curves=False)
        except CheckpointError:  # begun and not finished, or by an earlier protocol: "not run", as it stands
            continue
    return documents


def _draw(findings: Sequence[Finding]) -> None:
    console = make_console()
    table = plain_table("claim", "study", "gain [95 %]", "verdict", "result")
    table.columns[4].header = "outcome"
    for one in findings:
        gain = "" if one.gain is None else gains.gain(vars(one.gain))
        verdict = "" if one.gain is None else str(one.gain.verdict)
        table.add_row(Text(one.claim.name), one.study, gain, verdict, one.outcome)
    console.print(table)
    line(console, _family(findings), "dim")
    open_ones = list(dict.fromkeys(one.study for one in findings if one.gain is None))
    if open_ones:
        line(console, f"not run yet: lrdiff study {' '.join(open_ones)} --until-resolved", "dim")


def _counted(words: Sequence[str]) -> str:
    return ", ".join(word if times == 1 else f"{word} ({times})" for word, times in Counter(words).items())


def _page(findings: Sequence[Finding]) -> str:
    by_claim: dict[str, list[Finding]] = {}
    for one in findings:
        by_claim.setdefault(one.claim.name, []).append(one)
    rows = [
        [
            found[0].claim.title,
            ", ".join(one.study for one in found),
            found[0].claim.expects,
            _counted(["not run" if one.gain is None else str(one.gain.verdict) for one in found]),
            _counted([one.outcome for one in found]),
        ]
        for found in by_claim.values()
    ]
    documents = {one.study: one.document for one in findings if one.document is not None}
    return render(
        "claims.md",
        command=as_given(),
        rows=rows,
        family=_family(findings),
        claims=[
            {"claim": found[0].claim, "studies": [_row(one) for one in found], "command": _command(found)}
            for found in by_claim.values()
        ],
        versions=[f"{name}: {versions_line(document)}" for name, document in documents.items()],
    )


def _row(one: Finding) -> list[str]:
    if one.gain is None or one.document is None:
        return [one.study, "", "", "", "", "", "not run", ""]
    columns = column_rows(one.document)
    metric, mode = one.document["workload"]["metric"], one.document["mode"]
    record = vars(one.gain)
    return [
        one.study if mode == "full" else f"{one.study} {mode.upper()}",
        metric,
        columns[0][1],
        columns[1][1],
        gains.gain(record),
        gains.better(record),
        str(one.gain.verdict),
        one.outcome,
    ]


def _command(found: Sequence[Finding]) -> str:
    return f"lrdiff study {' '.join(one.study for one in found)} --until-resolved"


def _family(findings: Sequence[Finding]) -> str:
    """How many comparisons the correction is over."""
    family = {(one.study, one.claim.scheme) for one in findings if one.gain is not None}
    return (
        f"the claim's own scheme against the tuned single rate; verdicts after Holm's correction over {len(family)}"
        if family
        else "no study of these claims is finished"
    )


def _record(one: Finding) -> dict[str, Any]:
    gain = None if one.gain is None else {**vars(one.gain), "verdict": str(one.gain.verdict)}
    return {**one.claim.model_dump(), "study": one.study, "gain": gain, "outcome": one.outcome}
