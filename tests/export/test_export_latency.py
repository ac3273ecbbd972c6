"""Latency, providers by node, and the speed that the project promises."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile import WHOLE, endless_above, endless_by_chance, large_at_run_time

from lrdiff_core.errors import CheckFailed, ConfigError, ModelFileError, UnavailableError
from lrdiff_export import Limits, convert_to_onnx, export_onnx, measure_latency
from lrdiff_export.examples import ZOO
from lrdiff_export.publish import latency as module
from lrdiff_export.publish.latency import measure_calls, providers_by_node

MAIN = ZOO["main, binary"]
ROWS = MAIN.rows["rows"]


@pytest.fixture(scope="module")
def data() -> bytes:
    return convert_to_onnx(MAIN.module(), example=MAIN.example())


def test_every_batch_way_and_thread_is_reported_with_percentiles(data: bytes) -> None:
    before = torch.get_num_threads()
    report = measure_latency(data, ROWS, module=MAIN.module(), threads=(1, 2), calls=20)
    assert [(one.threads, one.batch, one.way) for one in report.times] == [
        (threads, batch, way)
        for threads in (1, 2)
        for batch in (1, 32, 1024)
        for way in ("run", "I/O binding", "eager")
    ]
    assert all(0 < one.median_us <= one.p95_us <= one.p99_us for one in report.times)
    assert report.provider == "CPUExecutionProvider"
    assert set(report.nodes.values()) == {"CPUExecutionProvider"}
    assert len(report.nodes) >= 4
    document = report.to_dict()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert torch.get_num_threads() == before


def test_percentiles_are_those_of_single_calls() -> None:
    pauses = iter([0.0] * 20 + [0.0] * 95 + [0.02] * 5)
    found = measure_calls({"sleeper": lambda: time.sleep(next(pauses))}, calls=100, batch=1, threads=1)["sleeper"]
    assert found.calls == 100
    assert found.median_us < 10_000 < 20_000 <= found.p99_us


def test_a_node_on_another_provider_is_an_error(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    real = module.open_session

    def opened(given: bytes, **options: Any) -> Any:
        return real(given, **{**options, "provider": "CPUExecutionProvider"})

    monkeypatch.setattr(module, "open_session", opened)
    with pytest.raises(CheckFailed, match=r"^CUDAExecutionProvider was asked for and \d of \d nodes run on CPUExec"):
        providers_by_node(data, provider="CUDAExecutionProvider")


def test_a_provider_that_is_not_here_and_wrong_threads_are_errors(data: bytes) -> None:
    with pytest.raises(UnavailableError, match=r"^onnxruntime has no NoSuchProvider here"):
        measure_latency(data, ROWS, provider="NoSuchProvider")
    with pytest.raises(ConfigError, match=r"^threads is 0"):
        measure_latency(data, ROWS, threads=[0])


PAIRS = np.ones((3, 2), np.float32)


@pytest.mark.parametrize("beside", [None, torch.nn.ReLU()])
def test_a_file_from_elsewhere_is_timed_where_it_can_do_no_harm(tmp_path: Path, beside: Any) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(WHOLE)
    report = measure_latency(file, PAIRS, module=beside, batches=(1, 5), calls=7)
    ways = ["run", "I/O binding", *([] if beside is None else ["eager"])]
    assert [(one.batch, one.way, one.calls) for one in report.times] == [(n, way, 7) for n in (1, 5) for way in ways]
    assert set(report.nodes.values()) == {"CPUExecutionProvider"}
    with pytest.raises(UnavailableError, match=r"^onnxruntime has no NoSuchProvider here"):  # as of a trusted file
        measure_latency(file, PAIRS, module=beside, batches=(1,), provider="NoSuchProvider")


@pytest.mark.slow
@pytest.mark.parametrize("beside", [None, torch.nn.ReLU()])
@pytest.mark.parametrize("data", [endless_above(40), large_at_run_time()], ids=["endless", "large"])
def test_a_batch_without_end_or_measure_is_named_within_its_limit(tmp_path: Path, data: bytes, beside: Any) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(data)
    begun = time.monotonic()
    with pytest.raises(ModelFileError, match=rf"^{file} .* \(64 rows\)\nhelp: a smaller batch"):
        measure_latency(file, PAIRS, module=beside, batches=(64,), limits=Limits(seconds=2))
    assert time.monotonic() - begun < 15  # 3 s; a busy machine


@pytest.mark.slow
def test_a_file_that_ran_once_may_still_run_for_ever(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(endless_by_chance(0.02))
    with pytest.raises(ModelFileError, match="takes longer than"):
        measure_latency(file, PAIRS, module=torch.nn.ReLU(), batches=(1,), limits=Limits(seconds=1))


@pytest.mark.slow
def test_the_file_is_twice_as_fast_as_eager_at_one_row_and_never_slower(data: bytes) -> None:
    batches, median = (1, 2, 8, 32, 128, 1024, 8192, 65536), {}
    for _ in range(3):  # the quietest of three for each way: other processes run beside the tests
        report = measure_latency(data, ROWS, module=MAIN.module(), batches=batches, calls=200)
        for one in report.times:
            key = one.batch, one.way
            median[key] = min(median.get(key, one.median_us), one.median_us)
    assert median[1, "eager"] > 2 * median[1, "run"], median
    for batch in batches:
        assert median[batch, "run"] <= median[batch, "eager"], (batch, median)


@pytest.mark.slow
def test_the_gate_adds_less_than_two_seconds_to_the_exporter(tmp_path: Path) -> None:
    seconds = []
    for _ in range(3):  # the quietest of three: other processes run beside the tests
        report = export_onnx(MAIN.module(), tmp_path / "model.onnx", example=MAIN.example()[0], rows=ROWS)
        seconds.append(report.seconds["verify"])
    assert min(seconds) < 2


def test_predictions_are_not_changed_by_the_way_they_are_asked_for(data: bytes) -> None:
    from lrdiff_export import OnnxPredictor

    predictor = OnnxPredictor(data)
    bound = predictor.bind(ROWS)
    np.testing.assert_array_equal(bound()["output"], predictor.run(ROWS)["output"])
