"""What the optimizer tests share: tensors of awkward shapes, pairs of optimizers stepped side by side."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lrdiff_core.optim import SGD, Adam, AdamW

PAIRS = {"SGD": (SGD, torch.optim.SGD), "Adam": (Adam, torch.optim.Adam), "AdamW": (AdamW, torch.optim.AdamW)}
# The compiled kernel takes float32 alone: with another dtype its being there changes nothing.
DTYPES_AND_FORMS = [
    (torch.float32, "kernel"),
    *((dtype, "fused") for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16)),
]
# Vector bodies and tails, one number, no dimensions, no numbers at all.
SHAPES: tuple[tuple[int, ...], ...] = ((5, 16), (7,), (), (1,), (0,), (3, 1, 2), (64, 33))


def make(shapes: Sequence[tuple[int, ...]] = SHAPES, dtype: torch.dtype = torch.float32, seed: int = 0) -> list[Tensor]:
    """Parameters, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]


def feed(*models: Sequence[Tensor], seed: int) -> None:
    """The same random gradients for each of the models."""
    generator = torch.Generator().manual_seed(seed)
    for params in zip(*models, strict=True):
        grad = torch.randn(params[0].shape, generator=generator)
        for param in params:
            param.grad = grad.to(param.dtype, copy=True)  # each its own: clipping works in place


def walk(ours: torch.optim.Optimizer, theirs: torch.optim.Optimizer, steps: int, seed: int = 100) -> None:
    """Steps both with the same gradients."""
    for i in range(steps):
        feed(params_of(ours), params_of(theirs), seed=seed + i)
        ours.step()
        theirs.step()


def params_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [param for group in optimizer.param_groups for param in group["params"]]


def same_bits(ours: torch.optim.Optimizer, theirs: torch.optim.Optimizer) -> None:
    """Parameters and state are equal to the last bit, in value, type and place."""
    for mine, other in zip(params_of(ours), params_of(theirs), strict=True):
        assert torch.equal(mine, other)
        a, b = ours.state.get(mine, {}), theirs.state.get(other, {})
        assert a.keys() == b.keys()
        for key in a:
            assert a[key].dtype == b[key].dtype
            assert torch.equal(a[key], b[key]), key


class Bound:
    """How far float64 arithmetic allows results to be off: no further than torch's own, but for some roundings.

    A step rounds each number at most ``ROUNDINGS`` times, each by half a unit of the last place of the largest number
    that the tensor or its gradient has held so far.
    """

    ROUNDINGS = 8

    def __init__(self) -> None:
        self._peak: dict[object, float] = {}
        self._steps: dict[object, int] = {}

    def check(self, key: object, mine: Tensor, theirs: Tensor, exact: Tensor, grad: Tensor) -> None:
        kind = mine.dtype
        assert kind == theirs.dtype
        assert mine.shape == theirs.shape == exact.shape
        if not exact.numel() or not grad.numel():
            return
        mine, theirs, exact = mine.detach().double(), theirs.detach().double(), exact.detach()
        self._peak[key] = max(self._peak.get(key, 0.0), float(exact.abs().max()), float(grad.abs().max()))
        self._steps[key] = self._steps.get(key, 0) + 1
        rounding = torch.finfo(kind).eps / 2 * self._peak[key] * self._steps[key] * self.ROUNDINGS
        assert float((mine - exact).abs().max()) <= 2 * float((theirs - exact).abs().max()) + rounding, key
