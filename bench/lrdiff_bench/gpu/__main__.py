"""The command; see the package."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lrdiff_bench.gpu.record import PARTS, Part, Request, gpu_page, read_rows, writer
from lrdiff_bench.report.json import write_document
from lrdiff_bench.report.page import as_given
from lrdiff_bench.system.machine import provenance
from lrdiff_core.errors import InputError, LrdiffError, UnavailableError
from lrdiff_core.files import write_text

__all__ = ["main", "run_parts"]

FAULT = "fault:"  # begins the line in which a part's process says what stopped it
# What is left out without them, by module.
EXTRAS = {
    "onnxscript": "export to ONNX, so ONNX Runtime on a GPU is not compared",
    "triton": "the Triton kernel, and torch.compile on CUDA",
    "pydantic": "runs from settings (`lrdiff run --device cuda`)",
    "sklearn": "the tables that ship with scikit-learn",
    "polars": "Parquet and Arrow files",
    "xarray": "maps of learning rates",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts and return the exit status: 0, 1 a part failed, 2 usage, 3 no such device here."""
    parser = argparse.ArgumentParser(prog="python -m lrdiff_bench.gpu", description="What needs an accelerator.")
    parser.add_argument("--device", default="auto", choices=["auto", "cuda", "mps", "cpu"])
    parser.add_argument("--quick", action="store_true", help="smallest sizes: to see that everything runs")
    parser.add_argument("--part", action="append", choices=list(PARTS), help="only this one; repeat it")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), metavar="DIR", help="[runs/gpu]")
    # For a part's own process: the module that does it, and where its rows go.
    parser.add_argument("--module", help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.module is not None:
        return _run_here(
            given.module, Request(device=given.device, quick=given.quick, seconds=given.seconds), given.rows
        )
    try:
        return _run_all(given, as_given([__file__, *(sys.argv[1:] if arguments is None else arguments)]))
    except LrdiffError as problem:
        print(f"error: {problem.message}\nhelp: {problem.help}", file=sys.stderr)
        return problem.exit_status
    except KeyboardInterrupt:
        print("error: interrupted\nhelp: nothing was left half-written; start it again when you like", file=sys.stderr)
        return 130


def _run_all(given: argparse.Namespace, command: str) -> int:
    device = _device(given.device)
    try:
        given.out.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise InputError(f"cannot write {given.out}: {problem.strerror}", help="name a folder with --out") from problem
    request = Request(device=device, quick=given.quick)
    document = run_parts([PARTS[name] for name in given.part or PARTS], request, command=command)
    write_document(given.out / "gpu.json", document)
    text = gpu_page(document)
    write_text(given.out / "gpu.md", text)
    print(text)
    print(f"wrote {given.out / 'gpu.json'} and {given.out / 'gpu.md'}")
    return 0 if document["passed"] else 1


def run_parts(parts: Sequence[Part], request: Request, *, command: str) -> dict[str, Any]:
    """Run parts one after the other, each in a process of its own, and return the JSON-ready document.

    Args:
        parts: some of ``PARTS``.
        request: for all of them.
        command: that it was called with.
    """
    before = provenance("numpy", "onnx", "onnxruntime", "triton", device=request.device)
    began = time.monotonic()
    done = []
    for one in parts:
        print(f"{one.title}: at most {one.seconds:.0f} s", file=sys.stderr, flush=True)
        done.append(_run_apart(one, request))
    return {
        "format": "lrdiff.gpu",
        "version": 2,
        "command": command,
        "quick": request.quick,
        "passed": all(part["passed"] for part in done),
        "seconds": time.monotonic() - began,
        **before,
        "missing": [f"{name}: {what}" for name, what in EXTRAS.items() if find_spec(name) is None],
        "parts": done,
    }


def _run_apart(one: Part, request: Request) -> dict[str, Any]:
    """A part in a process of its own: a device error poisons its process, and a time-out ends it."""
    reason = None
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        command = [sys.executable, "-m", "lrdiff_bench.gpu", "--module", one.module, "--device", request.device]
        command += ["--rows", str(rows), "--seconds", str(one.seconds), *(["--quick"] if request.quick else [])]
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            _, errors = process.communicate(timeout=one.seconds)
            if process.returncode:
                reason = _last(errors, process.returncode)
        except subprocess.TimeoutExpired:
            reason = f"took more than its {one.seconds:g} s and was ended"
        finally:
            _end(process)
        found = read_rows(rows)
    failed = [row for row in found if row.result == "failed"]
    return {
        "name": one.name,
        "title": one.title,
        "passed": reason is None and not failed and bool(found),
        "reason": reason or (None if found else "it had nothing to say"),
        "seconds": time.monotonic() - began,
        "allowed_seconds": one.seconds,
        "rows": [{**vars(row), "numbers": dict(row.numbers)} for row in found],
    }


def _run_here(module: str, request: Request, rows: Path) -> int:
    try:
        import_module(module).run(request, writer(rows))
    except Exception as problem:  # noqa: BLE001 - whatever stops a part is a line of the table
        line = next(iter(str(problem).splitlines()), "")
        print(f"{FAULT} {type(problem).__name__}: {line}", file=sys.stderr, flush=True)
        return 1
    return 0


def _end(process: subprocess.Popen[str]) -> None:
    """End a part's process with all that it started."""
    if process.poll() is None:
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.communicate()


def _last(errors: str, status: int) -> str:
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    faults = [line.removeprefix(FAULT).strip() for line in lines if line.startswith(FAULT)]
    return (faults or lines or [f"its process ended with status {status}"])[-1][:300]


def _device(name: str) -> str:
    from lrdiff_core.devices import device_status

    if name == "cpu":
        return name
    wanted = ["cuda", "mps"] if name == "auto" else [name]
    reasons = {one: device_status(one).reason for one in wanted}
    for one, reason in reasons.items():
        if reason is None:
            return one
    absent = "; ".join(f"{one}: {reason}" for one, reason in reasons.items())
    raise UnavailableError(
        f"no accelerator here: {absent}",
        help="see that the checks run: python -m lrdiff_bench.gpu --device cpu --quick",
    )


if __name__ == "__main__":
    sys.exit(main())
