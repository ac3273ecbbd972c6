"""Files that cannot be read: the text of every message, and that no other exception gets out."""

from __future__ import annotations

import gzip
import io
from datetime import date
from functools import partial
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings, strategies as st
from refusals import refusal

from lrdiff_core.data import load_table
from lrdiff_core.errors import DataError, InputError

ROWS = "a,b,y\n1,2,0\n3,4,1\n5,6,0\n7,8,1\n"

CSV_CASES = {
    "empty": ("", "t.csv is empty", "use a file with a header and rows"),
    "blank": (" \n\n", "t.csv is empty", "use a file with a header and rows"),
    "header alone": ("a,b,y\n", "t.csv has a header and no rows", "use a file with rows below its header"),
    "unnamed column": (
        "a,,y\n0,1,2\n",
        "t.csv has no name for column 2",
        "name every column in the header, or remove the column (pandas writes one unless index=False)",
    ),
    "trailing comma": (
        "a, ,y,\n0,1,2,\n",
        "t.csv has no name for column 2, 4",
        "name every column in the header, or remove the column (pandas writes one unless index=False)",
    ),
    "duplicate names": (
        'a,"b,c",a,"b,c",y\n1,2,3,4,0\n',
        't.csv has more than one column of the name "a", "b,c"',
        "give every column a name of its own",
    ),
    "names alike but for spaces": (
        "a, a,y\n1,2,3\n",
        't.csv has more than one column of the name "a"',
        "give every column a name of its own",
    ),
    "short row": (
        "a,b,y\n1,2,0\n3,4\n",
        "row 2 of t.csv has 2 fields, and the header has 3",
        'give every row 3 fields; a value that holds "," must stand in double quotes',
    ),
    "long row": (
        "a,y\n1,2\n\n3,4,5\n",
        "row 2 of t.csv has 3 fields, and the header has 2",
        'give every row 2 fields; a value that holds "," must stand in double quotes',
    ),
    "short row, semicolons": (
        "a;b;y\n1\n",
        "row 1 of t.csv has 1 field, and the header has 3",
        'give every row 3 fields; a value that holds ";" must stand in double quotes',
    ),
    "open quote": (
        'a,y\n1,2\n"3,4\n',
        "row 2 of t.csv is not CSV: unexpected end of data",
        "check its double quotes: each opens and closes a whole field, and one inside is written twice",
    ),
    "text after a quote": (
        'a,y\n"1"2,3\n',
        "row 1 of t.csv is not CSV: ',' expected after '\"'",
        "check its double quotes: each opens and closes a whole field, and one inside is written twice",
    ),
    "latin-1": (
        "a,y\n1,2\n3,é\n".encode("latin-1"),
        "t.csv is not UTF-8 text: byte 0xe9 on line 3",
        "save it as UTF-8, for example: iconv -f latin1 -t utf-8 t.csv",
    ),
    "UTF-16": (ROWS.encode("utf-16"), "t.csv is not what its name says: it is UTF-16 text", "save it as UTF-8"),
    "NUL": (
        b"\x7fELF\0\0\0",
        "t.csv is not text",
        "use comma-separated text in UTF-8, or give the file the suffix of its format",
    ),
    "gzip inside": (
        gzip.compress(ROWS.encode()),
        "t.csv is not what its name says: it is a gzip archive",
        "rename it to end in .gz behind the suffix of its format",
    ),
    "spreadsheet inside": (
        b"PK\x03\x04rest",
        "t.csv is not what its name says: it is a zip archive or a spreadsheet",
        "rename it to end in .zip or .xlsx",
    ),
    "Parquet inside": (
        b"PAR1rest",
        "t.csv is not what its name says: it is a Parquet file",
        "rename it to end in .parquet",
    ),
    "Arrow inside": (
        b"ARROW1rest",
        "t.csv is not what its name says: it is an Arrow file",
        "rename it to end in .arrow",
    ),
}


refused = partial(refusal, load_table, kind=InputError)


@pytest.mark.parametrize("case", CSV_CASES)
def test_csv_message(write, case):
    content, message, help = CSV_CASES[case]
    assert refused(write(content), target="y") == (message, help)


def test_missing_file(write):
    write(ROWS)
    assert refused("u.csv") == ("u.csv does not exist", "check the name; a relative one starts at the current folder")
    assert refused(Path("seed")) == (
        "seed does not exist",
        "check the name; a relative one starts at the current folder",
    )


def test_unknown_word(write):
    write(ROWS)
    assert refused("digit") == (
        '"digit" is neither a built-in table nor an existing file',
        "built-in tables, nearest first: digits, seed, wine, breast_cancer; "
        "a file ends in .csv, .tsv, .parquet, .arrow, .ipc, .feather, .jsonl, .ndjson, .xlsx",
    )


def test_folder(write):
    write(ROWS)
    Path("d.csv").mkdir()
    assert refused("d.csv") == (
        "d.csv is a folder, not a file",
        "name one file in it that ends in .csv, .tsv, .parquet, .arrow, .ipc, .feather, .jsonl, .ndjson or .xlsx",
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("t.gz", "t.gz ends in .gz, so its format is not recognised"),
        ("t.xls", "t.xls ends in .xls, so its format is not recognised"),
        ("t.pdf.xz", "t.pdf.xz ends in .pdf.xz, so its format is not recognised"),
        ("wine", "wine has no suffix, so its format is not recognised"),
    ],
)
def test_suffix(write, name, message):
    said, help = refused(write(ROWS, name), target="y")
    assert said == message
    assert help.startswith("use a file in .csv, .tsv, .parquet, ")
    assert help.endswith("or one of them compressed: .gz, .bz2, .xz, .zst, .zip")


