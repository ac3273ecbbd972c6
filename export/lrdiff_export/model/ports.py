"""What an input or output is, and what may stand there, as its author declares it; it needs no PyTorch."""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lrdiff_core.errors import ConfigError
from lrdiff_export.records import first_line, json_ready

__all__ = ["Port", "read_ports"]


@dataclass(frozen=True, kw_only=True)
class Port:
    """One input or output of an exported model, and what may stand there.

    What is declared here is what verification tries and :class:`lrdiff_export.OnnxPredictor` takes: nothing is proven
    of other inputs.

    Attributes:
        name: in the file.
        dtype: NumPy's name for it; left out in a declaration.
        shape: sizes; the first is ``"batch"``, which is free; left out in a declaration.
        unit: what its numbers are measured in, or mean; empty where nobody said.
        range: smallest and largest number of an input; None for any.
        categories: number of categories of an input that holds their codes, 0, 1 ...; or, where some columns alone (of
            the last axis) hold codes, that number by column.
        lengths: smallest and largest size of axes of an input other than the batch, by axis.
        integer_tolerance: how much each whole number of an output may differ: 1 where a pixel at 127.5 may be rounded
            either way.

    Raises:
        ConfigError: a limit is none.

    Example:
        >>> Port(name="features", categories={2: 7}, range=(0, 100)).to_dict()["categories"]
        {'2': 7}
        >>> Port(name="features", range=(1, 0))
        Traceback (most recent call last):
        ...
        lrdiff_core.errors.ConfigError: range of 'features' is (1, 0), not a smallest and a largest number
        help: write (0, 1) for numbers from 0 to 1
    """

    name: str
    dtype: str = ""
    shape: tuple[int | str, ...] = ()
    unit: str = ""
    range: tuple[float, float] | None = None
    categories: int | Mapping[int, int] | None = None
    lengths: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    integer_tolerance: int = 0

    def __post_init__(self) -> None:
        """Refuse limits that are none."""
        if self.range is not None and not (
            len(self.range) == 2 and -math.inf < self.range[0] <= self.range[1] < math.inf
        ):
            raise ConfigError(
                f"range of {self.name!r} is {self.range}, not a smallest and a largest number",
                help="write (0, 1) for numbers from 0 to 1",
            )
        said = self.categories
        numbers = list(said.values()) if isinstance(said, Mapping) else [] if said is None else [said]
        if not all(isinstance(one, int) and one > 0 for one in numbers):
            raise ConfigError(
                f"categories of {self.name!r} is {self.categories}, not a number of categories",
                help="write 7 for codes from 0 to 6, or {2: 7} where column 2 alone holds them",
            )
        for axis, pair in self.lengths.items():
            if axis < 1 or len(pair) != 2 or not 0 <= pair[0] <= pair[1]:
                raise ConfigError(
                    f"lengths of {self.name!r} is {dict(self.lengths)}, not a smallest and largest size by axis",
                    help="write {1: (1, 512)} for sequences of 1 to 512; axis 0 is the batch",
                )
        if self.integer_tolerance not in (0, 1):
            raise ConfigError(
                f"integer_tolerance of {self.name!r} is {self.integer_tolerance}, not 0 or 1",
                help="write 1 where the next whole number is as good",
            )

    @classmethod
    def of(cls, name: str, said: Mapping[str, Any]) -> Port:
        """Return a declaration that comes from a file, whose keys are texts.

        Raises:
            ConfigError: it says something else.

        Example:
            >>> Port.of("features", {"range": [0, 9], "categories": {"2": 7}}).categories
            {2: 7}
        """
        known = {"unit", "range", "categories", "lengths", "integer_tolerance"}
        if unknown := sorted(set(said) - known):
            raise ConfigError(
                f"{name!r} is declared with {unknown[0]!r}", help=f"what can be said: {', '.join(sorted(known))}"
            )
        values = dict(said)
        try:
            if isinstance(values.get("categories"), Mapping):
                values["categories"] = {int(column): number for column, number in values["categories"].items()}
            if "lengths" in values:
                values["lengths"] = {
                    int(axis): (int(low), int(high)) for axis, (low, high) in values["lengths"].items()
                }
            if "range" in values:
                low, high = values["range"]
                values["range"] = (float(low), float(high))
        except (TypeError, ValueError, AttributeError) as problem:
            raise ConfigError(
                f"the declaration of {name!r} cannot be read: {problem}",
                help="write range = [0, 9], categories = 7 or {2 = 7}, lengths = {1 = [1, 512]}",
            ) from problem
        return cls(name=name, **values)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary, without what nobody declared."""
        told = {"name", "dtype", "shape", "unit"}
        return {key: value for key, value in json_ready(self).items() if key in told or value}


def read_ports(path: str | os.PathLike[str]) -> tuple[Port, ...]:
    r"""Read declarations of inputs and outputs from a TOML file: a table each, under its name.

    Raises:
        ConfigError: it cannot be read, or says something else.

    Example:
        >>> import pathlib, tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "ports.toml"
        >>> _ = file.write_text("[ids]\nrange = [0, 29999]\nlengths = {1 = [1, 512]}")
        >>> read_ports(file)[0].lengths
        {1: (1, 512)}
    """
    try:
        with Path(path).open("rb") as file:
            document = tomllib.load(file)
    except (OSError, ValueError, RecursionError) as problem:
        raise ConfigError(
            f"{path} is not a TOML file: {first_line(problem)}", help="write [features], then range = [0, 1]"
        ) from problem
    if not all(isinstance(said, dict) for said in document.values()):
        raise ConfigError(f"{path} holds more than one table a port", help="write [features], then range = [0, 1]")
    return tuple(Port.of(name, said) for name, said in document.items())
