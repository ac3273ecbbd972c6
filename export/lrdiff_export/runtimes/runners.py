"""Runtimes that can run golden vectors: each takes a file and inputs by name, and gives outputs by name."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from lrdiff_core.errors import DataError, ModelFileError, UnavailableError
from lrdiff_export.records import first_line
from lrdiff_export.runtimes.javascript.install import NODE_MODULES, find_node, find_package, package_version
from lrdiff_export.runtimes.sandbox import Sandbox, inspect_untrusted

__all__ = ["NODE_MODULES", "RUNNERS", "Runner", "register_runner"]

CHECKER = Path(__file__).with_name("check_golden.mjs")
NODE_SECONDS = 60


class Runner(Protocol):
    """A runtime; a protocol, so that a deployer can bring the one they have."""

    def __call__(self, model: Path, feeds: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """Return the outputs by name for inputs by name."""


RUNNERS: dict[str, Runner] = {}
_Made = TypeVar("_Made", bound=type)


def register_runner(name: str) -> Callable[[_Made], _Made]:
    """Return a decorator that puts a runner class under ``name`` into the registry.

    Example:
        >>> sorted(RUNNERS)
        ['node', 'onnxruntime', 'openvino']
    """

    def decorate(kind: _Made) -> _Made:
        RUNNERS[name] = kind()
        return kind

    return decorate


@register_runner("onnxruntime")
class OnnxRuntimeRunner:
    """ONNX Runtime on the CPU, in a process of its own with limits."""

    def described(self) -> str:
        """Name and version."""
        return f"onnxruntime {metadata.version('onnxruntime')}"

    def __call__(self, model: Path, feeds: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        with Sandbox() as sandbox:
            ports = sandbox.inspect(model)
            wanted = [name for name, _, _ in ports.inputs]
            if sorted(wanted) != sorted(feeds):
                raise DataError(
                    f"{model} takes {', '.join(wanted) or 'nothing'}, the golden vectors have {', '.join(feeds)}",
                    help="the golden vectors belong to another model",
                )
            outputs = sandbox.run(model, [feeds[name] for name in wanted])
        return dict(zip((name for name, _, _ in ports.outputs), outputs, strict=True))


@register_runner("openvino")
class OpenVinoRunner:
    """OpenVINO on the CPU, told to keep float32: by itself it computes in bfloat16 where the CPU can.

    Source: https://docs.openvino.ai/2025/openvino-workflow/running-inference/optimize-inference/precision-control.html
    """

    def described(self) -> str:
        """Name and version."""
        return f"openvino {metadata.version('openvino')}"

    def __call__(self, model: Path, feeds: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        if importlib.util.find_spec("openvino") is None:
            raise UnavailableError("openvino is not installed", help="install it: pip install openvino")
        inspect_untrusted(model)  # OpenVINO itself runs in this process, without limits
        import openvino  # type: ignore[import-not-found, import-untyped, unused-ignore]

        try:
            compiled = openvino.compile_model(os.fspath(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
            results = compiled(dict(feeds))
        except Exception as problem:
            raise ModelFileError(
                f"openvino cannot run {model}: {first_line(problem)}", help="see the targets that lrdiff export knows"
            ) from problem
        # An output may have other names besides: those of the values that OpenVINO found to be the same.
        return {name: np.asarray(results[output]) for output in compiled.outputs for name in output.get_names()}


@register_runner("node")
class NodeRunner:
    """onnxruntime-web (WebAssembly) under node, through ``check_golden.mjs``."""

    def described(self) -> str:
        """Name and version."""
        return f"onnxruntime-web {package_version('onnxruntime-web')} under node"

    def __call__(self, model: Path, feeds: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        node, folder = find_node(), find_package("onnxruntime-web")
        inspect_untrusted(model)
        with tempfile.TemporaryDirectory() as scratch:
            given, made = Path(scratch, "in.npz"), Path(scratch, "out.json")
            np.savez(given, **{f"x:{name}": one for name, one in feeds.items()})  # type: ignore[arg-type]
            command = [
                node,
                str(CHECKER),
                "--run",
                str(model.resolve()),
                str(given),
                str(made),
                "--modules",
                str(folder),
            ]
            try:
                ran = subprocess.run(command, capture_output=True, text=True, timeout=NODE_SECONDS)
            except subprocess.TimeoutExpired as problem:
                raise ModelFileError(
                    f"onnxruntime-web takes longer than {NODE_SECONDS} s on {model}", help="try a smaller model"
                ) from problem
            if ran.returncode != 0:
                raise ModelFileError(
                    f"onnxruntime-web cannot run {model}: {first_line(ran.stderr)}",
                    help="see the targets that lrdiff export knows",
                )
            answer = json.loads(made.read_text("utf-8"))
        return {
            name: np.array(_numbers(one["data"]), dtype=one["dtype"]).reshape(one["shape"])
            for name, one in answer.items()
        }


def _numbers(values: list[float | str]) -> list[float | int]:
    """JSON has no NaN, infinity and 64-bit integers: those come as text."""
    return [(int(v) if v.lstrip("-").isdigit() else float(v)) if isinstance(v, str) else v for v in values]
