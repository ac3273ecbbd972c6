"""What a study's document says in words and table cells, the same on the screen and on the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lrdiff_bench.report.gains import beside, better, gain, interval, number, percent
from lrdiff_bench.report.tables import duration, seconds

__all__ = [
    "MODES",
    "budget_line",
    "column_rows",
    "crossing_lines",
    "look_lines",
    "scheme_rows",
    "space_lines",
    "suite_rows",
    "time_text",
    "verdict_text",
    "versions_line",
]

MODES = {
    "full": "",
    "quick": "QUICK: a look, not the protocol",
    "reduced": "REDUCED: less than the protocol asks for",
}
Document = Mapping[str, Any]


def verdict_text(document: Document) -> str:
    """The verdict in one sentence, with its reason where it has one."""
    one, workload = document["gain"], document["workload"]
    text = (
        f"{one['verdict']}: tuned {document['chosen']} gains {gain(one)} {workload['metric']} over tuned "
        f"{workload['schemes'][0]['name']}, better in {better(one)} % of the pairs; "
        f"{number(workload['smallest_difference'])} is the smallest difference that matters"
    )
    reason = f"; {one['reason']}" if one["reason"] else ""
    return f"{text}{reason}{_settled(document)}"


def _settled(document: Document) -> str:
    """At which look the verdict was settled, or what settling it would cost here."""
    one = document["gain"]
    if one["verdict"] != "INCONCLUSIVE":
        of = document["plan"]["searches"]
        return f"; settled after {one['searches']} searches" + (f" of {of}" if of > one["searches"] else "")
    more = (one["searches_needed"] or 0) - one["searches"]
    about = "about" if document.get("seconds_are_whole") else "at least"  # earlier records count training steps alone
    return f", {about} {duration(more * document['seconds_a_search'])} here" if more > 0 else ""


def look_lines(document: Document) -> list[str]:
    """What each scheme's looks said; none where there was one look."""
    lines = []
    for scheme in document["schemes"]:
        looks = [] if scheme["gain"] is None else scheme["gain"]["looks"]
        if len(looks) > 1:
            parts = (
                f"{look['searches']} {gain({**look, 'smallest': scheme['gain']['smallest']})} {look['verdict']}"
                for look in looks
            )
            lines.append(f"{scheme['name']} by itself after {'; '.join(parts)}")
    return lines


def column_rows(document: Document) -> list[list[str]]:
    """Untuned default, tuned single, tuned differential: name, median, diverged, time to target."""
    by_name = {column["name"]: column for column in document["columns"]}
    single, chosen = document["workload"]["schemes"][0]["name"], document["chosen"]
    rows = []
    for label, name in (
        (f"untuned default ({number(document['workload']['default_rate'])})", "untuned default"),
        (f"tuned {single}", single),
        (f"tuned {chosen}", chosen),
    ):
        column = by_name[name]
        rows.append([label, interval(column["median"]), percent(column["diverged"]), time_text(column)])
    return rows


def time_text(column: Mapping[str, Any]) -> str:
    """Steps and seconds to the target; where the median run misses it, the share of the runs that do not."""
    if column["steps_to_target"] is None:
        return "no target"
    steps = column["steps_to_target"][0]
    if steps is None:
        return f"{100 * column['reached']:.0f} % get there"
    taken = column.get("training_seconds_to_target")  # earlier records have another time, with a compiler's in it
    return f"{steps:.0f} steps" if taken is None else f"{steps:.0f} steps, {seconds(taken)}"


def scheme_rows(document: Document, corrected: Mapping[str, Any] | None = None) -> list[list[str]]:
    """Every scheme: name, gain over single, improvement, verdict, diverged in the search, winners, what stands beside.

    Args:
        document: of a study.
        corrected: verdicts over a suite, by ``study / scheme``, instead of those over the study's own schemes.
    """
    rows = []
    for scheme in document["schemes"]:
        one = scheme["gain"]
        if one is not None and corrected is not None:
            one = corrected[f"{document['name']} / {scheme['name']}"]
        mark = " *" if scheme["name"] == document["chosen"] else ""
        rows.append(
            [
                scheme["name"] + mark,
                "" if one is None else gain(one),
                "" if one is None else better(one),
                "" if one is None else one["verdict"],
                percent(scheme["runs_diverged"]),
                winning(scheme),
                "" if one is None else beside(one),
            ]
        )
    return rows


