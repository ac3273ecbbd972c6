"""The comparison with torch's own exporter is what two real exports show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.compare_exporters import ExporterComparison, _export_theirs, compare_exporters, comparison_table
from lrdiff_export.examples import ZOO


@pytest.mark.slow
def test_every_feature_is_seen_on_a_model() -> None:
    (row,) = compare_exporters(["main, binary"])
    assert all(value is True for value in row.ours.values() if isinstance(value, bool)), row.ours
    assert row.theirs.keys() == row.ours.keys()
    assert row.theirs["free batch dimension, run at 1 and 1000 rows"]
    assert not row.theirs["planted 1 % weight refused"]
    assert row.ours["bytes of the model file"] < row.theirs["bytes of the model file"]


@pytest.mark.slow
def test_the_fault_is_planted_in_their_file_too(tmp_path: Path) -> None:
    sample = ZOO["main, binary"]
    values = []
    for spoil in (False, True):
        file = tmp_path / f"{spoil}.onnx"
        _export_theirs(sample, sample.module(), file, 20, spoil)
        tensors = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(file).graph.initializer}
        values.append(tensors["net.layer2.weight"])
    changed = values[0] != values[1]
    assert changed.sum() == 1
    np.testing.assert_allclose(values[1][changed] / values[0][changed], 1.01, rtol=1e-6)


def test_the_table_counts_models_and_takes_medians() -> None:
    rows = [
        ExporterComparison(model=str(i), theirs={"held": False, "size": i}, ours={"held": i > 0, "size": 1})
        for i in range(3)
    ]
    assert comparison_table(rows).splitlines()[2:] == ["| held | 0 of 3 | 2 of 3 |", "| size | 1 | 1 |"]
