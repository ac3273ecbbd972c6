"""ONNX Runtime in JavaScript: WebAssembly under node and in headless Chromium, and the native package for node."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from torch import nn

from lrdiff_core.errors import ModelFileError, UnavailableError
from lrdiff_export.onnx_file.load import model_inputs, parse_onnx
from lrdiff_export.records import first_line
from lrdiff_export.runtimes.javascript.install import INSTALL, find_chromium, find_node, find_package, package_version
from lrdiff_export.runtimes.javascript.workers import ChromiumWorker, NodeWorker, Worker
from lrdiff_export.runtimes.protocol import Facts, Predict, register_backend

__all__ = ["ChromiumBackend", "NodeBackend"]


@register_backend("onnxruntime-node", package="onnxruntime-node")
@register_backend("onnxruntime-web")
class NodeBackend:
    """A JavaScript package of ONNX Runtime under node, one thread.

    Source: https://onnxruntime.ai/docs/get-started/with-javascript/
    """

    name = "onnxruntime-web"
    device = "cpu"
    dtype = "float32"
    needs_onnx = True
    heavy = True
    keeps_denormals = True
    package = "onnxruntime-web"

    def __init__(self) -> None:
        self._worker: Worker | None = None
        self._ran = False

    def availability(self) -> str | None:
        """Return why it cannot be used."""
        try:
            self.look()
        except UnavailableError as problem:
            short = f": {INSTALL}" if "onnxruntime" in problem.message else f": {problem.help}"
            return problem.message + short
        return None

    def look(self) -> None:
        """Raise UnavailableError where something is missing."""
        find_node()
        find_package(self.package)

    def start(self) -> Worker:
        """Start the process that runs models."""
        return NodeWorker(self.package)

    def prepare(self, module: nn.Module, onnx: bytes | None) -> Predict:
        """Return a function that has the ONNX bytes run; the process serves several models."""
        if onnx is None:
            raise UnavailableError("no ONNX bytes to run", help="give onnx_bytes_or_path")
        if self._worker is None:
            self._worker = self.start()
        worker = self._worker
        inputs, names = _ports(onnx)
        model = self._ask(worker, {"job": "load", "model": base64.b64encode(onnx).decode()})["model"]

        def predict(*rows: np.ndarray) -> list[np.ndarray]:
            feeds = {name: _packed(one) for name, one in zip(inputs, rows, strict=True)}
            outputs = self._ask(worker, {"job": "run", "model": model, "feeds": feeds})["outputs"]
            self._ran = True
            return [_unpacked(outputs[name]) for name in names]

        return predict

    def _ask(self, worker: Worker, job: dict[str, Any]) -> dict[str, Any]:
        answer = worker.ask(job)
        if "error" in answer:
            raise ModelFileError(
                f"{self.package} cannot run the model: {first_line(answer['error'])}",
                help="see the targets that lrdiff export knows",
            )
        return answer

    def facts(self) -> Facts:
        """Return versions; these packages are asked for their one CPU provider, and fail rather than take another."""
        if self._worker is None or not self._ran:
            return {"ran_on": "nowhere"}
        return {
            "ran_on": "cpu",
            "runtime": f"{self.package} {package_version(self.package)}",
            "in": self._worker.runs,
            "threads": 1,
        }

    def release(self) -> None:
        """End the process."""
        if self._worker is not None:
            self._worker.close()
        self._worker, self._ran = None, False


@register_backend("chromium")
class ChromiumBackend(NodeBackend):
    """onnxruntime-web (WebAssembly) on a page in headless Chromium.

    Source: https://onnxruntime.ai/docs/tutorials/web/
    """

    def look(self) -> None:
        """Raise UnavailableError where something is missing."""
        find_chromium()
        find_package(self.package)

    def start(self) -> Worker:
        """Start the browser."""
        return ChromiumWorker()


def _ports(onnx: bytes) -> tuple[list[str], list[str]]:
    model = parse_onnx(onnx)
    return [one.name for one in model_inputs(model)], [one.name for one in model.graph.output]


def _packed(rows: np.ndarray) -> dict[str, Any]:
    data = np.ascontiguousarray(rows)
    return {"dtype": str(data.dtype), "shape": list(data.shape), "data": base64.b64encode(data.tobytes()).decode()}


def _unpacked(output: dict[str, Any]) -> np.ndarray:
    data = np.frombuffer(base64.b64decode(output["data"]), dtype=output["dtype"])
    return data.reshape(output["shape"]).copy()
