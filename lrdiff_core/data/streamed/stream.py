"""All rows of a streamed file as the matrix and targets that a model learns from, piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lrdiff_core.data.columns import describe_faults, read_strings
from lrdiff_core.data.read import matrix_of, read_column
from lrdiff_core.data.spec import ColumnSpec
from lrdiff_core.data.streamed.pieces import pieces_of
from lrdiff_core.data.streamed.sample import draws
from lrdiff_core.errors import DataError
from lrdiff_core.text import quoted

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Stream"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Stream:
    """A file whose rows are read again for every pass.

    Args:
        path: of the file.
        rows: of the file, with those that have no target.
        columns: what the columns of the matrix are, as the sample had them.
        target: the column to predict.
        kind: ``number``, ``boolean`` or ``text``: what the sample's labels are.
        classes: labels in index order, ``()`` for regression.
        impute: as in the settings.
    """

    path: Path
    rows: int
    columns: tuple[ColumnSpec, ...]
    target: str
    kind: str
    classes: tuple[str, ...]
    impute: str

    def batches(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield float32 [rows, features], targets (int64 indices or float32) and draws, float64 [rows], of each piece.

        Rows without a target are left out, and with ``impute="drop"`` those with a value that is missing.

        Raises:
            DataError: a cell is not of its column's kind, or a label is none of the sample's.
        """
        names = list(dict.fromkeys([*(spec.column for spec in self.columns), self.target]))
        begin = 0
        for frame in pieces_of(self.path, columns=names):
            source = f"{self.path} behind row {begin}" if begin else str(self.path)
            columns = [read_column(frame[spec.column], spec, source=source) for spec in self.columns]
            if self.impute == "none" and (faults := describe_faults(columns, source=source)):
                raise DataError(faults, help="`--impute mean|median|drop` fills them in, or drops their rows")
            targets, known = self._targets(frame[self.target], source)
            features = matrix_of(columns)
            if self.impute == "drop":
                known &= np.isfinite(features).all(axis=1)
            drawn = draws(np.arange(begin, begin + frame.height))
            begin += frame.height
            if known.all():
                yield features, targets, drawn
            elif known.any():
                yield features[known], targets[known], drawn[known]

    def _targets(self, column: pl.Series, source: str) -> tuple[np.ndarray, np.ndarray]:
        """Indices or numbers, and whether each row has one."""
        import polars as pl

        texts = read_strings(column) if column.dtype == pl.String else None
        if self.kind == "number":
            numbers = (column if texts is None else texts).cast(pl.Float64, strict=False)
            if texts is not None and numbers.null_count() > texts.null_count():
                self._refuse(str(texts.filter(texts.is_not_null() & numbers.is_null())[0]), source)
            exact = numbers.fill_null(float("nan")).to_numpy()
            if not self.classes:
                with np.errstate(over="ignore"):
                    values = exact.astype(np.float32)
                return values, np.isfinite(values)
            known = np.isfinite(exact)
            labels = np.array([float(label) for label in self.classes])
            places = np.minimum(np.searchsorted(labels, np.where(known, exact, labels[0])), len(labels) - 1)
            strange = known & (labels[places] != exact)
            if strange.any():
                self._refuse(f"{exact[strange][0]:g}", source)
            return places.astype(np.int64), known
        words = read_strings(column.cast(pl.String)) if texts is None else texts
        if self.kind == "boolean":
            words = words.str.to_lowercase()
        codes = words.replace_strict(list(self.classes), list(range(len(self.classes))), default=None,
                                     return_dtype=pl.Int64)  # fmt: skip
        if codes.null_count() > words.null_count():
            self._refuse(str(words.filter(words.is_not_null() & codes.is_null())[0]), source)
        return codes.fill_null(0).to_numpy(), words.is_not_null().to_numpy()

    def _refuse(self, label: str, source: str) -> None:
        what = f"classes {', '.join(map(quoted, self.classes[:5]))}" if self.classes else "numbers"
        raise DataError(
            f"target {quoted(self.target)} of {source} holds {quoted(label)}, "
            f"and the sample of its rows has {what} alone",
            help="remove the rows of classes so rare, or correct the value",
        )
