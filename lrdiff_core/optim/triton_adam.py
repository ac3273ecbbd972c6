# mypy: disable-error-code="no-untyped-def, import-not-found, untyped-decorator"
"""Adam and AdamW over all tensors and all rates in one Triton kernel: CUDA, float32.

Imported only where it is used: it needs triton, which comes with torch's CUDA wheels. The tests run it on the CPU in
Triton's interpreter; no GPU has run it yet, so it is used only with ``LRDIFF_TRITON=1`` in the environment.

Every tensor is cut into chunks of ``BLOCK`` numbers, one program each. What a program needs to know lies in tables on
the device: pointers (refilled every step, gradients move), and a row of numbers for each tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lrdiff_core.optim import kernel
from lrdiff_core.optim.forms import Columns, Form, Setting, Tensors, Update, columns_of
from lrdiff_core.optim.memory.layout import data_ptr

try:
    import triton
    import triton.language as tl
except ImportError:  # this file can still be read by documentation and test tools
    triton = SimpleNamespace(jit=lambda function: function)

__all__ = ["TritonForm"]

BLOCK = 2048
_WIDTH = 16  # bytes of the widest load


@triton.jit
def _update(
    p,
    g,
    m,
    v,
    top,
    offsets,
    mask,
    s,
    DECOUPLED: tl.constexpr,
    AMSGRAD: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    MASKED: tl.constexpr,
):
    lr, decay, weight, beta2, rest2, size, root, eps = s
    if MASKED:
        param, grad = tl.load(p + offsets, mask=mask), tl.load(g + offsets, mask=mask)
        first, second = tl.load(m + offsets, mask=mask), tl.load(v + offsets, mask=mask)
    else:
        param, grad, first, second = (
            tl.load(p + offsets),
            tl.load(g + offsets),
            tl.load(m + offsets),
            tl.load(v + offsets),
        )
    if MAXIMIZE:
        grad = -grad
    if DECOUPLED:
        param = param * tl.where(decay == 0.0, 1.0, 1.0 - lr * decay).to(tl.float32)  # the rate may be infinite
    else:
        grad = grad + param * decay.to(tl.float32)
    first = first + weight * (grad - first)
    second = beta2 * second + rest2 * grad * grad
    square = second
    if AMSGRAD:
        square = tl.maximum(tl.load(top + offsets, mask=mask), second)
        tl.store(top + offsets, square, mask=mask)
    param = param - size * first / (tl.sqrt(square) / root + eps)
    if MASKED:
        tl.store(p + offsets, param, mask=mask)
        tl.store(m + offsets, first, mask=mask)
        tl.store(v + offsets, second, mask=mask)
    else:
        tl.store(p + offsets, param)
        tl.store(m + offsets, first)
        tl.store(v + offsets, second)


@triton.jit
def _adam(
    pointers,
    numbers,
    chunk_tensor,
    chunk_start,
    numel,
    count,
    DECOUPLED: tl.constexpr,
    AMSGRAD: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # pointers: int64 [5, count]; numbers: float64 [6, count]; chunk_*: [chunks]; numel: int64 [count]
    chunk = tl.program_id(0)
    j = tl.load(chunk_tensor + chunk)
    start = tl.load(chunk_start + chunk)
    n = tl.load(numel + j)
    p = tl.load(pointers + j).to(tl.pointer_type(tl.float32))
    g = tl.load(pointers + count + j).to(tl.pointer_type(tl.float32))
    m = tl.load(pointers + 2 * count + j).to(tl.pointer_type(tl.float32))
    v = tl.load(pointers + 3 * count + j).to(tl.pointer_type(tl.float32))
    top = tl.load(pointers + 4 * count + j).to(tl.pointer_type(tl.float32))
    if ALIGNED:
        p, g = tl.multiple_of(p, 16), tl.multiple_of(g, 16)
        m, v = tl.multiple_of(m, 16), tl.multiple_of(v, 16)
    lr, decay = tl.load(numbers + j), tl.load(numbers + count + j)
    beta1, beta2 = tl.load(numbers + 2 * count + j), tl.load(numbers + 3 * count + j)
    eps, step = tl.load(numbers + 4 * count + j), tl.load(numbers + 5 * count + j)
    size = (lr / (1.0 - tl.exp(step * tl.log(beta1)))).to(tl.float32)
    root = tl.sqrt(1.0 - tl.exp(step * tl.log(beta2))).to(tl.float32)
    scalars = (
        lr,
        decay,
        (1.0 - beta1).to(tl.float32),
        beta2.to(tl.float32),
        (1.0 - beta2).to(tl.float32),
        size,
        root,
        eps.to(tl.float32),
    )
    offsets = start + tl.arange(0, BLOCK)
    if start + BLOCK <= n:  # without a mask loads are wide
        _update(p, g, m, v, top, offsets, offsets < n, scalars, DECOUPLED, AMSGRAD, MAXIMIZE, False)
    else:
        _update(p, g, m, v, top, offsets, offsets < n, scalars, DECOUPLED, AMSGRAD, MAXIMIZE, True)


class TritonForm(Form):
    """One launch for all tensors that agree in ``amsgrad``, ``maximize`` and kind of decay."""

    def __init__(self, tensors: Tensors, update: Update, settings: Sequence[Setting]) -> None:
        self._update = update
        together: dict[int, list[int]] = {}
        for i, group in enumerate(tensors.group):
            together.setdefault(update.flags(update.setting(*settings[group])), []).append(i)
        self._parts = [(flags, tensors.part(at), at) for flags, at in together.items()]
        self._chunks = [_chunks(part.params) for _, part, _ in self._parts]
        self.tune(settings, columns_of(update, settings))

    @override
    def tune(self, settings: Sequence[Setting], columns: Columns) -> bool:
        self._numbers = self._update.numbers(columns)
        return True

    @override
    @torch.no_grad()
    def run(self, grads: list[Tensor]) -> None:
        for (flags, part, at), (chunk_tensor, chunk_start, numel) in zip(self._parts, self._chunks, strict=True):
            state, count, device = part.state, len(part.params), part.params[0].device
            torch._foreach_add_(state["step"], 1.0)
            # In rows and with the sign that memory holds; a copy is kept until the kernel is launched.
            tables = [part.params, [grads[i].contiguous().resolve_neg() for i in at]]
            tables += [state["exp_avg"], state["exp_avg_sq"]]
            tables.append(state["max_exp_avg_sq"] if flags & kernel.AMSGRAD else part.params)
            addresses = list(map(data_ptr, chain(*tables)))
            if len(chunk_tensor):
                _adam[(len(chunk_tensor),)](
                    torch.tensor(addresses, dtype=torch.int64).to(device, non_blocking=True),
                    self._rows(part).to(device, non_blocking=True),
                    chunk_tensor,
                    chunk_start,
                    numel,
                    count,
                    DECOUPLED=bool(flags & kernel.DECOUPLED),
                    AMSGRAD=bool(flags & kernel.AMSGRAD),
                    MAXIMIZE=bool(flags & kernel.MAXIMIZE),
                    ALIGNED=not any(address % _WIDTH for address in addresses),
                    BLOCK=BLOCK,
                )
            torch.autograd.graph.increment_version(part.params)

    def _rows(self, part: Tensors) -> Tensor:
        """float64 ``[6, count]``: lr, weight decay, beta1, beta2, eps, step of each tensor."""
        columns = [[float(column[group]) for group in part.group] for column in self._numbers]
        rows: list[Any] = [*columns, torch.stack(part.state["step"]).tolist()]
        return torch.tensor(rows, dtype=torch.float64)


def _chunks(params: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Which tensor each chunk lies in, where it starts, and the sizes of the tensors."""
    cut = [(i, start) for i, param in enumerate(params) for start in range(0, param.numel(), BLOCK)]
    device = params[0].device
    return (
        torch.tensor([i for i, _ in cut], dtype=torch.int32, device=device),
        torch.tensor([start for _, start in cut], dtype=torch.int64, device=device),
        torch.tensor([param.numel() for param in params], dtype=torch.int64, device=device),
    )
