"""How tensors lie in memory, and whether one call can step them: pointers, order, gaps, kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeGuard

import torch
from torch import Tensor

__all__ = [
    "data_ptr",
    "is_dense",
    "is_usable",
    "is_lazy_view",
    "kind_check",
    "laid_out_as",
    "layout_of",
    "memory_span",
    "never_alike",
    "ordered_alike",
]

# Mapped over a list, a method of the class costs half of what asking each tensor for it does.
data_ptr: Callable[[Tensor], int] = torch._C.TensorBase.data_ptr


def memory_span(param: Tensor) -> tuple[int, int]:
    """Where a strided tensor's numbers begin and end."""
    last = sum((size - 1) * stride for size, stride in zip(param.shape, param.stride(), strict=True))
    start = data_ptr(param)
    return start, start + (last + 1) * param.element_size() if param.numel() else start


def never_alike(*tensors: Tensor | None) -> bool:
    """The check that always says no, so that every tensor is looked at by itself."""
    return False


def layout_of(tensor: Tensor) -> tuple[object, ...]:
    """Dtype, shape and strides of a tensor."""
    return tensor.dtype, tensor.shape, tensor.stride()


def kind_check(tensors: list[Tensor]) -> Callable[..., bool]:
    """Return a check whether other tensors agree with these in everything but their numbers.

    Compared are class, dtype, device, sizes, strides, and what kind of view they are, by the check that torch.compile
    makes before it runs what it compiled. One call over all tensors takes a third of the time of asking each for its
    bytes and its layout. Where torch has it no longer, every gradient is looked at instead.
    """
    guards = getattr(torch._C._dynamo.guards, "TensorGuards", None)
    # Without the two options this constructor crashes the process (torch 2.13).
    return guards(*tensors, dynamic_dims_sizes=None, dynamic_dims_strides=None).check if guards else never_alike


def is_usable(grad: Tensor | None, param: Tensor) -> TypeGuard[Tensor]:
    """Whether a gradient is a plain tensor of its parameter's kind."""
    if type(grad) is not Tensor or grad.layout is not torch.strided:
        return False
    return grad.dtype is param.dtype and grad.device == param.device and grad.shape == param.shape


def laid_out_as(param: Tensor, grad: Tensor) -> Tensor:
    """The gradient, on the CPU in memory as the parameter is."""
    if not grad.is_cpu or (ordered_alike(grad, param) and not is_lazy_view(grad)):
        return grad
    return torch.empty_like(param, requires_grad=False).copy_(grad.detach())


def is_lazy_view(tensor: Tensor) -> bool:
    """Whether memory holds other numbers than the tensor: a negated view (``z.conj().imag``) or torch's ZeroTensor."""
    return tensor.is_neg() or tensor._is_zerotensor()


def ordered_alike(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one shape keep their numbers in the same order."""
    if a.stride() == b.stride() or not a.numel():
        return True
    return all(s == t for size, s, t in zip(a.shape, a.stride(), b.stride(), strict=True) if size > 1)


def is_dense(tensor: Tensor) -> bool:
    """Whether the numbers fill their memory without gaps, each once, in whatever order of dimensions."""
    if tensor.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted((t, n) for t, n in zip(tensor.stride(), tensor.shape, strict=True) if n > 1):
        if stride != expected:
            return False
        expected *= size
    return True
