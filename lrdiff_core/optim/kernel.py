"""The compiled CPU kernel: built once by the C compiler that is here, kept in the user's cache, called by pointer.

``kernel.c`` knows nothing of Python or PyTorch, so it compiles in well under a second and fits every torch version.
Without a compiler, or with ``LRDIFF_KERNEL=0`` in the environment, :func:`load` returns ``None`` and the optimizers
use PyTorch's fused kernels instead: same results to the last bits, more time with many distinct rates.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

__all__ = ["Table", "load", "missing_reason", "switched_off", "DECOUPLED", "AMSGRAD", "MAXIMIZE", "NESTEROV", "SCALARS"]

DECOUPLED, AMSGRAD, MAXIMIZE, NESTEROV = 1, 2, 4, 8
SCALARS = 8  # floats of scratch a tensor, as in kernel.c

_SOURCE = Path(__file__).with_name("kernel.c")
_COMPILE = ("-O3", "-ffp-contract=off", "-fno-math-errno", "-fPIC", "-c")
# Tried in order: a compiler may know neither OpenMP (Apple's) nor -march=native (some for ARM).
_VARIANTS = (("-march=native", "-fopenmp"), ("-mcpu=native", "-fopenmp"), ("-march=native",), ())
_PATIENCE_S = 60.0


class Table(ctypes.Structure):
    """What one call works on; the fields are explained in ``kernel.c``."""

    _fields_ = [
        ("count", ctypes.c_int64),
        ("threads", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("param", "grad", "first", "second", "largest", "step")),
        *((name, ctypes.c_void_p) for name in ("offset", "setting", "fresh", "flags")),
        *((name, ctypes.c_void_p) for name in ("lr", "weight_decay", "beta1", "beta2", "eps", "scalars")),
    ]


def load() -> ctypes.CDLL | None:
    """The compiled kernel, built now if it is not in the cache; ``None`` where it cannot be had."""
    return None if _off else attempt()[0]


@contextmanager
def switched_off() -> Iterator[None]:
    """As with ``LRDIFF_KERNEL=0``, inside: what is prepared there uses PyTorch's fused kernels."""
    _off.append(True)
    try:
        yield
    finally:
        _off.pop()


_off: list[bool] = []  # one entry a block that is open


def missing_reason() -> str | None:
    """Say why there is no kernel here, in one line; ``None`` if there is one (``lrdiff doctor`` shows it)."""
    return attempt()[1]


@functools.cache
def attempt() -> tuple[ctypes.CDLL | None, str | None]:
    """Try once in a process: the kernel, or why there is none."""
    if os.environ.get("LRDIFF_KERNEL") == "0":
        return None, "switched off by LRDIFF_KERNEL=0"
    if os.name != "posix":
        return None, f"not built on {os.name}"
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None, "no C compiler found (cc, gcc or clang, or set CC)"
    try:
        return _open(_cache_folder() / f"kernel-{_fingerprint(compiler)}.so", compiler), None
    except (OSError, subprocess.SubprocessError, AttributeError) as problem:
        told = getattr(problem, "stderr", None) or str(problem).encode()
        return None, f"{compiler} did not build it: {told.decode(errors='replace').strip().splitlines()[0][:120]}"


def _open(path: Path, compiler: str) -> ctypes.CDLL:
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            built = _build(compiler, Path(scratch))
            os.replace(built, path)
    library = ctypes.CDLL(str(path))
    for function in (library.lrdiff_adam, library.lrdiff_sgd):
        function.argtypes, function.restype = (ctypes.c_void_p,), None
    return library


def _build(compiler: str, scratch: Path) -> Path:
    """Compiles into ``scratch``; links torch's own OpenMP where it brings one, so that both share one thread pool."""
    openmp = next(Path(torch.__file__).parent.glob("lib/libgomp*.so*"), None)
    compiled, library = scratch / "kernel.o", scratch / "kernel.so"
    for number, flags in enumerate(_VARIANTS):
        link = [str(openmp)] if openmp and "-fopenmp" in flags else [flag for flag in flags if flag == "-fopenmp"]
        try:
            for command in (
                [*compiler.split(), *_COMPILE, *flags, str(_SOURCE), "-o", str(compiled)],
                [*compiler.split(), "-shared", str(compiled), *link, "-lm", "-o", str(library)],
            ):
                subprocess.run(command, check=True, capture_output=True, timeout=_PATIENCE_S)
            return library
        except subprocess.CalledProcessError:
            if number == len(_VARIANTS) - 1:
                raise
    raise AssertionError("the loop returns or raises")


def _fingerprint(compiler: str) -> str:
    """Changes with whatever the machine code depends on: source, compiler, processor, torch (its OpenMP)."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    except OSError:
        processor = platform.processor()
    parts = (_SOURCE.read_text(), compiler, platform.machine(), processor, torch.__version__, torch.__file__)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _cache_folder() -> Path:
    """A folder that only this user writes to; what others could write to is never loaded."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lrdiff"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        owned = folder.stat().st_uid == os.getuid() and not folder.stat().st_mode & 0o022
        if owned and os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError):
        pass
    return Path(tempfile.mkdtemp(prefix="lrdiff-"))  # used by this process alone; the system clears it
