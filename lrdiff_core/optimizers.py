"""The optimizers that settings can name, a row each: what commands, studies and populations have to know of them.

Without torch, so that ``lrdiff --help`` can list them. Their classes stand in :mod:`lrdiff_core.optim`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lrdiff_core.errors import ConfigError

__all__ = ["OPTIMIZERS", "STACKED", "OptimizerEntry", "OptimizerName", "check_momentum", "either"]


@dataclass(frozen=True, kw_only=True)
class OptimizerEntry:
    """What the rest of the project has to know about an optimizer.

    Args:
        kind: its class in :mod:`lrdiff_core.optim`.
        rate: its default rate: torch's documentation, or its authors' code.
        rates: between what a study searches the base rate: wide, so that a winner hardly lies at the edge.
        momentum: it takes ``momentum``.
        moments: how many numbers it keeps for each of a parameter's (with momentum, where it takes that).
        fused: torch has a fused kernel of it.
        routed: its groups say by which rule they are stepped, and a router makes them.
        stacked: populations train it.
        sharded: it steps parameters that are divided over processes (FSDP2).
    """

    kind: str
    rate: float
    rates: tuple[float, float] = (1e-5, 1.0)
    momentum: bool = False
    moments: int = 2
    fused: bool = False
    routed: bool = False
    stacked: bool = False
    sharded: bool = True


OPTIMIZERS: dict[str, OptimizerEntry] = {
    # torch's SGD had no default before 2.2
    "sgd": OptimizerEntry(
        kind="SGD", rate=0.01, rates=(1e-3, 10.0), momentum=True, moments=1, fused=True, stacked=True
    ),
    "adam": OptimizerEntry(kind="Adam", rate=1e-3, fused=True, stacked=True),
    "adamw": OptimizerEntry(kind="AdamW", rate=1e-3, fused=True, stacked=True),
    "rmsprop": OptimizerEntry(kind="RMSprop", rate=0.01, momentum=True, stacked=True),
    "nadam": OptimizerEntry(kind="NAdam", rate=2e-3),
    "radam": OptimizerEntry(kind="RAdam", rate=1e-3),
    "adagrad": OptimizerEntry(kind="Adagrad", rate=0.01, rates=(1e-4, 10.0), moments=1, fused=True),
    "adafactor": OptimizerEntry(kind="Adafactor", rate=0.01, moments=0, sharded=False),
    "lamb": OptimizerEntry(kind="LAMB", rate=1e-3, rates=(1e-4, 10.0)),
    "lion": OptimizerEntry(kind="Lion", rate=1e-4, rates=(1e-6, 0.1), moments=1),
    "schedule_free": OptimizerEntry(kind="ScheduleFreeAdamW", rate=2.5e-3),
    "muon": OptimizerEntry(kind="MuonAdamW", rate=1e-3, routed=True),  # hidden matrices by Muon, the rest by AdamW
}
STACKED = tuple(name for name, entry in OPTIMIZERS.items() if entry.stacked)

if TYPE_CHECKING:
    OptimizerName = str
else:
    OptimizerName = Literal[tuple(OPTIMIZERS)]


def either(names: Iterable[str] = OPTIMIZERS) -> str:
    """Names for a sentence.

    Example:
        >>> either(("sgd", "adam", "adamw"))
        'sgd, adam or adamw'
    """
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last


def check_momentum(name: str, momentum: float, where: str) -> None:
    """Refuse momentum for an optimizer that takes none.

    Raises:
        ConfigError: it is set.

    Example:
        >>> check_momentum("sgd", 0.9, "settings")
    """
    if momentum and not OPTIMIZERS[name].momentum:
        takers = either(f'"{one}"' for one, entry in OPTIMIZERS.items() if entry.momentum)
        raise ConfigError(
            f"momentum is set in {where}, and optimizer {name!r} takes none",
            help=f"set optimizer = {takers}, or leave momentum out",
        )
