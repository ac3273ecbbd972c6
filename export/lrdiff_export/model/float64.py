"""The answer to compare with: the same module evaluated on the CPU, in float64 and in float32."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from lrdiff_core.devices import torch_threads
from lrdiff_core.errors import ConfigError, InputError
from lrdiff_export.records import first_line

__all__ = [
    "by_argument",
    "evaluate",
    "evaluation_copy",
    "fitting_threads",
    "float64_copy",
    "float64_throughout",
    "free_batch",
    "plain_kernels",
    "run_module",
    "to_numpy",
    "two_rows",
    "unwrapped",
    "widened",
]


def unwrapped(module: nn.Module) -> nn.Module:
    """Return what ``torch.compile`` has wrapped: what is shipped and compared is the module itself.

    Raises:
        ConfigError: not a module in Python.

    Example:
        >>> unwrapped(nn.ReLU())
        ReLU()
    """
    inner = getattr(module, "_orig_mod", module)
    if not isinstance(inner, nn.Module) or isinstance(inner, torch.jit.ScriptModule):
        raise ConfigError(
            f"{type(inner).__name__} is not a torch.nn.Module in Python",
            help="give the module itself, not a function, a script or a trace of it",
        )
    return inner


def evaluation_copy(module: nn.Module) -> nn.Module:
    """Return a copy on the CPU in evaluation mode; the caller's module keeps its device and mode.

    Args:
        module: any module; one wrapped by ``torch.compile`` is unwrapped.

    Raises:
        ConfigError: not a module.
        InputError: the module cannot be copied, or has parameters without values.

    Example:
        >>> copied = evaluation_copy(nn.Dropout())
        >>> copied.training
        False
    """
    inner = unwrapped(module)
    for name, tensor in (*inner.named_parameters(), *inner.named_buffers()):
        if is_lazy(tensor) or tensor.is_meta:
            raise InputError(
                f"{name} of {type(inner).__name__} has no values",
                help="load the weights, or call a lazy module once on a batch",
            )
    # Pruning and the older weight norm keep the computed weight as an attribute; torch copies only leaves.
    computed = (one for part in inner.modules() for one in vars(part).values() if isinstance(one, Tensor))
    try:
        copied = copy.deepcopy(inner, {id(one): one.detach().clone() for one in computed if not one.is_leaf})
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


SMALL_MODULE = 1_000_000  # parameters; beyond, threads gain more than they cost


def free_batch(module: nn.Module, batch: Any, inputs: int) -> tuple[Any, ...]:
    """Return the ``dynamic_shapes`` of ``torch.export`` that leave the first dimension of every input free.

    Args:
        module: where its forward takes ``*tensors``, these are one argument to ``torch.export``.
        batch: the dimension.
        inputs: number of tensors.

    Example:
        >>> free_batch(nn.ReLU(), "batch", 1)
        ({0: 'batch'},)
    """
    return by_argument(module, [{0: batch} for _ in range(inputs)])


def by_argument(module: nn.Module, shapes: Sequence[Any]) -> tuple[Any, ...]:
    """Return the ``dynamic_shapes`` of all inputs as ``torch.export`` wants them: ``*tensors`` are one argument."""
    kinds = [one.kind for one in inspect.signature(module.forward).parameters.values()]
    return (tuple(shapes),) if inspect.Parameter.VAR_POSITIONAL in kinds else tuple(shapes)


def two_rows(example: Tensor) -> Tensor:
    """Return two rows of ``example`` on the CPU: torch.export would take a batch of one for a constant."""
    rows = example.detach().to("cpu")
    return torch.cat([rows[:1], rows[-1:]])


def run_module(module: Callable[..., Any], *tensors: Tensor) -> list[Tensor]:
    """Run ``module`` without gradients and return its outputs as a list.

    Args:
        module: takes tensors by position, gives one tensor or a tuple of tensors.
        tensors: one an input, ``[batch, ...]``.

    Raises:
        ConfigError: the module gives something other than tensors.

    Example:
        >>> [tuple(output.shape) for output in run_module(nn.Linear(3, 2), torch.zeros(4, 3))]
        [(4, 2)]
    """
    with torch.no_grad():
        result = module(*tensors)
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


def widened(output: Tensor) -> np.ndarray:
    """Return ``output`` as a NumPy array, floats narrower than float32 as float32, which holds them exactly.

    For results whose arithmetic is known by other means; elsewhere :func:`to_numpy` refuses to hide it.

    Example:
        >>> widened(torch.ones(1, dtype=torch.bfloat16))
        array([1.], dtype=float32)
    """
    narrow = output.dtype in (torch.bfloat16, torch.float16)
    return to_numpy(output.float() if narrow else output)


def evaluate(module: nn.Module, *rows: np.ndarray) -> list[np.ndarray]:
    """Run ``module`` on the CPU over NumPy rows.

    Args:
        module: on the CPU.
        rows: one array an input, ``[batch, ...]``; never written to, even by a module that works in place.

    Example:
        >>> evaluate(nn.ReLU(), np.array([[-1.0, 2.0]]))
        [array([[0., 2.]])]
    """
    with fitting_threads(module):
        return [to_numpy(output) for output in run_module(module, *map(torch.tensor, rows))]


def fitting_threads(module: nn.Module) -> AbstractContextManager[None]:
    """Run a small module on one thread: on a busy machine each parallel region can wait a scheduler's slice."""
    is_small = sum(weight.numel() for weight in module.parameters()) <= SMALL_MODULE
    return torch_threads(1) if is_small else nullcontext()


