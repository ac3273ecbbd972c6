"""The property the package is named after: how parameters are grouped does not matter to any bit of the result."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from optim_pairs import feed, make

from lrdiff_core.optim import SGD, Adam, AdamW, MuonAdamW, forms, kernel

SHAPES = ((3, 5), (17,), (), (40, 40), (0,), (70, 70), (1,), (8, 3))
RATES = (0.1, 0.01, 0.001)
OPTIONS = {SGD: {"momentum": 0.9, "nesterov": True}, Adam: {"weight_decay": 0.1}, AdamW: {"amsgrad": True}}


def _run(kind: type[torch.optim.Optimizer], assignment: list[tuple[int, int]], threads: int) -> list[torch.Tensor]:
    """Parameters after three steps; ``assignment`` gives each a rate, and a label that splits groups further."""
    params = make(SHAPES)
    groups: dict[tuple[int, int], list[torch.Tensor]] = {}
    for param, at in zip(params, assignment, strict=True):
        groups.setdefault(at, []).append(param)
    optimizer = kind([{"params": members, "lr": RATES[rate]} for (rate, _), members in groups.items()], **OPTIONS[kind])
    torch.set_num_threads(threads)
    for i in range(3):
        feed(params, seed=i)
        with patch.multiple(forms, GRAIN=64, PIECE=16):  # so that threads are used at this size
            optimizer.step()
    return [p.detach() for p in params]


@pytest.mark.parametrize("kind", OPTIONS, ids=lambda kind: kind.__name__)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rates=st.lists(st.integers(0, len(RATES) - 1), min_size=len(SHAPES), max_size=len(SHAPES)),
    labels=st.lists(st.integers(0, 4), min_size=len(SHAPES), max_size=len(SHAPES)),
    threads=st.integers(1, 2),
)
def test_any_partition_gives_the_same_bits(
    kind: type[torch.optim.Optimizer], form: str, rates: list[int], labels: list[int], threads: int
) -> None:
    merged = _run(kind, [(rate, 0) for rate in rates], 1)
    split = _run(kind, list(zip(rates, labels, strict=True)), threads)
    assert all(map(torch.equal, merged, split))


@pytest.mark.skipif(kernel.load() is None, reason="no C compiler here")
@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 2000), min_size=1, max_size=8),
    threads=st.integers(1, 5),
)
def test_division_among_threads_changes_no_bit(sizes: list[int], threads: int) -> None:
    results = []
    for count in (1, threads):
        torch.set_num_threads(count)
        params = make([(size,) for size in sizes])
        optimizer = AdamW(params)
        with patch.multiple(forms, GRAIN=64, PIECE=16):
            for i in range(2):
                feed(params, seed=i)
                optimizer.step()
        results.append(params)
    assert all(map(torch.equal, *results))


def test_muon_groups_of_one_shape_go_in_one_batch_whatever_their_rates() -> None:
    results = []
    for rates in ([0.01, 0.01, 0.01], [0.01, 0.02, 0.03]):
        params = make([(8, 8)] * 3)
        optimizer = MuonAdamW([{"params": [p], "lr": r, "use_muon": True} for p, r in zip(params, rates, strict=True)])
        start = [p.detach().clone() for p in params]
        feed(params, seed=0)
        optimizer.param_groups[0]["weight_decay"] = 0.0
        optimizer.step()
        results.append((params[0] - start[0]).detach())
    assert torch.equal(*results)
