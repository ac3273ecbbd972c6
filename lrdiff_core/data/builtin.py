"""The built-in tables: one from the generator, three that ship with scikit-learn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lrdiff_core.data.generator import make_rows
from lrdiff_core.data.table import Table, Task

__all__ = ["BUILTIN_TABLES", "builtin_table"]

TableMaker = Callable[[int], Table]

BUILTIN_TABLES: dict[str, TableMaker] = {}
"""Built-in tables by name; each is made from a seed, which only the generator uses."""


def builtin_table(name: str) -> Callable[[TableMaker], TableMaker]:
    """Enter a function from a seed to a table into :data:`BUILTIN_TABLES`.

    Example:
        >>> @builtin_table("example")
        ... def example(seed: int) -> Table:
        ...     ...
        >>> BUILTIN_TABLES.pop("example").__name__
        'example'
    """

    def enter(maker: TableMaker) -> TableMaker:
        BUILTIN_TABLES[name] = maker
        return maker

    return enter


@builtin_table("seed")
def seed(seed: int) -> Table:
    """1000 rows, 10 features, two classes, drawn anew for every seed."""
    features, labels = make_rows(seed)
    return Table(
        features=features,
        target=labels,
        feature_names=tuple(f"x{column + 1}" for column in range(features.shape[1])),
        classes=("0", "1"),
        task="binary",
        name="seed",
        target_name="label",
        source="generator",
        notes=(),
    )


@builtin_table("breast_cancer")
def breast_cancer(seed: int) -> Table:
    """569 rows, 30 features, two classes: Breast Cancer Wisconsin (Diagnostic)."""
    from sklearn.datasets import load_breast_cancer

    return _from_sklearn(load_breast_cancer(), name="breast_cancer", target_name="diagnosis", task="binary")


@builtin_table("digits")
def digits(seed: int) -> Table:
    """1797 rows, 64 features, ten classes: handwritten digits of 8 by 8 pixels."""
    from sklearn.datasets import load_digits

    return _from_sklearn(load_digits(), name="digits", target_name="digit", task="multiclass")


@builtin_table("wine")
def wine(seed: int) -> Table:
    """178 rows, 13 features, three classes: wines of three cultivars."""
    from sklearn.datasets import load_wine

    return _from_sklearn(load_wine(), name="wine", target_name="cultivar", task="multiclass")


def _from_sklearn(bunch: Any, *, name: str, target_name: str, task: Task) -> Table:
    return Table(
        features=bunch.data.astype(np.float32),
        target=bunch.target.astype(np.int64),
        feature_names=tuple(str(column) for column in bunch.feature_names),
        classes=tuple(str(label) for label in bunch.target_names),
        task=task,
        name=name,
        target_name=target_name,
        source="scikit-learn",
        notes=(),
    )
