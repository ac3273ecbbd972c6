"""``lrdiff lr-find`` and its picture."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from lrdiff_bench.cli import main
from lrdiff_bench.rates.lr_find import as_text, find_rates
from lrdiff_bench.rates.lr_find_picture import draw_lr_find
from lrdiff_core import make_config
from lrdiff_core.errors import InputError, RateError
from lrdiff_core.lr_find import RateCurve

FILES = {"lr_find.json", "lr_find.png", "lr_find.svg"}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names_in(folder):
    return {file.name for file in Path(folder).iterdir()}


def curve(group=None, *, falls=True):
    rates = np.logspace(-4, 0, 41)
    valley = (np.log10(rates) + 1.5) ** 2
    losses = valley if falls else 1 + np.arange(41.0)
    return RateCurve(rates, losses + 0.1, losses, group, (0.1, 0.001), False)


def svg_words(path):
    return set(re.findall(r"<text[^>]*>([^<]+)</text>", path.read_text()))


# ---- the command


def test_all_rates_together_keep_their_ratios(here, capsys):
    assert main(["lr-find"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["group", "now", "suggested"]
    rates = {line.split()[0]: [float(x) for x in line.split()[1:]] for line in lines[1:3]}
    assert rates["layer1"][0] / rates["layer2"][0] == pytest.approx(10)
    assert rates["layer1"][1] / rates["layer2"][1] == pytest.approx(10, rel=0.1)
    assert 0.02 < rates["layer1"][1] < 0.2  # where this model trains best, by training it
    assert lines[3:] == [
        "suggested: a tenth of the rate with the lowest loss, ratios kept",
        "wrote runs/seed-lr-find/lr_find.json",
        "wrote runs/seed-lr-find/lr_find.png",
        "wrote runs/seed-lr-find/lr_find.svg",
    ]
    assert names_in("runs/seed-lr-find") == FILES


def test_each_group_by_itself(here, capsys):
    assert main(["lr-find", "seed", "--each", "--out", "deep/er", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in document["curves"]] == ["layer1", "layer2"]
    assert document["rates"] == {"layer1": 0.01, "layer2": 0.001}
    for one in document["curves"]:
        assert one["suggested"] == pytest.approx(document["suggested"][one["name"]])
        assert len(one["rates"]) == len(one["losses"]) > 50
    assert names_in("deep/er") == FILES
    assert json.loads(Path("deep/er/lr_find.json").read_text()).items() <= document.items()
    assert {"layer1", "layer2"} <= {word.partition(":")[0] for word in svg_words(Path("deep/er/lr_find.svg"))}


def test_a_run_is_tested_with_its_own_settings_and_keeps_the_picture(here, capsys):
    Path("my.toml").write_text('data = "wine"\noptimizer = "sgd"\nhidden = [4, 3]\nepochs = 1\n')
    assert main(["train", "my.toml", "--out", "r"]) == 0
    before = {file: file.read_bytes() for file in Path("r").iterdir()}
    capsys.readouterr()
    assert main(["lr-find", "r", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert list(document["rates"]) == ["layer1, layer2", "layer3"]  # equal rates share a group
    assert names_in("r") == FILES | {file.name for file in before}
    assert all(file.read_bytes() == data for file, data in before.items())


def test_the_same_settings_give_the_same_curve(here):
    config = make_config({"data": "seed"})
    first, again = find_rates(config), find_rates(config)
    assert np.array_equal(first.curves[0].losses, again.curves[0].losses)


def test_a_loss_that_never_falls_is_said(here, monkeypatch, capsys):
    from lrdiff_bench.rates import lr_find as lr_find_command

    found = find_rates(make_config({"data": "seed"}))
    flat = lr_find_command.Found(name="seed", groups=found.groups, curves=(curve(falls=False),))
    assert flat.suggested() == {"layer1": None, "layer2": None}
    assert as_text(flat, []).splitlines() == [
        "group     now  suggested",
        "layer1    0.1          -",
        "layer2  0.001          -",
        "suggested: a tenth of the rate with the lowest loss, ratios kept",
        "-: the loss never fell in the range test; look at the picture",
    ]


@pytest.mark.parametrize(
    ("arguments", "error", "help"),
    [
        (["nothing.toml"], "no such file: nothing.toml", "name a TOML file, or leave it out for the preset"),
        (["folder"], "no run at folder", "name a folder made by `lrdiff run` or `lrdiff train`"),
        (["--out", "file"], "cannot write file: File exists", "name a folder you may write to with --out"),
    ],
)
def test_input_that_cannot_be_used(here, capsys, arguments, error, help):
    Path("folder").mkdir()
    Path("file").write_text("")
    assert main(["lr-find", *arguments]) == 2
    assert capsys.readouterr().err.splitlines() == [f"error: {error}", f"help: {help}"]


# ---- the picture


def test_the_picture_names_axes_groups_and_suggestion(here):
    assert draw_lr_find(here, curve()) == here / "lr_find.png"
    assert (here / "lr_find.png").read_bytes().startswith(b"\x89PNG")
    words = svg_words(here / "lr_find.svg")
    rate = curve().suggest()
    marks = {f"all rates: {rate:.2g}", "a tenth of the lowest loss's rate"}
    assert {"loss", "largest learning rate (ratios kept)", *marks} <= words


def test_a_panel_for_each_group_under_a_name_of_ones_own(here):
    curves = [curve(0), curve(1, falls=False)]
    draw_lr_find(here / "mine.svg", curves, names=["body", "head"], how="minimum", title="A title")
    assert names_in(here) == {"mine.png", "mine.svg"}
    expected = {"A title", "body: 0.0032", "head: no suggestion, the loss never fell", "learning rate"}
    assert expected <= svg_words(here / "mine.svg")


@pytest.mark.slow
def test_the_same_curves_draw_the_same_bytes(here):
    draw_lr_find(here / "a.png", [curve(0), curve(1)])
    draw_lr_find(here / "b.png", [curve(0), curve(1)])
    for kind in ("png", "svg"):
        assert (here / f"a.{kind}").read_bytes() == (here / f"b.{kind}").read_bytes()


def test_what_cannot_be_drawn(here):
    with pytest.raises(RateError, match="no curve to draw"):
        draw_lr_find(here, [])
    with pytest.raises(InputError, match="cannot write"):
        draw_lr_find(here / "nowhere" / "a.png", curve())
