"""``make gpu`` without a GPU: the same checks run small on the CPU, with nothing installed but what it may need."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from lrdiff_bench.gpu import prediction
from lrdiff_bench.gpu.__main__ import main, run_parts
from lrdiff_bench.gpu.record import NO_TIME, PARTS, GpuRow, Part, Request, gpu_page, read_rows, writer
from lrdiff_bench.gpu.training import tasks
from lrdiff_core.devices import device_status
from lrdiff_export.runtimes import BACKENDS
from lrdiff_export.training import ARITHMETICS, IMPLEMENTATIONS

ROOT = Path(__file__).parents[2]
ALLOWED_SECONDS = 8 * 60
# All that the project knows and a borrowed GPU machine may lack; what it has is torch, numpy, scipy, onnx, onnxruntime,
# safetensors, jinja2, lazy_loader, typer, rich, matplotlib and pytest.
ABSENT = (
    "pydantic", "pydantic_core", "polars", "sklearn", "onnxscript", "onnx_ir", "xarray", "zarr", "dask",
    "distributed", "optuna", "pandas", "jax", "optax", "lightning", "transformers", "accelerate", "openvino",
    "hypothesis", "expecttest", "pytest_benchmark", "xdist", "asv", "asv_runner",
)  # fmt: skip
# Python imports a module of this name before anything else, in every process that is started.
BLOCKER = f"""
import importlib.machinery, importlib.metadata, sys

ABSENT = {ABSENT!r}


