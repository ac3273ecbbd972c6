"""Files read piece by piece: the same cells as read whole, the same statistics, a split that follows from the place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings, strategies as st

from lrdiff_core import make_config, set_up, train
from lrdiff_core.data import load_table, streamed
from lrdiff_core.data.formats import read_frame
from lrdiff_core.data.streamed import is_large, pieces, sample, take_sample
from lrdiff_core.data.streamed.pieces import pieces_of
from lrdiff_core.data.streamed.sample import draws
from lrdiff_core.errors import ConfigError, DataError
from lrdiff_core.streaming import Moments

ROWS = 3000


@pytest.fixture
def table(tmp_path, monkeypatch) -> pl.DataFrame:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pieces, "PIECE_CELLS", 2048)
    monkeypatch.setattr(pieces, "PIECE_BYTES", 2**12)
    monkeypatch.setattr(pieces, "_HEAD_BYTES", 2**12)
    random = np.random.default_rng(0)
    x = random.normal(size=(ROWS, 2))
    frame = pl.DataFrame({
        "a": x[:, 0] * 3 + 1e4,
        "b": x[:, 1],
        "c": random.choice(["red", "green", "blue"], ROWS),
        "y": np.where(x[:, 0] + x[:, 1] > 0, "yes", "no"),
    })  # fmt: skip
    frame.write_parquet("t.parquet")
    frame.write_csv("t.csv")
    return frame


NASTY = [
    "a,b\n1,2\n3,4\n",
    "a,b\r\n1,2\r\n3,4",
    '\n\n"a",b\n"x, y",1\n"two\nlines",2\n"quo""te",3\n',
    "\ufeffa;b\n1,5;2\n2,5;3\n",
    '"a\n1",b\n1,2\n',
    'a,b\n"' + "long\n" * 40 + '",2\n1,2\n',
]


@pytest.mark.parametrize("text", NASTY)
@pytest.mark.parametrize("size", [1, 7, 64, 2**20])
def test_pieces_of_a_csv_are_the_whole(tmp_path, monkeypatch, text, size):
    monkeypatch.setattr(pieces, "PIECE_BYTES", size)
    monkeypatch.setattr(pieces, "_HEAD_BYTES", 300)
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode())
    whole, _ = read_frame(path)
    found = pl.concat(list(pieces_of(path)))
    assert found.columns == whole.columns
    assert found.rows() == whole.rows()


@pytest.mark.parametrize("name", ["t.parquet", "t.csv"])
def test_pieces_are_many_and_take_columns(table, name):
    found = list(pieces_of(Path(name), columns=["y", "a"]))
    assert len(found) > 2
    assert pl.concat(found)["a"].cast(pl.Float64).to_list() == table["a"].to_list()
    assert found[0].columns == ["y", "a"]
    with pytest.raises(DataError, match="no column"):
        list(pieces_of(Path(name), columns=["z"]))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a,b\n1,2\n1,2,3\n", "not CSV behind row 1"),
        (b"a,b\n1,\xff\n", "UTF-8"),
        (b"a,a\n1,2\n", "more than one column"),
        (b"PAR1", "Parquet"),
        (b"a,b", "no line end"),
        (b"a,b\n", "no rows"),
    ],
)
def test_bad_csv(tmp_path, content, words):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(DataError, match=words):
        take_sample(tmp_path / "t.csv")


def test_the_sample_is_drawn_by_places_alone(table, monkeypatch):
    monkeypatch.setattr(pieces, "PIECE_CELLS", 2048)
    few = take_sample(Path("t.parquet"), rows=1000)
    assert (few.frame.height, few.rows) == (1000, ROWS)
    monkeypatch.setattr(pieces, "PIECE_CELLS", 2**20)
    again = take_sample(Path("t.csv"), rows=1000)
    assert again.frame["b"].cast(pl.Float64).to_list() == few.frame["b"].to_list()
    assert np.array_equal(few.drawn, again.drawn)
    assert abs(few.drawn.mean() - 0.5) < 0.03
    everything = take_sample(Path("t.parquet"))
    assert everything.frame.rows() == table.rows()
    assert np.array_equal(everything.drawn, draws(np.arange(ROWS)))
    spread = np.histogram(draws(np.arange(10**5)), bins=20)[0]
    assert spread.min() > 4700
    assert spread.max() < 5300


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.floats(-1e9, 1e9), st.integers(0, 99))
def test_moments_in_one_pass_are_those_of_two(sizes, centre, seed):
    random = np.random.default_rng(seed)
    batches = [random.normal(size=(size, 3)) + centre for size in sizes]
    moments = Moments(3)
    for batch in batches:
        moments.add(batch)
    rows = np.concatenate(batches)
    assert moments.rows == len(rows)
    assert np.allclose(moments.mean, rows.mean(axis=0), rtol=1e-14, atol=1e-12)
    assert np.allclose(moments.variance, rows.var(axis=0), rtol=1e-6, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["t.parquet", "t.csv"])
def test_a_streamed_training_sees_the_rows_of_one_in_memory(table, name):
    config = make_config({"data": name, "target": "y", "stream": "always", "epochs": 6, "patience": 0, "hidden": [4]})
    rows = config.load_table()
    assert rows.stream is not None
    assert (rows.stream.rows, len(rows.features)) == (ROWS, ROWS)  # the sample is all of a small file
    setup = set_up(rows, config)
    split = setup.rows.split
    assert setup.rows.training_rows == len(split.train)
    whole = set_up(load_table(name, target="y", stream="never"), config, split=split)
    for buffer in ("mean", "inverse_std"):
        ours, theirs = (getattr(one.net.standardize, buffer) for one in (setup, whole))
        assert torch.allclose(ours, theirs, rtol=1e-6)
    assert setup.rows.blocks is not None
    blocks = list(setup.rows.blocks())
    assert len(blocks) > 2
    assert all(len(inputs) % setup.batch_size == 0 for inputs, _ in blocks[:-1])
    assert torch.equal(torch.cat([inputs for inputs, _ in blocks]), setup.rows.inputs["train"])
    assert torch.equal(torch.cat([wanted for _, wanted in blocks]), setup.rows.targets["train"])
    first, again, other = train(setup), train(set_up(rows, config)), train(whole)
    pairs = zip(first.net.state_dict().values(), again.net.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert first.last("test").score > 0.9
    assert abs(first.last("test").score - other.last("test").score) < 0.05


def test_a_number_is_streamed_in_units_of_all_rows(table, monkeypatch):
    monkeypatch.setattr(sample, "SAMPLE_ROWS", 500)
    monkeypatch.setattr(take_sample, "__kwdefaults__", {"rows": 500})
    table.with_columns(y=pl.col("a") + pl.col("b")).write_parquet("n.parquet")
    config = make_config({"data": "n.parquet", "target": "y", "stream": "always", "epochs": 3})
    rows = config.load_table()
    assert len(rows.features) == 500
    setup = set_up(rows, config)
    drawn = draws(np.arange(ROWS))
    training = table.filter(pl.Series(drawn < config.edges()[0]))
    assert setup.rows.training_rows == training.height
    assert setup.net.target_mean.item() == pytest.approx((training["a"] + training["b"]).mean(), rel=1e-6)
    assert len(set_up(rows, config, seed=5).rows.split.test) == len(setup.rows.split.test)
    assert train(setup).last("test").score > 0.9


def test_what_is_large(tmp_path, monkeypatch):
    for module in (pieces, streamed):
        monkeypatch.setattr(module, "MOST_CELLS", 1000)
    frame = pl.DataFrame({"a": range(400), "b": range(400), "y": [0, 1] * 200})
    for rows, large in ((300, False), (400, True)):
        frame.head(rows).write_parquet(tmp_path / "t.parquet")
        frame.head(rows).write_csv(tmp_path / "t.csv")
        assert is_large(tmp_path / "t.parquet") is large
        assert is_large(tmp_path / "t.csv") is large
    monkeypatch.chdir(tmp_path)
    assert load_table("t.csv", target="y").stream is not None
    assert any("400 rows are streamed" in note for note in load_table("t.csv", target="y").notes)
    assert load_table("t.csv", target="y", stream="never").stream is None
    assert load_table("t.csv", target="y", groups="b").stream is None
    for name in ("t.jsonl", "none.csv"):
        assert not is_large(tmp_path / name)
    (tmp_path / "bad.csv").write_bytes(b"\0" * 5000)
    assert not is_large(tmp_path / "bad.csv")


def test_refused(table):
    options = {"target": "y", "stream": "always"}
    with pytest.raises(ConfigError, match="groups is given"):
        load_table("t.csv", groups="c", **options)
    Path("t.jsonl").write_text('{"a":1,"y":0}')
    with pytest.raises(DataError, match="cannot be streamed"):
        load_table("t.jsonl", **options)
    with pytest.raises(ConfigError, match="no folds"):
        config = make_config({"data": "t.csv", "cv": 3, **options})
        set_up(config.load_table(), config)
    rare = pl.concat([table, table.head(1).with_columns(y=pl.lit("perhaps"))])
    rare.write_parquet("rare.parquet")
    stream = load_table("t.parquet", **options).stream
    object.__setattr__(stream, "path", Path("rare.parquet"))
    with pytest.raises(DataError, match='"perhaps".*"no", "yes" alone'):
        list(stream.batches())


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["1", "2.0", " 1 ", "", "2", "NA"], [0, 1, 0, None, 1, None]),
        (["true", "FALSE", "True", "null", "false", "true"], [1, 0, 1, None, 0, 1]),
        (["u", "v ", "u", "n/a", "v", "u"], [0, 1, 0, None, 1, 0]),
        (["0.5", "1e3", "inf", "-2", "nan", "0.25"], [0.5, 1000, None, -2, None, 0.25]),
    ],
)
def test_targets_are_those_of_the_whole_table(tmp_path, labels, expected):
    text = "a,y\n" + "".join(f"{i * 7 % 5},{label}\n" for i, label in enumerate(labels * 3))
    path = tmp_path / "t.csv"
    path.write_text(text)
    stream = load_table(path, target="y", stream="always", numeric=["a"]).stream
    ((features, targets, drawn),) = stream.batches()
    assert targets.tolist() == [value for value in expected * 3 if value is not None]
    assert targets.tolist() == load_table(path, target="y", numeric=["a"]).target.tolist()
    assert len(features) == len(drawn) == len(targets)
