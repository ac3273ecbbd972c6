"""The package: its names, what importing it costs, and the examples in its documentation."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lrdiff_export import describe_runtimes


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
