"""Charts as inline SVG: no script, no style attribute, colours from the page's style sheet, their numbers beside them.

A strict content-security policy forbids style attributes, and a page has to be readable without scripts and on paper;
so every mark has a class (``s0`` to ``s5``: colour and dashes in ``page.css``), and every chart carries the table that
it was drawn from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard

from markupsafe import Markup, escape

__all__ = ["Bar", "Chart", "Line", "bars", "forest", "lines", "tick_text"]

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 600, 70, 16, 16, 46
LOOKS = 6  # classes of lines; then they begin anew
ROW = 26  # height of a row of bars
LETTER = 7.2  # width of a letter of a label, generously


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A drawn chart: its SVG, what it says in one line, and its numbers as a table."""

    svg: Markup
    label: str
    heads: Sequence[str]
    rows: Sequence[Sequence[object]]
    legend: Sequence[tuple[str, str]] = ()  # class and name


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a chart; a value that is None or not finite leaves a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    points: bool = False  # marks, no line


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One row of a bar chart or forest; ``low`` and ``high`` are the ends of an interval."""

    name: str
    value: float | None
    text: str
    look: str = "s0"
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    begin: float  # in the drawing
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = (math.log10(self.low), math.log10(self.high)) if self.log else (self.low, self.high)
        at = math.log10(max(value, 1e-300)) if self.log else value
        share = 0.5 if high == low else (at - low) / (high - low)
        return round(self.begin + min(max(share, -0.05), 1.05) * (self.end - self.begin), 1)

    def ticks(self) -> list[float]:
        if self.log:
            return _log_ticks(self.low, self.high)
        step = _step((self.high - self.low) / 5)
        first = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def lines(
    series: Sequence[Line], *, label: str, x: str, y: str, log_x: bool = False, log_y: bool = False,
    whole_x: bool = False, limits: Sequence[tuple[float, str]] = (), diagonal: bool = False, height: int = 300,
) -> Chart:  # fmt: skip
    """Draw lines with their bands, or points.

    Args:
        series: what is drawn; those that share their x stand side by side in the table.
        label: what the chart says, in one line.
        x: name of the axis.
        y: name of the axis.
        log_x: a logarithmic axis.
        log_y: a logarithmic axis.
        whole_x: ticks at whole numbers only.
        limits: heights of horizontal lines, with their names.
        diagonal: draw where y equals x.
        height: of the drawing.

    Example:
        >>> chart = lines([Line(name="loss", x=[1, 2], y=[0.5, 0.25])], label="Loss by epoch", x="epoch", y="loss")
        >>> chart.rows
        [['1', '0.5'], ['2', '0.25']]
    """
    xs = [value for one in series for value in one.x]
    ys = [v for one in series for v in (*one.y, *one.low, *one.high) if _drawn(v, log_y)]
    ys += [value for value, _ in limits]
    across = _Scale(*_ends(xs, log_x, pad=0.0), LEFT, WIDTH - RIGHT, log_x)
    up = _Scale(*_ends(ys, log_y, pad=0.05), height - BOTTOM, TOP, log_y)
    parts = [*_grid(across, up, x, y, height, whole_x)]
    if diagonal:
        low, high = max(across.low, up.low), min(across.high, up.high)
        parts.append(f'<path class="limit" d="M{across(low)} {up(low)}L{across(high)} {up(high)}"/>')
    for value, name in limits:
        parts.append(f'<path class="limit" d="M{LEFT} {up(value)}H{WIDTH - RIGHT}"/>')
        parts.append(
            f'<text class="note" x="{WIDTH - RIGHT}" y="{up(value) - 4}" text-anchor="end">{escape(name)}</text>'
        )
    for place, one in enumerate(series):
        parts += _drawing(one, place, across, up, log_y)
    heads, rows = _numbers(series, x)
    legend = [(f"s{i % LOOKS}", one.name) for i, one in enumerate(series)] if len(series) > 1 else []
    return Chart(svg=_svg(parts, height, label), label=label, heads=heads, rows=rows, legend=legend)


def bars(
    rows: Sequence[Bar], *, label: str, x: str, limit: tuple[float, str] | None = None, log: bool = False
) -> Chart:
    """Draw horizontal bars with their values written beside them.

    Args:
        rows: what is drawn.
        label: what the chart says, in one line.
        x: what is drawn, with its unit.
        limit: a vertical line, with its name.
        log: a logarithmic axis.
    """
    room = _room(rows)
    values = [row.value for row in rows if _drawn(row.value, log)] + ([limit[0]] if limit else [])
    low, high = _ends(values, log, pad=0.0)
    scale = _Scale(low / 3 if log else min(0.0, low), high, room, WIDTH - 110, log)
    height = TOP + ROW * len(rows) + BOTTOM
    parts = _bottom(scale, x, height)
    for i, row in enumerate(rows):
        top = TOP + ROW * i
        end = room if row.value is None else max(scale(row.value), room + 1)
        parts.append(f'<text class="name" x="{room - 8}" y="{top + 17}" text-anchor="end">{escape(row.name)}</text>')
        if row.value is not None:
            parts.append(
                f'<rect class="bar {row.look}" x="{room}" y="{top + 5}" width="{end - room:.1f}" height="16"/>'
            )
        parts.append(f'<text class="value" x="{end + 6}" y="{top + 17}">{escape(row.text)}</text>')
    if limit:
        at = scale(limit[0])
        parts.append(f'<path class="limit" d="M{at} {TOP}V{height - BOTTOM}"/>')
        parts.append(f'<text class="note" x="{at}" y="{TOP - 2}" text-anchor="middle">{escape(limit[1])}</text>')
    return Chart(
        svg=_svg(parts, height, label), label=label, heads=["", x], rows=[[row.name, row.text] for row in rows]
    )  # fmt: skip


def forest(rows: Sequence[Bar], *, label: str, x: str, band: float) -> Chart:
    """Draw estimates with their intervals around zero, and the band inside which a difference is too small to matter.

    Args:
        rows: what is drawn.
        label: what the chart says, in one line.
        x: what is drawn, with its unit.
        band: half its width.
    """
    room = _room(rows)
    ends = [v for row in rows for v in (row.low, row.value, row.high) if v is not None and math.isfinite(v)]
    low, high = _ends([*ends, -1.5 * band, 1.5 * band], False, pad=0.05)
    scale = _Scale(low, high, room, WIDTH - 150)
    height = TOP + ROW * len(rows) + BOTTOM
    left, right = scale(-band), scale(band)
    parts = [
        f'<rect class="equal" x="{left}" y="{TOP}" width="{right - left:.1f}" height="{ROW * len(rows)}"/>',
        *_bottom(scale, x, height),
        f'<path class="limit" d="M{scale(0.0)} {TOP}V{height - BOTTOM}"/>',
    ]
    for i, row in enumerate(rows):
        middle = TOP + ROW * i + ROW // 2
        parts.append(f'<text class="name" x="{room - 8}" y="{middle + 5}" text-anchor="end">{escape(row.name)}</text>')
        if row.low is not None and row.high is not None:
            parts.append(f'<path class="line {row.look}" d="M{scale(row.low)} {middle}H{scale(row.high)}"/>')
        if row.value is not None:
            parts.append(f'<circle class="dot {row.look}" cx="{scale(row.value)}" cy="{middle}" r="5"/>')
        parts.append(f'<text class="value" x="{WIDTH - 142}" y="{middle + 5}">{escape(row.text)}</text>')
    numbers = [[r.name, *(tick_text(v) for v in (r.value, r.low, r.high)), r.text] for r in rows]
    heads = ["", "gain", "95 % from", "to", "verdict"]
    return Chart(svg=_svg(parts, height, label), label=label, heads=heads, rows=numbers)


def tick_text(value: float | None) -> str:
    """A number as axes and tables of charts have it.

    Example:
        >>> tick_text(0.30000000000000004), tick_text(1e-05), tick_text(25000.0), tick_text(None)
        ('0.3', '1e-05', '25000', 'not finite')
    """
    if value is None or not math.isfinite(value):
        return "not finite"
    return f"{value:.0f}" if value == round(value) and abs(value) < 1e6 else f"{value:.4g}"


def _drawn(value: float | None, log: bool) -> TypeGuard[float]:
    return value is not None and math.isfinite(value) and (value > 0 or not log)


def _ends(values: Sequence[float], log: bool, *, pad: float) -> tuple[float, float]:
    low, high = (min(values), max(values)) if values else (1.0, 2.0)
    if low == high:
        return (low / 2, high * 2) if log else (low - 0.5, high + 0.5)
    if log:
        ratio = (high / low) ** pad
        return low / ratio, high * ratio
    return low - pad * (high - low), high + pad * (high - low)


def _step(least: float) -> float:
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * 0.999)


def _log_ticks(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    decades = [10.0**power for power in range(first, last + 1) if low * 0.999 <= 10.0**power <= high * 1.001]
    if len(decades) > 1:
        return decades[:: max(1, len(decades) // 6)]
    found = [f * 10.0**p for p in range(first, last + 1) for f in (1, 1.5, 2, 3, 4, 5, 6, 7, 8)]
    return [value for value in found if low <= value <= high][:7]


def _grid(across: _Scale, up: _Scale, x: str, y: str, height: int, whole_x: bool) -> list[str]:
    parts = []
    for value in up.ticks():
        parts.append(f'<path class="grid" d="M{LEFT} {up(value)}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{up(value) + 4}" text-anchor="end">{tick_text(value)}</text>')
    parts += _bottom(across, x, height, whole=whole_x)
    middle = (TOP + height - BOTTOM) / 2
    parts.append(
        f'<text class="axis" transform="translate(14 {middle}) rotate(-90)" text-anchor="middle">{escape(y)}</text>'
    )
    return parts


def _bottom(scale: _Scale, name: str, height: int, *, whole: bool = False) -> list[str]:
    base = height - BOTTOM
    ticks = [v for v in scale.ticks() if not whole or v == round(v)]
    parts = [f'<path class="base" d="M{scale.begin} {base}H{scale.end}"/>']
    for value in ticks:
        parts.append(f'<path class="base" d="M{scale(value)} {base}v5"/>')
        parts.append(f'<text x="{scale(value)}" y="{base + 18}" text-anchor="middle">{tick_text(value)}</text>')
    centre = (scale.begin + scale.end) / 2
    parts.append(f'<text class="axis" x="{centre}" y="{base + 38}" text-anchor="middle">{escape(name)}</text>')
    return parts


def _drawing(one: Line, place: int, across: _Scale, up: _Scale, log: bool) -> list[str]:
    look = f"s{place % LOOKS}"
    parts = []
    if one.low and one.high:
        there = [i for i in range(len(one.x)) if _drawn(one.low[i], log) and _drawn(one.high[i], log)]
        top = [f"{across(one.x[i])} {up(one.high[i] or 0)}" for i in there]
        under = [f"{across(one.x[i])} {up(one.low[i] or 0)}" for i in reversed(there)]
        if len(there) > 1:
            parts.append(f'<path class="band {look}" d="M{"L".join([*top, *under])}Z"/>')
    drawn = [(x, y) if _drawn(y, log) else None for x, y in zip(one.x, one.y, strict=True)]
    if not one.points:
        path, pen = "", "M"
        for spot in drawn:
            if spot is None:
                pen = "M"
                continue
            path += f"{pen}{across(spot[0])} {up(spot[1] or 0)}"
            pen = "L"
        parts.append(f'<path class="line {look}" d="{path}"/>')
    if one.points or len(drawn) <= 40:
        radius = 2.5 if one.points else 3
        for spot in drawn:
            if spot is not None:
                said = f"{one.name}: {tick_text(spot[0])}, {tick_text(spot[1])}"
                at = f'cx="{across(spot[0])}" cy="{up(spot[1] or 0)}" r="{radius}"'
                parts.append(f'<circle class="dot {look}" {at}><title>{escape(said)}</title></circle>')
    return parts


def _numbers(series: Sequence[Line], x: str) -> tuple[list[str], list[list[str]]]:
    """Side by side where the lines share their x, else one below the other."""

    def cell(one: Line, i: int) -> str:
        if not (one.low and one.high):
            return tick_text(one.y[i])
        return f"{tick_text(one.y[i])} [{tick_text(one.low[i])}, {tick_text(one.high[i])}]"

    if all(list(one.x) == list(series[0].x) for one in series):
        rows = [[tick_text(at), *(cell(one, i) for one in series)] for i, at in enumerate(series[0].x)]
        return [x, *(one.name for one in series)], rows
    return ["", x, "value"], [[one.name, tick_text(at), cell(one, i)] for one in series for i, at in enumerate(one.x)]


def _room(rows: Sequence[Bar]) -> int:
    return int(min(300, 24 + LETTER * max((len(row.name) for row in rows), default=0)))


def _svg(parts: Sequence[str], height: int, label: str) -> Markup:
    head = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label)}" class="chart">'
    return Markup(head + "".join(parts) + "</svg>")
