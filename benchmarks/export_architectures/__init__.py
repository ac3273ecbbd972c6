"""Architectures of the kinds that people ship, each a small honest instance with random, seeded weights and rows.

For the development tools that ask what the export makes of them: :mod:`benchmarks.export_models` (which are converted,
verified and in parity, at what cost) and :mod:`benchmarks.mutate_exports` (whether faults planted in their files are
found).

::

    tables, vision, sequences, others  <-  catalogue
"""

from benchmarks.export_architectures.catalogue import ARCHITECTURES, Architecture

__all__ = ["ARCHITECTURES", "Architecture"]
