"""Names from files of other people: no terminal obeys them, no spreadsheet computes them, no folder is left by them."""

import io

import numpy as np
import polars as pl
import pytest
from rich.table import Table
from rich.text import Text

from lrdiff_bench.cli import main
from lrdiff_bench.report.errors import print_error, write_out
from lrdiff_bench.report.tables import doing, heading, line, make_console, plain_table
from lrdiff_bench.run.use.predictions import predictions_table, write_predictions
from lrdiff_core.errors import ConfigError
from lrdiff_core.text import visible

NAME = "head\x1b[2J\x9b31m\x07\r\u202ex"


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


def test_negative_numbers_are_no_formulas(tmp_path):
    table = predictions_table(np.array([[-1.5]], np.float32), target="y", classes=())
    write_predictions(table, tmp_path / "a.csv", quote_formulas=True)
    assert (tmp_path / "a.csv").read_text() == "y\n-1.5\n"
