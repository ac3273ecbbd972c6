"""The job's optimizer, from this project or from torch, and what differs between the two."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lrdiff_core import optim
from lrdiff_core.optimizers import OPTIMIZERS
from lrdiff_core.setup import set_mode
from lrdiff_export.training.job import Placed

__all__ = ["bias_correction", "make_optimizer", "of_torch", "parts_of", "plain_optimizer", "triton_switched_on"]


def make_optimizer(placed: Placed, *, ours: bool, **flags: Any) -> Any:
    """Build the job's optimizer, from this project or from torch.

    Args:
        placed: over whose parameters.
        ours: from :mod:`lrdiff_core.optim`; otherwise torch's own, or the plain loop of a rule that torch has none of.
        flags: ``foreach``, ``fused``, ``capturable``.
    """
    name, groups = placed.job.optimizer, placed.groups()
    if name == "muon":
        return optim.MuonAdamW(groups) if ours else MuonPair(groups)
    mine: Any = getattr(optim, OPTIMIZERS[name].kind)
    if name == "sgd":
        flags.pop("capturable", None)  # it has no counter, so it always is
    made = (mine if ours else mine._torch_class)(groups, **flags)
    set_mode(made, "train")
    return made


def of_torch(name: str) -> bool:
    """Whether torch has this rule itself.

    Example:
        >>> of_torch("nadam"), of_torch("lamb")
        (True, False)
    """
    return name == "muon" or hasattr(torch.optim, OPTIMIZERS[name].kind)


def plain_optimizer(placed: Placed) -> Any:
    """torch's plain loop, tensor by tensor: what everything is compared with, in float64."""
    name = placed.job.optimizer
    return make_optimizer(placed, ours=False, **({"foreach": False} if of_torch(name) and name != "muon" else {}))


def parts_of(optimizer: Any) -> list[Any]:
    """The optimizers that one is made of.

    Example:
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
        >>> parts_of(optimizer) == [optimizer]
        True
    """
    return list(getattr(optimizer, "parts", [optimizer]))


def bias_correction(betas: tuple[float, float], step: int) -> tuple[float, float]:
    r"""Return what Adam divides its first moment and the root of its second by.

    These are :math:`1 - \beta_1^t` and :math:`\sqrt{1 - \beta_2^t}`.

    Args:
        betas: of the two moments.
        step: from 1.

    Example:
        >>> bias_correction((0.5, 0.75), 1)
        (0.5, 0.5)

    Source: Kingma and Ba, https://arxiv.org/abs/1412.6980, algorithm 1
    """
    return 1 - betas[0] ** step, (1 - betas[1] ** step) ** 0.5


class MuonPair:
    """torch's Muon for groups with ``use_muon`` and its AdamW for the rest, as one."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        def without(group: dict[str, Any]) -> dict[str, Any]:
            return {key: value for key, value in group.items() if key != "use_muon"}

        parts = [
            (torch.optim.Muon, [without(group) for group in groups if group.get("use_muon")]),
            (torch.optim.AdamW, [without(group) for group in groups if not group.get("use_muon")]),
        ]
        self.parts = [kind(chosen) for kind, chosen in parts if chosen]

    @property
    def state(self) -> dict[Tensor, Any]:
        """Of both."""
        return {param: value for part in self.parts for param, value in part.state.items()}

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad()

    def step(self) -> None:
        for part in self.parts:
            part.step()


@contextmanager
def triton_switched_on() -> Iterator[None]:
    """Ask our optimizers for the Triton kernel; what was set is set again."""
    before = os.environ.get("LRDIFF_TRITON")
    os.environ["LRDIFF_TRITON"] = "1"
    try:
        yield
    finally:
        del os.environ["LRDIFF_TRITON"]
        if before is not None:
            os.environ["LRDIFF_TRITON"] = before
