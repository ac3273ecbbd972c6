"""One table, one seed: our default and scikit-learn's models on the same split, scored on the same test rows."""

from __future__ import annotations

import math
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.tables.sources import Source, read_table

__all__ = ["MODELS", "measure"]

MODELS = {
    "ours": "what `lrdiff run` trains and ships, at its defaults",
    "mlp": "scikit-learn's MLPClassifier or MLPRegressor at defaults",
    "linear": "scikit-learn's LogisticRegression (max_iter 1000) or Ridge at defaults",
}
STAGES = ("comparison",)  # what choosing rates needs; the rest of a run changes no prediction


def measure(source: Source, seed: int, *, whole: bool = False) -> dict[str, Any]:
    """Score the models on one split.

    Our model trains on the training rows and stops by the validation rows; scikit-learn's two are fitted on both
    together, behind a median filler, StandardScaler and OneHotEncoder. All are scored on the test rows.

    Args:
        source: the table.
        seed: of the split and of every model.
        whole: do all stages of the run, export and proof too, as a person would; for the time it takes.
    """
    from lrdiff_bench.run.job import STAGES as EVERY, run_job
    from lrdiff_core import make_config

    frame = read_table(source)
    row: dict[str, Any] = {"table": source.name, "seed": seed, "rows": frame.height, "columns": frame.width - 1}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{source.name}.csv"
        frame.write_csv(file)
        settings = {"data": str(file), "target": source.target, "seed": seed}
        if source.task == "regression":
            settings["task"] = "regression"
        (result, seconds), wall = _timed(
            lambda: run_job(make_config(settings), out=Path(folder) / "run", stages=EVERY if whole else STAGES)
        )
    setup = result.trained.setup
    table, split = setup.rows.table, setup.rows.split
    if table.target.shape[0] != frame.height:
        raise RuntimeError(f"{source.name}: {frame.height} rows became {table.target.shape[0]}")
    wanted, known = table.target[split.test], np.concatenate([split.train, split.validation])
    shares = _ours(result.trained, split.test)
    row["ours"] = {**_score(wanted, shares, len(table.classes)), "seconds": seconds, "wall": wall, "whole": whole}
    row["rates"] = setup.config.rates
    for name in ("mlp", "linear"):
        (answer, seconds), wall = _timed(lambda name=name: _theirs(name, source, frame, table, known, split.test, seed))
        row[name] = {**_score(wanted, answer, len(table.classes)), "seconds": seconds, "wall": wall}
    return row


def _timed(work: Callable[[], Any]) -> tuple[tuple[Any, float], float]:
    """What it gives, its seconds of processor time (all threads and ended children), and those of the clock."""
    begun, clock = _processor(), time.perf_counter()
    given = work()
    return (given, round(_processor() - begun, 3)), round(time.perf_counter() - clock, 3)


def _processor() -> float:
    now = os.times()
    return now.user + now.system + now.children_user + now.children_system


def _ours(trained: Any, rows: np.ndarray) -> np.ndarray:
    import torch

    with torch.no_grad():
        return trained.net.predict(torch.from_numpy(trained.setup.rows.table.features[rows])).numpy().astype(np.float64)


def _theirs(name: str, source: Source, frame: pl.DataFrame, table: Any, known: np.ndarray, test: np.ndarray, seed: int):
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    numbers, words = [], []
    columns: dict[str, np.ndarray] = {}
    for column in _dates_to_numbers(frame.drop(source.target)):
        number = column.dtype.is_numeric()
        (numbers if number else words).append(len(columns))
        values = (
            column.cast(pl.Float64).to_numpy() if number else np.array(column.fill_null("").to_list(), dtype=object)
        )
        columns[column.name] = values
    matrix = np.empty((frame.height, len(columns)), dtype=object)
    for place, values in enumerate(columns.values()):
        matrix[:, place] = values
    encoder = ColumnTransformer([
        ("numbers", make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), numbers),
        ("words", OneHotEncoder(handle_unknown="ignore"), words),
    ])  # fmt: skip
    number = table.task == "regression"
    models: dict[str, Any] = {
        "mlp": (MLPRegressor if number else MLPClassifier)(random_state=seed),
        "linear": Ridge() if number else LogisticRegression(max_iter=1000),
    }
    model = make_pipeline(encoder, models[name])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 200 epochs are the default, whether it has converged or not
        model.fit(matrix[known], table.target[known].astype(np.float64 if number else np.int64))
    if number:
        return model.predict(matrix[test])[:, None]
    answer = np.zeros((len(test), len(table.classes)))
    answer[:, model[-1].classes_] = model.predict_proba(matrix[test])
    return answer


def _dates_to_numbers(frame: pl.DataFrame) -> pl.DataFrame:
    """A date becomes the day's number, and sine and cosine of its place in the year."""
    for name in frame.columns:
        days = frame[name]
        if days.dtype == pl.String and days.str.contains(r"^\d{4}[-/]\d\d[-/]\d\d$").all():
            days = days.str.replace_all("/", "-").str.to_date()
        if days.dtype.is_temporal():
            angle = days.dt.ordinal_day().cast(pl.Float64) * (2 * math.pi / 365.25)
            frame = frame.with_columns(
                days.cast(pl.Date).to_physical().cast(pl.Float64).alias(name),
                angle.sin().alias(f"{name} sine"),
                angle.cos().alias(f"{name} cosine"),
            )
    return frame


def _score(wanted: np.ndarray, answer: np.ndarray, classes: int) -> dict[str, float]:
    """``score``: balanced accuracy or R2; ``loss``: log loss or RMSE."""
    from sklearn import metrics

    if not classes:
        wanted = wanted.astype(np.float64)
        return {
            "score": float(metrics.r2_score(wanted, answer[:, 0])),
            "loss": float(metrics.root_mean_squared_error(wanted, answer[:, 0])),
        }
    shares = np.concatenate([1.0 - answer, answer], axis=1) if answer.shape[1] == 1 else answer
    shares = shares / shares.sum(axis=1, keepdims=True)
    said = shares.argmax(axis=1)
    return {
        "score": float(np.mean([np.mean(said[wanted == one] == one) for one in np.unique(wanted)])),
        "loss": float(metrics.log_loss(wanted, shares, labels=list(range(classes)))),
    }


if __name__ == "__main__":  # one measurement in a process of its own: python -m benchmarks.tables.models NAME SEED
    import json

    from benchmarks.tables.sources import TABLES

    found = next(table for table in TABLES if table.name == sys.argv[1])
    sys.stdout.write(json.dumps(measure(found, int(sys.argv[2]), whole="whole" in sys.argv)) + "\n")
