r"""Kinds of floating arithmetic: what a model gives in each, and which of them an answer was computed in.

An answer is named by comparing its error with the errors that simulated arithmetics make on the same rows, where what
goes into matrix products is rounded, or cut off, or what comes out is rounded as well, or all tensors, the weights, or
the outputs alone. Two things are looked at: the pattern, :math:`d = \|e - e_s\| / \|e_s\|`, far below 1 when the
same numbers were rounded, in whatever order products were summed; where no pattern fits, the size
:math:`\|e\| / \|e_s\|`. TF32 and float16 keep equally many bits and differ in range alone: where nothing tells them
apart, both are named; where size alone is known and fits bfloat16 as well, all three are.

The formats: NVIDIA A100 Tensor Core GPU Architecture (2020), table 3; IEEE 754-2019 for binary16 and binary32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lrdiff_core.errors import ConfigError, InputError
from lrdiff_export.model.float64 import evaluate, evaluation_copy, plain_kernels, run_module, widened
from lrdiff_export.records import first_line

__all__ = [
    "ARITHMETICS",
    "EIGHT_BITS",
    "Arithmetic",
    "evaluate_in",
    "find_arithmetic",
    "name_arithmetic",
    "simulations",
]

SAME_PATTERN = 0.5  # of the error that a simulation makes: half of it is not shared by chance
SAME_SIZE = 3.0  # a factor either way; neighbouring formats are a factor of 8 and more apart
CLEARLY = 1.5  # a factor by which one size fits better than another
TIED = 1.25  # two patterns that fit this alike are not told apart
EIGHT_BITS = "8-bit weights"  # no arithmetic, and named like one: integers with a scale for each matrix, row or column
LEAST = 0.03  # a pattern closer than this is the same to the last bits


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """A floating format that products are computed in.

    Attributes:
        name: ``float32``, ``tfloat32``, ``float16`` or ``bfloat16``.
        short: as tables write it.
        eps: distance from 1 to the next number.
        dtype: of torch, where tensors can have it; None for TF32, which only products know.
    """

    name: str
    short: str
    eps: float
    dtype: torch.dtype | None


ARITHMETICS: dict[str, Arithmetic] = {
    one.name: one
    for one in (
        Arithmetic(name="float32", short="fp32", eps=2.0**-23, dtype=torch.float32),
        Arithmetic(name="tfloat32", short="tf32", eps=2.0**-10, dtype=None),
        Arithmetic(name="float16", short="fp16", eps=2.0**-10, dtype=torch.float16),
        Arithmetic(name="bfloat16", short="bf16", eps=2.0**-7, dtype=torch.bfloat16),
    )
}


def find_arithmetic(name: str) -> Arithmetic:
    """Return an arithmetic by name.

    Raises:
        ConfigError: there is none.

    Example:
        >>> find_arithmetic("bfloat16").eps
        0.0078125
    """
    if name not in ARITHMETICS:
        raise ConfigError(f'no arithmetic "{name}"', help=f"arithmetics: {', '.join(ARITHMETICS)}")
    return ARITHMETICS[name]


# What a module raises that does not run in a dtype: torch's own errors, and checks that modules make themselves.
_CANNOT = (InputError, RuntimeError, TypeError, ValueError, AssertionError)


def evaluate_in(module: nn.Module, rows: Sequence[np.ndarray], name: str) -> list[np.ndarray]:
    """Run a module on the CPU in one arithmetic: all tensors have its dtype where there is one.

    Args:
        module: on the CPU, in float32.
        rows: one array an input, ``[batch, ...]``.
        name: of the arithmetic. TF32, and any other where the module cannot be cast, rounds only what goes into
            matrix products.

    Returns:
        One array an output; floating ones in float32, however few of its bits are used.

    Raises:
        InputError: the module does not run so.

    Example:
        >>> evaluate_in(nn.Identity(), [np.array([[1.001]], np.float32)], "bfloat16")
        [array([[1.]], dtype=float32)]
    """
    arithmetic = find_arithmetic(name)
    if name == "float32":
        return evaluate(module, *rows)
    if arithmetic.dtype is not None:
        with suppress(*_CANNOT):  # what follows needs no cast
            return _throughout(module, rows, name)
    return _in_products(module, rows, name)


def simulations(module: nn.Module, rows: Sequence[np.ndarray]) -> dict[str, list[list[np.ndarray]]]:
    """Return what the module gives in each arithmetic below float32, in every way in which it can be simulated.

    Args:
        module: on the CPU, in float32.
        rows: one array an input, ``[batch, ...]``.
    """
    exact = evaluate(module, *rows)
    found: dict[str, list[list[np.ndarray]]] = {}
    for name in ARITHMETICS:
        if name == "float32":
            continue
        ways = (_in_products, _cut_in_products, _around_products, _throughout, _weights, _matrices)
        found[name] = []
        for way in ways:
            with suppress(*_CANNOT):  # a module that does not run so was not computed so
                found[name].append(way(module, rows, name))
        found[name].append([_rounded(output, name) for output in exact])
    with suppress(*_CANNOT):
        found[EIGHT_BITS] = [_weights_in_eight_bits(module, rows, dim) for dim in (None, 0, 1)]
    return found


def name_arithmetic(
    outputs: Sequence[np.ndarray],
    answers: Sequence[np.ndarray],
    simulated: Mapping[str, Sequence[Sequence[np.ndarray]]],
) -> str | None:
    """Say which arithmetic outputs were computed in, when float32 does not explain them.

    Args:
        outputs: one array an output, ``[batch, ...]``.
        answers: those of float64.
        simulated: from :func:`simulations`.

    Returns:
        A name; several with ``or`` between them where nothing tells them apart; None where no arithmetic makes such an
        error.

    Example:
        >>> from lrdiff_export.model.float64 import float64_copy
        >>> module, rows = nn.Linear(8, 8), [np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)]
        >>> answers, told = evaluate(float64_copy(module), rows[0].astype(float)), simulations(module, rows)
        >>> name_arithmetic(evaluate_in(module, rows, "bfloat16"), answers, told)
        'bfloat16'
        >>> name_arithmetic([np.zeros((50, 8))], answers, told) is None
        True
    """
    return name_by_pattern(outputs, answers, simulated) or _name_by_size(outputs, answers, simulated)


def name_by_pattern(
    outputs: Sequence[np.ndarray],
    answers: Sequence[np.ndarray],
    simulated: Mapping[str, Sequence[Sequence[np.ndarray]]],
) -> str | None:
    """As :func:`name_arithmetic`, from the pattern of the error alone: another fault has its size by chance only."""
    distances, _ = _measured(outputs, answers, simulated)
    best = min(distances.values(), default=math.inf)
    if best >= SAME_PATTERN:
        return None
    # Rounding shared to the last bit leaves a distance of next to nothing, which is no measure of the others.
    return " or ".join(name for name, distance in distances.items() if distance <= max(TIED * best, LEAST))


def _measured(
    outputs: Sequence[np.ndarray],
    answers: Sequence[np.ndarray],
    simulated: Mapping[str, Sequence[Sequence[np.ndarray]]],
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Distances from the nearest error of each arithmetic, and ratios to the sizes of all, by the arithmetic's name."""
    error = _error(outputs, answers)
    patterns: dict[str, float] = {}
    sizes: dict[str, list[float]] = {}
    for name, ways in simulated.items():
        for way in ways:
            made = _error(way, answers)
            both = np.isfinite(error) & np.isfinite(made)
            own = _norm(made[both])
            if own == 0:
                continue
            patterns[name] = min(patterns.get(name, math.inf), _norm(error[both] - made[both]) / own)
            sizes.setdefault(name, []).append(_norm(error[both]) / own)
    return patterns, sizes


