"""Checks of single values: rates, multipliers and decays; how a wrong value is worded."""

from __future__ import annotations

import math
import numbers

import torch

from lrdiff_core.errors import RateError

__all__ = ["check_decay", "check_rate", "shown"]


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
        raise RateError(f"{what} is {shown(value)}", help="write a plain number in (0, inf), such as 0.001")
    if not 0 < number < math.inf:  # also refuses NaN
        raise RateError(
            f"{what} is {number!r}", help="write a number in (0, inf), such as 0.001; to stop learning, freeze instead"
        )
    return number


def check_decay(value: object, what: str) -> float:
    """A weight decay as a float: a finite number, 0 or above."""
    number = _number(value)
    if number is None:
        raise RateError(f"{what} is {shown(value)}", help="write a plain number in [0, inf), such as 0.01")
    if not 0 <= number < math.inf:
        raise RateError(f"{what} is {number!r}", help="write a number in [0, inf), such as 0.01")
    return number


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def shown(value: object) -> str:
    """A wrong value and its class, for a message."""
    if isinstance(value, torch.Tensor):
        return "a tensor (rates as tensors: plan.groups(tensor_lr=True))"
    return f"{value!r}, a {type(value).__name__}"
