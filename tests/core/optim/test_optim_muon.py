"""Muon for matrices with AdamW for the rest, against torch's own two classes."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from optim_pairs import feed, make, params_of

from lrdiff_core.errors import OptimizerError
from lrdiff_core.optim import SGD, Adam, AdamW, MuonAdamW
from lrdiff_core.optim.rules.muon import orthogonalize

MATRICES = [(8, 16), (8, 16), (32, 8), (16, 16)]
REST = [(16,), (5,)]


def _pair(**options: Any) -> tuple[MuonAdamW, torch.optim.Muon, torch.optim.AdamW]:
    ours = MuonAdamW(
        [
            {"params": make(MATRICES), "use_muon": True, "lr": 0.02, "weight_decay": 0.1, **options},
            {"params": make(REST, seed=1), "lr": 0.01},
        ]
    )
    muon = torch.optim.Muon(make(MATRICES), lr=0.02, weight_decay=0.1, **options)
    return ours, muon, torch.optim.AdamW(make(REST, seed=1), lr=0.01, fused=True)


@pytest.mark.parametrize("adjust", [None, "original", "match_rms_adamw"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_as_torchs_muon_and_adamw(adjust: str | None, nesterov: bool) -> None:
    """The rest to the bit; matrices to the bfloat16 roundings of a batched product."""
    ours, muon, adamw = _pair(adjust_lr_fn=adjust, nesterov=nesterov, momentum=0.9)
    theirs = params_of(muon) + params_of(adamw)
    for i in range(5):
        feed(params_of(ours), theirs, seed=i)
        for optimizer in (ours, muon, adamw):
            optimizer.step()
    for mine, other in zip(params_of(ours)[:4], theirs[:4], strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=5e-3 * (4 if adjust == "match_rms_adamw" else 2))
        torch.testing.assert_close(
            ours.state[mine]["momentum_buffer"], muon.state[other]["momentum_buffer"], rtol=0, atol=0
        )
    for mine, other in zip(params_of(ours)[4:], theirs[4:], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-7)
    assert ours.forms()["muon"] == 4
    assert sum(ours.forms().values()) == 6


def test_orthogonalized_matrices_are_nearly_orthogonal() -> None:
    """Singular values end between 0.6 and 1.3: the coefficients trade exactness for speed."""
    for shape in ((3, 20, 40), (2, 40, 20)):
        values = torch.linalg.svdvals(
            orthogonalize(torch.randn(shape, generator=torch.Generator().manual_seed(0))).float()
        )
        assert float(values.min()) > 0.5
        assert float(values.max()) < 1.35


def test_gradients_come_and_go() -> None:
    ours, _, _ = _pair()
    params = params_of(ours)
    for i in range(4):
        feed(params, seed=i)
        params[i].grad = None
        before = [p.detach().clone() for p in params]
        ours.step()
        assert [torch.equal(p, b) for p, b in zip(params, before, strict=True)] == [at == i for at in range(6)]


def test_matrices_without_numbers_are_left_alone() -> None:
    params = make([(4, 0), (0, 4), (4, 4)])
    optimizer = MuonAdamW(params, use_muon=True)
    feed(params, seed=0)
    before = params[2].detach().clone()
    optimizer.step()
    assert not torch.equal(params[2], before)


def test_maximize_ascends() -> None:
    moves = []
    for maximize in (False, True):
        params = make([(8, 8)])
        optimizer = MuonAdamW(params, use_muon=True, maximize=maximize, weight_decay=0.0)
        before = params[0].detach().clone()
        feed(params, seed=0)
        optimizer.step()
        moves.append(params[0].detach() - before)
    torch.testing.assert_close(moves[0], -moves[1])


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=["deepcopy", "pickle"])
def test_copies_go_on_alone(copier: Any) -> None:
    ours, _, _ = _pair()
    feed(params_of(ours), seed=0)
    ours.step()
    clone = copier(ours)
    for optimizer in (ours, clone):
        feed(params_of(optimizer), seed=1)
        optimizer.step()
    assert all(map(torch.equal, params_of(ours), params_of(clone)))
    clone.add_param_group({"params": make([(3,)])})
    assert clone.param_groups[-1]["use_muon"] is False


def test_adamw_checkpoint_goes_on_without_muon() -> None:
    params = make(REST)
    source = AdamW(params, lr=0.1)
    feed(params, seed=0)
    source.step()
    mine = MuonAdamW([torch.nn.Parameter(p.detach().clone()) for p in params], lr=0.1)
    mine.load_state_dict(copy.deepcopy(source.state_dict()))
    for optimizer in (source, mine):
        feed(params_of(optimizer), seed=1)
        optimizer.step()
    assert all(map(torch.equal, params_of(mine), params))


@pytest.mark.parametrize(
    ("shapes", "options", "message"),
    [
        ([(3,)], {}, r"Muon takes real matrices, not torch\.float32 of shape \(3,\)"),
        ([(2, 2)], {"matrices": "rows"}, r"matrices is 'rows'\nhelp: write 'flatten' or 'stack'"),
        ([(4, 2)], {"heads": 3}, r"heads is 3 for a matrix of 4 rows"),
        ([(2, 2)], {"momentum": 1.0}, r"momentum is 1\.0\nhelp: write a number in \[0, 1\)"),
        ([(2, 2)], {"adjust_lr_fn": "rms"}, r"adjust_lr_fn is 'rms'\nhelp: write None, 'original'"),
        ([(2, 2)], {"ns_steps": 100}, r"ns_steps is 100\nhelp: write a whole number from 1 to 99"),
    ],
)
def test_refusals_name_the_way_out(shapes: list[tuple[int, ...]], options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptimizerError, match=message):
        MuonAdamW(make(shapes), use_muon=True, **options)


def test_a_refused_group_is_not_kept() -> None:
    ours, _, _ = _pair()
    with pytest.raises(OptimizerError, match="real matrices"):
        ours.add_param_group({"params": make([(3,)]), "use_muon": True})
    assert len(ours.param_groups) == 2


def test_sparse_gradients_are_refused() -> None:
    param = torch.nn.Parameter(torch.ones(3, 3))
    param.grad = torch.eye(3).to_sparse()
    with pytest.raises(OptimizerError, match="sparse"):
        MuonAdamW([param], use_muon=True).step()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "options",
    [
        {"weight_decay": 0.1, "momentum": 0.0},  # a factor of 0.998, which bfloat16 rounds to 0.9961
        {"weight_decay": 0.0, "momentum": 0.95},
        {"weight_decay": 0.3, "momentum": 0.99, "nesterov": False},
        {"weight_decay": 0.1, "momentum": 0.95, "lr": 0.0203},
    ],
    ids=str,
)
def test_factors_are_applied_in_float32(dtype: torch.dtype, options: dict[str, Any]) -> None:
    """One step in low precision is the float32 step on the same numbers, rounded once."""
    options = {"lr": 0.02, **options}
    low, full = make([(16, 16)], dtype), make([(16, 16)], dtype)
    full = [torch.nn.Parameter(p.detach().float()) for p in full]
    ours, exact = MuonAdamW(low, use_muon=True, **options), MuonAdamW(full, use_muon=True, **options)
    for seed in range(3):
        feed(low, seed=seed)
        full[0].grad = low[0].grad.float()  # type: ignore[union-attr]
        with torch.no_grad():
            full[0].copy_(low[0])
            if seed:
                exact.state[full[0]]["momentum_buffer"].copy_(ours.state[low[0]]["momentum_buffer"])
        ours.step()
        exact.step()
        assert torch.equal(low[0], full[0].to(dtype))
        assert torch.equal(ours.state[low[0]]["momentum_buffer"], exact.state[full[0]]["momentum_buffer"].to(dtype))
        assert low[0].dtype == ours.state[low[0]]["momentum_buffer"].dtype == dtype


@pytest.mark.parametrize("kind", ["Muon", "AdamW", "Adam", "SGD"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_decay_alone_in_low_precision_is_torchs(kind: str, dtype: torch.dtype) -> None:
    """A gradient of zero, 50 steps: the weights are those of torch's class (its fused one where Adam has no NaN)."""
    ours = {"Muon": MuonAdamW, "AdamW": AdamW, "Adam": Adam, "SGD": SGD}[kind]
    options = {"lr": 0.02, "weight_decay": 0.1} | ({"decoupled_weight_decay": True} if kind == "Adam" else {})
    mine, theirs = make([(16, 16)], dtype), make([(16, 16)], dtype)
    first = ours(mine, **options, **({"use_muon": True} if kind == "Muon" else {}))
    fused = {"fused": True} if kind in ("Adam", "AdamW") else {}
    second = getattr(torch.optim, kind)(theirs, **options, **fused)
    for _ in range(50):
        mine[0].grad, theirs[0].grad = torch.zeros_like(mine[0]), torch.zeros_like(theirs[0])
        first.step()
        second.step()
    assert float(mine[0].detach().norm()) == pytest.approx(float(theirs[0].detach().norm()), rel=0.005)
