"""Columnar files that say they hold more than there is room for are refused before a row is read."""

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


def test_what_is_free_is_told_on_linux():
    free = room.free_bytes()
    assert free is None or free > 2**20
