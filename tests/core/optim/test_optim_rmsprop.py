"""RMSprop beside torch's own class, whose square roots come from a library that rounds some of them wrongly."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import test_optim_notices as notices
import torch
from optim_pairs import SHAPES, feed, make, params_of, same_bits, walk
from torch.optim import Optimizer

from lrdiff_core.optim import RMSprop, clip_grad_norms_, clipped_step, guard, kernel

needs_kernel = pytest.mark.skipif(kernel.load() is None, reason=f"no kernel: {kernel.missing_reason()}")
OPTIONS: list[dict[str, Any]] = [
    {},
    {"momentum": 0.9},
    {"centered": True, "weight_decay": 0.1},
    {"maximize": True, "alpha": 0.5},
    {"momentum": 0.5, "centered": True, "maximize": True, "weight_decay": 0.1, "eps": 1e-3},
]


def _both(shapes: Any = SHAPES, dtype: torch.dtype = torch.float32, **options: Any) -> tuple[Any, Any]:
    def groups() -> list[dict[str, Any]]:
        params = make(shapes, dtype)
        return [{"params": params[i::3], "lr": 0.01 / (i + 1)} for i in range(3)]

    return tuple(kind(groups(), **copy.deepcopy(options)) for kind in (RMSprop, torch.optim.RMSprop))  # type: ignore[return-value]


def _close(ours: Optimizer, theirs: Optimizer) -> None:
    for mine, other in zip(params_of(ours), params_of(theirs), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=2e-6)
        a, b = ours.state.get(mine, {}), theirs.state.get(other, {})
        assert list(a) == list(b)
        for name in a:
            assert a[name].dtype is b[name].dtype
            torch.testing.assert_close(a[name], b[name], rtol=1e-5, atol=1e-5)


@needs_kernel
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_numbers_are_those_of_torch(options: dict[str, Any]) -> None:
    ours, theirs = _both(**options)
    walk(ours, theirs, 6)
    assert ours.forms() == {"kernel": len(SHAPES)}
    _close(ours, theirs)


@needs_kernel
@pytest.mark.parametrize("threads", [2, 3])
def test_no_bit_depends_on_threads_or_groups(threads: int) -> None:
    shapes = [(400_001,), (7,), (300, 301)]
    results = []
    for count in (1, threads):
        torch.set_num_threads(count)
        params = make(shapes)
        groups = [{"params": [p]} for p in params] if count > 1 else [{"params": params}]
        optimizer = RMSprop(groups, momentum=0.9, centered=True)
        for i in range(3):
            feed(params, seed=i)
            optimizer.step()
        results.append(params)
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_what_the_kernel_does_not_take_is_torchs_step(dtype: torch.dtype) -> None:
    ours, theirs = _both(dtype=dtype, momentum=0.9)
    walk(ours, theirs, 3)
    assert ours.forms() == {"torch": len(SHAPES)}
    same_bits(ours, theirs)


def test_without_a_kernel_torchs_step() -> None:
    with kernel.switched_off():
        ours, theirs = _both(centered=True)
        walk(ours, theirs, 3)
    assert ours.forms() == {"torch": len(SHAPES)}
    same_bits(ours, theirs)


def test_what_asks_for_torchs_code_gets_it() -> None:
    ours, theirs = _both(foreach=True)
    walk(ours, theirs, 2)
    assert ours.forms() == {"torch": len(SHAPES)}
    same_bits(ours, theirs)


@needs_kernel
@pytest.mark.parametrize("name", [*notices.CHANGES, "momentum", "alpha", "centered"])
def test_changes_are_noticed(name: str) -> None:
    """With momentum and centered from the start: torch cannot begin a buffer later."""
    ours, theirs = _both(notices.SHAPES, momentum=0.9, centered=True)
    more = {"momentum": notices._set("momentum", 0.3), "alpha": notices._set("alpha", 0.3)}
    more["centered"] = notices._set("centered", False)
    walk(ours, theirs, 3)
    for optimizer in (ours, theirs):
        (notices.CHANGES | more)[name](optimizer)
    walk(ours, theirs, 3)
    for mine, other in zip(params_of(ours), params_of(theirs), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


@needs_kernel
def test_momentum_that_appears_later_is_refused_as_by_torch() -> None:
    for optimizer in _both():
        feed(params_of(optimizer), seed=0)
        optimizer.step()
        optimizer.param_groups[0]["momentum"] = 0.9
        with pytest.raises(KeyError, match="momentum_buffer"):
            optimizer.step()


@needs_kernel
def test_a_checkpoint_goes_either_way() -> None:
    ours, theirs = _both(momentum=0.9, centered=True)
    walk(ours, theirs, 2)
    saved = copy.deepcopy(ours.state_dict()), copy.deepcopy(theirs.state_dict())
    assert saved[0]["param_groups"][0].keys() == saved[1]["param_groups"][0].keys()
    ours.load_state_dict(saved[1])
    theirs.load_state_dict(saved[0])
    walk(ours, theirs, 2)
    _close(ours, theirs)
    clone = pickle.loads(pickle.dumps(ours))
    walk(clone, theirs, 1)
    _close(clone, theirs)


@pytest.mark.skipif(guard.load() is None, reason=f"no compiled check: {guard.missing_reason()}")
def test_clip_step_and_zero_in_one_call() -> None:
    one, three = _both(momentum=0.9)[0], _both(momentum=0.9)[0]
    for i in range(5):
        feed(params_of(one), params_of(three), seed=i)
        norms = clip_grad_norms_(three, 0.1)
        three.step()
        assert clipped_step(one, 0.1) == norms
    assert one._quick is not None
    same_bits(one, three)
