"""Parameters whose numbers lie in another order than rows: channels last, transposed, permuted."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from optim_pairs import DTYPES_AND_FORMS, feed, make, params_of, same_bits
from torch import Tensor, nn
from torch.optim import Optimizer

from lrdiff_core.optim import Adam, AdamW
from lrdiff_core.optim.memory import layout

Kinds = tuple[type[Optimizer], type[Optimizer]]
ORDERS: dict[str, Callable[[], Tensor]] = {
    "channels last": lambda: torch.randn(4, 8, 3, 2).to(memory_format=torch.channels_last),
    "channels last 3d": lambda: torch.randn(2, 4, 2, 3, 2).to(memory_format=torch.channels_last_3d),
    "one channel": lambda: torch.randn(16, 1, 2, 3).to(memory_format=torch.channels_last),
    "one pixel": lambda: torch.randn(16, 8, 1, 1).to(memory_format=torch.channels_last),
    "transposed": lambda: torch.randn(16, 6).t(),
    "permuted": lambda: torch.randn(8, 2, 5, 4).permute(2, 0, 3, 1),
    "a part of something larger": lambda: torch.randn(6, 16, 4)[2:4].permute(2, 0, 1),
    "none": lambda: torch.randn(0, 3, 2, 2).to(memory_format=torch.channels_last),
}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=["at once", "one by one"])
def _watched(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the check of all tensors in one call, and as where torch does not have it."""
    if request.param == "one by one":
        monkeypatch.delattr(torch._C._dynamo.guards, "TensorGuards")


def _like(param: Tensor, seed: int) -> Tensor:
    grad = torch.randn(param.shape, generator=torch.Generator().manual_seed(seed)).to(param.dtype)
    return torch.empty_like(param, requires_grad=False).copy_(grad)


@pytest.mark.parametrize(("dtype", "form"), DTYPES_AND_FORMS[:-1], indirect=["form"], ids=str)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.usefixtures("_watched")
def test_any_order_without_gaps_is_stepped_by_our_forms(order: str, dtype: torch.dtype, pair: Kinds, form: str) -> None:
    """Bit for bit what torch's fused kernel makes of the same numbers in rows, in the order in which they lie."""
    options: dict[str, Any] = {"momentum": 0.9, "nesterov": True} if "SGD" in pair[0].__name__ else {"amsgrad": True}
    param = nn.Parameter(ORDERS[order]().to(dtype))
    flat = nn.Parameter(_in_memory(param).clone())
    ours = pair[0]([{"params": [param], "lr": 0.1}, {"params": make([(5,)], dtype)}], lr=0.01, **options)
    theirs = pair[1]([flat], lr=0.1, **options, **({} if _left_to_torch(pair, dtype) else {"fused": True}))
    for i in range(4):
        param.grad = _like(param, i)
        flat.grad = _in_memory(param.grad).clone()
        params_of(ours)[1].grad = torch.ones(5, dtype=dtype)
        ours.step()
        theirs.step()
    wanted = "torch" if _left_to_torch(pair, dtype) else form if dtype is torch.float32 else "fused"
    assert ours.forms() == {wanted: 2}  # type: ignore[attr-defined]
    assert torch.equal(_in_memory(param), flat)
    for key, value in ours.state[param].items():
        assert torch.equal(_in_memory(value), theirs.state[flat][key]), key
        assert key == "step" or value.stride() == param.stride()


def _left_to_torch(pair: Kinds, dtype: torch.dtype) -> bool:
    return "SGD" in pair[0].__name__ and dtype is torch.bfloat16


def _in_memory(tensor: Tensor) -> Tensor:
    return tensor.detach().as_strided((tensor.numel(),), (1,)) if tensor.ndim else tensor.detach()


