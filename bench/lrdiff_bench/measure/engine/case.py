"""What is measured: a case, and the workload it builds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, NamedTuple

__all__ = ["Case", "Metric", "Parity", "Workload"]

Metric = Literal["time", "memory"]


def _nothing() -> None:
    pass


class Parity(NamedTuple):
    """How far a result was from float64, and how far it may be, both in float32 eps at the scale of the result."""

    error: float
    budget: float

    @property
    def held(self) -> bool:
        """False also where the error is NaN.

        Example:
            >>> Parity(3.0, 8.0).held, Parity(float("nan"), 8.0).held
            (True, False)
        """
        return self.error <= self.budget


class Workload(NamedTuple):
    """What a case is made of once it is built.

    Args:
        step: what is timed.
        reset: restores the state that steps change, untimed: without it an optimizer that is stepped on fixed
            gradients drifts into denormal numbers.
        before: called before every step, untimed: the forward and backward pass of a training loop, say; steps are then
            timed one by one.
        sync: waits for whatever the step has begun; the device named below is waited for in any case.
        device: "cpu", "cuda" or "mps"; decides which clocks time a block.
        facts: what a reader of the numbers wants to know: implementation flags, numbers of groups, tensors, parameters.
        parity: steps from the reset state and says how far the result was from float64, so that fast but wrong
            cannot pass; untimed. It must not step once more than it needs.
    """

    step: Callable[[], object]
    reset: Callable[[], object] = _nothing
    sync: Callable[[], object] = _nothing
    device: str = "cpu"
    facts: Mapping[str, object] = MappingProxyType({})
    parity: Callable[[], Parity] | None = None
    before: Callable[[], object] | None = None


@dataclass(frozen=True, kw_only=True)
class Case:
    """One thing to measure.

    Args:
        name: of the case, the same over all parameters.
        parameters: what this one was built with; recorded, and part of the label.
        version: changes when numbers taken before can no longer be compared with those taken after.
        factory: builds the workload; called once a process, with the threads already pinned.
        metric: "time" of a step, or "memory": the peak of a process of its own.
        threads: torch's intra-op threads that it wants.
        module: that registers it, for a measuring process to import; empty where only this process can build it.

    Example:
        >>> Case(name="step", parameters={"rates": 2}, version="1", factory=lambda: Workload(lambda: None)).label
        'step[rates=2]'
    """

    name: str
    parameters: Mapping[str, object] = field(default_factory=dict)
    version: str
    factory: Callable[[], Workload]
    metric: Metric = "time"
    threads: int = 1
    module: str = ""

    @property
    def label(self) -> str:
        """Name and parameters in one word."""
        inside = ",".join(f"{key}={value}" for key, value in self.parameters.items())
        return f"{self.name}[{inside}]" if inside else self.name
