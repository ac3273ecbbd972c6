"""``lrdiff audit``: somebody's training script, run unchanged, and what it really did with its rates."""

from __future__ import annotations

import contextlib
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from lrdiff_bench.system.factory import their_fault
from lrdiff_bench.system.script import as_main
from lrdiff_core.audit import Report, audit
from lrdiff_core.errors import InputError

__all__ = ["audit_script"]


def audit_script(script: Path, arguments: Sequence[str] = (), *, every: int = 50, quiet: bool = False) -> Report:
    """Run a script as ``python SCRIPT ARGS`` does, under audit.

    Args:
        script: a Python file.
        arguments: its own.
        every: looks at every so many steps.
        quiet: what it prints goes to stderr.

    Raises:
        InputError: there is no such file, or the script fails.
    """
    if not script.is_file():
        raise InputError(f"there is no script {script}", help="write the path of a Python file: lrdiff audit train.py")
    prints = contextlib.redirect_stdout(sys.stderr) if quiet else contextlib.nullcontext()
    with as_main(str(script), arguments, script.resolve().parent), prints, audit(every=every) as report:
        try:
            runpy.run_path(str(script), run_name="__main__")
        except SystemExit as end:
            if end.code not in (None, 0):
                raise InputError(
                    f"{script} ended with status {end.code}", help="make sure that it runs by itself: python SCRIPT"
                ) from None
        except Exception as problem:
            raise their_fault(str(script), problem) from problem
    return report.report
