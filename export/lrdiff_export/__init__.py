"""Ship: ONNX, verification, runtimes, parity.

Importing this package loads neither torch nor onnx: a name is fetched from its module when it is first used, so
that a command line that only prints its help stays fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lrdiff_export.backends import BACKENDS, Backend, register_backend
    from lrdiff_export.budget import Budget, Verdict, Yardstick
    from lrdiff_export.convert import DEFAULT_OPSET, convert_to_onnx
    from lrdiff_export.modelfile import load_onnx
    from lrdiff_export.parity import BackendResult, ParityReport, check_parity
    from lrdiff_export.predictor import OnnxPredictor
    from lrdiff_export.publish import ExportReport, VerificationFailed, export_onnx
    from lrdiff_export.runtimes import RuntimeInfo, describe_runtimes
    from lrdiff_export.verify import CaseResult, VerificationReport, verify_onnx

__all__ = [
    "BACKENDS",
    "Backend",
    "BackendResult",
    "Budget",
    "CaseResult",
    "DEFAULT_OPSET",
    "ExportReport",
    "OnnxPredictor",
    "ParityReport",
    "RuntimeInfo",
    "VerificationFailed",
    "VerificationReport",
    "Verdict",
    "Yardstick",
    "check_parity",
    "convert_to_onnx",
    "describe_runtimes",
    "export_onnx",
    "load_onnx",
    "register_backend",
    "verify_onnx",
]

_HOME = {
    "BACKENDS": "backends",
    "Backend": "backends",
    "BackendResult": "parity",
    "Budget": "budget",
    "CaseResult": "verify",
    "DEFAULT_OPSET": "convert",
    "ExportReport": "publish",
    "OnnxPredictor": "predictor",
    "ParityReport": "parity",
    "RuntimeInfo": "runtimes",
    "VerificationFailed": "publish",
    "VerificationReport": "verify",
    "Verdict": "budget",
    "Yardstick": "budget",
    "check_parity": "parity",
    "convert_to_onnx": "convert",
    "describe_runtimes": "runtimes",
    "export_onnx": "publish",
    "load_onnx": "modelfile",
    "register_backend": "backends",
    "verify_onnx": "verify",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
