"""`lrdiff parity`: runs, modules, files and built-in models; the matrix, the folder, exit statuses and messages."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lrdiff_bench.cli import main
from lrdiff_bench.parity.pictures import draw_matrix
from lrdiff_export import BACKENDS, register_backend
from lrdiff_export.runtimes import TorchBackend

MINE = """
import torch
from torch import nn

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.out = nn.Embedding(7, 4), nn.Linear(6, 2)

    def forward(self, word, numbers):
        return {"scores": self.out(torch.cat([self.table(word), numbers], dim=1))}

def make():
    example = {"word": torch.tensor([1, 2, 3]), "numbers": torch.randn(3, 2)}
    return Two().eval(), example, {"output_names": ["scores"]}

def plain():
    torch.manual_seed(0)
    return nn.Linear(3, 1), torch.zeros(1, 3)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parity") / "wine"
    assert main(["train", "--data", "wine", "--out", str(folder)]) == 0
    assert main(["export", str(folder)]) == 0
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine_to_compare.py").write_text(MINE)
    return tmp_path


@pytest.fixture
def wrong() -> Iterator[None]:
    """A backend that is wrong, and one that is not here."""
    before = dict(BACKENDS)

    class Wrong(TorchBackend):
        def prepare(self, model: Any) -> Any:
            predict = super().prepare(model)
            return lambda *rows: [output[:, ::-1] for output in predict(*rows)]

    class Absent(TorchBackend):
        def availability(self) -> str | None:
            return "no such machine"

    register_backend("wrong")(Wrong)
    register_backend("absent")(Absent)
    yield
    BACKENDS.clear()
    BACKENDS.update(before)


