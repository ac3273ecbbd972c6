"""A study on the screen: how far it is, what came of it, and where its verdict comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from lrdiff_bench.report import gains
from lrdiff_bench.report.tables import line, plain_table
from lrdiff_bench.stats.looks import LOOKS
from lrdiff_bench.study import describe

__all__ = ["LiveWatcher", "draw_study", "draw_suite", "draw_trace"]

COLORS = gains.TERMINAL_COLORS
STAGES = {"search": "searching", "final": "finalists", "report": "fresh seeds"}
Document = Mapping[str, Any]


class LiveWatcher:
    """Draws progress with the time left where a terminal is attached, and news everywhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._last: dict[str, int] = {}

    def progress(self, stage: str, done: int, total: int) -> None:
        """See :class:`lrdiff_bench.study.search.engine.StudyWatcher`."""
        if not self.console.is_terminal:
            return
        if self._progress is None:
            self._progress = Progress(
                TextColumn("   {task.description}", markup=False), BarColumn(bar_width=20), MofNCompleteColumn(),
                TextColumn("trainings,"), TimeRemainingColumn(compact=True), TextColumn("left"),
                console=self.console, transient=True,
            )  # fmt: skip
            self._progress.start()
        if stage not in self._tasks or done < self._last[stage]:
            if stage in self._tasks:
                self._progress.remove_task(self._tasks[stage])
            self._tasks[stage] = self._progress.add_task(STAGES.get(stage, stage), total=total)
        self._last[stage] = done
        self._progress.update(self._tasks[stage], completed=done, total=total)

    def news(self, text: str) -> None:
        """See :class:`lrdiff_bench.study.search.engine.StudyWatcher`."""
        line(self.console, text, "yellow")

    def close(self) -> None:
        """Take the bars off the screen."""
        if self._progress is not None:
            self._progress.stop()
        self._progress, self._tasks, self._last = None, {}, {}


def draw_study(console: Console, document: Document) -> None:
    """Print one study."""
    workload = document["workload"]
    head = Text(f"\n{document['name']}", style="bold cyan")
    head.append(f"  {workload['title']}", style="none")
    if workload["label"]:
        head.append(f"  ({workload['label']})", style="none")
    console.print(head)
    line(console, workload["question"])
    if document["claimed_by"]:
        line(console, f"claimed by: {document['claimed_by']}")
    if document["mode"] != "full":
        line(console, describe.MODES[document["mode"]] + _because(document), "bold yellow")
    console.print()
    line(console, describe.verdict_text(document), f"bold {COLORS[document['gain']['verdict']]}")
    console.print()
    table = plain_table(f"{workload['metric']} on test data", "median [95 %]", "diverged", "to the target")
    for row in describe.column_rows(document):
        table.add_row(*row)
    console.print(table)
    console.print()
    table = plain_table("scheme", "gain over single [95 %]", "better %", "verdict")
    rows = describe.scheme_rows(document)
    for row in rows:
        table.add_row(row[0], row[1], row[2], Text(row[3], style=COLORS.get(row[3], "")))
    console.print(table)
    holm = f" after Holm's correction over {len(document['schemes']) - 1}" if len(document["schemes"]) > 2 else ""
    line(console, f"* chosen on validation data; better %: of the pairs; verdicts{holm}", "dim")
    for row in rows[1:]:
        line(console, f"{row[0].removesuffix(' *')}: {row[6]}")
    line(console, "diverged while searching: " + ", ".join(f"{row[0].removesuffix(' *')} {row[4]}" for row in rows))
    for text in (*describe.look_lines(document), *describe.space_lines(document), *_best_of(document)):
        line(console, text)
    if document["target"] is not None:
        line(
            console,
            f"target: {workload['metric']} {gains.number(document['target'])}, what the single rate tuned with all "
            "searches has reached after three quarters of its steps, median of fresh seeds",
            "dim",
        )
    line(console, describe.budget_line(document), "dim")


def _because(document: Document) -> str:
    return f" ({'; '.join(document['shortcomings'])})" if document["shortcomings"] else ""


def _best_of(document: Document) -> list[str]:
    lines = describe.crossing_lines(document)
    return [f"best of k trials: {'; '.join(lines)}"] if lines else []


