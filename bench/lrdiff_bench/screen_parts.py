"""What the screens are made of: the console, indented paragraphs, and tables without frames."""

from __future__ import annotations

import shutil
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["INDENT", "PlainTable", "line", "make_console", "plain_table"]

INDENT = "   "


class PatientConsole(Console):
    """A console whose reader may leave, as in ``lrdiff trace RUN | head``: that ends the program, without an error."""

    def on_broken_pipe(self) -> None:
        try:
            super().on_broken_pipe()
        except SystemExit:
            raise SystemExit(0) from None


def make_console(*, stderr: bool = False) -> Console:
    """Return a console that keeps to 80 columns where its width is not known."""
    console = PatientConsole(stderr=stderr, highlight=False)
    if not console.is_terminal:
        console.width = shutil.get_terminal_size((80, 24)).columns
    return console


def line(console: Console, text: str, style: str = "") -> None:
    """Write one indented paragraph, wrapped with its indent kept."""
    for part in Text(text, style=style).wrap(console, console.width - len(INDENT)):
        part.rstrip()
        console.print(Text(INDENT) + part, soft_wrap=True)


class PlainTable(Table):
    """A table without frames, indented like the text around it; words stand left, numbers right."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        super().add_row(INDENT + str(cells[0]), *cells[1:], **options)


def plain_table(*columns: str) -> PlainTable:
    """Return an empty table with these headings."""
    table = PlainTable(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column(INDENT + columns[0], no_wrap=True)
    for name in columns[1:]:
        words = name in {"split", "why", "result", "rates", "version"}
        table.add_column(name, justify="left" if words else "right", no_wrap=name != "why", overflow="fold")
    return table
