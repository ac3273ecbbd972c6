"""What can be used here, and why the rest cannot: the facts behind ``lrdiff doctor``."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import onnx
import onnxruntime
import torch

from lrdiff_core.errors import UnavailableError
from lrdiff_export.records import json_ready
from lrdiff_export.runtimes import BACKENDS, compiler_path
from lrdiff_export.runtimes.javascript.install import (
    INSTALL,
    PACKAGES,
    cache_folder,
    find_chromium,
    find_node,
    find_package,
    package_version,
)

__all__ = ["RuntimeInfo", "describe_runtimes"]


@dataclass(frozen=True, kw_only=True)
class RuntimeInfo:
    """One thing that may or may not be here.

    Attributes:
        name: what it is.
        version: its version; None where there is none.
        detail: what matters of it, in one line.
        reason: why it cannot be used; None when it can.
    """

    name: str
    version: str | None
    detail: str
    reason: str | None = None

    @property
    def available(self) -> bool:
        """Whether it can be used."""
        return self.reason is None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {**json_ready(self), "available": self.available}


def describe_runtimes() -> list[RuntimeInfo]:
    """Return versions, threads, providers, the compiler, other runtimes and the accelerators of this machine.

    Example:
        >>> [entry.name for entry in describe_runtimes()][:6]
        ['python', 'torch', 'onnx', 'onnxscript', 'onnxruntime', 'C++ compiler']
    """
    compiler = compiler_path()
    return [
        RuntimeInfo(name="python", version=platform.python_version(), detail=platform.platform()),
        RuntimeInfo(name="torch", version=torch.__version__, detail=f"{torch.get_num_threads()} CPU threads"),
        RuntimeInfo(
            name="onnx", version=onnx.__version__, detail=f"operator sets up to {onnx.defs.onnx_opset_version()}"
        ),
        _describe_onnxscript(),
        RuntimeInfo(
            name="onnxruntime",
            version=onnxruntime.__version__,
            detail=f"providers: {', '.join(onnxruntime.get_available_providers())}; telemetry {_telemetry()}",
        ),
        RuntimeInfo(
            name="C++ compiler",
            version=None,
            detail=compiler or "for torch.compile",
            reason=BACKENDS["compiled"].availability(),
        ),
        _describe_openvino(),
        _describe_tool("node", find_node, "starts onnxruntime-web and -node, one process for all models"),
        *(_describe_package(name) for name in PACKAGES),
        _describe_tool("chromium", find_chromium, "started headless, on a page served on the loopback"),
        _describe_cuda(),
        RuntimeInfo(
            name="mps",
            version=None,
            detail="Metal Performance Shaders of Apple silicon",
            reason=BACKENDS["mps"].availability(),
        ),
    ]


def _telemetry() -> str:
    """By ONNX Runtime's own switch, which this package sets before it loads the runtime."""
    return "off (ORT_DISABLE_TELEMETRY)" if os.environ.get("ORT_DISABLE_TELEMETRY") == "1" else "as you set it"


def _describe_openvino() -> RuntimeInfo:
    reason = BACKENDS["openvino"].availability()
    version = None if reason else metadata.version("openvino")
    return RuntimeInfo(name="openvino", version=version, detail="runs in this process", reason=reason)


def _describe_tool(name: str, find: Callable[[], str], detail: str) -> RuntimeInfo:
    try:
        path = find()
    except UnavailableError as problem:
        return RuntimeInfo(name=name, version=None, detail=detail, reason=f"{problem.message}: {problem.help}")
    return RuntimeInfo(name=name, version=None, detail=f"{path}; {detail}")


def _describe_package(name: str) -> RuntimeInfo:
    try:
        return RuntimeInfo(name=name, version=package_version(name), detail=str(find_package(name)))
    except UnavailableError:
        reason = f"not installed: {INSTALL} (npm, into {cache_folder()})"
        return RuntimeInfo(name=name, version=None, detail="ONNX Runtime in JavaScript", reason=reason)


def _describe_onnxscript() -> RuntimeInfo:
    try:
        return RuntimeInfo(name="onnxscript", version=metadata.version("onnxscript"), detail="for exporting")
    except metadata.PackageNotFoundError:
        return RuntimeInfo(name="onnxscript", version=None, detail="for exporting", reason="not installed")


def _describe_cuda() -> RuntimeInfo:
    reason = BACKENDS["cuda"].availability()
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())] if not reason else []
    return RuntimeInfo(
        name="cuda", version=torch.version.cuda, detail=", ".join(devices) or "NVIDIA GPUs", reason=reason
    )
