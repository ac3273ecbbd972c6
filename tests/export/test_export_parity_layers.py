"""Error by layer: every backend shows the same layers, and a fault shows from the layer on in which it lies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from export_models import rows_of, seeded
from torch import nn

from lrdiff_core.errors import InputError
from lrdiff_export import BACKENDS, export, subject_of_file, subject_of_module
from lrdiff_export.examples import ZOO
from lrdiff_export.parity.layers import Tapped, layer_errors
from lrdiff_export.runtimes import Predict, TorchBackend

QUICK = ["eager", "eager-bf16", "onnxruntime", "onnx-reference"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["main, binary", "transformer block", "two inputs"])
def test_every_backend_shows_the_same_layers(name: str) -> None:
    sample = ZOO[name]
    subject = subject_of_module(sample.module(), tuple(sample.rows.values()))
    found = layer_errors(subject, [BACKENDS[one] for one in QUICK])
    assert [one.reason for one in found] == [None] * len(QUICK)
    assert len({one.layers for one in found}) == 1
    assert len(found[0].layers) >= 2
    exact, rough = found[0].errors, found[1].errors
    for backend in (found[0], found[2], found[3]):
        assert max(error or 0 for error in backend.errors) < 10
    assert max(error or 0 for error in rough) > 1000 * max(error or 0 for error in exact)


def test_layers_that_are_called_twice_are_told_apart_and_only_those_seen_before_are_given() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix, self.drop = nn.Linear(4, 4), nn.Dropout()

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return self.mix(self.drop(torch.relu(self.mix(rows)))) * 2

    tapped = Tapped(Twice()).eval()
    outputs = tapped(torch.ones(2, 4))
    assert tapped.names == ["mix (Linear)", "drop (Dropout)", "mix (Linear) #2", "output (Twice)"]
    assert torch.equal(outputs[3], outputs[2] * 2)
    tapped.only = frozenset(["mix (Linear)"])
    assert len(tapped(torch.ones(2, 4))) == 1
    assert not any(module._forward_hooks for module in tapped.modules())


def test_a_fault_in_one_layer_shows_from_there_on(plant: Any) -> None:
    @plant("faulty")
    class Faulty(TorchBackend):
        def prepare(self, model: nn.Module) -> Predict:
            import copy

            copied = copy.deepcopy(model)
            with torch.no_grad():
                copied.get_submodule("inner.2").weight.mul_(1.001)
            return super().prepare(copied)

    module = seeded(lambda: nn.Sequential(nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2)))
    subject = subject_of_module(module, rows_of(40, 10))
    (found,) = layer_errors(subject, [BACKENDS["faulty"]])
    errors = [error or 0 for error in found.errors]
    assert max(errors[:2]) < 10
    assert min(errors[2:]) > 500


def test_an_infinite_layer_has_no_error_and_a_refusal_has_a_reason(plant: Any) -> None:
    @plant("infinite")
    class Infinite(TorchBackend):
        def prepare(self, model: nn.Module) -> Predict:
            predict = super().prepare(model)
            return lambda rows: [np.full_like(output, np.inf) for output in predict(rows)]

    @plant("crashes")
    class Crashes(TorchBackend):
        def prepare(self, model: nn.Module) -> Predict:
            raise ZeroDivisionError("no kernel")

    subject = subject_of_module(nn.Linear(3, 2), rows_of(4, 3))
    infinite, crashes = layer_errors(subject, [BACKENDS["infinite"], BACKENDS["crashes"]])
    assert infinite.errors == (None,)
    assert (crashes.errors, crashes.reason) == ((), "ZeroDivisionError: no kernel")


def test_a_file_alone_does_not_show_its_layers(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    export(nn.Linear(3, 1), torch.zeros(1, 3), out=file)
    with pytest.raises(InputError, match="^an ONNX file by itself does not show its layers"):
        layer_errors(subject_of_file(file), [BACKENDS["onnxruntime"]])
