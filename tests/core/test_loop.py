"""The training loop: repeatable, equal to a plain loop written by hand, rates where they belong."""

import math

import numpy as np
import pytest
import torch

from lrdiff_core import load_table, make_config, set_up, train
from lrdiff_core.config import PRESETS
from lrdiff_core.errors import RateError, UnavailableError
from lrdiff_core.setup import default_rates


@pytest.fixture(scope="module")
def table():
    return load_table("seed")


def config(**changes):
    return make_config({**PRESETS["seed"], "epochs": 3, "device": "cpu", **changes})


def weights(trained):
    return {name: value.clone() for name, value in trained.net.state_dict().items()}


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_the_same_seed_gives_the_same_bits_whatever_the_global_generator_does(table, optimizer):
    torch.manual_seed(1)
    np.random.seed(1)
    first = train(set_up(table, config(optimizer=optimizer)))
    torch.manual_seed(2)
    second = train(set_up(table, config(optimizer=optimizer)))
    assert first.observations == second.observations
    assert all(torch.equal(value, weights(second)[name]) for name, value in weights(first).items())


def test_another_seed_changes_split_weights_and_order(table):
    one, two = set_up(table, config(seed=1)), set_up(table, config(seed=2))
    assert not np.array_equal(one.rows.split.train, two.rows.split.train)
    assert not torch.equal(one.net.layer1.weight, two.net.layer1.weight)


def test_training_ends_where_a_plain_float64_loop_ends(table):
    """An oracle without our optimizers, our model or our metrics: the update rule of Adam in NumPy, float64."""
    trained = train(set_up(table, config()))
    start = set_up(table, config())
    net = start.net
    w = [p.detach().numpy().astype(np.float64) for p in (net.layer1.weight, net.layer1.bias, net.layer2.weight, net.layer2.bias)]  # fmt: skip # noqa: E501
    rates = [0.01, 0.01, 0.001, 0.001]
    m, v, t = [np.zeros_like(x) for x in w], [np.zeros_like(x) for x in w], 0
    mean, inverse = (b.numpy().astype(np.float64) for b in (net.standardize.mean, net.standardize.inverse_std))
    x = (table.features[start.rows.split.train].astype(np.float64) - mean) * inverse
    y = table.target[start.rows.split.train].astype(np.float64)[:, None]
    from lrdiff_core.seeds import make_generator

    order = make_generator(start.seed, "order")
    for _ in range(3):
        permutation = torch.randperm(len(x), generator=order).numpy()
        for begin in range(0, len(x), 25):
            rows = permutation[begin : begin + 25]
            hidden = x[rows] @ w[0].T + w[1]
            active = np.maximum(hidden, 0)
            error = (1 / (1 + np.exp(-(active @ w[2].T + w[3]))) - y[rows]) / len(rows)
            back = (error @ w[2]) * (hidden > 0)
            gradients = [back.T @ x[rows], back.sum(0), error.T @ active, error.sum(0)]
            t += 1
            for i, g in enumerate(gradients):
                m[i] = 0.9 * m[i] + 0.1 * g
                v[i] = 0.999 * v[i] + 0.001 * g * g
                w[i] = w[i] - rates[i] * (m[i] / (1 - 0.9**t)) / (np.sqrt(v[i] / (1 - 0.999**t)) + 1e-8)
    ours = [trained.net.layer1.weight, trained.net.layer1.bias, trained.net.layer2.weight, trained.net.layer2.bias]
    for mine, theirs in zip(ours, w, strict=True):
        np.testing.assert_allclose(mine.detach().numpy(), theirs, atol=2e-5)


def test_metrics_are_those_of_scikit_learn(table):
    from sklearn.metrics import accuracy_score, log_loss

    trained = train(set_up(table, config()))
    split = trained.setup.rows.split
    for part, index in (("train", split.train), ("validation", split.validation), ("test", split.test)):
        with torch.no_grad():
            p = trained.net.predict(torch.from_numpy(table.features[index]))[:, 0].double().numpy()
        seen = [row for row in trained.observations if row.split == part][-1]
        assert seen.loss == pytest.approx(log_loss(table.target[index], p), abs=1e-5)
        assert seen.score == pytest.approx(accuracy_score(table.target[index], p > 0.5), abs=1e-6)


def test_one_observation_for_each_epoch_and_split(table):
    trained = train(set_up(table, config()))
    assert [(row.epoch, row.split) for row in trained.observations] == [
        (1, "train"), (1, "validation"), (2, "train"), (2, "validation"), (3, "train"), (3, "validation"), (3, "test"),
    ]  # fmt: skip


