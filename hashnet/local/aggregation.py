"""The local features of an image as one vector, by a codebook that is fitted to a collection.

    bovw    bag of visual words: how often each word occurs, rare words weighing more
    vlad    vector of locally aggregated descriptors: the sums of differences from each word
    fisher  Fisher vector: how a mixture of Gaussians would have to move towards the image

Such vectors are searched as features of images are. They know the things of which an image is made,
and not where they lie: `hashnet.retrieval.search.verify` knows that.

Reference:
    Sivic, Zisserman, "Video Google: A Text Retrieval Approach to Object Matching in Videos", ICCV
    2003: visual words, weighed by their rarity.
    Jegou, Douze, Schmid, Perez, "Aggregating Local Descriptors into a Compact Image
    Representation", CVPR 2010: VLAD.
    Arandjelovic, Zisserman, "All about VLAD", CVPR 2013: each word's part of length 1.
    Perronnin, Sanchez, Mensink, "Improving the Fisher Kernel for Large-Scale Image Classification",
    ECCV 2010: the improved Fisher vector, of components, with the square root of each number.
"""

import os
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hashnet import extras, files, threads
from hashnet.checks import checked_integer, described
from hashnet.errors import ArgumentError, ShapeError, StoreError, UnknownNameError
from hashnet.local.codebook import means, nearest_means

# Descriptors that a codebook is fitted to; of more, chance chooses.
MOST_DESCRIPTORS = 200_000
COMPONENTS = 64  # of a descriptor, of which Fisher vectors are made
_MOST_FOR_GAUSSIANS = 50_000  # descriptors; each weighs all of them, round by round
_LEAST_VARIANCE = 1e-4  # of a Gaussian: a share of the variance of all
_ROUNDS = 50  # of expectation maximisation
# Bytes that a file may unfold to, and numbers of a vector.
_MOST_BYTES, _MOST_NUMBERS = 1 << 30, 1 << 16
_NEEDS = "Fisher vectors are made by scikit-learn's mixtures of Gaussians."


@dataclass(frozen=True)
class _Kind:
    """One way to aggregate.

    Attributes:
        words: int. How many words it has where nobody says.
        fit: function of descriptors float32 `(n, d)`, a list of images' descriptors, a number of
            words, a seed and a number of threads, to dict of name to array.
        vector: function of these arrays and of descriptors `(m, d)`, to a vector of any length.
        width: function of the numbers of a word and of how many words there are, to the numbers of
            a vector.
    """

    words: int
    fit: Callable[..., dict[str, np.ndarray]]
    vector: Callable[[dict[str, np.ndarray], np.ndarray], np.ndarray]
    width: Callable[[int, int], int]


