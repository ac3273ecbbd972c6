"""onnx's own ReferenceEvaluator: every operator as the standard describes it, in NumPy."""

from __future__ import annotations

import numpy as np
import onnx as onnx_package
from torch import nn

from lrdiff_core.errors import UnavailableError
from lrdiff_export.runtimes.protocol import Facts, Predict, register_backend

__all__ = ["OnnxReferenceBackend"]


@register_backend("onnx-reference")
class OnnxReferenceBackend:
    """The ReferenceEvaluator; slow, written for reading, and no oracle: it computes in float32 as well.

    Source: https://onnx.ai/onnx/api/reference.html
    """

    name = "onnx-reference"
    device = "cpu"
    dtype = "float32"
    needs_onnx = True
    heavy = False
    keeps_denormals = True

    def availability(self) -> str | None:
        """Return why it cannot be used; a dependency of this project always can."""
        return None

    def prepare(self, module: nn.Module, onnx: bytes | None) -> Predict:
        """Return a function that evaluates the ONNX bytes."""
        if onnx is None:
            raise UnavailableError("no ONNX bytes to run", help="give onnx_bytes_or_path")
        from onnx.reference import ReferenceEvaluator

        evaluator = ReferenceEvaluator(onnx)
        names = list(evaluator.input_names)

        def predict(*rows: np.ndarray) -> list[np.ndarray]:
            with np.errstate(all="ignore"):
                return [np.asarray(one) for one in evaluator.run(None, dict(zip(names, rows, strict=True)))]

        return predict

    def facts(self) -> Facts:
        """Return its version; NumPy knows no other device."""
        return {"ran_on": "cpu", "runtime": f"onnx {onnx_package.__version__}"}

    def release(self) -> None:
        """Nothing is held."""
