"""Places where the same weights can predict, each behind one small protocol and in one registry.

A backend never answers from somewhere else than it says: it checks where its outputs are, or which provider its
session has, and refuses. To add one, write a class with the members of :class:`Backend` and decorate it with
:func:`register_backend`; every parity check and every contract test then covers it.
"""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from lrdiff_core.errors import CheckFailed, ConfigError, UnavailableError
from lrdiff_export.predictor import CPU_PROVIDER, open_session
from lrdiff_export.reference import evaluation_copy, run_module, to_numpy

__all__ = ["BACKENDS", "Backend", "Predict", "TorchBackend", "compiler_path", "register_backend"]

Predict = Callable[..., list[np.ndarray]]  # one array an input, [batch, ...]


class Backend(Protocol):
    """A place to predict; a protocol, so that one can be brought without importing a base class."""

    name: str
    device: str
    dtype: str  # of the arithmetic it promises
    needs_onnx: bool

    def availability(self) -> str | None:
        """Return None if it can be used here, else the reason why not, in one line."""

    def prepare(self, module: nn.Module, onnx: bytes | None) -> Predict:
        """Return a function from rows ``[batch, features...]`` to outputs; must not change ``module``."""

    def release(self) -> None:
        """Give back what :meth:`prepare` holds; called also after a failure."""


BACKENDS: dict[str, Backend] = {}

_Kind = TypeVar("_Kind", bound=type)


def register_backend(name: str) -> Callable[[_Kind], _Kind]:
    """Return a decorator that puts a backend class under ``name`` into the registry.

    Raises:
        ConfigError: the name is taken.

    Example:
        >>> @register_backend("eager")
        ... class Again(TorchBackend): ...
        Traceback (most recent call last):
        ...
        lrdiff_core.errors.ConfigError: there is a backend "eager" already
        help: choose another name
    """
    if name in BACKENDS:
        raise ConfigError(f'there is a backend "{name}" already', help="choose another name")

    def decorate(kind: _Kind) -> _Kind:
        backend = kind()
        backend.name = name
        BACKENDS[name] = backend
        return kind

    return decorate


class TorchBackend:
    """Eager PyTorch in float32 on one device; subclasses say which, and what to do with the module first.

    Example:
        >>> predict = TorchBackend().prepare(nn.ReLU(), None)
        >>> predict(np.array([[-1.0, 2.0]], np.float32))
        [array([[0., 2.]], dtype=float32)]
    """

    name = "torch"
    device = "cpu"
    dtype = "float32"
    needs_onnx = False

    def availability(self) -> str | None:
        """Return why it cannot be used; PyTorch on the CPU always can."""
        return None

    def place(self, thing: Any) -> Any:
        """Move a module or tensor to the device."""
        return thing.to(self.device)

    def prepare(self, module: nn.Module, onnx: bytes | None) -> Predict:
        """Return a function that runs a copy of ``module`` on the device, and refuses if it ran elsewhere."""
        placed = self.place(evaluation_copy(module))

        def predict(*rows: np.ndarray) -> list[np.ndarray]:
            outputs = run_module(placed, *(self.place(torch.tensor(one)) for one in rows))
            for tensor in [*placed.parameters(), *placed.buffers(), *outputs]:
                check_device(tensor, self.device)
            return [to_numpy(output) for output in outputs]

        return predict

    def release(self) -> None:
        """Nothing is held."""


def check_device(tensor: Tensor, device: str) -> None:
    """Raise CheckFailed unless ``tensor`` is on a device of this type."""
    if tensor.device.type != device:
        raise CheckFailed(
            f"asked for {device}, ran on {tensor.device.type}",
            help="do not move tensors to a fixed device inside the module",
        )


@register_backend("eager")
class EagerBackend(TorchBackend):
    """Eager PyTorch on the CPU."""


