"""The main job: its stages from rows to a proven ONNX file, each a section of one summary document.

Every stage returns plain JSON types. The screen (:mod:`lrdiff_bench.run.screen`) draws a section as soon as it is
there; ``lrdiff trace`` draws the same sections from ``summary.json``.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from lrdiff_bench.report import figures
from lrdiff_bench.report.json import json_ready, json_text, write_document
from lrdiff_bench.report.parts import write_report
from lrdiff_bench.run.compare.chosen_rates import warnings_of
from lrdiff_bench.run.comparison_screen import curves_of
from lrdiff_bench.run.files.resuming import (
    TRAINING_FILE,
    TrainingKeeper,
    check_rows,
    choose_unfinished,
    kept_settings,
    settings_to_keep,
)
from lrdiff_bench.run.files.training_log import LOG_FOLDERS, TrainingLog, training_logs, values_of
from lrdiff_bench.run.kinds import Kind, kind_of
from lrdiff_bench.run.section import run_part
from lrdiff_bench.system.manifest import MANIFEST, write_manifest
from lrdiff_bench.system.ownership import OWNER
from lrdiff_bench.system.run_folder import (
    SUMMARY_FORMAT,
    SUMMARY_VERSION,
    RunFolder,
    new_run_folder,
    next_free,
    read_summary,
    unfinished_run,
)
from lrdiff_core import __version__
from lrdiff_core.checkpoint import TrainingFile
from lrdiff_core.config import RunConfig
from lrdiff_core.errors import ConfigError
from lrdiff_core.loop import NotFinite, Observation, TrainingState, score_name
from lrdiff_core.processes.group import ALONE, Processes

__all__ = ["STAGES", "RunResult", "Watcher", "default_folder", "follow_job", "resume_job", "run_job"]

STAGES = (
    "data",
    "preprocessing",
    "features",
    "training",
    "metrics",
    "prediction",
    "folds",
    "comparison",
    "step_cost",
    "export",
    "parity",
    "folder",
)
BEFORE_TRAINING = ("data", "preprocessing", "features", "training")
ALWAYS = (*STAGES[:6], "folder")
T = TypeVar("T")


class Watcher(Protocol):
    """What follows a run: the screen, or nothing. A Protocol, so that a notebook can bring its own."""

    def stage(self, name: str, section: dict[str, Any]) -> None:
        """A stage is done; ``section`` is its part of the summary."""

    def progress(self, name: str, done: int, total: int, note: str) -> None:
        """A stage has come this far."""


class Silent:
    """A watcher that shows nothing."""

    def stage(self, name: str, section: dict[str, Any]) -> None:
        pass

    def progress(self, name: str, done: int, total: int, note: str) -> None:
        pass


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What :func:`run_job` returns."""

    folder: Path
    summary: dict[str, Any]
    trained: Any  # lrdiff_core.loop.Trained, or OwnTrained of a model of one's own

    @property
    def passed(self) -> bool:
        """Whether every check of the run held."""
        return all(self.summary["checks"].values())


def default_folder(config: RunConfig) -> Path:
    """Return ``runs/NAME``, where a run goes that is not told otherwise."""
    return Path("runs") / config.name


