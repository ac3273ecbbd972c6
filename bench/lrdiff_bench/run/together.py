"""A run of the main job by the processes that torchrun started, or by this one alone."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lrdiff_bench.run.files.resuming import choose_unfinished
from lrdiff_bench.run.job import RunResult, Watcher, default_folder, follow_job, resume_job, run_job
from lrdiff_bench.system.ownership import is_owned
from lrdiff_bench.system.run_folder import read_summary
from lrdiff_core.config import RunConfig
from lrdiff_core.errors import CheckpointError
from lrdiff_core.processes.group import joined
from lrdiff_core.processes.launch import Launch

__all__ = ["run_together"]


def run_together(
    config: RunConfig,
    out: Path | None,
    *,
    overwrite: bool = False,
    stages: Sequence[str],
    resume: bool = False,
    log: Sequence[str] = (),
    watcher: Watcher | None = None,
    parallel: str = "ddp",
) -> RunResult | None:
    """Run the main job, or go on with one; all processes call it, and the first gets the result.

    Processes that torchrun started again go on from the last epoch that was kept of the run that they had begun.

    Args:
        config: the settings; with ``resume`` those that are wanted.
        out: the run folder.
        overwrite: as for :func:`lrdiff_bench.run.job.run_job`.
        stages: likewise.
        resume: go on with an interrupted run.
        log: likewise.
        watcher: likewise.
        parallel: how several processes share the training: ``"ddp"`` or ``"fsdp2"``.

    Raises:
        LrdiffError: as for :func:`lrdiff_bench.run.job.run_job` and :func:`lrdiff_bench.run.job.resume_job`.
    """
    with joined(config.device, parallel) as processes:
        way = processes.told(lambda: _way(config, out, resume, processes.launch))
        folder = None if way["folder"] is None else Path(way["folder"])
        if way["finished"]:
            assert folder is not None
            return RunResult(folder=folder, summary=read_summary(folder), trained=None) if processes.is_first else None
        if not processes.is_first:
            follow_job(config, folder, resume=way["resume"], processes=processes)
            return None
        if way["resume"]:
            return resume_job(config, folder, stages=stages, log=log, watcher=watcher, processes=processes)
        return run_job(
            config, out=out, overwrite=overwrite, stages=stages, log=log, watcher=watcher, processes=processes
        )


def _way(config: RunConfig, out: Path | None, resume: bool, launch: Launch | None) -> dict[str, Any]:
    """Whether to go on with a run, with which, and whether it is finished already."""
    if launch is not None and launch.restarts:
        run = _begun_by(launch, out or default_folder(config))
        if run is not None:
            return {"folder": str(run), "resume": True, "finished": not read_summary(run).get("missing")}
    if not resume:
        return {"folder": None, "resume": False, "finished": False}
    name = config.name if "name" in config.model_fields_set else None
    return {"folder": str(choose_unfinished(out, name=name)), "resume": True, "finished": False}


def _begun_by(launch: Launch, final: Path) -> Path | None:
    """The run that an earlier start of these processes began.

    It is the one of their agent. Another agent may have begun it (on another machine, or behind a script that starts
    Python), so the last one of the job's name counts, too, if it is unfinished and nobody's: other jobs may have that
    name.
    """
    begun: dict[Path, dict[str, Any]] = {}
    for run in _runs_like(final):
        with suppress(CheckpointError):  # another file's, or one that was never whole
            begun[run] = read_summary(run)
    own = [run for run, summary in begun.items() if summary.get("launch") == launch.id]
    named = [
        run
        for run, summary in begun.items()
        if launch.name and str(summary.get("launch")).startswith(f"{launch.name}@")
        if summary.get("missing") and not is_owned(run)
    ]
    return max(own or named, key=lambda run: (run / "summary.json").stat().st_mtime, default=None)


def _runs_like(final: Path) -> list[Path]:
    """Folders in which a run of this name may stand: its own, and those with a number behind it."""
    if not final.parent.is_dir():
        return []
    return [one for one in sorted(final.parent.iterdir()) if one == final or one.name.startswith(f"{final.name}-")]
