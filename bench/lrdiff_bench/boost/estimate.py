"""What torch's own step would have taken: timed after the script, on tensors of the same shapes, beside ours.

Caches are emptied before each step, which is how a step finds them after a forward and backward pass. The script's own
steps are timed where they happen; from here comes only the ratio of the two.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from lrdiff_bench.boost.record import Layout, Record
from lrdiff_bench.boost.twins import Twin, kind_of
from lrdiff_bench.measure.cases.state import evict_caches, restore_tensors, state_tensors
from lrdiff_bench.measure.engine.case import Case, Workload
from lrdiff_bench.measure.engine.timer import Timer
from lrdiff_bench.system.machine import pinned

__all__ = ["COVERED", "ratio_of_steps"]

COVERED = 0.8  # of our seconds must be in the optimizers that are timed
MOST_TIMED = 3
SAMPLES = 3
WARMUP_SECONDS = 0.2
COPIES = 16  # sets of the parameters' bytes: parameters, gradients, two moments, and what puts them back, on both sides


def ratio_of_steps(records: Sequence[Record]) -> float | str:
    """How many times as long as ours torch's own steps take, over all optimizers of a script; or why nobody can say.

    Call it while ours is installed: the step of torch's classes is then ours.

    Args:
        records: of the optimizers that were replaced, with seconds.
    """
    whole = sum(record.seconds for record in records)
    timed = sorted((r for r in records if r.layout and r.seconds), key=lambda r: -r.seconds)[:MOST_TIMED]
    if any(record.left for record in records):
        return "some tensors of the same steps are left to torch"
    if not whole or sum(record.seconds for record in timed) < COVERED * whole:
        return "too many optimizers took the steps to time them one by one"
    free = _free_bytes()
    if free is not None and any(COPIES * record.layout.size > free for record in timed if record.layout):
        return "there is not enough memory for copies"
    with pinned(torch.get_num_threads()):
        total = sum(record.seconds * _ratio(record.layout) for record in timed if record.layout)
    return total / sum(record.seconds for record in timed)


def _ratio(layout: Layout) -> float:
    sides = [Timer(_case(layout, ours=ours), warmup_seconds=WARMUP_SECONDS) for ours in (True, False)]
    for side in sides:
        side.warm_up()
    for _ in range(SAMPLES):
        for side in sides:
            side.sample()
    ours, theirs = (float(np.median(side.seconds)) for side in sides)
    return theirs / ours


def _case(layout: Layout, *, ours: bool) -> Case:
    return Case(name="boost", parameters={"ours": ours}, version="1", factory=partial(_workload, layout, ours=ours))


def _workload(layout: Layout, *, ours: bool) -> Workload:
    optimizer = _build(layout)
    kind = kind_of(optimizer)
    assert kind is not None, "layouts are of what twins have stepped"
    theirs = torch.optim.Optimizer.profile_hook_step(Twin.theirs[kind])
    step: Callable[[], Any] = optimizer.step if ours else partial(theirs, optimizer)
    step()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return Workload(step=step, reset=restore_tensors([*parameters, *state_tensors(optimizer)]), before=evict_caches)


def _build(layout: Layout) -> torch.optim.Optimizer:
    generator = torch.Generator().manual_seed(0)

    def filled(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    groups = []
    for options, shapes in layout.groups:
        params = [torch.nn.Parameter(filled(shape, dtype)) for shape, dtype in shapes]
        for param in params:
            param.grad = filled(tuple(param.shape), param.dtype)
        groups.append({**options, "params": params})
    kind: Any = getattr(torch.optim, layout.kind)
    made: torch.optim.Optimizer = kind(groups, lr=0.0)
    return made


def _free_bytes() -> int | None:
    """Bytes of memory that are free now; None where the system does not say."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
