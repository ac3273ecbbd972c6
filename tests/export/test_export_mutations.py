"""The tools that ask what the gate finds: a planted fault is refused, and a healthy export is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from random import Random

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from benchmarks.mutate_exports import KINDS, Subject, mutants
from lrdiff_export.model.prepared import prepare
from lrdiff_export.onnx_file.convert import convert
from lrdiff_export.onnx_file.weights import changed_weights


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject.of("mean of masked embeddings", seed=0)


def test_faults_of_every_kind_are_refused_or_equivalent(subject: Subject) -> None:
    found = list(mutants(subject, 2 * list(KINDS), seed=1))
    assert {kind for kind, _, _ in found} >= {"operator", "weight off by 0.1 %", "axis", "constant"}
    assert "missed" not in {end for _, _, end in found}
    assert [end for _, _, end in found].count("refused") > len(found) / 2


def test_a_fault_that_the_gate_lets_through_is_called_missed(subject: Subject) -> None:
    (_, _, end) = next(mutants(subject, ["weight off by 1 %"], seed=1))
    assert end == "refused"
    assert subject.equivalent(subject.converted.data) == "same bits"
    mutant = onnx.ModelProto()
    mutant.CopyFrom(subject.converted.model)
    KINDS["weight off by 1 %"](mutant, Random(1))
    assert subject.equivalent(mutant.SerializeToString()) == ""


def test_each_number_of_a_transposed_weight_is_compared() -> None:
    class Clamped(nn.Linear):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return rows @ self.weight.clamp(-0.4, 0.4).T

    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 6), nn.GELU(), Clamped(6, 6), nn.Linear(6, 3)).eval()
    prepared = prepare(module, torch.randn(2, 4, 6))  # of rows with a sequence, exporters transpose the weights
    converted = convert(prepared)
    model, places = converted.model, []
    for number, tensor in enumerate(model.graph.initializer):
        values = numpy_helper.to_array(tensor).copy()
        if any(np.array_equal(values, layer.weight.detach().T) for layer in (module[0], module[3])):
            values[1, 2] *= np.float32(1.001)
            mutant = onnx.ModelProto()
            mutant.CopyFrom(model)
            mutant.graph.initializer[number].CopyFrom(numpy_helper.from_array(values, tensor.name))
            places += changed_weights(mutant, prepared.exported, converted.renamed, converted.program)
    assert places == ["weight '0.weight' is not the module's", "weight '3.weight' is not the module's"]
    assert not list(changed_weights(model, prepared.exported, converted.renamed, converted.program))


@pytest.mark.slow
def test_a_row_of_the_table_of_architectures_is_measured(tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    command = [sys.executable, "-m", "benchmarks.export_models", "--only", "LoRA", "--out", str(file)]
    subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parents[2])
    (row,) = (line for line in file.read_text().splitlines() if line.startswith("| LoRA"))
    assert row.count("| yes ") == 4
