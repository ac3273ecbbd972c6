"""What a model learns from: a table of rows, and its split into three parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from lrdiff_core.data.spec import ColumnSpec
from lrdiff_core.data.splitting.keys import SplitKeys
from lrdiff_core.errors import DataError

__all__ = ["Impute", "RowStream", "Split", "Table", "Task"]

Task = Literal["binary", "multiclass", "regression"]
Impute = Literal["auto", "none", "mean", "median", "drop"]


class RowStream(Protocol):
    """All rows of a file that is too large to be held; a Protocol, so that a table needs to know no file."""

    @property
    def rows(self) -> int:
        """Of the file."""

    def batches(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield float32 [rows, features], targets, and draws as in ``SplitKeys.drawn``, of each piece."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """The rows a model learns from.

    Args:
        features: float32 [rows, features]; NaN marks a value the model fills in, which
            only ``impute="mean"`` and ``impute="median"`` leave behind.
        target: int64 [rows] class indices, or float32 [rows] for regression.
        feature_names: one name a column, all different.
        classes: class labels in index order, ``()`` for regression.
        task: what is predicted.
        name: a short name of the table, such as ``seed`` or the stem of a file.
        target_name: the name of what is predicted.
        source: ``generator``, ``scikit-learn``, ``file`` or ``memory``.
        notes: what a reader of the results must know, one line each.
        columns: what each feature is; ``()`` where all are plain numbers.
        left_out: columns of the file that are no features, and why.
        stream: the file that these rows are a sample of, which is what a model is trained on; None: these are all.
        split_keys: what every split of the rows respects: groups, a time, the rows of a test file.

    Raises:
        DataError: shapes, types or labels do not fit together.

    Example:
        >>> import numpy as np
        >>> table = Table(
        ...     features=np.zeros((2, 1), np.float32), target=np.array([0, 1]), feature_names=("x",),
        ...     classes=("no", "yes"), task="binary", name="tiny", target_name="answer", source="generator", notes=(),
        ... )
        >>> table.features.shape, table.classes[table.target[1]]
        ((2, 1), 'yes')
    """

    features: np.ndarray
    target: np.ndarray
    feature_names: tuple[str, ...]
    classes: tuple[str, ...]
    task: Task
    name: str
    target_name: str
    source: str
    notes: tuple[str, ...]
    columns: tuple[ColumnSpec, ...] = ()
    left_out: tuple[ColumnSpec, ...] = ()
    split_keys: SplitKeys = field(default_factory=SplitKeys)
    stream: RowStream | None = None

    def __post_init__(self) -> None:
        rows, width = self.features.shape if self.features.ndim == 2 else (-1, -1)
        if self.features.dtype != np.float32 or rows < 1 or width < 1:
            raise DataError(
                f"features of table {self.name} are {self.features.dtype} {list(self.features.shape)}",
                help="give float32 [rows, features] with at least one row and one feature",
            )
        for name, values in self.split_keys.columns().items():
            if values.shape != (rows,):
                raise DataError(
                    f"{name} of table {self.name} are {list(values.shape)}", help=f"give one entry a row: [{rows}]"
                )
        wanted = np.float32 if self.task == "regression" else np.int64
        if self.target.dtype != wanted or self.target.shape != (rows,):
            raise DataError(
                f"target of table {self.name} is {self.target.dtype} {list(self.target.shape)}",
                help=f"give {np.dtype(wanted)} [{rows}] for {self.task}",
            )
        if len(self.feature_names) != width or len(set(self.feature_names)) != width:
            raise DataError(
                f"table {self.name} has {len(set(self.feature_names))} feature names for {width} features",
                help="give every feature a name of its own",
            )
        if self.columns and tuple(column.name for column in self.columns) != self.feature_names:
            raise DataError(
                f"table {self.name} describes other columns than its features",
                help="give one ColumnSpec per feature, in the same order, or none",
            )
        if self.task == "regression":
            labels_fit = self.classes == ()
        else:
            labels_fit = self.target.min() >= 0 and self.target.max() < len(self.classes)
            labels_fit = labels_fit and (len(self.classes) == 2 or self.task == "multiclass")
        if not labels_fit:
            raise DataError(
                f"table {self.name} has {len(self.classes)} class labels that do not fit its {self.task} target",
                help="give one label per class index, two for binary, none for regression",
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Row indices of the three parts of a table: sorted int64, disjoint, together every row.

    Args:
        train: [training rows] what the model and the preprocessing are fitted on.
        validation: [validation rows] what settings are chosen on.
        test: [test rows] what is looked at last, once.

    Example:
        >>> import numpy as np
        >>> split = Split(train=np.array([0, 3]), validation=np.array([1]), test=np.array([2]))
        >>> split.train.size
        2
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
