"""Where memory runs out: the same in smaller parts, with one line; or the batch size to write. Failures are planted,
and a real limit is set on a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from typing import Any

import pytest
import torch
from torch import nn

from lrdiff_core import load_table, loop, make_config, set_up, train
from lrdiff_core.errors import ConfigError, MemoryWarning
from lrdiff_core.machine.memory import Halving, is_out_of_memory, rows_in_parts
from lrdiff_core.population import (
    Population,
    PopulationData,
    PopulationOptions,
    general_path,
    kernel_path,
    train_population,
)
from lrdiff_core.population.native import kernel_status

SAID = (
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "4096 bytes. Error code 12 (Cannot allocate memory)\nwhere it was"
)
PATHS = [
    "general",
    pytest.param(
        "kernel", marks=pytest.mark.skipif(kernel_status().reason is not None, reason=str(kernel_status().reason))
    ),
]


@pytest.mark.parametrize(
    "problem",
    [
        MemoryError(),
        RuntimeError(SAID),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 1 GiB"),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=lambda problem: type(problem).__name__,
)
def test_an_allocator_is_told_from_other_errors(problem: BaseException) -> None:
    assert is_out_of_memory(problem)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_a_real_allocation_that_fails_is_recognised() -> None:
    for made in (lambda: torch.empty(2**55), lambda: bytearray(2**60)):
        with pytest.raises((RuntimeError, MemoryError)) as caught:
            made()
        assert is_out_of_memory(caught.value)


def test_what_does_not_fit_is_halved_once_for_all_and_nothing_holds_what_failed() -> None:
    tried: list[int] = []
    alive: list[object] = []

    class Held:
        def __init__(self) -> None:
            alive.append(self)

        def __del__(self) -> None:
            freed.append(1)

    freed: list[int] = []

    def work(begin: int, end: int) -> list[int]:
        held = Held()  # as a tensor of the size of the part
        alive.clear()
        tried.append(end - begin)
        assert len(freed) == len(tried) - 1, "what a failed try took is let go before the next"
        if end - begin > 3:
            raise RuntimeError(SAID)
        del held
        return list(range(begin, end))

    halving = Halving("rows", help="take fewer")
    with pytest.warns(MemoryWarning) as said:
        found = [number for *_, part in halving.parts(16, work) for number in part]
    assert found == list(range(16))
    assert tried == [16, 8, 4, *[2] * 8]
    assert [str(one.message) for one in said] == [
        "there is not enough memory for 16 rows at once: 2 are done at once\nhelp: take fewer"
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(halving.parts(3, work))) == 2  # what was learned holds


def test_one_that_does_not_fit_and_errors_of_other_kinds_are_let_through() -> None:
    def fails(begin: int, end: int) -> None:
        raise problem

    problem: Exception = MemoryError()
    with pytest.raises(ConfigError, match="there is not enough memory for one of the rows: MemoryError") as caught:
        list(Halving("rows", help="take fewer").parts(4, fails))
    assert caught.value.help == "take fewer"
    problem = RuntimeError("shapes differ")
    with pytest.raises(RuntimeError, match="shapes differ"):
        list(Halving("rows", help="take fewer").parts(4, fails))


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def population(path: str, **options: Any) -> Population:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(30, 3, generator=generator)
    data = PopulationData(inputs=rows, targets=(rows.sum(1, keepdim=True) > 0).float(), task="binary")
    rates = torch.logspace(-3, -1, 40)[:, None]
    settings = PopulationOptions(epochs=2, batch_size=10, path=path, keep_weights=True, **options)
    return train_population(network, data, rates, [i % 3 for i in range(40)], settings)


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
def test_a_population_that_does_not_fit_halves_its_tile(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = population(path)
    module = kernel_path if path == "kernel" else general_path
    real, sizes = module.train_tile, []

    def limited(tile: Any, *arguments: Any, **more: Any) -> Any:
        sizes.append(len(tile))
        if len(tile) > 10:
            raise RuntimeError(SAID)
        return real(tile, *arguments, **more)

    monkeypatch.setattr(module, "train_tile", limited)
    with pytest.warns(MemoryWarning) as said:
        found = population(path)
    assert sizes == [40, 20, 10, 10, 10, 10]
    assert [str(one.message).partition("\n")[0] for one in said] == [
        "there is not enough memory for 40 members at once: 10 are done at once"
    ]
    for name, mine in {"loss": found.train_loss, **(found.weights or {})}.items():
        other = whole.train_loss if name == "loss" else (whole.weights or {})[name]
        if path == "kernel":  # to the last bit
            assert torch.equal(mine, other)
        else:
            torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("fits", [7, 0])
def test_a_training_that_does_not_fit_says_the_batch_to_use(fits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    setup = set_up(load_table("seed"), make_config({"epochs": 1, "batch_size": 32, "hidden": [5]}))
    weights = {name: value.clone() for name, value in setup.net.state_dict().items()}
    real = setup.net.network
    tried = []

    def limited(rows: torch.Tensor) -> torch.Tensor:
        tried.append(len(rows))
        if len(rows) > fits:
            raise RuntimeError(SAID)
        return real(rows)

    monkeypatch.setattr(setup.net, "network", limited)
    with pytest.raises(ConfigError, match="there is not enough memory for a step") as caught:
        train(setup)
    assert "you tried to allocate 4096 bytes" in caught.value.message
    assert "\n" not in caught.value.message
    assert tried == ([32, 16, 8, 4] if fits else [32, 16, 8, 4, 2, 1])
    assert ("batch_size = 4" in caught.value.help) == bool(fits)
    assert all(torch.equal(value, weights[name]) for name, value in setup.net.state_dict().items())


def test_an_evaluation_that_does_not_fit_looks_at_the_rows_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = set_up(load_table("seed"), make_config({"hidden": [5]}))
    whole = loop.evaluate(setup.net, setup.rows, "train")
    real = setup.net.network

    def limited(rows: torch.Tensor) -> torch.Tensor:
        if len(rows) > 100:
            raise MemoryError
        return real(rows)

    monkeypatch.setattr(setup.net, "network", limited)
    with pytest.warns(MemoryWarning, match="not enough memory for .* rows at once"):
        found = loop.evaluate(setup.net, setup.rows, "train")
    assert found.score == whole.score
    assert found.loss == pytest.approx(whole.loss, rel=1e-6)
    assert rows_in_parts(lambda rows: rows + 1, torch.zeros(0, 2), help="").shape == (0, 2)


# Each part gets some MiB more than the process has then; what it needs in one piece is several times that.
LIMITED = """
import json, resource, sys, warnings
from pathlib import Path
import numpy as np, torch
from torch import nn
from lrdiff_core import load_table, make_config, set_up, train
from lrdiff_core.errors import LrdiffError
from lrdiff_core.population import PopulationData, PopulationOptions, train_population

