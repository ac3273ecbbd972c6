"""Rates for a model, with proof: a search in the time of few trainings, then the court.

::

    surface, found  <-  proposals  <-  alone  <-  search  <-  proof  <-  api  <-  command
                                                      screen

The public names stand in ``__init__.pyi`` and are looked up on first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
