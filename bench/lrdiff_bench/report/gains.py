"""A gain in words and table cells, the same on every screen, page and picture; positive is better everywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lrdiff_bench.stats.gain import CLIP, LARGE

__all__ = [
    "LOOKS",
    "TERMINAL_COLORS",
    "beside",
    "better",
    "found",
    "gain",
    "interval",
    "number",
    "percent",
    "verdict_text",
]

TERMINAL_COLORS = {
    "HELPS": "green",
    "HELPS ON AVERAGE": "green",
    "HELPS BUT DIVERGES": "yellow",
    "NO DIFFERENCE": "cyan",
    "NO DIFFERENCE BUT DIVERGES": "yellow",
    "NO DIFFERENCE BUT STEADIER": "cyan",
    "HURTS ON AVERAGE": "red",
    "HURTS": "red",
    "INCONCLUSIVE": "yellow",
}
LOOKS = {  # classes of marks and words in pages
    "HELPS": "good",
    "HELPS ON AVERAGE": "good",
    "HELPS BUT DIVERGES": "open",
    "NO DIFFERENCE": "same",
    "NO DIFFERENCE BUT DIVERGES": "open",
    "NO DIFFERENCE BUT STEADIER": "same",
    "HURTS ON AVERAGE": "bad",
    "HURTS": "bad",
    "INCONCLUSIVE": "open",
}
_FOUND = {
    "HELPS": "{0} beat {1}",
    "HELPS ON AVERAGE": "{0} beat {1} on average, but not in most pairs",
    "HELPS BUT DIVERGES": "{0} beat {1}, but diverge more often",
    "NO DIFFERENCE": "{0} and {1} do equally well",
    "NO DIFFERENCE BUT DIVERGES": "{0} and {1} do equally well, but {0} diverge more often",
    "NO DIFFERENCE BUT STEADIER": "{0} and {1} do equally well, and {0} diverge less often",
    "HURTS ON AVERAGE": "{0} do worse than {1} on average, but not in most pairs",
    "HURTS": "{0} do worse than {1}",
    "INCONCLUSIVE": "the data do not decide between {0} and {1}",
}
Record = Mapping[str, Any]  # a lrdiff_bench.stats.gain.Gain, as JSON has it


def number(value: float | None, *, sign: bool = False) -> str:
    """Three digits, a word for what is not finite.

    Example:
        >>> number(0.12345), number(0.5, sign=True), number(None)
        ('0.123', '+0.5', 'inf')
    """
    return "inf" if value is None or math.isinf(value) else f"{value:{'+' if sign else ''}.3g}"


def interval(three: Sequence[float | None], *, sign: bool = False) -> str:
    """Estimate and interval."""
    a, low, high = (number(one, sign=sign) for one in three)
    return f"{a} [{low}, {high}]"


def gain(one: Record) -> str:
    """The estimate with its interval, to a tenth of the smallest difference; runs that diverged only bound it.

    Example:
        >>> gain({"estimate": 0.0312, "low": 0.02, "high": 0.0449, "smallest": 0.01})
        '+0.031 [+0.020, +0.045]'
    """
    bound = math.copysign(0.5 * CLIP * one["smallest"], one["estimate"])
    if abs(one["estimate"]) >= abs(bound):
        return f"{'more' if bound > 0 else 'less'} than {number(bound, sign=True)}"
    return _to_smallest(one, ("estimate", "low", "high"))


def _to_smallest(one: Record, names: Sequence[str]) -> str:
    decimals = max(0, 1 - math.floor(math.log10(one["smallest"])))
    a, low, high = (f"{one[name]:+.{decimals}f}" for name in names)
    return f"{a} [{low}, {high}]"


def better(one: Record) -> str:
    """Share of pairs that are better, in per cent."""
    a, low, high = (100 * one[f"improvement{end}"] for end in ("", "_low", "_high"))
    return f"{a:.0f} [{low:.0f}, {high:.0f}]"


def beside(one: Record) -> str:
    """What the interquartile mean does not see: the mean, the tails, and the runs that diverged."""
    parts = []
    if one["mean"] is not None:
        parts.append(f"mean {_to_smallest(one, ('mean', 'mean_low', 'mean_high'))}")
    large = number(LARGE * one["smallest"])
    parts.append(
        f"better by more than {large} in {percent(one['much_better'])} of the pairs, worse by that in "
        f"{percent(one['much_worse'])}"
    )
    if one["diverged"] or one["single_diverged"]:
        parts.append(f"diverged {percent(one['diverged'])}, single {percent(one['single_diverged'])}")
    return "; ".join(parts)


def verdict_text(one: Record) -> str:
    """The verdict with what it rests on, and with its reason where it has one.

    Example:
        >>> record = {"verdict": "HELPS", "estimate": 0.03, "low": 0.02, "high": 0.045, "smallest": 0.01, "reason": ""}
        >>> verdict_text(record)
        'HELPS, +0.030 [+0.020, +0.045]'
    """
    reason = f"; {one['reason']}" if one["reason"] else ""
    return f"{one['verdict']}, {gain(one)}{reason}"


def found(one: Record, different: str, single: str) -> str:
    """What was found, as a sentence that follows from the verdict.

    Args:
        one: the gain.
        different: what is compared, in the plural, such as "rates tuned by layer".
        single: what it is compared with.

    Example:
        >>> record = {"verdict": "NO DIFFERENCE", "estimate": 0.001, "low": -0.002, "high": 0.004, "smallest": 0.01}
        >>> print(found(record, "different rates", "one tuned rate"))
        NO DIFFERENCE: different rates and one tuned rate do equally well (gain +0.001 [-0.002, +0.004]).
    """
    return f"{one['verdict']}: {_FOUND[one['verdict']].format(different, single)} (gain {gain(one)})."


def percent(share: float) -> str:
    """A share in per cent; what is not 0 is not written as 0."""
    return "0 %" if share == 0 else f"{max(1, math.floor(100 * share + 0.5))} %"
