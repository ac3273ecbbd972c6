"""What stands where in a model: its modules as a tree, the stack of blocks, depths, the head."""

from lrdiff_core.rates.layers.depth import layer_depths

__all__ = ["layer_depths"]
