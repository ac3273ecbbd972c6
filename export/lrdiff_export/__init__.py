"""Ship: ONNX, verification, runtimes, parity.

Importing this package loads neither torch nor onnx: a name is fetched from its module when it is first used, so
that a command line that only prints its help stays fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lrdiff_export.backends import BACKENDS, Backend, register_backend
    from lrdiff_export.battery import Battery
    from lrdiff_export.budget import Yardstick
    from lrdiff_export.card import Card, card_of, read_card
    from lrdiff_export.convert import DEFAULT_OPSET, convert_to_onnx
    from lrdiff_export.diagnose import Diagnosis, NodeError
    from lrdiff_export.golden import GoldenReport, verify_golden
    from lrdiff_export.judging import Budget, Verdict
    from lrdiff_export.latency import LatencyReport, measure_latency
    from lrdiff_export.matrix import BackendResult, ParityReport
    from lrdiff_export.modelfile import load_onnx
    from lrdiff_export.parity import check_parity, check_subjects
    from lrdiff_export.ports import Port
    from lrdiff_export.predictor import OnnxPredictor
    from lrdiff_export.publish import ExportReport, VerificationFailed, export, export_onnx
    from lrdiff_export.runners import RUNNERS, register_runner
    from lrdiff_export.runtimes import RuntimeInfo, describe_runtimes
    from lrdiff_export.sandbox import Limits, Sandbox, inspect_untrusted, run_untrusted
    from lrdiff_export.subjects import Subject, subject_of_file, subject_of_module
    from lrdiff_export.targets import TARGETS, Target, find_target
    from lrdiff_export.variants import Allowance, VariantReport
    from lrdiff_export.verify import CaseResult, VerificationReport, verify_onnx

__all__ = [
    "Allowance",
    "BACKENDS",
    "Backend",
    "BackendResult",
    "Battery",
    "Budget",
    "Card",
    "CaseResult",
    "DEFAULT_OPSET",
    "Diagnosis",
    "ExportReport",
    "GoldenReport",
    "LatencyReport",
    "Limits",
    "NodeError",
    "OnnxPredictor",
    "ParityReport",
    "Port",
    "RUNNERS",
    "RuntimeInfo",
    "Sandbox",
    "Subject",
    "TARGETS",
    "Target",
    "VariantReport",
    "VerificationFailed",
    "VerificationReport",
    "Verdict",
    "Yardstick",
    "card_of",
    "check_parity",
    "check_subjects",
    "convert_to_onnx",
    "describe_runtimes",
    "export",
    "export_onnx",
    "find_target",
    "inspect_untrusted",
    "load_onnx",
    "measure_latency",
    "read_card",
    "register_backend",
    "register_runner",
    "run_untrusted",
    "subject_of_file",
    "subject_of_module",
    "verify_golden",
    "verify_onnx",
]

_HOME = {
    "Allowance": "variants",
    "BACKENDS": "backends",
    "Backend": "backends",
    "BackendResult": "matrix",
    "Battery": "battery",
    "Budget": "judging",
    "Card": "card",
    "CaseResult": "verify",
    "DEFAULT_OPSET": "convert",
    "Diagnosis": "diagnose",
    "ExportReport": "publish",
    "GoldenReport": "golden",
    "LatencyReport": "latency",
    "Limits": "sandbox",
    "NodeError": "diagnose",
    "OnnxPredictor": "predictor",
    "ParityReport": "matrix",
    "Port": "ports",
    "RUNNERS": "runners",
    "RuntimeInfo": "runtimes",
    "Sandbox": "sandbox",
    "Subject": "subjects",
    "TARGETS": "targets",
    "Target": "targets",
    "VariantReport": "variants",
    "VerificationFailed": "publish",
    "VerificationReport": "verify",
    "Verdict": "judging",
    "Yardstick": "budget",
    "card_of": "card",
    "check_parity": "parity",
    "check_subjects": "parity",
    "convert_to_onnx": "convert",
    "describe_runtimes": "runtimes",
    "export": "publish",
    "export_onnx": "publish",
    "find_target": "targets",
    "inspect_untrusted": "sandbox",
    "load_onnx": "modelfile",
    "measure_latency": "latency",
    "read_card": "card",
    "register_backend": "backends",
    "register_runner": "runners",
    "run_untrusted": "sandbox",
    "subject_of_file": "subjects",
    "subject_of_module": "subjects",
    "verify_golden": "golden",
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
