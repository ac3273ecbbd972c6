"""Settings of a run from a preset, a file and the command line, the later winning."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from lrdiff_core.config import PRESETS, CompareConfig, RunConfig, load_config, make_config, name_from
from lrdiff_core.data.formats import table_name
from lrdiff_core.errors import DataError, InputError
from lrdiff_core.files import write_text
from lrdiff_core.text import quoted

__all__ = ["gather", "settings_text", "write_settings"]

# What stands in a written file for a setting that is left out unless somebody sets it.
EXAMPLES = {
    "model": "package.module:make",
    "target": "label",
    "groups": "patient",
    "time": "date",
    "cv": 5,
    "hidden": [16],
    "batch_size": 32,
    "epochs": 50,
    "patience": 10,
    "class_weight": "balanced",
    "seeds": 200,
    "searches": 8,
    "tuning_seeds": 4,
    "minutes": 2.0,
}
RATES = {"layer1": 0.01, "layer2": 0.001}


def gather(config: str | None, options: Mapping[str, Any]) -> RunConfig:
    """Return checked settings.

    Args:
        config: a TOML file, a preset's name or ``MODULE:FACTORY``; left out, the preset ``seed``, or the defaults if
            the options bring other data (the preset's sizes are made for its own).
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
        base = {"name": name_from(table_name(Path(str(options["data"]))))} if brings_data else PRESETS["seed"]
        return make_config({**base, **options}, where="the command line")
    if ":" in config:
        from lrdiff_bench.system.factory import is_factory  # here: it brings torch, which `lrdiff init` does without

        if is_factory(config):
            base = {"model": config, "name": name_from(config.replace(":", "-").replace(".", "-"))}
            return make_config({**base, **options}, where="the command line")
    if config in PRESETS and not Path(config).exists():
        return make_config({**PRESETS[config], **options}, where=f"preset {config}")
    return make_config({**load_config(config), **options}, where=config)


def settings_text(given: Mapping[str, Any], rules: Mapping[str, Sequence[str]] | None = None) -> str:
    """Every setting of a run with what it means, as TOML; those that are not given are commented out.

    Args:
        given: settings that are to be set.
        rules: further lines of explanation, by setting.

    Example:
        >>> text = settings_text({"data": "digits"})
        >>> [line for line in text.splitlines() if line and not line.startswith("#")]
        ['name = "digits"', 'data = "digits"']
    """
    name = name_from(table_name(Path(str(given["data"])))) if "data" in given else "my-run"
    lines = ["# Settings of a run, for `lrdiff run`. What stands behind # is the default, or an example of a value."]
    lines += _lines(RunConfig, {"name": name, **given}, rules or {})
    lines += ["", f"# {RunConfig.model_fields['rates'].description}", "# [rates]"]
    lines += [f"# {layer} = {rate}" for layer, rate in RATES.items()]
    lines += ["", f"# {RunConfig.model_fields['compare'].description}", "# [compare]", *_lines(CompareConfig, {}, {})]
    return "\n".join(lines) + "\n"


def _lines(model: type[BaseModel], given: Mapping[str, Any], rules: Mapping[str, Sequence[str]]) -> list[str]:
    lines = []
    for key, field in model.model_fields.items():
        if key in ("rates", "compare"):  # tables, at the end of the file
            continue
        shown = given.get(key, EXAMPLES.get(key, field.default))
        value = json.dumps(shown, ensure_ascii=False)
        lines += ["", f"# {field.description}", *(f"#   {rule}" for rule in rules.get(key, ()))]
        lines += [f"{'' if key in given else '# '}{key} = {value}"]
    return lines


def write_settings(file: Path, options: Mapping[str, Any], *, overwrite: bool) -> None:
    """Write a settings file that :func:`gather` reads.

    Where a file and its target are named, the columns are looked at, and what they are taken for is written, too.

    Args:
        file: where to.
        options: what the command line gave.
        overwrite: whether a file that is there may be replaced.

    Raises:
        InputError: there is such a file already.
        ConfigError: a value that cannot be.
    """
    if file.exists() and not overwrite:
        raise InputError(f"{file} is there already", help="name another file, or add --overwrite")
    given = {key: value for key, value in options.items() if value is not None}
    config = make_config(given, where="the command line")
    found, rules = _recognised(config) if config.target is not None and Path(config.data).is_file() else ({}, {})
    write_text(file, settings_text({**given, **found}, rules))


def _recognised(config: RunConfig) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """What columns of a file are taken for, as settings, and why; nothing where the file cannot be read as it is."""
    from lrdiff_core.data.spec import wishes_of

    try:
        table = config.load_table()
    except DataError:  # the run will say it, with the way out
        return {}, {}
    wishes = {key: columns for key, columns in wishes_of(table.columns, table.left_out).items() if columns}
    why = {column.name: column.rule for column in (*table.columns, *table.left_out)}
    rules = {
        key: [f"{quoted(entry)}: {why.get(entry, why.get(entry.rpartition('=')[0], ''))}" for entry in entries]
        for key, entries in wishes.items()
    }
    return wishes, rules
