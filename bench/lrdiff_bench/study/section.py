"""What a study adds to a report: the verdict, its gains pair by pair, curves, best of k, and every trial."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lrdiff_bench.report import charts, gains
from lrdiff_bench.report.parts import Part, fill_part
from lrdiff_bench.study import describe

__all__ = ["study_part", "suite_part"]

MOST_PAIRS = 400  # points of a curve of sorted pairs
Document = Mapping[str, Any]


def study_part(document: Document) -> Part:
    """The part of a report that shows one study.

    Args:
        document: of :func:`lrdiff_bench.study.analysis.document.document_of`.
    """
    workload = document["workload"]
    one = document["gain"]
    metric = workload["metric"]
    body = fill_part(
        "study.html",
        document=document,
        mode=describe.MODES[document["mode"]],
        verdict=one["verdict"],
        sentence=describe.verdict_text(document).partition(": ")[2],
        metric=metric,
        columns=describe.column_rows(document),
        schemes=[row[:6] for row in describe.scheme_rows(document)],
        forest=_forest(document),
        pairs=_pairs(document),
        curves=_curves(document),
        best_of=None if document["best_of"] is None else _best_of(document),
        notes=[
            *(f"{row[0]}: {row[6]}" for row in describe.scheme_rows(document) if row[6]),
            *describe.look_lines(document),
            *describe.space_lines(document),
            *describe.crossing_lines(document),
            describe.budget_line(document),
        ],
        trials=_trials(document),
        groups=workload["groups"],
        versions=describe.versions_line(document),
    )
    finding = gains.found(one, f"the rates of the tuned scheme {document['chosen']}", "one tuned rate")
    return Part(
        title=f"Study {document['name']}: {workload['title']}", finding=finding, rates=_rates(document), body=body
    )


def suite_part(documents: Sequence[Document], suite: Mapping[str, Any]) -> Part:
    """The part of a report that shows several studies together."""
    verdicts = [suite["gains"][document["name"]]["verdict"] for document in documents]
    counts = ", ".join(f"{verdict} in {verdicts.count(verdict)}" for verdict in dict.fromkeys(verdicts))
    rows = [
        charts.Bar(
            name=document["name"],
            look=gains.LOOKS[one["verdict"]],
            text=one["verdict"],
            **{end: one[name] / one["smallest"] for end, name in _ENDS.items()},
        )
        for document in documents
        for one in [suite["gains"][document["name"]]]
    ]
    body = fill_part(
        "suite.html",
        rows=describe.suite_rows(documents, suite),
        forest=charts.forest(
            rows, label="Gain of tuned differential rates over one tuned rate, 95 % intervals", band=1.0,
            x="gain, in smallest differences that matter (positive: different rates are better)",
        ),
    )  # fmt: skip
    return Part(title="All studies", finding=f"{len(documents)} studies: {counts}.", body=body)


_ENDS = {"value": "estimate", "low": "low", "high": "high"}


def _rates(document: Document) -> str:
    """Of the scheme that the verdict speaks for, the winner that was best on validation data."""
    name = document["chosen"] if document["gain"]["verdict"] == "HELPS" else document["schemes"][0]["name"]
    scheme = next(one for one in document["schemes"] if one["name"] == name)
    winners = [one for one in scheme["winners"] if one["validation"] is not None]
    if not winners:
        return ""
    pick = max if document["workload"]["metric"] == "accuracy" else min
    best = pick(winners, key=lambda one: float(one["validation"]))
    named = zip(document["workload"]["groups"], best["rates"], strict=True)
    lines = [f"{json.dumps(group)} = {rate:.4g}" for group, rate in named]
    return "\n".join([f"[rates]  # {name}, best of {len(winners)} searches on validation data", *lines])


def _forest(document: Document) -> charts.Chart:
    rows = [
        charts.Bar(
            name=scheme["name"] + (" *" if scheme["name"] == document["chosen"] else ""),
            look=gains.LOOKS[scheme["gain"]["verdict"]],
            text=scheme["gain"]["verdict"],
            **{end: scheme["gain"][name] for end, name in _ENDS.items()},
        )
        for scheme in document["schemes"]
        if scheme["gain"] is not None
    ]
    workload = document["workload"]
    return charts.forest(
        rows, label="Gain of each tuned scheme over the tuned single rate, 95 % intervals; * was chosen on validation",
        x=f"gain in {workload['metric']} (positive: different rates are better)", band=workload["smallest_difference"],
    )  # fmt: skip


def _pairs(document: Document) -> charts.Chart:
    """Paired differences in order: where the curve crosses zero is the share of pairs that are not better."""
    series = []
    for name, key in (("tuned differential", "gain_by_pair"), ("untuned default", "untuned_gain_by_pair")):
        values = np.sort(np.array(document[key], dtype=np.float64).ravel())
        some = np.unique(np.linspace(0, len(values) - 1, min(len(values), MOST_PAIRS)).astype(int))
        shares = [100 * (i + 0.5) / len(values) for i in some]
        series.append(charts.Line(name=name, x=[float(f"{s:.4g}") for s in shares], y=values[some].tolist()))
    smallest = document["workload"]["smallest_difference"]
    return charts.lines(
        series[:1], label=f"Paired differences to the tuned single rate, in order, of {document['chosen']}",
        x="% of pairs (search and seed)", y=f"gain in {document['workload']['metric']}",
        limits=[(smallest, "smallest difference that matters"), (0.0, "no difference"), (-smallest, "")],
    )  # fmt: skip


def _curves(document: Document) -> charts.Chart | None:
    steps = document["evaluated_after"]
    series = [
        charts.Line(
            name=one["name"] if one["name"] == "untuned default" else f"tuned {one['name']}",
            x=steps, y=one["curve"], low=one["low"], high=one["high"],
        )
        for one in document["columns"]
        if len(one["curve"]) == len(steps)
    ]  # fmt: skip
    if not series:
        return None
    target = document["target"]
    return charts.lines(
        series, label="On test data by step: median over searches with 95 % bands", x="steps",
        y=document["workload"]["metric"], limits=[] if target is None else [(target, "target")],
    )  # fmt: skip


def _best_of(document: Document) -> charts.Chart:
    ks = document["best_of"]["k"]
    single, chosen = document["schemes"][0]["name"], document["chosen"]
    series = [
        # The bands of all would hide each other.
        charts.Line(name=one["name"], x=ks, y=one["expected"], low=one["low"], high=one["high"])
        if one["name"] in (single, chosen)
        else charts.Line(name=one["name"], x=ks, y=one["expected"])
        for one in document["best_of"]["schemes"]
    ]
    positive = all(v is not None and v > 0 for one in series for v in (*one.y, *one.low, *one.high))
    return charts.lines(
        series, label="Expected best of k trials on validation data, 95 % bands", x="k, number of trials",
        y=document["workload"]["metric"], log_x=True, log_y=positive and document["workload"]["metric"] == "loss",
    )  # fmt: skip


def _trials(document: Document) -> list[list[str]]:
    rows = []
    for scheme in document["schemes"]:
        won = {(winner["search"], winner.get("point")) for winner in scheme["winners"]}
        for point in scheme.get("points", []):
            rows.append(
                [
                    scheme["name"],
                    str(point["search"] + 1),
                    *(f"{rate:.4g}" for rate in point["rates"]),
                    gains.number(point["validation"]) if point["validation"] is not None else "diverged",
                    "winner" if (point["search"], point["point"]) in won else "",
                ]
            )
    return rows
