"""What the soak says of a process that holds more and more, and a short one of everything."""

from __future__ import annotations

import mmap
import os
import sys

import pytest

from benchmarks.faults.soak import PARTS, main, soak

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="files and threads are counted by /proc")


def pages_of_its_own(kept):
    """Memory that no earlier test can have left free in this process."""
    kept.append(mmap.mmap(-1, 2**17))
    kept[-1].write(os.urandom(2**17))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("leak", "grown"),
    [
        (lambda kept: None, []),
        (pages_of_its_own, ["memory"]),
        (lambda kept: kept.append(open(os.devnull)), ["files"]),  # noqa: SIM115
    ],
    ids=["nothing", "memory", "files"],
)
def test_what_grows_is_found(leak, grown):
    kept = []
    found = soak("planted", 80, lambda: leak(kept))
    for one in kept:
        one.close()
    assert found.grown == grown
    assert ("GROWS" in found.text()) == bool(grown)
    assert found.looks[-1].rounds == 80
    if grown == ["memory"]:
        assert found.slope == pytest.approx(2**17, rel=0.2)


@pytest.mark.long
def test_nothing_grows_in_a_short_one_of_everything(capsys):
    assert main(["--share", "0.03"]) == 0, capsys.readouterr().out
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(PARTS)
    assert all(line.endswith("flat") and "KiB per 1000" in line for line in lines)
