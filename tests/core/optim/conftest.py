"""Fixtures of the optimizer tests."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

import pytest
import torch
from optim_pairs import PAIRS

from lrdiff_core.devices import torch_threads
from lrdiff_core.optim import kernel


@pytest.fixture(params=["kernel", "fused"])
def form(request: pytest.FixtureRequest) -> Iterator[str]:
    """Both CPU forms in turn: with the compiled kernel and without."""
    if request.param == "kernel" and kernel.load() is None:
        pytest.skip("no C compiler here")
    with kernel.switched_off() if request.param == "fused" else nullcontext():
        yield str(request.param)


@pytest.fixture(params=list(PAIRS))
def pair(request: pytest.FixtureRequest) -> tuple[type[torch.optim.Optimizer], type[torch.optim.Optimizer]]:
    """Our class and torch's."""
    return PAIRS[request.param]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """On a busy machine every small parallel region of torch's can cost 8 ms; test_optim_grouping.py uses threads."""
    with torch_threads(1):
        yield


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The wheel's build hook, without hatchling, which only isolated builds have."""
    names = ("hatchling", "hatchling.builders", "hatchling.builders.hooks", "hatchling.builders.hooks.plugin")
    for name in (*names, f"{names[-1]}.interface"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules[f"{names[-1]}.interface"].BuildHookInterface = object  # type: ignore[attr-defined]
    file = Path(__file__).parents[3] / ".ci" / "build_kernel.py"
    spec = importlib.util.spec_from_file_location("build_kernel", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
