"""The matrix of a parity check: one line a backend, and whether all of it holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lrdiff_export.records import json_ready
from lrdiff_export.runtimes.protocol import Facts
from lrdiff_export.verify.compare import Verdict

__all__ = ["AGREES", "DIFFERS", "REFUSED", "UNAVAILABLE", "BackendResult", "ParityReport"]

AGREES = "agrees"  # ran where it should, every output within its budget
DIFFERS = "differs"  # ran, and an output left its budget
REFUSED = "refused"  # is here, and would not run this model, or ran elsewhere than asked
UNAVAILABLE = "unavailable"  # is not here


@dataclass(frozen=True, kw_only=True)
class BackendResult:
    """One line of the matrix.

    Attributes:
        backend: its name in the registry.
        device: where it promises to run.
        dtype: the arithmetic that it promises, or that it said it chose; its errors are in eps of this.
        status: ``agrees``, ``differs``, ``refused`` or ``unavailable``.
        reason: why it does not agree, in one line; None when it does.
        where: which rows, positions and columns of which output are wrong; None where it agrees or is wrong as a whole.
        counts: whether the report fails with it; lower precision counts only where it was asked for by name.
        arithmetic: what it computed in, by its error; None where no arithmetic makes such an error, or it did not run.
        fault: a known fault that explains why it does not agree; None where none does.
        max_error: of the worst output over both runs, in eps units; None when it did not run.
        tolerance: the budget of that output; None when it did not run.
        decisions_flipped: rows whose decision differs from that of float64; None when not asked for, or not run.
        flips_unexplained: those of them whose answer is out of its budget: float64's margin does not explain them.
        bitwise_repeatable: whether a second run gave the same bits.
        batch_invariant: whether rows run one by one gave the same bits as together; None where it takes no single row.
        single_row_error: error of the rows run one by one, in eps units.
        other_errors: errors of further runs by what was run, in eps units: rows in reverse order, up to 10 000 times as
            large, a batch of 4099.
        denormals: ``kept`` or ``flushed``; None below float32, or where the probe did not run.
        facts: what the backend says of the run: versions, threads, switches, provider of how many nodes.
        outputs: one verdict an output.
    """

    backend: str
    device: str
    dtype: str
    status: str
    reason: str | None = None
    where: dict[str, Any] | None = None
    counts: bool = True
    arithmetic: str | None = None
    fault: str | None = None
    max_error: float | None = None
    tolerance: float | None = None
    decisions_flipped: int | None = None
    flips_unexplained: int | None = None
    bitwise_repeatable: bool | None = None
    batch_invariant: bool | None = None
    single_row_error: float | None = None
    other_errors: dict[str, float] = field(default_factory=dict)
    denormals: str | None = None
    facts: Facts = field(default_factory=dict)
    outputs: tuple[Verdict, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """The matrix.

    Attributes:
        reference: what everything is compared with.
        rows: number of rows compared.
        results: one a backend, in the order asked for.
    """

    reference: str
    rows: int
    results: tuple[BackendResult, ...]

    @property
    def passed(self) -> bool:
        """Whether at least one backend that counts agrees and none of them differs or refused.

        Unavailable ones do not count.

        Example:
            >>> agrees = BackendResult(backend="eager", device="cpu", dtype="float32", status=AGREES)
            >>> absent = BackendResult(backend="cuda", device="cuda", dtype="float32", status=UNAVAILABLE)
            >>> [ParityReport(reference="", rows=1, results=rows).passed for rows in ((agrees, absent), (absent,))]
            [True, False]
        """
        statuses = {result.status for result in self.results if result.counts}
        return AGREES in statuses and not statuses & {DIFFERS, REFUSED}

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; errors that are not finite become None."""
        return {"passed": self.passed, **json_ready(self)}
