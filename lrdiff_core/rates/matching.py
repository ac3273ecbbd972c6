"""Which parameters a match takes; and where it takes none, what to write instead."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

from torch import nn

from lrdiff_core.errors import RateError
from lrdiff_core.rates.names import Occurrence, ParamInfo, some
from lrdiff_core.rates.patterns import matches_whole
from lrdiff_core.text import closest, nearest

__all__ = [
    "Match",
    "as_match",
    "describe",
    "help_for_dead",
    "help_for_name",
    "is_one_dimensional",
    "matches",
    "matches_any",
    "matching",
]

Predicate: TypeAlias = Callable[[str, nn.Parameter, nn.Module], bool]
Match: TypeAlias = "str | re.Pattern[str] | type[nn.Module] | Predicate | Sequence[Match]"

_KINDS = ("auto", "name", "glob", "regex")
_START = "parameters of this model start with"


def as_match(match: Any, kind: str = "auto") -> Match:
    """Check what a user gave as a match, and compile it where it is a regular expression.

    Raises:
        RateError: it is no match, or an expression that is not valid.
    """
    if kind not in _KINDS:
        raise RateError(f'a rule\'s kind is "{kind}"', help=f"write one of: {', '.join(_KINDS)}")
    if isinstance(match, str) and match:
        if kind == "regex":
            return _compiled(match)
        if kind == "name":
            return re.compile(rf"{re.escape(match)}(\..+)?") if any(sign in match for sign in "*?[") else match
        if kind == "glob" and not any(sign in match for sign in "*?["):
            return re.compile(re.escape(match))  # a glob without wildcards means this one name, nothing below it
        return match
    if isinstance(match, list | tuple) and match:
        return tuple(as_match(one, kind) for one in match)
    if isinstance(match, re.Pattern) and isinstance(match.pattern, str):
        return match
    if (isinstance(match, type) and issubclass(match, nn.Module)) or (
        callable(match) and not isinstance(match, type | nn.Module)
    ):
        return match
    raise RateError(
        f"a rule's match is {match!r}",
        help="write a name, a glob, re.compile(...), a module class, a function, or a list of these",
    )


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as problem:
        raise RateError(
            f'"{pattern}" is not a valid regular expression: {problem}', help="correct the pattern, or write a glob"
        ) from problem


def matches(match: Match, info: ParamInfo, place: Occurrence) -> bool:
    """Whether a checked match takes the parameter at one of its places."""
    if isinstance(match, str):
        if any(sign in match for sign in "*?["):
            return fnmatchcase(place.name, match)
        return place.name == match or place.name.startswith(match + ".")
    if isinstance(match, re.Pattern):
        return matches_whole(match, place.name)
    if isinstance(match, type):
        return any(isinstance(step.module, match) for step in place.path)
    if isinstance(match, Sequence):
        return any(matches(one, info, place) for one in match)
    return bool(match(place.name, info.as_seen, place.owner))


def matches_any(match: Match, info: ParamInfo, places: Sequence[Occurrence] | None = None) -> bool:
    """Whether a match takes the parameter at any of its places (those given, or all): a tied weight has several."""
    return any(matches(match, info, place) for place in (info.occurrences if places is None else places))


def matching(
    match: Match, infos: Sequence[ParamInfo], what: str, *, fault: Callable[[str, str], None] | None = None
) -> list[ParamInfo]:
    """The parameters that a match takes at any of their places, in the order of the model.

    Args:
        match: checked, as a rule holds it.
        infos: the parameters.
        what: the match is, for the message; empty for a pattern that stands by itself.
        fault: gets message and help where nothing is taken; by default that is an error.

    Raises:
        RateError: it takes none, and there is no ``fault``.
    """
    taken = [info for info in infos if matches_any(match, info)]
    if not taken:
        message = f'{what} "{describe(match)}" matches no parameter'.lstrip()
        if fault is None:
            raise RateError(message, help=help_for_dead(match, infos))
        fault(message, help_for_dead(match, infos))
    return taken


def describe(match: Match) -> str:
    """A match as a text: ``head.*``, ``/regex/``, a class or function name, or several with ``|`` between."""
    if isinstance(match, str):
        return match
    if isinstance(match, re.Pattern):
        return f"/{match.pattern}/"
    if isinstance(match, Sequence):
        return "|".join(describe(one) for one in match)
    return getattr(match, "__name__", type(match).__name__)


def is_one_dimensional(name: str, parameter: nn.Parameter, module: nn.Module) -> bool:
    """Biases and norm weights: what ``no_weight_decay=["1d"]`` means."""
    return parameter.ndim <= 1 or name.rpartition(".")[2] == "bias"


is_one_dimensional.__name__ = "1d"


def help_for_dead(match: Match, infos: Sequence[ParamInfo]) -> str:
    """What to write instead of a match that takes nothing."""
    tops = list(dict.fromkeys(info.name.partition(".")[0] for info in infos))
    if isinstance(match, re.Pattern):
        return f"a regular expression must match the whole name; {_START}: {some(tops, 12)}"
    if isinstance(match, str):
        return help_for_name(match, infos)
    return f"{_START}: {some(tops, 12)}"


def help_for_name(text: str, infos: Sequence[ParamInfo]) -> str:
    """A line of help for a name or glob that matches nothing: the nearest that does, then where names start.

    The text is followed down the module tree, component by component, to the first that is not there.

    Example:
        >>> from lrdiff_core.rates import list_parameters
        >>> deep = nn.ModuleDict({"encoder": nn.ModuleDict({"attention": nn.Linear(1, 1)}), "head": nn.Linear(1, 1)})
        >>> help_for_name("encoder.atention.*", list_parameters(deep))
        'did you mean encoder.attention.*? parameters of this model start with: encoder, head'
        >>> help_for_name("attention", list_parameters(deep))
        'did you mean encoder.attention? parameters of this model start with: encoder, head'
    """
    names = [place.name for info in infos for place in info.occurrences]
    tops = list(dict.fromkeys(name.partition(".")[0] for name in names))
    wanted = _with_its_front(text, names) or _mended(text, names)
    if wanted is None or wanted in tops:
        return nearest(text.partition(".")[0], tops, _START)
    return f"did you mean {wanted}? {_START}: {some(tops, 12)}"


def _with_its_front(text: str, names: Sequence[str]) -> str | None:
    """``encoder.layer.3`` for ``layer.3``: a name given without what it stands in."""
    for name in names:
        before, found, _ = f".{name}.".partition(f".{text}.")
        if found and before:
            return f"{before[1:]}.{text}"
    return None


def _mended(text: str, names: Sequence[str]) -> str | None:
    """The text with its first wrong component replaced by the nearest one of the same place."""
    here = [name.split(".") for name in names]
    parts = text.split(".")
    for depth, part in enumerate(parts):
        below = [one for one in here if len(one) > depth and fnmatchcase(one[depth], part)]
        if below:
            here = below
            continue
        choices = {one[depth] for one in here if len(one) > depth}
        if any("*" in before for before in parts[:depth]):  # it crosses dots, so the rest may stand anywhere below
            choices = {component for one in here for component in one[depth:]}
            if part in choices:
                continue
        close = closest(part, sorted(choices), cutoff=0.6)
        return ".".join([*parts[:depth], close, *parts[depth + 1 :]]) if close else None
    return None
