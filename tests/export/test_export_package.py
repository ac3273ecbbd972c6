"""The package: its names, what importing it costs, and the examples in its documentation."""

from __future__ import annotations

import doctest
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import lrdiff_export
from lrdiff_export import describe_runtimes

WITHOUT_EXAMPLES = {"__init__", "sandbox_child", "zoo"}  # checked by tests of their own
MODULES = sorted(
    path.stem for path in Path(lrdiff_export.__file__).parent.glob("*.py") if path.stem not in WITHOUT_EXAMPLES
)


def test_the_public_names_are_these() -> None:
    assert lrdiff_export.__all__ == [
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
        "TARGETS",
        "Target",
        "VariantReport",
        "VerificationFailed",
        "VerificationReport",
        "Verdict",
        "Yardstick",
        "card_of",
        "check_parity",
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
        "verify_golden",
        "verify_onnx",
    ]
    assert dir(lrdiff_export) == sorted(lrdiff_export.__all__)
    for name in lrdiff_export.__all__:
        home = importlib.import_module(f"lrdiff_export.{lrdiff_export._HOME[name]}")
        assert getattr(lrdiff_export, name) is getattr(home, name)
        assert name in home.__all__
    with pytest.raises(AttributeError, match=r"^module 'lrdiff_export' has no attribute 'exprot'$"):
        lrdiff_export.exprot  # noqa: B018


def test_importing_the_package_loads_no_framework() -> None:
    script = (
        "import sys, lrdiff_export; print([m for m in ('torch', 'onnx', 'onnxruntime', 'numpy') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "[]\n"


def test_the_runtimes_of_this_machine_are_described() -> None:
    entries = {entry.name: entry for entry in describe_runtimes()}
    assert entries["torch"].version == torch.__version__
    assert "CPUExecutionProvider" in entries["onnxruntime"].detail
    for entry in entries.values():
        assert entry.available == (entry.reason is None)
        document = entry.to_dict()
        assert json.loads(json.dumps(document, allow_nan=False)) == document
        assert entry.detail


def test_a_missing_onnxscript_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    from lrdiff_export import runtimes

    def missing(name: str) -> str:
        raise runtimes.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(runtimes.metadata, "version", missing)
    entry = next(entry for entry in describe_runtimes() if entry.name == "onnxscript")
    assert (entry.version, entry.reason, entry.available) == (None, "not installed", False)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_the_documentation_run(name: str) -> None:
    module = importlib.import_module(f"lrdiff_export.{name}")
    failed, tried = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert tried > 0
    assert failed == 0
