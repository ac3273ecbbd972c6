"""What a wrong output looks like: hypotheses, each tried in numbers. One is named only where it explains every number.

An output that differs from its answer is compared with what the answer would be if its scale were off, a bias missing,
an axis swapped, ..., and with what the module gives when one of its weights is changed so. The hypothesis has to bring
every number within four times its budget; the unchanged answer does not, so that the change is what explains it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

import numpy as np
import torch
from torch import Tensor, nn

from lrdiff_export.model.float64 import evaluate, evaluation_copy
from lrdiff_export.model.precision import round_to
from lrdiff_export.parity.faults import BIAS, CUT_OFF, FUNCTION, REARRANGED, ROUNDED, SCALE, WEIGHT, Finding
from lrdiff_export.verify.expected import Expected

__all__ = ["cause_in_output", "cause_in_weights"]

WIDER = 4.0  # times the budget: a hypothesis is a guess at the cause, and computed in float32 itself
FEWEST = 4  # rows, and numbers for each constant that is fitted: fewer fit anything
MOST_RUNS, MOST_ROWS = 96, 64  # runs of a module with a changed weight, and rows of each
NAMED = 4  # columns that are listed


def cause_in_output(output: np.ndarray, expected: Expected) -> Finding | None:
    """Say which change of the right output a wrong one is.

    Args:
        output: ``[batch, ...]``, of the answer's shape and dtype.
        expected: what it should be.

    Example:
        >>> from lrdiff_export.verify.compare import Budget
        >>> answer = np.arange(12.0).reshape(6, 2)
        >>> budget = Budget(dtype="float32", scale=11, unit=1e-6, eager_error=1, conditioning=1, allowed=8)
        >>> expected = Expected(name="y", answer=answer, budget=budget)
        >>> cause_in_output((answer * 1.5).astype(np.float32), expected).sentence
        'looks like a scale that is off: every number is 1.5 times what it should be'
        >>> cause_in_output(answer[::-1].astype(np.float32), expected).sentence
        'looks like rows in reverse order'
    """
    answer = expected.answer
    if output.shape != answer.shape or not answer.size or answer.ndim < 1 or len(answer) < FEWEST:
        return None
    floating = answer.dtype.kind == "f"
    if floating and _fits(output, answer, expected):  # too near to the budget to tell
        return None
    for words, moved in _rearranged(answer):
        if _fits(output, moved, expected) if floating else np.array_equal(output, moved):
            return Finding(fault=REARRANGED, sentence=f"looks like {words}")
    if not floating or not (np.isfinite(output).all() and np.isfinite(answer).all()):
        return None
    values = output.astype(np.float64)
    for find in (_scaled, _shifted, _cut_off, _other_function):
        found = find(values, expected)
        if found is not None:
            return found
    return None


def cause_in_weights(
    module: nn.Module, rows: Sequence[np.ndarray], outputs: Sequence[np.ndarray], expected: Sequence[Expected]
) -> Finding | None:
    """Say which change of one of a module's weights gives these outputs.

    Args:
        module: takes tensors by position.
        rows: one array an input, ``[batch, ...]``.
        outputs: for these rows.
        expected: what they should be.
    """
    few = slice(MOST_ROWS)
    rows, given = [one[few] for one in rows], [one[few] for one in outputs]
    right = [one.take(few) for one in expected]
    floats = [i for i, one in enumerate(right) if one.answer.dtype.kind == "f"]
    alike = all(one.shape == two.answer.shape for one, two in zip(given, right, strict=True))
    if not floats or not alike or len(rows[0]) < FEWEST:
        return None
    if all(_fits(given[i], right[i].answer, right[i]) for i in floats):
        return None
    copied = evaluation_copy(module)
    for number, (cause, apply, undo) in enumerate(_changes(copied)):
        if number == MOST_RUNS:
            return None
        with torch.no_grad():
            apply()
            try:
                made = evaluate(copied, *rows)
            finally:
                undo()
        if all(_fits(given[i], made[i].astype(np.float64), right[i]) for i in floats):
            return cause
    return None


def _fits(output: np.ndarray, other: np.ndarray, expected: Expected, times: float = 1.0) -> bool:
    """Whether an output is another one within a little more than its budget, NaN where NaN is."""
    allowed = WIDER * np.maximum(expected.allowed, 0.0) * max(1.0, times)
    with np.errstate(invalid="ignore", over="ignore"):
        near = np.abs(output.astype(np.float64) - other) <= allowed
    return bool((near | (np.isnan(output) & np.isnan(other)) | (output == other)).all())


def _rearranged(answer: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    yield "rows in reverse order", answer[::-1]
    for by in (1, -1):
        yield f"rows moved by {by}", np.roll(answer, by, axis=0)
    yield "the first row's answer in every row", np.broadcast_to(answer[:1], answer.shape)
    for one, other in combinations(range(1, answer.ndim), 2):
        if answer.shape[one] == answer.shape[other]:
            yield f"axes {one} and {other} swapped", np.swapaxes(answer, one, other)
        else:
            turned = np.swapaxes(answer, one, other).reshape(answer.shape)
            yield f"axes {one} and {other} swapped in memory", turned
    for axis in range(1, answer.ndim):
        if answer.shape[axis] > 1:
            yield f"axis {axis} in reverse order", np.flip(answer, axis)


def _scaled(values: np.ndarray, expected: Expected) -> Finding | None:
    answer = expected.answer
    square = float((answer * answer).sum())
    if not square or answer.size < 2 * FEWEST:
        return None
    factor = float((values * answer).sum()) / square
    if not factor or not _fits(values, factor * answer, expected, abs(factor)):
        return None
    said = "a sign that is turned" if abs(factor + 1) < 1e-6 else "a scale that is off"
    return Finding(fault=SCALE, sentence=f"looks like {said}: every number is {factor:.6g} times what it should be")


def _shifted(values: np.ndarray, expected: Expected) -> Finding | None:
    """A constant for all numbers, or one for each column."""
    answer = expected.answer
    off = values - answer
    if _fits(values, answer + np.median(off), expected):
        sentence = f"looks like a bias that is off: {np.median(off):.6g} is added to every number"
        return Finding(fault=BIAS, sentence=sentence)
    by_column = np.median(off.reshape(-1, off.shape[-1]), axis=0)
    if off.ndim < 2 or not _fits(values, answer + by_column, expected):
        return None
    wrong = np.flatnonzero(np.abs(by_column) > expected.budget.allowed * expected.budget.unit)
    listed = ", ".join(f"{by_column[at]:+.3g} in column {at}" for at in wrong[:NAMED])
    listed += ", ..." if len(wrong) > NAMED else ""
    return Finding(fault=BIAS, sentence=f"looks like a bias that is missing or off: {listed}, the same in every row")


def _cut_off(values: np.ndarray, expected: Expected) -> Finding | None:
    low, high = float(values.min()), float(values.max())
    cut = np.clip(expected.answer, low, high)
    sides = ((low, expected.answer < low), (high, expected.answer > high))
    ends = [f"{end:.6g}" for end, beyond in sides if beyond.sum() > 1]
    if not ends or low == high or not _fits(values, cut, expected):
        return None
    return Finding(fault=CUT_OFF, sentence=f"looks like numbers that are cut off at {' and '.join(ends)}")


def _softmax(values: np.ndarray) -> np.ndarray:
    raised = np.exp(values - values.max(axis=-1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True))


_FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "the logarithm of what it should be": np.log,
    "the exponential of what it should be": np.exp,
    "what it should be after another sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "what it should be without its sigmoid": lambda x: np.log(x) - np.log1p(-x),
    "what it should be after another softmax": _softmax,
    "its absolute value": np.abs,
    "one minus what it should be": lambda x: 1 - x,
    "what it should be after another ReLU": lambda x: np.maximum(x, 0),
}


def _other_function(values: np.ndarray, expected: Expected) -> Finding | None:
    for words, function in _FUNCTIONS.items():
        with np.errstate(all="ignore"):
            made = function(expected.answer)
        if np.isfinite(made).all() and _fits(values, made, expected, float(np.abs(made).max()) / expected.budget.scale):
            return Finding(fault=FUNCTION, sentence=f"looks like {words}")
    return None


def _changes(module: nn.Module) -> Iterator[tuple[Finding, Callable[[], object], Callable[[], object]]]:
    """Changes of a module's weights, each with what makes and what undoes it."""
    held: dict[str, Tensor] = dict(module.state_dict(keep_vars=True))
    whole = {name: one.detach().clone() for name, one in held.items() if one.is_floating_point()}

    def put(values: dict[str, Tensor]) -> Callable[[], object]:
        return lambda: [held[name].data.copy_(value) for name, value in values.items()]

    for kind in ("bfloat16", "float16", "tfloat32"):
        for words, least in (("weights", 0), ("matrices", 2)):
            rounded = {name: round_to(one, kind) for name, one in whole.items() if one.dim() >= least}
            finding = Finding(fault=ROUNDED, sentence=f"looks like {words} rounded to {kind}")
            yield finding, put(rounded), put({name: whole[name] for name in rounded})
    for name in (name for name, _ in module.named_parameters() if name in whole):
        one = whole[name]
        for words, changed in _other_weights(one):
            yield Finding(fault=WEIGHT, sentence=f"looks like {name} {words}"), put({name: changed}), put({name: one})


def _other_weights(weight: Tensor) -> Iterator[tuple[str, Tensor]]:
    if weight.dim() == 1 and bool(weight.any()):
        yield "left out", torch.zeros_like(weight)
    if weight.dim() == 2 and weight.shape[0] == weight.shape[1]:
        yield "transposed", weight.T
    if weight.dim() > 1:
        yield "with another sign", -weight
