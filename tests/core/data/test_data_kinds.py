"""Kinds of columns: what is recognised in messy cells, what was said, and that predictions are read the same way."""

from __future__ import annotations

import datetime as dt
import itertools

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings, strategies as st
from refusals import refusal

from lrdiff_core.data import Table, load_table, read_features, read_rows
from lrdiff_core.data.kinds.dates import parse_dates
from lrdiff_core.data.kinds.numbers import find_number_format, parse_number
from lrdiff_core.data.spec import NUMBER_FORMATS, ColumnSpec, wishes_of
from lrdiff_core.errors import ConfigError, DataError, InputError

ROWS = 40
DAY = float((dt.date(2021, 3, 4) - dt.date(1970, 1, 1)).days)


def made(write, cells, name="t.csv", **wishes) -> Table:
    """A table whose column ``c`` repeats the cells, beside a number and the target."""
    repeated = list(itertools.islice(itertools.cycle(cells), ROWS)) if len(cells) < ROWS else list(cells)
    frame = pl.DataFrame({
        "c": repeated,
        "x": np.random.default_rng(0).standard_normal(len(repeated)),
        "y": [row % 2 for row in range(len(repeated))],
    })  # fmt: skip
    write("")
    frame.write_csv(name)
    return load_table(name, target="y", **wishes)


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["1", "2.5", "1e-3"], [1, 2.5, 1e-3]),
        (["1,234", "5", "1,000,000.5"], [1234, 5, 1000000.5]),
        (["1.234,5", "7", "-0,25"], [1234.5, 7, -0.25]),
        (["0,125", "1,500", "2"], [0.125, 1.5, 2]),
        (["$1,200.50", "($5)", "-$3", "$ 7"], [1200.5, -5, -3, 7]),
        (["3 €", "1.000,50 €", "2€"], [3, 1000.5, 2]),
        (["USD 5", "USD 1,000", "7"], [5, 1000, 7]),
        (["1 234,5", "12\u00a0000", "7"], [1234.5, 12000, 7]),
        (["1'234.50", "3.5"], [1234.5, 3.5]),
        (["12%", "3.5 %", "-1%"], [0.12, 0.035, -0.01]),
        (["\u22125", "6,5", "7-"], [-5, 6.5, -7]),
        (["12,34,567", "1"], [1234567, 1]),
        ([" 1 ", "?", "None", "-", "n/a", "#N/A", "2"], [1, np.nan, np.nan, np.nan, np.nan, np.nan, 2]),
        (["1", "2", "3", "4", "5", "6", "7", "8", "9", "unknown"], [1, 2, 3, 4, 5, 6, 7, 8, 9, np.nan]),
        (["true", "FALSE", "0.5"], [1, 0, 0.5]),
    ],
)  # fmt: skip
def test_numbers_as_people_write_them(write, cells, values):
    table = made(write, cells)
    assert table.columns[0].kind == "number"
    got = table.features[: len(cells), 0]
    np.testing.assert_array_equal(got, np.float32(values))
    assert table.columns[0].flags_missing == bool(np.isnan(got).any())
    # a prediction reads the same cells alike, and numbers that have a type as they are
    assert again(table, "t.csv")[:, 0].tobytes() == table.features[:, 0].tobytes()
    pl.DataFrame({"c": np.nan_to_num(values), "x": 0.5}).write_parquet("typed.parquet")
    np.testing.assert_array_equal(again(table, "typed.parquet")[:, 0], np.float32(np.nan_to_num(values)))


