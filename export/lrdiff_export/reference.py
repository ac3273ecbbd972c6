"""The answer to compare with: the same module evaluated on the CPU, in float64 and in float32."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lrdiff_core.errors import ConfigError, DataError, InputError
from lrdiff_export.records import first_line

__all__ = ["check_rows", "evaluate", "evaluation_copy", "float64_copy", "run_module", "to_numpy"]


def evaluation_copy(module: nn.Module) -> nn.Module:
    """Return a copy on the CPU in evaluation mode; the caller's module keeps its device and mode.

    Args:
        module: any module; one wrapped by ``torch.compile`` is unwrapped.

    Raises:
        InputError: the module cannot be copied.

    Example:
        >>> copied = evaluation_copy(nn.Dropout())
        >>> copied.training
        False
    """
    # torch.compile wraps the module; what is shipped and compared is the module itself.
    inner = getattr(module, "_orig_mod", module)
    try:
        copied = copy.deepcopy(inner)
    except Exception as problem:
        raise InputError(
            f"{type(inner).__name__} cannot be copied: {first_line(problem)}",
            help="keep results of computations out of the module's attributes, or detach() them",
        ) from problem
    assert isinstance(copied, nn.Module)
    return copied.to("cpu").eval()


def float64_copy(module: nn.Module) -> nn.Module:
    """Return an evaluation copy whose floating parameters and buffers are float64, exactly the float32 values.

    Args:
        module: any module.

    Example:
        >>> float64_copy(nn.Linear(2, 1)).weight.dtype
        torch.float64
    """
    return evaluation_copy(module).double()


def run_module(module: Callable[[Tensor], Any], rows: Tensor) -> list[Tensor]:
    """Run ``module`` without gradients and return its outputs as a list.

    Args:
        module: takes one tensor, gives one tensor or a tuple of tensors.
        rows: ``[batch, features...]``.

    Raises:
        ConfigError: the module gives something other than tensors.

    Example:
        >>> [tuple(output.shape) for output in run_module(nn.Linear(3, 2), torch.zeros(4, 3))]
        [(4, 2)]
    """
    with torch.no_grad():
        result = module(rows)
    outputs = [result] if isinstance(result, Tensor) else result
    if not isinstance(outputs, list | tuple) or not outputs or not all(isinstance(one, Tensor) for one in outputs):
        raise ConfigError(
            f"{type(module).__name__} gives {type(result).__name__}, not a tensor or a tuple of tensors",
            help="wrap it in a module whose forward returns a tensor or a tuple of tensors",
        )
    return list(outputs)


def to_numpy(output: Tensor) -> np.ndarray:
    """Return ``output`` as a NumPy array of its own dtype.

    Raises:
        ConfigError: NumPy has no such dtype (bfloat16); casting here would hide which arithmetic was used.
    """
    try:
        return np.asarray(output.detach().cpu().numpy())
    except TypeError as problem:
        raise ConfigError(
            f"an output of dtype {output.dtype} cannot be compared", help="return float32 from the module"
        ) from problem


def evaluate(module: nn.Module, rows: np.ndarray) -> list[np.ndarray]:
    """Run ``module`` on the CPU over NumPy rows.

    Args:
        module: on the CPU.
        rows: ``[batch, features...]``; never written to, even by a module that works in place.

    Example:
        >>> evaluate(nn.ReLU(), np.array([[-1.0, 2.0]]))
        [array([[0., 2.]])]
    """
    return [to_numpy(output) for output in run_module(module, torch.tensor(rows))]


def evaluate_float64(module64: nn.Module, rows: np.ndarray, dtypes: list[np.dtype]) -> list[np.ndarray]:
    """Run a float64 copy over rows and make sure that float64 is what it computed in.

    Args:
        module64: from :func:`float64_copy`.
        rows: ``[batch, features...]``, any floating dtype.
        dtypes: dtypes of the outputs in float32; floating ones must come back as float64.

    Raises:
        InputError: the module fails in float64, or casts down inside, and so gives no reference.
    """
    name = type(module64).__name__
    advice = "make constants and casts in forward() follow the dtype of the input"
    try:
        outputs = evaluate(module64, rows.astype(np.float64))
    except InputError:
        raise
    except Exception as problem:
        raise InputError(f"{name} cannot be evaluated in float64: {first_line(problem)}", help=advice) from problem
    for output, dtype in zip(outputs, dtypes, strict=True):
        if dtype.kind == "f" and output.dtype != np.float64:
            raise InputError(f"{name} gives {output.dtype} when evaluated in float64: no reference", help=advice)
    return outputs


def check_rows(rows: np.ndarray) -> np.ndarray:
    """Return ``rows`` if they can be fed to a model.

    Args:
        rows: ``[batch, features...]``, float32, at least one row; NaN and infinity are allowed.

    Raises:
        DataError: another dtype, no batch dimension, or no row.

    Example:
        >>> check_rows(np.zeros((2, 3), np.float32)).shape
        (2, 3)
    """
    if not isinstance(rows, np.ndarray) or rows.dtype != np.float32:
        found = rows.dtype if isinstance(rows, np.ndarray) else type(rows).__name__
        raise DataError(f"rows are {found}, not a float32 array", help="convert them: rows.astype(numpy.float32)")
    if rows.ndim < 1 or rows.shape[0] < 1 or rows.size < 1:
        raise DataError(
            f"rows have shape {list(rows.shape)}: nothing to run", help="give at least one row, [batch, features...]"
        )
    return rows
