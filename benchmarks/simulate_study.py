"""The protocol put to the test: simulated studies whose truth is known.

:class:`Planted` is a workload whose metric is a formula, for tests of the whole engine. The counts are made without the
engine: thousands of searches, with their two stages of choice and many kinds of luck, are drawn as arrays, and the
court of :mod:`lrdiff_bench.stats.gain` judges them look by look. ``python -m benchmarks.simulate_study`` prints the
tables of the guide.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from lrdiff_bench.stats.gain import CLIP, gains_of, judge_gain
from lrdiff_bench.stats.intervals import t_quantile
from lrdiff_bench.stats.location import interquartile_mean, located
from lrdiff_bench.stats.looks import LOOKS
from lrdiff_bench.stats.verdict import Verdict, gain_verdict
from lrdiff_bench.study.workloads.workload import Outcomes, Scheme, Trials, Workload

__all__ = ["LUCKS", "Counts", "Luck", "Planted", "settled_by", "simulate"]

Numbers = NDArray[np.float64]

SMALLEST = 0.02
SINGLE = Scheme(name="single", ratios={"body": 1.0, "head": 1.0, "tail": 1.0})


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
        end[~moving] = 1.5
        end[base > self.breaks_at] = np.nan
        path = 1.0 - np.sqrt(np.arange(1, self.evaluations + 1) / self.evaluations)
        curve = end[:, None] + np.where(moving, 1.0, 0.0)[:, None] * path
        return Outcomes(
            metric=curve if self.metric == "loss" else 1.0 - curve,
            train_loss=curve,
            evaluated_after=np.arange(1, self.evaluations + 1) * self.steps // self.evaluations,
            seconds_a_step=1e-3,
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


def _free(*groups: str) -> Scheme:
    rest = {group: 1.0 for group in Planted.groups if group not in groups}
    return Scheme(name="free", ratios=rest, free=dict.fromkeys(groups, (0.01, 100.0)))


TEN = Scheme(name="ratio 10", ratios={"body": 1.0, "head": 10.0, "tail": 1.0})
TENTH = Scheme(name="ratio 0.1", ratios={"body": 1.0, "head": 0.1, "tail": 1.0})


@dataclass(frozen=True, kw_only=True)
class Luck:
    """What makes one search differ from another, in smallest differences; each search chooses its winner in two stages.

    Attributes:
        name: as the table has it.
        after: kind of luck that the choice cannot remove, by search: of :data:`KINDS`.
        spread: its standard deviation (of bad searches: the deviation of the others).
        mirage: one point in ten looks so much better than it is on the tuning seeds.
        optimism: one point in ten looks so much better than it is on all validation data.
        mishap: one run in twenty ends so much worse, whatever its rates.
        diverges: share of the runs that diverge, of the single rate and of the scheme.
        more: further share that diverges of the scheme alone.
        clustered: in one search of ten such a share diverges, of the single rate, of the scheme, or of both.
    """

    name: str
    after: str = "normal"
    spread: float = 1.0
    mirage: float = 0.0
    optimism: float = 0.0
    mishap: float = 0.0
    diverges: float = 0.0
    more: float = 0.0
    clustered: float = 0.0


KINDS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Numbers]] = {
    "normal": lambda random, shape: random.normal(size=shape),
    "exponential": lambda random, shape: random.exponential(size=shape),
    "exponential, mirrored": lambda random, shape: -random.exponential(size=shape),
    "t with 3 degrees of freedom": lambda random, shape: random.standard_t(3, shape) / math.sqrt(3.0),
    "a tenth bad": lambda random, shape: random.normal(size=shape) - 8.0 * (random.random(shape) < 0.1),
    "a tenth good": lambda random, shape: random.normal(size=shape) + 8.0 * (random.random(shape) < 0.1),
}  # fmt: skip
LUCKS = (
    *(Luck(name=f"luck of searches: {kind}", after=kind) for kind in KINDS),
    Luck(name="mirages on the tuning seeds", mirage=15.0, spread=0.3),
    Luck(name="optimistic validation", optimism=3.0, spread=0.3),
    Luck(name="one run in twenty goes wrong", mishap=25.0, spread=0.3),
    Luck(name="one run in thirty diverges", diverges=1 / 30, spread=0.3),
    Luck(name="all of it, exponential", after="exponential", mirage=15.0, optimism=3.0, mishap=25.0, diverges=1 / 30),
)
POINTS, TUNED_ON, FINALISTS, DECIDED_ON, SEEDS = 64, 4, 8, 24, 30  # of a search by the protocol
VALLEY = 5.0  # smallest differences a decade squared: how much worse a base rate beside the best one is
NOISE = 1.0  # standard deviation of a run, in smallest differences


def choose(first: Numbers, second: Numbers, finalists: int = FINALISTS) -> NDArray[np.intp]:
    """The winner of each search: the best few by the first scores, the best of those by the second. [..., points]"""
    front = np.argpartition(first, finalists - 1, axis=-1)[..., :finalists]
    best = np.take_along_axis(second, front, axis=-1).argmin(axis=-1)
    return np.asarray(np.take_along_axis(front, best[..., None], axis=-1)[..., 0])


def searches(luck: Luck, shape: tuple[int, ...], random: np.random.Generator) -> tuple[Numbers, Numbers]:
    """Losses of the winners of searches without any gain, single rate and scheme, on fresh seeds. [*shape, seeds]"""
    base = (np.arange(POINTS) + random.random((*shape, POINTS))) / POINTS * 4.0 - 2.0  # decades from the best one
    shared = random.normal(0.0, 1.5 * NOISE, (*shape, SEEDS))
    both = []
    for scheme in (False, True):
        true = VALLEY * base**2
        told = true - luck.optimism * (random.random(base.shape) < 0.1)
        tuned = told - luck.mirage * (random.random(base.shape) < 0.1)
        tuned = tuned + random.normal(0.0, NOISE / math.sqrt(TUNED_ON), base.shape)
        told = told + random.normal(0.0, NOISE / math.sqrt(DECIDED_ON), base.shape)
        won = np.take_along_axis(true, choose(tuned, told)[..., None], axis=-1)
        loss = won + shared + random.normal(0.0, NOISE, (*shape, SEEDS))
        loss += luck.mishap * (random.random(loss.shape) < 0.05)
        if scheme:
            loss -= luck.spread * KINDS[luck.after](random, shape)[..., None]
        share = np.full((*shape, 1), luck.diverges + (luck.more if scheme else 0.0))
        if luck.clustered:
            share = share + luck.clustered * (random.random((*shape, 1)) < 0.1)
        loss[random.random(loss.shape) < share] = np.inf
        both.append(loss)
    return both[0], both[1]


@cache
def without_gain(luck: Luck, count: int = 20_000) -> tuple[float, float]:
    """What a scheme without gain would be found to have: interquartile mean and mean of very many searches."""
    single, scheme = searches(luck, (count,), np.random.default_rng(10**6))
    by_search = interquartile_mean(gains_of(single, scheme, most=CLIP))
    return float(interquartile_mean(by_search)), float(by_search.mean())


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many of the simulated studies came to which verdict.

    Attributes:
        verdicts: how often each, without what qualifies it.
        words: how often each, with that.
        wrong: how many of them are wrong.
        student: how many would be wrong with Student's t on the mean of the searches, at the same looks and levels.
        settled_at: searches of those that were settled.
    """

    verdicts: dict[str, int]
    words: dict[str, int] = field(default_factory=dict)
    wrong: int
    student: int
    settled_at: tuple[int, ...]


