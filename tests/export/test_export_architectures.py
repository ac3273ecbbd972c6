"""Healthy models of every kind are published, and what their files are proven for is said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lrdiff_core.errors import ConfigError, DataError, InputError
from lrdiff_export import OnnxPredictor, export, verify_onnx


class Called(nn.Module):
    """A linear layer, and what is made of it."""

    def __init__(self, answer: Callable[..., Any], features: int = 4, outputs: int = 3) -> None:
        super().__init__()
        self.linear = nn.Linear(features, outputs)
        self.register_buffer("calls", torch.zeros(1, dtype=torch.int64))
        self.answer = answer

    def forward(self, *tensors: Tensor) -> Any:
        return self.answer(self, *tensors)


class Pair(NamedTuple):
    """An output, and one that is not there."""

    scores: Tensor
    attention: Tensor | None


@dataclass
class Fields:
    """The same with names."""

    scores: Tensor
    attention: Tensor | None = None


def counted(module: Called, x: Tensor) -> Tensor:
    module.calls += 1  # type: ignore[operator]
    return module.linear(x)


def coded(module: Called, x: Tensor) -> Tensor:
    table = torch.linspace(-1, 1, 5)
    return module.linear(x) + table[x[:, 3].long()].unsqueeze(1)


def ranged(module: Called, x: Tensor) -> Tensor:
    torch._assert_async(((x >= 0) & (x <= 1)).all())  # pytest rewrites plain assertions, torch.export as well
    return module.linear(x)


def branching(module: Called, x: Tensor) -> Tensor:
    return torch.cond(x.mean() > 0, lambda x: module.linear(x), lambda x: -module.linear(x), (x,))


def measured(module: Called, x: Tensor) -> Tensor:
    return module.linear(x) + torch.zeros(1, 3).expand(len(x), -1)


def detected(module: Called, x: Tensor) -> tuple[Tensor, Tensor]:
    scores, order = torch.sigmoid(module.linear(x)).sort(dim=1, descending=True)
    return scores, torch.exp(module.linear(x)).gather(1, order)


def pictured(module: Called, x: Tensor) -> Tensor:
    return (torch.sigmoid(module.linear(x)) * 255).round().to(torch.uint8)


def padded(module: Called, x: Tensor) -> Tensor:
    return nn.functional.conv1d(nn.functional.pad(x.unsqueeze(1), (2, 0)), module.linear.weight.unsqueeze(1))


def nearest(module: Called, x: Tensor) -> Tensor:
    found, words = module.linear(x), torch.linspace(-1, 1, 8).unsqueeze(1).expand(8, 3)
    return (found.square().sum(1, keepdim=True) - 2 * found @ words.T + words.square().sum(1)).argmin(dim=1)


NORMAL = np.random.default_rng(0).standard_normal((32, 4)).astype(np.float32)
UNIFORM = np.random.default_rng(0).uniform(size=(32, 4)).astype(np.float32)
CODES = np.concatenate([NORMAL[:, :3], np.float32(np.arange(32) % 5)[:, None]], axis=1)
HEALTHY: dict[str, tuple[Callable[..., Any], np.ndarray, tuple[str, ...]]] = {
    "a buffer counts calls": (counted, NORMAL, ("y",)),
    "category codes among floats": (coded, CODES, ("y",)),
    "the range is asserted": (ranged, UNIFORM, ("y",)),
    "torch.cond": (branching, NORMAL, ("y",)),
    "len(x)": (measured, NORMAL, ("y",)),
    "a named tuple with None": (lambda m, x: Pair(m.linear(x), None), NORMAL, ("scores",)),
    "a dataclass with None": (lambda m, x: Fields(m.linear(x)), NORMAL, ("scores",)),
    "nested tuples": (lambda m, x: (m.linear(x), (x[:, :1], [x[:, 1:]])), NORMAL, ("a", "b", "c")),
    "sorted scores": (detected, NORMAL, ("scores", "boxes")),
    "bytes": (pictured, NORMAL, ("y",)),
    "a pad before a convolution": (padded, NORMAL, ("y",)),
    "nearest code word": (nearest, NORMAL, ("word",)),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", HEALTHY)
def test_a_healthy_model_is_published(kind: str, tmp_path: Path) -> None:
    answer, rows, names = HEALTHY[kind]
    torch.manual_seed(0)
    module = Called(answer)
    report = export(module, torch.tensor(rows[:2]), out=tmp_path / "m.onnx", rows=rows, output_names=names)
    assert report.verification.passed
    found = OnnxPredictor(tmp_path / "m.onnx").run(rows)
    assert tuple(found) == names
    assert {len(one) for one in found.values()} == {len(rows)}


@pytest.mark.parametrize("kind", ["category codes among floats", "the range is asserted"])
def test_rows_that_the_module_would_refuse_are_refused_before_a_run(kind: str, tmp_path: Path) -> None:
    answer, rows, names = HEALTHY[kind]
    export(Called(answer), torch.tensor(rows[:2]), out=tmp_path / "m.onnx", rows=rows, output_names=names)
    with pytest.raises(DataError, match="the file is proven from"):
        OnnxPredictor(tmp_path / "m.onnx").run(rows + 100)


class Graph(nn.Module):
    """One round of messages along edges."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, nodes: Tensor, edges: Tensor, share: Tensor) -> Tensor:
        return self.linear(nodes + share * torch.zeros_like(nodes).index_add(0, edges[1], nodes[edges[0]]))