@dataclass(frozen=True, eq=False)
class Aggregation:
    """A codebook, and what it makes of an image's local features.

    Attributes:
        kind: str, one of `KINDS`.
        fitted: dict. What was fitted, by name.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> photos = [rng.random((40, 8), dtype=np.float32) for _ in range(9)]
        >>> vlad = Aggregation.fit("vlad", photos, num_words=4)
        >>> vlad.feature_dim, round(float(np.linalg.norm(vlad.vector(photos[0]))), 3)
        (32, 1.0)
    """

    kind: str
    fitted: dict[str, np.ndarray]

    @classmethod
    def fit(
        cls,
        kind: str,
        descriptors: Sequence[np.ndarray],
        *,
        num_words: int | None = None,
        seed: int = 0,
        num_threads: int = 1,
    ) -> "Aggregation":
        """Fit a codebook to the local features of a collection.

        Args:
            kind: str, one of `KINDS`.
            descriptors: list of float `(m, d)`, one an image; images without any are passed over.
            num_words: int, 1 or more, of visual words or Gaussians; None for the kind's own.
            seed: int. Of the sample that is fitted to, and of where the fit begins.
            num_threads: int. The fit does not depend on it.

        Returns:
            An `Aggregation`.

        Raises:
            UnknownNameError: there is no such kind.
            ArgumentError: there are fewer descriptors than words, or vectors would be longer than
                65,536 numbers.
            ShapeError: descriptors are of different widths.
            HashnetError: scikit-learn is not installed, and Fisher vectors are asked for.
        """
        if kind not in KINDS:
            raise UnknownNameError("aggregation", kind, KINDS)
        wanted = KINDS[kind].words if num_words is None else num_words
        wanted = checked_integer(wanted, 1, "num_words")
        some = [_checked(one) for one in descriptors if len(one)]
        if len({one.shape[1] for one in some}) > 1:
            raise ShapeError("Descriptors of a collection are equally wide.", "others among them")
        number = sum(map(len, some))
        if number < wanted:
            raise ArgumentError(
                "A codebook has no more words than there are local features to fit it to.",
                f"{wanted} words, {number} local features of {len(some)} images",
                "Give fewer words, or more photos.",
            )
        dim = some[0].shape[1] if kind != "fisher" else min(COMPONENTS, some[0].shape[1], number)
        if (width := KINDS[kind].width(dim, wanted)) > _MOST_NUMBERS:
            raise ArgumentError(
                f"A vector has {_MOST_NUMBERS} numbers at most.",
                f"{width} of {wanted} words",
                "Give fewer words.",
            )
        joined = np.concatenate(some)
        if len(joined) > MOST_DESCRIPTORS:
            rng = np.random.default_rng(seed)
            joined = joined[np.sort(rng.choice(len(joined), MOST_DESCRIPTORS, replace=False))]
        with threads.blas_threads(1):
            return cls(kind, KINDS[kind].fit(joined, some, wanted, seed, num_threads))

    @property
    def descriptor_dim(self) -> int:
        """int, numbers of a descriptor."""
        first = "axes" if self.kind == "fisher" else "words"
        return int(self.fitted[first].shape[1])

    @property
    def feature_dim(self) -> int:
        """int, numbers of a vector."""
        words = self.fitted["words"]
        return KINDS[self.kind].width(words.shape[1], len(words))

    def vector(self, descriptors: np.ndarray) -> np.ndarray:
        """The vector of an image.

        Args:
            descriptors: float `(m, descriptor_dim)`.

        Returns:
            float32 `(feature_dim,)`, of length 1; 0 for an image that has no local features, or
            none that tells it from others.

        Raises:
            ShapeError: they are of another width.
        """
        found = _checked(descriptors)
        if len(found) and found.shape[1] != self.descriptor_dim:
            raise ShapeError(
                f"This codebook is for descriptors of {self.descriptor_dim} numbers.",
                described(descriptors),
                "Extract them as those that it was fitted to.",
            )
        if not len(found):
            return np.zeros(self.feature_dim, np.float32)
        with threads.blas_threads(1):
            return _unit(KINDS[self.kind].vector(self.fitted, found)).astype(np.float32)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the codebook into a file, in place of the one that may be there.

        Args:
            path: str or path-like, of an `.npz`.
        """
        with files.whole_file(path) as file:
            np.savez(file, kind=np.array(self.kind), **self.fitted)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Aggregation":
        """Read a codebook that `save` wrote.

        Args:
            path: str or path-like.

        Returns:
            An `Aggregation`.

        Raises:
            StoreError: it is no such file.
        """
        try:
            with zipfile.ZipFile(path) as archive:
                size = sum(one.file_size for one in archive.infolist())
            if size > _MOST_BYTES:
                raise _damaged(path, f"arrays of more than {_MOST_BYTES} bytes")
            with np.load(path, allow_pickle=False) as file:
                fitted = {name: file[name] for name in file.files}
            found = cls(str(fitted.pop("kind")), fitted)
            one = np.ones((1, found.descriptor_dim), np.float32)
            probe = KINDS[found.kind].vector(fitted, one)
            fits = probe.shape == (found.feature_dim,) and bool(np.isfinite(probe).all())
        except StoreError:
            raise
        except (OSError, ValueError, LookupError, TypeError, zipfile.BadZipFile) as error:
            raise _damaged(path, str(error)[:200]) from error
        if not fits:
            raise _damaged(path, "arrays that do not fit each other")
        return found


def _damaged(path: str | os.PathLike[str], what: str) -> StoreError:
    return StoreError(
        "A codebook is a file that hashnet aggregate wrote.",
        f"{os.fsdecode(path)}: {what}",
        "Fit it again.",
    )


def _checked(descriptors: Any) -> np.ndarray:
    array = np.asarray(descriptors)
    if array.ndim != 2 or array.dtype.kind != "f":
        raise ShapeError("Descriptors are a float array (m, d).", described(descriptors))
    array = array.astype(np.float32)
    return array[np.isfinite(array).all(axis=1)]


def _unit(vector: np.ndarray) -> np.ndarray:
    length = np.sqrt(np.square(vector).sum())
    return vector / length if length > 0 else vector


# --- Words ----------------------------------------------------------------------------------------


def _fit_words(
    joined: np.ndarray, _images: Sequence[np.ndarray], words: int, seed: int, num_threads: int
) -> dict[str, np.ndarray]:
    return {"words": means(joined, words, np.random.default_rng(seed), num_threads)}


def _fit_bovw(
    joined: np.ndarray, images: Sequence[np.ndarray], words: int, seed: int, num_threads: int
) -> dict[str, np.ndarray]:
    arrays = _fit_words(joined, images, words, seed, num_threads)
    held = np.zeros(words)
    for one in images:
        held[np.unique(nearest_means(one, arrays["words"], num_threads))] += 1
    # A word that no image has tells nothing of those that do.
    return arrays | {"rarity": np.log(len(images) / np.maximum(held, 1))}


def _bovw(arrays: dict[str, np.ndarray], descriptors: np.ndarray) -> np.ndarray:
    found = nearest_means(descriptors, arrays["words"], 1)
    counts = np.bincount(found, minlength=len(arrays["words"]))
    rarity: np.ndarray = arrays["rarity"]
    return counts / len(descriptors) * rarity


def _vlad(arrays: dict[str, np.ndarray], descriptors: np.ndarray) -> np.ndarray:
    words = arrays["words"]
    sums = np.zeros(words.shape)
    found = nearest_means(descriptors, words, 1)
    np.add.at(sums, found, descriptors.astype(np.float64) - words[found])
    lengths = np.sqrt(np.square(sums).sum(axis=1, keepdims=True))
    return np.divide(sums, lengths, out=np.zeros_like(sums), where=lengths > 0).ravel()


# --- Gaussians ------------------------------------------------------------------------------------


def _fit_fisher(
    joined: np.ndarray, _images: Sequence[np.ndarray], words: int, seed: int, num_threads: int
) -> dict[str, np.ndarray]:
    mixture = extras.load("sklearn.mixture", "scikit-learn", _NEEDS)
    decomposition = extras.load("sklearn.decomposition", "scikit-learn", _NEEDS)
    if len(joined) > _MOST_FOR_GAUSSIANS:
        chosen = np.random.default_rng(seed).choice(len(joined), _MOST_FOR_GAUSSIANS, replace=False)
        joined = joined[np.sort(chosen)]
    number = min(COMPONENTS, joined.shape[1], len(joined))
    with threads.one_thread():
        axes = decomposition.PCA(number, svd_solver="covariance_eigh").fit(joined.astype(float))
        reduced = axes.transform(joined.astype(float))
        begin = means(reduced.astype(np.float32), words, np.random.default_rng(seed), num_threads)
        fitted = mixture.GaussianMixture(
            words,
            covariance_type="diag",
            means_init=begin,
            weights_init=np.full(words, 1 / words),
            precisions_init=np.tile(1 / np.maximum(reduced.var(axis=0), 1e-12), (words, 1)),
            reg_covar=max(_LEAST_VARIANCE * float(reduced.var(axis=0).mean()), 1e-12),
            init_params="random_from_data",  # which is not asked for: all is given
            max_iter=_ROUNDS,
            random_state=seed,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that so many rounds may not be all
            fitted.fit(reduced)
    return {
        "centre": axes.mean_,
        "axes": axes.components_,
        "words": fitted.means_,
        "variances": fitted.covariances_,
        "weights": fitted.weights_,
    }


def _fisher(arrays: dict[str, np.ndarray], descriptors: np.ndarray) -> np.ndarray:
    x = (descriptors.astype(np.float64) - arrays["centre"]) @ arrays["axes"].T
    words, variances, weights = arrays["words"], arrays["variances"], arrays["weights"]
    apart = (x[:, None, :] - words) / np.sqrt(variances)  # (m, words, components)
    chances = np.log(weights) - 0.5 * (np.square(apart) + np.log(variances)).sum(axis=2)
    chances = np.exp(chances - chances.max(axis=1, keepdims=True))
    chances /= chances.sum(axis=1, keepdims=True)
    number = len(descriptors)
    by_mean = np.einsum("mk,mkd->kd", chances, apart) / (number * np.sqrt(weights)[:, None])
    by_variance = np.einsum("mk,mkd->kd", chances, np.square(apart) - 1)
    by_variance /= number * np.sqrt(2 * weights)[:, None]
    vector = np.concatenate([by_mean.ravel(), by_variance.ravel()])
    return np.sign(vector) * np.sqrt(np.abs(vector))


KINDS = {
    "bovw": _Kind(1024, _fit_bovw, _bovw, lambda dim, words: words),
    "vlad": _Kind(16, _fit_words, _vlad, lambda dim, words: dim * words),
    "fisher": _Kind(16, _fit_fisher, _fisher, lambda dim, words: 2 * dim * words),
}
