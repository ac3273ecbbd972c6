"""A table with words, from `lrdiff train` to whoever feeds its ONNX file: the same answers everywhere."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import polars as pl
import pytest
from torch import nn

from lrdiff_bench.cli import main
from lrdiff_bench.run.own_model.on_table import OnTable
from lrdiff_bench.run.ship import with_words
from lrdiff_bench.run.use.onnx_rows import rows_for
from lrdiff_core import ModelSpec, build_model
from lrdiff_core.data import ColumnSpec, read_rows
from lrdiff_core.errors import DataError, ModelFileError
from lrdiff_export import Port
from lrdiff_export.model.text_inputs import TextColumn
from lrdiff_export.runtimes.sandbox import ModelPorts

# What a stranger writes: no package of ours, the names from the card.
STRANGER = """
import csv, sys
import numpy as np, onnxruntime

rows = list(csv.DictReader(open(sys.argv[2], encoding="utf-8")))
session = onnxruntime.InferenceSession(sys.argv[1])
numbers = [[float(row["age"] or "nan"), {"yes": 1, "no": 0}[row["member"]]] for row in rows]
words = {name: np.array([[row[name].strip()] for row in rows], object) for name in ("colour", "city")}
for (answer,) in session.run(["probability"], {"features": np.array(numbers, np.float32), **words})[0]:
    print(f"{answer:.9g}")
"""

CARD = {
    "features": ["age", "colour"],
    "columns": [
        {"name": "age", "kind": "number"},
        {"name": "colour", "kind": "category", "categories": ["blue", "red"]},
    ],
    "text_inputs": {"columns": {"colour": "colour"}},
    "ids": ["key"],
    "normalisation": {"missing_values_become": [1.0]},
}
PORTS = ModelPorts(
    inputs=(("colour", "tensor(string)", ("batch", 1)), ("features", "tensor(float)", ("batch", 1))), outputs=()
)


@pytest.fixture
def new_rows(tmp_path: Path) -> Path:
    """Rows with an unseen word, a gap, and spaces."""
    file = tmp_path / "new.csv"
    file.write_text("key,colour,age\nk1, red ,3\nk2,mauve,\nk3,,5\n")
    return file


def test_words_are_fed_as_they_stand_and_in_the_order_of_the_file(new_rows: Path) -> None:
    """Codes are the file's business."""
    feeds, ids = rows_for(str(new_rows), CARD, PORTS, Path("m.onnx"))
    assert feeds[0].tolist() == [["red"], ["mauve"], [""]]
    np.testing.assert_array_equal(feeds[1], np.float32([[3], [np.nan], [5]]))
    assert ids == {"key": ["k1", "k2", "k3"]}
    codes = ModelPorts(inputs=(("features", "tensor(float)", ("batch", 2)),), outputs=())
    feeds, _ = rows_for(str(new_rows), {**CARD, "text_inputs": {}}, codes, Path("m.onnx"))
    np.testing.assert_array_equal(feeds[0], np.float32([[3, 2], [np.nan, 0], [5, 0]]))


def test_reader_and_file_agree_on_every_cell(tmp_path: Path) -> None:
    """What the reader of tables makes of a cell is what the encoder makes of the same word."""
    cells = [
        "blue", "red", " red", "red\u00a0", "\u3000blue", "Red", "RED", "", "NA", "?", "nan", "1", "1.0", "01", "re d",
        "gr\u00fcn", "gru\u0308n", "\ufeffblue", "blue\u200b", "\u202ered", "\U0001f4a9",
        "x" * 70_000, "a,b", 'say "red"',
    ]  # fmt: skip
    file = tmp_path / "cells.csv"
    with file.open("w", newline="", encoding="utf-8") as opened:
        csv.writer(opened).writerows([["key", "colour"], *([place, cell] for place, cell in enumerate(cells))])
    words = ("1", "a,b", "blue", "gr\u00fcn", "red", "re d", "\U0001f4a9")
    spec = ColumnSpec(name="colour", kind="category", categories=words)
    rows = read_rows(file, feature_names=["colour"], columns=[spec], ids=["colour"])
    codes = TextColumn(name="colour", place=0, words=words).codes(rows.ids["colour"])
    np.testing.assert_array_equal(rows.features[:, 0], codes)
    assert codes[:6].tolist() == [3, 5, 5, 5, 3, 0]
    assert not codes[5:11].any()
    numbers = pl.DataFrame({"colour": [1.0, 2.0, float("nan"), None]})  # a column of numbers, taken for names
    rows = read_rows(numbers, feature_names=["colour"], columns=[spec], ids=["colour"])
    assert rows.features[:, 0].tolist() == [1, 0, 0, 0]
    assert rows.ids["colour"] == ["1", "2", "", ""]


