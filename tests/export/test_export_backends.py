"""The contract of a backend, over every one in the registry: what it promises, runs, tells, leaves alone, refuses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hostile import endless_loop, large_at_run_time
from torch import Tensor, nn

from lrdiff_core.errors import ConfigError, ModelFileError
from lrdiff_export import BACKENDS, Backend, Limits, Sandbox, convert_to_onnx, register_backend
from lrdiff_export.model.precision import ARITHMETICS
from lrdiff_export.onnx_file.external_data import HASH_KEY, sha256_of
from lrdiff_export.runtimes import find_backends
from lrdiff_export.runtimes.sandbox import in_sandbox

FILES = [name for name, backend in BACKENDS.items() if backend.needs_onnx]
ROWS = np.linspace(-2, 2, 12, dtype=np.float32).reshape(6, 2)
CODES = np.arange(6, dtype=np.int64) % 3


class Two(nn.Module):
    """Two inputs of different kinds, two outputs of different kinds, told apart by their numbers."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.arange(6.0).reshape(3, 2) + shift)

    def forward(self, rows: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:  # [batch, 2], [batch] -> the same
        return rows + self.table[codes], codes + 1


def model_for(backend: Backend, shift: float = 0.0) -> Any:
    return converted(shift) if backend.needs_onnx else Two(shift)


@cache
def converted(shift: float) -> bytes:
    example = (torch.from_numpy(ROWS[:2]), torch.from_numpy(CODES[:2]))
    return convert_to_onnx(Two(shift), example=example, output_names=["sums", "labels"])


def here(name: str, request: pytest.FixtureRequest) -> Backend:
    """The backend, or a skip with its own reason; the JavaScript packages are installed once for all."""
    backend = BACKENDS[name]
    if hasattr(backend, "limited"):
        request.getfixturevalue("javascript")
    if (reason := backend.availability()) is not None:
        pytest.skip(reason)
    return backend


def each(names: list[str]) -> list[Any]:
    slow = [name for name in names if BACKENDS[name].heavy or name == "compiled"]
    return [pytest.param(name, marks=[pytest.mark.slow] if name in slow else []) for name in names]


def test_the_registry_holds_these_and_loads_neither_torch_nor_openvino() -> None:
    names = [
        "eager", "eager-bf16", "compiled", "aotinductor", "onnxruntime", "onnxruntime-extended", "onnxruntime-basic",
        "onnxruntime-disabled", "onnxruntime-cuda", "onnxruntime-coreml", "onnx-reference", "openvino",
        "openvino-default", "onnxruntime-web", "onnxruntime-node", "chromium", "cuda", "cuda-tf32", "cuda-bf16",
        "cuda-fp16", "cuda-compiled", "cuda-reduce-overhead", "cuda-max-autotune", "cuda-graph", "mps",
    ]  # fmt: skip
    known = [name for name in BACKENDS if not name.startswith("onnxruntime-") or name in names]  # others: of the build
    assert known == names
    script = "import sys, lrdiff_export; lrdiff_export.BACKENDS; print({'torch', 'openvino'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "set()\n"


@pytest.mark.parametrize("name", BACKENDS)
def test_it_says_what_it_promises_and_why_it_is_not_here(name: str) -> None:
    backend = BACKENDS[name]
    assert backend.name == name
    assert backend.device in ("cpu", "cuda", "mps")
    assert backend.dtype in (None, *ARITHMETICS)
    assert type(backend)().facts()["ran_on"] == "nowhere"
    reason = backend.availability()
    assert reason is None or (reason and "\n" not in reason)
    backend.release()  # of nothing


# AOTInductor's package takes half a minute: it is built for whole models in test_export_parity_everywhere.py.
@pytest.mark.slow
@pytest.mark.parametrize("name", each([name for name in BACKENDS if name != "aotinductor"]))
def test_it_runs_several_models_and_tells_where(name: str, request: pytest.FixtureRequest) -> None:
    backend, models = here(name, request), []
    try:
        for shift in (0.0, 100.0):
            models.append((shift, model := model_for(backend, shift), backend.prepare(model)))
        for shift, model, predict in models:
            rows, codes = ROWS.copy(), CODES.copy()
            sums, labels = predict(rows, codes)
            right = ROWS + np.arange(6.0).reshape(3, 2)[CODES] + shift
            eps = ARITHMETICS[str(backend.dtype or backend.facts()["arithmetic"])].eps
            np.testing.assert_allclose(sums, right, atol=2 * eps * np.abs(right).max())
            assert labels.dtype == np.int64
            np.testing.assert_array_equal(labels, CODES + 1)
            assert (rows.tobytes(), codes.tobytes()) == (ROWS.tobytes(), CODES.tobytes())
            assert not isinstance(model, nn.Module) or torch.equal(model.table, Two(shift).table)
        facts = backend.facts()
        assert facts["ran_on"] == backend.device
        assert str(facts["runtime"]).split()[1][0].isdigit()
    finally:
        backend.release()


@pytest.mark.parametrize("name", each(FILES))
def test_a_file_may_be_bytes_or_a_path_with_weights_beside_it(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    backend, file = here(name, request), with_second_file(tmp_path)
    for model in (file, onnx.load(file).SerializeToString()):
        try:
            (output,) = backend.prepare(model)(ROWS)
        finally:
            backend.release()
        np.testing.assert_allclose(output, ROWS @ WEIGHT, rtol=1e-2)
    file.with_name("model.onnx.data").write_bytes(2 * WEIGHT.tobytes())
    with pytest.raises(ModelFileError):
        backend.prepare(file)
    backend.release()


WEIGHT = np.array([[1.0, 2.0], [4.0, 8.0]], np.float32)


def with_second_file(folder: Path) -> Path:
    file, beside = folder / "model.onnx", folder / "model.onnx.data"
    beside.write_bytes(WEIGHT.tobytes())
    value = {name: onnx.helper.make_tensor_value_info(name, 1, ["batch", 2]) for name in "xy"}
    weight = onnx.TensorProto(name="w", data_type=1, dims=[2, 2], data_location=onnx.TensorProto.EXTERNAL)
    for key, text in (("location", beside.name), ("offset", "0"), ("length", str(WEIGHT.nbytes))):
        weight.external_data.add(key=key, value=text)
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = onnx.helper.make_graph([node], "graph", [value["x"]], [value["y"]], [weight])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    model.metadata_props.add(key=HASH_KEY, value=sha256_of(beside))
    file.write_bytes(model.SerializeToString())
    return file


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(Limits(seconds=3)) as opened:
        yield opened


@pytest.mark.parametrize("name", each(FILES))
def test_in_a_sandbox_it_answers_as_outside(name: str, request: pytest.FixtureRequest, sandbox: Sandbox) -> None:
    backend = here(name, request)
    limited = in_sandbox(backend, sandbox)
    assert (limited.name, limited.device, limited.dtype) == (name, backend.device, backend.dtype)
    model = model_for(backend)
    try:
        inside, outside = (one.prepare(model)(ROWS, CODES) for one in (limited, backend))
        assert [one.tobytes() for one in inside] == [one.tobytes() for one in outside]
        assert limited.facts()["ran_on"] == backend.device
        assert limited.facts()["runtime"] == backend.facts()["runtime"]
    finally:
        limited.release()
        backend.release()


PYTHON = [name for name in FILES if not hasattr(BACKENDS[name], "limited")]


@pytest.mark.parametrize("name", PYTHON)
def test_in_a_sandbox_an_endless_loop_and_twelve_gib_end_in_one_line(
    name: str, request: pytest.FixtureRequest, sandbox: Sandbox, tmp_path: Path
) -> None:
    here(name, request)
    for data, word in ((endless_loop(), "takes longer than 1 s"), (large_at_run_time(), "model.onnx")):
        file = tmp_path / "model.onnx"
        file.write_bytes(data)
        begun = time.monotonic()
        try:
            (answer,) = sandbox.open(file, backend=name, limits=Limits(seconds=1))(ROWS)
            said = f"{file.name}: {answer.size} numbers"  # OpenVINO gives none where it gets no memory
        except ModelFileError as problem:
            said = problem.message
        assert word in said
        assert "\n" not in said
        if said.endswith("numbers"):  # beside load, the second is found at work on its memory
            assert said.endswith(": 0 numbers")
            assert name.startswith("openvino")
            assert word == file.name
        assert time.monotonic() - begun < 15  # a busy machine


def test_a_sandbox_that_is_killed_is_replaced_and_leaves_no_process(sandbox: Sandbox, tmp_path: Path) -> None:
    file = with_second_file(tmp_path)
    model = sandbox.open(file)
    (answer,) = model(ROWS)
    np.testing.assert_allclose(answer, ROWS @ WEIGHT)
    assert sandbox.pid is not None
    os.kill(sandbox.pid, signal.SIGKILL)
    with pytest.raises(ModelFileError, match="ended the process that read it"):
        model(ROWS)
    with pytest.raises(ModelFileError, match="is not open"):
        model(ROWS)
    assert sandbox.open(file).ports.inputs == (("x", "tensor(float)", ("batch", 2)),)
    child = sandbox.pid
    sandbox.close()
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_one_of_your_own_runs_what_the_sandbox_could_run(sandbox: Sandbox, plant: Any) -> None:
    plant("mine")(type("Mine", (type(BACKENDS["onnxruntime"]),), {"__module__": "mine"}))
    assert in_sandbox(BACKENDS["mine"], sandbox) is BACKENDS["mine"]


def test_names_are_taken_once_and_wrong_ones_are_named(plant: Any) -> None:
    with pytest.raises(ConfigError, match='^there is a backend "eager" already'):
        register_backend("eager")
    with pytest.raises(ConfigError, match=r'^no backend "eagre"\nhelp: backends: eager, eager-bf16, compiled, '):
        find_backends(["eagre"])
    with pytest.raises(ConfigError, match=r"^eager runs a module, not an ONNX file\nhelp: backends of files: onnxru"):
        find_backends(["eager"], of_files=True)


def test_onnxruntime_s_telemetry_is_off_and_nothing_of_it_is_opened(tmp_path: Path) -> None:
    script = """if True:
        import os, lrdiff_export, onnx, numpy
        from onnx import helper
        value = {name: helper.make_tensor_value_info(name, 1, ["batch"]) for name in "xy"}
        graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "graph", [value["x"]], [value["y"]])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        run = lrdiff_export.BACKENDS["onnxruntime"].prepare(model.SerializeToString())
        run(numpy.ones(2, numpy.float32))
        print(sorted(os.readlink(f"/proc/self/fd/{one}") for one in os.listdir("/proc/self/fd") if int(one) > 2
                     and os.path.exists(f"/proc/self/fd/{one}")))
        print(os.environ["ORT_DISABLE_TELEMETRY"])
    """
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert ran.stderr == ""
    opened, switch = ran.stdout.splitlines()
    assert switch == "1"
    assert "Microsoft" not in opened
    assert "socket" not in opened
    assert [path for path in tmp_path.rglob("*") if "icrosoft" in str(path) or path.suffix in (".db", ".sqlite")] == []
