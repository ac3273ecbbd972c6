"""Sharded parameters (DTensor): their local parts are stepped by our forms, with the bits of plain tensors."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from optim_pairs import feed, make, params_of
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_tensor, init_device_mesh
from torch.optim import Optimizer

from lrdiff_core.optim import MuonAdamW, clipped_step, guard
from lrdiff_core.optim.memory import shards
from lrdiff_core.optim.rules import muon

Kinds = tuple[type[Optimizer], type[Optimizer]]
SHAPES = [(8, 16), (6,), (4, 3), (1, 2)]


@pytest.fixture(scope="module")
def mesh() -> Iterator[Any]:
    """Of one process: what is sharded is whole, and nothing is sent."""
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def _sharded(mesh: Any, placement: Placement, param: Tensor) -> nn.Parameter:
    return nn.Parameter(distribute_tensor(param.detach().clone(), mesh, [placement]))


def _feed_shards(optimizer: Optimizer, seed: int) -> None:
    """The gradients that ``feed`` gives to plain tensors."""
    generator = torch.Generator().manual_seed(seed)
    for param in params_of(optimizer):
        assert isinstance(param, DTensor)
        grad = torch.randn(param.shape, generator=generator)
        param.grad = distribute_tensor(grad, param.device_mesh, param.placements)


def _options(pair: Kinds) -> dict[str, Any]:
    return {"momentum": 0.9} if "SGD" in pair[0].__name__ else {"amsgrad": True}


def _groups(params: list[Tensor]) -> list[dict[str, Any]]:
    return [{"params": [param], "lr": 0.1 / (i + 1)} for i, param in enumerate(params)]


def _both(pair: Kinds, mesh: Any, placement: Placement) -> tuple[Any, Any]:
    """Ours over shards, and over the same numbers as plain tensors."""
    options = _options(pair)
    sharded = [_sharded(mesh, placement, param) for param in make(SHAPES)]
    return pair[0](_groups(sharded), lr=0.1, **options), pair[0](_groups(make(SHAPES)), lr=0.1, **options)


def _walk(ours: Optimizer, plain: Optimizer, steps: int) -> None:
    for i in range(steps):
        _feed_shards(ours, seed=i)
        feed(params_of(plain), seed=i)
        ours.step()
        plain.step()


def _same_bits(ours: Optimizer, plain: Optimizer) -> None:
    for mine, other in zip(params_of(ours), params_of(plain), strict=True):
        assert isinstance(mine, DTensor)
        assert torch.equal(mine.full_tensor(), other)
        for name, value in ours.state[mine].items():
            assert isinstance(value, DTensor) == (name != "step")
            assert torch.equal(value.full_tensor() if isinstance(value, DTensor) else value, plain.state[other][name])


@pytest.mark.parametrize("placement", [Shard(0), Shard(-1), Replicate()], ids=str)
def test_the_local_parts_are_stepped(placement: Placement, pair: Kinds, mesh: Any, form: str) -> None:
    ours, plain = _both(pair, mesh, placement)
    _walk(ours, plain, 4)
    assert ours.forms() == {form: len(SHAPES)}
    _same_bits(ours, plain)


@pytest.mark.skipif(guard.load() is None, reason=f"no compiled check: {guard.missing_reason()}")
@pytest.mark.parametrize("name", [None, "another local part", "data of the local part", "no gradient", "division"])
def test_the_compiled_check_knows_shards(name: str | None, pair: Kinds, mesh: Any) -> None:
    """It steps them while nothing has changed, and refuses what has."""
    ours, plain = _both(pair, mesh, Shard(0))
    spec = params_of(ours)[0]._spec  # type: ignore[attr-defined]
    for i in range(6):
        _feed_shards(ours, seed=i)
        feed(params_of(plain), seed=i)
        for param in params_of(ours):  # as FSDP does
            param.grad._spec = param._spec  # type: ignore[union-attr, attr-defined]
        check = ours._quick
        assert i < 3 or check is not None
        if i < 5:
            ours.step()
            plain.step()
            assert i < 3 or ours._quick is check
    _same_bits(ours, plain)
    version = params_of(ours)[0]._version
    if name == "division":
        params_of(ours)[0].grad._spec = copy.copy(spec)  # type: ignore[union-attr, attr-defined]
    elif name is not None:
        CHANGES[name](params_of(ours)[0])
    assert check.step(ours) is (name is None)
    if name is None:
        assert params_of(ours)[0]._version == version + 1
        plain.step()
        _same_bits(ours, plain)


def test_clipping_by_one_norm_over_all_processes(pair: Kinds, mesh: Any) -> None:
    ours, plain = _both(pair, mesh, Shard(0))
    for i in range(6):
        _feed_shards(ours, seed=i)
        feed(params_of(plain), seed=i)
        (mine,), (other,) = (clipped_step(optimizer, 0.5, by="all").values() for optimizer in (ours, plain))
        assert isinstance(mine, DTensor)  # torch's function made it
        torch.testing.assert_close(mine.full_tensor(), other)
    for sharded, param in zip(params_of(ours), params_of(plain), strict=True):
        torch.testing.assert_close(sharded.full_tensor(), param, rtol=1e-5, atol=1e-6)  # type: ignore[attr-defined]


def test_numbers_are_those_of_torch(pair: Kinds, mesh: Any, form: str) -> None:
    options = _options(pair)
    ours, theirs = (
        kind(_groups([_sharded(mesh, Shard(0), p) for p in make(SHAPES)]), lr=0.1, **options) for kind in pair
    )
    for i in range(3):
        for optimizer in (ours, theirs):
            _feed_shards(optimizer, seed=i)
            optimizer.step()
    for mine, other in zip(params_of(ours), params_of(theirs), strict=True):
        torch.testing.assert_close(mine.full_tensor(), other.full_tensor(), rtol=1e-6, atol=1e-6)  # type: ignore[attr-defined]
        assert ours.state[mine].keys() == theirs.state[other].keys()


def test_the_state_is_saved_and_loaded_as_torchs(pair: Kinds, mesh: Any, form: str) -> None:
    """From torch's optimizer to ours and back, DTensors all the way."""
    options = _options(pair)
    theirs = pair[1](_groups([_sharded(mesh, Shard(0), p) for p in make(SHAPES)]), lr=0.1, **options)
    ours, plain = _both(pair, mesh, Shard(0))
    _walk(theirs, plain, 1)
    _walk(ours, theirs_plain := pair[0](_groups(make(SHAPES)), lr=0.1, **options), 1)
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    _walk(ours, theirs_plain, 2)
    assert ours.forms() == {form: len(SHAPES)}
    saved, other = ours.state_dict(), theirs.state_dict()
    assert saved["param_groups"][0].keys() == other["param_groups"][0].keys()
    for number, held in saved["state"].items():
        for name, value in held.items():
            assert type(value) is type(other["state"][number][name])
            if isinstance(value, DTensor):
                assert value.placements == other["state"][number][name].placements
    theirs.load_state_dict(saved)
    theirs.step()


