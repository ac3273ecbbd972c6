"""Faults that one budget for a whole output, or rows drawn at random, would let through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from export_models import rows_of, seeded
from onnx import numpy_helper
from torch import Tensor, nn

from lrdiff_export import Battery, VerificationFailed, export
from lrdiff_export.model.prepared import prepare
from lrdiff_export.onnx_file.convert import convert
from lrdiff_export.verify.expected import Expected
from lrdiff_export.verify.tolerance import floating_tolerance
from lrdiff_export.verify.verify import run_battery

ROWS = rows_of(100, 6)


class Scaled(nn.Module):
    """A linear layer whose columns are of very different sizes."""

    def __init__(self, *unit: float) -> None:
        super().__init__()
        self.linear = nn.Linear(6, len(unit))
        self.register_buffer("unit", torch.tensor(unit))

    def forward(self, rows: Tensor) -> Tensor:  # [batch, 6] -> [batch, units]
        return self.linear(rows) * self.unit


class Calls(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, rows: Tensor) -> Tensor:
        return self.function(rows)


def problems(module: nn.Module, rows: np.ndarray, fault: Callable[[onnx.ModelProto], None]) -> tuple[str, ...]:
    """Judge a file of the module, healthy and with a fault; the healthy one must pass."""
    converted = convert(prepare(module, torch.tensor(rows[:2]), output_names=["output"]))
    battery = Battery(converted.prepared, (rows,))
    assert run_battery(converted.data, battery).problems == ()
    model = onnx.ModelProto()
    model.CopyFrom(converted.model)
    fault(model)
    return run_battery(replace(converted, model=model).data, battery).problems


def without_bias(column: int) -> Callable[[onnx.ModelProto], None]:
    def fault(model: onnx.ModelProto) -> None:
        tensor = next(one for one in model.graph.initializer if one.name == "linear.bias")
        values = numpy_helper.to_array(tensor).copy()
        values[column] = 0.0
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    return fault


def other_operator(old: str, new: str) -> Callable[[onnx.ModelProto], None]:
    def fault(model: onnx.ModelProto) -> None:
        node = next(node for node in model.graph.node if node.op_type == old)
        node.op_type = new
        del node.attribute[:]

    return fault


@pytest.mark.slow
@pytest.mark.parametrize("units", [(1e6, 1.0), (1e6, 1.0, 1e3), (1e4, 1e-3)])
def test_a_bias_missing_in_the_smallest_of_several_columns_is_caught(units: tuple[float, ...]) -> None:
    smallest = int(np.argmin(units))
    found = problems(seeded(lambda: Scaled(*units)), ROWS, without_bias(smallest))
    assert len(found) == 1
    assert found[0].startswith("output 'output': error ")
    assert f" in column {smallest}, allowed " in found[0]


def test_a_missing_bias_is_caught_among_rows_with_an_outlier() -> None:
    rows = ROWS.copy()
    rows[3] = 1e8
    assert problems(seeded(lambda: Scaled(1.0)), rows, without_bias(0))[0].startswith("output 'output': error ")


@pytest.mark.slow
def test_columns_of_zeros_small_probabilities_and_steep_sums_stay_healthy(tmp_path: Path) -> None:
    rows = torch.tensor(ROWS)
    steep = nn.Linear(6, 3)
    with torch.no_grad():
        steep.bias.copy_(torch.tensor([-40.0, 0.0, -25.0]))  # ONNX Runtime's sigmoid ends at 1.5e-8
    for module in (
        nn.Sequential(steep, nn.Sigmoid()),
        nn.Sequential(nn.Linear(6, 5), nn.ReLU()),
        Calls(lambda x: torch.cat([x * 0, x * 1e6 - (x * 1e6 + 1), torch.softmax(1e3 * x, 1)], 1)),
        Calls(lambda x: torch.stack([x.sum(1) ** 9, (x * 1e5).sum(1) - 1e5 * x.sum(1)], 1)),
        Calls(lambda x: torch.exp(5 * x)),
    ):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            assert export(module, rows[:2], out=tmp_path / "m.onnx", rows=ROWS, golden=False).verification.passed


@pytest.mark.parametrize(
    ("function", "old", "new"),
    [
        (lambda x: x >= 0.5, "GreaterOrEqual", "Greater"),
        (lambda x: (x > 1.0).float(), "Greater", "GreaterOrEqual"),
        (lambda x: (x < -0.5).long(), "Less", "LessOrEqual"),
    ],
)
def test_a_threshold_that_is_off_by_its_boundary_is_caught(
    function: Callable[[Tensor], Tensor], old: str, new: str
) -> None:
    assert "round numbers" in problems(Calls(function), ROWS, other_operator(old, new))[0]


@pytest.mark.slow
def test_a_threshold_on_which_the_last_bit_decides_stays_healthy(tmp_path: Path) -> None:
    for function in (lambda x: 0.1 * x > 0.3, lambda x: torch.floor(x * 0.1 * 10)):
        assert export(Calls(function), torch.tensor(ROWS[:2]), out=tmp_path / "m.onnx", rows=ROWS).verification.passed


def test_floor_division_that_the_exporter_turns_into_a_quotient_is_refused(tmp_path: Path) -> None:
    """``0.5 // 0.1`` is 4 in PyTorch, in float32 and float64; the file divides and rounds down, and says 5."""
    with pytest.raises(VerificationFailed, match="round numbers"):
        export(Calls(lambda x: x // 0.1), torch.tensor(ROWS[:2]), out=tmp_path / "m.onnx", rows=ROWS)


class Fills(nn.Module):
    """Missing values become 0.5; what a runtime makes of a NaN in ``where`` is seen only where there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 2)

    def forward(self, rows: Tensor) -> Tensor:
        return self.linear(torch.where(torch.isnan(rows), 0.5, rows))


def without_filling(model: onnx.ModelProto) -> None:
    (where,) = (node for node in model.graph.node if node.op_type == "Where")
    where.op_type = "Identity"
    del where.input[:2]


def other_filling(model: onnx.ModelProto) -> None:
    (where,) = (node for node in model.graph.node if node.op_type == "Where")
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.25), "quarter"))
    where.input[1] = "quarter"


@pytest.mark.slow
@pytest.mark.parametrize("fault", [without_filling, other_filling])
def test_a_module_that_fills_missing_values_is_held_to_it(fault: Callable[[onnx.ModelProto], None]) -> None:
    found = problems(seeded(Fills), ROWS, fault)  # no row of these has a missing value
    assert "one NaN" in found[0]


@pytest.mark.slow
def test_what_becomes_of_nan_otherwise_is_not_asked(tmp_path: Path) -> None:
    for function in (lambda x: x.sign() + x, lambda x: x.amax(1), lambda x: x.argmax(1), lambda x: torch.relu(x)):
        assert export(Calls(function), torch.tensor(ROWS[:2]), out=tmp_path / "m.onnx", rows=ROWS).verification.passed


def test_unusual_answers_are_left_to_the_whole_output() -> None:
    answer = np.array([[1.0], [1.0], [1.0], [1e9]])
    found = floating_tolerance(answer, answer.astype(np.float32), [answer], eps=2.0**-23)
    expected = Expected(name="y", answer=answer, budget=found.budget, columns=found.columns(answer))
    off = answer.astype(np.float32)
    off[3] += 700
    assert expected.compare(off).agrees
    off[1] += 1e-3
    verdict = expected.compare(off)
    assert (verdict.row, verdict.reason is not None and verdict.reason[:25]) == (1, "error 0.001 in column 0, ")
    assert replace(expected, skipped=off != answer).compare(off).agrees
