"""Who may import whom is held by lint; here the lint itself is put to the test, and import costs are measured."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run_ruff(file):
    command = [sys.executable, "-m", "ruff", "check", "--select", "TID251", "--no-cache", str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.mark.parametrize(
    ("folder", "line", "way"),
    [
        ("lrdiff_core", "import onnx", "only lrdiff_export knows ONNX"),
        ("lrdiff_core", "from rich.table import Table", "only lrdiff_bench draws"),
        ("lrdiff_core", "from lrdiff_bench import cli", "core is below bench"),
        ("lrdiff_core", "import lrdiff_export", "core is below export"),
        ("lrdiff_core/rates", "import onnx", "ONNX"),
        ("lrdiff_core/rates", "from lrdiff_core.loop import train", "lrdiff_core.loop"),
        ("lrdiff_core/optim", "import lrdiff_bench", "lrdiff_bench"),
        ("lrdiff_core/optim", "from lrdiff_core.data import Table", "lrdiff_core.data"),
        ("export/lrdiff_export", "import typer", "only lrdiff_bench knows the command line"),
        ("export/lrdiff_export", "from lrdiff_bench.measure.engine.timing import Case", "export is below bench"),
        ("bench/lrdiff_bench", "import onnxruntime", "only lrdiff_export knows runtimes"),
    ],
)
def test_an_import_against_the_direction_is_refused_with_the_way_to_go(folder, line, way):
    file = ROOT / folder / "planted_by_a_test.py"
    file.write_text(f"{line}  # noqa: F401\n")
    try:
        done = run_ruff(file)
    finally:
        file.unlink()
    assert done.returncode == 1
    assert "TID251" in done.stdout
    assert way in done.stdout


@pytest.mark.parametrize(
    ("module", "banned"),
    [
        ("lrdiff_core", ["torch", "onnx", "polars", "matplotlib", "rich", "sklearn"]),
        ("lrdiff_core.loop", ["onnx", "polars", "matplotlib", "rich", "sklearn", "torch._dynamo"]),
        ("lrdiff_core.optim", ["onnx", "polars", "sklearn", "torch._dynamo"]),
        ("lrdiff_export", ["torch", "onnx", "onnxruntime"]),
        ("lrdiff_bench", ["torch", "onnx", "matplotlib"]),
        ("lrdiff_bench.cli", ["torch", "onnx", "polars", "matplotlib", "pydantic", "rich.console"]),
    ],
)
def test_an_import_brings_no_more_than_it_should(module, banned):
    code = f"import sys, {module}; print(' '.join(m for m in {banned!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
