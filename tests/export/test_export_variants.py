"""Variants: what they lose is measured, and too much of it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from lrdiff_core.errors import CheckFailed, ConfigError
from lrdiff_export import Allowance, export, read_model_card
from lrdiff_export.examples import ZOO
from lrdiff_export.onnx_file.float16 import to_float16
from lrdiff_export.publish.variants import _snr
from lrdiff_export.runtimes.predictor import open_session

NAMES = ["fp16", "int8", "int8-qdq"]


def exported(name: str, folder: Path, **options: Any) -> Any:
    sample = ZOO[name]
    rows = tuple(sample.rows.values())
    defaults: dict[str, Any] = {"rows": rows, "output_names": sample.outputs, "variants": NAMES, "golden": False}
    return export(sample.module(), sample.example(), out=folder / "model.onnx", **{**defaults, **options})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["main, binary", "convolution, batch norm", "dropout, buffer, tied", "two inputs"])
def test_each_variant_is_measured_and_published(name: str, tmp_path: Path) -> None:
    report = exported(name, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["model.onnx", *(f"model.{variant}.onnx" for variant in NAMES)]
    )
    assert [one.name for one in report.variants] == NAMES
    for one in report.variants:
        assert one.size == Path(one.path).stat().st_size
        assert one.snr_db > 20
        assert one.median_us > 0
        assert read_model_card(one.path)["variant"] == one.name
        assert read_model_card(one.path)["weights_sha256"] == read_model_card(report.path)["weights_sha256"]
    fp16, int8, _ = report.variants
    assert fp16.snr_db > 55 > 20 < int8.snr_db < fp16.snr_db  # eleven bits of mantissa, and eight bits


def test_flips_and_the_change_of_the_metric_are_told_where_there_are_classes(tmp_path: Path) -> None:
    sample = ZOO["main, multi-class"]
    answers = sample.module()(sample.example(100)[0]).detach().numpy()
    report = exported("main, multi-class", tmp_path, labels=answers.argmax(axis=1))
    assert report.variants
    for one in report.variants:
        assert one.rows == 100
        assert one.score_fp64 == 1.0
        assert one.score == 1 - one.flipped / 100


@pytest.mark.slow
def test_raw_rows_beyond_float16_do_not_overflow(tmp_path: Path) -> None:
    """Standardising stays in float32: raw columns may be larger than 65 504."""
    sample = ZOO["main, binary"]
    module = sample.module()
    rows = (sample.rows["rows"] + 1e6).astype(np.float32)
    module.net.standardize.fit(rows)
    report = export(module, sample.example(), out=tmp_path / "model.onnx", rows=rows, variants=["fp16"], golden=False)
    assert report.variants[0].snr_db > 50
    answer = open_session((tmp_path / "model.fp16.onnx").read_bytes()).run(None, {"features": rows})[0]
    assert np.isfinite(answer).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("allowance", "said"),
    [
        (Allowance(snr_db=200.0), "signal to noise"),
        (Allowance(flipped=0.0), "of 100 decisions flipped, 0.00% are allowed"),
        (Allowance(score_drop=0.0, flipped=1.0), "the validation metric falls by"),
    ],
)
def test_a_variant_that_loses_too_much_is_refused_and_nothing_is_written(
    allowance: Allowance, said: str, tmp_path: Path
) -> None:
    sample = ZOO["main, binary"]
    answers = sample.module()(sample.example(100)[0]).detach().numpy()
    middle = float(np.median(answers))
    right = answers[:, 0] > middle

    def decide(answer: np.ndarray) -> np.ndarray:
        return np.sort(answer[:, 0])[::-1] > answer[:, 0].mean() if answer.dtype == np.float32 else right

    with pytest.raises(CheckFailed) as caught:
        exported("main, binary", tmp_path, variants=["int8"], allowance=allowance, decide=decide, labels=right)
    assert caught.value.message.startswith("variant int8 loses too much: ")
    assert said in caught.value.message
    assert list(tmp_path.iterdir()) == []


def test_float16_arithmetic_is_in_float16_and_the_interface_in_float32(tmp_path: Path) -> None:
    exported("convolution, batch norm", tmp_path, variants=["fp16"])
    model = onnx.load(tmp_path / "model.fp16.onnx")
    assert {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)} == {1}
    floats = [t for t in model.graph.initializer if t.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16)]
    assert {tensor.data_type for tensor in floats} == {TensorProto.FLOAT16}


def test_float16_masks_stay_finite() -> None:
    mask = onnx.numpy_helper.from_array(np.array([-3.4e38, 1.0], np.float32), "mask")
    graph = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 20]> g (float[b, 2] x) => (float[b, 2] y) { y = Add(x, mask) }'
    )
    graph.graph.initializer.append(mask)
    (tensor,) = to_float16(graph, kept=()).graph.initializer
    assert onnx.numpy_helper.to_array(tensor).tolist() == [-65504.0, 1.0]


def test_noise_in_a_small_output_is_not_hidden_by_a_large_one() -> None:
    large, small = np.full((4, 1), 1e6), np.ones((4, 1))
    assert _snr([large, small], (large, small)) == 300.0
    assert _snr([large, small * 0.5], (large, small)) == pytest.approx(6.02, abs=0.01)
    assert _snr([large, small * np.nan], (large, small)) == -300.0
    assert _snr([np.arange(4)], (np.arange(4),)) == 300.0


@pytest.mark.slow
def test_wrong_options_are_named(tmp_path: Path) -> None:
    for options, message in (
        ({"variants": ["fp8"]}, 'no variant "fp8"'),
        ({"variants": "fp16"}, "variants is the text 'fp16'"),
        ({"labels": np.zeros(3)}, "3 labels for 100 rows"),
        ({"labels": np.zeros(100)}, "labels are given, and no score"),
    ):
        with pytest.raises(ConfigError) as caught:
            exported("dropout, buffer, tied", tmp_path, **options)
        assert caught.value.message == message
    for allowance, message in (({"flipped": 2}, "flipped is 2, not a share"), ({"snr_db": np.nan}, "snr_db is nan")):
        with pytest.raises(ConfigError, match=message):
            Allowance(**allowance)
    assert list(tmp_path.iterdir()) == []
