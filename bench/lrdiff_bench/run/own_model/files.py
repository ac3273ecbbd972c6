"""The files that a training of a model of one's own fills, and what is read from them."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lrdiff_bench.report.json import write_document
from lrdiff_bench.run.files.resuming import digest_of
from lrdiff_bench.run.files.training_files import read_settings, resolved_toml
from lrdiff_bench.run.own_model.on_table import OnTable
from lrdiff_bench.run.own_model.setup import OwnSetup, set_up_own
from lrdiff_bench.run.own_model.training import OwnTrained
from lrdiff_bench.system.factory import load_model
from lrdiff_bench.system.run_folder import read_summary
from lrdiff_bench.system.user_code import user_code
from lrdiff_core.checkpoint import load_weights, save_weights
from lrdiff_core.config import RunConfig, load_config
from lrdiff_core.errors import CheckpointError, ConfigError
from lrdiff_core.files import atomic_path, write_text
from lrdiff_core.model import ModelSpec, TabularNet

__all__ = [
    "digest_of_own",
    "is_own",
    "load_shipped",
    "open_own",
    "write_own_settings",
    "write_own_training",
]

TABLE = "lrdiff.table."  # before the names of a table's preprocessing


def write_own_settings(folder: Path, setup: OwnSetup) -> None:
    """Write ``config.toml`` and ``rates.json``."""
    from_file = setup.table is not None and setup.table.rows.table.source == "file"
    write_text(folder / "config.toml", resolved_toml(setup.config, from_file=from_file))
    write_document(folder / "rates.json", setup.plan.to_dict())


def digest_of_own(setup: OwnSetup) -> str:
    """A hash of the table, or of the test rows and the numbers of the others: what resuming must find again."""
    if setup.table is not None:
        return digest_of(setup.table.rows.table)
    digest = hashlib.sha256(repr({name: part.rows for name, part in setup.parts.items()}).encode())
    for one in (*setup.held.tensors(), setup.held.targets):
        if isinstance(one, torch.Tensor):
            digest.update(f"{one.dtype}{tuple(one.shape)}".encode())
            digest.update(one.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def write_own_training(folder: Path, trained: OwnTrained) -> None:
    """Write ``model.safetensors`` and ``metrics.parquet``.

    The checkpoint has the module's weights under the names that its own ``state_dict`` has.
    """
    import polars

    setup = trained.setup
    info: dict[str, Any] = {"model": setup.user.source, "rates": setup.rates}
    weights = {name: value for name, value in setup.module.state_dict().items() if isinstance(value, torch.Tensor)}
    if isinstance(setup.shipped, OnTable):
        info |= {"table": setup.shipped.spec.to_dict(), "impute": setup.config.impute}
        weights |= {f"{TABLE}{name}": value for name, value in setup.shipped.table.state_dict().items()}
    save_weights(folder / "model.safetensors", weights, info=info)
    with atomic_path(folder / "metrics.parquet") as beside:
        polars.DataFrame([asdict(row) for row in trained.observations]).write_parquet(beside)


def is_own(run: Path) -> bool:
    """Whether a run folder holds a model of one's own."""
    try:
        return load_config(run / "config.toml").get("model") is not None
    except ConfigError:
        return False  # whoever reads it next says what is wrong


def load_shipped(run: Path) -> tuple[nn.Module, dict[str, Any], RunConfig]:
    """The trained model of a run as it is shipped, in evaluation mode; the checkpoint's info; the settings.

    Raises:
        CheckpointError: no run there, a damaged one, or a factory whose model is no longer that of the run.
        InputError: the factory fails.
    """
    read_summary(run)
    config = read_settings(run)
    weights, info = load_weights(run / "model.safetensors")
    with user_code():
        module = copy.deepcopy(load_model(str(config.model)).module)
    return _filled(module, weights, info, run).eval(), info, config


def open_own(run: Path) -> OwnSetup:
    """The setup of a run, its rows made again, with the trained weights in it.

    Raises:
        CheckpointError, InputError: as :func:`load_shipped`.
        LrdiffError: its rows cannot be made again.
    """
    read_summary(run)
    config = read_settings(run)
    weights, info = load_weights(run / "model.safetensors")
    with user_code():
        setup = set_up_own(config)
    shipped = _filled(setup.module.cpu(), weights, info, run).eval()
    return replace(setup, shipped=shipped)


def _filled(module: nn.Module, weights: dict[str, torch.Tensor], info: dict[str, Any], run: Path) -> nn.Module:
    """The module with the weights of a checkpoint; with a table's preprocessing around it where the run has one."""
    own = {name: value for name, value in weights.items() if not name.startswith(TABLE)}
    table = {name.removeprefix(TABLE): value for name, value in weights.items() if name.startswith(TABLE)}
    here = module.state_dict()
    wrong = [name for name in own if name not in here or here[name].shape != own[name].shape]
    wrong += [name for name in here if name not in own]
    if wrong:
        raise CheckpointError(
            f"{info.get('model')} no longer makes the model of {run}: {wrong[0]} differs",
            help="put the factory back as it was when the run was made",
        )
    module.load_state_dict(own)
    if "table" not in info:
        return module
    try:
        spec = ModelSpec.from_dict(info["table"])
        shipped = OnTable(TabularNet(replace(spec, hidden=())), module)  # its layers are taken away
        shipped.table.load_state_dict(table)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as problem:
        said = str(problem).partition("\n")[0]
        raise CheckpointError(f"the checkpoint of {run} does not fit its table: {said}", help="run again") from problem
    shipped.spec = spec
    return shipped
