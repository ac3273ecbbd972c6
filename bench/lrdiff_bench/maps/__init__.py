"""Maps of learning rates: every pair of two rates, trained on several seeds.

::

    workload  <-  trainability, source  <-  tiles  <-  plan  <-  store, pool  <-  run   <-  drive  <-  command
              <-  grid                                            findings  <-  words, pictures, cuts

Names are looked up on first use, so that ``lrdiff --help`` does not load torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lrdiff_bench.maps.findings import Findings, find
    from lrdiff_bench.maps.plan import MapRequest, make_plan
    from lrdiff_bench.maps.run import compute_map
    from lrdiff_bench.maps.store import open_map
    from lrdiff_bench.maps.workload import MapWorkload

__all__ = ["Findings", "MapRequest", "MapWorkload", "compute_map", "find", "make_plan", "open_map"]

_MODULE_OF = {
    "Findings": "findings",
    "MapRequest": "plan",
    "MapWorkload": "workload",
    "compute_map": "run",
    "find": "findings",
    "make_plan": "plan",
    "open_map": "store",
}


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
