"""``lrdiff bench step``: pairs, goals and rendering with made-up times, and one real quick run on the MLP."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from lrdiff_bench.cli import main
from lrdiff_bench.measure.cases import step_table
from lrdiff_bench.measure.cases.optimizer_step import IMPLEMENTATIONS
from lrdiff_bench.measure.cases.step_pairs import PAIRS, StepPair, select_pairs
from lrdiff_bench.measure.cases.step_table import measure_pair
from lrdiff_bench.measure.engine.registry import CASES
from lrdiff_bench.stats.intervals import Interval
from lrdiff_core.optimizers import OPTIMIZERS


@pytest.fixture
def times(monkeypatch) -> list:
    """Times that are made up: ours 2 ms, theirs 10 ms, interval 4.5 to 5.5; the list is of what was compared."""
    compared = []

    def compare(a, b, *, rounds, threads):
        compared.append((a.label, b.label, rounds, threads))
        noise = SimpleNamespace(relative_iqr=0.02)
        ours = SimpleNamespace(median=0.002, noise=noise, facts={"bytes": 28})
        theirs = SimpleNamespace(median=0.010, noise=noise, facts={"bytes": 12})
        if len(compared) > 1 and compared[-2][:2] == (b.label, a.label):  # the sides exchanged
            return SimpleNamespace(a=theirs, b=ours, ratio=None, ratios=(0.2 / 1.25,) * rounds)
        # The side that is built first seems slower by a quarter: both orders together must not show that.
        return SimpleNamespace(a=ours, b=theirs, ratio=Interval(5.0, 4.5, 5.5, 0.95), ratios=(5.0 / 1.25,) * rounds)

    monkeypatch.setattr(step_table, "compare_cases", compare)
    monkeypatch.setattr(step_table, "time_case", lambda *_, **__: SimpleNamespace(bytes_a_second=1e10))
    return compared


def pair_of(text: str, against: str) -> StepPair:
    return next(pair for pair in PAIRS if pair.against == against and text in pair.text)


def test_every_pair_is_of_registered_cases_and_the_goals_are_those_that_stand_in_the_readme() -> None:
    for pair in PAIRS:
        for caches in pair.caches:
            CASES["optimizer_step"].case(**pair.case, caches=caches)
        assert pair.against in {**IMPLEMENTATIONS, "one rate": 0, "a.add_(b)": 0}
        assert pair.sizes == {"mlp": (4, 61), "transformer": (201, 672_514), "many": (1000, 1_024_000),
                              "bert": (199, 109_482_240), "rules": (201, 672_514)}[pair.shape]  # fmt: skip
        assert pair.hot is None or pair.caches == ("hot",) or pair.cold is not None
    told = {(pair.shape, pair.against): [goal and goal.text for goal in (pair.hot, pair.cold)] for pair in PAIRS}
    assert told["mlp", "default"] == ["at least 10x faster", "at least 4x faster"]
    assert told["transformer", "one rate"] == ["at most 1.1x", "at most 1.1x"]
    assert told["bert", "fused"] == ["not slower", None]


def test_every_rule_is_compared_with_torchs_or_the_best_there_is() -> None:
    against: dict[str, list[str]] = {}
    for pair in select_pairs(["rules"]):
        against.setdefault(pair.case["optimizer"], []).append(pair.against)
    assert against.keys() == {name for name, entry in OPTIMIZERS.items() if not entry.routed} - {"adamw"}
    assert against["nadam"] == against["adafactor"] == ["default"]
    assert against["adagrad"] == ["default", "fused"]
    assert against["lamb"] == against["lion"] == ["loop", "pytorch_optimizer"]
    assert against["schedule_free"] == ["loop", "schedulefree"]


@pytest.mark.slow
def test_bytes_are_those_of_the_rule(times: list) -> None:
    moved = {pair.text.split()[-1]: measure_pair(pair, "hot").bytes for pair in select_pairs(["rules"])}
    numbers = 672_514
    assert (moved["NAdam"], moved["Lion"], moved["Adafactor"]) == (28 * numbers, 20 * numbers, 12 * numbers)


def test_without_peers_only_our_own_limits_are_measured() -> None:
    assert {pair.against for pair in select_pairs(peers=False)} == {"one rate", "a.add_(b)"}


@pytest.mark.parametrize(
    ("text", "against", "expected"),
    [
        ("MLP", "fused", (5.0, 4.5, 5.5)),  # their time over ours
        ("MLP", "one rate", (0.2, 0.2, 0.2)),  # ours over that with one rate, both orders
        ("BERT", "a.add_(b)", (5.0 * 28 / 12, 4.5 * 28 / 12, 5.5 * 28 / 12)),  # bytes a second
    ],
)
def test_ratios(times: list, text: str, against: str, expected: tuple) -> None:
    row = measure_pair(pair_of(text, against), "hot", threads=2, bandwidth=1e10)
    assert row.ratio == pytest.approx(expected)
    assert (row.ours, row.theirs, row.threads, row.noise) == pytest.approx((0.002, 0.010, 2, 0.02))
    assert row.bandwidth == pytest.approx(row.parameters * 28 / 0.002 / 1e10)
    rounds = {"BERT": 8}.get(text, 20)
    assert [one[2:] for one in times] == [(rounds, 2)] * len(times)
    assert measure_pair(pair_of(text, against), "hot", quick=True).verdict in ("met", "missed", "unresolved")
    assert times[-1][2:] == (6, 1)


def test_cold_is_another_case_with_another_goal(times: list) -> None:
    hot, cold = (measure_pair(pair_of("layer decay", "fused"), caches) for caches in ("hot", "cold"))
    assert [("caches=cold" in one[0], "caches=cold" in one[1]) for one in times] == [(False, False), (True, True)]
    assert (hot.goal, cold.goal) == (pair_of("layer decay", "fused").hot, pair_of("layer decay", "fused").cold)


def test_a_peer_that_is_not_here_says_how_to_get_it(times: list, monkeypatch) -> None:
    absent = replace(IMPLEMENTATIONS["fused"], package="not_there")
    monkeypatch.setattr(step_table, "IMPLEMENTATIONS", {**IMPLEMENTATIONS, "fused": absent})
    row = measure_pair(pair_of("MLP", "fused"), "hot")
    assert (row.verdict, row.reason) == ("unavailable", "not_there is not installed: pip install not_there")
    monkeypatch.setenv("CXX", "no-such-compiler")
    row = measure_pair(pair_of("layer decay", "compiled"), "hot")
    assert row.verdict == "unavailable"
    assert "no C++ compiler" in row.reason
    assert times == []


@pytest.mark.parametrize(("broken", "verdict"), [("ours", "missed"), ("fused", "unavailable")])
def test_a_fault_of_our_own_is_a_missed_goal_and_one_of_a_peer_is_told(broken: str, verdict: str, monkeypatch) -> None:
    def fail(*_):
        raise RuntimeError("went away")

    table = {**IMPLEMENTATIONS, broken: replace(IMPLEMENTATIONS[broken], make=fail)}
    monkeypatch.setattr("lrdiff_bench.measure.cases.optimizer_step.IMPLEMENTATIONS", table)
    row = measure_pair(pair_of("MLP", "fused"), "hot", quick=True)
    assert (row.verdict, row.reason) == (verdict, "RuntimeError: went away")


@pytest.mark.slow
def test_a_missed_goal_ends_with_status_1_but_not_when_quick(times: list, capsys, tmp_path) -> None:
    file = tmp_path / "step.md"
    arguments = ["bench", "step", "--peers", "--shape", "mlp", "--threads", "1", "--out", str(file)]
    assert main(arguments) == 1  # 5x, where 10x is the goal
    assert capsys.readouterr().out == file.read_text()
    assert main([*arguments, "--quick", "--json"]) == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert (document["format"], document["version"], document["quick"]) == ("lrdiff.step_table", 2, True)
    assert err.splitlines()[0] == "1/8 10-5-1 MLP, a rate a layer, 1 threads, hot, torch default: missed"
    assert "a quick look, no figures to quote" in file.read_text()


@pytest.mark.parametrize(
    ("arguments", "error", "help"),
    [
        (["--shape", "gpt"], "there are no shapes called 'gpt'", "write one of: mlp, transformer, many, bert, rules"),
        (["--threads", "0"], "threads is 0", "write a whole number from 1 up"),
        (["--out", "no/where.md"], "cannot write no/where.md: no folder no", "make the folder first"),
    ],
)
def test_input_that_cannot_be_used(times: list, capsys, tmp_path, monkeypatch, arguments, error, help) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "step", *arguments]) == 2
    assert capsys.readouterr() == ("", f"error: {error}\nhelp: {help}\n")
    assert times == []


@pytest.mark.long
def test_a_real_quick_run(capsys) -> None:
    assert main(["bench", "step", "--peers", "--quick", "--shape", "mlp", "--threads", "1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    rows = {(row["against"], row["caches"]): row for row in document["rows"] if row["reason"] is None}
    assert {against for against, _ in rows} >= {"torch default", "torch fused", "one rate"}
    for row in rows.values():
        assert row["verdict"] in ("met", "missed", "unresolved", None)
        assert 0 < row["ours"] < 0.01
        middle, low, high = row["ratio"]
        assert 0 < low <= middle <= high
    for caches in ("hot", "cold"):
        assert rows["torch default", caches]["ratio"][0] > 2  # a fifth of the goal: the machine may be busy
    assert document["commit"]
    assert document["versions"]["torch"]


def test_help_loads_no_torch() -> None:
    code = "import sys; from lrdiff_bench.cli import main; main(['bench', 'step', '--help']); "
    code += "print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "--peers" in done.stdout
    assert done.stdout.endswith("False\n")
