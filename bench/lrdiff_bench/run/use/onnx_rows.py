"""Rows of a file as an exported model takes them, by what the model's own card says of its columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lrdiff_core.data import ColumnSpec, read_rows
from lrdiff_core.data.spec import names_under
from lrdiff_core.errors import ModelFileError

if TYPE_CHECKING:
    from pathlib import Path

    from lrdiff_export.runtimes.sandbox import ModelPorts

__all__ = ["names_of", "rows_for"]

_AGAIN = "export it again with lrdiff export RUN"


def rows_for(
    data: str, card: dict[str, Any], ports: ModelPorts, model: Path
) -> tuple[list[np.ndarray], dict[str, list[str]]]:
    """Read rows as a model takes them: cells as in training, words as they stand.

    Args:
        data: a file with the model's columns.
        card: what the model says of itself; anyone may have written it.
        ports: what it takes.
        model: for messages.

    Returns:
        One array an input, in the order of the model; and the texts of each column that names a row.

    Raises:
        ModelFileError: the card does not say what the model takes.
        DataError: the rows cannot be used.
    """
    columns = names_of(card, "features", model)
    if not columns:
        raise ModelFileError(f"{model} does not name its columns", help="export it with lrdiff export RUN")
    specs, words, ids = _specs(card, columns, model), _words(card, columns, model), names_of(card, "ids", model)
    files = {spec.name: spec.column for spec in specs}
    texts = [files.get(column, column) for column in words.values()]
    fills = "missing_values_become" in str(card.get("normalisation", ""))
    rows = read_rows(
        data, feature_names=columns, impute="mean" if fills else "none", columns=specs, ids=list({*texts, *ids})
    )
    numbers = np.ascontiguousarray(rows.features[:, [name not in words.values() for name in columns]])
    feeds = []
    for name, kind, _ in ports.inputs:
        if kind != "tensor(string)":
            feeds.append(numbers)
        elif name in words:
            text = rows.ids[files.get(words[name], words[name])]
            feeds.append(np.array(text, object).reshape(-1, 1))
        else:
            raise ModelFileError(f"{model} does not say which column its input {name!r} is", help=_AGAIN)
    if not feeds:
        raise ModelFileError(f"{model} takes nothing", help=_AGAIN)
    return feeds, {name: rows.ids[name] for name in ids if name in rows.ids}


def names_of(card: dict[str, Any], key: str, model: Path) -> tuple[str, ...]:
    """Return a list of names of a card.

    Raises:
        ModelFileError: it is none.
    """
    try:
        return names_under(key, card.get(key, []))
    except (TypeError, ValueError) as problem:
        raise ModelFileError(
            f"the {key} that {model} names are not a list of names", help="export it again"
        ) from problem


def _specs(card: dict[str, Any], columns: Sequence[str], model: Path) -> tuple[ColumnSpec, ...]:
    """What the model knows of each column; nothing where all are numbers."""
    try:
        specs = tuple(ColumnSpec.from_dict(one) for one in card.get("columns", []))
        if specs and [spec.name for spec in specs] != list(columns):
            raise TypeError("they are other columns")
    except (TypeError, ValueError, AttributeError) as problem:
        raise ModelFileError(f"what {model} says of its columns cannot be read: {problem}", help=_AGAIN) from problem
    return specs


def _words(card: dict[str, Any], columns: Sequence[str], model: Path) -> dict[str, str]:
    """Column of each input of words."""
    said = card.get("text_inputs", {})
    words = said.get("columns", {}) if isinstance(said, dict) else None
    if not isinstance(words, dict) or not all(column in columns for column in words.values()):
        raise ModelFileError(f"what {model} says of its inputs of words cannot be read", help=_AGAIN)
    return words
