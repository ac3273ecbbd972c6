"""Faults of an asv configuration: keys that asv ignores in silence, and traps that cost hours or the truth."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lrdiff_core.errors import ConfigError, UnavailableError
from lrdiff_core.text import nearest

__all__ = ["asv_config_entry", "find_faults", "read_asv_config"]

# Read by asv 0.6.6 elsewhere than in its class Config.
_ELSEWHERE = {"version", "build_cache_size"}
LEAST_TIMEOUT = 60.0


def read_asv_config(path: Path) -> dict[str, Any]:
    """Read a configuration with asv's own reader, comments and all.

    Raises:
        UnavailableError: asv is not installed.
        ConfigError: there is no such file, or asv cannot read it.
    """
    if find_spec("asv") is None:
        raise UnavailableError("asv is not installed", help="pip install asv")
    from asv import util  # type: ignore[import-untyped]

    try:
        return dict(util.load_json(str(path), 1, js_comments=True))
    except (util.UserError, ValueError, OSError) as problem:
        raise ConfigError(
            f"{path} is not a configuration of asv: {problem}".splitlines()[0], help="see benchmarks/asv.conf.json"
        ) from problem


def find_faults(settings: Mapping[str, Any]) -> list[str]:
    """What is wrong with a configuration, one line each; empty where nothing is.

    Args:
        settings: the configuration's keys, as :func:`read_asv_config` gives them.

    Raises:
        UnavailableError: asv is not installed.

    Example:
        >>> find_faults({"instal_command": []})[0]
        'asv ignores the key instal_command; did you mean install_command? keys: ...'
    """
    if find_spec("asv") is None:
        raise UnavailableError("asv is not installed", help="pip install asv")
    from asv.config import Config  # type: ignore[import-untyped]

    known = set(vars(Config())) | _ELSEWHERE
    faults = []
    for key in settings:
        if key not in known:
            faults.append(f"asv ignores the key {key}; {nearest(key, sorted(known), 'keys', most=5)}")
    if settings.get("build_command") is None:
        faults.append("build_command is missing: asv builds a wheel with all its dependencies at every commit")
    if settings.get("install_command") is None:
        faults.append("install_command is missing: asv installs every dependency again at every commit")
    if settings.get("uninstall_command") is None:
        faults.append("uninstall_command is missing: asv uninstalls between commits what it has not installed")
    if settings.get("environment_type") == "existing":
        faults.append("environment_type is existing: asv then refuses a range of commits")
    required = settings.get("matrix", {}).get("req", {})
    if not any(name.removeprefix("pip+") == "asv_runner" and all(required[name]) for name in required):
        faults.append("matrix.req pins no asv_runner: every environment gets the newest")
    for name, versions in required.items():
        if not all(versions):
            faults.append(f"matrix.req pins no version of {name}: a new one looks like a change of ours")
    if settings.get("launch_method") not in ("forkserver", "spawn"):
        faults.append("launch_method is left to asv: name forkserver (CPU) or spawn (CUDA and MPS)")
    if not settings.get("branches"):
        faults.append("branches is missing: asv publishes only master")
    if settings.get("default_benchmark_timeout", 0.0) < LEAST_TIMEOUT:
        faults.append("default_benchmark_timeout is below a minute: compiling takes longer, and asv notes no reason")
    if "pythons" in settings:
        faults.append("pythons is set: asv looks for these instead of taking the one that runs it")
    return faults


def asv_config_entry(path: Path | None = None) -> dict[str, Any]:
    """The line of ``lrdiff doctor`` about the asv configuration.

    Args:
        path: left out, the one of the checkout that this module is part of.

    Example:
        >>> asv_config_entry(Path("nowhere.json"))["available"]
        False
    """
    path = path or Path(__file__).parents[3] / "benchmarks" / "asv.conf.json"
    entry: dict[str, Any] = {"name": "asv history", "version": None, "detail": "", "reason": None, "available": False}
    if find_spec("asv") is None:
        return {**entry, "reason": "asv is not installed"}
    if not path.is_file():
        return {**entry, "reason": "no benchmarks/asv.conf.json: not a checkout"}
    from importlib import metadata

    faults = find_faults(read_asv_config(path))
    detail = "" if faults else f"{path.name}: no unknown keys, none of the known traps"
    return {
        **entry,
        "version": metadata.version("asv"),
        "detail": detail,
        "reason": "; ".join(faults) or None,
        "available": not faults,
    }
