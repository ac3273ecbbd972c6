"""The programs of docs/guide/integrations run with the real libraries, and print what the pages say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "guide" / "integrations"
NEEDS = {
    "lightning": ["lightning"],
    "hugging-face": ["transformers", "accelerate", "peft"],
    "accelerate": ["accelerate"],
    "fully-shard": ["torch"],
    "ignite": ["ignite"],
    "skorch": ["skorch"],
    "fastai": ["fastai"],
    "keras": ["keras"],
    "tracking": ["tensorboard"],
}
HEAVY = ("lightning", "hugging-face", "accelerate", "fully-shard", "fastai")  # to import
PATIENCE_S = 240

pytestmark = [pytest.mark.interop, pytest.mark.slow]


def test_every_page_with_a_program_is_run():
    pages = {page.stem for page in PAGES.glob("*.md") if "```python" in page.read_text(encoding="utf-8")}
    assert pages == set(NEEDS)


@pytest.mark.parametrize("page", [pytest.param(one, marks=pytest.mark.long) if one in HEAVY else one for one in NEEDS])
def test_the_program_of_a_page_prints_what_the_page_says(page, tmp_path):
    for library in NEEDS[page]:
        if not find_spec(library):
            pytest.skip(f"{library} is not installed")
    text = (PAGES / f"{page}.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    (said,) = re.findall(r"```text\n(.*?)```", text, flags=re.DOTALL)
    (tmp_path / "train.py").write_text(code)
    several = "torchrun" in text
    start = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "train.py"] if several else ["train.py"]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "export"), str(ROOT / "bench"), os.environ.get("PYTHONPATH", "")])
    ended = subprocess.run(
        [sys.executable, *start], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-len(said.splitlines()) :] == said.splitlines(), ended.stdout
