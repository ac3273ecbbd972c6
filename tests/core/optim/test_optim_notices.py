"""What changes between steps is noticed: every change is made to ours and to torch's, which prepares nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from optim_pairs import PAIRS, feed, make, params_of, same_bits, walk
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, OneCycleLR, ReduceLROnPlateau

from lrdiff_core.optim import SGD, AdamW

SHAPES = [(4, 16), (32,), (64, 64), (16,), (48, 48)]
Kinds = tuple[type[Optimizer], type[Optimizer]]


def _both(pair: Kinds, **options: Any) -> tuple[Optimizer, Optimizer]:
    if "SGD" in pair[0].__name__:
        options.setdefault("momentum", 0.9)

    def groups() -> list[dict[str, Any]]:
        params = make(SHAPES)
        return [{"params": params[:3]}, {"params": params[3:], "lr": copy.deepcopy(options.get("lr", 0.1))}]

    return pair[0](groups(), **copy.deepcopy(options)), pair[1](groups(), fused=True, **copy.deepcopy(options))


def _set(key: str, value: Any) -> Callable[[Optimizer], None]:
    def change(optimizer: Optimizer) -> None:
        optimizer.param_groups[0][key] = value

    return change


def _add_group(optimizer: Optimizer) -> None:
    optimizer.add_param_group({"params": make([(32, 2)], seed=7), "lr": 0.3})


def _append_parameter(optimizer: Optimizer) -> None:
    new = make([(32, 2)], seed=8)[0]
    optimizer.param_groups[1]["params"].append(new)
    _begin_buffer(optimizer, new)


def _begin_buffer(optimizer: Optimizer, param: torch.Tensor) -> None:
    """Torch's fused SGD cannot begin one buffer alone (test_one_buffer_begins_alone tests ours)."""
    if isinstance(optimizer, torch.optim.SGD):
        optimizer.state[param]["momentum_buffer"] = torch.zeros_like(param)


def _drop_group(optimizer: Optimizer) -> None:
    optimizer.param_groups.pop()


def _swap_data(optimizer: Optimizer) -> None:
    for param in params_of(optimizer):
        param.data = param.data.clone() + 1


def _swap_data_for_double(optimizer: Optimizer) -> None:
    for param in optimizer.param_groups[0]["params"]:
        param.grad = None
        param.data = param.data.double()
        state = optimizer.state[param]
        for key in state:
            if key != "step":
                state[key] = state[key].double()


def _replace_parameter(optimizer: Optimizer) -> None:
    old = optimizer.param_groups[0]["params"][0]
    new = torch.nn.Parameter(old.detach() * 2)
    optimizer.state[new] = optimizer.state.pop(old)
    optimizer.param_groups[0]["params"][0] = new


def _replace_state(optimizer: Optimizer) -> None:
    for state in optimizer.state.values():
        for key in state:
            state[key] = state[key] * 2


def _swap_state_data(optimizer: Optimizer) -> None:
    for state in optimizer.state.values():
        for value in state.values():
            value.data = value.data * 3


def _share_state(optimizer: Optimizer) -> None:
    for state in optimizer.state.values():
        for value in state.values():
            value.share_memory_()


def _forget_state(optimizer: Optimizer) -> None:
    optimizer.state.clear()


def _forget_one_state(optimizer: Optimizer) -> None:
    param = optimizer.param_groups[0]["params"][1]
    del optimizer.state[param]
    _begin_buffer(optimizer, param)


def _edit_state_in_place(optimizer: Optimizer) -> None:
    for state in optimizer.state.values():
        for value in state.values():
            value.mul_(2)


def _reload(optimizer: Optimizer) -> None:
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


CHANGES: dict[str, Callable[[Optimizer], None]] = {
    "rate": _set("lr", 0.77),
    "rate to zero": _set("lr", 0.0),
    "rate to tensor": _set("lr", torch.tensor(0.5)),
    "weight decay": _set("weight_decay", 0.5),
    "maximize": _set("maximize", True),
    "group added": _add_group,
    "parameter appended": _append_parameter,
    "group dropped": _drop_group,
    "data swapped": _swap_data,
    "data swapped for another dtype": _swap_data_for_double,
    "parameter replaced": _replace_parameter,
    "state replaced": _replace_state,
    "data of state swapped": _swap_state_data,
    "state moved to shared memory": _share_state,
    "state forgotten": _forget_state,
    "one state forgotten": _forget_one_state,
    "state edited": _edit_state_in_place,
    "state loaded": _reload,
}


