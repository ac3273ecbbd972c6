"""A plan stays true: parameters replaced, names and shapes changed, shards, parts of a pipeline, frozen norms."""

import copy
import pickle

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.utils import parametrizations

from lrdiff_core.errors import RateError, RateWarning
from lrdiff_core.rates import LayerDecay, RatePlan, Rule, param_groups


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2))


def make_plan(model, **more):
    return param_groups(model, lr=0.1, weight_decay=0.2, no_weight_decay=["1d"], **more)


# -- groups compare with the model -------------------------------------------------------------------------------------


def to_empty(model):
    model.to_empty(device="cpu")


def assigned(model):
    state = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(state, assign=True)


def swapped(model):
    model[0] = nn.Linear(4, 4)


def rewrapped(model):
    model[0].weight = nn.Parameter(model[0].weight.detach().clone())


@pytest.mark.parametrize(
    ("change", "device"), [(to_empty, "meta"), (assigned, "cpu"), (swapped, "cpu"), (rewrapped, "cpu")]
)
def test_what_was_replaced_is_taken_as_it_is_now(change, device):
    model = net().to(device)
    plan = make_plan(model)
    stale = torch.optim.SGD(plan.groups()) if device == "cpu" else None
    change(model)
    held = {id(parameter) for group in plan.groups() for parameter in group["params"]}
    assert held == {id(parameter) for parameter in model.parameters()}
    if stale is not None:
        with pytest.raises(RateError, match="tensors? not in the model"):
            plan.verify(stale)


def new_head(model):
    model[2] = nn.Linear(4, 5)


def more_layers(model):
    model.append(nn.Linear(2, 2))


def fewer_layers(model):
    del model[2]


def without_bias(model):
    model[0].bias = None


CHANGES = [
    (
        lambda model: parametrizations.weight_norm(model[0]),
        "new: 0.weight.original0, 0.weight.original1; gone: 0.weight",
    ),
    (new_head, "of another shape: 2.weight, 2.bias"),
    (more_layers, "new: 3.weight, 3.bias"),
    (fewer_layers, "gone: 2.weight, 2.bias"),
    (without_bias, "gone: 0.bias"),
]


@pytest.mark.parametrize(("change", "what"), CHANGES)
def test_a_model_that_has_changed_is_refused(change, what):
    model = net()
    plan = make_plan(model)
    change(model)
    for use in (plan.groups, plan.apply_freeze, lambda: plan.unfreeze(torch.optim.SGD(model.parameters()), "*")):
        with pytest.raises(RateError) as caught:
            use()
        assert caught.value.message == f"the model is not as it was when the plan was made; {what}"
        assert caught.value.help == "make a plan for the model as it is now: param_groups(model, ...)"
    assert f"the model has changed since: {what}" in str(plan)  # printing never fails