def _other_local(param: Any) -> None:
    param._local_tensor = param._local_tensor + 1


def _other_local_in_columns(param: Any) -> None:
    local = param._local_tensor
    param._local_tensor = local.t().contiguous().t()


def _data_of_local(param: Any) -> None:
    param._local_tensor.data = param._local_tensor * 2


CHANGES: dict[str, Callable[[Any], None]] = {
    "another local part": _other_local,
    "a local part in columns": _other_local_in_columns,
    "data of the local part": _data_of_local,
    "no gradient": lambda param: setattr(param, "grad", None),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changes_are_noticed(name: str, pair: Kinds, mesh: Any, form: str) -> None:
    ours, theirs = (
        kind(_groups([_sharded(mesh, Shard(0), p) for p in make(SHAPES)]), lr=0.1, **_options(pair)) for kind in pair
    )
    for i in range(6):
        for optimizer in (ours, theirs):
            _feed_shards(optimizer, seed=i)
            if i == 3:
                CHANGES[name](params_of(optimizer)[0])
            optimizer.step()
    for mine, other in zip(params_of(ours), params_of(theirs), strict=True):
        torch.testing.assert_close(mine.full_tensor(), other.full_tensor(), rtol=1e-6, atol=1e-6)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("param", "grad"), [(Replicate(), Partial()), (Shard(0), Replicate()), (Shard(1), Shard(0))], ids=str
)
def test_what_is_divided_otherwise_is_left_to_torch(param: Placement, grad: Placement, mesh: Any, pair: Kinds) -> None:
    """Torch's own step makes the sum, or divides anew; ours would step each part with numbers of another one."""
    results = []
    for kind in pair:
        held = _sharded(mesh, param, torch.ones(4, 2))
        optimizer = kind([held], lr=0.1)
        for _ in range(2):
            held.grad = DTensor.from_local(torch.ones(4, 2), mesh, [grad])
            optimizer.step()
        results.append(held.full_tensor())  # type: ignore[attr-defined]
        assert kind is not pair[0] or optimizer.forms() == {"torch": 1}  # type: ignore[attr-defined]
    assert torch.equal(*results)


