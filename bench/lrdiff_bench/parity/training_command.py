"""``lrdiff parity --training``: the same training in every lane here, judged against float64 step by step."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lrdiff_bench.parity.training_page import training_parity_page
from lrdiff_bench.parity.training_pictures import draw_training_parity
from lrdiff_bench.parity.training_screen import draw_report
from lrdiff_bench.report.json import print_json, write_document
from lrdiff_bench.report.page import as_given
from lrdiff_bench.report.tables import line, make_console
from lrdiff_bench.run.use.open_run import open_run
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
from lrdiff_core.seeds import make_generator
from lrdiff_core.text import visible
from lrdiff_export.records import first_line
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

__all__ = ["choose_lanes", "find_job", "run_job", "training_parity"]

MOST_STEPS = 400  # of a run; longer ones are compared over their first steps
# Other arithmetics are compared in the implementations that differ there.
_OTHER = ("torch", "torch-foreach", "torch-fused", "ours")


def training_parity(
    sources: Sequence[str],
    *,
    backends: str | None = None,
    data: Path | None = None,
    out: Path | None = None,
    json: bool = False,
) -> int:
    """Compare trainings, draw what came of it, and return the exit status.

    Args:
        sources: run folders, presets, TOML files, ``MODULE:FACTORY``; none for the preset ``seed``.
        backends: implementations, devices and arithmetics, with commas between them; left out, all that is here.
        data: rows for a single ``MODULE:FACTORY``: ``.npz``, one array an input, and ``targets``.
        out: a folder for ``training-parity.json``, a page and a picture a source.
        json: one JSON document on stdout, and nothing else there.

    Raises:
        ConfigError, DataError, InputError, CheckpointError: a source, a name or the rows cannot be used.
        UnavailableError: nothing of what was asked for is here.
    """
    if data is not None and (len(sources) != 1 or not is_factory(sources[0])):
        raise ConfigError("--data goes with one MODULE:FACTORY", help="a run brings its own rows")
    lanes = choose_lanes(None if backends is None else _names(backends))
    jobs = [find_job(source, data) for source in sources or ["seed"]]
    if out is not None:
        make_folder(out)
    console = make_console(stderr=json)
    reports = []
    for number, job in enumerate(jobs, start=1):

        def tell(lane: Lane, result: LaneResult, job: TrainingJob = job) -> None:
            if sys.stderr.isatty():
                print(visible(f"{job.name}: {lane}: {result.status}"), file=sys.stderr)

        with user_code():
            report = check_training_parity(job, lanes, on_lane=tell).to_dict()
        reports.append(report)
        draw_report(console, report)
        if out is not None:
            stem = out / ("training-parity" if len(jobs) == 1 else f"training-parity-{number}")
            for file in draw_training_parity(report, stem):
                line(console, f"wrote {file}")
    passed = all(report["passed"] for report in reports)
    document = {
        "format": "lrdiff.training_parity",
        "version": 1,
        "passed": passed,
        "lrdiff": __version__,
        "python": platform.python_version(),
        "machine": provenance()["machine"],
        "reports": reports,
    }
    if out is not None:
        write_document(out / "training-parity.json", sealed(document))
        guide = (out / ".." / "guide" / "training-parity.md").is_file()
        page = training_parity_page({**document, "guide": guide}, as_given())
        write_text(out / "training-parity.md", page)
    if json:
        print_json(document)
    rows = [row for report in reports for row in report["results"]]
    if all(row["status"] == "unavailable" for row in rows):
        said = "; ".join(dict.fromkeys(f"{row['implementation']}: {row['reason']}" for row in rows))
        raise UnavailableError(f"not available here: {said}", help="see lrdiff doctor, or name others with --backends")
    return 0 if passed else 1


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
        groups=plan_groups(setup.plan, **({"momentum": config.momentum} if config.optimizer == "sgd" else {})),
        remarks=(cut,) if len(batches) > steps else (),
    )


def _job_of_module(source: str, data: Path | None) -> TrainingJob:
    model = load_model(source, needs=() if data is not None else ("example",))
    rows, targets = (None, None) if data is None else _read_rows(data, model.options.get("targets"))
    with user_code():
        return training_job(model, rows, targets)


def _read_rows(path: Path, targets: Any) -> tuple[list[torch.Tensor], Any]:
    try:
        with np.load(path, allow_pickle=False) as loaded:
            arrays = {name: torch.from_numpy(loaded[name]) for name in loaded.files}
    except FileNotFoundError:
        raise DataError(f"{path} does not exist", help="name an .npz file") from None
    except Exception as problem:  # a damaged archive fails in many ways
        raise DataError(
            f"{path} cannot be read: {first_line(problem)}",
            help="name an .npz file: one array per input, and targets",
        ) from problem
    targets = arrays.pop("targets", targets)
    if not arrays:
        raise DataError(f"{path} holds no rows", help="write one array per input beside targets")
    return list(arrays.values()), targets
