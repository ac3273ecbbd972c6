"""The three forms that one pass can take, and what they have in common: tensors side by side, a setting for each.

======== ================================== =====================================================================
form     used for                           what runs
======== ================================== =====================================================================
kernel   CPU, float32, a C compiler is here one call for all tensors and all rates (``kernel.c``)
fused    CPU otherwise                      PyTorch's fused kernel, once for each distinct setting
foreach  CUDA                               PyTorch's foreach kernels once, with a list of scalars (one a tensor)
fused    CUDA with ``capturable``, and SGD  PyTorch's fused kernel, once for each distinct setting
======== ================================== =====================================================================

A form is made when the structure is prepared and then run every step. It holds the very parameter and state tensors
of the optimizer, no copies.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol

import torch
from torch import Tensor
from typing_extensions import override

from lrdiff_core.optim import kernel
from lrdiff_core.optim.guard import Places
from lrdiff_core.optim.memory.layout import data_ptr

__all__ = [
    "Columns",
    "Form",
    "Tensors",
    "Update",
    "KernelForm",
    "FusedForm",
    "ForeachForm",
    "Setting",
    "columns_of",
]

Setting = Any  # the watched options of one parameter group: the named tuple that Update.setting makes of them
Columns = Any  # the same named tuple, each field holding that option of all groups

# Elements that are worth a thread: about 25 us of work, several times what it takes to wake one.
GRAIN = 131_072
# Elements that a thread takes at a time: a few us, so that none is waited for long, and far more than taking costs.
PIECE = 16_384


@dataclass(frozen=True, kw_only=True)
class Tensors:
    """Parameters side by side with their state: ``state[name][i]`` and ``group[i]`` belong to ``params[i]``.

    Where the rule needs no such state for a parameter (no momentum in its group, say), None stands in its place.
    """

    params: list[Tensor]
    state: dict[str, list[Tensor]]
    group: list[int]  # index into the list of settings
    fresh: list[bool]  # momentum_buffer holds nothing yet

    def part(self, chosen: Sequence[int]) -> Tensors:
        """The tensors at the chosen positions."""
        return Tensors(
            params=[self.params[i] for i in chosen],
            state={name: [values[i] for i in chosen] for name, values in self.state.items() if values},
            group=[self.group[i] for i in chosen],
            fresh=[self.fresh[i] for i in chosen],
        )


@dataclass(frozen=True, kw_only=True)
class Division:
    """How a rule divides tensors into blocks itself, instead of by numbers.

    Args:
        blocks: how many each tensor has.
        table: what ``kernel.c`` reads as ``factors``.
        arrays: to which it points.
    """

    blocks: list[int]
    table: ctypes.Structure
    arrays: list[ctypes.Array[Any]]


class Update(Protocol):
    """What an optimizer's own file says about its rule; the forms below apply it."""

    setting: type[Any]  # a NamedTuple: the group options watched every step, in the names that torch gives them
    required: tuple[str, ...]  # those of them that are numbers, which every group of the kind has had at all times
    buffers: tuple[str, str, str]  # of the state, as ``first``, ``second`` and ``largest`` of ``kernel.c``
    whole_pieces: bool = False  # each tensor begins a new piece, for norms that threads change no bit of
    counters: tuple[str, ...] = ("step",)  # states of one number each, as ``step``, ``number1`` and ``number2`` there

    def structure(self, columns: Columns) -> tuple[Any, ...]:
        """What of the settings decides what is prepared; a change of anything else is only a new number."""

    def numbers(self, columns: Columns) -> tuple[Sequence[Any], ...]:
        """lr, weight_decay, beta1, ... (``kernel.COLUMNS``, as many as are read), each with one entry a setting."""

    def flags(self, setting: Setting) -> int:
        """The bits that ``kernel.c`` reads."""

    def divide(self, params: Sequence[Tensor]) -> Division | None:
        """How the rule divides these itself (with ``whole_pieces``); None if any number can be taken by itself."""
        return None

    def fused(self, tensors: Tensors, grads: list[Tensor], setting: Setting) -> None:
        """Applies PyTorch's fused kernel with one setting for all tensors."""

    def foreach(self, tensors: Tensors, grads: list[Tensor], settings: Sequence[Setting]) -> None:
        """Applies foreach kernels with a setting for each tensor; the structure of all settings agrees."""


