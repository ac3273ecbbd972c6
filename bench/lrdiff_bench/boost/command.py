"""What ``lrdiff boost`` does: run the script, and say what became of its optimizers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

from lrdiff_bench.boost.record import Record
from lrdiff_bench.boost.replace import Boosting, when_imported
from lrdiff_bench.boost.report import Report, report_of
from lrdiff_bench.report.errors import WatchedOutput, print_error
from lrdiff_bench.system.script import run_module, run_script
from lrdiff_core.errors import InputError
from lrdiff_core.processes.launch import launched

__all__ = ["boost_script", "boosted"]


def boost_script(given: Sequence[str], *, check: int = 0, estimate: bool = True, json: bool = False) -> int:
    """Run a script with its optimizers stepped by ours; the report goes to stderr, or with ``json`` to stdout.

    Of several processes that torchrun started, each boosts its own, and the first reports.

    Args:
        given: the script, or ``-m`` and a module, and then its own arguments.
        check: so many steps of each optimizer are compared with torch's.
        estimate: time torch's own step on copies afterwards.
        json: one document on stdout; what the script prints there goes to stderr.

    Returns:
        The script's own exit status; 1 where that is 0 and a check failed.

    Raises:
        InputError: there is no such script or module.
    """
    launch = launched()
    speaks = launch is None or launch.rank == 0
    report = boosted(given, check=check, estimate=estimate and speaks, quiet=json)
    if speaks and json:
        from lrdiff_bench.report.json import print_json

        print_json(report.to_dict())
    elif speaks:
        from lrdiff_bench.report.tables import line, make_console

        first, *others = report.lines()
        console = make_console(stderr=True)
        print(f"lrdiff boost: {first}", file=sys.stderr)
        for text in others:
            line(console, text)
        sys.stderr.flush()
    failed = report.failed
    if failed is not None and failed.checked is not None and not report.status:
        return print_error(
            f"{failed.name} differs from torch's own step: {failed.checked.where}",
            "run the script without lrdiff boost, and report this with its optimizer's options",
        )
    return report.status


def boosted(given: Sequence[str], *, check: int = 0, estimate: bool = True, quiet: bool = False) -> Report:
    """Run a script under :class:`~lrdiff_bench.boost.replace.Boosting` and report on its optimizers.

    Arguments and errors as for :func:`boost_script`; ``quiet`` sends what it prints to stderr.
    """
    target, *arguments = given
    if target.startswith("-") and (target != "-m" or not arguments):
        raise InputError(
            f"there is no option {target}" if target != "-m" else "-m needs a module",
            help="options come before the script: lrdiff boost [OPTIONS] train.py, or -m pkg.train; see --help",
        )
    boosting = Boosting(check=check)
    stop = when_imported("torch", boosting.install)
    before = sys.stdout
    try:
        # A script may look at its output more closely than a document's guard lets it.
        with redirect_stdout(sys.stderr if quiet else before.stream if isinstance(before, WatchedOutput) else before):
            if target == "-m":
                status = run_module(arguments[0], arguments[1:])
            else:
                status = run_script(Path(target), arguments)
        report = report_of(boosting.records, status)
        if estimate and not status and not check and report.share is not None:
            report = replace(report, slower=_slower(report.replaced))
        return report
    finally:
        stop()
        boosting.remove()


def _slower(records: Sequence[Record]) -> float | str:
    from lrdiff_bench.boost.estimate import ratio_of_steps

    return ratio_of_steps(records)
