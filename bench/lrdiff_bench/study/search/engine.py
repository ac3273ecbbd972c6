"""A study from its first point to its last reporting seed: search, widen, choose, report.

What is trained follows from the workload, the plan and the rows that are there, and from nothing else. So a study that
was killed goes on by running the same function again, and two processes that run it come to the same decisions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lrdiff_bench.study.search.choose import Winner, choose, lower_is_better
from lrdiff_bench.study.search.ledger import Ledger, TrainBatches
from lrdiff_bench.study.search.plan import Plan
from lrdiff_bench.study.search.points import BASE, Space, group_rates, space_of, unit_points
from lrdiff_bench.study.search.tasks import Row, Task, batches_of, rows_of, trials_of
from lrdiff_bench.study.workloads.workload import Scheme, Workload
from lrdiff_core.errors import ConfigError

__all__ = ["Finished", "Search", "Watcher", "run_study", "train_here", "trainings"]

_CHUNK = 50  # reporting seeds of one task


class Watcher(Protocol):
    """Who wants to know how far a study is."""

    def progress(self, stage: str, done: int, total: int) -> None:
        """``done`` of ``total`` trainings of a stage."""

    def news(self, text: str) -> None:
        """Something worth a line."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """All searches of one scheme in its last space.

    Attributes:
        scheme: whose.
        space: the last one.
        unit: points of each search. [searches, points, dimensions]
        tasks: their tasks. [searches][points]
        scores: lower is better, infinite where it diverged. [searches, points, seeds]
        winners: of each search.
        widened: names and sides that were widened, in order.
    """

    scheme: Scheme
    space: Space
    unit: NDArray[np.float64]
    tasks: tuple[tuple[Task, ...], ...]
    scores: NDArray[np.float64]
    winners: tuple[Winner, ...]
    widened: tuple[tuple[str, str], ...]

    @property
    def edges(self) -> frozenset[tuple[str, str]]:
        """Where a winner lies at the edge."""
        return frozenset().union(*(winner.edges for winner in self.winners))


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A study with every row there.

    Attributes:
        searches: of each scheme, in order; the first is the single rate.
        rows: by the id of the task; those of spaces that were given up are not among them, but in the ledger.
        tasks: of the rows.
        void: why the study cannot be judged; empty where it can.
    """

    workload: Workload
    plan: Plan
    searches: tuple[Search, ...]
    rows: dict[str, Row]
    tasks: dict[str, Task]
    void: str

    @cached_property
    def by_kind(self) -> dict[tuple[str, str], list[Task]]:
        """Tasks by kind and scheme, in the order in which they were made."""
        found: dict[tuple[str, str], list[Task]] = {}
        for task in self.tasks.values():
            found.setdefault((task.kind, task.scheme.name), []).append(task)
        return found


class _Silent:
    def progress(self, stage: str, done: int, total: int) -> None:
        pass

    def news(self, text: str) -> None:
        pass


def run_study(
    workload: Workload, plan: Plan, ledger: Ledger, *, train: TrainBatches | None = None, watcher: Watcher | None = None
) -> Finished:
    """Run a study, or what is missing of it.

    Args:
        workload: what is trained.
        plan: how much.
        ledger: where rows are kept; rows that it has are not trained again.
        train: trains batches; left out, in this process.
        watcher: told how far it is.

    Raises:
        ConfigError: the workload's schemes do not begin with a single rate, or share a name.
    """
    check_workload(workload)
    run = _Run(workload, plan, ledger, train or train_here(workload), watcher or _Silent())
    searches, void = run.search_and_widen()
    run.report(searches)
    return Finished(
        workload=workload, plan=plan, searches=tuple(searches), rows=run.rows, tasks=run.tasks, void=void
    )  # fmt: skip


def check_workload(workload: Workload) -> None:
    """Check what the protocol rests on.

    Raises:
        ConfigError: no single rate first, no other scheme, a name twice, an unknown group, a number out of range.
    """
    where, schemes = f'workload "{workload.name}"', workload.schemes
    names = [scheme.name for scheme in schemes]
    if all(scheme.reference for scheme in schemes[1:]):
        raise ConfigError(
            f"{where} has {len(schemes)} schemes, none of differential rates",
            help="give the single rate and one to compare with it",
        )
    if len(set(names)) < len(names):
        raise ConfigError(f"{where} has two schemes of one name: {', '.join(names)}", help="name them apart")
    first = schemes[0]
    if first.free or any(first.ratios.get(group, 1.0) != 1.0 for group in workload.groups):
        raise ConfigError(
            f'{where}: the first scheme, "{first.name}", is no single rate', help="put the one with the ratio 1 first"
        )
    for scheme in schemes:
        for group in (*scheme.ratios, *scheme.free):
            if group not in workload.groups:
                raise ConfigError(
                    f'{where}: scheme "{scheme.name}" names the group "{group}"',
                    help=f"groups are: {', '.join(workload.groups)}",
                )
    if workload.metric not in ("loss", "accuracy"):
        raise ConfigError(f"{where}: metric is {workload.metric!r}", help='write "loss" or "accuracy"')
    low, high = workload.base_rates
    if not 0 < low < high < float("inf"):
        raise ConfigError(f"{where}: base_rates are {low} to {high}", help="write two positive numbers, lower first")
    if not workload.smallest_difference > 0:
        raise ConfigError(
            f"{where}: smallest_difference is {workload.smallest_difference}", help="write a positive number"
        )


