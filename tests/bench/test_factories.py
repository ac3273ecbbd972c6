"""MODULE:FACTORY in every command: one grammar, one contract, stdout for the result alone, faults in two lines."""

import json
import sys
from pathlib import Path

import pytest

from lrdiff_bench.cli import main
from lrdiff_bench.maps.pool import unavailable_reason

MODELS = """
import torch
from torch import nn

print("a user's print")
ROWS, TARGETS = torch.randn(24, 2), torch.randint(0, 2, (24, 1)).float()


class Net(nn.Sequential):
    def __init__(self):
        super().__init__()
        self.add_module("body", nn.Linear(2, 3))
        self.add_module("head", nn.Linear(3, 1))

    def forward(self, rows):
        if not torch.compiler.is_compiling():
            print("a print while it runs")
        return super().forward(rows)


def make():
    print("a print of the factory")
    return Net(), ROWS[:4], {"rows": ROWS, "targets": TARGETS, "steps": 6}


class Zoo:
    @staticmethod
    def net():
        return make()


class Inner:
    factory = staticmethod(make)


zoo = Zoo()
zoo.deeper = Inner
ready = Net(), ROWS[:4], {"rows": ROWS, "targets": TARGETS, "steps": 6}
number = 4


def small(width):
    return Net()


def broken():
    raise ValueError("no weights\\nat all")


def library():
    return nn.Linear("a", "b")


def rule():
    from lrdiff_core import Rule, param_groups
    return param_groups(Net(), lr=0.1, rules=[Rule("hed", lr=1.0)])


def leaves():
    raise SystemExit(3)


def three():
    return 3


def odd():
    return Net(), ROWS[:4], {"tragets": TARGETS}


def listed():
    return Net(), ROWS[:4], [TARGETS]
"""
BARE = "from user_models import *\nfrom user_models import Net as make\n"

COMMANDS = {
    "rates": ["rates", "{}"],
    "study": ["study", "study.toml", "--quick", "--budget", "4", "--seeds", "3", "--out", "s"],
    "export": ["export", "{}", "--out", "m.onnx"],
    "parity": ["parity", "{}", "--backends", "eager"],
    "training": ["parity", "--training", "{}", "--backends", "ours,cpu"],
    "lr-find": ["lr-find", "{}"],
    "map": ["map", "{}", "--size", "2", "--seeds", "1", "--workers", "0"],
}  # fmt: skip
NEEDS = {"rates": None, "study": None, "export": "example", "parity": "example", "training": "example"}


@pytest.fixture(params=COMMANDS)
def command(request, tmp_path, monkeypatch):
    """A command in an empty folder with the user's modules, which are forgotten afterwards."""
    if request.param == "map" and unavailable_reason():
        pytest.skip(unavailable_reason())
    if request.param == "study":
        pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"{i % 7},{i % 5},{'ab'[i % 3 == 0]}\n" for i in range(60))
    for name, text in {
        "rows.csv": "x,z,label\n" + rows,
        "user_models.py": MODELS,
        "user_bare.py": BARE,
        "user_needs.py": "\nimport nowhere",
        "user_typo.py": "x = (1",
        "user_exit.py": "import sys\nsys.exit('usage: -')",
    }.items():
        (tmp_path / name).write_text(text)
    before, path = set(sys.modules), list(sys.path)
    yield request.param
    assert sys.path == path
    for name in set(sys.modules) - before:
        if name.startswith("user_"):
            del sys.modules[name]


def arguments(command, source):
    if command == "study":
        text = 'name = "mine"\ndata = "rows.csv"\ntarget = "label"\nsteps = 4\nevaluations = 1\nmodel = '
        Path("study.toml").write_text(text + json.dumps(source))
    return [one.format(source) for one in COMMANDS[command]]


