"""What the export makes of the architectures that people ship: converted, verified, in parity, at what cost.

``python -m benchmarks.export_models [--only NAME] [--out FILE.md] [--record FILE.json]`` runs each model of
:data:`benchmarks.export_architectures.ARCHITECTURES` in three processes of their own, one after the other: plain
``torch.onnx.export``, the whole export of this project, and the parity check in ONNX Runtime. Seconds are of processor
time, one thread, without those of imports; memory is the peak of the process, Python and torch included.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from lrdiff_bench.report.page import as_given, render
from lrdiff_bench.report.record import PageFiles, add_page_options, read_record
from lrdiff_bench.system.machine import provenance
from lrdiff_bench.system.memory import peak_resident_bytes

__all__ = ["Finding", "find", "page"]

MODELS: Mapping[str, Any] = {"format": "lrdiff.export_models", "version": 1}
SECONDS = 300  # of processor time for one process
MEMORY = 8 * 2**30  # bytes of its data


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one process found of one model.

    Attributes:
        done: whether it was converted, verified or in parity.
        seconds: of processor time, by what they were spent on.
        peak: memory of the process, in bytes.
        why: it was not done, in one line.
    """

    done: bool
    seconds: dict[str, float]
    peak: int
    why: str = ""


def _plain(name: str) -> dict[str, float]:
    """torch's exporter by itself, told which dimensions are free as ours is."""
    import torch

    from benchmarks.export_architectures import ARCHITECTURES

    one = ARCHITECTURES[name]
    module, batched = one.module(), one.options.get("batched", True)
    example = {key: torch.tensor(rows[:2] if batched else rows[0]) for key, rows in one.rows.items()}
    axes = one.options.get("dynamic_axes", {})
    free = {key: {**({0: "batch"} if batched else {}), **axes.get(key, {})} for key in example}
    dims = {label: torch.export.Dim(label) for shape in free.values() for label in shape.values()}
    by_name = len(one.outputs) > 0 and isinstance(_arguments(one, example), dict)
    begun = time.process_time()
    program = torch.onnx.export(
        module,
        () if by_name else tuple(example.values()),
        kwargs=example if by_name else None,
        dynamo=True,
        verbose=False,
        dynamic_shapes=_shapes(module, {key: _with(dims, named) for key, named in free.items()}, by_name),
    )
    assert program is not None
    program.model_proto.SerializeToString()
    spent = time.process_time() - begun
    for value, named in zip(program.model.graph.inputs, free.values(), strict=True):
        if fixed := [named[axis] for axis in named if isinstance((value.shape or ())[axis], int)]:
            raise ValueError(f"the file holds {fixed[0]} fixed at that of the example")
    return {"convert": spent}


def _with(dims: dict[str, Any], named: dict[int, str]) -> dict[int, Any]:
    return {axis: dims[label] for axis, label in named.items()}


def _arguments(one: Any, example: dict[str, Any]) -> Any:
    """By name where the first architecture of ``transformers`` needs it, else by position."""
    return example if "input_ids" in example else tuple(example.values())


def _shapes(module: Any, free: dict[str, Any], by_name: bool) -> Any:
    import inspect

    if by_name:
        return free
    shapes = tuple(free.values())
    kinds = [one.kind for one in inspect.signature(module.forward).parameters.values()]
    return (shapes,) if inspect.Parameter.VAR_POSITIONAL in kinds else shapes


def _ours(name: str) -> dict[str, float]:
    import torch

    from benchmarks.export_architectures import ARCHITECTURES
    from lrdiff_export import export

    one = ARCHITECTURES[name]
    batched = one.options.get("batched", True)
    example = {key: torch.tensor(rows[:2] if batched else rows[0]) for key, rows in one.rows.items()}
    given = _arguments(one, example)
    names = None if isinstance(given, dict) else tuple(one.rows)
    rows = dict(one.rows) if isinstance(given, dict) else tuple(one.rows.values())
    with tempfile.TemporaryDirectory() as folder, mock.patch("time.perf_counter", time.process_time):
        report = export(
            one.module(),
            given,
            out=Path(folder) / "model.onnx",
            rows=rows,
            input_names=names,
            output_names=one.outputs,
            **one.options,
        )
    return dict(report.seconds)


def _parity(name: str) -> dict[str, float]:
    import torch

    from benchmarks.export_architectures import ARCHITECTURES
    from lrdiff_core.errors import CheckFailed
    from lrdiff_export import check_subjects, subject_of_module
    from lrdiff_export.model.prepared import prepare

    one = ARCHITECTURES[name]
    begun = time.process_time()
    prepared = prepare(
        one.module(),
        _arguments(one, {key: torch.tensor(rows[:2]) for key, rows in one.rows.items()}),
        input_names=None if "input_ids" in one.rows else tuple(one.rows),
        output_names=one.outputs,
        **one.options,
    )
    subject = subject_of_module(prepared, tuple(one.rows.values()))
    report = check_subjects({name: subject}, backends=["eager", "onnxruntime"])[name]
    for result in report.results:
        if result.status != "agrees":
            raise CheckFailed(f"{result.backend}: {result.status}: {result.reason}", help="")
    return {"parity": time.process_time() - begun}


