"""The table of runtimes, each row against the real runtime."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

from lrdiff_core.errors import ConfigError
from lrdiff_export import TARGETS, Target, export, find_target
from lrdiff_export.publish.targets import probe_model
from lrdiff_export.runtimes.javascript.install import PACKAGES

OPSETS, IR_VERSIONS = range(15, onnx.defs.onnx_opset_version() + 1), range(7, onnx.IR_VERSION + 1)
PYTHON = """
import sys, json, numpy as np, onnxruntime as runtime
runtime.set_default_logger_severity(4)
best = {"opset": 0, "ir_version": 0}
for kind, number, path in json.loads(sys.argv[1]):
    try:
        runtime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": np.ones((1, 2), np.float32)})
        best[kind] = max(best[kind], number)
    except Exception as problem:
        assert "opset" in str(problem).lower() or "ir" in str(problem).lower(), problem
print(runtime.__version__, best["opset"], best["ir_version"])
"""
NODE = """
import fs from "fs"; import path from "path"; import url from "url";
const [folder, name, probes] = [process.argv[2], process.argv[3], JSON.parse(process.argv[4])];
const described = JSON.parse(fs.readFileSync(path.join(folder, name, "package.json")));
const web = name === "onnxruntime-web";
const inNode = described.exports?.["."]?.node;
const entry = (web && (inNode?.import ?? inNode)) || described.main;
const loaded = await import(url.pathToFileURL(path.join(folder, name, entry)));
const ort = loaded.InferenceSession ? loaded : loaded.default;
if (web) ort.env.wasm.numThreads = 1;
ort.env.logLevel = "fatal";
const best = {opset: 0, ir_version: 0};
for (const [kind, number, file] of probes) {
  try {
    const options = {executionProviders: [web ? "wasm" : "cpu"], logSeverityLevel: 4};
    const session = await ort.InferenceSession.create(new Uint8Array(fs.readFileSync(file)), options);
    await session.run({x: new ort.Tensor("float32", new Float32Array(2), [1, 2])});
    best[kind] = Math.max(best[kind], number);
  } catch (problem) { }
}
console.log(described.version, best.opset, best.ir_version);
process.exit(0);
"""


@pytest.fixture(scope="module")
def probes(tmp_path_factory: pytest.TempPathFactory) -> str:
    import json

    folder = tmp_path_factory.mktemp("probes")
    found = []
    for opset in OPSETS:
        file = folder / f"opset{opset}.onnx"
        file.write_bytes(probe_model(opset=opset, ir_version=7))
        found.append(("opset", opset, str(file)))
    for version in IR_VERSIONS:
        file = folder / f"ir{version}.onnx"
        file.write_bytes(probe_model(opset=15, ir_version=version))
        found.append(("ir_version", version, str(file)))
    return json.dumps(found)


def rows_of_runtime(name: str) -> list[Target]:
    return [target for target in TARGETS if target.runtime == name]


def installed(folder: Path, *packages: str) -> Path:
    """Install into a folder of its own, kept between runs; pip checks what it downloads."""
    if not folder.is_dir():
        beside = Path(tempfile.mkdtemp(dir=folder.parent))
        command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
        ran = subprocess.run([*command, "--target", str(beside), *packages], capture_output=True, text=True)
        if ran.returncode != 0:
            shutil.rmtree(beside)
            pytest.skip(f"pip cannot install {packages[0]} here: {ran.stderr.strip().splitlines()[-1]}")
        beside.rename(folder)
    return folder


def cache() -> Path:
    import os

    python = f"{sys.version_info.major}{sys.version_info.minor}"
    folder = Path(tempfile.gettempdir()) / f"lrdiff-targets-{os.getuid()}-{python}"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.mark.long
def test_every_row_of_onnxruntime_reads_what_the_table_says(probes: str) -> None:
    old_numpy = installed(cache() / "numpy", "numpy<2")
    rows = [row for row in rows_of_runtime("onnxruntime") if sys.version_info < (3, 12) or row.version >= "1.17"]

    def look(row: Target) -> str:
        folder = installed(cache() / row.version, f"onnxruntime=={row.version}")
        path = {"PYTHONPATH": f"{folder}:{old_numpy}"}  # numpy 1 serves all of them, numpy 2 only those since 1.19
        ran = subprocess.run([sys.executable, "-c", PYTHON, probes], env=path, capture_output=True, text=True)
        return ran.stdout.strip() or ran.stderr[-500:]

    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(look, rows))
    assert said == [f"{row.version} {row.opset} {row.ir_version}" for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnxruntime-web", "onnxruntime-node"])
def test_the_newest_rows_of_javascript_read_what_the_table_says(name: str, probes: str, javascript: Path) -> None:
    """Older ones take 140 to 290 MB each; ``LRDIFF_ALL_TARGETS=1`` tries them too."""
    import os

    rows = rows_of_runtime(name)
    for row in rows if os.environ.get("LRDIFF_ALL_TARGETS") == "1" else rows[-1:]:
        folder = javascript if row.version == PACKAGES[name] else cache() / f"{name}-{row.version}"
        if not (folder / "node_modules" / name / "package.json").is_file():
            folder.mkdir(exist_ok=True)
            command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", f"{name}@{row.version}"]
            ran = subprocess.run(command, cwd=folder, capture_output=True, text=True)
            if ran.returncode != 0:
                pytest.skip(f"npm cannot install {name} here: {ran.stderr.strip().splitlines()[-1]}")
        script = cache() / "probe.mjs"
        script.write_text(NODE)
        command = ["node", str(script), str(folder / "node_modules"), name, probes]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert ran.stdout.strip() == f"{row.version} {row.opset} {row.ir_version}", ran.stderr[-500:]


def test_openvino_reads_what_the_table_says(probes: str) -> None:
    import json

    openvino = pytest.importorskip("openvino", reason="openvino is not installed")
    (row,) = rows_of_runtime("openvino")
    best: dict[str, int] = {}
    for kind, number, path in json.loads(probes):
        openvino.compile_model(path, "CPU")
        best[kind] = number
    assert (best["opset"], best["ir_version"]) >= (row.opset, row.ir_version)


def test_the_table_grows_with_the_versions_and_is_not_empty() -> None:
    assert {row.runtime for row in TARGETS} == {"onnxruntime", "onnxruntime-web", "onnxruntime-node", "openvino"}
    for name in ("onnxruntime", "onnxruntime-web", "onnxruntime-node"):
        rows = rows_of_runtime(name)
        assert len(rows) >= 7
        pairs = [(tuple(map(int, row.version.split("."))), row.opset, row.ir_version) for row in rows]
        assert pairs == sorted(pairs)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("onnxruntime", "1.32.0"),
        ("onnxruntime==1.18.1", "1.18.1"),
        ("onnxruntime==1.19", "1.18.1"),
        ("onnxruntime==1.18.0", "1.17.3"),
        ("onnxruntime-web==1.30", "1.30.0"),
        ("onnxruntime==9.9", "1.32.0"),
    ],
)
def test_a_version_in_between_is_read_as_the_older_one(name: str, found: str) -> None:
    assert find_target(name).version == found


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tensorrt", 'no target "tensorrt"'),
        ("onnxruntime==new", '"new" is not a version'),
        ("onnxruntime==1.2", "onnxruntime==1.2 is older than every version that was tested"),
    ],
)
def test_wrong_targets_are_named(name: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        find_target(name)
    assert caught.value.message == message


def exported(tmp_path: Path, **options: Any) -> Any:
    return export(nn.Linear(3, 1), torch.zeros(1, 3), out=tmp_path / "model.onnx", golden=False, **options)


@pytest.mark.slow
def test_a_target_sets_opset_and_ir_and_a_newer_opset_is_refused(tmp_path: Path) -> None:
    report = exported(tmp_path, target="onnxruntime==1.16.3")
    assert (report.opset, report.ir_version, report.target) == (19, 9, "onnxruntime==1.16.3")
    assert exported(tmp_path, target="onnxruntime-web==1.30").opset == 20
    assert exported(tmp_path, target="onnxruntime-web==1.30", opset=18).opset == 18
    with pytest.raises(ConfigError) as caught:
        exported(tmp_path, target="onnxruntime-web==1.30", opset=28)
    assert caught.value.message == "opset 28 was asked for and onnxruntime-web==1.30.0 reads up to 26"
