"""Who may import whom is held by lint; here the lint itself is put to the test, and import costs are measured."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


# Packages of the house, each with an import that it must not make and words of the contract that says where to go.
PLANTED = {
    "lrdiff_core.planted": ("import onnx", "Core knows no ONNX"),
    "lrdiff_core.planted_screen": ("from rich.table import Table", "no command line and no pictures"),
    "lrdiff_core.rates.planted": ("from lrdiff_core.loop import train", "hand plain groups up"),
    "lrdiff_core.optim.planted": ("from lrdiff_core.data import Table", "hand plain groups up"),
    "lrdiff_export.planted": ("import typer", "Only bench knows the command line"),
    "lrdiff_export.model.planted": ("from lrdiff_bench.cli import main", "core <- export <- bench"),
    "lrdiff_export.publish.planted": ("import lrdiff_export.parity", "what two of the last three need"),
    "lrdiff_export.onnx_file.planted": ("import lrdiff_export.verify.verify", "Export, bottom to top"),
    "lrdiff_bench.planted": ("import onnxruntime", "Only lrdiff_export knows ONNX and runtimes"),
    "lrdiff_bench.maps.planted": ("import lrdiff_bench.run.job", "what two wings need belongs to the grounds"),
    "lrdiff_bench.stats.planted": ("import lrdiff_bench.system.machine", "Bench, bottom to top"),
    "lrdiff_bench.measure.engine.planted": ("import lrdiff_bench.measure.cases.state", "The engine knows no case"),
    "lrdiff_bench.planted_front": ("import benchmarks.landscape", "Benchmarks are thin fronts"),
}
# Two files that need each other, one of them for a type alone.
CIRCLE = {
    "lrdiff_export.verify.planted": "import lrdiff_export.verify.planted_too",
    "lrdiff_export.verify.planted_too": "import typing\nif typing.TYPE_CHECKING: import lrdiff_export.verify.planted",
}


@pytest.fixture(scope="module")
def verdict_of_lint(tmp_path_factory):
    """What `make lint` says of a copy of the packages with every import of PLANTED in it."""
    copy = tmp_path_factory.mktemp("house")
    skip = shutil.ignore_patterns("__pycache__", ".venv")
    for place in ("lrdiff_core", "export", "bench"):
        shutil.copytree(ROOT / place, copy / place, ignore=skip)
    shutil.copy(ROOT / "pyproject.toml", copy)
    homes = {"lrdiff_core": copy, "lrdiff_export": copy / "export", "lrdiff_bench": copy / "bench"}
    for module, line in {**{module: line for module, (line, _) in PLANTED.items()}, **CIRCLE}.items():
        path = homes[module.split(".")[0]].joinpath(*module.split("."))
        path.with_suffix(".py").write_text(f"{line}\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, homes.values())), "COLUMNS": "1000"}
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as main; main()", "--no-cache"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=copy, env=environment)
    assert done.returncode == 1, done.stdout + done.stderr
    return " ".join(done.stdout.split())


@pytest.mark.parametrize("module", PLANTED)
def test_an_import_against_the_direction_is_refused_with_the_way_to_go(module, verdict_of_lint):
    _, way = PLANTED[module]
    broken = verdict_of_lint[verdict_of_lint.index("Broken contracts") :]
    assert way in broken
    assert f"- {module} -> " in broken


def test_a_circle_is_refused_even_if_it_is_one_of_types(verdict_of_lint):
    broken = verdict_of_lint[verdict_of_lint.index("Broken contracts") :]
    assert "No circles, in no folder" in broken
    assert any(
        f".{one} -> .{other}" in broken for one, other in [("planted", "planted_too"), ("planted_too", "planted")]
    )


def test_no_folder_is_crowded():
    for top in (ROOT / "lrdiff_core", ROOT / "export", ROOT / "bench", ROOT / "benchmarks"):
        for folder in (top, *(path for path in top.rglob("*") if path.is_dir() and path.name != "__pycache__")):
            files = [file.name for file in folder.iterdir() if file.suffix in (".py", ".c", ".cpp", ".mjs")]
            assert len(files) <= 16, f"{folder} holds {len(files)} source files: which rooms are these?"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "banned"),
    [
        ("lrdiff_core", ["torch", "onnx", "polars", "matplotlib", "rich", "sklearn"]),
        ("lrdiff_core.loop", ["onnx", "polars", "matplotlib", "rich", "sklearn", "torch._dynamo"]),
        ("lrdiff_core.population", ["onnx", "polars", "sklearn", "torch._dynamo"]),
        ("lrdiff_core.data", ["torch", "polars", "scipy", "sklearn"]),
        ("lrdiff_export", ["torch", "onnx", "onnxruntime"]),
        ("lrdiff_bench", ["torch", "onnx", "matplotlib"]),
        ("lrdiff_bench.cli", ["torch", "onnx", "polars", "matplotlib", "pydantic", "rich.console"]),
    ],
)
def test_an_import_brings_no_more_than_it_should(module, banned):
    code = f"import sys, {module}; print(' '.join(m for m in {banned!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
