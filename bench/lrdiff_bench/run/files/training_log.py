"""The course of a training for other people's tools: losses, scores and the rate of every group, after every epoch."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from lrdiff_core.config import RunConfig
from lrdiff_core.errors import UnavailableError
from lrdiff_core.files import write_text
from lrdiff_core.loop import TrainingState, score_name
from lrdiff_core.text import check_choice

__all__ = ["LOGS", "LOG_FOLDERS", "TrainingLog", "training_logs", "values_of"]

EXPERIMENT = "lrdiff"  # of MLflow
LOG_FOLDERS = ("tensorboard",)  # in a run's folder, and another library's to write


class TrainingLog(Protocol):
    """Where numbers go after every epoch. A Protocol, so that each of them imports its library alone."""

    def write(self, folder: Path, epoch: int, values: Mapping[str, float]) -> None:
        """Add the values of an epoch; what is there of this epoch and later ones is of an interrupted training."""

    def close(self, finished: bool) -> None:
        """Write what is left."""


def values_of(state: TrainingState, task: str) -> dict[str, float]:
    """Name every number of the last epoch: ``loss/train``, ``accuracy/validation``, ``lr/layer1`` and so on.

    Args:
        state: after an epoch.
        task: says what the score is called.
    """
    values: dict[str, float] = {}
    for row in (row for row in state.observations if row.epoch == state.epoch):
        values[f"loss/{row.split}"] = row.loss
        if not math.isnan(row.score):
            values[f"{score_name(task)}/{row.split}"] = row.score
    for number, group in enumerate(state.optimizer.param_groups):
        values[f"lr/{group.get('name', number)}"] = float(group["lr"])
    return values


class CsvLog:
    """``log.csv`` in the run's folder: one row an epoch."""

    def __init__(self, config: RunConfig) -> None:
        self._rows: list[dict[str, Any]] | None = None

    def write(self, folder: Path, epoch: int, values: Mapping[str, float]) -> None:
        """Add a row; the file is whole after every one."""
        file = folder / "log.csv"
        if self._rows is None:
            self._rows = []
            if file.is_file():
                with file.open(newline="", encoding="utf-8") as opened:
                    self._rows = [row for row in csv.DictReader(opened) if int(row["epoch"]) < epoch]
        self._rows.append({"epoch": epoch, **values})
        lines = [list(self._rows[-1]), *([row.get(key, "") for key in self._rows[-1]] for row in self._rows)]
        write_text(file, "".join(",".join(map(_cell, line)) + "\n" for line in lines))

    def close(self, finished: bool) -> None:
        """Nothing is left: every row was written."""


def _cell(value: Any) -> str:
    text = str(value)
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',"\r\n') else text


class TensorBoardLog:
    """``tensorboard/`` in the run's folder, for ``tensorboard --logdir``."""

    def __init__(self, config: RunConfig) -> None:
        self._make = _library("torch.utils.tensorboard", "tensorboard").SummaryWriter
        self._writer: Any = None

    def write(self, folder: Path, epoch: int, values: Mapping[str, float]) -> None:
        """Add one scalar a value, at the epoch as its step."""
        if self._writer is None:
            self._writer = self._make(str(folder / "tensorboard"), purge_step=epoch)
        for name, value in values.items():
            self._writer.add_scalar(name, value, epoch)

    def close(self, finished: bool) -> None:
        """Flush, and end the writing thread."""
        if self._writer is not None:
            self._writer.close()


class MlflowLog:
    """A run of MLflow, in ``mlflow.db`` (SQLite) beside the run folders unless MLFLOW_TRACKING_URI says where."""

    def __init__(self, config: RunConfig) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # nothing of ours asks the network
        self._library, self._config = _library("mlflow", "MLflow"), config
        self._client: Any = None
        self._run = ""

    def write(self, folder: Path, epoch: int, values: Mapping[str, float]) -> None:
        """Add one metric a value, at the epoch as its step; a training that goes on goes on in its run."""
        if self._client is None:
            address = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.parent.resolve() / 'mlflow.db'}"
            self._client = self._library.MlflowClient(tracking_uri=address)
            known = folder / "mlflow.run"
            self._run = known.read_text(encoding="utf-8").strip() if known.is_file() else self._begin()
            write_text(known, self._run + "\n")
        for name, value in values.items():
            self._client.log_metric(self._run, name, value, step=epoch)

    def _begin(self) -> str:
        found = self._client.get_experiment_by_name(EXPERIMENT)
        experiment = found.experiment_id if found is not None else self._client.create_experiment(EXPERIMENT)
        run = self._client.create_run(experiment, run_name=self._config.name).info.run_id
        for key, value in self._config.model_dump(mode="json").items():
            self._client.log_param(run, key, value)
        return str(run)

    def close(self, finished: bool) -> None:
        """Say how the run ended."""
        if self._client is not None:
            self._client.set_terminated(self._run, status="FINISHED" if finished else "FAILED")


LOGS: dict[str, type[CsvLog] | type[TensorBoardLog] | type[MlflowLog]] = {
    "csv": CsvLog,
    "tensorboard": TensorBoardLog,
    "mlflow": MlflowLog,
}


@contextmanager
def training_logs(names: Sequence[str], config: RunConfig) -> Iterator[list[TrainingLog]]:
    """The logs of these names, closed at the end whatever happens.

    Args:
        names: of :data:`LOGS`.
        config: of the run.

    Raises:
        ConfigError: there is no such log.
        UnavailableError: its library is not installed.
    """
    for name in names:
        check_choice("log", name, tuple(LOGS))
    logs = [LOGS[name](config) for name in dict.fromkeys(names)]
    finished = False
    try:
        yield list(logs)
        finished = True
    finally:
        for log in logs:
            log.close(finished)


def _library(module: str, name: str) -> Any:
    try:
        return import_module(module)
    except ImportError as problem:
        raise UnavailableError(
            f"--log {name.lower()}: {name} is not installed", help=f"install it: pip install {name.lower()}"
        ) from problem
