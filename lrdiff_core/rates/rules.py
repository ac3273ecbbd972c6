"""One rule: which parameters, and what is set for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lrdiff_core.errors import RateError
from lrdiff_core.rates.matching import Match, as_match, describe
from lrdiff_core.rates.options import check_options
from lrdiff_core.rates.values import check_decay, check_rate
from lrdiff_core.schedules import Shape, as_shape

__all__ = ["Rule"]


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
        >>> import re
        >>> from torch import nn
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
        object.__setattr__(self, "match", as_match(self.match, self.kind))
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


def _parsed(value: str, what: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise RateError(f'{what} is "{value}"', help="write a number, such as 0.001") from None
