"""A module as it is shipped: copied once, on the CPU, in evaluation mode, called by position.

Everything that converts, verifies, diagnoses or times a module takes this one object, so that it is copied once and
all of them look at the same weights.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lrdiff_core.errors import ConfigError, InputError
from lrdiff_core.text import quoted
from lrdiff_export.model.float64 import evaluation_copy, run_module, two_rows
from lrdiff_export.model.signature import Tensors, as_tensors, input_names_of
from lrdiff_export.records import first_line

__all__ = ["OneSample", "Positional", "Prepared", "check_answers", "prepare", "weights_size"]

REPEATS_WITHIN = 1e-5  # of the largest output; sums of several threads may differ in the last bits


class Positional(nn.Module):
    """A module called by position whose ``inner`` one takes keywords or ``*tensors``, or gives more than tensors.

    Args:
        inner: the module itself.
        keywords: names of the arguments, in the order of the tensors; None to pass them by position.
        outputs: entries of the mapping or dataclass that it gives; None where it gives tensors, nested or beside None.

    Example:
        >>> Positional(nn.Linear(3, 1), ("input",), None)(torch.zeros(2, 3)).shape
        torch.Size([2, 1])
    """

    def __init__(self, inner: nn.Module, keywords: tuple[str, ...] | None, outputs: tuple[str, ...] | None) -> None:
        super().__init__()
        self.inner = inner
        self.keywords = keywords
        self.outputs = outputs

    def forward(self, *tensors: Tensor) -> Any:
        """Call the module with its own keywords, and put its outputs into order."""
        if self.keywords is None:
            result = self.inner(*tensors)
        else:
            result = self.inner(**dict(zip(self.keywords, tensors, strict=True)))
        if self.outputs is not None:
            entries = _entries(result)
            return tuple(entries[name] for name in self.outputs)
        return result if isinstance(result, Tensor) else tuple(_flat(result))


def _entries(result: Any) -> Mapping[str, Any]:
    """A mapping, or what a dataclass holds."""
    return result if isinstance(result, Mapping) else {one.name: getattr(result, one.name) for one in fields(result)}


def _flat(result: Any) -> list[Any]:
    """What nested tuples and lists hold besides None."""
    if isinstance(result, tuple | list):
        return [one for part in result for one in _flat(part)]
    return [] if result is None else [result]


class OneSample(nn.Module):
    """A module of one sample, without a batch dimension, called on ``[samples, ...]``: one after the other.

    Args:
        inner: called by position.

    Example:
        >>> OneSample(nn.Flatten(0))(torch.zeros(5, 2, 3))[0].shape
        torch.Size([5, 6])
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return one tensor an output, ``[samples, ...]``."""
        answers = [run_module(self.inner, *one) for one in zip(*tensors, strict=True)]
        return tuple(torch.stack(several) for several in zip(*answers, strict=True))


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """The one copy of a module; see :func:`prepare`.

    Attributes:
        module: takes tensors by position, gives a tensor or a tuple of tensors.
        name: class of the caller's module, as messages call it.
        example: two rows an input, on the CPU.
        input_names: one an input.
        output_names: one an output.
        batched: whether the first dimension of every input is the batch; False where the module takes one sample, of
            which ``example`` holds two.
        dynamic_axes: further free dimensions: by input, the name of each by its axis, counted without the samples
            where there is no batch.
        widened: whether the module computes in bfloat16: runtimes do not, and its weights are float32 here, which
            holds each of them exactly.
    """

    module: nn.Module
    name: str
    example: tuple[Tensor, ...]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    batched: bool = True
    dynamic_axes: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    widened: bool = False

    @property
    def half(self) -> bool:
        """Whether weights are float16."""
        return any(one.dtype is torch.float16 for one in self.module.parameters())

    @property
    def exported(self) -> nn.Module:
        """What is converted: called as the file will be."""
        return self.module.inner if isinstance(self.module, OneSample) else self.module

    @property
    def exported_example(self) -> tuple[Tensor, ...]:
        """What it is converted with."""
        return self.example if self.batched else tuple(one[0] for one in self.example)

    @property
    def inner(self) -> nn.Module:
        """The copy itself, without what lets it be called by position."""
        called = self.exported
        return called.inner if isinstance(called, Positional) else called

    @property
    def weights_size(self) -> int:
        """Bytes of all parameters and buffers, shared ones counted once."""
        return weights_size(self.module)


def weights_size(module: nn.Module) -> int:
    """Return the bytes of all parameters and buffers, shared ones counted once; lazy ones have none yet.

    Example:
        >>> weights_size(nn.Linear(3, 1))
        16
    """
    tensors = [*module.parameters(), *module.buffers()]
    return sum(one.numel() * one.element_size() for one in tensors if not is_lazy(one))


def prepare(
    module: nn.Module,
    example: Tensors,
    *,
    input_names: str | Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    batched: bool = True,
    dynamic_axes: Mapping[str, Mapping[int, str]] | None = None,
) -> Prepared:
    """Copy a module and bind it to its inputs and outputs.

    Args:
        module: any device and mode; it is left alone.
        example: ``[batch, ...]`` an input, by position or, as a mapping, by the names of forward's arguments.
        input_names: one an input; a mapping's keys, or the names of forward's arguments, by default.
        output_names: one an output, and which entries to take where the module gives a mapping, as the models of
            ``transformers`` do, or a dataclass; ``output0, output1 ...`` by default.
        batched: False where the module takes one sample, without a batch dimension; ``example`` then holds
            ``[samples, ...]``.
        dynamic_axes: further free dimensions, see :class:`Prepared`.

    Raises:
        InputError: the module cannot be copied, or does not take such tensors.
        ConfigError: it gives something other than tensors, or a mapping without such an entry; or there is no such
            axis.

    Example:
        >>> prepare(nn.Linear(3, 1), torch.zeros(1, 3)).output_names
        ('output0',)
    """
    copied = evaluation_copy(module)
    widened = any(one.dtype is torch.bfloat16 for one in (*copied.parameters(), *copied.buffers()))
    if widened:
        copied = copied.float()
    names = input_names_of(copied, example, input_names)
    keywords = tuple(map(str, example)) if isinstance(example, Mapping) else None
    tensors = as_tensors(example)
    rows = tuple(map(two_rows, tensors))
    taken = inspect.signature(copied.forward).parameters.values()
    bound = copied
    if keywords or any(one.kind is one.VAR_POSITIONAL for one in taken):
        bound = Positional(copied, keywords, None)
    axes = _checked_axes(dynamic_axes or {}, dict(zip(names, tensors, strict=True)), batched)
    given = [one.clone() if batched else one[0].clone() for one in rows]  # a module may write into its inputs
    try:
        with torch.no_grad():
            called = bound.inner if isinstance(bound, Positional) else bound
            result = called(*given) if keywords is None else called(**dict(zip(keywords, given, strict=True)))
    except Exception as problem:
        if widened and _runs(module, keywords, given):
            raise InputError(
                f"{type(copied).__name__} casts to bfloat16 inside, and ONNX Runtime computes in no such numbers",
                help="let casts follow the dtype of the weights: float32 holds those exactly",
            ) from problem
        shapes = " and ".join(str(list(one.shape)) for one in tensors)
        raise InputError(
            f"{type(copied).__name__} does not take an example of shape {shapes}: {first_line(problem)}",
            help=_how_to_call(copied),
        ) from problem
    count = 1
    if isinstance(result, Mapping) or is_dataclass(result):
        entries = tuple(output_names or ["output"])
        there = [str(key) for key, value in _entries(result).items() if isinstance(value, Tensor)]
        if missing := [one for one in entries if one not in there]:
            kind = "mapping" if isinstance(result, Mapping) else "dataclass"
            raise ConfigError(
                f"{type(copied).__name__} gives a {kind} without a tensor {missing[0]!r}",
                help=f"name outputs among those that it gives: {', '.join(there)}",
            )
        bound, count = Positional(copied, keywords, entries), len(entries)
    elif isinstance(result, tuple | list):
        flat = _flat(result)
        count = len(flat)
        if count != len(result) or any(one is not other for one, other in zip(flat, result, strict=True)):
            bound = Positional(copied, keywords, None)
    return Prepared(
        module=(bound if batched else OneSample(bound)).eval(),
        name=type(copied).__name__,
        example=rows,
        input_names=names,
        output_names=tuple(output_names or [f"output{index}" for index in range(count)]),
        batched=batched,
        dynamic_axes=axes,
        widened=widened,
    )


def _runs(module: nn.Module, keywords: tuple[str, ...] | None, tensors: Sequence[Tensor]) -> bool:
    try:
        with torch.no_grad():
            module(*tensors) if keywords is None else module(**dict(zip(keywords, tensors, strict=True)))
    except Exception:  # noqa: BLE001 - a module may raise whatever it likes
        return False
    return True


def _checked_axes(
    axes: Mapping[str, Mapping[int, str]], inputs: Mapping[str, Tensor], batched: bool
) -> Mapping[str, Mapping[int, str]]:
    """Raise ConfigError for an input or an axis that is not there, or one name for dimensions of two sizes."""
    sizes: dict[str, int] = {}
    for name, named in axes.items():
        if name not in inputs:
            raise ConfigError(f"dynamic_axes names {quoted(name)}", help=f"inputs: {', '.join(inputs)}")
        shape = inputs[name].shape if batched else inputs[name].shape[1:]
        for axis, label in named.items():
            taken = batched and label == "batch"
            if not int(batched) <= axis < len(shape) or not str(label).isidentifier() or taken:
                raise ConfigError(
                    f"dynamic_axes of {quoted(name)} has {axis!r}: {label!r}",
                    help=f"give axes from {int(batched)} to {len(shape) - 1} and a name for each, {{1: 'time'}}; "
                    + ("the first is the batch" if batched else "there is no batch"),
                )
            if sizes.setdefault(label, shape[axis]) != shape[axis]:
                raise ConfigError(
                    f"{label!r} is {sizes[label]} and {shape[axis]} in the example",
                    help="give dimensions of different sizes different names",
                )
    return {name: dict(named) for name, named in axes.items()}


def _how_to_call(module: nn.Module) -> str:
    others = {str(p.dtype).removeprefix("torch.") for p in module.parameters() if p.is_floating_point()} - {"float32"}
    if others:
        return f"its weights are {', '.join(sorted(others))}: export module.float(), or cast inside the module"
    return "give an example of the shape the module is called with, [batch, features...]"


def check_answers(prepared: Prepared) -> None:
    """Raise unless a module gives one answer a row, in numbers that ONNX has, and the same again when asked again.

    Raises:
        ConfigError: another number of outputs, complex numbers, or a first dimension that is not the batch.
        InputError: the module gives something else for the same rows: it draws random numbers, or keeps a state.

    Example:
        >>> check_answers(prepare(nn.Flatten(0), torch.zeros(2, 3), output_names=["y"]))
        Traceback (most recent call last):
        ...
        lrdiff_core.errors.ConfigError: output 'y' of Flatten is [9] for 3 rows: its first dimension is not the batch
        help: give one answer per row, [batch, ...]; leave sums over the batch to the caller
    """
    two = prepared.example
    three = [torch.cat([one, one[:1]]) for one in two]
    # Copies, because a module may write into its inputs.
    runs = [run_module(prepared.module, *(one.clone() for one in rows)) for rows in (three, three, two)]
    outputs, again, fewer = runs
    name, names = prepared.name, prepared.output_names
    if len(outputs) != len(names):
        raise ConfigError(
            f"{name} gives {len(outputs)} outputs and output_names has {len(names)}", help="give one name per output"
        )
    for output, one, other, short in zip(names, outputs, again, fewer, strict=True):
        if one.is_complex():
            raise ConfigError(f"output {output!r} of {name} is complex", help="give torch.view_as_real(...) of it")
        for answer, rows in ((one, 3), (short, 2)):
            if answer.shape[:1] != (rows,):
                raise ConfigError(
                    f"output {output!r} of {name} is {list(answer.shape)} for {rows} rows: "
                    "its first dimension is not the batch",
                    help="give one answer per row, [batch, ...]; leave sums over the batch to the caller",
                )
        if not _nearly_equal(one.double(), other.double()):
            raise InputError(
                f"output {output!r} of {name} differs between two calls on the same rows",
                help="in evaluation mode it must not draw random numbers or keep a state between calls",
            )


def _nearly_equal(one: Tensor, other: Tensor) -> bool:
    scale = float(one.nan_to_num(0.0, 0.0, 0.0).abs().max()) if one.numel() else 0.0
    return torch.allclose(one, other, rtol=0.0, atol=REPEATS_WITHIN * scale, equal_nan=True)
