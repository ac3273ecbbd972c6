"""The tools that ask what the gate finds: a planted fault is refused, and a healthy export is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from random import Random

import onnx
import pytest

from benchmarks.mutate_exports import KINDS, Subject, mutants


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


@pytest.mark.slow
def test_a_row_of_the_table_of_architectures_is_measured(tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    command = [sys.executable, "-m", "benchmarks.export_models", "--only", "LoRA", "--out", str(file)]
    subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parents[2])
    (row,) = (line for line in file.read_text().splitlines() if line.startswith("| LoRA"))
    assert row.count("| yes ") == 4
