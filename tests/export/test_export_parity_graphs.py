"""CUDA graphs and streams without CUDA: what is captured is recorded, and called again on the same tensors.

Only a GPU shows whether a capture is allowed. What this shows is that all that is needed is inside it, that a replay
reads new rows, that warming up leaves no trace, and that streams wait for each other.
"""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from export_models import Classifier, rows_of, seeded
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lrdiff_export import BACKENDS, check_parity
from lrdiff_export.model import float64
from lrdiff_export.model.float64 import to_numpy
from lrdiff_export.training import IMPLEMENTATIONS, Lane, check_training_parity, zoo_job


class Recorded(TorchDispatchMode):
    """A graph; ``replay`` puts results where those of the first call were."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.replays = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result

    @torch.no_grad()
    def replay(self) -> None:
        self.replays += 1
        for func, args, kwargs, result in self.calls:
            for mine, new in zip(tree_leaves(result), tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(mine, torch.Tensor) and mine.data_ptr() != new.data_ptr():
                    mine.copy_(new)


class Stream:
    """Writes down whom it waits for."""

    def __init__(self, waits: list[tuple[Any, Any]]) -> None:
        self._waits = waits

    def wait_stream(self, other: Any) -> None:
        self._waits.append((self, other))


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``torch.cuda`` as far as graphs and streams need it."""
    graphs: list[Recorded] = []
    waits: list[tuple[Any, Any]] = []
    default = Stream(waits)

    def made() -> Recorded:
        graphs.append(Recorded())
        return graphs[-1]

    for name, fake in {
        "CUDAGraph": made, "graph": lambda one: one, "Stream": lambda: Stream(waits), "stream": lambda _: nullcontext(),
        "current_stream": lambda: default, "synchronize": lambda: None,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, fake)
    return SimpleNamespace(graphs=graphs, waits=waits, default=default)


def on_the_cpu(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(BACKENDS[name], "device", "cpu", raising=False)
    monkeypatch.setattr(BACKENDS[name], "availability", lambda: None, raising=False)


def test_a_graph_is_captured_once_a_shape_and_reads_new_rows(recorded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    on_the_cpu(monkeypatch, "cuda-graph")
    monkeypatch.setattr(float64, "to_numpy", lambda one: to_numpy(one).copy())  # as from a device
    (result,) = check_parity(seeded(Classifier), rows_of(20, 10), backends=["cuda-graph"]).results
    assert (result.status, result.reason) == ("agrees", None)
    assert result.facts["float32_products"] == "ieee"
    # All rows (twice, reversed, stretched), eight rows alone, the large batch, the probe for denormals.
    assert [graph.replays for graph in recorded.graphs] == [4, 8, 1, 1]
    side = [one for one, _ in recorded.waits if one is not recorded.default]
    assert recorded.waits[:2] == [(side[0], recorded.default), (recorded.default, side[0])]


@pytest.mark.parametrize(("name", "products"), [("cuda", "ieee"), ("cuda-tf32", "tf32")])
def test_switches_are_read_off_while_it_runs(name: str, products: str, monkeypatch: pytest.MonkeyPatch) -> None:
    on_the_cpu(monkeypatch, name)
    (result,) = check_parity(seeded(Classifier), rows_of(20, 10), backends=[name]).results
    assert (result.status, result.facts["float32_products"]) == ("agrees", products)


# What capturing needs on CUDA and the CPU has not: there the count of steps is a number of Python's.
LANES = [
    ("torch-graph", "sgd", {"fused": True}), ("torch-graph", "adamw", {"fused": True}), ("ours-graph", "sgd", {}),
    ("ours-stream", "sgd", None), ("ours-stream", "adamw", None),
]  # fmt: skip


@pytest.mark.parametrize(("name", "optimizer", "flags"), LANES)
def test_captured_and_streamed_steps_train_as_float64_does(
    name: str, optimizer: str, flags: dict[str, Any] | None, recorded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(IMPLEMENTATIONS[name], "devices", ("cpu",), raising=False)
    if flags is not None:
        monkeypatch.setattr(IMPLEMENTATIONS[name], "flags", flags, raising=False)
    job = zoo_job("main", optimizer=optimizer, steps=8)
    (result,) = check_training_parity(job, [Lane(implementation=name)]).results
    assert (result.status, result.reason) == ("agrees", None)
    assert result.one_step is not None
    assert (result.one_step.steps, result.one_step.unseen) == (8, None)
    assert [graph.replays for graph in recorded.graphs] == ([8, 8] if name.endswith("graph") else [])
    # Around each warming up, or around each step, of two trainings: there and back.
    assert len(recorded.waits) == (4 if name.endswith("graph") else 32)
    assert [one is recorded.default for one, _ in recorded.waits] == [False, True] * (len(recorded.waits) // 2)


def test_a_count_of_steps_that_is_not_captured_is_found_out(recorded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our Adam without ``capturable`` corrects its bias by a number of Python's: a replay takes the first again."""
    monkeypatch.setattr(IMPLEMENTATIONS["ours-graph"], "devices", ("cpu",), raising=False)
    monkeypatch.setattr(IMPLEMENTATIONS["ours-graph"], "flags", {}, raising=False)
    (result,) = check_training_parity(zoo_job("main", steps=4), [Lane(implementation="ours-graph")]).results
    assert result.status == "differs"
    assert result.departure is not None
    assert result.departure.step == 1
