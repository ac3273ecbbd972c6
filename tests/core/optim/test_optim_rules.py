"""The rules that the compiled kernel has beside torch's fused ones: every one of them does what an optimizer has to."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import test_optim_notices as notices
import torch
import torch.distributed as dist
from optim_pairs import PAIRS, RULES, SHAPES, Bound, Rule, feed, make, params_of, same_bits, trained, walk
from torch.distributed.tensor import DTensor, Shard, distribute_tensor, init_device_mesh
from torch.optim import Optimizer

from lrdiff_core import optim
from lrdiff_core.errors import OptimizerError
from lrdiff_core.optim import Lion, RMSprop, ScheduleFreeAdamW, clip_grad_norms_, clipped_step, guard, kernel
from lrdiff_core.optim.kernel_rule import PlainLoop
from lrdiff_core.optimizers import OPTIMIZERS

needs_kernel = pytest.mark.skipif(kernel.load() is None, reason=f"no kernel: {kernel.missing_reason()}")
WIDE = [(4, 16), (32,), (64, 64), (48, 2), (16,)]  # whole vectors: beside them torch rounds otherwise
STEPS = 12  # RAdam's rectification begins at the sixth


@pytest.fixture(params=list(RULES))
def rule(request: pytest.FixtureRequest) -> Rule:
    return RULES[request.param]


def _both(rule: Rule, shapes: Any = None, dtype: torch.dtype = torch.float32, **options: Any) -> tuple[Any, Any]:
    """Ours, and what steps where the kernel does not."""
    shapes = rule.shapes if shapes is None else shapes
    return trained(rule.ours, make(shapes, dtype), **options), trained(rule.slow, make(shapes, dtype), **options)


def _close(ours: Optimizer, theirs: Optimizer, rtol: float = 1e-5, atol: float = 3e-6) -> None:
    for mine, other in zip(params_of(ours), params_of(theirs), strict=True):
        torch.testing.assert_close(mine, other, rtol=rtol, atol=atol)
        a, b = ours.state.get(mine, {}), theirs.state.get(other, {})
        assert list(a) == list(b)
        for name in a:
            assert a[name].dtype is b[name].dtype
            torch.testing.assert_close(a[name], b[name], rtol=rtol, atol=1e-5)


def test_every_optimizer_is_in_a_table() -> None:
    """So that it is tested on the day that it is added."""
    tested = {**PAIRS, **RULES, "MuonAdamW": None}
    public = {name: getattr(optim, name) for name in optim.__all__}
    made = {name for name, one in public.items() if isinstance(one, type) and issubclass(one, Optimizer)}
    assert made == tested.keys() == {entry.kind for entry in OPTIMIZERS.values()}


@needs_kernel
@pytest.mark.parametrize(("name", "options"), [(n, o) for n, rule in RULES.items() for o in rule.options], ids=str)
def test_numbers_are_those_of_its_oracle(name: str, options: dict[str, Any]) -> None:
    """To the bit where the arithmetic allows; else as near to float64 as the oracle, but for eight roundings a step."""
    rule = RULES[name]
    if rule.oracle is None:
        pytest.skip("schedulefree is not installed: pip install schedulefree")
    ours = trained(rule.ours, make(WIDE), **options)
    theirs = trained(rule.oracle, make(WIDE), **options, **(rule.bits or {}))
    if rule.bits is not None:
        walk(ours, theirs, STEPS)
        same_bits(ours, theirs)
        return
    exact = trained(rule.oracle, [torch.nn.Parameter(p.detach().double()) for p in make(WIDE)], **options)
    bound = Bound()
    for i in range(STEPS):
        feed(params_of(ours), params_of(theirs), params_of(exact), seed=i)
        grads = [p.grad.double() for p in params_of(ours)]  # type: ignore[union-attr]
        for param, grad in zip(params_of(exact), grads, strict=True):
            param.grad = grad.clone()
        for optimizer in (ours, theirs, exact):
            optimizer.step()
        for at, (p, q, e) in enumerate(zip(*map(params_of, (ours, theirs, exact)), strict=True)):
            bound.check(at, p, q, e, grads[at])
            for key in theirs.state[q]:
                bound.check((at, key), ours.state[p][key], theirs.state[q][key], exact.state[e][key], grads[at])
    assert ours.forms() == {"kernel": len(WIDE)}


@needs_kernel
def test_no_bit_depends_on_threads_or_groups(rule: Rule) -> None:
    shapes = [(400_001,), (7,), (300, 301)]
    results = []
    for count in (1, 3):
        torch.set_num_threads(count)
        params = make(shapes)
        optimizer = trained(rule.ours, params, rates=(0.01,) * count, **rule.options[-1])
        for i in range(2):
            feed(params, seed=i)
            optimizer.step()
        results.append(params)
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_what_the_kernel_does_not_take_is_stepped_by_the_slow_class(rule: Rule, dtype: torch.dtype) -> None:
    ours, theirs = _both(rule, dtype=dtype)
    walk(ours, theirs, 3)
    if set(ours.forms()) != {"fused"}:  # Adagrad in float64
        assert ours.forms() == {"torch": len(rule.shapes)}
        same_bits(ours, theirs)
    _close(ours, theirs)


def test_without_a_kernel_the_slow_class_steps(rule: Rule) -> None:
    with kernel.switched_off():
        ours, theirs = _both(rule, **rule.options[-1])
        walk(ours, theirs, 3)
    assert "kernel" not in ours.forms()
    _close(ours, theirs)


@needs_kernel
@pytest.mark.parametrize("change", [*notices.CHANGES, "a number"])
def test_changes_are_noticed(rule: Rule, change: str) -> None:
    options = {"momentum": 0.9, "centered": True} if rule.ours is RMSprop else {}  # torch cannot begin a buffer later
    ours, theirs = _both(rule, notices.SHAPES, **options)
    number = next(name for name in ("alpha", "betas", "lr_decay", "beta2_decay") if name in ours.defaults)
    value = {"betas": (0.5, 0.6), "beta2_decay": -0.3}.get(number, 0.3)
    walk(ours, theirs, 3)
    for optimizer in (ours, theirs):
        ({**notices.CHANGES, "a number": notices._set(number, value)})[change](optimizer)
    walk(ours, theirs, 3)
    for mine, other in zip(params_of(ours), params_of(theirs), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_a_checkpoint_goes_either_way(rule: Rule) -> None:
    ours, theirs = _both(rule, **rule.options[-1])
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


@pytest.mark.parametrize("name", ["NAdam", "ScheduleFreeAdamW"])
def test_counters_are_loaded_as_they_were_saved(name: str) -> None:
    """Torch loads all but the step in the parameter's dtype: bfloat16 holds no count above 256."""
    ours, _ = _both(RULES[name], dtype=torch.bfloat16)
    walk(ours, ours, 3)
    counter = ours._update.counters[-1]
    for state in ours.state.values():
        state[counter].fill_(1001)
    ours.load_state_dict(copy.deepcopy(ours.state_dict()))
    assert {(float(state[counter]), state[counter].dtype) for state in ours.state.values()} == {(1001.0, torch.float32)}


