"""Gradients clipped by norm: before a step, or together with it."""

from lrdiff_core.optim.clipping.clip import clip_grad_norms_
from lrdiff_core.optim.clipping.clipped import clipped_step

__all__ = ["clip_grad_norms_", "clipped_step"]
