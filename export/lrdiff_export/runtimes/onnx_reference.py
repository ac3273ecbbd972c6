"""onnx's own ReferenceEvaluator: every operator as the standard describes it, in NumPy."""

from __future__ import annotations

import numpy as np
import onnx

from lrdiff_export.runtimes.protocol import Facts, FileBackend, OnnxFile, Predict, file_bytes, register_backend

__all__ = ["OnnxReferenceBackend"]


@register_backend("onnx-reference")
class OnnxReferenceBackend(FileBackend):
    """The ReferenceEvaluator; slow, written for reading, and no oracle: it computes in float32 as well.

    Source: https://onnx.ai/onnx/api/reference.html
    """

    ran_on = "nowhere"
    takes_words = True

    def prepare(self, model: OnnxFile) -> Predict:
        """Return a function that evaluates an ONNX file."""
        from onnx.reference import ReferenceEvaluator

        data = file_bytes(model)
        proto = onnx.ModelProto.FromString(data)
        if (folder := getattr(data, "folder", None)) is not None:
            onnx.load_external_data_for_model(proto, str(folder))
        evaluator = ReferenceEvaluator(proto)
        names = list(evaluator.input_names)

        def predict(*rows: np.ndarray) -> list[np.ndarray]:
            self.ran_on = "cpu"
            with np.errstate(all="ignore"):
                return [np.asarray(one) for one in evaluator.run(None, dict(zip(names, rows, strict=True)))]

        return predict

    def facts(self) -> Facts:
        """Return its version; NumPy knows no other device."""
        return {"ran_on": self.ran_on, "runtime": f"onnx {onnx.__version__}"}
