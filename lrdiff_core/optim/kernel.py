"""The compiled CPU kernel, called by pointer: brought by the wheel, or built once by the C compiler that is here.

``kernel.c``, with the files that it includes, knows nothing of Python or PyTorch, so it compiles in about two seconds
and fits every torch version. A wheel for a platform brings it built for several kinds of processors (``compiled.py``).
Where it does not, or with ``LRDIFF_KERNEL=compile`` in the environment, the compiler builds it for this processor, into
the user's cache. Without a compiler, or with ``LRDIFF_KERNEL=0``, :func:`load` returns ``None`` and the optimizers use
PyTorch's fused kernels instead: same results to the last bits, more time with many distinct rates.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from lrdiff_core.machine.compiled import (
    FLAGS,
    brought,
    build_first,
    find_compiler,
    open_or_reason,
    processor,
    source_text,
)

__all__ = [
    "Table",
    "file_name",
    "load",
    "missing_reason",
    "origin",
    "switched_off",
    "DECOUPLED",
    "AMSGRAD",
    "MAXIMIZE",
    "NESTEROV",
    "CENTERED",
    "SCALARS",
    "COLUMNS",
    "NUMBERS",
]

DECOUPLED, AMSGRAD, MAXIMIZE, NESTEROV, CENTERED = 1, 2, 4, 8, 32
SCALARS = 8  # floats of scratch a tensor, as in kernel.c
COLUMNS = ("lr", "weight_decay", "beta1", "beta2", "eps", "more1", "more2", "more3")  # of a setting
NUMBERS = ("step", "number1", "number2")  # that a tensor has one of

_SOURCE = Path(__file__).with_name("kernel.c")
RULES = ("adam", "sgd", "rmsprop", "adafactor", "adagrad", "lamb", "lion", "nadam", "radam", "schedule_free")
# Tried in order: some compilers for ARM do not know -march=native.
_VARIANTS = (("-march=native",), ("-mcpu=native",), ())
_PATIENCE_S = 60.0


class Table(ctypes.Structure):
    """What one call works on; the fields are explained in ``kernel.c``."""

    _fields_ = [
        ("count", ctypes.c_int64),
        ("threads", ctypes.c_int64),
        ("piece", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("param", "grad", "first", "second", "largest")),
        *((name, ctypes.c_void_p) for name in NUMBERS),
        *((name, ctypes.c_void_p) for name in ("offset", "setting", "fresh", "flags")),
        *((name, ctypes.c_void_p) for name in (*COLUMNS, "scalars")),
        *((name, ctypes.c_void_p) for name in ("size", "partial", "norm", "factor", "formats", "factors")),
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


def origin() -> str | None:
    """Where the kernel comes from, in a few words; ``None`` if there is none (``lrdiff doctor`` shows it)."""
    library = attempt()[0]
    if library is None:
        return None
    name = Path(library._name).name
    variant = next((variant for variant, path in brought(_SOURCE) if path.name == name), None)
    if variant is None:
        return "built here, for this processor"
    return f"from the wheel, built for {variant.name}" + (" (tested under emulation alone)" if variant.emulated else "")


@functools.cache
def attempt() -> tuple[ctypes.CDLL | None, str | None]:
    """Try once in a process: the kernel, or why there is none."""
    chosen = os.environ.get("LRDIFF_KERNEL")
    if chosen == "0":
        return None, "switched off by LRDIFF_KERNEL=0"
    if os.name != "posix":
        return None, f"not built on {os.name}"
    if chosen != "compile":
        for _, library in brought(_SOURCE):
            with suppress(OSError, AttributeError):  # of another libc, say: built here then
                return _link(library), None
    compiler = find_compiler("CC", "cc", "gcc", "clang")
    if not compiler:
        return None, "no C compiler found (cc, gcc or clang, or set CC)"
    return open_or_reason(compiler, file_name(compiler), functools.partial(_build, compiler), _link)


def _link(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    for name in (*RULES, "adam_formats", "scale", "clipped"):
        function = getattr(library, f"lrdiff_{name}")
        function.argtypes, function.restype = (ctypes.c_void_p,), None
    library.lrdiff_norm.argtypes, library.lrdiff_norm.restype = (ctypes.c_void_p, ctypes.c_int), None
    return library


def _build(compiler: Sequence[str], scratch: Path) -> Path:
    library = scratch / "kernel.so"
    rest = (str(_SOURCE), "-o", str(library), "-lm")
    build_first([[*compiler, *FLAGS, *flags, *rest] for flags in _VARIANTS], patience_s=_PATIENCE_S)
    return library


def file_name(compiler: Sequence[str]) -> str:
    """The kernel's name in the cache, from all that the machine code depends on: source, flags, compiler, processor."""
    parts = (source_text(_SOURCE), *FLAGS, str(_VARIANTS), *compiler, processor())
    return f"kernel-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:24]}.so"
