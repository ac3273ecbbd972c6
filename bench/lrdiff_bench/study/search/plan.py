"""How much a study trains, on which seeds, and what of the protocol a smaller plan gives up."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from lrdiff_core.errors import ConfigError

__all__ = ["FEWEST_REPEATS", "FEWEST_SEEDS", "LARGEST_K", "Plan", "largest_k", "make_plan"]

FEWEST_SEEDS = 29  # of the report; fewer cannot show a probability of improvement of 0.75 reliably (Bouthillier 2021)
FEWEST_REPEATS = 3
LARGEST_K = 64  # best-of-k curves end there

# Streams of seeds that never meet: a setting is chosen on some, and reported on others.
_FIRST_REPORT = 1_000
_FIRST_TARGET = 500_000
_FIRST_TUNING = 1_000_000
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
        repeats: searches, each with its own points and seeds.
        report_seeds: fresh seeds that every winner is trained on, in pairs.
        target_seeds: fresh seeds that set the target of the time to target.
        widenings: how often the space is widened before the study is given up.
        quick: a look; every output says so.

    Example:
        >>> plan = Plan()
        >>> plan.tuning(0), plan.tuning(1)[:1], plan.report()[:2]
        ((1000000, 1000001, 1000002, 1000003), (1000004,), (1000, 1001))
        >>> Plan(report_seeds=5).shortcomings()
        ['5 reporting seeds, the protocol wants 29']
    """

    budget: int = 64
    tuning_seeds: int = 4
    repeats: int = 5
    report_seeds: int = 30
    target_seeds: int = 20
    widenings: int = 3
    quick: bool = False

    def __post_init__(self) -> None:
        for name, least in (("budget", 4), ("tuning_seeds", 1), ("repeats", 2), ("report_seeds", 3)):
            value = getattr(self, name)
            if not least <= value <= 100_000:
                raise ConfigError(f"{name} is {value}", help=f"write a whole number from {least} to 100000")

    def tuning(self, repeat: int) -> tuple[int, ...]:
        """Seeds that one search chooses on."""
        first = _FIRST_TUNING + repeat * self.tuning_seeds
        return tuple(range(first, first + self.tuning_seeds))

    def target(self) -> tuple[int, ...]:
        """Seeds that set the target."""
        return tuple(range(_FIRST_TARGET, _FIRST_TARGET + self.target_seeds))

    def report(self) -> tuple[int, ...]:
        """Seeds that winners are reported on."""
        return tuple(range(_FIRST_REPORT, _FIRST_REPORT + self.report_seeds))

    def scramble(self, repeat: int) -> int:
        """Seed of the points of one search."""
        return _FIRST_POINTS + repeat

    def shortcomings(self) -> list[str]:
        """What the full protocol has and this plan has not."""
        found = []
        if self.report_seeds < FEWEST_SEEDS:
            found.append(f"{self.report_seeds} reporting seeds, the protocol wants {FEWEST_SEEDS}")
        if self.repeats < FEWEST_REPEATS:
            found.append(f"{self.repeats} searches, the protocol wants {FEWEST_REPEATS}")
        if (ends := largest_k(self.budget * self.repeats)) < LARGEST_K:
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


def make_plan(*, report_seeds: int, quick: bool = False, budget: int | None = None, seeds: int | None = None) -> Plan:
    """The plan of a workload, with what the command line changes.

    Args:
        report_seeds: what the workload asks for.
        quick: a fraction of everything.
        budget, seeds: in place of the plan's points a scheme and reporting seeds.

    Example:
        >>> make_plan(report_seeds=200).report_seeds, make_plan(report_seeds=200, quick=True).report_seeds
        (200, 12)
    """
    sizes: dict[str, Any] = {"report_seeds": report_seeds}
    if quick:
        sizes = {"budget": 16, "tuning_seeds": 2, "repeats": 3, "report_seeds": 12, "widenings": 1, "quick": True}
    if budget is not None:
        sizes["budget"] = budget
    if seeds is not None:
        sizes["report_seeds"] = seeds
    return Plan(**sizes)