def run_job(
    config: RunConfig,
    *,
    out: Path | None = None,
    overwrite: bool = False,
    stages: Sequence[str] = STAGES,
    log: Sequence[str] = (),
    watcher: Watcher | None = None,
    processes: Processes = ALONE,
) -> RunResult:
    """Run the main job and write its folder.

    Args:
        config: the settings, from :func:`lrdiff_core.make_config`.
        out: the run folder; if left out, ``runs/NAME``, or ``runs/NAME-2`` and so on where there are runs already.
        overwrite: replace an earlier run in that folder.
        stages: which stages to run; the first six and ``folder`` always are, ``folds`` where ``config.cv`` is set.
        log: where losses, scores and the rate of every group go after every epoch: ``"csv"``, ``"tensorboard"``,
            ``"mlflow"``.
        watcher: told of every stage as it is done.
        processes: that train with this one, which is their first; the others call :func:`follow_job`.

    Returns:
        The folder, its summary and the trained model. ``passed`` is false if verification or parity failed; the folder
        then holds the reports and no ONNX file.

    Raises:
        LrdiffError: the input cannot be used; nothing is written then.

    Example:
        >>> import tempfile
        >>> from lrdiff_core import make_config
        >>> folder = Path(tempfile.mkdtemp()) / "first"
        >>> result = run_job(make_config({"epochs": 2}), out=folder, stages=["export"])
        >>> result.passed, (folder / "model.onnx").is_file()
        (True, True)
    """
    if unknown := [name for name in stages if name not in STAGES]:
        raise ConfigError(f'there is no stage "{unknown[0]}"', help=f"stages are: {', '.join(STAGES)}")
    stages = [*(name for name in stages if name != "folds"), *(["folds"] if config.cv is not None else [])]
    watcher = watcher or Silent()
    final = out or default_folder(config)
    if not overwrite and (final / "summary.json").is_file():
        if out is not None:
            raise ConfigError(
                f"{out} holds a run already", help="add --overwrite to replace it, or name another folder"
            )
        final = next_free(final)
    record, kind = _Record(config, watcher, processes), kind_of(config)
    setup = record.timed("data", lambda: kind.set_up(processes.placed(config)))
    with new_run_folder(final, overwrite=overwrite) as place:
        record.begin(place, stages)
        with training_logs(log, config) as logs:
            return _all_stages(record, kind, setup, settings_to_keep(config, kind.digest(setup)), logs)


def follow_job(config: RunConfig, folder: Path | None = None, *, resume: bool = False, processes: Processes) -> None:
    """Take part in the training of a run that another process, the first, calls :func:`run_job` for.

    Args:
        config: as that one has it.
        folder: of the run, where it goes on with one.
        resume: whether it does.
        processes: this one and the others.

    Raises:
        LrdiffError: as for :func:`run_job`.
    """
    training = None
    if resume:
        assert folder is not None  # the first process has chosen one
        config, training = kept_settings(folder, config)
    kind = kind_of(config)
    setup = kind.set_up(processes.placed(config))
    if training is not None and folder is not None:
        check_rows(folder, training, kind.name_of(setup), kind.digest(setup))
    setup = _tuned(kind, setup, processes, dict)
    kind.train(setup, go_on=None if training is None else training.restore, processes=processes)
    processes.leave()


def resume_job(
    given: RunConfig | None = None,
    folder: Path | None = None,
    *,
    stages: Sequence[str] = STAGES,
    log: Sequence[str] = (),
    watcher: Watcher | None = None,
    processes: Processes = ALONE,
) -> RunResult:
    """Go on with an interrupted run: from its last epoch that was kept, then with the stages that are missing.

    The end is that of a run that nobody interrupted, bit for bit.

    Args:
        given: settings that are wanted; those that were set must be those of the run.
        folder: of the run; left out, the interrupted run in ``runs`` that was written last, of the name of ``given``
            if that has one.
        stages: which of the missing stages to do now.
        log: as for :func:`run_job`.
        watcher: told of every stage as it is done.
        processes: as for :func:`run_job`; they need not be as many as before.

    Raises:
        CheckpointError, InputError: there is no run, or nothing to go on from, or another process writes it.
        ConfigError, DataError: it is finished, or its settings or rows are others now.
    """
    name = given.name if given is not None and "name" in given.model_fields_set else None
    folder = choose_unfinished(folder, name=name)
    config, training = kept_settings(folder, given)
    record, kind = _Record(config, watcher or Silent(), processes), kind_of(config)
    setup = record.timed("data", lambda: kind.set_up(processes.placed(config)))
    check_rows(folder, training, kind.name_of(setup), kind.digest(setup))
    with unfinished_run(folder) as place:
        record.go_on(place, stages)
        with training_logs(log, config) as logs:
            return _all_stages(record, kind, setup, training.info, logs, training)


