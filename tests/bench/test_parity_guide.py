"""The guide on parity: its Python runs and prints what it says, its commands and backends exist."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest

from lrdiff_bench.cli import main
from lrdiff_export import BACKENDS
from lrdiff_export.parity import faults

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "parity.md"
TEXT = GUIDE.read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", TEXT, re.DOTALL | re.MULTILINE)
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]


def test_the_examples_print_what_the_guide_says() -> None:
    assert len(BLOCKS) == 3
    before = dict(BACKENDS)
    namespace: dict[str, object] = {}
    try:
        for code, expected in BLOCKS:
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(code, str(GUIDE), "exec"), namespace)
            assert printed.getvalue() == expected, code
    finally:
        BACKENDS.clear()
        BACKENDS.update(before)


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_and_its_options_exist(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(line.split("#")[0])
    assert words[0] == "lrdiff"
    assert main([words[1], "--help"]) == 0
    shown = capsys.readouterr().out
    for word in words:
        if word.startswith("--"):
            assert word in shown
    if "--backends" in words:
        assert set(words[words.index("--backends") + 1].split(",")) <= set(BACKENDS)


def test_every_backend_and_every_fault_stands_in_the_guide() -> None:
    table = TEXT[TEXT.index("## Backends") : TEXT.index("## In Python")]
    named = set(re.findall(r"`([\w-]+)`", table))
    for name in BACKENDS:
        assert name in named or f"-{name.removeprefix('onnxruntime-')}" in named, name
    named_faults = [value for name, value in vars(faults).items() if name.isupper() and isinstance(value, str)]
    assert len(named_faults) > 9
    for fault in named_faults:
        assert f"| {fault} |" in TEXT


def test_every_section_of_the_contents_is_there() -> None:
    links = re.findall(r"\]\(#([^)]+)\)", TEXT)
    titles = {
        re.sub(r"[^a-z0-9 -]", "", one.lower()).strip().replace(" ", "-")
        for one in re.findall(r"^#+ (.+)$", TEXT, re.M)
    }
    assert links
    assert set(links) <= titles
