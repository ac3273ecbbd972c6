"""The matrix: what agrees, differs, refuses and is not here, and that nothing passes by running elsewhere."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from export_models import MODELS, Classifier, rows_of, seeded
from torch import nn

from lrdiff_core.errors import CheckFailed, ConfigError, ModelFileError
from lrdiff_export import (
    BACKENDS,
    Backend,
    ParityReport,
    check_parity,
    check_subjects,
    convert_to_onnx,
    register_backend,
    subject_of_module,
)
from lrdiff_export.model.precision import ARITHMETICS
from lrdiff_export.model.prepared import prepare
from lrdiff_export.runtimes import Predict, TorchBackend, compiler_path

ROWS = rows_of(100, 10)
QUICK = [name for name, backend in BACKENDS.items() if not backend.heavy]


@pytest.fixture
def plant() -> Iterator[Any]:
    """Register backends for one test."""
    before = dict(BACKENDS)
    yield register_backend
    BACKENDS.clear()
    BACKENDS.update(before)


def only(report: ParityReport) -> Any:
    (result,) = report.results
    return result


def test_the_registry_is_not_empty_and_keeps_its_contract() -> None:
    names = [
        "eager", "eager-bf16", "compiled", "aotinductor", "onnxruntime", "onnxruntime-extended", "onnxruntime-basic",
        "onnxruntime-disabled", "onnxruntime-cuda", "onnxruntime-coreml", "onnx-reference", "openvino",
        "openvino-default", "onnxruntime-web", "onnxruntime-node", "chromium", "cuda", "cuda-tf32", "cuda-bf16",
        "cuda-fp16", "cuda-compiled", "cuda-reduce-overhead", "cuda-max-autotune", "cuda-graph", "mps",
    ]  # fmt: skip
    known = [name for name in BACKENDS if not name.startswith("onnxruntime-") or name in names]  # others: of the build
    assert known == names
    for name, backend in BACKENDS.items():
        checked: Backend = backend
        assert checked.name == name
        assert checked.device in ("cpu", "cuda", "mps")
        assert checked.dtype in (None, *ARITHMETICS)
        unused = type(backend)()
        assert unused.facts()["ran_on"] == "nowhere" or name == "onnx-reference"  # before the first run
        reason = checked.availability()
        assert reason is None or (reason and "\n" not in reason)
        checked.release()  # of nothing


@pytest.mark.slow
@pytest.mark.parametrize("model", ["binary", "convolutional", "two outputs", "missing", "zero"])
def test_every_quick_backend_here_agrees_and_says_how_it_ran(model: str) -> None:
    make, rows = MODELS[model]
    results = [one for one in check_parity(seeded(make), rows, backends=QUICK).results if one.status != "unavailable"]
    assert {result.backend for result in results} >= {"eager", "eager-bf16", "onnxruntime", "onnx-reference"}
    for result in results:
        assert (result.status, result.reason, result.fault) == ("agrees", None, None), result.backend
        assert result.max_error <= result.tolerance
        assert result.facts["ran_on"] == result.device
        assert str(result.facts["runtime"]).split()[1]
        assert result.denormals == (None if result.dtype != "float32" else "kept")
        assert result.bitwise_repeatable
        assert result.single_row_error is not None


@pytest.mark.slow
@pytest.mark.skipif(compiler_path() is None, reason="no C++ compiler")
def test_compiled_code_agrees_and_eager_fall_back_is_refused(plant: Any) -> None:
    result = only(check_parity(seeded(Classifier), ROWS, backends=["compiled"]))
    assert (result.status, result.reason) == ("agrees", None)

    class Breaks(nn.Module):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            torch._dynamo.graph_break()
            return rows * 2

    result = only(check_parity(Breaks(), ROWS, backends=["compiled"]))
    assert result.status == "refused"
    with torch.compiler.set_stance("force_eager"):
        result = only(check_parity(seeded(Classifier), ROWS, backends=["compiled"]))
    assert (result.status, result.reason) == ("refused", "asked for compiled code, torch.compile ran eagerly")


def test_without_a_compiler_compiled_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    result = only(check_parity(seeded(Classifier), ROWS, backends=["compiled"]))
    assert (result.status, result.reason) == ("unavailable", "no C++ compiler (no-such-compiler) on the path")


def test_the_matrix_lists_what_is_not_here_and_is_json(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    onnx = convert_to_onnx(seeded(Classifier), example=torch.zeros(1, 10))
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.backends.mps, "is_built", lambda: False)
    report = check_parity(seeded(Classifier), ROWS, onnx_bytes_or_path=onnx)
    assert [result.backend for result in report.results] == list(BACKENDS)
    reasons = {result.backend: result.reason for result in report.results}
    here = {"eager", "eager-bf16", "onnxruntime", "onnxruntime-extended", "onnxruntime-basic", "onnxruntime-disabled"}
    assert {name for name, reason in reasons.items() if reason is None} == here | {"onnx-reference"}
    no_compiler = "no C++ compiler (no-such-compiler) on the path"
    assert (reasons["compiled"], reasons["aotinductor"]) == (no_compiler, no_compiler)
    assert reasons["openvino"] == reasons["openvino-default"] == "openvino is not installed: pip install openvino"
    assert reasons["onnxruntime-web"].startswith("node is not installed: ")
    assert reasons["chromium"].startswith("no Chromium on the path: ")
    assert reasons["cuda"] == reasons["cuda-graph"] == f"torch {torch.__version__} was built without CUDA"
    assert reasons["mps"] == f"torch {torch.__version__} was built without MPS"
    assert report.passed
    document = report.to_dict()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert (document["passed"], document["reference"], document["rows"]) == (True, "eager float64 on cpu", 100)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.backends.mps, "is_built", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert BACKENDS["cuda"].availability() == "no CUDA device or driver found"
    assert BACKENDS["mps"].availability() == "no MPS device found (macOS on Apple silicon is needed)"


def test_a_matrix_of_absent_backends_only_does_not_pass() -> None:
    absent = [name for name in ("cuda", "mps") if BACKENDS[name].availability()]
    assert not check_parity(seeded(Classifier), ROWS, backends=absent).passed


def test_a_backend_that_stores_weights_in_bfloat16_differs(plant: Any) -> None:
    @plant("bf16")
    class Bf16(TorchBackend):
        def prepare(self, model: nn.Module) -> Predict:
            coarse = copy.deepcopy(model)
            with torch.no_grad():
                for tensor in [*coarse.parameters(), *coarse.buffers()]:
                    tensor.copy_(tensor.bfloat16())
            return super().prepare(coarse)

    report = check_parity(seeded(Classifier), ROWS, backends=["eager", "bf16"])
    eager, result = report.results
    assert (eager.status, result.status) == ("agrees", "differs")
    assert result.max_error > 100 * result.tolerance
    off = f"error {result.max_error:.4g} eps, allowed {result.tolerance:.4g}"
    assert result.reason == f"output0: {off}; looks like weights rounded to bfloat16"
    assert (result.arithmetic, result.fault) == (None, "weights rounded")
    assert not report.passed


def test_a_backend_that_reorders_classes_differs_and_its_flips_are_counted(plant: Any) -> None:
    @plant("reorders")
    class Reorders(TorchBackend):
        def prepare(self, model: nn.Module) -> Predict:
            predict = super().prepare(model)
            return lambda rows: [output[:, ::-1] for output in predict(rows)]

    make, rows = MODELS["multi-class"]
    eager, result = check_parity(
        seeded(make), rows, backends=["eager", "reorders"], decide=lambda scores: scores.argmax(axis=1)
    ).results
    assert (eager.decisions_flipped, result.decisions_flipped) == (0, 100)
    assert (eager.flips_unexplained, result.flips_unexplained) == (0, 100)
    assert (result.status, result.fault) == ("differs", "classes reordered")
    assert result.reason.endswith("; its classes are in the order 3, 2, 1, 0")


def test_a_backend_that_ignores_the_device_it_was_asked_for_is_refused(plant: Any) -> None:
    @plant("ignores")
    class Ignores(TorchBackend):
        device = "cuda"

        def place(self, thing: Any) -> Any:
            return thing

    result = only(check_parity(seeded(Classifier), ROWS, backends=["ignores"]))
    assert (result.status, result.reason, result.fault) == ("refused", "asked for cuda, ran on cpu", "ran elsewhere")


def test_a_backend_that_flushes_small_outputs_differs(plant: Any) -> None:
    @plant("flushes")
    class Flushes(TorchBackend):
        def prepare(self, model: nn.Module) -> Predict:
            predict = super().prepare(model)
            return lambda rows: [np.where(np.abs(output) < 1e-3, 0, output) for output in predict(rows)]

    result = only(check_parity(nn.Identity(), 1e-4 * ROWS, backends=["flushes"]))
    assert result.status == "differs"


def test_a_backend_that_crashes_is_refused_with_its_reason_and_released(plant: Any) -> None:
    released = []

    @plant("crashes")
    class Crashes(TorchBackend):
        def prepare(self, model: nn.Module) -> Predict:
            raise ZeroDivisionError("no such kernel\nsecond line")

        def release(self) -> None:
            released.append(True)

    result = only(check_parity(seeded(Classifier), ROWS, backends=["crashes"]))
    assert (result.status, result.reason) == ("refused", "ZeroDivisionError: no such kernel")
    assert (result.max_error, result.tolerance) == (None, None)
    assert released == [True]


def test_a_backend_that_changes_the_module_ends_the_comparison(plant: Any) -> None:
    @plant("changes")
    class Changes(TorchBackend):
        def prepare(self, model: nn.Module) -> Predict:
            model.get_parameter("layer1.weight").data.mul_(2.0)
            return super().prepare(model)

    with pytest.raises(CheckFailed, match="^changes changes the module that it is given\nhelp: let prepare"):
        check_parity(seeded(Classifier), ROWS, backends=["changes"])


@pytest.mark.parametrize(
    "update",
    [
        lambda calls: calls.add_(1),
        lambda calls: calls + 1,
        lambda calls: calls.mul_(0.9),
        lambda calls: calls.copy_(calls.roll(1)),  # with the same sum
    ],
    ids=["in place", "replaced", "decayed", "rotated"],
)
def test_a_module_may_change_its_own_buffers(update: Any) -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(ROWS.shape[1], 2)
            self.register_buffer("calls", torch.arange(3.0))

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            self.calls = update(self.calls)
            return self.linear(rows)

    assert only(check_parity(Counting(), ROWS, backends=["eager"])).status == "agrees"


class OfOne(nn.Module):
    """A module of one sample that counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, rows: torch.Tensor, heat: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.linear(rows) / heat


