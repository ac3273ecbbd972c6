"""FSDP2 inside of a training: the divided copy ends where the module does, and what is gathered is all that goes on."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from lrdiff_core import make_config, set_up, train
from lrdiff_core.errors import ConfigError, OptimizerError
from lrdiff_core.optimizers import OPTIMIZERS
from lrdiff_core.processes.divided import Divided
from lrdiff_core.processes.group import ALONE, Processes, joined
from lrdiff_core.rates import LayerDecay, MuonRouter, Rule, param_groups
from lrdiff_core.schedules import Schedule
from lrdiff_core.setup import make_optimizer, set_mode

STEPS = 6


@pytest.fixture(autouse=True)
def one_process():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def begun(name):
    """A module, its optimizer of three rates and one frozen bias, and a schedule."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))
    router = MuonRouter(lr=0.01) if OPTIMIZERS[name].routed else None
    plan = param_groups(module, lr=0.01, scale=[LayerDecay(0.5)], rules=[Rule("0.bias", freeze=True)], router=router)
    optimizer = make_optimizer(name, plan.apply_freeze().groups())
    return module, optimizer, Schedule(optimizer, total_steps=STEPS, shape="linear")


def steps(module, optimizer, schedule, count):
    set_mode(optimizer, "train")
    rows = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
    for _ in range(count):
        optimizer.zero_grad()
        (module(rows).squeeze(1) - rows.sum(1)).square().mean().backward()
        optimizer.step()
        schedule.step()
    set_mode(optimizer, "eval")


@pytest.mark.parametrize("name", [name for name, entry in OPTIMIZERS.items() if entry.sharded])
def test_a_training_that_is_divided_and_goes_on_divided_anew_has_the_same_bits(name):
    # LAMB's norms of what is sharded are torch's sums, not the kernel's.
    same = torch.allclose if name == "lamb" else torch.equal
    alone, optimizer, schedule = begun(name)
    for _ in range(2):
        steps(alone, optimizer, schedule, STEPS // 2)
    module, whole, led = begun(name)
    for half in range(2):  # the second copy knows what was gathered, and nothing else
        divided = Divided(module, whole, led, ALONE)
        assert all(isinstance(param, DTensor) for param in divided.module.parameters())
        assert [param.requires_grad for param in divided.module.parameters()].count(False) == 1
        steps(divided.module, divided.optimizer, divided.schedule, STEPS // 2)
        divided.gather()
        if half == 0:
            assert led.get_last_lr() == [group["lr"] for group in divided.optimizer.param_groups]
    assert module.state_dict().keys() == alone.state_dict().keys()
    for key, value in alone.state_dict().items():
        assert same(module.state_dict()[key], value), key
    mine, theirs = whole.state_dict(), optimizer.state_dict()
    assert mine["param_groups"] == theirs["param_groups"]
    assert mine["state"].keys() == theirs["state"].keys()
    for number, entries in theirs["state"].items():
        assert entries.keys() == mine["state"][number].keys()
        assert all(same(torch.as_tensor(v), torch.as_tensor(mine["state"][number][k])) for k, v in entries.items())


def test_adafactor_refuses_parts_of_matrices_before_the_first_step():
    module, optimizer, schedule = begun("adafactor")
    with pytest.raises(OptimizerError, match="does not step sharded parameters .*\nhelp: train with whole parameters"):
        Divided(module, optimizer, schedule, ALONE)
    assert not optimizer.state


def test_only_the_first_process_keeps_the_state():
    module, optimizer, schedule = begun("adam")
    divided = Divided(module, optimizer, schedule, Processes(rank=1))
    steps(divided.module, divided.optimizer, divided.schedule, 1)
    before = copy.deepcopy(module.state_dict())
    divided.gather()
    assert not optimizer.state
    assert not torch.equal(before["0.weight"], module[0].weight)


def test_tied_weights_stay_one():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False))
    module[1].weight = module[0].weight
    optimizer = make_optimizer("adam", param_groups(module, lr=0.1).groups())
    divided = Divided(module, optimizer, None, ALONE)
    assert divided.schedule is None
    divided.module(torch.tensor([1, 2])).square().sum().backward()
    divided.optimizer.step()
    divided.gather()
    assert module[1].weight is module[0].weight
    assert len(optimizer.state) == 1


class Scalar(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))


def test_a_module_that_cannot_be_divided_is_refused():
    module = Scalar()
    optimizer = make_optimizer("sgd", param_groups(module, lr=0.1).groups())
    with pytest.raises(ConfigError, match="fsdp2 cannot divide this model: .*scalar.*\nhelp: train with ddp"):
        Divided(module, optimizer, None, ALONE)


def test_what_does_not_go_with_it_is_refused():
    with pytest.raises(ConfigError, match="parallel is fsdp2, and this is one process\nhelp: start several"):
        joined("cpu", "fsdp2").__enter__()
    with pytest.raises(ConfigError, match="parallel is .*fsdp3.*\nhelp: write one of: ddp, fsdp2"):
        joined("cpu", "fsdp3").__enter__()
    config = make_config({"epochs": 1, "device": "cpu"})
    setup = set_up(config.load_table(), config)
    compiled = set_up(config.load_table(), config)
    object.__setattr__(compiled, "config", setup.config.model_copy(update={"compile": True}))
    with pytest.raises(ConfigError, match="compile is set, and fsdp2 is not compiled"):
        train(compiled, processes=Processes(count=2, parallel="fsdp2"))
