"""How much a study trains, on which seeds, and what of the protocol a smaller plan gives up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

from lrdiff_bench.stats.looks import LOOKS
from lrdiff_core.errors import ConfigError

__all__ = ["FEWEST_SEARCHES", "FEWEST_SEEDS", "LARGEST_K", "Plan", "largest_k", "make_plan"]

FEWEST_SEEDS = 29  # of the report; fewer cannot show a probability of improvement of 0.75 reliably (Bouthillier 2021)
FEWEST_SEARCHES = LOOKS[0].searches
LARGEST_K = 64  # best-of-k curves end there

# Streams of seeds that never meet: a setting is chosen on some, and reported on others.
_FIRST_REPORT = 1_000
_FIRST_TARGET = 500_000
_FIRST_TUNING = 1_000_000
_FIRST_FINAL = 2_000_000
_FIRST_POINTS = 2_000_000


def largest_k(trials: int) -> int:
    """Where a best-of-k curve ends: a bootstrap of ``trials`` says nothing of what is better than the best of them.

    Up to a third of the trials its 95 % band holds the truth 94 % of the time or more, at all of them 83 %.

    Example:
        >>> largest_k(320), largest_k(48)
        (64, 16)
    """
    return min(LARGEST_K, max(1, trials // 3))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Sizes of a study, the same for every scheme.

    Attributes:
        budget: points each scheme tries in each search.
        tuning_seeds: seeds each point is trained on while searching, anew for each search.
        finalists: points of each search that are trained again; 0 lets the tuning seeds decide.
        final_seeds: seeds that the finalists are trained on, anew for each search.
        searches: how many, each with its own points and seeds: one of :data:`~lrdiff_bench.stats.looks.LOOKS`, or
            fewer than the first of them.
        report_seeds: fresh seeds that the winners of a search are trained on, in pairs, anew for each search.
        target_seeds: fresh seeds that set the target of the time to target; 0 sets none.
        widenings: how often the space is widened before the study is given up.
        seeds_from: added to every seed: another number is an independent replication.
        quick: a look; every output says so.

    Example:
        >>> plan = Plan()
        >>> plan.tuning(0), plan.tuning(1)[:1], plan.report(1)[:2]
        ((1000000, 1000001, 1000002, 1000003), (1000004,), (1030, 1031))
        >>> Plan(report_seeds=5).shortcomings()
        ['5 reporting seeds, the protocol wants 29']
    """

    budget: int = 64
    tuning_seeds: int = 4
    finalists: int = 8
    final_seeds: int = 24
    searches: int = FEWEST_SEARCHES
    report_seeds: int = 30
    target_seeds: int = 20
    widenings: int = 3
    seeds_from: int = 0
    quick: bool = False

    def __post_init__(self) -> None:
        least = {"budget": 4, "tuning_seeds": 1, "searches": 2, "report_seeds": 3, "seeds_from": 0}
        for name, low in {**least, "finalists": 0, "final_seeds": 1, "target_seeds": 0, "widenings": 0}.items():
            value, most = getattr(self, name), 2**62 if name == "seeds_from" else 100_000
            if not low <= value <= most:
                raise ConfigError(f"{name} is {value}", help=f"write a whole number from {low} to {most}")
        at = [look.searches for look in LOOKS]
        if self.searches >= at[0] and self.searches not in at:
            numbers = ", ".join(map(str, at[:-1]))
            raise ConfigError(
                f"searches is {self.searches}, and a study is judged after {numbers} and {at[-1]}",
                help=f"write one of these, or fewer than {at[0]} for a REDUCED study that cannot be continued",
            )
        if self.searches * self.report_seeds > _FIRST_TARGET - _FIRST_REPORT:
            raise ConfigError(
                f"searches x report_seeds is {self.searches * self.report_seeds}",
                help=f"up to {_FIRST_TARGET - _FIRST_REPORT} seeds can be told apart",
            )

    @property
    def first_look(self) -> int:
        """Searches that decide the spaces, the scheme that stands for the study, and the target."""
        return min(self.searches, FEWEST_SEARCHES)

    def tuning(self, search: int) -> tuple[int, ...]:
        """Seeds that all points of one search are trained on."""
        return self._seeds(_FIRST_TUNING + search * self.tuning_seeds, self.tuning_seeds)

    def final(self, search: int) -> tuple[int, ...]:
        """Seeds that decide among the finalists of one search."""
        return self._seeds(_FIRST_FINAL + search * self.final_seeds, self.final_seeds)

    def target(self) -> tuple[int, ...]:
        """Seeds that set the target."""
        return self._seeds(_FIRST_TARGET, self.target_seeds)

    def report(self, search: int) -> tuple[int, ...]:
        """Seeds that the winners of one search are reported on."""
        return self._seeds(_FIRST_REPORT + search * self.report_seeds, self.report_seeds)

    def scramble(self, search: int) -> int:
        """Seed of the points of one search."""
        return self.seeds_from + _FIRST_POINTS + search

    def _seeds(self, first: int, count: int) -> tuple[int, ...]:
        return tuple(range(self.seeds_from + first, self.seeds_from + first + count))

    def shortcomings(self) -> list[str]:
        """What the full protocol has and this plan has not."""
        found = []
        if self.report_seeds < FEWEST_SEEDS:
            found.append(f"{self.report_seeds} reporting seeds, the protocol wants {FEWEST_SEEDS}")
        if self.searches < FEWEST_SEARCHES:
            found.append(f"{self.searches} searches, the protocol wants {FEWEST_SEARCHES}")
        if not self.finalists:
            found.append("no finalists are trained again, the protocol wants 8 of each search")
        if (ends := largest_k(self.budget * self.searches)) < LARGEST_K:
            found.append(f"the best-of-k curve ends at {ends}, the protocol wants {LARGEST_K}")
        return found

    @property
    def mode(self) -> str:
        """``"full"``, ``"quick"`` or ``"reduced"``: what every output says."""
        if self.quick:
            return "quick"
        return "reduced" if self.shortcomings() else "full"

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON."""
        return asdict(self)


QUICK = {"budget": 16, "tuning_seeds": 2, "finalists": 4, "final_seeds": 8, "searches": 3, "report_seeds": 12}


def make_plan(
    *,
    report_seeds: int,
    own: Mapping[str, int] = MappingProxyType({}),
    quick: bool = False,
    seeds: int | None = None,
    **changes: int | None,
) -> Plan:
    """The plan of a workload, with what the command line changes.

    Args:
        report_seeds: what the workload asks for.
        own: further fields of :class:`Plan` that the workload asks for.
        quick: a fraction of everything.
        seeds: fresh seeds in place of the workload's.
        changes: further fields of :class:`Plan`; None changes nothing.

    Example:
        >>> make_plan(report_seeds=200).report_seeds, make_plan(report_seeds=200, quick=True).report_seeds
        (200, 12)
    """
    sizes: dict[str, Any] = {"report_seeds": report_seeds, **own}
    if quick:
        sizes = {**QUICK, "widenings": 1, "quick": True}
    given = {"report_seeds": seeds, **changes}
    return Plan(**{**sizes, **{name: value for name, value in given.items() if value is not None}})