def test_the_state_of_another_kind_is_refused(rule: Rule) -> None:
    """What begins with other counters or buffers, that is: RAdam goes on from the moments of Adam."""
    other = trained(torch.optim.Adadelta, make())
    feed(params_of(other), seed=0)
    other.step()
    ours, _ = _both(rule)
    with pytest.raises(OptimizerError, match="another kind of optimizer"):
        ours.load_state_dict(other.state_dict())


def test_closure(rule: Rule) -> None:
    for optimizer in _both(rule):
        params = params_of(optimizer)

        def closure(optimizer: Any = optimizer, params: list[torch.Tensor] = params) -> torch.Tensor:
            optimizer.zero_grad()
            loss = torch.stack([p.square().sum() for p in params]).sum()
            loss.backward()
            return loss

        losses = [float(optimizer.step(closure).detach()) for _ in range(4)]
        assert losses == sorted(losses, reverse=True)
        assert losses[-1] < losses[0]


@pytest.mark.skipif(guard.load() is None, reason=f"no compiled check: {guard.missing_reason()}")
def test_clip_step_and_zero_in_one_call(rule: Rule) -> None:
    one, three = (_both(rule, **rule.options[-1])[0] for _ in range(2))
    for i in range(5):
        feed(params_of(one), params_of(three), seed=i)
        norms = clip_grad_norms_(three, 0.1)
        three.step()
        assert clipped_step(one, 0.1) == norms
    assert one._quick is not None
    same_bits(one, three)


