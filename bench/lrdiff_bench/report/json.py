"""How documents become JSON: plain types, null for numbers that are not finite, one document on stdout."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

from lrdiff_core.files import write_text

__all__ = ["json_line", "json_ready", "json_text", "print_json", "write_document"]


def json_ready(value: Any) -> Any:
    """Return ``value`` in plain JSON types; a number that is not finite becomes null.

    Example:
        >>> json_ready({"loss": (0.5, float("inf"))})
        {'loss': [0.5, None]}
    """
    if isinstance(value, dict):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy arrays and scalars
        return json_ready(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def json_text(document: Any) -> str:
    """One document as text, two-space indented, a line end at its end.

    Example:
        >>> print(json_text({"loss": float("nan")}), end="")
        {
          "loss": null
        }
    """
    return json.dumps(json_ready(document), indent=2, allow_nan=False) + "\n"


def json_line(document: Any) -> str:
    r"""One document on one line, as processes hand them to each other.

    Example:
        >>> json_line({"loss": float("nan"), "rows": (1, 2)})
        '{"loss": null, "rows": [1, 2]}\n'
    """
    return json.dumps(json_ready(document), allow_nan=False) + "\n"


def print_json(document: Any) -> None:
    """Write one document to stdout, for ``--json``."""
    sys.stdout.write(json_text(document))
    sys.stdout.flush()


def write_document(file: Path, document: Any) -> None:
    """Write one document to a file, whole or not at all."""
    write_text(file, json_text(document))
