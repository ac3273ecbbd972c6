"""What two records differ in beside the code: a ratio of times says nothing about code where torch differs, too."""

from __future__ import annotations

from collections.abc import Iterable

from lrdiff_bench.measure.engine.record import Record
from lrdiff_core.errors import InputError

__all__ = ["differences", "same_conditions"]

CODE = {"torch": "torch", "python": "Python", "numpy": "NumPy"}


def differences(a: Record, b: Record) -> list[str]:
    """What differs between the conditions of two records, in words; commits are what one compares, and not among it.

    Args:
        a, b: of one case.
    """
    found = [f"{name} {getattr(a.code, key)} and {getattr(b.code, key)}"
             for key, name in CODE.items() if getattr(a.code, key) != getattr(b.code, key)]  # fmt: skip
    if a.conditions.threads != b.conditions.threads:
        found.append(f"{a.conditions.threads} and {b.conditions.threads} threads")
    before, after = a.conditions.environment, b.conditions.environment
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            found.append(f"{key}={before.get(key, '(unset)')} and {after.get(key, '(unset)')}")
    for key in sorted(a.facts.keys() | b.facts.keys()):
        if a.facts.get(key) != b.facts.get(key):
            found.append(f"{key} {a.facts.get(key)} and {b.facts.get(key)}")
    return found


def same_conditions(pairs: Iterable[tuple[Record, Record]]) -> None:
    """Refuse pairs of records that were measured under different conditions.

    Raises:
        InputError: they were; it names what differs, and its help says how to compare all the same.
    """
    cases: dict[str, list[str]] = {}
    for a, b in pairs:
        for one in differences(a, b):
            cases.setdefault(one, []).append(b.case)
    if cases:
        told = "; ".join(f"{text} ({where[0]}{f' and {len(where) - 1} more' if len(where) > 1 else ''})"
                         for text, where in cases.items())  # fmt: skip
        raise InputError(
            f"more than the code differs: {told}",
            help="measure both alike; to compare them anyway, add --anyway",
        )
