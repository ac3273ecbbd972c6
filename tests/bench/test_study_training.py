"""A study around any training: what a function may give, what it may not, and a whole study of the guide's loop."""

import math
import random
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lrdiff_bench.cli import main
from lrdiff_bench.study import Trials, training
from lrdiff_bench.study.commands.one_study import _price
from lrdiff_bench.study.own_training import workload_named
from lrdiff_core.errors import ConfigError, InputError

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "own-training.md"


def made(function, **options):
    return training(**{"groups": ("body", "head"), "steps": 4, "evaluations": 2, **options})(function)


def trained(function, judged_on="validation", rates=((0.1, 0.2),), seeds=(3,), **options):
    workload = made(function, **options)
    trials = Trials(
        rates=np.array(rates), seeds=np.array(seeds), scheme=workload.schemes[0], judged_on=judged_on
    )  # fmt: skip
    return workload.train(trials)


@pytest.mark.parametrize(
    ("given", "validation", "test"),
    [
        ({1: 4.0, 2: 3.0, 3: 2.0, 4: 1.0}, [3.0, 1.0], [3.0, 1.0]),
        ({4: 1.0, 2: torch.tensor(3.0)}, [3.0, 1.0], [3.0, 1.0]),  # in any order
        ([5.0, 4.0, 3.0, 2.0], [4.0, 2.0], [4.0, 2.0]),
        (np.array([4.0, 2.0]), [4.0, 2.0], [4.0, 2.0]),
        (torch.tensor([4.0, 2.0]), [4.0, 2.0], [4.0, 2.0]),
        ({"validation": [4.0, 2.0], "test": {2: 9.0, 4: 8.0}}, [4.0, 2.0], [9.0, 8.0]),
        (iter([(2, 4.0), (4, {"validation": 2.0, "test": 7.0})]), [4.0, 2.0], None),
        ({0: 9.0, 2: 4.0}, [4.0, 4.0], [4.0, 4.0]),  # stopped early
        ({2: 4.0, 3: math.inf}, [4.0, math.nan], [4.0, math.nan]),
        ({2: math.nan, 4: 1.0}, [math.nan, math.nan], [math.nan, math.nan]),  # diverged, and stays so
    ],
)
def test_what_a_training_may_give(given, validation, test):
    np.testing.assert_array_equal(trained(lambda rates, seed: given).metric, [validation])
    if test is not None:
        np.testing.assert_array_equal(trained(lambda rates, seed: given, "test").metric, [test])


def test_the_function_gets_rates_by_group_and_seeded_generators_and_leaves_none_changed():
    seen = []

    def train(rates, seed):
        seen.append((rates, seed, random.random(), float(np.random.rand()), float(torch.rand(1))))
        if seed == 5:
            raise OverflowError("too far")
        return [1.0, rates["head"]]

    torch.manual_seed(7)
    expected = float(torch.rand(1))
    torch.manual_seed(7)
    found = trained(train, rates=((0.1, 0.2), (0.1, 0.3), (0.0, 0.0)), seeds=(3, 3, 5))
    assert float(torch.rand(1)) == expected
    assert [one[:2] for one in seen] == [
        ({"body": 0.1, "head": 0.2}, 3), ({"body": 0.1, "head": 0.3}, 3), ({"body": 0.0, "head": 0.0}, 5),
    ]  # fmt: skip
    assert seen[0][2:] == seen[1][2:] != seen[2][2:]
    np.testing.assert_array_equal(found.metric[:, -1], [0.2, 0.3, math.nan])


@pytest.mark.parametrize(
    ("given", "said", "help"),
    [
        (None, "None of type NoneType", "step: value"),
        ("low", "'low' of type str", "step: value"),
        ({2: "low"}, "'low' of type str", "step: value"),
        ({9: 1.0}, "after step 9", "has 4 steps"),
        ([1.0], "first value after step 4", "evaluations=1"),
        (0.5, "first value after step 4", "evaluations=1"),
        ({"test": [1.0, 2.0]}, 'no series "validation"', "validation"),
        ({"validaton": [1.0, 2.0]}, "'validaton'", "did you mean validation?"),
        ([], "gives nothing", "validation"),
        (iter([3.0]), "3.0 of type float", "step: value"),
    ],
)
def test_what_a_training_may_not_give(given, said, help):
    with pytest.raises(InputError) as problem:
        trained(lambda rates, seed: given)
    assert said in problem.value.message
    assert help in problem.value.help


def test_wrong_statements_are_errors_before_anything_is_trained():
    for options in ({"groups": ("one",)}, {"groups": ("a", "a")}, {"steps": 0}, {"evaluations": 5}):
        with pytest.raises(ConfigError):
            made(lambda rates, seed: [1.0], **options)


