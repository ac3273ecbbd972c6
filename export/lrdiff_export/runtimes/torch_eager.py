"""Eager PyTorch on the CPU, and what all backends that run PyTorch share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lrdiff_export.runtimes.protocol import Facts, Predict, RanElsewhereError, register_backend

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["TorchBackend", "check_device", "torch_facts"]


class TorchBackend:
    """Eager PyTorch in float32 on one device; subclasses say which, and what to do with the module first.

    Example:
        >>> import torch
        >>> predict = TorchBackend().prepare(torch.nn.ReLU())
        >>> predict(np.array([[-1.0, 2.0]], np.float32))
        [array([[0., 2.]], dtype=float32)]
    """

    name = "torch"
    device = "cpu"
    dtype = "float32"
    needs_onnx = False
    heavy = False
    keeps_denormals = True
    ran_on = "nowhere"

    def availability(self) -> str | None:
        """Return why it cannot be used; PyTorch on the CPU always can."""
        return None

    def place(self, thing: Any) -> Any:
        """Move a module or tensor to the device."""
        return thing.to(self.device)

    def prepare(self, model: nn.Module) -> Predict:
        """Return a function that runs a copy of the module on the device, and refuses if it ran elsewhere."""
        import torch

        from lrdiff_export.model.float64 import evaluation_copy, run_module, to_numpy

        placed = self.place(evaluation_copy(model))

        def predict(*rows: np.ndarray) -> list[np.ndarray]:
            outputs = run_module(placed, *(self.place(torch.tensor(one)) for one in rows))
            self.ran_on = check_device([*placed.parameters(), *placed.buffers(), *outputs], self.device)
            return [to_numpy(output) for output in outputs]

        return predict

    def facts(self) -> Facts:
        """Return where the last run's tensors were, and PyTorch's switches."""
        return {"ran_on": self.ran_on, **torch_facts()}

    def release(self) -> None:
        """Nothing is held."""


def check_device(tensors: Sequence[Tensor], device: str) -> str:
    """Return the type of device that all tensors are on.

    Raises:
        RanElsewhereError: it is another than ``device``.
    """
    for tensor in tensors:
        if tensor.device.type != device:
            raise RanElsewhereError(
                f"asked for {device}, ran on {tensor.device.type}",
                help="do not move tensors to a fixed device inside the module",
            )
    return tensors[-1].device.type


def torch_facts() -> dict[str, object]:
    """Return PyTorch's version and the switches that change what it computes."""
    import torch

    return {
        "runtime": f"torch {torch.__version__}",
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "float32_products": _float32_products(),
    }


def _float32_products() -> str:
    """The older switch, which raises where someone has set the newer ones otherwise."""
    import torch

    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return "old and new switches disagree"


@register_backend("eager")
class EagerBackend(TorchBackend):
    """Eager PyTorch on the CPU."""


@register_backend("eager-bf16")
class EagerBfloat16Backend(TorchBackend):
    """Eager PyTorch on the CPU with weights, inputs and all between in bfloat16."""

    dtype = "bfloat16"

    def prepare(self, model: nn.Module) -> Predict:
        """Return a function that runs a bfloat16 copy; its outputs come back as float32, which holds them."""
        import torch

        from lrdiff_export.model.float64 import evaluation_copy, run_module, widened

        placed = evaluation_copy(model).to(torch.bfloat16)

        def predict(*rows: np.ndarray) -> list[np.ndarray]:
            tensors = [
                tensor.bfloat16() if tensor.is_floating_point() else tensor for tensor in map(torch.tensor, rows)
            ]
            outputs = run_module(placed, *tensors)
            self.ran_on = check_device(outputs, self.device)
            return [widened(output) for output in outputs]

        return predict
