"""Maps of learning rates: every pair of two rates, trained on several seeds.

::

    workload  <-  trainability, source  <-  tiles  <-  plan  <-  store, pool  <-  run   <-  command
              <-  grid                                            findings  <-  words, pictures
"""

from lrdiff_bench.maps.plan import MapRequest, make_plan
from lrdiff_bench.maps.run import compute_map
from lrdiff_bench.maps.store import open_map
from lrdiff_bench.maps.workload import MapWorkload

__all__ = ["MapRequest", "MapWorkload", "compute_map", "make_plan", "open_map"]
