"""One rule: which parameters, and what is set for them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

from torch import nn

from lrdiff_core.errors import RateError
from lrdiff_core.rates.names import Occurrence, ParamInfo
from lrdiff_core.rates.options import check_options
from lrdiff_core.rates.patterns import matches_whole
from lrdiff_core.rates.values import check_decay, check_rate
from lrdiff_core.schedules import Shape, as_shape

__all__ = ["Match", "Rule", "describe", "is_one_dimensional", "matches", "matches_any"]

Predicate: TypeAlias = Callable[[str, nn.Parameter, nn.Module], bool]
Match: TypeAlias = "str | re.Pattern[str] | type[nn.Module] | Predicate | Sequence[Match]"

_KINDS = ("auto", "name", "glob", "regex")


@dataclass(frozen=True)
class Rule:
    r"""What a set of parameters gets instead of the plan's defaults; of each setting, the first rule that has it wins.

    Args:
        match: which parameters, by canonical name or module:

            - a text without ``*?[``: the parameter of this name, or everything below the module of this name;
            - a text with them: a glob over the whole name, where ``*`` also crosses dots;
            - ``re.compile(...)``: must match the whole name;
            - a module class: everything in or below a module of the class;
            - ``predicate(name, parameter, module)``, the module being the one that holds the parameter;
            - a list of these: any of them.
        kind: ``"name"``, ``"glob"`` or ``"regex"`` to read a text so, whatever it looks like.
        lr: the rate itself; neither multiplier nor scales apply to it.
        lr_mult: multiplies the base rate; scales apply as well.
        weight_decay: instead of the plan's, also where ``no_weight_decay`` matches.
        freeze: True: no gradients until unfrozen. False: trained even if found with ``requires_grad=False``.
        schedule: a shape of its own for these rates.
        options: optimizer options for these parameters, such as ``{"betas": (0.9, 0.99)}``; each is a setting of its
            own. They are checked against the class that is given to ``plan.groups(TheOptimizer)``.

    Raises:
        RateError: a value outside its interval, both ``lr`` and ``lr_mult``, nothing set, or a match that is no match.

    Example:
        >>> Rule("head.*", lr=1e-3).label
        'head.*'
        >>> Rule(re.compile(r".*\.bias"), weight_decay=0.0).label
        '/.*\\.bias/'
        >>> Rule(nn.LayerNorm, lr_mult=0.5).label
        'LayerNorm'
    """

    match: Match
    kind: str = field(default="auto", kw_only=True)
    lr: float | None = field(default=None, kw_only=True)
    lr_mult: float | None = field(default=None, kw_only=True)
    weight_decay: float | None = field(default=None, kw_only=True)
    freeze: bool | None = field(default=None, kw_only=True)
    schedule: Shape | str | None = field(default=None, kw_only=True)
    options: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "match", _checked(self.match, self.kind))
        what = f'rule "{self.label}"'
        if self.lr is not None:
            object.__setattr__(self, "lr", check_rate(self.lr, f"lr of {what}"))
        if self.lr_mult is not None:
            object.__setattr__(self, "lr_mult", check_rate(self.lr_mult, f"lr_mult of {what}"))
        if self.lr is not None and self.lr_mult is not None:
            raise RateError(
                f"{what} sets both lr and lr_mult", help="an explicit lr stops all multipliers: keep one of the two"
            )
        if self.weight_decay is not None:
            object.__setattr__(self, "weight_decay", check_decay(self.weight_decay, f"weight_decay of {what}"))
        if self.freeze is not None and not isinstance(self.freeze, bool):
            raise RateError(f"freeze of {what} is {self.freeze!r}", help="write True or False")
        if self.schedule is not None:
            object.__setattr__(self, "schedule", as_shape(self.schedule))
        object.__setattr__(self, "options", dict(check_options(self.options, what)))
        if not self.settings:
            raise RateError(f"{what} sets nothing", help="give lr, lr_mult, weight_decay, freeze, schedule or options")

    @property
    def label(self) -> str:
        """How plans and messages call this rule."""
        return describe(self.match)

    @property
    def settings(self) -> dict[str, Any]:
        """What the rule sets, by name: ``lr``, ``lr_mult``, ``weight_decay``, ``freeze``, ``schedule``, ``option ...``.

        Example:
            >>> Rule("head", lr_mult=2, options={"eps": 1e-6}).settings
            {'lr_mult': 2.0, 'option eps': 1e-06}
        """
        names = ("lr", "lr_mult", "weight_decay", "freeze", "schedule")
        plain = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return plain | {f"option {name}": value for name, value in self.options.items()}

    @classmethod
    def parse(cls, text: str) -> Rule:
        """A rule from one line, as the command line takes it: a match, then ``name=value`` pairs or ``freeze``.

        Example:
            >>> Rule.parse("head.* lr=0.01 weight_decay=0")
            Rule('head.*', lr=0.01, weight_decay=0.0)
            >>> Rule.parse("/.*norm.*/ freeze")
            Rule('/.*norm.*/', freeze=True)
        """
        usage = 'write it as "head.* lr=0.01", "embed lr_mult=0.1 weight_decay=0" or "/regex/ freeze"'
        pattern, *words = text.split() or [""]
        if not pattern or not words:
            raise RateError(f'rule "{text}" has no {"setting" if pattern else "match"}', help=usage)
        values: dict[str, Any] = {}
        for word in words:
            name, equals, value = word.partition("=")
            if name in values:
                raise RateError(f'rule "{text}" sets {name} twice', help="write each setting once")
            if word == "freeze":
                values["freeze"] = True
            elif name in ("lr", "lr_mult", "weight_decay") and equals:
                values[name] = _parsed(value, f'{name} of rule "{pattern}"')
            elif name == "schedule" and value:
                values[name] = value
            else:
                raise RateError(f'rule "{text}" has the unknown part "{word}"', help=usage)
        is_regex = len(pattern) > 2 and pattern[0] == pattern[-1] == "/"
        return cls(pattern[1:-1], kind="regex", **values) if is_regex else cls(pattern, **values)

    def __repr__(self) -> str:
        parts = [f"{name}={value!r}" for name, value in self.settings.items() if not name.startswith("option ")]
        parts += [f"options={dict(self.options)!r}"] if self.options else []
        return f"Rule({self.label!r}, {', '.join(parts)})"


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


def _checked(match: Any, kind: str) -> Match:
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
        return tuple(_checked(one, kind) for one in match)
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


def _parsed(value: str, what: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise RateError(f'{what} is "{value}"', help="write a number, such as 0.001") from None