@pytest.fixture(scope="module")
def mesh() -> Iterator[Any]:
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@needs_kernel
def test_shards_are_stepped_by_their_local_parts(rule: Rule, mesh: Any) -> None:
    if rule.rows:
        pytest.skip("torch's class, which would step it, steps no DTensor")
    shapes = [(8, 16), (6,), (4, 3)]
    plain = trained(rule.ours, make(shapes), **rule.options[-1])
    parts = [torch.nn.Parameter(distribute_tensor(p.detach().clone(), mesh, [Shard(0)])) for p in make(shapes)]
    sharded = trained(rule.ours, parts, **rule.options[-1])
    for i in range(5):
        feed(params_of(plain), seed=i)
        for mine, other in zip(params_of(sharded), params_of(plain), strict=True):
            mine.grad = distribute_tensor(other.grad.clone(), mesh, [Shard(0)])  # type: ignore[union-attr]
        plain.step()
        sharded.step()
    assert sharded.forms() == {"kernel" if rule.divided else "torch": len(shapes)}
    for mine, other in zip(params_of(sharded), params_of(plain), strict=True):
        assert isinstance(mine, DTensor)
        tolerance = {"rtol": 0.0, "atol": 0.0} if rule.divided else {}
        torch.testing.assert_close(mine.full_tensor(), other.detach(), **tolerance)  # type: ignore[arg-type]
        for name, value in sharded.state[mine].items():
            assert isinstance(value, DTensor) == (name not in rule.ours._update.counters)  # type: ignore[attr-defined]


@needs_kernel
def test_order_in_memory_changes_no_bit(rule: Rule) -> None:
    """Channels last, transposed, and a gradient in columns for a parameter in rows."""

    def orders(params: list[torch.Tensor]) -> list[torch.Tensor]:
        image, matrix, other = params
        return [
            torch.nn.Parameter(image.detach().to(memory_format=torch.channels_last)),
            torch.nn.Parameter(matrix.detach().t().contiguous().t()),
            torch.nn.Parameter(other.detach()),
        ]

    shapes = [(2, 3, 4, 5), (6, 7), (8, 9)]
    odd, rows = (trained(rule.ours, params, **rule.options[-1]) for params in (orders(make(shapes)), make(shapes)))
    for i in range(4):
        feed(params_of(rows), seed=i)
        for mine, other in zip(params_of(odd), params_of(rows), strict=True):
            mine.grad = other.grad.clone()  # type: ignore[union-attr]
            if mine.shape == (8, 9):
                mine.grad = other.grad.t().contiguous().t()  # type: ignore[union-attr]
        odd.step()
        rows.step()
    if rule.rows:
        assert odd.forms() == {"kernel": 1, "torch": 2}
        _close(odd, rows)
    else:
        assert odd.forms() == {"kernel": len(shapes)}
        assert all(map(torch.equal, params_of(odd), params_of(rows)))


@pytest.mark.slow
@needs_kernel
@pytest.mark.parametrize("name", ["Lion", pytest.param("ScheduleFreeAdamW", marks=pytest.mark.long)])
def test_a_compiled_step_is_the_slow_class(name: str) -> None:
    import torch._dynamo

    torch._dynamo.reset()
    ours, theirs = _both(RULES[name], [(4, 4), (3,)])
    compiled = torch.compile(ours.step, backend="eager")
    for i in range(3):
        feed(params_of(ours), params_of(theirs), seed=i)
        compiled()
        theirs.step()
    assert ours.forms() == {}
    _close(ours, theirs)
    torch._dynamo.reset()


# What single rules are about


@needs_kernel
def test_momentum_that_appears_later_is_refused_as_by_torch() -> None:
    for optimizer in _both(RULES["RMSprop"]):
        feed(params_of(optimizer), seed=0)
        optimizer.step()
        optimizer.param_groups[0]["momentum"] = 0.9
        with pytest.raises(KeyError, match="momentum_buffer"):
            optimizer.step()


@pytest.mark.parametrize(
    "options", [{"lr": -1.0}, {"betas": (1.0, 0.9)}, {"betas": (0.9, -0.1)}, {"weight_decay": -1.0}], ids=str
)
@pytest.mark.parametrize("kind", [Lion, ScheduleFreeAdamW])
def test_numbers_out_of_their_intervals_are_refused(kind: type[Optimizer], options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="Invalid"):
        kind(make(), **options)


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if issubclass(rule.ours, PlainLoop)])
def test_sparse_gradients_are_refused_by_name(name: str) -> None:
    table = torch.nn.Embedding(4, 2, sparse=True)
    optimizer = trained(RULES[name].ours, list(table.parameters()), rates=(0.01,))
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match=f"{name} does not support sparse gradients"):
        optimizer.step()


