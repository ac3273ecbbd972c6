"""``lrdiff bench ab`` and ``lrdiff bench calibrate``: two sides of one registered case, measured in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from lrdiff_bench.measure import screen
from lrdiff_bench.measure.conditions import cpu_list, warn_of_load
from lrdiff_bench.measure.engine import store
from lrdiff_bench.measure.engine.calibration import calibration_of, store_calibration
from lrdiff_bench.measure.engine.case import Case
from lrdiff_bench.measure.engine.pairs.ab import Side, compare_sides
from lrdiff_bench.measure.engine.pairs.comparison import comparison_of
from lrdiff_bench.measure.engine.pairs.sides import open_sides
from lrdiff_bench.measure.engine.process import Effort
from lrdiff_bench.measure.engine.registry import CASES
from lrdiff_bench.measure.engine.suite import choose_cases
from lrdiff_bench.report.errors import print_error
from lrdiff_bench.report.json import print_json
from lrdiff_bench.report.tables import make_console
from lrdiff_core.errors import ConfigError, UnavailableError

__all__ = ["ab", "calibrate"]

LEAST_PAIRS = 4  # fewer processes say nothing about how processes differ


def calibrate(
    name: str,
    parameters: Sequence[str],
    *,
    processes: int,
    affinity: str | None = None,
    folder: Path | None,
    json: bool,
    quick: bool = False,
) -> int:
    """A long A/A comparison in fresh processes, and the band that follows from it."""
    if processes < LEAST_PAIRS:
        raise ConfigError(
            f"{processes} pairs of processes are too few for an A/A band",
            help=f"write --processes {LEAST_PAIRS} or more; 16 is usual",
        )
    case = _one_case(name, parameters, None)
    side = Side(label="itself", case=case)
    effort = _paired_effort(processes, quick=quick)
    console = make_console(stderr=True)
    warn_of_load(console)
    pairing = compare_sides(
        side, side, effort, control=False, watch=_counter(console, processes), affinity=cpu_list(affinity)
    )
    calibration = calibration_of(pairing, processes=8)
    file = store_calibration(calibration, folder or store.DEFAULT_FOLDER)
    if json:
        print_json(calibration.model_dump())
    else:
        print(
            f"A/A band of this machine ({case.label}, {processes} pairs of processes): "
            f"{100 * calibration.paired:.2f} % measured in turn, {100 * calibration.apart:.2f} % otherwise\n"
            f"kept in {file}; `lrdiff bench compare` judges by it where it is wider than 2 %"
        )
    return 0


def ab(
    ref_a: str,
    ref_b: str,
    name: str,
    parameters: Sequence[str],
    *,
    device: str | None,
    processes: int | None,
    quick: bool,
    repository: Path,
    affinity: str | None,
    folder: Path | None,
    json: bool,
) -> int:
    """Two sides of one case, judged."""
    case = _one_case(name, parameters, device)
    count = (5 if quick else 8) if processes is None else processes
    console = make_console(stderr=True)
    warn_of_load(console)
    with open_sides(ref_a, ref_b, case, repository=repository) as (a, b):
        for side in (a, b):
            reason = CASES[name].unavailable(**side.case.parameters)
            if reason is not None:
                raise UnavailableError(f"{side.label}: {reason}", help="compare what is here")
        pairing = compare_sides(
            a, b, _paired_effort(count, quick=quick), watch=_counter(console, count), affinity=cpu_list(affinity)
        )
    file = store.new_run(folder or store.DEFAULT_FOLDER)
    comparison = comparison_of(pairing, a, b)
    for record in (*pairing.records, comparison):
        store.append_record(file, record)
    if json:
        print_json(
            {
                **comparison.model_dump(mode="json"),
                "ratios": pairing.ratios,
                "file": str(file),
                **screen.outcome_document(pairing.outcome),
            }
        )
    else:
        errors = ["" if r.parity is None else f"{r.parity.error:.1f} eps" if r.parity.held else "wrong"
                  for r in pairing.records]  # fmt: skip
        make_console().print(screen.comparison_table(comparison, errors=errors))
    wrong = [r.case for r in pairing.records if r.parity is not None and not r.parity.held]
    if wrong:
        return print_error(f"too far from float64: {', '.join(wrong)}", "fast but wrong is no result")
    if comparison.verdict == "slower":
        return print_error(f"{b.label} is slower than {a.label} in {case.label}", f"samples are in {file}")
    return 0


def _one_case(name: str, parameters: Sequence[str], device: str | None) -> Case:
    given = list(parameters) if device is None else [*parameters, f"device={device}"]
    if name not in CASES:
        raise ConfigError(f"there is no case {name!r}", help=f"cases: {', '.join(CASES)}")
    found = choose_cases([name], given) if given else [CASES[name].case()]
    if len(found) != 1:
        raise ConfigError(f"{len(found)} cases have these parameters", help="give each parameter one value")
    if found[0].metric != "time":
        raise ConfigError(f"{name} measures memory, not time", help="compare cases that are timed")
    return found[0]


def _paired_effort(processes: int, *, quick: bool) -> Effort:
    """Many rounds of short blocks, three hundred of a millisecond a group of processes; a quick one a hundred.

    Starting the processes takes longer than the rounds. A block of ten milliseconds is hit by a change of the
    processor's speed or by a neighbour, or is not; in blocks of one, both sides are hit alike (docs/decisions.md).
    """
    return Effort(
        processes=processes,
        samples=100 if quick else 300,
        block_seconds=0.001,
        warmup_seconds=0.2 if quick else 1.0,
        most_seconds=4.0 if quick else 10.0,
    )


def _counter(console: Console, total: int) -> Callable[[int], None]:
    return lambda done: console.print(f"processes {done} of {total}", style="dim")
