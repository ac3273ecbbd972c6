"""The preset ``seed`` behaves as the example it comes from says, over 20 seeds."""

import numpy as np
import pytest

from lrdiff_core import PRESETS, load_table, make_config, set_up, train


@pytest.fixture(scope="module")
def medians():
    config = make_config({**PRESETS["seed"], "device": "cpu"})
    rows = []
    for seed in range(20):
        seen = train(set_up(load_table("seed", seed=seed), config, seed=seed)).observations
        first, last = ({r.split: r for r in seen if r.epoch == epoch} for epoch in (1, 10))
        rows.append((first["train"].loss, last["train"].loss, last["train"].score,
                     first["validation"].loss, last["validation"].loss, last["validation"].score))  # fmt: skip
    return np.median(rows, axis=0)


@pytest.mark.slow
def test_loss_after_the_first_epoch(medians):
    assert 0.55 <= medians[0] <= 0.85
    assert 0.55 <= medians[3] <= 0.85


def test_loss_and_accuracy_at_the_end(medians):
    for loss, accuracy in (medians[1:3], medians[4:6]):
        assert loss == pytest.approx(0.25, abs=0.05)
        assert accuracy == pytest.approx(0.88, abs=0.03)


def test_the_shapes_of_the_page():
    table = load_table("seed")
    assert table.features.shape == (1000, 10)
    assert table.classes == ("0", "1")
    net = set_up(table, make_config(PRESETS["seed"])).net
    assert tuple(net.layer1.weight.shape) == (5, 10)
    assert tuple(net.layer2.weight.shape) == (1, 5)
