"""The guide on training parity: its Python runs from top to bottom and prints what it says."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from lrdiff_bench.gpu.record import PARTS
from lrdiff_export.training import ARITHMETICS, IMPLEMENTATIONS

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "training-parity.md"
TEXT = GUIDE.read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


@pytest.fixture
def _same_registry() -> Iterator[None]:
    before = dict(IMPLEMENTATIONS)
    yield
    IMPLEMENTATIONS.clear()
    IMPLEMENTATIONS.update(before)


@pytest.mark.usefixtures("_same_registry")
def test_the_examples_print_what_the_guide_says() -> None:
    assert len(BLOCKS) == 2
    for code, expected in BLOCKS:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, str(GUIDE), "exec"), {})
        assert printed.getvalue() == expected, code


def test_every_section_of_the_contents_is_there() -> None:
    links = re.findall(r"\]\(#([^)]+)\)", TEXT)
    titles = {
        re.sub(r"[^a-z0-9 -]", "", t.lower()).strip().replace(" ", "-") for t in re.findall(r"^#+ (.+)$", TEXT, re.M)
    }
    assert links
    assert set(links) <= titles


def test_every_lane_arithmetic_and_part_is_described() -> None:
    assert [name for name in (*IMPLEMENTATIONS, *ARITHMETICS) if f"`{name}`" not in TEXT] == []
    for part in PARTS.values():
        assert f"| {part.name} | " in TEXT
        assert f"| {part.seconds:g} s |" in TEXT
