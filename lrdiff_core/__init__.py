"""Train: data, model, rates, optimizers, loop, devices, checkpoints.

The public names stand in ``__init__.pyi`` and are looked up on first use, so that ``import lrdiff_core`` costs nothing
and the command line can answer ``--help`` without loading torch.

Example:
    >>> from lrdiff_core import AdamW, LayerDecay, Rule, param_groups
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = "0.1.0"