def test_autograd_learns_of_the_step(pair: Kinds, mesh: Any) -> None:
    param = _sharded(mesh, Shard(0), torch.ones(3))
    optimizer = pair[0]([param], lr=0.1)
    loss = (param**3).sum()
    param.grad = distribute_tensor(torch.ones(3), mesh, [Shard(0)])
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_model_under_fsdp_trains_as_without(pair: Kinds, mesh: Any, form: str) -> None:
    results = []
    for wrap in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
        if wrap:
            for layer in (model[0], model[2]):
                fully_shard(layer, mesh=mesh)
            fully_shard(model, mesh=mesh)
        groups = [{"params": list(layer.parameters()), "lr": lr} for layer, lr in ((model[0], 0.01), (model[2], 0.1))]
        optimizer = pair[0](groups, lr=0.1, **_options(pair))
        for i in range(4):
            optimizer.zero_grad()
            model(torch.randn(5, 6, generator=torch.Generator().manual_seed(i))).square().sum().backward()
            optimizer.step()
        assert optimizer.forms() == {form: 4}  # type: ignore[attr-defined]
        assert all(isinstance(param, DTensor) == wrap for param in model.parameters())
        results.append([p.full_tensor() if isinstance(p, DTensor) else p.detach() for p in model.parameters()])
    for mine, other in zip(*results, strict=True):
        assert torch.equal(mine, other)


def test_a_part_on_its_way_is_waited_for(mesh: Any) -> None:
    from torch.distributed._functional_collectives import AsyncCollectiveTensor

    whole = torch.arange(3.0)
    held = DTensor.from_local(whole, mesh, [Replicate()])
    held._local_tensor = AsyncCollectiveTensor(whole)
    (part,) = shards.local_parts([held])
    assert type(part) is Tensor
    assert torch.equal(part, whole)


TWO_PROCESSES = """
import sys, torch, torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import init_device_mesh
from lrdiff_core.optim import AdamW
rank, path = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", rank=rank, world_size=2, init_method="file://" + path)
mesh = init_device_mesh("cpu", (2,))
def trained(wrap):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 7), torch.nn.Tanh(), torch.nn.Linear(7, 3))
    if wrap:
        fully_shard(model, mesh=mesh)
    groups = [{"params": list(model[i].parameters()), "lr": lr} for i, lr in ((0, 0.01), (2, 0.1))]
    optimizer = AdamW(groups)
    for i in range(3):
        optimizer.zero_grad()
        rows = torch.randn(4, 6, generator=torch.Generator().manual_seed(i))
        model(rows).square().mean().backward()  # the same rows everywhere: the mean over processes is the same
        optimizer.step()
    assert optimizer.forms() == {"kernel": 4} or "fused" in optimizer.forms(), optimizer.forms()
    return [p.full_tensor() if wrap else p.detach() for p in model.parameters()]
for mine, other in zip(trained(True), trained(False)):
    torch.testing.assert_close(mine, other, rtol=0, atol=0)
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_hold_a_part_each(tmp_path: Any) -> None:
    """Seven rows in two parts: one is shorter. Gradients are averaged over both processes."""
    script = tmp_path / "train.py"
    script.write_text(TWO_PROCESSES)
    both = [
        subprocess.Popen([sys.executable, script, str(rank), str(tmp_path / "meet")], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    for process in both:
        _, told = process.communicate(timeout=120)
        assert process.returncode == 0, told


@pytest.mark.parametrize("placement", [Shard(0), Shard(1), Replicate()])
def test_muon_makes_directions_of_whole_matrices(
    mesh: Any, placement: Placement, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In parts, bfloat16 adds in another order: with rows that do not divide, another direction."""
    seen = []

    def noted(matrices: Tensor, *how: Any) -> Tensor:
        seen.append(type(matrices))
        return orthogonalize(matrices, *how)

    orthogonalize = muon.orthogonalize
    monkeypatch.setattr(muon, "orthogonalize", noted)
    sharded = MuonAdamW(
        [_sharded(mesh, placement, torch.ones(7, 5)), _sharded(mesh, placement, torch.ones(5, 7))], use_muon=True
    )
    plain = MuonAdamW([nn.Parameter(torch.ones(7, 5)), nn.Parameter(torch.ones(5, 7))], use_muon=True)
    for seed in range(2):
        _feed_shards(sharded, seed)
        for mine, other in zip(params_of(sharded), params_of(plain), strict=True):
            other.grad = mine.grad.full_tensor()  # type: ignore[union-attr]
        sharded.step()
        plain.step()
    assert set(seen) == {Tensor}
    for mine, other in zip(params_of(sharded), params_of(plain), strict=True):
        assert torch.equal(mine.full_tensor(), other)  # type: ignore[attr-defined]
