"""What is said of a map, on planted losses whose answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from map_helpers import planted

from lrdiff_bench.maps import find, findings
from lrdiff_bench.maps.describe import as_text, axis_in_words
from lrdiff_bench.report.json import json_ready
from lrdiff_core.errors import DataError

CURVATURE = 0.1


def bowl(best: tuple[float, float], noise: float = 0.003):
    """Lowest at ``best``, the same for all seeds but for what a seed adds everywhere and a little noise."""

    def loss(rates: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        away = (np.log10(np.maximum(rates, 1e-12)) - np.log10(best)) ** 2
        own = np.stack([np.random.default_rng(seed).normal(0, 0.05, 1) for seed in seeds], axis=1)
        random = np.stack([
            [np.random.default_rng([seed, *(int(v * 1e9) for v in pair)]).normal(0, noise) for pair in rates]
            for seed in seeds
        ], axis=1)  # fmt: skip
        return 0.3 + CURVATURE * away.sum(axis=1)[:, None] + own + random

    return loss


@pytest.mark.slow
def test_a_pair_that_is_better_is_found_with_its_gain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = find(planted(tmp_path / "map", monkeypatch, bowl((1e-3, 1e-1)), seeds=60)).document
    pair, single = document["choices"]["best pair"], document["choices"]["best single"]
    assert np.abs(np.log10(pair["rates"]) - [-3, -1]).max() < 0.4
    assert abs(np.log10(single["rates"][0]) + 2) < 0.4
    true = CURVATURE * 2  # a decade off in either rate
    assert document["gain"]["low"] <= true * 1.05
    assert document["gain"]["high"] >= true * 0.9
    assert document["gain"]["verdict"] == "HELPS"
    assert 0.05 < document["share"]["surely_better"] <= document["share"]["better"] < 0.8
    assert 0 < document["share"]["as_good"] < 0.1
    # A rate off by 2 costs the curvature times log10(2) squared, and a little for a choice that is not exact.
    for cost in document["cost"]:
        factor = 2 if cost["of"] == "best single" else 1
        assert cost["cost"]["median"] == pytest.approx(factor * CURVATURE * np.log10(2) ** 2, abs=0.025)


def test_no_gain_where_the_best_pair_is_a_single_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = find(planted(tmp_path / "map", monkeypatch, bowl((1e-2, 1e-2)))).document
    assert document["gain"]["low"] <= 0 <= document["gain"]["high"]
    assert document["gain"]["verdict"] == "NO DIFFERENCE"
    assert document["share"]["surely_better"] < 0.02


def test_the_best_of_noise_is_not_sold_as_a_gain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All pairs are equally good; the best of 1089 on the same seeds looks better, and must not be said to be."""
    calls = np.random.default_rng(7)
    dataset = planted(
        tmp_path / "map", monkeypatch, lambda rates, seeds: 0.3 + calls.normal(0, 0.05, (len(rates), len(seeds)))
    )
    loss = dataset["loss"].values
    naive = loss.mean(axis=2).min() - dataset["single_loss"].values.mean(axis=1).min()
    assert naive < -0.01  # what choosing and reporting on the same seeds would claim
    document = find(dataset).document
    assert document["gain"]["low"] < 0 < document["gain"]["high"]
    assert document["gain"]["verdict"] == "INCONCLUSIVE"
    assert document["share"]["as_good"] < 0.01  # few seeds and much noise show nothing, and no flatness


def test_halves_of_the_seeds_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = find(planted(tmp_path / "map", monkeypatch, bowl((1e-2, 1e-2)), seeds=9, size=5)).document
    assert document["seeds"]["choosing"] == [0, 1, 2, 3]
    assert document["seeds"]["reporting"] == [4, 5, 6, 7, 8]
    assert document["level"] == pytest.approx(1 - 2 / 32)


