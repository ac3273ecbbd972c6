"""State of an optimizer, read from another one's: strictly by name, or what fits of it."""

from lrdiff_core.optim.loading.transfer import LoadReport, load_state_only

__all__ = ["LoadReport", "load_state_only"]
