"""The guide on exporting: its Python runs from top to bottom and prints what it says."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "export.md"
BLOCKS = re.findall(
    r"^```python\n(.*?)^```\n(?:```text\n(.*?)^```)?", GUIDE.read_text("utf-8"), re.DOTALL | re.MULTILINE
)


@pytest.mark.slow
def test_the_examples_print_what_the_guide_says(tmp_path: Path) -> None:
    assert len(BLOCKS) >= 8
    namespace: dict = {"folder": tmp_path}
    for code, expected in BLOCKS:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, str(GUIDE), "exec"), namespace)
        assert printed.getvalue() == expected, code


def test_every_section_of_the_contents_is_there() -> None:
    text = GUIDE.read_text("utf-8")
    links = re.findall(r"\]\(#([^)]+)\)", text)
    titles = {
        re.sub(r"[^a-z0-9 -]", "", t.lower()).strip().replace(" ", "-") for t in re.findall(r"^#+ (.+)$", text, re.M)
    }
    assert links
    assert set(links) <= titles
