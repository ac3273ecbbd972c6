"""The comparison with single rates: fair by construction, honest in its verdict."""

import math

import numpy as np
import pytest

from lrdiff_bench.run import single_rates
from lrdiff_bench.run.single_rates import compare_single_rates, describe_rates, verdict
from lrdiff_bench.stats.intervals import PairedDifference, paired_difference
from lrdiff_core import load_table, make_config, set_up, train

RATES = {"layer1": 0.01, "layer2": 0.001}
SMALL = {"epochs": 2, "device": "cpu", "compare": {"seeds": 10, "tuning_seeds": 2, "sweep": [0.001, 0.01, 0.1]}}


@pytest.fixture(scope="module")
def comparison():
    return compare_single_rates(load_table("wine"), make_config({"data": "wine", **SMALL}), RATES)


def test_every_scheme_is_there_and_tuned_ones_cost_the_same(comparison):
    assert [(s.name, s.trials) for s in comparison.schemes] == [
        ("as configured", 1), ("single 0.001", 1), ("single 0.01", 1), ("tuned single", 3), ("tuned ratios", 3),
    ]  # fmt: skip
    assert len(comparison.tuning_loss["tuned single"]) == len(comparison.tuning_loss["tuned ratios"]) == 3


def test_the_tuned_single_rate_is_one_rate_and_the_tuned_ratios_keep_the_runs(comparison):
    single, ratios = comparison.scheme("tuned single").rates, comparison.scheme("tuned ratios").rates
    assert single["layer1"] == single["layer2"]
    assert ratios["layer1"] / ratios["layer2"] == pytest.approx(10)
    best = int(np.argmin(comparison.tuning_loss["tuned single"]))
    assert single["layer1"] == comparison.sweep[best]
    assert comparison.scheme("tuned single").at_edge == (best in (0, 2))


def test_tuning_seeds_never_report(comparison):
    tuning = {make_config({}).seed + single_rates.FIRST_TUNING_SEED + i for i in range(2)}
    assert not tuning & set(comparison.seeds)
    assert 0 not in comparison.seeds  # nor does the run's own seed, which people look at first


def test_a_scheme_reports_what_a_run_on_its_own_gives(comparison):
    config = make_config({"data": "wine", **SMALL})
    scheme, seed = comparison.scheme("single 0.01"), comparison.seeds[3]
    alone = train(set_up(load_table("wine"), config, rates=scheme.rates, seed=seed), config)
    assert scheme.test_loss[3] == alone.observations[-1].loss
    assert scheme.validation_loss[3].tolist() == [r.loss for r in alone.observations if r.split == "validation"]
    assert scheme.train_loss[3].tolist() == [r.loss for r in alone.observations if r.split == "train"]


def test_differences_are_paired_by_seed(comparison):
    ours, single = comparison.scheme("as configured"), comparison.scheme("tuned single")
    assert comparison.configured == paired_difference(ours.test_loss, single.test_loss)
    assert comparison.configured.median == np.median(ours.test_loss - single.test_loss)


def test_the_generators_rows_are_drawn_anew_for_every_seed(monkeypatch):
    seen = []
    load = single_rates.load_table
    monkeypatch.setattr(single_rates, "load_table", lambda name, *, seed: seen.append(seed) or load(name, seed=seed))
    result = compare_single_rates(load_table("seed"), make_config({**SMALL, "epochs": 1}), RATES)
    assert set(result.seeds) <= set(seen)
    assert len(seen) == len(set(seen)) == 12


def test_one_rate_against_itself_is_no_difference():
    config = make_config({"data": "wine", **SMALL, "compare": {"seeds": 10, "tuning_seeds": 1, "sweep": [0.01, 0.1]}})
    result = compare_single_rates(load_table("wine"), config, {"layer1": 0.01, "layer2": 0.01})
    assert result.tuned[:3] == (0.0, 0.0, 0.0)
    assert verdict(result.tuned) == "no difference"
    assert [s.name for s in result.schemes] == ["as configured", "single 0.01", "tuned single", "tuned ratios"]


def test_progress_counts_to_its_total():
    told = []
    config = make_config({"data": "wine", **SMALL, "epochs": 1})
    compare_single_rates(load_table("wine"), config, RATES, on_trial=lambda done, total: told.append((done, total)))
    assert [done for done, _ in told] == list(range(1, told[-1][1] + 1))
    assert {total for _, total in told} == {2 * 3 * 2 + 5 * 10}


def test_a_diverged_run_counts_as_infinite_and_stays():
    config = make_config({"data": "wine", **SMALL, "optimizer": "sgd"})
    result = compare_single_rates(load_table("wine"), config, {"layer1": 1e30, "layer2": 1e30})
    assert np.isinf(result.scheme("as configured").test_loss).all()
    assert verdict(result.configured) == "single rate wins"
    assert result.configured.median == math.inf


@pytest.mark.parametrize(
    ("low", "median", "high", "word"),
    [
        (-0.05, -0.03, -0.011, "differential rates win"),
        (-0.05, -0.03, -0.009, "inconclusive"),
        (-0.009, 0.0, 0.009, "no difference"),
        (-0.01, 0.0, 0.01, "no difference"),
        (0.011, 0.02, 0.03, "single rate wins"),
        (0.0, 0.02, 0.03, "inconclusive"),
        (-math.inf, 0.0, math.inf, "inconclusive"),
    ],
)
def test_a_verdict_needs_the_whole_interval(low, median, high, word):
    assert verdict(PairedDifference(median, low, high, 0.5)) == word
    mirrored = {"differential rates win": "single rate wins", "single rate wins": "differential rates win"}
    assert verdict(PairedDifference(-median, -high, -low, 0.5)) == mirrored.get(word, word)


def test_rates_are_written_shortly():
    assert describe_rates({"a": 0.1, "b": 0.1}) == "0.1"
    assert describe_rates({"a": 0.1, "b": 0.01, "c": 0.1}) == "0.1 / 0.01 / 0.1"
