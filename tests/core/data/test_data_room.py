"""Columnar files that say they hold more than there is room for are refused before a row is read."""

import io
import subprocess
import sys

import polars as pl
import pytest

from lrdiff_core.data.formats import read_frame, room
from lrdiff_core.errors import DataError


@pytest.fixture
def packed(tmp_path):
    """Rows that are all alike: 16 MB of them in some kilobytes."""
    frame = pl.DataFrame({"a": pl.repeat(1.5, 2_000_000, eager=True)})
    frame.write_parquet(tmp_path / "t.parquet")
    frame.write_ipc(tmp_path / "t.arrow", compression="zstd")
    return tmp_path


@pytest.mark.parametrize("name", ["t.parquet", "t.arrow"])
def test_far_more_than_the_size_of_the_file(packed, name, monkeypatch):
    assert read_frame(packed / name)[0].height == 2_000_000  # below what hurts nobody
    monkeypatch.setattr(room, "FREE_BYTES", 2**20)
    with pytest.raises(DataError, match=r"2000000 rows, which take at least 0.0149 GiB, over 1000 times its size"):
        read_frame(packed / name)


@pytest.mark.parametrize("name", ["t.parquet", "t.arrow"])
def test_more_than_is_free(packed, name, monkeypatch):
    monkeypatch.setattr(room, "free_bytes", lambda: 2**20)
    with pytest.raises(DataError, match="and 0.000977 GiB are free"):
        read_frame(packed / name)


LONG = {
    "alike": pl.repeat("x" * 1000, 100_000, eager=True),
    "different": pl.select(pl.int_range(10_000).cast(pl.String) + "x" * 10_000).to_series(),
    "bytes": pl.repeat(b"x" * 1000, 100_000, eager=True),
    "lists": pl.select(pl.repeat(pl.lit([1.5] * 125), 100_000)).to_series(),
    "long at the end": pl.select(pl.concat([pl.repeat("x", 20_000), pl.repeat("x" * 10_000, 10_000)])).to_series(),
}


def packings(frame):
    frame.write_parquet(parquet := io.BytesIO())
    frame.write_ipc(arrow := io.BytesIO(), compression="zstd")
    frame.write_ipc_stream(stream := io.BytesIO(), compression="zstd")
    return {"t.parquet": parquet, "t.arrow": arrow, "s.arrow": stream}


@pytest.mark.parametrize("what", LONG)
def test_texts_count_by_their_length(tmp_path, what, monkeypatch):
    """100 MB of them in some kilobytes."""
    for name, packed in packings(pl.DataFrame({"a": LONG[what]})).items():
        file = tmp_path / name
        file.write_bytes(packed.getvalue())
        with monkeypatch.context() as less:
            less.setattr(room, "free_bytes", lambda: 2**26)
            with pytest.raises(DataError, match=r"which take at least .* and 0\.0625 GiB are free"):
                read_frame(file)
        assert read_frame(file)[0].height == len(LONG[what])


def test_short_texts_are_read_as_ever(tmp_path):
    frame = pl.DataFrame({"a": [str(number % 7) for number in range(50_000)], "b": [None] * 50_000, "c": [""] * 50_000})
    for name, packed in packings(frame).items():
        (tmp_path / name).write_bytes(packed.getvalue())
        assert read_frame(tmp_path / name)[0].equals(frame)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the limit of a process")
@pytest.mark.parametrize("name", ["t.parquet", "t.arrow"])
@pytest.mark.parametrize("what", ["alike", "different"])
def test_a_process_with_a_limit_ends_with_a_line_and_no_signal(tmp_path, name, what):
    column = pl.concat([LONG[what]] * 30)  # 3 GB
    (tmp_path / name).write_bytes(packings(pl.DataFrame({"a": column}))[name].getvalue())
    code = (
        "import resource, sys, pathlib, lrdiff_core.data.formats as formats, lrdiff_core.errors as errors\n"
        "resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))\n"
        "try: formats.read_frame(pathlib.Path(sys.argv[1]))\n"
        "except errors.DataError as problem: print(problem.message)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / name], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "which take at least" in done.stdout


def test_what_is_free_is_told_on_linux():
    free = room.free_bytes()
    assert free is None or free > 2**20
