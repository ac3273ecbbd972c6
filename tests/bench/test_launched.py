"""The command as one of several processes: who speaks, who is silent, what is refused."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from lrdiff_bench import cli
from lrdiff_bench.report.json import write_document
from lrdiff_bench.run.together import _begun_by
from lrdiff_bench.system.manifest import write_manifest
from lrdiff_bench.system.ownership import Owner
from lrdiff_bench.system.run_folder import SUMMARY_FORMAT, SUMMARY_VERSION
from lrdiff_core.processes.launch import Launch


@pytest.fixture
def rank(monkeypatch):
    def started(number):
        monkeypatch.setattr(cli, "_WAIT_SECONDS", 0.0)
        for name, value in {"RANK": number, "WORLD_SIZE": 2, "LOCAL_RANK": number, "LOCAL_WORLD_SIZE": 2}.items():
            monkeypatch.setenv(name, str(value))

    return started


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("words", [["study", "ls"], ["map"], ["bench"], ["--debug", "predict", "runs/seed"]])
def test_commands_that_several_processes_do_not_do(rank, capsys, number, words):
    rank(number)
    assert cli.main(words) == 2
    command = next(word for word in words if not word.startswith("-"))
    assert capsys.readouterr().err.splitlines() == [
        f"error: process {number} of 2: lrdiff {command} is not done by several processes, as torchrun starts them",
        "help: start it once, without torchrun; commands for torchrun: run, train, boost",
    ]


def test_the_first_process_says_what_is_wrong(rank, capsys):
    rank(0)
    assert cli.main(["train", "--device", "tpu"]) == 2
    assert capsys.readouterr().err.startswith("error: device in the command line is 'tpu'")


def test_another_one_says_so_too_if_it_is_not_ended_meanwhile(rank, capsys, monkeypatch):
    rank(1)
    assert cli.main(["train", "--device", "tpu"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("process 1 of 2: error: device in the command line is 'tpu'")
    assert lines[1].startswith("process 1 of 2: help: ")

    def ended(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.time, "sleep", ended)
    assert cli.main(["train", "--device", "tpu"]) == 130
    assert capsys.readouterr().err == ""


TRAIN = """
import os
import torch

torch.distributed.init_process_group("gloo")
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 4))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
for _ in range(3):
    optimizer.zero_grad()
    model(torch.ones(2, 4)).square().mean().backward()
    optimizer.step()
print("trained by", os.environ["RANK"], file=open(f"{os.environ['RANK']}.txt", "w"))  # two would mix on stdout
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.distributed
def test_each_process_boosts_its_own_part_of_a_script(tmp_path):
    (tmp_path / "train.py").write_text(TRAIN)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--no-python"]
    ended = subprocess.run(
        [*torchrun, sys.executable, "-m", "lrdiff_bench", "boost", "--check", "2", "train.py"],
        cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in (0, 1)] == ["trained by 0\n", "trained by 1\n"]
    assert ended.stderr.count("lrdiff boost: 1 of 1 optimizer replaced") == 1


# -- started again -----------------------------------------------------------------------------------------------------


def begun(folder, launch, missing=("evaluate",), at=0):
    folder.mkdir(parents=True)
    summary = {"format": SUMMARY_FORMAT, "version": SUMMARY_VERSION, "missing": list(missing), "launch": launch}
    write_document(folder / "summary.json", summary)
    os.utime(folder / "summary.json", (at, at))
    return folder


def test_a_job_that_is_started_again_finds_its_own_run(tmp_path):
    """Several jobs of one cluster may have one name: nobody takes another's run, finished or not, for its own."""
    final = tmp_path / "rows"
    finished = begun(final, "7@100-5", missing=(), at=1)
    write_manifest(finished)
    own = begun(tmp_path / "rows-2", "7@200-9", at=2)
    again = Launch(rank=0, count=2, restarts=1, id="7@200-9", name="7")
    assert _begun_by(again, final) == own
    assert _begun_by(replace(again, id="7@100-5"), final) == finished
    elsewhere = replace(again, id="7@300-1")  # the agent of another machine
    assert _begun_by(elsewhere, final) == own
    later = begun(tmp_path / "rows-3", "7@250-1", at=3)
    assert _begun_by(elsewhere, final) == later
    owner = Owner.of(later)
    assert _begun_by(elsewhere, final) == own
    owner.release()
    assert _begun_by(replace(again, id="8@200-9", name="8"), final) is None
    assert _begun_by(replace(again, id="@300-1", name=""), final) is None


def test_two_agents_are_told_apart(rank, monkeypatch):
    rank(0)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "7")
    script = "from lrdiff_core.processes.launch import launched; print(launched().id)"
    ask = [sys.executable, "-c", script]
    agent = [sys.executable, "-c", f"import subprocess; [subprocess.run({ask!r}) for _ in range(2)]"]
    first, second = (subprocess.run(agent, capture_output=True, text=True, check=True).stdout.split() for _ in range(2))
    assert first[0] == first[1] != second[0] == second[1]
    assert {one[:2] for one in (*first, *second)} == {"7@"}


# -- divided -----------------------------------------------------------------------------------------------------------


def test_a_model_is_divided_over_several_processes_only(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "--parallel", "fsdp2"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: parallel is fsdp2, and this is one process",
        "help: start several: torchrun --nproc_per_node N -m lrdiff_bench train ...",
    ]
    assert cli.main(["train", "--parallel", "fsdp"]) == 2
    assert capsys.readouterr().err.splitlines()[1] == "help: write one of: ddp, fsdp2"
    assert not list(tmp_path.iterdir())
