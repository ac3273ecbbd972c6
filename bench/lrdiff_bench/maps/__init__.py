"""Maps of learning rates: every pair of two rates, trained on several seeds.

::

    workload  <-  trainability, source  <-  tiles  <-  plan  <-  store, pool  <-  run   <-  drive  <-  command
              <-  grid                                            findings  <-  words, pictures, cuts

The public names stand in ``__init__.pyi`` and are looked up on first use: ``lrdiff --help`` does not load torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
