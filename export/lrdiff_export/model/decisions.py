"""Where a program decides: its comparisons, roundings and indices, and rows that lie on both sides of each threshold.

Thresholds are not read off constants but found by running the program: between two rows for which a decision falls
differently there is a place where it changes, and halving the way between them, number by number through the floats in
between, ends at two neighbouring rows, one on each side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._ops import HigherOrderOperator
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lrdiff_export.model.float64 import run_module
from lrdiff_export.model.operators import REMAINDERS, is_floating, jumps, operator_name
from lrdiff_export.model.shadow import kernels

__all__ = ["Decision", "boundary_rows", "decisions_of"]

HALVINGS = 34  # there are 2**32 floats
OPERATORS = 32  # decisions of so many operators are looked at,
PLACES = 8  # at so many places of each,
LEVELS = 8  # at so many thresholds of a place
_COMPARISONS = frozenset({"eq", "ge", "gt", "le", "lt", "ne"})
_CLAMPS = frozenset({"clamp", "clamp_max", "clamp_min", "hardtanh", "threshold"})
_POOLS = frozenset({"max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices"})


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What one operator decided for some rows.

    Attributes:
        operator: its plain name.
        call: number of the call among the program's decisions.
        values: ``[batch, places]``, of any order; of comparisons, the sign of the difference.
    """

    operator: str
    call: int
    values: np.ndarray


def decisions_of(module: Callable[..., Any], rows: Sequence[np.ndarray]) -> list[Decision]:
    """Return what a program decides by floating values, row by row.

    Args:
        module: on the CPU; takes tensors by position.
        rows: one array an input, ``[batch, ...]``.

    Example:
        >>> found, = decisions_of(lambda x: x > 1, [np.float32([[0.5], [1.0], [2.0]])])
        >>> found.operator, found.values.ravel().tolist()
        ('gt', [-1.0, 0.0, 1.0])
    """
    mode = _Decisions(len(rows[0]))
    with kernels(module), mode:
        run_module(module, *map(torch.tensor, rows))
    return mode.found


