"""Several workloads together: interquartile mean, performance profile, and verdicts corrected for their number.

Gains are counted in each workload's own smallest difference that matters, fixed beforehand, so that losses and
accuracies can stand side by side. :func:`scipy.stats.bootstrap` draws the searches inside each workload (several
samples are resampled one by one there, which is what a stratified bootstrap does). The package rliable, which made
these statistics known, draws from numpy's global generator, so its intervals cannot be reproduced.

Source: Agarwal et al. 2021, arXiv:2108.13264.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrdiff_bench.stats.gain import CLIP
from lrdiff_bench.stats.intervals import Interval
from lrdiff_bench.stats.location import interquartile_mean

__all__ = ["Profile", "performance_profile", "suite_gain"]

DRAWS = 2000
Numbers = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Share of searches with a gain of more than each threshold, workloads weighing the same, [thresholds]."""

    thresholds: Numbers
    share: Numbers
    low: Numbers
    high: Numbers


def suite_gain(gains: Mapping[str, Numbers], *, draws: int = DRAWS, seed: int = 0) -> Interval:
    """Interquartile mean of gains over all searches of all workloads, in smallest differences; positive is better.

    Args:
        gains: of each workload, in its smallest differences, one a search. [searches]
        draws, seed: of the bootstrap.

    Example:
        >>> suite_gain({"a": np.full(30, 2.0), "b": np.full(30, 2.0)}).estimate
        2.0
    """
    samples = [np.clip(one, -CLIP, CLIP) for one in gains.values()]

    def statistic(*parts: Numbers, axis: int = -1) -> Any:
        return interquartile_mean(_weighed(parts, axis), axis=axis)

    return _interval(samples, statistic, draws, seed)[0]


def performance_profile(
    gains: Mapping[str, Numbers], thresholds: Sequence[float], *, draws: int = DRAWS, seed: int = 0
) -> Profile:
    """Share of searches that gain more than each threshold.

    Args:
        gains: as for :func:`suite_gain`.
        thresholds: in smallest differences.

    Example:
        >>> performance_profile({"a": np.arange(10.0)}, [4.5]).share.tolist()
        [0.5]
    """
    at = np.asarray(thresholds, dtype=np.float64)
    samples = [np.clip(one, -CLIP, CLIP) for one in gains.values()]

    def statistic(*parts: Numbers, axis: int = -1) -> Any:
        shares = [(part[..., None, :] > at[:, None]).mean(axis=-1) for part in parts]
        return np.moveaxis(np.mean(shares, axis=0), -1, 0)

    found = _interval(samples, statistic, draws, seed)
    share, low, high = (np.array([getattr(one, name) for one in found]) for name in ("estimate", "low", "high"))
    return Profile(thresholds=at, share=share, low=low, high=high)


def _weighed(parts: Sequence[Numbers], axis: int) -> Numbers:
    """All searches in one row, those of smaller workloads repeated, so that each workload weighs (nearly) the same."""
    most = max(part.shape[axis] for part in parts)
    rows = [np.take(part, np.arange(most) * part.shape[axis] // most, axis=axis) for part in parts]
    return np.concatenate(rows, axis=axis)


def _interval(samples: Sequence[Numbers], statistic: Any, draws: int, seed: int) -> list[Interval]:
    from scipy.stats import bootstrap

    estimate = np.atleast_1d(statistic(*samples, axis=-1))
    if all(np.ptp(one) == 0 for one in samples):  # nothing varies; scipy would warn about it
        return [Interval(float(one), float(one), float(one), 0.95) for one in estimate]
    found = bootstrap(
        samples, statistic, n_resamples=draws, batch=200, vectorized=True, method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    low, high = np.atleast_1d(found.low), np.atleast_1d(found.high)
    return [Interval(float(e), float(a), float(b), 0.95) for e, a, b in zip(estimate, low, high, strict=True)]
