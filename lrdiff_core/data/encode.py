"""Categories, dates and gaps to numbers, as the first step inside the model."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lrdiff_core.data.spec import ColumnSpec

__all__ = ["Encode", "needs_encoding"]

WEEK, YEAR, DAY = 7.0, 365.25, 86400.0  # exact in float32, so that float64 divides by the same


def needs_encoding(columns: Sequence[ColumnSpec]) -> bool:
    """Whether the first layer gets anything but the columns as they are."""
    return any(column.endings != ("",) for column in columns)


class Encode(nn.Module):
    """Raw columns [batch, columns] to what is standardized [batch, encoded], as :class:`ColumnSpec` says.

    Args:
        columns: of the matrix, in order.

    Example:
        >>> step = Encode([ColumnSpec(name="a"), ColumnSpec(name="c", kind="category", categories=("x", "y"))])
        >>> step(torch.tensor([[0.5, 2.0], [1.5, 0.0]])).tolist()
        [[0.5, 0.0, 1.0], [1.5, 0.0, 0.0]]
    """

    def __init__(self, columns: Sequence[ColumnSpec]) -> None:
        super().__init__()
        self.columns = tuple(columns)

    def forward(self, rows: Tensor) -> Tensor:  # [batch, columns] -> [batch, encoded]
        """Return indicators of the categories, places in calendar and day, and flags of what is missing."""
        parts: list[Tensor] = []
        for place, column in enumerate(self.columns):
            value = rows[:, place : place + 1]
            if column.kind == "category":
                codes = torch.arange(1, len(column.categories) + 1, device=rows.device).to(rows.dtype)
                parts.append((value == codes).to(rows.dtype))
                continue
            if column.kind == "date":
                value = torch.round(value)  # whole days: half a unit in the last place of 20000 would be two minutes
            if column.kind == "time":
                parts += _circle(value, DAY)
            else:
                parts.append(value)
            if column.kind == "date":
                parts += [*_circle(value, WEEK), *_circle(value, YEAR)]
            if column.flags_missing:
                parts.append((~torch.isfinite(value)).to(rows.dtype))
        return torch.cat(parts, dim=1)


def _circle(value: Tensor, period: float) -> tuple[Tensor, Tensor]:
    """The place in a period as a point on a circle, so that its end is beside its beginning."""
    # fmod is exact, which the sine of a large number is not.
    angle = torch.fmod(value, period) * (2 * math.pi / period)
    return torch.sin(angle), torch.cos(angle)