# -- shards ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def two_ranks():
    """The first of two processes, with collectives that do nothing."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    yield
    dist.destroy_process_group()


def test_fully_shard_after_the_plan(two_ranks):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = net()
    plan = make_plan(model)
    stale = torch.optim.AdamW(plan.groups())
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    with pytest.raises(RateError, match="it holds 6 tensors not in the model; it does not hold 0.weight"):
        plan.verify(stale)
    optimizer = torch.optim.AdamW(plan.groups())
    assert {type(p).__name__ for group in optimizer.param_groups for p in group["params"]} == {"DTensor"}
    plan.verify(optimizer)
    assert [entry.weight_decay for entry in make_plan(model)] == [0.2, 0, 0, 0, 0.2, 0]


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_flat_shards_have_their_true_shapes(two_ranks):
    from torch.distributed.fsdp import FullyShardedDataParallel

    def shard(model, **how):
        return FullyShardedDataParallel(model, device_id=torch.device("cpu"), **how)

    whole = shard(net(), use_orig_params=True)
    assert {parameter.ndim for parameter in whole.parameters()} == {1}
    rules = [Rule(lambda name, parameter, module: parameter.ndim == 2, lr_mult=2.0)]
    plan = make_plan(whole, rules=rules)
    assert [(e.shape, e.weight_decay, e.lr) for e in plan] == [
        (tuple(p.shape), 0.2 if p.ndim > 1 else 0, 0.2 if p.ndim > 1 else 0.1) for p in net().parameters()
    ]
    inside = net()
    inside[0] = shard(inside[0], use_orig_params=True)
    assert make_plan(inside)["0.weight"].shape == (4, 4)
    nested = shard(inside, use_orig_params=True)
    assert [e.shape for e in make_plan(nested)] == [tuple(p.shape) for p in net().parameters()]
    for within in (whole.module, whole.module[0], nested.module):  # Lightning's configure_optimizers sees the inner one
        with pytest.raises(RateError, match="FSDP holds .* as a flat shard.*\nhelp: pass that module, the root"):
            make_plan(within)
    with pytest.raises(
        RateError, match="FSDP has flattened parameters of .*\nhelp: wrap the model with use_orig_params"
    ):
        make_plan(shard(net()))


# -- parts -------------------------------------------------------------------------------------------------------------


def deep():
    torch.manual_seed(0)
    return nn.ModuleDict(
        {
            "embed": nn.Embedding(5, 2),
            "layers": nn.ModuleDict({str(i): nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)) for i in range(4)}),
            "head": nn.Linear(2, 5),
        }
    )


def stage_of(model, first, last):
    """As torchtitan cuts stages: a copy of the whole model with the other layers deleted."""
    stage = copy.deepcopy(model)
    for i in range(4):
        if not first <= i < last:
            del stage["layers"][str(i)]
    if first:
        del stage["embed"]
    if last < 4:
        del stage["head"]
    return stage


def test_the_stages_of_a_pipeline_have_the_rates_of_the_whole():
    model = deep()
    plan = param_groups(model, lr=1.0, scale=[LayerDecay(0.5)])
    stages = [stage_of(model, 0, 2), stage_of(model, 2, 4)]
    parts = [plan.part(stage) for stage in stages]
    assert {e.name: e.lr for part in parts for e in part} == {e.name: e.lr for e in plan}
    for part, stage in zip(parts, stages, strict=True):
        optimizer = torch.optim.SGD(part.groups())
        part.verify(optimizer)
        assert {id(p) for g in optimizer.param_groups for p in g["params"]} == {id(p) for p in stage.parameters()}
    alone = param_groups(stages[0], lr=1.0, scale=[LayerDecay(0.5)])
    assert alone["layers.1.0.weight"].lr == 1.0  # what went wrong: the last rate in the first stage


def test_a_part_is_told_by_identity_or_by_a_prefix():
    model = deep()
    plan = param_groups(model, lr=1.0, scale=[LayerDecay(0.5)], rules=[Rule("layers.1", freeze=True)]).apply_freeze()
    own = plan.part(nn.Sequential(model["layers"]["1"], model["head"]))
    assert [entry.name for entry in own][:1] == ["layers.1.0.weight"]
    assert own.frozen == tuple(f"layers.1.{i}.{kind}" for i in (0, 1) for kind in ("weight", "bias"))
    copied = plan.part(copy.deepcopy(model["layers"]), prefix="layers")
    assert {entry.name for entry in copied} == {
        name for name, _ in model.named_parameters() if name.startswith("layers")
    }
    stored = RatePlan.from_dict(plan.to_dict())
    assert stored.part(stage_of(model, 2, 4))["head.weight"].lr == 1.0
    with pytest.raises(RateError, match=r"the part holds what the plan does not know: 0\.weight"):
        plan.part(nn.Sequential(nn.Linear(7, 7)))
    del model["head"]
    with pytest.raises(
        RateError, match="gone: head.weight, head.bias\nhelp: take parts before the model itself is cut"
    ):
        plan.part(model)


# -- frozen norms ------------------------------------------------------------------------------------------------------

NORMS = {
    "BatchNorm": lambda: nn.BatchNorm1d(2),
    "SyncBatchNorm": lambda: nn.SyncBatchNorm(2),
    "InstanceNorm": lambda: nn.InstanceNorm1d(2, affine=True, track_running_stats=True),
    "without parameters": lambda: nn.BatchNorm1d(2, affine=False),
}
STILL = {
    "LayerNorm": lambda: nn.LayerNorm(2),
    "without statistics": lambda: nn.BatchNorm1d(2, track_running_stats=False),
    "GroupNorm": lambda: nn.GroupNorm(1, 2),
}


def with_norm(norm):
    return nn.ModuleDict({"body": nn.Sequential(nn.Linear(2, 2), norm()), "head": nn.Linear(2, 1)})


def statistics(model):
    return {name: value.clone() for name, value in model.named_buffers()}


def forward(model):
    model["body"][1](torch.randn(8, 2, 3) if "Instance" in type(model["body"][1]).__name__ else torch.randn(8, 2))


@pytest.mark.parametrize("name", NORMS)
def test_frozen_norms_that_go_on_moving_are_said(name):
    model = with_norm(NORMS[name])
    plan = param_groups(model, rules=[Rule("body", freeze=True)])
    with pytest.warns(RateWarning, match=r'frozen norms that still update their statistics: body\.1\nhelp: .*"stop"'):
        plan.apply_freeze()
    assert "frozen norms that still update their statistics: body.1" in str(plan)
    meant = param_groups(model, rules=[Rule("body", freeze=True)]).apply_freeze(statistics="update")
    assert "body.1" in meant.table().splitlines()[-2]


@pytest.mark.parametrize("name", STILL)
def test_norms_without_statistics_are_not_mentioned(name):
    plan = param_groups(with_norm(STILL[name]), rules=[Rule("body", freeze=True)]).apply_freeze()
    assert "statistics" not in str(plan)


@pytest.mark.parametrize("name", ["BatchNorm", "InstanceNorm", "without parameters"])
@pytest.mark.parametrize("way", ["as it is", "copied", "pickled"])
def test_statistics_stop_and_start_again(name, way):
    model = with_norm(NORMS[name])
    plan = param_groups(model, rules=[Rule("body", freeze=True)]).apply_freeze(statistics="stop")
    if way != "as it is":
        copied = copy.deepcopy(model) if way == "copied" else pickle.loads(pickle.dumps(model))
        before = statistics(copied)
        forward(copied.train())
        assert all(torch.equal(value, before[key]) for key, value in statistics(copied).items())
        return
    optimizer = torch.optim.SGD(plan.groups())
    before = statistics(model)
    for _ in range(2):
        forward(model.train())  # every epoch begins so
    assert all(torch.equal(value, before[key]) for key, value in statistics(model).items())
    assert "statistics" not in str(plan)
    assert plan.unfreeze(optimizer, "body")
    assert model["body"][1].training
    forward(model)
    assert not torch.equal(model["body"][1].running_mean, before["body.1.running_mean"])
    plan.freeze(optimizer, "body")
    after = statistics(model)
    forward(model.train())
    assert all(torch.equal(value, after[key]) for key, value in statistics(model).items())


def test_a_frozen_norm_is_a_fixed_function():
    model = with_norm(NORMS["BatchNorm"])
    with torch.no_grad():
        model["body"][1].running_mean.fill_(3.0)
    param_groups(model, rules=[Rule("body", freeze=True)]).apply_freeze(statistics="stop")
    x = torch.randn(8, 2)
    norm = model.train()["body"][1]
    torch.testing.assert_close(norm(x), (x - 3) / (1 + norm.eps) ** 0.5)


def test_statistics_has_two_words():
    with pytest.raises(RateError, match='statistics is True\nhelp: write "stop"'):
        param_groups(net()).apply_freeze(statistics=True)
