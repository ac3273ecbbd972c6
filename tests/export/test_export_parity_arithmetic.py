"""Arithmetic is named from the error alone: calibrated with arithmetics simulated in ways that it does not know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lrdiff_core.errors import ConfigError
from lrdiff_export import Reference
from lrdiff_export.examples import ZOO
from lrdiff_export.model.float64 import evaluate, evaluation_copy, plain_kernels, run_module, widened
from lrdiff_export.model.precision import (
    _PRODUCTS,
    ARITHMETICS,
    _RoundedProducts,
    cut_to,
    evaluate_in,
    find_arithmetic,
    name_arithmetic,
    round_to,
    simulations,
)
from lrdiff_export.parity.judge import GoldenJudge
from lrdiff_export.verify.compare import Budget

Rows = Sequence[np.ndarray]
LOWER = [name for name in ARITHMETICS if name != "float32"]
NAMED = {"bfloat16": "bfloat16", "tfloat32": "tfloat32 or float16", "float16": "tfloat32 or float16"}


class Summed64(_RoundedProducts):
    """Products of changed numbers summed in float64: another order of summation than any in float32."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kind = getattr(func, "overloadpacket", None)
        if kind not in _PRODUCTS or "attention" in str(kind):
            return super().__torch_dispatch__(func, types, args, kwargs)
        rounded = [self.change(one, self.name) if i in _PRODUCTS[kind] else one for i, one in enumerate(args)]
        wide = [one.double() if isinstance(one, torch.Tensor) else one for one in rounded]
        return func(*wide, **(kwargs or {})).float()


def summed_in_float64(module: nn.Module, rows: Rows, name: str) -> list[np.ndarray]:
    with plain_kernels(), Summed64(name, results=False):
        return evaluate(module, *rows)


def stored_weights(module: nn.Module, rows: Rows, name: str) -> list[np.ndarray]:
    copied = evaluation_copy(module)
    with torch.no_grad():
        for tensor in (*copied.parameters(), *copied.buffers()):
            tensor.copy_(round_to(tensor, name))
    return evaluate(copied, *rows)


def rounded_outputs(module: nn.Module, rows: Rows, name: str) -> list[np.ndarray]:
    return [widened(round_to(torch.tensor(one), name)) for one in evaluate(module, *rows)]


def autocast(module: nn.Module, rows: Rows, name: str) -> list[np.ndarray]:
    dtype = find_arithmetic(name).dtype
    assert dtype is not None
    with torch.autocast("cpu", dtype=dtype):
        return [widened(one) for one in run_module(evaluation_copy(module), *map(torch.tensor, rows))]


@pytest.mark.parametrize("model", ZOO)
def test_simulated_arithmetics_are_named(model: str) -> None:
    """Three seeds of ten models; of 357 simulated results every one is named, and float32 is never taken for less."""
    rows = tuple(ZOO[model].rows.values())
    for seed in range(3):
        module = ZOO[model].module(seed)
        reference, told = Reference(module, rows), simulations(module, rows)
        assert all(one.agrees for one in reference.compare(evaluate(module, *rows)))
        for name in LOWER:
            for way in (summed_in_float64, stored_weights, rounded_outputs):
                outputs = way(module, rows, name)
                assert not all(one.agrees for one in reference.compare(outputs))
                assert name_arithmetic(outputs, reference.answers, told) == NAMED[name], (way.__name__, name, seed)
        for name in ("bfloat16", "float16"):
            found = name_arithmetic(evaluate_in(module, rows, name), reference.answers, told)
            assert found == name, (name, seed)
        if model != "LSTM":  # torch has no autocast for it on the CPU
            assert name_arithmetic(autocast(module, rows, "bfloat16"), reference.answers, told) == "bfloat16"


def stochastic(value: Any, name: str) -> Any:
    """Rounded up or down by chance: a pattern that no simulation makes."""
    if not isinstance(value, torch.Tensor) or value.dtype != torch.float32:
        return value
    lost = {"tfloat32": 13, "bfloat16": 16}[name]
    bits = value.contiguous().view(torch.int32)
    drawn = torch.randint(0, 1 << lost, bits.shape, dtype=torch.int32)
    return ((bits + drawn) & (-1 << lost)).view(torch.float32)


BOTH, ALL = "tfloat32 or float16", "tfloat32 or float16 or bfloat16"
# How numbers are changed, to what, its name, and how often of 20 times (ten models, two seeds) it is the only one told.
UNROUNDED = [
    (cut_to, "tfloat32", BOTH, 20), (cut_to, "bfloat16", "bfloat16", 20),
    (stochastic, "tfloat32", BOTH, 16), (stochastic, "bfloat16", "bfloat16", 15),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("change", "name", "right", "least"), UNROUNDED)
def test_numbers_that_are_not_rounded_to_nearest_get_no_wrong_name(
    change: Any, name: str, right: str, least: int
) -> None:
    """Summed in float64. Bits that are cut off have a pattern; of unknown ones the size is told, and what it fits."""
    found: Counter[str | None] = Counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for sample in ZOO.values():
            rows = tuple(sample.rows.values())
            for seed in range(2):
                module = sample.module(seed)
                reference, told = Reference(module, rows), simulations(module, rows)
                with plain_kernels(), Summed64(name, results=False, change=change):
                    outputs = evaluate(module, *rows)
                assert not all(one.agrees for one in reference.compare(outputs))
                found[name_arithmetic(outputs, reference.answers, told)] += 1
    assert set(found) <= {right, ALL}
    assert found[right] >= least, found


