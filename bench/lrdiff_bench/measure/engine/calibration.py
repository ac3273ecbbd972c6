"""This machine's own A/A band: how far two measurements of the same code lie apart here."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from lrdiff_bench.measure.engine.ab import Pairing
from lrdiff_bench.measure.engine.record import Part
from lrdiff_bench.measure.engine.store import DEFAULT_FOLDER
from lrdiff_bench.stats.intervals import widening
from lrdiff_bench.stats.verdict import BAND
from lrdiff_core.errors import DataError
from lrdiff_core.files import write_text

__all__ = ["Calibration", "band_for", "calibration_of", "keep_calibration"]

FILE = "calibration.json"
LEVEL = 0.95
DRAWS = 10_000


class Calibration(Part):
    """The A/A band of one machine.

    ``paired`` holds for ``lrdiff bench ab``, where both sides are measured in turn; ``apart`` for ``lrdiff bench
    compare``, where they are not: it comes from the same blocks with the pairs broken up, so what the machine does
    from one day to the next is not in it. Both are relative: 0.02 is 2 %.
    """

    machine: str
    created: str
    case: str
    pairs: int  # of processes
    processes: int  # a comparison was simulated to have
    paired: float
    apart: float


def calibration_of(pairing: Pairing, *, processes: int, seed: int = 0) -> Calibration:
    """Work the band out of one long A/A comparison.

    Comparisons of ``processes`` pairs are drawn from the pairs measured; 95 % of them differ from 1 by less than the
    band, in either direction. It is widened for the few pairs there are, as intervals are.

    Args:
        pairing: of a side with itself.
        processes: that later comparisons have.
        seed: of the draws.
    """
    a, b = pairing.records
    generator = np.random.default_rng(seed)
    paired = np.array([np.median(np.log(one)) for one in pairing.ratios])
    apart = [np.array([np.median(np.log(one)) for one in record.by_process()]) for record in (a, b)]
    count = len(paired)
    drawn = paired[generator.integers(0, count, (DRAWS, processes))].mean(axis=1)
    sides = [side[generator.integers(0, count, (DRAWS, processes))].mean(axis=1) for side in apart]
    return Calibration(
        machine=a.machine.id,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        case=a.case,
        pairs=count,
        processes=processes,
        paired=_band(drawn * widening(count)),
        apart=_band((sides[1] - sides[0]) * widening(count)),
    )


def keep_calibration(calibration: Calibration, folder: Path = DEFAULT_FOLDER) -> Path:
    """Write it beside the runs, in place of the machine's last one."""
    others = [one for one in _read(folder) if one.machine != calibration.machine]
    documents = [one.model_dump() for one in (*others, calibration)]
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / FILE, json.dumps(documents, indent=2) + "\n")
    return folder / FILE


def band_for(machine: str, folder: Path = DEFAULT_FOLDER, *, paired: bool) -> float:
    """The band to judge by: 2 %, or what was calibrated on this machine where that is wider."""
    found = [one.paired if paired else one.apart for one in _read(folder) if one.machine == machine]
    return max([BAND, *found])


def _read(folder: Path) -> list[Calibration]:
    file = folder / FILE
    if not file.is_file():
        return []
    try:
        return [Calibration(**one) for one in json.loads(file.read_text(encoding="utf-8"))]
    except (ValueError, TypeError) as problem:
        raise DataError(f"{file} is damaged", help="remove it and run `lrdiff bench calibrate`") from problem


def _band(logs: Sequence[float] | np.ndarray) -> float:
    return math.expm1(float(np.quantile(np.abs(logs), LEVEL)))
