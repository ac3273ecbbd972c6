"""Workloads by name: those of the project's own files, found when they are first asked for."""

from __future__ import annotations

import importlib
import pkgutil

from lrdiff_bench.study import workloads
from lrdiff_bench.study.workloads.workload import WORKLOADS, Workload
from lrdiff_core.errors import ConfigError
from lrdiff_core.text import nearest

__all__ = ["make_workload", "workload_names"]


def workload_names() -> list[str]:
    """All there are, in the order of their names.

    Every module of ``lrdiff_bench.study.workloads`` is imported: its decorators fill the registry.
    """
    for module in pkgutil.iter_modules(workloads.__path__, f"{workloads.__name__}."):
        importlib.import_module(module.name)
    return sorted(WORKLOADS)


def make_workload(name: str) -> Workload:
    """The workload called ``name``.

    Raises:
        ConfigError: there is none.
    """
    names = workload_names()
    if name not in names:
        raise ConfigError(f'there is no workload and no file "{name}"', help=nearest(name, names, "workloads", most=40))
    return WORKLOADS[name]()
