"""Studies: does it help to train at different rates? Judged at equal tuning budget, with uncertainty.

::

    workload (what is trained)  <-  workloads/* (one file each)
                                <-  own_training, user_model (what people bring)
                                <-  everything that proposes, trains, compares and reports

The public names stand in ``__init__.pyi`` and are looked up on first use: ``lrdiff --help`` does not load torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
