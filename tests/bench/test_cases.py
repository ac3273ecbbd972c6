"""Contract of every case in the registry; a new one is covered on the day it is added."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
import torch

from lrdiff_bench import cases
from lrdiff_bench.cases import CASES, case_family, find_case, peak_resident_bytes
from lrdiff_bench.timing import Workload, pinned, time_case
from lrdiff_core.errors import ConfigError

EVERY_CASE = [case for family in CASES.values() for case in family.cases()]


def test_registry() -> None:
    assert {"step", "epoch", "memory"} <= set(CASES)
    assert EVERY_CASE
    assert [case.label for case in CASES["step"].cases()] == ["step[rates=1]", "step[rates=2]"]
    for name, family in CASES.items():
        assert family.name == name
        assert family.version
        assert family.summary.endswith(".")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As when measured; two threads on a busy machine make these small steps a hundred times slower."""
    with pinned(1):
        yield


@pytest.mark.parametrize("case", EVERY_CASE, ids=lambda case: case.label)
def test_case_steps_and_resets_and_leaves_the_global_generator_alone(case) -> None:
    before = torch.get_rng_state()
    workload = case.factory()
    for _ in range(2):
        workload.reset()
        workload.step()
        workload.sync()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("rates", [1, 2])
@pytest.mark.parametrize("name", ["step", "epoch"])
def test_state_is_restored(name: str, rates: int, monkeypatch) -> None:
    settings = []
    original = cases.main_job

    def remember(*args):
        settings.append(original(*args))
        return settings[-1]

    monkeypatch.setattr(cases, "main_job", remember)
    workload = find_case(name, rates=rates).factory()
    setup, optimizer = settings[0]
    model = setup.net
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.001][:rates]
    assert [p.shape for p in model.parameters()] == [(5, 10), (5,), (1, 5), (1,)]

    def everything() -> list[torch.Tensor]:
        state = [value for entry in optimizer.state.values() for value in entry.values()]
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        return [tensor.detach().clone() for tensor in [*model.parameters(), *grads, *state]]

    before = everything()
    assert len(before) == (20 if name == "step" else 16)  # weights, gradients of `step`, three states of Adam each
    workload.step()
    assert any(not torch.equal(one, other) for one, other in zip(before, everything(), strict=True))
    workload.reset()
    assert all(torch.equal(one, other) for one, other in zip(before, everything(), strict=True))


def test_cases_can_be_timed() -> None:
    timing = time_case(find_case("step", rates=2), samples=2, target_block_seconds=0.001)
    assert 1e-7 < timing.median < 1.0
    assert timing.parameters == {"rates": 2}


@pytest.mark.skipif(sys.platform == "win32", reason="no getrusage on Windows")
def test_peak_memory_counts_torch_tensors() -> None:
    before = peak_resident_bytes()
    block = torch.ones(64 * 2**20)  # 256 MiB of float32, touched
    assert peak_resident_bytes() >= block.numel() * 4
    assert peak_resident_bytes() >= before


def test_a_new_case_takes_one_function(monkeypatch) -> None:
    monkeypatch.setattr(cases, "CASES", {})

    @case_family(version="3", parameters={"size": (1, 2), "kind": ("a", "b")})
    def new_case(size: int, kind: str) -> Workload:
        """Something new.

        More about it.
        """
        return Workload(step=lambda: size)

    family = cases.CASES["new_case"]
    assert family.summary == "Something new."
    assert [case.label for case in family.cases()] == [
        f"new_case[size={size},kind={kind}]" for size in (1, 2) for kind in "ab"
    ]
    with pytest.raises(ConfigError, match="two cases are called 'new_case'"):
        case_family(version="1")(new_case)


@pytest.mark.parametrize(
    ("name", "parameters", "text"),
    [
        ("stpe", {}, "there is no case 'stpe'\nhelp: cases: step, epoch, memory"),
        ("step", {}, r"was given the parameters \[\]\nhelp: its parameters are: rates"),
        ("step", {"rates": 3}, "has no rates=3\nhelp: values of rates: 1, 2"),
    ],
)
def test_unknown_case(name: str, parameters: dict, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        find_case(name, **parameters)
