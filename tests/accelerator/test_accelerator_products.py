"""Products, norms and whole models on a device against float64 on the CPU: shapes where devices have been wrong."""

from __future__ import annotations

import copy

import pytest
import torch
from accelerator_setup import ACCELERATORS, CUDA, EVERYWHERE, error_in_eps, rows, seeded
from torch import nn

from lrdiff_bench.gpu.prediction import models
from lrdiff_export.parity.parity import check_parity
from lrdiff_export.runtimes import BACKENDS
from lrdiff_export.runtimes.cuda import float32_products

SHAPES = [(4, 7, 24), (1, 1, 24), (3, 5, 2, 24), (65_537, 24), (2, 4099, 24)]


@pytest.mark.parametrize("device", EVERYWHERE)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_linear_and_its_gradients_over_many_dimensions(shape: tuple[int, ...], device: str) -> None:
    """pytorch#192934: F.linear was wrong on 3-D input on MPS."""
    layer = seeded(lambda: nn.Linear(24, 9))
    exact = copy.deepcopy(layer).double()
    placed = copy.deepcopy(layer).to(device)
    x = rows(*shape)
    with float32_products("ieee"):
        output = placed(x.to(device))
        output.square().mean().backward()
    truth = exact(x.double())
    truth.square().mean().backward()
    layer(x).square().mean().backward()
    assert error_in_eps(output, truth.detach()) < 8
    for mine, own, other in zip(placed.parameters(), layer.parameters(), exact.parameters(), strict=True):
        assert mine.grad is not None
        assert own.grad is not None
        assert other.grad is not None
        # A sum over up to 65 537 rows: as the CPU's own float32 does it, within the margin of every budget.
        assert error_in_eps(mine.grad, other.grad) <= max(8, 4 * error_in_eps(own.grad, other.grad))


@pytest.mark.parametrize("device", EVERYWHERE)
@pytest.mark.parametrize("shape", [(2, 3, 48), (70_000, 48)], ids=str)
def test_norms_over_three_dimensions_and_large_batches(shape: tuple[int, ...], device: str) -> None:
    layer = seeded(lambda: nn.LayerNorm(48))
    x = 3 + rows(*shape)
    assert error_in_eps(copy.deepcopy(layer).to(device)(x.to(device)), layer.double()(x.double()).detach()) < 16


@pytest.mark.parametrize("device", ACCELERATORS)
def test_a_compiled_norm_is_the_eager_one(device: str) -> None:
    """pytorch#191976: a compiled LayerNorm was off by 1.8 on MPS."""
    layer = seeded(lambda: nn.LayerNorm(48)).to(device)
    x = (3 + rows(64, 48)).to(device)
    exact = copy.deepcopy(layer).cpu().double()(x.cpu().double()).detach()
    assert error_in_eps(torch.compile(layer)(x), exact) < 16


@pytest.mark.parametrize("device", ACCELERATORS)
@pytest.mark.parametrize("name", list(models(quick=True)))
def test_every_backend_of_the_device_agrees(name: str, device: str) -> None:
    module, inputs = models(quick=False)[name]
    eager = [one for one, backend in BACKENDS.items() if backend.device == device and "autotune" not in one]
    wanted = [one for one in eager if not BACKENDS[one].needs_onnx]
    assert wanted
    report = check_parity(module, inputs, backends=wanted)
    assert [f"{row.backend}: {row.reason}" for row in report.results if row.status in ("differs", "refused")] == []


@CUDA
def test_tf32_is_on_only_where_it_is_asked_for() -> None:
    a, b = rows(256, 256), rows(256, 256, seed=1)
    exact = a.double() @ b.double()
    before = torch.backends.cuda.matmul.fp32_precision
    errors = {}
    for precision in ("ieee", "tf32"):
        with float32_products(precision):
            errors[precision] = error_in_eps(a.cuda() @ b.cuda(), exact)
    assert torch.backends.cuda.matmul.fp32_precision == before
    assert errors["ieee"] < 8
    if torch.cuda.get_device_capability() >= (8, 0):
        assert errors["tf32"] > 100


@CUDA
def test_a_model_on_a_stream_of_its_own_gives_the_same() -> None:
    module = seeded(lambda: nn.Sequential(nn.Linear(24, 64), nn.ReLU(), nn.Linear(64, 3))).cuda()
    x = rows(512, 24).cuda()
    expected = module(x)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        found = module(x)
    torch.cuda.current_stream().wait_stream(side)
    assert torch.equal(found, expected)


@CUDA
@pytest.mark.parametrize("mode", ["default", "reduce-overhead", "max-autotune-no-cudagraphs"])
def test_compiled_training_has_the_gradients_of_float64(mode: str) -> None:
    module = seeded(lambda: nn.Sequential(nn.Linear(24, 64), nn.GELU(), nn.Linear(64, 3)))
    exact = copy.deepcopy(module).double()
    placed = module.cuda()
    x = rows(128, 24)
    with float32_products("ieee"):
        torch.compile(placed, mode=mode)(x.cuda()).square().mean().backward()
    exact(x.double()).square().mean().backward()
    for mine, other in zip(placed.parameters(), exact.parameters(), strict=True):
        assert mine.grad is not None
        assert other.grad is not None
        assert error_in_eps(mine.grad, other.grad) < 64
    torch.compiler.reset()
