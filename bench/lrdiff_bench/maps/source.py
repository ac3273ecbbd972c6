"""Where a workload comes from, in words that a worker can read: a preset, settings, or a factory of one's own."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lrdiff_bench.maps.trainability import trainability
from lrdiff_bench.maps.workload import MapWorkload, from_config, from_factory, from_own_table
from lrdiff_bench.system import factory
from lrdiff_bench.system.settings import gather
from lrdiff_core.config import PRESETS, make_config
from lrdiff_core.errors import ConfigError

__all__ = ["MAP_PRESETS", "Source", "find_source"]

MAP_PRESETS: dict[str, Callable[[], MapWorkload]] = {
    "trainability": trainability,
    # The picture of the paper; made for a GPU: 2.5e15 operations.
    "trainability-4096": lambda: trainability(size=4096, steps=500, name="trainability-4096"),
}
OVERRIDES = ("epochs", "steps", "device", "dtype")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A workload in words.

    Args:
        kind: ``"preset"``, ``"settings"`` or ``"factory"``.
        what: the preset's name, ``package.module:factory``, or a name for the settings.
        settings: of a run, JSON-ready; for ``"settings"`` alone.
        overrides: fields that the command line sets: epochs or steps, device, dtype.
        folder: where a factory's module lies, on the machine that drives the map.
    """

    kind: str
    what: str
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    overrides: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    folder: str = ""

    def words(self) -> str:
        """As JSON: what goes to a worker."""
        return json.dumps({**vars(self), "settings": dict(self.settings), "overrides": dict(self.overrides)})

    @staticmethod
    def read(words: str) -> Source:
        """The inverse of :meth:`words`."""
        return Source(**json.loads(words))

    def workload(self) -> MapWorkload:
        """The workload; made once a process, since it keeps the rows of its seeds.

        Raises:
            InputError: the user's code or settings cannot be used.
        """
        return _made(self.words())


def find_source(target: str | None, overrides: Mapping[str, Any], rows: Mapping[str, Any] | None = None) -> Source:
    """Read WORKLOAD of the command line: a preset's name, a TOML file, or ``package.module:factory``.

    Args:
        target: the workload; None is the preset ``seed``, or the rows that are given.
        overrides: fields that the command line sets.
        rows: ``data`` and ``target`` of a table, in place of the workload's own rows.

    Raises:
        ConfigError: there is no such workload, or a wrong value in a file.

    Example:
        >>> find_source("trainability", {"steps": 30}).workload().steps
        30
    """
    given = {key: value for key, value in overrides.items() if value is not None}
    if given.keys() >= {"epochs", "steps"}:
        raise ConfigError("both --epochs and --steps are given", help="give one of them")
    table = {key: value for key, value in (rows or {}).items() if value is not None}
    if table and target in MAP_PRESETS:
        raise ConfigError(
            f"{target} has its own rows", help="leave --data out, or name a model as package.module:factory"
        )
    if target in MAP_PRESETS and not Path(target).exists():
        return Source(kind="preset", what=target, overrides=given)
    if target is not None and factory.is_factory(target) and not table:
        return Source(kind="factory", what=target, overrides=given, folder=str(Path.cwd()))
    known = target is None or target in PRESETS or factory.is_factory(target) or Path(target).is_file()
    if not known:
        names = ", ".join([*PRESETS, *MAP_PRESETS])
        raise ConfigError(
            f"there is no workload {target}", help=f"name a preset ({names}), a TOML file, or package.module:factory"
        )
    config = gather(target, table)
    if config.model is not None and "data" not in config.model_fields_set:
        return Source(kind="factory", what=config.model, overrides=given, folder=str(Path.cwd()))
    settings = config.model_dump(mode="json", exclude_none=True)
    if Path(config.data).is_file():  # a worker may stand in another folder
        settings["data"] = str(Path(config.data).resolve())
    folder = str(Path.cwd()) if config.model is not None else ""
    return Source(kind="settings", what=config.name, settings=settings, overrides=given, folder=folder)


@functools.lru_cache(maxsize=4)
def _made(words: str) -> MapWorkload:
    source = Source.read(words)
    if source.kind == "preset":
        workload = MAP_PRESETS[source.what]()
    elif source.kind == "settings":
        config = make_config(source.settings, where=source.what)
        workload = from_config(config) if config.model is None else from_own_table(config, source.folder)
    else:
        workload = from_factory(source.what, source.folder)
    changes = dict(source.overrides)
    if "epochs" in changes:
        changes["steps"] = None
    elif "steps" in changes:
        changes["epochs"] = None
    return replace(workload, **changes)
