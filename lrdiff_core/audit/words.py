"""How findings word names and numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lrdiff_core.rates.names import some

__all__ = ["few", "numbers", "verb"]


def few(names: Sequence[str]) -> str:
    """The first three names, and how many more there are.

    Example:
        >>> few(["a", "b", "c", "d"])
        'a, b, c and 1 more'
    """
    return some(list(names), 3)


def numbers(values: Iterable[float]) -> str:
    """Different numbers in order, three digits each.

    Example:
        >>> numbers([0.1, 0.1, 0.0123456])
        '0.1, 0.0123'
    """
    return some(list(dict.fromkeys(f"{value:.3g}" for value in values)), 4) or "no rate"


def verb(names: Sequence[str], plural: str) -> str:
    """A verb that agrees with how many names there are.

    Example:
        >>> verb(["a"], "learn"), verb(["a", "b"], "are")
        ('learns', 'are')
    """
    if len(names) != 1:
        return plural
    return {"are": "is", "have": "has"}.get(plural, f"{plural}s")
