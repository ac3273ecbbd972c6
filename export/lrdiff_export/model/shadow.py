"""Shadow values: a module run in float32, and beside every float32 value the same value in float64.

Every operator is called on the float32 values, which decide where the program goes, and again on their float64
shadows. So comparisons, roundings, indices and constants are those of the float32 program, and what shadows and values
differ by is rounding alone: where the program finds that 0.1 x is larger than 1, float64 takes the same branch.

Further shadows are moved: every input, and every result of arithmetic, by half a unit in the last place up or down, at
random. What that does to the outputs is the conditioning of the program: the error that float32 arithmetic, in
whatever order, may make. Where values and shadows differ by more, something else than rounding is at work.

Sources: F. Benz, A. Hildebrandt, S. Hack, *A dynamic program analysis to find floating-point accuracy problems*, PLDI
2012 (shadow values); D. S. Parker, *Monte Carlo Arithmetic*, UCLA CSD-970002, 1997 (random rounding).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry

from lrdiff_export.model.float64 import fitting_threads, plain_kernels, run_module, to_numpy
from lrdiff_export.model.operators import (
    ENDS,
    LOOKUPS,
    REMAINDERS,
    WIDE,
    computes,
    is_floating,
    is_view,
    jumps,
    operator_name,
    rounded_once,
    writes,
)

__all__ = ["DRAWS", "EPS", "ShadowRun", "Work", "joined", "kernels", "run_perturbed", "run_with_shadows", "work_of"]

EPS = 2.0**-23  # of float32
DRAWS = 2
_SEED = 0  # of all random rounding: the same draws everywhere
_ATTRIBUTE = "_lrdiff_shadows"
_POOLS = frozenset({"max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices"})


@dataclass(frozen=True, kw_only=True)
class ShadowRun:
    """What a module gives for some rows.

    Attributes:
        outputs: in float32, one array an output.
        answers: in float64, along the way that float32 takes; exact dtypes are those of ``outputs``.
        moved: the same for each draw of random rounding.
        decides: whether a comparison, a rounding or an index depends on floating values.
        operators: plain names of those that were called on floating values.
        unfollowed: operators that could not be called in float64; there the shadows begin anew.
    """

    outputs: list[np.ndarray]
    answers: list[np.ndarray]
    moved: list[list[np.ndarray]]
    decides: bool
    operators: frozenset[str]
    unfollowed: tuple[str, ...]


def joined(runs: Sequence[ShadowRun]) -> ShadowRun:
    """Return what runs on pieces of a batch give for all of it."""
    if len(runs) == 1:
        return runs[0]

    def join(parts: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
        return [np.concatenate(several) for several in zip(*parts, strict=True)]

    return ShadowRun(
        outputs=join([one.outputs for one in runs]),
        answers=join([one.answers for one in runs]),
        moved=[join(parts) for parts in zip(*(one.moved for one in runs), strict=True)],
        decides=any(one.decides for one in runs),
        operators=frozenset().union(*(one.operators for one in runs)),
        unfollowed=tuple(sorted({name for one in runs for name in one.unfollowed})),
    )


def run_with_shadows(
    module: Callable[..., Any], rows: Sequence[np.ndarray], *, eps: float = EPS, draws: int = DRAWS
) -> ShadowRun:
    """Run a module with shadow values.

    Args:
        module: on the CPU; takes tensors by position, gives a tensor or a tuple of tensors.
        rows: one array an input, ``[batch, ...]``; never written to.
        eps: of the arithmetic whose rounding the moved shadows imitate.
        draws: number of moved shadows.

    Example:
        >>> run = run_with_shadows(lambda x: 10 * (x * 0.1 >= 1) + x / 3, [np.float32([[10.0]])])
        >>> run.answers[0], run.decides
        (array([[13.33333333]]), True)
    """
    mode = _Shadows(eps, draws)
    tensors = [torch.tensor(one) for one in rows]
    for one in tensors:
        mode.start(one)
    with kernels(module), mode:
        outputs = run_module(module, *tensors)
    shadows = [mode.shadows(one) if is_floating(one) else [one] * (1 + draws) for one in outputs]
    return ShadowRun(
        outputs=[to_numpy(one) for one in outputs],
        answers=[to_numpy(one[0]) for one in shadows],
        moved=[[to_numpy(one[1 + draw]) for one in shadows] for draw in range(draws)],
        decides=mode.decides,
        operators=frozenset(mode.operators),
        unfollowed=tuple(sorted(mode.unfollowed)),
    )


def run_perturbed(
    module: Callable[..., Any],
    rows: Sequence[np.ndarray],
    *,
    draw: int,
    amount: float = 4 * EPS,
    everything: bool = False,
) -> list[np.ndarray]:
    """Return what float32 may give in another runtime: what may be rounded otherwise is moved, at random.

    Sums, matrix products and functions such as the exponential are moved, and what is decided by them follows.
    Additions, products, quotients and square roots are rounded once an element by IEEE 754, and stay.

    Args:
        module: as for :func:`run_with_shadows`.
        rows: as there.
        draw: names the random numbers; an odd one moves everything the other way than the even one before it, so that
            of two draws one goes towards a threshold that is near.
        amount: share of themselves that numbers are moved by.
        everything: move the inputs and every result of arithmetic.

    Example:
        >>> run_perturbed(lambda x: x * 0.1 >= 1, [np.float32([[10.0]])], draw=0)
        [array([[ True]])]
    """
    mode = _Perturbed(amount, draw, everything)
    tensors = [mode.moved(torch.tensor(one)) if everything else torch.tensor(one) for one in rows]
    with kernels(module), mode:
        return [to_numpy(one) for one in run_module(module, *tensors)]


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a module does for one row.

    Attributes:
        operations: those of products, and ten for each number in between.
        largest: numbers in the largest tensor on the way.
        answers: numbers in the smallest output.
    """

    operations: float
    largest: int
    answers: int


