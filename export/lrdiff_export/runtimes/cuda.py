"""PyTorch on CUDA: eager in real float32, with TF32 on, under autocast, compiled in each mode, and as a CUDA graph."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from lrdiff_export.runtimes.protocol import Facts, Predict, register_backend
from lrdiff_export.runtimes.torch_compiled import CompiledBackend
from lrdiff_export.runtimes.torch_eager import TorchBackend, check_device

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["AutocastCudaBackend", "CompiledCudaBackend", "CudaBackend", "GraphCudaBackend", "float32_products"]


@register_backend("cuda-tf32", dtype="tfloat32", products="tf32")
@register_backend("cuda")
class CudaBackend(TorchBackend):
    """Eager PyTorch on CUDA, with TF32, which convolutions use by default, off or on while it runs.

    Source: https://docs.pytorch.org/docs/stable/notes/cuda.html
    """

    device = "cuda"
    keeps_denormals = False  # some of its kernels are built to flush them
    products = "ieee"
    seen = "not run"  # how float32 products were switched while it ran

    def availability(self) -> str | None:
        """Return why there is no CUDA here."""
        return no_cuda()

    def around(self) -> AbstractContextManager[None]:
        """Return what holds while it runs."""
        return float32_products(self.products)

    def prepare(self, model: nn.Module) -> Predict:
        """Return a function that runs a copy of the module on CUDA."""
        predict = super().prepare(model)

        def inside(*rows: np.ndarray) -> list[np.ndarray]:
            with self.around():
                self.seen = float32_switch()
                return predict(*rows)

        return inside

    def facts(self) -> Facts:
        """Return PyTorch's facts, the device's name and how float32 products were computed."""
        return {**super().facts(), **cuda_facts(self.seen)}


@register_backend("cuda-fp16", dtype="float16")
@register_backend("cuda-bf16")
class AutocastCudaBackend(TorchBackend):
    """PyTorch on CUDA under autocast: products in bfloat16 or float16, what needs it in float32.

    Source: https://docs.pytorch.org/docs/stable/amp.html
    """

    device = "cuda"
    dtype = "bfloat16"
    keeps_denormals = False

    def availability(self) -> str | None:
        """Return why there is no CUDA here, or none that knows the dtype."""
        import torch

        reason = no_cuda()
        if reason is None and self.dtype == "bfloat16" and not torch.cuda.is_bf16_supported():
            return f"{torch.cuda.get_device_name()} has no bfloat16"
        return reason

    def prepare(self, model: nn.Module) -> Predict:
        """Return a function that runs a copy of the module under autocast; narrow outputs come back as float32."""
        import torch

        from lrdiff_export.model.float64 import evaluation_copy, run_module, widened

        placed = self.place(evaluation_copy(model))
        dtype = getattr(torch, self.dtype)

        def predict(*rows: np.ndarray) -> list[np.ndarray]:
            with torch.autocast("cuda", dtype=dtype):
                outputs = run_module(placed, *(self.place(torch.tensor(one)) for one in rows))
            self.ran_on = check_device([*placed.parameters(), *placed.buffers(), *outputs], self.device)
            return [widened(output) for output in outputs]

        return predict

    def facts(self) -> Facts:
        """Return PyTorch's facts and the device's name."""
        return {**super().facts(), **cuda_facts(float32_switch()), "autocast": self.dtype}


@register_backend("cuda-max-autotune", mode="max-autotune")
@register_backend("cuda-reduce-overhead", mode="reduce-overhead")
@register_backend("cuda-compiled")
class CompiledCudaBackend(CompiledBackend):
    """``torch.compile`` on CUDA in one of its modes, in real float32."""

    device = "cuda"
    keeps_denormals = False
    seen = "not run"

    def availability(self) -> str | None:
        """Return why there is no CUDA here, or no Triton to compile for it."""
        import torch

        reason = no_cuda()
        if reason is None and not torch.utils._triton.has_triton():
            return "triton is not installed, or does not know this GPU: pip install triton"
        return reason

    def prepare(self, model: nn.Module) -> Predict:
        """Return a function that runs compiled code on CUDA."""
        predict = super().prepare(model)

        def exactly(*rows: np.ndarray) -> list[np.ndarray]:
            with float32_products("ieee"):
                self.seen = float32_switch()
                return predict(*rows)

        return exactly

    def facts(self) -> Facts:
        """Return PyTorch's facts, the mode and the device's name."""
        return {**super().facts(), **cuda_facts(self.seen)}


@register_backend("cuda-graph")
class GraphCudaBackend(CudaBackend):
    """PyTorch on CUDA, captured once a shape on a stream of its own and replayed.

    Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
    """

    def prepare(self, model: nn.Module) -> Predict:
        """Return a function that replays the graph of the rows' shapes."""
        import torch

        from lrdiff_export.model.capture import capture
        from lrdiff_export.model.float64 import evaluation_copy, run_module, to_numpy

        placed = self.place(evaluation_copy(model))
        captured: dict[tuple[tuple[int, ...], ...], tuple[Any, list[Tensor], list[Tensor]]] = {}

        def predict(*rows: np.ndarray) -> list[np.ndarray]:
            with self.around():
                self.seen = float32_switch()
                tensors = [self.place(torch.tensor(one)) for one in rows]
                shapes = tuple(tuple(one.shape) for one in tensors)
                if shapes not in captured:
                    kept = [one.clone() for one in tensors]
                    captured[shapes] = (*capture(lambda: run_module(placed, *kept)), kept)
                graph, outputs, inputs = captured[shapes]
                for static, given in zip(inputs, tensors, strict=True):
                    static.copy_(given)
                graph.replay()
                torch.cuda.synchronize()
            self.ran_on = check_device([*placed.parameters(), *placed.buffers(), *outputs], self.device)
            return [to_numpy(output) for output in outputs]

        return predict


