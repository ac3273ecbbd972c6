"""State of one run into the optimizer of another: what is taken, kept, missing; and what a load says of a plan."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from optim_pairs import feed, make, params_of
from torch.distributed.checkpoint import state_dict as dcp
from torch.optim import Optimizer, lr_scheduler

from lrdiff_core.errors import OptimizerError, OptimizerWarning
from lrdiff_core.optim import SGD, Adafactor, Adam, AdamW, MuonAdamW, load_state_only
from lrdiff_core.schedules import Schedule

NAMES = ["body.weight", "body.bias", "head.weight", "head.bias"]
SHAPES = [(8, 8), (8,), (3, 8), (3,)]
KINDS: dict[str, tuple[type[Optimizer], type[Optimizer], dict[str, Any]]] = {  # who saved, who loads, with what
    "torch's AdamW into ours": (torch.optim.AdamW, AdamW, {"betas": (0.8, 0.9)}),
    "ours into torch's AdamW": (AdamW, torch.optim.AdamW, {"betas": (0.8, 0.9)}),
    "torch's Adam into ours": (torch.optim.Adam, Adam, {"amsgrad": True}),
    "torch's SGD into ours": (torch.optim.SGD, SGD, {"momentum": 0.9}),
    "torch's SGD into torch's": (torch.optim.SGD, torch.optim.SGD, {"momentum": 0.9}),
    "NAdam": (torch.optim.NAdam, torch.optim.NAdam, {}),
    "Adagrad": (torch.optim.Adagrad, torch.optim.Adagrad, {}),
    "RMSprop": (torch.optim.RMSprop, torch.optim.RMSprop, {"momentum": 0.5}),
    "torch's Adafactor into ours": (torch.optim.Adafactor, Adafactor, {}),
    "ours into torch's Adafactor": (Adafactor, torch.optim.Adafactor, {}),
}


def named(params: list[torch.Tensor], prefix: str = "") -> list[tuple[str, torch.Tensor]]:
    return [(prefix + name, param) for name, param in zip(NAMES, params, strict=True)]


def stepped(optimizer: Optimizer, steps: int = 2) -> Optimizer:
    for seed in range(steps):
        feed(params_of(optimizer), seed=seed)
        optimizer.step()
    return optimizer


def planned(kind: type[Optimizer], params: list[torch.Tensor], **options: Any) -> Optimizer:
    """Groups as a plan gives them: a head first, each with a rate and a name of its own."""
    pairs = named(params)
    groups = [
        {"params": pairs[2:], "lr": 1e-2, "name": "head", "weight_decay": 0.0},
        {"params": pairs[:2], "lr": 1e-4, "name": "body", "weight_decay": 0.1},
    ]
    return kind(groups, **options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_moments_are_taken_and_settings_kept(kind: str, prefix: str) -> None:
    source, target, options = KINDS[kind]
    old = stepped(source(named(make(SHAPES), prefix), lr=1e-3, **options))
    new = planned(target, make(SHAPES, seed=5), **options)
    settings = [{k: v for k, v in group.items() if k != "params"} for group in new.param_groups]
    report = load_state_only(new, copy.deepcopy(old.state_dict()))
    assert [{k: v for k, v in group.items() if k != "params"} for group in new.param_groups] == settings
    for mine, other in zip([*params_of(new)[2:], *params_of(new)[:2]], params_of(old), strict=True):
        assert new.state[mine].keys() == old.state[other].keys()
        assert all(
            torch.equal(torch.as_tensor(v), torch.as_tensor(new.state[mine][k])) for k, v in old.state[other].items()
        )
    assert sorted(report.taken) == sorted(NAMES)
    assert (report.by, dict(report.fresh), report.unused) == ("name", {}, ())
    stepped(new)


def test_the_next_step_is_that_of_the_old_moments_at_the_new_rates() -> None:
    old = stepped(torch.optim.AdamW(named(make(SHAPES)), lr=1e-3))
    params = [torch.nn.Parameter(p.detach().clone()) for p in params_of(old)]
    new = planned(AdamW, params)
    load_state_only(new, copy.deepcopy(old.state_dict()))
    before = [p.detach().clone() for p in params]
    for group in old.param_groups:
        group.update(lr=1e-2, weight_decay=0.0)
    feed(params, params_of(old), seed=9)
    old.step()
    new.step()
    torch.testing.assert_close(params[2], params_of(old)[2], rtol=1e-6, atol=1e-7)  # the head, rate 1e-2, no decay
    assert (params[0] - before[0]).abs().max() < 1e-3  # the body, a hundred times slower


@pytest.mark.parametrize("kind", [AdamW, torch.optim.AdamW], ids=["ours", "torch's"])
def test_the_tensors_that_hold_rates_stay(kind: type[Optimizer]) -> None:
    rates = [torch.tensor(0.25), torch.tensor(0.5)]
    pairs = named(make(SHAPES))
    new = kind([{"params": pairs[:2], "lr": rates[0]}, {"params": pairs[2:], "lr": rates[1]}])
    load_state_only(new, stepped(AdamW(named(make(SHAPES)), lr=1e-3)).state_dict())
    assert all(group["lr"] is rate for group, rate in zip(new.param_groups, rates, strict=True))
    assert [rate.item() for rate in rates] == [0.25, 0.5]


def test_a_part_is_taken_and_the_rest_reported() -> None:
    """A head of other classes, an adapter that is new, a layer that is gone, one that was frozen."""
    params = make(SHAPES)
    old = AdamW([*named(params), ("old.weight", make([(2,)])[0])], lr=1e-3)
    feed(params_of(old), seed=0)
    params[1].grad = None  # frozen
    old.step()
    pairs = dict(named(make([(8, 8), (8,), (5, 8), (5,)])))
    new = AdamW(
        [
            {"params": [(name, pairs[name]) for name in NAMES[:2]], "lr": 1e-4},
            {"params": [(name, pairs[name]) for name in NAMES[2:]], "lr": 1e-2},
            {"params": [("adapter.weight", make([(4, 4)])[0])], "lr": 1e-3},
        ]
    )
    with pytest.raises(OptimizerError) as caught:
        load_state_only(new, old.state_dict())
    assert "head.weight is saved with the shape [3, 8], here [5, 8]" in str(caught.value)
    assert "and 1 more\nhelp: take what fits with load_state_only(optimizer, state, partial=True)" in str(caught.value)
    assert not new.state
    assert str(load_state_only(new, old.state_dict(), partial=True)) == (
        "state of 1 parameter taken by name; settings stay\n"
        "kept: lr 0.0001 of body.weight, body.bias (saved with 0.001)\n"
        "kept: lr 0.01 of head.weight, head.bias (saved with 0.001)\n"
        "not taken: body.bias (saved without state: it was not stepped)\n"
        "not taken: head.weight (saved with the shape [3, 8], here [5, 8])\n"
        "not taken: head.bias (saved with the shape [3], here [5])\n"
        "not taken: adapter.weight (not in the checkpoint)\n"
        "not here: old.weight"
    )
    assert [bool(new.state.get(param)) for param in params_of(new)] == [True, False, False, False, False]
    stepped(new)


def test_what_was_not_taken_keeps_the_state_it_had() -> None:
    old = stepped(AdamW(named(make(SHAPES))[:2], lr=1e-3), steps=5)
    new = stepped(planned(AdamW, make(SHAPES)), steps=2)
    load_state_only(new, old.state_dict(), partial=True)
    assert [int(new.state[param]["step"]) for param in params_of(new)] == [2, 2, 5, 5]


def test_a_checkpoint_without_names_is_named_or_read_by_position() -> None:
    old = stepped(torch.optim.AdamW(make(SHAPES), lr=1e-3))
    new = planned(AdamW, make(SHAPES))
    with pytest.raises(OptimizerError, match=r"the checkpoint has no parameter names.*\[2, 2\].*\[4\]\nhelp: .*names="):
        load_state_only(new, old.state_dict())
    with pytest.raises(OptimizerError, match="holds 4 parameters, 3 names are given"):
        load_state_only(new, old.state_dict(), names=NAMES[:3])
    assert load_state_only(new, old.state_dict(), names=NAMES).by == "name"
    assert torch.equal(new.state[params_of(new)[0]]["exp_avg"], old.state[params_of(old)[2]]["exp_avg"])
    plain = AdamW(make(SHAPES), lr=0.5)
    report = load_state_only(plain, old.state_dict())
    assert (report.by, report.taken) == ("position", ("#0", "#1", "#2", "#3"))
    with pytest.raises(OptimizerError, match=r"#0 is saved with the shape \[8, 8\], here \[3\]"):
        load_state_only(AdamW(make(SHAPES[::-1])), old.state_dict())


@pytest.mark.parametrize("state", [{}, [], {"state": {}}, None], ids=str)
def test_what_is_no_state_is_refused(state: Any) -> None:
    with pytest.raises(OptimizerError, match="not the state of an optimizer"):
        load_state_only(AdamW(make(SHAPES)), state)


def test_a_state_of_another_kind_is_refused_by_name() -> None:
    old = stepped(torch.optim.SGD(named(make(SHAPES)), lr=1e-3, momentum=0.9))
    with pytest.raises(OptimizerError, match="body.weight is saved by another kind of optimizer, without exp_avg"):
        load_state_only(AdamW(named(make(SHAPES))), old.state_dict())


# Two models in one optimizer


def two_models(order: int = 1) -> Optimizer:
    groups = [{"params": [("weight", make([(4, 4)], seed=seed)[0])], "lr": 0.1 * seed} for seed in (1, 2)]
    return AdamW(groups[::order])


def test_names_that_stand_twice_load_as_in_torch_or_are_refused_before_anything_changes() -> None:
    saved = stepped(two_models()).state_dict()
    again = two_models()
    again.load_state_dict(saved)
    assert [group["lr"] for group in again.param_groups] == [0.1, 0.2]
    assert load_state_only(two_models(), saved).by == "position"
    merged = AdamW([("weight", make([(4, 4)])[0]), ("weight", make([(4, 4)])[0])])
    for load in (merged.load_state_dict, lambda state: load_state_only(merged, state)):
        with pytest.raises(OptimizerError, match=r"'weight'( twice)?\nhelp: .*plan\.groups\(prefix="):
            load(saved)
    assert not merged.state


# A load that replaces what a plan said


def fresh_and_saved(rate: float, **options: Any) -> tuple[Optimizer, dict[str, Any]]:
    return planned(AdamW, make(SHAPES)), stepped(AdamW(named(make(SHAPES)), lr=rate, **options)).state_dict()


def test_rates_of_a_plan_that_a_load_replaces_are_told() -> None:
    new, saved = fresh_and_saved(1e-3)
    with pytest.warns(OptimizerWarning) as caught:
        new.load_state_dict(saved)
    assert str(caught[0].message) == (
        "loading replaced what the plan said: lr of head 0.01 -> 0.001, weight_decay of head 0 -> 0.01, "
        "lr of body 0.0001 -> 0.001, weight_decay of body 0.1 -> 0.01\n"
        "help: to keep the optimizer's settings, call load_state_only(optimizer, state) in place of load_state_dict"
    )
    assert caught[0].filename == __file__
    assert [group["lr"] for group in new.param_groups] == [1e-3, 1e-3]  # torch's semantics
    assert [group["name"] for group in new.param_groups] == ["head", "body"]


RESUMED: dict[str, Callable[[Optimizer], Any]] = {
    "no scheduler": lambda o: None,
    "Schedule": lambda o: Schedule(o, total_steps=20),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda t: 1 / (t + 1)),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, [g["lr"] for g in o.param_groups], total_steps=20),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(
        o, [g["lr"] / 9 for g in o.param_groups], [g["lr"] for g in o.param_groups], cycle_momentum=False
    ),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o),
    "by hand": lambda o: [g.update(lr=g["lr"] * 0.3) for g in o.param_groups],
}


@pytest.mark.parametrize("tensor", [False, True], ids=["numbers", "tensors"])
@pytest.mark.parametrize("before", [True, False], ids=["scheduler first", "optimizer first"])
@pytest.mark.parametrize("name", RESUMED)
def test_a_resume_of_the_same_plan_is_silent(name: str, before: bool, tensor: bool) -> None:
    def start() -> Optimizer:
        optimizer = planned(AdamW, make(SHAPES))
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(group["lr"]) if tensor else group["lr"]
        return optimizer

    old = start()
    scheduler = RESUMED[name](old)
    for step in range(6):
        feed(params_of(old), seed=step)
        old.step()
        if isinstance(scheduler, lr_scheduler.LRScheduler):
            scheduler.step(*[1.0] if name == "ReduceLROnPlateau" else [])
    new = start()
    if before:
        RESUMED[name](new)
    with warnings.catch_warnings(action="error"):
        new.load_state_dict(old.state_dict())
    assert [float(g["lr"]) for g in new.param_groups] == [float(g["lr"]) for g in old.param_groups]


# torch.distributed.checkpoint


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = torch.nn.Linear(8, 8), torch.nn.Linear(8, 3)


GROUPINGS: dict[str, Callable[[Net], Any]] = {
    "one group": lambda net: net.parameters(),
    "one group, named": lambda net: net.named_parameters(),
    "two": lambda net: [{"params": list(part.parameters())} for part in (net.body, net.head)],
    "two, named": lambda net: [{"params": list(m.named_parameters(n))} for n, m in net.named_children()],
    "two, turned": lambda net: [
        {"params": list(m.named_parameters(n))} for n, m in reversed(list(net.named_children()))
    ],
    "each": lambda net: [{"params": [pair]} for pair in net.named_parameters()],
}


@pytest.mark.parametrize("flatten", [True, False])
@pytest.mark.parametrize("there", GROUPINGS)
@pytest.mark.parametrize("here", GROUPINGS)
def test_distributed_state_loads_as_in_torchs_class(here: str, there: str, flatten: bool) -> None:
    """In every grouping that torch takes; where torch's fails only at a step, ours refuses at the load."""
    options = dcp.StateDictOptions(flatten_optimizer_state_dict=flatten)
    done: dict[str, Any] = {}
    for name, kind in (("ours", AdamW), ("torch's", torch.optim.AdamW)):
        net = Net()
        old = stepped(kind(GROUPINGS[there](net), lr=0.1))
        saved = dcp.get_optimizer_state_dict(net, old, options=options)
        other = Net()
        new = kind(GROUPINGS[here](other), lr=0.1)
        try:
            with warnings.catch_warnings(action="ignore", category=FutureWarning):
                dcp.set_optimizer_state_dict(other, new, copy.deepcopy(saved), options=options)
            stepped(new)
            done[name] = [p.detach() for p in other.parameters()], [new.state[p] for p in other.parameters()]
        except (KeyError, RuntimeError, ValueError) as problem:
            done[name] = problem
    if isinstance(done["torch's"], KeyError):
        assert isinstance(done["ours"], KeyError | OptimizerError)
    elif isinstance(done["torch's"], Exception):
        assert type(done["ours"]) is type(done["torch's"])
    else:
        for mine, other in zip(*(done[name][0] for name in ("ours", "torch's")), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-7)
        assert [int(state["step"]) for state in done["ours"][1]] == [int(state["step"]) for state in done["torch's"][1]]


