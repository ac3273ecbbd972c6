"""Short constants are repeated before they meet the rows: the same bits, in less time."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from export_models import rows_of
from onnx import numpy_helper

from lrdiff_export import convert_to_onnx
from lrdiff_export.examples import ZOO
from lrdiff_export.onnx_file import convert as converting
from lrdiff_export.onnx_file.passes import WIDEST, expand_constants
from lrdiff_export.runtimes.predictor import open_session

MAIN = ZOO["main, binary"]


def graph(body: str, *, shape: str = "batch, 10", constant: str = "10") -> onnx.ModelProto:
    text = f'<ir_version: 9, opset_import: ["" : 20]> g (float[{shape}] x) => (float[{shape}] y) {{ {body} }}'
    model = onnx.parser.parse_model(text)
    size = tuple(int(one) for one in constant.split(",") if one)
    model.graph.initializer.append(numpy_helper.from_array(rows_of(*size), "c"))
    return model


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.slow
@pytest.mark.parametrize("optimise", [False, True])
def test_the_answers_have_the_same_bits(optimise: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    spread = convert_to_onnx(MAIN.module(), example=MAIN.example())
    monkeypatch.setattr(converting, "expand_constants", lambda model: 0)
    plain = convert_to_onnx(MAIN.module(), example=MAIN.example())
    assert kinds(onnx.ModelProto.FromString(spread)).count("Expand") == 2
    assert kinds(onnx.ModelProto.FromString(spread)).count("Shape") == 1
    assert "Expand" not in kinds(onnx.ModelProto.FromString(plain))
    for rows in (1, 3, 100, 5000):
        feed = {"features": rows_of(rows, 10, scale=30.0)}
        one, other = (open_session(data, optimise=optimise).run(None, feed)[0] for data in (spread, plain))
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("operator", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("order", ["x, c", "c, x"])
@pytest.mark.parametrize("constant", ["10", "1,10"])
def test_either_side_and_both_shapes(operator: str, order: str, constant: str) -> None:
    model = graph(f"y = {operator}({order})", constant=constant)
    before = open_session(model.SerializeToString()).run(None, {"x": rows_of(7, 10)})[0]
    assert expand_constants(model) == 1
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_array_equal(open_session(model.SerializeToString()).run(None, {"x": rows_of(7, 10)})[0], before)


@pytest.mark.parametrize(
    ("body", "options"),
    [
        ("y = Add(x, c)", {"constant": ""}),  # a single number is no row
        ("y = Add(x, c)", {"constant": "1"}),  # nor is one column for ten
        ("y = Add(x, x)", {}),
        ("y = Max(x, c)", {}),
        ("y = Add(x, c)", {"shape": f"batch, {WIDEST + 1}", "constant": str(WIDEST + 1)}),
        ("y = Add(x, c)", {"shape": "batch, 4, 10"}),
        ("y = Add(x, c)", {"shape": "5, 10"}),
        ("y = Add(x, c)", {"shape": "batch, columns"}),
    ],
)
def test_what_gains_nothing_is_left_alone(body: str, options: dict[str, str]) -> None:
    model = graph(body, **options)
    before = model.SerializeToString()
    assert expand_constants(model) == 0
    assert model.SerializeToString() == before


def test_names_that_are_taken_give_way() -> None:
    model = graph("y.rows = Relu(x) y.shape = Add(y.rows, c) y = Relu(y.shape)".replace("y.", "y_"))
    for node in model.graph.node:
        for ends in (node.input, node.output):
            ends[:] = [name.replace("y_", "y.") for name in ends]
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("y.rows", 1, ["batch", 10]))
    model.graph.node[1].output[0], model.graph.node[2].input[0] = "y", "y"
    model.graph.node[2].output[0], model.graph.output[0].name = "z", "z"
    assert expand_constants(model) == 1
    assert [node.output[0] for node in model.graph.node] == ["y.rows", "y.shape", "y.rows_", "y", "z"]
    onnx.checker.check_model(model, full_check=True)
