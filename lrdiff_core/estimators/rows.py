"""What people hand to an estimator, as a table of this package: dataframes by their columns, arrays as numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.utils.validation import validate_data

from lrdiff_core.data import Split, Table, load_table, read_features
from lrdiff_core.data.frames import is_frame, to_frame
from lrdiff_core.data.spec import ColumnSpec
from lrdiff_core.data.split import FEWEST_ROWS
from lrdiff_core.data.splitting.parts import by_chance
from lrdiff_core.data.table import Impute, Task
from lrdiff_core.errors import EstimatorError, InputError
from lrdiff_core.model import ModelSpec
from lrdiff_core.text import unlike

__all__ = ["feature_matrix", "feature_table", "value_errors", "with_target", "without_test"]

SPLIT_STREAM = 0xE571  # apart from every other stream that starts at the same seed
FEWEST_VALIDATION = 5  # rows that can say when to stop


@contextmanager
def value_errors() -> Iterator[None]:
    """Raise what this package refuses as a ``ValueError`` too, which is what scikit-learn's tools expect.

    Raises:
        EstimatorError: in place of any other :class:`InputError`.
    """
    try:
        yield
    except EstimatorError:
        raise
    except InputError as problem:
        raise EstimatorError(problem.message, help=problem.help) from problem


def feature_table(estimator: Any, given: Any, target: Any, *, impute: Impute, categorical: Sequence[str] = ()) -> Table:
    """Check what ``fit`` got, and note names and number of the features.

    Args:
        estimator: gets ``n_features_in_`` and, where columns have names, ``feature_names_in_``.
        given: a dataframe, whose text and dates are taken as :func:`load_table` takes them, or numbers [rows, columns].
        target: y, only looked at for being there.
        impute: ``none``, ``mean``, ``median`` or ``auto``.
        categorical: columns of a dataframe whose values are names, also where they look like numbers.

    Returns:
        The features; the target is a place holder, see :func:`with_target`.
    """
    if is_frame(given):
        validate_data(estimator, given, target, skip_check_array=True)
        frame = to_frame(given)
        name = unlike("target", frame.columns)
        if frame.height < 2:
            raise EstimatorError(f"the table has n_samples={frame.height}", help="give at least two rows")
        return load_table(
            frame.with_columns(_place_holder(name, frame.height)),
            target=name,
            task="regression",
            impute=impute,
            categorical=categorical,
        )
    if categorical:
        raise EstimatorError("categorical names columns, and an array has none", help="give a dataframe")
    validate_data(estimator, "no_validation" if given is None else given, target, skip_check_array=True)
    features = _numbers(estimator, given, fills=impute != "none", reset=True)
    names = tuple(f"x{place + 1}" for place in range(features.shape[1]))
    holes = np.isnan(features).any(axis=0) if impute == "auto" else np.zeros(len(names), dtype=bool)
    specs = tuple(ColumnSpec(name=name, flags_missing=bool(one)) for name, one in zip(names, holes, strict=True))
    return Table(
        features=features,
        target=np.zeros(len(features), dtype=np.float32),
        feature_names=names,
        columns=specs if holes.any() else (),
        classes=(),
        task="regression",
        name="table",
        target_name="target",
        source="memory",
        notes=(),
    )


def feature_matrix(estimator: Any, given: Any, *, spec: ModelSpec, impute: Impute) -> np.ndarray:
    """The rows of a prediction, as the model of ``spec`` takes them, float32 [rows, features]."""
    named = hasattr(estimator, "feature_names_in_")
    if is_frame(given):
        validate_data(estimator, given, skip_check_array=True, reset=False)
        if named:
            return read_features(given, feature_names=spec.feature_names, impute=impute, columns=spec.columns)
        given = to_frame(given).to_numpy()  # fitted on an array: by place
    plain = all(column.kind in ("number", "boolean") for column in spec.columns)
    if named and not (plain and spec.feature_names == tuple(estimator.feature_names_in_)):
        raise EstimatorError(
            "fit got a dataframe whose columns are not all plain numbers, and this is an array",
            help="give a dataframe with the same columns",
        )
    return _numbers(estimator, given, fills=spec.fills_missing, reset=False)


def _numbers(estimator: Any, given: Any, *, fills: bool, reset: bool) -> np.ndarray:
    finite: Any = "allow-nan" if fills else True
    exact = validate_data(estimator, given, dtype=np.float64, ensure_all_finite=finite, reset=reset)
    with np.errstate(over="ignore"):  # what overflows becomes infinite, and is refused
        numbers = np.ascontiguousarray(exact, dtype=np.float32)
    if np.isinf(numbers).any():
        row, column = np.argwhere(np.isinf(numbers))[0]
        raise EstimatorError(
            f"X holds {exact[row, column]:g} in row {row}, column {column}, which is too large for float32",
            help="scale the column, or remove the row",
        )
    return numbers


def _place_holder(name: str, rows: int) -> Any:
    import polars as pl

    return pl.Series(name, np.arange(rows, dtype=np.float64))


def with_target(table: Table, target: np.ndarray, *, classes: tuple[str, ...], task: Task) -> Table:
    """The table with what is to be predicted: class indices or numbers [rows]."""
    values = target.astype(np.float32 if task == "regression" else np.int64)
    return replace(table, target=values, classes=classes, task=task)


def without_test(table: Table, *, validation: float, seed: int) -> Split:
    """Cut the rows into training and validation rows; the test rows are the caller's business.

    Where the validation part would have fewer than five rows, all rows are trained on, and the same are looked at.

    Args:
        table: its classes are stratified.
        validation: fraction of the rows.
        seed: of the draw.
    """
    rows = np.arange(len(table.target))
    strata = np.zeros(len(rows), dtype=np.int64) if table.task == "regression" else table.target
    part = by_chance(strata, np.array([1.0 - validation, validation]), np.random.default_rng([seed, SPLIT_STREAM]))
    held = rows[part == 1]
    if len(held) < FEWEST_VALIDATION or len(rows) - len(held) < FEWEST_ROWS:
        return Split(train=rows, validation=rows, test=rows)
    return Split(train=rows[part == 0], validation=held, test=held)
