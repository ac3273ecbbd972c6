"""Clipping by group against torch's own clip_grad_norm_, called on the parameters of each group."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from optim_pairs import PAIRS, SHAPES, feed, make, params_of
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, clip_grads_with_norm_

from lrdiff_core import param_groups
from lrdiff_core.errors import OptimizerError
from lrdiff_core.optim import SGD, AdamW, MuonAdamW, RMSprop, clip_grad_norms_, kernel
from lrdiff_core.rates import Rule

OURS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    **{name: ours for name, (ours, _) in PAIRS.items()},
    "MuonAdamW": MuonAdamW,
    "RMSprop": RMSprop,
}
SIZE = st.sampled_from([(0,), (), (1,), (7,), (16, 3), (40,)])
EMPTY = SHAPES.index((0,))
NUMBER = st.floats(width=32, allow_nan=True, allow_infinity=True)


def _groups(params: Sequence[Tensor], count: int, **options: Any) -> list[dict[str, Any]]:
    """Contiguous groups with names; the last one is empty where there are more groups than parameters."""
    size = -(-len(params) // count)
    return [{"name": f"g{i}", "params": list(params[i * size : (i + 1) * size]), **options} for i in range(count)]


def _feed(*optimizers: torch.optim.Optimizer, seed: int) -> None:
    for optimizer in optimizers:  # one at a time: clipping one must not clip the other
        feed(params_of(optimizer), seed=seed)


def _twins(count: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> tuple[Any, Any]:
    """Our optimizer and torch's over equal parameters with equal gradients."""
    pair = SGD(_groups(make(dtype=dtype), count), lr=0.1), torch.optim.SGD(_groups(make(dtype=dtype), count), lr=0.1)
    _feed(*pair, seed=seed)
    return pair


def _clip_by_torch(optimizer: torch.optim.Optimizer, limit: float, by: str, norm_type: float = 2.0) -> list[Tensor]:
    parts = [params_of(optimizer)] if by == "all" else [group["params"] for group in optimizer.param_groups]
    return [clip_grad_norm_(part, limit, norm_type) for part in parts]


def _clip_by_us(optimizer: torch.optim.Optimizer, limit: float, by: str) -> list[Tensor]:
    return list(clip_grad_norms_(optimizer, limit, by=by).values())


def _compare(ours: Any, theirs: Any, norms: dict[str, Tensor], expected: list[Tensor], *, exact: bool) -> None:
    assert len(norms) == len(expected)
    pairs = [*zip(norms.values(), expected, strict=True)]
    for mine, other in zip(params_of(ours), params_of(theirs), strict=True):
        assert (mine.grad is None) == (other.grad is None)
        if mine.grad is not None and other.grad is not None:
            pairs.append((mine.grad, other.grad))
    for a, b in pairs:
        assert a.dtype is b.dtype
        assert a.shape == b.shape
        tolerance = {"rtol": 0.0, "atol": 0.0} if exact else {"rtol": 1e-5, "atol": 0.0}
        torch.testing.assert_close(a, b, equal_nan=True, **tolerance)


