"""Dates and times as people write them, to days since 1970-01-01 and seconds of the day, both in UTC."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lrdiff_core.errors import ConfigError
from lrdiff_core.text import quoted

if TYPE_CHECKING:
    import polars as pl

__all__ = ["CLOCK", "day_text", "find_date_formats", "parse_dates", "typed_dates"]

FORMATS = (
    "%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y",
    "%d %B %Y", "%d-%B-%Y", "%B %d, %Y", "%B %d %Y", "%a, %d %B %Y", "%d.%m.%y", "%d/%m/%y", "%m/%d/%y", "%d-%B-%y",
)  # fmt: skip
"""How the day may be written; a time of the day and an offset from UTC may follow any of them."""

_SHAPE = (
    r"^(?P<day>.*?)(?:[T ,]\s*(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2}(?:[.,]\d+)?))?"
    r"\s*(?P<half>[AaPp]\.?[Mm]\.?)?\s*(?P<zone>Z|UTC|GMT|[+-]\d{2}:?\d{2})?)?$"
)
CLOCK = "clock"
"""The format of a time of the day alone, such as 12:30 or 1:05 PM."""

_TRIED = 100  # distinct texts that a format is tried on before all are
SECONDS = 86400.0
EARLIEST, LATEST = "1000-01-01", "2999-12-31"  # beyond, a year of two digits was read as one of four


def parse_dates(texts: pl.Series, form: str) -> tuple[np.ndarray, np.ndarray]:
    """Whole days since 1970-01-01 and seconds of the day in UTC, float64 [rows]; NaN where a text does not fit.

    Args:
        texts: strings without spaces around them, null where missing.
        form: how the day is written, as strftime; a time of the day may follow it. Or :data:`CLOCK`.

    Raises:
        ConfigError: no day can be written so.

    Example:
        >>> import polars as pl
        >>> days, seconds = parse_dates(pl.Series(["2/1/1970", "1/1/1970 12:00 PM", "13/13/1970"]), "%d/%m/%Y")
        >>> days.tolist(), seconds.tolist()
        ([1.0, 0.0, nan], [0.0, 43200.0, nan])
    """
    import polars as pl

    if form == CLOCK:
        texts, form = "1970-01-01 " + texts, "%Y-%m-%d"
    parts = texts.str.extract_groups(_SHAPE).struct.unnest()
    try:
        day = parts["day"].str.strip_chars().str.to_date(form, strict=False)
    except pl.exceptions.ComputeError as problem:
        raise ConfigError(
            f"dates cannot be written as {quoted(form)}: {str(problem).splitlines()[0]}",
            help="write how a day is written, such as %d/%m/%Y; a time of the day may follow it",
        ) from problem
    first, last = (pl.Series([text]).str.to_date()[0] for text in (EARLIEST, LATEST))
    fits = ((day >= first) & (day <= last)).fill_null(False).to_numpy()
    days = np.where(fits, day.cast(pl.Int32).fill_null(0).to_numpy(), np.nan).astype(np.float64)
    hour, minute, second = (
        parts[name].str.replace(",", ".").cast(pl.Float64).fill_null(0.0).to_numpy()
        for name in ("hour", "minute", "second")
    )
    half = parts["half"].str.to_lowercase().str.slice(0, 1)
    hour = np.where((half == "p").fill_null(False).to_numpy(), hour % 12 + 12, hour)
    hour = np.where((half == "a").fill_null(False).to_numpy(), hour % 12, hour)
    days = np.where((hour < 24) & (minute < 60) & (second < 61), days, np.nan)
    zone = parts["zone"].str.extract_groups(r"(?P<sign>[+-])(?P<h>\d{2}):?(?P<m>\d{2})").struct.unnest()
    east = zone["h"].cast(pl.Float64).fill_null(0.0) * 3600 + zone["m"].cast(pl.Float64).fill_null(0.0) * 60
    shift = np.where((zone["sign"] == "-").fill_null(False).to_numpy(), -1.0, 1.0) * east.to_numpy()
    return _carried(days, hour * 3600 + minute * 60 + second - shift)


def typed_dates(column: pl.Series) -> tuple[np.ndarray, np.ndarray]:
    """The same of a column whose type is a date or a timestamp."""
    import polars as pl

    if column.dtype == pl.Date:
        days = column.cast(pl.Int32).cast(pl.Float64).fill_null(float("nan")).to_numpy()
        return days, np.where(np.isnan(days), np.nan, 0.0)
    micro = column.dt.epoch("us")  # of a time with a zone: UTC
    whole = micro.fill_null(0).to_numpy()
    missing = micro.is_null().to_numpy()
    days, rest = np.divmod(whole, int(SECONDS * 1e6))
    return np.where(missing, np.nan, days.astype(np.float64)), np.where(missing, np.nan, rest / 1e6)


def day_text(days: float) -> str:
    """A day as ISO 8601 writes it.

    Example:
        >>> day_text(365.0)
        '1971-01-01'
    """
    return str(np.datetime64(round(days), "D"))


def find_date_formats(texts: pl.Series) -> list[str]:
    """All formats that fit every one of a column's distinct texts; more than one where days are ambiguous.

    Example:
        >>> import polars as pl
        >>> find_date_formats(pl.Series(["3/4/2021", "5/6/2021"]))
        ['%d/%m/%Y', '%m/%d/%Y']
        >>> find_date_formats(pl.Series(["3/4/2021", "25/6/2021"]))
        ['%d/%m/%Y']
    """
    if not len(texts):
        return []
    found = []
    for form in (*FORMATS, CLOCK):
        for some in (texts.head(_TRIED), texts):
            if np.isnan(parse_dates(some, form)[0]).any():
                break
        else:
            found.append(form)
    same = {form: parse_dates(texts, form)[0].tobytes() for form in found}
    # 4/4/2021 alone is the same day either way.
    return [form for place, form in enumerate(found) if same[form] not in {same[other] for other in found[:place]}]


def _carried(days: np.ndarray, seconds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    over = np.floor(seconds / SECONDS)
    return days + over, np.where(np.isnan(days), np.nan, seconds - over * SECONDS)
