"""What each column of a table is: its kind, its categories, how its cells are read, and what a model makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

__all__ = ["ColumnKind", "ColumnSpec", "encoded_names", "names_under", "scaled_columns", "wishes_of"]

ColumnKind = Literal["number", "boolean", "category", "date", "time", "id", "index", "text", "empty", "dropped"]
"""The first five are columns of the model; the others are left out of it."""

MODEL_KINDS = get_args(ColumnKind)[:5]

NUMBER_FORMATS = ("plain", "point", "comma", "point %", "comma %")
"""How a column's numbers may be written: see :func:`lrdiff_core.data.kinds.numbers.parse_number`."""

CALENDAR = ("weekday sin", "weekday cos", "year sin", "year cos")
CLOCK = ("day sin", "day cos")


@dataclass(frozen=True, kw_only=True)
class ColumnSpec:
    """One column of a table, or of the matrix [rows, columns] that a model takes.

    ======== ============================================ ===================================================
    kind     its number in the matrix                     what the model makes of it, before the first layer
    ======== ============================================ ===================================================
    number   itself                                       itself, standardized
    boolean  1 or 0                                       itself, standardized
    category 1..n, its place among ``categories``;        n columns, one of which is 1; all are 0 for code 0
             0 where missing or not among them
    date     days since 1970-01-01 UTC                    itself, and its place in the week and in a year of
                                                          365.25 days, as sine and cosine
    time     seconds of the day, UTC                      its place in the day, as sine and cosine
    ======== ============================================ ===================================================

    A missing number, date or time is NaN.

    Args:
        name: of the column in the matrix.
        kind: see above; ``id``, ``index``, ``text``, ``empty`` and ``dropped`` are left out of the matrix.
        categories: of a category, sorted.
        format: how cells are read: one of :data:`NUMBER_FORMATS`, or of dates such as ``%d/%m/%Y``.
        source: the column of the file, where that has another name.
        missing: words that stand for a missing value, besides the usual ones.
        lenient: whether any text that is no number stands for a missing value.
        flags_missing: the model also gets a column that is 1 where the value is missing.
        rule: why it was taken for that, in words; never compared.

    Example:
        >>> ColumnSpec(name="sex", kind="category", categories=("female", "male")).encoded
        ('sex = female', 'sex = male')
    """

    name: str
    kind: ColumnKind = "number"
    categories: tuple[str, ...] = ()
    format: str = "plain"
    source: str = ""
    missing: tuple[str, ...] = ()
    lenient: bool = False
    flags_missing: bool = False
    rule: str = field(default="", compare=False)

    @property
    def column(self) -> str:
        """The name of the file's column."""
        return self.source or self.name

    @property
    def endings(self) -> tuple[str, ...]:
        """What follows its name in each of :attr:`encoded`, whose copies of a long name may take more than there is."""
        if self.kind == "category":
            return tuple(f" = {category}" for category in self.categories)
        own = () if self.kind == "time" else ("",)
        more = {"date": CALENDAR, "time": CLOCK}.get(self.kind, ())
        return (*own, *(f" {part}" for part in more), *([" missing"] if self.flags_missing else []))

    @property
    def width(self) -> int:
        """How many columns the first layer gets for it."""
        return len(self.endings)

    @property
    def encoded(self) -> tuple[str, ...]:
        """Names of the columns that the first layer gets for it."""
        return tuple(self.name + ending for ending in self.endings)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> ColumnSpec:
        """Build a column from :meth:`to_dict`'s result, which anyone may have written.

        Raises:
            TypeError, ValueError: it is not that.
        """
        if not isinstance(document, Mapping):
            raise TypeError(f"a column is described by {document!r:.60}")
        lists = {key: names_under(key, document.get(key, ())) for key in ("categories", "missing")}
        spec = cls(**{**document, **lists})
        for key in ("name", "kind", "format", "source", "rule"):
            names_under(key, [getattr(spec, key)])
        for key in ("lenient", "flags_missing"):
            if not isinstance(getattr(spec, key), bool):
                raise TypeError(f"{key} of column {spec.name!r:.60} is {getattr(spec, key)!r:.60}")
        if spec.kind not in get_args(ColumnKind):
            raise ValueError(f"column {spec.name!r:.60} is of the kind {spec.kind!r:.60}")
        if spec.kind not in ("date", "time") and spec.format not in NUMBER_FORMATS:
            raise ValueError(f"column {spec.name!r:.60} has numbers of the form {spec.format!r:.60}")
        return spec


def names_under(key: str, names: object) -> tuple[str, ...]:
    """A list of names out of a document that anyone may have written.

    Raises:
        TypeError, ValueError: it is no list, or one of them is no text.
    """
    if not isinstance(names, list | tuple):
        raise TypeError(f"{key} is no list: {names!r:.60}")
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"{key} is no text: {name!r:.60}")
        name.encode()  # half of a surrogate pair is none, either
    return tuple(names)


def encoded_names(columns: Sequence[ColumnSpec]) -> tuple[str, ...]:
    """Names of what the first layer gets for all columns.

    Example:
        >>> encoded_names([ColumnSpec(name="age", flags_missing=True), ColumnSpec(name="at", kind="time")])
        ('age', 'age missing', 'at day sin', 'at day cos')
    """
    return tuple(name for column in columns for name in column.encoded)


def scaled_columns(columns: Sequence[ColumnSpec]) -> tuple[bool, ...]:
    """Whether each of :func:`encoded_names` is standardized: indicators of 0 and 1 stay as they are.

    A rare category would otherwise be a huge number: 31 where one row in a thousand has it.
    """
    scaled: list[bool] = []
    for column in columns:
        width = column.width
        scaled += [column.kind != "category"] * (width - column.flags_missing) + [False] * column.flags_missing
    return tuple(scaled)


def wishes_of(
    columns: Sequence[ColumnSpec], left_out: Sequence[ColumnSpec], numeric: Sequence[str] = ()
) -> dict[str, tuple[str, ...]]:
    """What to ask of :func:`lrdiff_core.load_table` to get these kinds again, whatever is recognised then.

    Example:
        >>> wishes_of([ColumnSpec(name="when", kind="date", format="%d/%m/%Y")], [ColumnSpec(name="key", kind="id")])
        {'drop': (), 'categorical': (), 'id': ('key',), 'numeric': (), 'date': ('when=%d/%m/%Y',)}
    """

    def named(*kinds: str) -> tuple[str, ...]:
        return tuple(column.name for column in (*columns, *left_out) if column.kind in kinds)

    days = (column for column in columns if column.kind == "date")
    return {
        "drop": named("text", "empty", "dropped"),
        "categorical": named("category"),
        "id": named("id", "index"),
        "numeric": tuple(name for name in numeric if name in named("number")),
        "date": tuple(day.name if day.format == "typed" else f"{day.name}={day.format}" for day in days),
    }
