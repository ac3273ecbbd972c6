"""The code of the guide runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

GUIDE = Path(__file__).parents[3] / "docs" / "guide" / "populations.md"


def test_every_block_of_the_guide_runs(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 4
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(GUIDE), "exec"), names)
    shown = capsys.readouterr().out
    assert "torch.Size([256, 10])" in shown
    assert "diverged: 0" in shown
    assert "torch.Size([256, 5, 10]) torch.Size([256, 40])" in shown
