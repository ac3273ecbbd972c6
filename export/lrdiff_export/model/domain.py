"""For which inputs a file is proven to answer as its module does: it stands in the file and is checked before a run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lrdiff_core.errors import DataError, ModelFileError
from lrdiff_core.text import count
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
    outside: tuple[str, ...] = ()

    def check(self, feeds: Mapping[str, np.ndarray]) -> None:
        """Raise DataError where inputs lie outside.

        Args:
            feeds: arrays ``[batch, ...]`` by the names of the inputs.
        """
        for name, one in feeds.items():
            if one.ndim:
                self.check_batch(len(one))
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
        return (*found, *self.outside)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary of what differs from any number of rows of any numbers."""
        whole = {
            "least_batch": self.least_batch,
            "most_batch": self.most_batch,
            "finite": self.finite,
            "ranges": {name: list(pair) for name, pair in self.ranges.items()},
            "sizes": [list(one) for one in self.sizes],
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


def _all_finite(values: np.ndarray) -> bool:
    """The sum tells at once where all are; where it does not, it may have grown too large."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = float(np.add.reduce(values, axis=None))
    return math.isfinite(total) or bool(np.isfinite(values).all())
