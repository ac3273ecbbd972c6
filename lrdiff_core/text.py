"""How columns, values and choices are worded in messages: always on one line."""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterable, Sequence
from difflib import SequenceMatcher, get_close_matches
from numbers import Integral

from lrdiff_core.errors import ConfigError

__all__ = [
    "closest",
    "check_choice",
    "check_seed",
    "count",
    "listed",
    "nearest",
    "nearest_first",
    "quoted",
    "unlike",
    "visible",
]

_LONGEST_VALUE = 40  # characters shown of one value
_LONGEST_LIST = 10  # names shown of one list


# C0 but tab and line feed, DEL, C1, and what turns the direction of writing.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    r"""``text`` with what a terminal would obey written out, line ends and tabs left as they are.

    Example:
        >>> print(visible("head\x1b[2J, \u202eabc"))
        head\x1b[2J, \u202eabc
    """
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def quoted(text: str) -> str:
    r"""``text`` in double quotes, line ends escaped, the end of a long one left off.

    Example:
        >>> print(quoted("a\nb"))
        "a\nb"
    """
    shown = text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 3] + "..."
    return json.dumps(shown, ensure_ascii=not shown.isprintable())


def listed(names: Sequence[str]) -> str:
    """Quoted names with commas, the first ten and how many more there are.

    Example:
        >>> print(listed(["a", "b"]))
        "a", "b"
    """
    shown = ", ".join(quoted(name) for name in names[:_LONGEST_LIST])
    more = len(names) - _LONGEST_LIST
    return shown if more <= 0 else f"{shown} and {more} more"


def count(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun.

    Example:
        >>> count(1, "row"), count(2, "row"), count(2, "class", "classes")
        ('1 row', '2 rows', '2 classes')
    """
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def closest(word: str, choices: Iterable[str], *, cutoff: float = 0.7) -> str | None:
    """Return the choice that a misspelt word most likely stands for; None where none is near.

    Example:
        >>> closest("adm", ["adam", "sgd"]), closest("tpu", ["cpu"])
        ('adam', None)
    """
    return next(iter(get_close_matches(word, list(choices), n=1, cutoff=cutoff)), None)


def nearest(word: str, choices: Iterable[str], noun: str, *, most: int = 12) -> str:
    """A line of help for a misspelt name: the choices, those spelled like it first.

    Args:
        word: what was written.
        choices: what could have been meant.
        noun: what the choices are, in the plural.
        most: how many are shown.

    Example:
        >>> nearest("layer3", ["head", "layer1"], "layers of this model")
        'did you mean layer1? layers of this model: layer1, head'
    """
    choices = list(choices)
    close = get_close_matches(word, choices, n=len(choices) or 1, cutoff=0.7)  # "tpu" is not meant to be "cpu"
    ordered = [*close, *(choice for choice in choices if choice not in close)]
    shown = ", ".join(ordered[:most]) + (f" and {len(ordered) - most} more" if len(ordered) > most else "")
    return f"did you mean {close[0]}? {noun}: {shown}" if close else f"{noun}: {shown}"


def nearest_first(word: str, names: Sequence[str]) -> list[str]:
    """``names`` with those spelled most like ``word`` first, equal ones in their own order.

    Example:
        >>> nearest_first("lable", ["x1", "x2", "label"])
        ['label', 'x1', 'x2']
    """
    return sorted(names, key=lambda name: -SequenceMatcher(None, word.casefold(), name.casefold()).ratio())


def check_choice(setting: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a setting that is not among ``choices``.

    Raises:
        ConfigError: naming the setting, its value and the choices.
    """
    if value not in choices:
        raise ConfigError(f"{setting} is {quoted(str(value))}", help=f"write one of: {', '.join(choices)}")


def check_seed(seed: object) -> None:
    """Refuse a seed that numpy's generators do not take.

    Raises:
        ConfigError: the seed is negative or not a whole number.
    """
    if isinstance(seed, bool) or not isinstance(seed, Integral) or seed < 0:
        raise ConfigError(f"seed is {seed!r}", help="write a whole number from 0 up")


def unlike(name: str, taken: Container[str]) -> str:
    """The name, or the name with a number appended where it is taken.

    Example:
        >>> unlike("head", ["body", "head"])
        'head_2'
    """
    number, tried = 1, name
    while tried in taken:
        number += 1
        tried = f"{name}_{number}"
    return tried
