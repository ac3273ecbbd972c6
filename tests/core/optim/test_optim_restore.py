"""State restored by parameter name, strictly, into any grouping; by position without names."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from optim_pairs import PAIRS, feed, make, params_of, same_bits
from torch.optim import Optimizer

from lrdiff_core.errors import OptimizerError
from lrdiff_core.optim import AdamW, MuonAdamW

NAMES = ["body.weight", "body.bias", "head.weight", "head.bias"]
SHAPES = [(16, 16), (16,), (16, 16), (16,)]  # alike, so that a swap raises no shape error


def _named(params: list[torch.Tensor], *groups: list[int], prefix: str = "") -> list[dict[str, Any]]:
    return [{"params": [(prefix + NAMES[i], params[i]) for i in group]} for group in groups]


def _trained(kind: type[Optimizer], *groups: list[int], prefix: str = "") -> tuple[list[torch.Tensor], Optimizer]:
    params = make(SHAPES)
    optimizer = kind(_named(params, *groups, prefix=prefix), lr=0.1)
    for i in range(3):
        feed(params, seed=i)
        optimizer.step()
    return params, optimizer


@pytest.mark.parametrize("source", [AdamW, torch.optim.AdamW], ids=["ours", "torch's"])
@pytest.mark.parametrize("grouping", [[[2, 3], [0, 1]], [[3], [1], [0], [2]], [[1, 0, 3, 2]]], ids=str)
@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module."])
def test_regrouped_state_goes_on_identically(grouping: list[list[int]], source: type[Optimizer], prefix: str) -> None:
    params, optimizer = _trained(source, [0, 1], [2, 3], prefix=prefix)
    copied = [torch.nn.Parameter(p.detach().clone()) for p in params]
    resumed = AdamW(_named(copied, *grouping), lr=0.7)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert {group["lr"] for group in resumed.param_groups} == {0.1}
    for mine, other in zip(copied, params, strict=True):
        assert all(torch.equal(resumed.state[mine][k], v) for k, v in optimizer.state[other].items())
    feed(params, copied, seed=9)
    optimizer.step()
    resumed.step()
    for mine, other in zip(copied, params, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-7)


def test_reordered_groups_keep_their_own_rates() -> None:
    params = make(SHAPES)
    saved = AdamW(
        [{**group, "lr": rate} for group, rate in zip(_named(params, [0, 1], [2, 3]), (0.1, 0.2), strict=True)]
    )
    mine = AdamW(_named(make(SHAPES), [3, 2], [1, 0]))
    mine.load_state_dict(saved.state_dict())
    assert [group["lr"] for group in mine.param_groups] == [0.2, 0.1]
    assert [group["param_names"] for group in mine.param_groups] == [[NAMES[3], NAMES[2]], [NAMES[1], NAMES[0]]]


def test_missing_and_left_over_names_are_named() -> None:
    _, optimizer = _trained(AdamW, [0, 1], [2])
    mine = AdamW(_named(make(SHAPES), [0, 1], [3]))
    with pytest.raises(OptimizerError) as caught:
        mine.load_state_dict(optimizer.state_dict())
    assert str(caught.value) == (
        "optimizer state does not fit by parameter name: "
        "the checkpoint lacks head.bias; the optimizer lacks head.weight\n"
        "help: build the optimizer over the same parameters, take what fits with load_state_only(optimizer, state, "
        "partial=True), or drop param_names from the checkpoint's groups to load by position"
    )
    assert not mine.state


@pytest.mark.parametrize(
    ("saved", "mine", "message"),
    [([0, 1, 2], [0, 1], "the optimizer lacks head.weight$"), ([0, 1], [0, 1, 2], "the checkpoint lacks head.weight$")],
)
def test_one_side_may_hold_all_of_the_other(saved: list[int], mine: list[int], message: str) -> None:
    _, optimizer = _trained(AdamW, saved)
    with pytest.raises(OptimizerError, match=r"(?m)" + message):
        AdamW(_named(make(SHAPES), mine)).load_state_dict(optimizer.state_dict())


def test_merged_groups_need_equal_options() -> None:
    params = make(SHAPES)
    saved = AdamW(
        [{**group, "lr": rate} for group, rate in zip(_named(params, [0, 1], [2, 3]), (0.1, 0.2), strict=True)]
    )
    with pytest.raises(OptimizerError) as caught:
        AdamW(_named(make(SHAPES), [0, 1, 2, 3])).load_state_dict(saved.state_dict())
    assert str(caught.value) == (
        "body.weight and head.weight share a group here but were saved with different lr: 0.1 and 0.2\n"
        "help: give them groups of their own, or keep the optimizer's settings: load_state_only(optimizer, state)"
    )


def test_a_name_saved_twice_is_refused() -> None:
    _, optimizer = _trained(AdamW, [0, 1], [2, 3])
    saved = optimizer.state_dict()
    saved["param_groups"][1]["param_names"] = ["body.weight", "head.bias"]
    with pytest.raises(OptimizerError, match=r"holds the name 'body\.weight' twice"):
        AdamW(_named(make(SHAPES), [0, 1], [2, 3])).load_state_dict(saved)


def test_a_hook_may_mend_the_names_first() -> None:
    _, optimizer = _trained(AdamW, [0, 1], [2, 3], prefix="old.")
    mine = AdamW(_named(make(SHAPES), [2, 3], [0, 1]))

    def mend(_: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        groups = [
            {**g, "param_names": [n.removeprefix("old.") for n in g["param_names"]]} for g in state_dict["param_groups"]
        ]
        return {**state_dict, "param_groups": groups}

    mine.register_load_state_dict_pre_hook(mend)
    mine.load_state_dict(optimizer.state_dict())
    assert torch.equal(mine.state[params_of(mine)[2]]["exp_avg"], optimizer.state[params_of(optimizer)[0]]["exp_avg"])


@pytest.mark.parametrize("named", ["checkpoint", "optimizer", "neither"])
def test_without_names_on_both_sides_position_decides(named: str) -> None:
    params = make(SHAPES)
    saved = torch.optim.AdamW(_named(params, [0, 1], [2, 3]) if named == "checkpoint" else params, lr=0.1)
    feed(params, seed=0)
    saved.step()
    copied = [torch.nn.Parameter(p.detach().clone()) for p in params]
    groups = {"checkpoint": [{"params": copied[:2]}, {"params": copied[2:]}], "optimizer": _named(copied, [0, 1, 2, 3])}
    mine = AdamW(groups.get(named, copied))
    mine.load_state_dict(saved.state_dict())
    same_bits(mine, saved)


def test_position_checks_sizes_as_torch_does() -> None:
    saved = torch.optim.AdamW(make(SHAPES))
    with pytest.raises(ValueError, match="doesn't match the size of optimizer's group"):
        AdamW(make(SHAPES)[:3]).load_state_dict(saved.state_dict())


@pytest.mark.parametrize("loaded", [0.25, torch.tensor(0.25)], ids=["number", "tensor"])
@pytest.mark.parametrize("named", [False, True])
def test_rate_tensors_stay_the_same_objects(named: bool, loaded: Any) -> None:
    params = make(SHAPES)
    saved = AdamW(_named(params, [0, 1, 2, 3]) if named else params, lr=loaded)
    mine_params = make(SHAPES)
    rate = torch.tensor(0.5)
    mine = AdamW(_named(mine_params, [0, 1, 2, 3]) if named else mine_params, lr=rate)
    mine.load_state_dict(saved.state_dict())
    assert mine.param_groups[0]["lr"] is rate
    assert rate.item() == 0.25
    feed(mine_params, seed=0)
    before = mine_params[0].detach().clone()
    rate.fill_(0.0)
    mine.step()
    assert torch.equal(mine_params[0], before)


@pytest.mark.parametrize("flags", [{"fused": True}, {"foreach": True}, {"foreach": False}], ids=str)
def test_what_runs_is_not_loaded(flags: dict[str, Any], pair: tuple[type[Optimizer], type[Optimizer]]) -> None:
    """A checkpoint of torch's fused optimizer would otherwise bring torch's own step with it; and the reverse."""
    saved = pair[1](make(SHAPES), lr=0.1, **flags)
    feed(params_of(saved), seed=0)
    saved.step()
    mine = pair[0](make(SHAPES))
    mine.load_state_dict(saved.state_dict())
    feed(params_of(mine), seed=1)
    mine.step()
    assert "torch" not in mine.forms()  # type: ignore[attr-defined]
    chosen = pair[0](make(SHAPES), **flags)
    chosen.load_state_dict(mine.state_dict())
    assert all(chosen.param_groups[0][key] is value for key, value in flags.items())


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_a_checkpoint_from_before_an_option_existed_is_read(name: str) -> None:
    """torch gives SGD's groups ``fused=False`` then, and old Adams counted their steps in plain numbers."""
    ours, theirs = PAIRS[name]
    saved = theirs(make(SHAPES), lr=0.1)
    feed(params_of(saved), seed=0)
    saved.step()
    old = copy.deepcopy(saved.state_dict())
    for group in old["param_groups"]:
        for key in ("foreach", "maximize", "capturable", "differentiable", "fused", "decoupled_weight_decay"):
            group.pop(key, None)
    for values in old["state"].values():
        if "step" in values:
            values["step"] = int(values["step"])
    mine = ours([torch.nn.Parameter(p.detach().clone()) for p in params_of(saved)])
    mine.load_state_dict(old)
    for i in range(1, 3):
        feed(params_of(mine), params_of(saved), seed=i)
        mine.step()
        saved.step()
    assert "torch" not in mine.forms()  # type: ignore[attr-defined]
    for a, b in zip(params_of(mine), params_of(saved), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_steps_counted_in_float64_are_read() -> None:
    """As torch does where ``torch.set_default_dtype(torch.float64)`` is set."""
    saved = torch.optim.AdamW(make(SHAPES))
    feed(params_of(saved), seed=0)
    saved.step()
    for values in saved.state.values():
        values["step"] = values["step"].double()
    mine = AdamW(make(SHAPES))
    mine.load_state_dict(saved.state_dict())
    feed(params_of(mine), seed=1)
    mine.step()
    assert "torch" not in mine.forms()
    assert {values["step"].item() for values in mine.state.values()} == {2.0}


def test_muon_state_is_restored_by_name_too() -> None:
    def build(*order: list[int]) -> MuonAdamW:
        groups = _named(make(SHAPES), *order)
        return MuonAdamW([{**g, "use_muon": g["params"][0][1].ndim == 2} for g in groups])

    saved = build([0, 2], [1, 3])
    feed(params_of(saved), seed=0)
    saved.step()
    mine = build([3, 1], [2, 0])
    mine.load_state_dict(saved.state_dict())
    assert torch.equal(
        mine.state[params_of(mine)[2]]["momentum_buffer"], saved.state[params_of(saved)[1]]["momentum_buffer"]
    )
    assert [group["use_muon"] for group in mine.param_groups] == [False, True]
