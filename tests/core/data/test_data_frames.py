"""Tables in memory: pandas, polars, Arrow and NumPy give what the same table in a file gives."""

from __future__ import annotations

import datetime
from decimal import Decimal
from functools import partial

import numpy as np
import polars as pl
import pytest
from refusals import refusal

from lrdiff_core.data import Table, load_table, read_features
from lrdiff_core.errors import DataError

pandas = pytest.importorskip("pandas")

refused = partial(refusal, load_table, kind=DataError)
COLUMNS = {
    "whole": [1, 2, 3, 4],
    "part": [0.5, -1e-3, 3e30, 4.0],
    "truth": [True, False, True, True],
    "answer": ["no", "yes", "no", "yes"],
}


def same(left: Table, right: Table) -> bool:
    return left.features.tobytes() == right.features.tobytes() and (
        left.target.tolist(), left.feature_names, left.classes, left.task, left.notes
    ) == (right.target.tolist(), right.feature_names, right.classes, right.task, right.notes)  # fmt: skip


class OnlyArrow:
    """What a pyarrow table or a DuckDB relation offers, and nothing else."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self.frame = frame

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.frame.__arrow_c_stream__(requested_schema)


def test_every_kind_of_table_gives_what_its_file_gives(write, tmp_path):
    frame = pl.DataFrame(COLUMNS)
    wanted = load_table(write(frame.write_csv(), "table.csv"), target="answer")
    records = np.array(
        list(zip(*COLUMNS.values(), strict=True)),
        dtype=[("whole", ">i2"), ("part", "f8"), ("truth", "?"), ("answer", "U3")],
    )
    given = [
        frame,
        frame.lazy(),
        OnlyArrow(frame),
        frame.with_columns(pl.col("answer").cast(pl.Categorical)),
        pandas.DataFrame(COLUMNS),
        pandas.DataFrame(COLUMNS, index=[7, 7, 8, 9]),  # no column, and not unique
        pandas.DataFrame(COLUMNS, dtype=object),
        pandas.DataFrame(COLUMNS).convert_dtypes(),
        pandas.DataFrame(COLUMNS).astype({"answer": "category"}),
        records,
    ]
    for one in given:
        table = load_table(one, target="answer")
        assert same(table, wanted), type(one)
        assert (table.name, table.source) == ("table", "memory")
    features = np.array([COLUMNS[name] for name in ("whole", "part", "truth")], dtype=object).T
    assert same(
        load_table(np.column_stack([features, COLUMNS["answer"]]).astype(object), target="answer", columns=[*COLUMNS]),
        wanted,
    )
    rows = read_features(pandas.DataFrame(COLUMNS)[["answer", "truth", "part", "whole"]], feature_names=[*COLUMNS][:3])
    assert rows.tobytes() == wanted.features.tobytes()


def test_every_way_to_lack_a_value_is_one_missing_value():
    hidden = np.ma.MaskedArray([[1.0, 0.0], [2.0, 1.0], [3.0, 0.0], [4.0, 1.0]], mask=[[0, 0], [1, 0], [0, 0], [0, 0]])
    column = [1.0, None, 3.0, 4.0]
    target = [0, 1, 0, 1]
    given = [
        pl.DataFrame({"x1": column, "x2": target}),
        pandas.DataFrame({"x1": [1.0, np.nan, 3.0, 4.0], "x2": target}),
        pandas.DataFrame({"x1": pandas.array([1, None, 3, 4], dtype="Int64"), "x2": target}),
        pandas.DataFrame({"x1": [1, pandas.NA, 3, 4], "x2": target}, dtype=object),
        pandas.DataFrame({"x1": [Decimal(1), Decimal("nan"), 3, np.float16(4)], "x2": target}),
        hidden,
        np.array([[1, 0], [np.nan, 1], [3, 0], [4, 1]], dtype=np.longdouble),
    ]
    for one in given:
        features = load_table(one, target="x2", impute="median").features
        assert np.array_equal(features, [[1], [np.nan], [3], [4]], equal_nan=True), one
        assert "missing" in refused(one, target="x2", impute="none")[0]


def test_what_is_no_table_is_refused():
    frame = pandas.DataFrame({"a": [1, 2], "y": [0, 1]})
    for source, arguments, words in [
        ([[1, 2]], {}, "a list is not a table"),
        (None, {}, "NoneType"),
        (np.zeros(3), {}, "shape [3]"),
        (np.zeros((2, 2, 2)), {}, "shape [2, 2, 2]"),
        (np.zeros((0, 2)), {}, "0 rows and 2 columns"),
        (np.zeros((2, 2)), {"columns": ["a"]}, "1 name, and the array 2 columns"),
        (np.zeros((2, 2)), {"columns": ["a", "a"]}, "more than one column"),
        (frame, {"columns": ["a", "y"]}, "columns= names"),
        ("seed", {"columns": ["a"]}, "columns="),
        (pandas.concat([frame, frame], axis=1), {}, "more than one column"),
        (frame.assign(a=[[1], [2]]), {}, 'column "a" of the table holds a list'),
        (frame.assign(a=[1j, 2j]), {}, "complex"),
        (np.zeros(2, dtype=[("a", "f4", 3), ("y", "i4")]), {}, "shape [2, 3]"),
        (frame.rename(columns={"a": ""}), {}, "no name for column 1"),
        (frame["a"], {}, "one column"),
        (frame.assign(a=pandas.Series(["\ud800", "b"], dtype=object)), {}, "UTF-8"),
    ]:
        message, help = refused(source, target="y", **arguments)
        assert words in message, message
        assert help
    assert 'no column "z"' in refused(frame, target="z")[0]
    assert "needs a target" in refused(frame)[0]


def test_odd_columns_keep_their_values():
    from lrdiff_core.data.frames import to_frame

    days = [datetime.date(2020, 1, 1), None]
    moments = pandas.to_datetime(["2020-01-01", None])
    frame = to_frame(
        pandas.DataFrame(
            {"day": pandas.Series(days, dtype=object), "moment": moments, "there": moments.tz_localize("UTC")}
        )
    )
    assert [dtype.is_temporal() for dtype in frame.dtypes] == [True, True, True]
    assert [frame[name].null_count() for name in frame.columns] == [1, 1, 1]
    mixed = to_frame(pandas.DataFrame({"day": [days[0], datetime.datetime(2020, 1, 2, 3)]}, dtype=object))
    assert mixed["day"].to_list() == [datetime.datetime(2020, 1, 1), datetime.datetime(2020, 1, 2, 3)]
    huge = to_frame(pandas.DataFrame({"a": [10**400, -(10**400), 1]}, dtype=object))
    assert huge["a"].to_list() == [np.inf, -np.inf, 1.0]
    coarse = to_frame(np.array([("2020-01-01",)], dtype=[("day", "M8[D]")]))
    assert coarse["day"].to_list() == [datetime.datetime(2020, 1, 1)]
