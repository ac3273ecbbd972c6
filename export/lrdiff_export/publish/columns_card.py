"""What to give for each column of a table: for the card of a model, and for whoever reads a file with our reader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lrdiff_core.text import count

__all__ = ["columns_of_card"]

SHOWN = 8  # categories that are named
# What a caller does, because ONNX has no calendar: the same as the reader of tables does.
GIVE = {
    "number": "the number{missing}",
    "boolean": "1 for true, 0 for false{missing}",
    "date": "days since 1970-01-01 UTC, a whole number{missing}; in Python: (day - datetime.date(1970, 1, 1)).days",
    "time": "seconds of the day, UTC{missing}; in Python: 3600 * t.hour + 60 * t.minute + t.second",
}


def columns_of_card(card: Mapping[str, Any], numbers: str) -> list[dict[str, str]]:
    """Return name, place and form of each column, in the order of the model; none where the card describes none.

    Args:
        card: what a file says of itself.
        numbers: name of its input of numbers.

    Example:
        >>> column = {"name": "sex", "kind": "category", "categories": ["f", "m"], "format": "plain"}
        >>> said = {"columns": [column], "text_inputs": {"columns": {"sex": "sex"}}}
        >>> columns_of_card(said, "features")[0]["give"]
        'the word, without spaces around it: f, m; anything else, and none, is an unseen word'
        >>> columns_of_card({"columns": [column]}, "features")[0]["give"]
        'its code: f 1, m 2; 0 for any other word, and for none'
    """
    inputs = {column: name for name, column in card.get("text_inputs", {}).get("columns", {}).items()}
    fills = "missing_values_become" in card.get("normalisation", {})
    found, place = [], 0
    for column in card.get("columns", []):
        name, kind = str(column["name"]), column["kind"]
        if name in inputs:
            where, give = f"`{inputs[name]}`", f"the word, without spaces around it: {_words(column)}; "
            give += "anything else, and none, is an unseen word"
        else:
            where = f"`{numbers}`, column {place}"
            place += 1
            if kind == "category":
                give = f"its code: {_words(column, codes=True)}; 0 for any other word, and for none"
            else:
                missing = ", NaN where it is missing" if fills else ""
                give = GIVE.get(kind, GIVE["number"]).format(missing=missing)
        found.append({"name": name, "where": where, "give": give})
    return found


def _words(column: Mapping[str, Any], *, codes: bool = False) -> str:
    words: Sequence[str] = column["categories"]
    shown = [f"{word} {code}" if codes else word for code, word in enumerate(words[:SHOWN], start=1)]
    more = len(words) - len(shown)
    return ", ".join(shown) + (f" and {count(more, 'other')}" if more else "")