def simulate(luck: Luck, truth: float, studies: int = 200, *, first: int = 0, most: int = LOOKS[-1].searches) -> Counts:
    """Judge simulated studies look by look and count their verdicts.

    Args:
        luck: what makes searches differ.
        truth: gain of the scheme in smallest differences: what is found in very many searches.
        studies: how many.
        first: number of the first, which fixes the random numbers.
        most: searches of each study.
    """
    found: dict[str, int] = {}
    words: dict[str, int] = {}
    wrong = student = 0
    settled = []
    shift, mean_shift = (truth - one for one in without_gain(luck))
    for number in range(first, first + studies):
        single, scheme = searches(luck, (most,), np.random.default_rng([number, crc32(luck.name.encode())]))
        gain = judge_gain(single, scheme - shift, smallest=1.0)
        word = gain.verdict.plain
        found[word] = found.get(word, 0) + 1
        words[gain.verdict] = words.get(gain.verdict, 0) + 1
        wrong += _is_wrong(word, truth)
        if word is not Verdict.INCONCLUSIVE:
            settled.append(gain.searches)
        means = interquartile_mean(gains_of(single, scheme, most=CLIP)) + mean_shift
        student += _is_wrong(_by_student(means), truth)
    return Counts(verdicts=found, words=words, wrong=wrong, student=student, settled_at=tuple(settled))


def _by_student(means: Numbers) -> Verdict:
    for look in LOOKS:
        own = means[: look.searches]
        if len(own) == look.searches:
            half = t_quantile(1.0 - look.error, len(own) - 1) * own.std(ddof=1) / math.sqrt(len(own))
            word = gain_verdict(float(own.mean() - half), float(own.mean() + half), 1.0)
            if word is not Verdict.INCONCLUSIVE:
                return word
    return Verdict.INCONCLUSIVE


def _is_wrong(word: Verdict, truth: float) -> bool:
    """At exactly the smallest difference every word but INCONCLUSIVE is wrong."""
    right = {Verdict.INCONCLUSIVE}
    if abs(truth) != 1.0:
        right.add(Verdict.NO_DIFFERENCE if abs(truth) < 1.0 else Verdict.HELPS if truth > 0 else Verdict.HURTS)
    return word not in right


