"""The protocol put to the test: simulated studies whose truth is known.

A planted workload computes its metric by a formula, so that a whole study takes milliseconds and hundreds of them count
how often the protocol's verdict is wrong. ``python -m benchmarks.simulate_study`` prints the table of the guide.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from lrdiff_bench.study.analysis.analyse import analyse
from lrdiff_bench.study.search.engine import run_study
from lrdiff_bench.study.search.ledger import MemoryLedger
from lrdiff_bench.study.search.plan import Plan
from lrdiff_bench.study.workloads.workload import Outcomes, Scheme, Trials, Workload

__all__ = ["SCENARIOS", "Counts", "Planted", "simulate"]

SMALLEST = 0.02
NINE_IN_TEN, NINETEEN_IN_TWENTY = 1.2816, 1.6449  # quantiles of the standard normal
SINGLE = Scheme(name="single", ratios={"body": 1.0, "head": 1.0, "tail": 1.0})
LINE = "{:<40} {:>7} {:>6} {:>6} {:>8} {:>13} {:>6} {:>9}"


@dataclass(frozen=True, kw_only=True)
class Planted(Workload):
    r"""A workload by formula: a valley over the base rate, a planted gain, and noise of three sources.

    .. math:: y = 0.5 + c\,(\log_{10} b - x)^2 - g(\text{ratios}) + \epsilon_s + \epsilon_{s,b} + \epsilon_{s,\theta}

    Attributes:
        gain: of each scheme by name; or a function of the logarithms of the ratios. [trials, groups] to [trials]
        best: decimal logarithm of the best base rate.
        curvature: loss a decade squared.
        seed_noise, setting_noise: standard deviations that settings of one seed share, and do not.
        breaks_at: base rate from which a trial diverges.
        mirage: how much better than it is one point in ten looks on the tuning seeds: luck in tuning is skewed.
        mishap: how much worse one run in twenty ends, whatever its rates.
        offset: of all random numbers, so that studies differ.
        evaluations: of each trial; the metric falls to its end like a square root.
    """

    name: str = "planted"
    title: str = "Planted"
    question: str = "Does the protocol find what was planted?"
    groups: tuple[str, ...] = ("body", "head", "tail")
    schemes: tuple[Scheme, ...] = (SINGLE, Scheme(name="ratio 10", ratios={"body": 1.0, "head": 10.0, "tail": 1.0}))
    metric: str = "loss"
    base_rates: tuple[float, float] = (1e-4, 1.0)
    default_rate: float = 1e-3
    smallest_difference: float = SMALLEST
    steps: int = 100
    report_seeds: int = 30
    label: str = ""
    gain: Mapping[str, float] | Callable[[NDArray[np.float64]], NDArray[np.float64]] = field(default_factory=dict)
    best: float = -2.0
    curvature: float = 0.1
    seed_noise: float = 0.03
    setting_noise: float = 0.02
    breaks_at: float = 0.3
    mirage: float = 0.0
    mishap: float = 0.0
    offset: int = 0
    evaluations: int = 4

    def train(self, trials: Trials) -> Outcomes:
        """Compute what training would have given."""
        base = trials.rates[:, 0]
        moving = base > 0
        logs = np.log10(np.where(moving[:, None], trials.rates, 1.0) / np.where(moving, base, 1.0)[:, None] + 1e-300)
        if callable(self.gain):
            gain = self.gain(logs)
        else:
            gain = np.full(len(base), self.gain.get(trials.scheme.name, 0.0))
        place = np.log10(np.where(moving, base, 1.0)) - self.best
        split = 1 if trials.judged_on == "test" else 2
        seeds = trials.seeds.astype(np.uint64) + np.uint64(1_000_003) * np.uint64(self.offset)
        shared = _normal(seeds, split) * self.seed_noise
        rates = [column.view(np.uint64) for column in trials.rates.T.copy()]
        own = _normal(seeds, *rates, split) * self.setting_noise
        end = 0.5 + self.curvature * place**2 - gain + shared + own
        tuning = (trials.seeds >= 1_000_000) & (trials.seeds < 2_000_000)  # the first stage of a search
        end -= self.mirage * (tuning & (_normal(*rates, 3 + self.offset) > NINE_IN_TEN))
        end += self.mishap * (_normal(seeds, *rates, 4 + split) > NINETEEN_IN_TWENTY)
        end[~moving] = 1.5
        end[base > self.breaks_at] = np.nan
        path = 1.0 - np.sqrt(np.arange(1, self.evaluations + 1) / self.evaluations)
        curve = end[:, None] + np.where(moving, 1.0, 0.0)[:, None] * path
        return Outcomes(
            metric=curve if self.metric == "loss" else 1.0 - curve,
            train_loss=curve,
            evaluated_after=np.arange(1, self.evaluations + 1) * self.steps // self.evaluations,
            seconds_a_step=1e-3,
            seconds_to_compile=0.5,
        )

    def tiny(self) -> Planted:
        """The same: it takes no time."""
        return self


def _normal(*parts: NDArray[np.uint64] | int) -> NDArray[np.float64]:
    """Standard normal numbers that are a function of what is given (splitmix64, then Box and Muller)."""
    with np.errstate(over="ignore"):
        state: NDArray[np.uint64] = np.full(1, 0x9E3779B97F4A7C15, dtype=np.uint64)
        for part in parts:
            state = _mixed(state ^ np.asarray(part, dtype=np.uint64))
        first, second = ((_mixed(state + np.uint64(i)) >> np.uint64(11)) * 2.0**-53 for i in (1, 2))
    return np.asarray(np.sqrt(-2.0 * np.log1p(-first)) * np.cos(2.0 * np.pi * second))


def _mixed(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(state ^ (state >> np.uint64(31)))


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A truth and the verdicts that would be wrong.

    Attributes:
        truth: gain of the compared scheme; None where it depends on the tuning.
        wrong: verdicts that count as wrong.
    """

    name: str
    workload: Planted
    truth: float | None
    wrong: tuple[str, ...]


