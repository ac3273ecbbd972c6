"""The package: its names, what importing it costs, and the examples in its documentation."""

from __future__ import annotations

import doctest
import importlib
import json
import subprocess
import sys

import pytest
import torch

import lrdiff_export
from lrdiff_export import describe_runtimes

MODULES = [
    "backends",
    "budget",
    "convert",
    "modelfile",
    "parity",
    "predictor",
    "protobuf",
    "publish",
    "records",
    "reference",
    "runtimes",
    "verify",
]


def test_the_public_names_are_these() -> None:
    assert lrdiff_export.__all__ == [
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
