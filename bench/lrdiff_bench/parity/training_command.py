"""``lrdiff parity --training``: the same training in every lane here, judged against float64 step by step."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lrdiff_bench.parity.training_page import training_parity_page
from lrdiff_bench.parity.training_pictures import draw_training_parity
from lrdiff_bench.parity.training_screen import draw_report
from lrdiff_bench.report.json import print_json, write_document
from lrdiff_bench.report.page import as_given
from lrdiff_bench.report.record import NO_FILES, PageFiles
from lrdiff_bench.report.tables import line, make_console
from lrdiff_bench.run.use.open_run import open_run
from lrdiff_bench.system.arrays import read_arrays
from lrdiff_bench.system.factory import is_factory, load_model, training_job, user_code
from lrdiff_bench.system.machine import provenance
from lrdiff_bench.system.run_folder import make_folder
from lrdiff_bench.system.settings import gather
from lrdiff_core import __version__, set_up
from lrdiff_core.config import RunConfig
from lrdiff_core.devices import device_status
from lrdiff_core.errors import ConfigError, DataError, UnavailableError
from lrdiff_core.files import sealed, write_text
from lrdiff_core.loop import loss_function
from lrdiff_core.optimizers import OPTIMIZERS
from lrdiff_core.seeds import make_generator
from lrdiff_core.text import visible
from lrdiff_export.training import (
    ARITHMETICS,
    IMPLEMENTATIONS,
    Lane,
    LaneResult,
    TrainingJob,
    check_training_parity,
    find_lanes,
    plan_groups,
)

__all__ = ["TRAINING_PARITY", "choose_lanes", "find_job", "run_job", "training_parity", "write_training_parity"]

TRAINING_PARITY: Mapping[str, Any] = {"format": "lrdiff.training_parity", "version": 1}
COURSES, DRAWN = ("distances", "shares", "allowed", "conditioning", "plain"), 4  # by step; digits
MOST_STEPS = 400  # of a run; longer ones are compared over their first steps
# Other arithmetics are compared in the implementations that differ there.
_OTHER = ("torch", "torch-foreach", "torch-fused", "ours")


def training_parity(
    sources: Sequence[str],
    *,
    backends: str | None = None,
    data: Path | None = None,
    out: Path | None = None,
    files: PageFiles = NO_FILES,
    json: bool = False,
) -> int:
    """Compare trainings, draw what came of it, and return the exit status.

    Args:
        sources: run folders, presets, TOML files, ``MODULE:FACTORY``; none for the preset ``seed``.
        backends: implementations, devices and arithmetics, with commas between them; left out, all that is here.
        data: rows for a single ``MODULE:FACTORY``: ``.npz``, one array an input, and ``targets``.
        out: a folder for ``training-parity.json``, a page and a picture a source.
        files: a record to keep in place of ``training-parity.json``, or one to read in place of training.
        json: one JSON document on stdout, and nothing else there.

    Raises:
        ConfigError, DataError, InputError, CheckpointError: a source, a name or the rows cannot be used.
        UnavailableError: nothing of what was asked for is here.
    """
    if data is not None and (len(sources) != 1 or not is_factory(sources[0])):
        raise ConfigError("--data goes with one MODULE:FACTORY", help="a run brings its own rows")
    lanes = choose_lanes(None if backends is None else _names(backends))
    if out is not None:
        make_folder(out)
    console = make_console(stderr=json)
    document = files.document(
        lambda: _measured(sources, data, lanes, lambda report: draw_report(console, report)), **TRAINING_PARITY
    )
    for report in document["reports"] if files.source is not None else ():
        draw_report(console, report)
    if out is not None:
        for file in write_training_parity(out, document):
            line(console, f"wrote {file}")
        if files.record is None and files.source is None:
            write_document(out / "training-parity.json", sealed(document))
    if json:
        print_json(document)
    rows = [row for report in document["reports"] for row in report["results"]]
    if all(row["status"] == "unavailable" for row in rows):
        said = "; ".join(dict.fromkeys(f"{row['implementation']}: {row['reason']}" for row in rows))
        raise UnavailableError(f"not available here: {said}", help="see lrdiff doctor, or name others with --backends")
    return 0 if document["passed"] else 1


def _measured(
    sources: Sequence[str], data: Path | None, lanes: Sequence[Lane], show: Callable[[Mapping[str, Any]], object]
) -> dict[str, Any]:
    made, reports = provenance(), []
    for job in [find_job(source, data) for source in sources or ["seed"]]:

        def tell(lane: Lane, result: LaneResult, job: TrainingJob = job) -> None:
            if sys.stderr.isatty():
                print(visible(f"{job.name}: {lane}: {result.status}"), file=sys.stderr)

        with user_code():
            reports.append(_short(check_training_parity(job, lanes, on_lane=tell).to_dict()))
        show(reports[-1])
    return {
        "passed": all(report["passed"] for report in reports),
        "command": as_given(),
        "commit": made["commit"],
        "lrdiff": __version__,
        "python": platform.python_version(),
        "machine": made["machine"],
        "reports": reports,
    }


def write_training_parity(out: Path, document: Mapping[str, Any]) -> list[Path]:
    """Write the page of a document, and its pictures, into a folder; returns the pictures."""
    drawn: list[Path] = []
    for number, report in enumerate(document["reports"], start=1):
        stem = out / ("training-parity" if len(document["reports"]) == 1 else f"training-parity-{number}")
        drawn += draw_training_parity(report, stem)
    guide = (out / ".." / "guide" / "training-parity.md").is_file()
    write_text(out / "training-parity.md", training_parity_page({**document, "guide": guide}))
    return drawn


def _short(report: Mapping[str, Any]) -> dict[str, Any]:
    """The report with the courses that are only drawn in as many digits as a picture has."""

    def shorter(row: Mapping[str, Any]) -> dict[str, Any]:
        return {
            key: [None if one is None else float(f"{one:.{DRAWN}g}") for one in value] if course else value
            for key, value in row.items()
            for course in [key in COURSES and isinstance(value, list)]
        }

    return {**report, **{key: [*map(shorter, report[key])] for key in ("results", "budgets")}}


def _names(text: str) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise ConfigError(
            "--backends names none",
            help=f"write some of: {', '.join([*IMPLEMENTATIONS, *ARITHMETICS])}, cpu, cuda, mps",
        )
    return names


def choose_lanes(wanted: Sequence[str] | None = None) -> list[Lane]:
    """Return the lanes to compare; a device that is not here and was not named is one lane, to say why.

    Args:
        wanted: names, as for :func:`~lrdiff_export.training.find_lanes`.

    Raises:
        ConfigError: an unknown name.

    Example:
        >>> [str(lane) for lane in choose_lanes(["ours", "cpu"])]
        ['ours on cpu in float32']
    """
    here = [name for name in ("cpu", "cuda", "mps") if device_status(name).available]
    away = [name for name in ("cuda", "mps") if name not in here]
    if wanted is not None:
        return find_lanes(wanted, devices=here)
    lanes = find_lanes(devices=here)
    lanes += find_lanes(_OTHER, devices=["cpu"], arithmetics=["float64", "bfloat16"])
    for device in here[1:]:
        others = [name for name in ("bfloat16", "autocast", "tfloat32") if (device, name) != ("mps", "tfloat32")]
        lanes += find_lanes(_OTHER, devices=[device], arithmetics=others)
    return [*lanes, *(Lane(implementation="torch", device=name) for name in away)]


def find_job(source: str, data: Path | None = None) -> TrainingJob:
    """Return what is to be trained.

    Args:
        source: a run folder, a preset, a TOML file, or ``MODULE:FACTORY`` (:mod:`lrdiff_bench.system.factory`).
        data: rows and targets for a module.

    Raises:
        ConfigError, DataError, InputError, CheckpointError: it cannot be used.
    """
    if is_factory(source):
        return _job_of_module(source, data)
    if (Path(source) / "summary.json").is_file():
        return run_job(open_run(Path(source))[2], name=Path(source).name)
    if Path(source).is_dir():
        raise ConfigError(f"{source} is not a run folder", help="name a folder made by `lrdiff run`, or a preset")
    config = gather(source, {})
    return run_job(config, name=config.name)


def run_job(config: RunConfig, *, name: str, steps: int = MOST_STEPS) -> TrainingJob:
    """Return the training of a run from its first step on: its weights, its rows in its order, its rates.

    Args:
        config: the run's settings; the device among them is not looked at.
        name: for people.
        steps: at most so many.
    """
    config = config.model_copy(update={"device": "cpu", "compile": False})
    table = config.load_table()
    setup = set_up(table, config)
    inputs, targets = setup.rows.inputs["train"], setup.rows.targets["train"]
    order = make_generator(setup.seed, "order")  # as in lrdiff_core.loop.fit
    batches = [
        (inputs[rows], targets[rows])
        for _ in range(setup.epochs)
        for rows in torch.randperm(len(inputs), generator=order).split(setup.batch_size)
    ]
    loss_of = loss_function(table.task)
    cut = f"the first {steps} of {len(batches)} steps"
    return TrainingJob(
        name=name,
        module=setup.net,
        batches=batches[:steps],
        loss=lambda net, rows, wanted: loss_of(net.network(rows), wanted),
        optimizer=config.optimizer,
        groups=plan_groups(
            setup.plan, **({"momentum": config.momentum} if OPTIMIZERS[config.optimizer].momentum else {})
        ),
        remarks=(cut,) if len(batches) > steps else (),
    )


def _job_of_module(source: str, data: Path | None) -> TrainingJob:
    model = load_model(source, needs=() if data is not None else ("example",))
    rows, targets = (None, None) if data is None else _read_rows(data, model.options.get("targets"))
    with user_code():
        return training_job(model, rows, targets)


def _read_rows(path: Path, targets: Any) -> tuple[list[torch.Tensor], Any]:
    found = read_arrays(path)
    arrays = {name: torch.from_numpy(one) for name, one in (found if isinstance(found, dict) else {"": found}).items()}
    targets = arrays.pop("targets", targets)
    if not arrays:
        raise DataError(f"{path} holds no rows", help="write one array per input beside targets")
    return list(arrays.values()), targets
