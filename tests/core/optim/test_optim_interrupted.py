"""A signal handler that raises in the middle of a step: the next step works, and a step counts wholly or not at all."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
import torch
from optim_pairs import feed, make, params_of
from torch.optim import Optimizer

from lrdiff_core.optim import SGD, Adafactor, Adam, AdamW, MuonAdamW, NAdam, RMSprop

SHAPES = [(5, 16), (7,), (3, 4)]
PLACES = 60  # at which a step is broken off, spread over all of its bytecode


def two_groups(kind: type[Optimizer], dtype: torch.dtype = torch.float32, **options: Any) -> Optimizer:
    params = make(SHAPES, dtype)
    first = {"params": params[::2], "use_muon": True} if kind is MuonAdamW else {"params": params[::2], "lr": 0.02}
    return kind([first, {"params": params[1:2]}], lr=0.1, **options)


OPTIMIZERS: dict[str, tuple[Callable[[], Optimizer], bool]] = {  # and whether one call does a whole step
    "SGD": (lambda: two_groups(SGD, momentum=0.9, dampening=0.5), True),
    "Adam": (lambda: two_groups(Adam, amsgrad=True), True),
    "AdamW": (lambda: two_groups(AdamW), True),
    "RMSprop": (lambda: two_groups(RMSprop, momentum=0.9, centered=True), True),
    "NAdam": (lambda: two_groups(NAdam), True),
    "Adafactor": (lambda: two_groups(Adafactor), True),
    "Adafactor, torch's step": (lambda: two_groups(Adafactor, foreach=False), False),
    "AdamW, bfloat16": (lambda: two_groups(AdamW, torch.bfloat16), False),
    "AdamW, torch's step": (lambda: two_groups(AdamW, foreach=False), False),
    "SGD, torch's step": (lambda: two_groups(SGD, momentum=0.9, foreach=True), False),
    "MuonAdamW": (lambda: two_groups(MuonAdamW), False),
}


class SignalError(Exception):
    pass


def step(optimizer: Optimizer, until: int | None) -> int:
    """Step; raise where a signal handler could, before the bytecode of this number. Returns how many there were."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        if count == until:
            raise SignalError
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        optimizer.step()
    finally:
        sys.settrace(before)
    return count


def after_steps(make_optimizer: Callable[[], Optimizer], steps: int, *, forgetful: bool = False) -> list[torch.Tensor]:
    optimizer = make_optimizer()
    feed(params_of(optimizer), seed=0)
    for _ in range(steps):
        optimizer.step()
        if forgetful:
            optimizer.state.clear()
    return [param.detach() for param in params_of(optimizer)]


@pytest.mark.parametrize("begun", [False, True], ids=["first step", "later step"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_next_step_works_wherever_one_is_broken_off(name: str, begun: bool) -> None:
    make_optimizer, whole = OPTIMIZERS[name]

    def start() -> Optimizer:
        optimizer = make_optimizer()
        feed(params_of(optimizer), seed=0)
        if begun:
            optimizer.step()
        return optimizer

    start()  # what is imported and compiled once is no part of a step
    total = step(start(), None)
    legal = [after_steps(make_optimizer, steps) for steps in (1 + begun, 2 + begun)]
    legal += [after_steps(make_optimizer, 2, forgetful=True)]  # a first momentum that was not kept yet
    broken = 0
    for place in range(1, total + 1, max(1, total // PLACES)):
        optimizer = start()
        groups = [dict(group) for group in optimizer.param_groups]
        try:
            step(optimizer, place)
        except SignalError:
            broken += 1
            assert torch.is_grad_enabled(), place
            assert [dict(group) for group in optimizer.param_groups] == groups, place
            optimizer.step()
            now = [param.detach() for param in params_of(optimizer)]
            if whole:
                assert any(all(map(torch.equal, now, then)) for then in legal), place
            optimizer.state_dict()
            optimizer.step()
    assert broken, "no step was broken off"