# Muon

MATRICES, VECTORS = [(8, 16), (16, 8)], [(16,), (8,)]


def muon(**options: Any) -> MuonAdamW:
    matrices = [(f"layers.{i}.weight", p) for i, p in enumerate(make(MATRICES))]
    vectors = [(f"layers.{i}.bias", p) for i, p in enumerate(make(VECTORS))]
    return MuonAdamW([{"params": matrices, "lr": 0.02, "use_muon": True, **options}, {"params": vectors, "lr": 1e-3}])


def torchs(kind: type[Optimizer], shapes: list[tuple[int, ...]], what: str, **options: Any) -> Optimizer:
    return stepped(kind([(f"layers.{i}.{what}", p) for i, p in enumerate(make(shapes))], **options))


@pytest.mark.parametrize("by_name", [True, False])
def test_the_state_of_torchs_muon_is_migrated(by_name: bool) -> None:
    theirs = torchs(torch.optim.Muon, MATRICES, "weight", lr=0.05, momentum=0.9, nesterov=False, eps=1e-5)
    copies = [torch.nn.Parameter(p.detach().clone()) for p in params_of(theirs)]
    pairs = [(f"layers.{i}.weight", p) for i, p in enumerate(copies)]
    ours = MuonAdamW(pairs if by_name else copies, use_muon=True, eps=1e-7)
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    (group,) = ours.param_groups
    assert {k: group[k] for k in ("use_muon", "lr", "momentum", "nesterov", "muon_eps", "eps")} == {
        "use_muon": True, "lr": 0.05, "momentum": 0.9, "nesterov": False, "muon_eps": 1e-5, "eps": 1e-7,
    }  # fmt: skip
    for seed in range(3):
        feed(copies, params_of(theirs), seed=10 + seed)
        ours.step()
        theirs.step()
    for mine, other in zip(copies, params_of(theirs), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=5e-2 * 0.05)
        torch.testing.assert_close(ours.state[mine]["momentum_buffer"], theirs.state[other]["momentum_buffer"])
    pickled = copy.deepcopy(ours)
    pickled.load_state_dict(ours.state_dict())


