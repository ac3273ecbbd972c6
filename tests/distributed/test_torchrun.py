"""`lrdiff train` and `run` by several processes, as torchrun starts them: real processes, on the CPU by gloo."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from train_together import CASES, EPOCHS, cases, trained

from lrdiff_core.processes.group import ALONE, PARALLEL

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

SCRIPT = Path(__file__).with_name("train_together.py")
ROOT = Path(__file__).parents[2]
PATIENCE_S = 240
FILES = ("model.safetensors", "metrics.parquet", "config.toml", "rates.json")
SETTINGS = ("--data", "digits", "--epochs", "6", "--patience", "0", "--optimizer", "adamw", "--device", "cpu")


def torchrun(folder, count, *words, restarts=0, module=False):
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(count), "--max-restarts", str(restarts),
        *(["-m", "lrdiff_bench"] if module else [str(SCRIPT)]), *map(str, words),
    ]  # fmt: skip
    paths = os.pathsep.join([str(ROOT), str(ROOT / "export"), str(ROOT / "bench"), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        command, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}, capture_output=True,
        text=True, timeout=PATIENCE_S,
    )  # fmt: skip


def digits_of(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


def assert_near(found, wanted, steps, rate, *, rounded=0.0):
    """Equal within float32 arithmetic: gradients are the same sums in another order.

    A step rounds about ten times and moves a weight by at most the rate; rounding also changes later gradients, for
    which a factor of eight is left, as in the tests of other trainers. ``rounded`` is the eps of a coarser type in
    which an update of the size of the rate is made.
    """
    eps = torch.finfo(torch.float32).eps
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        off = (found[name].double() - value.double()).abs().max().item()
        allowed = 8 * 10 * steps * eps * (value.double().abs().max().item() + rate) + steps * rounded * rate
        assert off <= allowed, f"{name}: {off:.3g} of {allowed:.3g}"


@pytest.fixture(scope="module", params=PARALLEL)
def by_two(request, tmp_path_factory):
    """How two processes shared a training, and the weights of every case after it."""
    folder = tmp_path_factory.mktemp("two")
    ended = torchrun(folder, 2, "all", "weights.safetensors", request.param)
    assert ended.returncode == 0, ended.stderr
    return request.param, load_file(folder / "weights.safetensors")


@cache
def by_one(case):
    return trained(CASES[case], ALONE)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_end_where_one_does(by_two, case):
    parallel, weights = by_two
    if case not in cases(parallel):
        pytest.skip(f"{CASES[case]['optimizer']} refuses parts of matrices: tests/core/test_divided.py")
    alone = by_one(case)
    found = {name.partition("/")[2]: value for name, value in weights.items() if name.startswith(f"{case}/")}
    steps = EPOCHS * -(-alone.setup.rows.training_rows // alone.setup.batch_size)
    rounded = torch.finfo(torch.bfloat16).eps if case == "muon" else 0.0  # it orthogonalizes in bfloat16
    assert_near(found, alone.net.state_dict(), steps, max(alone.setup.rates.values()), rounded=rounded)


@pytest.mark.long
def test_the_command_trains_once_and_the_first_process_speaks(tmp_path):
    ended = torchrun(tmp_path, 2, "train", *SETTINGS, "--out", "run", module=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("Metrics") == 1
    assert "2 processes (gloo), up to" in ended.stdout
    assert [one.name for one in tmp_path.iterdir()] == ["run"]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["missing"] == []
    assert summary["training"]["processes"] == 2
    alone = subprocess.run(
        [sys.executable, "-m", "lrdiff_bench", "train", *SETTINGS, "--out", "alone"], cwd=tmp_path, timeout=PATIENCE_S,
        capture_output=True, text=True,
    )  # fmt: skip
    assert alone.returncode == 0, alone.stderr
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("alone", "run"))
    assert_near(two, one, json.loads((tmp_path / "alone/summary.json").read_text())["training"]["steps"], 0.01)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run by two processes that nobody disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    ended = torchrun(folder, 2, "kill", 0, -1, "train", *SETTINGS, "--out", "run")
    assert ended.returncode == 0, ended.stderr
    return folder / "run"


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.long), 1])
def test_a_killed_process_is_started_again_and_nothing_changes(tmp_path, whole, rank):
    ended = torchrun(tmp_path, 2, "kill", 4, rank, "train", *SETTINGS, "--out", "run", restarts=1)
    assert ended.returncode == 0, ended.stderr
    assert "Signal 9" in ended.stderr or "-9" in ended.stderr
    assert [one.name for one in tmp_path.iterdir()] == ["run"]
    assert digits_of(tmp_path / "run") == digits_of(whole)


@pytest.mark.long
def test_a_killed_process_of_a_divided_training_changes_nothing(tmp_path):
    for folder, epoch, restarts in (("whole", -1, 0), ("killed", 4, 1)):
        (tmp_path / folder).mkdir()
        words = ("kill", epoch, 1, "train", *SETTINGS, "--parallel", "fsdp2", "--out", "run")
        ended = torchrun(tmp_path / folder, 2, *words, restarts=restarts)
        assert ended.returncode == 0, ended.stderr
        assert "2 processes (gloo, fsdp2), up to" in ended.stdout
    assert "Signal 9" in ended.stderr or "-9" in ended.stderr
    assert digits_of(tmp_path / "killed/run") == digits_of(tmp_path / "whole/run")


@pytest.mark.long
@pytest.mark.parametrize(("saved", "loaded"), [("ddp", "fsdp2"), ("fsdp2", "ddp")])
def test_saved_by_two_gone_on_with_by_one_and_by_four(tmp_path, whole, saved, loaded):
    ended = torchrun(tmp_path, 2, "kill", 4, 1, "train", *SETTINGS, "--out", "run", "--parallel", saved)
    assert ended.returncode != 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["missing"]
    wanted = load_file(whole / "model.safetensors")
    steps = json.loads((whole / "summary.json").read_text())["training"]["steps"]
    for count in (1, 4):
        place = tmp_path / f"by-{count}"
        subprocess.run(["cp", "-r", str(tmp_path / "run"), str(place)], check=True)
        words = ("kill", 0, -1, "train", "--resume", place)
        if count == 1:
            again = subprocess.run(
                [sys.executable, str(SCRIPT), *map(str, words)], cwd=tmp_path, timeout=PATIENCE_S,
                capture_output=True, text=True,
            )  # fmt: skip
        else:
            again = torchrun(tmp_path, count, *words, "--parallel", loaded)
        assert again.returncode == 0, again.stderr
        assert json.loads((place / "summary.json").read_text())["missing"] == []
        assert_near(load_file(place / "model.safetensors"), wanted, steps, 0.01)


OWN = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    rows = torch.randn(203, 4)
    net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.1), nn.Tanh(), nn.Linear(8, 1))
    return net, rows[:2], {"rows": rows, "targets": rows.sum(1, keepdim=True).tanh()}
"""


