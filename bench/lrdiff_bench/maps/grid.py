"""The plane of a map: two log-spaced axes, what rates a cell stands for, and where one rate serves both groups."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from lrdiff_core.errors import ConfigError, RateError

__all__ = ["Axis", "Grid", "group_columns", "marked_pair", "parse_axis", "parse_zoom"]

REST = "rest"
LARGEST_SIZE = 16_384
HOW = "write GROUP:LOW:HIGH, such as layer1:1e-4:1, or GROUP/OTHER:LOW:HIGH for the ratio of two rates"


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A log-spaced axis: the rate of a group, or its ratio to the rate of the group on the other axis.

    Args:
        group: parameters, as :func:`group_columns` reads them.
        over: None for a rate; the other axis's group for the ratio of this group's rate to that one's.
        low, high: ends of the interval; the first and the last cell stand exactly there.
        size: cells.

    Raises:
        RateError: an interval that is empty or not positive.
        ConfigError: a size below 2.

    Example:
        >>> Axis(group="head", low=0.001, high=0.1, size=3).values.round(6).tolist()
        [0.001, 0.01, 0.1]
    """

    group: str
    low: float
    high: float
    size: int
    over: str | None = None

    def __post_init__(self) -> None:
        if not (0 < self.low < self.high < math.inf):
            raise RateError(
                f"axis {self.name} goes from {self.low:g} to {self.high:g}",
                help="write two positive numbers, the lower one first",
            )
        if isinstance(self.size, bool) or not isinstance(self.size, int) or not 2 <= self.size <= LARGEST_SIZE:
            raise ConfigError(
                f"size is {self.size!r}", help=f"write cells along an axis, a whole number from 2 to {LARGEST_SIZE}"
            )

    @property
    def name(self) -> str:
        """As on the command line: ``head``, or ``head/body``."""
        return self.group if self.over is None else f"{self.group}/{self.over}"

    @property
    def label(self) -> str:
        """For a picture and a table."""
        return f"learning rate of {self.group}" if self.over is None else f"rate of {self.group} over {self.over}'s"

    @property
    def values(self) -> np.ndarray:
        """[size] float64, rising."""
        return _log_spaced(self.low, self.high, self.size)

    def index(self, value: float) -> float:
        """Place of a value on the axis in cells, 0 at the first cell's middle; may lie outside."""
        return math.log(value / self.low) / math.log(self.high / self.low) * (self.size - 1)

    def __str__(self) -> str:
        return f"{self.name}:{_exactly(self.low)}:{_exactly(self.high)}"


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Two axes; cells are counted by row, y first: cell ``i`` lies at ``y[i // size_x]``, ``x[i % size_x]``.

    Raises:
        RateError: both axes name one group, or both are ratios, or a ratio is taken to a third group.

    Example:
        >>> grid = Grid(x=parse_axis("body:0.01:1", 3), y=parse_axis("head/body:0.1:10", 3))
        >>> grid.rates([0, 5]).round(6).tolist()
        [[0.01, 0.001], [1.0, 1.0]]
        >>> grid.single.round(6).tolist()
        [0.01, 0.1, 1.0]
    """

    x: Axis
    y: Axis

    def __post_init__(self) -> None:
        if self.x.group == self.y.group:
            raise RateError(f"both axes are {self.x.group}", help="name two groups of parameters")
        if self.x.over is not None and self.y.over is not None:
            raise RateError("both axes are ratios", help="let one axis be the rate of a group")
        for axis, other in ((self.x, self.y), (self.y, self.x)):
            if axis.over is not None and axis.over != other.group:
                raise RateError(
                    f"axis {axis.name} is a ratio to {axis.over}, and the other axis is {other.group}",
                    help=f"write {axis.group}/{other.group}",
                )

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns: cells along y, cells along x."""
        return self.y.size, self.x.size

    def rates(self, cells: Sequence[int] | np.ndarray) -> np.ndarray:
        """Rates of cells, [cells, 2]: of the x axis's group and of the y axis's."""
        row, column = np.divmod(np.asarray(cells), self.x.size)
        return self.pair(self.x.values[column], self.y.values[row])

    def pair(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Rates at places on the axes, [..., 2]."""
        if self.x.over is not None:
            return np.stack([x * y, y], axis=-1)
        return np.stack([x, x * y if self.y.over is not None else y], axis=-1)

    def place(self, rate_x: float, rate_y: float) -> tuple[float, float]:
        """Where a pair of rates stands on the axes; the inverse of :meth:`pair`."""
        if self.x.over is not None:
            return rate_x / rate_y, rate_y
        return rate_x, rate_y / rate_x if self.y.over is not None else rate_y

    @property
    def single(self) -> np.ndarray:
        """Single rates that the plane holds, [cells] log-spaced; empty where it holds none."""
        low, high, size = max(self.x.low, self.y.low), min(self.x.high, self.y.high), max(self.x.size, self.y.size)
        for ratio, base in ((self.x, self.y), (self.y, self.x)):
            if ratio.over is not None:
                inside = ratio.low <= 1 <= ratio.high
                low, high, size = (base.low, base.high, base.size) if inside else (1.0, 1.0, 0)
        return _log_spaced(low, high, size) if low < high else np.empty(0)

    def holds(self, x: float, y: float) -> bool:
        """Whether a place lies in the plane (half a cell beyond the last cells' middles)."""
        return all(-0.5 <= axis.index(v) <= axis.size - 0.5 for axis, v in ((self.x, x), (self.y, y)))

    def zoomed(self, x: float, y: float, factor: float) -> Grid:
        """The same cells around a place, from a ``factor`` below to a ``factor`` above it."""
        return Grid(
            x=replace(self.x, low=x / factor, high=x * factor), y=replace(self.y, low=y / factor, high=y * factor)
        )


def parse_axis(text: str, size: int) -> Axis:
    """Read ``GROUP:LOW:HIGH`` or ``GROUP/OTHER:LOW:HIGH``.

    Raises:
        RateError: it is something else.

    Example:
        >>> str(parse_axis("layer2/layer1:0.01:100", 5))
        'layer2/layer1:0.01:100'
    """
    parts = text.rsplit(":", 2)
    try:
        low, high = (float(part) for part in parts[1:])
    except ValueError:
        raise RateError(f'axis is "{text}"', help=HOW) from None
    group, slash, over = parts[0].partition("/")
    if not group or bool(slash) != bool(over):
        raise RateError(f'axis is "{text}"', help=HOW)
    return Axis(group=group, over=over or None, low=low, high=high, size=size)


def parse_zoom(text: str) -> tuple[float, float, float]:
    """Read ``X:Y`` or ``X:Y:FACTOR``, a place on the axes and how far the map goes around it.

    Raises:
        RateError: it is something else.

    Example:
        >>> parse_zoom("0.05:0.01")
        (0.05, 0.01, 3.0)
    """
    help = "write X:Y or X:Y:FACTOR: a place on the axes, and a factor above 1, such as 0.05:0.01:3"
    try:
        numbers = [float(part) for part in text.split(":")]
    except ValueError:
        raise RateError(f'zoom is "{text}"', help=help) from None
    x, y, factor = numbers if len(numbers) == 3 else (*numbers, 3.0) if len(numbers) == 2 else (0.0, 0.0, 0.0)
    if not (0 < x < math.inf and 0 < y < math.inf and 1 < factor < math.inf):
        raise RateError(f'zoom is "{text}"', help=help)
    return x, y, factor


def group_columns(model: nn.Module, grid: Grid) -> dict[str, int]:
    """Column of each parameter that learns: 0 for the x axis's group, 1 for the y axis's.

    A group is names joined by commas: of parameters, of modules (everything below them), or globs; ``rest`` is
    every parameter that the other axis does not name.

    Raises:
        RateError: a name that matches nothing, a parameter in both groups or in none.

    Example:
        >>> grid = Grid(x=parse_axis("rest:0.1:1", 2), y=parse_axis("1:0.1:1", 2))
        >>> group_columns(nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1)), grid)
        {'0.weight': 0, '0.bias': 0, '1.weight': 1, '1.bias': 1}
    """
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    groups = (grid.x.group, grid.y.group)
    found: dict[str, int] = {}
    for column, group in enumerate(groups):
        for part in () if group == REST else group.split(","):
            matched = [name for name in names if _matches(name, part)]
            if not matched:
                modules = dict.fromkeys(name.rpartition(".")[0] or name for name in names)
                raise RateError(
                    f'axis group "{part}" matches no parameter that learns',
                    help=f"parameters of this model start with: {', '.join(modules)}; all others are: {REST}",
                )
            for name in matched:
                if found.setdefault(name, column) != column:
                    raise RateError(f'parameter "{name}" is on both axes', help="let the groups name different ones")
    if REST in groups:
        found |= dict.fromkeys((name for name in names if name not in found), groups.index(REST))
    if missing := [name for name in names if name not in found]:
        raise RateError(
            f'parameter "{missing[0]}" is on no axis',
            help=f"name it, or write {REST} for the group that takes all others, such as --y {REST}:1e-4:1",
        )
    if set(found.values()) != {0, 1}:
        raise RateError(f"axis group {REST} holds no parameter", help="let the other axis leave some")
    return {name: found[name] for name in names}


def marked_pair(rates: Mapping[str, float], columns: Mapping[str, int]) -> tuple[float, float] | None:
    """The workload's own rates as a pair, where each axis's group has one rate; None otherwise.

    Example:
        >>> marked_pair({"body": 0.01, "head": 0.1}, {"body.weight": 0, "head.weight": 1})
        (0.01, 0.1)
    """
    of_column: list[set[float]] = [set(), set()]
    for name, column in columns.items():
        own = [rate for group, rate in rates.items() if any(_matches(name, part) for part in group.split(","))]
        if len(own) != 1:
            return None
        of_column[column].add(own[0])
    if any(len(rates_there) != 1 for rates_there in of_column):
        return None
    x, y = (next(iter(rates_there)) for rates_there in of_column)
    return (x, y) if x > 0 and y > 0 else None


def _matches(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.") or fnmatch.fnmatchcase(name, part)


def _exactly(value: float) -> str:
    """Short where that is exact: what is written down is read again."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def _log_spaced(low: float, high: float, size: int) -> np.ndarray:
    values = np.geomspace(low, high, size)
    values[0], values[-1] = low, high  # geomspace rounds
    return values
