r"""The border of trainability (Sohl-Dickstein 2024): where full-batch gradient descent stops converging.

The network has one hidden layer, no biases, mean-field scaling, and as many data points as parameters:

.. math:: \hat y(x) = \tfrac1n W_1 \tanh(\sqrt{2/n}\, W_0 x), \qquad
          W_0 \in R^{n \times n},\ W_1 \in R^{1 \times n},\ n = 16

Weights, inputs and targets are standard normal. A pair of rates counts as converged when the mean of the last 20
losses, normalised by the first, is below 1. Source: Sohl-Dickstein 2024, arXiv:2402.06184.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from lrdiff_bench.maps.workload import MapWorkload
from lrdiff_core.population import Gain, PopulationData
from lrdiff_core.seeds import make_generator

__all__ = ["LAST_LOSSES", "WIDTH", "trainability"]

WIDTH = 16
LAST_LOSSES = 20
LOW, HIGH = 1e-3, 1e6


def trainability(*, size: int = 128, steps: int = 200, **options: Any) -> MapWorkload:
    """The workload of the preset ``trainability``.

    Args:
        size: cells along each axis.
        steps: of gradient descent.
        options: other fields of :class:`MapWorkload`.

    Example:
        >>> workload = trainability()
        >>> workload.rows(0).rows, sum(p.numel() for p in workload.model(0).parameters())
        (272, 272)
    """
    fields: dict[str, Any] = {
        "name": "trainability",
        "model": _model,
        "data": _rows,
        "optimizer": "sgd",
        "steps": steps,
        "x": f"hidden:{LOW:g}:{HIGH:g}",
        "y": f"output:{LOW:g}:{HIGH:g}",
        "size": size,
        "seeds": 1,
        "last_losses": LAST_LOSSES,
        **options,
    }
    return MapWorkload(**fields)


def _model(seed: int) -> nn.Module:
    model = nn.Sequential()
    model.add_module("hidden", nn.Linear(WIDTH, WIDTH, bias=False))
    model.add_module("hidden_scale", Gain(math.sqrt(2 / WIDTH)))
    model.add_module("tanh", nn.Tanh())
    model.add_module("output", nn.Linear(WIDTH, 1, bias=False))
    model.add_module("output_scale", Gain(1 / WIDTH))
    for parameter in model.parameters():
        nn.init.normal_(parameter)  # from torch's global generator, which the population seeds
    return model


def _rows(seed: int) -> PopulationData:
    generator = make_generator(seed, "trainability rows")
    rows = WIDTH * WIDTH + WIDTH
    return PopulationData(
        inputs=torch.randn(rows, WIDTH, generator=generator),
        targets=torch.randn(rows, 1, generator=generator),
        task="regression",
    )
