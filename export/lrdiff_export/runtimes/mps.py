"""PyTorch on Apple's Metal Performance Shaders."""

from __future__ import annotations

from lrdiff_export.runtimes.protocol import register_backend
from lrdiff_export.runtimes.torch_eager import TorchBackend

__all__ = ["MpsBackend"]


@register_backend("mps")
class MpsBackend(TorchBackend):
    """Eager PyTorch on MPS.

    Source: https://docs.pytorch.org/docs/stable/notes/mps.html
    """

    device = "mps"
    keeps_denormals = False  # Metal's fast mathematics flushes them

    def availability(self) -> str | None:
        """Return why there is no MPS here."""
        import torch

        if not torch.backends.mps.is_built():
            return f"torch {torch.__version__} was built without MPS"
        return None if torch.backends.mps.is_available() else "no MPS device found (macOS on Apple silicon is needed)"