@register_backend("compiled")
class CompiledBackend(TorchBackend):
    """``torch.compile`` with inductor on the CPU, the whole graph or nothing.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.compile.html
    """

    def availability(self) -> str | None:
        """Return why inductor cannot build for the CPU here."""
        if compiler_path() is None:
            return f"no C++ compiler ({_compiler_name()}) on the path"
        return None

    def prepare(self, module: nn.Module, onnx: bytes | None) -> Predict:
        """Return a function that runs compiled code; eager fall-backs are refused."""
        inductor = torch._dynamo.lookup_backend("inductor")
        graphs = 0

        def counted(graph: torch.fx.GraphModule, examples: list[Tensor]) -> Callable[..., Any]:
            nonlocal graphs
            graphs += 1
            return inductor(graph, examples)

        copied = evaluation_copy(module)
        # fullgraph: a graph break would run its part eagerly without a word.
        compiled = torch.compile(copied, backend=counted, fullgraph=True, dynamic=False)

        def predict(*rows: np.ndarray) -> list[np.ndarray]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # inductor warns of its own deprecated calls
                outputs = run_module(compiled, *map(torch.tensor, rows))
            if not graphs:
                raise CheckFailed(
                    "asked for compiled code, torch.compile ran eagerly", help="see TORCH_COMPILE_DISABLE, set_stance()"
                )
            return [to_numpy(output) for output in outputs]

        return predict

    def release(self) -> None:
        """Drop compiled code; it is kept by the process, not by the module."""
        torch.compiler.reset()


@register_backend("onnxruntime")
class OnnxRuntimeBackend:
    """ONNX Runtime on its CPU provider, graph optimisations full, one thread."""

    name = "onnxruntime"
    device = "cpu"
    dtype = "float32"
    needs_onnx = True

    def availability(self) -> str | None:
        """Return why it cannot be used; a dependency of this project always can."""
        return None

    def prepare(self, module: nn.Module, onnx: bytes | None) -> Predict:
        """Return a function that runs the ONNX bytes."""
        if onnx is None:
            raise UnavailableError("no ONNX bytes to run", help="give onnx_bytes_or_path")
        session = open_session(onnx, provider=CPU_PROVIDER)
        names = [one.name for one in session.get_inputs()]

        def predict(*rows: np.ndarray) -> list[np.ndarray]:
            return [np.asarray(output) for output in session.run(None, dict(zip(names, rows, strict=True)))]

        return predict

    def release(self) -> None:
        """The session goes with the function."""


@register_backend("cuda")
class CudaBackend(TorchBackend):
    """Eager PyTorch on CUDA, in real float32: TF32, which convolutions use by default, is off while it runs.

    Source: https://docs.pytorch.org/docs/stable/notes/cuda.html
    """

    device = "cuda"

    def availability(self) -> str | None:
        """Return why there is no CUDA here."""
        if torch.version.cuda is None:
            return f"torch {torch.__version__} was built without CUDA"
        return None if torch.cuda.is_available() else "no CUDA device or driver found"

    def prepare(self, module: nn.Module, onnx: bytes | None) -> Predict:
        """Return a function that runs a copy of ``module`` on CUDA."""
        predict = super().prepare(module, onnx)

        def exactly(*rows: np.ndarray) -> list[np.ndarray]:
            with _no_tf32():
                return predict(*rows)

        return exactly


@register_backend("mps")
class MpsBackend(TorchBackend):
    """Eager PyTorch on Apple's Metal Performance Shaders."""

    device = "mps"

    def availability(self) -> str | None:
        """Return why there is no MPS here."""
        if not torch.backends.mps.is_built():
            return f"torch {torch.__version__} was built without MPS"
        return None if torch.backends.mps.is_available() else "no MPS device found (macOS on Apple silicon is needed)"


def compiler_path() -> str | None:
    """Return the C++ compiler that inductor would call, or None.

    Source: ``torch._inductor.config.cpp.cxx``
    """
    return shutil.which(_compiler_name())


def _compiler_name() -> str:
    default = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    return os.environ.get("CXX") or default


@contextmanager
def _no_tf32() -> Iterator[None]:
    """Set every float32 precision switch that lets a GPU round inputs to TF32 to full precision, and set it back."""
    switches = [torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn]  # type: ignore[attr-defined]
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = "ieee"
        yield
    finally:
        for switch, precision in zip(switches, before, strict=True):
            switch.fp32_precision = precision
