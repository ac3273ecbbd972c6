"""The scikit-learn estimators: scikit-learn's own checks, its tools, dataframes, the exported file."""

from __future__ import annotations

import pickle

import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_wine
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from lrdiff_core import LrdiffClassifier, LrdiffRegressor
from lrdiff_core.errors import EstimatorError, LrdiffError

pandas = pytest.importorskip("pandas")
KINDS = (LrdiffClassifier, LrdiffRegressor)
SKIPPED = {"check_array_api_input"}  # it asks for a variable of the environment


def check(estimator):
    done = check_estimator(estimator, on_skip=None)
    assert {one["check_name"] for one in done if one["status"] != "passed"} <= SKIPPED
    assert not any(one["expected_to_fail"] for one in done)
    assert len(done) > 40


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_checks_of_scikit_learn(kind):
    check(kind(epochs=20, patience=0))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_checks_of_scikit_learn_with_early_stopping(kind):
    check(kind(epochs=60, patience=3))


@pytest.fixture(scope="module")
def wine():
    rows, labels = load_wine(return_X_y=True, as_frame=True)
    return rows, np.array(["first", "second", "third"])[labels]


@pytest.fixture(scope="module")
def fitted(wine):
    return LrdiffClassifier(epochs=20, random_state=0).fit(*wine)


def test_every_kind_of_table_gives_the_same_model(wine, fitted):
    import polars as pl

    rows, labels = wine
    wanted = fitted.predict_proba(rows)
    assert fitted.score(rows, labels) > 0.95
    assert list(fitted.feature_names_in_) == list(rows.columns)
    frame = pl.DataFrame({name: rows[name].to_numpy() for name in rows})
    for given, target in [(frame, pl.Series(labels)), (rows.to_numpy(), labels), (rows.to_numpy().tolist(), labels)]:
        again = clone(fitted).fit(given, target)
        assert np.array_equal(again.predict_proba(given), wanted), type(given)
    assert np.array_equal(fitted.predict_proba(frame), wanted)
    for odd in (rows[rows.columns[::-1]], rows.iloc[:, :3], rows.assign(more=1)):
        with pytest.raises(ValueError, match="feature names"):
            fitted.predict(odd)


def test_the_tools_of_scikit_learn(wine, fitted, tmp_path):
    rows, labels = wine
    pipe = make_pipeline(StandardScaler().set_output(transform="pandas"), clone(fitted)).fit(rows, labels)
    assert pipe.score(rows, labels) > 0.95
    assert list(pipe[-1].feature_names_in_) == list(rows.columns)
    assert cross_val_score(clone(fitted), rows, labels, cv=3).min() > 0.8
    grid = {"hidden": [4, (8, 4)], "rates": [None, {"layer1": 0.03, "layer2": 0.03}], "epochs": np.array([2])}
    search = GridSearchCV(clone(fitted), {**grid, "hidden": [4, (8,)]}, cv=2, error_score="raise").fit(rows, labels)
    assert len(search.cv_results_["params"]) == 4
    wanted = fitted.predict_proba(rows)
    joblib.dump(fitted, tmp_path / "model.joblib")
    for copy in (pickle.loads(pickle.dumps(fitted)), joblib.load(tmp_path / "model.joblib")):
        assert np.array_equal(copy.predict_proba(rows), wanted)
        assert copy.history_ == fitted.history_


def test_rates_reach_their_layers_and_what_they_are_is_told(wine):
    rows, labels = wine
    slow = LrdiffClassifier(rates={"layer1": 1e-9, "layer2": 1e-9}, epochs=3, random_state=0).fit(rows, labels)
    fast = LrdiffClassifier(rates={"layer1": 0.02, "layer2": 1e-9}, epochs=3, random_state=0).fit(rows, labels)
    apart = {name: float((fast.model_.state_dict()[name] - slow.model_.state_dict()[name]).abs().max())
             for name in ("layer1.weight", "layer2.weight")}  # fmt: skip
    assert apart["layer1.weight"] > 1e-2 > 1e-6 > apart["layer2.weight"]
    assert fast.rates_ == {"layer1": 0.02, "layer2": 1e-9}
    page = fast._repr_html_()
    for word in ("LrdiffClassifier", "learning rate", "0.02", "1e-09", "best epoch"):
        assert word in page
    assert "learning rate" not in LrdiffClassifier()._repr_html_()
    assert fast._repr_mimebundle_()["text/html"].endswith(page[-50:])


@pytest.mark.slow  # it compiles a kernel
def test_tuned_rates_leave_the_default_where_another_does_better(wine):
    rows, labels = wine
    given = {"hidden": 4, "epochs": 3, "batch_size": 64, "random_state": 0}  # so few steps need a high rate
    plain, tuned = (LrdiffClassifier(rates=rates, **given).fit(rows, labels) for rates in (None, "tuned"))
    assert max(tuned.rates_.values()) > 0.01
    assert tuned.score(rows, labels) > plain.score(rows, labels)
    assert tuned.get_params()["rates"] == "tuned"


