"""Studies of one's own: a TOML file, a model of one's own, the two ways to train it."""

import re
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lrdiff_bench.study.analysis.analyse import analyse
from lrdiff_bench.study.folder import MUST_AGREE, facts_of, workload_from
from lrdiff_bench.study.search.engine import run_study
from lrdiff_bench.study.search.ledger import MemoryLedger, StorageLedger
from lrdiff_bench.study.search.plan import Plan
from lrdiff_bench.study.settings import check_study_settings, load_study_settings, workload_of
from lrdiff_bench.study.user_model import UserModelWorkload
from lrdiff_bench.study.workloads import registry
from lrdiff_bench.study.workloads.outcomes import mask_diverged
from lrdiff_bench.study.workloads.workload import WORKLOADS, Trials
from lrdiff_core.errors import ConfigError, InputError, RateError

MODELS = '''
import torch
from torch import nn

calls = 0


def small():
    return nn.Sequential(nn.Linear(13, 8), nn.Tanh(), nn.Linear(8, 3))


class Gate(nn.Module):
    """Looks at its values, which torch.func cannot stack."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(13, 8), nn.Linear(8, 3)

    def forward(self, rows):
        hidden = self.body(rows)
        if hidden.sum() > 1e9:
            hidden = -hidden
        return self.head(torch.tanh(hidden))


def wrong():
    return nn.Sequential(nn.Linear(13, 8), nn.Linear(8, 7))


def narrow():
    return nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))


class Raising(Gate):
    def forward(self, rows):
        raise AttributeError("no such\\n layer")


class Twice(Gate):
    def forward(self, rows):
        return super().forward(rows), rows


def large():
    return nn.Sequential(nn.Linear(13, 20000), nn.ReLU(), nn.Linear(20000, 3))
'''


@pytest.fixture
def models(tmp_path, monkeypatch):
    name = f"models_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    yield name
    sys.modules.pop(name, None)


def claim(**settings):
    return check_study_settings(
        {"name": "mine", "data": "wine", "steps": 12, "evaluations": 3, **settings}, where="mine.toml"
    )


def trials(workload, rates, seeds, judged_on="validation", scheme=0):
    return Trials(
        rates=np.array(rates, dtype=float), seeds=np.array(seeds), scheme=workload.schemes[scheme], judged_on=judged_on
    )


@pytest.mark.slow
def test_its_own_network_has_its_layers_as_groups_and_usual_schemes():
    workload = workload_of(claim(hidden=[8, 4]))
    assert workload.groups == ("layer1", "layer2", "layer3")
    assert [scheme.name for scheme in workload.schemes] == ["single", "last x 0.1", "last x 10", "free"]
    assert workload.schemes[3].free == {"layer2": (0.01, 100.0), "layer3": (0.01, 100.0)}
    found = workload.train(trials(workload, [[0.01] * 3, [0.0] * 3, [1e9] * 3], [0, 0, 0]))
    assert found.metric.shape == (3, 3)
    assert found.evaluated_after.tolist() == [4, 8, 12]
    assert found.metric[0, -1] < found.metric[1, -1] - 0.1  # it learns
    assert found.metric[1, 0] == found.metric[1, -1]  # 0 stands still
    assert found.seconds_a_step > 0


@pytest.mark.slow
def test_side_by_side_and_one_after_the_other_agree(models):
    """The same model, rows, order and steps, through a population and through a plain loop."""
    workload = workload_of(claim(model=f"{models}:small", groups={"body": "0.*", "head": "2.*"}, optimizer="adam"))
    assert workload.side_by_side()
    asked = trials(workload, [[0.01, 0.05], [0.003, 0.0], [0.02, 0.002]], [3, 3, 4])
    together = workload.train(asked)
    apart = replace(workload, together=False).train(asked)
    np.testing.assert_allclose(together.metric, apart.metric, rtol=2e-4)
    np.testing.assert_allclose(together.train_loss, apart.train_loss, rtol=2e-4)
    assert together.evaluated_after.tolist() == apart.evaluated_after.tolist()


