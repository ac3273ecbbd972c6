"""Everything that people do around a step: hooks, scalers, closures, pickling, compiling, odd tensors."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from optim_pairs import PAIRS, feed, make, params_of, same_bits, walk
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from lrdiff_core.optim import SGD, Adam, AdamW, kernel
from lrdiff_core.optim.prepared import forced_form

SHAPES = [(4, 16), (32,), (64, 64), (16,)]
Kinds = tuple[type[Optimizer], type[Optimizer]]


def _both(pair: Kinds, **options: Any) -> tuple[Optimizer, Optimizer]:
    return tuple(kind(make(SHAPES), lr=0.1, **options) for kind in pair)  # type: ignore[return-value]


# Hooks and profilers


@pytest.mark.parametrize("foreach", [None, False], ids=["one pass", "torch's own code"])
def test_hooks_run_once_each_and_in_order(foreach: bool | None, pair: Kinds) -> None:
    pair[1](make(), lr=0.1)  # patches torch's class, which must not run the hooks a second time
    told: dict[str, list[str]] = {}
    for kind in pair:
        seen = told.setdefault(kind.__module__, [])
        optimizer = kind(make(SHAPES), lr=0.1, foreach=foreach)
        handles = [
            register_optimizer_step_pre_hook(lambda *_, seen=seen: seen.append("global before")),
            register_optimizer_step_post_hook(lambda *_, seen=seen: seen.append("global after")),
            optimizer.register_step_pre_hook(lambda *_, seen=seen: seen.append("before")),
            optimizer.register_step_post_hook(lambda *_, seen=seen: seen.append("after")),
        ]
        feed(params_of(optimizer), seed=0)
        optimizer.step()
        for handle in handles:
            handle.remove()
        optimizer.step()
    ours, theirs = told.values()
    assert ours == theirs == ["global before", "before", "after", "global after"]


@pytest.mark.parametrize(
    "register",
    [
        lambda optimizer, hook: register_optimizer_step_pre_hook(hook),
        lambda optimizer, hook: register_optimizer_step_post_hook(hook),
        lambda optimizer, hook: optimizer.register_step_pre_hook(hook),
        lambda optimizer, hook: optimizer.register_step_post_hook(hook),
    ],
    ids=["global before", "global after", "before", "after"],
)
def test_one_hook_alone_runs(register: Any, pair: Kinds) -> None:
    optimizer = pair[0](make(SHAPES), lr=0.1)
    seen: list[Any] = []
    handle = register(optimizer, lambda o, args, kwargs: seen.append(o))
    optimizer.step()
    handle.remove()
    optimizer.step()
    assert seen == [optimizer]


def test_pre_hook_may_give_another_closure(pair: Kinds) -> None:
    for kind in pair:
        optimizer = kind(make(SHAPES), lr=0.1)
        feed(params_of(optimizer), seed=0)
        optimizer.register_step_pre_hook(lambda o, args, kwargs: ((o, lambda: 5.0), kwargs))
        assert optimizer.step(lambda: 1.0) == 5.0


def test_hook_sees_the_optimizer_and_changes_of_it_count(pair: Kinds, form: str) -> None:
    ours, theirs = _both(pair, fused=None)
    for optimizer in (ours, theirs):
        optimizer.register_step_pre_hook(lambda o, args, kwargs: o.param_groups[0].update(lr=0.0))
    before = [p.detach().clone() for p in params_of(ours)]
    walk(ours, theirs, 2)
    if pair[0] is not AdamW:
        assert all(map(torch.equal, params_of(ours), before))


def test_profiler_sees_the_step(pair: Kinds) -> None:
    optimizer = pair[0](make(SHAPES), lr=0.1)
    feed(params_of(optimizer), seed=0)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        optimizer.step()
    assert f"Optimizer.step#{pair[0].__name__}.step" in {event.key for event in profile.key_averages()}


def test_subclass_may_extend_step(pair: Kinds) -> None:
    class Counting(pair[0]):  # type: ignore[misc, name-defined]
        count = 0

        def step(self, closure: Any = None) -> Any:
            self.count += 1
            return super().step(closure)

    optimizer = Counting(make(SHAPES), lr=0.1)
    feed(params_of(optimizer), seed=0)
    before = params_of(optimizer)[0].detach().clone()
    optimizer.step()
    assert optimizer.count == 1
    assert not torch.equal(params_of(optimizer)[0], before)


# Training utilities


def test_closure_is_evaluated_with_gradients_and_returned(pair: Kinds, form: str) -> None:
    ours, theirs = _both(pair, fused=None)
    for optimizer in (ours, theirs):
        params = params_of(optimizer)

        def closure(optimizer: Optimizer = optimizer, params: list[torch.Tensor] = params) -> torch.Tensor:
            optimizer.zero_grad()
            loss = sum((p**2).sum() for p in params)
            assert loss.requires_grad
            loss.backward()
            return loss

        with torch.no_grad():
            losses = [float(optimizer.step(closure)) for _ in range(5)]
        assert losses == sorted(losses, reverse=True)
    for mine, other in zip(params_of(ours), params_of(theirs), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("found_inf", [False, True])
def test_grad_scaler(pair: Kinds, found_inf: bool, form: str) -> None:
    results = []
    for kind in pair:
        params = make(SHAPES)
        optimizer = kind(params, lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
        for i in range(3):
            optimizer.zero_grad()
            loss = sum((p * (i + 1)).sum() for p in params)
            scaler.scale(loss).backward()
            if found_inf and i == 1:
                params[0].grad.view(-1)[0] = float("inf")  # type: ignore[union-attr]
            scaler.step(optimizer)
            scaler.update()
        results.append((params, scaler.get_scale()))
    (ours, our_scale), (theirs, their_scale) = results
    assert our_scale == their_scale == (32.0 if found_inf else 64.0)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6)


def test_clipped_gradients(pair: Kinds, form: str) -> None:
    ours, theirs = _both(pair, fused=None)
    for i in range(3):
        feed(params_of(ours), params_of(theirs), seed=i)
        for optimizer in (ours, theirs):
            torch.nn.utils.clip_grad_norm_(params_of(optimizer), 0.1)
            torch.nn.utils.clip_grad_value_(params_of(optimizer), 0.01)
            optimizer.step()
    for mine, other in zip(params_of(ours), params_of(theirs), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("set_to_none", [False, True])
def test_zero_grad(pair: Kinds, set_to_none: bool) -> None:
    optimizer = pair[0](make(SHAPES), lr=0.1)
    feed(params_of(optimizer), seed=0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=set_to_none)
    grads = [p.grad for p in params_of(optimizer)]
    assert all(g is None for g in grads) if set_to_none else all(g is not None and not g.any() for g in grads)
    optimizer.step()


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=["deepcopy", "pickle"])
def test_copies_go_on_alone(copier: Any, pair: Kinds, form: str) -> None:
    optimizer = pair[0](make(SHAPES), lr=0.1)
    feed(params_of(optimizer), seed=0)
    optimizer.step()
    clone = copier(optimizer)
    before = [p.detach().clone() for p in params_of(optimizer)]
    feed(params_of(clone), seed=1)
    clone.step()
    assert all(map(torch.equal, params_of(optimizer), before))
    feed(params_of(optimizer), seed=1)
    optimizer.step()
    same_bits(clone, optimizer)


def test_step_makes_no_gradient_history(pair: Kinds, form: str) -> None:
    optimizer = pair[0](make(SHAPES), lr=0.1)
    feed(params_of(optimizer), seed=0)
    optimizer.step()
    assert all(p.is_leaf and p.grad_fn is None for p in params_of(optimizer))


def test_autograd_learns_of_the_step(pair: Kinds, form: str) -> None:
    """Backward through values that a step has overwritten is an error, not a wrong gradient."""
    params = [torch.nn.Parameter(torch.ones(3))]
    optimizer = pair[0](params, lr=0.1)
    loss = (params[0] ** 3).sum()
    params[0].grad = torch.ones(3)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# Odd tensors


def test_sparse_gradients_as_torch(pair: Kinds) -> None:
    results = []
    for kind in pair:
        params = make([(6, 2), (3,)])
        optimizer = kind(params, lr=0.1)
        indices = torch.tensor([[1, 4]])
        for i in range(3):
            feed(params, seed=i)
            if i:
                params[0].grad = torch.sparse_coo_tensor(indices, torch.ones(2, 2), (6, 2), check_invariants=False)
            try:
                optimizer.step()
            except RuntimeError as error:
                results.append(str(error))
                break
        else:
            results.append([p.detach() for p in params])
    if isinstance(results[0], str):
        assert results[0] == results[1]
        assert "sparse" in results[0]
    else:
        assert pair[0] is SGD
        assert all(map(torch.equal, *results))


@pytest.mark.parametrize(
    "build",
    [
        lambda: torch.nn.Parameter(
            torch.randn(3, 4, dtype=torch.complex64, generator=torch.Generator().manual_seed(1))
        ),
        lambda: torch.nn.Parameter(torch.arange(12.0).view(3, 4).t()),
        lambda: torch.nn.Parameter(torch.arange(24.0).view(1, 2, 3, 4).to(memory_format=torch.channels_last)),
        lambda: torch.nn.Parameter(torch.arange(24.0)[::2]),
        lambda: torch.nn.Parameter(torch.ones(3)).requires_grad_(False),
    ],
    ids=["complex", "transposed", "channels last", "strided", "frozen with a gradient"],
)
def test_odd_parameters_as_torch(build: Any, pair: Kinds, form: str) -> None:
    optimizers = []
    for kind in pair:
        param = build()
        optimizers.append(kind([{"params": [param]}, {"params": make([(5, 5)])}], lr=0.1))
    for i in range(4):
        for optimizer in optimizers:
            for param in params_of(optimizer):
                param.grad = torch.full_like(param.detach(), 0.5 + i)
            optimizer.step()
    for mine, other in zip(*map(params_of, optimizers), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_tensor_subclass_runs_torchs_own_code(pair: Kinds) -> None:
    class Tagged(torch.Tensor):
        pass

    param = torch.ones(3).as_subclass(Tagged).requires_grad_()
    optimizer = pair[0]([param], lr=0.1)
    param.grad = torch.ones(3).as_subclass(Tagged)
    optimizer.step()
    assert optimizer.forms() == {"torch": 1}  # type: ignore[attr-defined]
    assert type(param) is Tagged


def test_one_storage_twice_runs_torchs_own_code(pair: Kinds) -> None:
    """Two parameters over the same numbers: both updates count, one after the other, as torch does it."""
    results = []
    for kind in pair:
        whole = torch.ones(100_000)
        params = [torch.nn.Parameter(whole), torch.nn.Parameter(whole)]
        optimizer = kind(params, lr=0.1)
        feed(params, seed=0)
        optimizer.step()
        results.append(whole)
    assert torch.equal(*results)


@pytest.mark.parametrize("groups", [1, 2])
def test_parameters_that_overlap_run_torchs_own_code(groups: int, pair: Kinds) -> None:
    """Each update counts, one after the other; threads would step the shared numbers at the same time."""
    results = []
    for kind in pair:
        whole = torch.randn(3 * 70_000, generator=torch.Generator().manual_seed(0))
        params = [torch.nn.Parameter(whole[:140_000]), torch.nn.Parameter(whole[70_000:]), *make([(5,)])]
        apart = [{"params": params}] if groups == 1 else [{"params": [p]} for p in params]
        optimizer = kind(apart, lr=0.1)
        for i in range(2):
            feed(params, seed=i)
            optimizer.step()
        results.append(whole)
        if kind is pair[0]:
            assert optimizer.forms()["torch"] >= 2  # type: ignore[attr-defined]
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-6)


def test_numbers_on_a_device_need_capturable(pair: Kinds) -> None:
    """Torch's own code reads or refuses a rate that lies elsewhere; only a captured graph has to see it change."""
    refusals = []
    for kind in pair:
        optimizer = kind(make([(3,)]), lr=0.1)
        feed(params_of(optimizer), seed=0)
        optimizer.param_groups[0]["lr"] = torch.tensor(0.1, device="meta")
        with pytest.raises(RuntimeError) as refused:
            optimizer.step()
        refusals.append(str(refused.value))
    assert refusals[0] == refusals[1]


