"""The Muon router: what goes where, at which rate; each kind of tensor is stepped as its matrices one by one are."""

import pytest
import torch
from torch import nn

from lrdiff_core.errors import RateError
from lrdiff_core.optim import MuonAdamW
from lrdiff_core.rates import HeadMultiplier, LayerDecay, MuonRouter, Rule, param_groups


class Expert(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(4, 3)
        self.up = nn.Parameter(torch.randn(3, 6, 4))  # [experts, rows, columns]
        self.table = nn.Parameter(torch.randn(5, 2))  # no layer's weight

    def forward(self, x):
        return torch.einsum("bi,eoi->bo", x, self.up)[:, :4] + self.gate(x).sum() + self.table.sum()


def language_model():
    model = nn.ModuleDict(
        {
            "embed": nn.Embedding(9, 4),
            "blocks": nn.ModuleList(
                [nn.ModuleDict({"attn": nn.MultiheadAttention(4, 2), "mlp": Expert()}) for _ in "ab"]
            ),
            "norm": nn.LayerNorm(4),
            "lm_head": nn.Linear(4, 9, bias=False),
        }
    )
    model["lm_head"].weight = model["embed"].weight
    return model


def image_model():
    convolutions = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3), nn.ConvTranspose2d(6, 4, 2)]
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(4, 4), nn.Linear(4, 2))


def muon(plan):
    return {entry.name: dict(entry.options) for entry in plan if dict(entry.options).get("use_muon")}


def test_hidden_matrices_to_muon_everything_else_to_adamw():
    plan = param_groups(language_model(), lr=3e-4, weight_decay=0.1, router=MuonRouter(lr=0.02, weight_decay=0.01))
    taken = muon(plan)
    assert set(taken) == {
        f"blocks.{i}.{name}"
        for i in (0, 1)
        for name in ("attn.in_proj_weight", "attn.out_proj.weight", "mlp.gate.weight", "mlp.up")
    }
    assert taken["blocks.0.mlp.up"]["matrices"] == "stack"
    for entry in plan:
        assert (entry.lr, entry.weight_decay) == ((0.02, 0.01) if entry.name in taken else (3e-4, 0.1))
    assert plan.notes == (
        "MuonRouter: Muon takes 6 matrices and 2 stacks, AdamW the rest, also blocks.0.mlp.table, blocks.1.mlp.table "
        "(no layer's weight)",
    )


def test_without_embeddings_the_first_layer_is_the_input_layer():
    taken = muon(param_groups(image_model(), lr=1e-3, router=MuonRouter(lr=0.02)))
    assert taken == {
        "2.weight": {"matrices": "flatten", "use_muon": True},
        "3.weight": {"matrices": "flatten", "use_muon": True},
        "5.weight": {"use_muon": True},
    }
    assert set(muon(param_groups(image_model(), router=MuonRouter(lr=0.02, only_2d=True)))) == {"5.weight"}
    assert "6.weight" in muon(param_groups(image_model(), router=MuonRouter(lr=0.02, head=[])))
    assert "5.weight" not in muon(param_groups(image_model(), router=MuonRouter(lr=0.02, head=["5", "6"])))


def test_rules_and_scales_have_the_last_word():
    rules = [Rule("2", options={"use_muon": False}), Rule("5", lr_mult=0.5), Rule("3", options={"momentum": 0.8})]
    plan = param_groups(image_model(), lr=1e-3, rules=rules, router=MuonRouter(lr=0.02), scale=[HeadMultiplier(10)])
    assert muon(plan)["3.weight"] == {"matrices": "flatten", "momentum": 0.8, "use_muon": True}
    assert {n: plan[n].lr for n in ("2.weight", "3.weight", "5.weight", "6.weight")} == {
        **{"2.weight": 1e-3, "3.weight": 0.02, "5.weight": 0.01, "6.weight": 0.01}
    }
    assert plan.explain("5.weight") == '5.weight: 0.01 = 0.02 (lr of MuonRouter) x 0.5 (rule "5")'
    decayed = param_groups(language_model(), lr=1.0, router=MuonRouter(lr=0.5), scale=[LayerDecay(0.5)])
    assert decayed["blocks.0.mlp.up"].lr == 0.5 * 0.5**2