def _free(*groups: str) -> Scheme:
    rest = {group: 1.0 for group in Planted.groups if group not in groups}
    return Scheme(name="free", ratios=rest, free=dict.fromkeys(groups, (0.01, 100.0)))


TEN = Scheme(name="ratio 10", ratios={"body": 1.0, "head": 10.0, "tail": 1.0})
TENTH = Scheme(name="ratio 0.1", ratios={"body": 1.0, "head": 0.1, "tail": 1.0})
SCENARIOS = (
    Scenario(
        name="no effect",
        workload=Planted(schemes=(SINGLE, TENTH, TEN)),
        truth=0.0,
        wrong=("HELPS", "HURTS"),
    ),
    Scenario(
        name="twice the smallest difference",
        workload=Planted(schemes=(SINGLE, TEN), gain={"ratio 10": 2 * SMALLEST}),
        truth=2 * SMALLEST,
        wrong=("NO DIFFERENCE", "HURTS"),
    ),
    Scenario(
        name="twice it, the wrong way",
        workload=Planted(schemes=(SINGLE, TEN), gain={"ratio 10": -2 * SMALLEST}),
        truth=-2 * SMALLEST,
        wrong=("NO DIFFERENCE", "HELPS"),
    ),
    Scenario(
        name="more dimensions without effect",
        workload=Planted(schemes=(SINGLE, _free("head", "tail"))),
        truth=0.0,
        wrong=("HELPS", "HURTS"),
    ),
    Scenario(  # truth: neither HELPS nor NO DIFFERENCE is right
        name="exactly the smallest difference",
        workload=Planted(schemes=(SINGLE, TEN), gain={"ratio 10": SMALLEST}),
        truth=SMALLEST,
        wrong=("HELPS", "NO DIFFERENCE", "HURTS"),
    ),
    Scenario(
        name="no effect, skewed luck in tuning",
        workload=Planted(schemes=(SINGLE, TENTH, TEN), mirage=0.3),
        truth=0.0,
        wrong=("HELPS", "HURTS"),
    ),
    Scenario(
        name="twice it, skewed luck in tuning",
        workload=Planted(schemes=(SINGLE, TEN), gain={"ratio 10": 2 * SMALLEST}, mirage=0.3),
        truth=2 * SMALLEST,
        wrong=("NO DIFFERENCE", "HURTS"),
    ),
    Scenario(
        name="no effect, one run in twenty goes wrong",
        workload=Planted(schemes=(SINGLE, TENTH, TEN), mishap=0.5),
        truth=0.0,
        wrong=("HELPS", "HURTS"),
    ),
    Scenario(
        name="no effect, much noise",
        workload=Planted(schemes=(SINGLE, TENTH, TEN), seed_noise=0.1, setting_noise=0.1),
        truth=0.0,
        wrong=("HELPS", "HURTS"),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many of the simulated studies came to which verdict.

    Attributes:
        studies: how many there were.
        verdicts: how often each.
        wrong: how many of them are wrong.
        covered: in how many the 95 % interval holds the truth.
        widened: in how many a space was widened, though nothing lies beyond.
    """

    studies: int
    verdicts: dict[str, int]
    wrong: int
    covered: int
    widened: int


def simulate(scenario: Scenario, studies: int = 200, *, plan: Plan | None = None, first: int = 0) -> Counts:
    """Run simulated studies and count their verdicts.

    Args:
        scenario: what is planted.
        studies: how many.
        plan: of each.
        first: number of the first, which fixes its random numbers.
    """
    verdicts: dict[str, int] = {}
    covered = widened = 0
    for number in range(first, first + studies):
        workload = replace(scenario.workload, offset=number + 1)
        own = replace(plan or Plan(), report_seeds=30 if plan is None else plan.report_seeds)
        study = run_study(workload, _scrambled(own, number), MemoryLedger())
        found = analyse(study, draws=1000, curves=False)
        gain = found.gain
        verdicts[gain.verdict.plain] = verdicts.get(gain.verdict.plain, 0) + 1
        covered += scenario.truth is None or gain.low <= scenario.truth <= gain.high
        widened += any(search.widened for search in study.searches)
    wrong = sum(count for verdict, count in verdicts.items() if verdict in scenario.wrong)
    return Counts(studies=studies, verdicts=verdicts, wrong=wrong, covered=covered, widened=widened)


def _scrambled(plan: Plan, number: int) -> Plan:
    """The same plan with points of its own."""

    class Own(Plan):
        def scramble(self, search: int) -> int:
            return super().scramble(search) + 1000 * (number + 1)

    return Own(**plan.to_dict())


def main(studies: int = 200) -> int:
    """Print the counts of all scenarios; the status is 1 where more than 5 % are wrong."""
    print(LINE.format("truth", "studies", "HELPS", "HURTS", "NO DIFF.", "INCONCLUSIVE", "wrong", "covered"))
    failed = False
    for scenario in SCENARIOS:
        counts = simulate(scenario, studies)
        of = counts.verdicts.get
        print(
            LINE.format(
                scenario.name, counts.studies, of("HELPS", 0), of("HURTS", 0), of("NO DIFFERENCE", 0),
                of("INCONCLUSIVE", 0), counts.wrong, counts.covered,
            ), flush=True,
        )  # fmt: skip
        failed |= counts.wrong > 0.05 * counts.studies
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 200))