DIVERGING = (
    Luck(name="none diverge", spread=0.3),
    Luck(name="one run in thirty, of both", diverges=1 / 30, spread=0.3),
    Luck(name="one run in ten, of both", diverges=0.1, spread=0.3),
    Luck(name="a third of the runs of one search in ten", clustered=1 / 3, spread=0.3),
    Luck(name="one run in twenty more, of the scheme", diverges=1 / 30, more=0.05, spread=0.3),
    Luck(name="one run in ten, of the scheme alone", more=0.1, spread=0.3),
)
BUT = (Verdict.NO_DIFFERENCE, Verdict.NO_DIFFERENCE_BUT_DIVERGES, Verdict.NO_DIFFERENCE_BUT_STEADIER)


def wrong_about_diverging(luck: Luck, counts: Counts) -> int:
    """How many of the words say more, fewer, or as many diverge, where that is not so."""
    right = BUT[1] if luck.more else BUT[0]
    return sum(counts.words.get(word, 0) for word in BUT if word is not right)


def diverging(studies: int = 200) -> bool:
    """Print the words where there is no gain and runs diverge; whether more than 5 % of any row are wrong."""
    print("\nno gain, and runs diverge")
    print(SHARES.format("", "NO DIFF.", "DIVERGES", "STEADIER", "INCONCLUSIVE", "wrong"))
    failed = False
    for luck in DIVERGING:
        counts = simulate(luck, 0.0, studies)
        wrong = wrong_about_diverging(luck, counts)
        words = [counts.words.get(word, 0) for word in (*BUT, Verdict.INCONCLUSIVE)]
        print(SHARES.format(luck.name, *words, wrong), flush=True)
        failed |= wrong > 0.05 * studies
    return failed


SHARES = "{:<42} {:>8} {:>9} {:>9} {:>13} {:>6}"
LINE = "{:<49} {:>5} {:>6} {:>6} {:>8} {:>13} {:>6} {:>10}"
POWER = "{:<34} {:>8} {:>6} {:>6} {:>6} {:>6}"


def main(studies: int = 200) -> int:
    """Print the counts of all truths and the power; the status is 1 where more than 5 % are wrong."""
    print(LINE.format("luck", "truth", "HELPS", "HURTS", "NO DIFF.", "INCONCLUSIVE", "wrong", "Student's"))
    failed = False
    for luck in LUCKS:
        for truth in (0.0, 1.0, 2.0):
            counts = simulate(luck, truth, studies)
            of = counts.verdicts.get
            words = [of(word, 0) for word in ("HELPS", "HURTS", "NO DIFFERENCE", "INCONCLUSIVE")]
            print(LINE.format(luck.name, f"{truth:g}", *words, counts.wrong, counts.student), flush=True)
            failed |= counts.wrong > 0.05 * studies
    failed |= diverging(studies)
    print("\nsettled after so many searches, % of the studies")
    print(POWER.format("distance from the smallest difference", *(look.searches for look in LOOKS)))
    for distance in (0.25, 0.33, 0.5, 0.75, 1.0, 1.5):
        # normal luck whose deviation, seeds included, is one: the distance is counted in deviations of searches
        settled = settled_by(distance, studies)
        print(POWER.format(f"{distance:g} deviations of searches", *(f"{100 * share:.0f}" for share in settled)))
    print("\nhalf-width beside that of Student's t on the mean, median of the studies")
    print(POWER.format("", *(look.searches for look in LOOKS)))
    for kind in ("normal", "a tenth bad"):
        print(POWER.format(kind, *(f"{width:.2f}" for width in widths(kind, studies))))
    return int(failed)


def widths(kind: str, studies: int) -> list[float]:
    """How wide the interval of each look is, as a share of what Student's t would have."""
    drawn = KINDS[kind](np.random.default_rng(0), (studies, LOOKS[-1].searches))
    found = []
    for look in LOOKS:
        own = drawn[:, : look.searches]
        student = t_quantile(1.0 - look.error, look.searches - 1) * own.std(axis=1, ddof=1) / math.sqrt(look.searches)
        robust = [located(np.repeat(row[:, None], 2, axis=1)).half_width(look.error, look.searches) for row in own]
        found.append(float(np.median(robust / student)))
    return found


def settled_by(distance: float, studies: int) -> list[float]:
    """Share of studies that are settled at each look, where the gain lies so many deviations above what matters."""
    random = np.random.default_rng(0)
    at = []
    for _ in range(studies):
        gains = 10.0 + distance + random.normal(size=(LOOKS[-1].searches, 1)) * np.ones((1, 2))
        found = judge_gain(np.zeros_like(gains), -gains, smallest=10.0)
        at.append(found.searches if found.verdict is not Verdict.INCONCLUSIVE else math.inf)
    return [float(np.mean(np.array(at) <= look.searches)) for look in LOOKS]


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 200))
