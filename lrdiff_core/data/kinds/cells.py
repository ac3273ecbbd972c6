"""A column of text as it is looked at."""

from __future__ import annotations

import shlex
from functools import cached_property
from typing import TYPE_CHECKING

from lrdiff_core.data.columns import as_text, known_texts
from lrdiff_core.text import quoted

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Cells", "has_digit", "on_command_line", "one_odd_word"]

ODD_WORDS = 0.2  # of the rows that one unknown word may make up to be taken for "missing"


class Cells:
    """A column as it is looked at: texts without spaces around them, null where missing.

    Args:
        column: of any type that can be written as text.
        source: of the table, for messages.
        decimal_commas: whether ``1,234`` is rather 1.234 and ``1.234`` 1234, as other columns show.
    """

    def __init__(self, column: pl.Series, *, source: str, decimal_commas: bool) -> None:
        self.name, self.source, self.decimal_commas = column.name, source, decimal_commas
        self._all = as_text(column)
        self.texts = known_texts(self._all)

    @property
    def known(self) -> int:
        """How many there are."""
        return len(self.texts) - self.texts.null_count()

    @cached_property
    def distinct(self) -> list[str]:
        """Every text once."""
        found: list[str] = self.texts.drop_nulls().unique().to_list()
        return found

    def with_loose_words(self) -> None:
        """Take words such as "-" for texts."""
        self.texts = known_texts(self._all, loose=False)
        self.__dict__.pop("distinct", None)


def has_digit(text: str) -> bool:
    """Whether a text could be a number or a date."""
    return any(c.isdigit() for c in text)


def one_odd_word(cells: Cells) -> str | None:
    """The one word in a column of numbers or dates that is neither, in few rows, such as "unknown"."""
    odd = [text for text in cells.distinct if not has_digit(text)]
    if len(odd) != 1 or len(cells.distinct) < 2:
        return None
    return odd[0] if int((cells.texts == odd[0]).sum()) <= ODD_WORDS * cells.known else None


def on_command_line(text: str) -> str:
    """A name as it is written on a command line; on one line, whatever is in it."""
    return shlex.quote(text) if text.isprintable() else quoted(text)
