"""HashNet as scikit-learn has it: an estimator whose samples are images.

    neighbors = HashNeighbors("my.bundle").fit(photos)
    distances, places = neighbors.kneighbors(["cat.jpg"])

It keeps codes and features of what it was fitted to in memory. For photos on disk, labels, and
collections that grow, an index is the better place.
"""

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from hashnet import extras, images
from hashnet.encode.encoder import Encoded, Encoder
from hashnet.errors import ArgumentError, FingerprintError, ImageError
from hashnet.retrieval.search.coarse.hamming import CodeIndex
from hashnet.retrieval.search.engine import default_pool
from hashnet.retrieval.search.fine import nearest_features

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator, TransformerMixin
    from sklearn.utils.validation import check_is_fitted
else:
    _RULE = "This estimator is one of scikit-learn's family."
    _base = extras.load("sklearn.base", "scikit-learn", _RULE)
    BaseEstimator, TransformerMixin = _base.BaseEstimator, _base.TransformerMixin
    check_is_fitted = extras.load("sklearn.utils.validation", "scikit-learn", _RULE).check_is_fitted


class HashNeighbors(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # without types
    """Codes of images, and the nearest of the images that it was fitted to, coarse to fine.

    It can be pickled and cloned; the network stays in its bundle, which must then be there.

    Args:
        bundle: str or path-like. The network: a bundle, or an index that has one.
        n_neighbors: int, 1 or more. Neighbours that `kneighbors` gives.
        n_jobs: int or None. Threads; None means one for each core this process may use.

    Attributes:
        codes_: uint8 `(n_samples, code_bytes)`, of the images that it was fitted to.
        features_: float32 `(n_samples, feature_dim)`, theirs.
        n_samples_fit_: int.
        fingerprint_: str, of the network.

    Example:
        >>> neighbors = HashNeighbors(bundle_folder, n_neighbors=1).fit(["cat.png", "dog.png"])
        >>> neighbors.transform(["dog.png"]).shape
        (1, 4)
        >>> distances, places = neighbors.kneighbors(["dog.png", "cat.png"])
        >>> places.ravel().tolist()
        [1, 0]
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str] | None = None,
        *,
        n_neighbors: int = 5,
        n_jobs: int | None = None,
    ) -> None:
        self.bundle = bundle
        self.n_neighbors = n_neighbors
        self.n_jobs = n_jobs

    def fit(self, X: Iterable[images.Source], y: object = None) -> Self:
        """Encode images and keep their codes and features; nothing is learned.

        Args:
            X: iterable of n images: paths, bytes, binary files, PIL images or arrays; or one uint8
                array `(n, height, width, 3)`. See `images.Photo`.
            y: ignored.

        Returns:
            The estimator itself.

        Raises:
            ArgumentError: there is no bundle or no image.
            ImageError: one of the images cannot be read.
            BundleError: the bundle is missing or damaged.
        """
        if self.bundle is None:
            raise ArgumentError(
                "Images are encoded by a network.", "no bundle", "Give a bundle or an index."
            )
        self._encoder = Encoder.open(self.bundle, num_threads=self.n_jobs)
        encoded = self._encode(X)
        self.codes_, self.features_ = encoded.codes, encoded.features
        self.n_samples_fit_ = len(encoded)
        self.fingerprint_ = self._encoder.fingerprint
        return self

    def transform(self, X: Iterable[images.Source]) -> np.ndarray:
        """The codes of images.

        Args:
            X: as for `fit`.

        Returns:
            uint8 `(n, code_bytes)`; `hashnet.codes.unpack` gives the single bits.

        Raises:
            NotFittedError: `fit` comes first.
            ImageError: one of the images cannot be read.
        """
        check_is_fitted(self)
        return self._encode(X).codes

    def kneighbors(
        self,
        X: Iterable[images.Source] | None = None,
        n_neighbors: int | None = None,
        return_distance: bool = True,
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """The nearest of the images that this was fitted to.

        Args:
            X: as for `fit`; or None for those very images, none of which is its own neighbour.
            n_neighbors: int, or None for that of the estimator.
            return_distance: bool.

        Returns:
            distances: float64 `(n, n_neighbors)`, Euclidean, of features; only if asked for.
            places: int64 `(n, n_neighbors)`, in what this was fitted to, nearest first.

        Raises:
            NotFittedError: `fit` comes first.
            ArgumentError: there are not so many images.
            ImageError: one of the images cannot be read.
        """
        check_is_fitted(self)
        k = self.n_neighbors if n_neighbors is None else n_neighbors
        most = self.n_samples_fit_ - (X is None)
        if not 1 <= k <= most:
            raise ArgumentError(f"n_neighbors is 1 to {most} here.", f"n_neighbors={k}")
        if X is None:
            codes, features = self.codes_, self.features_
        else:
            encoded = self._encode(X)
            codes, features = encoded.codes, encoded.features
        coarse = CodeIndex(self.codes_, num_threads=self._network().num_threads)
        distances, places = np.empty((len(codes), k)), np.empty((len(codes), k), np.int64)
        for row, (code, feature) in enumerate(zip(codes, features, strict=True)):
            wanted = k + (X is None)
            pool, _, _ = coarse.pool(code, at_least=default_pool(wanted, self.n_samples_fit_))
            near, far = nearest_features(feature, pool, self.features_, wanted)
            others = np.flatnonzero(near != row)[:k] if X is None else np.arange(k)
            places[row], distances[row] = near[others], far[others]
        return (distances, places) if return_distance else places

    def _encode(self, X: Iterable[images.Source]) -> Encoded:
        encoded = self._network().encode(X)
        if encoded.problems:
            first = encoded.problems[0]
            raise ImageError(
                "Every sample is an image that can be read.", f"{first.path}: {first.reason}"
            )
        if not len(encoded):
            raise ArgumentError("There is at least one image.", "none")
        return encoded

    def _network(self) -> Encoder:
        if "_encoder" not in vars(self):  # unpickled
            assert self.bundle is not None  # else it was not fitted
            encoder = Encoder.open(self.bundle, num_threads=self.n_jobs)
            if encoder.fingerprint != self.fingerprint_:
                raise FingerprintError(
                    "Images are compared by codes of one network.",
                    f"{self.bundle} of {encoder.fingerprint[:12]} for {self.fingerprint_[:12]}",
                    "Restore the bundle, or fit again.",
                )
            self._encoder = encoder
        return self._encoder

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_encoder"}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False  # a row of numbers is no image
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        tags.no_validation = True
        tags.transformer_tags.preserves_dtype = []  # a code is of bytes, whatever it is of
        tags.requires_fit = True
        return tags
