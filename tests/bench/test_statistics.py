"""Intervals: against scipy's, by counting how often they hold the truth, and on data that breaks lesser ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, strategies as st

from lrdiff_bench.stats.intervals import bootstrap_interval, median_interval, paired_difference
from lrdiff_core.errors import ConfigError, DataError


@pytest.mark.parametrize("size", [6, 7, 10, 20, 39, 101, 2001])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_median_interval_is_scipys(size: int, level: float) -> None:
    values = np.random.default_rng(size).lognormal(size=size)
    ours = median_interval(values, level=level)
    theirs = scipy.stats.quantile_test(values, q=0.0, p=0.5).confidence_interval(level)
    assert (ours.estimate, ours.low, ours.high) == (np.median(values), theirs.low, theirs.high)
    assert ours.level >= level


@pytest.mark.parametrize("statistic", [np.median, np.mean])
def test_bootstrap_interval_is_scipys_percentile_method(statistic) -> None:
    values = np.random.default_rng(3).lognormal(size=21)
    ours = bootstrap_interval(values, statistic)
    theirs = scipy.stats.bootstrap(
        (values,), statistic, method="percentile", n_resamples=10_000, rng=np.random.default_rng(5)
    ).confidence_interval
    assert ours.estimate == statistic(values)
    # Two sets of 10 000 draws: the ends differ by the noise of the draws, a few per cent of the width.
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.05 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.05 * width)


@pytest.mark.parametrize(("size", "least_bootstrap"), [(10, 0.90), (20, 0.91)])
def test_coverage(size: int, least_bootstrap: float) -> None:
    """400 samples of a skewed distribution with the median 1.

    Counted with this seed: bootstrap 374 of 400 (n = 10) and 378 (n = 20), exact 393 and 383. The standard error of
    a count is 1.1 %; the limits are two of them below the nominal or known coverage.
    """
    generator = np.random.default_rng(1)
    bootstrap = exact = 0
    for seed in range(400):
        values = generator.lognormal(size=size)
        interval = bootstrap_interval(values, draws=1000, seed=seed)
        bootstrap += interval.low <= 1.0 <= interval.high
        interval = median_interval(values)
        exact += interval.low <= 1.0 <= interval.high
    assert bootstrap / 400 >= least_bootstrap
    assert exact / 400 >= 0.93


@pytest.mark.parametrize("interval_of", [bootstrap_interval, median_interval])
def test_equal_values_give_an_interval_without_width(interval_of) -> None:
    interval = interval_of([0.1] * 12)
    assert (interval.estimate, interval.low, interval.high) == (0.1, 0.1, 0.1)


@pytest.mark.parametrize("interval_of", [bootstrap_interval, median_interval])
def test_a_diverged_run_stays_in_the_median(interval_of) -> None:
    losses = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, math.nan, math.inf, math.inf]
    interval = interval_of(losses)
    assert interval.estimate == 0.5
    assert interval.low <= 0.3
    assert interval.high == math.inf
    # An accuracy that is NaN is the worst one, too.
    assert interval_of([0.9, 0.8, math.nan], nan_as=-math.inf).estimate == 0.8


def test_few_values_say_which_level_they_can_keep() -> None:
    assert median_interval([2.0])[1:] == pytest.approx((2.0, 2.0, 0.0))
    assert median_interval([1.0, 5.0, 3.0])[1:] == pytest.approx((1.0, 5.0, 0.75))


# Up to 1e300: the mean of two numbers near the largest float overflows.
NUMBERS = st.floats(-1e300, 1e300) | st.sampled_from([math.inf, -math.inf, math.nan])


@given(st.lists(NUMBERS, min_size=1, max_size=30))
def test_any_numbers_give_an_interval(values: list[float]) -> None:
    interval = median_interval(values)
    assert interval.low <= interval.high
    if not math.isnan(interval.estimate):  # halfway between -inf and inf
        assert interval.low <= interval.estimate <= interval.high
    bootstrap = bootstrap_interval(values, draws=50)
    assert not bootstrap.low > bootstrap.high


def test_both_infinities_give_no_warning() -> None:
    assert math.isnan(median_interval([-math.inf, math.inf]).estimate)
    assert math.isnan(bootstrap_interval([-math.inf, math.inf], draws=20).estimate)


def test_same_seed_same_interval_and_slices_change_nothing(monkeypatch) -> None:
    values = np.random.default_rng(0).normal(size=50)
    whole = bootstrap_interval(values, seed=4)
    assert bootstrap_interval(values, seed=4) == whole
    assert bootstrap_interval(values, seed=5) != whole
    monkeypatch.setattr("lrdiff_bench.stats.intervals._SLICE", 1000)
    assert bootstrap_interval(values, seed=4) == whole


def test_paired_difference() -> None:
    first = [1.0, 2.0, 3.0, math.inf, math.inf, 4.0, 5.0, 6.0]
    second = [2.0, 2.0, 4.0, math.inf, 7.0, 5.0, 6.0, math.nan]
    difference = paired_difference(first, second)
    # differences: -1, 0, -1, 0 (both diverged), inf, -1, -1, -inf
    assert difference.median == -1.0
    assert (difference.low, difference.high) == (-math.inf, math.inf)
    assert difference.probability_of_improvement == (5 + 0.5 * 2) / 8


def test_paired_difference_mirrors() -> None:
    generator = np.random.default_rng(2)
    a, b = generator.normal(size=15), generator.normal(size=15)
    one, other = paired_difference(a, b), paired_difference(b, a)
    assert (one.median, one.low, one.high) == (-other.median, -other.high, -other.low)
    assert one.probability_of_improvement == pytest.approx(1 - other.probability_of_improvement)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: median_interval([]), DataError, "need a list of numbers"),
        (lambda: bootstrap_interval([[1.0]]), DataError, r"shape \(1, 1\)"),
        (lambda: bootstrap_interval([1.0], level=95), ConfigError, "level is 95"),
        (lambda: bootstrap_interval([1.0], draws=0), ConfigError, "draws is 0"),
        (lambda: paired_difference([1.0], [1.0, 2.0]), DataError, "1 and 2 values"),
    ],
)
def test_errors(call, error, text) -> None:
    with pytest.raises(error, match=text):
        call()
