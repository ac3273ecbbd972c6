"""Infinities, NaN, numbers at the ends of float32 and empty tensors: as one of torch's own steps, in every setting."""

from __future__ import annotations

import math
import random
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from optim_pairs import PAIRS, params_of
from torch import Tensor
from torch.optim import Optimizer

from lrdiff_core.optim import kernel

SHAPES = [(0,), (17,), (), (3, 0), (4, 4)]
ENDS = [math.inf, -math.inf, math.nan, 0.0, -0.0, 1e38, -1e38, 1e-40, 3e-23, 1.0, -0.5]
OWN: dict[str, list[dict[str, Any]]] = {
    "SGD": [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}, {"momentum": 1e5, "dampening": 2.0}],
    "Adam": [{}, {"eps": 0.0}, {"eps": math.inf}, {"betas": (0.0, 0.0)}],
    "AdamW": [{}, {"eps": 1e-45}, {"betas": (0.99, 0.9)}],
}
SETTINGS = [(kind, own) for kind, many in OWN.items() for own in many]


def numbers(shape: tuple[int, ...], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(0, len(ENDS), shape, generator=generator)
    return torch.where(
        torch.rand(shape, generator=generator) < 0.5,
        torch.tensor(ENDS)[chosen],
        torch.randn(shape, generator=generator),
    )


def outcome(kind: type[Optimizer], options: dict[str, Any]) -> list[Tensor]:
    params = [torch.nn.Parameter(numbers(shape, seed)) for seed, shape in enumerate(SHAPES)]
    optimizer = kind([{"params": params[:2]}, {"params": params[2:], "lr": 0.5}], **options)
    for step in range(3):
        for seed, param in enumerate(params_of(optimizer)):
            param.grad = numbers(tuple(param.shape), 100 * step + seed)
        optimizer.step()
    return [p.detach() for p in params] + [v for p in params for v in optimizer.state.get(p, {}).values()]


@pytest.mark.parametrize("decay", [0, 0.1, 1e10, math.inf])
@pytest.mark.parametrize("lr", [0.0, 0.1, 1e20, math.inf])
@pytest.mark.parametrize(("kind", "own"), SETTINGS, ids=str)
def test_as_one_of_torchs_steps(kind: str, own: dict[str, Any], lr: float, decay: float) -> None:
    options = {"lr": lr, "weight_decay": decay, **own}
    theirs = [outcome(PAIRS[kind][1], {**options, **way}) for way in ({"foreach": False}, {"fused": True})]
    for where in (nullcontext, kernel.switched_off):  # with the compiled kernel, and without
        with where():
            mine = outcome(PAIRS[kind][0], options)
        assert any(
            all(torch.allclose(a, b, rtol=1e-5, equal_nan=True) for a, b in zip(mine, other, strict=True))
            for other in theirs
        )


NUMBERS = [math.inf, -math.inf, math.nan, 0.0, -0.0, -1.0, 1e-3, 0.1, 0.9, 1.0, 2.0, 1e20, 1e-45]
CHOICES: dict[str, dict[str, list[Any]]] = {
    "SGD": {"momentum": NUMBERS, "dampening": NUMBERS, "nesterov": [True, False]},
    "Adam": {"betas": [(a, b) for a in NUMBERS for b in NUMBERS], "eps": NUMBERS, "amsgrad": [True, False]},
    "AdamW": {"betas": [(a, b) for a in NUMBERS for b in NUMBERS], "eps": NUMBERS, "amsgrad": [True, False]},
}


def what_happens(kind: type[Optimizer], options: dict[str, Any]) -> list[Tensor] | type[Exception]:
    try:
        return outcome(kind, options)
    except Exception as problem:  # noqa: BLE001 - whichever: it is compared
        return type(problem)


def alike(mine: list[Tensor] | type[Exception], other: list[Tensor] | type[Exception]) -> bool:
    if isinstance(mine, type) or isinstance(other, type):
        return isinstance(mine, type) and isinstance(other, type) and issubclass(mine, other)
    return all(torch.allclose(a, b, rtol=1e-5, equal_nan=True) for a, b in zip(mine, other, strict=True))


@pytest.mark.parametrize("kind", PAIRS)
def test_whatever_the_setting_it_is_taken_or_refused_as_by_one_of_torchs_steps(kind: str) -> None:
    """Settings that nobody would write, each with one or two of its options out of the usual."""
    draw, refused = random.Random(0), 0
    choices = {"lr": NUMBERS, "weight_decay": NUMBERS, "maximize": [True, False], **CHOICES[kind]}
    for _ in range(60):
        names = draw.sample(sorted(choices), draw.choice([1, 1, 2, 3]))
        options = {"lr": 0.1, **{name: draw.choice(choices[name]) for name in names}}
        theirs = [what_happens(PAIRS[kind][1], {**options, **way}) for way in ({"foreach": False}, {"fused": True})]
        mine = what_happens(PAIRS[kind][0], options)
        assert any(alike(mine, other) for other in theirs), options
        refused += isinstance(mine, type)
    assert 5 < refused < 55  # both were tried
