"""Settings: what a TOML file may say, and what is said of one that is wrong."""

import math

import pytest

from lrdiff_core.config import PRESETS, RunConfig, load_config, make_config, name_from
from lrdiff_core.errors import ConfigError, RateError


def message(settings, kind=ConfigError):
    with pytest.raises(kind) as caught:
        make_config(settings, where="my.toml")
    return caught.value.message, caught.value.help


def test_every_preset_is_valid():
    assert PRESETS
    for name, preset in PRESETS.items():
        assert make_config(preset).name == name


def test_a_toml_file_is_read_with_rates_by_layer_name(tmp_path):
    file = tmp_path / "my run.toml"
    file.write_text(
        'data = "wine"\nhidden = [8, 4]\noptimizer = "sgd"\nmomentum = 0.9\nbatch_size = 16\nepochs = 3\n'
        "[rates]\nlayer1 = 0.01\nlayer2 = 1e-3\nlayer3 = 1\n[compare]\nseeds = 12\nsweep = [0.01, 0.1]\n"
    )
    config = make_config(load_config(file))
    assert config.rates == {"layer1": 0.01, "layer2": 0.001, "layer3": 1.0}
    assert (config.hidden, config.epochs, config.batch_size, config.momentum) == ((8, 4), 3, 16, 0.9)
    assert (config.compare.seeds, config.compare.sweep) == (12, (0.01, 0.1))
    assert config.name == "my-run"


def test_data_is_looked_up_beside_the_toml_file(tmp_path):
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    (tmp_path / "my.toml").write_text('data = "rows.csv"\n')
    assert load_config(tmp_path / "my.toml")["data"] == str(tmp_path / "rows.csv")


def test_sizes_follow_the_data_unless_they_are_given():
    assert [RunConfig().hidden_sizes(n) for n in (1, 10, 30, 1000)] == [(16,), (16,), (30,), (64,)]
    assert RunConfig(hidden=()).hidden_sizes(10) == ()
    assert [RunConfig().rows_per_step(n) for n in (20, 700, 10**6)] == [16, 25, 1024]
    assert RunConfig(batch_size=7).rows_per_step(700) == 7
    assert [RunConfig().most_epochs(n) for n in (20, 105, 700, 10**6)] == [200, 200, 200, 10]  # 6000 steps, or so
    assert [RunConfig(batch_size=25).most_epochs(n) for n in (25, 2500)] == [200, 60]
    assert [RunConfig(epochs=n).epochs_of_patience(700) for n in (3, 200)] == [10, 40]
    assert RunConfig(patience=0).epochs_of_patience(700) == 0


