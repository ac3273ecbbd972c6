"""Measure: timing, cases, statistics, the main job and the ``lrdiff`` command.

Names are looked up on first use, so that ``lrdiff --help`` does not load torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lrdiff_bench.job import RunResult, run_job
    from lrdiff_bench.single_rates import Comparison, compare_single_rates

__all__ = ["Comparison", "RunResult", "compare_single_rates", "run_job"]

_MODULE_OF = {
    "Comparison": "single_rates",
    "RunResult": "job",
    "compare_single_rates": "single_rates",
    "run_job": "job",
}


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