def again(table: Table, name: str) -> np.ndarray:
    return read_features(name, feature_names=table.feature_names, columns=table.columns, impute="auto")


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["yes", "No"], "boolean"),
        (["T", "F", "NA"], "boolean"),
        (["+", "-"], "category"),
        (["Ōsaka", "Zürich", "naïve", "日本"], "category"),
        (["€5", "$5", "£7"], "category"),
        (["01234", "94110", "10001"], "category"),
        (["0", "1", "2", "3+"], "category"),
        (["1-5", "6-10"], "category"),
        (["12:30", "13:45"], "time"),
        (["12:30", "26:45"], "category"),
        (["red "] + ["blue"] * 39, "category"),
        ([f"n{row // 2}" for row in range(ROWS)], "category"),
        ([f"Name {row}" for row in range(ROWS)], "id"),
        ([f"{row}" for row in range(ROWS)], "index"),
        ([f"{row + 1}" for row in range(ROWS)], "index"),
        ([f"{row + 2}" for row in range(ROWS)], "number"),
        ([f"{'word ' * 9}{row}" for row in range(ROWS)], "text"),
        ([f"t{row}" for row in range(ROWS - 1)] + ["t0"], "text"),
        ([""], "empty"),
        (["?"], "empty"),
    ],
)
def test_what_is_no_number(write, cells, kind):
    table = made(write, cells)
    found = {column.name: column for column in (*table.columns, *table.left_out)}
    assert found["c"].kind == kind
    if kind == "category":
        texts = sorted({cell.strip() for cell in cells})
        assert found["c"].categories == tuple(texts)
        assert table.features[0, 0] == texts.index(cells[0].strip()) + 1
    elif kind == "boolean":
        np.testing.assert_array_equal(table.features[:2, 0], [1, 0])


def test_a_category_of_a_prediction_keeps_its_code(write):
    table = made(write, ["b", "a", "", "c"])
    assert table.features[:4, 0].tolist() == [2, 1, 0, 3]  # missing is 0, and needs no filling in
    assert not table.columns[0].flags_missing
    write("x,c\n1, c \n1,b\n1,new\n1,\n1,A\n", "new.csv")
    assert again(table, "new.csv")[:, 0].tolist() == [3, 2, 0, 0, 0]
    numbers = made(write, ["3", "1"], categorical=["c"])
    assert numbers.columns[0].categories == ("1", "3")
    pl.DataFrame({"c": [1.0, 3.0, 2.0, None], "x": 1.0}).write_parquet("n.parquet")
    assert again(numbers, "n.parquet")[:, 0].tolist() == [1, 2, 0, 0]


def test_rare_categories_share_code_zero(write):
    cells = [f"c{row % 100}" for row in range(400)] + [f"rare{row % 5}" for row in range(10)]
    table = made(write, cells)
    column = table.columns[0]
    assert (len(column.categories), column.kind) == (100, "category")
    assert "100 most common of 105" in column.rule
    assert set(table.features[400:, 0]) == {0}
    many = made(write, [f"c{row % 20_000}" for row in range(60_000)])  # each too rare to learn from
    assert [(column.name, column.kind) for column in many.left_out] == [("c", "text")]


@pytest.mark.parametrize(
    ("cells", "form"),
    [
        (["2021-03-04", "2020-12-31"], "%Y-%m-%d"),
        (["04.03.2021", "31.12.2020"], "%d.%m.%Y"),
        (["4/3/2021", "31/12/2020"], "%d/%m/%Y"),
        (["3/4/2021", "12/31/2020"], "%m/%d/%Y"),
        (["4 Mar 2021", "31 December 2020"], "%d %B %Y"),
        (["Mar 4, 2021", "Dec 31, 2020"], "%B %d, %Y"),
        (["04/03/21", "31/12/20"], "%d/%m/%y"),
    ],
)
def test_dates(write, cells, form):
    table = made(write, [*cells, "n/a"])
    assert (table.columns[0].kind, table.columns[0].format) == ("date", form)
    np.testing.assert_array_equal(table.features[:3, 0], [DAY, DAY - 63, np.nan])
    assert again(table, "t.csv").tobytes() == table.features.tobytes()
    pl.DataFrame({"c": [dt.date(2021, 3, 4)], "x": [1.0]}).write_parquet("d.parquet")
    assert again(table, "d.parquet")[0, 0] == DAY
    write("c,x\n2021 then,1\n", "bad.csv")
    assert form in refusal(lambda: again(table, "bad.csv"), kind=DataError)[1]