FILE = """
from lrdiff_bench.study import training
SIZE = 3
def helper(): return SIZE
def other(): return 1
@training(groups=("body", "head"), steps=2, evaluations=1)
def train(rates, seed):
    return [1.0, helper()]
def bare(rates, seed): return [1.0]
def fails(rates, seed): raise ValueError("no rows")
failing = training(groups=("body", "head"), steps=10)(fails)
def make(): return train
def model():
    from torch import nn
    return nn.Linear(1, 1)
"""


def in_file(text, folder, monkeypatch):
    (folder / "theirs.py").write_text(text)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    sys.modules.pop("theirs", None)
    import linecache

    linecache.clearcache()
    return workload_named("theirs:train")


def test_the_fingerprint_is_that_of_what_the_training_uses(tmp_path, monkeypatch):
    first = in_file(FILE, tmp_path, monkeypatch).fingerprint()
    for change in (
        ("return 1\n", "return 2\n"),
        ("SIZE = 3", "# three\nSIZE = 3"),
        ("steps=2, eval", "steps=2,  eval"),
    ):
        assert in_file(FILE.replace(*change), tmp_path, monkeypatch).fingerprint() == first
    for change in (("SIZE = 3", "SIZE = 4"), ("return SIZE", "return SIZE + 1"), ("[1.0, h", "[2.0, h")):
        assert in_file(FILE.replace(*change), tmp_path, monkeypatch).fingerprint() != first


def test_what_a_name_may_be(tmp_path, monkeypatch):
    in_file(FILE, tmp_path, monkeypatch)
    assert workload_named("theirs:make").name == "theirs-train"
    for name, said, help in (
        ("bare", "groups are not stated", "@training"),
        ("model", "gives a model", "--model theirs:model"),
        ("other", "gives a int", "own-training"),
        ("trane", 'has no "trane"', "did you mean train?"),
    ):
        with pytest.raises(InputError, match=said) as problem:
            workload_named(f"theirs:{name}")
        assert help in problem.value.help
    with pytest.raises(InputError, match=r"seed 0 raised ValueError: no rows \(theirs.py, line 10\)"):
        workload_named("theirs:failing").seconds_of_training()


@pytest.mark.parametrize(
    ("facts", "measured", "told"),
    [
        ({}, None, "one training takes 2 s"),
        ({"seconds_of_training": 31.0}, None, "one training takes 2 s"),  # on a busier machine
        ({"seconds_of_training": 31.0}, 3.0, "one training takes 3 s"),  # by a worker
        ({"seconds_of_training": 31.0, "said": "all"}, None, "one training takes 31 s"),  # there is nothing to train
        ({"seconds_of_training": 1200.0}, None, "one training takes 20 min"),  # that would cost forty minutes
    ],
)
def test_the_price_is_of_this_machine_where_it_costs_little_to_know(facts, measured, told, monkeypatch):
    workload = SimpleNamespace(report_seeds=3, schemes=(1, 2), seconds_of_training=lambda: 2.0)
    ledger = SimpleNamespace(facts=dict(facts), note=lambda name, value: ledger.facts.update({name: value}))
    monkeypatch.setattr("lrdiff_bench.study.commands.one_study.trainings", lambda *_: {"search": 10})
    assert _price(workload, {"search": 10}, ledger, measured=measured).startswith(told)


@pytest.mark.long
def test_the_plain_loop_of_the_guide_is_studied_and_gone_on_with(tmp_path, monkeypatch, capsys):
    (code,) = [
        one for one in re.findall(r"```python\n(.*?)```", GUIDE.read_text(), flags=re.DOTALL) if "mine.py" in one
    ]
    short = code.replace("steps=40, ", "steps=2, evaluations=1, default_rate=0.01, report_seeds=3, ")
    short = short.replace("range(1, 41)", "range(1, 3)").replace("step % 4", "step % 2")
    (tmp_path / "mine.py").write_text(short)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    sys.modules.pop("mine", None)
    sizes = ["--budget", "4", "--searches", "2", "--seeds", "3"]
    monkeypatch.setattr("lrdiff_bench.study.pictures.draw_document", lambda *_: [])
    assert main(["study", "mine:train", *sizes]) == 0
    said = " ".join(capsys.readouterr().out.split())
    trainings = 4 * 2 * 4 * 4 + 4 * 2 * 4 * 24 + (4 + 1) * 2 * 3 + 2 * 4 + 20
    assert re.search(rf"one training takes \S+ s here, all {trainings} about", said)
    assert "mine-train Product of two numbers, a plain loop" in said
    assert "REDUCED" in said
    calls = []
    monkeypatch.setattr("lrdiff_bench.study.own_training.FunctionWorkload.train", lambda *_: calls.append(1))
    assert main(["study", "mine:train", *sizes]) == 0  # all is there: nothing is trained, not even for the price
    assert not calls
