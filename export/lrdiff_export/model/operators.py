"""What operators of PyTorch do to numbers: move them, round them to whole ones, or compute with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "ENDS",
    "LOOKUPS",
    "MEETS_NAN",
    "REMAINDERS",
    "WIDE",
    "computes",
    "is_floating",
    "is_view",
    "jumps",
    "operator_name",
    "rounded_once",
    "writes",
]

# What stands for every floating dtype in float64.
WIDE: dict[Any, torch.dtype] = {
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.float32: torch.float64,
    torch.float64: torch.float64,
    torch.complex32: torch.complex128,
    torch.complex64: torch.complex128,
    torch.complex128: torch.complex128,
}
# These choose or move numbers, and round none.
# fmt: off
_MOVES = frozenset({
    "_reshape_alias", "_to_copy", "_unsafe_view", "abs", "amax", "amin", "aminmax", "cat", "clamp", "clamp_max",
    "clamp_min", "clone", "constant_pad_nd", "copy", "cummax", "cummin", "diagonal_scatter", "embedding",
    "expand_copy", "fill", "flip", "fmax", "fmin", "gather", "hardtanh", "im2col", "index", "index_copy",
    "index_fill", "index_put", "index_select", "kthvalue", "lift_fresh_copy", "masked_fill", "masked_scatter",
    "masked_select", "max", "max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices",
    "maximum", "median", "min", "minimum", "mode", "nan_to_num", "nanmedian", "neg", "new_empty", "new_full",
    "new_ones", "new_zeros", "pixel_shuffle", "pixel_unshuffle", "reflection_pad1d", "reflection_pad2d",
    "reflection_pad3d", "relu", "repeat", "replication_pad1d", "replication_pad2d", "replication_pad3d", "roll",
    "scatter", "select_scatter", "slice_scatter", "sort", "stack", "threshold", "topk", "tril", "triu",
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "where", "zero",
})
# fmt: on
# These give whole numbers, by comparing.
_CHOOSES = frozenset(
    {
        "all",
        "any",
        "argmax",
        "argmin",
        "argsort",
        "bucketize",
        "count_nonzero",
        "equal",
        "isin",
        "nonzero",
        "searchsorted",
    }
)  # fmt: skip
_JUMPS = frozenset({"ceil", "floor", "floor_divide", "heaviside", "round", "sgn", "sign", "trunc"})
REMAINDERS = frozenset({"fmod", "frac", "remainder"})  # a number less a whole multiple of another
LOOKUPS = frozenset({"embedding", "gather", "index", "index_select"})  # where integers become floating numbers
# ONNX Runtime's sigmoid, in recurrent layers too, ends at this distance from 0 and 1.
ENDS = {"sigmoid": 1.5e-8}
# IEEE 754 rounds these once an element, in every runtime alike.
_ROUNDED_ONCE = frozenset({"add", "sub", "rsub", "mul", "div", "sqrt", "reciprocal"})


# What a program calls that asks whether numbers are missing.
MEETS_NAN = frozenset({"isnan", "isinf", "isneginf", "isposinf", "nan_to_num", "nansum", "nanmedian", "nanmean"})


def is_floating(value: object) -> bool:
    """Whether a value is a tensor of real or complex floating numbers."""
    return isinstance(value, Tensor) and value.dtype in WIDE


def operator_name(func: Any) -> str:
    """Return the plain name of an operator, in place or not, of any overload.

    Example:
        >>> operator_name(torch.ops.aten.add_.Tensor)
        'add'
    """
    return str(func.overloadpacket).rpartition(".")[2].rstrip("_")


def is_view(func: Any) -> bool:
    """Whether an operator gives a view of its argument."""
    return any(one.alias_info is not None and not one.alias_info.is_write for one in func._schema.returns)


def writes(func: Any) -> bool:
    """Whether an operator writes into an argument and gives it back."""
    return any(one.alias_info is not None and one.alias_info.is_write for one in func._schema.returns)


def jumps(func: Any, options: Mapping[str, Any]) -> bool:
    """Whether the floating result of an operator is a whole number or a sign, which jumps where its argument does not.

    Example:
        >>> jumps(torch.ops.aten.floor.default, {}), jumps(torch.ops.aten.div.Tensor_mode, {"rounding_mode": "floor"})
        (True, True)
    """
    name = operator_name(func)
    return name in _JUMPS or (name == "div" and options.get("rounding_mode") is not None)


def computes(func: Any, options: Mapping[str, Any]) -> bool:
    """Whether floating results of an operator are rounded.

    Example:
        >>> aten = torch.ops.aten
        >>> [computes(one, {}) for one in (aten.add.Tensor, aten.exp.default, aten.relu.default, aten.view.default)]
        [True, True, False, False]
    """
    name = operator_name(func)
    return not (name in _MOVES or name in _CHOOSES or name in REMAINDERS or jumps(func, options) or is_view(func))


def rounded_once(func: Any) -> bool:
    """Whether every runtime that keeps to IEEE 754 gives the same bits: one operation, rounded once, an element."""
    return operator_name(func) in _ROUNDED_ONCE