def test_a_graph_without_a_batch_is_tried_at_other_numbers_of_nodes_and_edges(tmp_path: Path) -> None:
    drawn = np.random.default_rng(0)
    rows = (
        drawn.standard_normal((6, 5, 4)).astype(np.float32),
        drawn.integers(0, 5, (6, 2, 9)),
        drawn.uniform(size=6).astype(np.float32),
    )
    example = [torch.tensor(one[0]) for one in rows]
    module, axes = Graph(), {"nodes": {0: "nodes"}, "edges": {1: "edges"}}
    file = tmp_path / "m.onnx"
    report = export(module, example, out=file, rows=rows, batched=False, dynamic_axes=axes)
    assert report.verification.passed
    assert [one.shape for one in report.inputs] == [("nodes", 4), (2, "edges"), ()]
    sizes = {case.name for case in report.verification.cases if case.name.startswith(("nodes", "edges"))}
    assert {"nodes 4", "nodes 6", "edges 8", "edges 10"} <= sizes
    assert verify_onnx(file, module, rows=rows).passed
    with torch.no_grad():
        right = module(torch.ones(3, 4), torch.tensor([[0, 1], [2, 0]]), torch.tensor(0.5)).numpy()
    found = OnnxPredictor(file).run(np.ones((3, 4), np.float32), np.array([[0, 1], [2, 0]]), np.array(0.5, np.float32))
    np.testing.assert_allclose(found["output"], right, rtol=1e-5)


@pytest.mark.slow
def test_sizes_at_which_the_module_goes_another_way_are_refused_before_a_run(tmp_path: Path) -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.cumsum(1) if x.shape[1] > 3 else x

    rows = np.random.default_rng(0).standard_normal((8, 5, 2)).astype(np.float32)
    export(Branching(), torch.tensor(rows[:2]), out=tmp_path / "m.onnx", rows=rows, dynamic_axes={"features": {1: "n"}})
    predictor = OnnxPredictor(tmp_path / "m.onnx")
    np.testing.assert_allclose(predictor.run(rows[:, :4])["output"], rows[:, :4].cumsum(1), rtol=1e-5)
    with pytest.raises(DataError, match="has size 3"):
        predictor.run(rows[:, :3])


@pytest.mark.slow
def test_height_and_width_are_free_where_they_are_named(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    rows = np.random.default_rng(0).standard_normal((8, 1, 6, 7)).astype(np.float32)
    named = {"features": {2: "height", 3: "width"}}
    report = export(module, torch.tensor(rows[:2]), out=tmp_path / "m.onnx", rows=rows, dynamic_axes=named)
    assert report.inputs[0].shape == ("batch", 1, "height", "width")
    assert {"height 5", "height 7", "width 6", "width 8"} <= {case.name for case in report.verification.cases}
    assert OnnxPredictor(tmp_path / "m.onnx").run(np.ones((2, 1, 20, 5), np.float32))["output"].shape == (2, 2)


@pytest.mark.parametrize(
    "axes",
    [{"x": {1: "time"}}, {"features": {0: "rows"}}, {"features": {2: "time"}}, {"features": {1: "batch"}}],
)
def test_axes_that_are_not_there_are_named(axes: dict[str, dict[int, str]], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="dynamic_axes"):
        export(nn.ReLU(), torch.zeros(2, 3), out=tmp_path / "m.onnx", dynamic_axes=axes)


def test_a_model_in_bfloat16_is_published_in_float32_with_the_same_weights(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 2)).bfloat16()
    ids = np.random.default_rng(0).integers(0, 9, (16, 3))
    export(module, torch.tensor(ids[:2]), out=tmp_path / "m.onnx", rows=ids)
    with torch.no_grad():
        right = module.float()(torch.tensor(ids)).numpy()
    np.testing.assert_allclose(OnnxPredictor(tmp_path / "m.onnx").run(ids)["output"], right, rtol=1e-5, atol=1e-6)


def test_a_cast_to_bfloat16_inside_is_refused_with_the_reason(tmp_path: Path) -> None:
    class Casting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 2).bfloat16()

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x.bfloat16()).float()

    with pytest.raises(InputError, match="casts to bfloat16"):
        export(Casting(), torch.zeros(2, 3), out=tmp_path / "m.onnx")


def test_a_model_in_float16_is_published_without_golden_vectors(tmp_path: Path) -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 2).half()

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x.half()).float()

    report = export(Half(), torch.ones(2, 3), out=tmp_path / "m.onnx")
    assert report.verification.passed
    assert not report.golden
