"""What is declared of inputs and outputs drives what is tried, is checked before a run, and stands in the file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lrdiff_core.errors import ConfigError, DataError
from lrdiff_export import (
    OnnxPredictor,
    Port,
    export,
    read_model_card,
    read_ports,
    verify_golden,
    verify_onnx,
)
from lrdiff_export.model.domain import Domain


class Coded(nn.Module):
    """Two numbers, and the code of one of five categories in a float column."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.last = nn.Embedding(5, 3), nn.Linear(5, 1)

    def forward(self, features: Tensor) -> Tensor:
        return self.last(torch.cat([features[:, :2], self.table(features[:, 2].long())], 1))


class Gated(nn.Module):
    """Asks for probabilities."""

    def forward(self, features: Tensor) -> Tensor:
        return torch.log(features.clamp(0, 1) + 1) - torch.asin(2 * features - 1)


def coded_rows(count: int = 40) -> np.ndarray:
    generator = np.random.default_rng(0)
    return np.column_stack([generator.standard_normal((count, 2)), generator.integers(0, 5, count)]).astype(np.float32)


@pytest.mark.slow
def test_codes_in_a_float_column_are_tried_as_codes_and_others_refused(tmp_path: Path) -> None:
    rows, file = coded_rows(), tmp_path / "model.onnx"
    ports = [Port(name="features", categories={2: 5})]
    report = export(Coded(), torch.tensor(rows[:2]), out=file, rows=rows, ports=ports)
    assert report.inputs[0].categories == {2: 5}
    card = read_model_card(file)
    assert card["schema"]["inputs"][0]["categories"] == card["domain"]["categories"]["features"] == {"2": 5}
    assert report.verification.domain.sentences[-1:] == ("features, column 2, other than the codes 0 to 4",)
    predictor = OnnxPredictor(file)
    np.testing.assert_allclose(predictor.run(rows)["output"], Coded()(torch.tensor(rows)).detach(), rtol=1e-5)
    for code in (5, -1, 0.5, np.nan):
        rows[3, 2] = code
        with pytest.raises(DataError, match=f"input 'features' holds {code:g}, not one of the codes 0 to 4"):
            predictor.run(rows)
    assert verify_onnx(file, Coded(), rows=coded_rows()).passed
    with pytest.raises(DataError, match="not one of the codes 0 to 4"):
        verify_onnx(file, Coded(), rows=rows)


@pytest.mark.slow
def test_numbers_are_tried_within_their_range_alone(tmp_path: Path) -> None:
    """The arc sine is NaN beyond 1, and the place where it begins to be hangs on the last bit."""
    rows, file = np.random.default_rng(0).uniform(0, 1, (40, 3)).astype(np.float32), tmp_path / "model.onnx"
    ports = [Port(name="features", range=(0.0, 1.0))]
    report = export(Gated(), torch.tensor(rows[:2]), out=file, rows=rows, ports=ports, golden=False)
    assert report.verification.domain.ranges == {"features": (0.0, 1.0)}
    with pytest.raises(DataError, match="input 'features' reaches from .* to 2.0, the file is proven from 0 to 1"):
        OnnxPredictor(file).run(np.full((1, 3), 2, np.float32))
    with pytest.raises(DataError, match="reaches from"):
        export(Gated(), torch.tensor(rows[:2]), out=file, rows=rows * 3, ports=ports)


def test_integers_and_lengths_are_tried_as_far_as_they_are_declared(tmp_path: Path) -> None:
    rows, file = np.random.default_rng(0).integers(0, 9, (40, 4)), tmp_path / "model.onnx"

    class Cube(nn.Module):
        def forward(self, features: Tensor) -> Tensor:
            return (features**3).sum(1)

    ports = [Port(name="features", range=(0, 1000), lengths={1: (2, 9)})]
    options: dict[str, Any] = {"golden": False, "dynamic_axes": {"features": {1: "steps"}}}
    report = export(Cube(), torch.tensor(rows[:2]), out=file, rows=rows, ports=ports, **options)
    assert report.inputs[0].lengths == {1: (2, 9)}
    assert report.verification.domain.ranges == {"features": (0, 1000)}
    assert report.verification.domain.sizes == (("features", 1, 2, 9),)
    names = {case.name for case in report.verification.cases}
    assert {"steps 2", "steps 9"} <= names
    assert not names & {"steps 1", "steps 10", "features up to 100"}
    assert OnnxPredictor(file).run(np.full((1, 9), 1000))["output"].tolist() == [9 * 10**9]
    for wrong in (np.full((1, 10), 1), np.full((1, 1), 1), np.full((1, 4), 1001)):
        with pytest.raises(DataError, match="the file is proven from"):
            OnnxPredictor(file).run(wrong)