def document_of(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert isinstance(document, dict)
    return document


@pytest.mark.slow
def test_a_run_agrees_and_the_screen_fits_eighty_columns(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["parity", str(run), "--backends", "eager,eager-bf16,onnxruntime, onnx-reference"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert max(map(len, shown.out.splitlines())) <= 80
    assert [line.split()[:3] for line in shown.out.splitlines()[2:6]] == [
        ["eager", "agrees", "fp32"],
        ["eager-bf16", "agrees", "bf16"],
        ["onnxruntime", "agrees", "fp32"],
        ["onnx-reference", "agrees", "fp32"],
    ]
    assert "eager-bf16: the size of its error shows that it computed in bfloat16" in shown.out


def test_rows_of_ones_own_are_predicted_in_place_of_the_held_out_ones(
    run: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = json.loads((run / "summary.json").read_text())["data"]["feature_names"]
    (here / "rows.csv").write_text("\n".join([",".join(names), *[",".join(["1.5"] * len(names))] * 7]) + "\n")
    assert main(["parity", str(run), "--backends", "eager,onnxruntime", "--data", "rows.csv", "--json"]) == 0
    assert document_of(capsys)["models"]["wine"]["rows"] == 7
    assert main(["parity", str(run), "--backends", "eager", "--data", "none.csv"]) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.slow
def test_a_file_alone_is_judged_by_its_golden_vectors(
    run: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("model.onnx", "model.golden.npz", "model.golden.json"):
        shutil.copy(run / name, here)
    assert (
        main(["parity", "model.onnx", "--backends", "onnxruntime,onnxruntime-disabled,onnx-reference", "--json"]) == 0
    )
    report = document_of(capsys)["models"]["model.onnx"]
    assert report["reference"] == "golden vectors, float64"
    assert [one["status"] for one in report["results"]] == ["agrees"] * 3
    assert main(["parity", "model.onnx", "--backends", "eager"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: eager runs a module, not an ONNX file",
        f"help: backends of files: {', '.join(n for n, one in BACKENDS.items() if one.needs_onnx)}",
    ]
    assert main(["parity", "model.onnx", "--data", "mine_to_compare.py"]) == 2
    assert capsys.readouterr().err.startswith(
        "error: --data needs the run of an ONNX file: the file by itself has no float64 answers for new rows\n"
    )
    (here / "model.onnx").write_bytes((here / "model.onnx").read_bytes() + b"\x00")
    assert main(["parity", "model.onnx"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    (here / "model.golden.json").unlink()
    shutil.copy(run / "model.onnx", here)
    assert main(["parity", "model.onnx"]) == 2
    assert "no golden vectors beside the model" in capsys.readouterr().err


def test_a_module_of_ones_own_with_names_and_a_mapping(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["parity", "mine_to_compare:make", "--backends", "eager,onnxruntime", "--json"]) == 0
    report = document_of(capsys)["models"]["mine_to_compare:make"]
    assert report["rows"] == 67
    assert [one["outputs"][0]["output"] for one in report["results"]] == ["scores", "scores"]


def test_arrays_of_ones_own(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(here / "rows.npy", np.ones((5, 3), np.float32))
    np.savez(here / "rows.npz", numbers=np.ones((4, 2), np.float32), word=np.array([0, 1, 2, 3]))
    np.savez(here / "ordered.npz", np.array([0, 1, 2, 3]), np.ones((4, 2), np.float32))
    common = ["--backends", "eager", "--json", "--data"]
    assert main(["parity", "mine_to_compare:plain", *common, "rows.npy"]) == 0
    assert document_of(capsys)["models"]["mine_to_compare:plain"]["rows"] == 5
    for file in ("rows.npz", "ordered.npz"):
        assert main(["parity", "mine_to_compare:make", *common, file]) == 0
        assert document_of(capsys)["models"]["mine_to_compare:make"]["rows"] == 4
    wanted = {
        "none.npy": "error: none.npy does not exist\n",
        "mine_to_compare.py": "error: mine_to_compare.py is no file of arrays",
    }
    for file, message in wanted.items():
        assert main(["parity", "mine_to_compare:plain", *common, file]) == 2
        assert capsys.readouterr().err.startswith(message)
    assert main(["parity", "mine_to_compare:make", *common, "rows.npy"]) == 2
    assert capsys.readouterr().err.startswith("error: rows are given for 1 inputs, the example has 2\n")


@pytest.mark.slow
def test_several_models_stand_beside_each_other_and_everything_is_written(
    run: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = [str(run), "mine_to_compare:plain"]
    backends = "eager,eager-bf16,onnxruntime,onnx-reference"
    assert main(["parity", *sources, "--backends", backends, "--out", "results"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert shown.splitlines()[0].split() == ["backend", "dtype", "wine", "mine_to_compare:plain"]
    files = sorted(one.name for one in (here / "results").iterdir())
    names = ["parity", "parity-layers"]
    assert files == sorted(
        ["parity.json", "parity.md", *(f"{name}.{kind}" for name in names for kind in ("png", "svg"))]
    )
    document = json.loads((here / "results" / "parity.json").read_text())
    assert (document["format"], document["version"], document["passed"]) == ("lrdiff.parity", 2, True)
    assert {one["backend"] for one in document["layers"]["wine"]} == set(backends.split(","))
    page = (here / "results" / "parity.md").read_text()
    for said in (
        "| eager | fp32 |",
        "![The matrix in colours](parity.png)",
        "--out results`",
        "float32_products: highest",
    ):
        assert said in page
    assert str(here) not in page.replace(str(run), "")
    svg = (here / "results" / "parity.svg").read_text()
    for said in ("onnxruntime", "bf16", "wine"):
        assert said in svg


@pytest.mark.slow
def test_a_fault_fails_with_its_reason_and_the_matrix_is_shown_first(
    wrong: None, run: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["parity", str(run), "--backends", "eager,wrong", "--out", "results"]) == 1
    shown = capsys.readouterr()
    assert "its classes are in the order 2, 1, 0" in " ".join(shown.out.split())
    assert shown.err.splitlines()[0] == "error: no parity: wrong differs"
    assert "differs" in (here / "results" / "parity.svg").read_text()
    assert "**differs**: " in (here / "results" / "parity.md").read_text()
    assert main(["parity", str(run), "--backends", "wrong", "--json"]) == 1
    result = document_of(capsys)["models"]["wine"]["results"][0]
    assert (result["fault"], result["counts"]) == ("classes reordered", True)


def test_what_was_asked_for_and_is_not_here_is_status_three(
    wrong: None, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["parity", str(run), "--backends", "eager,absent"]) == 3
    shown = capsys.readouterr()
    assert "not available here: absent: no such machine" in shown.out
    assert shown.err.splitlines()[0] == "error: not available here: absent: no such machine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backends", "eagre"], 'error: no backend "eagre"'),
        (["--backends", ","], "error: --backends names none"),
        (["--data", "rows.csv"], "error: --data goes with one source, not the built-in models"),
        (["nowhere", "--backends", "eager"], "error: "),
        (["a", "a", "--backends", "eager"], "error: a source is named twice"),
        (["none.onnx"], "error: none.onnx does not exist"),
        (["--out", "file", "--backends", "eager"], "error: cannot write file: "),
    ],
)
def test_wrong_usage_is_named_before_anything_runs(
    arguments: list[str], message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "file").write_text("")
    assert main(["parity", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(message)
    assert len(shown.err.splitlines()) == 2


@pytest.mark.slow
def test_lower_precision_fails_only_where_it_was_asked_for(
    wrong: None, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lrdiff_bench.parity.sources import find_subjects
    from lrdiff_export import check_subjects

    class Worse(TorchBackend):
        dtype = "bfloat16"

        def prepare(self, model: Any) -> Any:
            predict = super().prepare(model)
            return lambda *rows: [1 - output for output in predict(*rows)]

    for name in list(BACKENDS):
        if name not in ("eager",):
            del BACKENDS[name]
    register_backend("worse")(Worse)
    subjects = find_subjects([str(run)])
    report = check_subjects(subjects)["wine"]
    assert [(one.status, one.counts) for one in report.results] == [("agrees", True), ("differs", False)]
    assert report.passed
    assert not check_subjects(subjects, backends=["eager", "worse"])["wine"].passed
    assert main(["parity", str(run)]) == 0
    assert main(["parity", str(run), "--backends", "eager,worse"]) == 1
    assert "error: no parity: worse differs\n" in capsys.readouterr().err


def test_every_status_has_its_cell_in_the_picture(tmp_path: Path) -> None:
    def row(backend: str, status: str, **more: Any) -> dict[str, Any]:
        blank = {"max_error": None, "tolerance": None, "arithmetic": None, "dtype": "float32"}
        return {"backend": backend, "status": status, **blank, **more}

    results = [
        row("good", "agrees", max_error=1.0, tolerance=8.0, arithmetic="float32"),
        row("near", "agrees", max_error=7.0, tolerance=8.0, arithmetic="float32"),
        row("bad", "differs", max_error=46000.0, tolerance=8.0, arithmetic="tfloat32 or float16"),
        row("wild", "differs", max_error=None, tolerance=8.0),
        row("never", "refused"),
        row("away", "unavailable"),
    ]
    draw_matrix(tmp_path / "matrix", {"model": {"rows": 10, "results": results}}, "a title")
    svg = (tmp_path / "matrix.svg").read_text()
    for said in ("1 of 8", "differs: 4.6e+04 of 8", "differs: inf of 8", "refused", "a title", "model, 10 rows"):
        assert said in svg
    assert "away" not in svg
    assert (tmp_path / "matrix.png").stat().st_size > 5000


def test_doctor_installs_the_javascript_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("LRDIFF_NODE_MODULES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", "--install-javascript"]) == 3
    assert capsys.readouterr().err == "error: npm is not installed\nhelp: install node 18 or newer with npm\n"
    npm = tmp_path / "npm"
    described = "".join(
        f'/bin/mkdir -p node_modules/{name}; echo \'{{"version": "1.30.0"}}\' > node_modules/{name}/package.json\n'
        for name in ("onnxruntime-web", "onnxruntime-node")
    )
    npm.write_text("#!/bin/sh\n" + described)
    npm.chmod(0o755)
    assert main(["doctor", "--install-javascript", "--json"]) == 0
    versions = {one["name"]: one["version"] for one in document_of(capsys)["entries"]}
    assert (versions["onnxruntime-web"], versions["onnxruntime-node"]) == ("1.30.0", "1.30.0")
