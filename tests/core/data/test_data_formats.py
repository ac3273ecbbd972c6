"""Reading: CSV round trips, dialects, and the same table from every format."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings, strategies as st
from hypothesis.extra import numpy as hnp

from lrdiff_core.data import Table, load_table, read_features
from lrdiff_core.data.formats import read_frame

ROWS = "a,b,y\n1,2.5,no\n3,-4,yes\n5,6,no\n7,1e-3,yes\n"


def same(left: Table, right: Table) -> bool:
    return (
        left.features.tobytes() == right.features.tobytes()
        and left.target.tobytes() == right.target.tobytes()
        and left.target.dtype == right.target.dtype
        and (left.feature_names, left.classes, left.task) == (right.feature_names, right.classes, right.task)
    )


def test_table_of_a_file(write):
    table = load_table(write(ROWS, "my_file.csv"), target="y")
    assert table.features.dtype == np.float32
    assert table.features.tolist() == [[1, 2.5], [3, -4], [5, 6], [7, np.float32(1e-3)]]
    assert (table.name, table.target_name, table.source, table.notes) == ("my_file", "y", "file", ())
    assert (table.feature_names, table.classes, table.target.tolist()) == (("a", "b"), ("no", "yes"), [0, 1, 0, 1])
    assert same(table, load_table(Path("my_file.csv"), target="y"))


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("\ufeff" + ROWS, "bom.csv"),
        (ROWS.replace("\n", "\r\n"), "windows.csv"),
        (ROWS.replace("\n", "\r"), "old_mac.csv"),
        (ROWS.rstrip("\n"), "no_last_newline.csv"),
        (ROWS.replace("\n", "\n\n"), "blank_lines.csv"),
        ("\n  \n" + ROWS, "blank_first.csv"),
        (ROWS.replace(",", " , "), "spaces.csv"),
        (ROWS.replace(",", ";"), "semicolon.csv"),
        ('"a";"b";"y"\n' + ROWS.replace(",", ";").partition("\n")[2], "semicolon_quoted.csv"),
        (ROWS.replace(",", "\t"), "tab.csv"),
        (ROWS.replace(",", "\t"), "t.tsv"),
        (ROWS, "CAPITALS.CSV"),
    ],
)
def test_dialects(write, content, name):
    assert same(load_table(write(content, name), target="y"), load_table(write(ROWS), target="y"))


def test_a_separator_that_was_found_is_noted(write):
    assert load_table(write(ROWS.replace(",", ";")), target="y").notes == ('columns are separated by ";"',)
    assert load_table(write(ROWS.replace(",", "\t")), target="y").notes == (r'columns are separated by "\t"',)
    assert load_table(write(ROWS.replace(",", "\t"), "t.tsv"), target="y").notes == ()


def test_target_anywhere(write):
    first = load_table(write("y,a,b\nno,1,2\nyes,3,4\nno,5,6\nyes,7,8\n"), target="y")
    assert first.feature_names == ("a", "b")
    assert first.features[1].tolist() == [3, 4]


@pytest.mark.parametrize("target", ["label", "flag", "amount"])
def test_every_format_gives_the_same_table(write, target):
    write("")
    random = np.random.default_rng(3)
    frame = pl.DataFrame(
        {
            "float": random.standard_normal(40),
            "whole": random.integers(-5, 5, 40),
            "truth": random.random(40) < 0.5,
            "label": random.choice(["u", "v", "w"], 40),
            "flag": random.random(40) < 0.5,
            "amount": random.standard_normal(40).astype(np.float32),
        }
    )
    frame = frame.drop("label") if target != "label" else frame
    frame.write_csv("t.csv")
    frame.write_parquet("t.parquet")
    frame.write_ipc("t.arrow")
    frame.write_ipc("t.ipc")
    frame.write_ipc("t.feather", compression="zstd")
    frame.write_ipc_stream("stream.arrow")
    tables = [
        load_table(name, target=target)
        for name in ("t.csv", "t.parquet", "t.arrow", "t.ipc", "t.feather", "stream.arrow")
    ]
    assert tables[0].task == {"label": "multiclass", "flag": "binary", "amount": "regression"}[target]
    assert all(same(tables[0], table) for table in tables)


def test_nulls_and_decimals_of_typed_columns(write):
    write("")
    frame = pl.DataFrame(
        {
            "d": pl.Series(["1.25", "2.5", None, "4"]).cast(pl.Decimal(10, 2)),
            "n": pl.Series([1, None, 3, 4]),
            "empty": pl.Series([1.0, float("nan"), None, 2.0]),
            "y": [0, 1, 0, 1],
        }
    )
    frame.write_parquet("t.parquet")
    table = load_table("t.parquet", target="y", impute="mean")
    nan = np.nan
    np.testing.assert_array_equal(table.features, [[1.25, 1, 1], [2.5, nan, nan], [nan, 3, nan], [4, 4, 2]])


def written(path: Path, header: list[str], rows: list[list[object]], **dialect) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, **dialect)
        writer.writerow(header)
        writer.writerows(rows)
    return path


@settings(max_examples=100, deadline=None)
@given(
    values=hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=8),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    ),
    terminator=st.sampled_from(["\n", "\r\n"]),
)
def test_finite_float32_round_trip(tmp_path_factory, values, terminator):
    names = [f"c{column}" for column in range(values.shape[1])]
    path = written(tmp_path_factory.getbasetemp() / "round.csv", names, values.tolist(), lineterminator=terminator)
    assert read_features(path, feature_names=names).tobytes() == values.tobytes()


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12), min_size=2, max_size=6
    )
)
def test_quoted_header_round_trip(tmp_path_factory, header):
    """Any names, with separators, quotes and line ends in them; only the spaces around them go."""
    names = [name.strip() for name in header]
    assume(all(names))
    assume(len(set(names)) == len(names))
    rows = [[row + place for place in range(len(header))] for row in range(4)]
    path = written(tmp_path_factory.getbasetemp() / "names.csv", header, rows, quoting=csv.QUOTE_ALL)
    table = load_table(path, target=names[-1])
    assert table.feature_names == tuple(names[:-1])
    assert table.target_name == names[-1]
    assert table.features.tolist() == [[float(value) for value in row[:-1]] for row in rows]


cells = st.text(st.sampled_from('a1,;"\n\r\t .-'), max_size=8)


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(st.tuples(cells, cells, cells), min_size=1, max_size=6), separator=st.sampled_from(",;\t"))
def test_any_cells_round_trip(tmp_path_factory, rows, separator):
    """Whatever the csv module writes is read back as it was, cell by cell."""
    path = tmp_path_factory.getbasetemp() / "cells.csv"
    frame, _ = read_frame(written(path, ["p", "q", "r"], rows, delimiter=separator))
    assert frame.rows() == rows
