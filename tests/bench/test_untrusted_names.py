"""Names from files of other people: no terminal obeys them, no spreadsheet computes them, no folder is left by them."""

import csv
import io
import random
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rich.table import Table
from rich.text import Text

from lrdiff_bench.cli import main
from lrdiff_bench.rates.lr_find_picture import draw_lr_find
from lrdiff_bench.report.errors import print_error, write_out
from lrdiff_bench.report.tables import doing, heading, line, make_console, plain_table
from lrdiff_bench.run.screen import Screen
from lrdiff_bench.run.use.predictions import predictions_table, without_formulas, write_predictions
from lrdiff_core.errors import ConfigError
from lrdiff_core.lr_find import RateCurve
from lrdiff_core.text import visible

NAME = "head\x1b[2J\x9b31m\x07\r\u202ex"
MARKUP = ("[/b]x", "[red]y[/red]", ":smile:", r"$\frac$", "[link=http://a]z", "[/]", "{0}", "<b>w</b>")


def obeyed(text):
    return [one for one in text if (ord(one) < 32 and one not in "\n\t") or 127 <= ord(one) < 160 or one == "\u202e"]


def test_every_screen_writes_out_what_a_terminal_would_obey(capsys):
    console = make_console()
    table = plain_table(NAME, "b")
    table.add_row(NAME, Text(NAME))
    console.print(table)
    plain = Table("c")
    plain.add_row(NAME)
    console.print(plain, NAME)
    line(console, NAME, "red")
    heading(console, 1, NAME)
    with doing() as show:
        show(NAME)
    write_out(NAME + "\n")
    print_error(NAME, NAME)
    out, err = capsys.readouterr()
    assert obeyed(out + err) == []
    assert out.count("\\x1b[2J") >= 6
    assert "\\x1b[2J" in err


def test_what_is_written_out_can_be_told_apart():
    assert visible(NAME) == "head\\x1b[2J\\x9b31m\\x07\\r\\u202ex"
    assert visible("äöü → µs\n\t") == "äöü → µs\n\t"