def train_here(workload: Workload) -> TrainBatches:
    """Train batches one after the other in this process."""

    def train(batches: Sequence[Sequence[Task]], on_batch: Callable[[int, list[Row]], None]) -> None:
        for number, batch in enumerate(batches):
            on_batch(number, rows_of(batch, workload.train(trials_of(batch))))

    return train


def trainings(workload: Workload, plan: Plan) -> dict[str, int]:
    """How much a plan trains, if no space has to be widened.

    Example:
        >>> from types import SimpleNamespace
        >>> trainings(SimpleNamespace(schemes=(1, 2)), Plan(budget=8, repeats=3, report_seeds=30))
        {'search': 192, 'report': 302}
    """
    schemes = len(workload.schemes)
    extra = plan.repeats * plan.tuning_seeds + (plan.repeats + 1) * plan.target_seeds
    return {
        "search": schemes * plan.repeats * plan.budget * plan.tuning_seeds,
        "report": (schemes * plan.repeats + 1) * plan.report_seeds + extra,
    }


class _Run:
    def __init__(self, workload: Workload, plan: Plan, ledger: Ledger, train: TrainBatches, watcher: Watcher) -> None:
        self.workload, self.plan, self.ledger, self.train, self.watcher = workload, plan, ledger, train, watcher
        self.rows: dict[str, Row] = {}
        self.tasks: dict[str, Task] = {}
        dimensions = max(scheme.dimensions for scheme in workload.schemes)
        self.unit = [unit_points(plan.budget, dimensions, plan.scramble(r)) for r in range(plan.repeats)]

    # searching

    def search_and_widen(self) -> tuple[list[Search], str]:
        """Search; where a winner lies at the edge, widen and search again."""
        schemes = self.workload.schemes
        spaces = [space_of(scheme, self.workload.base_rates) for scheme in schemes]
        widened: list[list[tuple[str, str]]] = [[] for _ in schemes]
        for attempt in range(self.plan.widenings + 1):
            searches = self._search(spaces, widened)
            edges = [search.edges for search in searches]
            if not any(edges):
                break
            if attempt == self.plan.widenings:
                return self._kept(searches), self._void(searches)
            base = {edge for one in edges for edge in one if edge[0] == BASE}  # for all schemes alike
            for i, one in enumerate(edges):
                wanted = base | {edge for edge in one if edge[0] != BASE}
                if wanted:
                    spaces[i] = spaces[i].widened(wanted)
                    widened[i] += sorted(wanted)
            self._tell_widening(searches, base)
        return self._kept(searches), ""

    def _search(self, spaces: Sequence[Space], widened: Sequence[Sequence[tuple[str, str]]]) -> list[Search]:
        plan, tasks = self.plan, []
        for scheme, space in zip(self.workload.schemes, spaces, strict=True):
            tasks.append([self._search_tasks(scheme, space, repeat) for repeat in range(plan.repeats)])
        rows = self._complete("search", [task for one in tasks for search in one for task in search])
        searches = []
        for scheme, space, own, sides in zip(self.workload.schemes, spaces, tasks, widened, strict=True):
            finals = np.array([[rows[task.id].final for task in search] for search in own])
            scores = lower_is_better(finals, self.workload.metric)
            winners = tuple(
                choose(space, unit, score, smallest=self.workload.smallest_difference)
                for unit, score in zip(self.unit, scores, strict=True)
            )
            searches.append(
                Search(
                    scheme=scheme,
                    space=space,
                    unit=np.stack([unit[:, : len(space.names)] for unit in self.unit]),
                    tasks=tuple(tuple(search) for search in own),
                    scores=scores,
                    winners=winners,
                    widened=tuple(sides),
                )
            )
        return searches

    def _search_tasks(self, scheme: Scheme, space: Space, repeat: int) -> list[Task]:
        values = space.values(self.unit[repeat])
        rates = group_rates(scheme, self.workload.groups, values)
        return [
            Task(
                id=f"search/{scheme.name}/{space.label}/{repeat}/{i}",
                kind="search",
                scheme=scheme,
                repeat=repeat,
                space=space.label,
                parameters=dict(zip(space.names, map(float, values[i]), strict=True)),
                rates=tuple(map(float, rates[i])),
                seeds=self.plan.tuning(repeat),
                judged_on="validation",
            )
            for i in range(self.plan.budget)
        ]

    def _kept(self, searches: list[Search]) -> list[Search]:
        self.tasks |= {task.id: task for search in searches for one in search.tasks for task in one}
        return searches

    def _tell_widening(self, searches: Sequence[Search], base: set[tuple[str, str]]) -> None:
        for search in searches:
            for name, side in sorted(search.edges):
                what = "for every scheme" if name == BASE else "for this scheme"
                self.watcher.news(
                    f"{search.scheme.name}: a winner at the {side} edge of the {_named(name)}; "
                    f"widened {what}, searched again"
                )

    def _void(self, searches: Sequence[Search]) -> str:
        found = [
            f"{search.scheme.name}: {side} edge of the {_named(name)}"
            for search in searches
            for name, side in sorted(search.edges)
        ]
        times = "once" if self.plan.widenings == 1 else f"{self.plan.widenings} times"
        return f"a winner still lies at the edge after widening {times} ({'; '.join(found)})"

    # reporting

    def report(self, searches: Sequence[Search]) -> None:
        """Train every winner on the fresh seeds, and what the columns and the target need beside."""
        plan, single = self.plan, searches[0]
        tasks: list[Task] = []
        rate = float(self.workload.default_rate)
        tasks += self._chunks("default", single.scheme, -1, {BASE: rate}, None, plan.report(), "test")
        for repeat in range(plan.repeats):
            tasks.append(self._untrained(single.scheme, repeat))
        for search in searches:
            for repeat, (winner, own) in enumerate(zip(search.winners, search.tasks, strict=True)):
                if winner.index is not None:
                    won = own[winner.index]
                    tasks += self._chunks(
                        "report", search.scheme, repeat, dict(won.parameters), won.rates, plan.report(), "test"
                    )
        rivals = [
            (repeat, own[winner.index])
            for repeat, (winner, own) in enumerate(zip(single.winners, single.tasks, strict=True))
            if winner.index is not None
        ]
        for repeat, won in rivals:
            tasks += self._chunks(
                "choose target", single.scheme, repeat, dict(won.parameters), won.rates, plan.target(), "validation"
            )
        rows = self._complete("report", tasks)
        if rivals:
            self._set_target(single, rivals, rows)  # fmt: skip

    def _set_target(self, single: Search, rivals: Sequence[tuple[int, Task]], rows: dict[str, Row]) -> None:
        """The baseline with the large budget: the best of all searches' winners, on seeds of its own."""
        scores = []
        for repeat, _ in rivals:
            finals = np.concatenate([rows[t.id].final for t in self.of("choose target", single.scheme.name, repeat)])
            scores.append(float(np.median(lower_is_better(finals, self.workload.metric))))
        repeat, won = rivals[int(np.argmin(scores))]
        self._complete(
            "report",
            self._chunks("target", single.scheme, repeat, dict(won.parameters), won.rates, self.plan.target(), "test"),
        )

    def of(self, kind: str, scheme: str, repeat: int) -> list[Task]:
        """Tasks of one kind, scheme and search, in the order of their seeds."""
        return [t for t in self.tasks.values() if (t.kind, t.scheme.name, t.repeat) == (kind, scheme, repeat)]

    def _untrained(self, scheme: Scheme, repeat: int) -> Task:
        return Task(
            id=f"untrained/{repeat}",
            kind="untrained",
            scheme=scheme,
            repeat=repeat,
            space="",
            parameters={},
            rates=(0.0,) * len(self.workload.groups),
            seeds=self.plan.tuning(repeat),
            judged_on="validation",
        )

    def _chunks(
        self,
        kind: str,
        scheme: Scheme,
        repeat: int,
        parameters: dict[str, float],
        rates: tuple[float, ...] | None,
        seeds: Sequence[int],
        judged_on: str,
    ) -> list[Task]:
        own = rates if rates is not None else (parameters[BASE],) * len(self.workload.groups)
        at = "/".join(f"{value:.9g}" for value in parameters.values())
        return [
            Task(
                id=f"{kind}/{scheme.name}/{repeat}/{at}/{start}",
                kind=kind,
                scheme=scheme,
                repeat=repeat,
                space="",
                parameters=parameters,
                rates=own,
                seeds=tuple(seeds[start : start + _CHUNK]),
                judged_on=judged_on,
            )
            for start in range(0, len(seeds), _CHUNK)
        ]

    def _complete(self, stage: str, tasks: list[Task]) -> dict[str, Row]:
        weight = {task.id: len(task.seeds) for task in tasks}
        each = sum(weight.values()) / len(weight)
        done = 0

        def on_done(count: int) -> None:
            nonlocal done
            done += count
            self.watcher.progress(stage, round(done * each), sum(weight.values()))

        batches = batches_of(tasks, self.workload.at_once)
        rows = self.ledger.complete(batches, self.train, on_done)
        self.rows |= rows
        if stage == "report":
            self.tasks |= {task.id: task for task in tasks}
        return rows


def _named(name: str) -> str:
    return name if name == BASE else f"ratio of {name}"
