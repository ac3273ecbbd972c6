"""Reading ONNX files that others wrote, and predicting with them."""

from __future__ import annotations

import functools
import gzip
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from export_models import MODELS, Classifier, rows_of, seeded
from hypothesis import given, settings, strategies as st
from onnx import TensorProto, helper

from lrdiff_core.errors import ConfigError, DataError, LrdiffError, ModelFileError, UnavailableError
from lrdiff_export import OnnxPredictor, convert_to_onnx, load_onnx
from lrdiff_export.model.float64 import evaluate
from lrdiff_export.onnx_file.load import parse_onnx
from lrdiff_export.runtimes.predictor import open_session

HELP = "write one with lrdiff export, or with torch.onnx.export(..., external_data=False)"


@functools.cache
def good() -> bytes:
    """An ONNX file; made when the first test needs it, not when tests are collected."""
    return convert_to_onnx(seeded(Classifier), example=torch.zeros(1, 10), output_names=["probability"])


def unknown_operator() -> bytes:
    model = onnx.ModelProto.FromString(good())
    model.graph.node[0].op_type = "Nonsense"
    return model.SerializeToString()


def without_graph() -> bytes:
    model = onnx.ModelProto.FromString(good())
    model.ClearField("graph")
    return model.SerializeToString()


def test_a_whole_model_is_read_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(good())
    assert load_onnx(file) == good()
    assert load_onnx(str(file)) == good()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "{file} is empty"),
        (b"hello\n", "{file} is not an ONNX file"),
        (b"a,b,label\n1,2,0\n", "{file} is not an ONNX file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "{file} is not an ONNX file"),
        (lambda: gzip.compress(good(), mtime=0), "{file} is not an ONNX file"),
        (lambda: good()[:-20], "{file} is not an ONNX file"),
        (bytes(64), "{file} is not an ONNX file"),
        (without_graph, "{file} holds no graph"),
        (
            unknown_operator,
            "{file} is not a valid ONNX model: No Op registered for Nonsense with domain_version of 20",
        ),
    ],
)
def test_what_is_no_model_is_named(data: bytes | Callable[[], bytes], message: str, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(data() if callable(data) else data)
    with pytest.raises(ModelFileError) as caught:
        load_onnx(file)
    assert caught.value.message == message.format(file=file)
    assert caught.value.help == HELP
    assert caught.value.exit_status == 2


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError) as caught:
        load_onnx(tmp_path / "no.onnx")
    assert str(caught.value) == f"{tmp_path / 'no.onnx'} does not exist\nhelp: name an ONNX file"
    with pytest.raises(ModelFileError) as caught:
        load_onnx(tmp_path)
    assert caught.value.message == f"cannot read {tmp_path}: Is a directory"


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damaged_bytes_end_in_one_of_our_errors_or_parse(data: st.DataObject) -> None:
    damaged = bytearray(good())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(damaged) - 1))
        damaged[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(damaged)))
    for candidate in (bytes(damaged), bytes(damaged[:cut])):
        with suppress(ModelFileError):
            parse_onnx(candidate)


def test_the_predictor_answers_by_name_as_the_module_does(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(good())
    predictor = OnnxPredictor(file)
    assert predictor.input_name == "features"
    assert predictor.input_shape == ("batch", 10)
    assert predictor.output_names == ("probability",)
    rows = rows_of(5, 10)
    answer = predictor.run(rows)
    assert list(answer) == ["probability"]
    np.testing.assert_allclose(answer["probability"], evaluate(seeded(Classifier), rows)[0], rtol=1e-5)
    # Rows alone equal rows together, and other real dtypes are taken.
    alone = np.concatenate([predictor.run(rows[i : i + 1])["probability"] for i in range(5)])
    np.testing.assert_array_equal(alone, answer["probability"])
    np.testing.assert_array_equal(predictor.run(rows.astype(np.float64))["probability"], answer["probability"])


def test_the_predictor_names_several_outputs() -> None:
    make, rows = MODELS["two outputs"]
    data = convert_to_onnx(seeded(make), example=torch.zeros(1, 10), output_names=["scores", "label"])
    answer = OnnxPredictor(data, threads=2).run(rows)
    assert answer["label"].dtype == np.int64
    np.testing.assert_array_equal(answer["label"], answer["scores"].argmax(axis=1))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((2, 9)), "rows have shape [2, 9], the model takes [batch, 10]"),
        (np.zeros(10), "rows have shape [10], the model takes [batch, 10]"),
        (np.array([["a"] * 10]), "rows are not numbers: could not convert string to float"),
    ],
)
def test_rows_that_do_not_fit_are_named(rows: np.ndarray, message: str) -> None:
    with pytest.raises(DataError) as caught:
        OnnxPredictor(good()).run(rows)
    assert caught.value.message.split(": '")[0].split(": np")[0] == message  # how NumPy writes the value varies


@pytest.mark.parametrize("threads", [0, -1, True, 1.0])
def test_a_wrong_number_of_threads_is_named(threads: int) -> None:
    with pytest.raises(ConfigError) as caught:
        OnnxPredictor(good(), threads=threads)
    assert caught.value.message == f"threads is {threads!r}, not a whole number of 1 or more"


def test_a_model_of_other_inputs_is_named() -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, ["batch"]) for name in ("ids", "mask")]
    graph = helper.make_graph(
        [helper.make_node("Add", ["ids", "mask"], ["output"])],
        "graph",
        values,
        [helper.make_tensor_value_info("output", TensorProto.DOUBLE, ["batch"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 9
    with pytest.raises(ModelFileError) as caught:
        OnnxPredictor(model.SerializeToString())
    assert caught.value.message == (
        "the model takes ids: tensor(double), mask: tensor(double), not float32, integer, bool or string tensors"
    )


def test_a_provider_that_is_not_here_is_an_error_never_the_cpu() -> None:
    with pytest.raises(UnavailableError) as caught:
        open_session(good(), provider="CUDAExecutionProvider_")
    assert caught.value.message == "onnxruntime has no CUDAExecutionProvider_ here"
    assert "CPUExecutionProvider" in caught.value.help


def test_a_session_that_fell_back_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    class FellBack:
        def __init__(self, *_: object, **__: object) -> None: ...

        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", FellBack)
    with pytest.raises(LrdiffError, match=r"^asked onnxruntime for CUDAExecutionProvider, got CPUExecutionProvider"):
        open_session(good(), provider="CUDAExecutionProvider")


def test_text_that_is_no_text_is_refused_wherever_it_stands() -> None:
    model = onnx.ModelProto.FromString(good())
    model.metadata_props.add(key="lrdiff.one", value="two")
    model.graph.node[0].doc_string = "three"
    data = model.SerializeToString()
    for text in (b"lrdiff.one", b"two", b"three", b"probability", b"batch", model.graph.node[0].name.encode()):
        assert text in data
        with pytest.raises(ModelFileError, match=r"^the model is damaged: the \w+ of \w+ is not UTF-8\nhelp: "):
            parse_onnx(data.replace(text, b"\xff" + text[1:]))