class _Decisions(TorchDispatchMode):
    """Keeps the results of operators that decide."""

    supports_higher_order_operators = True

    def __init__(self, batch: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.batch = batch
        self.found: list[Decision] = []
        self._calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [one for one in tree_leaves((args, kwargs)) if is_floating(one)]
        if isinstance(func, HigherOrderOperator) or not given or operator_name(func) in _POOLS:
            return func(*args, **kwargs)
        name = operator_name(func)
        signs = _signs(name, args)  # before the operator runs, which may write into its arguments
        before = args[0].clone() if name in REMAINDERS else None
        result = func(*args, **kwargs)
        chosen = [one for one in tree_leaves(result) if isinstance(one, Tensor) and not is_floating(one)]
        if signs is not None:
            self._keep(name, signs)
        elif before is not None:
            self._keep(name, torch.round(before - result))  # which whole multiple was taken away, as far as it shows
        elif jumps(func, kwargs):
            self._keep(name, result)
        elif chosen:
            self._keep(name, chosen[0])
        return result

    def _keep(self, name: str, value: Tensor) -> None:
        self._calls += 1
        if len(self.found) >= OPERATORS or value.ndim < 1 or value.shape[0] != self.batch or not value.numel():
            return
        flat = value.detach().reshape(self.batch, -1)
        places = np.unique(np.linspace(0, flat.shape[1] - 1, PLACES).round().astype(int))
        values = flat[:, torch.from_numpy(places)].double().numpy()
        self.found.append(Decision(operator=name, call=self._calls, values=values))


def _signs(name: str, args: Sequence[Any]) -> Tensor | None:
    """The sign of the difference of what is compared, or the side of a limit."""
    if name in _COMPARISONS:
        return torch.sign(torch.as_tensor(args[0]).double() - torch.as_tensor(args[1]).double())
    if name in _CLAMPS:
        limits = [one for one in args[1:3] if one is not None]
        parts = [torch.sign(args[0].double() - (one.double() if isinstance(one, Tensor) else one)) for one in limits]
        return torch.stack(torch.broadcast_tensors(*parts)).sum(dim=0) if parts else None
    return None


def boundary_rows(
    module: Callable[..., Any], rows: Sequence[np.ndarray], *, most: int
) -> tuple[np.ndarray, ...] | None:
    """Return rows on both sides of the thresholds that lie between the rows given; None where there are none.

    Args:
        module: on the CPU; takes tensors by position.
        rows: one array an input, ``[batch, ...]``; integers and bools are taken as they are.
        most: number of thresholds to look for.

    Example:
        >>> found, = boundary_rows(lambda x: (x // 0.37).long(), [np.float32([[0.1], [0.5]])], most=4)
        >>> found.ravel().tolist()
        [0.3699999749660492, 0.3700000047683716, 0.37000003457069397]
    """
    pairs = _pairs(decisions_of(module, rows), most)
    if not pairs or not any(one.dtype.kind == "f" for one in rows):
        return None
    first, second, calls, places = (np.array(column) for column in zip(*pairs, strict=True))
    low, high = ([one[side] for one in rows] for side in (first, second))
    high = [one if one.dtype.kind == "f" else other for one, other in zip(high, low, strict=True)]
    start = _chosen(module, low, calls, places)
    opposite = _chosen(module, high, calls, places)
    kept = start != opposite  # integers taken from the first row may have decided alone
    if not kept.any():
        return None
    low, high = [one[kept] for one in low], [one[kept] for one in high]
    start, calls, places = start[kept], calls[kept], places[kept]
    for _ in range(HALVINGS):
        middle = [_between(one, other) for one, other in zip(low, high, strict=True)]
        same = _chosen(module, middle, calls, places) == start
        low = [_where(same, new, old) for new, old in zip(middle, low, strict=True)]
        high = [_where(same, old, new) for new, old in zip(middle, high, strict=True)]
    beyond = [_further(one, other) for one, other in zip(low, high, strict=True)]  # x > 1 turns after 1, not before
    both = [np.concatenate(parts) for parts in zip(low, high, beyond, strict=True)]
    bits = np.concatenate([np.ascontiguousarray(one).reshape(len(one), -1).view(np.uint8) for one in both], axis=1)
    first = np.sort(np.unique(bits, axis=0, return_index=True)[1])  # two decisions may change at one place
    return tuple(one[first] for one in both)


def _pairs(decisions: Sequence[Decision], most: int) -> list[tuple[int, int, int, int]]:
    """Two rows for which a decision falls differently, with its call and place; evenly of all decisions."""
    found: list[list[tuple[int, int, int, int]]] = []
    for decision in decisions:
        for place in range(decision.values.shape[1]):
            values = decision.values[:, place]
            levels, rows = np.unique(values[np.isfinite(values)], return_index=True)
            rows = np.flatnonzero(np.isfinite(values))[rows]
            if len(levels) > 1:
                steps = np.unique(np.linspace(0, len(levels) - 2, LEVELS).round().astype(int))
                found.append([(int(rows[step]), int(rows[step + 1]), decision.call, place) for step in steps])
    turns = [one[turn] for turn in range(LEVELS) for one in found if turn < len(one)]
    return turns[:most]


def _chosen(module: Callable[..., Any], rows: list[np.ndarray], calls: np.ndarray, places: np.ndarray) -> np.ndarray:
    """What each row's own decision is; NaN where the program took another way."""
    by_call = {one.call: one.values for one in decisions_of(module, rows)}
    chosen = np.full(len(calls), np.nan)
    for row, (call, place) in enumerate(zip(calls, places, strict=True)):
        if call in by_call and place < by_call[call].shape[1]:
            chosen[row] = by_call[call][row, place]
    return chosen


def _between(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The float that has as many floats on the way to one side as to the other."""
    if one.dtype.kind != "f":
        return one
    return _float((_ordered(one) + _ordered(other)) // 2)


def _further(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The float as far beyond the other one as that is from the first."""
    return one if one.dtype.kind != "f" else _float(2 * _ordered(other) - _ordered(one))


def _float(ordered: np.ndarray) -> np.ndarray:
    bits = np.where(ordered >= 0, ordered, -(2**31) - ordered)
    return np.asarray(bits.astype(np.int32)).view(np.float32)


def _ordered(values: np.ndarray) -> np.ndarray:
    """Whole numbers in the order of the floats, neighbours one apart."""
    bits = np.ascontiguousarray(values).view(np.int32).astype(np.int64)
    return np.where(bits >= 0, bits, -(2**31) - bits)


def _where(mask: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.where(mask.reshape(-1, *[1] * (one.ndim - 1)), one, other)
