"""Ours against torch's own classes, over torch's own list of configurations (``optim_db``)."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from optim_pairs import DTYPES_AND_FORMS, PAIRS, Bound, feed, make, params_of, same_bits, walk
from torch.testing._internal.common_optimizers import optim_db

INFOS = {info.optim_cls.__name__: info for info in optim_db if info.optim_cls.__name__ in PAIRS}
STEPS = 6
# torch's list leaves these out for the CPU, where they are legal.
MORE: dict[str, list[dict[str, Any]]] = {
    "SGD": [{"lr": torch.tensor(0.01), "momentum": 0.9, "nesterov": True, "maximize": True}],
    "Adam": [
        {"lr": torch.tensor(0.01)},
        {"amsgrad": True, "maximize": True, "weight_decay": 0.1},
        {"betas": (torch.tensor(0.8), torch.tensor(0.9))},
        {"decoupled_weight_decay": True, "weight_decay": 0.1},
        {"capturable": False, "betas": (0.0, 0.0)},
    ],
    "AdamW": [{"lr": torch.tensor([0.01])}, {"amsgrad": True, "maximize": True}, {"weight_decay": 0.0}],
}


def _options(name: str) -> list[dict[str, Any]]:
    listed = [entry.kwargs for entry in INFOS[name].optim_inputs_func(device="cpu")]
    assert len(listed) >= 5, "torch's list is empty"
    return listed + MORE[name]


CASES = [(name, options) for name in PAIRS for options in _options(name)]


def test_torch_lists_all_of_ours() -> None:
    assert INFOS.keys() == PAIRS.keys()


def _sizes(dtype: torch.dtype, options: dict[str, Any]) -> dict[str, Any]:
    # float16 cannot hold Adam's eps; torch's own list writes the same number.
    return {**options, "eps": 1e-4} if dtype is torch.float16 and "momentum" not in options else options


def _groups(params: list[torch.Tensor]) -> list[dict[str, Any]]:
    """Three groups, of which two agree."""
    return [{"params": params[:2]}, {"params": params[2:4], "lr": 0.05}, {"params": params[4:]}]


@pytest.mark.parametrize(("dtype", "form"), DTYPES_AND_FORMS, indirect=["form"], ids=str)
@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_result_is_torchs(name: str, options: dict[str, Any], dtype: torch.dtype, form: str) -> None:
    options = _sizes(dtype, options) if name != "SGD" else options
    ours, theirs = PAIRS[name]
    mine, default, exact = (
        make(dtype=dtype),
        make(dtype=dtype),
        [torch.nn.Parameter(p.double()) for p in make(dtype=dtype)],
    )
    fast = ours(_groups(mine), **copy.deepcopy(options))
    slow = theirs(_groups(default), **copy.deepcopy(options))
    oracle = theirs(_groups(exact), **{key: _read(value) for key, value in options.items()})
    bound = Bound()
    for i in range(STEPS):
        feed(mine, default, seed=i)
        for p, e in zip(mine, exact, strict=True):
            e.grad = p.grad.double()  # type: ignore[union-attr]
        fast.step()
        slow.step()
        oracle.step()
        assert fast.forms() == {_form(name, dtype, form): len(mine)}
        for at, (p, q, e) in enumerate(zip(mine, default, exact, strict=True)):
            bound.check(at, p, q, e, e.grad)
            assert fast.state.get(p, {}).keys() == slow.state.get(q, {}).keys()
            for key, value in fast.state.get(p, {}).items():
                bound.check((at, key), value, slow.state[q][key], oracle.state[e][key], e.grad)


def _form(name: str, dtype: torch.dtype, form: str) -> str:
    if name == "SGD" and dtype in (torch.bfloat16, torch.float16):
        return "torch"
    return "kernel" if form == "kernel" and dtype is torch.float32 else "fused"


def _read(value: Any) -> Any:
    """Tensors as numbers: torch would round whatever it computes from them to their dtype."""
    return tuple(map(_read, value)) if isinstance(value, tuple) else value.item() if hasattr(value, "item") else value


@pytest.mark.parametrize(("dtype", "form"), DTYPES_AND_FORMS, indirect=["form"], ids=str)
@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_bits_are_torchs_fused(name: str, options: dict[str, Any], dtype: torch.dtype, form: str) -> None:
    """Every bit, but where a tensor's last numbers fill no vector: torch's own kernel rounds otherwise there."""
    options = _sizes(dtype, options) if name != "SGD" else options
    ours, theirs = PAIRS[name]
    shapes = [(4, 16), (32,), (64, 64), (48, 2)] if form == "kernel" else [(5, 16), (7,), (), (0,), (64, 33)]
    fused_flag = {} if _form(name, dtype, form) == "torch" else {"fused": True}  # there torch's fused kernel is wrong
    fast = ours(_groups(make([*shapes, (16,)], dtype)), **copy.deepcopy(options))
    fused = theirs(_groups(make([*shapes, (16,)], dtype)), **fused_flag, **copy.deepcopy(options))
    walk(fast, fused, STEPS)
    same_bits(fast, fused)


@pytest.mark.parametrize("name", PAIRS)
def test_refuses_what_torch_refuses(name: str) -> None:
    ours, theirs = PAIRS[name]
    entries = INFOS[name].optim_error_inputs_func(device="cpu", dtype=torch.float32)
    assert entries
    for entry in entries:
        given = entry.optimizer_error_input
        with pytest.raises(entry.error_type, match=entry.error_regex):
            theirs(copy.deepcopy(given.params), **copy.deepcopy(given.kwargs))
        with pytest.raises(entry.error_type, match=entry.error_regex):
            ours(copy.deepcopy(given.params), **copy.deepcopy(given.kwargs))


@pytest.mark.parametrize("name", PAIRS)
def test_arguments_groups_and_state_are_torchs(name: str) -> None:
    ours, theirs = PAIRS[name]
    assert issubclass(ours, theirs)
    mine, other = ours(_groups(make())), theirs(_groups(make()))
    assert [list(group) for group in mine.param_groups] == [list(group) for group in other.param_groups]
    assert mine.defaults == other.defaults
    walk(mine, other, 2)
    a, b = mine.state_dict(), other.state_dict()
    assert a["param_groups"] == b["param_groups"]
    assert {k: list(v) for k, v in a["state"].items()} == {k: list(v) for k, v in b["state"].items()}


@pytest.mark.parametrize("direction", ["from torch", "to torch"])
@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_checkpoints_cross_over_mid_run(name: str, options: dict[str, Any], direction: str, form: str) -> None:
    """Stopped after three steps and gone on in the other class: the same as never stopped, through a file."""
    shapes = [(4, 16), (32,), (64, 64), (16,), (48,)]
    ours, theirs = PAIRS[name]
    kinds = [(theirs, {"fused": True}), (ours, {})]
    (first, extra), (second, _) = kinds if direction == "from torch" else reversed(kinds)
    whole = theirs(_groups(make(shapes)), fused=True, **copy.deepcopy(options))
    begun = first(_groups(make(shapes)), **extra, **copy.deepcopy(options))
    walk(whole, begun, 3)
    file = io.BytesIO()
    torch.save(begun.state_dict(), file)
    file.seek(0)
    saved = torch.load(file)
    if second is theirs:  # torch loads the flag with the other options; ours keeps what it has
        for group in saved["param_groups"]:
            group["fused"] = True
    resumed = second(
        _groups([torch.nn.Parameter(p.detach().clone()) for p in params_of(begun)]), **copy.deepcopy(options)
    )
    resumed.load_state_dict(saved)
    walk(whole, resumed, 3, seed=200)
    same_bits(resumed, whole)


@pytest.mark.parametrize("name", PAIRS)
def test_flags_given_run_torchs_own_code(name: str) -> None:
    ours, theirs = PAIRS[name]
    for flags in ({"foreach": True}, {"foreach": False}, {"fused": True}, {"fused": False}):
        fast, slow = ours(_groups(make()), **flags), theirs(_groups(make()), **flags)
        walk(fast, slow, 3)
        same_bits(fast, slow)
        assert fast.forms() == {"torch": len(params_of(fast))}


@pytest.mark.parametrize("name", PAIRS)
def test_differentiable_runs_torchs_own_code(name: str) -> None:
    """Gradients flow through the step to where the parameter came from."""
    results = []
    for kind in PAIRS[name]:
        origin = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
        param = origin.clone()
        param.retain_grad()
        param.grad = origin * 3
        optimizer = kind([param], lr=0.1, differentiable=True)
        optimizer.step()
        param.sum().backward()
        results.append(origin.grad)
    assert results[0] is not None
    assert torch.equal(results[0], results[1])


def test_capturable_on_the_cpu_is_refused_as_torch_refuses_it() -> None:
    for kind in PAIRS["AdamW"]:
        optimizer = kind(make(), capturable=True)
        feed(params_of(optimizer), seed=0)
        with pytest.raises((RuntimeError, AssertionError), match="capturable"):
            optimizer.step()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SGD", [{"momentum": 0.0}, {"momentum": 0.9}, {"momentum": 0.5, "nesterov": True}]),
        ("Adam", [{"amsgrad": True}, {"maximize": True}, {"decoupled_weight_decay": True, "weight_decay": 0.2}]),
        ("AdamW", [{"amsgrad": True}, {"maximize": True}, {"weight_decay": 0.2}]),
    ],
)
def test_groups_may_differ_in_kind(name: str, options: list[dict[str, Any]], form: str) -> None:
    """One group keeps a buffer that another does without."""
    shapes = [(16, 3), (32,)]
    ours, theirs = (
        kind([{"params": make(shapes, seed=i), **group} for i, group in enumerate(options)], lr=0.1, fused=fused)
        for kind, fused in zip(PAIRS[name], (None, True), strict=True)
    )
    walk(ours, theirs, 4)
    same_bits(ours, theirs)


def test_amsgrad_turned_on_mid_run_is_refused_as_torch_refuses_it(form: str) -> None:
    for kind in PAIRS["AdamW"]:
        optimizer = kind(make())
        for _ in range(2):
            feed(params_of(optimizer), seed=0)
            optimizer.step()
        optimizer.param_groups[0]["amsgrad"] = True
        with pytest.raises(KeyError, match="max_exp_avg_sq"):
            optimizer.step()


def test_buffer_saved_as_none_is_begun() -> None:
    """Old checkpoints of torch's SGD hold None for a buffer that no step has filled."""
    for momentum in (0.0, 0.9):
        results = []
        for kind in PAIRS["SGD"]:
            params = make()
            optimizer = kind(params, lr=0.1, momentum=momentum)
            saved = optimizer.state_dict()
            saved["state"] = {i: {"momentum_buffer": None} for i in range(len(params))}
            optimizer.load_state_dict(saved)
            for i in range(3):
                feed(params, seed=i)
                optimizer.step()
            results.append(params)
        for mine, other in zip(*results, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6)
