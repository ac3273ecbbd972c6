"""Clip, step and zero in one call: bit for bit what the three calls do."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from optim_pairs import SHAPES, feed, make, params_of
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

from lrdiff_core.errors import OptimizerError
from lrdiff_core.optim import SGD, AdamW, MuonAdamW, clip_grad_norms_, clipped_step, guard
from lrdiff_core.optim.clipping import clipped

needs_guard = pytest.mark.skipif(guard.load() is None, reason=f"no compiled check: {guard.missing_reason()}")
Kinds = tuple[type[Optimizer], type[Optimizer]]
# Beyond a piece, so that norms have parts.
LARGER = (*SHAPES, (130, 257))


def _made(kind: Any, **options: Any) -> Any:
    params = make(LARGER)
    groups = [{"params": params[i::3], "lr": 0.1 / (i + 1), "name": f"g{i}"} for i in range(3)]
    more = {"momentum": 0.9} if "SGD" in kind.__name__ else {}
    return kind(groups, lr=0.1, **more, **options)


def _in_three(optimizer: Any, limit: Any, **options: Any) -> dict[str, torch.Tensor]:
    norms = clip_grad_norms_(optimizer, limit, **options)
    optimizer.step()
    optimizer.zero_grad()
    return norms


def _same(one: Any, three: Any) -> None:
    for mine, other in zip(params_of(one), params_of(three), strict=True):
        assert torch.equal(mine, other)
        assert mine.grad is other.grad is None
        for name, value in one.state.get(mine, {}).items():
            assert torch.equal(value, three.state[other][name])


def _only_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clipped, "clip_grad_norms_", lambda *_, **__: pytest.fail("the three calls were made"))


@needs_guard
@pytest.mark.parametrize("by", ["all", "group"])
@pytest.mark.parametrize("limit", [0.0, 0.1, 1e6, math.inf])
@pytest.mark.parametrize("norm_type", [2.0, math.inf])
def test_one_pass_gives_the_bits_of_three(
    by: str, limit: float, norm_type: float, pair: Kinds, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, three = _made(pair[0]), _made(pair[0])
    for i in range(5):
        feed(params_of(one), params_of(three), seed=i)
        for optimizer in (one, three):
            optimizer.param_groups[1]["lr"] = 0.3 / (i + 1)
        mine = clipped_step(one, limit, by=by, norm_type=norm_type)
        other = _in_three(three, limit, by=by, norm_type=norm_type)
        assert mine == other
        _same(one, three)
        if i == 2:
            assert one.forms() == {"kernel": len(LARGER)}
            _only_one_pass(monkeypatch)


@needs_guard
@pytest.mark.parametrize(
    "options",
    [{"amsgrad": True}, {"maximize": True, "weight_decay": 0.0}, {"amsgrad": True, "maximize": True}],
    ids=str,
)
def test_the_options_of_adam(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    one, three = _made(AdamW, **options), _made(AdamW, **options)
    for i in range(5):
        feed(params_of(one), params_of(three), seed=i)
        assert clipped_step(one, 0.1) == _in_three(three, 0.1)
        _same(one, three)
        if i == 2:
            _only_one_pass(monkeypatch)


@needs_guard
@pytest.mark.parametrize("threads", [1, 2])
def test_groups_without_a_limit_and_parameters_without_gradients(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(threads)
    one, three = _made(AdamW), _made(AdamW)
    for i in range(5):
        feed(params_of(one), params_of(three), seed=i)
        for optimizer in (one, three):
            params_of(optimizer)[1].grad = None
        assert clipped_step(one, {"g1": 0.2}) == _in_three(three, {"g1": 0.2})
        _same(one, three)
        if i == 2:
            _only_one_pass(monkeypatch)


@needs_guard
def test_one_norm_and_a_norm_for_each_group_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    one, three = _made(AdamW), _made(AdamW)
    for i, by in enumerate(["all", "all", "all", "group", "all", "group"]):
        feed(params_of(one), params_of(three), seed=i)
        assert clipped_step(one, 0.1, by=by) == _in_three(three, 0.1, by=by)
        _same(one, three)
        if i == 2:
            _only_one_pass(monkeypatch)


def test_numbers_are_those_of_torch(pair: Kinds, form: str) -> None:
    ours, theirs = (_made(kind) for kind in pair)
    for i in range(6):
        feed(params_of(ours), seed=i)
        feed(params_of(theirs), seed=i)
        (norm,) = clipped_step(ours, 0.5, by="all").values()
        torch.testing.assert_close(norm, clip_grad_norm_(params_of(theirs), 0.5))
        theirs.step()
        theirs.zero_grad()
    for mine, other in zip(params_of(ours), params_of(theirs), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "make_optimizer", [torch.optim.RMSprop, MuonAdamW, torch.optim.AdamW], ids=lambda k: k.__name__
)
def test_any_optimizer_takes_the_three_calls(make_optimizer: Any) -> None:
    options = {"use_muon": False} if make_optimizer is MuonAdamW else {}
    one, three = (make_optimizer(make(), lr=0.1, **options) for _ in range(2))
    for i in range(3):
        feed(params_of(one), params_of(three), seed=i)
        assert clipped_step(one, 0.1) == _in_three(three, 0.1)
    _same(one, three)


@pytest.mark.parametrize("steps", [0, 3], ids=["three calls", "one pass"])
def test_a_norm_that_is_not_finite_is_refused_and_nothing_stepped(steps: int, pair: Kinds) -> None:
    optimizer = _made(pair[0])
    for i in range(steps):
        feed(params_of(optimizer), seed=i)
        clipped_step(optimizer, 0.1)
    feed(params_of(optimizer), seed=9)
    grads = [param.grad for param in params_of(optimizer)]
    grads[1].view(-1)[0] = math.inf  # type: ignore[union-attr]
    before = [param.detach().clone() for param in params_of(optimizer)]
    versions = [param._version for param in params_of(optimizer)]
    with pytest.raises(OptimizerError, match='not finite: "g'):
        clipped_step(optimizer, 0.1, error_if_nonfinite=True)
    assert all(map(torch.equal, params_of(optimizer), before))
    assert versions == [param._version for param in params_of(optimizer)]
    assert all(param.grad is grad for param, grad in zip(params_of(optimizer), grads, strict=True))
    clipped_step(optimizer, 0.1)  # as clip_grad_norm_: NaN and all
    assert any(param.isnan().any() for param in params_of(optimizer))


def test_a_scheduler_learns_of_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = _made(AdamW)
    for i in range(3):
        feed(params_of(optimizer), seed=i)
        clipped_step(optimizer, 0.1)
    scheduler = CosineAnnealingLR(optimizer, T_max=5)
    if optimizer._quick is not None:
        _only_one_pass(monkeypatch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for i in range(3):
            feed(params_of(optimizer), seed=i)
            clipped_step(optimizer, 0.1)
            scheduler.step()
    assert optimizer.param_groups[0]["lr"] < 0.1


def test_hooks_and_methods_of_a_subclass_are_called() -> None:
    class Own(AdamW):
        zeroed = 0

        def zero_grad(self, set_to_none: bool = True) -> None:
            self.zeroed += 1
            super().zero_grad(set_to_none)

    optimizers = [Own(make(), lr=0.1), AdamW(make(), lr=0.1)]
    seen: list[Any] = []
    for i in range(5):
        for optimizer in optimizers:
            feed(params_of(optimizer), seed=i)
            clipped_step(optimizer, 0.1)
        if i == 2:
            optimizers[1].register_step_post_hook(lambda o, *_: seen.append(o))
    assert optimizers[0].zeroed == 5  # type: ignore[attr-defined]
    assert seen == optimizers[1:] * 2


@pytest.mark.parametrize("steps", [0, 3])
def test_what_is_refused(steps: int) -> None:
    optimizer = _made(SGD)
    for i in range(steps):
        feed(params_of(optimizer), seed=i)
        clipped_step(optimizer, 0.1)
    wrong = [
        (-1.0, "group", "max_norm is -1.0"),
        ({"g": 1.0}, "group", "no group is called 'g'"),
        (1.0, "x", "by is 'x'"),
    ]
    for limit, by, told in wrong:
        with pytest.raises(OptimizerError, match=told):
            clipped_step(optimizer, limit, by=by)
