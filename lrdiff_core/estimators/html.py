"""What a notebook shows of a fitted estimator below scikit-learn's own diagram."""

from __future__ import annotations

from html import escape
from typing import Any

__all__ = ["described"]


def described(estimator: Any) -> str:
    """A table of the layers and their rates, and how training ended, as HTML."""
    spec, rows = estimator.model_.spec, []
    for number, name in enumerate(estimator.model_.layer_names):
        fan_in, fan_out = spec.sizes[number], spec.sizes[number + 1]
        cells = (name, f"{fan_out} x {fan_in}", f"{(fan_in + 1) * fan_out}", f"{estimator.rates_[name]:g}")
        rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    head = "".join(f"<th>{name}</th>" for name in ("layer", "weight", "parameters", "learning rate"))
    last = next(row for row in estimator.history_ if row.epoch == estimator.best_epoch_ and row.split == "validation")
    said = (
        f"{estimator.config_.optimizer}, {estimator.n_iter_} epochs, best epoch {estimator.best_epoch_}: "
        f"validation loss {last.loss:.4g}"
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table><p>{escape(said)}</p>"
