"""What a check of training parity says: one row a lane, the budgets of each arithmetic, and the matrix of both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lrdiff_export.records import json_ready
from lrdiff_export.training.steps import OneStep
from lrdiff_export.verify.backend_result import AGREES, DIFFERS, REFUSED

__all__ = ["Budgets", "Departure", "LaneResult", "SameBits", "TrainingReport"]


@dataclass(frozen=True, kw_only=True)
class Departure:
    """The first step that left the budget.

    Attributes:
        step: from 1; 0 means before the first update.
        parameter: the tensor furthest beyond its budget there, or ``loss``.
        group: its group, from 0; None for the loss and the probe.
        rate: of that group.
        error, allowed: in eps units; of a single step as shares of its way.
        meaning: what its step looks like, in one line.
        one_step: whether it was seen in a single step from the lane's own state, not in the trajectory.
    """

    step: int
    parameter: str
    group: int | None
    rate: float | None
    error: float
    allowed: float
    meaning: str
    one_step: bool = False


@dataclass(frozen=True, kw_only=True)
class SameBits:
    """Whether two trainings gave the same weights and losses, bit for bit.

    Attributes:
        other: implementation it is compared with; None for a second run of itself.
        expected: whether it has to be so: the same arithmetic in the same order.
        equal: whether it is.
        step, parameter: where bits differ first.
    """

    other: str | None
    expected: bool
    equal: bool
    step: int | None = None
    parameter: str | None = None


@dataclass(frozen=True, kw_only=True)
class LaneResult:
    """One row of the matrix.

    Attributes:
        implementation, device, arithmetic: what was promised.
        status: ``agrees``, ``differs``, ``refused`` or ``unavailable``.
        reason: why it does not agree, in one line; None when it does.
        parameter: the tensor that came closest to its budget, or furthest beyond it; the loss counts as one.
        step: where that was.
        error, allowed: there, in eps units.
        typical, typical_allowed: medians over trained tensors of the largest error, and of the budget at the end:
            what rounding alone moves does not show in them.
        departure: the first step that left the budget.
        one_step: each update judged from the state that the lane was in before it; None where it did not run.
        repeats: whether a second run gives the same bits.
        bits: the same against other implementations on the same device.
        distances: largest error of any tensor by step, in eps units ``[steps]``.
        shares: largest share of its budget that any tensor used, by step ``[steps]``.
        losses: by step ``[steps]``.
        remarks: what else a reader should know.
    """

    implementation: str
    device: str
    arithmetic: str
    status: str
    reason: str | None = None
    parameter: str | None = None
    step: int | None = None
    error: float | None = None
    allowed: float | None = None
    typical: float | None = None
    typical_allowed: float | None = None
    departure: Departure | None = None
    one_step: OneStep | None = None
    repeats: SameBits | None = None
    bits: tuple[SameBits, ...] = ()
    distances: tuple[float, ...] = ()
    shares: tuple[float, ...] = ()
    losses: tuple[float, ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Budgets:
    """What one arithmetic may be wrong by.

    Attributes:
        arithmetic: its name.
        allowed: the largest budget of any weight tensor, by step, in eps units ``[steps]``.
        plain: the same of plain arithmetic's error.
        conditioning: the same of moved float64 trajectories.
        sharpness: the budget after the last step as a share of the way that the weights went, of the median tensor.
        blunt_from: the first step from which on that share is 1 or more: the budget says little there.
        judged: the last step that is judged: after it plain arithmetic itself is not finite as float64 is.
        blind: tensors of which the budget says little at the end, because what moves them is rounding.
    """

    arithmetic: str
    allowed: tuple[float, ...]
    plain: tuple[float, ...]
    conditioning: tuple[float, ...]
    sharpness: float
    blunt_from: int | None
    judged: int
    blind: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TrainingReport:
    """The matrix.

    Attributes:
        job, optimizer, rates: what was trained, and how.
        steps, parameters: how much of it.
        reference: what everything is compared with.
        flags: torch's switches that arithmetic depends on.
        budgets: one an arithmetic.
        results: one a lane, in the order asked for.
        remarks: of the job.
    """

    job: str
    optimizer: str
    rates: str
    steps: int
    parameters: int
    reference: str
    flags: dict[str, Any]
    budgets: tuple[Budgets, ...]
    results: tuple[LaneResult, ...]
    remarks: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether at least one lane agrees and none differs or refused; unavailable ones do not count."""
        statuses = {result.status for result in self.results}
        return AGREES in statuses and not statuses & {DIFFERS, REFUSED}

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; errors that are not finite become None."""
        return {"format": "lrdiff.training_parity", "version": 1, "passed": self.passed, **json_ready(self)}