def test_a_model_that_torch_func_cannot_stack_is_trained_alone(models):
    workload = workload_of(claim(model=f"{models}:Gate"))
    assert workload.groups == ("body", "head")
    assert not workload.side_by_side()
    assert workload.at_once == 1
    found = workload.train(trials(workload, [[0.01, 0.01], [1e39, 1e39]], [0, 1]))
    assert np.isfinite(found.metric[0]).all()
    assert np.isnan(found.metric[1, -1])


def test_a_large_model_is_trained_alone_and_a_small_one_together(models):
    assert workload_of(claim(model=f"{models}:large")).at_once == 1
    assert workload_of(claim(model=f"{models}:small")).at_once > 1


def test_seeds_fix_weights_split_and_order_and_the_judged_split_is_the_one_asked_for(models):
    workload = workload_of(claim(model=f"{models}:small", metric="accuracy"))
    again = workload_of(claim(model=f"{models}:small", metric="accuracy"))
    asked = trials(workload, [[0.01, 0.01]] * 2, [5, 6])
    first = workload.train(asked)
    np.testing.assert_array_equal(first.metric, again.train(asked).metric)
    assert first.train_loss[0, -1] != first.train_loss[1, -1]
    rows = workload.rows(5, "validation"), workload.rows(5, "test")
    assert not np.array_equal(rows[0].held_inputs.numpy(), rows[1].held_inputs.numpy())
    np.testing.assert_array_equal(rows[0].inputs.numpy(), rows[1].inputs.numpy())


@pytest.mark.parametrize(
    ("settings", "kind", "message", "help"),
    [
        ({"model": "{m}:wrong"}, InputError, r"maps \[2, 13\] to \[2, 7\]", "needs [rows, 3]"),
        ({"model": "{m}:narrow"}, InputError, r"cannot take rows \[2, 13\]", "let it map [rows, 13] to [rows, 3]"),
        ({"model": "{m}:small", "groups": {"a": "0.*", "b": "5.*"}}, RateError, "matches no parameter", "0, 2"),
        ({"model": "{m}:small", "groups": {"a": "0.*", "b": "2.bias"}}, ConfigError, '"2.weight" is in no', "a, b"),
        ({"model": "{m}:nothing"}, InputError, 'has no "nothing"', "small"),
    ],
)  # fmt: skip
def test_models_and_groups_that_do_not_fit(settings, kind, message, help, models):
    given = {**settings, "model": settings["model"].format(m=models)}
    with pytest.raises(kind, match=message) as problem:
        workload_of(claim(**given))  # before anything is trained
    assert help in problem.value.help


@pytest.mark.parametrize(
    ("settings", "message", "help"),
    [
        ({"dta": "x"}, 'unknown key "dta" in mine.toml', 'did you mean data?'),
        ({"schemes": [{"name": "x", "ratio": {}}]}, 'unknown key "schemes.0.ratio"', 'did you mean ratios?'),
        ({"schemes": [{"ratios": {}}]}, "schemes.0.name is missing", "keys: name, ratios, free"),
        ({"smallest_difference": 0}, "smallest_difference in mine.toml is 0", "greater than 0"),
        ({"schemes": [{"name": "x", "ratios": {"layer1": -1.0}}]}, "ratios.layer1", "greater than or equal to 0"),
        ({"optimizer": "adma"}, "optimizer in mine.toml is 'adma'", "'sgd', 'adam', 'adamw'"),
        ({"momentum": 0.9}, "momentum is set", 'set optimizer = "sgd"'),
        ({"workload": "seed-adam"}, "names a workload and sets data", "leave out data"),
        ({"name": "a b"}, "name in mine.toml is 'a b'", "pattern"),
        ({"base_rates": [1.0]}, "base_rates", ""),
    ],
)  # fmt: skip
def test_a_wrong_file_names_itself_and_what_to_write(settings, message, help):
    with pytest.raises(ConfigError) as problem:
        claim(**{"steps": 12, **settings})
    assert message in problem.value.message
    assert help in problem.value.help