@pytest.mark.usefixtures("_watched")
def test_a_convolutional_model_in_channels_last_trains_as_torchs(pair: Kinds, form: str) -> None:
    def build() -> nn.Module:
        torch.manual_seed(3)
        body = [nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=4), nn.ReLU()]
        model = nn.Sequential(*body, nn.Conv2d(16, 32, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 16))
        return model.to(memory_format=torch.channels_last)

    models = [build(), build()]
    assert not models[0][0].weight.is_contiguous()  # type: ignore[index, union-attr]
    extra: dict[str, Any] = {"momentum": 0.9} if "SGD" in pair[0].__name__ else {}
    ours, theirs = (
        kind([{"params": m[:6].parameters(), "lr": 1e-3}, {"params": m[6:].parameters()}], lr=1e-2, **extra, **more)  # type: ignore[index]
        for kind, m, more in zip(pair, models, ({}, {"fused": True}), strict=True)
    )
    for i in range(5):
        x = torch.randn(8, 3, 10, 10, generator=torch.Generator().manual_seed(i)).to(memory_format=torch.channels_last)
        for model, optimizer in zip(models, (ours, theirs), strict=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), torch.arange(8) % 4).backward()
            optimizer.step()
    assert ours.forms() == {form: 10}  # type: ignore[attr-defined]
    same_bits(ours, theirs)
    a, b = ours.state_dict(), theirs.state_dict()
    for i, held in a["state"].items():
        assert {k: v.stride() for k, v in held.items()} == {k: v.stride() for k, v in b["state"][i].items()}


def test_a_checkpoint_of_torchs_in_channels_last_goes_on(form: str) -> None:
    def params() -> list[Tensor]:
        return [nn.Parameter(make([(4, 8, 3, 2)])[0].detach().to(memory_format=torch.channels_last))]

    theirs = torch.optim.AdamW(params(), lr=0.1, fused=True)
    _step(theirs, 0)
    file = io.BytesIO()
    torch.save(theirs.state_dict(), file)
    file.seek(0)
    saved = torch.load(file)
    saved["param_groups"][0]["fused"] = None
    ours = AdamW([nn.Parameter(p.detach().clone()) for p in params_of(theirs)], lr=0.1)
    ours.load_state_dict(saved)
    for i in range(1, 4):
        _step(theirs, i)
        _step(ours, i)
    assert ours.forms() == {form: 1}
    same_bits(ours, theirs)


def _step(optimizer: Optimizer, seed: int) -> None:
    for param in params_of(optimizer):
        param.grad = _like(param, seed)
    optimizer.step()


@pytest.mark.usefixtures("_watched")
def test_gradients_in_another_order_are_copied(pair: Kinds, form: str) -> None:
    """From the first step or later, one way or the other; the gradient itself stays as it is."""
    shapes = [(4, 8, 3, 2), (6, 5)]
    last = [nn.Parameter(p.detach().to(memory_format=torch.channels_last) if p.ndim == 4 else p) for p in make(shapes)]
    ours, theirs = pair[0](last, lr=0.1), pair[1](make(shapes), lr=0.1)
    for i in range(4):
        feed(params_of(ours), params_of(theirs), seed=i)
        grads = [p.grad for p in params_of(ours)]
        assert isinstance(grads[1], Tensor)
        if i % 2:
            last[0].grad = _like(last[0], i)
            last[0].grad.copy_(params_of(theirs)[0].grad)  # type: ignore[arg-type]
            last[1].grad = grads[1].t().contiguous().t()
        given = [(p.grad, p.grad.clone(), p.grad.stride()) for p in last if p.grad is not None]
        ours.step()
        theirs.step()
        for param, (grad, numbers, stride) in zip(last, given, strict=True):
            assert param.grad is grad
            assert grad.stride() == stride
            assert torch.equal(grad, numbers)
    assert ours.forms() == {form: 2}  # type: ignore[attr-defined]
    for mine, other in zip(*map(params_of, (ours, theirs)), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "build",
    [
        lambda: torch.randn(4, 8, 3, 6).to(memory_format=torch.channels_last)[..., ::2],
        lambda: torch.randn(8, 8)[:, 1:5],
        lambda: torch.randn(8, 8)[:, :1],
    ],
    ids=["every other column", "some columns", "one column"],
)
def test_gaps_are_left_to_torch(build: Callable[[], Tensor], pair: Kinds) -> None:
    whole = build()
    optimizers = [kind([nn.Parameter(_with_gaps(whole))], lr=0.1) for kind in pair]
    for i in range(3):
        for optimizer in optimizers:
            params_of(optimizer)[0].grad = torch.randn(whole.shape, generator=torch.Generator().manual_seed(i))
            optimizer.step()
    assert optimizers[0].forms() == {"torch": 1}  # type: ignore[attr-defined]
    same_bits(*optimizers)