class Form(Protocol):
    """One way to run a step over many tensors."""

    def tune(self, settings: Sequence[Setting], columns: Columns) -> bool:
        """Takes new numbers, the structure unchanged; False if the tensors have to be divided anew."""

    def run(self, grads: list[Tensor]) -> None:
        """One step, gradients in the order of the tensors; on the CPU in memory as they are."""


class KernelForm(Form):
    """One call of the compiled kernel: a table of pointers, filled once; each step brings the gradients' pointers.

    Args:
        tensors, update, settings: what is stepped.
        symbol: the function.
        buffers: of the state; left out, the update's.
        unit: numbers that no piece divides.
        formats: how numbers are kept, for ``states.h``.
    """

    def __init__(
        self,
        tensors: Tensors,
        update: Update,
        settings: Sequence[Setting],
        symbol: str,
        *,
        buffers: Sequence[str] | None = None,
        unit: int = 1,
        formats: ctypes.Structure | None = None,
    ) -> None:
        library = kernel.load()
        assert library is not None, "the kernel form is chosen only where the kernel loads"
        count = len(tensors.params)
        sizes = [param.numel() for param in tensors.params]
        unit = PIECE if update.whole_pieces else unit
        self._division = division = update.divide(tensors.params)
        blocks = [-(-size // unit) for size in sizes] if division is None else division.blocks
        offsets = [0, *accumulate(number * unit for number in blocks)]
        self._update = update
        self._tensors = tensors
        self._call = getattr(library, symbol)
        self._most_threads = max(1, sum(sizes) // GRAIN)
        self._grad = (ctypes.c_void_p * count)()
        self._columns = {name: (ctypes.c_double * len(settings))() for name in kernel.COLUMNS}
        state = tensors.state
        self._arrays: dict[str, ctypes.Array[Any]] = {
            "param": _pointers(tensors.params, count),
            "grad": self._grad,
            **{
                place: _pointers(state.get(name) or [], count)
                for place, name in zip(("first", "second", "largest"), buffers or update.buffers, strict=False)
            },
            **{
                place: _pointers(state.get(name) or [], count)
                for place, name in zip(kernel.NUMBERS, update.counters, strict=False)
            },
            "offset": (ctypes.c_int64 * (count + 1))(*offsets),
            "setting": (ctypes.c_int32 * count)(*tensors.group),
            "fresh": (ctypes.c_uint8 * count)(*tensors.fresh),
            "flags": (ctypes.c_int32 * len(settings))(*[update.flags(update.setting(*s)) for s in settings]),
            "scalars": (ctypes.c_float * (kernel.SCALARS * count))(),
            "size": (ctypes.c_int64 * count)(*sizes),
            "partial": (ctypes.c_double * (2 * offsets[-1] // PIECE if update.whole_pieces else 0))(),
            **self._columns,
        }
        addresses = {name: ctypes.addressof(array) for name, array in self._arrays.items()}
        if formats is not None:
            self._formats = formats
            addresses["formats"] = ctypes.addressof(formats)
        if division is not None:
            addresses["factors"] = ctypes.addressof(division.table)
        self._table = kernel.Table(count=count, threads=1, piece=-(-PIECE // unit) * unit, **addresses)
        self._address = ctypes.addressof(self._table)
        self.tune(settings, columns_of(update, settings))

    @property
    def places(self) -> Places:
        """Where things lie, for what calls the kernel without Python."""
        return Places(
            run=ctypes.cast(self._call, ctypes.c_void_p).value or 0,
            table=self._address,
            grad=ctypes.addressof(self._grad),
            lr=ctypes.addressof(self._columns["lr"]),
            threads=self._address + kernel.Table.threads.offset,
            most_threads=self._most_threads,
        )

    @override
    def tune(self, settings: Sequence[Setting], columns: Columns) -> bool:
        for array, numbers in zip(self._columns.values(), self._update.numbers(columns), strict=False):
            array[:] = list(numbers)
        return True

    @override
    def run(self, grads: list[Tensor]) -> None:
        self._grad[:] = list(map(data_ptr, grads))
        if self._most_threads > 1:
            self._table.threads = min(self._most_threads, torch.get_num_threads())
        self._call(self._address)
        # Autograd has to learn that the parameters changed, as it would from any operation in place.
        torch.autograd.graph.increment_version(self._tensors.params)


def _pointers(tensors: Sequence[Tensor | None], count: int) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * count)(*[None if tensor is None else data_ptr(tensor) for tensor in tensors])


class FusedForm(Form):
    """PyTorch's fused kernel once for each distinct setting, on lists kept from step to step."""

    def __init__(self, tensors: Tensors, update: Update, settings: Sequence[Setting]) -> None:
        self._update = update
        self._settings = _numbers(self._update, settings)
        together: dict[Setting, list[int]] = {}
        for i, group in enumerate(tensors.group):
            # The first step of a momentum buffer fills it, so it cannot share a call with later ones.
            together.setdefault((*self._settings[group], tensors.fresh[i]), []).append(i)
        self._parts = [(tensors.part(chosen), chosen) for chosen in together.values()]

    @override
    def tune(self, settings: Sequence[Setting], columns: Columns) -> bool:
        self._settings = _numbers(self._update, settings)
        return all(len({self._settings[group] for group in part.group}) == 1 for part, _ in self._parts)

    @override
    @torch.no_grad()
    def run(self, grads: list[Tensor]) -> None:
        for part, chosen in self._parts:
            self._update.fused(part, [grads[i] for i in chosen], self._settings[part.group[0]])
            torch.autograd.graph.increment_version(part.params)  # torch's fused kernels leave it out


class ForeachForm(Form):
    """PyTorch's foreach kernels over all tensors at once, each tensor with scalars of its own."""

    def __init__(self, tensors: Tensors, update: Update, settings: Sequence[Setting]) -> None:
        self._update = update
        together: dict[Setting, list[int]] = {}
        for i, group in enumerate(tensors.group):
            structure = update.structure(columns_of(update, [settings[group]]))
            together.setdefault((*structure, tensors.fresh[i]), []).append(i)
        self._parts = [(tensors.part(chosen), chosen) for chosen in together.values()]
        self.tune(settings, columns_of(update, settings))

    @override
    def tune(self, settings: Sequence[Setting], columns: Columns) -> bool:
        self._settings = _numbers(self._update, settings)
        return True

    @override
    @torch.no_grad()
    def run(self, grads: list[Tensor]) -> None:
        for part, chosen in self._parts:
            self._update.foreach(part, [grads[i] for i in chosen], [self._settings[g] for g in part.group])


def columns_of(update: Update, settings: Sequence[Setting]) -> Columns:
    """The settings option by option, each with one entry a setting."""
    return update.setting(*zip(*settings, strict=True))


def _numbers(update: Update, settings: Sequence[Setting]) -> list[Setting]:
    """The settings with numbers held in CPU tensors and arrays read out, so that equal ones are found equal.

    Tensors on a device stay: reading them would wait for it, and a captured graph has to see them change.
    """
    return [update.setting(*map(_number, setting)) for setting in settings]


def _number(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return tuple(map(_number, value))
    on_device = isinstance(value, Tensor) and not value.is_cpu
    return value.item() if hasattr(value, "item") and not on_device else value  # NumPy's numbers have it too
