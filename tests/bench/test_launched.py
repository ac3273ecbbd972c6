"""The command as one of several processes: who speaks, who is silent, what is refused."""

import pytest

from lrdiff_bench import cli


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
        "help: start it once, without torchrun; commands for torchrun: run, train",
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
