"""This machine's own A/A band: how far two measurements of the same code lie apart here."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from lrdiff_bench.measure.engine.pairs.ab import Pairing
from lrdiff_bench.measure.engine.pairs.judge import WIDEST
from lrdiff_bench.measure.engine.record import Part
from lrdiff_bench.measure.engine.store import DEFAULT_FOLDER
from lrdiff_bench.report.json import write_document
from lrdiff_bench.stats.hierarchical import middles
from lrdiff_bench.stats.intervals import widening
from lrdiff_bench.stats.verdict import BAND
from lrdiff_core.errors import CheckFailed, DataError

__all__ = ["Calibration", "band_for", "calibration_for", "calibration_of", "store_calibration"]

FILE = "calibration.json"
LEVEL = 0.95
# A wider band finds nothing that is worth finding: it was measured beside something else, and is not kept. Sides that
# are not measured in turn differ by more.
WIDEST_APART = 0.25
OLD_DAYS = 30  # machines change: systems are updated, neighbours move in
DRAWS = 10_000


class Calibration(Part):
    """The A/A band of one machine.

    ``paired`` is how far sides lie apart that are measured in turn; it is told, and ``lrdiff bench ab`` measures its
    own. ``apart`` is what ``lrdiff bench compare`` judges by, whose sides are not measured in turn: it comes from the
    same blocks with the pairs broken up, so what the machine does from one day to the next is not in it. Both are
    relative: 0.02 is 2 %.
    """

    machine: str
    created: str
    load: float | None = None  # of the machine before
    case: str
    pairs: int  # of processes
    processes: int  # a comparison was simulated to have
    paired: float
    apart: float

    @property
    def days(self) -> float:
        """Its age."""
        return (datetime.now(UTC) - datetime.fromisoformat(self.created)).total_seconds() / 86400

    def __str__(self) -> str:
        """Band, age and load in one line."""
        age = "today" if self.days < 1 else f"{self.days:.0f} day{'' if round(self.days) == 1 else 's'} ago"
        load = "" if self.load is None else f" at load {self.load:.1f}"
        old = "; that is long ago: measure it again" if self.days > OLD_DAYS else ""
        return f"{100 * self.apart:.1f} %, calibrated {age}{load}{old}"


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
    paired = middles(pairing.ratios)
    apart = [middles(record.by_process()) for record in (a, b)]
    count = len(paired)
    drawn = paired[generator.integers(0, count, (DRAWS, processes))].mean(axis=1)
    sides = [side[generator.integers(0, count, (DRAWS, processes))].mean(axis=1) for side in apart]
    return Calibration(
        machine=a.machine.id,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        load=a.conditions.load,
        case=a.case,
        pairs=count,
        processes=processes,
        paired=_band(drawn * widening(count)),
        apart=_band((sides[1] - sides[0]) * widening(count)),
    )


def store_calibration(calibration: Calibration, folder: Path = DEFAULT_FOLDER) -> Path:
    """Write it beside the runs, in place of the machine's last one.

    Raises:
        CheckFailed: its band is too wide to judge by.
    """
    for band, widest in ((calibration.paired, WIDEST), (calibration.apart, WIDEST_APART)):
        if band > widest:
            raise CheckFailed(
                f"the same code differs by {100 * band:.0f} % from itself here, at load {calibration.load or 0:.1f}",
                help=f"nothing was kept: a band over {100 * widest:.0f} % would call most changes equivalent; "
                "run `lrdiff bench calibrate` again when the machine is quiet",
            )
    others = [one for one in _read(folder) if one.machine != calibration.machine]
    documents = [one.model_dump() for one in (*others, calibration)]
    folder.mkdir(parents=True, exist_ok=True)
    write_document(folder / FILE, documents)
    return folder / FILE


def band_for(machine: str, folder: Path = DEFAULT_FOLDER, *, paired: bool) -> float:
    """The band to judge by: 2 %, or what was calibrated on this machine where that is wider.

    It is never over 10 %, or 25 % for sides that are not measured in turn.
    """
    one = calibration_for(machine, folder)
    found = [] if one is None else [one.paired if paired else one.apart]
    return min(WIDEST if paired else WIDEST_APART, max([BAND, *found]))


def calibration_for(machine: str, folder: Path = DEFAULT_FOLDER) -> Calibration | None:
    """The calibration that is kept of a machine; None where there is none."""
    return next((one for one in _read(folder) if one.machine == machine), None)


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