def draw_suite(console: Console, documents: Sequence[Document], suite: Mapping[str, Any] | None) -> None:
    """Print the table of verdicts."""
    console.print(Text("\nAll workloads", style="bold cyan"))
    table = plain_table("workload", "differential", "gain over single [95 %]", "verdict")
    for column in table.columns[:2]:  # names give way, numbers stay whole
        column.no_wrap, column.overflow = False, "fold"
    for row in describe.suite_rows(documents, suite):
        table.add_row(row[0], row[5], row[6], Text(row[8], style=COLORS[row[8]]))
    console.print(table)
    if suite is not None:
        line(console, f"verdicts after Holm's correction over {len(documents)} studies")
        line(
            console,
            "gain over the tuned single rate, interquartile mean over all searches in smallest differences: "
            f"{gains.interval(suite['interquartile_mean'], sign=True)}",
        )
    if any(document["mode"] != "full" for document in documents):
        line(console, "QUICK or REDUCED: not by the full protocol", "bold yellow")


def draw_trace(console: Console, document: Document, *, storage: str) -> None:
    """Print where the verdict comes from: from the sentence to the trials in the storage."""
    one = document["gain"]
    line(console, f"{document['name']}: {describe.verdict_text(document)}", f"bold {COLORS[one['verdict']]}")
    if document["mode"] != "full":
        line(console, describe.MODES[document["mode"]], "bold yellow")
    console.print()
    line(console, f"1. Each search's winners, chosen on validation data, and what they have on {_seeds(document)}:")
    table = plain_table("search", "scheme", "trial", "rate, ratios", "validation", "test", "gain")
    chosen = [document["schemes"][0], next(s for s in document["schemes"] if s["name"] == document["chosen"])]
    for search in range(one["searches"]):
        for i, scheme in enumerate(chosen):
            winner = scheme["winners"][search]
            table.add_row(
                str(search + 1), scheme["name"], _trial(winner), _parameters(winner),
                gains.number(winner["validation"]),
                gains.number(_middle(winner.get("report", []))),
                "" if i == 0 else gains.number(one["by_search"][search], sign=True),
            )  # fmt: skip
    console.print(table)
    line(
        console,
        "test: interquartile mean over fresh seeds; gain: the same of the gains over the single rate, pair by pair",
        "dim",
    )
    console.print()
    line(
        console,
        f"2. {_average(one)} is {gains.number(one['estimate'], sign=True)}; with the spread over searches, "
        f"95 %: {gains.gain(one)}. Better in {gains.better(one)} % of the "
        f"{one['searches']} x {one['seeds']} pairs; {gains.beside(one)}.",
    )
    line(
        console,
        f"3. The smallest difference that matters was fixed at {gains.number(one['smallest'])}. So: {one['verdict']}.",
    )
    console.print()
    line(console, "4. The trials, as the storage numbers them:")
    for scheme in chosen:
        for winner in scheme["winners"]:
            if winner["trial"] is not None:
                reports = f'{", ".join(map(str, winner["report_trials"]))} of "{document["name"]}.report"'
                line(
                    console,
                    f"{scheme['name']}, search {winner['search'] + 1}: trial {winner['trial']} of "
                    f'"{document["name"]}", seeds {winner["tuning_seeds"]}; on fresh seeds: {reports}',
                )
    line(console, f"storage: {storage}")
    line(console, describe.versions_line(document), "dim")


def _average(one: Mapping[str, Any]) -> str:
    return "Their interquartile mean" if one["searches"] >= LOOKS[0].searches else "Their mean"


def _seeds(document: Document) -> str:
    first, last = document["seeds"]["report"]
    return f"the fresh seeds {first} to {last}"


def _trial(winner: Mapping[str, Any]) -> str:
    return "none" if winner["trial"] is None else str(winner["trial"])


def _parameters(winner: Mapping[str, Any]) -> str:
    return ", ".join(f"{value:.3g}" for value in winner["parameters"].values()) or "all diverged"


def _middle(values: Sequence[float | None]) -> float | None:
    import numpy as np

    from lrdiff_bench.stats.location import interquartile_mean

    if not values or any(value is None for value in values):
        return None
    return float(interquartile_mean(np.array(values)))
