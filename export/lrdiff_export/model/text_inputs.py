"""Columns of words: a module takes their codes in a matrix of numbers, its file takes the words themselves.

The module's one input is ``[batch, columns]``, float32; a column of words holds 0 for a missing or unseen word, and
1, 2 ... for the words known from training. The file has one input of numbers for the other columns, in their order, and
one of strings for each column of words, named as the column.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from lrdiff_core.errors import ConfigError, DataError
from lrdiff_core.text import count, quoted
from lrdiff_export.model.domain import Domain

__all__ = ["TextColumn", "TextInputs"]

UNSEEN = ("", "a word that training did not see", "?", "nan", "0", "\N{SNOWMAN}", "\N{PILE OF POO}")


@dataclass(frozen=True, kw_only=True)
class TextColumn:
    """A column of words.

    Attributes:
        name: of the column.
        place: in the module's matrix, from 0.
        words: that are known; the code of each is its place among them, from 1.

    Raises:
        ConfigError: a word stands twice, or is none.

    Example:
        >>> TextColumn(name="colour", place=2, words=("blue", "red")).codes(["red", "green", ""]).tolist()
        [2.0, 0.0, 0.0]
    """

    name: str
    place: int
    words: tuple[str, ...]

    def __post_init__(self) -> None:
        for word in self.words:
            if not isinstance(word, str) or not word or "\0" in word or not _encodes(word):
                raise ConfigError(
                    f"column {quoted(self.name)} has the category {word!r}, which no ONNX file can hold",
                    help="give words of Unicode characters; an empty one counts as missing",
                )
        if len(set(self.words)) < len(self.words):
            raise ConfigError(f"column {quoted(self.name)} names a category twice", help="give each category once")

    @cached_property
    def _code(self) -> dict[str, int]:
        return {word: code for code, word in enumerate(self.words, start=1)}

    def codes(self, words: Sequence[str] | np.ndarray) -> np.ndarray:
        """Return the codes of words, float32 ``[rows]``; 0 for what is not known."""
        return np.array([self._code.get(word, 0) for word in words], np.float32)

    def texts(self, codes: np.ndarray) -> np.ndarray:
        """Return words that have these codes, strings ``[rows, 1]``; several unknown ones for 0.

        Raises:
            DataError: there is no such code.
        """
        if not np.isin(codes, np.arange(len(self.words) + 1)).all():
            raise DataError(
                f"column {quoted(self.name)} holds a number that is no code of a category",
                help=f"give whole numbers from 0 to {len(self.words)}",
            )
        unseen = [word for word in UNSEEN if word not in self._code]
        found = [
            self.words[code - 1] if code else unseen[row % len(unseen)] for row, code in enumerate(map(int, codes))
        ]
        return np.array(found, object).reshape(-1, 1)


@dataclass(frozen=True, kw_only=True)
class TextInputs:
    """How a file takes the columns of a module's matrix.

    Attributes:
        names: of all columns, in the order of the matrix.
        columns: those of words, in that order.
        numbers: name of the file's input of the other columns.
        inputs: names of the file's inputs of words, one a column; as the columns, where no other port has that name.

    Raises:
        ConfigError: there is no column of words, or no such place.

    Example:
        >>> text = TextInputs.of(["age", "colour"], {"colour": ["blue", "red"]}, taken=["probability"])
        >>> numbers, colours = text.split(np.float32([[30, 2], [40, 0]]))
        >>> numbers.tolist(), colours.tolist()
        ([[30.0], [40.0]], [['red'], ['a word that training did not see']])
        >>> text.matrix([numbers, colours]).tolist()
        [[30.0, 2.0], [40.0, 0.0]]
    """

    names: tuple[str, ...]
    columns: tuple[TextColumn, ...]
    numbers: str
    inputs: tuple[str, ...]

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        words: Mapping[str, Sequence[str]],
        *,
        numbers: str = "features",
        taken: Sequence[str] = (),
    ) -> TextInputs:
        """Return how a file takes these columns.

        Args:
            names: of all columns, in the order of the module's matrix.
            words: known words of each column of words, in the order of their codes.
            numbers: name of the file's input of numbers.
            taken: names of the file's outputs.

        Raises:
            ConfigError: no column of words, one that is not there, or two of one name.
        """
        if not words or (unknown := sorted(set(words) - set(names))):
            what = quoted(unknown[0]) if words else "no column"
            raise ConfigError(f"{what} is a column of words", help=f"columns: {', '.join(names)}")
        if len(set(names)) < len(names):
            raise ConfigError("two columns have one name", help="give every column a name of its own")
        columns = tuple(
            TextColumn(name=name, place=place, words=tuple(words[name]))
            for place, name in enumerate(names)
            if name in words
        )
        used = {numbers, *taken}
        inputs = []
        for column in columns:
            name = "".join(letter if letter.isprintable() else "_" for letter in column.name) or "_"
            while name in used:
                name += "_"
            used.add(name)
            inputs.append(name)
        return cls(names=tuple(names), columns=columns, numbers=numbers, inputs=tuple(inputs))

    @cached_property
    def places(self) -> list[int]:
        """Of the columns of numbers."""
        words = {column.place for column in self.columns}
        return [place for place in range(len(self.names)) if place not in words]

    @property
    def ports(self) -> list[tuple[str, str, tuple[str, int]]]:
        """Name, dtype and shape of each input of the file, in its order."""
        numbers = [(self.numbers, "float32", ("batch", len(self.places)))] if self.places else []
        return [*numbers, *((name, "string", ("batch", 1)) for name in self.inputs)]

    def split(self, matrix: np.ndarray) -> list[np.ndarray]:
        """Return what a file is fed in place of a matrix ``[batch, columns]``, one array an input.

        Raises:
            DataError: the matrix has other columns, or codes that there are not.
        """
        if matrix.ndim != 2 or matrix.shape[1] != len(self.names):
            raise DataError(
                f"rows have shape {list(matrix.shape)}, the model has {count(len(self.names), 'column')}",
                help="give one row of columns a sample, in the order of training",
            )
        numbers = [np.ascontiguousarray(matrix[:, self.places])] if self.places else []
        return [*numbers, *(column.texts(matrix[:, column.place]) for column in self.columns)]

    def matrix(self, feeds: Sequence[np.ndarray]) -> np.ndarray:
        """Return the module's matrix, float32 ``[batch, columns]``, of what a file is fed."""
        words = feeds[len(feeds) - len(self.columns) :]
        found = np.empty((len(feeds[0]), len(self.names)), np.float32)
        if self.places:
            found[:, self.places] = feeds[0]
        for column, texts in zip(self.columns, words, strict=True):
            found[:, column.place] = column.codes(texts[:, 0])
        return found

    def coded(self, domain: Domain, name: str) -> Domain:
        """Return a domain in which every column of words holds codes alone.

        Args:
            domain: of the module.
            name: of its input.
        """
        said = domain.categories.get(name, {})
        codes = {column.place: len(column.words) + 1 for column in self.columns}
        both = {**said, **codes} if isinstance(said, Mapping) else codes
        return replace(domain, categories={**domain.categories, name: both})

    def told(self, domain: Domain) -> Domain:
        """Return the domain of the file: that of the module without the codes, which the file makes itself.

        Args:
            domain: of the module, whose input bears the name that the file's input of numbers has.
        """
        said = domain.categories.get(self.numbers, {})
        codes = dict(self._kept(said)) if isinstance(said, Mapping) else {}
        others = {name: one for name, one in domain.categories.items() if name != self.numbers}
        ranges = domain.ranges if self.places else {n: one for n, one in domain.ranges.items() if n != self.numbers}
        return replace(domain, categories={**others, **({self.numbers: codes} if codes else {})}, ranges=ranges)

    def _kept(self, codes: Mapping[int, int]) -> Iterator[tuple[int, int]]:
        for place, number in codes.items():
            if place % len(self.names) in self.places:
                yield self.places.index(place % len(self.names)), number


def _encodes(word: str) -> bool:
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True
