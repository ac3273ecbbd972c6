"""Several inputs, integer inputs, names, types, units: from module to file, verification and prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from export_models import rows_of, seeded
from torch import Tensor, nn

from lrdiff_core.errors import ConfigError, DataError
from lrdiff_export import ModelCard, OnnxPredictor, check_parity, convert_to_onnx, export, verify_onnx
from lrdiff_export.examples import ZOO
from lrdiff_export.model.float64 import evaluate
from lrdiff_export.model.signature import as_arrays, as_tensors, input_names_of

TWO = ZOO["two inputs"]
ROWS = tuple(TWO.rows.values())


class Mapped(nn.Module):
    """Takes keywords and gives a mapping, as models of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, *, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:  # [batch, time], [batch, time]
        hidden = (self.table(ids) * mask[..., None]).sum(dim=1)
        return {"hidden": hidden, "logits": self.head(hidden)}


IDS = np.random.default_rng(0).integers(0, 11, size=(40, 6))
MASK = np.random.default_rng(1).integers(0, 2, size=(40, 6)) > 0


@pytest.mark.slow
def test_two_inputs_are_named_after_the_arguments_and_both_have_a_free_batch(tmp_path: Path) -> None:
    report = export(TWO.module(), TWO.example(), out=tmp_path / "model.onnx", rows=ROWS, output_names=["p"])
    assert [(port.name, port.dtype, port.shape) for port in report.inputs] == [
        ("numbers", "float32", ("batch", 3)),
        ("kind", "int64", ("batch",)),
    ]
    assert [(port.name, port.dtype, port.shape) for port in report.outputs] == [("p", "float32", ("batch", 1))]
    assert {case.batch for case in report.verification.cases} >= {1, 2, 3, 7, 64, 1000}


@pytest.mark.slow
def test_units_stand_in_the_report_and_in_the_file(tmp_path: Path) -> None:
    card = ModelCard(units={"speed": "m/s", "p": "probability"})
    options: dict[str, Any] = {"rows": ROWS, "input_names": ["speed", "kind"], "output_names": ["p"], "card": card}
    report = export(TWO.module(), TWO.example(), out=tmp_path / "model.onnx", **options)
    assert [port.unit for port in (*report.inputs, *report.outputs)] == ["m/s", "", "probability"]
    with pytest.raises(ConfigError) as caught:
        export(TWO.module(), TWO.example(), out=tmp_path / "m.onnx", **{**options, "card": ModelCard(units={"x": "m"})})
    assert caught.value.message == "a unit is given for 'x', which the file does not have"
    assert caught.value.help == "names: speed, kind, p"


def test_keywords_and_a_mapping_of_outputs(tmp_path: Path) -> None:
    module = seeded(Mapped)
    example = {"ids": torch.tensor(IDS[:2]), "mask": torch.tensor(MASK[:2])}
    rows = {"mask": MASK, "ids": IDS}  # in any order
    report = export(module, example, out=tmp_path / "model.onnx", rows=rows, output_names=["logits"])
    assert [(port.name, port.dtype) for port in report.inputs] == [("ids", "int64"), ("mask", "bool")]
    assert verify_onnx(tmp_path / "model.onnx", module, rows=rows).passed
    answer = OnnxPredictor(tmp_path / "model.onnx").run(ids=IDS[:3], mask=MASK[:3])
    with torch.no_grad():
        right = module(ids=torch.tensor(IDS[:3]), mask=torch.tensor(MASK[:3]))["logits"].numpy()
    np.testing.assert_allclose(answer["logits"], right, rtol=1e-5, atol=1e-6)
    with pytest.raises(ConfigError) as caught:
        convert_to_onnx(module, example=example, output_names=["scores"])
    assert caught.value.message == "Mapped gives a mapping without a tensor 'scores'"
    assert caught.value.help == "name outputs among those that it gives: hidden, logits"


