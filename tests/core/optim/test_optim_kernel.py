"""The compiled kernel: built where a compiler is, kept in a safe place, done without where it is not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from optim_pairs import feed, make

import lrdiff_core.optim
from lrdiff_core.optim import AdamW, kernel

needs_compiler = pytest.mark.skipif(kernel.load() is None, reason="no C compiler here")


@pytest.fixture
def afresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An empty cache, and a loader that has loaded nothing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kernel.attempt.cache_clear()
    yield tmp_path / "lrdiff"
    monkeypatch.undo()
    kernel.attempt.cache_clear()


@needs_compiler
def test_is_built_once_and_leaves_nothing_else(afresh: Path) -> None:
    assert kernel.load() is not None
    (built,) = afresh.iterdir()
    assert built.suffix == ".so"
    assert afresh.stat().st_mode & 0o077 == 0
    made = built.stat().st_mtime_ns
    kernel.attempt.cache_clear()
    assert kernel.load() is not None
    assert built.stat().st_mtime_ns == made


@needs_compiler
def test_a_cache_that_others_can_write_is_not_used(afresh: Path) -> None:
    afresh.mkdir()
    afresh.chmod(0o777)
    assert kernel.load() is not None
    assert list(afresh.iterdir()) == []


def _steps() -> dict[str, int]:
    params = make([(3, 3)])
    optimizer = AdamW(params)
    feed(params, seed=0)
    optimizer.step()
    return optimizer.forms()


def test_can_be_turned_off(afresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LRDIFF_KERNEL", "0")
    assert _steps() == {"fused": 1}
    assert not afresh.exists()


@pytest.mark.parametrize("compiler", ["/nowhere/cc", "false"], ids=["absent", "failing"])
def test_without_a_working_compiler_torchs_kernels_step(
    compiler: str, afresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", compiler)
    assert _steps() == {"fused": 1}


def test_without_any_compiler_torchs_kernels_step(afresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    assert _steps() == {"fused": 1}


@needs_compiler
def test_shares_torchs_thread_pool() -> None:
    """Two OpenMP runtimes in one process would fight for the cores."""
    torch.set_num_threads(2)
    params = make([(400, 400)])
    optimizer = AdamW(params)
    feed(params, seed=0)
    optimizer.step()
    torch.ones(1000, 1000).mul_(2)
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("no /proc here")
    loaded = {line.split()[-1] for line in maps.read_text().splitlines() if "libgomp" in line}
    loaded = {path for path in loaded if "scikit_learn" not in path}  # another test's, in this process by chance
    assert len(loaded) <= 1 or not any("torch" in path for path in loaded)


def test_import_is_light() -> None:
    """Importing the optimizers compiles nothing and imports no compiler (torch's own constructor imports dynamo)."""
    script = (
        "import sys, torch; base = set(sys.modules)\n"
        "import lrdiff_core.optim as optim\n"
        "assert optim.kernel.attempt.cache_info().currsize == 0\n"
        "heavy = {'torch._dynamo', 'torch._inductor', 'triton', 'onnx', 'sklearn', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules) - base))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "[]"


def test_public_names_are_pinned() -> None:
    assert lrdiff_core.optim.__all__ == ["SGD", "Adam", "AdamW", "MuonAdamW"]


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"LRDIFF_KERNEL": "0"}, "switched off by LRDIFF_KERNEL=0"),
        ({"CC": "/nonexistent/cc"}, "/nonexistent/cc did not build it: "),
        ({"CC": "false"}, "false did not build it: "),
    ],
)
def test_a_kernel_that_is_not_there_says_why(variables, reason, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    kernel.attempt.cache_clear()
    try:
        assert kernel.load() is None
        assert kernel.missing_reason().startswith(reason)
    finally:
        monkeypatch.undo()
        kernel.attempt.cache_clear()
