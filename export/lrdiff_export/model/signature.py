"""Inputs and outputs: one tensor or several, by position or by name, each with a dtype, a shape and a unit."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lrdiff_core.errors import ConfigError, DataError

__all__ = ["Arrays", "Tensors", "as_arrays", "as_tensors", "check_arrays", "input_names_of"]

Tensors = Tensor | Sequence[Tensor] | Mapping[str, Tensor]
Arrays = np.ndarray | Sequence[np.ndarray] | Mapping[str, np.ndarray]

# What every runtime of the targets table takes as an input; float16 and float64 are not among them.
DTYPES = {
    torch.float32: "float32",
    torch.int64: "int64",
    torch.int32: "int32",
    torch.int8: "int8",
    torch.uint8: "uint8",
    torch.bool: "bool",
}


def as_tensors(example: Tensors) -> tuple[Tensor, ...]:
    """Return an example as tensors in the order of the inputs.

    Args:
        example: a tensor, a sequence of tensors (by position), or a mapping (by the names of forward's arguments).

    Raises:
        ConfigError: not tensors, an unusual dtype, no row, or batches of different sizes.

    Example:
        >>> [t.dtype for t in as_tensors({"ids": torch.zeros(2, 3, dtype=torch.int64), "x": torch.zeros(2, 1)})]
        [torch.int64, torch.float32]
    """
    given = list(example.values()) if isinstance(example, Mapping) else example
    tensors: list[Any] = list(given) if isinstance(given, list | tuple) else [given]
    if not tensors:
        raise ConfigError("example holds no tensor", help="give one tensor per input, [batch, ...]")
    for one in tensors:
        if not isinstance(one, Tensor) or one.dtype not in DTYPES or one.ndim < 1 or not one.numel():
            found = f"{one.dtype} {list(one.shape)}" if isinstance(one, Tensor) else type(one).__name__
            raise ConfigError(
                f"example is {found}, not a float32, integer or bool tensor [batch, ...]",
                help="give a row or more; inputs of other dtypes are cast inside the module",
            )
    if len({one.shape[0] for one in tensors}) > 1:
        raise ConfigError(
            f"the examples have {', '.join(str(one.shape[0]) for one in tensors)} rows",
            help="the first dimension of every input is the batch: give the same number of rows for each",
        )
    return tuple(tensors)


def as_arrays(rows: Arrays, order: Sequence[str] | None = None) -> tuple[np.ndarray, ...]:
    """Return rows as arrays in the order of the inputs, checked.

    Args:
        rows: an array, a sequence of arrays, or a mapping from input names to arrays.
        order: names of the inputs, in which order a mapping's arrays are returned; as given by default.

    Raises:
        DataError: not arrays, an unusual dtype, no row, batches of different sizes, or a name that is missing.

    Example:
        >>> [a.shape for a in as_arrays(np.zeros((2, 3), np.float32))]
        [(2, 3)]
    """
    if isinstance(rows, Mapping):
        names = list(rows) if order is None else list(order)
        if sorted(names) != sorted(rows):
            raise DataError(
                f"rows are given for {', '.join(map(str, rows)) or 'no input'}", help=f"inputs: {', '.join(names)}"
            )
        given = [rows[name] for name in names]
    else:
        given = list(rows) if isinstance(rows, list | tuple) and _holds_arrays(rows) else [rows]  # type: ignore[list-item]
    return check_arrays(given)


def _holds_arrays(rows: Sequence[Any]) -> bool:
    return bool(rows) and all(isinstance(one, np.ndarray) for one in rows)


def check_arrays(arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """Return ``arrays`` if they can be fed to a model together.

    Args:
        arrays: one an input, ``[batch, ...]``, float32, integer or bool; NaN and infinity are allowed.

    Raises:
        DataError: another dtype, no batch dimension, no row, or batches of different sizes.
    """
    wanted = set(DTYPES.values())
    for one in arrays:
        if not isinstance(one, np.ndarray) or str(one.dtype) not in wanted:
            found = one.dtype if isinstance(one, np.ndarray) else type(one).__name__
            raise DataError(
                f"rows are {found}, not a float32, integer or bool array",
                help="convert them: rows.astype(numpy.float32)",
            )
        if one.ndim < 1 or one.shape[0] < 1 or one.size < 1:
            raise DataError(
                f"rows have shape {list(one.shape)}: nothing to run", help="give at least one row, [batch, features...]"
            )
    if len({len(one) for one in arrays}) > 1:
        raise DataError(
            f"the inputs have {', '.join(str(len(one)) for one in arrays)} rows",
            help="give the same number of rows for each input",
        )
    return tuple(arrays)


def input_names_of(module: nn.Module, example: Tensors, given: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of the inputs: those given, a mapping's keys, or those of forward's arguments.

    Args:
        module: what will be exported.
        example: as for :func:`as_tensors`.
        given: one name, or one an input; None to take the names from the example or the module.

    Raises:
        ConfigError: the number of names is not that of the inputs, or the example has names already.

    Example:
        >>> input_names_of(nn.Bilinear(1, 1, 1), (torch.zeros(1, 1), torch.zeros(1, 1)), None)
        ('input1', 'input2')
    """
    count = len(as_tensors(example))
    if given is not None and isinstance(example, Mapping):
        raise ConfigError(
            "input_names is given and the example has names",
            help="leave input_names out: a mapping's keys name the inputs",
        )
    if given is not None:
        names = (given,) if isinstance(given, str) else tuple(given)
    elif isinstance(example, Mapping):
        names = tuple(map(str, example))
    elif count == 1:
        names = ("features",)
    else:
        taken = [
            p.name for p in inspect.signature(module.forward).parameters.values() if p.kind is not p.VAR_POSITIONAL
        ]
        names = tuple(taken[:count]) if len(taken) >= count else tuple(f"input{i}" for i in range(count))
    if len(names) != count:
        raise ConfigError(
            f"the example has {count} inputs and input_names has {len(names)}", help="give one name per input"
        )
    return names