def test_timestamps_are_a_day_and_a_time_of_the_day_in_utc(write):
    table = made(write, ["2021-03-04T01:30:00.5Z", "2021-03-04 01:30+02:00", "2021-03-04 11:30 PM", ""])
    assert [column.kind for column in table.columns[:2]] == ["date", "time"]
    expected = [[DAY, 5400.5], [DAY - 1, 84600], [DAY, 84600], [np.nan, np.nan]]
    np.testing.assert_array_equal(table.features[:4, :2], expected)
    assert [column.flags_missing for column in table.columns] == [True, False, False]
    moment = dt.datetime(2021, 3, 4, 1, 30, 0, 500_000)
    clock = made(write, ["1:30", "13:05:06", "11:30 PM", "?"])
    np.testing.assert_array_equal(clock.features[:4, 0], [5400, 47106, 84600, np.nan])
    assert clock.columns[0].flags_missing
    pl.DataFrame({"c": [dt.time(1, 30)], "x": [0.5]}).write_parquet("c.parquet")
    assert again(clock, "c.parquet")[0, 0] == 5400
    typed = load_table(pl.DataFrame({"c": [moment] * 4, "x": range(4), "y": [0, 1, 0, 1]}), target="y")
    np.testing.assert_array_equal(typed.features[0, :2], [DAY, 5400.5])


def test_dates_that_can_be_read_in_two_ways_are_refused_until_somebody_says(write):
    with pytest.raises(DataError, match=r"two ways: .* %d/%m/%Y or %m/%d/%Y") as caught:
        made(write, ["3/4/2021", "5/6/2021"])
    assert "--date c=%d/%m/%Y or" in caught.value.help
    for form, month in (("%d/%m/%Y", 4), ("%m/%d/%Y", 3)):
        table = load_table("t.csv", target="y", date=[f"c={form}"])
        day = dt.date(1970, 1, 1) + dt.timedelta(days=float(table.features[0, 0]))
        assert (day.month, day.day) == (month, 7 - month)
    assert made(write, ["3/3/2021"]).columns[0].kind == "date"  # the same day either way
    with pytest.raises(DataError, match="not of the form"):
        load_table("t.csv", target="y", date=["c=%Y-%m-%d"])


@pytest.mark.parametrize(
    ("other", "doubtful", "value"),
    [
        ("2,5", "1.234", 1234),  # decimal commas beside it
        ("2.5", "1.234", 1.234),
        ("2,5", "1,234", 1.234),
        ("7", "1,234", 1234),
        ("7", "1.234", 1.234),
    ],
)
def test_other_columns_show_how_decimals_are_written(write, other, doubtful, value):
    write("a\tb\ty\n" + "".join(f"{other}\t{doubtful}\t{row % 2}\n{other}\t7\t1\n" for row in range(10)))
    table = load_table("t.csv", target="y")
    assert table.features[0, 1] == np.float32(value)


def test_semicolons_go_with_decimal_commas_where_a_comma_is_in_doubt(write):
    write("a;b;y\n" + "".join(f"1,234;5;{row % 2}\n" for row in range(10)))
    assert load_table("t.csv", target="y").features[0].tolist() == [np.float32(1.234), 5]
    write("b;y\n" + "".join(f"1.234;{row % 2}\n" for row in range(10)))
    assert load_table("t.csv", target="y").features[0, 0] == np.float32(1.234)


def test_one_word_among_dates_is_missing(write):
    table = made(write, [*["31.12.2020"] * 9, "never"])
    assert (table.columns[0].kind, table.columns[0].missing) == ("date", ("never",))
    assert np.isnan(again(table, "t.csv")[9, 0])


