"""Prediction parity on an accelerator: every backend of the device, over the kinds of models that people ship."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lrdiff_bench.gpu.record import NO_TIME, GpuRow, Reporter, Request
from lrdiff_export.examples import ZOO
from lrdiff_export.parity.parity import check_parity
from lrdiff_export.runtimes import BACKENDS

__all__ = ["models", "run"]

LARGE = 65_536  # rows: more blocks than any GPU runs at once
SLOW = ("compiled", "overhead", "autotune")  # words of backends that compile
# Each takes ten seconds and more a model.
MODELS_OF = {
    "cuda-compiled": ("main model", "convolution", "transformer block", "3-D linear"),
    "cuda-reduce-overhead": ("main model", "transformer block"),
    "cuda-max-autotune": ("transformer block",),
}


class Cubes(nn.Module):
    """Linear layers over three dimensions, a norm between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(24, 48), nn.LayerNorm(48), nn.Linear(48, 5)

    def forward(self, rows: Tensor) -> Tensor:  # [batch, time, 24] -> [batch, time, 5]
        return self.last(torch.relu(self.norm(self.first(rows))))


def models(*, quick: bool) -> dict[str, tuple[nn.Module, Any]]:
    """Return modules with rows, by name, seeded."""
    numbers = np.random.default_rng(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        cubes = Cubes().eval()
        wide = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 4)).eval()
    found = {name: (ZOO[name].module(), dict(ZOO[name].rows)) for name in _FROM_ZOO}
    large = 512 if quick else LARGE
    return {
        **{_FROM_ZOO[name]: (module, tuple(rows.values())) for name, (module, rows) in found.items()},
        "3-D linear": (cubes, numbers.standard_normal((64, 7, 24)).astype(np.float32)),
        "large batch": (wide, numbers.standard_normal((large, 16)).astype(np.float32)),
    }


_FROM_ZOO: Mapping[str, str] = {
    "main, binary": "main model",
    "convolution, batch norm": "convolution",
    "transformer block": "transformer block",
    "LSTM": "LSTM",
}


def run(request: Request, report: Reporter) -> None:
    """Compare each model on each backend of the device with float64 on the CPU.

    Args:
        request: device and size.
        report: takes a row for each pair.
    """
    names = [name for name, one in BACKENDS.items() if one.device == request.device and not one.needs_onnx]
    if request.device == "cpu":
        names = [name for name in names if name == "eager"]
    subjects = models(quick=request.quick)
    if request.quick:
        subjects = {name: subjects[name] for name in ("main model", "3-D linear", "large batch")}
    for name in sorted(names, key=_effort):
        for model, (module, rows) in subjects.items():
            if model not in MODELS_OF.get(name, subjects):
                continue
            what = f"{model}, {name}"
            if _effort(name) and not request.in_time():
                report(GpuRow(what=what, result="unavailable", note=NO_TIME))
            else:
                report(_row(what, module, rows, name))


def _effort(name: str) -> int:
    """Backends that compile come last, the slowest of them at the end."""
    return next((place for place, word in enumerate(SLOW, start=1) if word in name), 0)


def _row(what: str, module: nn.Module, rows: Any, backend: str) -> GpuRow:
    found = check_parity(module, rows, backends=[backend])
    (result,) = found.results
    state = {"agrees": "passed", "unavailable": "unavailable"}.get(result.status, "failed")
    value = "" if result.max_error is None else f"{result.max_error:.3g} eps of {result.tolerance:.3g}"
    numbers = {"error": result.max_error, "allowed": result.tolerance, "status": result.status, "dtype": result.dtype}
    return GpuRow(what=what, result=state, value=value, note=result.reason or "", numbers=numbers)  # type: ignore[arg-type]
