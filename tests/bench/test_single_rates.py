"""Stage 7: a small study of the run's own training, fair by construction, resolved for the preset."""

from pathlib import Path

import numpy as np
import pytest

from lrdiff_bench.run.compare.single_rates import CONFIGURED, RATIOS, SINGLE, SIZES, compare_single_rates, plan_of
from lrdiff_bench.stats.gain import judge_gain
from lrdiff_core import PRESETS, load_table, make_config, set_up, train
from lrdiff_core.population import population_task

COMPARE = {"seeds": 12, "searches": 3, "tuning_seeds": 2, "sweep": [0.01, 0.1, 1.0]}


def compare(data="wine", **changes):
    settings = {"data": data, "epochs": 3, "patience": 0, "device": "cpu", "compare": COMPARE, **changes}
    return compare_single_rates(make_config(settings))


@pytest.fixture(scope="module")
def wine():
    return compare()


def shown(found):
    return {scheme["name"]: scheme for scheme in found.section()["schemes"]}


def test_both_families_are_tuned_alike_and_reported_beside_what_is_untuned(wine):
    assert [(s["name"], s["trials"]) for s in wine.section()["schemes"]] == [
        (CONFIGURED, 1), ("single 0.001", 1), ("single 0.01", 1), (SINGLE, 3), (RATIOS, 3),
    ]  # fmt: skip
    single, ratios = wine.study.searches
    for mine, other in zip(single.tasks, ratios.tasks, strict=True):
        assert [t.parameters for t in mine] == [t.parameters for t in other]
        assert [t.seeds for t in mine] == [t.seeds for t in other]
        assert all(len(set(t.rates)) == 1 for t in mine)
        assert [t.rates[0] / t.rates[1] for t in other] == pytest.approx([10] * len(other))
    assert shown(wine)[CONFIGURED]["rates"] == {"layer1": 0.01, "layer2": 0.001}


def test_seeds_that_choose_do_not_report_and_every_search_has_its_own(wine):
    tasks = wine.study.tasks.values()
    choosing = [
        {s for t in tasks if t.kind in ("search", "final") and t.search == r for s in t.seeds} for r in range(3)
    ]
    reporting = {seed for t in tasks if t.judged_on == "test" for seed in t.seeds}
    assert len(reporting) == 12
    assert not set.union(*choosing) & reporting
    assert sum(map(len, choosing)) == len(set.union(*choosing))
    assert 0 not in reporting  # the run's own seed, which people look at first


