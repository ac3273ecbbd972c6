"""``lrdiff rates``: what it prints for a run and for a user's own model, and what it says of bad input."""

import json
import sys

import pytest

from lrdiff_bench.cli import main
from lrdiff_core.rates import RatePlan

MODEL = """
from torch import nn

WIDTH = 4
print("a user's print")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.ModuleList([nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(2)])
        self.head = nn.Linear(WIDTH, 1)


ready = Net()


def build():
    return Net()


def two_stacks():
    stack = lambda: nn.ModuleList([nn.Linear(2, 2) for _ in range(3)])
    return nn.ModuleDict({name: nn.ModuleDict({"layers": stack()}) for name in ("encoder", "decoder")})
"""

TABLE = """\
parameter      shape  rule   rate  decay  frozen  tied with
body.0.weight  4x4    -     0.001    0.1  -       -
body.1.weight  4x4    -     0.002    0.1  -       -
head.weight    1x4    head    0.5    0.1  -       -
head.bias      1      head    0.5      0  -       -
LayerDecay(0.5): 2 blocks of body
4 parameters in 4 groups
"""

LIST = """\
parameter      shape  module  depth
body.0.weight  4x4    Linear      1
body.1.weight  4x4    Linear      2
head.weight    1x4    Linear      3
head.bias      1      Linear      3
4 parameters, 37 numbers
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current directory, with a module of the user's that is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_model.py").write_text(MODEL)
    before, path = set(sys.modules), list(sys.path)
    yield tmp_path
    assert sys.path == path
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("my_model", "package"):
            del sys.modules[name]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rates") / "run"
    assert main(["train", "--out", str(folder)]) == 0
    return folder


def printed(capsys, *arguments):
    capsys.readouterr()
    assert main(["rates", *arguments]) == 0
    return capsys.readouterr().out


def refused(capsys, *arguments):
    """Run a command that must fail and return its two lines."""
    capsys.readouterr()
    assert main(["rates", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.replace("a user's print\n", "").splitlines()
    assert len(lines) == 2, err
    return lines


# ---- a user's own model


def test_the_plan_of_a_model(here, capsys):
    options = ["--lr", "0.004", "--weight-decay", "0.1", "--layer-decay", "0.5", "--rule", "head lr=0.5"]
    assert printed(capsys, "my_model:build", *options, "--no-weight-decay", "1d") == TABLE


@pytest.mark.parametrize("columns", [60, 80, 160])
def test_the_plan_keeps_to_the_terminal(here, capsys, monkeypatch, columns):
    """Columns that say nothing go before a letter of a name does: cut names of two blocks look alike."""
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = printed(capsys, "my_model:two_stacks").splitlines()
    assert max(map(len, lines)) <= columns
    assert lines[1].startswith("encoder.layers.0.weight ")
    assert ("frozen" in lines[0]) == (columns > 60)


def test_modules_in_packages_are_found(here, capsys):
    (here / "package" / "models").mkdir(parents=True)
    (here / "my_model.py").rename(here / "package" / "models" / "nets.py")
    assert printed(capsys, "package.models.nets:Net", "--list") == LIST


def test_json_is_the_only_thing_on_stdout_and_reads_back(here, capsys):
    out = printed(capsys, "my_model:Net", "--lr", "0.1", "--slices", "0.01:1", "--head-multiplier", "3", "--json")
    plan = RatePlan.from_dict(json.loads(out))
    assert [f"{entry.lr:.3g}" for entry in plan] == ["0.001", "0.01", "0.3", "0.3"]
    rows = json.loads(printed(capsys, "my_model:Net", "--list", "--json"))
    assert rows["no_depths"] is None
    assert rows["parameters"][0] == {
        "name": "body.0.weight", "shape": [4, 4], "module": "Linear", "depth": 1, "tied": [],
    }  # fmt: skip


def test_what_changed_since_a_stored_plan(here, capsys):
    (here / "old.json").write_text(printed(capsys, "my_model:Net", "--lr", "0.1", "--json"))
    assert printed(capsys, "my_model:Net", "--lr", "0.1", "--diff", "old.json") == "no difference\n"
    changed = ["my_model:Net", "--lr", "0.1", "--rule", "/.*bias/ lr=0.2 freeze", "--diff", "old.json"]
    assert printed(capsys, *changed) == "~ head.bias: lr 0.1 -> 0.2, frozen False -> True\n"
    assert json.loads(printed(capsys, *changed, "--json")) == {
        "added": [],
        "removed": [],
        "changed": {"head.bias": {"lr": {"old": 0.1, "new": 0.2}, "frozen": {"old": False, "new": True}}},
    }


def test_layers_that_cannot_be_told_are_named_by_the_user(here, capsys):
    assert refused(capsys, "my_model:two_stacks", "--layer-decay", "0.5") == [
        'error: the layers could be those of "encoder.layers" (3) or of "decoder.layers" (3)',
        "help: say which: --layers encoder.layers, or list all layers from input to output",
    ]
    assert (
        printed(capsys, "my_model:two_stacks", "--list").splitlines()[-1].startswith("no depths: the layers could be")
    )
    out = printed(capsys, "my_model:two_stacks", "--layer-decay", "0.5", "--layers", "encoder", "--layers", "decoder")
    assert out.splitlines()[-1] == "12 parameters in 2 groups"


# ---- a run


def test_the_plan_of_a_run(run, capsys):
    out = printed(capsys, str(run))
    assert out == printed(capsys, str(run / "rates.json"))
    assert out.splitlines()[1].split() == ["layer1.weight", "5x10", "layer1", "0.01", "0", "-", "-"]
    assert json.loads(printed(capsys, str(run), "--json")) == json.loads((run / "rates.json").read_text())


def test_the_model_of_a_run_under_other_rules(run, capsys):
    out = printed(capsys, str(run), "--lr", "0.01", "--rule", "layer2 lr=0.1", "--diff", str(run))
    assert out == "~ layer2.weight: lr 0.001 -> 0.1\n~ layer2.bias: lr 0.001 -> 0.1\n"
    assert "layer1.weight  5x10   Linear      1\n" in printed(capsys, str(run), "--list")


# ---- bad input


@pytest.mark.parametrize(
    ("arguments", "error", "help"),
    [
        (["nowhere"], "no rate plan at nowhere", "name a run folder, or a model as package.module:factory"),
        (
            ["nowhere", "--lr", "1"],
            "no run and no model at nowhere",
            "name a run folder, or a model as package.module:factory",
        ),
        (["my_model.py", "--list"], "my_model.py holds no model", None),
        (["my_model:Net", "--diff", "none.json"], "no rate plan at none.json", None),
        (["my_model:Net", "--diff", "my_model.py"], "my_model.py is damaged: ", "run again with `lrdiff run`"),
        (
            ["my_model:Net", "--rule", "hed.* lr=1"],
            'rule "hed.*" matches no parameter',
            "did you mean head.*? parameters of this model start with: body, head "
            "(see `lrdiff rates my_model:Net --list`)",
        ),
        (
            ["my_model:Net", "--no-weight-decay", "norm"],
            'no_weight_decay "norm" matches no parameter',
            "parameters of this model start with: body, head (see `lrdiff rates my_model:Net --list`)",
        ),
        (
            ["my_model:Net", "--rule", "head"],
            'rule "head" has no setting',
            'write it as "head.* lr=0.01", "embed lr_mult=0.1 weight_decay=0" or "/regex/ freeze"',
        ),
        (["my_model:Net", "--rule", "head lr=x"], 'lr of rule "head" is "x"', "write a number, such as 0.001"),
        (["my_model:Net", "--rule", "/(/ freeze"], '"(" is not a valid regular expression: ', None),
        (["my_model:Net", "--no-weight-decay", "/(/"], '"(" is not a valid regular expression: ', None),
        (["my_model:Net", "--lr", "-1"], "lr is -1.0", None),
        (["my_model:Net", "--weight-decay", "nan"], "weight_decay is nan", "write a number in [0, inf), such as 0.01"),
        (["my_model:Net", "--layer-decay", "0"], "decay of LayerDecay is 0.0", None),
        (
            ["my_model:Net", "--slices", "1"],
            'slices are "1"',
            "write two fractions of the base rate, LO:HI, such as 0.01:1",
        ),
        (["my_model:Net", "--slices", "0:1"], "low of Slices is 0.0", None),
        (
            ["my_model:two_stacks", "--layer-decay", "0.5"],
            'the layers could be those of "encoder.layers" (3) or of "decoder.layers" (3)',
            "say which: --layers encoder.layers, or list all layers from input to output",
        ),
        (
            ["my_model:two_stacks", "--head-multiplier", "2", "--head", "hed"],
            'head "hed" matches no parameter',
            None,
        ),
        (["my_model:Net", "--layer-decay", "0.5", "--by", "row"], "layers are counted by 'row'", None),
        (["my_model:Net", "--head-multiplier", "inf"], "multiplier of HeadMultiplier is inf", None),
        (["my_model:Net", "--lr", "fast"], "Invalid value for '--lr'", "see `lrdiff rates --help`"),
    ],
)  # fmt: skip
def test_input_that_cannot_be_used(here, capsys, arguments, error, help):
    said = refused(capsys, *arguments)
    assert said[0].startswith(f"error: {error}")
    assert help is None or said[1] == f"help: {help}"
