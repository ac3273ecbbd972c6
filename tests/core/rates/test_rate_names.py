"""Canonical names: a wrapped model has the names of the plain one, and tied weights are found."""

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.utils.parametrizations import weight_norm
from torch.optim.swa_utils import AveragedModel

from lrdiff_core.errors import RateError
from lrdiff_core.rates import Rule, canonical_name, list_parameters, param_groups
from lrdiff_core.rates.names import some


def names(model):
    return [info.name for info in list_parameters(model)]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4))
        self.head = nn.Linear(4, 2)


def compiled(module):
    return torch.compile(module, backend="eager")  # the name is what matters; inductor takes seconds to import


class Wrapper(nn.Module):
    """What DistributedDataParallel, DataParallel and DeepSpeed look like from outside."""

    def __init__(self, module):
        super().__init__()
        self.module = module


def test_order_and_names_are_torchs_own_on_a_plain_model():
    model = Net()
    assert names(model) == [name for name, _ in model.named_parameters()]


@pytest.mark.parametrize(
    "wrap",
    [
        Wrapper,
        lambda m: Wrapper(Wrapper(m)),
        compiled,
        lambda m: Wrapper(compiled(m)),
        AveragedModel,
        nn.DataParallel,
        checkpoint_wrapper,
        lambda m: compiled(Wrapper(checkpoint_wrapper(m))),
    ],
)
def test_wrappers_leave_no_trace(wrap):
    plain = names(Net())
    assert names(wrap(Net())) == plain
    inside = Net()
    inside.body[1] = wrap(inside.body[1])
    assert names(inside) == plain


def test_a_child_called_module_with_siblings_keeps_its_name():
    model = nn.ModuleDict({"module": nn.Linear(2, 2), "head": nn.Linear(2, 1)})
    assert names(model) == ["module.weight", "module.bias", "head.weight", "head.bias"]
    assert names(Wrapper(model)) == names(model)


def test_parametrized_weights_keep_their_name_and_owner():
    model = Net()
    nn.utils.parametrize.register_parametrization(model.head, "weight", nn.Identity())
    weight_norm(model.body[0])
    assert set(names(model)) == {
        *("body.0.bias", "body.0.weight.original0", "body.0.weight.original1"),
        *("body.1.weight", "body.1.bias", "head.weight", "head.bias"),
    }
    plan = param_groups(model, rules=[Rule(lambda name, parameter, module: module is model.head, lr=1.0)])
    assert {entry.name for entry in plan if entry.lr == 1.0} == {"head.weight", "head.bias"}


def test_the_text_function_agrees_with_the_tree():
    model = Wrapper(compiled(Net()))
    nn.utils.parametrize.register_parametrization(model.module.head, "weight", nn.Identity())
    model.module.body[0] = checkpoint_wrapper(model.module.body[0])
    assert {canonical_name(name) for name, _ in model.named_parameters()} == set(names(model))


def test_tied_weights_are_one_parameter_with_every_name():
    model = nn.ModuleDict({"embed": nn.Embedding(5, 3), "head": nn.Linear(3, 5)})
    model["head"].weight = model["embed"].weight
    first = list_parameters(model)[0]
    assert (first.name, first.tied) == ("embed.weight", ("head.weight",))
    shared = nn.Linear(2, 2)
    twice = list_parameters(nn.Sequential(shared, shared))
    assert [(info.name, info.tied) for info in twice] == [("0.weight", ("1.weight",)), ("0.bias", ("1.bias",))]


def test_two_parameters_under_one_name_are_refused():
    model = nn.Module()
    model.weight = nn.Parameter(torch.ones(1))
    model._orig_mod = nn.Linear(1, 1)
    with pytest.raises(RateError, match='two parameters are called "weight" once wrapper prefixes are removed'):
        list_parameters(model)


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (nn.ReLU(), "ReLU has no parameters\nhelp: pass the module that holds the weights"),
        ([], "the model is [], not a torch.nn.Module\nhelp: pass the module that holds the weights"),
        (nn.LazyLinear(2), 'parameter "weight" has no shape yet\nhelp: run one batch through the lazy modules first'),
    ],
)
def test_what_has_no_parameters_is_refused(model, text):
    with pytest.raises(RateError) as caught:
        list_parameters(model)
    assert str(caught.value) == text


def test_lists_of_names_are_cut():
    assert some(list("abcdefgh")) == "a, b, c, d, e, f and 2 more"