@pytest.mark.slow
def test_modules_of_one_sample_are_compared_and_their_own_buffers_put_back() -> None:
    """With an input that is a number, and one of rows: neither has a batch."""
    rows = {"rows": torch.randn(4, 5, 3), "heat": torch.rand(4) + 0.5}
    prepared = prepare(OfOne(), {name: values[:2] for name, values in rows.items()}, batched=False,
                       dynamic_axes={"rows": {0: "count"}})  # fmt: skip
    subject = subject_of_module(prepared, {name: values.numpy() for name, values in rows.items()})
    assert subject.own_state == {"inner.inner.calls"}
    report = check_subjects({"one": subject}, backends=["eager", "onnxruntime"])["one"]
    assert [result.status for result in report.results] == ["agrees", "agrees"], report.results


def test_a_backend_that_gives_nothing_differs(plant: Any) -> None:
    @plant("empty")
    class Empty(TorchBackend):
        def prepare(self, model: nn.Module) -> Predict:
            predict = super().prepare(model)
            return lambda rows: predict(rows)[1:]

    result = only(check_parity(seeded(Classifier), ROWS, backends=["empty"]))
    assert (result.status, result.reason) == ("differs", "all outputs: 0 outputs instead of 1")


@pytest.mark.slow
def test_onnx_bytes_and_files_given_are_what_is_run(tmp_path: Path) -> None:
    other = convert_to_onnx(seeded(Classifier, 1), example=torch.zeros(1, 10))
    file = tmp_path / "model.onnx"
    file.write_bytes(other)
    for given in (other, file, str(file)):
        report = check_parity(seeded(Classifier), ROWS, backends=["onnxruntime"], onnx_bytes_or_path=given)
        assert only(report).status == "differs"
    with pytest.raises(ModelFileError):
        check_parity(seeded(Classifier), ROWS, onnx_bytes_or_path=tmp_path / "none.onnx")


def test_what_cannot_be_converted_is_refused_by_onnxruntime_alone() -> None:
    class Branching(nn.Module):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return rows * 2 if rows.sum() > 0 else rows

    eager, runtime = check_parity(Branching(), ROWS, backends=["eager", "onnxruntime"]).results
    assert (eager.status, runtime.status) == ("agrees", "refused")
    assert runtime.reason.startswith("Branching cannot be converted to ONNX: ")


def test_an_unknown_backend_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        check_parity(seeded(Classifier), ROWS, backends=["eagre"])
    assert str(caught.value).startswith('no backend "eagre"\nhelp: backends: eager, eager-bf16, compiled, ')


@pytest.mark.slow
def test_the_module_is_left_as_it_was() -> None:
    module = seeded(Classifier).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    check_parity(module, ROWS, backends=QUICK)
    assert module.training
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
