"""What ``lrdiff tune`` shows: how far the search is, what it found, and which rates to use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from lrdiff_bench.report import gains
from lrdiff_bench.report.tables import duration, line, plain_table
from lrdiff_bench.study import describe
from lrdiff_bench.study.screen import LiveWatcher
from lrdiff_bench.study.tune.found import FoundRates
from lrdiff_bench.study.tune.proof import ONE_RATE, OPEN, RATES, Answer
from lrdiff_bench.study.workloads.workload import Workload

__all__ = ["SearchWatcher", "draw", "draw_price"]

STYLES = {RATES: "bold green", ONE_RATE: "bold cyan", OPEN: "bold yellow"}


class SearchWatcher:
    """Says what is searched, and draws how far it is where a terminal is attached."""

    def __init__(self, console: Console, workload: Workload, count: int) -> None:
        side = "side by side" if workload.at_once > 1 else "one after the other"
        line(
            console,
            f"{workload.name}: {count} trainings {side}, {workload.steps} steps each: one rate for "
            f"{', '.join(workload.groups)}, then ratios, then the best again",
            "dim",
        )
        self._live = LiveWatcher(console)

    def __call__(self, stage: str, done: int, total: int) -> None:
        """See :data:`lrdiff_bench.study.tune.search.Told`."""
        self._live.progress(stage, done, total)

    def close(self) -> None:
        """Take the bars off the screen."""
        self._live.close()


def draw_price(console: Console, found: FoundRates, seconds: float | None) -> None:
    """Print what was spent, and what the verdict will take."""
    line(console, _spent(found), "dim")
    if seconds is not None:
        line(console, f"the verdict takes about {duration(seconds)} here, or less")


def draw(
    console: Console, workload: Workload, found: FoundRates, document: Mapping[str, Any] | None, answer: Answer
) -> None:
    """Print what was found, the verdict, and the answer as settings and as Python."""
    console.print(Text(f"\n{workload.name}", style="bold cyan").append(f"  {workload.title}", style="none"))
    if document is None:
        line(console, _spent(found), "dim")
    else:
        if document["mode"] != "full":
            line(console, f"{describe.MODES[document['mode']]} ({'; '.join(document['shortcomings'])})", "bold yellow")
        line(console, describe.verdict_text(document), f"bold {gains.TERMINAL_COLORS[document['gain']['verdict']]}")
        plan = document["plan"]
        line(
            console,
            f"judged by {plan['searches']} searches of {plan['budget']} base rates each, for one rate and for the "
            f"ratios alike, each on {plan['report_seeds']} fresh seeds; more: lrdiff study show {document['name']}",
            "dim",
        )
    console.print()
    line(console, answer.text, STYLES[answer.word])
    table = plain_table("group", "ratio found", "rate to use")
    for group, rate in answer.rates.items():
        table.add_row(group, gains.number(found.ratios[group]), gains.number(rate))
    console.print(table)
    for block in (answer.toml, answer.python):
        if block:
            console.print()
            console.print(Text(block), soft_wrap=True)


def _spent(found: FoundRates) -> str:
    least = f"{found.spent:g} whole ones" if found.spent < found.trainings else f"{found.seconds:.1f} s"
    return f"searched: {found.trainings} trainings in the time of {least}; {gains.percent(found.diverged)} diverged"