def no_cuda() -> str | None:
    """Return why there is no CUDA here."""
    import torch

    if torch.version.cuda is None:
        return f"torch {torch.__version__} was built without CUDA"
    return None if torch.cuda.is_available() else "no CUDA device or driver found"


def cuda_facts(products: str) -> dict[str, object]:
    """Return the device's name and how float32 products are computed."""
    import torch

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"gpu": name, "cuda": torch.version.cuda, "float32_products": products}


def float32_switch() -> str:
    """Return how float32 matrix products on CUDA are switched."""
    import torch

    return str(torch.backends.cuda.matmul.fp32_precision)


@contextmanager
def float32_products(precision: str) -> Iterator[None]:
    """Set every switch that lets a GPU round the inputs of float32 products to TF32, and set it back.

    torch has two sets of switches, and raises where one of the older ones is read while the newer ones say something
    else, as compilers do: both are set. The CPU's products never become coarser by it.

    Args:
        precision: ``ieee`` or ``tf32``.

    Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#tensorfloat-32-tf32-on-ampere-and-later-devices
    """
    import torch

    backends: Any = torch.backends  # its stubs know the older switches alone
    switches = [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn, backends.mkldnn.matmul]
    before = [switch.fp32_precision for switch in switches]
    older = _older_switches()
    try:
        _set_older(("high", True) if precision == "tf32" else ("highest", False), where=older)
        for switch in switches[:3]:
            switch.fp32_precision = precision
        if precision == "tf32" and before[3] != "bf16":  # the older switch means the CPU as well
            switches[3].fp32_precision = before[3]
        yield
    finally:
        _set_older(older, where=older)
        for switch, value in zip(switches, before, strict=True):
            switch.fp32_precision = value


def _older_switches() -> tuple[str | None, bool | None]:
    """Those of matrix products and of cuDNN; None where the caller has mixed old and new: they cannot be read."""
    import torch

    precision, convolutions = None, None
    with suppress(RuntimeError):
        precision = torch.get_float32_matmul_precision()
    with suppress(RuntimeError):
        convolutions = torch.backends.cudnn.allow_tf32
    return precision, convolutions


def _set_older(values: tuple[str | None, bool | None], *, where: tuple[str | None, bool | None]) -> None:
    """Set those that could be read."""
    import torch

    if where[0] is not None and values[0] is not None:
        torch.set_float32_matmul_precision(values[0])
    if where[1] is not None and values[1] is not None:
        # What `torch.backends.cudnn.allow_tf32 = ...` calls, which raises once torch's own test utilities are imported.
        torch._C._set_cudnn_allow_tf32(values[1])
