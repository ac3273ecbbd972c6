"""Regular expressions that give up instead of hanging.

Python's ``re`` backtracks without a bound: ``(a|a)*$`` on a name of sixty letters does not end. The ``regex`` package
takes the same expressions, look-around and back-references included (a linear-time engine has neither), and a limit.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from lrdiff_core.errors import RateError

__all__ = ["matches_whole"]

_SECONDS = 0.25  # processor time for one expression over all names of a model; a usual match takes microseconds
_SLOW = 1e-3  # matches faster than this are not counted, so a process may plan as often as it likes
_FLAGS = {
    re.ASCII: "ASCII", re.IGNORECASE: "IGNORECASE", re.MULTILINE: "MULTILINE", re.DOTALL: "DOTALL",
    re.VERBOSE: "VERBOSE",
}  # fmt: skip


def matches_whole(pattern: re.Pattern[str], name: str) -> bool:
    r"""Whether an expression matches a whole name.

    Raises:
        RateError: it takes too long to tell.

    Example:
        >>> matches_whole(re.compile("(head|neck)\\.(?!bias).*"), "head.weight")
        True
        >>> matches_whole(re.compile("(a|a)*$"), "a" * 60 + "b")
        Traceback (most recent call last):
        ...
        lrdiff_core.errors.RateError: the regular expression /(a|a)*$/ takes too long to match
        help: repeat nothing that can match the same text in two ways, such as (a|a)* or (a+)+; or write a glob
    """
    bounded = _bounded(pattern.pattern, pattern.flags)
    begin = time.thread_time()
    try:
        found = bounded.compiled.fullmatch(name, timeout=_SECONDS) is not None
    except TimeoutError:
        found, bounded.spent = False, _SECONDS
    took = time.thread_time() - begin
    if took > _SLOW:
        bounded.spent += took
    if bounded.spent >= _SECONDS:
        bounded.spent = 0.0
        raise RateError(
            f"the regular expression /{pattern.pattern}/ takes too long to match",
            help="repeat nothing that can match the same text in two ways, such as (a|a)* or (a+)+; or write a glob",
        )
    return found


@dataclass
class _Bounded:
    compiled: Any
    spent: float = 0.0  # seconds in slow matches


@lru_cache(maxsize=256)
def _bounded(pattern: str, flags: int) -> _Bounded:
    import regex  # here: it takes 35 ms, and few rules are expressions

    own = 0
    for flag, word in _FLAGS.items():
        own |= getattr(regex, word) if flags & flag else 0
    try:
        return _Bounded(regex.compile(pattern, own))
    except regex.error as problem:
        raise RateError(
            f'"{pattern}" is not a valid regular expression: {problem}', help="correct the pattern, or write a glob"
        ) from problem
