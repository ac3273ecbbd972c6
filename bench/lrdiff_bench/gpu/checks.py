"""The tests that are marked ``accelerator``, run by pytest, one row a test that failed and one for all."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from importlib.util import find_spec
from pathlib import Path

from lrdiff_bench.gpu.record import GpuRow, Reporter, Request

__all__ = ["marked_files", "run"]

MARKS = ("pytest.mark.accelerator", "accelerator_setup")
# Compiling takes minutes, and the parts before have done it.
ELSEWHERE = "not compiled and not autotune and not overhead and not every_kind_of_model_agrees"


def marked_files(root: Path) -> list[Path]:
    """Return the test files that use the mark: others would import what is not installed here."""
    files = sorted(root.glob("tests/**/test_*.py"))
    return [file for file in files if any(mark in file.read_text(encoding="utf-8") for mark in MARKS)]


def run(request: Request, report: Reporter) -> None:
    """Run them, on whatever device is here.

    Args:
        request: with ``cpu`` all of them skip, and the reason is told.
        report: takes the rows.
    """
    root = Path(__file__).parents[3]
    files = marked_files(root)
    if find_spec("pytest") is None or not files:
        reason = (
            "pytest is not installed" if find_spec("pytest") is None else f"no tests beside the code in {root.name}"
        )
        report(GpuRow(what="pytest -m accelerator", result="unavailable", note=reason))
        return
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "report.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-m",
            "accelerator",
            "-k",
            ELSEWHERE,
            "-p",
            "no:cacheprovider",
            "-o",
            "addopts=",
        ]
        command += ["-o", "filterwarnings=default", f"--junit-xml={results}", *map(str, files)]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
        if not results.exists():
            last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["pytest said nothing"]
            report(GpuRow(what="pytest -m accelerator", result="failed", note=last[0][:200]))
            return
        _report_all(results, report)


def _report_all(results: Path, report: Reporter) -> None:
    cases = list(ElementTree.parse(results).getroot().iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = [skip.get("message", "") for case in cases if (skip := case.find("skipped")) is not None]
    for case in failed:
        fault = case.find("failure")
        fault = case.find("error") if fault is None else fault
        message = "" if fault is None else (fault.get("message") or "").splitlines()[0][:200]
        report(GpuRow(what=f"{case.get('classname')}::{case.get('name')}", result="failed", note=message))
    passed = len(cases) - len(failed) - len(skipped)
    reasons = "; ".join(sorted(set(skipped)))
    report(
        GpuRow(
            what="pytest -m accelerator",
            result="failed" if failed else "passed" if passed else "unavailable",
            value=f"{passed} passed, {len(failed)} failed, {len(skipped)} skipped",
            note=f"skipped: {reasons}" if reasons else "",
            numbers={"passed": passed, "failed": len(failed), "skipped": len(skipped)},
        )
    )
