"""Does ``lrdiff tune`` find what a whole search finds, and does it say so where one rate suffices?

``python -m benchmarks.tune_rates --out docs/results/tune.md`` counts both and writes the page: eight workloads, tuned
free ratios by the protocol (448 trainings a search) against what tune finds in 56, on the same fresh seeds; and forty
nulls, whose groups have no reason to differ. What is done is kept in ``--parts``, so a run that was stopped goes on.

Forty other nulls, on seeds of their own from ``--seeds-from`` on, are judged and counted apart: what a rule was made
after seeing says little about it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.simulate_study import Planted
from lrdiff_bench.report.page import as_given, render
from lrdiff_bench.report.record import PageFiles, add_page_options
from lrdiff_bench.stats.location import interquartile_mean
from lrdiff_bench.study.search.plan import Plan
from lrdiff_bench.study.search.points import group_rates, space_of, unit_points
from lrdiff_bench.study.search.winner import choose_winner, finalists, lower_is_better
from lrdiff_bench.study.tune import TuneOptions, find_rates, tune_rates
from lrdiff_bench.study.tune.found import free_scheme
from lrdiff_bench.study.workloads.common import PopulationWorkload
from lrdiff_bench.study.workloads.registry import make_workload
from lrdiff_bench.study.workloads.workload import Scheme, Trials, Workload, usual_schemes
from lrdiff_bench.system.machine import joined_provenance, provenance

if TYPE_CHECKING:
    from lrdiff_core.population import PopulationData
    from lrdiff_core.population.members import ModelFactory

__all__ = ["TUNE", "WORKLOADS", "Halves", "main", "null", "tune_page", "workload_of"]

TUNE: Mapping[str, Any] = {"format": "lrdiff.tune_rates", "version": 1}
WORKLOADS = ("seed-adam", "seed-sgd", "distortion", "relearn-adam", "control-classes", "tokens-sgd", "ring", "splats")
SEARCHES, TUNINGS, FRESH = 2, 3, 60
FROM = 900_000  # fresh seeds of this comparison: no study and no search has them
NULLS = 40
OTHERS = 1000  # seeds of the other nulls begin here
MOST = 100  # searches of a null's verdict
Numbers = NDArray[np.float64]


def workload_of(name: str) -> Workload:
    """A workload that comes with the project; ``control-classes`` has no free ratios of its own and gets some here."""
    workload = make_workload(name)
    changes: dict[str, Any] = {"timed": False} if any(one.name == "timed" for one in fields(workload)) else {}
    if not any(scheme.free for scheme in workload.schemes):
        head = workload.groups[-1]
        others = dict.fromkeys(workload.groups[:-1], (1e-4, 10.0))
        changes["schemes"] = (workload.schemes[0], Scheme(name="free", ratios={head: 1.0}, free=others))
    return replace(workload, **changes)


def searched(workload: Workload, search: int) -> tuple[float, ...]:
    """Rates that one search by the protocol finds among free ratios: 64 points on 4 seeds, the best 8 on 24 more."""
    plan, scheme = Plan(), free_scheme(workload)
    space = space_of(scheme, workload.base_rates)
    unit = unit_points(plan.budget, scheme.dimensions, plan.scramble(search))
    rates = group_rates(scheme, workload.groups, space.values(unit))
    first = lower_is_better(_table(workload, scheme, rates, plan.tuning(search), "validation"), workload.metric)
    best = finalists(first, plan.finalists)
    decided = lower_is_better(
        _table(workload, scheme, rates[best], plan.final(search), "validation"), workload.metric
    )  # fmt: skip
    won = choose_winner(space, unit[best], decided, smallest=workload.smallest_difference)
    assert won.index is not None
    return tuple(map(float, rates[best[won.index]]))


def fresh(workload: Workload, rates: Sequence[float]) -> float:
    """What rates have on fresh seeds and test data: interquartile mean, lower is better."""
    seeds = range(FROM, FROM + FRESH)
    found = _table(workload, free_scheme(workload), np.array([rates]), seeds, "test")
    return float(interquartile_mean(lower_is_better(found, workload.metric))[0])


def _table(workload: Workload, scheme: Scheme, rates: Numbers, seeds: Sequence[int], judged_on: str) -> Numbers:
    """Final metric, [points, seeds]."""
    every = np.repeat(rates, len(seeds), axis=0)
    numbers = np.tile(np.array(seeds, dtype=np.int64), len(rates))
    parts = [
        workload.train(Trials(rates=every[at], seeds=numbers[at], scheme=scheme, judged_on=judged_on)).metric[:, -1]
        for at in (slice(i, i + workload.at_once) for i in range(0, len(every), workload.at_once))
    ]
    return np.concatenate(parts).reshape(len(rates), len(seeds))


@dataclass(frozen=True, kw_only=True)
class Halves(PopulationWorkload):
    """Logistic regression whose features, all alike, were dealt into two groups by chance: one rate suffices."""

    number: int = 0

    def rows(self, seed: int, judged_on: str) -> PopulationData:
        """Rows of a seed: independent features, labels from a weight for each."""
        import torch

        from lrdiff_core.population import PopulationData

        random = np.random.default_rng([seed, self.number, 1 if judged_on == "test" else 2])
        learnt = np.random.default_rng([seed, self.number, 0])
        weights = np.random.default_rng([self.number, 3]).normal(size=FEATURES)

        def drawn(stream: np.random.Generator, count: int) -> tuple[Any, Any]:
            features = stream.normal(size=(count, FEATURES))
            labels = stream.random(count) < 1.0 / (1.0 + np.exp(-features @ weights))
            return (
                torch.from_numpy(features.astype(np.float32)), torch.from_numpy(labels[:, None].astype(np.float32))
            )  # fmt: skip

        inputs, targets = drawn(learnt, 100)
        held_inputs, held_targets = drawn(random, 400)
        return PopulationData(
            inputs=inputs, targets=targets, held_inputs=held_inputs, held_targets=held_targets, task="binary"
        )

    def network(self, trials: Trials) -> ModelFactory:
        """Two linear parts, each of which reads its own features."""
        return lambda seed: halves(self.number)

    def columns(self) -> dict[str, int]:
        """A group for each part."""
        return {"one.weight": 0, "other.weight": 1}

    def tiny(self) -> Halves:
        """The same: it takes little time."""
        return self


FEATURES = 8


def halves(number: int) -> Any:
    """A sum of two linear parts over features that chance has dealt."""
    import torch
    from torch import nn

    order = torch.randperm(FEATURES, generator=torch.Generator().manual_seed(number))

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = (nn.Linear(FEATURES // 2, 1, bias=False) for _ in range(2))
            self.register_buffer("order", order)

        def forward(self, rows: torch.Tensor) -> Any:
            dealt = rows.index_select(1, self.order)  # type: ignore[arg-type]
            return self.one(dealt[:, : FEATURES // 2]) + self.other(dealt[:, FEATURES // 2 :])

    return Sum()


def null(number: int) -> Workload:
    """A workload in which one rate suffices: by formula where the number is even, real trainings where it is odd."""
    if number % 2:
        return Halves(
            name=f"halves-{number}", title="Features dealt by chance", question="Planted: one rate suffices.",
            groups=("one", "other"), schemes=usual_schemes(("one", "other")), metric="loss", optimizer="sgd",
            base_rates=(1e-3, 10.0), default_rate=0.01, smallest_difference=0.01, steps=40, batch_size=20,
            report_seeds=30, evaluations=2, timed=False, number=number,
        )  # fmt: skip
    random = np.random.default_rng(number)
    valley = float(random.choice([0.0, 0.02, 0.1]))  # how much worse other ratios are, a square decade
    return Planted(
        name=f"formula-{number}", offset=number, best=float(random.uniform(-3.0, -1.5)),
        curvature=float(random.uniform(0.05, 0.3)), seed_noise=float(random.uniform(0.0, 0.05)),
        setting_noise=float(random.uniform(0.01, 0.03)), gain=lambda logs: -valley * (logs[:, 1:] ** 2).sum(axis=1),
    )  # fmt: skip


class _Parts:
    """Results by name, each written as soon as it is there, with where it was made."""

    def __init__(self, file: Path) -> None:
        self.file = file
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        known: dict[str, Any] = dict(json.loads(line) for line in lines)
        self.known = {name: part for name, part in known.items() if "origin" in part}  # earlier ones do not say it
        self.here = provenance()
        self.origins: list[dict[str, Any]] = []  # of what was asked for

    def get(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self.known:
            joined_provenance([*self.origins, self.here])  # before the minutes that it may take
            begin = time.process_time()
            made = {"is": make(), "seconds": round(time.process_time() - begin, 2)}
            self.known[name] = {**made, "origin": self.here}
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps([name, self.known[name]]) + "\n")
            print(name, made, flush=True)
        self.origins.append(self.known[name]["origin"])
        return self.known[name]


def workload_row(name: str, parts: _Parts) -> dict[str, Any]:
    """One workload: what searches and tunings have on fresh seeds, and the gap in smallest differences."""
    workload = workload_of(name)

    def whole(search: int) -> Any:
        rates = searched(workload, search)
        return {"rates": rates, "fresh": fresh(workload, rates)}

    def tuned(number: int) -> Any:
        found = find_rates(workload, seeds_from=1000 * number)
        rates = [found.base_rate * found.ratios[group] for group in workload.groups]
        return {"rates": rates, "fresh": fresh(workload, rates), "trainings": found.trainings}

    def timed() -> Any:
        """Processor seconds of one training by itself (its second time: the first compiles), and of a tuning."""
        find_rates(Planted())  # what is imported on first use is no part of either
        rates = np.full((1, len(workload.groups)), workload.default_rate)
        clock = []
        for _ in range(2):
            begin = time.process_time()
            _table(workload, workload.schemes[0], rates, [FROM], "validation")
            clock.append(time.process_time() - begin)
        begin = time.process_time()
        find_rates(workload, seeds_from=1000 * TUNINGS)
        return {"alone": clock[1], "tuning": time.process_time() - begin}

    clock = parts.get(f"{name} time", timed)["is"]
    free = [parts.get(f"{name} search {i}", lambda i=i: whole(i))["is"] for i in range(SEARCHES)]
    own = [parts.get(f"{name} tune {i}", lambda i=i: tuned(i))["is"] for i in range(TUNINGS)]
    low, mine = (float(np.mean([one["fresh"] for one in found])) for found in (free, own))
    return {
        "name": name,
        "metric": workload.metric,
        "smallest": workload.smallest_difference,
        "free": low,
        "tune": mine,
        "gap": (mine - low) / workload.smallest_difference,
        "trainings": own[0]["trainings"],
        "seconds": clock["tuning"],
        "time": clock["tuning"] / clock["alone"],
    }


def null_row(number: int, parts: _Parts, seeds_from: int = 0) -> dict[str, Any]:
    """One null: the answer, the verdict and its searches; other seeds have nulls of their own, too."""

    def judged() -> Any:
        tuned = tune_rates(null(number + seeds_from), TuneOptions(most_searches=MOST, seeds_from=seeds_from))
        if tuned.document is None:  # there are no two schemes to judge
            return {"answer": tuned.answer.word, "verdict": "the ratio found is 1", "searches": 0}
        gain = tuned.document["gain"]
        return {"answer": tuned.answer.word, "verdict": gain["verdict"], "searches": gain["searches"]}

    return dict(parts.get(f"null {number}" + (f" from {seeds_from}" if seeds_from else ""), judged)["is"])


def null_counts(nulls: Sequence[Mapping[str, Any]]) -> list[str]:
    """The table of verdicts and the share of right answers."""
    right = sum(one["answer"] == "one rate" for one in nulls)
    lines = ["| | by formula | trained |", "| --- | ---: | ---: |"]
    for word in dict.fromkeys(one["verdict"] for one in nulls):
        counts = (str(sum(one["verdict"] == word for one in kind)) for kind in (nulls[::2], nulls[1::2]))
        lines.append(f"| {word} | {' | '.join(counts)} |")
    return [*lines, "", f"The answer is *one rate suffices* in {right} of {len(nulls)}."]


def tune_page(document: Mapping[str, Any]) -> tuple[str, bool]:
    """The document as Markdown, and whether its bars are held."""
    rows, nulls, others = document["rows"], document["nulls"], document["others"]
    within = sum(row["gap"] <= 1.0 for row in rows)
    lines = [
        "# Rates in 56 trainings, put to the test",
        "",
        render("written_by.md", **document).rstrip(),
        "",
        "`lrdiff tune` searches 56 trainings: one rate, then ratios, then the best again. A search of free ratios",
        "by the [protocol](../guide/protocol.md) makes 448. Both are compared on the same fresh seeds and test data",
        f"({FRESH} seeds, interquartile mean; {SEARCHES} searches and {TUNINGS} tunings of each). The gap is in",
        "smallest differences that matter; negative: tune found the better rates.",
        "",
        "Time is that of a tuning on one core: in seconds, and in trainings that run alone.",
        "",
        "| workload | metric | free ratios, 448 trainings | tune, 56 trainings | gap | s | trainings alone |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        sign = -1.0 if row["metric"] == "accuracy" else 1.0
        lines.append(
            f"| `{row['name']}` | {row['metric']} | {sign * row['free']:.4f} | {sign * row['tune']:.4f} "
            f"| {row['gap']:+.2f} | {row['seconds']:.1f} | {row['time']:.0f} |"
        )
    lines += [
        "",
        f"Within one smallest difference in {within} of {len(rows)}. `control-classes` has no free ratios in its "
        "[study](../guide/workloads.md); here input and hidden layer are searched from 0.0001 to 10 times the head.",
        "",
        "## Where one rate suffices",
        "",
        "Nulls: workloads by formula whose loss is lowest at the ratio 1 or does not depend on ratios, and real "
        "trainings of a logistic regression whose features, all alike, chance has dealt into two groups. "
        f"Each is tuned, and what was found is judged, by {MOST} searches at most.",
        "",
        *null_counts(nulls),
        "",
        "## The same of other nulls",
        "",
        "Workloads and seeds that no rule of `lrdiff tune` was made after seeing: those from "
        f"{document['others_from']} on.",
        "",
        *null_counts(others),
    ]
    right = [sum(one["answer"] == "one rate" for one in each) >= 0.95 * len(each) for each in (nulls, others)]
    return "\n".join(lines) + "\n", within >= 0.75 * len(rows) and all(right)


def main(arguments: Sequence[str] | None = None) -> int:
    """Count, print and write; the status is 1 where a bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tune_rates", description=__doc__)
    add_page_options(parser)
    parser.add_argument("--parts", type=Path, default=Path("build", "tune-parts.jsonl"), help="what is done already")
    parser.add_argument("--seeds-from", type=int, default=OTHERS, metavar="N", help="of the other nulls; even, above 0")
    given = parser.parse_args(arguments)
    if given.seeds_from % 2 or given.seeds_from < NULLS:
        parser.error(f"--seeds-from: write an even number from {NULLS} up: below, and among odd ones, nulls come twice")
    files = PageFiles.of(given)
    document = files.document(lambda: _measured(_Parts(given.parts), given.seeds_from), **TUNE)
    text, held = tune_page(document)
    print(text)
    files.write(text)
    return int(not held)


def _measured(parts: _Parts, seeds_from: int) -> dict[str, Any]:
    """What the page tells; what the parts lack is measured."""
    import torch

    torch.set_num_threads(1)
    nulls, others = ([null_row(i, parts, begin) for i in range(NULLS)] for begin in (0, seeds_from))
    rows = [workload_row(name, parts) for name in WORKLOADS]
    origin = joined_provenance(parts.origins)
    return {"command": as_given(), "quick": False, **origin, "rows": rows, "nulls": nulls, "others": others,
            "others_from": seeds_from}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