def test_a_projection_is_split_into_heads():
    router = MuonRouter(lr=0.02, heads={"*.in_proj_weight": 6})
    plan = param_groups(language_model(), router=router)
    assert muon(plan)["blocks.1.attn.in_proj_weight"] == {"heads": 6, "use_muon": True}
    with pytest.raises(RateError, match=r"is \[12, 4\] and cannot be split into 5 heads"):
        param_groups(language_model(), router=MuonRouter(lr=0.02, heads={"*.in_proj_weight": 5}))
    with pytest.raises(RateError, match='heads of "embed" match no matrix'):
        param_groups(language_model(), router=MuonRouter(lr=0.02, heads={"embed": 2}))


def step(optimizer, parameters):
    torch.manual_seed(1)
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()


@pytest.mark.parametrize(
    ("shape", "options", "matrices"),
    [
        ((6, 4), {}, lambda t: [t]),
        ((6, 4, 3, 3), {"matrices": "flatten"}, lambda t: [t.flatten(1)]),
        ((6, 4, 3), {}, lambda t: [t.flatten(1)]),
        ((3, 6, 4), {"matrices": "stack"}, lambda t: list(t)),
        ((2, 3, 6, 4), {"matrices": "stack"}, lambda t: list(t.flatten(0, 1))),
        ((6, 4), {"heads": 3}, lambda t: list(t.reshape(3, 2, 4))),
        ((3, 6, 4), {"matrices": "stack", "heads": 2}, lambda t: list(t.reshape(6, 3, 4))),
    ],
)
def test_a_tensor_is_stepped_as_its_matrices_one_by_one(shape, options, matrices):
    """Against torch's own Muon, which knows matrices alone."""
    torch.manual_seed(0)
    whole = nn.Parameter(torch.randn(shape))
    parts = [nn.Parameter(one.clone()) for one in matrices(whole.detach())]
    ours = MuonAdamW([{"params": [whole], "use_muon": True, **options}], lr=0.1, weight_decay=0.1)
    theirs = torch.optim.Muon(parts, lr=0.1, weight_decay=0.1)
    for _ in range(3):
        whole.grad = torch.randn(shape)
        for part, grad in zip(parts, matrices(whole.grad), strict=True):
            part.grad = grad.clone()
        ours.step()
        theirs.step()
    for part, one in zip(parts, matrices(whole.detach()), strict=True):
        torch.testing.assert_close(one, part.detach(), rtol=0.02, atol=0.02 * 0.1)  # bfloat16 iterations, batched


def test_one_call_makes_the_optimizer_and_every_hidden_matrix_moves_by_muons_rule():
    model = image_model()
    plan = param_groups(model, lr=1e-3, router=MuonRouter(lr=0.02))
    optimizer = MuonAdamW(plan.groups(MuonAdamW))
    step(optimizer, model.parameters())
    assert optimizer.forms()["muon"] == 3
    plan.verify(optimizer)


def test_torchs_own_pair():
    model = image_model()
    plans = param_groups(model, lr=1e-3, router=MuonRouter(lr=0.02, only_2d=True)).split("use_muon")
    pair = [
        torch.optim.Muon(plans[True].groups(torch.optim.Muon)),
        torch.optim.AdamW(plans[False].groups(torch.optim.AdamW)),
    ]
    held = [name for optimizer in pair for group in optimizer.param_groups for name in group["param_names"]]
    assert sorted(held) == sorted(name for name, _ in model.named_parameters())
    for plan, optimizer in zip((plans[True], plans[False]), pair, strict=True):
        plan.verify(optimizer)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MuonRouter(lr=0), "lr of MuonRouter is 0.0"),
        (lambda: MuonRouter(lr=0.1, weight_decay=-1), "weight_decay of MuonRouter is -1.0"),
        (lambda: MuonRouter(lr=0.1, heads={"a": 0}), 'heads of "a" are 0'),
        (lambda: MuonRouter(lr=0.1, options={"lr": 1}), 'MuonRouter sets "lr" among its options'),
        (lambda: param_groups(image_model(), router=0.02), "router is 0.02"),
        (
            lambda: param_groups(nn.Transformer(8, 2, 2, 2, 16, batch_first=True), router=MuonRouter(lr=1)),
            "the head cannot be determined",
        ),
    ],
)
def test_faults(make, message):
    with pytest.raises(RateError, match=message):
        make()
