"""Judging errors: what is allowed, and what is not."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from export_models import MODELS, Bfloat16, Classifier, TwoOutputs, missing_rows, rows_of, seeded
from torch import Tensor, nn

from lrdiff_core.errors import ConfigError, DataError
from lrdiff_export import Reference
from lrdiff_export.model.float64 import evaluate, evaluation_copy

EPS = float(np.finfo(np.float32).eps)


class Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.register_buffer("factor", torch.tensor(factor))

    def forward(self, rows: Tensor) -> Tensor:
        return rows * self.factor


def judged(module: nn.Module, rows: np.ndarray, outputs: list[np.ndarray]) -> list:
    return Reference(module, rows).compare(outputs)


@pytest.mark.parametrize("name", MODELS)
def test_eager_float32_is_within_its_own_budget(name: str) -> None:
    make, rows = MODELS[name]
    module = seeded(make)
    for verdict in judged(module, rows, evaluate(evaluation_copy(module), rows)):
        assert verdict.agrees, verdict


def test_the_error_is_in_units_of_epsilon_at_the_scale_of_the_output() -> None:
    rows = np.array([[1.0], [4.0]], np.float32)
    off = rows.copy()
    off[0] += 100 * 4 * EPS  # a hundred units at the scale of the largest output, which is 4
    (verdict,) = judged(Times(1.0), rows, [off])
    assert verdict.error == pytest.approx(100)
    assert verdict.row == 0
    assert verdict.reason == "error 100 eps, allowed 8"


def test_the_floor_holds_where_float32_is_exact_and_well_conditioned() -> None:
    (budget,) = Reference(Times(2.0), rows_of(50, 3)).budgets
    assert budget.eager_error == 0
    assert 0.9 < budget.conditioning < 1.001  # half a unit at the input, half a unit at the product
    assert budget.allowed == 8


def test_an_ill_conditioned_output_is_allowed_more() -> None:
    class Cancel(nn.Module):
        def forward(self, rows: Tensor) -> Tensor:
            return rows - 1.0

    rows = np.float32(1) + np.float32(1e-4) * rows_of(50, 1)
    (budget,) = Reference(Cancel(), rows).budgets
    assert budget.eager_error == 0  # the subtraction is exact, and yet
    assert budget.conditioning > 1e3
    assert budget.allowed == 4 * budget.conditioning


def test_one_place_that_loses_digits_blinds_no_other() -> None:
    class Inverse(nn.Module):
        def forward(self, rows: Tensor) -> Tensor:  # [batch, 1] -> [batch, 1]
            return torch.tanh(1 / (rows - 1))

    rows = np.concatenate([rows_of(200, 1) + 5, np.float32([[1 + 1e-3]])])
    (budget,) = Reference(Inverse(), rows).budgets
    assert budget.allowed < 50
    right = Reference(Inverse(), rows).answers[0].astype(np.float32)
    for row, agrees in ((3, False), (200, True)):
        off = right.copy()
        off[row] += np.float32(1e-4) if row == 3 else np.float32(1e-7)
        assert judged(Inverse(), rows, [off])[0].agrees is agrees


def test_the_budget_is_the_same_every_time() -> None:
    module, rows = seeded(Classifier), rows_of(30, 10)
    assert Reference(module, rows).budgets == Reference(module, rows).budgets


def test_outputs_that_are_zero_everywhere_must_be_zero() -> None:
    make, rows = MODELS["zero"]
    zero = np.zeros((20, 2), np.float32)
    (verdict,) = judged(seeded(make), rows, [zero])
    assert (verdict.agrees, verdict.error) == (True, 0)
    zero[7, 1] = 1e-6
    (verdict,) = judged(seeded(make), rows, [zero])
    assert (verdict.agrees, verdict.row) == (False, 7)


def test_nan_and_infinity_must_stand_where_float64_has_them() -> None:
    rows = missing_rows()
    right = rows * 2
    assert judged(Times(2.0), rows, [right])[0].agrees
    for place, value in (((3, 2), 0.0), ((4, 0), -np.inf), ((5, 9), np.nan), ((6, 6), np.nan)):
        wrong = right.copy()
        wrong[place] = value
        (verdict,) = judged(Times(2.0), rows, [wrong])
        assert verdict.reason == "NaN or infinity in other places than in float64: 1 of 400 elements"
        assert (verdict.row, verdict.mismatches) == (place[0], 1)


def test_where_float32_must_overflow_infinity_is_right_and_the_rest_is_still_judged() -> None:
    rows = np.array([[1e30], [1.0]], np.float32)
    module = Times(1e20)
    right = np.array([[np.inf], [1e20]], np.float32)
    assert judged(module, rows, [right])[0].agrees
    assert not judged(module, rows, [np.array([[3e38], [1e20]], np.float32)])[0].agrees
    assert not judged(module, rows, [np.array([[np.inf], [1.01e20]], np.float32)])[0].agrees


def test_exact_dtypes_are_compared_exactly() -> None:
    rows = rows_of(100, 10)
    module = seeded(TwoOutputs)
    scores, labels = evaluate(module, rows)
    assert [verdict.agrees for verdict in judged(module, rows, [scores, labels])] == [True, True]
    labels[5] = (labels[5] + 1) % 3
    first, second = judged(module, rows, [scores, labels])
    assert first.agrees
    assert (second.reason, second.row) == ("1 of 100 elements differ", 5)


def test_dtype_shape_and_number_of_outputs_are_compared() -> None:
    rows = rows_of(6, 3)
    (verdict,) = judged(Times(1.0), rows, [rows.astype(np.float64)])
    assert verdict.reason == "dtype float64 instead of float32"
    (verdict,) = judged(Times(1.0), rows, [rows[:, :1]])
    assert verdict.reason == "shape [6, 1] instead of [6, 3]"
    (verdict,) = judged(Times(1.0), rows, [rows, rows])
    assert verdict.reason == "2 outputs instead of 1"


def test_bfloat16_and_float16_arithmetic_leave_the_budget() -> None:
    module, rows = seeded(Classifier), rows_of(100, 10)
    (verdict,) = judged(module, rows, evaluate(Bfloat16(seeded(Classifier)), rows))
    assert verdict.error > 1e3
    half = evaluate(seeded(Classifier).half(), rows.astype(np.float16))[0].astype(np.float32)
    assert not judged(module, rows, [half])[0].agrees


def test_rows_are_never_written_to() -> None:
    class InPlace(nn.Module):
        def forward(self, rows: Tensor) -> Tensor:
            return rows.sub_(1.0)

    rows = rows_of(5, 3)
    before = rows.copy()
    rows.flags.writeable = False
    Reference(InPlace(), rows)
    assert np.array_equal(rows, before)


def test_reports_are_json_without_nan_and_infinity() -> None:
    rows = rows_of(6, 3)
    (verdict,) = judged(Times(1.0), rows, [rows[:, :1]])
    document = json.loads(json.dumps(verdict.to_dict(), allow_nan=False))
    assert document["error"] is None
    assert json.dumps(Reference(Times(1.0), rows).budgets[0].to_dict(), allow_nan=False)


class CastsDown(nn.Module):
    """As models of transformers do in their norms: the cast changes nothing in float32, and would round float64."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1)

    def forward(self, rows: Tensor) -> Tensor:
        return self.linear(rows.float() + torch.full((1,), 0.1) + torch.arange(3, dtype=torch.float32) / 10)


