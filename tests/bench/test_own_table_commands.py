"""A model of one's own on a table of one's own: the range test, maps, and layer-wise decay in studies."""

import json
import sys

import numpy as np
import pytest

from lrdiff_bench.cli import main
from lrdiff_bench.maps.pool import unavailable_reason
from lrdiff_bench.rates.lr_find import find_rates
from lrdiff_bench.study.search.engine import check_workload
from lrdiff_bench.study.search.points import group_rates, space_of
from lrdiff_bench.study.settings import check_study_settings, workload_of
from lrdiff_bench.study.workloads.workload import LAYER_DECAY, decayed
from lrdiff_bench.system.settings import gather
from lrdiff_core.errors import ConfigError

MODELS = """
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.act = nn.Linear(6, 6), nn.Tanh()

    def forward(self, rows):
        return self.act(self.linear(rows))


class net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(4, 6)
        self.blocks = nn.Sequential(*[Block() for _ in range(3)])
        self.head = nn.Linear(6, 3)

    def forward(self, rows):
        return self.head(self.blocks(self.embed(rows)))


def narrow():
    return nn.Linear(9, 3)
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    drawn = np.random.default_rng(0).normal(size=(150, 4))
    lines = [",".join(f"{v:.4f}" for v in row) + f",{'abc'[int(np.argmax(row[:3]))]}" for row in drawn]
    (tmp_path / "rows.csv").write_text("w,x,y,z,kind\n" + "\n".join(lines) + "\n")
    (tmp_path / "own_nets.py").write_text(MODELS)
    (tmp_path / "own.toml").write_text('model = "own_nets:net"\ndata = "rows.csv"\ntarget = "kind"\nepochs = 2\n')
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("own_nets", None)


ROWS = ["--data", "rows.csv", "--target", "kind"]


def test_the_range_test_takes_a_table(place, capsys):
    assert main(["lr-find", "own_nets:net", *ROWS, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["rates"]) == 5  # layer-wise decay: embed, three blocks, head
    assert any(rate for rate in found["suggested"].values())
    assert len(find_rates(gather("own.toml", {}), steps=20).groups) == 5
    assert main(["lr-find", "own_nets:narrow", *ROWS]) == 2
    assert "does not take its rows" in capsys.readouterr().err


@pytest.mark.skipif(unavailable_reason() is not None, reason="no zarr or dask")
def test_a_map_takes_a_table(place, capsys):
    small = ["--size", "2", "--seeds", "2", "--workers", "0", "--epochs", "1"]
    for arguments in (["own_nets:net", *ROWS], ["own.toml"]):
        assert main(["map", *arguments, *small, "--plan"]) == 0
        said = capsys.readouterr().out
        assert "embed" in said
        assert "head" in said
    assert main(["map", "own_nets:narrow", *ROWS, *small]) == 2
    assert "own_nets:narrow" in capsys.readouterr().err
    assert main(["map", "trainability", *ROWS]) == 2


@pytest.mark.slow
@pytest.mark.skipif(unavailable_reason() is not None, reason="no zarr or dask")
def test_a_map_on_a_table_is_computed(place, capsys):
    small = ["--size", "2", "--seeds", "2", "--workers", "0", "--epochs", "1"]
    assert main(["map", "own_nets:net", *ROWS, *small, "--out", "m"]) == 0, capsys.readouterr().err


def test_layer_decay_is_a_scheme(place):
    own = {"name": "m", "data": "rows.csv", "target": "kind", "model": "own_nets:net", "steps": 4}
    schemes = [
        {"name": "decay 0.5", "layer_decay": 0.5},
        {"name": "tuned", "layer_decay": [0.3, 1.5]},
    ]
    workload = workload_of(check_study_settings({**own, "schemes": schemes}, where="m.toml"))
    check_workload(workload)
    _, fixed, tuned = workload.schemes
    assert list(fixed.ratios.values()) == [0.0625, 0.125, 0.25, 0.5, 1.0]
    assert tuned.dimensions == 2
    assert space_of(tuned, (0.01, 1.0)).names == ("base rate", LAYER_DECAY)
    rates = group_rates(tuned, workload.groups, np.array([[0.1, 0.5], [0.2, 1.0]]))
    np.testing.assert_allclose(rates, [[0.1 * ratio for ratio in fixed.ratios.values()], [0.2] * 5])
    with pytest.raises(ConfigError, match="ratios"):
        workload_of(check_study_settings({**own, "schemes": [{**schemes[0], "ratios": {"head": 2}}]}, where="m.toml"))
    # Groups by patterns have the depth of their last layer.
    groups = {"low": ["embed", "blocks.0.*"], "mid": "blocks.[12].*", "top": "head"}
    workload = workload_of(check_study_settings({**own, "groups": groups, "schemes": schemes}, where="m.toml"))
    assert workload.schemes[1].ratios == {"low": 0.125, "mid": 0.5, "top": 1.0}


def test_workloads_take_layer_decay_in_the_order_of_their_groups():
    settings = {"name": "w", "workload": "seed-adam", "schemes": [{"name": "decay", "layer_decay": 0.1}]}
    workload = workload_of(check_study_settings(settings, where="w.toml"))
    assert list(workload.schemes[1].ratios.values()) == [0.1, 1.0]
    assert decayed("d", 1 / 2.6, {"a": 0, "b": 2}).ratios["a"] == pytest.approx(2.6**-2)


@pytest.mark.long
def test_a_study_compares_layer_decay_on_the_command_line(place, capsys):
    pytest.importorskip("optuna")
    arguments = ["study", "--model", "own_nets:net", *ROWS, "--layer-decay", "--quick", "--budget", "4", "--seeds", "3"]
    assert main([*arguments, "--out", "s", "--json"]) == 0
    (study,) = json.loads(capsys.readouterr().out)["studies"]
    assert [scheme["name"] for scheme in study["schemes"]] == [
        "single", "layer decay 0.8", "layer decay 0.95", "layer decay 1/2.6", "layer decay tuned",
    ]  # fmt: skip
    assert main(["study", "show", study["name"], "--from", "s"]) == 0