@pytest.mark.parametrize(
    ("size", "name"), [(0.2, None), (1.2, BOTH), (2.3, BOTH), (2.6, ALL), (2.9, ALL), (3.5, "bfloat16"), (30.0, None)]
)
def test_a_size_between_two_formats_fits_both(size: float, name: str | None) -> None:
    """Errors of 1 and of 8 are simulated; one of the square root of 8, in another direction, is as far from both."""
    answer = np.zeros((400, 1))
    fine, coarse, other = np.linalg.qr(np.random.default_rng(0).standard_normal((400, 3)))[0].T[:, :, None] * 20
    simulated = {"tfloat32": [[fine]], "float16": [[fine]], "bfloat16": [[8 * coarse]]}
    assert name_arithmetic([size * other], [answer], simulated) == name


@pytest.mark.parametrize(
    ("unit", "digits", "name"),
    [
        ("tfloat32", 0.9, BOTH), ("tfloat32", 6.0, ALL), ("bfloat16", 0.3, ALL),
        ("bfloat16", 6.0, "bfloat16"), ("bfloat16", 60.0, None),
    ],
)  # fmt: skip
def test_of_a_file_alone_the_size_is_told_and_what_it_fits(unit: str, digits: float, name: str | None) -> None:
    answer = np.linspace(-1, 1, 21)[:, None]
    budget = Budget(dtype="float32", scale=1.0, unit=2.0**-23, eager_error=1.0, conditioning=1.0, allowed=8.0)
    golden: Any = SimpleNamespace(output_names=["y"], outputs=[answer], inputs=[answer], budgets=[budget])
    output = answer.copy()
    output[3] += digits * ARITHMETICS[unit].eps
    assert GoldenJudge(golden).name([output.astype(np.float32)]) == name


def test_errors_that_no_arithmetic_makes_have_no_name() -> None:
    sample = ZOO["main, multi-class"]
    module, rows = sample.module(), tuple(sample.rows.values())
    reference, told = Reference(module, rows), simulations(module, rows)
    (right,) = evaluate(module, *rows)
    noise = np.random.default_rng(0).standard_normal(right.shape).astype(np.float32)
    for wrong in (right * 1.5, right[::-1].copy(), right + 3e-6 * noise, np.full_like(right, np.nan)):
        assert name_arithmetic([wrong], reference.answers, told) is None


def test_rounding_is_to_nearest_with_ties_to_even_in_every_format() -> None:
    for name, arithmetic in ARITHMETICS.items():
        eps = arithmetic.eps
        values = torch.tensor([1 + eps, 1 + eps / 2, 1 + 1.5 * eps, 1 + eps / 2.5, -1 - eps], dtype=torch.float32)
        if name == "float32":
            assert torch.equal(round_to(values, name), values)
            continue
        assert round_to(values, name).tolist() == [1 + eps, 1.0, 1 + 2 * eps, 1.0, -1 - eps]
    special = torch.tensor([float("inf"), float("-inf"), float("nan"), 0.0])
    assert torch.equal(round_to(special, "tfloat32").isfinite(), special.isfinite())
    ints = torch.tensor([3])
    assert round_to(ints, "bfloat16") is ints
    with pytest.raises(ConfigError, match='^no arithmetic "float8"\nhelp: arithmetics: float32, tfloat32'):
        find_arithmetic("float8")


def test_budgets_of_an_arithmetic_are_those_of_eager_in_it() -> None:
    sample = ZOO["scores and label"]
    module, rows = sample.module(), tuple(sample.rows.values())
    single = Reference(module, rows)
    for name in LOWER:
        lower = single.in_arithmetic(name)
        scores, label = lower.budgets
        assert scores.unit == pytest.approx(ARITHMETICS[name].eps * scores.scale)
        assert scores.eager_error > 0.05  # in its own eps: of the order of one
        assert scores.allowed >= 8
        assert (label.unit, label.dtype) == (0, "int64")
        assert all(one.agrees for one in lower.compare(evaluate_in(module, rows, name)))
        assert not lower.compare([np.zeros_like(one, np.float32) for one in lower.answers])[0].agrees
    assert single.arithmetic == "float32"
    assert single.budgets[1].allowed == 0


def test_labels_that_lower_precision_tosses_are_allowed_as_often_as_eager_loses_them() -> None:
    class Near(nn.Module):
        """Labels at a boundary that bfloat16 cannot place: rows are eps(float32) apart around it."""

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return (rows[:, 0] > 1.0).long()

    rows = (np.linspace(0.5, 1.5, 101)[:, None]).astype(np.float32)
    reference = Reference(Near(), rows).in_arithmetic("bfloat16")
    (budget,) = reference.budgets
    assert budget.allowed >= 4
    (answer,) = reference.answers
    one_off, all_off = answer.copy(), 1 - answer
    one_off[50] = 1 - one_off[50]
    assert reference.compare([one_off])[0].agrees
    assert not reference.compare([all_off])[0].agrees
    assert not Reference(Near(), rows).compare([one_off])[0].agrees
