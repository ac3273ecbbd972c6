"""``lrdiff bench step``: rows, goals and rendering with made-up times, and one real quick run on the MLP."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from lrdiff_bench.cli import main
from lrdiff_bench.measure.cases import step_peers, step_table
from lrdiff_bench.measure.cases.step_table import (
    make_rows,
    markdown,
    measure,
    measure_all,
)
from lrdiff_bench.measure.engine import timing
from lrdiff_bench.stats.intervals import Interval
from lrdiff_core.errors import ConfigError


class FakePeer:
    """A peer that does nothing and counts."""

    def __init__(self, case):
        self.steps = 0

    def step(self):
        self.steps += 1

    def reset(self):
        self.steps = 0


@pytest.fixture
def fake(monkeypatch):
    """Peers that do nothing and times that are made up: ours 2 ms, theirs 10 ms, interval 4.5 to 5.5."""
    asked = []

    def compare(a, b, *, rounds, threads):
        for case in (a, b):
            case.factory().step()
        asked.append((a.name, b.name, rounds, threads))
        noise = SimpleNamespace(relative_iqr=0.02)
        ours, theirs = SimpleNamespace(median=0.002, noise=noise), SimpleNamespace(median=0.010, noise=noise)
        if a.name != "lrdiff":  # the sides exchanged, and the first built slower by a quarter, as the other time
            return SimpleNamespace(a=theirs, b=ours, ratio=None, ratios=(0.2 / 1.25,) * rounds)
        ratio = Interval(5.0, 4.5, 5.5, 0.95)
        return SimpleNamespace(a=ours, b=theirs, ratio=ratio, ratios=(5.0 / 1.25,) * rounds)

    names = ["lrdiff", "torch default", "torch fused", "torch compiled", "optax multi_transform"]
    monkeypatch.setattr(step_peers, "peers", lambda: [(name, FakePeer) for name in names])
    monkeypatch.setattr(step_peers, "BandwidthPeer", FakePeer)
    monkeypatch.setattr(timing, "compare_cases", compare)
    monkeypatch.setattr(step_table, "_forms", lambda: "kernel")
    return asked


def row_of(tasks, shapes, against):
    return next(t for t in tasks if t.row.against == against and shapes in t.row.shapes)


# ---- rows and goals


def test_every_goal_of_the_table_is_there():
    goals = {(task.row.shapes, task.row.against): task.row.goal.text for task in make_rows()}
    assert goals == {
        ("10-5-1 MLP, 2 rates", "torch default"): "at least 10x faster",
        ("10-5-1 MLP, 2 rates", "torch fused"): "at least 4x faster",
        ("10-5-1 MLP, 2 rates", "one rate"): "at most 1.5x",
        ("transformer, width 64, 12 layers, 14 rates", "torch default"): "at least 10x faster",
        ("transformer, width 64, 12 layers, 14 rates", "torch fused"): "at least 3x faster",
        ("transformer, width 64, 12 layers, 14 rates", "torch compiled"): "at least 1.5x faster",
        ("transformer, width 64, 12 layers, 14 rates", "optax multi_transform"): "at least 8x faster",
        ("transformer, a rate for each tensor", "torch fused"): "at least 7x faster",
        ("transformer, 2 rates", "one rate"): "at most 1.1x",
        ("transformer, 32 rates", "one rate"): "at most 1.1x",
        ("1000 tensors of 32x32, 32 rates", "one rate"): "at most 1.1x",
        ("1000 tensors of 32x32, 1000 rates", "one rate"): "at most 1.5x",
        ("BERT-base, layer decay, 28 groups", "torch fused"): "not slower",
        ("BERT-base, layer decay, 28 groups", "a.add_(b)"): "at least 90 %",
        ("BERT-base, layer decay, 28 groups", "one rate"): "at most 1.1x",
    }


def test_without_peers_only_our_own_limits_are_measured():
    assert {task.row.against for task in make_rows(peers=False)} == {"one rate", "a.add_(b)"}


def test_the_sizes_are_those_of_the_shapes(fake):
    tasks = make_rows()
    sizes = {(task.row.tensors, task.row.parameters) for task in tasks}
    assert (4, 61) in sizes
    assert (199, 109_482_240) in sizes
    assert (1000, 1_024_000) in sizes
    assert min(count for tensors, count in sizes if tensors == 201) > 100_000


def test_shapes_that_are_not_there():
    with pytest.raises(ConfigError, match="no shapes called 'gpt'\nhelp: write one of: mlp, transformer, many, bert"):
        make_rows(["gpt"])


# ---- ratios


def test_faster_is_their_time_over_ours(fake):
    row = measure(row_of(make_rows(), "MLP", "torch fused"), threads=2)
    assert row.ratio == (5.0, 4.5, 5.5)
    assert (row.ours, row.theirs, row.threads, row.verdict) == (0.002, 0.010, 2, "met")
    assert fake == [("lrdiff", "torch fused", step_table.ROUNDS, 2)]


def test_against_one_rate_it_is_our_time_over_its_without_the_order_of_building(fake):
    row = measure(row_of(make_rows(), "MLP", "one rate"))
    assert row.ratio == pytest.approx((0.2, 0.2, 0.2))
    assert (row.ours, row.theirs, row.verdict) == (0.002, 0.010, "met")
    assert [asked[:2] for asked in fake] == [("lrdiff", "one rate"), ("one rate", "lrdiff")]


def test_bandwidth_counts_bytes(fake):
    row = measure(row_of(make_rows(), "BERT", "a.add_(b)"))
    assert row.ratio == pytest.approx((5 * 28 / 12, 4.5 * 28 / 12, 5.5 * 28 / 12))
    assert fake[0][2] == step_table.BERT_ROUNDS  # of one step: 2 GB a side are no place for more


def test_both_sides_of_a_self_comparison_are_what_they_say():
    task = row_of(make_rows(["many"]), "1000 rates", "one rate")
    many, one = task.ours(), task.theirs()
    assert len({group["lr"] for group in many.optimizer.param_groups}) == 1000
    assert len(one.optimizer.param_groups) == 1
    assert sum(p.numel() for p in many.tensors.values()) == task.row.parameters


# ---- what is not here


def test_a_peer_that_is_not_installed_is_named_with_the_reason(fake, monkeypatch):
    monkeypatch.setattr(step_peers, "peers", lambda: [("lrdiff", FakePeer), ("torch default", FakePeer)])
    row = measure(row_of(make_rows(), "transformer", "optax multi_transform"))
    assert (row.verdict, row.reason) == ("unavailable", "optax is not installed: pip install optax")
    assert fake == []


def test_a_peer_that_fails_is_named_with_its_error(fake, monkeypatch):
    def broken(case):
        raise RuntimeError("XLA went away\nand said why at length")

    task = replace(row_of(make_rows(), "transformer", "optax multi_transform"), theirs=lambda: broken(None))
    row = measure(task)
    assert (row.verdict, row.reason) == ("unavailable", "RuntimeError: XLA went away")


def test_without_a_compiler_the_compiled_step_is_unavailable(fake, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    row = measure(row_of(make_rows(), "transformer", "torch compiled"))
    assert row.verdict == "unavailable"
    assert "no C++ compiler" in row.reason


# ---- the table


def test_the_table_says_where_its_numbers_come_from(fake, monkeypatch):
    for name, value in {
        "provenance": {
            "machine": {"cpu": "Some CPU", "cpus": 2, "load": 0.25, "system": "Linux x86_64", "device": "cpu"},
            "versions": {"lrdiff": "0.1.0", "torch": "2.13.0"},
            "commit": "abc123",
        },
        "_forms": "kernel",
    }.items():
        monkeypatch.setattr(step_table, name, lambda *_, value=value: value)
    monkeypatch.setattr(step_peers, "peers", lambda: [("lrdiff", FakePeer), ("torch default", FakePeer)])
    document = measure_all(make_rows(["mlp"]), threads=[1, 2], command="lrdiff bench step --peers")
    table = [
        "| shapes | tensors | parameters | against | ours | theirs | ratio [95 %] | goal | | noise |",
        "|---|---:|---:|---|---:|---:|---:|---|---|---:|",
        "| 10-5-1 MLP, 2 rates | 4 | 61 | torch default | 2.00 ms | 10.0 ms | 5 [4.5, 5.5] times faster | "
        "at least 10x faster | missed | 2% |",
        "|  | 4 | 61 | torch fused |  |  |  | at least 4x faster | "
        "unavailable: torch fused is not installed: pip install torch fused |  |",
        "|  | 4 | 61 | one rate | 2.00 ms | 10.0 ms | 0.2 [0.2, 0.2] times as long | at most 1.5x | met | 2% |",
    ]
    assert markdown(document).splitlines() == [
        "# What an optimizer step costs",
        "",
        "`lrdiff bench step --peers`",
        "",
        "- machine: Some CPU, 2 CPUs, load 0.2 before, Linux x86_64",
        "- versions: lrdiff 0.1.0, torch 2.13.0",
        "- commit: abc123",
        "- our step ran as: kernel",
        "- AdamW on fixed gradients, the step alone; medians of alternating blocks in one run, ratio with its 95 % "
        "interval; noise is the interquartile range over the median, of the noisier side",
        "- against one rate both orders of building the two are measured, and their ratios averaged: "
        "of two identical cases the one built second was seen up to 15 % faster",
        "- torch's thread count is set; XLA (optax) runs on threads of its own",
        "",
        "## 1 thread",
        "",
        *table,
        "",
        "## 2 threads",
        "",
        *table,
    ]


def test_a_missed_goal_ends_with_status_1_but_not_when_quick(fake, capsys, tmp_path):
    arguments = ["bench", "step", "--peers", "--shape", "mlp", "--threads", "1"]
    assert main(arguments) == 1  # 5x, where 10x is the goal
    assert main([*arguments, "--quick"]) == 0
    out, err = capsys.readouterr()
    assert "quick: six rounds a row" in out
    assert err.splitlines()[0] == "1/3 10-5-1 MLP, 2 rates, 1 threads, torch default: missed"


def test_out_writes_the_same_table_and_json_is_one_document(fake, capsys, tmp_path):
    file = tmp_path / "step.md"
    assert main(["bench", "step", "--shape", "mlp", "--out", str(file)]) == 0
    assert file.read_text() == capsys.readouterr().out
    assert "`lrdiff bench step --shape mlp`" in file.read_text()
    assert "## 1 thread\n" in file.read_text()
    assert "## 2 threads\n" in file.read_text()
    assert main(["bench", "step", "--shape", "mlp", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["format"], document["version"]) == ("lrdiff.step_table", 1)
    assert {row["threads"] for row in document["rows"]} == {1, 2}


@pytest.mark.parametrize(
    ("arguments", "error", "help"),
    [
        (["--shape", "gpt"], "there are no shapes called 'gpt'", "write one of: mlp, transformer, many, bert"),
        (["--threads", "0"], "threads is 0", "write a whole number from 1 up"),
        (["--out", "no/where.md"], "cannot write no/where.md: no such folder", "name a file in a folder that exists"),
    ],
)
def test_input_that_cannot_be_used(fake, capsys, tmp_path, monkeypatch, arguments, error, help):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "step", *arguments]) == 2
    assert capsys.readouterr() == ("", f"error: {error}\nhelp: {help}\n")
    assert fake == []


def test_a_real_quick_run(capsys):
    assert main(["bench", "step", "--peers", "--quick", "--shape", "mlp", "--threads", "1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    rows = {row["against"]: row for row in document["rows"]}
    assert list(rows) == ["torch default", "torch fused", "one rate"]
    for row in rows.values():
        assert row["verdict"] in ("met", "missed", "unresolved")
        assert 0 < row["ours"] < 0.01
        middle, low, high = row["ratio"]
        assert 0 < low <= middle <= high
    assert rows["torch default"]["ratio"][0] > 2  # a fifth of the goal: the machine may be busy
    assert document["commit"]
    assert document["versions"]["torch"]


def test_help_loads_no_torch():
    import subprocess
    import sys

    code = "import sys; from lrdiff_bench.cli import main; main(['bench', 'step', '--help']); "
    code += "print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "--peers" in done.stdout
    assert done.stdout.endswith("False\n")


def test_a_fault_of_our_own_is_a_missed_goal_not_a_missing_peer(fake, monkeypatch):
    class Broken(FakePeer):
        def step(self):
            raise RuntimeError("ours went away")

    monkeypatch.setattr(step_peers, "peers", lambda: [("lrdiff", Broken), ("torch fused", FakePeer)])
    row = measure(row_of(make_rows(["mlp"]), "MLP", "torch fused"))
    assert (row.verdict, row.reason) == ("missed", "RuntimeError: ours went away")
