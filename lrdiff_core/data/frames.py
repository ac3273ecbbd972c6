"""Tables that are in memory already: pandas, polars, Arrow and NumPy, by the protocols they offer."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Sequence
from decimal import Decimal
from numbers import Real
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from lrdiff_core.data.formats import check_names
from lrdiff_core.errors import DataError
from lrdiff_core.text import count, quoted

if TYPE_CHECKING:
    import polars as pl

__all__ = ["is_frame", "to_frame"]

SOURCE = "the table"
"""What a table without a file is called in messages."""

_TAKEN = "a pandas, polars or pyarrow table, or a NumPy array of two dimensions or with named fields"
_UNITS = ("ms", "us", "ns")  # of a time, as polars has them


def is_frame(source: object) -> bool:
    """Whether ``source`` brings names for its columns: everything that :func:`to_frame` takes but a plain array."""
    return _is_pandas(source) or _is_arrow(source)


def to_frame(source: object, *, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """Bring a table in memory into one frame, as a file would be read.

    The index of a pandas table is not a column. A column of Python objects becomes numbers where all of them are
    numbers, text where one is text. ``None``, NaN, NaT, ``pandas.NA`` and masked values are missing.

    Args:
        source: a pandas, polars or pyarrow table or anything else with ``__arrow_c_stream__``, or a NumPy array,
            structured or [rows, columns].
        columns: names of the columns of a plain array; left out: ``x1``, ``x2``, ...

    Raises:
        DataError: it is no table, has no rows or columns, or its names or values cannot be used.

    Example:
        >>> to_frame(np.zeros((2, 2)), columns=["a", "b"]).columns
        ['a', 'b']
    """
    plain = not is_frame(source) and not isinstance(source, str | bytes) and hasattr(source, "__array__")
    if columns is not None and not plain:
        raise DataError("columns= names the columns of a NumPy array", help="rename the columns of the table itself")
    if _is_pandas(source):
        frame = _from_pandas(source)
    elif hasattr(source, "iloc"):  # one column of pandas
        raise DataError(f"a {type(source).__name__} is one column, not a table", help=f"give {_TAKEN}")
    elif _is_arrow(source):
        frame = _from_arrow(source)
    elif plain:
        frame = _from_array(source, columns)
    else:
        raise DataError(f"a {type(source).__name__} is not a table", help=f"give {_TAKEN}, or the path of a file")
    if frame.width == 0 or frame.height == 0:
        raise DataError(f"{SOURCE} has {count(frame.height, 'row')} and {count(frame.width, 'column')}",
                        help="give at least one of each")  # fmt: skip
    return frame


def _is_pandas(source: object) -> bool:
    # before Arrow: pandas has that too, but only beside pyarrow, and then its index becomes a column
    return all(hasattr(source, name) for name in ("iloc", "dtypes", "columns", "to_numpy"))


def _is_arrow(source: object) -> bool:
    return hasattr(source, "__arrow_c_stream__") or _is_lazy(source)


def _is_lazy(source: object) -> bool:
    return type(source).__module__.startswith("polars") and hasattr(source, "collect")


def _from_pandas(source: Any) -> pl.DataFrame:
    names = [str(name) for name in source.columns]
    check_names(SOURCE, names)
    columns = [source.iloc[:, place] for place in range(len(names))]
    return _framed(
        (name, column.to_numpy(), hasattr(column, "cat")) for name, column in zip(names, columns, strict=True)
    )


def _from_arrow(source: Any) -> pl.DataFrame:
    import polars as pl
    from polars.exceptions import PolarsError

    try:
        frame = source.collect() if _is_lazy(source) else source
        frame = frame if isinstance(frame, pl.DataFrame) else pl.DataFrame(frame)
    except (PolarsError, TypeError, ValueError, ImportError) as problem:
        said = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
        raise DataError(f"{SOURCE} cannot be read: {said}", help=f"give {_TAKEN}") from problem
    check_names(SOURCE, frame.columns)
    return frame


def _from_array(source: Any, columns: Sequence[str] | None) -> pl.DataFrame:
    array = source if isinstance(source, np.ma.MaskedArray) else np.asarray(source)
    fields = array.dtype.names
    if fields is not None:
        if columns is not None:
            raise DataError("columns= is given, and the array names its fields", help="leave columns= out")
        if array.ndim != 1:
            raise DataError(f"an array with named fields has the shape {list(array.shape)}", help="give [rows]")
        check_names(SOURCE, list(fields))
        return _framed((name, array[name], False) for name in fields)
    if array.ndim != 2:
        raise DataError(
            f"an array of shape {list(array.shape)} is not a table", help="give [rows, columns], or named fields"
        )
    names = [f"x{place + 1}" for place in range(array.shape[1])] if columns is None else [str(name) for name in columns]
    if len(names) != array.shape[1]:
        raise DataError(
            f"columns= has {count(len(names), 'name')}, and the array {count(array.shape[1], 'column')}",
            help="give one name a column",
        )
    check_names(SOURCE, names)
    return _framed((name, array[:, place], False) for place, name in enumerate(names))


def _framed(columns: Iterable[tuple[str, np.ndarray, bool]]) -> pl.DataFrame:
    import polars as pl

    return pl.DataFrame([_series(name, values, categories) for name, values, categories in columns])


def _series(name: str, values: np.ndarray, categories: bool) -> pl.Series:
    """One column [rows]; ``categories`` where its own type says that its values are names."""
    import polars as pl

    if values.ndim != 1:
        _refuse(name, f"has the shape {list(values.shape)}")
    if isinstance(values, np.ma.MaskedArray):  # asarray would bring back what is hidden
        hidden, values = np.ma.getmaskarray(values), np.asarray(values.data).astype(object)
        values[hidden] = None
    if categories:
        words = [None if _missing(value) else str(value) for value in values.astype(object)]
        return pl.Series(name, words, dtype=pl.Categorical)
    kind = values.dtype.kind
    if kind in "biu":
        return pl.Series(name, np.ascontiguousarray(values.astype(values.dtype.newbyteorder("="))))
    if kind == "f":  # of any width: half precision and long double are not polars' own
        return pl.Series(name, np.ascontiguousarray(values, dtype=np.float64))
    if kind in "mM":
        unit = np.datetime_data(values.dtype)[0]
        fine = values if unit in _UNITS else values.astype(f"{'datetime' if kind == 'M' else 'timedelta'}64[us]")
        return pl.Series(name, np.ascontiguousarray(fine))
    if kind in "OUT":
        return _of_objects(name, values.tolist())
    _refuse(name, f"is of type {values.dtype}")


def _of_objects(name: str, values: list[Any]) -> pl.Series:
    import polars as pl

    values = [None if _missing(value) else value for value in values]
    known = [value for value in values if value is not None]
    if all(isinstance(value, bool | np.bool_) for value in known):
        return pl.Series(name, [None if value is None else bool(value) for value in values], dtype=pl.Boolean)
    if all(isinstance(value, Real | Decimal | np.bool_) for value in known):
        return pl.Series(name, [None if value is None else _number(value) for value in values], dtype=pl.Float64)
    if all(isinstance(value, datetime.date) for value in known):
        if any(isinstance(value, datetime.datetime) for value in known):  # which is a date, too
            values = [value if value is None else _moment(value) for value in values]
        return pl.Series(name, values)
    odd = next((value for value in known if not isinstance(value, str | Real | Decimal | np.bool_)), None)
    if odd is not None:
        _refuse(name, f"holds a {type(odd).__name__}")
    try:
        return pl.Series(name, [None if value is None else str(value) for value in values], dtype=pl.String)
    except UnicodeEncodeError:
        _refuse(name, "holds characters that are no text in UTF-8")


def _number(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:  # a whole number with hundreds of digits
        return math.inf if value > 0 else -math.inf


def _moment(value: datetime.date) -> datetime.datetime:
    return value if isinstance(value, datetime.datetime) else datetime.datetime.combine(value, datetime.time())


def _missing(value: object) -> bool:
    if value is None or type(value).__name__ in ("NAType", "NaTType"):  # pandas' own, without importing it
        return True
    return isinstance(value, float | np.floating | Decimal) and value != value


def _refuse(name: str, what: str) -> NoReturn:
    raise DataError(
        f"column {quoted(name)} of {SOURCE} {what}, not numbers, text or times", help="turn it into one, or remove it"
    )
