r"""The metric as a smooth surface over logarithms of rates, from few and noisy trainings.

.. math:: y = f(\log_{10} r) + u_{\text{seed}} + \epsilon, \qquad f \sim \mathrm{GP}(c,\; a\, k_{5/2}(d / \ell))

A seed shifts all that are trained on it, so batches may have seeds of their own without mixing luck with rates. Length
scale and noise are those of a small grid with the highest likelihood; with some fifty trainings a finer choice would
fit luck.

Sources: Rasmussen and Williams 2006, Gaussian Processes for Machine Learning, 2 and 5.4; Thompson 1933 (draws).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Surface", "capped"]

Numbers = NDArray[np.float64]
LENGTHS = (0.7, 1.2, 2.0, 3.5)  # decades
NOISES = (0.003, 0.02, 0.1, 0.4)  # variance beside that of the surface
SEEDS = 4.0  # variance of seeds beside that of the surface: hardly any wish that they are alike
CAP = 0.6  # quantile from which values are all alike: how bad a bad rate is says nothing of the best one


def capped(values: Numbers) -> Numbers:
    """Values, lower is better, none above the worst that a surface has to follow; infinite ones lie there.

    Example:
        >>> capped(np.array([1.0, 2.0, 3.0, 50.0, np.inf])).tolist()
        [1.0, 2.0, 3.0, 3.0, 3.0]
    """
    finite = np.sort(values[np.isfinite(values)])
    if not len(finite):
        return np.zeros_like(values)
    rank = math.ceil(CAP * len(values)) - 1
    return np.minimum(values, finite[min(rank, len(finite) - 1)])


class Surface:
    """The surface through what was trained.

    Args:
        at: decimal logarithms of rates. [trainings, groups]
        seeds: of each. [trainings]
        values: lower is better, all finite. [trainings]

    Example:
        >>> at = np.linspace(-4, 0, 9)[:, None]
        >>> surface = Surface(at, np.zeros(9, dtype=int), (at[:, 0] + 2.2) ** 2)
        >>> fine = np.linspace(-4, 0, 401)[:, None]
        >>> round(float(fine[surface.mean(fine).argmin(), 0]), 1)
        -2.2
    """

    def __init__(self, at: Numbers, seeds: NDArray[np.int64], values: Numbers) -> None:
        self._at = at
        self._middle, self._unit = float(values.mean()), float(values.std()) or 1.0
        scaled = (values - self._middle) / self._unit
        same = SEEDS * (seeds[:, None] == seeds[None, :])
        best = -math.inf
        for length in LENGTHS:
            surface = _matern(at, at, length)
            for noise in NOISES:
                factor = np.linalg.cholesky(surface + same + noise * np.eye(len(at)))
                left = np.linalg.solve(factor, scaled)
                size = float(left @ left) / len(at)  # the amplitude with the highest likelihood
                likelihood = -0.5 * len(at) * math.log(max(size, 1e-12)) - float(np.log(np.diag(factor)).sum())
                if likelihood > best:
                    best = likelihood
                    self._length, self._factor, self._left, self._size = length, factor, left, size

    def mean(self, at: Numbers) -> Numbers:
        """What is expected there, seeds left out, [points]."""
        return self._middle + self._unit * (self._weights(at).T @ self._left)

    def draws(self, at: Numbers, count: int, random: np.random.Generator) -> Numbers:
        """So many surfaces that the trainings leave possible, [count, points]."""
        weights = self._weights(at)
        spread = self._size * (_matern(at, at, self._length) - weights.T @ weights)
        root = np.linalg.cholesky(spread + (1e-8 + 1e-6 * self._size) * np.eye(len(at)))
        mean = weights.T @ self._left
        return self._middle + self._unit * (mean + random.standard_normal((count, len(at))) @ root.T)

    def _weights(self, at: Numbers) -> Numbers:
        return np.asarray(np.linalg.solve(self._factor, _matern(self._at, at, self._length)))


def _matern(one: Numbers, other: Numbers, length: float) -> Any:
    distance = math.sqrt(5.0) * np.sqrt(((one[:, None] - other[None]) ** 2).sum(-1)) / length
    return (1.0 + distance + distance**2 / 3.0) * np.exp(-distance)