@pytest.mark.parametrize(
    "said",
    [
        {"features": []},
        {"features": "age"},
        {"features": ["age", "shade"]},
        {"columns": [{"name": "age"}]},
        {"columns": [{"kind": "number"}, {"name": "colour"}]},
        {"columns": [1, 2]},
        {"columns": [{"name": "age", "rate": 3}, {"name": "colour"}]},
        {"columns": [{"name": "age", "format": 3}, {"name": "colour"}]},
        {"columns": [{"name": "age", "format": "1e9"}, {"name": "colour"}]},
        {"text_inputs": []},
        {"text_inputs": {"columns": {"colour": "shade"}}},
        {"text_inputs": {"columns": {}}},
        {"ids": [1]},
    ],
)
def test_a_card_that_says_something_else_is_refused(said: dict[str, Any], new_rows: Path) -> None:
    """Anyone may have written it."""
    with pytest.raises((ModelFileError, DataError)):
        rows_for(str(new_rows), {**CARD, **said}, PORTS, Path("m.onnx"))


def read(file: Path) -> list[dict[str, str]]:
    """Rows of a CSV file."""
    return list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))


@pytest.mark.slow
def test_a_run_its_file_and_a_stranger_answer_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`lrdiff predict` with the run and with the file, and ten lines with ONNX Runtime alone."""
    draw = np.random.default_rng(0)
    table, new, run = tmp_path / "table.csv", tmp_path / "new.csv", tmp_path / "run"
    colours, cities = ["red", "blue", "gr\u00fcn", "NA"], ["Oslo", "S\u00e3o Paulo", "\u6771\u4eac"]
    with table.open("w", newline="", encoding="utf-8") as file:
        write = csv.writer(file)
        write.writerow(["age", "colour", "member", "city", "y"])
        for _ in range(160):
            age, colour = draw.integers(18, 90), draw.choice(colours)
            member, city = draw.choice(["yes", "no"]), draw.choice(cities)
            label = (colour == "red") ^ (age > 50)
            write.writerow([age if draw.random() > 0.05 else "", colour, member, city, "good" if label else "bad"])
    settings = tmp_path / "few.toml"  # a few epochs will do
    settings.write_text('categorical = ["colour", "city"]\nepochs = 5\nhidden = [4]\n')
    assert main(["train", str(settings), "--data", str(table), "--target", "y", "--out", str(run)]) == 0
    assert main(["export", str(run)]) == 0
    rows = [
        "Oslo,yes,30,red",
        " Oslo ,no,,mauve",
        "Bergen,yes,71,",
        "\u6771\u4eac,no,44,blue ",
        f"OSLO,no,9,{'x' * 500}",
    ]
    new.write_text("\n".join(["city,member,age,colour", *rows, ""]), encoding="utf-8")
    answers = {}
    for name, model in (("run", run), ("file", run / "model.onnx")):
        out = tmp_path / f"{name}.csv"
        assert main(["predict", str(model), "--data", str(new), "--out", str(out)]) == 0
        answers[name] = [float(row["p(good)"]) for row in read(out)]
    script = tmp_path / "stranger.py"
    script.write_text(STRANGER)
    told = subprocess.run(
        [sys.executable, script, run / "model.onnx", new], capture_output=True, text=True, check=True
    ).stdout.split()
    np.testing.assert_allclose(answers["file"], answers["run"], atol=1e-6)
    np.testing.assert_allclose([float(one) for one in told], answers["file"], atol=1e-7)
    assert len(set(answers["run"])) == 5
    model = onnx.load(run / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert {one.domain for one in model.opset_import} == {"", "ai.onnx.ml"}
    assert main(["verify", str(run / "model.onnx"), "--run", str(run)]) == 0
    (encoder,) = [one for one in model.graph.node if one.op_type == "LabelEncoder" and one.input[0] == "colour"]
    keys = next(one for one in encoder.attribute if one.name == "keys_strings")
    keys.strings[:] = [*reversed(keys.strings)]
    onnx.save(model, tmp_path / "swapped.onnx")
    assert main(["verify", str(tmp_path / "swapped.onnx"), "--run", str(run)]) == 1
    capsys.readouterr()
    assert main(["export", str(run), "--out", str(tmp_path / "codes.onnx"), "--string-inputs", "off", "--json"]) == 0
    assert [one["dtype"] for one in json.loads(capsys.readouterr().out)["inputs"]] == ["float32"]
    assert main(["export", str(run), "--string-inputs", "maybe"]) == 2


def test_a_model_of_ones_own_on_a_table_takes_its_words_too() -> None:
    """What is declared already stays, and columns of words hold codes alone."""
    columns = (ColumnSpec(name="age"), ColumnSpec(name="colour", kind="category", categories=("blue", "red")))
    spec = ModelSpec(
        features=2, hidden=(), outputs=1, task="binary", feature_names=("age", "colour"), classes=("no", "yes"),
        target_name="y", columns=columns,
    )  # fmt: skip
    own = OnTable(build_model(spec, seed=0), nn.Linear(3, 1))
    given = {"output_names": ["colour"], "ports": [Port(name="features", unit="years"), Port(name="colour", unit="1")]}
    made = with_words(own, given)
    assert made["text"].inputs == ("colour_",)
    assert {port.name: (port.unit, port.categories) for port in made["ports"]} == {
        "colour": ("1", None), "features": ("years", {1: 3})
    }  # fmt: skip
    codes = with_words(own, given, words=False)
    assert codes["text"] is None
    assert codes["ports"] == made["ports"]
    assert with_words(nn.Linear(2, 1), given) is given
