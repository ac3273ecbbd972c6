"""``lrdiff parity --training`` as its user meets it: screen, JSON, pictures, errors."""

from __future__ import annotations

import json
import re
import textwrap
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lrdiff_bench.cli import main
from lrdiff_bench.parity.training_command import find_job, run_job
from lrdiff_bench.parity.training_pictures import draw_training_parity
from lrdiff_core import PRESETS, load_table, make_config, set_up, train
from lrdiff_core.files import is_whole, unsealed

CONFIG = 'data = "seed"\nname = "short"\nepochs = 1\nhidden = [5]\noptimizer = "{optimizer}"\n'


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "short.toml"
    file.write_text(CONFIG.format(optimizer="adam"), encoding="utf-8")
    return file


def parity(*arguments: Any) -> int:
    return main(["parity", "--training", *map(str, arguments)])


def test_the_screen_says_what_agrees_and_how_sharp_that_is(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert parity(config, "--backends", "torch-fused,ours,ours-no-kernel,cpu") == 0
    shown = capsys.readouterr().out
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert "adam, rates 0.01, 0.001, 28 steps, 61 weights" in shown
    assert "= fused" in next(line for line in shown.splitlines() if "ours-no-kernel" in line)
    assert shown.count("agrees") == 3
    assert len(re.findall(r"agrees +\S+ of \S+ eps +to 0\.0\d+ %", shown)) == 3
    assert "bitwise repeatable when trained twice: 3 of 3" in shown
    assert "% of the distance moved" in " ".join(shown.split())


@pytest.mark.slow
def test_json_is_alone_on_stdout_and_in_the_folder_with_the_pictures(
    config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert parity(config, "--backends", "ours,cpu", "--out", out, "--json") == 0
    told = capsys.readouterr()
    document = json.loads(told.out)
    assert "short" in told.err
    assert (document["format"], document["passed"]) == ("lrdiff.training_parity", True)
    (report,) = document["reports"]
    assert [row["implementation"] for row in report["results"]] == ["ours"]
    stored = json.loads((out / "training-parity.json").read_text(encoding="utf-8"))
    assert is_whole(stored)
    assert unsealed(stored) == document
    kinds = ("json", "md", "png", "svg")
    assert sorted(file.name for file in out.iterdir()) == [f"training-parity.{kind}" for kind in kinds]
    page = (out / "training-parity.md").read_text(encoding="utf-8")
    assert f"Written by `lrdiff parity --training {config} --backends ours,cpu --out {out} --json`" in page
    assert "| cpu | float32 | `ours` | agrees | " in page
    assert "(training-parity.png)" in page
    assert "(../guide" not in page  # no guide beside this folder


def test_a_wrong_lane_fails_and_says_which_step_and_parameter(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lrdiff_export.training import IMPLEMENTATIONS

    real = IMPLEMENTATIONS["ours"].optimizer  # type: ignore[attr-defined]

    def one_rate(placed: Any) -> Any:
        made = real(placed)
        made.param_groups[1]["lr"] = made.param_groups[0]["lr"]
        return made

    monkeypatch.setattr(IMPLEMENTATIONS["ours"], "optimizer", one_rate)
    assert parity(config, "--backends", "ours,cpu") == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "differs" in shown
    assert "step 1, layer2.weight (group 1, rate 0.001)" in shown
    assert "at the rate 0.01 of group 0 in place of its own 0.001" in shown


def test_names_count_once_and_what_is_not_here_at_all_is_status_3(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parity(config, "--backends", "ours, ours,cpu") == 0
    assert "bitwise repeatable when trained twice: 1 of 1" in capsys.readouterr().out
    assert parity(config, "--backends", "ours,cpu,tfloat32") == 3
    error, help = capsys.readouterr().err.splitlines()
    assert error == "error: not available here: ours: there is no tfloat32 on cpu"
    assert help == "help: see lrdiff doctor, or name others with --backends"


def test_a_run_is_trained_again_as_it_was(config: Path, tmp_path: Path) -> None:
    """The job's float32 training ends at the weights of `lrdiff train`, bit for bit."""
    settings = make_config({**PRESETS["seed"], "epochs": 2, "device": "cpu"})
    trained = train(set_up(load_table("seed"), settings))
    job = run_job(settings, name="seed")
    placed = job.place("cpu", torch.float32)
    from lrdiff_export.training import ARITHMETICS, IMPLEMENTATIONS

    running = IMPLEMENTATIONS["ours"].start(placed, ARITHMETICS["float32"])
    for step in range(job.steps):
        running.step(*placed.batch(step))
    for name, weight in trained.net.named_parameters():
        assert torch.equal(weight, placed.module.get_parameter(name)), name


def test_a_run_folder_is_a_source(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(config), "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    assert parity(tmp_path / "run", "--backends", "ours,cpu") == 0
    assert "28 steps" in capsys.readouterr().out


MODULE = """
import torch
from torch import nn
from lrdiff_core.rates import Rule, param_groups


def plain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 3)), torch.randn(32, 6)


def whole():
    net, rows = plain()
    plan = param_groups(net, lr=0.1, rules=[Rule("0.*", lr=0.01)])
    more = {"targets": torch.arange(32) % 3, "loss": nn.functional.cross_entropy, "plan": plan, "optimizer": "sgd"}
    return net, rows, {**more, "steps": 7, "batch_size": 8}


def unequal():
    net, rows = plain()
    return net, rows, {"targets": torch.zeros(5, 3)}


def integers():
    class Counts(nn.Linear):
        def forward(self, rows):
            return super().forward(rows).argmax(1)

    return Counts(6, 3), torch.randn(8, 6)
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "parity_factories.py").write_text(textwrap.dedent(MODULE), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.slow
def test_a_module_of_ones_own(factories: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert parity("parity_factories:plain", "parity_factories:whole", "--backends", "ours,cpu") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "adamw, rates" in shown
    assert "50 steps, 83 weights" in shown
    assert "targets are random numbers: none were given" in shown
    assert "dropout is switched off" in shown
    assert "sgd, rates 0.01, 0.1, 7 steps" in shown


def test_rows_and_targets_of_a_file(factories: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32)
    np.savez(factories / "rows.npz", rows=rows, targets=np.arange(12) % 3)
    job = find_job("parity_factories:whole", factories / "rows.npz")
    assert job.steps == 7
    assert job.batches[0][0].shape == (8, 6)
    assert job.batches[0][1].dtype == torch.int64


@pytest.mark.parametrize(
    ("arguments", "message", "status"),
    [
        (["--backends", "adamw"], 'error: "adamw" is not an implementation, device or arithmetic', 2),
        (["nowhere"], "error: no such file: nowhere", 2),
        (["."], "error: . is not a run folder", 2),
        (["seed", "--data", "rows.npz"], "error: --data goes with one MODULE:FACTORY", 2),
        (["--backends", ""], "error: --backends names none", 2),
        (["--backends", " ,"], "error: --backends names none", 2),
        (["seed", "--out", "parity_factories.py/out"], "error: cannot write parity_factories.py/out: ", 2),
        (["parity_factories:plain", "--data", "none.npz"], "error: none.npz does not exist", 2),
        (
            ["parity_factories:plain", "--data", "parity_factories.py"],
            "error: parity_factories.py is no file of arrays",
            2,
        ),
        (["parity_factories:unequal"], "error: parity_factories:unequal: inputs and targets have 32, 5 rows", 2),
        (["parity_factories:integers"], "error: parity_factories:integers gives Tensor first, not a floating", 2),
    ],
)
def test_an_error_is_one_line_and_one_of_help(
    arguments: list[str], message: str, status: int, factories: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parity(*arguments) == status
    error, help = capsys.readouterr().err.splitlines()
    assert error.startswith(message)
    assert help.startswith("help: ")


@pytest.mark.slow
def test_the_picture_names_lanes_and_marks_where_one_left(tmp_path: Path) -> None:
    steps = 12
    budget = {
        "arithmetic": "float32", "allowed": [4.0 + i for i in range(steps)], "plain": [1.0] * steps,
        "conditioning": [1.0 + i / 10 for i in range(steps)], "sharpness": 1e-5, "blunt_from": None, "judged": steps,
        "blind": [],
    }  # fmt: skip
    fine = {
        "implementation": "ours", "device": "cpu", "arithmetic": "float32", "distances": [0.5] * steps,
        "shares": [0.1] * steps, "departure": None,
    }  # fmt: skip
    left = {"step": 7, "parameter": "layer2.weight"}
    far = fine | {"implementation": "torch-fused", "distances": [0.5] * 6 + [1e4] * 6, "departure": left}
    far |= {"shares": [0.1] * 6 + [None] * 6}
    report = {
        "job": "seed", "optimizer": "adam", "steps": steps, "flags": {"torch": "2"}, "budgets": [budget],
        "results": [fine, far, fine | {"device": "cuda", "distances": []}],
    }  # fmt: skip
    files = draw_training_parity(report, tmp_path / "picture")
    assert [file.suffix for file in files] == [".png", ".svg"]
    text = "".join(ElementTree.parse(tmp_path / "picture.svg").getroot().itertext())
    for word in ("ours", "torch-fused", "step 7: layer2.weight", "tolerance", "resolves 0.001 % of the distance moved"):
        assert word in text
    assert draw_training_parity(report | {"results": []}, tmp_path / "nothing") == []
    first = files[0].read_bytes()
    draw_training_parity(report, tmp_path / "picture")
    assert files[0].read_bytes() == first
