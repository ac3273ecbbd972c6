"""One prepared copy of a module goes all the way from export() to the published file."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from export_models import rows_of
from torch import Tensor, nn

from lrdiff_export import check_parity, convert_to_onnx, export, verify_onnx
from lrdiff_export.model.prepared import prepare


class Counted(nn.Module):
    """Counts how often it is copied, by any copy of it."""

    copies = 0

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.linear(x), dim=1)

    def __deepcopy__(self, memo: dict[int, Any]) -> Counted:
        Counted.copies += 1
        other = Counted()
        other.linear = copy.deepcopy(self.linear, memo)
        return other


ROWS = rows_of(40, 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("use", "copies"),
    [
        (lambda module, file: convert_to_onnx(module, example=torch.tensor(ROWS[:1])), 1),
        (lambda module, file: export(module, torch.tensor(ROWS[:2]), out=file, rows=ROWS, variants=["fp16"]), 1),
        (lambda module, file: verify_onnx(convert_to_onnx(module, example=torch.tensor(ROWS)), module, rows=ROWS), 2),
        (lambda module, file: check_parity(module, ROWS, backends=["onnxruntime"]), 1),
    ],
)
def test_each_call_copies_a_module_once(use: Any, copies: int, tmp_path: Path) -> None:
    Counted.copies = 0
    use(Counted(), tmp_path / "model.onnx")
    assert Counted.copies == copies


def test_the_names_follow_what_the_module_takes_and_gives() -> None:
    class Two(nn.Module):
        def forward(self, price: Tensor, kind: Tensor) -> dict[str, Tensor]:
            return {"sum": price + kind, "difference": price - kind}

    rows = torch.zeros(3, 1)
    prepared = prepare(Two(), {"price": rows, "kind": rows}, output_names=["difference"])
    assert (prepared.input_names, prepared.output_names) == (("price", "kind"), ("difference",))
    (difference,) = prepared.module(torch.ones(2, 1), torch.full((2, 1), 3.0))
    np.testing.assert_array_equal(difference, np.full((2, 1), -2.0))
    assert prepare(nn.LSTM(3, 2), torch.zeros(4, 5, 3)).output_names == ("output0", "output1", "output2")
    assert isinstance(prepared.inner, Two)
