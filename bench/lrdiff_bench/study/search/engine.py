"""A study from its first point to its last reporting seed: search, train the finalists again, widen, report.

What is trained follows from the workload, the plan and the results that are there, and from nothing else. So a study
that was killed goes on by running the same function again, and two processes that run it come to the same decisions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lrdiff_bench.study.search.ledger import Ledger, TrainBatches
from lrdiff_bench.study.search.plan import Plan
from lrdiff_bench.study.search.points import BASE, Space, group_rates, space_of, unit_points
from lrdiff_bench.study.search.tasks import Task, TaskResult, batches_of
from lrdiff_bench.study.search.training import train_here
from lrdiff_bench.study.search.winner import Winner, choose_winner, finalists, lower_is_better
from lrdiff_bench.study.workloads.workload import LAYER_DECAY, Scheme, Workload
from lrdiff_core.errors import ConfigError

__all__ = ["SchemeSearches", "StudyResult", "StudyWatcher", "check_workload", "run_study", "trainings"]

_CHUNK = 50  # reporting seeds of one task
Numbers = NDArray[np.float64]
Edge = tuple[str, str]  # a name of a space, and "low" or "high"
MOST_AT_EDGE = 0.1  # share of the winners that may lie at one edge: of many searches, one always does


class StudyWatcher(Protocol):
    """Who wants to know how far a study is."""

    def progress(self, stage: str, done: int, total: int) -> None:
        """``done`` of ``total`` trainings of a stage."""

    def news(self, text: str) -> None:
        """Something worth a line."""


class _Silent:
    def progress(self, stage: str, done: int, total: int) -> None:
        pass

    def news(self, text: str) -> None:
        pass


@dataclass(frozen=True, kw_only=True)
class SchemeSearches:
    """All searches of one scheme in its last space.

    Attributes:
        scheme: whose.
        space: the last one.
        unit: points of each search. [searches, points, dimensions]
        tasks: their tasks. [searches][points]
        scores: lower is better, infinite where it diverged. [searches, points, seeds]
        finalists: points of each search that were trained again. [searches][finalists]
        winners: of each search.
        widened: names and sides that were widened, in order.
    """

    scheme: Scheme
    space: Space
    unit: Numbers
    tasks: tuple[tuple[Task, ...], ...]
    scores: Numbers
    finalists: tuple[tuple[int, ...], ...]
    winners: tuple[Winner, ...]
    widened: tuple[Edge, ...]

    @property
    def edges(self) -> frozenset[Edge]:
        """Where more than :data:`MOST_AT_EDGE` of the winners lie at the edge."""
        count = Counter(edge for winner in self.winners for edge in winner.edges)
        return frozenset(edge for edge, often in count.items() if often > MOST_AT_EDGE * len(self.winners))

    @property
    def winning_tasks(self) -> list[Task | None]:
        """The task that won each search; None where every point diverged."""
        return [
            None if winner.index is None else own[winner.index]
            for winner, own in zip(self.winners, self.tasks, strict=True)
        ]


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """A study with every result there.

    Attributes:
        searches: of each scheme, in order; the first is the single rate.
        results: by the id of the task; those of spaces that were given up are not among them, but in the ledger.
        tasks: of the results.
        void: why the study cannot be judged; empty where it can.
    """

    workload: Workload
    plan: Plan
    searches: tuple[SchemeSearches, ...]
    results: dict[str, TaskResult]
    tasks: dict[str, Task]
    void: str

    @cached_property
    def by_kind(self) -> dict[tuple[str, str], list[Task]]:
        """Tasks by kind and scheme, in the order in which they were made."""
        found: dict[tuple[str, str], list[Task]] = {}
        for task in self.tasks.values():
            found.setdefault((task.kind, task.scheme.name), []).append(task)
        return found

    def of(self, kind: str, scheme: str, search: int | None = None) -> list[TaskResult]:
        """Results of one kind and scheme, of one search or of all."""
        tasks = self.by_kind.get((kind, scheme), [])
        return [self.results[task.id] for task in tasks if search in (None, task.search)]


def run_study(
    workload: Workload,
    plan: Plan,
    ledger: Ledger,
    *,
    train: TrainBatches | None = None,
    watcher: StudyWatcher | None = None,
) -> StudyResult:
    """Run a study, or what is missing of it.

    Args:
        workload: what is trained.
        plan: how much.
        ledger: where results are kept; what it has is not trained again.
        train: trains batches; left out, one after the other in this process.
        watcher: is told how far it is.

    Raises:
        ConfigError: the workload's schemes do not begin with a single rate, or share a name.
    """
    check_workload(workload)
    run = _Run(workload, plan, ledger, train or train_here(workload), watcher or _Silent())
    searches, void = run.search_and_widen()
    run.report(searches)
    return StudyResult(
        workload=workload, plan=plan, searches=tuple(searches), results=run.results, tasks=run.tasks, void=void
    )


def check_workload(workload: Workload) -> None:
    """Check what the protocol rests on.

    Raises:
        ConfigError: no single rate first, no other scheme, a name twice, an unknown group, a number out of range.
    """
    where, schemes = f'workload "{workload.name}"', workload.schemes
    names = [*(scheme.name for scheme in schemes), *(one.name for one in workload.untuned)]
    if all(scheme.reference for scheme in schemes[1:]):
        raise ConfigError(
            f"{where} has {len(schemes)} schemes, none of differential rates",
            help="give the single rate and one to compare with it",
        )
    if len(set(names)) < len(names):
        raise ConfigError(f"{where} has two schemes of one name: {', '.join(names)}", help="give them different names")
    first = schemes[0]
    if first.free or any(first.ratios.get(group, 1.0) != 1.0 for group in workload.groups):
        raise ConfigError(
            f'{where}: the first scheme, "{first.name}", is not a single rate',
            help="put the one with the ratio 1 first",
        )
    for scheme in (*schemes, *(one.scheme for one in workload.untuned)):
        for group in (*scheme.ratios, *scheme.free, *scheme.depths):
            if group not in workload.groups and not (group == LAYER_DECAY and scheme.depths):
                raise ConfigError(
                    f'{where}: scheme "{scheme.name}" names the group "{group}"',
                    help=f"groups are: {', '.join(workload.groups)}",
                )
    if workload.base_points and any(scheme.free for scheme in schemes):
        raise ConfigError(f"{where} lists its base rates and has free ratios", help="leave out one of the two")
    if workload.metric not in ("loss", "accuracy"):
        raise ConfigError(f"{where}: metric is {workload.metric!r}", help='write "loss" or "accuracy"')
    low, high = workload.base_rates
    if not 0 < low < high < float("inf"):
        raise ConfigError(f"{where}: base_rates are {low} to {high}", help="write two positive numbers, lower first")
    if not workload.smallest_difference > 0:
        raise ConfigError(
            f"{where}: smallest_difference is {workload.smallest_difference}", help="write a positive number"
        )


def trainings(workload: Workload, plan: Plan) -> dict[str, int]:
    """How much a plan trains, if no space has to be widened.

    Example:
        >>> from types import SimpleNamespace
        >>> trainings(SimpleNamespace(schemes=(1, 2), untuned=(1,)), Plan(budget=8, searches=3, report_seeds=30))
        {'search': 192, 'final': 1152, 'report': 302}
    """
    searches = len(workload.schemes) * plan.searches
    reported = searches + len(workload.untuned) * plan.searches
    return {
        "search": searches * plan.budget * plan.tuning_seeds,
        "final": searches * min(plan.finalists, plan.budget) * plan.final_seeds,
        "report": reported * plan.report_seeds + plan.searches * plan.tuning_seeds + plan.target_seeds,
    }


class _Run:
    def __init__(
        self, workload: Workload, plan: Plan, ledger: Ledger, train: TrainBatches, watcher: StudyWatcher
    ) -> None:
        self.workload, self.plan, self.ledger, self.train, self.watcher = workload, plan, ledger, train, watcher
        self.results: dict[str, TaskResult] = {}
        self.tasks: dict[str, Task] = {}
        if workload.base_points:
            low, high = np.log(workload.base_rates)
            self.unit = [(np.log(workload.base_points)[:, None] - low) / (high - low)] * plan.searches
        else:
            dimensions = max(scheme.dimensions for scheme in workload.schemes)
            self.unit = [unit_points(plan.budget, dimensions, plan.scramble(r)) for r in range(plan.searches)]

    # searching

    def search_and_widen(self) -> tuple[list[SchemeSearches], str]:
        """Search; where winners lie at the edge, widen and search again.

        The searches of the first look fix the spaces, so that going on never changes what was judged.
        """
        schemes = self.workload.schemes
        spaces = [space_of(scheme, self.workload.base_rates) for scheme in schemes]
        widened: list[list[Edge]] = [[] for _ in schemes]
        void = ""
        for attempt in range(self.plan.widenings + 1):
            searches = self._search(spaces, widened, self.plan.first_look)
            edges = [one.edges for one in searches]
            if not any(edges):
                break
            if attempt == self.plan.widenings:
                void = self._void(searches)
                break
            base = {edge for one in edges for edge in one if edge[0] == BASE}  # for all schemes alike
            for i, one in enumerate(edges):
                wanted = base | {edge for edge in one if edge[0] != BASE}
                if wanted:
                    spaces[i] = spaces[i].widened(wanted)
                    widened[i] += sorted(wanted)
            self._announce_widening(searches)
        if self.plan.searches > self.plan.first_look:
            searches = self._search(spaces, widened, self.plan.searches)
        return searches, void

    def _search(self, spaces: Sequence[Space], widened: Sequence[Sequence[Edge]], count: int) -> list[SchemeSearches]:
        """So many searches of all schemes: all points on the tuning seeds, then the finalists on seeds of their own."""
        plan, schemes, metric = self.plan, self.workload.schemes, self.workload.metric
        points = [
            [self._points(scheme, space, search) for search in range(count)]
            for scheme, space in zip(schemes, spaces, strict=True)
        ]
        found = self._complete("search", [task for one in points for search in one for task in search])
        scores = [lower_is_better(np.array([[found[t.id].final for t in s] for s in one]), metric) for one in points]
        first = [[finalists(search, plan.finalists or len(search)) for search in one] for one in scores]
        finals = [
            [[self._final(points[i][r][p], r) for p in best] for r, best in enumerate(one)]
            for i, one in enumerate(first)
        ]
        flat = [task for one in finals for search in one for task in search]
        again = self._complete("final", flat) if plan.finalists and flat else {}
        searches = []
        for i, (scheme, space) in enumerate(zip(schemes, spaces, strict=True)):
            unit = np.stack([self.unit[r][:, : len(space.names)] for r in range(count)])
            winners = []
            for r, best in enumerate(first[i]):
                decided = scores[i][r][best]
                if again:
                    decided = lower_is_better(np.array([again[task.id].final for task in finals[i][r]]), metric)
                one = choose_winner(space, unit[r][best], decided, smallest=self.workload.smallest_difference)
                index = None if one.index is None else int(best[one.index])
                winners.append(Winner(index=index, score=one.score, edges=one.edges, flat=one.flat))
            searches.append(
                SchemeSearches(
                    scheme=scheme,
                    space=space,
                    unit=unit,
                    tasks=tuple(map(tuple, points[i])),
                    scores=scores[i],
                    finalists=tuple(tuple(map(int, best)) for best in first[i]),
                    winners=tuple(winners),
                    widened=tuple(widened[i]),
                )
            )
        self.tasks = {task.id: task for one in points for search in one for task in search}
        self.tasks |= {task.id: task for task in flat if task.id in again}
        return searches

    def _points(self, scheme: Scheme, space: Space, search: int) -> list[Task]:
        values = space.values(self.unit[search])
        rates = group_rates(scheme, self.workload.groups, values)
        return [
            Task(
                id=f"search/{scheme.name}/{space.label}/{search}/{i}",
                kind="search",
                scheme=scheme,
                search=search,
                space=space.label,
                parameters=dict(zip(space.names, map(float, values[i]), strict=True)),
                rates=tuple(map(float, rates[i])),
                seeds=self.plan.tuning(search),
                judged_on="validation",
            )
            for i in range(len(values))
        ]

    def _final(self, point: Task, search: int) -> Task:
        return self._like(point, f"final/{point.id.removeprefix('search/')}", "final", self.plan.final(search))

    def _announce_widening(self, searches: Sequence[SchemeSearches]) -> None:
        for one in searches:
            for name, side in sorted(one.edges):
                what = "for every scheme" if name == BASE else "for this scheme"
                self.watcher.news(
                    f"{one.scheme.name}: a winner at the {side} edge of the {_named(name)}; "
                    f"widened {what}, searched again"
                )

    def _void(self, searches: Sequence[SchemeSearches]) -> str:
        found = [
            f"{one.scheme.name}: {side} edge of the {_named(name)}"
            for one in searches
            for name, side in sorted(one.edges)
        ]
        times = "once" if self.plan.widenings == 1 else f"{self.plan.widenings} times"
        return f"a winner still lies at the edge after widening {times} ({'; '.join(found)})"

    # reporting

    def report(self, searches: Sequence[SchemeSearches]) -> None:
        """Train every winner on the fresh seeds, and what the columns and the target need beside."""
        plan, single, groups = self.plan, searches[0], self.workload.groups
        tasks: list[Task] = []
        for one in self.workload.untuned:
            base = float(one.base_rate)
            rates = group_rates(one.scheme, groups, np.array([[base]]))[0]
            scheme = replace(one.scheme, name=one.name)
            for search in range(plan.searches):
                task = self._task("untuned", scheme, search, {BASE: base}, tuple(map(float, rates)))
                tasks += self._chunks(task, f"untuned/{one.name}/{search}", plan.report(search))
        for search in range(plan.searches):
            task = self._task("untrained", single.scheme, search, {}, (0.0,) * len(groups))
            tasks.append(self._like(task, f"untrained/{search}", "untrained", plan.tuning(search)))
        for own in searches:
            for search, won in enumerate(own.winning_tasks):
                if won is not None:
                    at = "/".join(f"{value:.9g}" for value in won.parameters.values())
                    task = self._task("report", own.scheme, search, won.parameters, won.rates)
                    tasks += self._chunks(task, f"report/{own.scheme.name}/{search}/{at}", plan.report(search))
        # The baseline with the large budget: the winner that was best on the seeds that decided its search.
        best = min(range(plan.first_look), key=lambda search: single.winners[search].score)
        won = single.winning_tasks[best]
        if won is not None and plan.target_seeds:
            task = self._task("target", single.scheme, best, won.parameters, won.rates)
            tasks += self._chunks(task, f"target/{won.parameters[BASE]:.9g}", plan.target())
        self._complete("report", tasks)
        self.tasks |= {task.id: task for task in tasks}

    def _task(
        self, kind: str, scheme: Scheme, search: int, parameters: Mapping[str, float], rates: tuple[float, ...]
    ) -> Task:
        return Task(
            id="", kind=kind, scheme=scheme, search=search, space="", parameters=dict(parameters), rates=rates,
            seeds=(), judged_on="validation" if kind == "untrained" else "test",
        )  # fmt: skip

    def _chunks(self, task: Task, id: str, seeds: Sequence[int]) -> list[Task]:
        starts = range(0, len(seeds), _CHUNK)
        return [self._like(task, f"{id}/{start}", task.kind, tuple(seeds[start : start + _CHUNK])) for start in starts]

    @staticmethod
    def _like(task: Task, id: str, kind: str, seeds: tuple[int, ...]) -> Task:
        return replace(task, id=id, kind=kind, seeds=seeds)

    def _complete(self, stage: str, tasks: list[Task]) -> dict[str, TaskResult]:
        weight = {task.id: len(task.seeds) for task in tasks}
        each = sum(weight.values()) / len(weight)
        done = 0

        def on_done(count: int) -> None:
            nonlocal done
            done += count
            self.watcher.progress(stage, round(done * each), sum(weight.values()))

        found = self.ledger.complete(batches_of(tasks, self.workload.at_once), self.train, on_done)
        self.results |= found
        return found


def _named(name: str) -> str:
    return name if name in (BASE, LAYER_DECAY) else f"ratio of {name}"