def test_both_of_torchs_optimizers_make_one_of_ours() -> None:
    ours = muon()
    first = load_state_only(ours, torchs(torch.optim.Muon, MATRICES, "weight").state_dict(), partial=True)
    second = load_state_only(ours, torchs(torch.optim.AdamW, VECTORS, "bias").state_dict(), partial=True)
    assert (len(first.taken), len(second.taken)) == (2, 2)
    assert [set(ours.state[param]) for param in params_of(ours)] == [{"momentum_buffer"}] * 2 + [
        {"step", "exp_avg", "exp_avg_sq"}
    ] * 2
    stepped(ours)


@pytest.mark.parametrize(
    ("source", "use_muon", "words"),
    [
        (torch.optim.Muon, False, "was saved by Muon and is stepped by AdamW here"),
        (torch.optim.AdamW, True, "was saved by AdamW and is stepped by Muon here"),
        (torch.optim.Adam, True, "was saved by AdamW and is stepped by Muon here"),
        (torch.optim.SGD, False, "another kind of optimizer: MuonAdamW needs betas, eps"),
        (torch.optim.SGD, True, "was saved by AdamW and is stepped by Muon here"),
        (torch.optim.RMSprop, False, "MuonAdamW needs betas, step, exp_avg|MuonAdamW needs betas, exp_avg"),
    ],
)
@pytest.mark.parametrize("by_name", [True, False])
def test_another_rule_is_refused_at_the_load(
    source: type[Optimizer], use_muon: bool, words: str, by_name: bool
) -> None:
    theirs = torchs(source, MATRICES, "weight")
    pairs = [(f"layers.{i}.weight", p) for i, p in enumerate(make(MATRICES))]
    ours = MuonAdamW(pairs if by_name else [p for _, p in pairs], use_muon=use_muon)
    with pytest.raises(OptimizerError, match=words):
        ours.load_state_dict(theirs.state_dict())
    assert not ours.state
    stepped(ours)