@pytest.mark.long
@pytest.mark.parametrize("parallel", PARALLEL)
def test_run_compares_in_the_first_process_and_trains_a_model_of_ones_own_in_both(tmp_path, parallel):
    (tmp_path / "mine.py").write_text(OWN)
    (tmp_path / "run.toml").write_text(
        'model = "mine:make"\nepochs = 3\npatience = 0\n[compare]\nminutes = 0.05\nseeds = 10\nsearches = 2\n'
    )
    ended = torchrun(
        tmp_path, 2, "run", "run.toml", "--out", "run", "--device", "cpu", "--parallel", parallel, module=True
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("Comparison with single rates") == 1
    assert ("2 processes (gloo, fsdp2)" if parallel == "fsdp2" else "2 processes (gloo)") in ended.stdout
    assert (tmp_path / "run" / "model.onnx").is_file()


@pytest.mark.parametrize("words", [("study", "ls"), pytest.param(("bench", "step"), marks=pytest.mark.long)])
def test_what_is_not_done_by_several_processes_is_refused_by_each(tmp_path, words):
    ended = torchrun(tmp_path, 2, *words, module=True)
    assert ended.returncode != 0
    said = re.findall(r"^error: (process \d of 2): lrdiff (\w+) is not done by several processes", ended.stderr, re.M)
    assert sorted(said) in ([(f"process {rank} of 2", words[0]) for rank in ranks] for ranks in ((0, 1), (0,), (1,)))
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_wrong_input_is_told_once(tmp_path):
    ended = torchrun(tmp_path, 2, "train", "--data", "nothing.csv", "--target", "y", module=True)
    assert ended.returncode != 0
    assert ended.stderr.count("error: ") == 1, ended.stderr
    assert ended.stderr.count("nothing.csv") >= 1
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_devices_that_processes_cannot_share(tmp_path):
    ended = torchrun(tmp_path, 2, "train", "--device", "cuda:1", module=True)
    assert "error: device is cuda:1, and 2 processes train together" in ended.stderr


@pytest.mark.long
def test_an_interrupt_ends_all(tmp_path):
    """As Ctrl-C in a terminal: torchrun hands it on."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "lrdiff_bench", "train",
        "--data", "digits", "--epochs", "100000", "--patience", "0", "--out", "run", "--device", "cpu",
    ]  # fmt: skip
    paths = os.pathsep.join([str(ROOT), str(ROOT / "export"), str(ROOT / "bench")])
    process = subprocess.Popen(
        command, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if "processes (gloo)" in line:
                break
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            process.kill()
    assert said.count("error: interrupted") <= 1
    assert "a fault in lrdiff" not in said
    assert not list(tmp_path.glob(".*partial"))
