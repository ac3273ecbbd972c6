"""Properties over random module trees and rules: exclusive, complete, the stated product, a round trip."""

import json
import math
from fnmatch import fnmatchcase

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from torch import nn

from lrdiff_core.errors import RateError
from lrdiff_core.rates import (
    HeadMultiplier,
    LayerDecay,
    RatePlan,
    Rule,
    Slices,
    layer_depths,
    list_parameters,
    param_groups,
)

NAMES = st.sampled_from(["a", "b", "head", "layer1", "layer2", "norm", "module"])
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def modules(draw, depth=3):
    kind = draw(
        st.sampled_from(["linear", "norm", "plain"] if depth == 0 else ["linear", "dict", "list", "sequential"])
    )
    if kind == "linear":
        return nn.Linear(1, 2, bias=draw(st.booleans()))
    if kind == "norm":
        return nn.LayerNorm(2)
    if kind == "plain":
        module = nn.Module()
        module.scale = nn.Parameter(torch.zeros(()))
        return module
    if kind == "dict":
        names = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
        return nn.ModuleDict({name: draw(modules(depth=depth - 1)) for name in names})
    children = draw(st.lists(modules(depth=depth - 1), min_size=1, max_size=3))
    return nn.ModuleList(children) if kind == "list" else nn.Sequential(*children)


@st.composite
def trees(draw):
    """A random tree, sometimes with a shared module and frozen parts."""
    model = nn.ModuleDict({"stem": draw(modules()), "rest": draw(modules())})
    if draw(st.booleans()):
        model["again"] = model["stem"]
    for parameter in model.parameters():
        parameter.requires_grad_(draw(st.booleans()))
    return model


globs = st.sampled_from(
    ["*", "*.weight", "*.bias", "stem*", "rest.*", "*head*", "*.0.*", "*layer?*", "again.*", "*norm*"]
)
positive = st.floats(1e-6, 1e3)
rule_lists = st.lists(
    st.builds(
        lambda match, lr, mult, decay, freeze: Rule(
            match, lr=lr, lr_mult=mult if lr is None else None, weight_decay=decay, freeze=freeze
        ),
        globs,
        st.none() | positive,
        positive,
        st.none() | st.floats(0, 1),
        st.none() | st.booleans(),
    ),
    max_size=4,
)
scale_lists = st.lists(
    st.builds(LayerDecay, st.floats(0.1, 1))
    | st.builds(Slices, st.floats(0.1, 1))
    | st.builds(HeadMultiplier, positive),
    max_size=2,
)


def plan_of(model, lr, rules, scale):
    """A plan, or None where the rules claim a tied weight twice or the layers cannot be told."""
    try:
        return param_groups(model, lr=lr, weight_decay=0.25, rules=rules, scale=scale, strict=False)
    except RateError as error:
        if not any(
            text in error.message
            for text in ("tied parameter", "layers could be", "no child", "the head cannot be determined")
        ):
            raise
        return None


@QUICK
@given(trees(), positive, rule_lists, scale_lists)
@pytest.mark.filterwarnings("ignore::lrdiff_core.rates.RateWarning")
def test_every_parameter_exactly_once_at_the_stated_rate(model, lr, rules, scale):
    plan = plan_of(model, lr, rules, scale)
    if plan is None:
        return
    infos = list_parameters(model)
    names = {info.name: [place.name for place in info.occurrences] for info in infos}
    groups = plan.apply_freeze().groups()
    # exactly once, and all of them
    held = [id(p) for group in groups for p in group["params"]]
    assert len(held) == len(set(held))
    assert set(held) == {id(p) for p in model.parameters()}
    assert [name for g in groups for name in g["param_names"]] == [
        name for g in groups for name in names if name in g["param_names"]
    ]
    # merged: no two groups agree in all settings
    keys = [(g["lr"], g["weight_decay"]) for g in groups]
    assert len(keys) == len(set(keys))
    # the product, worked out here
    factors = [one.factors(infos) for one in scale]
    for entry in plan:
        places = names[entry.name]
        own = [r for r in rules if any(fnmatchcase(place, r.match) for place in places)]
        rated = next((r for r in own if r.lr is not None or r.lr_mult is not None), None)
        if rated is not None and rated.lr is not None:
            expected = rated.lr
        else:
            multiplied = lr if rated is None else lr * rated.lr_mult
            expected = math.prod([multiplied, *(by_name.get(entry.name, 1.0) for by_name in factors)])
        assert entry.lr == expected
        assert entry.weight_decay == next((r.weight_decay for r in own if r.weight_decay is not None), 0.25)


@QUICK
@given(trees(), positive, rule_lists, scale_lists)
@pytest.mark.filterwarnings("ignore::lrdiff_core.rates.RateWarning")
def test_round_trip(model, lr, rules, scale):
    plan = plan_of(model, lr, rules, scale)
    if plan is None:
        return
    again = RatePlan.from_dict(json.loads(json.dumps(plan.to_dict(), allow_nan=False)), model)
    assert again == plan
    assert not plan.diff(again)
    assert str(again) == str(plan)
    assert len(plan.table(full=True).splitlines()) == len(plan) + 2 + len(plan.notes)


@QUICK
@given(trees())
def test_depths_cover_everything_and_ignore_freezing(model):
    try:
        depths = layer_depths(list_parameters(model))
    except RateError as error:
        if "layers could be" not in error.message:
            raise
        return
    assert list(depths) == [info.name for info in list_parameters(model)]
    assert min(depths.values()) >= 0
    model.requires_grad_(True)
    assert layer_depths(list_parameters(model)) == depths
