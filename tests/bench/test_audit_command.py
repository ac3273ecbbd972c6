"""``lrdiff audit``: a script runs unchanged, and the report names what it did with its rates."""

import json
import sys

import pytest

from lrdiff_bench.cli import main

SCRIPT = """
import argparse
import torch
from torch import nn
import helper_beside_the_script

parser = argparse.ArgumentParser()
parser.add_argument("--lost", action="store_true")
parser.add_argument("--steps", type=int, default=5)
given = parser.parse_args()


def main():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
    groups = [{"params": layer.parameters(), "lr": lr} for layer, lr in zip(model[::2], (1e-3, 1e-2))]
    optimizer = torch.optim.AdamW(groups)
    if given.lost:
        own = torch.optim.AdamW(model.parameters(), lr=5e-4)
    else:
        own = optimizer
    for _ in range(given.steps):
        own.zero_grad()
        model(torch.randn(8, 6)).square().mean().backward()
        own.step()
    print("trained", helper_beside_the_script.NAME)


if __name__ == "__main__":
    main()
"""


@pytest.fixture
def script(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "somewhere"
    folder.mkdir()
    (folder / "helper_beside_the_script.py").write_text("NAME = 'it'\n")
    (folder / "train.py").write_text(SCRIPT)
    yield "somewhere/train.py"
    sys.modules.pop("helper_beside_the_script", None)


@pytest.mark.slow
def test_a_healthy_script_passes_and_its_own_output_stays(script, capsys):
    before = list(sys.argv), list(sys.path)
    assert main(["audit", script]) == 0
    assert capsys.readouterr().out == """\
trained it
parameter  asked  applied  decay  applied  rule   differs
0.weight   0.001    0.001   0.01     0.01  AdamW  -
0.bias     0.001    0.001   0.01     0.01  AdamW  -
2.weight    0.01     0.01   0.01     0.01  AdamW  -
2.bias      0.01     0.01   0.01        -  AdamW  -
4 parameters, 5 steps of AdamW, 3 looked at: nothing differs
"""  # fmt: skip
    assert before == (list(sys.argv), list(sys.path))


@pytest.mark.slow
def test_an_optimizer_that_never_steps_is_named_and_the_status_is_1(script, capsys):
    assert main(["audit", script, "--lost", "--steps", "4"]) == 1
    told = "AdamW (2 groups, 0.001, 0.01) never stepped; its parameters are trained by AdamW (1 group, 0.0005)"
    assert told in capsys.readouterr().out


@pytest.mark.slow
def test_json_is_one_document_and_what_the_script_prints_goes_to_stderr(script, capsys):
    assert main(["audit", "--every", "2", "--json", script, "--steps", "8"]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert document["passed"] is True
    assert document["looks"] == 6
    assert captured.err == "trained it\n"


@pytest.mark.slow
def test_a_plan_that_the_script_made_is_what_was_asked(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "planned.py").write_text("""
import torch
from torch import nn
from lrdiff_core.rates import LayerDecay, param_groups

model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
plan = param_groups(model, lr=1e-2, scale=[LayerDecay(0.1)])
optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
for _ in range(4):
    optimizer.zero_grad()
    model(torch.randn(8, 6)).square().mean().backward()
    optimizer.step()
""")
    assert main(["audit", "planned.py"]) == 1
    assert "2 rates were asked for (0.001, 0.01)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "there is no script missing.py"),
        ("raise ValueError('no data')", "missing.py raised ValueError: no data (missing.py, line 1)"),
        ("def broken(:", "missing.py raised SyntaxError"),
        ("import sys; sys.exit(3)", "missing.py ended with status 3"),
    ],
)
def test_a_script_that_fails_is_told_in_two_lines(text, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        (tmp_path / "missing.py").write_text(text)
    assert main(["audit", "missing.py"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 2
    assert error.splitlines()[1].startswith("help: ")


def test_a_script_without_training_fails(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nothing.py").write_text("import sys; sys.exit(0)")
    assert main(["audit", "nothing.py"]) == 1
    assert "no optimizer stepped" in capsys.readouterr().out


@pytest.mark.parametrize("every", ["0", "x"])
def test_a_wrong_interval_is_refused(every, script, capsys):
    assert main(["audit", "--every", every, script]) == 2
    assert "--every" in capsys.readouterr().err
