"""For which inputs a file is proven to answer as its module does: it stands in the file and is checked before a run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lrdiff_core.errors import DataError, ModelFileError
from lrdiff_core.text import count
from lrdiff_export.model.ports import Port
from lrdiff_export.records import first_line

__all__ = ["Domain", "read_domain"]


@dataclass(frozen=True, kw_only=True)
class Domain:
    """What inputs must be like.

    Attributes:
        least_batch: rows that a batch must have at least; 0 where a batch of none is answered as the module does.
        most_batch: rows that it may have at most; None for any number.
        finite: whether NaN and infinities are outside: there the file answers otherwise than the module.
        ranges: smallest and largest number of inputs that are proven between them alone, by the input's name.
        sizes: of free dimensions besides the batch: input, axis, and the smallest and largest size that are proven;
            None for any larger one.
        categories: of inputs that hold codes of categories: their number, or that by column, by the input's name.
        tolerances: of outputs of whole numbers that may differ by 1, by the output's name.
        outside: what else is outside, in words.

    Example:
        >>> Domain(most_batch=1024).check({"x": np.zeros((2000, 3), np.float32)})
        Traceback (most recent call last):
        ...
        lrdiff_core.errors.DataError: a batch has 2000 rows, the model takes at most 1024
        help: run it in pieces
    """

    least_batch: int = 1
    most_batch: int | None = None
    finite: bool = False
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    sizes: tuple[tuple[str, int, int, int | None], ...] = ()
    categories: Mapping[str, int | Mapping[int, int]] = field(default_factory=dict)
    tolerances: Mapping[str, int] = field(default_factory=dict)
    outside: tuple[str, ...] = ()

    @classmethod
    def of(cls, ports: Iterable[Port]) -> Domain:
        """Return the domain that is declared.

        Example:
            >>> Domain.of([Port(name="x", range=(0, 1)), Port(name="code", categories=3)]).sentences
            ('x below 0 or above 1', 'code other than the codes 0 to 2')
        """
        declared = tuple(ports)
        return cls(
            ranges={one.name: one.range for one in declared if one.range is not None},
            categories={one.name: one.categories for one in declared if one.categories is not None},
            sizes=tuple((one.name, axis, *pair) for one in declared for axis, pair in one.lengths.items()),
            tolerances={one.name: one.integer_tolerance for one in declared if one.integer_tolerance},
        )

    @property
    def declared(self) -> Domain:
        """Of what a file says, that which its author may have said: numbers, codes, sizes, tolerances."""
        return Domain(ranges=self.ranges, categories=self.categories, sizes=self.sizes, tolerances=self.tolerances)

    def fitted(self, names: Sequence[str], rows: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        """Return rows with every number moved inside: cut to its range, made a code. NaN stays where numbers may be it.

        Args:
            names: of the inputs.
            rows: one array an input, ``[batch, ...]``.

        Example:
            >>> domain = Domain(ranges={"x": (0, 9)}, categories={"x": {1: 3}})
            >>> domain.fitted(["x"], [np.float32([[-1.5, 7.2], [20, 1.6]])])[0].tolist()
            [[0.0, 1.0], [9.0, 1.0]]
        """
        return tuple(self._fitted(name, one) for name, one in zip(names, rows, strict=True))

    def _fitted(self, name: str, one: np.ndarray) -> np.ndarray:
        if name in self.ranges and one.dtype.kind != "b":
            low, high = self.ranges[name]
            one = np.clip(one, low, high).astype(one.dtype)  # limits may lie beyond what the dtype holds
        if name in self.categories:
            one = one.copy()
            for part, number in _codes(self.categories[name], one):
                with np.errstate(invalid="ignore", over="ignore"):
                    whole = np.nan_to_num(np.floor(part), nan=0.0, posinf=0.0, neginf=0.0)
                    part[...] = np.mod(whole, number).astype(one.dtype)
        return one

    def check(self, feeds: Mapping[str, np.ndarray]) -> None:
        """Raise DataError where inputs lie outside.

        Args:
            feeds: arrays ``[batch, ...]`` by the names of the inputs.
        """
        for one in feeds.values():
            if one.ndim:
                self.check_batch(len(one))
        self.check_numbers(feeds)

    def check_numbers(self, feeds: Mapping[str, np.ndarray]) -> None:
        """Do as :meth:`check`, for any number of rows."""
        for name, one in feeds.items():
            if self.finite and one.dtype.kind == "f" and not _all_finite(one):
                raise DataError(
                    f"input {name!r} holds NaN or infinity, and the file is proven for finite numbers",
                    help="fill missing values first: with such numbers it answers otherwise than its module",
                )
            if name in self.ranges and one.size:
                low, high = self.ranges[name]
                if one.min() < low or one.max() > high:
                    reach = f"from {one.min()} to {one.max()}"
                    raise DataError(
                        f"input {name!r} reaches {reach}, the file is proven from {low:g} to {high:g}",
                        help="give numbers in between, or export it again with rows that reach further",
                    )
            if name in self.categories:
                for part, number in _codes(self.categories[name], one):
                    wrong = ~((part >= 0) & (part < number) & (part == np.floor(part)))
                    if wrong.any():
                        raise DataError(
                            f"input {name!r} holds {part[wrong].flat[0]:g}, not one of the codes 0 to {number - 1}",
                            help="number unknown categories as one of these: the file is proven for no others",
                        )
        for name, axis, least, most in self.sizes:
            size = feeds[name].shape[axis] if name in feeds else least
            if size < least or (most is not None and size > most):
                raise DataError(
                    f"axis {axis} of input {name!r} has size {size}, the file is proven "
                    + (f"from {least} on" if most is None else f"from {least} to {most}"),
                    help="cut or fill it up to such a size",
                )

    def check_batch(self, rows: int) -> None:
        """Raise DataError where a batch has too few or too many rows."""
        if rows < self.least_batch:
            raise DataError(
                f"a batch has {count(rows, 'row')}, the model takes at least {self.least_batch}",
                help="ask before you call it",
            )
        if self.most_batch is not None and rows > self.most_batch:
            raise DataError(
                f"a batch has {count(rows, 'row')}, the model takes at most {self.most_batch}",
                help="run it in pieces",
            )

    @property
    def sentences(self) -> tuple[str, ...]:
        """What is outside, one line each."""
        found = []
        if self.most_batch is not None:
            found.append(f"batches of more than {count(self.most_batch, 'row')}")
        if self.finite:
            found.append("NaN and infinities")
        found += [f"{name} below {low:g} or above {high:g}" for name, (low, high) in self.ranges.items()]
        for name, axis, least, most in self.sizes:
            above = "" if most is None else f" or above {most}"
            found.append(f"sizes of axis {axis} of {name} below {least}{above}")
        for name, numbers in self.categories.items():
            columns = numbers.items() if isinstance(numbers, Mapping) else [(None, numbers)]
            for column, number in columns:
                where = name if column is None else f"{name}, column {column},"
                found.append(f"{where} other than the codes 0 to {number - 1}")
        return (*found, *self.outside)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary of what differs from any number of rows of any numbers."""
        whole = {
            "least_batch": self.least_batch,
            "most_batch": self.most_batch,
            "finite": self.finite,
            "ranges": {name: list(pair) for name, pair in self.ranges.items()},
            "sizes": [list(one) for one in self.sizes],
            "categories": {
                name: {str(column): number for column, number in one.items()} if isinstance(one, Mapping) else one
                for name, one in self.categories.items()
            },
            "tolerances": dict(self.tolerances),
            "outside": list(self.outside),
        }
        return {key: value for key, value in whole.items() if value not in (None, False, {}, [])}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Domain:
        """Return what :meth:`to_dict` was made of.

        Raises:
            ValueError, TypeError: the document is another.
        """
        ranges = {str(name): (float(low), float(high)) for name, (low, high) in document.get("ranges", {}).items()}
        most = document.get("most_batch")
        return cls(
            least_batch=int(document.get("least_batch", 0)),
            most_batch=None if most is None else int(most),
            finite=bool(document.get("finite", False)),
            ranges=ranges,
            sizes=tuple(
                (str(name), int(axis), int(least), None if large is None else int(large))
                for name, axis, least, large in document.get("sizes", ())
            ),
            categories={
                str(name): {int(column): int(number) for column, number in one.items()}
                if isinstance(one, dict)
                else int(one)
                for name, one in document.get("categories", {}).items()
            },
            tolerances={str(name): min(int(one), 1) for name, one in document.get("tolerances", {}).items()},
            outside=tuple(map(str, document.get("outside", ()))),
        )


def read_domain(metadata: Mapping[str, str]) -> Domain:
    """Return what a file of ours says of itself; of others nothing is known, and runtimes crash on no rows.

    Raises:
        ModelFileError: the metadata is damaged.
    """
    said = metadata.get("lrdiff.domain")
    if said is None:
        return Domain()
    try:
        return Domain.from_dict(json.loads(said))
    except (ValueError, TypeError, AttributeError, RecursionError) as problem:
        raise ModelFileError(
            f"metadata lrdiff.domain is damaged: {first_line(problem)}", help="export it again"
        ) from problem


def _codes(numbers: int | Mapping[int, int], values: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """Views of what holds codes, each with the number of categories; columns that are not there hold none."""
    if not isinstance(numbers, Mapping):
        yield values, numbers
        return
    for column, number in numbers.items():
        if values.ndim and -values.shape[-1] <= column < values.shape[-1]:
            yield values[..., column], number


def _all_finite(values: np.ndarray) -> bool:
    """The sum tells at once where all are; where it does not, it may have grown too large."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = float(np.add.reduce(values, axis=None))
    return math.isfinite(total) or bool(np.isfinite(values).all())