def _all_stages(
    record: _Record,
    kind: Kind,
    setup: Any,
    info: dict[str, Any],
    logs: Sequence[TrainingLog],
    training: TrainingFile | None = None,
) -> RunResult:
    watcher = record.watcher
    record.show(kind.data_sections(setup))
    setup = _tune(record, kind, setup)
    trained = _train(record, kind, setup, info, logs, training)
    folder = record.place.path
    record.stage("folds", lambda: kind.folds(setup, _folds_to(watcher)))
    if kind.tuned is None or not setup.config.tune:
        record.stage("comparison", lambda: kind.compare(setup, _trainings_to(watcher)))
    record.summary["warnings"] = warnings_of(record.summary)
    record.save()  # the next stages may refuse what is warned of
    record.stage("step_cost", lambda: kind.step_cost(trained))
    record.stage("export", lambda: kind.export(trained, folder, record.summary["warnings"]), check="verification")
    record.stage("parity", lambda: kind.parity(trained, folder), check="parity")
    if record.is_last("folder"):
        record.timed("pictures", lambda: _draw(folder, record.summary, setup, str(folder)))
        record.end()
        ends = {"path": str(folder), "warnings": record.summary["warnings"]}
        watcher.stage("folder", {**record.summary["folder"], **ends})
    return RunResult(folder=folder, summary=record.summary, trained=trained)


class _Record:
    """The summary of a run while it grows, stage by stage; on the disk as soon as there is a checkpoint."""

    place: RunFolder
    now: set[str]  # stages that this process is to do

    def __init__(self, config: RunConfig, watcher: Watcher, processes: Processes) -> None:
        self.watcher, self.processes, self.begun = watcher, processes, time.monotonic()
        self.summary: dict[str, Any] = {
            "format": SUMMARY_FORMAT,
            "version": SUMMARY_VERSION,
            "name": config.name,
            "lrdiff": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "seconds": {},
            "checks": {},
        }
        if processes.launch is not None:
            self.summary["launch"] = processes.launch.id  # what is started again finds its run by it

    def begin(self, place: RunFolder, stages: Sequence[str]) -> None:
        """From here on there is a folder, and these stages are to be done."""
        self.place, self.now = place, {*ALWAYS, *stages}
        self.summary["missing"] = [name for name in STAGES if name in self.now]

    def go_on(self, place: RunFolder, stages: Sequence[str]) -> None:
        """This folder is there already, with all that its summary has."""
        self.place, self.now = place, {*ALWAYS, *stages}
        before = read_summary(place.path)
        now = {"seconds": before["seconds"] | self.summary["seconds"]}
        self.summary = before | now | ({"launch": self.summary["launch"]} if "launch" in self.summary else {})

    def is_last(self, name: str) -> bool:
        """Whether nothing but this is missing any more."""
        return bool(self.summary["missing"] == [name])

    def save(self) -> None:
        """Write what there is."""
        write_document(self.place.path / "summary.json", self.summary)

    def end(self) -> None:
        """Nothing is missing any more."""
        folder = self.place.path
        files = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
        last = ["summary.json", MANIFEST]
        self.summary["folder"] = {"files": [*sorted(files - {*last, OWNER, TRAINING_FILE}), *last]}
        self.summary["missing"] = []
        # The manifest first, with the hash of a summary to come: a kill in between leaves an unfinished run.
        whole = {"summary.json": json_text(self.summary).encode()}
        write_manifest(folder, leave_out=[TRAINING_FILE, *LOG_FOLDERS], to_come=whole)
        self.save()
        (folder / TRAINING_FILE).unlink(missing_ok=True)

    def timed(self, name: str, work: Callable[[], T]) -> T:
        """Do it, and note how long it took."""
        begun = time.perf_counter()
        result = work()
        self.summary["seconds"][name] = round(time.perf_counter() - begun, 3)
        return result

    def show(self, sections: Iterable[tuple[str, dict[str, Any]]]) -> None:
        """Add sections, each as soon as it is there."""
        for name, section in sections:
            self.summary[name] = json_ready(section)
            self.summary["missing"] = [one for one in self.summary["missing"] if one != name]
            if self.place.kept:
                self.save()
            self.watcher.stage(name, self.summary[name])

    def stage(self, name: str, work: Callable[[], dict[str, Any]], *, check: str | None = None) -> None:
        """Do one stage, if it is to be done and is missing; with ``check``, its section says whether that passed."""
        if name not in self.summary["missing"] or name not in self.now:
            if name in self.summary:
                self.watcher.stage(name, self.summary[name])
            return
        section = self.timed(name, work)
        if check is not None:
            self.summary["checks"][check] = section["passed"]
        self.show([(name, section)])


