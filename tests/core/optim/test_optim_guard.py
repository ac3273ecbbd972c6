"""The compiled check before a step: it sees what the check in Python sees, and steps as that does."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import test_optim_notices as notices
import torch
from optim_pairs import PAIRS, feed, make, params_of, same_bits, walk
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

from lrdiff_core.optim import SGD, Adam, AdamW, clip_grad_norms_, clipped_step, guard, kernel
from lrdiff_core.optim.prepared import Prepared

needs_guard = pytest.mark.skipif(guard.load() is None, reason=f"no compiled check: {guard.missing_reason()}")
Kinds = tuple[type[Optimizer], type[Optimizer]]


def guarded(pair: Kinds, **options: Any) -> tuple[Any, Any]:
    """Ours with its check, and torch's, three steps on."""
    both = notices._both(pair, **options)
    walk(*both, 3)  # the first fills momentum, the second prepares anew
    assert both[0]._quick is not None  # type: ignore[attr-defined]
    return both


@pytest.fixture
def no_closer_look(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it, and from then on a closer look is an error."""

    def refuse(*_: Any) -> None:
        raise AssertionError("a closer look was taken")

    return lambda: monkeypatch.setattr(Prepared, "gather", refuse)


@needs_guard
def test_steps_without_a_closer_look(pair: Kinds, no_closer_look: Callable[[], None]) -> None:
    ours, theirs = guarded(pair)
    no_closer_look()
    walk(ours, theirs, 3)
    same_bits(ours, theirs)
    assert ours.forms() == {"kernel": 5}


@needs_guard
def test_a_closure_is_evaluated_and_the_check_asked_after_it(pair: Kinds, no_closer_look: Callable[[], None]) -> None:
    ours, theirs = guarded(pair)
    no_closer_look()
    for seed in range(3):
        told = []
        for optimizer in (ours, theirs):

            def closure(optimizer: Optimizer = optimizer, seed: int = seed) -> float:
                feed(params_of(optimizer), seed=seed)
                return seed + 0.5

            told.append(optimizer.step(closure))
        assert told == [seed + 0.5] * 2
    same_bits(ours, theirs)


@needs_guard
@pytest.mark.parametrize(
    ("schedule", "alone"),
    [
        (lambda o: CosineAnnealingLR(o, T_max=5), True),
        (lambda o: OneCycleLR(o, max_lr=[0.1, 0.5], total_steps=8), False),
    ],
    ids=["rates alone", "betas and momentum, too"],
)
def test_a_schedule_needs_no_closer_look(
    schedule: Any, alone: bool, pair: Kinds, no_closer_look: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = guarded(pair)
    schedulers = [schedule(optimizer) for optimizer in (ours, theirs)]
    no_closer_look()
    if alone:
        monkeypatch.setattr(Prepared, "_tune", lambda *_: pytest.fail("rates are taken over by the check itself"))
    for i in range(5):
        walk(ours, theirs, 1, seed=i)
        for scheduler in schedulers:
            scheduler.step()
    same_bits(ours, theirs)


def partly(pair: Kinds) -> tuple[Any, Any]:
    """Groups of which the one in the middle asks for torch's foreach step; three steps on."""
    options: dict[str, Any] = {"lr": 0.1, **({"momentum": 0.9} if "SGD" in pair[0].__name__ else {})}

    def groups(**more: Any) -> list[dict[str, Any]]:
        params = make(notices.SHAPES)
        middle = {"params": params[1:3], "foreach": True, "fused": None}
        return [{"params": params[:1], **more}, middle, {"params": params[3:], "lr": 0.3, **more}]

    ours, theirs = pair[0](groups(), **options), pair[1](groups(fused=True), **options)
    walk(ours, theirs, 3)
    return ours, theirs


@needs_guard
def test_groups_that_torch_steps_need_no_closer_look_at_the_others(
    pair: Kinds, no_closer_look: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = partly(pair)
    assert ours._quick is not None
    with monkeypatch.context() as patched:
        patched.setattr(Prepared, "gather", lambda *_: pytest.fail("a closer look was taken"))
        schedulers = [OneCycleLR(one, max_lr=[0.1, 0.5, 0.2], total_steps=8) for one in (ours, theirs)]
        for i in range(5):
            walk(ours, theirs, 1, seed=i)
            for scheduler in schedulers:
                scheduler.step()
    same_bits(ours, theirs)
    assert ours.forms() == {"kernel": 3, "torch": 2}
    feed(params_of(ours), params_of(theirs), seed=9)
    clipped_step(ours, 1e-3)  # the three calls
    clip_grad_norms_(theirs, 1e-3)
    theirs.step()
    same_bits(ours, theirs)


@needs_guard
@pytest.mark.parametrize(
    "change", ["group dropped", "group added", "data swapped", "state replaced", "state forgotten"]
)
def test_changes_are_noticed_where_torch_steps_some_groups(change: str, pair: Kinds) -> None:
    ours, theirs = partly(pair)
    assert ours._quick is not None
    for optimizer in (ours, theirs):
        notices.CHANGES[change](optimizer)
        for group in optimizer.param_groups[3:]:
            group["fused"] = True if optimizer is theirs else None
    walk(ours, theirs, 3)
    same_bits(ours, theirs)
    for optimizer in (ours, theirs):
        optimizer.param_groups[0]["lr"], optimizer.param_groups[1]["lr"] = 0.7, 0.6
    walk(ours, theirs, 2)
    same_bits(ours, theirs)


@needs_guard
def test_a_step_of_torchs_that_fails_leaves_groups_and_gradients_as_they_were(pair: Kinds) -> None:
    ours, _ = partly(pair)
    groups = ours.param_groups
    feed(params_of(ours), seed=0)
    del ours.param_groups[1]["lr"]
    with pytest.raises(KeyError, match="lr"):
        ours.step()
    assert ours.param_groups is groups
    assert torch.is_grad_enabled()


@needs_guard
def test_a_rate_that_goes_back_is_seen_by_the_other_check(pair: Kinds) -> None:
    """The check in Python compares with rates that the compiled one has taken over since."""
    ours, theirs = guarded(pair)
    first = ours.param_groups[0]["lr"]  # that the check in Python knows
    for rate, off in ((0.7, False), (first, True), (0.7, True), (first, False)):
        for optimizer in (ours, theirs):
            optimizer.param_groups[0]["lr"] = rate
        with guard.switched_off() if off else nullcontext():
            if off:
                ours._quick = None
            walk(ours, theirs, 2)
    same_bits(ours, theirs)


@pytest.mark.parametrize("name", notices.CHANGES)
def test_change_is_noticed_in_python(name: str, pair: Kinds, form: str) -> None:
    with guard.switched_off():
        notices.test_change_is_noticed(name, pair, form)


class Tagged(torch.Tensor):
    pass


def _swap_tensors(optimizer: Optimizer) -> None:
    param = optimizer.param_groups[0]["params"][2]
    other = torch.nn.Parameter(param.detach() + 1)
    other.grad = torch.ones_like(other)
    torch.utils.swap_tensors(param, other)


def _swap_tensors_of_state(optimizer: Optimizer) -> None:
    (state, *_) = optimizer.state.values()
    name = next(name for name in state if name != "step")
    torch.utils.swap_tensors(state[name], torch.zeros_like(state[name]))


def _share_lazily(optimizer: Optimizer) -> None:
    """The parameter's memory belongs to a copy, too, until one of the two is written."""
    param = optimizer.param_groups[0]["params"][0]
    optimizer.kept_copy = torch._lazy_clone(param.detach())  # type: ignore[attr-defined]


def _grad(make_grad: Callable[[torch.Tensor], Any]) -> Callable[[Optimizer], None]:
    def change(optimizer: Optimizer) -> None:
        param = optimizer.param_groups[0]["params"][2]
        param.grad = make_grad(param.grad)

    return change


def _transpose(optimizer: Optimizer) -> None:
    param = optimizer.param_groups[0]["params"][2]
    param.data = param.data.t()


def _set_found_inf(optimizer: Optimizer) -> None:
    optimizer.found_inf = torch.zeros(1)  # type: ignore[attr-defined]


# Taken over, and stepped.
NUMBERS = {"rate", "rate to zero", "rate to tensor", "weight decay", "state edited"}
SEEN: dict[str, Callable[[Optimizer], Any]] = {
    **{name: change for name, change in notices.CHANGES.items() if name not in NUMBERS},
    "no gradient": _grad(lambda grad: None),
    "a gradient in columns": _grad(lambda grad: grad.t().contiguous().t()),
    "a gradient of another class": _grad(lambda grad: grad.as_subclass(Tagged)),
    "a negated gradient": _grad(lambda grad: torch._neg_view(-grad)),
    "a gradient without memory": _grad(lambda grad: torch._efficientzerotensor(grad.shape)),
    "a sparse gradient": _grad(lambda grad: grad.to_sparse()),
    "a parameter in columns": _transpose,
    "a state emptied": lambda o: next(iter(next(iter(o.state.values())).values())).resize_(0),
    "tensors exchanged": _swap_tensors,
    "tensors of state exchanged": _swap_tensors_of_state,
    "a lazy copy": _share_lazily,
    "one more thing in a state": lambda o: next(iter(o.state.values())).update(extra=torch.zeros(1)),
    "a state for something else": lambda o: o.state.update({"else": {}}),
    "an option gone": lambda o: o.param_groups[0].pop("maximize"),
}  # fmt: skip
WATCHED: dict[str, Callable[[Optimizer], Any]] = {
    "a hook before": lambda o: o.register_step_pre_hook(lambda *_: None),
    "a hook after": lambda o: o.register_step_post_hook(lambda *_: None),
    "a scaler's word": _set_found_inf,
}


@needs_guard
@pytest.mark.parametrize("name", [*SEEN, *WATCHED])
def test_it_refuses_and_does_nothing(name: str, pair: Kinds) -> None:
    ours, _ = guarded(pair)
    check = ours._quick
    feed(params_of(ours), seed=9)
    (SEEN | WATCHED)[name](ours)
    before = [param.detach().clone() for param in params_of(ours)]
    assert check.step(ours) is (False if name in SEEN else None)
    assert all(map(torch.equal, params_of(ours), before))


# After which torch's own step raises, or random sequences have nothing to say.
NOT_IN_SEQUENCES = {
    "data swapped for another dtype", "an option gone", "a state for something else", "tensors exchanged",
    "a state emptied",
}  # fmt: skip


@needs_guard
@pytest.mark.parametrize("seed", range(12))
def test_sequences_of_changes_end_in_the_same_bits_under_both_checks(seed: int, pair: Kinds) -> None:
    """Ours with the compiled check beside ours with that in Python, numbers and all else changing at random."""
    chance = random.Random(seed)
    names = sorted((notices.CHANGES.keys() | SEEN.keys()) - NOT_IN_SEQUENCES)
    both = notices._both(pair)[0], notices._both(pair)[0]
    with_check = 0
    for i in range(24):
        feed(*map(params_of, both), seed=i)
        name = chance.choice(names) if chance.random() < 0.4 and i > 3 else None
        told = []
        for optimizer, off in zip(both, (False, True), strict=True):
            torch.manual_seed(i)
            with guard.switched_off() if off else nullcontext():
                try:
                    if name is not None:
                        (notices.CHANGES | SEEN)[name](optimizer)
                    optimizer.step()
                    told.append("stepped")
                except (RuntimeError, KeyError, IndexError, AttributeError, TypeError) as error:
                    told.append(f"{type(error).__name__} {error}")
        assert told[0] == told[1], (i, name)
        if told[0] != "stepped":  # torch's step cannot go on from here either
            break
        same_bits(*both)
        with_check += both[0]._quick is not None  # type: ignore[attr-defined]
        assert both[1]._quick is None  # type: ignore[attr-defined]
    assert with_check > 0


@needs_guard
def test_a_lazy_copy_keeps_its_numbers(pair: Kinds) -> None:
    ours, theirs = guarded(pair)
    for optimizer in (ours, theirs):
        _share_lazily(optimizer)
    kept = params_of(ours)[0].detach().clone()
    walk(ours, theirs, 2)
    assert torch.equal(ours.kept_copy, kept)
    same_bits(ours, theirs)


@needs_guard
@pytest.mark.parametrize("watch", ["profiler", "dispatch mode", "global hook"])
def test_what_watches_sees_the_step(watch: str) -> None:
    from torch.optim.optimizer import register_optimizer_step_pre_hook
    from torch.utils._python_dispatch import TorchDispatchMode

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args, **(kwargs or {}))

    ours, _ = guarded(PAIRS["AdamW"])
    feed(params_of(ours), seed=0)
    check = ours._quick
    if watch == "profiler":
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]):
            assert check.step(ours) is None
    elif watch == "dispatch mode":
        with Mode():
            assert check.step(ours) is None
    else:
        handle = register_optimizer_step_pre_hook(lambda *_: None)
        assert check.step(ours) is None
        handle.remove()
    assert check.step(ours) is True
    assert ours._quick is check


