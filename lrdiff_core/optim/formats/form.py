"""The compiled form for numbers kept in fewer bytes."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lrdiff_core.optim import kernel
from lrdiff_core.optim.formats.codes import BLOCK
from lrdiff_core.optim.formats.plain import PlainForm
from lrdiff_core.optim.formats.state import FORMATS, LOW, MOMENTS
from lrdiff_core.optim.forms import Form, KernelForm, Setting, Tensors, Update
from lrdiff_core.optim.memory.layout import data_ptr

__all__ = ["FormatForm", "form_in"]


class _Formats(ctypes.Structure):
    """How numbers are kept; the fields are explained in ``states.h``."""

    _fields_ = [
        ("state", ctypes.c_int64),
        ("half", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("low", "first_exponent", "second_exponent")),
    ]


class FormatForm(KernelForm):
    """One call of the compiled kernel for tensors whose state is in one format."""

    def __init__(self, tensors: Tensors, update: Update, settings: Sequence[Setting], symbol: str, chosen: str) -> None:
        state, half = tensors.state, tensors.params[0].dtype is torch.bfloat16
        kept: dict[str, ctypes.Array[Any]] = {}
        if chosen == "8-bit":
            places = zip(("first_exponent", "second_exponent"), MOMENTS, strict=True)
            kept = {place: _addresses(state[f"{name}_exponents"]) for place, name in places}
        elif half and chosen == "float32":
            kept = {"low": _addresses(state[LOW])}
        self._kept = kept
        formats = _Formats(
            state=FORMATS.index(chosen), half=half, **{name: ctypes.addressof(array) for name, array in kept.items()}
        )
        super().__init__(
            tensors, update, settings, f"{symbol}_formats",
            buffers=tuple(f"{name}_codes" if chosen == "8-bit" else name for name in MOMENTS),
            unit=BLOCK, formats=formats,
        )  # fmt: skip


def _addresses(tensors: Sequence[Tensor]) -> ctypes.Array[Any]:
    return (ctypes.c_void_p * len(tensors))(*map(data_ptr, tensors))


def form_in(
    chosen: str, tensors: Tensors, update: Update, settings: Sequence[Setting], symbol: str
) -> tuple[str, Form]:
    """Name and form of tensors whose state is in a format: the kernel, or plain operations where there is none."""
    if kernel.load() is None:
        return "plain", PlainForm(tensors, update, settings)
    return "kernel", FormatForm(tensors, update, settings, symbol, chosen)