@contextmanager
def plain_kernels() -> Iterator[None]:
    """Let attention and recurrent layers be made of plain operators, which a dispatch mode sees one by one."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        # The context manager works where torch's own tests have frozen the flags, too; None leaves a flag alone.
        with torch.backends.mkldnn.flags(enabled=False, deterministic=None, allow_tf32=None, fp32_precision=None):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


class _Widen(TorchDispatchMode):
    """Every float32 that a forward() names is float64: a cast to float32 inside would round the reference."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = tree_map(_widen, (args, kwargs or {}))
        return func(*args, **kwargs)


def _widen(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value


@contextmanager
def float64_throughout() -> Iterator[None]:
    """Compute in float64 inside: new tensors, and whatever would be made or cast to float32."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Widen():  # type: ignore[no-untyped-call] # torch's constructor has no types
            yield
    finally:
        torch.set_default_dtype(before)


def evaluate_float64(module64: nn.Module, rows: Sequence[np.ndarray], dtypes: Sequence[np.dtype]) -> list[np.ndarray]:
    """Run a float64 copy over rows: constants and casts to float32 inside forward() become float64 as well.

    Args:
        module64: from :func:`float64_copy`.
        rows: one array an input, ``[batch, ...]``; floating ones are widened, integers and bools stay.
        dtypes: dtypes of the outputs in float32; floating ones must come back as float64.

    Raises:
        InputError: the module fails in float64, or works in a dtype narrower than float32, and so gives no reference.

    Example:
        >>> evaluate_float64(nn.Identity(), [np.ones((1, 1), np.float32)], [np.dtype(np.float32)])
        [array([[1.]])]
    """
    name = type(module64).__name__
    advice = "make constants and casts in forward() follow the dtype of the input"
    try:
        with float64_throughout():
            outputs = evaluate(module64, *(one.astype(np.float64) if one.dtype.kind == "f" else one for one in rows))
    except InputError:
        raise
    except Exception as problem:
        raise InputError(f"{name} cannot be evaluated in float64: {first_line(problem)}", help=advice) from problem
    for output, dtype in zip(outputs, dtypes, strict=True):
        if dtype.kind == "f" and output.dtype != np.float64:
            raise InputError(f"{name} gives {output.dtype} when evaluated in float64: no reference", help=advice)
    return outputs
