"""What a search for rates gave, and what the search is allowed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lrdiff_bench.study.workloads.workload import Scheme, Workload, usual_schemes
from lrdiff_core.errors import ConfigError

__all__ = ["FEWEST", "SEEDS_FROM", "FoundRates", "free_scheme", "trainings_of"]

SIDE_BY_SIDE = 56  # trainings: an eighth of the 448 that a search by the protocol makes for one scheme
ALONE = 12  # where they come one after the other
FEWEST, MOST = 8, 1000  # beyond, a study searches better: a surface through thousands of trainings takes minutes
SEEDS_FROM = 5_000_000  # seeds of this search, which no study has


@dataclass(frozen=True, kw_only=True)
class FoundRates:
    """Rates that a search found; nothing is proven yet.

    Attributes:
        single: the best one rate.
        base_rate: of the best rates by group.
        ratios: of each group to it, two digits: what is judged is what is printed.
        trainings: that were begun.
        spent: what they took, in whole trainings; less where some were stopped early.
        seconds: on the clock.
        diverged: share of the trainings.
    """

    single: float
    base_rate: float
    ratios: Mapping[str, float]
    trainings: int
    spent: float
    seconds: float
    diverged: float

    @property
    def rates(self) -> dict[str, float]:
        """Rate of each group."""
        return {group: float(f"{self.base_rate * ratio:.2g}") for group, ratio in self.ratios.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {**asdict(self), "rates": self.rates}


def free_scheme(workload: Workload) -> Scheme:
    """The scheme in which every group's ratio is free but one: the workload's own, or the usual one."""
    wanted = len(workload.groups) - 1
    own = (scheme for scheme in workload.schemes if len(scheme.free) == wanted and not scheme.options)
    return next(own, usual_schemes(workload.groups)[-1])


def trainings_of(workload: Workload, asked: int | None) -> int:
    """How many trainings a search may take.

    Raises:
        ConfigError: too few to search anything, or so many that a study should.
    """
    if asked is not None and not FEWEST <= asked <= MOST:
        raise ConfigError(
            f"--trainings is {asked}", help=f"write {FEWEST} to {MOST}; `lrdiff study` searches with more"
        )  # fmt: skip
    return asked if asked is not None else ALONE if workload.at_once == 1 else SIDE_BY_SIDE


def rounded(value: float) -> float:
    """Two digits: rates are not known better.

    Example:
        >>> rounded(0.012345)
        0.012
    """
    return float(f"{float(np.float64(value)):.2g}")
