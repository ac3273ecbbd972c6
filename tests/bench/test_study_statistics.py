"""The numbers behind a verdict: intervals, best of k, Holm, suites; and 200 simulated studies of each truth."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmarks.simulate_study import SCENARIOS, simulate
from lrdiff_bench.study.analysis import judge as judge_module
from lrdiff_bench.study.analysis.best_of import Crossing, best_of_curves, expected_best, find_crossings
from lrdiff_bench.study.analysis.judge import Judgement, holm, interquartile_mean, judge, two_way
from lrdiff_bench.study.analysis.suite import performance_profile, suite_gain
from lrdiff_bench.study.search.plan import Plan

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}


# the protocol on planted truths


@pytest.mark.slow
@pytest.mark.parametrize("name", ["no effect", "twice the smallest difference", "more dimensions without effect"])
def test_200_simulated_studies_give_the_wrong_verdict_at_most_5_percent_of_the_time(name):
    counts = simulate(BY_NAME[name], 200)
    assert counts.studies == sum(counts.verdicts.values()) == 200
    assert counts.wrong <= 10, counts
    assert counts.covered >= 185, counts  # 95 % intervals; 185 of 200 would be a rare accident at 95 %
    assert counts.verdicts.get("INCONCLUSIVE", 0) <= 60, counts  # never saying anything is not the way to be right


def test_an_effect_of_exactly_the_smallest_difference_is_neither_help_nor_nothing():
    counts = simulate(BY_NAME["exactly the smallest difference"], 60)
    assert counts.wrong <= 6, counts


def test_the_calibration_can_fail(monkeypatch):
    """With an interval of no width nearly every verdict is a bold one: the count must show it."""
    monkeypatch.setattr(judge_module.TwoWay, "parts", lambda self, level=0.95: (0.0, 0.0, 0.0))
    counts = simulate(BY_NAME["exactly the smallest difference"], 20)
    assert counts.wrong > 10


def test_a_search_that_is_lucky_does_not_make_a_verdict_of_three():
    """Three searches of which one found much: the spread between them must reach the interval."""
    generator = np.random.default_rng(0)
    single = generator.normal(0, 0.01, (3, 200))
    lucky = single - np.array([[0.2], [0.0], [0.0]])
    found = judge(single, lucky, smallest=0.02)
    assert found.verdict == "INCONCLUSIVE"
    assert found.low < -0.2 < 0 < found.high


# intervals


def test_the_interval_holds_the_truth_with_few_searches_and_any_mix_of_noises():
    generator = np.random.default_rng(3)
    for tuning, shared, own in ((0.0, 1.0, 0.3), (0.3, 0.3, 1.0), (1.0, 0.3, 1.0)):
        held = 0
        for _ in range(150):
            values = (
                generator.normal(0, tuning, (3, 1))
                + generator.normal(0, shared, (1, 30))
                + generator.normal(0, own, (3, 30))
            )
            low, high = two_way(values, draws=300).interval()
            held += low <= 0 <= high
        assert held >= 135, (tuning, shared, own, held)  # 142 expected; 135 or fewer: 1 in 100


def test_swapping_the_sides_mirrors_everything():
    generator = np.random.default_rng(1)
    a, b = generator.normal(0, 1, (3, 40)), generator.normal(1.5, 1, (3, 40))
    ab, ba = judge(a, b, smallest=0.1), judge(b, a, smallest=0.1)
    assert (ab.verdict, ba.verdict) == ("HURTS", "HELPS")
    assert ab.difference == pytest.approx(-ba.difference)
    assert ab.improvement == pytest.approx(1 - ba.improvement)
    assert ab.low == pytest.approx(-ba.high, abs=0.15)  # the same draws, and quantiles that are not quite symmetric


def test_helps_needs_the_probability_of_improvement_as_well():
    """Far better on 60 % of the seeds, a little worse on the others: no HELPS, whatever the interval says."""
    single = np.zeros((5, 200))
    scheme = np.where(np.arange(200) % 10 < 6, -10.0, 0.5) * np.ones((5, 1))
    found = judge(single, scheme, smallest=0.1)
    assert found.high < -0.1
    assert found.improvement == pytest.approx(0.6)
    assert found.verdict == "INCONCLUSIVE"
    assert "no number of seeds will do" in found.reason
    assert found.seeds_needed is None


@pytest.mark.parametrize(
    ("shift", "verdict"), [(-0.2, "HELPS"), (0.2, "HURTS"), (0.0, "NO DIFFERENCE"), (0.1, "INCONCLUSIVE")]
)
def test_verdicts(shift, verdict):
    noise = np.random.default_rng(2).normal(0, 0.02, (2, 5, 30))
    assert judge(noise[0], noise[1] + shift, smallest=0.1).verdict == verdict


def test_the_number_of_seeds_still_needed_is_about_right():
    """An inconclusive study, made as large as it says, is conclusive."""
    generator = np.random.default_rng(4)

    def study(seeds):
        return generator.normal(0, 0.2, (5, seeds)), generator.normal(-0.25, 0.2, (5, seeds))

    found = judge(*study(6), smallest=0.1)
    assert found.verdict == "INCONCLUSIVE"
    assert found.seeds_needed > 6
    assert f"about {found.seeds_needed} seeds in all" in found.reason
    assert judge(*study(2 * found.seeds_needed), smallest=0.1).verdict == "HELPS"


def test_runs_that_diverge_count_and_never_make_a_nan():
    single = np.random.default_rng(5).normal(0, 0.01, (3, 30))
    broken = np.where(np.arange(30) < 20, np.inf, single)
    found = judge(single, broken, smallest=0.1)
    assert found.verdict == "HURTS"
    both = judge(np.full((3, 30), np.inf), np.full((3, 30), np.inf), smallest=0.1)
    assert both.verdict == "NO DIFFERENCE"
    for one in (found, both):
        assert all(math.isfinite(v) for v in (one.difference, one.low, one.high, one.improvement))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e3, 1e3), min_size=4, max_size=40))
def test_the_interquartile_mean_is_scipys_trimmed_mean(values):
    assert float(interquartile_mean(np.array(values))) == pytest.approx(stats.trim_mean(values, 0.25), abs=1e-6)


# Holm


def _with_p(p, verdict="HELPS"):
    return Judgement(
        verdict=verdict, difference=-1, low=-2, high=-0.5, improvement=0.9, improvement_low=0.8, improvement_high=1.0,
        smallest=0.1, p=p, seeds=30, searches=5,
    )  # fmt: skip


def test_holm_is_that_of_the_literature():
    p = {"a": 0.01, "b": 0.02, "c": 0.03, "d": 0.5}
    found = holm({name: _with_p(value) for name, value in p.items()})
    # by hand: 4 x 0.01, 3 x 0.02, max(2 x 0.03, 0.06), 0.5
    assert [round(found[name].holm_p, 3) for name in p] == [0.04, 0.06, 0.06, 0.5]
    assert [found[name].verdict for name in p] == ["HELPS", *["INCONCLUSIVE"] * 3]
    assert "not after Holm's correction over 4" in found["b"].reason
    assert list(found) == list(p)


def test_an_inconclusive_one_stays_so():
    found = holm({"a": _with_p(1.0, "INCONCLUSIVE"), "b": _with_p(0.001)})
    assert found["a"].verdict == "INCONCLUSIVE"
    assert found["b"].verdict == "HELPS"


def test_many_workloads_without_effect_rarely_help_after_holm():
    """Twenty noisy comparisons that each sit at the smallest difference: their number must not make a verdict."""
    generator = np.random.default_rng(6)
    wrong = 0
    for _ in range(30):
        family = {
            str(i): judge(
                generator.normal(0, 0.05, (3, 30)), generator.normal(-0.02, 0.05, (3, 30)), smallest=0.02, draws=400
            )
            for i in range(20)
        }
        wrong += any(one.verdict == "HELPS" for one in holm(family).values())
    assert wrong <= 4


def test_the_level_of_a_verdict_that_stands_alone_is_the_one_it_says():
    """Holm asks for a twentieth of a twentieth: there, too, the normal's interval is widened as Student's t is."""
    generator = np.random.default_rng(7)
    values = 1.0 + np.repeat(generator.normal(0, 1, (1, 12)), 3, axis=0)
    found = two_way(values, location=np.mean, draws=40_000)
    for level in (0.95, 0.9975):
        below, above, spread = found.parts(level)
        wanted = stats.t.ppf((1 + level) / 2, 11) * values[0].std(ddof=1) / math.sqrt(12)
        assert spread == 0.0
        assert (below + above) / 2 == pytest.approx(wanted, rel=0.05), level


# best of k


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=7))
def test_best_of_k_is_the_mean_over_all_subsets(values):
    ks = np.arange(1, len(values) + 1)
    by_hand = [np.mean([min(subset) for subset in itertools.combinations(values, int(k))]) for k in ks]
    np.testing.assert_allclose(expected_best(np.array(values, dtype=float), ks), by_hand)


def test_best_of_k_is_unbiased_where_the_one_with_replacement_is_not():
    generator = np.random.default_rng(0)
    samples = generator.random((4000, 16))
    ks = np.array([1, 4, 16])
    truth = 1.0 / (ks + 1.0)  # lowest of k uniform numbers
    np.testing.assert_allclose(expected_best(samples, ks).mean(axis=0), truth, atol=0.004)


def test_curves_that_cross_are_said_to_cross_with_where():
    generator = np.random.default_rng(1)
    # single: reliably fair; the scheme: mostly bad, now and then much better
    single = generator.normal(1.0, 0.02, (3, 64, 2))
    scheme = np.where(generator.random((3, 64, 1)) < 0.1, 0.5, 2.0) + generator.normal(0, 0.02, (3, 64, 2))
    curves = best_of_curves(np.stack([single, scheme]), draws=200)
    assert curves.crossings[0] == ()
    (crossing,) = curves.crossings[1]
    assert crossing.clear
    assert not crossing.better_before
    before, after = curves.difference[1][crossing.k - 2], curves.difference[1][crossing.k - 1]
    assert before > 0 > after
    assert curves.k[-1] == 64


def test_curves_that_only_touch_in_the_noise_do_not_cross_clearly():
    noise = np.random.default_rng(2).normal(0, 1, (2, 3, 32, 2))
    assert not any(one.clear for one in best_of_curves(noise, draws=200).crossings[1])
    ks = np.array([1, 2, 3])
    d = np.array([1.0, -0.5, 1.0])
    assert find_crossings(ks, d, d - 2, d + 2) == (
        Crossing(k=2, better_before=False, clear=False),
        Crossing(k=3, better_before=True, clear=False),
    )


def test_the_band_of_best_of_k_holds_the_truth_to_its_end():
    generator = np.random.default_rng(3)
    held = np.zeros(16)
    for i in range(100):
        curves = best_of_curves(generator.random((1, 3, 16, 1)), draws=150, seed=i)
        truth = 1 / (curves.k + 1)  # lowest of k uniform numbers
        held += (curves.low[0] <= truth) & (truth <= curves.high[0])
    assert curves.k[-1] == 16  # a third of the trials; at all of them it would hold 80 of 100
    assert held.min() >= 88, held  # 95 expected; 87 or fewer: 1 in 500


# suites


def test_a_suite_weighs_workloads_the_same_however_many_seeds_they_have():
    gains = {"many": np.full(200, 4.0), "few": np.zeros(30)}
    assert suite_gain(gains).estimate == pytest.approx(2.0, abs=0.1)
    assert performance_profile(gains, [1.0]).share.tolist() == [0.5]


def test_suite_intervals_are_stratified_and_reproducible():
    generator = np.random.default_rng(0)
    gains = {"a": generator.normal(10, 0.1, 50), "b": generator.normal(-10, 0.1, 50)}
    before = np.random.get_state()[1].copy()
    first, again = suite_gain(gains), suite_gain(gains)
    assert first == again
    assert (np.random.get_state()[1] == before).all()
    # drawn inside each workload the mean hardly moves; drawn over both together it would move by some units
    assert first.high - first.low < 0.5
    profile = performance_profile(gains, [-20.0, 0.0, 20.0])
    assert profile.share.tolist() == [1.0, 0.5, 0.0]
    assert profile.low[1] == profile.high[1] == 0.5


def test_one_run_that_diverged_does_not_move_the_suite():
    gains = {"a": np.r_[np.full(40, 1.0), -np.inf]}
    assert suite_gain(gains).estimate == pytest.approx(1.0)


def test_simulated_studies_differ_from_each_other():
    plan = Plan(budget=8, repeats=3, report_seeds=10, target_seeds=4)
    scenario = BY_NAME["no effect, much noise"]
    assert simulate(scenario, 1, plan=plan, first=0) != simulate(scenario, 3, plan=plan, first=1)
