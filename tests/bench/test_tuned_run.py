"""Rates are compared before training, what did best is trained, and what is not good enough is said to be so."""

import json
import re
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from lrdiff_bench.cli import main
from lrdiff_bench.run.compare.chosen_rates import MOST_ROWS, choose_rates, development, warnings_of
from lrdiff_bench.run.compare.single_rates import SINGLE, compare_single_rates, describe_rates, middle_of_best
from lrdiff_bench.run.job import run_job
from lrdiff_bench.study.workloads.common import RunWorkload
from lrdiff_bench.study.workloads.outcomes import Courses
from lrdiff_bench.study.workloads.workload import Scheme, Trials
from lrdiff_core import load_table, make_config, set_up, train
from lrdiff_core.data import Table
from lrdiff_core.population import population_task

TINY = {"seeds": 10, "searches": 2, "tuning_seeds": 1, "sweep": [0.003, 0.03]}


def small(**changes):
    return make_config({"data": "wine", "device": "cpu", "epochs": 4, "compare": TINY, **changes})


def rows_of(task, target, rows, classes=("0", "1"), features=2):
    random = np.random.default_rng(0)
    return Table(
        features=random.normal(size=(rows, features)).astype(np.float32), target=target, classes=classes, task=task,
        feature_names=tuple(f"x{i}" for i in range(features)), name="made", target_name="y", source="file", notes=(),
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"dropout": 0.2}, {"schedule": "cosine"}, {"class_weight": "balanced"}])
def test_a_trial_has_what_the_training_loop_keeps(changes):
    """Early stopping in populations and one by one, against the loop that ships the model."""
    config = small(data="breast_cancer", epochs=40, patience=4, **changes)
    task, seed = population_task(config), 7
    steps = task.steps_an_epoch * 40
    scheme = Scheme(name=SINGLE, ratios={"layer1": 1.0, "layer2": 1.0})
    workload = RunWorkload(
        name="w", title="w", question="w", groups=task.layers, schemes=(scheme,), metric="loss", base_rates=(0.01, 0.1),
        default_rate=0.01, smallest_difference=0.01, steps=steps, optimizer="adam", batch_size=task.batch_size,
        evaluations=40, timed=False, settings=task, patience=4,
    )  # fmt: skip
    trials = Trials(rates=np.full((1, 2), 0.03), seeds=np.array([seed]), scheme=scheme, judged_on="validation")
    found = workload.train(trials)
    class_weight = (
        None if task.class_weight is None else dict(zip(task.table.classes, task.class_weight.tolist(), strict=True))
    )
    alone = train(set_up(task.table, config.model_copy(update={"class_weight": class_weight}), seed=seed,
                         rates=dict.fromkeys(task.layers, 0.03)))  # fmt: skip
    assert alone.kept_epoch < alone.epochs < 40
    assert found.metric[0, -1] == pytest.approx(alone.last("test").loss, rel=2e-3)  # of the third part, for all
    assert found.score[0] == pytest.approx(alone.last("test").score, abs=1e-6)


def test_what_is_kept_is_the_best_so_far_until_patience_ends():
    """Against the definition, on courses with ties, gaps and ends."""
    random = np.random.default_rng(1)
    for _ in range(50):
        chosen = random.integers(1, 6, size=(3, 12)).astype(float)
        chosen[random.random((3, 12)) < 0.15] = np.nan
        held = random.random((3, 12))
        courses = Courses(chosen=chosen, held=held, score=held, train=held, evaluated_after=np.arange(12))
        patience = int(random.integers(1, 6))
        found = courses.kept(patience).metric
        for trial in range(3):
            best, at = np.inf, -1
            for epoch in range(12):
                if epoch - at <= patience and not (at == -1 and epoch >= patience) and chosen[trial, epoch] < best:
                    best, at = chosen[trial, epoch], epoch
                if at == -1:
                    assert np.isnan(found[trial, epoch])
                else:
                    assert found[trial, epoch] == held[trial, at]