class Without(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            return None
        return super().find_spec(name, path, target)


sys.meta_path[:] = [Without if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]
found = importlib.metadata.version


def version(name):
    if name == "lrdiff" or name.replace("-", "_") in ABSENT:
        raise importlib.metadata.PackageNotFoundError(name)
    return found(name)


importlib.metadata.version = version
"""


def environment(folder: Path) -> dict[str, str]:
    paths = [str(folder), *(str(ROOT / name) for name in (".", "export", "bench"))]
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    return kept | {"PYTHONPATH": os.pathsep.join(paths), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """The whole command where nothing optional is installed, away from the checkout's folder."""
    folder = tmp_path_factory.mktemp("bare")
    (folder / "sitecustomize.py").write_text(BLOCKER, encoding="utf-8")
    command = [sys.executable, "-m", "lrdiff_bench.gpu", "--device", "cpu", "--quick", "--out", str(folder / "out")]
    done = subprocess.run(command, env=environment(folder), cwd=folder, capture_output=True, text=True, check=False)
    return done, folder


@pytest.mark.slow
def test_the_blocker_blocks(bare: tuple[Any, Path]) -> None:
    code = (
        "import importlib.util as u, sys; sys.exit(u.find_spec('pydantic') is not None or u.find_spec('torch') is None)"
    )
    assert subprocess.run([sys.executable, "-c", code], env=environment(bare[1]), check=False).returncode == 0


@pytest.mark.slow
def test_it_runs_with_nothing_optional_installed(bare: tuple[Any, Path]) -> None:
    done, folder = bare
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads((folder / "out" / "gpu.json").read_text(encoding="utf-8"))
    assert (document["format"], document["passed"], document["quick"]) == ("lrdiff.gpu", True, True)
    assert [part["name"] for part in document["parts"]] == list(PARTS)
    assert all(part["rows"] and part["reason"] is None for part in document["parts"])
    held = {part["name"]: sum(row["result"] == "passed" for row in part["rows"]) for part in document["parts"]}
    assert held["prediction"] >= 3
    assert held["training"] >= 8
    assert held["population"] >= 2


@pytest.mark.slow
def test_it_says_what_was_left_out(bare: tuple[Any, Path]) -> None:
    done, folder = bare
    text = (folder / "out" / "gpu.md").read_text(encoding="utf-8")
    assert text in done.stdout
    for name in ("onnxscript", "pydantic", "sklearn", "polars", "xarray"):
        assert f"{name}: " in text.partition("left out: ")[2].splitlines()[0]
    assert "lrdiff, in a graph | not available here |  | needs cuda" in text
    if not device_status("cuda").available:
        assert " 0 failed, " in text
        assert "needs cuda: " in text


@pytest.mark.slow
def test_it_leaves_nothing_else_behind(bare: tuple[Any, Path]) -> None:
    assert sorted(file.name for file in (bare[1] / "out").iterdir()) == ["gpu.json", "gpu.md"]


def test_all_parts_together_end_in_eight_minutes() -> None:
    assert sum(part.seconds for part in PARTS.values()) < ALLOWED_SECONDS - 30


def test_without_an_accelerator_it_says_why(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    if device_status("cuda").available or device_status("mps").available:
        pytest.skip("there is an accelerator here")
    assert main(["--out", str(tmp_path / "out")]) == 3
    error, help = capsys.readouterr().err.splitlines()
    assert error.startswith("error: no accelerator here: cuda: ")
    assert "mps: " in error
    assert help == "help: see that the checks run: python -m lrdiff_bench.gpu --device cpu --quick"
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_told_before_anything_runs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["--device", "cpu", "--quick", "--out", str(tmp_path / "file" / "out")]) == 2
    assert capsys.readouterr().err.startswith("error: cannot write ")


PLANTED = {
    "fine": "report(GpuRow(what='a', result='passed'))",
    "raises": "report(GpuRow(what='a', result='passed')); raise RuntimeError('CUDA error: misaligned address\\nmore')",
    "crashes": "report(GpuRow(what='a', result='passed')); import os; os._exit(139)",
    "hangs": "report(GpuRow(what='a', result='passed')); import time; time.sleep(600)",
    "finds": "report(GpuRow(what='a', result='failed', note='why'))",
    "silent": "pass",
}


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Part]:
    for name, body in PLANTED.items():
        code = f"from lrdiff_bench.gpu.record import GpuRow\n\n\ndef run(request, report):\n    {body}\n"
        (tmp_path / f"planted_{name}.py").write_text(code, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", environment(tmp_path)["PYTHONPATH"])
    return [
        Part(name=name, title=name.title(), seconds=5 if name == "hangs" else 120, module=f"planted_{name}")
        for name in PLANTED
    ]


@pytest.mark.slow
def test_a_part_fails_alone_and_the_others_go_on(planted: list[Part]) -> None:
    document = run_parts(planted, Request(device="cpu", quick=True), command="test")
    told = {part["name"]: (part["passed"], part["reason"], len(part["rows"])) for part in document["parts"]}
    assert told == {
        "fine": (True, None, 1),
        "raises": (False, "RuntimeError: CUDA error: misaligned address", 1),
        "crashes": (False, "its process ended with status 139", 1),
        "hangs": (False, "took more than its 5 s and was ended", told["hangs"][2]),
        "finds": (False, None, 1),
        "silent": (False, "it had nothing to say", 0),
    }
    assert document["passed"] is False
    text = gpu_page(document)
    assert "**failed**: RuntimeError: CUDA error: misaligned address" in text
    assert "| a | **failed** |  | why |" in text


def test_rows_survive_a_process_that_is_ended_in_the_middle(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    report = writer(file)
    report(GpuRow(what="a", result="measured", numbers={"seconds": float("nan"), "several": (1, 2.5)}))
    with file.open("a", encoding="utf-8") as half:
        half.write('{"what": "b", "resu')
    assert read_rows(file) == [GpuRow(what="a", result="measured", numbers={"seconds": None, "several": [1, 2.5]})]
    assert read_rows(tmp_path / "none") == []


@pytest.mark.slow
def test_nothing_slow_is_begun_when_time_is_nearly_up() -> None:
    assert Request(device="cpu", quick=True).in_time()
    assert Request(device="cpu", quick=True, seconds=1e6).in_time()
    late = Request(device="cpu", quick=True, seconds=1e-9)
    assert not late.in_time()
    rows: list[GpuRow] = []
    for name in ("training", "steps", "population"):
        import_module(PARTS[name].module).run(late, rows.append)
    assert {row.note for row in rows if row.result == "unavailable"} >= {NO_TIME}
    assert not [row for row in rows if row.result in ("passed", "failed")]


def test_the_cpu_is_never_given_what_only_a_gpu_copes_with() -> None:
    assert Request(device="cpu", quick=False).small
    assert Request(device="cuda", quick=True).small
    assert not Request(device="cuda", quick=False).small
    rows: list[GpuRow] = []
    import_module(PARTS["population"].module).run(Request(device="cpu", quick=False), rows.append)
    assert {row.what for row in rows if "64 members" in row.what} >= {"sgd, 64 members", "adam, 64 members"}


def test_on_cuda_every_lane_and_backend_is_asked_for() -> None:
    """What a GPU would run, looked at where there is none: nothing of the registries is forgotten."""
    lanes = [lane for _, several in tasks(Request(device="cuda", quick=False)) for lane in several]
    expected = {name for name, one in IMPLEMENTATIONS.items() if "cuda" in one.devices}
    assert {lane.implementation for lane in lanes} == expected
    assert {lane.arithmetic for lane in lanes} == set(ARITHMETICS)
    assert {lane.device for lane in lanes} == {"cuda"}
    rows: list[GpuRow] = []
    if not device_status("cuda").available:
        prediction.run(Request(device="cuda", quick=False), rows.append)
        asked = {row.what.rpartition(", ")[2] for row in rows}
        assert asked == {name for name, one in BACKENDS.items() if one.device == "cuda" and not one.needs_onnx}
        assert {row.result for row in rows} == {"unavailable"}
