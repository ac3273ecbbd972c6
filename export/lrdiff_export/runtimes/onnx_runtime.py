"""ONNX Runtime: its CPU provider at every optimisation level, and every other provider of the build."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnxruntime

from lrdiff_export.runtimes.predictor import CPU_PROVIDER, open_session
from lrdiff_export.runtimes.protocol import Facts, FileBackend, OnnxFile, Predict, file_bytes, register_backend

__all__ = ["OnnxRuntimeBackend"]

# Which kind of device a provider computes on; those not named compute on the CPU.
_DEVICES = {
    "CUDAExecutionProvider": "cuda",
    "TensorrtExecutionProvider": "cuda",
    "NvTensorRTRTXExecutionProvider": "cuda",
    "CoreMLExecutionProvider": "mps",
}
# Looked for by whoever has the device, so said to be missing; those of the build are found by themselves.
_SOUGHT = ("CUDAExecutionProvider", "CoreMLExecutionProvider")
_NO_DEVICE = ("AzureExecutionProvider",)  # calls models elsewhere; it runs no operator of a file


@register_backend("onnxruntime-disabled", level="disabled")
@register_backend("onnxruntime-basic", level="basic")
@register_backend("onnxruntime-extended", level="extended")
@register_backend("onnxruntime")
class OnnxRuntimeBackend(FileBackend):
    """ONNX Runtime on one provider, one thread, at one level of graph optimisations.

    Source: https://onnxruntime.ai/docs/performance/model-optimizations/graph-optimizations.html
    """

    provider = CPU_PROVIDER
    level = "all"
    takes_words = True

    def __init__(self) -> None:
        self._session: onnxruntime.InferenceSession | None = None

    def availability(self) -> str | None:
        """Return why it cannot be used; the CPU provider of a dependency of this project always can."""
        if self.provider in onnxruntime.get_available_providers():
            return None
        return f"onnxruntime {onnxruntime.__version__} was built without {self.provider}"

    def prepare(self, model: OnnxFile) -> Predict:
        """Return a function that runs an ONNX file."""
        session = open_session(file_bytes(model), optimise=self.level, provider=self.provider, record_assignment=True)
        names = [one.name for one in session.get_inputs()]

        def predict(*rows: np.ndarray) -> list[np.ndarray]:
            outputs = session.run(None, dict(zip(names, rows, strict=True)))
            self._session = session
            return [np.asarray(output) for output in outputs]

        return predict

    def facts(self) -> Facts:
        """Return which provider was given how many nodes; the device is that of all of them."""
        if self._session is None:
            return {"ran_on": "nowhere"}
        nodes: Counter[str] = Counter()
        # Before 1.24 it cannot tell; there it is the session's provider, without which it would not have opened.
        for part in getattr(self._session, "get_provider_graph_assignment_info", list)():
            nodes[part.ep_name] += len(part.get_nodes())
        # A graph may be folded away as a whole: then the session's provider has nothing to run elsewhere.
        devices = {_DEVICES.get(provider, "cpu") for provider in nodes or self._session.get_providers()[:1]}
        return {
            "ran_on": " and ".join(sorted(devices)),
            "runtime": f"onnxruntime {onnxruntime.__version__}",
            "threads": 1,
            "optimisations": self.level,
            "nodes": dict(nodes),
        }

    def release(self) -> None:
        """Let the session go."""
        self._session = None


def _register_providers() -> None:
    for provider in dict.fromkeys((*_SOUGHT, *onnxruntime.get_available_providers())):
        if provider != CPU_PROVIDER and provider not in _NO_DEVICE:
            register_backend(
                f"onnxruntime-{provider.removesuffix('ExecutionProvider').lower()}",
                provider=provider,
                device=_DEVICES.get(provider, "cpu"),
                takes_words=False,  # ONNX Runtime has its encoders on the CPU alone
                keeps_denormals=False,  # GPUs and their compilers flush them where that is faster
            )(OnnxRuntimeBackend)


_register_providers()