def work_of(module: Callable[..., Any], tensors: Sequence[Tensor]) -> Work:
    """Count what a module does for one row; no clock is asked, so that the same module always has the same work.

    Args:
        module: takes tensors by position.
        tensors: one an input, ``[batch, ...]``.

    Example:
        >>> work_of(lambda x: x @ torch.ones(3, 2), [torch.ones(4, 3)])  # 2 * 3 * 2 + 10 * (3 + 2) a row, 10 * 6 in all
        Work(operations=77.0, largest=3, answers=2)
    """
    mode, rows = _Work(), len(tensors[0])
    with kernels(module), mode:
        outputs = run_module(module, *(one.clone() for one in tensors))
    answers = min(one.numel() for one in outputs) // rows
    return Work(operations=mode.work / rows, largest=mode.largest // rows, answers=answers)


class _Work(TorchDispatchMode):
    """Counts operations."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.work, self.largest = 0.0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(func, HigherOrderOperator):
            return result
        sizes = [one.numel() for one in tree_leaves(result) if isinstance(one, Tensor)]
        self.work += 10.0 * sum(sizes)
        self.largest = max(self.largest, *sizes, 0)
        if func.overloadpacket in flop_registry:
            self.work += flop_registry[func.overloadpacket](*args, **(kwargs or {}), out_val=result)
        return result


@contextmanager
def kernels(module: Any) -> Iterator[None]:
    """One thread for small modules; recurrent and attention layers as plain operators, which a mode sees one by one."""
    fused = (nn.RNNBase, nn.MultiheadAttention, nn.TransformerEncoderLayer)
    with ExitStack() as stack:
        stack.enter_context(_direct_branches())
        if isinstance(module, nn.Module):
            stack.enter_context(fitting_threads(module))
            if any(isinstance(part, fused) for part in module.modules()):
                stack.enter_context(plain_kernels())
        yield


@contextmanager
def _direct_branches() -> Iterator[None]:
    """Let ``torch.cond`` call one of its functions; by itself it compiles both, which no mode can look into."""
    real = torch.cond

    def direct(pred: Any, true_fn: Callable[..., Any], false_fn: Callable[..., Any], operands: Any = ()) -> Any:
        return (true_fn if bool(pred) else false_fn)(*operands)

    torch.cond = direct
    try:
        yield
    finally:
        torch.cond = real


@lru_cache(maxsize=1)
def _random_signs() -> Tensor:
    """[2**17 - 1] of -1 and 1, drawn once: reading them from a random place on costs a fiftieth of drawing anew."""
    generator = torch.Generator().manual_seed(_SEED)
    return torch.empty(2**17 - 1, dtype=torch.float64).bernoulli_(0.5, generator=generator).mul_(2).sub_(1)


def _signs(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """[...] of -1 and 1, float64."""
    table, count = _random_signs(), math.prod(shape)
    first = int(torch.randint(len(table), (), generator=generator))
    if first + count > len(table):
        table = table.repeat((first + count) // len(table) + 1)
    return table[first : first + count].view(tuple(shape))


class _Shadows(TorchDispatchMode):
    """Calls every operator on values and on their shadows; the first shadow is exact, the others are moved."""

    supports_higher_order_operators = True

    def __init__(self, eps: float, draws: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.eps = eps
        self.decides = False
        self.operators: set[str] = set()
        self.unfollowed: set[str] = set()
        self._generators = [torch.Generator().manual_seed(_SEED + draw) for draw in range(draws)]
        self._lanes = range(1 + draws)

    def start(self, value: Tensor) -> None:
        """Give an input its shadows."""
        if is_floating(value):
            self._keep(value, self._moved([value.to(WIDE[value.dtype], copy=True) for _ in self._lanes], value))

    def shadows(self, value: Tensor) -> Sequence[Tensor]:
        """Return the shadows of a floating value; weights and constants have none of their own and are exact."""
        kept = self._kept(value)
        return [value.detach().to(WIDE[value.dtype])] * len(self._lanes) if kept is None else kept

    def _keep(self, value: Tensor, shadows: Sequence[Tensor]) -> None:
        setattr(value, _ATTRIBUTE, (self, shadows))

    def _kept(self, value: Tensor) -> Sequence[Tensor] | None:
        owner, shadows = getattr(value, _ATTRIBUTE, (None, None))
        return shadows if owner is self else None

    def _moved(self, shadows: Sequence[Tensor], value: Tensor, least: float = 0.0) -> list[Tensor]:
        """Move all but the first by half a unit in the last place, in their own memory, and by ``least`` at least."""
        eps = torch.finfo(value.dtype).eps
        half = (max(self.eps, eps) if value.dtype != WIDE[value.dtype] else eps) / 2
        for shadow, generator in zip(shadows[1:], self._generators, strict=True):
            size = shadow.abs().clamp_(min=least / half) if least else shadow
            shadow.addcmul_(size, _signs(shadow.shape, generator), value=half)
        return list(shadows)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, HigherOrderOperator):
            self.unfollowed.add(str(func))
            return func(*args, **kwargs)
        given = [one for one in tree_leaves((args, kwargs)) if is_floating(one)]
        known = any(self._kept(one) is not None for one in given)
        # Before the operator runs, which may write into its arguments. Views of weights are as exact as they are.
        followed = bool(given) and (known or not is_view(func))
        lanes = self._arguments(func, args, kwargs, given) if followed else []
        remainder = operator_name(func) in REMAINDERS
        before = [one.detach().to(WIDE[one.dtype], copy=True) for one in given] if remainder else []
        result = func(*args, **kwargs)
        values = tree_leaves(result)
        if given:
            self.operators.add("isnan" if _asks_for_nan(func, args) else operator_name(func))
        if given and operator_name(func) not in _POOLS:
            whole = not all(map(is_floating, values))
            self.decides = self.decides or whole or remainder or jumps(func, kwargs)
        if not given:  # made of no floating value: a constant
            for one in filter(is_floating, values):
                self._keep(one, [one.to(WIDE[one.dtype], copy=True) for _ in self._lanes])
        elif followed and any(map(is_floating, values)):
            narrower = operator_name(func) == "_to_copy" and _eps(values[0]) > _eps(given[0])
            moves = computes(func, kwargs) or narrower or (operator_name(func) in LOOKUPS and not known)
            self._follow(func, lanes, values, moves=moves, whole=jumps(func, kwargs), before=before)
        return result

    def _arguments(self, func: Any, args: Any, kwargs: Any, given: Sequence[Tensor]) -> list[Any]:
        """The arguments of each lane."""
        shadows = {id(one): self.shadows(one) for one in given}
        shared = {id(one) for one in given if self._kept(one) is None}

        def wide(value: Any, lane: int) -> Any:
            if is_floating(value):
                shadow = shadows[id(value)][lane]
                return shadow.clone() if writes(func) and id(value) in shared else shadow
            return WIDE.get(value, value) if isinstance(value, torch.dtype) else value

        return [tree_map(partial(wide, lane=lane), (args, kwargs)) for lane in self._lanes]

    def _follow(
        self, func: Any, lanes: list[Any], values: list[Any], *, moves: bool, whole: bool, before: list[Tensor]
    ) -> None:
        """Give the floating results of an operator their shadows."""
        try:
            found = [tree_leaves(func(*args, **kwargs)) for args, kwargs in lanes]
        except Exception:  # noqa: BLE001 - whatever a kernel raises that does not know float64
            self.unfollowed.add(str(func))
            return
        for index, value in enumerate(values):
            if not is_floating(value):
                continue
            shadows = [one[index] for one in found]
            exact = value.detach().to(WIDE[value.dtype])
            if any(one.shape != value.shape for one in shadows):  # as many as float32 has distinct values
                self.unfollowed.add(str(func))
                continue
            if whole:
                shadows = [one.copy_(exact) for one in shadows]
            elif before:
                pairs = zip(shadows, lanes, strict=True)
                shadows = [one.copy_(_remainder(args[:2], before, exact)) for one, (args, _) in pairs]
            elif moves:
                shadows = self._moved(shadows, value, ENDS.get(operator_name(func), 0.0))
            self._keep(value, shadows)


def _asks_for_nan(func: Any, args: Sequence[Any]) -> bool:
    """``x != x``, and ``abs(x) != inf``, of which torch makes ``isfinite``."""
    if operator_name(func) not in ("eq", "ne"):
        return False
    return args[0] is args[1] or (not isinstance(args[1], Tensor) and math.isinf(args[1]))


def _eps(value: Any) -> float:
    return torch.finfo(value.dtype).eps if is_floating(value) else 0.0


def _remainder(shadows: Sequence[Any], values: Sequence[Tensor], result: Tensor) -> Tensor:
    """The shadow of x less a whole multiple of y, where float32 says which multiple."""
    x, y = shadows[0], shadows[1] if len(shadows) > 1 else 1.0
    divisor = values[1] if len(values) > 1 else y
    found: Tensor = x - torch.round((values[0] - result) / divisor) * y
    return found


class _Perturbed(TorchDispatchMode):
    """Moves what runtimes may round differently: results, and what goes into sums and products."""

    supports_higher_order_operators = True

    def __init__(self, amount: float, draw: int, everything: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.amount = -amount if draw % 2 else amount
        self.everything = everything
        self._generator = torch.Generator().manual_seed(_SEED + draw // 2)

    def moved(self, value: Any, *, inplace: bool = False) -> Any:
        """Move every number up or down by the amount."""
        if not is_floating(value):
            return value
        change = _signs(value.shape, self._generator).to(value.dtype) * value * self.amount
        return value.add_(change) if inplace else value + change

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, HigherOrderOperator):
            return func(*args, **kwargs)
        given = any(map(is_floating, tree_leaves((args, kwargs))))
        if not given or not computes(func, kwargs) or (rounded_once(func) and not self.everything):
            return func(*args, **kwargs)
        if writes(func):
            return self.moved(func(*args, **kwargs), inplace=True)
        if torch.Tag.pointwise not in func.tags:  # a sum may cancel: what goes in counts, not what comes out
            args, kwargs = tree_map(self.moved, (args, kwargs))
        return tree_map(self.moved, func(*args, **kwargs))