@pytest.mark.parametrize(("count", "by"), [(1, "group"), (3, "group"), (9, "group"), (3, "all")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_the_numbers_are_those_of_torch(dtype: torch.dtype, count: int, by: str, form: str) -> None:
    for norm_type, limit in product([2.0, math.inf, 1.0, 0.5, -math.inf], [0.0, 0.1, 1e6, math.inf]):
        ours, theirs = _twins(count, dtype)
        params_of(ours)[0].grad = params_of(theirs)[0].grad = None
        norms = clip_grad_norms_(ours, limit, by=by, norm_type=norm_type)
        assert list(norms) == (["all"] if by == "all" else [f"g{i}" for i in range(count)])
        if math.isinf(norm_type):  # torch refuses these of a tensor without numbers
            params_of(ours)[EMPTY].grad = params_of(theirs)[EMPTY].grad = None
        compiled = form == "kernel" and dtype is torch.float32 and norm_type == 2.0
        _compare(ours, theirs, norms, _clip_by_torch(theirs, limit, by, norm_type), exact=not compiled)


@pytest.mark.parametrize("make_optimizer", [*OURS.values(), torch.optim.RMSprop], ids=[*OURS, "torch's RMSprop"])
def test_every_optimizer_trains_as_with_torchs_clipping(make_optimizer: Any, form: str) -> None:
    """Frozen parameters, gradients set anew, rates that move: ten steps."""
    sides = []
    for clip in (_clip_by_us, _clip_by_torch):
        shapes = [(4, 3), (4,), (2, 4), (2,)]
        options = {"use_muon": False} if make_optimizer is MuonAdamW else {}
        optimizer = make_optimizer(_groups(make(shapes), 2, **options), lr=0.01)
        for i in range(10):
            _feed(optimizer, seed=i)
            if i % 3 == 0:
                params_of(optimizer)[i % 4].grad = None
            clip(optimizer, 0.5, "group")
            optimizer.param_groups[1]["lr"] = 0.1 / (i + 1)
            optimizer.step()
            optimizer.zero_grad()
        sides.append(params_of(optimizer))
    for mine, other in zip(*sides, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("largest", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_norms_are_exact_and_the_same_on_any_number_of_threads(threads: int, largest: bool) -> None:
    """Beyond a piece and a thread's worth, with numbers whose squares leave float32."""
    torch.set_num_threads(threads)
    shapes = [(3,), (400_001,), (2, 16_384), (1,)]
    optimizer = SGD(_groups(make(shapes), 2), lr=0.1)
    params = params_of(optimizer)
    generator = torch.Generator().manual_seed(0)
    for param, scale in zip(params, (1e-30, 1.0, 1e25, 1e-25), strict=True):
        param.grad = torch.randn(param.shape, generator=generator) * scale
    before = [param.grad.clone() for param in params if param.grad is not None]
    norm_type = math.inf if largest else 2.0
    norms = clip_grad_norms_(optimizer, 0.5, norm_type=norm_type)
    for norm, part in zip(norms.values(), (before[:2], before[2:]), strict=True):
        exact = torch.linalg.vector_norm(torch.cat([grad.flatten() for grad in part]).double(), norm_type)
        # torch's kernel has no double precision of this; where there is no compiler it overflows
        if kernel.load() is not None:
            assert float(norm) == pytest.approx(float(exact), rel=2**-24)
    twins = make(shapes)
    for twin, grad in zip(twins, before, strict=True):
        twin.grad = grad
    for part, norm in zip((twins[:2], twins[2:]), norms.values(), strict=True):
        clip_grads_with_norm_(part, 0.5, norm)
    assert all(torch.equal(mine.grad, other.grad) for mine, other in zip(params, twins, strict=True))


@settings(max_examples=60, deadline=None)
@given(data=st.data(), limit=st.floats(0, 1e3), by=st.sampled_from(["group", "all"]))
def test_odd_gradients(data: Any, limit: float, by: str) -> None:
    """Any mixture of sizes, missing gradients, NaN, infinities and denormal numbers."""
    shapes = data.draw(st.lists(SIZE, min_size=1, max_size=5))
    count = data.draw(st.integers(1, 4))
    ours, theirs = (kind(_groups(make(shapes), count), lr=0.1) for kind in (SGD, torch.optim.SGD))
    optimizers, largest = (ours, theirs), data.draw(st.booleans())
    for mine, other in zip(*map(params_of, optimizers), strict=True):
        filling = data.draw(st.none() | NUMBER)
        for param in (mine, other):
            param.grad = None if filling is None else torch.full(param.shape, filling)
    norm_type = math.inf if largest else 2.0
    exact = [
        torch.linalg.vector_norm(
            torch.cat([torch.zeros(1).double(), *[p.grad.flatten().double() for p in part if p.grad is not None]]),
            norm_type,
        ).float()
        for part in ([params_of(theirs)] if by == "all" else [group["params"] for group in theirs.param_groups])
    ]
    norms = clip_grad_norms_(ours, limit, by=by, norm_type=norm_type)
    if kernel.load() is not None:
        torch.testing.assert_close(list(norms.values()), exact, rtol=2**-23, atol=1e-44, equal_nan=True)
    parts = [params_of(theirs)] if by == "all" else [group["params"] for group in theirs.param_groups]
    for part, norm in zip(parts, norms.values(), strict=True):
        clip_grads_with_norm_(part, limit, norm)
    _compare(ours, theirs, {}, [], exact=True)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
@pytest.mark.parametrize("place", [0, 17, 39, 40, 79], ids=str)
@pytest.mark.parametrize("norm_type", [2.0, math.inf], ids=str)
def test_one_number_that_is_not_finite_is_seen_anywhere(norm_type: float, place: int, value: float, form: str) -> None:
    sides = []
    for kind in (SGD, torch.optim.SGD):
        grads = torch.arange(80.0)
        grads[place] = value
        params = make([(40,), (40,)])
        params[0].grad, params[1].grad = grads[:40].clone(), grads[40:].clone()
        optimizer = kind([{"params": params}, {"params": []}], lr=0.1)
        clip = clip_grad_norms_(optimizer, 0.5, norm_type=norm_type) if kind is SGD else None
        norms = _clip_by_torch(optimizer, 0.5, "group", norm_type) if clip is None else list(clip.values())
        sides.append([*norms, *[param.grad for param in params]])
    torch.testing.assert_close(*sides, rtol=0, atol=0, equal_nan=True)


def _transposed(grad: Tensor) -> Tensor:
    return grad.t().contiguous().t()


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": _transposed,
    "expanded": lambda grad: grad[:1].expand(grad.shape),
    "gaps": lambda grad: torch.cat([grad, grad], 1)[:, : grad.shape[1]],
    "conjugate": lambda grad: torch.complex(grad, grad).conj().imag,
    "negated": lambda grad: torch._neg_view(grad),
    "zero tensor": lambda grad: torch._efficientzerotensor(tuple(grad.shape)),
    "requires grad": lambda grad: grad.requires_grad_(),
    "sparse": lambda grad: grad.to_sparse(),
    "complex": lambda grad: torch.complex(grad, -grad),
    "double": lambda grad: grad.double(),
    "subclass": lambda grad: grad.as_subclass(Marked),
    "inference": lambda grad: _inferred(grad),
}


class Marked(Tensor):
    """A subclass without behaviour of its own."""


def _inferred(grad: Tensor) -> Tensor:
    with torch.inference_mode():
        return grad.clone()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_of_any_layout(layout: str, form: str) -> None:
    """What torch takes is taken, what it refuses is refused, whatever the layout of the step before."""
    sides: list[Any] = []
    for kind in (SGD, torch.optim.SGD):
        params = make([(6, 4), (5,)], torch.complex64 if layout == "complex" else torch.float32)
        optimizer = kind(_groups(params, 2), lr=0.1)
        told: list[Any] = []
        for i, change in enumerate((lambda grad: grad, LAYOUTS[layout], lambda grad: grad)):
            _feed(optimizer, seed=i)
            try:
                first = params[0]
                changed = change(first.grad.real.clone() if layout == "complex" else first.grad.clone())
                if layout == "double":
                    first.grad = None
                    params[0].data = first.data.double() if i == 1 else first.data.float()
                first.grad = changed.to(first.dtype) if layout == "complex" else changed
                told += (_clip_by_us if kind is SGD else _clip_by_torch)(optimizer, 0.5, "group")
                told += [param.grad.to_dense().clone() for param in params if param.grad is not None]
            except RuntimeError as error:
                told.append(str(error).splitlines()[0])
        sides.append(told)
    for mine, other in zip(*sides, strict=True):
        if isinstance(other, str):
            assert mine == other
        else:
            assert type(mine) is type(other)
            torch.testing.assert_close(mine, other, rtol=1e-5, atol=0)


def test_shared_gradients_are_scaled_as_often_as_torch_scales_them(form: str) -> None:
    torch.set_num_threads(2)
    memory = torch.randn(600_000, generator=torch.Generator().manual_seed(0))
    sides = []
    for kind in (SGD, torch.optim.SGD):
        whole = memory.clone()
        params = make([(400_000,), (400_000,), (400_000,)])
        params[0].grad, params[1].grad = whole[:400_000], whole[200_000:]
        params[2].grad = params[0].grad
        optimizer = kind([{"params": params}], lr=0.1)
        (_clip_by_us if kind is SGD else _clip_by_torch)(optimizer, 0.5, "all")
        sides.append(whole)
    torch.testing.assert_close(*sides, rtol=1e-4, atol=0)


def test_distributed_tensors_take_torchs_function(tmp_path: Any) -> None:
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        sides = []
        for kind in (AdamW, torch.optim.AdamW):
            params = [torch.nn.Parameter(distribute_tensor(p.detach(), mesh, [Shard(0)])) for p in make([(4, 3), (4,)])]
            for i, param in enumerate(params):
                param.grad = distribute_tensor(torch.full(param.shape, i + 1.0), mesh, [Shard(0)])
            optimizer = kind(_groups(params, 2), lr=0.1)
            norms = (_clip_by_us if kind is AdamW else _clip_by_torch)(optimizer, 0.5, "group")
            sides.append([x.full_tensor() for x in (*norms, *[p.grad for p in params])])
        assert all(torch.equal(*pair) for pair in zip(*sides, strict=True))
    finally:
        distributed.destroy_process_group()


def test_only_groups_that_are_named_and_too_long_are_touched(form: str) -> None:
    optimizer = SGD([{"name": n, "params": make([(5,)])} for n in ("long", "short", "left")], lr=0.1)
    for param, number in zip(params_of(optimizer), (3.0, 0.01, math.inf), strict=True):
        param.grad = torch.full((5,), number)
    versions = [param.grad._version for param in params_of(optimizer)]
    norms = clip_grad_norms_(optimizer, {"long": 1.0, "short": 1.0})
    assert [float(norm) for norm in norms.values()] == pytest.approx([3 * 5**0.5, 0.01 * 5**0.5, math.inf])
    long, short, left = (param.grad for param in params_of(optimizer))
    assert float(torch.linalg.vector_norm(long)) == pytest.approx(1.0, rel=1e-5)
    assert torch.equal(short, torch.full((5,), 0.01))
    assert torch.equal(left, torch.full((5,), math.inf))
    assert long._version > versions[0]
    if form == "kernel":
        assert (short._version, left._version) == (versions[1], versions[2])


def test_a_norm_that_is_not_finite_is_refused_before_anything_is_scaled(form: str) -> None:
    ours, _ = _twins(3)
    params_of(ours)[-1].grad[0, 0] = math.nan
    before = [param.grad.clone() for param in params_of(ours)]
    with pytest.raises(OptimizerError) as caught:
        clip_grad_norms_(ours, 1e-3, error_if_nonfinite=True)
    assert str(caught.value) == (
        'the norm of the gradients is not finite: "g2"\n'
        "help: leave this step out, lower the rate, or set error_if_nonfinite=False"
    )
    for param, kept in zip(params_of(ours), before, strict=True):
        assert torch.equal(param.grad.nan_to_num(), kept.nan_to_num())


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda o: clip_grad_norms_(o, {"g": 1.0}), "no group is called 'g'\nhelp: groups of this optimizer: g0, g1"),
        (lambda o: clip_grad_norms_(o, {"g0": 1.0}, by="all"), 'limits by name do not go with by="all"\nhelp: give'),
        (lambda o: clip_grad_norms_(o, -1.0), "max_norm is -1.0\nhelp: write a number from 0 up"),
        (lambda o: clip_grad_norms_(o, {"g1": "much"}), "max_norm of 'g1' is 'much'\nhelp: write a number from 0 up"),
        (lambda o: clip_grad_norms_(o, math.nan), "max_norm is nan\nhelp: write a number"),
        (lambda o: clip_grad_norms_(o, 1.0, by="groups"), "by is 'groups'\nhelp: write \"group\" or \"all\""),
        (lambda o: clip_grad_norms_(params_of(o), 1.0), "clip_grad_norms_ takes an optimizer, not list\nhelp: give"),
    ],
)  # fmt: skip
def test_what_is_refused(call: Any, told: str) -> None:
    with pytest.raises(OptimizerError) as caught:
        call(_twins(2)[0])
    assert str(caught.value).startswith(told)


