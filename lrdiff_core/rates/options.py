"""Optimizer options: plain values in rules, checked against the class that will get them."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from types import CodeType
from typing import Any

import torch
from torch import nn

from lrdiff_core.errors import RateError
from lrdiff_core.rates.names import ParamInfo, some
from lrdiff_core.rates.values import shown
from lrdiff_core.text import closest, nearest

__all__ = ["OptimizerCheck", "check_options", "near_torch_option"]

_RULE_KEYS = ("lr", "weight_decay")
_GROUP_KEYS = ("params", "param_names", "name")  # what a group holds beside settings


def check_options(options: Mapping[str, Any], what: str) -> tuple[tuple[str, Any], ...]:
    """Optimizer options as sorted pairs of names and plain values; any name that the plan does not set itself.

    Raises:
        RateError: a name that the plan sets, or a value that is not plain.

    Example:
        >>> check_options({"betas": [0.9, 0.99]}, "rule")
        (('betas', (0.9, 0.99)),)
    """
    if not isinstance(options, Mapping):
        raise RateError(f"options of {what} are {options!r}", help='write a mapping, such as {"betas": (0.9, 0.99)}')
    pairs = []
    for name in sorted(options, key=str):
        if not isinstance(name, str):
            raise RateError(f"{what} has the option {name!r}", help="write the option's name as a text")
        if name in _RULE_KEYS or name in _GROUP_KEYS:
            way = f"write Rule(..., {name}=...)" if name in _RULE_KEYS else "the plan sets it"
            raise RateError(f'{what} sets "{name}" among its options', help=f"leave it out: {way}")
        pairs.append((name, _plain(options[name], f'option "{name}" of {what}')))
    return tuple(pairs)


def near_torch_option(name: str) -> str | None:
    """The option of torch's own optimizers that an unknown name may be a slip of.

    Example:
        >>> near_torch_option("beta"), near_torch_option("betas"), near_torch_option("use_muon")
        ('betas', None, None)
    """
    known = sorted(_torch_options())
    return closest(name, known) if name not in known and len(name) > 2 else None


@dataclass(frozen=True)
class OptimizerCheck:
    """An optimizer class and the arguments that it will be built with, to hold groups against.

    Args:
        optimizer: a class, or a ``functools.partial`` of one.
        arguments: as the user will give them beside the groups.
    """

    optimizer: type[torch.optim.Optimizer]
    arguments: Mapping[str, Any]

    @classmethod
    def of(cls, optimizer: object, arguments: Mapping[str, Any]) -> OptimizerCheck:
        """Refuse anything but a class."""
        if isinstance(optimizer, partial):
            return cls.of(optimizer.func, {**optimizer.keywords, **arguments})
        if not isinstance(optimizer, type):
            raise RateError(f"the optimizer is {optimizer!r}", help="pass the class, such as torch.optim.AdamW")
        return cls(optimizer, arguments)

    def check(self, group: dict[str, Any], infos: Sequence[ParamInfo]) -> None:
        """Check a group's names and values by building the optimizer on stand-ins; drop a zero decay it has not.

        A name is known when the class takes it as an argument, stands among its defaults, or is spelled out in its
        code (options that exist in groups alone, as GaLore's ``rank``).

        Raises:
            RateError: an unknown name, a value or an argument that the class refuses, or an argument that is missing.
        """
        kind, names = self.optimizer, some(group["param_names"], 3)
        takes = list(inspect.signature(kind).parameters.values())[1:]
        explicit = {one.name for one in takes if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)}
        takes_any = any(one.kind is one.VAR_KEYWORD for one in takes)
        known = explicit | _names_in_code(kind)  # type: ignore[arg-type]
        if "weight_decay" not in known and not takes_any and group["weight_decay"] == 0:
            del group["weight_decay"]
        settings = {key: value for key, value in group.items() if key not in _GROUP_KEYS}
        unknown = [key for key in settings if key not in known]
        if unknown and not takes_any:
            raise self._unknown(unknown[0], names, explicit)
        missing = [
            one.name
            for one in takes
            if one.name in explicit and one.default is one.empty and one.name not in {**self.arguments, **settings}
        ]
        if missing:
            raise RateError(
                f'{kind.__name__} needs "{missing[0]}"',
                help=f"pass its other arguments, too: plan.groups({kind.__name__}, {missing[0]}=...)",
            )
        by_group = {key: value for key, value in settings.items() if key not in explicit and key not in unknown}
        by_argument = {key: value for key, value in settings.items() if key not in by_group}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # whatever it has to say, it says to the user who builds it
                built = kind([{"params": _stand_ins(infos), **by_group}], **{**self.arguments, **by_argument})
        except (TypeError, ValueError, RuntimeError, AssertionError, LookupError, AttributeError) as problem:
            raise RateError(
                f"{kind.__name__} refuses the settings of {names}: {problem}",
                help=f"change the rule that sets them, or give its arguments too: plan.groups({kind.__name__}, ...)",
            ) from problem
        swallowed = [key for key in unknown if key not in _defaults(built)]
        if "weight_decay" in swallowed and group["weight_decay"] == 0:
            swallowed.remove("weight_decay")
            del group["weight_decay"]
        if swallowed:
            raise self._unknown(swallowed[0], names, explicit | set(_defaults(built)))

    def _unknown(self, option: str, names: str, known: set[str]) -> RateError:
        return RateError(
            f'{self.optimizer.__name__} has no option "{option}", set for {names}',
            help=nearest(option, sorted(known), "its options"),
        )


def _defaults(optimizer: object) -> dict[str, Any]:
    """The defaults of an optimizer, and of those that it wraps."""
    found = dict(getattr(optimizer, "defaults", {}))
    for value in vars(optimizer).values():
        if isinstance(value, torch.optim.Optimizer) and value is not optimizer:
            found |= _defaults(value)
    return found


def _stand_ins(infos: Sequence[ParamInfo]) -> list[nn.Parameter]:
    """Tiny parameters of the numbers of dimensions and dtypes of a group's own."""
    kinds = {(tuple(min(size, 2) for size in info.shape), info.parameter.dtype) for info in infos}
    wanted = sorted(kinds, key=str)
    return [nn.Parameter(torch.zeros(shape, dtype=dtype), dtype.is_floating_point) for shape, dtype in wanted]


@cache
def _names_in_code(kind: type) -> frozenset[str]:
    """Texts that a class's own code spells out, its bases' included, short of torch's base class."""
    found: set[str] = set()
    for base in kind.__mro__:
        if base in (torch.optim.Optimizer, object):
            continue
        for member in vars(base).values():
            function = inspect.unwrap(getattr(member, "__func__", getattr(member, "fget", member)) or member)
            if code := getattr(function, "__code__", None):
                found.update(_texts(code))
    return frozenset(found)


def _texts(code: CodeType) -> Iterator[str]:
    for constant in code.co_consts:
        if isinstance(constant, str) and constant.isidentifier():
            yield constant
        elif isinstance(constant, tuple):
            yield from (one for one in constant if isinstance(one, str))
        elif isinstance(constant, CodeType):
            yield from _texts(constant)


@cache
def _torch_options() -> frozenset[str]:
    """Names of the options that torch's own optimizers take."""
    names: set[str] = set()
    for kind in vars(torch.optim).values():
        if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer):
            names |= set(inspect.signature(kind).parameters)
    return frozenset(names - {*_RULE_KEYS, *_GROUP_KEYS, "defaults"})


def _plain(value: object, what: str) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list) and all(isinstance(v, int | float) for v in value):
        return tuple(value)
    raise RateError(f"{what} is {shown(value)}", help="write a number, a text, true, false, or a list of numbers")
