"""Fixtures of the optimizer tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

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
