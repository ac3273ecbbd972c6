"""A regressor for scikit-learn."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.utils.validation import assert_all_finite, check_consistent_length, column_or_1d

from lrdiff_core.estimators.base import LrdiffEstimator
from lrdiff_core.estimators.rows import feature_table, value_errors, with_target

__all__ = ["LrdiffRegressor"]


class LrdiffRegressor(RegressorMixin, LrdiffEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A small network whose layers learn at rates of their own, as a scikit-learn regressor.

    It trains as :func:`lrdiff_core.train` does. A dataframe brings its columns by name, text and dates included; an
    array brings numbers. The target is standardized inside; predictions are in its own units.

    Parameters are keyword arguments; all have a default:

    Args:
        hidden: sizes of the hidden layers, such as ``(64, 32)``; left out: one layer that follows the features.
        rates: learning rate of each layer by name, ``{"layer1": 0.01, "layer2": 0.001}``; left out: 0.01 for every
            layer but the last, 0.001 for the last. ``"tuned"``: chosen by validation loss among single rates and the
            default ratios, which takes a few seconds more.
        optimizer: a name in :data:`lrdiff_core.optimizers.OPTIMIZERS`, such as ``adam``, ``sgd`` or ``adamw``.
        momentum: of ``sgd`` and ``rmsprop``.
        weight_decay: of all parameters.
        batch_size: rows a step; left out: it follows the number of rows.
        epochs: passes over the training rows, at most; left out: it follows the number of rows.
        patience: epochs without a better validation loss that end the training, the best epoch's weights kept; 0: none
            do; left out: it follows the epochs.
        schedule: how rates move: ``constant``, ``linear``, ``cosine``, ``1-sqrt`` or ``inverse_sqrt``.
        dropout: share of every hidden layer's outputs that is left out at random in training.
        validation: share of the rows that training does not see and stops by.
        impute: missing values: filled inside the model with the ``median`` or ``mean`` of the training rows; ``auto``:
            the median, and a column that says where, for columns that lack values in ``fit``; ``none``: refused.
        categorical: columns of a dataframe whose values are names, also where they look like numbers.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        threads: of torch; more than one may change the last bits.
        random_state: of the split into training and validation rows, the first weights and the order of the rows.

    Attributes:
        n_features_in_: columns that ``fit`` got.
        feature_names_in_: their names, where they have names.
        model_: the network, its preprocessing inside.
        rates_: learning rate of each layer.
        history_: loss and score of the training and validation rows after every epoch.
        n_iter_: epochs that were trained.
        best_epoch_: the epoch whose weights the model has.
        config_: every setting as it was used.
        example_rows_: up to 64 training rows, for :meth:`export_onnx`; a pickle holds them.

    Example:
        >>> from sklearn.datasets import load_diabetes
        >>> rows, values = load_diabetes(return_X_y=True)
        >>> model = LrdiffRegressor(hidden=8, epochs=20, random_state=0).fit(rows, values)
        >>> model.predict(rows[:2]).shape, model.score(rows, values) > 0.3
        ((2,), True)
    """

    def __init__(
        self,
        hidden: Any = None,
        rates: Any = None,
        optimizer: str = "adam",
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        batch_size: int | None = None,
        epochs: int | None = None,
        patience: int | None = None,
        schedule: str = "constant",
        dropout: float = 0.0,
        validation: float = 0.15,
        impute: str = "median",
        categorical: Any = None,
        device: str = "cpu",
        threads: int = 1,
        random_state: Any = None,
    ) -> None:
        self.hidden = hidden
        self.rates = rates
        self.optimizer = optimizer
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.epochs = epochs
        self.patience = patience
        self.schedule = schedule
        self.dropout = dropout
        self.validation = validation
        self.impute = impute
        self.categorical = categorical
        self.device = device
        self.threads = threads
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Self:  # noqa: N803
        """Train on rows and their numbers.

        Args:
            X: a dataframe, or numbers [rows, features].
            y: numbers [rows].

        Raises:
            EstimatorError: the rows, the numbers or a parameter cannot be used; it is a ``ValueError``, too.
        """
        with value_errors():
            table = feature_table(self, X, y, impute=self.impute, categorical=self.categorical or ())
            values = column_or_1d(y, dtype=np.float64, warn=True)
            assert_all_finite(values, input_name="y")
            check_consistent_length(table.features, values)
            self._fit_table(with_target(table, values, classes=(), task="regression"))
        return self

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803
        """The value of each row, float64 [rows].

        Args:
            X: rows, as for ``fit``.
        """
        return self._answers(X)[:, 0]