def test_what_diverged_counts_as_infinite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = bowl((1e-3, 1e-3))

    def loss(rates: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        values = inside(rates, seeds) / 2  # nothing else reaches the loss before training
        values[rates[:, 0] > 0.09] = np.inf
        values[rates[:, 1] > 0.09] = np.nan
        values[(rates < 2e-3).all(axis=1) & (rates > 5e-4).all(axis=1), 3] = np.nan  # one choosing seed, at the best
        return values

    found = find(planted(tmp_path / "map", monkeypatch, loss))
    document = json_ready(found.document)
    assert document["share"]["diverged"] == pytest.approx(1 - (24 / 33) ** 2)
    assert document["border_cells"] == 24 + 24 - 1
    best = document["choices"]["best pair"]
    assert not all(5e-4 < rate < 2e-3 for rate in best["rates"])  # one seed that fails rules a pair out
    assert not found.as_good[found.diverged].any()
    text = as_text(document)
    assert "diverged" in text
    assert "47 cells" in text


def test_a_plane_that_never_trains_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = planted(tmp_path / "map", monkeypatch, lambda r, s: np.full((len(r), len(s)), np.nan), size=4)
    with pytest.raises(DataError, match="no pair of rates of this plane trains"):
        find(dataset)


def test_bands_of_rows_do_not_change_what_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = planted(tmp_path / "map", monkeypatch, bowl((1e-3, 1e-1)), size=9)
    whole = find(dataset)
    monkeypatch.setattr(findings, "BAND_NUMBERS", 1)
    parts = find(dataset)
    assert whole.document == parts.document
    assert np.array_equal(whole.as_good, parts.as_good)


def test_one_seed_says_that_it_knows_nothing_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = find(planted(tmp_path / "map", monkeypatch, bowl((1e-3, 1e-1)), seeds=1, size=9)).document
    assert document["gain"] is None
    text = as_text(document)
    assert "one seed chooses and reports: nothing here says how another seed would do" in text
    assert "the best of many is partly luck" in text
    assert "[" not in text
    assert "as good as" not in text


def test_without_single_rates_nothing_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = planted(tmp_path / "map", monkeypatch, bowl((1e-3, 1e-1)), size=9, x="layer1:1e-4:1e-2", y="layer2:0.1:1")
    document = find(dataset).document
    assert document["gain"] is None
    assert list(document["choices"]) == ["best pair", "as configured"]
    assert document["choices"]["best pair"]["at_edge"]
    text = as_text(document)
    assert "no single rate lies in this plane, so nothing is compared with one" in text
    assert "best pair: at the edge of the plane" in text


def test_words_keep_to_eighty_columns_and_name_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = json_ready(find(planted(tmp_path / "map", monkeypatch, bowl((1e-3, 1e-1)), size=17)).document)
    text = as_text(document)
    assert max(map(len, text.splitlines())) <= 80
    together = " ".join(text.split())
    for words in (
        "17 x 17 cells, 20 seeds, adam, 1 epochs, 25 rows a step",
        "chosen by the lowest mean loss over seeds 0 to 9, reported on seeds 10 to 19: medians with 97.9 % intervals",
        "the best pair against the best single rate: HELPS, +0.",
        "(0.01 is the smallest difference that matters)",
        "better by more than 0.1 in 100 % of the pairs, worse by that in 0 %",
        "the pair was chosen among 289, the single rate among 17",
        "is better than the best single rate",
        "what a wrong rate costs (added loss)",
        "best pair, layer1, halved",
        "best single, doubled",
    ):
        assert words in together, words


def test_an_axis_in_words_is_short() -> None:
    assert axis_in_words("layer2/layer1:0.01:100") == "layer2/layer1 0.01 to 100"


def test_too_few_seeds_for_95_percent_give_no_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five reporting seeds hold the median with 93.75 %: a gain that is plain to see is told without a verdict."""
    shape = bowl((1e-3, 1e-1))
    few = find(planted(tmp_path / "few", monkeypatch, shape, seeds=10, size=9)).document
    assert few["level"] == pytest.approx(1 - 2 / 32)
    assert few["gain"]["low"] > 0.01
    assert few["gain"]["verdict"] == "INCONCLUSIVE"
    assert "a verdict takes 12 seeds or more" in " ".join(as_text(few).split())
    enough = find(planted(tmp_path / "enough", monkeypatch, shape, seeds=12, size=9)).document
    assert enough["gain"]["verdict"] == "HELPS"
