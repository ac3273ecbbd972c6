"""The numbers behind a verdict: simulated studies of known truth, best of k, suites."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from benchmarks.simulate_study import LUCKS, choose, searches, settled_by, simulate
from lrdiff_bench.study.analysis.best_of import Crossing, best_of_curves, expected_best, find_crossings
from lrdiff_bench.study.analysis.suite import performance_profile, suite_gain
from lrdiff_bench.study.search.points import BASE, Space
from lrdiff_bench.study.search.winner import choose_winner, finalists

BY_NAME = {luck.name: luck for luck in LUCKS}


# the protocol on planted truths


@pytest.mark.slow
@pytest.mark.parametrize("luck", LUCKS, ids=lambda luck: luck.name)
def test_simulated_studies_give_the_wrong_verdict_at_most_5_percent_of_the_time(luck):
    """60 of each; the guide's table has 200, from ``python -m benchmarks.simulate_study``."""
    for truth in (0.0, 1.0):
        counts = simulate(luck, truth, 60)
        assert sum(counts.verdicts.values()) == 60
        assert counts.wrong <= 7, (truth, counts)  # 8 of 60 at 5 %: 1 in 100


@pytest.mark.slow
@pytest.mark.parametrize("luck", LUCKS, ids=lambda luck: luck.name)
def test_the_counts_of_the_guide_are_those_of_the_command(luck):
    guide = Path(__file__).parents[2].joinpath("docs", "guide", "protocol.md").read_text(encoding="utf-8")
    row = re.search(rf"^\| {re.escape(luck.name.removeprefix('luck of '))} \| (.*) \|$", guide, flags=re.MULTILINE)
    assert row is not None
    none, edge, twice = (simulate(luck, truth, 200) for truth in (0.0, 1.0, 2.0))
    found = [none.verdicts["NO DIFFERENCE"], none.wrong, edge.wrong, edge.student, twice.verdicts["HELPS"], twice.wrong]
    assert [int(cell) for cell in row[1].split(" | ")] == found


def test_a_study_of_no_effect_is_settled_and_never_the_other_way():
    counts = simulate(BY_NAME["luck of searches: normal"], 0.0, 10)
    assert counts.verdicts == {"NO DIFFERENCE": 10}
    assert set(counts.settled_at) <= {16, 24, 40, 64, 100}


def test_power_rises_with_the_distance_and_with_every_look():
    near, far = settled_by(0.4, 20), settled_by(1.2, 20)
    assert near == sorted(near)
    assert far[-1] == 1.0
    assert all(a <= b for a, b in zip(near, far, strict=True))


def test_the_calibration_can_fail(monkeypatch):
    """With an interval of no width nearly every verdict is a bold one: the count must show it."""
    monkeypatch.setattr("lrdiff_bench.stats.location.Located.half_width", lambda self, error, searches: 0.0)
    assert simulate(LUCKS[0], 1.0, 5).wrong == 5


def test_the_simulated_choice_is_that_of_a_search():
    """Two stages drawn as arrays, against the functions that studies call."""
    random = np.random.default_rng(0)
    first, second = random.normal(size=(20, 64)), random.normal(size=(20, 64))
    space = Space(names=(BASE,), intervals=((1e-4, 1.0),))
    middle = np.full((8, 1), 0.5)
    for search, won in enumerate(choose(first, second)):
        best = finalists(first[search][:, None], 8)
        winner = choose_winner(space, middle, second[search][best][:, None], smallest=0.1)
        assert best[winner.index] == won


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
    luck = BY_NAME["luck of searches: a tenth bad"]
    assert simulate(luck, 0.5, 2, most=16) == simulate(luck, 0.5, 2, most=16)
    drawn = [searches(luck, (16,), np.random.default_rng(number))[1] for number in (0, 1)]
    assert not np.array_equal(*drawn)