def test_schemes_that_name_no_group():
    with pytest.raises(ConfigError, match='names the group "layr1"') as problem:
        workload_of(claim(hidden=[4], schemes=[{"name": "x", "ratios": {"layr1": 0.1}}]))
    assert "did you mean layer1? groups: layer1, layer2" in problem.value.help
    with pytest.raises(ConfigError, match="both fixes and frees layer1"):
        both = {"name": "x", "ratios": {"layer1": 1.0}, "free": {"layer1": [0.1, 1.0]}}
        workload_of(claim(hidden=[4], schemes=[both]))


def test_files_that_are_no_files(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        load_study_settings(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("name = ")
    with pytest.raises(ConfigError, match="is not TOML"):
        load_study_settings(tmp_path / "bad.toml")
    (tmp_path / "bad.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot read"):
        load_study_settings(tmp_path / "bad.toml")
    (tmp_path / "my.study.toml").write_text('data = "wine"')
    assert load_study_settings(tmp_path / "my.study.toml").name == "my-study"
    (tmp_path / "empty.toml").write_text("")
    with pytest.raises(ConfigError, match="has no rows"):
        load_study_settings(tmp_path / "empty.toml")


def test_a_claim_about_a_workload_changes_its_schemes_and_nothing_else(monkeypatch):
    from benchmarks.simulate_study import Planted

    monkeypatch.setitem(WORKLOADS, "planted-for-test", Planted)
    found = workload_of(
        check_study_settings(
            {
                "name": "mine",
                "workload": "planted-for-test",
                "smallest_difference": 0.5,
                "schemes": [{"name": "head x 3", "ratios": {"head": 3.0}}],
            },
            where="mine.toml",
        )
    )
    assert found.name == "mine"
    assert found.smallest_difference == 0.5
    assert [scheme.name for scheme in found.schemes] == ["single", "head x 3"]
    assert found.schemes[1].ratios == {"body": 1.0, "head": 3.0, "tail": 1.0}
    assert found.base_rates == Planted().base_rates


def test_a_workload_is_made_again_from_what_is_kept_of_it():
    settings = claim(hidden=[4]).model_dump(mode="json", exclude_unset=True)
    source = {"kind": "claim", "settings": settings, "where": "mine.toml"}
    workload = workload_from(source)
    assert isinstance(workload, UserModelWorkload)
    facts = facts_of(workload, Plan(), source)
    assert facts["spec"] == facts_of(workload_from(facts["source"]), Plan(), source)["spec"]
    assert {"torch", "numpy", "scipy", "optuna", "commit"} <= set(facts["versions"])


def test_an_unknown_workload_names_the_nearest(monkeypatch):
    monkeypatch.setitem(WORKLOADS, "planted-for-test", object)
    with pytest.raises(ConfigError, match='no workload and no file "planted-for-tset"') as problem:
        registry.make_workload("planted-for-tset")
    assert "did you mean planted-for-test?" in problem.value.help


def test_tiny_is_small():
    tiny = workload_of(claim(steps=500)).tiny()
    assert tiny.steps == 4


@pytest.mark.slow
def test_a_relative_data_file_is_looked_up_from_the_toml_file(tmp_path):
    (tmp_path / "rows.csv").write_text("a,b,y\n" + "".join(f"{i},{i % 7},{i % 2}\n" for i in range(60)))
    (tmp_path / "mine.toml").write_text('data = "rows.csv"\ntarget = "y"\nsteps = 5\n')
    found = load_study_settings(tmp_path / "mine.toml")
    assert Path(found.data) == tmp_path / "rows.csv"
    workload = workload_of(found)
    assert np.isfinite(workload.train(trials(workload, [[0.01, 0.01]], [0])).metric).all()


def test_the_guides_claim_from_the_literature_runs():
    """The TOML file of the guide, at a size that takes a moment."""
    guide = (Path(__file__).parents[2] / "docs" / "guide" / "protocol.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```toml\n(.*?)```", guide, flags=re.DOTALL)
    found = check_study_settings(tomllib.loads(block), where="the guide")
    if found.workload not in registry.workload_names():
        pytest.skip(f"the workload {found.workload} is not there")
    workload = workload_of(found).tiny()
    assert [scheme.name for scheme in workload.schemes] == ["single", "factor 2.6", "frozen body"]
    assert workload.schemes[1].ratios == {"body": 0.385, "head": 1.0}
    plan = Plan(budget=4, tuning_seeds=1, searches=2, finalists=0, report_seeds=4, target_seeds=2, widenings=0)
    found = analyse(run_study(workload, plan, MemoryLedger()), draws=100)
    assert set(found.schemes) == {"factor 2.6", "frozen body"}
    assert all(np.isfinite(column.median.estimate) for column in found.columns)


@pytest.mark.slow
def test_a_whole_study_of_a_model_of_ones_own(models):
    free = {"name": "free", "free": {"head": [0.1, 10.0]}}
    workload = workload_of(claim(model=f"{models}:Gate", steps=2, evaluations=1, schemes=[free]))
    plan = Plan(budget=4, tuning_seeds=1, searches=2, finalists=0, report_seeds=3, target_seeds=1, widenings=0)
    finished = run_study(workload, plan, MemoryLedger())
    assert analyse(finished, draws=100, curves=False).chosen == "free"


def kept_in(folder, settings):
    """A ledger of that claim in the folder's storage."""
    workload = workload_of(check_study_settings(settings, where="mine.toml"))
    source = {"kind": "claim", "settings": settings, "where": "mine.toml"}
    facts = facts_of(workload, Plan(), source)
    return StorageLedger(f"sqlite:///{folder}/s.db", "mine", direction="minimize", facts=facts, must_agree=MUST_AGREE)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"batch_size": 16}, "batch_size 32, not 16"),
        ({"weight_decay": 0.1}, "weight_decay None, not 0.1"),
        ({"groups": {"body": "layer1.weight", "head": ["layer1.bias", "layer2"]}}, "groups"),
    ],
)
def test_a_study_is_not_gone_on_with_by_another_training(tmp_path, change, said):
    """Also where a title of one's own hides what is trained."""
    groups = {"body": "layer1", "head": "layer2"}
    settings = {"name": "mine", "title": "Mine", "data": "wine", "steps": 4, "batch_size": 32, "groups": groups}
    kept_in(tmp_path, settings)
    kept_in(tmp_path, settings)  # the same: it goes on
    with pytest.raises(ConfigError, match=f'study "mine" was made with {said}'):
        kept_in(tmp_path, settings | change)


