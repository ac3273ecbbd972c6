"""How numbers are kept in fewer bytes than float32, in plain operations: what ``states.h`` says in C, bit for bit.

bfloat16, and codes of eight bits behind an exponent that a block of numbers shares (a block-wise minifloat, as in the
OCP's MX formats). What does not fit is rounded up or down by chance, in proportion, so that sums are kept on average.

Sources: Dettmers et al., 8-bit Optimizers via Block-wise Quantization, https://arxiv.org/abs/2110.02861; Rouhani et
al., Microscaling Data Formats for Deep Learning, https://arxiv.org/abs/2310.10537; stochastic rounding: Zamirai et al.,
Revisiting BFloat16 Training, https://arxiv.org/abs/2010.06192; the two halves of a float32: Split-SGD of Intel's
extension for PyTorch, https://intel.github.io/intel-extension-for-pytorch/cpu/latest/tutorials/features/split_sgd.html
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "BLOCK",
    "NEAREST",
    "decode",
    "draw",
    "encode",
    "flat",
    "fma",
    "join",
    "round_to_bfloat16",
    "split",
]

BLOCK = 256  # numbers that share an exponent
NEAREST = 0x8000  # in place of chance: rounds to the nearest, as where state is read from another format
_SIGNED, _POSITIVE = 15, 31  # exponents of a code but the lowest
_LEAST = 57  # exponent of a block, biased
_ODD = 0x9E3779B9  # 2**32 over the golden ratio
_WORD = 0xFFFFFFFF
_SIZE, _INFINITE, _QUIET = 0x7FFFFFFF, 0x7F800000, 0x400000


def flat(tensor: Tensor) -> Tensor:
    """The numbers of a tensor without gaps as they lie in memory, a view: [numel]."""
    return tensor.detach().as_strided((tensor.numel(),), (1,))


def _bits(x: Tensor) -> Tensor:
    return x.view(torch.int32).long() & _WORD


def _floats(bits: Tensor) -> Tensor:
    return ((bits & _WORD ^ 0x80000000) - 0x80000000).int().view(torch.float32)


def _halves(bits: Tensor) -> Tensor:
    """The upper 16 bits, as bfloat16."""
    return ((bits >> 16 & 0xFFFF ^ 0x8000) - 0x8000).short().view(torch.bfloat16)


def draw(grads: Tensor, step: int) -> Tensor:
    """32 bits of chance for each number, from step, place and gradient.

    Args:
        grads: [numel] float32.
        step: that is taken, from 1 up.

    Returns:
        [numel] int64.
    """
    places = torch.arange(len(grads)) + step * _ODD
    x = (places & _WORD) ^ _bits(grads)
    return (x ^ x >> 16) * 0x7FEB352D & _WORD


def round_to_bfloat16(x: Tensor, chance: Tensor | int) -> Tensor:
    """The bfloat16 above or below, by 16 bits of chance; away from zero where they exceed what is cut off.

    Example:
        >>> round_to_bfloat16(torch.tensor([1.0 + 2**-9]), 0xFFFF), round_to_bfloat16(torch.tensor([1.0 + 2**-9]), 0)
        (tensor([1.0078], dtype=torch.bfloat16), tensor([1.], dtype=torch.bfloat16))
    """
    bits = _bits(x)
    return _halves(torch.where((bits & _SIZE) > _INFINITE, bits | _QUIET, bits + chance))


def join(half: Tensor, low: Tensor) -> Tensor:
    """The float32 of its two halves, see :func:`split`."""
    return _floats(_bits(half.float()) + low.long())


def split(x: Tensor) -> tuple[Tensor, Tensor]:
    """A float32 as the bfloat16 nearest to it (of two, the one away from zero) and what is left: its lower 16 bits.

    Example:
        >>> half, low = split(torch.tensor([0.1]))
        >>> half, join(half, low)
        (tensor([0.1001], dtype=torch.bfloat16), tensor([0.1000]))
    """
    bits = _bits(x)
    bits = torch.where((bits & _SIZE) > _INFINITE, (bits | _QUIET) & 0xFFFF0000, bits)
    low = ((bits & 0xFFFF ^ 0x8000) - 0x8000).short()
    return _halves(bits + 0x8000), low


def _padded(x: Tensor) -> Tensor:
    """As blocks, [blocks, BLOCK], zeros behind the last number."""
    return torch.nn.functional.pad(x, (0, -len(x) % BLOCK)).view(-1, BLOCK)


def encode(x: Tensor, chance: Tensor | int, *, signed: bool) -> tuple[Tensor, Tensor]:
    """Codes of eight bits and an exponent for each block.

    A code has three bits of mantissa. With a sign it has four of exponent, of which the lowest is for the even steps
    from zero to the smallest power of two. Without, it has five, and the smallest code but 0 is for all below it.

    Args:
        x: [numel] float32, in blocks of :data:`BLOCK`; the last may be shorter.
        chance: 16 bits each; :data:`NEAREST` for all.
        signed: False for numbers from 0 up; those above 0 stay above it, since a step divides by their root.

    Returns:
        uint8 [numel] and [blocks].

    Example:
        >>> codes, exponents = encode(torch.tensor([1.0, -0.3, 1e-4]), NEAREST, signed=True)
        >>> decode(codes, exponents, signed=True)
        tensor([ 1.0000e+00, -3.1250e-01,  9.9182e-05])
    """
    levels = _SIGNED if signed else _POSITIVE
    bits = _padded(_bits(x))
    sizes, r = bits & _SIZE, _padded(torch.as_tensor(chance).expand(len(x)) << 4)
    # One more where the largest may be rounded up to it.
    exponents = ((sizes.amax(1, keepdim=True) + 0xFFFFF) >> 23).clamp(_LEAST, 255)
    codes = ((sizes + r) >> 20) - ((exponents - levels) << 3)
    if signed:
        least = (exponents - levels + 1) << 3
        small = sizes < least << 20
        even = (_bits(_floats(sizes) + _floats(least << 20)) + r >> 20) - least  # a power of two makes steps even
        codes = torch.where(small, even, codes).clamp(max=127) | bits >> 24 & 0x80
    else:
        codes = torch.where(sizes > 0, codes.clamp(1, 255), 0)
    return codes.view(-1)[: len(x)].to(torch.uint8), exponents.view(-1).to(torch.uint8)


def decode(codes: Tensor, exponents: Tensor, *, signed: bool) -> Tensor:
    """The float32 numbers of :func:`encode`, [numel]."""
    levels = _SIGNED if signed else _POSITIVE
    whole, exponent = _padded(codes.long()), exponents.long()[:, None].clamp(min=_LEAST)
    c = whole & 0x7F if signed else whole
    bits = (c + ((exponent - levels) << 3)) << 20
    if signed:
        least = (exponent - levels + 1) << 3
        even = _floats((c + least) << 20) - _floats(least << 20)
        bits = torch.where(c < 8, _bits(even), bits) | (whole & 0x80) << 24
    else:
        bits = torch.where(c > 0, bits, 0)
    return _floats(bits).view(-1)[: len(codes)]


def fma(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """``a * b + c`` of float32, rounded once.

    The sum is taken in float64, where the product is exact, and rounded to odd there, so that rounding it again to
    float32 is as rounding it once (Boldo and Melquiond, https://doi.org/10.1109/TC.2007.70819).
    """
    product, c = a.double() * b.double(), c.double()
    total = product + c
    back = total - product
    error = (product - (total - back)) + (c - back)
    bits = total.view(torch.int64)
    inexact = (error != 0) & total.isfinite() & (bits & 1 == 0)
    return torch.where(inexact, bits + torch.where((error > 0) == (total > 0), 1, -1), bits).view(torch.float64).float()
