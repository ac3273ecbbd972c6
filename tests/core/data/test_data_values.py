"""Feature values: text, missing, infinite, too large, and what imputation makes of them."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from refusals import refusal

from lrdiff_core.data import load_table
from lrdiff_core.errors import DataError

IMPUTE_HELP = "`--impute mean|median|drop` fills them in from the training rows, or drops their rows"


refused = partial(refusal, load_table, kind=DataError)


def slips(*cells: str) -> str:
    """Thirty different numbers with other cells among them, as CSV."""
    return "a,y\n" + "".join(f"{row}.5,{row % 2}\n" for row in range(30)) + "".join(f'"{cell}",0\n' for cell in cells)


def test_text_among_numbers(write):
    """Row 1 is the first row below the header."""
    assert refused(write(slips("12O", "Rome")), target="y") == (
        'column "a" of t.csv holds numbers, and text in 2 rows: "12O" in row 31',
        "correct it, or say what the column is: --numeric a takes text for missing, --categorical a takes all for "
        "names, --drop a leaves it out",
    )
    assert np.isnan(load_table("t.csv", target="y", numeric=["a"]).features[30:]).all()
    assert len(load_table("t.csv", target="y", categorical=["a"]).columns[0].categories) == 32
    message, _ = refused(write(slips("$12", "1.234,5", "1,234.5")), target="y")
    assert "more than one way" in message


def test_text_and_names_stay_on_one_line(write):
    message, _ = refused(write('"a\nb"' + slips("one\n" + "x" * 50, "2x")[1:]), target="y")
    said = r'column "a\nb" of t.csv holds numbers, and text in 2 rows: "one\n' + "x" * 33 + '..." in row 31'
    assert message == said
    message, _ = refused(write(slips("u\u2028v\x1b[2J", "é")), target="y")
    assert message.endswith(r'"u\u2028v\u001b[2J" in row 31')


@pytest.mark.parametrize("cell", ["", "  ", "NA", "N/A", "null", "nan", "NaN", '""'])
def test_missing(write, cell):
    name = write(f"a,b,y\n1,2,0\n{cell},2,1\n3,4,0\n4,5,1\n")
    assert refused(name, target="y", impute="none") == (
        't.csv has values that are not finite numbers: "a" 1 missing (row 2)',
        IMPUTE_HELP,
    )
    filled = load_table(name, target="y", impute="mean")
    assert np.isnan(filled.features[:, 0]).tolist() == [False, True, False, False]


def test_every_kind_of_fault_is_counted(write):
    name = write("a,b,c,d,y\n,1e300,1,,0\nNA,2,inf,-inf,1\n3,-1e39,-Infinity,1,0\n,5,1,1,1\n")
    assert refused(name, target="y", impute="none") == (
        't.csv has values that are not finite numbers: "a" 3 missing (first in row 1); '
        '"b" 2 too large for float32 (first 1e+300 in row 1); "c" 2 infinite (first in row 2); and 1 more column',
        IMPUTE_HELP,
    )
    message, _ = refused(write("d,a,y\n,1e300,0\n-inf,2,1\n1,2,0\n"), target="y", impute="none")
    assert message == (
        't.csv has values that are not finite numbers: "d" 1 missing (row 1), 1 infinite (row 2); '
        '"a" 1 too large for float32 (1e+300 in row 1)'
    )


@pytest.mark.parametrize("impute", ["mean", "median"])
def test_fill(write, impute):
    name = write("a,b,y\n1,2,0\n,inf,1\n3,1e300,0\n4,5,1\n5,,0\n")
    table = load_table(name, target="y", impute=impute)
    expected = np.array([[1, 2], [np.nan, np.nan], [3, np.nan], [4, 5], [5, np.nan]], dtype=np.float32)
    np.testing.assert_array_equal(table.features, expected)
    assert table.notes == (
        f"4 values in 2 columns missing or not finite, filled in with the {impute} of the training rows",
    )
    assert load_table(write("a,y\n1,0\n2,1\n3,0\n4,1\n"), target="y", impute=impute).notes == ()


def test_a_column_without_a_number_is_left_out(write):
    table = load_table(write("a,b,c,y\n1,,inf,0\n2,,,1\n3,,,0\n4,,,1\n"), target="y", impute="median")
    assert table.feature_names == ("a",)
    assert [(column.name, column.kind) for column in table.left_out] == [("b", "empty"), ("c", "empty")]


def test_drop(write):
    name = write("a,b,y\n1,2,no\n,2,yes\n3,inf,no\n4,5,yes\n5,6,\n7,8,yes\n9,9,no\n")
    table = load_table(name, target="y", impute="drop")
    assert table.features.tolist() == [[1, 2], [4, 5], [7, 8], [9, 9]]
    assert table.target.tolist() == [0, 1, 1, 0]
    assert table.notes == (
        '1 of 7 rows dropped: the target "y" has no value there, 1 missing (row 5)',
        "2 of 7 rows dropped for values that are missing or not finite",
    )
    assert refused(write("a,b,y\n1,,0\n,2,1\n"), target="y", impute="drop") == (
        "t.csv has no row without a value that is missing or not finite, so `drop` leaves none",
        "remove the columns that are mostly missing, or use `--impute mean|median`",
    )


def test_rows_are_counted_in_the_file_and_not_after_dropping(write):
    message, _ = refused(write("a,y\n,u\n1,u\n1,u\n1,v\n"), target="y", impute="drop")
    assert message == 'target "y" of t.csv has 1 class with a single row: "v" (row 4)'


@pytest.mark.parametrize("impute", ["none", "mean", "median"])
def test_target_is_never_filled_in(write, impute):
    table = load_table(write("a,y\n1,u\n1,\n1,v\n1,NA\n1,u\n1,v\n"), target="y", impute=impute)
    assert table.target.tolist() == [0, 1, 0, 1]
    assert table.notes == ('2 of 6 rows dropped: the target "y" has no value there, 2 missing (first in row 2)',)
    table = load_table(write("a,y\n1,1.5\n1,inf\n1,\n1,1e39\n1,3\n1,2.5\n"), target="y", impute=impute)
    assert table.target.tolist() == [1.5, 3, 2.5]
    (note,) = table.notes
    assert note.endswith("1 missing (row 3), 1 infinite (row 2), 1 too large for float32 (1e+39 in row 4)")


def test_booleans_are_one_and_zero(write):
    table = load_table(write("a,y\ntrue,0\nFALSE,1\nTrue,0\n0.5,1\n"), target="y")
    assert table.features.ravel().tolist() == [1, 0, 1, 0.5]