@pytest.mark.slow
@pytest.mark.parametrize("data", ["wine", "seed", "numbers.csv"])
def test_a_member_ends_where_a_run_of_its_own_ends(data, tmp_path, monkeypatch):
    """Rows, split, weights and order of any seed, for every kind of task: one function makes them for all."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    lines = [",".join(f"{value:.4f}" for value in row) for row in random.normal(size=(90, 4))]
    Path("numbers.csv").write_text("\n".join(["a,b,c,y", *lines]))
    more = {"target": "y"} if data.endswith("csv") else {}
    config = make_config({"data": data, "epochs": 3, "patience": 0, "device": "cpu", **more})
    found = compare(data, **more)
    task, seed = population_task(config), found.study.plan.report(0)[3]
    table = load_table(data, seed=seed) if task.table.source == "generator" else task.table
    setup = set_up(table, config, seed=seed, rates=dict.fromkeys(task.layers, 0.01))
    assert all((task.model(seed).state_dict()[name] == value).all() for name, value in setup.net.state_dict().items())
    assert (task.rows(seed).inputs == setup.rows.inputs["train"]).all()
    assert (task.rows(seed, "test").held_targets == setup.rows.targets["test"]).all()
    alone = train(setup)
    (result,) = found.study.of("untuned", "single 0.01", 0)
    assert result.final[3] == pytest.approx(alone.observations[-1].loss, rel=1e-3)
    assert result.score[3] == pytest.approx(alone.observations[-1].score, abs=1e-3)
    by_epoch = [row.loss for row in alone.observations if row.split == "train"]
    assert result.train_loss[3] == pytest.approx(by_epoch, rel=1e-3)


def test_gains_are_those_of_the_study_paired_by_seed(wine):
    ours = np.array([wine.study.of("untuned", CONFIGURED, search)[0].final for search in range(3)])
    single = np.array([wine.study.of("report", SINGLE, search)[0].final for search in range(3)])
    again = judge_gain(single, ours, smallest=0.01)
    section = wine.section()["gains"]
    assert section[CONFIGURED]["estimate"] == again.estimate
    assert section[CONFIGURED]["verdict"] == again.verdict
    assert section[RATIOS]["estimate"] == wine.analysis.gain.estimate


def test_one_rate_against_itself_is_no_difference():
    found = compare(rates={"layer1": 0.01, "layer2": 0.01})
    gain = found.analysis.gain
    assert (gain.estimate, gain.low, gain.high, gain.verdict) == (0.0, 0.0, 0.0, "NO DIFFERENCE")
    assert list(shown(found)) == [CONFIGURED, "single 0.01", SINGLE, RATIOS]


def test_runs_that_diverge_stay_and_hurt():
    found = compare(optimizer="sgd", rates={"layer1": 1e30, "layer2": 1e30})
    assert shown(found)[CONFIGURED]["diverged"] == 1.0
    assert found.analysis.untuned[CONFIGURED].verdict == "HURTS"


def test_a_sweep_whose_edge_is_best_is_made_longer_for_both_families():
    found = compare(compare={**COMPARE, "sweep": [1e-5, 3e-5, 9e-5]})
    assert found.sweep[:3] == (1e-5, 3e-5, 9e-5)
    assert found.sweep[3:5] == pytest.approx((2.7e-4, 8.1e-4))
    assert len(found.sweep) == 9  # three times by two
    assert "low edge" not in found.study.void
    assert "high edge of the base rate" in found.study.void
    assert found.analysis.gain.verdict == "INCONCLUSIVE"


def test_what_is_trained_follows_from_the_settings_and_the_size_of_the_table():
    told = []
    config = make_config({"data": "wine", "epochs": 1, "compare": COMPARE})
    found = compare_single_rates(config, on_training=lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1]
    plan = found.study.plan
    assert (plan.report_seeds, plan.searches, plan.tuning_seeds) == (4, 3, 2)  # 12 seeds, shared out among the searches
    large = make_config({"data": "digits", "hidden": [900, 900], "epochs": 1000, "patience": 0})
    configs = (
        make_config(PRESETS["seed"]),
        make_config({"data": "digits", "hidden": [32], "epochs": 10, "patience": 0}),
        large,
    )
    sizes = [plan_of(one, population_task(one), 7) for one in configs]
    assert [s.report_seeds for s in sizes] == [-(-size["seeds"] // size["searches"]) for size in SIZES]
    # what stops by itself takes longer: fewer trainings, and fewest where a network is large or trained alone
    stops = [make_config({"data": "wine", **more}) for more in ({}, {"hidden": [900, 900]}, {"dropout": 0.1})]
    sizes = [plan_of(one, population_task(one), 7) for one in stops]
    assert [(s.searches, s.tuning_seeds) for s in sizes] == [(3, 8), (2, 1), (2, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("data", ["seed", "breast_cancer"])
def test_the_preset_and_a_real_table_are_resolved(data):
    settings = PRESETS["seed"] if data == "seed" else {"data": data, "hidden": [15], "epochs": 10, "patience": 0}
    found = compare_single_rates(make_config(settings))
    assert found.study.plan.report_seeds == 25
    for gain in (found.analysis.gain, found.analysis.untuned[CONFIGURED]):
        assert gain.verdict != "INCONCLUSIVE"
        assert gain.searches == 8
