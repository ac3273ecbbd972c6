"""OpenVINO on the CPU: told to keep float32, and left to choose: bfloat16 where the CPU is faster at it."""

from __future__ import annotations

import importlib.util
import os
from collections import Counter
from typing import Any

import numpy as np

from lrdiff_core.errors import ModelFileError
from lrdiff_export.records import first_line
from lrdiff_export.runtimes.protocol import Facts, FileBackend, OnnxFile, Predict, file_bytes, register_backend

__all__ = ["OpenVinoBackend"]

_ARITHMETIC = {
    "float": "float32",
    "f32": "float32",
    "bf16": "bfloat16",
    "bfloat16": "bfloat16",
    "f16": "float16",
    "float16": "float16",
}


@register_backend("openvino-default", dtype=None, hint=None)
@register_backend("openvino")
class OpenVinoBackend(FileBackend):
    """OpenVINO's CPU plugin on one thread.

    Source: https://docs.openvino.ai/2025/openvino-workflow/running-inference/optimize-inference/precision-control.html
    """

    library = "openvino"
    hint: str | None = "f32"

    def __init__(self) -> None:
        self._compiled: Any = None

    def availability(self) -> str | None:
        """Return why it cannot be used."""
        if importlib.util.find_spec("openvino") is None:
            return "openvino is not installed: pip install openvino"
        return None

    def prepare(self, model: OnnxFile) -> Predict:
        """Return a function that runs an ONNX file."""
        import openvino  # type: ignore[import-not-found, import-untyped, unused-ignore]

        if not isinstance(model, bytes):
            file_bytes(model)  # OpenVINO would not look at the hash of a second file
        options: dict[str, Any] = {"INFERENCE_NUM_THREADS": 1}
        if self.hint is not None:
            options["INFERENCE_PRECISION_HINT"] = self.hint
        try:
            core = openvino.Core()
            compiled = core.compile_model(
                core.read_model(model if isinstance(model, bytes) else os.fspath(model)), "CPU", options
            )
        except Exception as problem:  # its exceptions share no base below Exception
            raise ModelFileError(
                f"openvino cannot load the model: {first_line(problem)}",
                help="see the targets that lrdiff export knows",
            ) from problem
        names = [one.get_any_name() for one in compiled.inputs]

        def predict(*rows: np.ndarray) -> list[np.ndarray]:
            results = compiled(dict(zip(names, rows, strict=True)))
            self._compiled = compiled
            return [np.array(results[output]) for output in compiled.outputs]

        return predict

    def facts(self) -> Facts:
        """Return the device, the precision it chose, and in which precision how many nodes run."""
        if self._compiled is None:
            return {"ran_on": "nowhere"}
        import openvino

        nodes = Counter(
            str(node.get_rt_info()["runtimePrecision"].astype(str))
            for node in self._compiled.get_runtime_model().get_ordered_ops()
        )
        chosen = self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        return {
            "ran_on": " and ".join(sorted({one.split(".")[0].lower() for one in self._devices()})),
            "runtime": f"openvino {openvino.__version__.split('-')[0]}",
            "threads": int(self._compiled.get_property("INFERENCE_NUM_THREADS")),
            "arithmetic": _ARITHMETIC.get(chosen, chosen),
            "nodes": dict(nodes),
        }

    def _devices(self) -> list[str]:
        devices = self._compiled.get_property("EXECUTION_DEVICES")
        return [devices] if isinstance(devices, str) else list(devices)

    def release(self) -> None:
        """Let the compiled model go."""
        self._compiled = None
