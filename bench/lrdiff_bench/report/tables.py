"""What the screens are made of: the console, indented paragraphs, and tables without frames."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Column, Table
from rich.text import Text

__all__ = ["INDENT", "PlainTable", "line", "make_console", "plain_table"]

INDENT = "   "

_GAP = 2  # between columns
_NARROWEST = 26  # of a column whose words may wrap


class PatientConsole(Console):
    """A console whose reader may leave, as in ``lrdiff trace RUN | head``: that ends the program, without an error."""

    def on_broken_pipe(self) -> None:
        try:
            super().on_broken_pipe()
        except SystemExit:
            raise SystemExit(0) from None


def make_console(*, stderr: bool = False) -> Console:
    """Return a console that keeps to 80 columns where its width is not known."""
    stream: Any = sys.stderr if stderr else sys.stdout
    if hasattr(stream, "reconfigure") and not str(stream.encoding).lower().startswith("utf"):
        stream.reconfigure(errors="replace")  # a terminal without arrows shows question marks; it ends no training
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
    """A table without frames, indented like the text around it; words stand left, numbers right.

    A number that is cut off is another number. Where the columns do not fit side by side, those left over follow below,
    beside the first one again.
    """

    def add_row(self, *cells: Any, **options: Any) -> None:
        super().add_row(INDENT + str(cells[0]), *cells[1:], **options)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        parts = self._parts(options.max_width)
        if len(parts) == 1:
            yield from super().__rich_console__(console, options)
            return
        for number, places in enumerate(parts):
            if number:
                yield Text()
            yield self._part([0, *places])

    def _parts(self, room: int) -> list[list[int]]:
        """Which columns besides the first stand side by side in so many characters."""
        wide = [self._width(column) for column in self.columns]
        parts: list[list[int]] = [[]]
        for place in range(1, len(wide)):
            if parts[-1] and wide[0] + sum(wide[i] for i in parts[-1]) + wide[place] - _GAP > room:
                parts.append([])
            parts[-1].append(place)
        return parts

    def _width(self, column: Column) -> int:
        longest = max(cell_len(str(cell)) for cell in (column.header, *column.cells))
        return (longest if column.no_wrap else min(longest, _NARROWEST)) + _GAP

    def _part(self, places: Sequence[int]) -> Table:
        """A table of some of the columns, without the rows that say nothing in them."""
        chosen = [self.columns[i] for i in places]
        part = Table(box=None, padding=(0, _GAP, 0, 0), header_style=self.header_style, pad_edge=False)
        for column in chosen:
            part.add_column(column.header, justify=column.justify, no_wrap=column.no_wrap, overflow=column.overflow)
        for row in zip(*(column.cells for column in chosen), strict=True):
            if any(str(cell) for cell in row[1:]):
                part.add_row(*row)
        return part


def plain_table(*columns: str) -> PlainTable:
    """Return an empty table with these headings."""
    table = PlainTable(box=None, padding=(0, _GAP, 0, 0), header_style="dim", pad_edge=False)
    table.add_column(INDENT + columns[0], no_wrap=True)
    for name in columns[1:]:
        words = name in {"split", "why", "result", "rates", "version"}
        table.add_column(name, justify="left" if words else "right", no_wrap=name != "why", overflow="fold")
    return table
