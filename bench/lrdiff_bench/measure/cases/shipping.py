"""Export, inference, and the start of the command line."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lrdiff_bench.measure.cases.optimizer_error import output_parity
from lrdiff_bench.measure.engine.case import Workload
from lrdiff_bench.measure.engine.registry import case_family

__all__ = ["command_start", "export", "inference", "prepared"]

WIDTH = 256


def _network() -> nn.Module:
    """The main model in form, larger in size, so that a batch is more than the call: 10-256-256-1."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(10, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 1), nn.Sigmoid()
        ).eval()


def _rows(batch: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((batch, 10)).astype(np.float32)


def prepared(backend: Any, net: nn.Module, data: Any) -> Callable[..., list[np.ndarray]]:
    """What a backend makes of a module or its ONNX file; in older commits it was given both."""
    if len(inspect.signature(backend.prepare).parameters) == 2:
        return backend.prepare(net, data)
    return backend.prepare(data if backend.needs_onnx else net)


def _plainly(net: nn.Module, rows: np.ndarray, dtype: torch.dtype) -> list[Tensor]:
    import copy

    with torch.no_grad():
        return [copy.deepcopy(net).to(dtype)(torch.from_numpy(rows).to(dtype))]


@case_family(version="1")
def export() -> Workload:
    """Conversion of a 10-256-256-1 network into the bytes of an ONNX file."""
    from lrdiff_export import BACKENDS, convert_to_onnx

    net, rows = _network(), _rows(32)
    example = torch.from_numpy(rows[:2])

    def answers(dtype: torch.dtype | None) -> list[Tensor]:
        if dtype is not None:
            return _plainly(net, rows, dtype)
        data = convert_to_onnx(net, example=example)
        return [torch.from_numpy(one) for one in prepared(BACKENDS["onnxruntime"], net, data)(rows)]

    return Workload(step=lambda: convert_to_onnx(net, example=example), parity=output_parity(answers))


def _no_backend(*, backend: str, batch: int) -> str | None:
    from lrdiff_export import BACKENDS

    return BACKENDS[backend].availability()


@case_family(
    version="1",
    parameters={"backend": ("onnxruntime", "eager", "compiled"), "batch": (1, 32, 1024)},
    quick={"backend": ("onnxruntime", "eager"), "batch": (1, 32)},
    unavailable=_no_backend,
)
def inference(backend: str, batch: int) -> Workload:
    """Prediction of a batch of rows by a 10-256-256-1 network, from NumPy to NumPy, on the CPU."""
    from lrdiff_export import BACKENDS, convert_to_onnx

    place, net, rows = BACKENDS[backend], _network(), _rows(batch)
    data = convert_to_onnx(net, example=torch.zeros(2, 10)) if place.needs_onnx else None
    predict = prepared(place, net, data)

    def answers(dtype: torch.dtype | None) -> list[Tensor]:
        return [torch.from_numpy(one) for one in predict(rows)] if dtype is None else _plainly(net, rows, dtype)

    facts = {"parameters": sum(p.numel() for p in net.parameters()), "rows": batch}
    return Workload(step=lambda: predict(rows), facts=facts, parity=output_parity(answers))


def _not_installed(*, command: str) -> str | None:
    # asv links the code without installing it; `doctor` asks for the versions of what is installed.
    installed = command == "--help" or any(metadata.distributions(name="lrdiff"))
    return None if installed else "lrdiff is linked here, not installed"


@case_family(version="1", parameters={"command": ("--help", "doctor")}, unavailable=_not_installed, parity=False)
def command_start(command: str) -> Workload:
    """Start of the command line in a new process until it has printed its help, or the doctor's report."""
    import lrdiff_core

    # The measured checkout's own command line, also where engine and cases come from elsewhere.
    root = Path(lrdiff_core.__file__).parents[1]
    folders = (root, root / "export", root / "bench")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))}

    def start() -> None:
        subprocess.run(
            [sys.executable, "-P", "-m", "lrdiff_bench", command], env=environment, check=True, capture_output=True
        )

    return Workload(step=start)
