"""Shares of rows, how a process finds out that it is one of several, and what is told when another one is gone."""

import os

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from lrdiff_core import choose_device, device_status, make_config
from lrdiff_core.devices import device_parts
from lrdiff_core.errors import ConfigError, UnavailableError
from lrdiff_core.processes.group import ALONE, Processes, joined, lost
from lrdiff_core.processes.launch import Launch, launched

TORCHRUN = {
    "RANK": "1",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "TORCHELASTIC_RESTART_COUNT": "3",
    "TORCHELASTIC_RUN_ID": "job",
}


@pytest.fixture
def by_torchrun(monkeypatch):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)


@given(rows=st.integers(1, 300), count=st.integers(1, 9))
def test_shares_take_every_row_once(rows, count):
    shares = [Processes(rank=rank, count=count).share(rows) for rank in range(count)]
    taken = [row for one in shares if one.weight for row in range(one.begin, one.end)]
    assert sorted(taken) == list(range(rows))
    assert sum(one.weight for one in shares) == pytest.approx(count)
    assert all(one.end > one.begin for one in shares), "a backward pass needs a row"


@settings(deadline=None)
@given(rows=st.integers(1, 40), count=st.integers(1, 7))
def test_the_mean_over_processes_is_the_gradient_of_all_rows(rows, count):
    torch.manual_seed(rows)
    layer, inputs, targets = nn.Linear(3, 1).double(), torch.randn(rows, 3).double(), torch.randn(rows, 1).double()
    nn.functional.mse_loss(layer(inputs), targets).backward()
    whole = layer.weight.grad.clone()
    layer.zero_grad()
    for rank in range(count):
        share = Processes(rank=rank, count=count).share(rows)
        part = slice(share.begin, share.end)
        share.weighted(nn.functional.mse_loss(layer(inputs[part]), targets[part])).backward()
    torch.testing.assert_close(layer.weight.grad / count, whole)


def test_alone_nothing_is_changed():
    module, loss = nn.Linear(1, 1), torch.ones(())
    assert ALONE.share(7).weighted(loss) is loss
    assert ALONE.data_parallel(module, lambda one: pytest.fail("nothing is tried")) is module
    assert ALONE.told(lambda: {"a": 1}) == {"a": 1}
    ALONE.check_same(module)
    ALONE.leave()
    config = make_config({})
    assert ALONE.placed(config) is config
    with joined("mps") as processes:
        assert processes is ALONE


def test_how_torchrun_started_a_process(by_torchrun, monkeypatch):
    found = launched()
    assert found == Launch(rank=1, count=4, local_rank=1, local_count=2, restarts=3, id=found.id, name="job")
    assert found.id.startswith(f"job@{os.getppid()}-")
    assert str(found) == "process 1 of 4"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert launched().id == found.id.removeprefix("job")
    assert launched().name == ""
    for name, value in (("WORLD_SIZE", "1"), ("RANK", "4"), ("RANK", "one"), ("RANK", "")):
        with monkeypatch.context() as changed:
            changed.setenv(name, value)
            assert launched() is None


@pytest.mark.parametrize("device", ["cuda:1", "mps"])
def test_devices_that_several_processes_cannot_share(by_torchrun, device):
    with pytest.raises(ConfigError, match=f"device is {device}, and 4 processes train together"), joined(device):
        pass


def test_more_processes_than_gpus(by_torchrun, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "one")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UnavailableError, match="2 processes on this machine, and 1 GPU\n"), joined("auto"):
        pass


def test_settings_without_a_device_get_that_of_the_processes():
    two = Processes(rank=0, count=2, device="cpu")
    assert two.placed(make_config({})).device == "cpu"
    assert two.placed(make_config({"device": "cuda"})).device == "cuda"


@pytest.mark.parametrize(
    "said",
    [
        "[../third_party/gloo/gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]:4",
        "NCCL error: remote process exited or there was a network error",
    ],
)
def test_a_process_that_is_gone_is_told_in_two_lines(said):
    with pytest.raises(UnavailableError, match="another process of this training is gone") as caught, lost():
        raise RuntimeError(said)
    assert "--max-restarts" in caught.value.help
    with pytest.raises(RuntimeError, match="size mismatch"), lost():
        raise RuntimeError("size mismatch")


# -- one of several GPUs -----------------------------------------------------------------------------------------------


def test_a_gpu_by_its_number(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number=0: f"GPU {number}")
    assert device_status("cuda:1").detail == "GPU 1"
    assert choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UnavailableError, match="device cuda:2 is not available: here are cuda:0 to cuda:1"):
        choose_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert device_status("cuda:1").reason == "here is cuda:0"


def test_a_gpu_by_its_number_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_status("cuda:1").reason == device_status("cuda").reason
    with pytest.raises(UnavailableError, match="unknown device 'cuda:one'"):
        choose_device("cuda:one")
    assert device_parts("cuda:12") == ("cuda", 12)


def test_settings_take_a_gpu_by_its_number():
    assert make_config({"device": "cuda:3"}).device == "cuda:3"
    for wrong in ("cuda:", "cuda:one", "cpu:0", "gpu"):
        with pytest.raises(ConfigError, match="device in settings is .*\nhelp: .*one of: .*cuda.*mps"):
            make_config({"device": wrong})
