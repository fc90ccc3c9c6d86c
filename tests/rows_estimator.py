"""The estimator on tables: imported while tests run, since it loads scikit-learn."""

import pathlib

import numpy as np
from sklearn.utils.validation import check_is_fitted, validate_data

from hashnet.sklearn import HashNeighbors

GOLDEN = pathlib.Path(__file__).parent / "golden" / "bundle_v1"


class OfRows(HashNeighbors):
    """Rows of numbers as images one pixel high, so that checks made for tables reach the rest."""

    def fit(self, X, y=None):
        return super().fit(self._pictures(X, reset=True))

    def transform(self, X):
        check_is_fitted(self)
        return super().transform(self._pictures(X))

    def kneighbors(self, X=None, n_neighbors=None, return_distance=True):
        check_is_fitted(self)
        pictures = None if X is None else self._pictures(X)
        return super().kneighbors(pictures, n_neighbors, return_distance)

    def _pictures(self, X, reset=False):
        rows = np.clip(validate_data(self, X, reset=reset, dtype=np.float64), -3, 3)
        return list(((rows + 3) / 6)[:, None, :])

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.no_validation = False
        return tags