def test_a_study_is_not_gone_on_with_on_other_rows(tmp_path):
    rows = [f"{i % 7},{i % 5},{i % 2}" for i in range(60)]
    (tmp_path / "rows.csv").write_text("a,b,label\n" + "\n".join(rows) + "\n")
    settings = {"name": "mine", "data": str(tmp_path / "rows.csv"), "target": "label", "steps": 4}
    kept_in(tmp_path, settings)
    (tmp_path / "rows.csv").write_text("a,b,label\n" + "\n".join([*rows[:-1], "9,9,1"]) + "\n")
    with pytest.raises(ConfigError, match="was made with rows or first weights"):
        kept_in(tmp_path, settings)


def test_one_after_the_other_a_trial_that_diverges_stays_so_and_its_steps_count_as_made(models, monkeypatch):
    workload = workload_of(claim(model=f"{models}:Gate"))
    monkeypatch.setattr("time.perf_counter", iter(np.arange(0.0, 1e4, 0.5)).__next__)  # a step takes half a second
    lost = workload.train(trials(workload, [[1e38, 1e38], [0.0, 0.0]], [0, 0]))
    assert np.isnan(lost.metric[0]).all()
    assert not np.isnan(lost.metric[1]).any()
    assert lost.seconds_a_step == pytest.approx(0.5)
    once = mask_diverged(
        np.array([[0.5, np.nan, 0.5]]), np.ones((1, 3)), evaluated_after=np.arange(1, 4), seconds_a_step=1.0
    )
    assert np.isnan(once.metric[0]).tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("factory", "said"),
    [("Raising", "cannot take rows [2, 13]: no such layer"), ("Twice", "gives a tuple, not a tensor")],
)
def test_a_model_that_does_something_else_is_named(models, factory, said):
    with pytest.raises(InputError, match=re.escape(said)) as problem:
        workload_of(claim(model=f"{models}:{factory}"))
    assert problem.value.help == "let it map [rows, 13] to [rows, 3]"
