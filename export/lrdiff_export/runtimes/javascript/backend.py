"""ONNX Runtime in JavaScript: WebAssembly under node and in headless Chromium, and the native package for node."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from lrdiff_core.errors import ModelFileError, UnavailableError
from lrdiff_export.onnx_file.load import model_inputs
from lrdiff_export.records import first_line
from lrdiff_export.runtimes.javascript.install import INSTALL, find_chromium, find_node, find_package, package_version
from lrdiff_export.runtimes.javascript.workers import ChromiumWorker, NodeWorker, Worker
from lrdiff_export.runtimes.protocol import Facts, FileBackend, OnnxFile, Predict, file_bytes, register_backend

__all__ = ["ChromiumBackend", "NodeBackend"]

NODE_BYTES = 2**29  # of data that node and its packages take themselves


@register_backend("onnxruntime-node", package="onnxruntime-node")
@register_backend("onnxruntime-web")
class NodeBackend(FileBackend):
    """A JavaScript package of ONNX Runtime under node, one thread.

    Source: https://onnxruntime.ai/docs/get-started/with-javascript/
    """

    heavy = True
    takes_words = True
    package = "onnxruntime-web"
    memory: int | None = None  # bytes that the process may hold

    def __init__(self) -> None:
        self._worker: Worker | None = None
        self._ran = False

    def limited(self, memory: int) -> NodeBackend:
        """Return the same with a process of its own that holds no more than these bytes beyond what node takes."""
        made = type(self)()
        made.name, made.package, made.memory = self.name, self.package, NODE_BYTES + memory
        return made

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
        return NodeWorker(self.package, self.memory)

    def prepare(self, model: OnnxFile) -> Predict:
        """Return a function that has the ONNX file run; the process serves several models."""
        data = file_bytes(model)
        proto = onnx.ModelProto.FromString(data)
        inputs, names = [one.name for one in model_inputs(proto)], [one.name for one in proto.graph.output]
        if self._worker is None:
            self._worker = self.start()
        worker, folder = self._worker, getattr(data, "folder", None)
        second = {
            entry.value for one in proto.graph.initializer for entry in one.external_data if entry.key == "location"
        }
        weights = {name: worker.offer(Path(folder, name)) for name in second if folder is not None}
        opened = self._ask(worker, {"job": "load", "model": worker.offer(data), "weights": weights})["model"]

        def predict(*rows: np.ndarray) -> list[np.ndarray]:
            feeds = {name: _packed(one) for name, one in zip(inputs, rows, strict=True)}
            outputs = self._ask(worker, {"job": "run", "model": opened, "feeds": feeds})["outputs"]
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


def _packed(rows: np.ndarray) -> dict[str, Any]:
    if rows.dtype.kind in "OU":
        words = [word if isinstance(word, str) else "" for word in rows.ravel().tolist()]
        return {"dtype": "string", "shape": list(rows.shape), "data": words}
    data = np.ascontiguousarray(rows)
    return {"dtype": str(data.dtype), "shape": list(data.shape), "data": base64.b64encode(data.tobytes()).decode()}


def _unpacked(output: dict[str, Any]) -> np.ndarray:
    if output["dtype"] == "string":
        return np.array(output["data"], object).reshape(output["shape"])
    data = np.frombuffer(base64.b64decode(output["data"]), dtype=output["dtype"])
    return data.reshape(output["shape"]).copy()
