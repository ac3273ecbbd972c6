"""Studies beside the same ones on other seeds: which numbers come again.

Of two independent estimates with exact 95 % intervals of one width, the second lies in the interval of the first in
83 of 100 cases, and the intervals overlap in 99 (Cumming and Maillardet 2006, doi:10.1037/1082-989X.11.3.217).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lrdiff_bench.report.gains import gain, interval
from lrdiff_bench.study.records import as_recorded
from lrdiff_core.errors import ConfigError

__all__ = ["Again", "again"]

Document = Mapping[str, Any]
Number = tuple[str, Sequence[float], Sequence[float], tuple[str, str]]  # name, both with interval, both as text


@dataclass(frozen=True, kw_only=True)
class Again:
    """What came again.

    Args:
        rows: study, number, first, on other seeds, and whether that lies in the interval of the first.
        numbers, inside, overlapping: how many numbers there are, lie in the interval of the first, and have an
            interval that shares a value with that of the first.
        verdicts, same: how many verdicts there are by the studies themselves, and are the same.
    """

    rows: tuple[tuple[str, str, str, str, str], ...]
    numbers: int
    inside: int
    overlapping: int
    verdicts: int
    same: int


def again(documents: Sequence[Document], first: Mapping[str, Document]) -> Again:
    """Hold medians and gains of studies against those of the same workloads on other seeds.

    Args:
        documents: of studies.
        first: those that they repeat, by name: of the same workload and mode on other seeds, those from 0 first.

    Raises:
        ConfigError: a study repeats none of these.
    """
    rows: list[tuple[str, str, str, str, str]] = []
    overlapping = verdicts = same = 0
    for document in documents:
        origin = _origin(document, first)
        for name, before, after, shown in _numbers(origin, document):
            inside = before[1] <= after[0] <= before[2]
            overlapping += before[1] <= after[2] and after[1] <= before[2]
            rows.append((document["name"], name, *shown, "yes" if inside else "no"))
        for _, one, other in _gains(origin, document):
            verdicts += 1
            same += one["verdict"] == other["verdict"]
    return Again(
        rows=tuple(rows),
        numbers=len(rows),
        inside=sum(row[-1] == "yes" for row in rows),
        overlapping=overlapping,
        verdicts=verdicts,
        same=same,
    )


def _origin(document: Document, first: Mapping[str, Document]) -> Document:
    for one in sorted(first.values(), key=lambda one: bool(one["plan"]["seeds_from"])):
        if _asked(one) == _asked(document) and one["plan"]["seeds_from"] != document["plan"]["seeds_from"]:
            return one
    raise ConfigError(
        f"{document['name']} has no record of the same study on other seeds to be held against",
        help="name the folder of such records, and only studies that it has",
    )


def _asked(document: Document) -> tuple[Any, ...]:
    """What was studied and how, but for its description."""
    described = ("title", "question", "label")
    asked = {key: value for key, value in document["workload"].items() if key not in described}
    return document["mode"], as_recorded(asked)  # one may come from a record, the other from its storage


def _numbers(first: Document, document: Document) -> list[Number]:
    """Medians that are finite on both sides, and gains."""
    found: list[Number] = []
    medians = {column["name"]: column["median"] for column in first["columns"]}
    for column in document["columns"]:
        before, after = medians.get(column["name"]), column["median"]
        if before is not None and None not in (*before, *after):
            found.append((f"median, {column['name']}", before, after, (interval(before), interval(after))))
    for name, one, other in _gains(first, document):
        before, after = ([each[key] for key in ("estimate", "low", "high")] for each in (one, other))
        texts = (f"{gain(one)} {one['verdict']}", f"{gain(other)} {other['verdict']}")
        found.append((f"gain, {name}", before, after, texts))
    return found


def _gains(first: Document, document: Document) -> list[tuple[str, Document, Document]]:
    """Every scheme with its gain there and here; the schemes are those of one workload."""
    before = {scheme["name"]: scheme["gain"] for scheme in first["schemes"]}
    return [(one["name"], before[one["name"]], one["gain"]) for one in document["schemes"] if one["gain"] is not None]