def _name_by_size(
    outputs: Sequence[np.ndarray],
    answers: Sequence[np.ndarray],
    simulated: Mapping[str, Sequence[Sequence[np.ndarray]]],
) -> str | None:
    _, sizes = _measured(outputs, answers, simulated)
    # Of about the size that one of the ways makes. It tells nothing of formats with equally many bits, and of others
    # only where one fits clearly better.
    far = {
        names: min((abs(math.log(size)) for name in names for size in sizes.get(name, []) if size), default=math.inf)
        for names in _ALIKE
    }
    best = min(far.values())
    if best >= math.log(SAME_SIZE):
        return None
    return " or ".join(name for names in _ALIKE if far[names] <= best + math.log(CLEARLY) for name in names)


_ALIKE = (("tfloat32", "float16"), ("bfloat16",))  # formats with equally many bits


def _error(outputs: Sequence[np.ndarray], answers: Sequence[np.ndarray]) -> np.ndarray:
    """Errors of all floating outputs in one vector, each at its own scale."""
    parts = [np.zeros(0)]
    for output, answer in zip(outputs, answers, strict=True):
        if answer.dtype.kind != "f" or output.shape != answer.shape:
            continue
        finite = np.isfinite(answer)
        scale = float(np.abs(answer[finite]).max(initial=0.0)) or 1.0
        with np.errstate(invalid="ignore", over="ignore"):
            parts.append(((output.astype(np.float64) - answer) / scale).ravel())
    return np.concatenate(parts)


def _norm(error: np.ndarray) -> float:
    finite = error[np.isfinite(error)]
    return float(np.sqrt(np.mean(finite**2))) if finite.size else 0.0


def _throughout(module: nn.Module, rows: Sequence[np.ndarray], name: str) -> list[np.ndarray]:
    dtype = find_arithmetic(name).dtype
    if dtype is None:
        raise InputError(f"no tensor is of dtype {name}", help="round what goes into products instead")
    copied = evaluation_copy(module).to(dtype)
    tensors = [tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in map(torch.tensor, rows)]
    return [widened(output) for output in run_module(copied, *tensors)]


