"""CUDA and MPS: shapes that went wrong there, TF32 on and off, autocast, compile modes, graphs and streams."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from export_models import Classifier, rows_of, seeded
from torch import nn

from lrdiff_export import BACKENDS, check_parity
from lrdiff_export.examples import ZOO
from lrdiff_export.runtimes.cuda import float32_products

pytestmark = pytest.mark.accelerator  # each test says itself what it needs
CUDA = [name for name, backend in BACKENDS.items() if backend.device == "cuda"]
ACCELERATED = [name for name, backend in BACKENDS.items() if backend.device != "cpu"]


class Wide(nn.Module):
    """3-D input through linear layers and layer norm: F.linear on MPS was wrong there (pytorch#192934)."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.norm, self.head = nn.Linear(64, 96), nn.LayerNorm(96), nn.Linear(96, 4)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:  # [batch, time, 64] -> [batch, time, 4]
        return self.head(self.norm(torch.relu(self.mix(rows))))


SHAPES = {
    "3-D": (Wide, rows_of(32, 17, 64)),
    "large batch": (Classifier, rows_of(70_000, 10)),  # more rows than one dimension of a launch grid may have
    "many channels": (
        lambda: nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 8, 3)),
        rows_of(16, 3, 32, 32),
    ),
}


def needs(name: str) -> None:
    reason = BACKENDS[name].availability()
    if reason is not None:
        pytest.skip(reason)


@pytest.mark.parametrize("name", ACCELERATED)
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_that_went_wrong_elsewhere_agree(name: str, shape: str) -> None:
    needs(name)
    make, rows = SHAPES[shape]
    (result,) = check_parity(seeded(make), rows, backends=[name]).results
    assert (result.status, result.reason) == ("agrees", None)
    assert result.facts["ran_on"] == BACKENDS[name].device


@pytest.mark.parametrize("name", ACCELERATED)
@pytest.mark.parametrize("model", ZOO)
def test_every_kind_of_model_agrees(name: str, model: str) -> None:
    needs(name)
    sample = ZOO[model]
    (result,) = check_parity(sample.module(), tuple(sample.rows.values()), backends=[name]).results
    assert (result.status, result.reason) == ("agrees", None)


def test_tf32_is_seen_in_the_error_and_off_where_float32_is_promised() -> None:
    needs("cuda")
    module, rows = seeded(Wide), rows_of(256, 8, 64)
    exact, fast = check_parity(module, rows, backends=["cuda", "cuda-tf32"]).results
    assert (exact.arithmetic, exact.facts["float32_products"]) == ("float32", "ieee")
    if torch.cuda.get_device_capability() >= (8, 0):
        assert fast.arithmetic == "tfloat32 or float16"


@pytest.mark.parametrize(("name", "arithmetic"), [("cuda-bf16", "bfloat16"), ("cuda-fp16", "float16")])
def test_autocast_is_seen_in_the_error(name: str, arithmetic: str) -> None:
    needs(name)
    (result,) = check_parity(seeded(Wide), rows_of(64, 8, 64), backends=[name]).results
    assert result.arithmetic is not None
    assert arithmetic in result.arithmetic
    assert (result.status, result.dtype) == ("agrees", arithmetic)


@pytest.mark.parametrize("name", CUDA)
def test_a_stream_of_the_callers_own_changes_nothing(name: str) -> None:
    needs(name)
    with torch.cuda.stream(torch.cuda.Stream()):
        (result,) = check_parity(seeded(Classifier), rows_of(100, 10), backends=[name]).results
    assert (result.status, result.reason) == ("agrees", None)


def test_a_graph_is_replayed_on_new_rows_and_captured_again_for_new_shapes() -> None:
    needs("cuda-graph")
    module = seeded(Classifier).eval()
    predict = BACKENDS["cuda-graph"].prepare(module)
    for rows in (rows_of(8, 10), rows_of(8, 10, seed=1), rows_of(3, 10), rows_of(8, 10, seed=2)):
        with torch.no_grad():
            expected = module(torch.tensor(rows)).numpy()
        assert np.abs(predict(rows)[0] - expected).max() < 1e-5
    BACKENDS["cuda-graph"].release()