def test_what_somebody_says_wins(write):
    cells = ["1", "2", "3"]
    assert made(write, cells, categorical=["c"]).columns[0].categories == ("1", "2", "3")
    for wishes, kind in (({"drop": ["c"]}, "dropped"), ({"id": ["c"]}, "id")):
        assert [column.kind for column in made(write, cells, **wishes).left_out] == [kind]
    assert made(write, [f"{row}" for row in range(ROWS)], numeric=["c"]).columns[0].kind == "number"
    assert made(write, ["01", "02", "x"], numeric=["c"]).features[:2, 0].tolist() == [1, 2]
    assert made(write, ["20210304"], date=["c=%Y%m%d"]).features[0, 0] == DAY
    for wishes, kind, words in [
        ({"drop": ["z"]}, DataError, 'no column "z"'),
        ({"id": ["y"]}, ConfigError, "target"),
        ({"id": ["c"], "drop": ["c"]}, ConfigError, "named by"),
        ({"drop": ["c", "x"]}, DataError, "no column to learn from"),
    ]:
        with pytest.raises(kind, match=words):
            load_table("t.csv", target="y", **wishes)


def test_ids_are_kept_beside_predictions(write):
    write("key,x\nu,1\n,2\n", "new.csv")
    rows = read_rows("new.csv", feature_names=["x"], ids=["key", "gone"])
    assert rows.ids == {"key": ["u", ""]}
    assert rows.features.tolist() == [[1], [2]]


def test_a_rule_stays_on_one_line(write):
    table = made(write, ["$\n5", "$6"])
    assert (table.features[0, 0], "\n" in table.columns[0].rule) == (5, False)


def test_rows_of_a_test_file_have_no_say(write):
    made(write, ["a", "b"])
    write("c,x,y\nnew,1,0\nb,1,1\n3,1,0\n", "test.csv")
    table = load_table("t.csv", target="y", test="test.csv")
    assert table.columns[0].categories == ("a", "b")
    assert table.features[-3:, 0].tolist() == [0, 2, 0]


def test_an_amount_to_predict_is_read_like_any_other(write):
    write("x,y\n" + "".join(f'{row}.5,"$1,{row:03d}.50"\n' for row in range(30)))
    table = load_table("t.csv", target="y")
    assert (table.task, table.target[3]) == ("regression", 1003.5)


def test_the_index_that_pandas_writes_is_left_out_and_kept(write):
    write(",x,y\n" + "".join(f"{row},{row % 7}.5,{row % 2}\n" for row in range(30)))
    table = load_table("t.csv", target="y")
    assert [(column.name, column.kind) for column in table.left_out] == [("index", "index")]
    array = np.stack([np.arange(30), np.arange(30) % 7, np.arange(30) % 2], axis=1)
    assert load_table(array, target="x3").feature_names == ("x1", "x2")  # no names, so no index