def test_names_are_those_of_the_plan_and_unlike_each_other() -> None:
    model = torch.nn.ModuleDict({"body": torch.nn.Linear(2, 2), "head": torch.nn.Linear(2, 1)})
    plan = param_groups(model, lr=0.1, rules=[Rule("head", lr=1.0)])
    optimizer = SGD(plan.groups())
    optimizer.add_param_group({"params": make([(2,)]), "param_names": ["x"], "name": "head"})
    optimizer.add_param_group({"params": make([(2,)]), "param_names": ["y"]})
    assert list(clip_grad_norms_(optimizer, 1.0)) == [*plan.rates_by_name(), "head_2", "group_3"]


def test_what_was_prepared_follows_every_change(form: str) -> None:
    """Groups added, emptied and swapped, gradients of other sizes, copies of the optimizer."""
    ours, theirs = _twins(2)

    def agree(mine: Any = ours) -> None:
        _feed(mine, theirs, seed=3)
        norms = clip_grad_norms_(mine, 0.5)
        _compare(mine, theirs, norms, _clip_by_torch(theirs, 0.5, "group"), exact=False)

    agree()
    for optimizer in (ours, theirs):
        optimizer.add_param_group({"params": make([(5, 16), (3,)])})
    agree()
    for optimizer in (ours, theirs):
        first, second = optimizer.param_groups[:2]
        first["params"], second["params"] = second["params"], first["params"]
    agree()
    for optimizer in (ours, theirs):
        optimizer.param_groups[0]["params"].append(optimizer.param_groups[1]["params"].pop())
    agree()
    agree(copy.deepcopy(ours))
    agree(pickle.loads(pickle.dumps(ours)))