@pytest.mark.parametrize("target", [SGD, Adam, AdamW])
@pytest.mark.parametrize("source", [torch.optim.SGD, torch.optim.AdamW, torch.optim.Muon, torch.optim.Adagrad])
def test_a_state_loads_or_is_refused_and_never_fails_at_a_step(
    source: type[Optimizer], target: type[Optimizer]
) -> None:
    theirs = torchs(source, MATRICES, "weight", lr=0.1)
    ours = target([(f"layers.{i}.weight", p) for i, p in enumerate(make(MATRICES))])
    if (source, target) in [(torch.optim.SGD, SGD), (torch.optim.AdamW, Adam), (torch.optim.AdamW, AdamW)]:
        ours.load_state_dict(theirs.state_dict())
    else:
        with pytest.raises(OptimizerError, match="another kind of optimizer"):
            ours.load_state_dict(theirs.state_dict())
    stepped(ours)


def test_kellers_own_groups_are_filled_up() -> None:
    """The muon-optimizer package keeps rate, momentum and decay only, and counts steps in plain numbers."""
    ours = muon()
    saved = stepped(muon()).state_dict()
    for group in saved["param_groups"]:
        kept = ("lr", "momentum", "weight_decay") if group["use_muon"] else ("lr", "betas", "eps", "weight_decay")
        for key in set(group) - {*kept, "params", "use_muon", "param_names"}:
            del group[key]
    for values in saved["state"].values():
        if "step" in values:
            values["step"] = int(values["step"])
    ours.load_state_dict(saved)
    stepped(ours)
    assert [group["use_muon"] for group in ours.param_groups] == [True, False]


def test_vectors_are_not_made_muons_by_position() -> None:
    saved = stepped(muon()).state_dict()
    turned = MuonAdamW([{"params": make(VECTORS)}, {"params": make(MATRICES), "use_muon": True}])
    with pytest.raises(OptimizerError, match="Muon takes real matrices"):
        turned.load_state_dict({**saved, "param_groups": saved["param_groups"]})
    stepped(turned)
