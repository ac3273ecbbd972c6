"""Verification: healthy models of every kind pass, and every planted fault is caught."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from export_models import MODELS, OUTPUTS, Classifier, rows_of, seeded
from hostile import endless_loop
from onnx import TensorProto, helper
from torch import nn

from lrdiff_core.errors import ModelFileError
from lrdiff_export import Limits, Sandbox, convert_to_onnx, verify_onnx

ROWS = rows_of(100, 10)
SEEDS = range(2)


def converted(module: nn.Module, *, width: int = 10) -> bytes:
    return convert_to_onnx(module, example=torch.zeros(1, width))


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_healthy_models_pass(name: str) -> None:
    make, rows = MODELS[name]
    names = OUTPUTS.get(name, ("output",))
    module = seeded(make).train()  # verification puts a copy into evaluation mode
    data = convert_to_onnx(module, example=torch.tensor(rows[:1]), output_names=names)
    report = verify_onnx(data, module, rows=rows)
    assert report.problems == ()
    assert report.passed
    found = {case.name for case in report.cases}
    assert found >= {
        "held out",
        *(f"batch {size}" for size in (1, 2, 3, 7, 64, 1000)),
        *("rows alone", "normal", "zeros", "extremes", "denormals", "round numbers", "10 times", "10 000 times"),
        *("one NaN", "one infinity", "one minus infinity"),
    }
    assert sorted((case.name, case.optimisation) for case in report.cases) == sorted(
        (name, level) for name in found for level in ("off", "full")
    )
    assert all(case.passed and len(case.verdicts) == len(names) for case in report.cases)
    assert [verdict.output for verdict in report.worst] == list(names) == list(report.budgets)


def test_the_report_names_the_bytes_and_is_json() -> None:
    data = converted(seeded(Classifier))
    document = verify_onnx(data, seeded(Classifier), rows=ROWS).to_dict()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert (document["passed"], document["size"], document["opset"], document["ir_version"]) == (True, len(data), 20, 9)
    assert len(document["sha256"]) == 64


def test_a_path_is_read(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(converted(seeded(Classifier)))
    assert verify_onnx(file, seeded(Classifier), rows=ROWS).passed
    assert verify_onnx(str(file), seeded(Classifier), rows=ROWS).passed


@pytest.mark.slow
def test_a_sandbox_answers_as_this_process_does(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(converted(seeded(Classifier)))
    with Sandbox() as sandbox:
        boxed = verify_onnx(file, seeded(Classifier), rows=ROWS, sandbox=sandbox)
        assert boxed == verify_onnx(file, seeded(Classifier), rows=ROWS)
        file.write_bytes(endless_loop("features", 10, "output", 1))
        sandbox.limits = Limits(seconds=1)
        with pytest.raises(ModelFileError, match="takes longer than 1 s to open and run"):
            verify_onnx(file, seeded(Classifier), rows=ROWS, sandbox=sandbox)


def edit(model: onnx.ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    values = change(onnx.numpy_helper.to_array(tensor).copy()).astype(np.float32)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, name))


def one_weight_of_the_first_layer_off(model: onnx.ModelProto) -> None:
    def change(values: np.ndarray) -> np.ndarray:
        head = onnx.numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == "layer2.weight"))
        unit = np.abs(head).sum(axis=0).argmax()
        values[unit, np.abs(values[unit]).argmax()] *= 1.01
        return values

    edit(model, "layer1.weight", change)


def wrong_spread(model: onnx.ModelProto) -> None:
    edit(model, "std", lambda std: std * np.sqrt(100 / 99))  # n against n - 1


def nearly_the_same_activation(model: onnx.ModelProto) -> None:
    relu = next(node for node in model.graph.node if node.op_type == "Relu")
    relu.op_type = "LeakyRelu"
    relu.attribute.append(helper.make_attribute("alpha", 0.001))


# Beside those of planted.py, which test_export_faults.py plants in twenty models.
FAULTS: list[Callable[[onnx.ModelProto], None]] = [
    one_weight_of_the_first_layer_off,
    wrong_spread,
    nearly_the_same_activation,
]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("classes", [1, 4])
def test_planted_faults_are_caught(classes: int, seed: int) -> None:
    module = seeded(lambda: Classifier(classes), seed)
    data = converted(module)
    assert verify_onnx(data, module, rows=ROWS).passed
    for fault in FAULTS:
        model = onnx.ModelProto.FromString(data)
        fault(model)
        report = verify_onnx(model.SerializeToString(), module, rows=ROWS)
        assert not report.passed, fault
        assert report.problems[0].startswith("output 'output': error "), report.problems
        # The smallest planted fault is far outside: the verdict does not hang on the constants of the budget.
        assert report.worst[0].error > 10 * report.worst[0].allowed, (fault, report.worst)


@pytest.mark.slow
def test_a_file_of_another_module_is_caught() -> None:
    assert not verify_onnx(converted(seeded(Classifier, 1)), seeded(Classifier, 0), rows=ROWS).passed


def test_a_fault_of_one_output_names_that_output() -> None:
    make, rows = MODELS["two outputs"]
    model = onnx.ModelProto.FromString(
        convert_to_onnx(seeded(make), example=torch.zeros(1, 10), output_names=["scores", "label"])
    )
    for node in model.graph.node:
        if node.op_type == "ArgMax":
            node.op_type = "ArgMin"
    report = verify_onnx(model.SerializeToString(), seeded(make), rows=rows)
    assert len(report.problems) == 1
    assert re.fullmatch(r"output 'label': \d+ of \d+ elements differ \(.+, optimisations \w+\)", report.problems[0])


def graph_of(
    *,
    inputs: list[tuple[str, int, list]] | None = None,
    output: tuple[int, list] = (TensorProto.FLOAT, ["batch", 3]),
    nodes: list[onnx.NodeProto] | None = None,
    opset: int = 20,
) -> bytes:
    inputs = inputs or [("features", TensorProto.FLOAT, ["batch", 3])]
    graph = helper.make_graph(
        nodes or [helper.make_node("Identity", [inputs[0][0]], ["output"])],
        "graph",
        [helper.make_tensor_value_info(*one) for one in inputs],
        [helper.make_tensor_value_info("output", *output)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 9
    return model.SerializeToString()


F = TensorProto.FLOAT


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (
            graph_of(inputs=[("features", F, [1, 3])], output=(F, [1, 3])),
            "input 'features' takes batches of 1 only: the batch dimension is not free",
        ),
        (
            graph_of(inputs=[("features", F, ["batch", 4])], output=(F, ["batch", 4])),
            "input 'features' takes [batch, 4], the rows are [100, 3]",
        ),
        (
            graph_of(
                inputs=[("features", TensorProto.DOUBLE, ["batch", 3])], output=(TensorProto.DOUBLE, ["batch", 3])
            ),
            "input 'features' is not float32",
        ),
        (graph_of(inputs=[("a", F, ["batch", 3]), ("b", F, ["batch", 3])]), "the file takes 2 inputs, the module 1"),
        (
            graph_of(nodes=[helper.make_node("ReduceSum", ["features"], ["output"])], output=(F, [1, 1])),
            "output 'output': shape [1, 1] instead of [100, 3] (held out, 100 rows, optimisations off)",
        ),
        (
            graph_of(nodes=[helper.make_node("Cast", ["features"], ["output"], to=10)], output=(10, ["batch", 3])),
            "output 'output': dtype float16 instead of float32 (held out, 100 rows, optimisations off)",
        ),
    ],
)
def test_another_interface_is_a_problem_of_the_report(data: bytes, problem: str) -> None:
    report = verify_onnx(data, nn.Identity(), rows=rows_of(100, 3))
    assert not report.passed
    assert problem in report.problems


def test_too_many_outputs_are_a_problem_of_the_report() -> None:
    class Twice(nn.Module):
        def forward(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return rows, rows

    report = verify_onnx(graph_of(), Twice(), rows=rows_of(100, 3))
    assert report.problems == ("the file gives 1 outputs, the module 2",)
    assert not report.passed


def test_a_graph_that_only_runs_at_one_batch_size_is_a_problem_of_the_report() -> None:
    shape = helper.make_node("Constant", [], ["shape"], value=helper.make_tensor("v", TensorProto.INT64, [2], [2, 3]))
    reshape = helper.make_node("Reshape", ["features", "shape"], ["output"])
    report = verify_onnx(graph_of(nodes=[shape, reshape]), nn.Identity(), rows=rows_of(100, 3))
    assert report.problems[0].startswith("held out, 100 rows, optimisations off: onnxruntime failed: ")
    assert [case.passed for case in report.cases if case.batch == 2] == [True, True]
    assert json.dumps(report.to_dict(), allow_nan=False)


def test_what_onnxruntime_does_not_load_is_a_problem_of_the_report() -> None:
    data = onnx.ModelProto.FromString(graph_of())
    data.opset_import.append(helper.make_opsetid("org.example", 1))
    data.graph.node[0].domain = "org.example"
    report = verify_onnx(data.SerializeToString(), nn.Identity(), rows=rows_of(10, 3))
    assert report.problems[0].startswith("onnxruntime ")
    assert "cannot load the model: " in report.problems[0]
    assert report.cases == ()
