"""``lrdiff map`` on the command line, and the guide's examples."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from map_helpers import write_own

from lrdiff_bench.cli import main
from lrdiff_core.files import is_whole, unsealed

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "maps.md"
SMALL = ["--size", "4", "--seeds", "3", "--epochs", "1", "--workers", "0"]
FILES = {
    "map.json", "map.zarr", "map.png", "map.svg", "cuts.png", "cuts.svg", "findings.json", "findings.txt",
}  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_command_computes_says_and_draws(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["map", *SMALL]) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines()[0] == "seed: validation loss, by layer1 and layer2"
    assert re.search(r"^  trained by the \w+ path of train_population, in [\d.e+-]+ s$", shown.out, re.MULTILINE)
    assert "wrote runs/seed-map/map.zarr, map.png" in shown.out
    assert re.search(r"^5 of \d tiles|^4 of 4 tiles, 0 s left$", shown.err, re.MULTILINE)
    assert {file.name for file in (here / "runs" / "seed-map").iterdir()} == FILES
    assert max(map(len, shown.out.splitlines())) <= 80
    assert main(["map", *SMALL]) == 0
    again = capsys.readouterr()
    assert "the map was complete, nothing was computed" in again.out
    assert again.err == ""
    kept = (here / "runs" / "seed-map" / "findings.txt").read_text()
    assert kept in again.out


@pytest.mark.slow
def test_json_is_one_document(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["map", *SMALL, "--json", "--out", "deep/er"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["format"] == "lrdiff.map.findings"
    assert document["computed_now"] is True
    assert all(Path(file).exists() for file in document["files"])
    stored = json.loads(Path("deep/er/findings.json").read_text())
    assert is_whole(stored)
    assert unsealed(stored).items() <= document.items()


@pytest.mark.slow
def test_a_toml_file_maps_all_layers_but_the_last_against_the_last(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.toml").write_text('data = "seed"\nhidden = [5, 5]\noptimizer = "sgd"\nepochs = 2\n')
    assert main(["map", "mine.toml", "--size", "3", "--seeds", "2", "--workers", "0"]) == 0
    out = capsys.readouterr().out
    assert "x layer1,layer2 0.001 to 100, y layer3 0.001 to 100" in out
    assert "as configured" in out
    assert Path("runs/mine-map/map.zarr").is_dir()


@pytest.mark.slow
def test_a_zoom_has_a_folder_of_its_own(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["map", *SMALL, "--zoom", "0.01:0.02:2"]) == 0
    assert "x layer1 0.005 to 0.02, y layer2 0.01 to 0.04" in capsys.readouterr().out
    assert Path("runs/seed-map-zoom-0.01-0.02-2/map.png").is_file()


def test_a_plan_computes_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["map", "--plan", "--size", "8", "--seeds", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "seed: 8 x 8 cells, seeds: 2"
    assert lines[2] == "  128 trainings of 280 steps in 4 tiles"
    assert main(["map", "trainability-4096", "--plan", "--device", "cuda", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["trainings"] == 4096**2
    assert document["steps"] == 500
    assert document["operations"] == pytest.approx(6 * 272 * 272 * 500 * 4096**2)
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("arguments", "error", "help"),
    [
        (["nothing"], "there is no workload nothing", "name a preset (seed, trainability, trainability-4096), a TOML file, or package.module:factory"),  # noqa: E501
        (["--steps", "3", "--epochs", "2"], "both --epochs and --steps are given", "give one of them"),
        (["--seeds", "0"], "seeds is 0", "write a whole number from 1 to 10000"),
        (["--size", "1"], "size is 1", "write cells along an axis, a whole number from 2 to 16384"),
        (["--steps", "0"], "steps is 0", "write a whole number from 1 up"),
        (["--tile", "0"], "tile is 0", "write cells along the edge of a tile, from 1 up"),
        (["--target-loss", "-1"], "target loss is -1", "write a positive number"),
        (["--x", "layer9:0.1:1"], 'axis group "layer9" matches no parameter that learns', "parameters of this model start with: layer1, layer2; all others are: rest"),  # noqa: E501
        (["--dtype", "half"], "dtype is 'half'", "write one of: float32, float64"),
        (["trainability", "--steps", "10"], "the last 20 losses of 10 steps are wanted", "train longer"),
        (["nowhere:workload"], "there is no module nowhere", "there is no Python file in the current folder"),
    ],
)  # fmt: skip
def test_what_cannot_be_mapped(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], error: str, help: str
) -> None:
    assert main(["map", "--workers", "0", *arguments]) == 2
    assert capsys.readouterr().err.splitlines() == [f"error: {error}", f"help: {help}"]
    assert not list(here.iterdir())


def test_a_users_code_that_raises_is_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_own(here, "own_fails")
    text = Path("own_fails.py").read_text().replace("generator = torch", "generator = nothing_like_it")
    Path("own_fails.py").write_text(text)
    assert main(["map", "own_fails:workload", "--workers", "0"]) == 2
    error, help = capsys.readouterr().err.splitlines()
    assert error.startswith(
        "error: workload own raised NameError: name 'nothing_like_it' is not defined (own_fails.py,"
    )
    assert help == "help: correct it there; `lrdiff --debug` shows the traceback"


def test_without_the_extra_the_command_ends_with_three(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lrdiff_bench.maps.run.unavailable_reason", lambda: "not installed: dask")
    assert main(["map", *SMALL]) == 3
    assert capsys.readouterr().err.splitlines() == [
        "error: maps need libraries that are missing: not installed: dask",
        "help: pip install dask distributed xarray zarr",
    ]
    assert not list(here.iterdir())


@pytest.mark.slow
def test_the_guides_model_can_be_mapped_as_it_says(tmp_path: Path) -> None:
    """The guide's file, then its Python, then its one line that opens the map; in a process as a user's would be."""
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    one_line, file, script = blocks
    assert file.startswith("# my_map.py\n")
    (tmp_path / "my_map.py").write_text(file)
    done = subprocess.run(
        [sys.executable, "-c", script + one_line], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    pair, lowest = done.stdout.splitlines()
    assert re.match(r"\[[\d.e-]+, [\d.e-]+\] \w+", pair)
    assert 0 < float(lowest) < 0.8


@pytest.mark.long
def test_the_guides_commands_are_read_by_the_command_line(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    Path("my_map.py").write_text(blocks[1])
    Path("my.toml").write_text("epochs = 3\n")
    commands = re.findall(r"^lrdiff (map.*?)(?:\s+#.*)?$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(commands) >= 9
    for command in commands:
        words = [word for word in command.split() if word != "--plan"]
        if "--scheduler" in words:
            del words[words.index("--scheduler") : words.index("--scheduler") + 2]
        assert main([*words, "--plan", "--json"]) == 0, command
        json.loads(capsys.readouterr().out)