@pytest.mark.parametrize(
    ("settings", "what", "help"),
    [
        ({"epoch": 3}, 'unknown key "epoch" in my.toml', 'did you mean epochs? keys: epochs, '),
        ({"compare": {"seed": 3}}, 'unknown key "compare.seed" in my.toml', 'did you mean seeds? keys: seeds,'),
        ({"zzz": 3}, 'unknown key "zzz" in my.toml', "keys: name, data,"),
        ({"epochs": 0}, "epochs in my.toml is 0", "write a number of at least 1"),
        ({"epochs": 2.5}, "epochs in my.toml is 2.5", "write a whole number, such as 10"),
        ({"epochs": "3"}, "epochs in my.toml is '3'", "write a whole number, such as 10"),
        ({"hidden": [5, -1]}, "entry 2 of hidden in my.toml is -1", "write a number of at least 1"),
        ({"hidden": 5}, "hidden in my.toml is 5", "write a list, such as [16, 8]"),
        ({"hidden": [True]}, "entry 1 of hidden in my.toml is True", "write a whole number, such as 10"),
        ({"compile": 1}, "compile in my.toml is 1", "write true or false"),
        ({"data": 3}, "data in my.toml is 3", "write a text in quotes"),
        ({"weight_decay": "0"}, "weight_decay in my.toml is '0'", "write a number, such as 0.1"),
        ({"compare": 3}, "compare in my.toml is 3", "write a table of its own, such as [compare] with seeds = 20"),
        ({"compare": {"sweep": [0.1]}}, "compare.sweep in my.toml is [0.1]", "write a list of at least 2 entries"),
        ({"optimizer": "adm"}, "optimizer in my.toml is 'adm'", 'did you mean adam? one of: adam, radam, nadam, adamw'),
        ({"device": "tpu"}, "device in my.toml is 'tpu'", "one of: auto, cpu, cuda, mps"),
        ({"impute": "zero"}, "impute in my.toml is 'zero'", "one of: auto, none, mean, median, drop"),
        ({"validation": 0.7}, "validation in my.toml is 0.7", "write a number below 0.5"),
        ({"name": "../up"}, "name in my.toml is '../up'", "write letters, digits, dots, dashes and underscores"),
        ({"seed": -1}, "seed in my.toml is -1", "write a number of at least 0"),
        ({"rates": 0.1}, "rates in my.toml is not a table", "write a [rates] table with lines like layer1 = 0.01"),
        ({"rates": {}}, "rates in my.toml is not a table", "write a [rates] table with lines like layer1 = 0.01"),
        ({"compare": {"seeds": 3}}, "compare.seeds in my.toml is 3", "write a number of at least 10"),
        (
            {"optimizer": "adam", "momentum": 0.9},
            "momentum is set in my.toml, and optimizer 'adam' takes none",
            'set optimizer = "sgd" or "rmsprop", or leave momentum out',
        ),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named_with_the_way_out(settings, what, help):
    said = message(settings)
    assert said[0] == what
    assert said[1].startswith(help)


@pytest.mark.parametrize("rate", [-0.1, 0, 0.0, math.nan, math.inf, -math.inf])
def test_a_rate_outside_the_legal_interval_is_named(rate):
    what, help = message({"rates": {"layer1": 0.01, "layer2": rate}}, RateError)
    assert what == f'learning rate of layer "layer2" is {float(rate)!r}'
    assert help == "write a number in (0, inf), such as 0.001; to stop learning, freeze instead"


@pytest.mark.parametrize("rate", ["0.1", True, None, [0.1], {"lr": 0.1}])
def test_a_rate_that_is_no_number_is_named(rate):
    what, help = message({"rates": {"layer1": rate}}, RateError)
    assert what.startswith('learning rate of layer "layer1" is ')
    assert help == "write a plain number in (0, inf), such as 0.001"


def test_a_rate_of_the_sweep_is_checked_too():
    what, _ = message({"compare": {"sweep": [0.01, -0.1]}}, RateError)
    assert what == "learning rate in compare.sweep of my.toml is -0.1"


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no such file: .*nothing.toml"):
        load_config(tmp_path / "nothing.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("epochs = = 3\n")
    with pytest.raises(ConfigError, match="broken.toml is not TOML: Invalid value"):
        load_config(broken)
    broken.write_bytes(b"name = '\xff'\n")
    with pytest.raises(ConfigError, match="cannot read .*broken.toml: it is not text in UTF-8"):
        load_config(broken)
    with pytest.raises(ConfigError, match=r"cannot read .*: Is a directory\n"):
        load_config(tmp_path)


@pytest.mark.parametrize("content", [b"a,b\n1,2\n", b"PAR1\xff\xcc"], ids=["text", "bytes"])
def test_rows_named_as_settings_are_told_apart(tmp_path, content):
    rows = tmp_path / "rows.csv"
    rows.write_bytes(content)
    with pytest.raises(ConfigError, match="rows.csv holds rows, not settings") as caught:
        load_config(rows)
    assert caught.value.help == f"name it as data: --data {rows} --target COLUMN"


@pytest.mark.parametrize(("stem", "name"), [("my data (1)", "my-data--1-"), ("..x", "x"), ("é", "-"), ("", "run")])
def test_a_name_is_made_from_a_file_name(stem, name):
    assert name_from(stem) == name if name != "-" else name_from(stem) == "run"