@pytest.mark.parametrize("name", CUDA)
def test_every_cuda_backend_says_why_it_is_not_here(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name.startswith("onnxruntime"):
        reason = BACKENDS[name].availability()
        assert reason is None or "was built without" in reason
        return
    monkeypatch.setattr(torch.version, "cuda", None)
    assert BACKENDS[name].availability() == f"torch {torch.__version__} was built without CUDA"
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert BACKENDS[name].availability() == "no CUDA device or driver found"
    if "compiled" in name or "max" in name or "reduce" in name:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr("torch.utils._triton.has_triton", lambda: False)
        assert str(BACKENDS[name].availability()).startswith("triton is not installed")
    if name == "cuda-bf16":
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "an old GPU")
        assert BACKENDS[name].availability() == "an old GPU has no bfloat16"


def test_mps_says_why_it_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_built", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert BACKENDS["mps"].availability() == "no MPS device found (macOS on Apple silicon is needed)"


def switches() -> dict[str, object]:
    """All of them, old and new; reading an old one raises where the new ones say something else."""
    backends: Any = torch.backends
    return {
        "conv": backends.cudnn.conv.fp32_precision, "rnn": backends.cudnn.rnn.fp32_precision,
        "matmul": backends.cuda.matmul.fp32_precision, "cpu": backends.mkldnn.matmul.fp32_precision,
        "old matmul": backends.cuda.matmul.allow_tf32, "old cudnn": backends.cudnn.allow_tf32,
        "old precision": torch.get_float32_matmul_precision(),
    }  # fmt: skip


@pytest.fixture
def as_found() -> Iterator[None]:
    """Leaves every switch as torch has it when it starts."""
    yield
    torch.set_float32_matmul_precision("highest")
    torch._C._set_cudnn_allow_tf32(True)  # by assignment it may be forbidden, as below
    torch.backends.cuda.matmul.fp32_precision = torch.backends.mkldnn.matmul.fp32_precision = "none"


@pytest.mark.parametrize("users", ["default", "high", "medium", "no TF32 in cuDNN"])
@pytest.mark.parametrize("precision", ["ieee", "tf32"])
def test_the_switches_for_tf32_are_set_while_it_runs_and_back_afterwards(
    precision: str, users: str, as_found: None
) -> None:
    if users in ("high", "medium"):
        torch.set_float32_matmul_precision(users)
    elif users == "no TF32 in cuDNN":
        torch._C._set_cudnn_allow_tf32(False)
    before = switches()
    with float32_products(precision):
        now = switches()
    on = precision == "tf32"
    assert [now[name] for name in ("conv", "rnn", "matmul")] == [precision] * 3
    assert (now["old matmul"], now["old cudnn"], now["old precision"]) == (on, on, "high" if on else "highest")
    digits = {"none": 23, "ieee": 23, "tf32": 10, "bf16": 7}
    assert digits[str(now["cpu"])] >= digits[str(before["cpu"])]
    assert switches() == before


def test_switches_that_the_caller_has_mixed_are_put_back_as_they_were(as_found: None) -> None:
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    with pytest.raises(RuntimeError, match="mix of the legacy and new APIs"):
        torch.get_float32_matmul_precision()
    with float32_products("ieee"):
        assert torch.backends.cuda.matmul.fp32_precision == "ieee"
    assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    (result,) = check_parity(seeded(Classifier), rows_of(20, 10), backends=["eager"]).results
    assert result.facts["float32_products"] == "old and new switches disagree"


def test_switches_are_set_where_assigning_them_is_forbidden(as_found: None, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = torch.backends.ContextProp.__set__.__globals__  # `torch.backends` is not the module that this is read from
    monkeypatch.setitem(inside, "flags_frozen", lambda: True)  # importing torch's own test utilities does it
    with pytest.raises(RuntimeError, match="not allowed to set"):
        torch.backends.cudnn.allow_tf32 = False
    with float32_products("ieee"):
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32


def test_compile_modes_are_options_of_inductor() -> None:
    from lrdiff_export.runtimes.cuda import CompiledCudaBackend

    modes = {name: backend.options() for name, backend in BACKENDS.items() if isinstance(backend, CompiledCudaBackend)}
    assert list(modes) == ["cuda-compiled", "cuda-reduce-overhead", "cuda-max-autotune"]
    assert modes["cuda-compiled"] == {}
    assert modes["cuda-reduce-overhead"]["triton.cudagraphs"]
    assert modes["cuda-max-autotune"]["max_autotune"]