def test_without_a_floating_input_what_needs_one_is_left_out() -> None:
    sample = ZOO["integer tokens"]
    data = convert_to_onnx(sample.module(), example=sample.example())
    report = verify_onnx(data, sample.module(), rows=tuple(sample.rows.values()))
    assert report.passed
    assert report.agrees_up_to is None
    names = {case.name for case in report.cases}
    assert names >= {"held out", "batch 1000", "rows alone"}
    assert not names & {"normal", "zeros", "denormals", "10 times", "one NaN"}


def test_every_backend_takes_several_inputs() -> None:
    report = check_parity(TWO.module(), ROWS, backends=["eager", "onnxruntime"])
    assert [result.status for result in report.results] == ["agrees", "agrees"]


def test_the_predictor_takes_several_inputs_by_position_and_by_name() -> None:
    predictor = OnnxPredictor(convert_to_onnx(TWO.module(), example=TWO.example()))
    numbers, kind = (one[:4] for one in ROWS)
    right = evaluate(TWO.module(), numbers, kind)[0]
    np.testing.assert_allclose(predictor.run(numbers, kind)["output"], right, rtol=1e-5)
    np.testing.assert_allclose(predictor.run(kind=kind.astype(np.int32), numbers=numbers)["output"], right, rtol=1e-5)
    for given, named, message in (
        ((numbers,), {}, "1 inputs are given, the model takes 2"),
        ((), {"numbers": numbers, "sort": kind}, "inputs numbers, sort are given by name"),
        ((numbers, kind.astype(np.float32)), {}, "rows are not numbers: float32 for an input of int64"),
        ((numbers, kind[:, None]), {}, "rows have shape [4, 1], the model takes [batch]"),
    ):
        with pytest.raises(DataError) as caught:
            predictor.run(*given, **named)
        assert caught.value.message == message


def test_bound_memory_answers_as_run_does_and_is_written_in_place() -> None:
    predictor = OnnxPredictor(convert_to_onnx(TWO.module(), example=TWO.example()))
    numbers, kind = (one[:4] for one in ROWS)
    bound = predictor.bind(numbers, kind)
    np.testing.assert_array_equal(bound()["output"], predictor.run(numbers, kind)["output"])
    bound.inputs["numbers"][:] = ROWS[0][4:8]
    before = bound.outputs["output"]
    np.testing.assert_array_equal(bound()["output"], predictor.run(ROWS[0][4:8], kind)["output"])
    assert bound.outputs["output"] is before


def test_all_inputs_of_a_large_model_file_are_described(tmp_path: Path) -> None:
    model = onnx.ModelProto.FromString(convert_to_onnx(TWO.module(), example=TWO.example()))
    batches = [value.type.tensor_type.shape.dim[0].dim_param for value in model.graph.input]
    assert batches == ["batch"] * len(TWO.example())


X, Y = torch.zeros(2, 3), torch.zeros(3, 3)


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ((), "example holds no tensor"),
        ((X, Y), "the examples have 2, 3 rows"),
        ((X, "y"), "example is str, not a float32, integer or bool tensor [batch, ...]"),
        (X.half(), "example is torch.float16 [2, 3], not a float32, integer or bool tensor [batch, ...]"),
    ],
)
def test_examples_that_cannot_be_used_are_named(example: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        as_tensors(example)
    assert caught.value.message == message


def test_rows_that_cannot_be_used_are_named() -> None:
    with pytest.raises(DataError, match=r"^the inputs have 2, 3 rows"):
        as_arrays((rows_of(2, 1), rows_of(3, 1)))
    with pytest.raises(DataError, match=r"^rows are given for a, c\nhelp: inputs: a, b"):
        as_arrays({"a": rows_of(2, 1), "c": rows_of(2, 1)}, ("a", "b"))


def test_names_that_do_not_fit_the_inputs_are_named() -> None:
    module = TWO.module()
    assert input_names_of(module, TWO.example(), None) == ("numbers", "kind")
    with pytest.raises(ConfigError, match=r"^the example has 2 inputs and input_names has 1"):
        input_names_of(module, TWO.example(), "x")
    with pytest.raises(ConfigError, match=r"^input_names is given and the example has names"):
        input_names_of(module, {"x": X}, "y")