_FORK = multiprocessing.get_context("fork")
TASKS: dict[str, Callable[[str], dict[str, float]]] = {"plain": _plain, "ours": _ours, "parity": _parity}


def _child(task: str, name: str) -> Finding:
    """Run in this process, which has been started for it."""
    import logging
    import resource
    import warnings

    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    warnings.simplefilter("ignore")
    seconds: dict[str, float] = {}
    why = ""
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            seconds = TASKS[task](name)
    except Exception as problem:  # noqa: BLE001 - that it fails is the finding
        root: BaseException = problem
        while task == "plain" and root.__cause__ is not None:
            root = root.__cause__
        lines = str(root).strip().splitlines() or [""]
        why = f"{type(root).__name__}: {lines[0]}"
    return Finding(done=not why, seconds=seconds, peak=peak_resident_bytes(), why=why)


def find(task: str, name: str) -> Finding:
    """Run one task on one model in a process of its own, forked when nothing but imports has been done."""
    receive, send = _FORK.Pipe(duplex=False)
    process = _FORK.Process(target=lambda: send.send(_child(task, name)))
    process.start()
    send.close()
    try:
        found: Finding = receive.recv()
    except EOFError:  # it was stopped
        found = Finding(done=False, seconds={}, peak=0, why=f"ended by a limit: {SECONDS} s, {MEMORY / 2**30:.0f} GiB")
    process.join()
    return found


def _warm_up() -> None:
    """Import and register everything that conversions share, so that no model pays for it."""
    import torch

    from lrdiff_export import convert_to_onnx

    torch.set_num_threads(1)
    convert_to_onnx(torch.nn.Linear(2, 1), example=torch.zeros(2, 2))


def page(document: Mapping[str, Any]) -> str:
    """The page of docs/results."""
    found = {row["model"]: {task: Finding(**row[task]) for task in TASKS if task in row} for row in document["rows"]}
    lines = [
        "# Architectures that people ship",
        "",
        render("written_by.md", **document).rstrip(),
        "- one thread",
        "",
        "Each model has random weights and is run in a process of its own for each column. *plain* is "
        "`torch.onnx.export`, told the\nsame free dimensions; *convert* and *verify* are the two halves of "
        "`lrdiff_export.export`, golden vectors included. Seconds are\nof processor time, imports apart; memory is the "
        "peak of the process.",
        "",
        "| model | plain | plain, s | converted | verified | parity | convert, s | verify, s | parity, s | GiB, plain "
        "| GiB |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    reasons = []
    for name, by_task in found.items():
        plain, ours, parity = (by_task[task] for task in TASKS)
        converted = ours.done or "verification" in ours.why
        cells = [
            name,
            _sign(plain.done),
            _seconds(plain, "convert"),
            _sign(converted),
            _sign(ours.done),
            _sign(parity.done),
            *(_seconds(ours, part) for part in ("convert", "verify")),
            _seconds(parity, "parity"),
            *(f"{one.peak / 2**30:.2f}" if one.peak else "" for one in (plain, ours)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
        reasons += [f"- {name}, {task}: {one.why}" for task, one in by_task.items() if one.why]
    total = len(found)
    counts = {task: sum(one[task].done for one in found.values()) for task in TASKS}
    lines += [
        "",
        f"Of {total} models torch converts {counts['plain']}; {counts['ours']} are converted and verified, and "
        f"{counts['parity']} are in parity.",
    ]
    if reasons:
        lines += ["", "Not done, and why:", "", *reasons]
    return "\n".join(lines) + "\n"


def _sign(done: bool) -> str:
    return "yes" if done else "no"


def _seconds(one: Finding, part: str) -> str:
    return f"{one.seconds[part]:.1f}" if part in one.seconds else ""


def main(arguments: list[str]) -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", action="append", metavar="NAME", help="models whose names hold this; all by default")
    parser.add_argument("--task", action="append", choices=list(TASKS), help="all three by default")
    add_page_options(parser)
    given = parser.parse_args(arguments)
    files = PageFiles.of(given)
    if files.source is not None:
        files.write(page(read_record(files.source, **MODELS)))
        return 0
    _warm_up()
    from benchmarks.export_architectures import ARCHITECTURES

    where = provenance("onnx", "onnxscript", "onnxruntime", "transformers")
    rows: list[dict[str, Any]] = []
    for name in ARCHITECTURES:
        if given.only and not any(part in name for part in given.only):
            continue
        rows.append({"model": name})
        for task in given.task or TASKS:
            one = find(task, name)
            rows[-1][task] = asdict(one)
            spent = ", ".join(f"{part} {seconds:.1f} s" for part, seconds in one.seconds.items())
            print(f"{name:<34} {task:<7} {spent or one.why} ({one.peak / 2**30:.2f} GiB)", flush=True)
        if given.task:
            continue  # a page has all three
        # After each model: the whole takes a quarter of an hour.
        files.write(page(files.keep({**MODELS, "command": as_given(), "quick": False, **where, "rows": rows})))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
