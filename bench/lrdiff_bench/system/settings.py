"""Settings of a run from a preset, a file and the command line, the later winning."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lrdiff_core.config import PRESETS, RunConfig, load_config, make_config, name_from

__all__ = ["gather"]


def gather(config: str | None, options: Mapping[str, Any]) -> RunConfig:
    """Return checked settings.

    Args:
        config: a TOML file or a preset's name; left out, the preset ``seed``, or the defaults if the options
            bring other data (the preset's sizes are made for its own).
        options: what the command line gave; wins over the file.

    Raises:
        ConfigError: no such file or preset, an unknown key, a wrong value.
        RateError: a rate that is not a positive finite number.

    Example:
        >>> gather(None, {"seed": 3}).name, gather(None, {"data": "digits"}).name
        ('seed', 'digits')
    """
    if config is None:
        brings_data = options.get("data", "seed") != "seed"
        base = {"name": name_from(Path(str(options["data"])).stem)} if brings_data else PRESETS["seed"]
        return make_config({**base, **options}, where="the command line")
    if config in PRESETS and not Path(config).exists():
        return make_config({**PRESETS[config], **options}, where=f"preset {config}")
    return make_config({**load_config(config), **options}, where=config)