def _tune(record: _Record, kind: Kind, setup: Any) -> Any:
    """Compare rates before training, and take those that did best; nothing where rates are kept as they are given."""

    def chosen() -> dict[str, float] | None:
        record.stage("comparison", lambda: kind.compare(setup, _trainings_to(record.watcher)))
        found = record.summary.get("comparison", {}).get("chosen")  # none where the stage was not asked for
        return None if found is None else dict(found["rates"])

    return _tuned(kind, setup, record.processes, chosen)


def _tuned(kind: Kind, setup: Any, processes: Processes, chosen: Callable[[], dict[str, float] | None]) -> Any:
    """The setup with the rates that the first process has chosen."""
    if kind.tuned is None or not setup.config.tune:
        return setup
    rates = processes.told(chosen)
    return setup if rates is None else kind.tuned(setup, rates)


def _train(
    record: _Record,
    kind: Kind,
    setup: Any,
    info: dict[str, Any],
    logs: Sequence[TrainingLog],
    training: TrainingFile | None,
) -> Any:
    """The stages that every run has; what was trained is kept before anything else is done."""
    place, processes = record.place, record.processes
    shared: dict[str, Any] = {}
    if processes.count > 1:
        shared = {"processes": processes.count, "backend": processes.backend, "parallel": processes.parallel}
    record.show([("training", kind.training_section(setup) | shared)])
    # Not every kind has all of these.
    record.summary["missing"] = [one for one in record.summary["missing"] if one not in BEFORE_TRAINING]
    task = record.summary["data"]["task"]
    kind.write_settings(place.path, setup)
    keeper = TrainingKeeper(place.path, info, begun=record.begun)
    not_finite: NotFinite | None = None

    def keep(net: Any, state: TrainingState) -> None:
        nonlocal not_finite
        not_finite = state.not_finite
        if keeper.after_epoch(net, state) and not place.kept:
            record.save()
            if not place.overwrite:  # an older run stays until this one is trained
                keeper.moved_to(place.keep())
        for log in logs:
            log.write(place.path, state.epoch, values_of(state, task))

    trained = record.timed(
        "metrics",
        lambda: kind.train(
            setup,
            on_epoch=_epochs_to(record.watcher, setup, task),
            on_state=keep,
            go_on=None if training is None else training.restore,
            processes=processes,
        ),
    )
    processes.leave()
    keeper.write()
    kind.write(place.path, trained)
    record.save()
    place.keep()
    record.show(
        (name, section | ({"not_finite": asdict(not_finite)} if name == "metrics" and not_finite else {}))
        for name, section in kind.training_sections(trained)
    )
    return trained


def _epochs_to(watcher: Watcher, setup: Any, task: str) -> Callable[[int, Sequence[Observation]], None]:
    def text(row: Observation) -> str:
        score = "" if math.isnan(row.score) else f" {score_name(task)} {row.score:.3f}"
        return f"{row.split} loss {row.loss:.3f}{score}"

    def on_epoch(epoch: int, news: Sequence[Observation]) -> None:
        watcher.progress("metrics", epoch, setup.epochs, "  ".join(map(text, news)))

    return on_epoch


def _folds_to(watcher: Watcher) -> Callable[[int, int], None]:
    return lambda done, total: watcher.progress("folds", done, total, "folds")


def _trainings_to(watcher: Watcher) -> Callable[[int, int], None]:
    return lambda done, total: watcher.progress("comparison", done, total, "trainings")


def _draw(folder: Path, summary: dict[str, Any], setup: Any, where: str) -> None:
    """Pictures and the report; ``where`` is how commands name the run."""
    figures.draw_metrics(folder, summary)
    if "schemes" in summary.get("comparison", {}):  # not where it was skipped
        figures.draw_comparison(folder, summary, curves_of(summary["comparison"]))
    part = run_part(summary, setup.plan, where)
    write_report(folder / "report.html", [part], title=part.title, command="lrdiff run")
