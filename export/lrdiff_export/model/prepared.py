"""A module as it is shipped: copied once, on the CPU, in evaluation mode, called by position.

Everything that converts, verifies, diagnoses or times a module takes this one object, so that it is copied once and
all of them look at the same weights.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lrdiff_core.errors import ConfigError, InputError
from lrdiff_export.model.float64 import evaluation_copy, float64_copy, run_module, two_rows
from lrdiff_export.model.signature import Tensors, as_tensors, input_names_of
from lrdiff_export.records import first_line

__all__ = ["Positional", "Prepared", "check_answers", "prepare", "weights_size"]

REPEATS_WITHIN = 1e-5  # of the largest output; sums of several threads may differ in the last bits


class Positional(nn.Module):
    """A module called by position whose ``inner`` one takes keywords or ``*tensors``, or gives a mapping.

    Args:
        inner: the module itself.
        keywords: names of the arguments, in the order of the tensors; None to pass them by position.
        outputs: entries of the mapping that it gives; None where it gives tensors.

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
        return result if self.outputs is None else tuple(result[name] for name in self.outputs)


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """The one copy of a module; see :func:`prepare`.

    Attributes:
        module: takes tensors by position, gives a tensor or a tuple of tensors.
        name: class of the caller's module, as messages call it.
        example: two rows an input, on the CPU.
        input_names: one an input.
        output_names: one an output.
    """

    module: nn.Module
    name: str
    example: tuple[Tensor, ...]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]

    @property
    def inner(self) -> nn.Module:
        """The copy itself, without what lets it be called by position."""
        return self.module.inner if isinstance(self.module, Positional) else self.module

    @cached_property
    def float64(self) -> nn.Module:
        """The same in float64, made when it is first asked for."""
        return float64_copy(self.module)

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
) -> Prepared:
    """Copy a module and bind it to its inputs and outputs.

    Args:
        module: any device and mode; it is left alone.
        example: ``[batch, ...]`` an input, by position or, as a mapping, by the names of forward's arguments.
        input_names: one an input; a mapping's keys, or the names of forward's arguments, by default.
        output_names: one an output, and which entries to take where the module gives a mapping, as the models of
            ``transformers`` do; ``output0, output1 ...`` by default.

    Raises:
        InputError: the module cannot be copied, or does not take such tensors.
        ConfigError: it gives something other than tensors, or a mapping without such an entry.

    Example:
        >>> prepare(nn.Linear(3, 1), torch.zeros(1, 3)).output_names
        ('output0',)
    """
    copied = evaluation_copy(module)
    names = input_names_of(copied, example, input_names)
    keywords = tuple(map(str, example)) if isinstance(example, Mapping) else None
    tensors = as_tensors(example)
    rows = tuple(map(two_rows, tensors))
    taken = inspect.signature(copied.forward).parameters.values()
    bound = copied
    if keywords or any(one.kind is one.VAR_POSITIONAL for one in taken):
        bound = Positional(copied, keywords, None)
    try:
        with torch.no_grad():
            result = bound(*(one.clone() for one in rows))  # a module may write into its inputs
    except Exception as problem:
        shapes = " and ".join(str(list(one.shape)) for one in tensors)
        raise InputError(
            f"{type(copied).__name__} does not take an example of shape {shapes}: {first_line(problem)}",
            help=_how_to_call(copied),
        ) from problem
    if isinstance(result, Mapping):
        entries = tuple(output_names or ["output"])
        there = [str(key) for key, value in result.items() if isinstance(value, Tensor)]
        if missing := [one for one in entries if one not in there]:
            raise ConfigError(
                f"{type(copied).__name__} gives a mapping without a tensor {missing[0]!r}",
                help=f"name outputs among those that it gives: {', '.join(there)}",
            )
        bound = Positional(copied, keywords, entries)
    count = len(result) if isinstance(result, tuple | list | Mapping) else 1
    return Prepared(
        module=bound.eval(),
        name=type(copied).__name__,
        example=rows,
        input_names=names,
        output_names=tuple(output_names or [f"output{index}" for index in range(count)]),
    )


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
