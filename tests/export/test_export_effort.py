"""Verification of models whose rows cost much: few rows, the same everywhere, and faults are still seen."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from lrdiff_export import Battery
from lrdiff_export.model.prepared import prepare
from lrdiff_export.onnx_file.convert import convert
from lrdiff_export.verify.verify import run_again, run_battery


class Dear(nn.Module):
    """A hundred million operations a row."""

    def __init__(self, *, looks_at_its_batch: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = [layer for width in (3, 16, 16, 16, 16) for layer in (nn.Conv2d(width, 16, 3, padding=1), nn.ReLU())]
        self.layers = nn.Sequential(*layers, nn.MaxPool2d(8))
        self.last = nn.Linear(1024, 40)
        self.looks_at_its_batch = looks_at_its_batch

    def forward(self, images: Tensor) -> Tensor:
        found = self.last(self.layers(images).flatten(1))
        return found - found.mean(0) if self.looks_at_its_batch else found


@pytest.mark.parametrize("looks_at_its_batch", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_dear_model_is_tried_on_few_rows_and_its_faults_are_seen(looks_at_its_batch: bool) -> None:
    images = np.random.default_rng(0).standard_normal((60, 3, 64, 64)).astype(np.float32)
    module = Dear(looks_at_its_batch=looks_at_its_batch)
    prepared = prepare(module, torch.tensor(images[:2]))
    converted = convert(prepared)
    battery = Battery(prepared, (images,), converted.batches)
    report = run_battery(converted.data, battery)
    assert report.passed, report.problems
    assert len(battery.reference.rows[0]) < len(images)
    assert report.rows == battery.effort.rows("held out") < len(images)
    assert report.not_tried == battery.not_tried
    assert "scales other than 10 and 10000 times" in report.not_tried
    assert "batches of 1000 rows" in report.not_tried
    assert [len(one) for one in battery.answers()] == [60]
    model = onnx.ModelProto.FromString(converted.data)
    model.doc_string = "says more of itself"
    again = run_again(report, model.SerializeToString(), battery)
    assert again.passed
    assert (again.worst, again.cases == report.cases) == (report.worst, True)
    assert again.sha256 != report.sha256
    for wrong in model.graph.initializer:
        if wrong.name.endswith("layers.4.weight"):
            values = numpy_helper.to_array(wrong).copy()
            values[3, 5, 1, 1] *= 1.01
            wrong.CopyFrom(numpy_helper.from_array(values, wrong.name))
    assert not run_battery(model.SerializeToString(), battery).passed


def test_a_cheap_model_is_tried_in_full() -> None:
    rows = np.ones((3, 4), np.float32)
    assert Battery(prepare(nn.Linear(4, 2), torch.ones(2, 4)), (rows,)).not_tried == ()
