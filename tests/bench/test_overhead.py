"""``benchmarks/overhead``: each command measures, keeps a record, and writes its page from it."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.overhead import clip, large, step_check
from lrdiff_bench.report.record import read_record
from lrdiff_core.optim import guard, kernel

pytestmark = pytest.mark.skipif(kernel.load() is None, reason=f"no kernel: {kernel.missing_reason()}")
COMMANDS = {
    "large": (large, large.LARGE, ["--parameters", "80000", "--threads", "1,2", "--rounds", "6", "--past"], 2),
    "clip": (clip, clip.CLIP, ["--models", "mlp", "--rounds", "6"], 16),
    "step-check": (step_check, step_check.CHECK, ["--models", "mlp", "--rounds", "6"], 2),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_measures_keeps_and_writes(name: str, tmp_path: Path, monkeypatch) -> None:
    module, spec, given, count = COMMANDS[name]
    if name == "step-check" and guard.missing_reason() is not None:
        pytest.skip(f"no compiled check: {guard.missing_reason()}")
    record, page = tmp_path / "kept.json", tmp_path / "page.md"
    monkeypatch.setattr(sys, "argv", [name, *given, "--record", str(record), "--out", str(page)])
    module.main()
    kept = read_record(record, **spec)
    assert len(kept["rows"]) == count
    assert page.read_text() == module.page(kept)
    for row in kept["rows"]:
        low, ratio, high = row.get("ratio") or row["over"]
        assert 0 < low <= ratio <= high
    monkeypatch.setattr(sys, "argv", [name, "--from", str(record), "--out", str(tmp_path / "again.md")])
    module.main()
    assert (tmp_path / "again.md").read_text() == page.read_text()


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("past", [False, True])
def test_streams_touch_every_number_once(past: bool, threads: int, tmp_path: Path) -> None:
    library = large.streams_library(tmp_path)
    assert isinstance(library, ctypes.CDLL)
    if past and not library.writes_past():
        pytest.skip("this processor has no AVX")
    for count in (1, 7, 1001, 70_003):
        param, grad, first, second = torch.rand(4, count).unbind()
        expected = [one + grad for one in (param, first, second)]
        four = [one.data_ptr() for one in (param, grad, first, second)]
        library.streams(*four, count, threads, 16_384, past)
        for found, wanted in zip((param, first, second), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=0, atol=0)
