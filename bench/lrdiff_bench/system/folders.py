"""What the folders that commands write have in common: making them, and reading the document that says what one is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lrdiff_core.errors import CheckpointError, InputError

__all__ = ["cannot_write", "make_folder", "read_document"]


def read_document(file: Path, *, format: str, version: int, what: str, help: str) -> dict[str, Any]:
    """Read a JSON document that says its format and version.

    Args:
        file: that is there.
        format, version: that it must have.
        what: it is, such as ``"the summary of a run"``.
        help: what to do where it is not that.

    Raises:
        CheckpointError: it is damaged, of something else, or of a version this program does not read.
    """
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise CheckpointError(f"{file} is damaged: {problem}", help=help) from problem
    if not isinstance(document, dict) or document.get("format") != format:
        raise CheckpointError(f"{file} is not {what}", help=help)
    if document.get("version") != version:
        raise CheckpointError(
            f"{file} has version {document.get('version')}, this program reads {version}",
            help=f"use the lrdiff that wrote it, or {help}",
        )
    return document


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, if they are not there.

    Raises:
        InputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise cannot_write(folder, problem.strerror) from problem


def cannot_write(folder: Path, reason: str | None) -> InputError:
    """The error of a folder that cannot be written."""
    return InputError(f"cannot write {folder}: {reason}", help="name a folder you may write to with --out")
