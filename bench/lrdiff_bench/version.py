"""The version of the project that is running."""

from __future__ import annotations

from importlib.metadata import version as installed_version

__all__ = ["version"]


def version() -> str:
    """Return the version of the installed distribution, such as ``"0.1.0"``."""
    return installed_version("lrdiff")
