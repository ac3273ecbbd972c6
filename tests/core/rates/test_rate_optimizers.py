"""Groups for any optimizer: checked against its class, named or not, added to, and compared with the plan."""

from functools import partial

import pytest
import torch
from torch import nn

from lrdiff_core.errors import RateError, RateWarning
from lrdiff_core.optim import MuonAdamW
from lrdiff_core.rates import HeadMultiplier, LayerDecay, Rule, param_groups


def net():
    return nn.ModuleDict({"body": nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4)), "head": nn.Linear(4, 2)})


class SAM(torch.optim.Optimizer):
    """The shape of the wrapper that people copy: the base's class and its options among the arguments."""

    def __init__(self, params, base_optimizer, rho=0.05, **kwargs):
        super().__init__(params, {"rho": rho, **kwargs})
        self.base_optimizer = base_optimizer(self.param_groups, **kwargs)
        self.defaults.update(self.base_optimizer.defaults)


class Adafactor(torch.optim.Optimizer):
    """As in transformers: a rate of one's own is refused while the relative step is on."""

    def __init__(self, params, lr=None, weight_decay=0.0, relative_step=True):
        if lr is not None and relative_step:
            raise ValueError("Cannot combine manual `lr` and `relative_step=True` options")
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})


class GaLore(torch.optim.Optimizer):
    """Options that stand in groups alone."""

    def __init__(self, params, lr=1e-3, weight_decay=0.0):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    def step(self):
        for group in self.param_groups:
            if "rank" in group:
                pass


class Prodigy(torch.optim.Optimizer):
    def __init__(self, params, lr=1.0, weight_decay=0, d_coef=1.0):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "d_coef": d_coef})


