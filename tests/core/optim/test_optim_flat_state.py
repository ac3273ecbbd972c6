"""The flattened state of torch.distributed.checkpoint, loaded into every grouping as torch's AdamW takes it."""

import warnings

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from lrdiff_core import AdamW
from lrdiff_core.rates import LayerDecay, Rule, param_groups

FLAT = StateDictOptions(flatten_optimizer_state_dict=True)
KINDS = {"ours": AdamW, "torch": torch.optim.AdamW}
GROUPINGS = {
    "one group": {},
    "two rates": {"rules": [Rule("0", lr_mult=0.1)]},
    "rates and decay": {"scale": [LayerDecay(0.5)], "weight_decay": 0.1, "no_weight_decay": ["1d"]},
}


@pytest.fixture(autouse=True)
def one_process():
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=0, world_size=1, store=FakeStore())
    yield
    dist.destroy_process_group()


def stepped(kind, grouping, *, names, steps=1):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    optimizer = KINDS[kind](param_groups(model, lr=0.1, **GROUPINGS[grouping]).groups(names=names))
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(2, 4)).square().sum().backward()
        optimizer.step()
    return model, optimizer


def state_by_name(model, optimizer):
    names = dict(model.named_parameters())
    return {f"{name}/{key}": value for name in names for key, value in optimizer.state[names[name]].items()}


@pytest.mark.parametrize("names", [True, False])
@pytest.mark.parametrize("saved", KINDS)
@pytest.mark.parametrize("grouping", GROUPINGS)
def test_a_flattened_state_goes_into_another_grouping_as_torch_does(grouping, saved, names):
    model, optimizer = stepped(saved, "one group", names=names, steps=3)
    wanted = state_by_name(model, optimizer)
    found = {}
    for kind in KINDS:
        flat = get_optimizer_state_dict(model, optimizer, options=FLAT)
        into = stepped(kind, grouping, names=names)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the checkpoint's rates replace the plan's: another test's
            copied = {key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in flat.items()}
            set_optimizer_state_dict(*into, copied, options=FLAT)
        found[kind] = into
        there = state_by_name(*into)
        assert there.keys() == wanted.keys()
        assert all(torch.equal(value, wanted[key]) for key, value in there.items()), kind
    rates = [[group["lr"] for group in optimizer.param_groups] for _, optimizer in found.values()]
    assert rates[0] == rates[1]