def _with_gaps(view: Tensor) -> Tensor:
    """A copy that keeps the gaps."""
    last = sum((size - 1) * stride for size, stride in zip(view.shape, view.stride(), strict=True))
    return torch.zeros(last + 1).as_strided(view.shape, view.stride()).copy_(view)


def test_a_model_that_changes_its_order_mid_run_is_stepped_right(pair: Kinds, form: str) -> None:
    """The state stays in rows, as with torch: from then on torch's own code steps it."""
    options: dict[str, Any] = {"momentum": 0.9} if "SGD" in pair[0].__name__ else {}
    ours, theirs = (kind(make([(4, 8, 3, 2), (7,)]), lr=0.1, **options) for kind in pair)
    for i in range(4):
        for optimizer in (ours, theirs):
            if i == 2:
                param = params_of(optimizer)[0]
                param.data = param.data.to(memory_format=torch.channels_last)
            _step(optimizer, i)
        assert ours.forms() == ({form: 2} if i < 2 else {"torch": 2})  # type: ignore[attr-defined]
    for mine, other in zip(*map(params_of, (ours, theirs)), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("_watched")
def test_a_parameter_transposed_in_place_under_an_old_gradient_is_noticed(form: str) -> None:
    """Same pointer, same bytes; the gradient, kept by ``set_to_none=False``, still lies in rows."""
    optimizers = [kind([nn.Parameter(torch.arange(256.0).view(16, 16))], lr=0.1) for kind in (Adam, torch.optim.Adam)]
    for i in range(4):
        for optimizer in optimizers:
            (param,) = params_of(optimizer)
            if i == 0:
                param.grad = torch.empty(16, 16)
            if i == 2:
                param.data = param.data.t()
            assert param.grad is not None
            param.grad.copy_(torch.arange(256.0).view(16, 16) * (i + 1) / 100)
            optimizer.step()
    torch.testing.assert_close(*(params_of(optimizer)[0] for optimizer in optimizers), rtol=1e-6, atol=1e-6)


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "imag of conj": lambda g: torch.complex(torch.zeros_like(g), -g).conj().imag,
    "negated, in rows": lambda g: torch._neg_view(-g),
    "zeros without memory": lambda g: torch._efficientzerotensor(g.shape),
}


@pytest.mark.parametrize("first", [False, True], ids=["later", "from the first step"])
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.usefixtures("_watched")
def test_gradients_that_are_views_of_other_numbers(view: str, first: bool, pair: Kinds, form: str) -> None:
    """Memory holds the other sign, or (torch's ZeroTensor, which forward mode makes) there is none."""
    shapes = [(16,), (1,), (3, 1), (0,), (), (64, 33)]
    ours, theirs = (kind(make(shapes), lr=0.1) for kind in pair)
    for step in range(5):
        feed(params_of(ours), params_of(theirs), seed=step)
        for mine, other in zip(*map(params_of, (ours, theirs)), strict=True):
            if first or step in (1, 2):
                assert isinstance(mine.grad, Tensor)
                mine.grad = VIEWS[view](mine.grad)
                other.grad = mine.grad.clone()
                assert not other.grad.is_neg()
        ours.step()
        theirs.step()
        assert ours.forms() == {form: len(shapes)}  # type: ignore[attr-defined]
    for mine, other in zip(*map(params_of, (ours, theirs)), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6)


def test_the_check_of_all_tensors_sees_what_it_has_to() -> None:
    """It is torch's own and private: this tells when another torch checks less, or no longer has it."""
    rows = [torch.zeros(4, 4), torch.zeros(3)]
    fits = layout.kind_check(rows)
    assert fits(*rows)
    assert fits(torch.ones(4, 4), torch.ones(3))
    others: list[Any] = [
        None,
        nn.Parameter(torch.zeros(4, 4)),
        torch.zeros(4, 4).t().contiguous().t(),
        torch.zeros(4, 2),
        torch.zeros(16),
        torch.zeros(4, 4, dtype=torch.float64),
        torch.zeros(4, 4, dtype=torch.int32),
        torch.zeros(4, 4, device="meta"),
        torch.zeros(4, 4).to_sparse(),
        torch._neg_view(torch.zeros(4, 4)),
        torch._efficientzerotensor((4, 4)),
        torch.zeros(4, 4, requires_grad=True),
    ]
    assert not any(fits(other, rows[1]) for other in others)
    again = copy.deepcopy(rows)
    assert fits(*again)
