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

WITHOUT_EXAMPLES = {"__init__", "sandbox_child", "workers", "zoo"}  # checked by tests of their own
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
        "run_untrusted",
        "subject_of_file",
        "subject_of_module",
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


def test_what_other_runtimes_need_is_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("LRDIFF_NODE_MODULES", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    reasons = {entry.name: entry.reason for entry in describe_runtimes()}
    assert reasons["openvino"] == "openvino is not installed: pip install openvino"
    assert reasons["node"] == "node is not installed: install node 18 or newer (Debian: apt-get install nodejs)"
    for name in ("onnxruntime-web", "onnxruntime-node"):
        assert reasons[name] == (
            f"not installed: lrdiff doctor --install-javascript (npm, into {tmp_path}/lrdiff/javascript)"
        )
    assert str(reasons["chromium"]).startswith("no Chromium on the path: install it (Debian: ")


def test_a_missing_onnxscript_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    from lrdiff_export.runtimes import versions

    real = versions.metadata.version

    def missing(name: str) -> str:
        if name == "onnxscript":
            raise versions.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(versions.metadata, "version", missing)
    entry = next(entry for entry in describe_runtimes() if entry.name == "onnxscript")
    assert (entry.version, entry.reason, entry.available) == (None, "not installed", False)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_the_documentation_run(name: str) -> None:
    module = importlib.import_module(f"lrdiff_export.{name}")
    failed, tried = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert tried > 0
    assert failed == 0
