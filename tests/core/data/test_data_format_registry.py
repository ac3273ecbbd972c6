"""The contract of the registry: what a format writes it reads, with the same columns, compressed or not."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sys
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lrdiff_core.data import load_table, read_features
from lrdiff_core.data.formats import FORMATS, SUFFIXES, compressed, encode_frame, has_suffix, read_frame, table_name
from lrdiff_core.data.formats.compressed import PACKED, unpack, unpacked_limit
from lrdiff_core.data.formats.registry import _recognise
from lrdiff_core.data.formats.spreadsheet import _check_size
from lrdiff_core.errors import ConfigError, DataError, UnavailableError

FRAME = pl.DataFrame(
    {
        "number": [1.5, -2e-7, None, 1e300],
        "whole": [3, -4, 5, 2**53 + 1],
        "word": ["ä", 'with "quotes", and commas', "two\nlines", ""],
        "truth": [True, False, True, None],
        "y": ["u", "v", "u", "v"],
    }
)
WRITTEN = [suffix for one in FORMATS if one.write is not None for suffix in one.suffixes]


def tried(suffix: str) -> bytes:
    if suffix.endswith(".zst"):
        pytest.importorskip("zstandard")
    return encode_frame(FRAME, Path(f"t{suffix}"))


def as_text(frame: pl.DataFrame) -> pl.DataFrame:
    """Typed formats and those of strings, compared cell by cell."""
    frame = frame.with_columns(pl.col("number", "whole").cast(pl.Float64), pl.col("truth").cast(pl.String))
    return frame.with_columns(pl.col("truth").str.to_lowercase().replace("", None), pl.col("word").fill_null(""))


@pytest.mark.parametrize("packed", ["", *PACKED])
@pytest.mark.parametrize("suffix", WRITTEN)
def test_what_is_written_is_read(write, suffix, packed):
    name = write(tried(suffix + packed), f"t{suffix}{packed}")
    frame, notes = read_frame(Path(name))
    assert notes == ()
    assert frame.columns == FRAME.columns
    back = frame.with_columns(pl.col("number").replace("", None)) if frame["number"].dtype == pl.String else frame
    assert as_text(back).rows() == as_text(FRAME).rows()
    assert has_suffix(Path(name))
    assert table_name(Path(name)) == "t"


@pytest.mark.parametrize("suffix", [*WRITTEN, ".csv.gz", ".csv.bz2", ".csv.xz", ".csv.zst", ".jsonl.zip"])
def test_standard_input_is_recognised_by_its_bytes(monkeypatch, suffix):
    if ".tsv" in suffix:
        pytest.skip("a comma in a text may separate columns: name the file")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(tried(suffix))))
    frame, _ = read_frame(Path("-"))
    assert frame.columns == FRAME.columns
    assert frame.height == 4


def workbook(sheets: dict[str, list[list[object]]]) -> bytes:
    """A workbook as Excel writes one, without its styles."""
    main, office = "http://schemas.openxmlformats.org/spreadsheetml/2006/main", "http://schemas.openxmlformats.org"
    relations = f"{office}/officeDocument/2006/relationships"
    package = f"{office}/package/2006"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        kind = "application/vnd.openxmlformats"
        kinds = "".join(
            f'<Override PartName="/xl/worksheets/sheet{i}.xml" ContentType="{kind}-officedocument.spreadsheetml'
            '.worksheet+xml"/>'
            for i in range(1, len(sheets) + 1)
        )
        archive.writestr(
            "[Content_Types].xml",
            f'<Types xmlns="{package}/content-types">'
            f'<Default Extension="rels" ContentType="{kind}-package.relationships+xml"/>'
            f'<Override PartName="/xl/workbook.xml" ContentType="{kind}-officedocument.spreadsheetml.sheet.main+xml"/>'
            f"{kinds}</Types>",
        )
        archive.writestr(
            "_rels/.rels",
            f'<Relationships xmlns="{package}/relationships"><Relationship Id="r1" Type="{relations}/officeDocument" '
            'Target="xl/workbook.xml"/></Relationships>',
        )
        names = "".join(f'<sheet name="{name}" sheetId="{i}" r:id="s{i}"/>' for i, name in enumerate(sheets, start=1))
        archive.writestr(
            "xl/workbook.xml", f'<workbook xmlns="{main}" xmlns:r="{relations}"><sheets>{names}</sheets></workbook>'
        )
        targets = "".join(
            f'<Relationship Id="s{i}" Type="{relations}/worksheet" Target="worksheets/sheet{i}.xml"/>'
            for i in range(1, len(sheets) + 1)
        )
        archive.writestr(
            "xl/_rels/workbook.xml.rels", f'<Relationships xmlns="{package}/relationships">{targets}</Relationships>'
        )
        for i, rows in enumerate(sheets.values(), start=1):
            cells = "".join(
                f'<row r="{r}">' + "".join(_cell(f"{chr(65 + c)}{r}", value) for c, value in enumerate(row)) + "</row>"
                for r, row in enumerate(rows, start=1)
            )
            archive.writestr(
                f"xl/worksheets/sheet{i}.xml", f'<worksheet xmlns="{main}"><sheetData>{cells}</sheetData></worksheet>'
            )
    return buffer.getvalue()


def _cell(place: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return f'<c r="{place}" t="inlineStr"><is><t>{value}</t></is></c>'
    return f'<c r="{place}"><v>{value}</v></c>'


ROWS = [["a", "b", "y"], [1.5, "x", 0], [2, None, 1], [3.25, "z", 0], [4, "x", 1]]


def test_excel(write):
    pytest.importorskip("fastexcel")
    frame, notes = read_frame(Path(write(workbook({"first": ROWS, "second": [["q"], [1]]}), "t.xlsx")))
    assert notes == ('sheet "first" is read, and 1 more is not',)
    assert frame["a"].to_list() == [1.5, 2, 3.25, 4]
    assert frame["b"].to_list() == ["x", None, "z", "x"]
    for rows, words in (
        ([["a", "a"], [1, 2]], "more than one column"),
        ([["a", None, "y"], [1, 2, 3]], "no name for column 2"),
        ([["a", "y"]], "no rows"),
        ([], "empty first sheet"),
    ):
        with pytest.raises(DataError, match=words):
            read_frame(Path(write(workbook({"s": rows}), "bad.xlsx")))
    for content in (b"PK\x03\x04rest", b"plain text", workbook({"s": ROWS})[:300]):
        with pytest.raises(DataError, match="not a complete Excel file"):
            read_frame(Path(write(content, "bad.xlsx")))


def test_packages_that_are_not_here_are_named(write, monkeypatch):
    monkeypatch.setitem(sys.modules, "fastexcel", None)
    monkeypatch.setitem(sys.modules, "zstandard", None)
    for name, package in (("t.xlsx", "fastexcel"), ("t.csv.zst", "zstandard")):
        with pytest.raises(UnavailableError) as caught:
            read_frame(Path(write(b"PK\x03\x04", name)))
        assert caught.value.help.startswith(f"pip install {package}")


def test_json_lines(write):
    text = '{"a": 1, "y": "u"}\r\n\n{"y": "v", "a": 2.5, "b": true}\n{"a": null, "y": "u"}'
    frame, (note,) = read_frame(Path(write(text, "t.jsonl")))
    assert "2 lines of 3" in note
    assert frame.rows() == [(1.0, "u", None), (2.5, "v", True), (None, "u", None)]
    mixed, _ = read_frame(Path(write('{"a": 1}\n{"a": "x"}\n{"a": true}\n', "t.jsonl")))
    assert mixed["a"].to_list() == ["1", "x", "true"]
    for content, words in (
        ('{"a": 1}\n[1]\n', "line 2 of t.jsonl is not an object but a list"),
        ('{"a": 1}\n\n{"a": 1', "line 3 of t.jsonl is not JSON"),
        ('{"a": 1, "a": 2}', "line 1 of t.jsonl has a key twice"),
        ('{"a": {"b": 2}}', '"a" in line 1 of t.jsonl holds an object'),
        ("[" * 5000, "not JSON"),
        ('[{"a": 1}]', "not an object but a list"),
        ('{"": 1}', "no name for column 1"),
        ("{}", "no rows|no name|0"),
        (b"\xff\xfe", "UTF-16"),
        (" \n", "empty"),
    ):
        with pytest.raises(DataError, match=words):
            read_frame(Path(write(content, "t.jsonl")))


BOMB = bytes(2**22)


@pytest.mark.parametrize(
    "bomb",
    [(".bz2", bz2.compress(BOMB)), (".xz", lzma.compress(BOMB)), (".gz", gzip.compress(BOMB)), (".zip", None)],
    ids=lambda one: one[0],
)
def test_what_unpacks_to_too_much_is_refused(write, monkeypatch, bomb):
    suffix, data = bomb
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("t.csv", BOMB)
    monkeypatch.setattr(compressed, "FREE_BYTES", 2**20)
    monkeypatch.setattr(compressed, "MOST_RATIO", 100)
    with pytest.raises(DataError, match="unpacks to more than"):
        read_frame(Path(write(data or buffer.getvalue(), f"t.csv{suffix}")))
    assert unpacked_limit(10**9) == 2**32


@pytest.mark.parametrize("suffix", PACKED)
def test_damage_is_refused(write, suffix):
    whole = tried(f".csv{suffix}")
    for content in (whole[: len(whole) // 2], whole[:3], b"not packed at all", whole[:20] + b"\xff" * 30):
        with pytest.raises(DataError, match=r"not a complete|cannot be unpacked|is not|holds"):
            read_frame(Path(write(content, f"t.csv{suffix}")))
    assert unpack(Path("t"), whole, suffix)[0].startswith(b"number,whole")


@pytest.mark.parametrize("suffix", [*PACKED, ".xlsx"])
def test_every_bit_that_is_flipped_is_refused_or_harmless(suffix):
    whole = workbook({"blätter": [["a"], [1]]}) if suffix == ".xlsx" else tried(f".csv{suffix}")
    readers = (_check_size, _recognise) if suffix == ".xlsx" else (partial(unpack, suffix=suffix),)
    refused = 0
    most = min(150, len(whole))
    for at in range(-most, most):  # a header, and a zip's list at its end
        for bit in range(8):
            data = bytearray(whole)
            data[at] ^= 1 << bit
            for read in readers:
                try:
                    read(Path("t"), bytes(data))
                except DataError:
                    refused += 1
    assert refused > 100


def test_a_zip_holds_one_table(write):
    def zipped(**members: bytes) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, content in members.items():
                archive.writestr(name.replace("_dot_", ".").replace("_in_", "/"), content)
        return buffer.getvalue()

    csv = b"a,y\n1,2\n"
    assert read_frame(Path(write(zipped(rows_dot_csv=csv, __MACOSX_in_x=b""), "t.zip")))[0].columns == ["a", "y"]
    assert read_frame(Path(write(zipped(t_dot_jsonl=b'{"a":1}'), "t.csv.zip")))[0].columns == ["a"]
    for content, words in (
        (zipped(a_dot_csv=csv, b_dot_csv=csv), "holds 2 files"),
        (zipped(), "holds 0 files"),
        (zipped(a_dot_pdf=csv), "ends in .pdf"),
        (zipped(a=csv), "no suffix"),
    ):
        with pytest.raises(DataError, match=words):
            read_frame(Path(write(content, "t.zip")))


def test_only_written_formats_are_written():
    for name in ("t.xlsx", "t.txt", "t", "t.gz"):
        with pytest.raises(DataError, match="no format that is written"):
            encode_frame(FRAME, Path(name))
    assert set(WRITTEN) | {".xlsx"} == set(SUFFIXES)


def test_tables_and_predictions_take_every_format(write):
    rows = pl.DataFrame({"a": [1.5, 2, 3, 4], "y": ["u", "v"] * 2})
    write("")
    for suffix in (".csv.gz", ".jsonl", ".parquet.xz"):
        Path(f"t{suffix}").write_bytes(encode_frame(rows, Path(f"t{suffix}")))
        table = load_table(f"t{suffix}", target="y")
        assert (table.name, table.features[:, 0].tolist()) == ("t", [1.5, 2, 3, 4])
        assert np.array_equal(read_features(f"t{suffix}", feature_names=["a"])[:, 0], [1.5, 2, 3, 4])


def test_a_run_does_not_take_standard_input():
    from lrdiff_core import make_config

    with pytest.raises(ConfigError, match="standard input"):
        make_config({"data": "-", "target": "y"})