@pytest.mark.parametrize("name", CHANGES)
def test_change_is_noticed(name: str, pair: Kinds, form: str) -> None:
    ours, theirs = _both(pair)
    walk(ours, theirs, 2)
    before = [param.detach().clone() for param in params_of(ours)]
    for optimizer in (ours, theirs):
        CHANGES[name](optimizer)
    if name == "state loaded":
        for group in theirs.param_groups:
            group["fused"] = True
    walk(ours, theirs, 3)
    same_bits(ours, theirs)
    assert not all(torch.equal(a, b) for a, b in zip(params_of(ours), before, strict=False))


def test_replaced_parameter_without_state_is_noticed(form: str) -> None:
    """Plain SGD keeps no state that would tell."""
    optimizer = SGD(make(SHAPES), lr=0.1)
    feed(params_of(optimizer), seed=0)
    optimizer.step()
    old = optimizer.param_groups[0]["params"][0]
    new = torch.nn.Parameter(old.detach().clone())
    optimizer.param_groups[0]["params"][0] = new
    feed(params_of(optimizer), seed=1)
    before = old.detach().clone()
    optimizer.step()
    assert torch.equal(old, before)
    torch.testing.assert_close(new.detach(), before - 0.1 * new.grad)  # type: ignore[operator]


def test_one_buffer_begins_alone(form: str) -> None:
    """A momentum buffer that appears later is filled with its first gradient, as torch's default does."""
    kinds: Kinds = (SGD, torch.optim.SGD)
    ours, theirs = (kind(make(), lr=0.1, momentum=0.9) for kind in kinds)
    for i in range(4):
        feed(params_of(ours), params_of(theirs), seed=i)
        for optimizer in (ours, theirs):
            if i < 2:
                params_of(optimizer)[0].grad = None
            optimizer.step()
    for mine, other in zip(params_of(ours), params_of(theirs), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("key", ["betas", "eps"])
def test_adam_numbers_are_noticed(key: str, form: str) -> None:
    ours, theirs = _both(PAIRS["AdamW"])
    walk(ours, theirs, 2)
    for optimizer in (ours, theirs):
        optimizer.param_groups[1][key] = {"betas": (0.5, 0.6), "eps": 0.1}[key]
    walk(ours, theirs, 2)
    same_bits(ours, theirs)


def test_numbers_edited_in_place_are_noticed(pair: Kinds, form: str) -> None:
    """A list of betas, as JSON brings it, and a rate held in an array."""
    ours, theirs = _both(pair)
    for group in theirs.param_groups:
        group["fused"] = None  # torch's fused kernels take no arrays
    for optimizer in (ours, theirs):
        optimizer.param_groups[0]["lr"] = np.array(0.1)
        if "betas" in optimizer.defaults:
            optimizer.param_groups[1]["betas"] = [0.9, 0.99]
    walk(ours, theirs, 2)
    for optimizer in (ours, theirs):
        optimizer.param_groups[0]["lr"][...] = 0.3
        if "betas" in optimizer.defaults:
            optimizer.param_groups[1]["betas"][0] = 0.5
    walk(ours, theirs, 2)
    for mine, other in zip(params_of(ours), params_of(theirs), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_momentum_is_noticed(momentum: float, form: str) -> None:
    ours, theirs = _both(PAIRS["SGD"])
    walk(ours, theirs, 2)
    for optimizer in (ours, theirs):
        optimizer.param_groups[0]["momentum"] = momentum
    walk(ours, theirs, 2)
    same_bits(ours, theirs)


def test_tensor_rate_edited_in_place_is_noticed(pair: Kinds, form: str) -> None:
    ours, theirs = _both(pair, lr=torch.tensor(0.1))
    for i in range(4):
        for optimizer in (ours, theirs):
            optimizer.param_groups[0]["lr"].fill_(0.1 * (i + 1))
        walk(ours, theirs, 1, seed=i)
    same_bits(ours, theirs)


def test_gradients_come_and_go(pair: Kinds, form: str) -> None:
    ours, theirs = _both(pair)
    walk(ours, theirs, 2)  # every buffer exists: torch's fused SGD cannot begin one alone
    for i in range(6):
        feed(params_of(ours), params_of(theirs), seed=i)
        for optimizer in (ours, theirs):
            for at, param in enumerate(params_of(optimizer)):
                if i == 3 or (at + i) % 3 == 0:
                    param.grad = None
            optimizer.step()
    same_bits(ours, theirs)


def test_no_gradient_at_all_is_a_step_that_does_nothing(pair: Kinds) -> None:
    ours, _ = _both(pair)
    before = [p.detach().clone() for p in params_of(ours)]
    ours.step()
    assert all(map(torch.equal, params_of(ours), before))
    assert not ours.state


def test_transposed_gradient_and_data_are_read_right(pair: Kinds, form: str) -> None:
    """A gradient laid out in columns, then the parameter itself transposed in place: same pointer, other order."""
    ours, theirs = (kind([torch.nn.Parameter(torch.arange(256.0).view(16, 16))], lr=0.1) for kind in pair)
    for i in range(4):
        for optimizer in (ours, theirs):
            param = params_of(optimizer)[0]
            if i == 2:
                param.data = param.data.t()
            grad = torch.arange(256.0).view(16, 16) * (i + 1) / 100
            param.grad = torch.empty_like(param).copy_(grad) if i == 2 else grad.t().contiguous().t()
            optimizer.step()
    torch.testing.assert_close(params_of(ours)[0], params_of(theirs)[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "schedule",
    [
        lambda o: LambdaLR(o, [lambda t: 1 / (t + 1), lambda t: 0.5**t]),
        lambda o: CosineAnnealingLR(o, T_max=5, eta_min=1e-3),
        lambda o: OneCycleLR(o, max_lr=[0.1, 0.5], total_steps=8),
    ],
    ids=["lambda", "cosine", "one cycle (betas and momentum too)"],
)
@pytest.mark.parametrize("rate", [0.1, torch.tensor(0.1)], ids=["number", "tensor"])
def test_schedules_are_followed(schedule: Callable[[Optimizer], Any], rate: Any, pair: Kinds, form: str) -> None:
    ours, theirs = _both(pair, lr=rate)
    held = [group["lr"] for group in ours.param_groups]
    schedulers = [schedule(optimizer) for optimizer in (ours, theirs)]
    for i in range(6):
        walk(ours, theirs, 1, seed=i)
        for scheduler in schedulers:
            scheduler.step()
    same_bits(ours, theirs)
    if isinstance(rate, torch.Tensor):
        assert all(group["lr"] is tensor for group, tensor in zip(ours.param_groups, held, strict=True))


def test_plateau_schedule_is_followed(form: str) -> None:
    ours, theirs = _both(PAIRS["AdamW"])
    schedulers = [ReduceLROnPlateau(optimizer, patience=0) for optimizer in (ours, theirs)]
    for i in range(4):
        walk(ours, theirs, 1, seed=i)
        for scheduler in schedulers:
            scheduler.step(1.0)
    assert ours.param_groups[0]["lr"] < 0.1
    same_bits(ours, theirs)


def test_nothing_is_prepared_again_while_only_numbers_change(form: str) -> None:
    ours = AdamW([{"params": [p]} for p in make(SHAPES)])
    feed(params_of(ours), seed=0)
    ours.step()
    prepared = ours._prepared
    for i in range(3):
        feed(params_of(ours), seed=i)
        for group in ours.param_groups:
            group["lr"] *= 0.9
        ours.step()
    assert ours._prepared is prepared


def test_rates_that_part_are_stepped_apart() -> None:
    """Groups merged because they agreed are divided again when one of them changes (the fused form)."""
    ours, theirs = _both(PAIRS["AdamW"], lr=0.1)
    walk(ours, theirs, 2)
    for optimizer in (ours, theirs):
        optimizer.param_groups[1]["lr"] = 0.9
    walk(ours, theirs, 2)
    same_bits(ours, theirs)
