"""What a study is about: groups of parameters, schemes that give them rates, and something that trains them."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np

from lrdiff_core.errors import ConfigError

__all__ = [
    "AT_ONCE",
    "CHEAP",
    "FEWEST",
    "LAYER_DECAY",
    "LONG",
    "WORKLOADS",
    "Outcomes",
    "Scheme",
    "Trials",
    "UntunedSetting",
    "Workload",
    "decayed",
    "register_workload",
    "usual_schemes",
]

CHEAP = 200
"""Fresh seeds of a report where a trial takes milliseconds."""

LAYER_DECAY = "layer decay"
"""What a scheme searches that tunes layer-wise decay: the factor from a layer to the one below it."""

FEWEST = 30
"""Fresh seeds of a report elsewhere: 29 are the fewest that the protocol allows."""

AT_ONCE = 128
"""Trainings of one call: some seconds for a population, so that little is lost when a study is killed."""

LONG = 60.0  # seconds of a training that is not measured twice, nor again when a study goes on

RATIOS = (0.01, 100.0)  # that a free ratio is searched between, where nothing is said


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """How the rates of all groups follow from a point of the search space.

    A point has the base rate first and then one ratio for each free group; the rate of a group is the base rate
    times its ratio. *Single* has the ratio 1 everywhere and searches the base rate alone, and so does a scheme of
    fixed ratios: it costs what single costs. 0 freezes a group.

    Attributes:
        name: as it stands in tables, such as ``"single"`` or ``"ratio 0.1"``.
        ratios: one a group, of those that are not free.
        free: interval of the ratio of each group that is searched.
        options: whatever else the workload's ``train`` reads, such as ``{"probe_steps": 50}``.
        depths: layers below the top of each group; where :data:`LAYER_DECAY` is among ``free``, a group's ratio is also
            the decay to that power.
        reference: no differential rates, such as the single rate tuned in another place: judged beside the others,
            but never the scheme of the workload's verdict.

    Raises:
        ConfigError: a ratio below 0 or not finite; an interval that is empty or not positive.

    Example:
        >>> Scheme(name="free", ratios={"body": 1.0}, free={"head": (0.01, 100.0)}).dimensions
        2
    """

    name: str
    ratios: Mapping[str, float]
    free: Mapping[str, tuple[float, float]] = field(default_factory=lambda: MappingProxyType({}))
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    reference: bool = False
    depths: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        for group, ratio in self.ratios.items():
            if not (math.isfinite(ratio) and ratio >= 0):
                raise ConfigError(f'scheme "{self.name}": ratio of {group} is {ratio}', help="write 0 or more")
        for group, (low, high) in self.free.items():
            if not (0 < low < high < math.inf):
                raise ConfigError(
                    f'scheme "{self.name}": interval of {group} is {low} to {high}',
                    help="write two positive numbers, the lower one first",
                )

    @property
    def dimensions(self) -> int:
        """Number of things that are searched: the base rate and the free ratios."""
        return 1 + len(self.free)


@dataclass(frozen=True, kw_only=True)
class UntunedSetting:
    """Rates that are reported beside the tuned ones, without a search.

    Attributes:
        name: as it stands in tables.
        scheme: whose ratios.
        base_rate: that they multiply.
    """

    name: str
    scheme: Scheme
    base_rate: float


@dataclass(frozen=True, kw_only=True)
class Trials:
    """Settings to be trained side by side.

    Attributes:
        rates: [trials, groups], in the order of the workload's groups; 0 freezes.
        seeds: [trials] whole numbers; one seed fixes data, split, initial weights and order of the rows.
        scheme: whose options they carry.
        judged_on: ``"validation"`` while tuning, ``"test"`` when a tuned setting is reported. The other split must not
            be looked at.
    """

    rates: np.ndarray
    seeds: np.ndarray
    scheme: Scheme
    judged_on: str


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """What came of them; NaN where a trial diverged.

    Attributes:
        metric: [trials, evaluations] of the workload's metric on the split that was asked for.
        train_loss: [trials, evaluations].
        score: [trials] accuracy or R2 on that split at the end, shown beside a loss; None where the task has none.
        evaluated_after: [evaluations] steps.
        seconds_a_step: of one trial, evaluation not counted; a share of the batch where trials ran side by side.
    """

    metric: np.ndarray
    train_loss: np.ndarray
    evaluated_after: np.ndarray
    seconds_a_step: float
    score: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class Workload(ABC):
    """Data, model, loss, optimizer and budget: the fields say what is asked, a subclass how it is trained.

    Attributes:
        name: of the registry, such as ``"seed-adam"``.
        title: one line for tables.
        question: what is asked, in one sentence.
        groups: names of the groups of parameters.
        schemes: the first is the single rate.
        metric: ``"loss"`` (lower is better) or ``"accuracy"``.
        base_rates: interval of the base rate, the same for all schemes.
        default_rate: what an untuned single rate would be (the optimizer's own default).
        smallest_difference: in the metric, fixed beforehand; less does not matter.
        steps: of one trial.
        report_seeds: fresh seeds a tuned setting is reported on: 29 at least, 200 where populations make it cheap.
        label: how the result is to be read, such as ``"mechanism"`` or ``"control"``; empty for the rest.
    """

    name: str
    title: str
    question: str
    groups: tuple[str, ...]
    schemes: tuple[Scheme, ...]
    metric: str
    base_rates: tuple[float, float]
    default_rate: float
    smallest_difference: float
    steps: int
    report_seeds: int = CHEAP
    label: str = ""

    @property
    def untuned(self) -> tuple[UntunedSetting, ...]:
        """Settings that are reported untuned; the first is the one that tuned rates are usually shown against."""
        return (UntunedSetting(name="untuned default", scheme=self.schemes[0], base_rate=self.default_rate),)

    @property
    def base_points(self) -> tuple[float, ...]:
        """Base rates that every search tries; empty: each search draws points of its own."""
        return ()

    @property
    def plan_sizes(self) -> Mapping[str, int]:
        """Of a study's plan, where trainings are too dear for the protocol's; empty: those of the protocol."""
        return {}

    @property
    def fetched(self) -> bool:
        """Whether rows or first weights have to be fetched first: then ``--all`` leaves it out."""
        return False

    def require(self) -> None:
        """Check that all is here that training needs.

        Raises:
            UnavailableError: it is not, with the command that fetches or installs it.
        """
        return None

    @property
    def at_once(self) -> int:
        """Trials of one call of :meth:`train`: 1 where they come one after the other, so that little is lost."""
        return AT_ONCE

    def fingerprint(self) -> str:
        """Of what a study must not be gone on without: rows and first weights that no name stands for; may be empty."""
        return ""

    def seconds_of_training(self) -> float | None:
        """Seconds of one training, measured, where they come one after the other; None where many are trained at once.

        Seed 0 belongs to no search and to no report.
        """
        if self.at_once > 1:
            return None
        rates = np.full((1, len(self.groups)), self.default_rate)
        seconds = math.inf
        for _ in range(2):  # the first may load and compile; where it is long, that is little of it
            begin = time.perf_counter()
            self.train(Trials(rates=rates, seeds=np.zeros(1, dtype=np.int64), scheme=self.schemes[0], judged_on="test"))
            seconds = min(seconds, time.perf_counter() - begin)
            if seconds > LONG:
                break
        return seconds

    def train_one(self, trials: Trials, stop: Callable[[float, float], bool]) -> tuple[float, float]:
        """Train a single trial, and end it early where that is possible.

        Args:
            trials: one.
            stop: is given steps and metric of each evaluation, and says whether to end.

        Returns:
            The last metric (NaN where it diverged), and the share of its steps that it made.
        """
        return float(self.train(trials).metric[0, -1]), 1.0

    @abstractmethod
    def train(self, trials: Trials) -> Outcomes:
        """Train all of them; the same trials give the same outcomes."""

    @abstractmethod
    def tiny(self) -> Workload:
        """Return the same at a size that takes about a second, for contract tests."""


def usual_schemes(groups: Sequence[str]) -> tuple[Scheme, ...]:
    """The single rate, the last group at a tenth and at ten times, and free ratios against the first group.

    Example:
        >>> [scheme.name for scheme in usual_schemes(["body", "head"])]
        ['single', 'last x 0.1', 'last x 10', 'free']
    """
    last, rest = groups[-1], dict.fromkeys(groups[:-1], 1.0)
    return (
        Scheme(name="single", ratios=dict.fromkeys(groups, 1.0)),
        Scheme(name="last x 0.1", ratios={**rest, last: 0.1}),
        Scheme(name="last x 10", ratios={**rest, last: 10.0}),
        Scheme(name="free", ratios={groups[0]: 1.0}, free=dict.fromkeys(groups[1:], RATIOS)),
    )


def decayed(name: str, decay: float | tuple[float, float], depths: Mapping[str, int]) -> Scheme:
    """A scheme of layer-wise decay: a fixed factor, or one that is searched.

    Args:
        name: of the scheme.
        decay: factor from a layer to the one below it, or the interval that it is searched in.
        depths: of each group, from the input.

    Example:
        >>> decayed("layer decay 0.5", 0.5, {"embed": 0, "body": 1, "head": 2}).ratios
        {'embed': 0.25, 'body': 0.5, 'head': 1.0}
    """
    top = max(depths.values())
    below = {group: top - depth for group, depth in depths.items()}
    if isinstance(decay, tuple):
        return Scheme(name=name, ratios=dict.fromkeys(below, 1.0), free={LAYER_DECAY: decay}, depths=below)
    return Scheme(name=name, ratios={group: float(f"{decay**depth:.9g}") for group, depth in below.items()})


WORKLOADS: dict[str, Callable[[], Workload]] = {}

_Maker = TypeVar("_Maker", bound=Callable[[], Any])


def register_workload(name: str) -> Callable[[_Maker], _Maker]:
    """Return a decorator that puts what makes a workload under ``name`` into the registry.

    Raises:
        ConfigError: the name is taken.
    """
    if name in WORKLOADS:
        raise ConfigError(f'there is a workload "{name}" already', help="choose another name")

    def decorate(maker: _Maker) -> _Maker:
        WORKLOADS[name] = maker
        return maker

    return decorate
