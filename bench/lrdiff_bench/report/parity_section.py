"""Errors of backends as bars of a page: how much of what is allowed each one uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lrdiff_bench.report.charts import Bar, Chart, bars
from lrdiff_bench.report.parity_table import SHORT, eps

__all__ = ["backend_rows", "error_bars", "share_text"]


def share_text(error: float | None, allowed: float | None) -> str:
    """An error as a share of what is allowed, with both.

    Example:
        >>> share_text(0.8, 8.0), share_text(None, 8.0)
        ('10 % (0.8 of 8 eps)', 'not finite, of 8 eps')
    """
    if error is None or not allowed:
        return f"not finite, of {eps(allowed)} eps"
    return f"{100 * error / allowed:.2g} % ({eps(error)} of {eps(allowed)} eps)"


def error_bars(results: Sequence[Mapping[str, Any]], label: str) -> Chart:
    """A bar for each backend that ran."""
    ran = [row for row in results if row["status"] in ("agrees", "differs")]
    return bars(
        [
            Bar(
                name=f"{row['backend']} ({SHORT[row['dtype']]})",
                value=None if row["max_error"] is None else 100 * row["max_error"] / row["tolerance"],
                text=share_text(row["max_error"], row["tolerance"]).partition(" (")[0],
                look="s0" if row["status"] == "agrees" else "bad",
            )
            for row in ran
        ],
        label=label, x="error, % of what is allowed", limit=(100.0, "allowed"),
    )  # fmt: skip


def backend_rows(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows of those that ran, and those that did not with their reasons."""
    ran = [row for row in results if row["status"] in ("agrees", "differs")]
    return {
        "ran": [
            [
                row["backend"], row["status"], SHORT[row["dtype"]], share_text(row["max_error"], row["tolerance"]),
                row["decisions_flipped"] if row["decisions_flipped"] is not None else "", row["reason"] or "",
            ]
            for row in ran
        ],
        "others": [[row["backend"], row["status"], row["reason"]] for row in results if row not in ran],
    }  # fmt: skip
