"""Fast but wrong cannot pass: planted faults against the parity of the cases; and the shapes of real models."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path

import pytest
import torch

from lrdiff_bench.measure.cases.models import MODELS
from lrdiff_bench.measure.cases.optimizer_error import error_in_eps, optimizer_parity, output_parity
from lrdiff_bench.measure.cases.optimizer_step import IMPLEMENTATIONS, REAL, RULES
from lrdiff_bench.measure.cases.state import model_shapes, optimizer_facts, rate_groups, restorer, tensors
from lrdiff_bench.measure.engine.case import Workload
from lrdiff_bench.measure.engine.registry import find_case
from lrdiff_bench.system.machine import pinned
from lrdiff_core.errors import ConfigError
from lrdiff_core.setup import set_mode
from lrdiff_export.verify.tolerance import allowed_error

SHAPES = {"a.weight": (16, 8), "a.bias": (16,), "b.weight": (8, 16), "b.bias": (8,)}


def stepped(optimizer: str, implementation: str = "ours") -> torch.optim.Optimizer:
    made = IMPLEMENTATIONS[implementation].make(optimizer, rate_groups(tensors(SHAPES), "each"))
    set_mode(made, "train")
    made.step()
    return made


@pytest.mark.parametrize(
    ("optimizer", "implementation"),
    [
        (rule, name)
        for rule in RULES
        for name in ("ours", "fused", "foreach", "default", "loop")
        if rule in IMPLEMENTATIONS[name].optimizers
    ],
)
def test_every_right_implementation_is_within_its_budget(optimizer: str, implementation: str) -> None:
    made = stepped(optimizer, implementation)
    parity = optimizer_parity(made, made.step)()
    assert parity.held
    assert parity.error < 8


def rate_not_applied(made: torch.optim.Optimizer) -> None:
    shown = [group["lr"] for group in made.param_groups]
    for group in made.param_groups:
        group["lr"] = shown[0]
    made.step()
    for group, rate in zip(made.param_groups, shown, strict=True):
        group["lr"] = rate


def half_precision(made: torch.optim.Optimizer) -> None:
    made.step()
    for group in made.param_groups:
        for p in group["params"]:
            p.data.copy_(p.data.to(torch.float16))


def not_a_number(made: torch.optim.Optimizer) -> None:
    made.step()
    made.param_groups[-1]["params"][0].data[0] = float("nan")


FAULTS = {
    "skips the step": lambda made: None,
    "one rate for all": rate_not_applied,
    "half precision": half_precision,
    "one NaN": not_a_number,
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_planted_fault_is_over_budget(fault: str, optimizer: str) -> None:
    made = stepped(optimizer)
    parity = optimizer_parity(made, lambda: FAULTS[fault](made))()
    assert not parity.held, parity
    assert not parity.error <= 10 * parity.budget


def test_error_is_in_eps_at_the_scale_of_each_tensor() -> None:
    eps = torch.finfo(torch.float32).eps
    exact = [torch.tensor([100.0, 0.0], dtype=torch.float64), torch.tensor([1e-6], dtype=torch.float64)]
    off = [torch.tensor([100.0 * (1 + 4 * eps), 0.0]), torch.tensor([1e-6])]
    assert error_in_eps(off, exact) == pytest.approx(4, abs=0.3)
    assert error_in_eps([exact[0], torch.tensor([2e-6])], exact) > 1e6  # small beside the other tensor, not by itself
    assert error_in_eps([torch.zeros(3)], [torch.zeros(2, dtype=torch.float64)]) == float("inf")
    assert error_in_eps([torch.zeros(0)], [torch.zeros(0, dtype=torch.float64)]) == 0
    assert (allowed_error(0.0), allowed_error(2.0), allowed_error(100.0)) == (8.0, 8.0, 400.0)


def test_output_parity_compares_with_plain_float32_and_puts_back() -> None:
    x = torch.linspace(0, 1, 100)
    done = []

    def compute(dtype: torch.dtype | None) -> list[torch.Tensor]:
        return [x.sin() + (1e-3 if dtype is None else 0)] if dtype is None else [x.to(dtype).sin()]

    parity = output_parity(compute, lambda: done.append(1))()
    assert not parity.held
    assert done == [1]


@pytest.mark.parametrize("name", ["main_step", "main_epoch", "optimizer_step", "training_step"])
def test_parity_of_a_case_begins_where_reset_leaves_it(name: str) -> None:
    with pinned(1):
        reset_and_parity(find_case(name).factory())


def reset_and_parity(workload: Workload) -> None:
    for _ in range(10):
        workload.step()
    workload.reset()
    assert workload.parity is not None
    first = workload.parity()
    for _ in range(10):
        workload.step()
    workload.reset()
    assert workload.parity() == first


@pytest.mark.parametrize(
    ("name", "count", "parameters"),
    [
        ("resnet50", 161, 25_557_032),  # torchvision's own documentation of ResNet-50
        ("vit_b16", 200, 86_567_656),  # and of ViT-B/16
        ("bert_base", 199, 109_482_240),
        ("gpt2_small", 148, 124_439_808),
        ("lora_bert", 48, 12 * 2 * 2 * 8 * 768),
        ("gaussians", 6, 59_000_000),
        ("thousand", 1000, 1_024_000),
    ],
)
def test_shapes_are_those_of_the_models(name: str, count: int, parameters: int) -> None:
    shapes = model_shapes(name)
    assert len(shapes) == count
    assert sum(map(prod, shapes.values())) == parameters
    assert name == "thousand" or name in REAL


def test_shapes_say_where_they_come_from() -> None:
    import lrdiff_bench.measure.cases

    document = json.loads(Path(lrdiff_bench.measure.cases.__file__).with_name("shapes.json").read_text())
    assert (document["format"], document["version"]) == ("lrdiff.shapes", 1)
    assert set(document["models"]) == set(REAL)
    assert all(model["source"] for model in document["models"].values())
    with pytest.raises(ConfigError, match="no shapes are called 'vgg'\nhelp: shapes: thousand, resnet50"):
        model_shapes("vgg")


def test_tensors_repeat_from_the_seed_and_groups_are_neighbours() -> None:
    first, again = tensors(SHAPES), tensors(SHAPES)
    assert all(torch.equal(first[name], again[name]) for name in SHAPES)
    assert all(torch.equal(first[name].grad, again[name].grad) for name in SHAPES)
    assert first["a.bias"].std() > 0.3
    groups = rate_groups(first, 2)
    assert [len(group["params"]) for group in groups] == [2, 2]
    assert len({group["lr"] for group in rate_groups(first, "each")}) == 4
    by_layer = rate_groups(first, "layers")
    assert [(len(one["params"]), one["weight_decay"]) for one in by_layer] == [(1, 0.01), (1, 0.0), (1, 0.01), (1, 0.0)]
    assert by_layer[0]["lr"] == by_layer[1]["lr"] == pytest.approx(0.9 * by_layer[2]["lr"])
    with pytest.raises(ConfigError, match="4 tensors cannot have 5 rates"):
        rate_groups(first, 5)


@pytest.mark.parametrize(("name", "layers", "groups"), [("transformer", 14, 28), ("splats", 6, 6), ("mlp", 2, 4)])
def test_layer_decay_has_a_rate_a_layer_and_none_of_the_decay_for_vectors(name: str, layers: int, groups: int) -> None:
    model = MODELS[name]()
    found = rate_groups(model.trainable(), "layers")
    assert (len({group["lr"] for group in found}), len(found)) == (layers, groups)
    assert sum(len(group["params"]) for group in found) == len(model.trainable())
    assert all((p.dim() > 1) == (group["weight_decay"] > 0) for group in found for p in group["params"])


def test_facts_count_groups_rates_tensors_and_parameters() -> None:
    made = stepped("adamw", "fused")
    facts = optimizer_facts(made)
    assert facts == {
        "optimizer": "torch.optim.adamw.AdamW", "foreach": None, "fused": True, "groups": 4, "rates": 4, "tensors": 4,
        "parameters": 280,
    }  # fmt: skip
    net = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    restore = restorer(net, optimizer)
    before = net.weight.detach().clone()
    net.weight.data.zero_()
    restore()
    assert torch.equal(net.weight, before)
