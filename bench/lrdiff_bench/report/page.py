"""Pages in Markdown: Jinja templates in ``templates/``, and the command that a page was written by."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

__all__ = ["as_given", "made_by", "markdown_table", "render", "table_row"]


def as_given(arguments: Sequence[str] | None = None) -> str:
    """The command line of this process, as it was really given and as a shell would take it again.

    Args:
        arguments: the program and what follows it; ``sys.argv`` if left out.

    Example:
        >>> as_given(["/usr/bin/lrdiff", "parity", "--out", "my results"])
        "lrdiff parity --out 'my results'"
        >>> as_given(["/home/me/lrdiff_bench/gpu/__main__.py", "--quick"])
        'python -m lrdiff_bench.gpu --quick'
        >>> as_given(["/home/me/benchmarks/export_models.py"])
        'python -m benchmarks.export_models'
        >>> as_given(["/home/me/benchmarks/overhead/shards.py"])
        'python -m benchmarks.overhead.shards'
    """
    program, *rest = sys.argv if arguments is None else arguments
    file = Path(program)
    if file.suffix == ".py" and "benchmarks" in file.parts:
        parts = file.with_suffix("").parts
        last = len(parts) - parts[::-1].index("benchmarks") - 1
        module = ".".join(part for part in parts[last:] if part != "__main__")
        return shlex.join(["python", "-m", module, *rest])
    if file.name == "__main__.py" and file.parent.name != "lrdiff_bench":  # python -m of a package inside
        return shlex.join(["python", "-m", f"{file.parents[1].name}.{file.parent.name}", *rest])
    return shlex.join(["lrdiff" if file.name in ("__main__.py", "lrdiff", "lrdiff.exe") else file.name, *rest])


def render(template: str, /, **values: Any) -> str:
    """Fill a template; a value that it names and that is not given is an error.

    Args:
        template: its name, such as ``"parity.md"``.
        values: what it names.
    """
    return _environment().get_template(template).render(**values).rstrip("\n") + "\n"


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[object]], align: str = "") -> str:
    r"""A table in Markdown.

    Args:
        heads: of its columns.
        rows: a cell a column.
        align: ``l`` or ``r`` for each column; all left if left out.

    Example:
        >>> print(markdown_table(["name", "a|b"], [["x", 1]], "lr"))
        | name | a\|b |
        |---|---:|
        | x | 1 |
    """
    rule = "|" + "".join("---:|" if side == "r" else "---|" for side in align or "l" * len(heads))
    return "\n".join([table_row(heads), rule, *map(table_row, rows)])


def table_row(cells: Sequence[object]) -> str:
    """One row of a table in Markdown; a cell stays one cell whatever stands in it."""
    return "| " + " | ".join(" ".join(str(cell).replace("|", "\\|").split()) for cell in cells) + " |"


@cache
def _environment() -> Environment:
    found = Environment(
        loader=PackageLoader("lrdiff_bench.report"),
        undefined=StrictUndefined,
        autoescape=False,  # Markdown, not HTML
        keep_trailing_newline=True,  # of what is included
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.globals["table"] = markdown_table
    return found


def made_by(document: Mapping[str, Any]) -> str:
    """The line of a page that says where it comes from: command, machine, commit, versions.

    Args:
        document: with ``command`` (of :func:`as_given`), ``machine`` (``cpu``, ``cpus``, ``system``), ``commit``,
            ``lrdiff`` and ``python``.
    """
    machine = document["machine"]
    return (
        f"Written by `{document['command']}` on {machine['cpu']} ({machine['cpus']} cores, {machine['system']}), "
        f"lrdiff {document['lrdiff']} at commit {document['commit']}, Python {document['python']}."
    )
