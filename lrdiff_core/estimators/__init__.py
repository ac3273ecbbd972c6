"""scikit-learn estimators over the tables, the model and the training loop of this package."""

from lrdiff_core.estimators.classifier import LrdiffClassifier
from lrdiff_core.estimators.regressor import LrdiffRegressor

__all__ = ["LrdiffClassifier", "LrdiffRegressor"]
