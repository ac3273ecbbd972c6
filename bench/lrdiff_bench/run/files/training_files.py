"""The files of a run folder that training alone fills: settings, rates, weights, metrics."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from lrdiff_bench.report.json import json_ready, write_document
from lrdiff_bench.system.named_code import check_named
from lrdiff_core.checkpoint import save_checkpoint
from lrdiff_core.config import RunConfig, load_config, make_config
from lrdiff_core.files import atomic_path, write_text
from lrdiff_core.loop import Trained
from lrdiff_core.setup import Setup

__all__ = ["read_settings", "resolved_toml", "write_settings", "write_training"]


def write_settings(folder: Path, setup: Setup) -> None:
    """Write ``config.toml`` and ``rates.json``."""
    write_text(folder / "config.toml", resolved_toml(setup.config, from_file=setup.rows.table.source == "file"))
    write_document(folder / "rates.json", setup.plan.to_dict())


def read_settings(run: Path) -> RunConfig:
    """The settings of a run folder, which are data: they may name only code that the user has named, too.

    Raises:
        ConfigError: they cannot be read, or name other code.
    """
    config = make_config(load_config(run / "config.toml"), where=str(run / "config.toml"))
    if config.model is not None:
        check_named(config.model, run)
    return config


def write_training(folder: Path, trained: Trained) -> None:
    """Write ``model.safetensors`` and ``metrics.parquet``."""
    import polars

    setup = trained.setup
    info = {"rates": setup.rates, "impute": setup.config.impute}
    save_checkpoint(folder / "model.safetensors", trained.net, info=info)
    with atomic_path(folder / "metrics.parquet") as beside:
        polars.DataFrame([asdict(row) for row in trained.observations]).write_parquet(beside)


def resolved_toml(config: RunConfig, *, from_file: bool) -> str:
    """Return resolved settings as TOML; ``lrdiff run`` on it repeats the run.

    Args:
        config: with nothing left open, of :attr:`lrdiff_core.setup.Setup.config`.
        from_file: whether ``data`` names a file, which is then written with its whole path, as is a test file.
    """
    settings = config.model_dump(exclude={"rates", "compare"}, exclude_none=True)
    settings["tune"] = False  # the rates are there: a run of this file is to end in the same model
    weights = settings.pop("class_weight") if isinstance(config.class_weight, dict) else {}
    if not config.data:  # a model of one's own that brings its rows
        del settings["data"]
    if from_file:
        settings["data"] = str(Path(config.data).resolve())
        if isinstance(config.test, str):
            settings["test"] = str(Path(config.test).resolve())
    tables = {"": settings, "rates": config.rates or {}, "class_weight": weights}
    tables = {title: table for title, table in tables.items() if table} | {
        "compare": config.compare.model_dump(exclude_none=True)
    }
    lines = []
    for title, table in tables.items():
        lines += [f"\n[{title}]"] if title else []
        # JSON's strings, numbers, arrays and booleans are TOML's too
        lines += [f"{_key(key)} = {json.dumps(json_ready(value), ensure_ascii=False)}" for key, value in table.items()]
    return "\n".join(lines) + "\n"


def _key(name: str) -> str:
    """A key of TOML: in quotes unless it is plain."""
    plain = name.isascii() and name.replace("_", "").replace("-", "").isalnum()
    return name if plain else json.dumps(name, ensure_ascii=False)