def test_casts_to_float32_inside_a_module_do_not_round_the_reference() -> None:
    module, rows = seeded(CastsDown), rows_of(20, 3)
    weight, bias = module.linear.weight.detach().double().numpy(), module.linear.bias.detach().double().numpy()
    exact = (rows.astype(np.float64) + np.float32(0.1) + np.arange(3) / 10) @ weight.T + bias
    np.testing.assert_allclose(Reference(module, rows).answers[0], exact, rtol=1e-14)
    assert torch.get_default_dtype() == torch.float32


def test_integer_inputs_are_judged_by_what_rounding_the_weights_does() -> None:
    module = seeded(lambda: nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 2)))
    rows = np.arange(9).reshape(9, 1)
    reference = Reference(module, rows)
    assert reference.answers[0].dtype == np.float64
    assert 0 < reference.budgets[0].conditioning < 2


def test_several_inputs_are_given_by_position() -> None:
    rows = (rows_of(5, 2), rows_of(5, 3, seed=1))
    reference = Reference(seeded(lambda: nn.Bilinear(2, 3, 4)), rows)
    assert reference.answers[0].shape == (5, 4)


def test_where_eager_leaves_the_range_of_float32_a_file_may_do_so_too() -> None:
    class Ratio(nn.Module):
        def forward(self, rows: Tensor) -> Tensor:
            return rows * rows / rows.abs()

    rows = np.array([[1.0], [1e30]], np.float32)
    assert Reference(Ratio(), rows).beyond[0].tolist() == [[False], [True]]
    for given, agrees in (([1.0, np.inf], True), ([1.0, 1e30], True), ([1.0, np.nan], False), ([1.01, np.inf], False)):
        assert judged(Ratio(), rows, [np.float32(given)[:, None]])[0].agrees is agrees, given


class GivesBfloat16(nn.Module):
    def forward(self, rows: Tensor) -> Tensor:
        return rows.bfloat16()


def test_an_output_that_numpy_does_not_know_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^an output of dtype torch.bfloat16 cannot be compared"):
        Reference(GivesBfloat16(), rows_of(4, 3))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((2, 3)), "rows are float64, not a float32, integer or bool array"),
        ([[1.0]], "rows are list, not a float32, integer or bool array"),
        (np.zeros((0, 3), np.float32), "rows have shape [0, 3]: nothing to run"),
        (np.array(1, np.float32), "rows have shape []: nothing to run"),
    ],
)
def test_rows_that_cannot_be_fed_are_named(rows: np.ndarray, message: str) -> None:
    with pytest.raises(DataError) as caught:
        Reference(nn.Linear(3, 1), rows)
    assert caught.value.message == message
