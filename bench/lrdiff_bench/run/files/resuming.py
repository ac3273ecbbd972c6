"""Going on with an interrupted run: what is kept while it trains, which run is meant, whether it is still the same."""

from __future__ import annotations

import hashlib
import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from lrdiff_bench.report.json import json_ready
from lrdiff_bench.system.named_code import check_named
from lrdiff_bench.system.ownership import is_owned
from lrdiff_bench.system.run_folder import read_summary
from lrdiff_core.checkpoint import TrainingFile, save_training
from lrdiff_core.config import RunConfig, make_config
from lrdiff_core.data import Table
from lrdiff_core.errors import CheckpointError, ConfigError, DataError
from lrdiff_core.loop import TrainingState

__all__ = [
    "TRAINING_FILE",
    "TrainingKeeper",
    "check_rows",
    "choose_unfinished",
    "digest_of",
    "kept_settings",
    "settings_to_keep",
]

TRAINING_FILE = "training.safetensors"
# At most this often, and at most this share of the time: what a kill can cost, and what not losing more may cost.
INTERVAL_SECONDS = 5.0
SHARE = 0.01
# Left to the machine or the rows when they are not given, so that they are no other settings.
_OPEN = {"device": "auto", "task": "auto"}


class TrainingKeeper:
    """Writes the state of a training between its epochs into a folder.

    Args:
        folder: where to.
        info: what is to stand with it.
        begun: when there was something to lose, such as the choice of rates, by ``time.monotonic()``.
    """

    def __init__(self, folder: Path, info: dict[str, Any], *, begun: float) -> None:
        self._file, self._info = folder / TRAINING_FILE, info
        self._next = begun + INTERVAL_SECONDS
        self._last: tuple[nn.Module, TrainingState] | None = None

    def moved_to(self, folder: Path) -> None:
        """The folder has another name now."""
        self._file = folder / TRAINING_FILE

    def after_epoch(self, net: nn.Module, state: TrainingState) -> bool:
        """Write, if it is time to; whether it was."""
        self._last = net, state
        if time.monotonic() < self._next:
            return False
        self.write()
        return True

    def write(self) -> None:
        """Write the state after the last epoch, if this process trained one."""
        if self._last is None:
            return
        begun = time.monotonic()
        save_training(self._file, *self._last, info=self._info)
        took = time.monotonic() - begun
        self._next = begun + took + max(INTERVAL_SECONDS, took / SHARE)


def settings_to_keep(config: RunConfig, rows: str) -> dict[str, Any]:
    """Return what a run that goes on must have again: its settings, and the digest of its rows."""
    settings = config.model_dump(mode="json")
    for key in ("data", "test"):  # wherever it is called from
        if isinstance(settings[key], str) and Path(settings[key]).is_file():
            settings[key] = str(Path(settings[key]).resolve())
    given = sorted(config.model_fields_set)
    return {"settings": json_ready(settings), "given": given, "rows": rows}


def kept_settings(run: Path, given: RunConfig | None = None) -> tuple[RunConfig, TrainingFile]:
    """Return the settings of an interrupted run, and the state of its training.

    Args:
        run: its folder.
        given: settings that are wanted now; those that are not left out must be the same.

    Raises:
        CheckpointError: it has none, or they are damaged.
        ConfigError: they differ; the first that does is named.
    """
    training = TrainingFile(run / TRAINING_FILE)
    kept = training.info
    try:
        settings = {name: kept["settings"][name] for name in kept["given"]}
    except (KeyError, TypeError) as problem:
        raise CheckpointError(f"{run / TRAINING_FILE} has no settings", help="run again with `lrdiff run`") from problem
    config = make_config(settings, where=str(run / TRAINING_FILE))
    if config.model is not None and (given is None or given.model != config.model):
        check_named(config.model, run)
    _check_layers(config, training, run / TRAINING_FILE)
    if given is not None:
        wanted, had = json_ready(given.model_dump(mode="json")), json_ready(config.model_dump(mode="json"))
        for name in sorted(given.model_fields_set - {"name"}):
            if _same(wanted[name], had[name]) or wanted[name] == _OPEN.get(name):
                continue
            raise ConfigError(
                f"{name} is {_shown(wanted[name])}, the interrupted run {run} has {_shown(had[name])}",
                help="leave it out to go on with that run, or leave out --resume to begin another",
            )
    return config, training


def _check_layers(config: RunConfig, training: TrainingFile, file: Path) -> None:
    """Hold the sizes that the settings ask for against the tensors that are there, before a network is made."""
    if config.model is not None or config.hidden is None:
        return
    rows = {name: len(value) for name, value in training.tensors.items() if re.fullmatch(r"net/layer\d+\.bias", name)}
    there = [rows.get(f"net/layer{number}.bias") for number in range(1, len(rows))]
    if list(config.hidden) != there:
        raise CheckpointError(
            f"{file} does not fit its own settings: hidden layers of {there}", help="run again with `lrdiff run`"
        )


def check_rows(run: Path, training: TrainingFile, name: str, rows: str) -> None:
    """Refuse other rows than those of the interrupted training.

    Raises:
        DataError: the rows differ.
    """
    if training.info.get("rows") != rows:
        raise DataError(
            f"the rows of {name} are not those that {run} was trained on",
            help="put the data back as they were, or leave out --resume to begin another run",
        )


def choose_unfinished(place: Path | None, folder: Path = Path("runs"), name: str | None = None) -> Path:
    """Return the interrupted run that is meant.

    Args:
        place: its folder; left out, the one of ``folder`` that was written last.
        folder: that holds runs.
        name: of the run, without the number behind it.

    Raises:
        CheckpointError: there is none.
        ConfigError: that run is finished.
    """
    if place is not None:
        if not read_summary(place, check=()).get("missing"):
            raise ConfigError(f"{place} is finished", help="name a run that `lrdiff runs` calls unfinished")
        return place
    found = []
    for file in folder.glob("*/summary.json"):
        run = file.parent
        if name is not None and run.name.rstrip("0123456789").rstrip("-") != name and run.name != name:
            continue
        try:
            unfinished = bool(read_summary(run, check=()).get("missing")) and not is_owned(run)
        except CheckpointError:
            continue
        if unfinished:
            found.append((file.stat().st_mtime, run))
    if not found:
        called = "" if name is None else f" of the name {name}"
        raise CheckpointError(
            f"there is no interrupted run{called} in {folder}", help="name its folder: lrdiff run --resume FOLDER"
        )
    return max(found)[1]


def _same(wanted: Any, had: Any) -> bool:
    if isinstance(wanted, str) and isinstance(had, str) and Path(wanted).is_file():
        return wanted == had or Path(wanted).resolve() == Path(had).resolve()
    return bool(wanted == had)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def digest_of(table: Table) -> str:
    """A hash of everything that a table holds."""
    digest = hashlib.sha256()
    parts = {"features": table.features, "target": table.target, **table.split_keys.columns()}
    for name, part in parts.items():
        digest.update(f"{name} {part.dtype} {part.shape}".encode())
        digest.update(np.ascontiguousarray(part).tobytes())
    digest.update(json.dumps([table.feature_names, table.classes, table.target_name, table.task]).encode())
    return digest.hexdigest()
