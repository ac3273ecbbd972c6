"""What both estimators share: settings from parameters, one training, predictions, the ONNX file, the page."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state, estimator_html_repr
from sklearn.utils.validation import check_is_fitted

from lrdiff_core.config import RunConfig, make_config
from lrdiff_core.data import Table
from lrdiff_core.errors import EstimatorError
from lrdiff_core.estimators.html import described
from lrdiff_core.estimators.rows import feature_matrix, value_errors, without_test
from lrdiff_core.estimators.tuned import tuned_rates
from lrdiff_core.loop import train
from lrdiff_core.setup import set_up

if TYPE_CHECKING:
    from lrdiff_export import ExportReport

__all__ = ["LrdiffEstimator"]

SETTINGS = ("hidden", "rates", "optimizer", "momentum", "weight_decay", "batch_size", "epochs", "patience", "schedule",
            "dropout", "validation", "impute", "device", "threads")  # fmt: skip
"""Parameters that are settings of :class:`RunConfig` under the same name."""
EXAMPLES = 64  # training rows that are kept, for the proof of an exported file


class LrdiffEstimator(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A front on :func:`load_table`, :func:`set_up` and :func:`train`; see the two classes for its parameters."""

    impute: Any
    random_state: Any
    validation: Any

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.impute != "none"
        return tags

    def _fit_table(self, table: Table, *, class_weight: Any = None) -> None:
        """Train on the rows of a table, its target set, and keep what predictions need."""
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        config = self._config(seed, class_weight)
        if self._tunes:
            config = config.model_copy(update={"rates": tuned_rates(table, config)})
        split = without_test(table, validation=config.validation, seed=seed)
        if split.validation is split.train:  # too few rows to stop by
            config = config.model_copy(update={"patience": 0})
        trained = train(set_up(table, config, split=split))
        self.model_ = trained.net
        self.config_ = trained.setup.config
        self.rates_ = trained.setup.rates
        self.history_ = [row for row in trained.observations if row.split != "test"]
        self.n_iter_ = trained.epochs
        self.best_epoch_ = trained.kept_epoch
        drawn = np.random.default_rng(seed).permutation(split.train)[:EXAMPLES]
        self.example_rows_ = np.ascontiguousarray(table.features[drawn])

    @property
    def _tunes(self) -> bool:
        return isinstance(self.rates, str) and self.rates == "tuned"

    def _config(self, seed: int, class_weight: Any) -> RunConfig:
        given = {name: getattr(self, name) for name in SETTINGS}
        if isinstance(given["hidden"], int | np.integer) and not isinstance(given["hidden"], bool):
            given["hidden"] = [given["hidden"]]
        if self._tunes:
            given["rates"] = None
        if isinstance(given["rates"], str | float | int | np.number) and not isinstance(given["rates"], bool):
            raise EstimatorError(
                f"rates is {given['rates']!r}",
                help='give "tuned", or a rate for each layer: rates={"layer1": 0.01, "layer2": 0.001}',
            )
        settings = {name: _plain(value) for name, value in given.items() if value is not None}
        if settings.get("impute") == "drop":
            raise EstimatorError('impute is "drop"', help="an estimator drops no row: write median, mean, auto or none")
        if class_weight is not None:
            settings["class_weight"] = class_weight
        return make_config({**settings, "seed": seed}, where=type(self).__name__)

    def _answers(self, rows: Any) -> np.ndarray:
        """What the model says to rows, computed in float64: a row's answer does not depend on its batch's size."""
        check_is_fitted(self)
        with value_errors():
            features = self._matrix(rows)
        exact = copy.deepcopy(self.model_).double()
        with torch.no_grad():
            answers: np.ndarray = exact.predict(torch.from_numpy(features).double()).numpy()
        return answers

    def _matrix(self, rows: Any) -> np.ndarray:
        return feature_matrix(self, rows, spec=self.model_.spec, impute=self.config_.impute)

    def export_onnx(self, path: str | os.PathLike[str], X: Any = None) -> ExportReport:  # noqa: N803
        """Write the fitted model as an ONNX file that takes the raw columns, once it is verified.

        The file's bytes are run in ONNX Runtime and compared with the model in float64; golden vectors are written
        beside it. Nothing is written where they disagree.

        Args:
            path: the file; its folder must exist.
            X: rows to verify on; left out: 64 of the training rows, which the estimator keeps.

        Returns:
            The report: path, checksum, errors and tolerances.

        Raises:
            VerificationFailed: the file does not predict as the model.
            NotFittedError: ``fit`` comes first.
        """
        from lrdiff_export import export_tabular  # here: who only trains needs no exporter

        check_is_fitted(self)
        with value_errors():
            rows = self.example_rows_ if X is None else self._matrix(X)
        return export_tabular(self.model_, rows, out=path, config=self.config_)

    def _html_repr(self) -> str:
        diagram: str = estimator_html_repr(self)
        return diagram + (described(self) if hasattr(self, "model_") else "")

    def _repr_html_inner(self) -> str:  # scikit-learn before 1.7 asks for this one
        return self._html_repr()


def _plain(value: Any) -> Any:
    """A parameter as settings want it: grids bring numpy's numbers."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value