def test_unreadable(write, monkeypatch):
    def deny(path):
        raise PermissionError(13, "Permission denied")

    name = write(ROWS)
    monkeypatch.setattr(Path, "read_bytes", deny)
    assert refused(name, target="y") == ("cannot read t.csv: Permission denied", "check that you may read it")


def test_target(write):
    name = write("x1,Label,y\n1,0,2\n")
    assert refused(name) == ("t.csv needs a target column", 'add `--target` with one of: "x1", "Label", "y"')
    assert refused(name, target="lable") == (
        't.csv has no column "lable"',
        'columns, nearest first: "Label", "x1", "y"',
    )
    wide = write(",".join(f"c{i}" for i in range(12)) + "\n" + ",".join("1" * 12), "wide.csv")
    assert refused(wide)[1] == (
        'add `--target` with one of: "c0", "c1", "c2", "c3", "c4", "c5", "c6", "c7", "c8", "c9" and 2 more'
    )
    assert refused(write("y\n0\n1\n"), target="y") == (
        't.csv has no column besides the target "y"',
        "add at least one feature column",
    )


def test_settings(write):
    name = write(ROWS)
    assert refused(name, target="y", task="classes") == (
        'task is "classes"',
        "write one of: auto, binary, multiclass, regression",
    )
    assert refused(name, target="y", impute="zero") == (
        'impute is "zero"',
        "write one of: auto, none, mean, median, drop",
    )
    assert refused("seed", seed=-1) == ("seed is -1", "write a whole number from 0 up")
    assert refused("seed", seed=0.5) == ("seed is 0.5", "write a whole number from 0 up")


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (pl.Series("c", [date(2024, 1, 1)] * 4), "date"),
        (pl.Series("c", ["u", "v", "u", "v"], dtype=pl.Categorical), "categorical"),
        (pl.Series("c", ["u", "v", "u", "v"], dtype=pl.Enum(["u", "v"])), "enum"),
        (pl.Series("c", [[1.0], [2.0], [3.0], [4.0]]), "list"),
        (pl.Series("c", [{"u": 1}] * 4), "struct"),
        (pl.Series("c", [b"u"] * 4), "binary"),
    ],
)
def test_column_type(write, column, kind):
    write("")
    frame = pl.DataFrame([pl.Series("a", [1, 2, 3, 4]), column, pl.Series("y", [0, 1, 0, 1])])
    frame.write_parquet("t.parquet")
    expected = f'column "c" of t.parquet is of type {kind}, not numbers'
    if kind in ("categorical", "enum"):
        assert load_table("t.parquet", target="c").classes == ("u", "v")
        assert load_table("t.parquet", target="y").columns[1].categories == ("u", "v")
        return
    assert refused("t.parquet", target="c") == (expected, "name a target of numbers, booleans or text")
    if kind == "date":
        assert load_table("t.parquet", target="y").columns[1].kind == "date"
    else:
        assert refused("t.parquet", target="y")[0] == expected
        assert load_table("t.parquet", target="y", drop=["c"]).feature_names == ("a",)


def columnar_bytes(frame: pl.DataFrame, suffix: str) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="uncompressed") if suffix == ".parquet" else frame.write_ipc(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_columnar_damage(write, suffix):
    kind = {".parquet": "Parquet", ".arrow": "Arrow IPC"}[suffix]
    whole = columnar_bytes(pl.read_csv(io.StringIO(ROWS)), suffix)
    name = f"t{suffix}"
    for damaged in (whole[: len(whole) // 2], b"not a frame at all", ROWS.encode()):
        message, help = refused(write(damaged, name), target="y")
        assert message.startswith(f"{name} is not a complete {kind} file: ")
        assert help == "write the file again, or give it the suffix of its real format"
    assert refused(write(b"", name), target="y")[0] == f"{name} is empty"


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_columnar_without_rows(write, suffix):
    name = write(columnar_bytes(pl.DataFrame({"a": [], "y": []}), suffix), f"t{suffix}")
    assert refused(name, target="y")[0] == f"{name} has a header and no rows"


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_columnar_duplicate_names(write, suffix):
    whole = columnar_bytes(pl.DataFrame({"name_one": [1.0], "name_two": [2.0]}), suffix)
    expected = {
        ".parquet": (
            "t.parquet has more than one column of the same name: "
            "column with name 'name_one' has more than one occurrence",
            "give every column a name of its own",
        ),
        # polars does not tell this from damage
        ".arrow": (
            "t.arrow cannot be decoded: it is damaged, or two of its columns have the same name",
            "write the file again, with a name of its own for every column",
        ),
    }
    assert refused(write(whole.replace(b"name_two", b"name_one"), f"t{suffix}"), target="y") == expected[suffix]


# Cut files only: polars may abort the whole process on a Parquet file with changed bytes, which no caller can catch.
@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_a_file_cut_anywhere_is_refused(write, suffix):
    whole = columnar_bytes(pl.read_csv(io.StringIO(ROWS)), suffix)
    for length in range(0, len(whole), 17):
        message, _ = refused(write(whole[:length], f"t{suffix}"), target="y")
        assert message.startswith(f"t{suffix} is ")


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_changed_bytes_give_a_table_or_a_data_error(tmp_path_factory, data):
    changed = bytearray(ROWS.encode())
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "changed.csv"
    path.write_bytes(bytes(changed))
    try:
        load_table(path, target="y")
    except DataError as problem:
        lines = str(problem).splitlines()
        assert len(lines) == 2