def winning(scheme: Mapping[str, Any]) -> str:
    """Lowest and highest of what the searches' winners have, for each parameter."""
    parts = []
    for name in scheme["space"]:
        values = [winner["parameters"][name] for winner in scheme["winners"] if winner["parameters"]]
        if values:
            label = "" if name == "base rate" else f"{name} "
            low, high = f"{min(values):.2g}", f"{max(values):.2g}"
            parts.append(f"{label}{low}" if low == high else f"{label}{low} to {high}")
    return ", ".join(parts) or "none"


def crossing_lines(document: Document) -> list[str]:
    """Where best-of-k curves cross that of the single rate, and where they do not."""
    if document["best_of"] is None:
        return []
    single = document["workload"]["schemes"][0]["name"]
    lines = []
    for scheme in document["best_of"]["schemes"][1:]:
        crossings = scheme["crossings"]
        clear = [one for one in crossings if one["clear"]]
        if not crossings:
            lines.append(f"{scheme['name']}: does not cross {single}")
            continue
        at = ", ".join(
            f"k = {one['k']} ({'worse' if one['better_before'] else 'better'} from there)"
            for one in (clear or crossings)
        )
        noise = "" if clear else ", within the noise"
        lines.append(f"{scheme['name']}: crosses {single} at {at}{noise}")
    return lines


def space_lines(document: Document) -> list[str]:
    """What was widened, what was flat, and why a study is void."""
    lines = []
    for scheme in document["schemes"]:
        if scheme["widened"]:
            sides = ", ".join(f"{name} {side}" for name, side in scheme["widened"])
            ends = "; ".join(f"{name} {number(a)} to {number(b)}" for name, (a, b) in scheme["space"].items())
            lines.append(f"{scheme['name']}: a winner lay at an edge; widened ({sides}) and searched again over {ends}")
        flat = sorted({name for winner in scheme["winners"] for name, _ in winner.get("flat", [])})
        if flat:
            lines.append(f"{scheme['name']}: flat in {', '.join(flat)} to within the noise, the middle was taken")
    return [*lines, document["void"]] if document["void"] else lines


def budget_line(document: Document) -> str:
    """What was spent."""
    plan = document["plan"]
    return (
        f"{plan['searches']} searches of {plan['budget']} points a scheme on {plan['tuning_seeds']} tuning seeds"
        + (f", the best {plan['finalists']} of each again on {plan['final_seeds']}" if plan["finalists"] else "")
        + f"; each reported on {plan['report_seeds']} fresh seeds of its own"
    )


def versions_line(document: Document) -> str:
    """What it was run with; and what a part of it was run with, where it was gone on with later."""
    every = [document["versions"], *document.get("versions_since", [])]
    return "; gone on with ".join(", ".join(f"{name} {value}" for name, value in one.items()) for one in every)


def suite_rows(documents: Sequence[Document], suite: Mapping[str, Any] | None) -> list[list[str]]:
    """The table of verdicts: workload, the three columns, gain, improvement, verdict."""
    rows = []
    for document in documents:
        one = document["gain"] if suite is None else suite["gains"][document["name"]]
        label = f" ({document['workload']['label']})" if document["workload"]["label"] else ""
        mode = "" if document["mode"] == "full" else f" {document['mode'].upper()}"
        moved = document["plan"]["seeds_from"]
        seeds = f", seeds from {moved}" if moved else ""
        medians = [row[1] for row in column_rows(document)]
        rows.append(
            [
                f"{document['workload']['name']}{label}{seeds}{mode}",
                document["workload"]["metric"],
                *medians,
                document["chosen"],
                gain(one),
                better(one),
                one["verdict"],
            ]
        )
    return rows