torch.set_num_threads(1)
warnings.simplefilter("always")
PAGE = resource.getpagesize()

def limited(mib, work):
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * PAGE
    resource.setrlimit(resource.RLIMIT_AS, (taken + mib * 2**20, resource.RLIM_INFINITY))
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            return work(), [str(one.message).partition("\\n")[0] for one in said]
    except LrdiffError as problem:
        return None, [problem.message, problem.help]
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

rows = torch.randn(64, 200, generator=torch.Generator().manual_seed(0))
data = PopulationData(inputs=rows, targets=(rows.sum(1, keepdim=True) > 0).float(), task="binary")
few = PopulationData(inputs=rows[:8, :3].contiguous(), targets=data.targets[:8], task="binary")
def wide(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(200, 100), nn.Tanh(), nn.Linear(100, 1))
def small(seed):  # as in the other tests: its kernel is there
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
def population(path, members, tile):
    network, rows, steps = (wide, data, 2) if path == "general" else (small, few, 500)
    options = PopulationOptions(
        steps=steps, batch_size=8, path=path, tile=tile, keep_weights=True, evaluate="end", step_losses=True
    )
    return train_population(network, rows, torch.full((members, 1), 1e-3), 0, options)

told = {}
for path, members, mib in (("general", 128, 50), ("kernel", 20_000, 65)):
    if path == "kernel" and sys.argv[2] == "no kernel":
        continue
    whole = population(path, members, members // 16)
    found, said = limited(mib, lambda: population(path, members, members))
    off = max(float((found.weights[name] - whole.weights[name]).abs().max()) for name in whole.weights)
    told[path] = {"said": said, "off": off}
    del found, whole

file = Path(sys.argv[1]) / "rows.csv"
numbers = np.random.default_rng(0).normal(size=(20000, 4)).round(3)
file.write_text("a,b,c,d,y\\n" + "\\n".join(",".join(map(str, row)) + f",{int(row[0] > 0)}" for row in numbers) + "\\n")
for name, stream in (("table", "never"), ("stream", "always")):
    config = make_config({"epochs": 1, "patience": 0, "batch_size": 8192, "hidden": [1500], "impute": "none"})
    setup = set_up(load_table(str(file), target="y", stream=stream), config)
    assert (setup.rows.blocks is not None) == (stream == "always")
    _, told[name] = limited(64, lambda: train(setup))
print(json.dumps(told))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS and /proc are Linux's")
def test_under_a_real_limit(tmp_path: Any) -> None:
    kernel = "no kernel" if kernel_status().reason else "kernel"
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path), kernel], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    for path in ("general", "kernel") if kernel == "kernel" else ("general",):
        (said,) = told[path]["said"]
        assert "members at once" in said
        assert told[path]["off"] <= (0.0 if path == "kernel" else 1e-5)
    for name in ("table", "stream"):
        said, help = told[name]
        assert said.startswith("there is not enough memory for a step of 8192 rows: DefaultCPUAllocator: can't")
        assert help.startswith("write batch_size = "), help
