"""``lrdiff bench step --training``: whole training steps, the optimizer's share, and what a faster update gains."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lrdiff_bench.cli import main
from lrdiff_bench.measure.cases.models import MODELS
from lrdiff_bench.measure.cases.training_table import TITLES, training_page


def test_every_model_has_a_title() -> None:
    assert set(TITLES) == set(MODELS)


@pytest.mark.slow
def test_a_real_quick_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "training.md"
    given = ["bench", "step", "--training", "--quick", "--shape", "mlp", "--out", str(file)]
    assert main([*given, "--json"]) == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert (document["format"], document["command"]) == (
        "lrdiff.training_table", f"lrdiff bench step --training --quick --shape mlp --out {file} --json"
    )  # fmt: skip
    (row,) = document["rows"]
    assert (row["tensors"], row["parameters"], row["threads"]) == (4, 61, 1)
    for name in ("ours", "default", "fused"):
        assert 0 < row["update"][name] < row["whole"][name]
        assert row["share"][name] == pytest.approx(row["update"][name] / row["whole"][name])
    for peer in ("default", "fused"):
        for middle, low, high in (row["gain"][peer], row["faster"][peer]):
            assert 0 < low <= middle <= high
        # The update alone is faster than the whole step is by it; an eighth of the usual factor on a busy machine.
        assert row["faster"][peer][0] > max(1.2, row["gain"][peer][0])
    text = file.read_text()
    assert text == training_page(document)
    rows_told, _, last = err.rstrip().rpartition("\n")
    assert last == f"wrote {file}"
    assert rows_told in text
    assert "no figures to quote" in text


@pytest.mark.parametrize(
    ("arguments", "error", "help"),
    [
        (["--shape", "gpt"], "there is no model called 'gpt'", f"write one of: {', '.join(MODELS)}"),
        (["--threads", "0"], "threads is 0", "write a whole number from 1 up"),
        (["--out", "no/where.md"], "cannot write no/where.md: no folder no", "make the folder first"),
    ],
)
def test_input_that_cannot_be_used(capsys, tmp_path, monkeypatch, arguments, error, help) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "step", "--training", *arguments]) == 2
    assert capsys.readouterr() == ("", f"error: {error}\nhelp: {help}\n")
