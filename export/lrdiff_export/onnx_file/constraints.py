"""Which batches torch's exported program is made for: its constraints and comparisons of the number of rows."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from lrdiff_core.errors import InputError

__all__ = ["BatchConstraints", "batch_constraints"]

LEAST = 64  # rows that a batch must be able to have; less is a branch that the example happened to take
_COMPARISONS: tuple[Callable[..., Any], ...] = (
    operator.eq, operator.ne, operator.ge, operator.gt, operator.le, operator.lt, operator.mod,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class BatchConstraints:
    """What an exported program says of its batch.

    Attributes:
        most: rows that it is made for at most; None for any number.
        compared: numbers that it compares the number of rows with, or divides it by.
    """

    most: int | None = None
    compared: tuple[int, ...] = ()


def batch_constraints(program: torch.export.ExportedProgram, name: str) -> BatchConstraints:
    """Read the constraints of the first dimension of the inputs.

    Args:
        program: with a free batch dimension.
        name: of the module, for messages.

    Raises:
        InputError: it is made for a few rows only: a branch on the size of the batch took the example's way.
    """
    sizes = {str(one) for one in map(_batch_symbol, _inputs(program)) if one is not None}
    limits = [one.upper for symbol, one in program.range_constraints.items() if str(symbol) in sizes]
    finite = [int(one) for one in limits if str(one).lstrip("-").isdigit()]
    most = min(finite, default=None)
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
    return BatchConstraints(most=most, compared=tuple(sorted(compared)))


def _inputs(program: torch.export.ExportedProgram) -> list[fx.Node]:
    names = set(map(str, program.graph_signature.user_inputs))
    return [node for node in program.graph.nodes if node.op == "placeholder" and node.name in names]


def _batch_symbol(node: fx.Node) -> Any:
    value = node.meta.get("val")
    size = value.shape[0] if isinstance(value, torch.Tensor) and value.ndim else None
    return size.node.expr if isinstance(size, torch.SymInt) else None