@pytest.mark.parametrize("name", MARKUP)
@pytest.mark.parametrize("color", ["", "1"])
def test_every_screen_shows_a_name_as_it_is(name, color, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", color)  # also to whoever looks at it: with a spinner, with bars
    console = make_console()
    table = plain_table(name, "why")
    table.add_row(name, name)
    plain = Table("c", title=name)
    plain.add_row(name)
    console.print(table, plain, name)
    line(console, name, "red")
    heading(console, 1, name)
    with doing() as show:
        show(name)
    screen = Screen(console)
    screen.progress("training", 1, 2, name)
    screen.close()
    out, err = capsys.readouterr()
    assert (out + err).count(name) >= (10 if color else 8)


def test_a_picture_shows_a_name_as_it_is(tmp_path):
    rates, losses = np.array([0.001, 0.01, 0.1]), np.array([3.0, 2.0, 1.0])
    curve = RateCurve(rates, losses, losses, None, (0.1,), False)
    draw_lr_find(tmp_path, curve, names=[r"$\frac$"], title="$x$ and $y")
    drawn = (tmp_path / "lr_find.svg").read_text()
    assert r">$\frac$: " in drawn
    assert ">$x$ and $y<" in drawn
    assert ">$" not in drawn.replace(r">$\frac$", "").replace(">$x$", "")  # powers of ten beside the axis are formulas


@pytest.mark.slow
def test_commands_show_names_as_they_are(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    draw = random.Random(0)
    with Path("a.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["[/a] num", ":cat:", "[/id]", "[/y]"])
        rows.writerows([draw.gauss(i % 8, 1), draw.choice(MARKUP), f"[/r]{i}", MARKUP[i % 8]] for i in range(96))
    monkeypatch.setenv("FORCE_COLOR", "1")

    def said(*arguments):
        assert main(list(arguments)) == 0, capsys.readouterr()
        out, err = capsys.readouterr()
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out + err)

    given = ["--data", "a.csv", "--target", "[/y]", "--id", "[/id]", "--epochs", "2", "--out", "run"]
    for text in (said("train", *given), said("trace", "run")):
        assert all(name in text for name in (*MARKUP, "[/a] num", "[/id]", "[/y]"))
    assert all(f"p({name})" in said("predict", "run", "--data", "a.csv") for name in MARKUP)
    said("runs", ".")
    said("report", "run", "--out", "a.html")
    assert "&lt;b&gt;w" in Path("a.html").read_text()
    said("export", "run", "--out", "a.onnx")
    said("verify", "a.onnx")
    assert said("predict", "a.onnx", "--data", "a.csv").startswith("[/id],[/y],p(")


@pytest.mark.slow
def test_commands_show_layers_as_they_are(tmp_path, monkeypatch, capsys):
    layers = {name.replace(".", "_"): None for name in MARKUP}
    (tmp_path / "marked_layers.py").write_text(f"""
import torch
from torch import nn
def make():
    torch.manual_seed(0)
    layers = nn.Sequential()
    for name in {list(layers)!r}:
        layers.add_module(name, nn.Linear(2, 2))
    rows = torch.randn(64, 2)
    return layers, rows[:2], {{"rows": rows, "targets": (rows[:, 0] > 0).long()}}
""")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for arguments in (
        ["train", "marked_layers:make", "--epochs", "1", "--out", "run"],
        ["trace", "run"],
        ["rates", "run", "--list"],
        ["lr-find", "marked_layers:make", "--out", "found"],
    ):
        assert main(arguments) == 0
        out, err = capsys.readouterr()
        assert all(name in out + err for name in layers)


def test_data_go_as_they_are_to_a_pipe_and_never_to_a_terminal(monkeypatch):
    for terminal in (False, True):
        stream = io.StringIO()
        monkeypatch.setattr(stream, "isatty", lambda terminal=terminal: terminal, raising=False)
        monkeypatch.setattr("sys.stdout", stream)
        write_out(NAME, data=True)
        assert (stream.getvalue() == NAME) is not terminal


def test_rates_of_a_hostile_layer(tmp_path, monkeypatch, capsys):
    code = "import torch\ndef make():\n    return torch.nn.Sequential(OrderedDict({NAME: torch.nn.Linear(1, 1)}))\n"
    head = "from collections import OrderedDict\n"
    (tmp_path / "hostile_layers.py").write_text(f"{head}NAME = {NAME!a}\n{code}")
    monkeypatch.chdir(tmp_path)
    for more in ([], ["--list"], ["--lr", "0.1"]):
        main(["rates", "hostile_layers:make", *more])
        out, err = capsys.readouterr()
        assert obeyed(out + err) == []
        assert "head" in out + err


def test_formulas_are_quoted_where_it_is_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    classes = ("=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\tx", "\rx", "plain")
    answers = np.eye(len(classes), dtype=np.float32)
    table = predictions_table(answers, target="=target", classes=classes, ids={"@id": ["-1"] * len(classes)})
    write_predictions(table, tmp_path / "a.csv", quote_formulas=True)
    quoted = pl.read_csv(tmp_path / "a.csv", infer_schema=False)
    assert quoted.columns[:2] == ["'@id", "'=target"]
    assert quoted["'=target"].to_list() == [*("'" + one for one in classes[:-1]), "plain"]
    assert quoted["'@id"].to_list() == ["'-1"] * len(classes)
    write_predictions(table, tmp_path / "b.csv")
    assert pl.read_csv(tmp_path / "b.csv", infer_schema=False)["=target"].to_list() == list(classes)
    with pytest.raises(ConfigError, match="is for CSV"):
        write_predictions(table, tmp_path / "b.parquet", quote_formulas=True)


@pytest.mark.parametrize(
    "names", [["'=t", "=t"], ["=t", "'=t"], ["=t", "'=t_2", "'=t"], ["@", "'@", "''@"], ["t", "=t"]]
)
def test_quoted_names_stay_different(names):
    quoted = without_formulas(pl.DataFrame({name: [str(place)] for place, name in enumerate(names)}))
    assert [quoted[name][0] for name in quoted.columns] == list(map(str, range(len(names))))
    assert not any(name.startswith("=") for name in quoted.columns)


def test_negative_numbers_are_no_formulas(tmp_path):
    table = predictions_table(np.array([[-1.5]], np.float32), target="y", classes=())
    write_predictions(table, tmp_path / "a.csv", quote_formulas=True)
    assert (tmp_path / "a.csv").read_text() == "y\n-1.5\n"
