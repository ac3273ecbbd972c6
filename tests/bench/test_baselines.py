"""Metrics that a skewed table does not flatter, against scikit-learn's own, and the baselines beside every result."""

import numpy as np
import pytest
import torch
from sklearn import metrics
from sklearn.linear_model import LogisticRegression, Ridge

from lrdiff_bench.cli import main
from lrdiff_bench.run.compare.baselines import test_results as results_of
from lrdiff_core import load_table, make_config, set_up, train


def trained_on(data, **settings):
    config = make_config({"data": data, "device": "cpu", **settings})
    table = load_table(config.data, target=config.target, task=config.task, seed=config.seed)
    return train(set_up(table, config))


def write_rows(path, text_of, count=200):
    rng = np.random.default_rng(0)
    lines = [f"{a:.3f},{b:.3f},{text_of(i, a, b)}" for i, (a, b) in enumerate(rng.normal(size=(count, 2)))]
    path.write_text("\n".join(["a,b,y", *lines]) + "\n")
    return str(path)


@pytest.mark.parametrize("data", ["breast_cancer", "wine"])
def test_classes_are_judged_as_scikit_learn_does(data):
    trained = trained_on(data, epochs=3)
    found = results_of(trained)
    rows = trained.setup.rows
    wanted = rows.table.target[rows.split.test]
    with torch.no_grad():
        p = trained.net.predict(torch.from_numpy(rows.table.features[rows.split.test])).double().numpy()
    p = np.concatenate([1 - p, p], axis=1) if p.shape[1] == 1 else p / p.sum(axis=1, keepdims=True)
    own = found["models"][0]
    assert own["balanced accuracy"] == pytest.approx(metrics.balanced_accuracy_score(wanted, p.argmax(axis=1)))
    assert own["macro F1"] == pytest.approx(metrics.f1_score(wanted, p.argmax(axis=1), average="macro"))
    assert own["log loss"] == pytest.approx(metrics.log_loss(wanted, p))
    auc = metrics.roc_auc_score(wanted, p[:, 1] if p.shape[1] == 2 else p, multi_class="ovr")
    assert own["ROC AUC"] == pytest.approx(auc)
    model = LogisticRegression(max_iter=1000).fit(rows.inputs["train"], rows.table.target[rows.split.train])
    assert found["models"][1]["accuracy"] == pytest.approx(model.score(rows.inputs["test"], wanted))
    assert [one["rows"] for one in found["classes"]] == np.bincount(wanted).tolist()
    drawn = found["drawn"]
    assert drawn["confusion"] == metrics.confusion_matrix(wanted, p.argmax(axis=1)).tolist()
    assert sum(one["rows"] for one in drawn["calibration"]) == len(wanted)
    if p.shape[1] == 2:
        assert metrics.auc(drawn["roc"]["false"], drawn["roc"]["true"]) == pytest.approx(auc, abs=0.02)
        right = sum(one["was"] * one["rows"] for one in drawn["calibration"])
        assert right == pytest.approx(wanted.sum())
    report = metrics.classification_report(wanted, p.argmax(axis=1), output_dict=True, zero_division=0)
    for number, one in enumerate(found["classes"]):
        assert one["recall"] == pytest.approx(report[str(number)]["recall"])
        assert (one["precision"] or 0) == pytest.approx(report[str(number)]["precision"])


def test_numbers_are_judged_in_the_targets_own_units(tmp_path):
    data = write_rows(tmp_path / "rows.csv", lambda i, a, b: f"{1000 + 50 * a - 20 * b:.3f}")
    trained = trained_on(data, target="y", task="regression", epochs=1)
    found = results_of(trained)
    rows = trained.setup.rows
    wanted = rows.table.target[rows.split.test].astype(np.float64)
    inputs = {part: rows.inputs[part].double().numpy() for part in ("train", "test")}
    ridge = Ridge().fit(inputs["train"], rows.table.target[rows.split.train].astype(np.float64)).predict(inputs["test"])
    assert found["drawn"]["actual"] == wanted.tolist()
    assert found["models"][1]["MAE"] == pytest.approx(metrics.mean_absolute_error(wanted, ridge))
    assert found["models"][1]["RMSE"] == pytest.approx(metrics.root_mean_squared_error(wanted, ridge))
    assert found["models"][1]["R2"] == pytest.approx(metrics.r2_score(wanted, ridge))
    assert 10 < found["models"][2]["MAE"] < 100  # units of the target, not of its variance
    assert found["beaten_by"] == "ridge regression"  # the rows are linear, and one epoch is little


def test_a_rare_class_that_is_never_predicted_shows(tmp_path, monkeypatch, capsys):
    """98 % of one class: accuracy looks good, balanced accuracy and the table of classes do not."""
    monkeypatch.chdir(tmp_path)
    data = write_rows(tmp_path / "rows.csv", lambda i, a, b: "rare" if i % 50 == 0 else "usual", count=1000)
    assert main(["train", "--data", data, "--target", "y", "--out", "run"]) == 0
    shown = capsys.readouterr().out
    own = next(line.split() for line in shown.splitlines() if line.strip().startswith("this model  "))
    assert float(own[2]) > 0.95
    assert float(own[3]) == 0.5
    rare = next(line.split() for line in shown.splitlines() if line.strip().startswith("rare "))
    assert rare == ["rare", "3", "0", "0.000"]
    assert max(map(len, shown.splitlines())) <= 80