def test_a_vanishing_rate_leaves_its_layer_where_it_was(table):
    still = config(rates={"layer1": 1e-30, "layer2": 0.01})
    start = set_up(table, still)
    before = {name: value.clone() for name, value in start.net.state_dict().items()}
    after = weights(train(start))
    assert torch.equal(before["layer1.weight"], after["layer1.weight"])
    assert not torch.equal(before["layer2.weight"], after["layer2.weight"])


@pytest.mark.parametrize("name", ["wine", "digits"])
def test_several_classes_are_learned(name):
    settings = make_config({"data": name, "epochs": 8, "device": "cpu"})
    table = load_table(name)
    trained = train(set_up(table, settings))
    assert trained.net.spec.outputs == len(table.classes)
    assert trained.observations[-1].score > 0.85


def test_regression_is_learned_in_the_targets_own_units(tmp_path):
    from sklearn.datasets import load_diabetes

    data = load_diabetes()
    file = tmp_path / "diabetes.csv"
    names = [*data.feature_names, "progress"]
    np.savetxt(
        file, np.column_stack([data.data, data.target * 1000 + 5e5]), delimiter=",", header=",".join(names), comments=""
    )
    settings = make_config({"data": str(file), "target": "progress", "epochs": 40, "device": "cpu"})
    table = load_table(str(file), target="progress")
    trained = train(set_up(table, settings))
    assert table.task == "regression"
    assert trained.observations[-1].score > 0.2  # scikit-learn's own linear regression reaches about 0.45
    with torch.no_grad():
        predicted = trained.net.predict(torch.from_numpy(table.features))
    assert 5.5e5 < predicted.mean().item() < 7.5e5


def test_a_constant_target_does_not_divide_by_zero():
    table = load_table("seed")
    from dataclasses import replace

    flat = replace(table, task="regression", classes=(), target=np.full(len(table.target), 3.5, np.float32))
    trained = train(set_up(flat, config()))
    assert all(math.isfinite(row.loss) for row in trained.observations)
    assert math.isnan(trained.observations[-1].score)


def test_weight_decay_reaches_the_optimizer(table):
    plain = weights(train(set_up(table, config(optimizer="adamw"))))
    heavy_config = config(optimizer="adamw", weight_decay=10.0)
    heavy = weights(train(set_up(table, heavy_config)))
    assert heavy["layer1.weight"].norm() < 0.5 * plain["layer1.weight"].norm()


@pytest.mark.parametrize(
    ("rates", "said"),
    [
        ({"layer1": 0.01}, "layer2"),
        ({"layer1": 0.01, "layer2": 0.01, "layer3": 0.01}, "layer3"),
        ({"head": 0.01, "layer1": 0.1, "layer2": 0.1}, "head"),
    ],
)
def test_a_rate_table_with_a_hole_or_a_stranger_is_refused_by_name(table, rates, said):
    with pytest.raises(RateError, match=said):
        set_up(table, config(rates=rates))


def test_default_rates_are_the_seeds_at_any_depth():
    assert default_rates(["layer1"]) == {"layer1": 0.01}
    assert default_rates(["layer1", "layer2", "layer3"]) == {"layer1": 0.01, "layer2": 0.01, "layer3": 0.001}


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_not_here_is_never_replaced(table, device):
    from lrdiff_core.devices import device_status

    if device_status(device).available:
        pytest.skip(f"{device} is here")
    with pytest.raises(UnavailableError, match=f"device {device} is not available: "):
        set_up(table, config(device=device))


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_gives_the_result_of_the_cpu_within_rounding(table, device):
    from lrdiff_core.devices import device_status

    status = device_status(device)
    if not status.available:
        pytest.skip(f"{device}: {status.reason}")
    there, here = (train(set_up(table, config(device=name))) for name in (device, "cpu"))
    for name, value in weights(here).items():
        torch.testing.assert_close(weights(there)[name], value, atol=1e-4, rtol=1e-3)


def test_threads_are_put_back(table):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        train(set_up(table, config(threads=1)))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
def test_compiled_training_agrees_with_eager(table):
    from lrdiff_core.devices import compiler_status

    if compiler_status().reason is not None:
        pytest.skip(str(compiler_status().reason))
    eager, compiled = (train(set_up(table, config(compile=c))) for c in (False, True))
    for name, value in weights(eager).items():
        torch.testing.assert_close(weights(compiled)[name], value, atol=1e-4, rtol=1e-3)
