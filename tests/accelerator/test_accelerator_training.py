"""Training on a device: parity in every lane there, the forms of our optimizers, graphs, streams, populations."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from accelerator_setup import ACCELERATORS, CUDA, EVERYWHERE, rows, seeded
from torch import nn

from lrdiff_bench.measure.cases.optimizer_error import error_in_eps
from lrdiff_bench.measure.cases.population_speed import SpeedCase, network
from lrdiff_core.optim import SGD, Adam, AdamW
from lrdiff_core.population import PopulationOptions, train_population
from lrdiff_export.training import (
    IMPLEMENTATIONS,
    TRAINING_ZOO,
    Lane,
    TrainingReport,
    check_training_parity,
    find_lanes,
    zoo_job,
)
from lrdiff_export.verify.tolerance import allowed_error

COMPILING = ("compiled", "overhead", "autotune")


def quick_lanes(device: str, *arithmetics: str) -> list[Lane]:
    return [
        lane
        for lane in find_lanes(devices=[device], arithmetics=arithmetics or ("float32",))
        if not any(word in lane.implementation for word in COMPILING)
    ]


def wrong(report: TrainingReport) -> list[str]:
    return [f"{row.implementation}: {row.reason}" for row in report.results if row.status in ("differs", "refused")]


@pytest.mark.parametrize("device", EVERYWHERE)
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_every_implementation_trains_as_float64_does(optimizer: str, device: str) -> None:
    job = zoo_job("main", optimizer=optimizer, steps=4 if device == "cpu" else 20)
    report = check_training_parity(job, quick_lanes(device), repeat=device != "cpu")
    assert [
        f"{row.implementation}: {row.reason}" for row in report.results if row.status in ("differs", "refused")
    ] == []
    assert report.passed


@pytest.mark.parametrize("device", ACCELERATORS)
@pytest.mark.parametrize("name", TRAINING_ZOO)
def test_every_kind_of_model_trains_as_float64_does(name: str, device: str) -> None:
    steps = 5 if name == "large batch" else 15
    report = check_training_parity(zoo_job(name, steps=steps), quick_lanes(device), repeat=False)
    assert [
        f"{row.implementation}: {row.reason}" for row in report.results if row.status in ("differs", "refused")
    ] == []


@CUDA
@pytest.mark.parametrize("arithmetic", ["tfloat32", "autocast", "bfloat16", "float64"])
def test_every_arithmetic_trains_within_its_own_budget(arithmetic: str) -> None:
    lanes = [
        Lane(implementation=name, device="cuda", arithmetic=arithmetic) for name in ("torch", "torch-fused", "ours")
    ]
    report = check_training_parity(zoo_job("transformer block", steps=10), lanes, repeat=False)
    assert [row.reason for row in report.results if row.status != "agrees"] == []


@CUDA
@pytest.mark.parametrize("name", [one for one in IMPLEMENTATIONS if any(word in one for word in COMPILING)])
def test_compiled_steps_and_models_train_as_float64_does(name: str) -> None:
    lane = Lane(implementation=name, device="cuda")
    (result,) = check_training_parity(zoo_job("main", steps=6), [lane], repeat=False).results
    if result.status == "unavailable":
        pytest.skip(str(result.reason))
    assert result.status == "agrees", result.reason


def stepped(kind: type[torch.optim.Optimizer], device: str, **options: Any) -> torch.optim.Optimizer:
    params = [nn.Parameter(rows(*shape).to(device)) for shape in ((8, 16), (16,), (3, 5))]
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer = kind([{"params": [param], "lr": 0.1 / (i + 1)} for i, param in enumerate(params)], **options)
    optimizer.step()
    return optimizer


@CUDA
def test_forms_on_cuda_are_those_that_the_rule_says() -> None:
    """``lrdiff_core/optim/base.py``, at its head."""
    assert stepped(Adam, "cuda").forms() == {"foreach": 3}  # type: ignore[attr-defined]
    assert stepped(AdamW, "cuda", capturable=True).forms() == {"fused": 3}  # type: ignore[attr-defined]
    assert stepped(SGD, "cuda", momentum=0.9).forms() == {"fused": 3}  # type: ignore[attr-defined]


@CUDA
def test_triton_is_used_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec("triton") is None:
        pytest.skip("triton is not installed")
    monkeypatch.setitem(os.environ, "LRDIFF_TRITON", "1")
    mine = stepped(AdamW, "cuda")
    assert mine.forms() == {"triton": 3}  # type: ignore[attr-defined]
    theirs = stepped(torch.optim.AdamW, "cuda", fused=True)
    for a, b in zip(mine.param_groups, theirs.param_groups, strict=True):
        torch.testing.assert_close(a["params"][0], b["params"][0], rtol=1e-6, atol=1e-7)


@CUDA
def test_a_captured_step_follows_a_rate_held_in_a_tensor() -> None:
    """The graph reads the rate anew at every replay: a schedule needs no second capture."""
    weight = nn.Parameter(torch.zeros(64, device="cuda"))
    weight.grad = torch.ones_like(weight)
    lr = torch.tensor(0.125, device="cuda")
    optimizer = AdamW([weight], lr=lr, weight_decay=0.0, capturable=True)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            optimizer.step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    before = weight.detach().clone()
    graph.replay()
    whole = (weight.detach() - before).abs().mean()
    lr.fill_(0.0625)
    before = weight.detach().clone()
    graph.replay()
    half = (weight.detach() - before).abs().mean()
    assert float(half / whole) == pytest.approx(0.5, rel=0.01)


@CUDA
def test_capturing_without_capturable_is_refused() -> None:
    optimizer = stepped(AdamW, "cuda")
    graph = torch.cuda.CUDAGraph()
    with pytest.raises(RuntimeError, match="capturable"), torch.cuda.graph(graph):
        optimizer.step()


@pytest.mark.parametrize("device", EVERYWHERE)
def test_a_population_is_that_of_float64(device: str) -> None:
    case = SpeedCase(optimizer="adam", members=8, rows=100, epochs=2)

    def weights(where: str, dtype: torch.dtype) -> list[torch.Tensor]:
        result = train_population(
            network,
            case.data(),
            case.rates(),
            0,
            PopulationOptions(
                optimizer="adam",
                epochs=2,
                batch_size=50,
                evaluate="never",
                keep_weights=True,
                device=where,
                dtype=dtype,
                path="general",
            ),
        )
        assert result.weights is not None
        return [one.cpu() for one in result.weights.values()]

    exact, plain = weights("cpu", torch.float64), weights("cpu", torch.float32)
    assert error_in_eps(weights(device, torch.float32), exact) <= allowed_error(error_in_eps(plain, exact))


@pytest.mark.parametrize("device", EVERYWHERE)
def test_checkpoints_cross_between_devices_mid_run(device: str) -> None:
    """Three steps on the CPU, three on the device: as six on the CPU."""
    module = seeded(lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1)))
    x = rows(32, 6)

    def train(net: nn.Module, optimizer: torch.optim.Optimizer, where: str) -> None:
        for _ in range(3):
            optimizer.zero_grad()
            net(x.to(where)).square().mean().backward()
            optimizer.step()

    whole = seeded(lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1)))
    optimizer = AdamW(whole.parameters(), lr=0.01)
    train(whole, optimizer, "cpu")
    train(whole, optimizer, "cpu")
    first = AdamW(module.parameters(), lr=0.01)
    train(module, first, "cpu")
    saved = first.state_dict()
    module = module.to(device)
    second = AdamW(module.parameters(), lr=0.01)
    second.load_state_dict(saved)
    train(module, second, device)
    for mine, other in zip(module.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(mine.cpu(), other, rtol=1e-4, atol=1e-5)