def test_mixed_dtypes_in_one_group(pair: Kinds, form: str) -> None:
    def params() -> list[torch.Tensor]:
        return [p for dtype in (torch.float32, torch.float64, torch.bfloat16) for p in make([(16, 2), (32,)], dtype)]

    ours, theirs = (kind(params(), lr=0.1) for kind in pair)
    walk(ours, theirs, 3)
    for mine, other in zip(params_of(ours), params_of(theirs), strict=True):
        tolerance = 0.02 if mine.dtype is torch.bfloat16 else 1e-5
        torch.testing.assert_close(mine, other, rtol=tolerance, atol=tolerance)
    assert sum(ours.forms().values()) == 6  # type: ignore[attr-defined]


def test_gradient_of_another_dtype_is_not_read_as_floats(form: str) -> None:
    """``grad_dtype`` (torch 2.10) lets a float32 parameter hold bfloat16 gradients: half the bytes."""
    param = torch.nn.Parameter(torch.ones(64))
    if not hasattr(param, "grad_dtype"):
        pytest.skip("this torch has no grad_dtype")
    optimizer = AdamW([param], lr=0.1)
    param.grad = torch.ones(64)
    optimizer.step()
    param.grad = None
    param.grad_dtype = torch.bfloat16
    param.grad = torch.ones(64, dtype=torch.bfloat16)
    with contextlib.suppress(RuntimeError):  # torch's own step may refuse it
        optimizer.step()
    assert optimizer.forms() == {"torch": 1}


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_other_devices(device: str, pair: Kinds) -> None:
    if not getattr(torch, device).is_available():
        pytest.skip(f"no {device} here")
    ours, theirs = (kind([p.detach().to(device).requires_grad_() for p in make(SHAPES)], lr=0.1) for kind in pair)
    for i in range(3):
        for optimizer in (ours, theirs):
            generator = torch.Generator().manual_seed(i)
            for param in params_of(optimizer):
                param.grad = torch.randn(param.shape, generator=generator).to(device)
            optimizer.step()
    for mine, other in zip(params_of(ours), params_of(theirs), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


def test_meta_parameters_run_torchs_own_code(pair: Kinds) -> None:
    param = torch.nn.Parameter(torch.ones(3, device="meta"))
    optimizer = pair[0]([param], lr=0.1)
    param.grad = torch.ones(3, device="meta")
    optimizer.step()
    assert optimizer.forms() == {"torch": 1}  # type: ignore[attr-defined]


# The foreach form, which CUDA uses, on the CPU


@pytest.mark.parametrize(
    "options", [{}, {"amsgrad": True, "maximize": True}, {"weight_decay": 0.1}, {"weight_decay": 0.0}], ids=str
)
@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_foreach_form_gives_torchs_foreach_bits(name: str, options: dict[str, Any]) -> None:
    groups = [{"lr": 0.1, "betas": (0.5, 0.6)}, {"lr": 0.01}, {"lr": 0.02, "weight_decay": 0.3, "eps": 1e-3}]
    ours, theirs = (
        kind(
            [{"params": p, **g} for p, g in zip((make(seed=1), make(seed=2), make(seed=3)), groups, strict=True)],
            **more,
        )
        for kind, more in zip(PAIRS[name], (options, {"foreach": True, **options}), strict=True)
    )
    with forced_form("foreach"):
        walk(ours, theirs, 4)
    assert set(ours.forms()) == {"foreach"}
    same_bits(ours, theirs)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed: pip install triton")
def test_triton_form_in_the_interpreter() -> None:
    """The CUDA kernel, run on the CPU by Triton's interpreter (which has to be chosen before triton is imported)."""
    script = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from optim_pairs import PAIRS, make, params_of, walk
from lrdiff_core.optim.prepared import forced_form
forced_form("triton").__enter__()
shapes = [(5, 16), (7,), (), (0,), (64, 33), (3000,)]
options = [{"lr": 0.1, "betas": (0.5, 0.6)}, {"lr": 0.01}, {"lr": 0.02, "weight_decay": 0.3, "eps": 1e-3}]
for name in ("Adam", "AdamW"):
    for more in ({}, {"amsgrad": True, "maximize": True}, {"weight_decay": 0.1}):
        ours, theirs = (
            kind([{"params": make(shapes, seed=i), **group} for i, group in enumerate(options)], **more)
            for kind in PAIRS[name]
        )
        walk(ours, theirs, 4)
        assert ours.forms() == {"triton": 18}
        for mine, other in zip(params_of(ours), params_of(theirs), strict=True):
            torch.testing.assert_close(mine, other, rtol=2e-6, atol=1e-6)
            for key, value in ours.state[mine].items():
                torch.testing.assert_close(value, theirs.state[other][key], rtol=2e-6, atol=1e-6)
"""
    command = [sys.executable, "-c", script, str(Path(__file__).parent)]
    done = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# torch.compile

needs_compiler = pytest.mark.skipif(kernel.load() is None, reason="no C compiler here")


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("kind", [SGD, Adam, AdamW], ids=lambda kind: kind.__name__)
def test_compiled_step_is_not_compiled_again_for_a_new_rate(kind: type[Optimizer]) -> None:
    import torch._dynamo
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    optimizers = [k([{"params": make([(4, 4), (3,)]), "lr": torch.tensor(0.1)}]) for k in (kind, kind)]
    compiled = torch.compile(optimizers[0].step, backend=counter)
    frames = []
    for i in range(5):
        feed(*map(params_of, optimizers), seed=i)
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"].fill_(0.1 / (i + 1))
        compiled()
        optimizers[1].step()
        frames.append(counter.frame_count)
    assert frames[-1] == frames[1] > 0
    assert optimizers[0].forms() == {}  # traced from torch's own code; ours would break the graph
    for mine, other in zip(*map(params_of, optimizers), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)
    torch._dynamo.reset()
