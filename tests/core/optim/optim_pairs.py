"""What the optimizer tests share: tensors of awkward shapes, pairs of optimizers stepped side by side."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lrdiff_core.optim import (
    LAMB,
    SGD,
    Adafactor,
    Adagrad,
    Adam,
    AdamW,
    Lion,
    NAdam,
    RAdam,
    RMSprop,
    ScheduleFreeAdamW,
    reference,
)

ON_ARM = platform.machine() in ("aarch64", "arm64")
PAIRS = {"SGD": (SGD, torch.optim.SGD), "Adam": (Adam, torch.optim.Adam), "AdamW": (AdamW, torch.optim.AdamW)}


class LionAsPublished(Optimizer):
    """Lion in the operations of its authors' code for PyTorch (google/automl, lion), one after the other."""

    def __init__(self, params: Any, lr: float, betas: Any = (0.9, 0.99), weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            (a, b), lr = group["betas"], group["lr"]
            for p in group["params"]:
                m = self.state[p].setdefault("exp_avg", torch.zeros_like(p))
                p.mul_(1 - lr * group["weight_decay"])
                p.add_(torch.sign(m * a + p.grad * (1 - a)), alpha=-lr)
                m.mul_(b).add_(p.grad, alpha=1 - b)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A rule that the compiled kernel has and torch has no fused kernel for, or has one on the CPU alone.

    Args:
        ours: our class.
        twin: the plain float64 rule.
        options: to be tried.
        oracle: torch's class, or its authors'; None where it is not installed.
        bits: whether ours has the oracle's bits, given these options more.
        divided: whether shards can be stepped each by itself.
        rows: whether the kernel takes rows alone, and what steps the rest divides by how many numbers there are.
    """

    ours: type[Optimizer]
    twin: Callable[..., Tensor]
    options: tuple[dict[str, Any], ...]
    oracle: Callable[..., Optimizer] | None
    bits: dict[str, Any] | None = None
    divided: bool = True
    rows: bool = False

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Those that what steps where the kernel does not can step."""
        return tuple(shape for shape in SHAPES if not (self.rows and 0 in shape))

    @property
    def slow(self) -> type[Optimizer]:
        """What steps where the kernel does not."""
        return self.ours._torch_class  # type: ignore[attr-defined, no-any-return]


def _schedule_free() -> Callable[..., Optimizer] | None:
    if find_spec("schedulefree") is None:
        return None
    from schedulefree import AdamWScheduleFree

    return AdamWScheduleFree  # type: ignore[no-any-return]


_ADAM: tuple[dict[str, Any], ...] = (
    {},
    {"weight_decay": 0.3, "betas": (0.5, 0.7), "eps": 1e-3, "maximize": True},
    {"weight_decay": 0.3, "decoupled_weight_decay": True, "betas": (0.8, 0.95)},
)
RULES = {
    "NAdam": Rule(
        ours=NAdam, twin=reference.nadam, options=(*_ADAM, {"momentum_decay": 4.0}), oracle=torch.optim.NAdam
    ),
    "RAdam": Rule(ours=RAdam, twin=reference.radam, options=_ADAM, oracle=torch.optim.RAdam),
    "RMSprop": Rule(
        ours=RMSprop,
        twin=reference.rmsprop,
        options=(
            {"momentum": 0.5, "weight_decay": 0.1, "maximize": True},
            {"centered": True, "alpha": 0.7, "eps": 1e-2},
            {"centered": True, "momentum": 0.9, "alpha": 0.4, "eps": 1e-2},
        ),
        oracle=torch.optim.RMSprop,
    ),
    "Adagrad": Rule(
        ours=Adagrad,
        twin=reference.adagrad,
        options=(
            {},
            {"initial_accumulator_value": 0.5, "eps": 1e-3},
            {"weight_decay": 0.1, "lr_decay": 0.2, "maximize": True},
        ),
        oracle=torch.optim.Adagrad,
        bits={"fused": True},
    ),
    "Adafactor": Rule(
        ours=Adafactor,
        twin=reference.adafactor,
        options=(
            {},
            {"weight_decay": 0.3, "beta2_decay": -0.5, "eps": (0.5, 1.2), "d": 1.1, "maximize": True},
        ),
        oracle=torch.optim.Adafactor,
        divided=False,
        rows=True,
    ),
    "LAMB": Rule(
        ours=LAMB,
        twin=reference.lamb,
        options=({}, {"weight_decay": 0.3, "betas": (0.5, 0.7), "eps": 1e-3, "maximize": True}),
        oracle=LAMB._torch_class,
        divided=False,
    ),
    "Lion": Rule(
        ours=Lion,
        twin=reference.lion,
        options=({}, {"weight_decay": 0.3, "betas": (0.8, 0.7)}),
        oracle=LionAsPublished,
        bits={},
    ),
    "ScheduleFreeAdamW": Rule(
        ours=ScheduleFreeAdamW,
        twin=reference.schedule_free,
        options=({}, {"weight_decay": 0.3, "betas": (0.8, 0.9), "warmup_steps": 4, "r": 0.5}),
        oracle=_schedule_free(),
    ),
}


def trained(
    kind: Callable[..., Any], params: Sequence[Tensor], rates: Sequence[float] = (0.01, 0.001, 0.02), **options: Any
) -> Any:
    """An optimizer over groups of different rates, ready to train."""
    groups = [{"params": list(params[i :: len(rates)]), "lr": rate} for i, rate in enumerate(rates)]
    made = kind(groups, lr=0.01, **options)
    if hasattr(made, "train"):
        made.train()
    return made


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
    """Parameters and state are equal to the last bit, in value, type and place.

    On ARM torch's own Adam has other last bits (docs/decisions.md): there it has to be close.
    """
    close = ON_ARM and type(theirs) in (torch.optim.Adam, torch.optim.AdamW)
    for mine, other in zip(params_of(ours), params_of(theirs), strict=True):
        assert torch.equal(mine, other) or (close and _nearly(mine, other))
        a, b = ours.state.get(mine, {}), theirs.state.get(other, {})
        assert a.keys() == b.keys()
        for key in a:
            assert a[key].dtype == b[key].dtype
            assert torch.equal(a[key], b[key]) or (close and _nearly(a[key], b[key])), key


def _nearly(mine: Tensor, other: Tensor) -> bool:
    torch.testing.assert_close(mine, other, equal_nan=True)
    return True


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
