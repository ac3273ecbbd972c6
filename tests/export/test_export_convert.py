"""Conversion: clean, reproducible bytes, and one clear line where a module cannot be converted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from export_models import MODELS, OUTPUTS, Classifier, rows_of, seeded
from torch import nn

from lrdiff_core.errors import ConfigError, InputError, UnavailableError
from lrdiff_export import convert_to_onnx

EXAMPLE = torch.zeros(1, 10)


@pytest.fixture(scope="module")
def data() -> bytes:
    return convert_to_onnx(
        seeded(Classifier), example=EXAMPLE, output_names=["probability"], metadata={"b": "2", "a": "1"}
    )


def test_the_file_has_the_names_the_opset_and_a_free_batch(data: bytes) -> None:
    model = onnx.ModelProto.FromString(data)
    assert [entry.version for entry in model.opset_import] == [20]
    assert model.ir_version == 9  # the lowest that opset 20 allows
    (features,), (probability,) = model.graph.input, model.graph.output
    assert (features.name, probability.name) == ("features", "probability")
    for value, width in ((features, 10), (probability, 1)):
        batch, columns = value.type.tensor_type.shape.dim
        assert (batch.dim_param, batch.HasField("dim_value"), columns.dim_value) == ("batch", False, width)


def test_metadata_is_the_callers_alone_and_sorted(data: bytes) -> None:
    model = onnx.ModelProto.FromString(data)
    assert [(entry.key, entry.value) for entry in model.metadata_props] == [("a", "1"), ("b", "2")]


def test_no_traces_of_this_machine_are_left(data: bytes) -> None:
    assert str(Path(__file__).parent).encode() not in data
    assert b"File " not in data
    assert b"forward" not in data
    assert b"doc_string" not in data
    assert b"pkg.torch" not in data


def test_the_callers_module_keeps_its_mode_and_weights() -> None:
    module = seeded(Classifier).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    convert_to_onnx(module, example=EXAMPLE)
    assert module.training
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_kind_of_model_passes_the_full_checker(name: str) -> None:
    make, rows = MODELS[name]
    data = convert_to_onnx(seeded(make), example=torch.tensor(rows[:1]), output_names=OUTPUTS.get(name, ["output"]))
    onnx.checker.check_model(data, full_check=True)
    assert len(data) < 8_000


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile, of its own imports
def test_a_compiled_wrapper_is_unwrapped(data: bytes) -> None:
    wrapped = torch.compile(seeded(Classifier), backend="eager")
    again = convert_to_onnx(wrapped, example=EXAMPLE, output_names=["probability"], metadata={"a": "1", "b": "2"})
    assert again == data


@pytest.mark.parametrize(("opset", "ir_version"), [(18, 8), (21, 10)])
def test_another_opset_is_what_the_file_has(opset: int, ir_version: int) -> None:
    model = onnx.ModelProto.FromString(convert_to_onnx(nn.Linear(10, 1), example=EXAMPLE, opset=opset))
    assert (model.opset_import[0].version, model.ir_version) == (opset, ir_version)


def test_an_opset_that_the_exporter_replaces_is_refused() -> None:
    with pytest.raises(UnavailableError) as caught:
        convert_to_onnx(seeded(Classifier), example=EXAMPLE, opset=13)
    assert str(caught.value) == ("opset 13 was asked for and the exporter gave 18\nhelp: ask for opset 18 or newer")


def test_a_module_that_cannot_be_converted_says_why_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    class Branching(nn.Module):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return rows * 2 if rows.sum() > 0 else rows

    with pytest.raises(InputError, match=r"^Branching cannot be converted to ONNX: GuardOnDataDependent") as caught:
        convert_to_onnx(Branching(), example=EXAMPLE)
    assert caught.value.help == (
        "the usual reasons are branches on values and shapes fixed to one batch; --debug shows all causes"
    )
    assert "\n" not in caught.value.message
    assert caught.value.__cause__ is not None
    assert capfd.readouterr().err == ""


class Dictionary(nn.Module):
    def forward(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"rows": rows}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"opset": 99}, f"opset is 99, not a whole number from 7 to {onnx.defs.onnx_opset_version()}"),
        ({"opset": 20.0}, f"opset is 20.0, not a whole number from 7 to {onnx.defs.onnx_opset_version()}"),
        (
            {"example": EXAMPLE.double()},
            "example is torch.float64 [1, 10], not a float32, integer or bool tensor [batch, ...]",
        ),
        (
            {"example": EXAMPLE[:0]},
            "example is torch.float32 [0, 10], not a float32, integer or bool tensor [batch, ...]",
        ),
        ({"example": rows_of(2, 10)}, "example is ndarray, not a float32, integer or bool tensor [batch, ...]"),
        ({"output_names": "output"}, "output_names is the text 'output'"),
        ({"output_names": ["features"]}, "the name 'features' is used twice"),
        ({"input_name": ""}, "'' is not a usable name for an input or output"),
        ({"output_names": ["a", "b"]}, "Linear gives 1 outputs and output_names has 2"),
        ({"metadata": {"rows": 3}}, "metadata 'rows': 3 is not text"),
        ({"module": Dictionary()}, "Dictionary gives a mapping without a tensor 'output'"),
    ],
)
def test_wrong_options_are_named(options: dict, message: str) -> None:
    arguments = {"module": nn.Linear(10, 1), "example": EXAMPLE, **options}
    with pytest.raises(ConfigError) as caught:
        convert_to_onnx(arguments.pop("module"), **arguments)
    assert caught.value.message == message
    assert caught.value.help


def test_an_example_that_does_not_fit_the_module_is_named() -> None:
    with pytest.raises(InputError, match=r"^Linear does not take an example of shape \[1, 10\]: mat1 and mat2"):
        convert_to_onnx(nn.Linear(3, 1), example=EXAMPLE)


def test_a_missing_onnxscript_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match=r"^exporting needs onnxscript, which is not installed"):
        convert_to_onnx(nn.Linear(10, 1), example=EXAMPLE)


def test_more_weights_than_one_file_holds_are_refused_before_converting() -> None:
    module = nn.Linear(10, 1)
    module.register_buffer("huge", torch.zeros(1).expand(2**29))  # two GiB that take no memory
    with pytest.raises(ConfigError, match=r"^Linear holds 2.0 GiB of weights, and one ONNX file at most 2 GiB"):
        # A copy of the buffer is as small as the original.
        convert_to_onnx(module, example=torch.from_numpy(np.zeros((1, 10), np.float32)))