def test_early_stopping_keeps_the_best_epoch(wine):
    model = LrdiffClassifier(rates={"layer1": 0.1, "layer2": 0.1}, epochs=100, patience=3, random_state=0).fit(*wine)
    assert model.n_iter_ == model.best_epoch_ + 3 < 100
    losses = {row.epoch: row.loss for row in model.history_ if row.split == "validation"}
    assert losses[model.best_epoch_] == min(losses.values())


def test_rare_classes_and_their_weights():
    random = np.random.default_rng(0)
    rows = random.normal(size=(300, 2))
    labels = np.where(rows[:, 0] + random.normal(size=300) > 1.8, "rare", "usual")
    found = {}
    for weight in (None, "balanced", {"rare": 50.0}):
        model = LrdiffClassifier(epochs=40, class_weight=weight, random_state=0).fit(rows, labels)
        found[str(weight)] = (model.predict(rows) == "rare").mean()
    assert found["None"] < found["balanced"] < found["{'rare': 50.0}"]
    lone = np.where(np.arange(300) == 7, "once", labels)
    assert LrdiffClassifier(epochs=2).fit(rows, lone).predict_proba(rows).shape == (300, 3)
    with pytest.raises(EstimatorError, match="class_weight names"):
        LrdiffClassifier(class_weight={"rar": 2.0}).fit(rows, labels)


@pytest.mark.slow
def test_text_dates_and_holes_of_a_dataframe(tmp_path):
    import onnxruntime

    random = np.random.default_rng(0)
    rows = pandas.DataFrame({
        "kind": random.choice(["a", "b", "c"], 200),
        "when": pandas.date_range("2020-01-01", periods=200, freq="D"),
        "size": random.normal(size=200),
        "room": random.integers(0, 5, 200),
    })  # fmt: skip
    labels = np.where((rows["kind"] == "a") ^ (rows["size"] > 0.5), "yes", "no")
    rows.loc[3, "size"], rows.loc[5, "kind"] = np.nan, None
    model = LrdiffClassifier(epochs=60, categorical=["room"], random_state=0).fit(rows, labels)
    assert model.score(rows, labels) > 0.9
    assert [column.kind for column in model.model_.spec.columns] == ["category", "date", "number", "category"]
    assert model.n_features_in_ == 4
    assert np.isfinite(model.predict_proba(rows.assign(kind="new", size=np.nan))).all()
    with pytest.raises(EstimatorError, match="this is an array"):
        model.predict(rows.to_numpy())
    assert model.export_onnx(tmp_path / "model.onnx").verification.passed
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert {"kind", "room"} < {port.name for port in session.get_inputs()}  # words go in as words
    with pytest.raises(EstimatorError, match="an array has none"):
        LrdiffClassifier(categorical=["room"]).fit(rows[["size"]].to_numpy(), labels)


@pytest.mark.slow
def test_the_exported_file_predicts_as_the_estimator(wine, fitted, tmp_path):
    import onnxruntime

    rows, _ = wine
    with pytest.raises(NotFittedError):
        clone(fitted).export_onnx(tmp_path / "model.onnx")
    report = fitted.export_onnx(tmp_path / "model.onnx", rows)
    assert report.verification.passed
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (given,) = session.run(None, {session.get_inputs()[0].name: rows.to_numpy(np.float32)})
    assert np.abs(given - fitted.predict_proba(rows)).max() < 1e-5


def test_missing_values_of_an_array():
    rows, target = load_diabetes(return_X_y=True)
    holes = rows.copy()
    holes[3, 2] = np.nan
    model = LrdiffRegressor(epochs=2, random_state=0).fit(holes, target)
    assert np.isfinite(model.predict(holes)).all()
    flagged = LrdiffRegressor(epochs=2, impute="auto").fit(holes, target)
    assert flagged.model_.spec.encoded_names[3] == "x3 missing"
    for strict in (LrdiffRegressor(epochs=2, impute="none"), LrdiffRegressor(epochs=2, impute="auto")):
        with pytest.raises(ValueError, match="NaN"):
            strict.fit(rows, target).predict(holes)


def test_what_cannot_be_used_is_refused_as_an_error_of_both_libraries(wine):
    rows, labels = wine
    for parameters, words in [
        ({"rates": 0.1}, "rate for each layer"),
        ({"rates": "tuned", "dropout": 0.1}, "no dropout"),
        ({"rates": {"nope": 1.0}}, "no layer"),
        ({"rates": {"layer1": -1.0, "layer2": 1.0}}, "learning rate"),
        ({"hidden": "wide"}, "hidden"),
        ({"epochs": 0}, "at least 1"),
        ({"optimizer": "adm"}, "did you mean adam"),
        ({"validation": 0.7}, "validation"),
        ({"impute": "drop"}, "drops no row"),
        ({"device": "tpu"}, "device"),
    ]:
        with pytest.raises(ValueError, match=words) as caught:
            LrdiffClassifier(**parameters).fit(rows, labels)
        assert isinstance(caught.value, LrdiffError)
        assert caught.value.help
    huge = rows.to_numpy().copy()
    huge[5, 1] = 1e39
    with pytest.raises(EstimatorError, match="too large for float32"):
        LrdiffClassifier().fit(huge, labels)
