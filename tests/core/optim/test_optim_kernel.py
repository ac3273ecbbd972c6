"""The compiled kernel: built where a compiler is, kept in a safe place, done without where it is not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from optim_pairs import feed, make

from lrdiff_core.machine import compiled
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


@pytest.mark.slow
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


@pytest.mark.slow
@needs_compiler
def test_a_cache_that_others_can_write_is_not_used(afresh: Path) -> None:
    afresh.mkdir()
    afresh.chmod(0o777)
    assert kernel.load() is not None
    assert list(afresh.iterdir()) == []


@pytest.mark.slow
@needs_compiler
def test_without_a_cache_the_kernel_is_built_for_this_process_alone(afresh: Path, monkeypatch, tmp_path: Path) -> None:
    """A home that cannot be written, as in many containers: nothing is left behind in the temporary folder either."""
    afresh.write_text("a file where the folder should be")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    assert _steps() == {"kernel": 1}
    assert not list(scratch.glob("lrdiff-*"))


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("damage", [b"", b"\x7fELF cut short"], ids=["empty", "cut short"])
def test_a_damaged_file_in_the_cache_is_built_again(damage: bytes, afresh: Path) -> None:
    afresh.mkdir(mode=0o700)
    built = afresh / kernel.file_name(compiled.find_compiler("CC", "cc", "gcc", "clang"))
    built.write_bytes(damage)
    assert kernel.load() is not None
    assert built.stat().st_size > 1000


@pytest.mark.slow
@needs_compiler
def test_another_processor_gets_a_file_of_its_own(afresh: Path, monkeypatch, tmp_path: Path) -> None:
    """A home shared by machines: what was built with AVX-512 is never loaded where that is missing."""
    names = set()
    for flags in ("fma avx2 avx512f", "fma avx2"):
        cpuinfo = tmp_path / "cpuinfo"
        cpuinfo.write_text(f"processor\t: 0\nmodel name\t: same\nflags\t\t: {flags}\n")
        monkeypatch.setattr(compiled, "CPUINFO", cpuinfo)
        kernel.attempt.cache_clear()
        assert kernel.load() is not None
        names |= {file.name for file in afresh.iterdir()}
    assert len(names) == 2


@pytest.mark.slow
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


@pytest.mark.parametrize("options", [[], ["-g0"]], ids=["alone", "with an option"])
def test_the_compiler_may_lie_in_a_folder_with_spaces(options: list[str], monkeypatch, tmp_path: Path) -> None:
    compiler = tmp_path / "my tools" / "cc"
    compiler.parent.mkdir()
    compiler.touch()
    monkeypatch.setenv("CC", f"'{compiler}' -g0" if options else str(compiler))
    assert compiled.find_compiler("CC", "cc") == [str(compiler), *options]


def _steps() -> dict[str, int]:
    params = make([(3, 3)])
    optimizer = AdamW(params)
    feed(params, seed=0)
    optimizer.step()
    return optimizer.forms()


IN_A_PROCESS_OF_ITS_OWN = """
import os, sys, threading, torch
base = set(sys.modules)
from lrdiff_core.optim import AdamW, SGD, forms, kernel

def said(name, holds):
    print(name, "holds" if holds else "fails", flush=True)

# torch's own constructor imports dynamo
heavy = {"torch._dynamo", "torch._inductor", "triton", "onnx", "sklearn", "matplotlib"}
said("the import is light", not heavy & set(sys.modules) - base and kernel.attempt.cache_info().currsize == 0)
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

def maps():
    return set(open("/proc/self/maps").read().split()) if os.path.exists("/proc/self/maps") else set()

# Two runtimes in one process would fight for the cores.
before = maps()
train(0, 2)
said("no second OpenMP", "gomp" not in str(maps() - before))

# OpenMP hangs here (libgomp), as data loaders and servers that fork know.
if hasattr(os, "fork"):
    child = os.fork()
    if child == 0:
        train(1, 50)
        os._exit(0)
    train(2, 50)
    said("a forked child has helpers of its own", os.waitpid(child, 0)[1] == 0)
else:
    said("a forked child has helpers of its own", True)

# The helpers serve one at a time; the others go on alone, and no bit changes.
results = {}
def work(seed): results[seed] = train(seed, 200)
threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]
torch.set_num_threads(1)
alike = all(torch.equal(a, b) for seed in results for a, b in zip(results[seed], train(seed, 200)))
said("several threads may step at once", len(results) == 4 and alike)

# torch.set_flush_denormal is for the thread that calls it; helpers that are there already learn of it.
forms.PIECE = 4096
param = torch.nn.Parameter(torch.zeros(1_000_000))
param.grad = torch.full((1_000_000,), -1e-40)
def moved(threads, flush):
    torch.set_num_threads(threads)
    optimizer = SGD([param], lr=1.0)
    counts = set()
    for _ in range(20):
        param.detach().zero_()
        torch.set_flush_denormal(flush)
        optimizer.step()
        torch.set_flush_denormal(False)
        counts.add(int(param.count_nonzero()))
    assert optimizer.forms() == {"kernel": 1}
    return counts
can = torch.set_flush_denormal(True)
torch.set_flush_denormal(False)
flushed = not can or all(moved(n, False) == {1_000_000} and moved(n, True) == {0} for n in (1, 3))
said("helpers flush denormals if the caller does", flushed)
"""


@pytest.mark.slow
@needs_compiler
def test_in_a_process_of_its_own() -> None:
    done = subprocess.run([sys.executable, "-c", IN_A_PROCESS_OF_ITS_OWN], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("holds") == 5
    assert "fails" not in done.stdout, done.stdout


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"LRDIFF_KERNEL": "0"}, "switched off by LRDIFF_KERNEL=0"),
        ({"CC": "/nonexistent/cc"}, "/nonexistent/cc did not build it: "),
        ({"CC": "false"}, "false did not build it: "),
        ({"CC": "", "PATH": ""}, "no C compiler found"),
    ],
)
def test_without_a_kernel_torchs_step_and_the_reason_is_told(
    variables: dict[str, str], reason: str, afresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert _steps() == {"fused": 1}
    assert kernel.missing_reason().startswith(reason)  # type: ignore[union-attr]
    assert not list(afresh.glob("*.so"))
