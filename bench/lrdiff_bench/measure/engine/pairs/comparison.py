"""The verdict of a comparison as a record: ratio, interval, verdict, both clocks, and what it was measured beside."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal
from uuid import uuid4

from pydantic import ValidationError

from lrdiff_bench.measure.engine.pairs.ab import Pairing, Side
from lrdiff_bench.measure.engine.pairs.judge import ClockOutcome
from lrdiff_bench.measure.engine.record import Part, Record
from lrdiff_bench.stats.verdict import Verdict
from lrdiff_core.errors import DataError

__all__ = ["ClockSays", "Comparison", "SideOf", "comparison_of", "is_comparison", "parse_comparison"]

FORMAT: Literal["lrdiff.bench.comparison"] = "lrdiff.bench.comparison"


class SideOf(Part):
    """One side: its label and commit, the record with its samples, and its median by either clock in seconds a step."""

    label: str
    commit: str | None
    dirty: bool
    record: str  # id
    wall: float
    processor: float | None


class ClockSays(Part):
    """What one clock says. An end of an interval that is None is infinite: one process cannot tell."""

    ratio: float
    low: float
    high: float | None
    verdict: Verdict
    noise: float  # spread of the pairs
    same_ratio: float | None  # of a against itself
    same_band: float | None  # how far the same code differs from itself, in 95 of 100


class Comparison(Part):
    """``b`` judged against ``a`` in one case, on one machine, in one run.

    Example:
        >>> sorted(set(Comparison.model_fields) & {"ratio", "low", "high", "verdict", "wall", "processor"})
        ['high', 'low', 'processor', 'ratio', 'verdict', 'wall']
    """

    format: Literal["lrdiff.bench.comparison"] = FORMAT
    schema_version: Literal[1] = 1
    id: str
    created: str  # ISO 8601, UTC
    case: str
    a: SideOf
    b: SideOf
    clock: Literal["wall", "processor"]  # that judged
    why: str
    ratio: float
    low: float
    high: float | None
    level: float
    band: float
    verdict: Verdict
    doubt: str | None
    wall: ClockSays
    processor: ClockSays | None
    processes: int
    rounds: int
    more_processes: int | None
    minutes: float | None  # that settling it would take
    seconds: float  # that it took
    load: float | None  # of the machine, before
    machine: str

    @property
    def judged(self) -> ClockSays:
        """What the clock that judged says."""
        return self.processor if self.clock == "processor" and self.processor is not None else self.wall


def comparison_of(pairing: Pairing, a: Side, b: Side) -> Comparison:
    """Write a pairing down.

    Args:
        pairing: as measured.
        a, b: its sides.
    """
    judgement, outcome, (of_a, of_b) = pairing.judgement, pairing.outcome, pairing.records
    ratio = outcome.ratio
    return Comparison(
        id=uuid4().hex,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        case=of_b.case,
        a=_side(of_a, a),
        b=_side(of_b, b),
        clock=judgement.clock,
        why=judgement.why,
        ratio=ratio.estimate,
        low=ratio.low,
        high=_finite(ratio.high),
        level=ratio.level,
        band=outcome.band,
        verdict=outcome.verdict,
        doubt=judgement.doubt,
        wall=_says(judgement.wall),
        processor=None if judgement.processor is None else _says(judgement.processor),
        processes=outcome.processes,
        rounds=outcome.values // 2,  # forwards and backwards, a pair each
        more_processes=outcome.more_processes,
        minutes=pairing.minutes,
        seconds=pairing.seconds * outcome.processes,
        load=of_a.conditions.load,
        machine=of_a.machine.id,
    )


def is_comparison(line: str | bytes) -> bool:
    """Whether a line of a run is a comparison, not a record.

    Example:
        >>> is_comparison('{"format":"lrdiff.bench.comparison"}'), is_comparison(b'{"format":"lrdiff.bench.record"}')
        (True, False)
    """
    text = line.encode() if isinstance(line, str) else line
    return FORMAT.encode() in text[: len(FORMAT) + 20]


def parse_comparison(line: str | bytes, *, where: str) -> Comparison:
    """Read a comparison.

    Raises:
        DataError: no JSON, or with fields unknown or missing.
    """
    try:
        return Comparison.model_validate_json(line)
    except ValidationError as problem:
        first = problem.errors(include_url=False)[0]
        raise DataError(
            f"{where} holds no comparison: {'.'.join(map(str, first['loc']))}: {first['msg']}",
            help="use the lrdiff that wrote it, or remove the file and compare again",
        ) from problem


def _side(record: Record, side: Side) -> SideOf:
    return SideOf(
        label=side.label,
        commit=record.code.commit,
        dirty=record.code.dirty,
        record=record.id,
        wall=record.median,
        processor=record.processor_median,
    )


def _says(one: ClockOutcome) -> ClockSays:
    ratio = one.outcome.ratio
    return ClockSays(
        ratio=ratio.estimate,
        low=ratio.low,
        high=_finite(ratio.high),
        verdict=one.outcome.verdict,
        noise=one.noise,
        same_ratio=None if one.control is None else one.control.ratio.estimate,
        same_band=None if one.same is None else _finite(one.same),
    )


def _finite(value: float) -> float | None:
    return value if value < 1e300 else None
