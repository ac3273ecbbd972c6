"""Which devices and compilers are here, and why not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from lrdiff_core.errors import UnavailableError
from lrdiff_core.machine.compiled import find_compiler

__all__ = [
    "DeviceStatus",
    "choose_device",
    "compiler_status",
    "device_parts",
    "device_status",
    "repeatable",
    "torch_threads",
]
DEVICES = ("cpu", "cuda", "mps")


@dataclass(frozen=True, kw_only=True)
class DeviceStatus:
    """A device or tool by name, what it is, and the reason if it cannot be used here."""

    name: str
    detail: str
    reason: str | None = None

    @property
    def available(self) -> bool:
        """Whether it can be used here."""
        return self.reason is None


def device_status(name: str) -> DeviceStatus:
    """Say whether ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"`` can be used, and if not, why.

    Example:
        >>> device_status("cpu").available
        True
    """
    if name == "cpu":
        return DeviceStatus(name=name, detail=f"{os.cpu_count()} cores, {torch.get_num_threads()} threads in torch")
    kind, number = device_parts(name)
    if kind == "cuda":
        if torch.cuda.is_available():
            if number is None:
                return DeviceStatus(name=name, detail=torch.cuda.get_device_name())
            if number < (here := torch.cuda.device_count()):
                return DeviceStatus(name=name, detail=torch.cuda.get_device_name(number))
            last = "" if here == 1 else f" to cuda:{here - 1}"
            return DeviceStatus(name=name, detail="", reason=f"here {'is' if here == 1 else 'are'} cuda:0{last}")
        built = torch.version.cuda is not None
        reason = "no NVIDIA GPU or driver found" if built else f"torch {torch.__version__} is built without CUDA"
        return DeviceStatus(name=name, detail="", reason=reason)
    if name == "mps":
        if torch.backends.mps.is_available():
            return DeviceStatus(name=name, detail="Apple GPU")
        built = torch.backends.mps.is_built()
        reason = "no Apple GPU found" if built else f"torch {torch.__version__} is built without MPS"
        return DeviceStatus(name=name, detail="", reason=reason)
    raise UnavailableError(f"unknown device {name!r}", help=f"devices: auto, {', '.join(DEVICES)}, cuda:1")


def device_parts(name: str) -> tuple[str, int | None]:
    """The kind of a device, and the number of a GPU that its name may have.

    Example:
        >>> device_parts("cuda:1"), device_parts("cpu"), device_parts("cuda:one")
        (('cuda', 1), ('cpu', None), ('cuda:one', None))
    """
    kind, colon, number = name.partition(":")
    return (kind, int(number)) if kind == "cuda" and colon and number.isdecimal() else (name, None)


def choose_device(name: str) -> torch.device:
    """Return the device called ``name``; ``"auto"`` takes CUDA, then MPS, then the CPU.

    Raises:
        UnavailableError: the device is not here. It is never replaced by another.

    Example:
        >>> choose_device("cpu")
        device(type='cpu')
    """
    if name == "auto":
        return torch.device(next(n for n in ("cuda", "mps", "cpu") if device_status(n).available))
    status = device_status(name)
    if status.reason is not None:
        raise UnavailableError(
            f"device {name} is not available: {status.reason}", help="use --device cpu, or see `lrdiff doctor`"
        )
    return torch.device(name)


def compiler_status() -> DeviceStatus:
    """Say whether ``torch.compile`` has the C++ compiler that its CPU code needs."""
    command = find_compiler("CXX", "g++", "clang++")  # with the options that CXX may bring
    found = shutil.which(command[0]) if command else None
    if found is None:
        return DeviceStatus(name="compiler", detail="", reason="no C++ compiler found (g++ or clang++, or set CXX)")
    return DeviceStatus(name="compiler", detail=" ".join([found, *command[1:]]))


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let operators on the CPU use ``count`` threads inside the block.

    Small modules want one: on a busy machine every small parallel region can wait a scheduler's slice.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def repeatable(device: torch.device, *, threads: int) -> Iterator[None]:
    """Fix what a result depends on besides the seed: the thread count, and deterministic kernels on a GPU.

    Everything is put back when the block ends.

    Args:
        device: where the block computes.
        threads: threads of one operator on the CPU.
    """
    before = torch.are_deterministic_algorithms_enabled()
    if device.type == "cuda":
        # cuBLAS reads it when its handle is made; without it deterministic matrix products are refused.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    try:
        with torch_threads(threads):
            yield
    finally:
        torch.use_deterministic_algorithms(before)