# One block of several matrices, several of them; one matrix of several blocks, two of them; rows longer than a block.
BLOCKS = [(40, 3, 3), (3000, 3, 3), (7, 128, 128), (300, 100), (2, 300, 100), (3000, 40), (3, 20_000), (2, 1, 20_000)]


@needs_kernel
@pytest.mark.parametrize("shape", BLOCKS, ids=str)
def test_adafactor_steps_matrices_of_every_size(shape: tuple[int, ...]) -> None:
    rule = RULES["Adafactor"]
    ours, exact = trained(rule.ours, make([shape])), make([shape], torch.float64)[0].detach()
    state: dict[str, Any] = {}
    for i in range(2):
        feed(params_of(ours), seed=i)
        (param,) = params_of(ours)
        exact = rule.twin(exact, param.grad, state, lr=0.01)
        ours.step()
    assert ours.forms() == {"kernel": 1}
    torch.testing.assert_close(param.double(), exact, rtol=1e-6, atol=1e-7)
    for name in ("row_var", "col_var"):
        torch.testing.assert_close(ours.state[param][name].double(), state[name], rtol=1e-6, atol=0)


def test_adafactor_leaves_out_what_has_no_numbers(form: str) -> None:
    """Torch's class divides by their count."""
    for shapes in ([(0,), (4,)], [(0, 3), (4, 3)]):
        with_none, without = (trained(RULES["Adafactor"].ours, make(s), rates=(0.01,)) for s in (shapes, shapes[1:]))
        for i in range(3):
            feed(params_of(without), seed=i)
            for param in params_of(with_none):
                param.grad = torch.ones_like(param) if not param.numel() else params_of(without)[0].grad
            with_none.step()
            without.step()
        params_of(without)[0].detach().sub_(params_of(with_none)[1])
        assert not params_of(without)[0].any()


@needs_kernel
def test_adafactor_takes_numbers_that_are_not_finite_as_torch_does() -> None:
    for bad in (float("nan"), float("inf")):
        for where in ("param", "grad"):
            ours, theirs = _both(RULES["Adafactor"], [(4, 16), (32,)])
            feed(params_of(ours), params_of(theirs), seed=0)
            for optimizer in (ours, theirs):
                for param in params_of(optimizer):
                    (param.detach() if where == "param" else param.grad).view(-1)[3] = bad  # type: ignore[union-attr]
                optimizer.step()
            for mine, other in zip(params_of(ours), params_of(theirs), strict=True):
                torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6, equal_nan=True)


def test_the_average_is_what_the_paper_says(form: str) -> None:
    """x, y and z of the plain twin, through evaluations in between."""
    rule = RULES["ScheduleFreeAdamW"]
    optimizer = trained(rule.ours, make(), rates=(0.01,), **rule.options[-1])
    params, states = params_of(optimizer), [{} for _ in SHAPES]  # type: ignore[var-annotated]
    twins = [p.detach().double() for p in params]
    for i in range(6):
        feed(params, seed=i)
        optimizer.step()
        for at, param in enumerate(params):
            twins[at] = rule.twin(twins[at], param.grad, states[at], lr=0.01, **rule.options[-1])
        optimizer.eval()
        for param, state in zip(params, states, strict=True):
            torch.testing.assert_close(param.detach().double(), state["x"], rtol=0, atol=1e-5)
        with pytest.raises(OptimizerError, match="set to be evaluated"):
            optimizer.step()
        optimizer.eval()  # a second time changes nothing
        optimizer.train()
        for param, twin in zip(params, twins, strict=True):
            torch.testing.assert_close(param.detach().double(), twin, rtol=0, atol=1e-5)


def test_a_checkpoint_of_the_authors_goes_on() -> None:
    rule = RULES["ScheduleFreeAdamW"]
    if rule.oracle is None:
        pytest.skip("schedulefree is not installed: pip install schedulefree")
    ours, theirs = (trained(kind, make(), **rule.options[-1]) for kind in (rule.ours, rule.oracle))
    walk(ours, theirs, 6)
    for mine, other in zip(params_of(ours), params_of(theirs), strict=True):
        mine.detach().copy_(other)
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    walk(ours, theirs, 4)
    for mine, other in zip(params_of(ours), params_of(theirs), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=3e-6)