def test_a_branch_on_a_free_size_is_stated_and_checked(tmp_path: Path) -> None:
    """The program is made for one way of the branch, far from the sizes that are tried."""
    rows, file = np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32), tmp_path / "model.onnx"

    class Branch(nn.Module):
        def forward(self, features: Tensor) -> Tensor:
            return features.sum(1) if features.shape[1] > 500 else features.mean(1)

    options: dict[str, Any] = {"golden": False, "dynamic_axes": {"features": {1: "steps"}}}
    report = export(Branch(), torch.tensor(rows[:2]), out=file, rows=rows, **options)
    assert report.verification.domain.sizes == (("features", 1, 1, 500),)
    assert OnnxPredictor(file).run(np.ones((1, 500), np.float32))["output"].tolist() == [1.0]
    with pytest.raises(DataError, match="axis 1 of input 'features' has size 501, the file is proven from 1 to 500"):
        OnnxPredictor(file).run(np.ones((1, 501), np.float32))


@pytest.mark.slow
def test_a_whole_number_may_be_off_by_one_where_that_is_declared(tmp_path: Path) -> None:
    class Image(nn.Module):
        """Halves are rounded up by adding; the file is another module that rounds them to even."""

        def __init__(self, shift: float) -> None:
            super().__init__()
            self.shift = shift

        def forward(self, features: Tensor) -> Tensor:
            return (features * 255 + self.shift).clamp(0, 255).to(torch.uint8)

    rows, file = np.random.default_rng(0).uniform(0, 1, (40, 3)).astype(np.float32), tmp_path / "model.onnx"
    ports = [Port(name="features", range=(0.0, 1.0)), Port(name="output", integer_tolerance=1)]
    export(Image(0.5), torch.tensor(rows[:2]), out=file, rows=rows, ports=ports)
    assert read_model_card(file)["schema"]["outputs"][0]["integer_tolerance"] == 1
    assert verify_golden(file).passed
    assert verify_onnx(file, Image(0.4), rows=rows).passed
    assert not verify_onnx(file, Image(2.5), rows=rows).passed


@pytest.mark.parametrize("dtype", ["float32", "int64", "int32", "int8", "uint8"])
def test_made_rows_of_every_dtype_are_moved_inside(dtype: str) -> None:
    rows = np.array([[3, 0, 100], [7, 9, 1]], dtype)
    domain = Domain.of([Port(name="x", range=(-1, 300), categories={1: 4, 7: 2})])
    (moved,) = domain.fitted(["x"], [rows])
    assert moved.dtype == rows.dtype
    assert moved.tolist() == [[3, 0, 100], [7, 1, 1]]
    domain.check({"x": moved})
    assert Domain.from_dict(json.loads(json.dumps(domain.to_dict()))) == replace(domain, least_batch=1)


def test_declarations_are_read_from_toml_and_wrong_ones_refused(tmp_path: Path) -> None:
    file = tmp_path / "ports.toml"
    file.write_text(
        "[features]\nrange = [0, 9]\ncategories = {2 = 5}\nlengths = {1 = [1, 8]}\n[label]\ninteger_tolerance = 1\n"
    )
    features, label = read_ports(file)
    assert (features.range, features.categories, features.lengths) == ((0, 9), {2: 5}, {1: (1, 8)})
    assert label.integer_tolerance == 1
    for text, match in {
        "features = 3": "more than one table a port",
        "[features]\nranges = [0, 1]": "'features' is declared with 'ranges'",
        "[features]\nrange = [1, 0]": "not a smallest and a largest number",
        "[features]\nrange = 3": "cannot be read",
        "[features]\ncategories = 0": "not a number of categories",
        "[features]\ninteger_tolerance = 2": "not 0 or 1",
        "[features]\nlengths = {0 = [1, 2]}": "not a smallest and largest size by axis",
        "[features": "is not a TOML file",
    }.items():
        file.write_text(text)
        with pytest.raises(ConfigError, match=match):
            read_ports(file)
    for port, match in (
        (Port(name="feature"), "no input or output"),
        (Port(name="output", range=(0, 1)), "is an output"),
    ):
        with pytest.raises(ConfigError, match=match):
            export(nn.Linear(2, 1), torch.ones(2, 2), out=tmp_path / "m.onnx", ports=[port])