def test_every_command_takes_it_and_json_is_one_document(command, capsys):
    assert main([*arguments(command, "user_models:zoo.deeper.factory"), "--json"]) == 0
    told = capsys.readouterr()
    assert isinstance(json.loads(told.out), dict)
    assert "a print of the factory" in told.err
    assert ("a print while it runs" in told.err) == (command != "rates")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "name"),
    [("rates", "ready"), ("rates", "make"), ("rates", "Net"), ("rates", "Zoo.net"),
     ("lr-find", "ready"), ("lr-find", "make"), ("lr-find", "Zoo.net")],
    indirect=["command"],
)  # fmt: skip
def test_a_function_a_class_and_what_stands_there_finished_will_do(command, name, capsys):
    assert main(arguments(command, f"user_models:{name}")) == 0
    assert "user's print" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_module_alone_will_do_where_nothing_else_is_needed(command, capsys, tmp_path):
    status = main(arguments(command, "user_bare:make"))
    error = capsys.readouterr().err.splitlines()
    if command in ("rates", "study"):
        assert status == 0
    else:
        assert status == 2
        assert error[-2:] == [
            "error: user_bare:make gives no example",
            "help: return module, example" + ("" if command in NEEDS else ", {'targets': ...}"),
        ]


@pytest.mark.parametrize(
    ("source", "error", "help"),
    [
        ("user_modls:make", "there is no module user_modls", "did you mean user_models? modules here: user_models, "),
        ("user_models.py:make", '"user_models.py" is not the name of a module', "write user_models:make"),
        ("lib/user-models:make", '"lib/user-models" is not the name of a module', "write package.module:make"),
        ("lib/nets.py:make", '"lib/nets.py" is not the name of a module', "write lib.nets:make"),
        ("user_models:mak", 'module user_models has no "mak"', "did you mean make? it has: make, "),
        ("user_models:Zoo.nets", 'module user_models has no "Zoo.nets"', ""),
        ("user_models:", 'module user_models has no ""', "it has: Net, make, "),
        (
            "user_needs:make",
            "import user_needs raised ModuleNotFoundError: No module named 'nowhere'",
            "correct it there",
        ),
        ("user_typo:make", "import user_typo raised SyntaxError: '(' was never closed (user_typo.py, line 1)", ""),
        ("user_exit:make", "import user_exit raised SystemExit: usage: - (user_exit.py, line 2)", ""),
        ("user_models:number", "user_models:number gives 4 of type int, not a torch.nn.Module", "return module, or "),
        ("user_models:three", "user_models:three gives 3 of type int, not a torch.nn.Module", "return module, or "),
        (
            "user_models:small",
            "user_models:small cannot be called without arguments",
            "name a function without arguments",
        ),
        (
            "user_models:broken",
            "user_models:broken raised ValueError: no weights at all (user_models.py, line 47)",
            "correct it there",
        ),
        ("user_models:library", "user_models:library raised TypeError: empty()", ""),
        (
            "user_models:rule",
            'user_models:rule raised rule "hed" matches no parameter (user_models.py',
            "did you mean head?",
        ),
        ("user_models:leaves", "user_models:leaves raised SystemExit: 3 (user_models.py, line 60)", ""),
        ("user_models:odd", "user_models:odd gives the option 'tragets'", "did you mean targets? options: targets, "),
        ("user_models:listed", "user_models:listed gives options of type list", "give them as a dict"),
    ],
)
def test_what_cannot_be_used_is_said_in_two_lines(command, source, error, help, capsys, tmp_path):
    given = arguments(command, source)
    before = {file for file in tmp_path.rglob("*") if "__pycache__" not in file.parts}
    assert main(given) == 2
    told = capsys.readouterr()
    assert told.out == ""
    lines = [one for one in told.err.splitlines() if "print" not in one]
    assert len(lines) == 2, told.err
    assert lines[0].startswith(f"error: {error}")
    assert lines[1].startswith(f"help: {help}")
    assert {file for file in tmp_path.rglob("*") if "__pycache__" not in file.parts} == before


def test_debug_shows_the_users_traceback(command):
    with pytest.raises(Exception, match="no weights") as caught:
        main(["--debug", *arguments(command, "user_models:broken")])
    assert isinstance(caught.value.__cause__, ValueError)
