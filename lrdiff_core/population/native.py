"""The compiled kernel of one network: ``kernel.cpp`` with the shape in front, built once, kept in the user's cache."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
from pathlib import Path

import torch

from lrdiff_core.devices import DeviceStatus, compiler_status
from lrdiff_core.machine.compiled import build_first, find_compiler, open_cached, processor
from lrdiff_core.population.network import ACTIVATIONS, LinearLayer
from lrdiff_core.population.rows import TASKS

__all__ = ["Job", "Library", "kernel_status", "library"]

_SOURCE = Path(__file__).with_name("kernel.cpp")
# Products and sums may be fused, as the processor's matrix kernels do it too; nothing else may change a result.
_COMPILE = (
    "-std=c++17",
    "-O3",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-w",
    "-fPIC",
    "-shared",
)
# Tried in order: some compilers for ARM do not know -march=native.
_VARIANTS = (("-march=native",), ("-mcpu=native",), ())
_PATIENCE_S = 120.0


class Job(ctypes.Structure):
    """What one call works on; the fields are explained in ``kernel.cpp``."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("rows", "held_rows", "second_rows", "steps", "batch", "evaluations")),
        *((name, ctypes.c_int64) for name in ("optimizer", "nesterov", "groups")),
        *((name, ctypes.c_void_p) for name in ("evaluate_after", "group", "factor")),
        *((name, ctypes.c_void_p) for name in ("rate", "decay", "beta1", "beta2", "eps")),
        *((name, ctypes.c_void_p) for name in ("inputs", "targets", "held_inputs", "held_targets")),
        *((name, ctypes.c_void_p) for name in ("second_inputs", "second_targets", "order", "class_weight")),
        *((name, ctypes.c_void_p) for name in ("weights", "step_loss")),
        *((name, ctypes.c_void_p) for name in ("loss", "score", "held_loss", "held_score")),
        *((name, ctypes.c_void_p) for name in ("second_loss", "second_score", "diverged")),
    ]


class Library:
    """A compiled kernel: how many members it trains side by side, and the function that does."""

    def __init__(self, path: Path) -> None:
        library = ctypes.CDLL(str(path))
        library.lrdiff_lanes.argtypes, library.lrdiff_lanes.restype = (), ctypes.c_int64
        library.lrdiff_train.argtypes = (ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
        library.lrdiff_train.restype = ctypes.c_int64
        self.lanes: int = library.lrdiff_lanes()
        self._train = library.lrdiff_train

    def train(self, job: Job, begin: int, end: int) -> None:
        """Train members [begin, end) of the job; Python's lock is released meanwhile.

        Raises:
            MemoryError: no room for the working set.
        """
        if self._train(ctypes.addressof(job), begin, end):
            raise MemoryError("no memory for the working set of a population")


def kernel_status() -> DeviceStatus:
    """Say whether the kernel can be built here, and if not, why."""
    if os.environ.get("LRDIFF_KERNEL") == "0":
        return DeviceStatus(name="population kernel", detail="", reason="LRDIFF_KERNEL=0 is set")
    if os.name != "posix":
        return DeviceStatus(name="population kernel", detail="", reason="it is built on Linux and macOS only")
    return compiler_status()


def library(layers: tuple[LinearLayer, ...], task: str, dtype: torch.dtype, *, weighted: bool = False) -> Library:
    """The kernel of one network, built now if it is not in the cache (about 2 s).

    Raises:
        OSError, subprocess.SubprocessError: it cannot be built or opened.
    """
    return _library(_header(layers, task, dtype, weighted), tuple(find_compiler("CXX", "g++", "clang++")))


@functools.cache
def _library(header: str, compiler: tuple[str, ...]) -> Library:
    text = header + _SOURCE.read_text()
    parts = (text, *_COMPILE, str(_VARIANTS), *compiler, processor())
    name = f"population-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:24]}.so"
    return open_cached(name, functools.partial(_build, text, compiler), Library)


def _header(layers: tuple[LinearLayer, ...], task: str, dtype: torch.dtype, weighted: bool) -> str:
    def row(kind: str, name: str, values: list[object]) -> str:
        return f"constexpr {kind} {name}[] = {{{', '.join(map(str, values))}}};\n"

    return (
        f"#include <type_traits>\n#define REAL {'float' if dtype == torch.float32 else 'double'}\n"
        f"constexpr int DEPTH = {len(layers)};\n"
        + row("int", "SIZES", [layers[0].fan_in, *(layer.fan_out for layer in layers)])
        + row("int", "ACTIVATION", [ACTIVATIONS.index(layer.activation) for layer in layers])
        + row("bool", "HAS_BIAS", [int(layer.bias is not None) for layer in layers])
        + row("double", "GAIN", [repr(layer.gain) for layer in layers])
        + f"constexpr int LOSS = {TASKS.index(task)};\nconstexpr bool WEIGHTED = {int(weighted)};\n"
    )


def _build(text: str, compiler: tuple[str, ...], scratch: Path) -> Path:
    source, library = scratch / "kernel.cpp", scratch / "kernel.so"
    source.write_text(text)
    rest = (str(source), "-o", str(library), "-lm")
    build_first([[*compiler, *_COMPILE, *flags, *rest] for flags in _VARIANTS], patience_s=_PATIENCE_S)
    return library
