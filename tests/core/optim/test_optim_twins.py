"""Ours beside the plain float64 twins: the rule itself, not torch's code, is the oracle here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from optim_pairs import RULES, SHAPES, feed, make, params_of

from lrdiff_core.optim import SGD, Adam, AdamW, MuonAdamW, reference

CASES: list[tuple[type[torch.optim.Optimizer], Callable[..., torch.Tensor], dict[str, Any]]] = [
    (SGD, reference.sgd, {"lr": 0.1}),
    (SGD, reference.sgd, {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1, "maximize": True}),
    (SGD, reference.sgd, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    (Adam, reference.adam, {"lr": 0.1}),
    (Adam, reference.adam, {"lr": 0.1, "weight_decay": 0.3, "betas": (0.5, 0.7), "eps": 1e-3, "maximize": True}),
    (Adam, reference.adam, {"lr": 0.1, "weight_decay": 0.3, "amsgrad": True, "betas": (0.6, 0.5)}),
    (AdamW, reference.adam, {"lr": 0.1, "weight_decay": 0.3}),
    *((rule.ours, rule.twin, {"lr": 0.01, **options}) for rule in RULES.values() for options in rule.options),
    (AdamW, reference.adam, {"lr": 0.1, "weight_decay": 0.3, "amsgrad": True, "maximize": True, "betas": (0.6, 0.5)}),
]


@pytest.mark.parametrize(("kind", "rule", "options"), CASES, ids=[f"{kind.__name__}-{o}" for kind, _, o in CASES])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 2e-5)], ids=str)
def test_steps_as_its_twin(
    kind: type[torch.optim.Optimizer],
    rule: Callable[..., torch.Tensor],
    options: dict[str, Any],
    dtype: torch.dtype,
    tolerance: float,
    form: str,
) -> None:
    """Ten steps, three rates; float32 within a few hundred roundings, float64 within the same number of its own."""
    if dtype is torch.float64 and len(kind._update.counters) > 1:  # type: ignore[attr-defined]
        tolerance = 1e-8  # ten steps of 0.02, whose counters are float32 (6e-8), by torch, too
    params = make(dtype=dtype)
    rates = [options["lr"] * factor for factor in (1.0, 0.1, 2.0)]
    optimizer = kind([{"params": params[i::3], "lr": rate} for i, rate in enumerate(rates)], **options)
    twin_options = options | ({"decoupled_weight_decay": True} if kind is AdamW else {})
    if hasattr(optimizer, "train"):
        optimizer.train()
    twins = [p.detach().double().clone() for p in params_of(optimizer)]
    states: list[dict[str, Any]] = [{} for _ in twins]
    of = [group["lr"] for group in optimizer.param_groups for _ in group["params"]]
    for i in range(10):
        feed(params_of(optimizer), seed=i)
        optimizer.step()
        for at, param in enumerate(params_of(optimizer)):
            twins[at] = rule(twins[at], param.grad, states[at], **{**twin_options, "lr": of[at]})
            torch.testing.assert_close(param.detach().double(), twins[at], rtol=0, atol=tolerance)
    assert len(twins) == len(SHAPES)


@pytest.mark.parametrize("adjust", [None, "match_rms_adamw"])
@pytest.mark.parametrize("nesterov", [False, True])
def test_muon_steps_as_its_twin(adjust: str | None, nesterov: bool) -> None:
    """The iteration runs in bfloat16 (8 bits), and five rounds spread its roundings: directions agree to a tenth."""
    params = make([(8, 16), (8, 16), (32, 8), (1, 4)])
    options: dict[str, Any] = {"weight_decay": 0.2, "momentum": 0.9, "nesterov": nesterov, "adjust_lr_fn": adjust}
    optimizer = MuonAdamW(
        [{"params": [p], "lr": 0.01 * (i + 1)} for i, p in enumerate(params)], use_muon=True, **options
    )
    twins: list[dict[str, Any]] = [{} for _ in params]
    for i in range(4):
        before = [p.detach().double().clone() for p in params]
        feed(params, seed=i)
        optimizer.step()
        for at, param in enumerate(params):
            after = reference.muon(before[at], param.grad, twins[at], lr=0.01 * (at + 1), **options)
            moved = float((after - before[at]).norm())
            assert float((param.detach() - after).norm()) <= 0.1 * moved
            torch.testing.assert_close(
                optimizer.state[param]["momentum_buffer"].double(), twins[at]["momentum_buffer"], rtol=1e-5, atol=1e-6
            )
