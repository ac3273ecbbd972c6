"""The compiled kernel: built where a compiler is, kept in a safe place, done without where it is not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from optim_pairs import feed, make

import lrdiff_core.optim
from lrdiff_core import compiled
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


@needs_compiler
def test_without_a_cache_the_kernel_is_built_for_this_process_alone(afresh: Path, monkeypatch, tmp_path: Path) -> None:
    """A home that cannot be written, as in many containers: nothing is left behind in the temporary folder either."""
    afresh.write_text("a file where the folder should be")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    assert _steps() == {"kernel": 1}
    assert not list(scratch.glob("lrdiff-*"))


@needs_compiler
@pytest.mark.parametrize("damage", [b"", b"\x7fELF cut short"], ids=["empty", "cut short"])
def test_a_damaged_file_in_the_cache_is_built_again(damage: bytes, afresh: Path) -> None:
    afresh.mkdir(mode=0o700)
    built = afresh / kernel._file_name(compiled.find_compiler("CC", "cc", "gcc", "clang"))
    built.write_bytes(damage)
    assert kernel.load() is not None
    assert built.stat().st_size > 1000


@needs_compiler
def test_another_processor_gets_a_file_of_its_own(afresh: Path, monkeypatch, tmp_path: Path) -> None:
    """A home shared by machines: what was built with AVX-512 is never loaded where that is missing."""
    names = set()
    for flags in ("fma avx2 avx512f", "fma avx2"):
        cpuinfo = tmp_path / "cpuinfo"
        cpuinfo.write_text(f"processor\t: 0\nmodel name\t: same\nflags\t\t: {flags}\n")
        monkeypatch.setattr(compiled, "_CPUINFO", cpuinfo)
        kernel.attempt.cache_clear()
        assert kernel.load() is not None
        names |= {file.name for file in afresh.iterdir()}
    assert len(names) == 2


@needs_compiler
def test_two_processes_may_build_at_once_in_a_folder_with_spaces(tmp_path: Path) -> None:
    cache = tmp_path / "a cache with spaces"
    script = "from lrdiff_core.optim import kernel; assert kernel.load() is not None, kernel.missing_reason()"
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    both = [
        subprocess.Popen([sys.executable, "-c", script], env=environment, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in both:
        _, told = process.communicate()
        assert process.returncode == 0, told
    assert [file.suffix for file in (cache / "lrdiff").iterdir()] == [".so"]


@needs_compiler
@pytest.mark.parametrize("options", ["", " -g0"], ids=["alone", "with an option"])
def test_the_compiler_may_lie_in_a_folder_with_spaces(options: str, afresh: Path, monkeypatch, tmp_path: Path) -> None:
    compiler = tmp_path / "my tools" / "cc"
    compiler.parent.mkdir()
    compiler.symlink_to(shutil.which("cc") or "")
    monkeypatch.setenv("CC", f"'{compiler}'{options}" if options else str(compiler))
    assert kernel.load() is not None, kernel.missing_reason()


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


SHARED = """
import os, sys, threading, torch
from lrdiff_core.optim import AdamW, SGD, forms
torch.set_num_threads(3)
forms.GRAIN, forms.PIECE = 64, 16  # so that helpers are used at this size

def train(seed, steps):
    generator = torch.Generator().manual_seed(seed)
    params = [torch.nn.Parameter(torch.randn(n, generator=generator)) for n in (5000, 33, 700)]
    optimizer = AdamW([{"params": [p], "lr": 0.1 / (i + 1)} for i, p in enumerate(params)])
    for _ in range(steps):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()
    assert optimizer.forms() == {"kernel": 3}
    return params
"""


def _run(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", SHARED + script], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_compiler
def test_several_threads_may_step_at_once() -> None:
    """The helpers serve one at a time; the others go on alone, and no bit changes."""
    _run(
        "results = {}\n"
        "def work(seed): results[seed] = train(seed, 200)\n"
        "threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n"
        "torch.set_num_threads(1)\n"
        "assert len(results) == 4\n"
        "assert all(torch.equal(a, b) for seed in results for a, b in zip(results[seed], train(seed, 200)))\n"
    )


@needs_compiler
def test_helpers_flush_denormals_if_the_caller_does() -> None:
    """torch.set_flush_denormal is for the thread that calls it; helpers that are there already learn of it."""
    _run(
        "if not torch.set_flush_denormal(True): sys.exit()\n"
        "torch.set_flush_denormal(False)\n"
        "train(0, 5)\n"
        "forms.PIECE = 4096\n"
        "param = torch.nn.Parameter(torch.zeros(1_000_000))\n"
        "param.grad = torch.full((1_000_000,), -1e-40)\n"
        "def moved(threads, flush):\n"
        "    torch.set_num_threads(threads)\n"
        "    optimizer = SGD([param], lr=1.0)\n"
        "    counts = set()\n"
        "    for _ in range(20):\n"
        "        param.detach().zero_()\n"
        "        torch.set_flush_denormal(flush)\n"
        "        optimizer.step()\n"
        "        torch.set_flush_denormal(False)\n"
        "        counts.add(int(param.count_nonzero()))\n"
        "    assert optimizer.forms() == {'kernel': 1}\n"
        "    return counts\n"
        "for threads in (1, 3):\n"
        "    assert moved(threads, False) == {1_000_000}\n"
        "    assert moved(threads, True) == {0}, threads\n"
    )


@needs_compiler
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_goes_on_with_helpers_of_its_own() -> None:
    """OpenMP hangs here (libgomp), as data loaders and servers that fork know."""
    told = _run(
        "train(0, 5)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    train(1, 50); print('child done', flush=True); os._exit(0)\n"
        "train(2, 50)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
    )
    assert "child done" in told


@needs_compiler
def test_brings_no_second_openmp() -> None:
    """Two runtimes in one process would fight for the cores."""
    assert "gomp" not in _run(
        "before = set(open('/proc/self/maps').read().split()) if os.path.exists('/proc/self/maps') else set()\n"
        "train(0, 2)\n"
        "print(set(open('/proc/self/maps').read().split()) - before if before else '')\n"
    )


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
    names = "SGD Adam AdamW LoadReport MuonAdamW clip_grad_norms_ load_state_only"
    assert lrdiff_core.optim.__all__ == names.split()


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
