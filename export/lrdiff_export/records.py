"""Reports as JSON-ready documents."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["first_line", "json_ready"]

LONGEST_LINE = 200  # an error stays one line on an ordinary terminal, wrapped at most twice


def json_ready(record: DataclassInstance) -> dict[str, Any]:
    """Return a frozen record as dictionaries, lists and plain values; NaN and infinity, which JSON lacks, become None.

    Args:
        record: an instance of a dataclass.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Point:
        ...     x: float
        >>> json_ready(Point(float("inf")))
        {'x': None}
    """
    document = _plain(asdict(record))
    assert isinstance(document, dict)
    return document


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def first_line(problem: BaseException | str) -> str:
    r"""Return the first line that says something, without trailing dots, cut to a length that fits an error message.

    Example:
        >>> first_line(ValueError("no such layer\nsee the manual"))
        'no such layer'
    """
    for line in str(problem).splitlines():
        # What a terminal would obey is no part of a message: names in a hostile file may hold it.
        text = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in line.strip()).rstrip(".")
        if text:
            return text if len(text) <= LONGEST_LINE else text[: LONGEST_LINE - 1] + "…"
    return type(problem).__name__
