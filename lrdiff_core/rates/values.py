"""Checks of single values: rates, multipliers, decays and optimizer options."""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch

from lrdiff_core.errors import RateError
from lrdiff_core.text import nearest

__all__ = ["check_decay", "check_options", "check_rate", "known_options", "option_names"]

_OWN_KEYS = ("lr", "weight_decay", "params", "param_names")  # the plan sets these itself


def check_rate(value: object, what: str) -> float:
    """A learning rate or multiplier as a float: a finite number above 0.

    Raises:
        RateError: it names ``what``, the value and the legal interval.

    Example:
        >>> check_rate(1, "lr")
        1.0
        >>> check_rate(-1.0, 'rate of layer "head"')
        Traceback (most recent call last):
        ...
        lrdiff_core.errors.RateError: rate of layer "head" is -1.0
        help: write a number in (0, inf), such as 0.001; to stop learning, freeze instead
    """
    number = _number(value)
    if number is None:
        raise RateError(f"{what} is {_shown(value)}", help="write a plain number in (0, inf), such as 0.001")
    if not 0 < number < math.inf:  # also refuses NaN
        raise RateError(
            f"{what} is {number!r}", help="write a number in (0, inf), such as 0.001; to stop learning, freeze instead"
        )
    return number


def check_decay(value: object, what: str) -> float:
    """A weight decay as a float: a finite number, 0 or above."""
    number = _number(value)
    if number is None:
        raise RateError(f"{what} is {_shown(value)}", help="write a plain number in [0, inf), such as 0.01")
    if not 0 <= number < math.inf:
        raise RateError(f"{what} is {number!r}", help="write a number in [0, inf), such as 0.01")
    return number


def check_options(options: Mapping[str, Any], what: str) -> tuple[tuple[str, Any], ...]:
    """Optimizer options as sorted pairs of names and plain values.

    Without an optimizer class a name is known when one of torch's own optimizers takes it;
    ``plan.groups(optimizer=...)`` then checks names and values against the class itself.

    Raises:
        RateError: an unknown name (with the nearest known one), or a value that is not plain.

    Example:
        >>> check_options({"betas": [0.9, 0.99]}, "rule")
        (('betas', (0.9, 0.99)),)
    """
    if not isinstance(options, Mapping):
        raise RateError(f"options of {what} are {options!r}", help='write a mapping, such as {"betas": (0.9, 0.99)}')
    pairs = []
    for name in sorted(options, key=str):
        if name in _OWN_KEYS:
            way = f"write Rule(..., {name}=...)" if name in _OWN_KEYS[:2] else "the plan sets it"
            raise RateError(f'{what} sets "{name}" among its options', help=f"leave it out: {way}")
        if name not in known_options():
            raise RateError(
                f'{what} sets the optimizer option "{name}", which no torch optimizer has',
                help=nearest(str(name), sorted(known_options()), "options"),
            )
        pairs.append((name, _plain(options[name], f'option "{name}" of {what}')))
    return tuple(pairs)


@cache
def known_options() -> frozenset[str]:
    """Names of the options that torch's own optimizers take."""
    classes = (getattr(torch.optim, name) for name in dir(torch.optim))
    names: set[str] = set()
    for kind in classes:
        if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer:
            names |= option_names(kind) or set()
    return frozenset(names - set(_OWN_KEYS))


def option_names(kind: type[torch.optim.Optimizer]) -> set[str] | None:
    """Names of the arguments an optimizer class takes beside the parameters; None where it takes any (``**``)."""
    arguments = list(inspect.signature(kind).parameters.values())
    if any(argument.kind is inspect.Parameter.VAR_KEYWORD for argument in arguments):
        return None
    return {argument.name for argument in arguments[1:]}


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _shown(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return "a tensor (rates as tensors: plan.groups(tensor_lr=True))"
    return f"{value!r}, a {type(value).__name__}"


def _plain(value: object, what: str) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list) and all(isinstance(v, int | float) for v in value):
        return tuple(value)
    raise RateError(f"{what} is {_shown(value)}", help="write a number, a text, true, false, or a list of numbers")
