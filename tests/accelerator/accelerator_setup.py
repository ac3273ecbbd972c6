"""Where the tests of this folder run: on the CPU at small size, and on each accelerator that is here."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

CUDA = pytest.mark.accelerator("cuda")
ACCELERATORS = [pytest.param(name, marks=pytest.mark.accelerator(name)) for name in ("cuda", "mps")]
EVERYWHERE = ["cpu", *ACCELERATORS]
EPS = float(np.finfo(np.float32).eps)


def error_in_eps(result: Tensor, exact: Tensor) -> float:
    """Largest error in float32 eps at the scale of the exact result."""
    off = (result.detach().cpu().double() - exact).abs().max()
    return float(off / (EPS * exact.abs().max()))


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def seeded(make: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made: nn.Module = make()
    return made
