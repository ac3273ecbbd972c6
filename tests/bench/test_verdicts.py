"""One verdict for everything: where an interval lies, what a gain is worth, and what changes the word."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import stats

from lrdiff_bench.report.gains import TERMINAL_COLORS, beside, verdict_text
from lrdiff_bench.stats.gain import Gain, gains_of, holm, judge_gain
from lrdiff_bench.stats.intervals import Interval, t_quantile
from lrdiff_bench.stats.location import interquartile_mean, located
from lrdiff_bench.stats.looks import ERROR, LOOKS, looks_of
from lrdiff_bench.stats.verdict import GAIN, GOAL, SPEED, Goal, Verdict, gain_verdict, speed_verdict
from lrdiff_core.errors import DataError

FLIPPED = {Verdict.HELPS: "HURTS", Verdict.HURTS: "HELPS", Verdict.FASTER: "slower", Verdict.SLOWER: "faster"}


def of(low: float, high: float) -> Interval:
    return Interval((low + high) / 2, low, high, 0.95)


# where an interval lies


@pytest.mark.parametrize(
    ("low", "high", "speed"),
    [
        (0.90, 0.97, "faster"),
        (1.03, 1.10, "slower"),
        (0.99, 1.01, "equivalent"),
        (0.97, 1.01, "unresolved"),
        (0.95, 1.05, "unresolved"),
        (1.01, 1.05, "unresolved"),
        (0.0, math.inf, "unresolved"),
        (math.nan, math.nan, "unresolved"),
    ],
)
def test_a_ratio_of_times_and_its_mirror(low: float, high: float, speed: str) -> None:
    assert speed_verdict(of(low, high)) == speed
    with np.errstate(divide="ignore"):
        back = of(float(1 / np.float64(high)), float(1 / np.float64(low)))
    assert speed_verdict(back) == FLIPPED.get(Verdict(speed), speed)


@given(st.tuples(*[st.floats(-1, 1)] * 2).map(sorted), st.floats(1e-6, 1))
def test_a_gain_and_its_mirror(ends: list[float], smallest: float) -> None:
    there, back = gain_verdict(*ends, smallest), gain_verdict(-ends[1], -ends[0], smallest)
    assert back == FLIPPED.get(there, there)
    assert (there == "HELPS") == (ends[0] > smallest)
    assert (there == "NO DIFFERENCE") == (max(map(abs, ends)) <= smallest)


@pytest.mark.parametrize(
    ("goal", "low", "high", "verdict"),
    [
        (Goal(text="", least=4), 4, 6, "met"),
        (Goal(text="", least=4), 3.9, 6, "unresolved"),
        (Goal(text="", least=4), 2, 3.9, "missed"),
        (Goal(text="", most=1.1), 0.9, 1.1, "met"),
        (Goal(text="", most=1.1), 1.05, 1.2, "unresolved"),
        (Goal(text="", most=1.1), 1.2, 1.4, "missed"),
    ],
)
def test_a_goal(goal: Goal, low: float, high: float, verdict: str) -> None:
    assert goal.verdict(low, high) == verdict


def test_every_word_of_a_gain_has_a_colour() -> None:
    words = {one for one in Verdict if one.isupper()}
    assert set(TERMINAL_COLORS) == words
    assert {one.plain for one in words} == set(GAIN)
    assert len({*GAIN, *SPEED, *GOAL}) == 4 + 4 + 2


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize("degrees", [1, 2, 4, 30, 101])
def test_t_quantile_is_that_of_scipy_stats(level: float, degrees: int) -> None:
    assert t_quantile(level, degrees) == pytest.approx(stats.t.ppf((1 + level) / 2, degrees), rel=1e-9)


# a gain over searches and seeds


@pytest.mark.parametrize(
    ("gain", "verdict"), [(0.2, "HELPS"), (-0.2, "HURTS"), (0.0, "NO DIFFERENCE"), (-0.1, "INCONCLUSIVE")]
)
def test_the_four_words(gain: float, verdict: str) -> None:
    noise = np.random.default_rng(2).normal(0, 0.02, (2, 5, 30))
    found = judge_gain(noise[0], noise[1] - gain, smallest=0.1)
    assert found.verdict == verdict
    assert found.low <= gain <= found.high
    assert found.mean_low <= gain <= found.mean_high
    assert (found.much_better, found.much_worse, found.diverged, found.single_diverged) == (0, 0, 0, 0)


def test_swapping_the_sides_mirrors_everything() -> None:
    generator = np.random.default_rng(1)
    a, b = generator.normal(0, 1, (3, 40)), generator.normal(1.5, 1, (3, 40))
    ab, ba = judge_gain(a, b, smallest=0.1), judge_gain(b, a, smallest=0.1)
    assert (ab.verdict, ba.verdict) == ("HURTS", "HELPS")
    assert (ab.estimate, ab.mean) == (pytest.approx(-ba.estimate), pytest.approx(-ba.mean))
    assert ab.improvement == pytest.approx(1 - ba.improvement)
    assert (ab.much_better, ab.much_worse) == (ba.much_worse, ba.much_better)
    assert ab.low == pytest.approx(-ba.high, abs=0.15)  # the same draws, and quantiles that are not quite symmetric


@pytest.mark.parametrize("searches", [3, 15, 16, 40])
def test_the_interval_holds_the_truth_with_any_number_of_searches_and_mix_of_noises(searches: int) -> None:
    generator = np.random.default_rng(3)
    held = 0
    for trial in range(200):
        tuning, own = ((0.0, 1.0), (0.3, 1.0), (1.0, 0.3))[trial % 3]
        values = generator.normal(0, tuning, (searches, 1)) + generator.normal(0, own, (searches, 30))
        low, high = located(values).interval()
        held += low <= 0 <= high
    assert held >= 181, held  # 190 expected; 180 or fewer: 1 in 300


@pytest.mark.parametrize("searches", [16, 24, 40])
@pytest.mark.parametrize("error", [ERROR, 0.0025])
def test_the_interval_of_many_searches_is_scipys_of_a_trimmed_mean(searches: int, error: float) -> None:
    values = np.random.default_rng(7).exponential(size=(searches, 2))
    found = located(values)
    low, high = stats.mstats.trimmed_mean_ci(values.mean(axis=1), limits=(0.25, 0.25), alpha=error)
    assert found.interval(error) == (pytest.approx(low), pytest.approx(high))
    assert found.estimate == pytest.approx(stats.trim_mean(values.mean(axis=1), 0.25))


def test_a_tenth_of_bad_searches_does_not_decide_and_stands_beside() -> None:
    generator = np.random.default_rng(5)
    gains = generator.normal(0.0, 0.02, (40, 30)) - 0.5 * (np.arange(40) % 10 == 9)[:, None]
    found = judge_gain(np.zeros_like(gains), -gains, smallest=0.05)
    assert found.verdict == "NO DIFFERENCE"
    assert found.mean == pytest.approx(gains[: found.searches].mean())
    assert found.mean < -0.02
    assert found.mean_low < -0.05


# looks


def test_the_looks_spend_less_than_the_error_of_one_and_small_studies_are_judged_once() -> None:
    assert sum(look.error for look in LOOKS) < ERROR
    assert [look.searches for look in looks_of(63)] == [16, 24, 40]
    assert looks_of(15) == ((15, ERROR),)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(-0.4, 0.4))
def test_more_searches_never_change_what_earlier_looks_said(seed: int, gain: float) -> None:
    noise = np.random.default_rng(seed).normal(gain, 0.3, (64, 4))
    every = [judge_gain(np.zeros((n, 4)), -noise[:n], smallest=0.2) for n in (16, 24, 40, 63, 64)]
    for shorter, longer in itertools.pairwise(every):
        assert longer.looks[: len(shorter.looks)] == shorter.looks
        if shorter.verdict != "INCONCLUSIVE":
            assert (longer.verdict, longer.low, longer.searches) == (shorter.verdict, shorter.low, shorter.searches)
        assert longer.p <= shorter.p


def test_a_search_that_is_lucky_does_not_make_a_verdict_of_three() -> None:
    single = np.random.default_rng(0).normal(0, 0.01, (3, 200))
    found = judge_gain(single, single - np.array([[0.2], [0.0], [0.0]]), smallest=0.02)
    assert found.verdict == "INCONCLUSIVE"
    assert found.low < 0 < 0.2 < found.high


def test_one_search_has_the_interval_of_its_seeds() -> None:
    noise = np.random.default_rng(8).normal(0, 0.1, (1, 60))
    one = judge_gain(noise, noise - 0.2, smallest=0.1)
    assert (one.verdict, one.searches) == ("HELPS", 1)
    low, high = located(noise, location=np.mean).interval()
    wanted = stats.t.interval(0.95, 59, noise.mean(), noise.std(ddof=1) / math.sqrt(60))
    assert (low, high) == pytest.approx(wanted, abs=0.004)
    undecided = judge_gain(noise, noise[:, ::-1] - 0.1, smallest=0.1)
    assert undecided.verdict == "INCONCLUSIVE"
    assert undecided.searches_needed is None


@pytest.mark.parametrize("searches", [1, 2, 5, 15, 16, 40, 50, 100, 120])
@pytest.mark.parametrize("gain", [0.15, 0.1])
def test_what_is_needed_is_said_for_any_number_of_searches(searches: int, gain: float) -> None:
    generator = np.random.default_rng(4)
    own = generator.normal(0, 1, (searches, 1))
    own = own - own.mean() if searches > 1 else own * 0
    gains = gain + 0.3 * own * math.sqrt(searches) + generator.normal(0, 0.4, (searches, 8))
    found = judge_gain(np.zeros_like(gains), -gains, smallest=0.1)
    assert found.verdict == "INCONCLUSIVE"
    assert found.is_open
    assert any(told in found.reason for told in ("would settle it", "would not settle it", "no affordable"))


def test_a_study_made_as_large_as_is_said_is_conclusive() -> None:
    generator = np.random.default_rng(4)
    single, scheme = generator.normal(0, 0.2, (40, 8)), generator.normal(-0.25, 0.2, (40, 8))
    few = judge_gain(single[:4], scheme[:4], smallest=0.12)
    assert few.verdict == "INCONCLUSIVE"
    assert f"{few.searches_needed - 4} more searches would settle it" in few.reason
    assert judge_gain(single, scheme, smallest=0.12).verdict == "HELPS"


def test_a_verdict_takes_two_seeds() -> None:
    with pytest.raises(DataError, match="1 seeds to compare on"):
        judge_gain(np.zeros((3, 1)), np.zeros((3, 1)), smallest=0.1)


# what stands beside the interquartile mean, and changes the word


def pairs(*shares: tuple[float, float]) -> np.ndarray:
    """Gains of 5 searches and 200 seeds, so much of them of each size, in an order that no search can tell."""
    values = np.concatenate([np.full(round(200 * share), gain) for share, gain in shares])
    return np.random.default_rng(0).permutation(values) * np.ones((5, 1))


@pytest.mark.parametrize(
    ("gains", "verdict", "reason"),
    [
        (pairs((0.8, 0.3), (0.2, -0.3)), "HELPS", ""),
        (pairs((0.6, 10.0), (0.4, -0.5)), "HELPS ON AVERAGE", "better in 60 % of the pairs"),
        (pairs((0.6, -10.0), (0.4, 0.5)), "HURTS ON AVERAGE", "worse in 60 % of the pairs"),
        (pairs((0.82, 0.3), (0.18, -np.inf)), "HELPS BUT DIVERGES", "18 % of its runs diverge, 0 % with the single"),
        (pairs((0.995, 0.3), (0.005, -np.inf)), "HELPS BUT DIVERGES", "1 % of its runs diverge"),
        (pairs((0.82, 0.3), (0.18, np.inf)), "HELPS", ""),  # the single rate's runs diverge
        (pairs((0.9, 0.0), (0.1, -np.inf)), "INCONCLUSIVE", "typical runs do not differ, but 10 % of its runs diverge"),
        (pairs((0.995, 0.0), (0.005, -np.inf)), "NO DIFFERENCE", ""),
        (pairs((0.955, -0.001), (0.045, -2.0)), "NO DIFFERENCE", ""),
    ],
)
def test_tails_and_diverged_runs_change_the_word(gains: np.ndarray, verdict: str, reason: str) -> None:
    single = np.where(gains == np.inf, np.inf, 0.0)
    scheme = np.where(gains == -np.inf, np.inf, np.where(gains == np.inf, 0.0, -gains))
    found = judge_gain(single, scheme, smallest=0.1)
    assert found.verdict == verdict
    assert reason in found.reason
    assert bool(reason) == bool(found.reason)
    assert found.diverged == pytest.approx(np.mean(gains == -np.inf))
    assert found.single_diverged == pytest.approx(np.mean(gains == np.inf))
    assert (found.much_better, found.much_worse) == (np.mean(gains > 1.0), np.mean(gains < -1.0))
    assert found.mean == pytest.approx(gains[np.isfinite(gains)].mean())
    told = f"{verdict_text(vars(found))}; {beside(vars(found))}"
    assert verdict in told
    assert ("diverged" in beside(vars(found))) == bool(np.isinf(gains).any())


@pytest.mark.parametrize(
    ("lost", "verdict"),
    [
        ([3] * 16, "NO DIFFERENCE BUT DIVERGES"),  # three of thirty runs in every search
        ([-3] * 16, "NO DIFFERENCE BUT STEADIER"),
        ([3] * 11 + [0] * 5, "NO DIFFERENCE BUT DIVERGES"),
        ([3] * 8 + [0] * 8, "INCONCLUSIVE"),  # it may be luck
        ([3] * 12 + [-1] * 4, "INCONCLUSIVE"),
        ([6] + [0] * 15, "INCONCLUSIVE"),  # one bad winner is one search, not six runs
        ([6] + [0] * 39, "NO DIFFERENCE"),  # less than one run in a hundred
    ],
)
def test_other_shares_of_diverged_runs_have_a_word_where_they_are_no_luck(lost: list[int], verdict: str) -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, (len(lost), 30))
    single, scheme = noise.copy(), noise + 0.001
    for row, count in enumerate(lost):
        (scheme if count > 0 else single)[row, : abs(count)] = np.inf
    found = judge_gain(single, scheme, smallest=0.1)
    assert found.verdict == verdict
    assert found.is_open == (verdict == "INCONCLUSIVE")  # more searches are worth their price
    assert found.p <= 0.05 or found.is_open
    words = {"DIVERGES": "STEADIER", "STEADIER": "DIVERGES"}
    last = verdict.rpartition(" ")[2]
    assert judge_gain(scheme, single, smallest=0.1).verdict == verdict.replace(last, words.get(last, last))
    if last in words:
        assert found.verdict.plain == "NO DIFFERENCE"
        assert verdict in verdict_text(vars(found))
        corrected = holm({"a": found, "b": found})["a"].verdict
        assert corrected == (verdict if min(map(abs, lost)) else "INCONCLUSIVE")


def test_one_search_counts_seeds_and_few_searches_never_say_it() -> None:
    one = np.zeros((1, 200))
    many = np.where(np.arange(200) < 20, np.inf, 0.001)[None]
    assert judge_gain(one, many, smallest=0.1).verdict == "NO DIFFERENCE BUT DIVERGES"
    five = judge_gain(np.repeat(one, 5, 0), np.repeat(many, 5, 0), smallest=0.1)
    assert five.verdict == "INCONCLUSIVE"
    assert five.searches_needed == 16
    assert "11 more searches would settle that if the shares stay" in five.reason


@pytest.mark.slow
def test_the_words_about_diverged_runs_are_seldom_wrong() -> None:
    from benchmarks.simulate_study import DIVERGING, simulate, wrong_about_diverging

    for luck in DIVERGING[2:4]:
        assert wrong_about_diverging(luck, simulate(luck, 0.0, 60)) <= 3
    assert simulate(DIVERGING[5], 0.0, 20).words == {"NO DIFFERENCE BUT DIVERGES": 20}


@pytest.mark.parametrize(("single", "scheme", "verdict"), [(0.0, np.inf, "HURTS"), (np.inf, np.inf, "NO DIFFERENCE")])
def test_runs_that_all_diverge_never_make_a_nan(single: float, scheme: float, verdict: str) -> None:
    found = judge_gain(np.full((3, 30), single), np.full((3, 30), scheme), smallest=0.1)
    assert found.verdict == verdict
    assert all(math.isfinite(v) for v in (found.estimate, found.low, found.high, found.improvement))
    assert found.mean is None
    assert "nan" not in f"{verdict_text(vars(found))} {beside(vars(found))}"


@given(st.lists(st.floats(0, 1) | st.just(math.inf), min_size=6, max_size=6))
def test_gains_are_antisymmetric_and_cut_off(values: list[float]) -> None:
    a, b = np.array(values[:3]), np.array(values[3:])
    gains = gains_of(a, b, most=2.0)
    assert (gains == -gains_of(b, a, most=2.0)).all()
    assert (np.abs(gains) <= 2.0).all()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e3, 1e3), min_size=4, max_size=40))
def test_the_interquartile_mean_is_scipys_trimmed_mean(values: list[float]) -> None:
    assert float(interquartile_mean(np.array(values))) == pytest.approx(stats.trim_mean(values, 0.25), abs=1e-6)


# many at once


def with_p(p: float, verdict: str = "HELPS") -> Gain:
    noise = np.random.default_rng(0).normal(0, 0.1, (5, 30))
    return replace(judge_gain(noise, noise - 0.5, smallest=0.1, draws=50), p=p, verdict=Verdict(verdict))


def test_holm_is_that_of_the_literature() -> None:
    p = {"a": 0.01, "b": 0.02, "c": 0.03, "d": 0.5}
    found = holm({name: with_p(value) for name, value in p.items()})
    # by hand: 4 x 0.01, 3 x 0.02, max(2 x 0.03, 0.06), 0.5
    assert [round(found[name].holm_p, 3) for name in p] == [0.04, 0.06, 0.06, 0.5]
    assert [found[name].verdict for name in p] == ["HELPS", *["INCONCLUSIVE"] * 3]
    assert "not after Holm's correction over 4" in found["b"].reason
    assert list(found) == list(p)


def test_holm_makes_no_verdict_of_an_inconclusive_one() -> None:
    found = holm({"a": with_p(1.0, "INCONCLUSIVE"), "b": with_p(0.001)})
    assert [one.verdict for one in found.values()] == ["INCONCLUSIVE", "HELPS"]


def test_many_workloads_without_effect_rarely_help_after_holm() -> None:
    """Twenty noisy comparisons that each sit at the smallest difference: their number must not make a verdict."""
    generator = np.random.default_rng(6)
    wrong = 0
    for _ in range(15):
        family = {}
        for i in range(20):
            single, scheme = generator.normal(0, 0.05, (3, 30)), generator.normal(-0.02, 0.05, (3, 30))
            family[str(i)] = judge_gain(single, scheme, smallest=0.02, draws=300)
        wrong += any(one.verdict.plain == "HELPS" for one in holm(family).values())
    assert wrong <= 3