def _weights(module: nn.Module, rows: Sequence[np.ndarray], name: str, *, dimensions: int = 0) -> list[np.ndarray]:
    copied = evaluation_copy(module)
    with torch.no_grad():
        for tensor in (*copied.parameters(), *copied.buffers()):
            if tensor.dim() >= dimensions:
                tensor.copy_(round_to(tensor, name))
    return evaluate(copied, *rows)


def _matrices(module: nn.Module, rows: Sequence[np.ndarray], name: str) -> list[np.ndarray]:
    return _weights(module, rows, name, dimensions=2)


def _weights_in_eight_bits(module: nn.Module, rows: Sequence[np.ndarray], dim: int | None) -> list[np.ndarray]:
    """With matrices rounded to 255 steps of the largest number in all of it, or in each row or column."""
    copied = evaluation_copy(module)
    with torch.no_grad():
        for tensor in copied.parameters():
            if tensor.dim() > 1 and tensor.is_floating_point():
                spare = [i for i in range(tensor.dim()) if i != dim]
                scale = tensor.abs().amax(dim=spare, keepdim=True).clamp(min=torch.finfo(tensor.dtype).tiny) / 127
                tensor.copy_((tensor / scale).round() * scale)
    return evaluate(copied, *rows)


def _rounded(output: np.ndarray, name: str) -> np.ndarray:
    return output if output.dtype != np.float32 else widened(round_to(torch.tensor(output), name))


def _around_products(module: nn.Module, rows: Sequence[np.ndarray], name: str) -> list[np.ndarray]:
    return _in_products(module, rows, name, results=True)


def _cut_in_products(module: nn.Module, rows: Sequence[np.ndarray], name: str) -> list[np.ndarray]:
    return _in_products(module, rows, name, change=cut_to)


def _in_products(
    module: nn.Module,
    rows: Sequence[np.ndarray],
    name: str,
    *,
    results: bool = False,
    change: Callable[[Any, str], Any] | None = None,
) -> list[np.ndarray]:
    try:
        with plain_kernels(), _RoundedProducts(name, results=results, change=change):
            return evaluate(module, *rows)
    except Exception as problem:
        raise InputError(
            f"{type(module).__name__} cannot be evaluated in {name}: {first_line(problem)}",
            help="leave out backends of that arithmetic",
        ) from problem


# The operators that multiply matrices, and which of their arguments the units for it would round.
_aten = torch.ops.aten
_PRODUCTS: dict[Any, tuple[int, ...]] = {
    _aten.mm: (0, 1),
    _aten.bmm: (0, 1),
    _aten.mv: (0, 1),
    _aten.addmm: (1, 2),
    _aten.addmv: (1, 2),
    _aten.baddbmm: (1, 2),
    _aten.convolution: (0, 1),
    _aten._scaled_dot_product_flash_attention_for_cpu: (0, 1, 2),
}


class _RoundedProducts(TorchDispatchMode):
    """Rounds what goes into matrix products and convolutions; sums stay in float32, as in tensor cores and AMX."""

    def __init__(self, name: str, *, results: bool, change: Callable[[Any, str], Any] | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch's has no types
        self.name = name
        self.results = results  # as autocast does
        self.change = change or round_to

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        places = _PRODUCTS.get(getattr(func, "overloadpacket", None), ())
        rounded = [self.change(one, self.name) if i in places else one for i, one in enumerate(args)]
        result = func(*rounded, **(kwargs or {}))
        return round_to(result, self.name) if places and self.results else result


def round_to(value: Any, name: str) -> Any:
    """Round a float32 tensor to the numbers of an arithmetic, to nearest, ties to even.

    Example:
        >>> round_to(torch.tensor([1.0 + 2**-10, 1.0 + 2**-12]), "tfloat32") - 1
        tensor([0.0010, 0.0000])
    """
    if not isinstance(value, Tensor) or value.dtype != torch.float32:
        return value
    dtype = find_arithmetic(name).dtype
    if dtype is not None:
        return value.to(dtype).float()
    bits = value.contiguous().view(torch.int32)
    nearest = (bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF
    return torch.where(torch.isfinite(value), nearest.view(torch.float32), value)


def cut_to(value: Any, name: str) -> Any:
    """Cut a float32 tensor to the bits of an arithmetic, towards zero, as a unit does that takes numbers unrounded.

    Example:
        >>> cut_to(torch.tensor([1.0 + 2**-10 + 2**-11, -1.0 - 2**-11]), "tfloat32")
        tensor([ 1.0010, -1.0000])
    """
    if not isinstance(value, Tensor) or value.dtype != torch.float32:
        return value
    bits = value.contiguous().view(torch.int32)
    kept = -1 << 23 - round(-math.log2(find_arithmetic(name).eps))
    return torch.where(torch.isfinite(value), (bits & kept).view(torch.float32), value)