def test_rates_are_never_compared_on_the_runs_own_test_rows():
    table = load_table("breast_cancer")
    for seed in range(3):
        setup = set_up(table, make_config({"data": "breast_cancer", "seed": seed}))
        _, dev = development(setup)
        held = {row.tobytes() for row in table.features[setup.rows.split.test]}
        assert len(dev.features) == len(table.features) - len(setup.rows.split.test)
        assert not held & {row.tobytes() for row in dev.features}
    generated = set_up(load_table("seed"), make_config({}))
    assert development(generated)[1] is generated.rows.table  # drawn anew for every seed


def test_many_rows_are_cut_and_train_no_fewer_steps():
    table = rows_of("regression", np.zeros(60_000, np.float32), 60_000, classes=())
    config, dev = development(set_up(table, make_config({"data": "seed", "hidden": [4]})))
    assert len(dev.features) == MOST_ROWS
    assert config.epochs * -(-MOST_ROWS * 7 // 10 // config.batch_size) >= 950


@pytest.mark.parametrize(("own", "ratios", "configured", "scheme"), [
    ((0.0, -0.01, 0.01, "NO DIFFERENCE"), (0.0, -0.01, 0.01, "NO DIFFERENCE"), True, "as configured"),
    ((0.0, -0.01, 0.01, "NO DIFFERENCE"), (0.0, -0.01, 0.01, "NO DIFFERENCE"), False, "tuned single"),
    ((-0.5, -0.6, -0.4, "HURTS"), (0.0, -0.01, 0.01, "NO DIFFERENCE"), True, "tuned single"),
    ((-0.5, -0.6, -0.4, "HURTS"), (0.1, 0.05, 0.2, "HELPS"), True, "tuned ratios"),
    ((0.2, 0.1, 0.3, "HELPS"), (0.1, 0.05, 0.2, "HELPS"), True, "as configured"),
    ((0.0, -0.01, 0.01, "NO DIFFERENCE"), (0.005, 0.001, 0.008, "NO DIFFERENCE"), False, "tuned single"),
    ((0.1, -0.1, 0.3, "INCONCLUSIVE"), (0.1, -0.1, 0.2, "INCONCLUSIVE"), True, "tuned single"),
    ((0.02, 0.01, 0.03, "HELPS ON AVERAGE"), (-0.1, -0.2, 0.0, "INCONCLUSIVE"), False, "as configured"),
])  # fmt: skip
def test_what_is_trained_follows_from_the_intervals(own, ratios, configured, scheme):
    section = comparison(own, ratios)
    chosen = choose_rates(section, configured=configured)
    assert chosen == {"scheme": scheme, "rates": {"layer1": len(scheme)}, "configured": configured}


def comparison(own, ratios, **more):
    names = ("estimate", "low", "high", "verdict")
    schemes = [
        {"name": name, "rates": {"layer1": 1.0}, "pooled_rates": {"layer1": len(name)}}
        for name in ("as configured", "tuned single", "tuned ratios")
    ]
    gains = {n: dict(zip(names, g, strict=True)) for n, g in (("as configured", own), ("tuned ratios", ratios))}
    return {"gains": gains, "schemes": schemes, "void": "", **more}


@pytest.mark.parametrize(("more", "said"), [
    ({}, ["tuned single", "layer1 = 12"]),
    ({"chosen": {"scheme": "tuned single"}}, []),
    ({"void": "at the edge"}, []),
])  # fmt: skip
def test_a_run_that_keeps_worse_rates_is_warned_of_unless_it_chose_them(more, said):
    section = comparison((-0.5, -0.6, -0.4, "HURTS"), (0.0, -0.01, 0.01, "NO DIFFERENCE"), **more)
    found = warnings_of({"metrics": {"test": {}}, "comparison": section})
    assert len(found) == bool(said)
    assert all(word in found[0] for word in said)


@pytest.mark.slow
def test_a_tuned_run_trains_what_it_chose_and_its_settings_repeat_it(tmp_path):
    stages = []
    watcher = SimpleNamespace(stage=lambda name, section: stages.append(name), progress=lambda *_: None)
    result = run_job(small(), out=tmp_path / "one", stages=["comparison"], watcher=watcher)
    assert stages[:5] == ["data", "preprocessing", "features", "comparison", "training"]
    section = result.summary["comparison"]
    trained = {layer["name"]: layer["rate"] for layer in result.summary["training"]["layers"]}
    assert trained == section["chosen"]["rates"]
    assert main(["run", str(tmp_path / "one" / "config.toml"), "--out", str(tmp_path / "two")]) == 0
    again = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert again["metrics"]["observations"] == result.summary["metrics"]["observations"]
    assert "chosen" not in again["comparison"]


@pytest.mark.slow
def test_dropout_and_muon_are_tuned_by_the_loop_of_the_run():
    for changes in ({"dropout": 0.3}, {"optimizer": "muon", "hidden": [8, 8]}):
        config = small(epochs=2, **changes)
        found = compare_single_rates(config, configured=False)
        assert found.section()["one_by_one"] in ("dropout", "muon")
        assert [column.name for column in found.analysis.columns] == ["as configured", "tuned single", "tuned ratios"]


@pytest.mark.slow
def test_rare_classes_that_are_never_predicted_and_lost_baselines_are_said_everywhere(tmp_path, capsys):
    """1980 rows of one class, 20 of another, and features that say nothing of it."""
    target = np.zeros(2000, np.int64)
    target[::100] = 1
    table = rows_of("binary", target, 2000)
    lines = ["a,b,y", *(f"{a},{b},{y}" for (a, b), y in zip(table.features.tolist(), target.tolist(), strict=True))]
    (tmp_path / "rare.csv").write_text("\n".join(lines))
    out = tmp_path / "run"
    told = ["run", "--data", str(tmp_path / "rare.csv"), "--target", "y", "--epochs", "2", "--rates", "as-given"]
    (tmp_path / "s.toml").write_text("[compare]\nseeds = 10\nsearches = 2\ntuning_seeds = 1\nsweep = [0.01, 0.03]\n")
    assert main([told[0], str(tmp_path / "s.toml"), *told[1:], "--out", str(out)]) == 0
    shown = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "never predicts class 1 on the test rows" in shown
    summary = json.loads((out / "summary.json").read_text())
    assert any("never predicts class 1" in text for text in summary["warnings"])
    own = summary["metrics"]["test"]["models"][0]
    assert (own["accuracy"], own["balanced accuracy"]) == (pytest.approx(0.99), 0.5)
    card = {p.key: p.value for p in onnx.load(out / "model.onnx").metadata_props}
    assert json.loads(card["lrdiff.warnings"]) == summary["warnings"]
    later = tmp_path / "later.onnx"
    assert main(["export", str(out), "--out", str(later)]) == 0
    assert {p.key: p.value for p in onnx.load(later).metadata_props}["lrdiff.warnings"] == card["lrdiff.warnings"]
    assert main(["run", "--rates", "given"]) == 2
    assert "as-given" in capsys.readouterr().err


def test_rates_pooled_over_searches_are_the_best_of_all_of_them():
    found = compare_single_rates(small(compare={**TINY, "searches": 3, "sweep": [0.0003, 0.01, 0.03]}))
    (own, _) = found.study.searches
    pooled = own.scores.transpose(1, 0, 2).reshape(len(own.tasks[0]), -1)
    best = own.tasks[0][middle_of_best(np.minimum(pooled, 1e9))].rates
    shown = next(one for one in found.section()["schemes"] if one["name"] == SINGLE)
    assert describe_rates(tuple(shown["pooled_rates"].values())) == describe_rates(best)
