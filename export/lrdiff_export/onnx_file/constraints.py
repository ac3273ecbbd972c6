"""Which batches and sizes an exported program is made for: its constraints, and comparisons of the number of rows."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from lrdiff_core.errors import InputError

__all__ = ["BatchConstraints", "batch_constraints"]

LEAST = 64  # rows that a batch must be able to have; less is a branch that the example happened to take
SMALLEST = 2  # torch takes 0 and 1 for constants, and promises nothing below
_COMPARISONS: tuple[Callable[..., Any], ...] = (
    operator.eq, operator.ne, operator.ge, operator.gt, operator.le, operator.lt, operator.mod,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class BatchConstraints:
    """What an exported program says of its batch.

    Attributes:
        most: rows that it is made for at most; None for any number.
        compared: numbers that it compares the number of rows with, or divides it by.
        sizes: of other free dimensions: number of the input, axis, smallest and largest size that it is made for; None
            for any larger one.
    """

    most: int | None = None
    compared: tuple[int, ...] = ()
    sizes: tuple[tuple[int, int, int, int | None], ...] = ()


def batch_constraints(program: torch.export.ExportedProgram, name: str, *, batched: bool = True) -> BatchConstraints:
    """Read the constraints of the free dimensions of the inputs.

    Args:
        program: with a free batch dimension.
        name: of the module, for messages.
        batched: whether the first dimension is the batch.

    Raises:
        InputError: it is made for a few rows only: a branch on the size of the batch took the example's way.
    """
    limits = {
        str(symbol): (_number(one.lower), _number(one.upper)) for symbol, one in program.range_constraints.items()
    }
    rows: list[int] = []
    sizes: list[tuple[int, int, int, int | None]] = []
    for index, node in enumerate(_inputs(program)):
        for axis, symbol in _free(node):
            least, most = limits.get(symbol, (None, None))
            if batched and axis == 0:
                rows += [] if most is None else [most]
            elif most is not None or (least or 0) > SMALLEST:
                sizes.append((index, axis, 1 if (least or 0) <= SMALLEST else least or 1, most))
    most = min(rows, default=None)
    if most is not None and most < LEAST:
        raise InputError(
            f"{name} branches on the number of rows, and only batches of up to {most} take the way of the example",
            help="export each way as a module of its own, or give an example of a larger batch",
        )
    compared = {
        int(one)
        for node in program.graph.nodes
        if node.op == "call_function" and node.target in _COMPARISONS
        for one in node.args
        if isinstance(one, int) and not isinstance(one, bool) and one > 1
    }
    return BatchConstraints(most=most, compared=tuple(sorted(compared)), sizes=tuple(sizes))


def _inputs(program: torch.export.ExportedProgram) -> list[fx.Node]:
    names = set(map(str, program.graph_signature.user_inputs))
    return [node for node in program.graph.nodes if node.op == "placeholder" and node.name in names]


def _free(node: fx.Node) -> Iterator[tuple[int, str]]:
    """Axes of a free size, and the symbol of it."""
    value = node.meta.get("val")
    sizes: Sequence[Any] = value.shape if isinstance(value, torch.Tensor) else ()
    for axis, size in enumerate(sizes):
        if isinstance(size, torch.SymInt):
            yield axis, str(size.node.expr)


def _number(limit: Any) -> int | None:
    """A limit as a number; None where it is infinite."""
    return int(limit) if str(limit).lstrip("-").isdigit() else None