def test_what_was_recognised_can_be_said_again(write):
    """A run's settings name every kind, so that the same columns are found again, whatever is recognised later."""
    made(write, ["4/3/2021", "31/12/2020"])
    frame = pl.read_csv("t.csv", infer_schema=False).with_columns(
        key=pl.Series([f"k{row}" for row in range(ROWS)]), word=pl.Series(["u", "v"] * (ROWS // 2)), none=pl.lit(None)
    )
    frame.write_csv("t.csv")
    table = load_table("t.csv", target="y")
    said = wishes_of(table.columns, table.left_out)
    assert said["date"] == ("c=%d/%m/%Y",)
    again = load_table("t.csv", target="y", **said)
    assert (again.columns, again.features.tobytes()) == (table.columns, table.features.tobytes())
    assert {column.name for column in again.left_out} == {"key", "none"}


CELLS = (
    "", "NA", "?", "-", "None", "nan", "inf", "1", "0", "-1", "01", "1.5", "1e5", "1e400", "1,5", "1,234", "1.234",
    "1.234,5", "$5", "5 €", "(5)", "(5", "()", "%", "5%", "1 234", "5-",
    "--5", "1.2.3", "..", "0x10", "1_000", "١٢", "½",
    "true", "No", "Y", "F", "2021-01-01", "2021-13-01", "31/12/2020", "1/2/2020", "Jan 1, 2020", "2021-01-01T10:00:00Z",
    "25:61", "10:30 PM", "9999-12-31", "a", "日本", "a\nb", " a ", "\u200b", "x" * 99, "\x1b[31m", "USD", "1€€", "+",
)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    column=st.one_of(
        st.lists(st.sampled_from(CELLS), min_size=12, max_size=12),
        st.lists(st.sampled_from(CELLS), min_size=2, max_size=2).map(lambda two: two * 6),
        st.lists(st.one_of(st.none(), st.datetimes()), min_size=12, max_size=12),
        st.lists(st.one_of(st.none(), st.floats(), st.integers(0, 3).map(float)), min_size=12, max_size=12),
    ),
    wish=st.sampled_from([None, "categorical", "numeric", "date", "id", "drop"]),
)
def test_any_cells_give_a_table_that_can_be_read_again_or_a_line_of_help(column, wish):
    frame = pl.DataFrame({"a": column, "b": [1, 2.5, None] * 4, "y": [0, 1] * 6}, strict=False)
    try:
        table = load_table(frame, target="y", **({} if wish is None else {wish: ["a"]}))
    except InputError as problem:
        said = str(problem)
    else:
        said = ""
        read_again(frame, table, ["a"] if wish == "numeric" else [])
    assert len(said.splitlines()) in (0, 2)


def read_again(frame: pl.DataFrame, table: Table, numeric: list[str]) -> None:
    names, columns = table.feature_names, table.columns
    again = read_features(frame, feature_names=names, columns=columns, impute="auto")
    assert again.tobytes() == table.features.tobytes()
    one = read_features(frame[4:5], feature_names=names, columns=columns, impute="mean")
    assert one.tobytes() == table.features[4:5].tobytes()
    said = load_table(frame, target="y", **wishes_of(columns, table.left_out, numeric))
    assert (said.columns, said.features.tobytes()) == (columns, table.features.tobytes())


def test_every_format_of_numbers_is_read_from_a_file_and_no_other():
    written = ["1,5", "1.5", "1.234,5", "1,234.5", "1,5%", "1.5 %", "$7", "7 €", "(7)", "1 234"]
    found = {form[0] for text in written if (form := find_number_format([text])) is not None}
    assert found == set(NUMBER_FORMATS) - {"plain"}
    for form in NUMBER_FORMATS:
        assert ColumnSpec.from_dict({"name": "x", "format": form}).format == form
        assert form == "plain" or isinstance(parse_number("7 %" if "%" in form else "7", form), float)
    for form in ("1.234,5", "", "Point", "point%", "point % ", "comma comma", "%d", "point\n", " point", "None"):
        with pytest.raises(ValueError, match="has numbers of the form"):
            ColumnSpec.from_dict({"name": "x", "format": form})


@pytest.mark.parametrize("form", ["%Y%m%d%H", "%H", "%Y-%m-%d %I"])
def test_a_format_of_dates_that_holds_half_a_time_is_refused(write, form):
    with pytest.raises(ConfigError, match="dates cannot be written as"):
        parse_dates(pl.Series(["2020-01-01"]), form)
    with pytest.raises(ConfigError, match="dates cannot be written as"):
        made(write, ["20200101 12", "20200102 13"], date=(f"c={form}",))


@pytest.mark.parametrize(
    "form", ["", "%", "%%", "%9999d", "\0", "%s", "%+", "%:z", "%Q", "%.3f", "%Z", "%Y" * 1000, "日%Y"]
)
def test_any_other_format_of_dates_fits_or_does_not(form):
    assert np.isnan(parse_dates(pl.Series(["2020-01-01", "x"]), form)[0]).all()