@needs_guard
def test_gradients_that_change_their_order_for_good_get_a_check_again() -> None:
    ours, theirs = guarded(PAIRS["AdamW"])
    for i in range(5):
        feed(params_of(ours), params_of(theirs), seed=i)
        if i == 2:
            _grad(lambda grad: grad.t().contiguous().t())(ours)
        ours.step()
        theirs.step()
        assert (ours._quick is None) == (i in (2,))
    same_bits(ours, theirs)


@needs_guard
@pytest.mark.parametrize("kind", [SGD, Adam, AdamW])
def test_an_optimizer_in_a_circle_is_let_go(kind: type[Optimizer]) -> None:
    """A parameter that holds its optimizer, which holds the check, which holds the parameter."""
    param: Any = torch.nn.Parameter(torch.ones(3))
    optimizer = kind([param], lr=0.1)
    param.held = optimizer
    param.register_hook(lambda _, held=optimizer: None)
    for _ in range(3):
        feed([param], seed=0)
        optimizer.step()
    assert optimizer._quick is not None  # type: ignore[attr-defined]
    gone = weakref.ref(optimizer)
    del param, optimizer
    gc.collect()
    assert gone() is None


@needs_guard
def test_the_check_counts_no_references_too_many() -> None:
    import sys

    ours, _ = guarded(PAIRS["AdamW"])
    param = params_of(ours)[0]
    counted = [sys.getrefcount(thing) for thing in (None, True, param, param.grad, ours, ours.state)]
    for i in range(100):
        ours.param_groups[0]["lr"] = 0.1 + i
        ours.step()
        ours._quick.step(ours)
    after = [sys.getrefcount(thing) for thing in (None, True, param, param.grad, ours, ours.state)]
    assert all(abs(a - b) < 50 for a, b in zip(counted, after, strict=True))


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"CXX": "/nonexistent/c++"}, "/nonexistent/c++ did not build it: "),
        ({"CXX": "false"}, "false did not build it: "),
    ],
)
def test_without_it_steps_are_checked_in_python(
    variables: dict[str, str], reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    if kernel.load() is None:
        pytest.skip("no C compiler here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    guard.attempt.cache_clear()
    try:
        both = notices._both(PAIRS["AdamW"])
        walk(*both, 4)
        assert both[0]._quick is None  # type: ignore[attr-defined]
        assert str(guard.missing_reason()).startswith(reason)
        same_bits(*both)
    finally:
        monkeypatch.undo()
        guard.attempt.cache_clear()
