"""Pages in Markdown: Jinja templates in ``templates/``, and the command that a page was written by."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

__all__ = ["as_given", "made_by", "markdown_table", "render"]


def as_given(arguments: Sequence[str] | None = None) -> str:
    """The command line of this process, as it was really given and as a shell would take it again.

    Args:
        arguments: the program and what follows it; ``sys.argv`` if left out.

    Example:
        >>> as_given(["/usr/bin/lrdiff", "parity", "--out", "my results"])
        "lrdiff parity --out 'my results'"
    """
    program, *rest = sys.argv if arguments is None else arguments
    name = Path(program).name
    return shlex.join(["lrdiff" if name in ("__main__.py", "lrdiff", "lrdiff.exe") else name, *rest])


def render(template: str, /, **values: Any) -> str:
    """Fill a template; a value that it names and that is not given is an error.

    Args:
        template: its name, such as ``"parity.md"``.
        values: what it names.
    """
    return _environment().get_template(template).render(**values).rstrip("\n") + "\n"


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown.

    Example:
        >>> print(markdown_table(["name", "a|b"], [["x", 1]]))
        | name | a\\|b |
        |---|---|
        | x | 1 |
    """
    lines = [_row(heads), "|" + "---|" * len(heads), *map(_row, rows)]
    return "\n".join(lines)


def _row(cells: Sequence[object]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


@cache
def _environment() -> Environment:
    found = Environment(
        loader=PackageLoader("lrdiff_bench.report"),
        undefined=StrictUndefined,
        autoescape=False,  # Markdown, not HTML
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.globals["table"] = markdown_table
    return found


def made_by(command: str, document: Mapping[str, Any]) -> str:
    """The line of a page that says where it comes from: command, machine, versions.

    Args:
        command: that wrote it, of :func:`as_given`.
        document: with ``machine`` (``cpu``, ``cpus``, ``system``), ``lrdiff`` and ``python``.
    """
    machine = document["machine"]
    return (
        f"Written by `{command}` on {machine['cpu']} ({machine['cpus']} cores, {machine['system']}), "
        f"lrdiff {document['lrdiff']}, Python {document['python']}."
    )
