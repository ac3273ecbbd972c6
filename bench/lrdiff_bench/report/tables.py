"""What screens are made of: the console, paragraphs, tables without frames, and numbers as text."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment
from rich.table import Column, Table
from rich.text import Text
from typing_extensions import override

from lrdiff_core.text import quoted, visible

__all__ = [
    "INDENT",
    "PlainTable",
    "doing",
    "duration",
    "heading",
    "interval",
    "label",
    "line",
    "make_console",
    "number",
    "numbers",
    "plain_table",
    "seconds",
    "shape",
]

INDENT = "   "

_GAP = 2  # between columns
_NARROWEST = 26  # of a column whose words may wrap


class PatientConsole(Console):
    """A console whose reader may leave, as in ``lrdiff trace RUN | head``: that ends the program, without an error.

    Names that come from files are text on it: nothing in them is markup, and what a terminal obeys is written out.
    """

    @override
    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for one in super().render(renderable, options):
            yield one if one.control or one.text.isprintable() else Segment(visible(one.text), one.style)

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
    # This stream, even while the user's code has another.
    console = PatientConsole(file=stream, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = shutil.get_terminal_size((80, 24)).columns
    return console


@contextmanager
def doing() -> Iterator[Callable[[str], object]]:
    """Show what is being done, on stderr and only where a person looks at it."""
    console = make_console(stderr=True)
    if not console.is_terminal:
        yield lambda text: None
        return
    with console.status("") as status:
        yield lambda text: status.update(Text(text))  # a plain string would be read as markup


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

    @override
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
        parts = (part for cell in (column.header, *column.cells) for part in str(cell).split("\n"))
        longest = max(map(cell_len, parts))
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


def heading(console: Console, number: int, title: str) -> None:
    """Write a section's number and title."""
    console.print(Text(f"\n{number:2d} {title}", style="bold cyan"))


def numbers(values: Sequence[float | None], *, most: int = 5, digits: int = 3) -> str:
    """Write a vector shortly.

    Example:
        >>> numbers([0.5, -1.25, 3.0], most=2)
        '[0.5, ..., 3]'
    """
    written = ["n/a" if v is None else f"{v:.{digits}g}" for v in values]
    if len(written) > most:
        written = [*written[: most - 1], "...", written[-1]]
    return f"[{', '.join(written)}]"


def label(value: str | float) -> str:
    """Write a label or a name: on one line, in quotes where it would run into the text around it.

    Example:
        >>> label("yes"), label("yes, sir"), label(-2.3010001182556152)
        ('yes', '"yes, sir"', '-2.301')
    """
    if not isinstance(value, str):
        return f"{value:.4g}"
    plain = value.isprintable() and value == value.strip() != "" and "," not in value and len(value) <= 40
    return value if plain else quoted(value)


def shape(sizes: Sequence[int]) -> str:
    """Write a shape as on the page it began with: ``1000 x 10``."""
    return " x ".join(map(str, sizes))


def number(value: float | None, form: str = ".3f") -> str:
    """Write a number; null stands for one that was not finite."""
    return "diverged" if value is None or not math.isfinite(value) else format(value, form)


def interval(low: float | None, high: float | None, form: str) -> str:
    """Write an interval; an end that is not finite is written as inf."""
    return f"[{','.join('inf' if end is None else format(end, form) for end in (low, high))}]"


def duration(taken: float) -> str:
    """About how long something takes: two digits, in seconds, minutes or hours.

    Args:
        taken: in seconds.

    Example:
        >>> duration(0.032), duration(24.3), duration(200), duration(5000), duration(20_000), duration(1e6)
        ('0.032 s', '24 s', '3.3 min', '83 min', '5.6 h', '278 h')
    """
    unit, size = ("s", 1) if taken < 90 else ("min", 60) if taken < 5400 else ("h", 3600)
    value = taken / size
    return f"{value:.2g} {unit}" if value < 99.5 else f"{value:.0f} {unit}"


def seconds(value: float) -> str:
    """A time with three digits, in the unit that fits it.

    Example:
        >>> seconds(4.321e-06), seconds(0.123456), seconds(99.96e-6), seconds(999.6e-6), seconds(2.5), seconds(3e-8)
        ('4.32 µs', '123 ms', '100 µs', '1.00 ms', '2.50 s', '30.0 ns')
    """
    rounded = float(f"{value:.2e}")  # first: 99.96 has three digits before it is rounded, and one more after
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6), ("ns", 1e9)):
        scaled = rounded * factor
        if scaled >= 0.9999999:
            digits = max(0, 2 - math.floor(math.log10(scaled) + 1e-9))
            return f"{scaled:.{digits}f} {unit}"
    return f"{value * 1e9:.3g} ns"
