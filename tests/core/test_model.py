"""The main model: preprocessing inside, sizes that follow the data, a row traced through it."""

import numpy as np
import pytest
import torch

from lrdiff_core.errors import ConfigError
from lrdiff_core.model import ModelSpec, Predictor, Standardize, build_model, constant_columns


def spec(**changes):
    base = {"features": 10, "hidden": (5,), "outputs": 1, "task": "binary", "feature_names": tuple("abcdefghij"),
            "classes": ("no", "yes"), "target_name": "y"}  # fmt: skip
    return ModelSpec(**{**base, **changes})


def test_the_preprocessing_agrees_with_scikit_learn():
    from sklearn.preprocessing import StandardScaler

    rows = np.random.default_rng(0).normal(5, [0.1, 1, 100], (200, 3)).astype(np.float32)
    step = Standardize(3)
    step.fit(rows)
    theirs = StandardScaler().fit(rows.astype(np.float64)).transform(rows.astype(np.float64))
    np.testing.assert_allclose(step(torch.from_numpy(rows)).numpy(), theirs, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("constant", [0.0, 7.25, -1e6, 1e20])
def test_a_constant_column_is_switched_off_and_named(constant):
    rows = np.random.default_rng(0).normal(size=(50, 10)).astype(np.float32)
    rows[:, 3] = constant
    net = build_model(spec(), seed=0)
    net.standardize.fit(rows)
    assert constant_columns(net) == ("d",)
    changed = torch.from_numpy(rows.copy())
    changed[:, 3] += 1000.0
    assert torch.equal(net.predict(changed), net.predict(torch.from_numpy(rows)))


def test_missing_values_are_filled_with_the_training_statistics():
    rows = np.array([[1.0], [2.0], [np.nan], [6.0]], dtype=np.float32)
    for fill, value in (("mean", 3.0), ("median", 2.0)):
        step = Standardize(1, fills_missing=True)
        step.fit(rows, fill=fill)
        assert step.fill.item() == value
        filled = step(torch.tensor([[float("nan")], [float("inf")], [value]]))
        assert torch.equal(filled, filled[2].expand(3, 1))


def test_a_column_without_a_value_in_the_training_rows_is_switched_off():
    step = Standardize(2, fills_missing=True)
    step.fit(np.array([[1.0, np.nan], [3.0, np.nan]], dtype=np.float32))
    assert step(torch.tensor([[float("nan"), 5.0]])).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize(
    ("changes", "shape"),
    [({}, (4, 1)), ({"task": "multiclass", "outputs": 3, "classes": ("a", "b", "c")}, (4, 3)),
     ({"task": "regression", "classes": ()}, (4, 1)), ({"hidden": ()}, (4, 1)), ({"hidden": (7, 6, 5)}, (4, 1))],
)  # fmt: skip
def test_answers_have_the_shape_and_the_range_of_their_task(changes, shape):
    net = build_model(spec(**changes), seed=1)
    answer = Predictor(net)(torch.randn(4, 10, generator=torch.Generator().manual_seed(0)))
    assert answer.shape == shape
    if net.spec.task != "regression":
        assert ((answer >= 0) & (answer <= 1)).all()
    if net.spec.task == "multiclass":
        torch.testing.assert_close(answer.sum(dim=1), torch.ones(4))


def test_the_seed_model_has_the_shapes_of_the_page_it_came_from():
    net = build_model(spec(), seed=0)
    shapes = {name: tuple(p.shape) for name, p in net.named_parameters()}
    assert shapes == {
        "layer1.weight": (5, 10), "layer1.bias": (5,), "layer2.weight": (1, 5), "layer2.bias": (1,),
    }  # fmt: skip


def test_initial_weights_come_from_the_seed_alone_and_have_torchs_distribution():
    torch.manual_seed(1)
    first = build_model(spec(hidden=(400,)), seed=3).state_dict()
    torch.manual_seed(2)
    second = build_model(spec(hidden=(400,)), seed=3).state_dict()
    other = build_model(spec(hidden=(400,)), seed=4).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["layer1.weight"], other["layer1.weight"])
    theirs = torch.nn.Linear(10, 400).weight
    assert first["layer1.weight"].abs().max() <= 10**-0.5
    assert first["layer1.weight"].std().item() == pytest.approx(theirs.std().item(), rel=0.05)


def test_the_trace_of_a_row_ends_where_the_prediction_does():
    net = build_model(spec(hidden=(5, 4)), seed=0)
    row = torch.randn(10, generator=torch.Generator().manual_seed(0))
    trace = net.trace(row)
    assert [step.name for step in trace] == [
        "input", "standardized", "layer1", "ReLU", "layer2", "ReLU", "layer3", "sigmoid",
    ]  # fmt: skip
    assert [step.layer for step in trace if step.layer] == ["layer1", "layer2", "layer3"]
    assert trace[-1].values == pytest.approx(net.predict(row[None]).flatten().tolist())
    assert trace[3].values == tuple(max(0.0, value) for value in trace[2].values)


def test_a_spec_goes_through_json_and_back():
    import json

    assert ModelSpec.from_dict(json.loads(json.dumps(spec().to_dict()))) == spec()


def test_a_network_that_fits_into_no_memory_is_refused_before_it_is_made():
    with pytest.raises(ConfigError) as caught:
        build_model(spec(features=10, hidden=(10**12,)), seed=0)
    assert caught.value.message.startswith("a network of 10 - 1000000000000 - 1 takes 178814 GiB to train, ")
    assert caught.value.help == "write smaller sizes: hidden = [64] in the settings"
