"""What only a GPU can show: the step in a captured graph, and rates that change under it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from optim_pairs import PAIRS, make, params_of

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no cuda here")

SHAPES = [(4, 16), (33,), (64, 64), ()]


def _pair(name: str, **options: Any) -> list[torch.optim.Optimizer]:
    made = []
    for kind in PAIRS[name]:
        params = [torch.nn.Parameter(p.detach().cuda()) for p in make(SHAPES)]
        rates = [torch.tensor(rate, device="cuda") for rate in (0.1, 0.01)]
        groups = [{"params": params[:2], "lr": rates[0]}, {"params": params[2:], "lr": rates[1]}]
        made.append(kind(groups, **options))
    return made


def _feed(optimizers: list[torch.optim.Optimizer], seed: int) -> None:
    for optimizer in optimizers:
        fresh = make(SHAPES, seed=seed)
        for param, values in zip(params_of(optimizer), fresh, strict=True):
            if param.grad is None:
                param.grad = torch.zeros_like(param)
            param.grad.copy_(values.detach())  # in place: a graph reads where it was captured


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_a_captured_step_replays_as_torchs_and_sees_new_rates(name: str) -> None:
    ours, theirs = optimizers = _pair(name, capturable=True)
    _feed(optimizers, 0)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            ours.step()
    torch.cuda.current_stream().wait_stream(stream)
    for _ in range(3):
        theirs.step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ours.step()
    for i in range(4):  # capturing runs nothing
        _feed(optimizers, 1 + i)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"].mul_(0.5)
        graph.replay()
        theirs.step()
    assert "torch" not in ours.forms()  # type: ignore[attr-defined]
    for mine, other in zip(params_of(ours), params_of(theirs), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", PAIRS)
def test_a_rate_on_the_device_without_capturable_runs_torchs_own_code(name: str) -> None:
    ours, theirs = optimizers = _pair(name)
    for i in range(3):
        _feed(optimizers, i)
        ours.step()
        theirs.step()
    assert set(ours.forms()) == {"torch"}  # type: ignore[attr-defined]
    for mine, other in zip(params_of(ours), params_of(theirs), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_capturing_without_capturable_is_refused_as_torch_refuses_it(name: str) -> None:
    for kind in PAIRS[name]:
        params = [torch.nn.Parameter(p.detach().cuda()) for p in make(SHAPES)]
        optimizer = kind(params, lr=0.1)
        for param in params:
            param.grad = torch.ones_like(param)
        optimizer.step()
        with pytest.raises(RuntimeError, match="capturable"), torch.cuda.graph(torch.cuda.CUDAGraph()):
            optimizer.step()