class Swallowing(torch.optim.Optimizer):
    """Takes any keyword and drops it."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.0, **kwargs):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})


class Asserting(torch.optim.Optimizer):
    def __init__(self, params, lr=1e-3, k=5, weight_decay=0.0):
        assert k > 1, "k has to be above 1"
        super().__init__(params, {"lr": lr, "k": k, "weight_decay": weight_decay})


TAKEN = [  # class, arguments, options of the head
    (torch.optim.AdamW, {}, {"betas": (0.8, 0.9)}),
    (torch.optim.Adafactor, {}, {"d": 2.0}),
    (SAM, {"base_optimizer": torch.optim.SGD, "momentum": 0.9}, {"rho": 0.1}),
    (SAM, {"base_optimizer": torch.optim.SGD}, {"momentum": 0.8}),
    (Adafactor, {"relative_step": False}, {}),
    (GaLore, {}, {"rank": 128}),
    (Prodigy, {}, {"d_coef": 2.0}),
    (Swallowing, {}, {"betas": (0.8, 0.9)}),
    (Asserting, {}, {"k": 2}),
    (partial(Adafactor, relative_step=False), {}, {}),
]


@pytest.mark.parametrize(("kind", "arguments", "options"), TAKEN)
def test_a_class_is_asked_with_the_users_own_arguments(kind, arguments, options):
    plan = param_groups(net(), lr=0.1, rules=[Rule("head", lr=0.5, options=options)])
    groups = plan.groups(kind, **arguments)
    optimizer = kind(groups, **arguments)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.5]
    assert options.items() <= optimizer.param_groups[1].items()
    plan.verify(optimizer)


@pytest.mark.parametrize(
    ("kind", "arguments", "options", "message"),
    [
        (torch.optim.AdamW, {}, {"beta": (0.8, 0.9)}, 'AdamW has no option "beta", set for head.weight, head.bias'),
        (torch.optim.AdamW, {}, {"use_muon": True}, 'AdamW has no option "use_muon"'),
        (Swallowing, {}, {"beta": (0.8, 0.9)}, 'Swallowing has no option "beta"'),
        (GaLore, {}, {"rnak": 3}, 'GaLore has no option "rnak"'),
        (Prodigy, {}, {"d_coeff": 3}, 'Prodigy has no option "d_coeff"'),
        (SAM, {}, {}, 'SAM needs "base_optimizer"\nhelp: pass its other arguments, too: .*SAM, base_optimizer='),
        (SAM, {"base_optimizer": torch.optim.SGD}, {"momentun": 0.9}, "SAM refuses the settings of head.weight"),
        (Adafactor, {}, {}, "Adafactor refuses the settings of .*: Cannot combine manual"),
        (Asserting, {}, {"k": 1}, "Asserting refuses the settings of head.weight, head.bias: k has to be above 1"),
        (torch.optim.AdamW, {}, {"betas": (0.9, 2.0)}, "AdamW refuses the settings of head.weight, head.bias: .*beta"),
        (torch.optim.Muon, {}, {}, "Muon refuses the settings of .*: .*2D"),
    ],
)
def test_what_a_class_does_not_take_is_named(kind, arguments, options, message):
    plan = param_groups(net(), lr=0.1, rules=[Rule("head", lr=0.5, options=options)])
    with pytest.raises(RateError, match=message):
        plan.groups(kind, **arguments)


def test_without_a_class_options_are_left_open_but_for_slips():
    plan = param_groups(net(), rules=[Rule("head", options={"use_muon": False, "d_coef": 2.0, "rank": 4})])
    assert plan.groups()[1]["rank"] == 4
    slip = param_groups(net(), rules=[Rule("head", options={"beta": (0.8, 0.9)})])
    with pytest.warns(RateWarning, match='no torch optimizer has the option "beta"; did you mean betas'):
        slip.groups()
    with pytest.raises(RateError, match="groups.. got k and no optimizer"):
        plan.groups(k=1)


def test_our_own_muon_takes_its_option():
    plan = param_groups(net(), rules=[Rule("body.1.weight", options={"use_muon": True})])
    assert sum(group.get("use_muon", False) for group in plan.groups(MuonAdamW)) == 1


# -- names -------------------------------------------------------------------------------------------------------------


def test_two_models_in_one_optimizer_by_prefix():
    generator, critic = net(), net()
    plans = {"generator": param_groups(generator, lr=0.1), "critic.": param_groups(critic, lr=0.2)}
    groups = [group for prefix, plan in plans.items() for group in plan.groups(prefix=prefix)]
    optimizer = torch.optim.Adam(groups)
    names = [name for group in optimizer.param_groups for name in group["param_names"]]
    assert len(set(names)) == len(names) == 12
    assert {name.split(".")[0] for name in names} == {"generator", "critic"}
    assert [group["name"] for group in optimizer.param_groups] == ["generator", "critic"]
    optimizer.load_state_dict(optimizer.state_dict())
    with pytest.raises(RateError, match="prefix is 3"):
        plans["generator"].groups(prefix=3)


def test_groups_without_names_take_what_others_add():
    model, more = net(), nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(param_groups(model, lr=0.1).groups(names=False))
    optimizer.add_param_group({"params": list(more.parameters()), "lr": 0.01})  # as Lightning's finetuning does
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.01]


@pytest.mark.parametrize("names", [True, False])
def test_a_plan_adds_what_an_optimizer_does_not_hold(names):
    model = net()
    optimizer = torch.optim.AdamW(param_groups(model, lr=0.1).groups(names=names))
    model["adapter"] = nn.Linear(4, 4, bias=False)
    plan = param_groups(model, lr=0.1, rules=[Rule("adapter", lr=0.7)])
    assert plan.add_to(optimizer) == ["adapter.weight"]
    assert ("param_names" in optimizer.param_groups[1]) == names
    assert optimizer.param_groups[1]["lr"] == 0.7
    assert plan.add_to(optimizer) == []
    plan.verify(optimizer)
    if names:
        with pytest.raises(RateError, match=r"holds other parameters of these names: body\.0\.weight"):
            param_groups(net()).add_to(optimizer)
    added = param_groups(net()).add_to(optimizer, prefix="second")
    assert added[0] == "second.body.0.weight"


def test_every_torch_optimizer_takes_the_groups():
    kinds = [
        kind for kind in vars(torch.optim).values() if isinstance(kind, type) and kind.__name__ not in ("Optimizer",)
    ]
    kinds = [kind for kind in kinds if kind not in (torch.optim.LBFGS, torch.optim.Muon)]  # one group; matrices alone
    assert len(kinds) > 10
    for kind in kinds:
        plan = param_groups(net(), lr=0.1, scale=[HeadMultiplier(2)])
        optimizer = kind(plan.groups(kind))
        assert [group["name"] for group in optimizer.param_groups] == ["body", "head"]
        again = kind(plan.groups(kind))
        again.load_state_dict(optimizer.state_dict())
        assert plan.rates_by_name(again) == {"body": 0.1, "head": 0.2}


def test_rates_by_name_follow_a_scheduler_and_need_no_names_in_the_groups():
    plan = param_groups(net(), lr=0.4, weight_decay=0.1, scale=[LayerDecay(0.5)], no_weight_decay=["1d"])
    planned = plan.rates_by_name()
    assert planned == {
        **{"body.0": 0.1, "body.0.no_decay": 0.1, "body.1": 0.2, "body.1.no_decay": 0.2},
        **{"head": 0.4, "head.no_decay": 0.4},
    }
    groups = plan.groups()
    for group in groups:
        del group["name"]
    optimizer = torch.optim.SGD(groups)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    optimizer.step()
    scheduler.step()
    assert plan.rates_by_name(optimizer) == {name: rate / 2 for name, rate in planned.items()}


def test_names_are_what_every_logger_takes():
    import re

    model = nn.ModuleDict({f"strange name {i}/#": nn.Linear(2, 2) for i in range(5)})
    rules = [Rule(lambda n, p, m: "3" in n or "1" in n, lr=0.5), Rule("*.bias", options={"eps": 1e-3})]
    names = [group["name"] for group in param_groups(model, rules=rules).groups()]
    assert len(set(names)) == len(names) > 3
    assert all(re.fullmatch(r"[\w.-]+", name) for name in names)


# -- the optimizer held against the plan -------------------------------------------------------------------------------


def broken(change):
    model = net()
    plan = param_groups(model, lr=0.1, weight_decay=0.5, rules=[Rule("head", lr=0.5, options={"eps": 1e-6})])
    optimizer = torch.optim.AdamW(plan.groups())
    change(optimizer)
    return plan, optimizer


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_verify_takes_rates_that_are_tensors_at_their_precision(dtype):
    plan = param_groups(nn.Linear(2, 1), lr=0.1)
    optimizer = torch.optim.AdamW(plan.groups(tensor_lr=dtype), foreach=False)
    plan.verify(optimizer)
    optimizer.param_groups[0]["lr"].mul_(1.02)
    with pytest.raises(RateError, match="lr of weight is 0.10"):
        plan.verify(optimizer)


def test_verify_takes_the_plans_of_all_that_an_optimizer_holds():
    plan, loss = (param_groups(nn.Linear(2, 1), lr=lr) for lr in (0.1, 0.5))
    optimizer = torch.optim.AdamW(plan.groups())
    loss.add_to(optimizer, prefix="loss")
    for one, other in ((plan, loss), (loss, plan)):
        one.verify(optimizer, other)
        with pytest.raises(RateError, match="it holds 2 tensors not in the model"):
            one.verify(optimizer)
    optimizer.param_groups[1]["lr"] = 0.4
    with pytest.raises(RateError, match="lr of weight is 0.4, planned 0.5"):
        plan.verify(optimizer, loss)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: o.param_groups[1].update(lr=0.4), "lr of head.weight is 0.4, planned 0.5"),
        (lambda o: o.param_groups[1].update(initial_lr=0.4), "lr of head.weight is 0.4, planned 0.5"),
        (lambda o: o.param_groups[0].update(weight_decay=0.0), "weight_decay of body.0.weight is 0, planned 0.5"),
        (lambda o: o.param_groups[0].pop("weight_decay"), "weight_decay of body.0.weight is None, planned 0.5"),
        (lambda o: o.param_groups[1].update(eps=1e-8), "eps of head.weight is 1e-08, planned 1e-06"),
        (lambda o: o.param_groups.pop(), "it does not hold head.weight, head.bias"),
        (lambda o: o.param_groups[0]["params"].pop(), "it does not hold body.1.bias"),
        (
            lambda o: o.param_groups[0]["params"].append(nn.Parameter(torch.ones(1))),
            "it holds 1 tensor not in the model",
        ),
        (lambda o: o.param_groups[0]["params"].append(o.param_groups[0]["params"][0]), "it holds 1 tensor twice"),
        (lambda o: o.param_groups[1].update(lr=torch.tensor(0.4)), "lr of head.weight is 0.4, planned 0.5"),
    ],
)
def test_verify_names_every_departure(change, message):
    plan, optimizer = broken(change)
    with pytest.raises(RateError, match="the optimizer does not follow the plan: .*" + message):
        plan.verify(optimizer)


@pytest.mark.parametrize(
    "change",
    [
        lambda o: None,
        lambda o: torch.optim.lr_scheduler.LinearLR(o),
        lambda o: o.param_groups[1].update(lr=torch.tensor(0.5)),
        lambda o: o.param_groups.reverse(),
    ],
)
def test_verify_lets_pass_what_follows_the_plan(change):
    plan, optimizer = broken(change)
    plan.verify(optimizer)
