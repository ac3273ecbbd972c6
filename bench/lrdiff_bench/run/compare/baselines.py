"""The test split judged by metrics that a skewed table does not flatter, beside two baselines on the same rows."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from lrdiff_core.loop import Trained

__all__ = ["judged", "test_results"]

CLASS_METRICS = ("accuracy", "balanced accuracy", "macro F1", "ROC AUC", "log loss")
NUMBER_METRICS = ("MAE", "RMSE", "R2")
MOST_DRAWN = 50  # classes of a confusion matrix, points of a curve


def test_results(trained: Trained) -> dict[str, Any]:
    """What the model and two baselines have on the test split.

    The baselines are scikit-learn's at their defaults, fitted on the training rows as the network saw them: the share
    of each class (or the mean), and logistic (or ridge) regression.

    Args:
        trained: the model and its rows.

    Returns:
        ``metrics``: their names; ``models``: a row each, numbers in the target's own units; ``classes``: rows,
        precision and recall of each class; ``beaten_by``: the baseline that is better by log loss or RMSE, or None;
        ``drawn``: what a page draws of the model (``confusion`` [true, predicted], ``roc``, ``calibration``, or
        ``predicted`` against ``actual``).

    Source: https://scikit-learn.org/stable/modules/model_evaluation.html
    """
    rows = trained.setup.rows
    table, split = rows.table, rows.split
    inputs = {part: rows.inputs[part].cpu().double().numpy() for part in ("train", "test")}
    known, wanted = table.target[split.train], table.target[split.test]
    with torch.no_grad():
        answer = trained.net.predict(torch.from_numpy(table.features[split.test])).numpy().astype(np.float64)
    return judged(table.task, table.classes, inputs, known, wanted, answer)


def judged(
    task: str,
    classes: Sequence[str],
    inputs: dict[str, np.ndarray] | None,
    known: np.ndarray,
    wanted: np.ndarray,
    answer: np.ndarray,
) -> dict[str, Any]:
    """Judge a model's answers beside the baselines.

    Args:
        task: ``"binary"``, ``"multiclass"`` or ``"regression"``.
        classes: names; empty for regression.
        inputs: ``train`` and ``test`` rows [rows, features]; None where no linear model fits them.
        known: [rows] targets of the training rows.
        wanted: [rows] of the test rows.
        answer: the model's probabilities [rows, classes] (or [rows, 1] of the second), or values [rows, 1].

    Returns:
        As :func:`test_results`.
    """
    score = _score_numbers if task == "regression" else _score_classes
    answers = {"this model": answer, **_baselines(task, len(classes), inputs, known, len(wanted))}
    models: list[dict[str, Any]] = [{"name": name, **score(wanted, one, len(classes))} for name, one in answers.items()]
    last = "RMSE" if task == "regression" else "log loss"
    own, best = models[0][last], min(models[1:], key=lambda row: float(row[last]))
    beaten = own is None or best[last] < own
    return {
        "metrics": NUMBER_METRICS if task == "regression" else CLASS_METRICS,
        "models": models,
        "classes": [] if task == "regression" else _by_class(wanted, answer, list(classes)),
        "beaten_by": best["name"] if beaten else None,
        "drawn": _numbers_drawn(wanted, answer) if task == "regression" else _classes_drawn(wanted, answer),
    }


def _classes_drawn(wanted: np.ndarray, answer: np.ndarray) -> dict[str, Any]:
    """The confusion matrix; ROC of two classes; how often the model is right where it says it is so sure."""
    from sklearn import metrics

    shares = _shares(answer)
    classes = shares.shape[1]
    if not np.isfinite(shares).all() or classes > MOST_DRAWN:
        return {}
    said = shares.argmax(axis=1)
    drawn: dict[str, Any] = {"confusion": metrics.confusion_matrix(wanted, said, labels=list(range(classes))).tolist()}
    if classes == 2 and len(np.unique(wanted)) == 2:
        false, true, _ = metrics.roc_curve(wanted, shares[:, 1])
        every = max(1, len(false) // MOST_DRAWN)
        drawn["roc"] = {"false": [*false[:-1:every].tolist(), 1.0], "true": [*true[:-1:every].tolist(), 1.0]}
    sure, right = (shares[:, 1], wanted == 1) if classes == 2 else (shares.max(axis=1), said == wanted)
    bins = np.minimum((sure * 10).astype(int), 9)
    drawn["calibration"] = [
        {
            "said": float(sure[bins == one].mean()),
            "was": float(right[bins == one].mean()),
            "rows": int((bins == one).sum()),
        }
        for one in np.unique(bins)
    ]
    return drawn


def _numbers_drawn(wanted: np.ndarray, answer: np.ndarray) -> dict[str, Any]:
    if not np.isfinite(answer).all():
        return {}
    some = np.linspace(0, len(wanted) - 1, min(len(wanted), 4 * MOST_DRAWN)).astype(int)
    return {"actual": wanted[some].astype(np.float64).tolist(), "predicted": answer[some, 0].tolist()}


def _baselines(
    task: str, classes: int, inputs: dict[str, np.ndarray] | None, known: np.ndarray, rows: int
) -> dict[str, np.ndarray]:
    from sklearn.dummy import DummyClassifier, DummyRegressor  # here: a second to import
    from sklearn.linear_model import LogisticRegression, Ridge

    linear = inputs is not None
    if inputs is None:  # the others look at targets alone
        inputs = {"train": np.zeros((len(known), 1)), "test": np.zeros((rows, 1))}
    if task == "regression":
        found = {**({"ridge regression": Ridge()} if linear else {}), "mean": DummyRegressor()}
        return {
            name: one.fit(inputs["train"], known.astype(np.float64)).predict(inputs["test"])[:, None]
            for name, one in found.items()
        }
    logistic = {"logistic regression": LogisticRegression(max_iter=1000)} if linear else {}
    found = {**logistic, "class shares": DummyClassifier()}
    answers = {}
    for name, one in found.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a fit that has not converged is still a baseline
            shares = one.fit(inputs["train"], known).predict_proba(inputs["test"])
        answers[name] = np.zeros((len(shares), classes))
        answers[name][:, one.classes_.astype(int)] = shares
    return answers


def _score_classes(wanted: np.ndarray, answer: np.ndarray, classes: int) -> dict[str, float | None]:
    from sklearn import metrics

    shares = _shares(answer)
    if not np.isfinite(shares).all():
        return dict.fromkeys(CLASS_METRICS)
    said, labels = shares.argmax(axis=1), list(range(classes))
    every = set(np.unique(wanted)) == set(labels)
    auc = None
    if every:
        auc = metrics.roc_auc_score(wanted, shares[:, 1] if classes == 2 else shares, multi_class="ovr")
    return {
        "accuracy": float(metrics.accuracy_score(wanted, said)),
        "balanced accuracy": float(np.mean([np.mean(said[wanted == one] == one) for one in np.unique(wanted)])),
        "macro F1": float(metrics.f1_score(wanted, said, labels=labels, average="macro", zero_division=0)),
        "ROC AUC": None if auc is None else float(auc),
        "log loss": float(metrics.log_loss(wanted, shares, labels=labels)),
    }


def _score_numbers(wanted: np.ndarray, answer: np.ndarray, classes: int) -> dict[str, float | None]:
    if not np.isfinite(answer).all():
        return dict.fromkeys(NUMBER_METRICS)
    wanted = wanted.astype(np.float64)
    off = answer[:, 0] - wanted
    variance = float(np.mean((wanted - wanted.mean()) ** 2))
    return {
        "MAE": float(np.mean(np.abs(off))),
        "RMSE": math.sqrt(np.mean(off**2)),
        "R2": 1.0 - float(np.mean(off**2)) / variance if variance else None,
    }


def _by_class(wanted: np.ndarray, answer: np.ndarray, names: tuple[str, ...] | list[str]) -> list[dict[str, Any]]:
    said = _shares(answer).argmax(axis=1)
    found = []
    for number, name in enumerate(names):
        right = int(np.sum((said == number) & (wanted == number)))
        there, chosen = int(np.sum(wanted == number)), int(np.sum(said == number))
        row: dict[str, Any] = {"class": name, "rows": there, "predicted": chosen}
        found.append(
            row | {"recall": right / there if there else None, "precision": right / chosen if chosen else None}
        )
    return found


def _shares(answer: np.ndarray) -> np.ndarray:
    """One column a class, each row summing to one."""
    both = np.concatenate([1.0 - answer, answer], axis=1) if answer.shape[1] == 1 else answer
    return both / both.sum(axis=1, keepdims=True)
