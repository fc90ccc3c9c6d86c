"""Codes without labels: weights of the hash layer H from a collection's own features.

A collection without labels still says much: which photos lie close together, and around which mean.
`fit` turns that into weights of H, so that such photos can be searched at once; `itq`,
`pca_sign` and `lsh` are the well-known baselines, in the same form. A bit is one where
`feature @ kernel + bias >= 0`, which is where the sigmoid of H is at least one half.

`fit` learns codes that give photos the same neighbours as two affinities do:

- *near*: the angles between features, about their mean. The pool found by codes must hold what
  the features rank first.
- *shared*: the angles between features that were averaged with their ten nearest. Averaging
  keeps what neighbours have in common, a class more than a photo, and so brings together what
  belongs together but does not look alike.

By each affinity a photo picks the others with chances that fall with the angle (stochastic
neighbour embedding); H is trained by gradient descent until the chances that its codes give agree
with both. It starts at the ITQ rotation of what a linear map can tell of both affinities.

References:
    Charikar, "Similarity Estimation Techniques from Rounding Algorithms", STOC 2002: `lsh`.
    Gong and Lazebnik, "Iterative Quantization: A Procrustean Approach to Learning Binary Codes",
    CVPR 2011: `itq`, and `pca_sign`, its baseline.
    Hinton and Roweis, "Stochastic Neighbor Embedding", NIPS 2002: chances of neighbours, and the
    perplexity that sets their reach.
    van der Maaten, "Learning a Parametric Embedding by Preserving Local Structure", AISTATS 2009:
    the embedding as a network that takes new items.
    Lee, Peluffo-Ordonez and Verleysen, "Multi-scale similarities in stochastic neighbour
    embedding", Neurocomputing 2015: more than one reach at once.
    Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, ParamSpec, TypeVar

import numpy as np

from hashnet import codes, threads
from hashnet.errors import ArgumentError, ShapeError

MAX_ITEMS = 10_000  # of a larger collection, a seeded sample is enough
FEW_ITEMS = 512  # a smaller collection is filled up from the prior

_DIMENSIONS = 512  # principal components that H is trained on
_NEIGHBOURS = 10  # averaged with each item by the shared affinity
_BATCH = 512  # items that see each other in one step
_STEPS = 300
_LEARNING_RATE = 0.02  # for the bias; for the kernel, times its mean absolute weight
_ITQ_ROUNDS = 50
_RIDGE = 0.1  # times the mean variance of a component
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True, eq=False)
class HashWeights:
    """Weights of the hash layer H.

    Attributes:
        kernel: float32 array of shape `(feature_dim, num_bits)`.
        bias: float32 array of shape `(num_bits,)`.
    """

    kernel: np.ndarray
    bias: np.ndarray

    def bits(self, features: np.ndarray) -> np.ndarray:
        """Cut features into bits, as the network does.

        Args:
            features: float array of shape `(n, feature_dim)`.

        Returns:
            bits: bool array of shape `(n, num_bits)`.

        Example:
            >>> weights = HashWeights(np.eye(2, dtype="float32"), np.float32([0, -2]))
            >>> weights.bits(np.float32([[1, 1]]))
            array([[ True, False]])
        """
        return features @ self.kernel + self.bias >= 0


class _Affinity(NamedTuple):
    """One measure of how near the items of a collection are to each other."""

    directions: np.ndarray  # float32 (n, dim), rows of length 1
    sharpness: np.ndarray  # float32 (n, 1), how fast chances fall with the angle
    code_sharpness: float  # the same for codes, for all items
    weight: float  # in the loss; all weights sum to 1

    def wanted(self, rows: np.ndarray) -> np.ndarray:
        """The chances with which some items pick each other, float32 `(n, n)`."""
        directions = self.directions[rows]
        return _chances(directions @ directions.T * self.sharpness[rows])


P = ParamSpec("P")
T = TypeVar("T")


def _on_one_thread(method: Callable[P, T]) -> Callable[P, T]:
    """Sums in another order differ in their last bits; one thread gives every machine one answer.

    It is no slower either: the matrices are small, and threads that wait for each other spin.
    """

    @functools.wraps(method)
    def wrapped(*arguments: P.args, **options: P.kwargs) -> T:
        with threads.blas_threads(1):
            return method(*arguments, **options)

    return wrapped


@_on_one_thread
def fit(
    features: np.ndarray,
    num_bits: int,
    *,
    prior: np.ndarray | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> HashWeights:
    """Train H on the features of images without labels, so that codes keep their neighbours.

    Args:
        features: float array of shape `(n, feature_dim)`, n at least 1, as H will take them: of
            length 1, if the network normalises its features. Of more than `MAX_ITEMS` rows, a
            seeded sample is used.
        num_bits: int, 1 to 1024.
        prior: None, or float array of shape `(m, feature_dim)`. Features of other photos, in
            random order, which fill up a collection of fewer than `FEW_ITEMS` images, moved to
            its mean: a handful of photos does not tell how photos differ.
        seed: int. For the sample, the start and the batches.
        progress: called with the steps done and the steps to do.

    Returns:
        HashWeights.

    Raises:
        ShapeError: if features or prior are no float arrays of these shapes.
        ArgumentError: if there are no features, if one is NaN or infinite, or if `num_bits` is
            out of range.

    Example:
        >>> features = np.eye(4, dtype="float32").repeat(25, axis=0)
        >>> bits = fit(features, 16).bits(features)
        >>> bits.shape, len(np.unique(bits, axis=0))
        ((100, 16), 4)
    """
    rng = np.random.default_rng(seed)
    codes.code_bytes(num_bits)
    if progress:
        progress(0, _STEPS)
    features = _filled_up(_sampled(_checked("features", features), rng), prior)
    space = _principal_space(features, min(_DIMENSIONS, features.shape[1]))
    if not space.deviations.size:  # All alike, so nothing to learn: every hyperplane is as good.
        kernel = rng.standard_normal((features.shape[1], num_bits))
        return HashWeights(kernel.astype(np.float32), np.zeros(num_bits, np.float32))
    inputs = space.project(features)
    affinities = _affinities(inputs, rng)
    kernel = _start(inputs, affinities, num_bits, rng)
    # Scaled so that the largest component has deviation 1: the steps then suit any features.
    scale = space.deviations[0]
    kernel, bias = _train(inputs / scale, kernel, affinities, rng, progress)
    return space.fold(kernel / scale, bias)


@_on_one_thread
def itq(features: np.ndarray, num_bits: int, *, seed: int = 0) -> HashWeights:
    """Rotate the principal components to where cutting them at zero changes them least.

    With centred features X (n, d), their components V = X P (n, c) and bits B as -1 and 1,
    rounds alternate between B = sign(V R) and the rotation R that minimises |B - V R|, from the
    singular value decomposition of V^T B. Bits beyond the dimensions of the collection are cuts
    by random hyperplanes.

    Args:
        features: float array of shape `(n, feature_dim)`; see `fit`.
        num_bits: int, 1 to 1024.
        seed: int. For the first rotation, and the sample of a large collection.

    Returns:
        HashWeights.

    Raises:
        ShapeError, ArgumentError: as `fit`.

    Example:
        >>> features = np.random.default_rng(0).normal(size=(50, 8)).astype("float32")
        >>> itq(features, 4).kernel.shape
        (8, 4)

    Reference:
        Gong and Lazebnik, CVPR 2011, sections 2.1 and 2.2.
    """
    rng = np.random.default_rng(seed)
    codes.code_bytes(num_bits)
    features = _sampled(_checked("features", features), rng)
    space = _principal_space(features, min(num_bits, features.shape[1]))
    kernel = _itq_kernel(space.project(features), num_bits, rng)
    return space.fold(kernel, np.zeros(num_bits))


@_on_one_thread
def pca_sign(features: np.ndarray, num_bits: int, *, seed: int = 0) -> HashWeights:
    """Cut each of the first `num_bits` principal components at the mean.

    Bits beyond the dimensions of the collection are cuts by random hyperplanes through the mean.

    Args, returns, raises: as `itq`.

    Example:
        >>> features = np.random.default_rng(0).normal(size=(50, 8)).astype("float32")
        >>> pca_sign(features, 4).kernel.shape
        (8, 4)
    """
    rng = np.random.default_rng(seed)
    codes.code_bytes(num_bits)
    features = _sampled(_checked("features", features), rng)
    space = _principal_space(features, min(num_bits, features.shape[1]))
    dim = len(space.deviations)
    kernel = np.hstack([np.eye(dim), rng.standard_normal((dim, num_bits - dim))])
    return space.fold(kernel, np.zeros(num_bits))


def lsh(features: np.ndarray, num_bits: int, *, seed: int = 0) -> HashWeights:
    """Cut by random hyperplanes through the mean, which keep angles in the long run.

    Args, returns, raises: as `itq`.

    Example:
        >>> features = np.random.default_rng(0).normal(size=(50, 8)).astype("float32")
        >>> lsh(features, 4).kernel.shape
        (8, 4)

    Reference:
        Charikar, STOC 2002, section 3.
    """
    rng = np.random.default_rng(seed)
    codes.code_bytes(num_bits)
    features = _sampled(_checked("features", features), rng)
    kernel = rng.standard_normal((features.shape[1], num_bits))
    return HashWeights(
        kernel.astype(np.float32), (-features.mean(axis=0) @ kernel).astype(np.float32)
    )


# --- The space of a collection --------------------------------------------------------------------


class _Space(NamedTuple):
    """The principal components of a collection, about its mean."""

    mean: np.ndarray  # float64 (feature_dim,)
    axes: np.ndarray  # float64 (feature_dim, dim), orthonormal columns
    deviations: np.ndarray  # float64 (dim,), falling, none of them zero

    def project(self, features: np.ndarray) -> np.ndarray:
        axes = self.axes.astype(np.float32)
        return (features - self.mean.astype(np.float32)) @ axes

    def fold(self, kernel: np.ndarray, bias: np.ndarray) -> HashWeights:
        """Turn weights that act on components into weights that act on features."""
        kernel = self.axes @ kernel
        bias = bias - self.mean @ kernel
        return HashWeights(kernel.astype(np.float32), bias.astype(np.float32))


def _principal_space(features: np.ndarray, dim: int) -> _Space:
    mean = features.mean(axis=0, dtype=np.float64)
    centred = features - mean
    variances, axes = np.linalg.eigh(centred.T @ centred / len(features))
    variances, axes = variances[::-1][:dim], axes[:, ::-1][:, :dim]
    # What float32 features cannot carry is rounding; the share is of their mean square length.
    floor = np.finfo(np.float32).eps ** 2 * (mean @ mean + variances.sum())
    kept = variances > max(floor, 1e-7 * variances[0])
    return _Space(mean, axes[:, kept], np.sqrt(variances[kept]))


def _itq_kernel(inputs: np.ndarray, num_bits: int, rng: np.random.Generator) -> np.ndarray:
    """Rotate components, `(n, dim)`; where bits outnumber them, the rest is random."""
    dim = min(inputs.shape[1], num_bits)
    components = inputs[:, :dim]
    rotation = np.linalg.qr(rng.standard_normal((dim, dim)))[0].astype(np.float32)
    for _ in range(_ITQ_ROUNDS if dim else 0):
        signs = np.where(components @ rotation >= 0, np.float32(1), np.float32(-1))
        left, _, right = np.linalg.svd(components.T @ signs)
        rotation = left @ right
    kernel = np.zeros((inputs.shape[1], num_bits))
    kernel[:dim, :dim] = rotation
    extra = num_bits - dim
    kernel[:, dim:] = rng.standard_normal((inputs.shape[1], extra)) / math.sqrt(max(dim, 1))
    return kernel


# --- What neighbours see --------------------------------------------------------------------------


def _affinities(inputs: np.ndarray, rng: np.random.Generator) -> list[_Affinity]:
    near = _directions(inputs)
    nearest = _nearest(near, min(_NEIGHBOURS, len(near) - 1))
    shared = near + near[nearest].sum(axis=1)
    shared = _directions(shared - shared.mean(axis=0))
    # Reaches are shares of the collection: the pool is a share of it as well.
    return [
        _Affinity(near, _sharpness(near, 0.02, rng), code_sharpness=30.0, weight=0.6),
        _Affinity(shared, _sharpness(shared, 0.1, rng), code_sharpness=10.0, weight=0.4),
    ]


def _nearest(directions: np.ndarray, count: int) -> np.ndarray:
    """Find the rows of the nearest others of each item, `(n, count)`, in no order."""
    nearest = np.empty((len(directions), count), np.int64)
    if not count:
        return nearest
    for start in range(0, len(directions), _ROWS_AT_ONCE):
        cosines = directions[start : start + _ROWS_AT_ONCE] @ directions.T
        rows = np.arange(len(cosines))
        cosines[rows, start + rows] = -np.inf
        nearest[start + rows] = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
    return nearest


def _sharpness(directions: np.ndarray, reach: float, rng: np.random.Generator) -> np.ndarray:
    """Find, for each item, at which sharpness its perplexity is `reach` times the batch.

    Measured against a random batch of items, by bisection. Items that have many at the same
    angle have no such sharpness, and get a bound.
    """
    others = rng.permutation(len(directions))[:_BATCH]
    perplexity = math.log(max(reach * len(others), 2.0))
    sharpness = np.empty((len(directions), 1), np.float32)
    for start in range(0, len(directions), _ROWS_AT_ONCE):
        block = directions[start : start + _ROWS_AT_ONCE]
        cosines = block @ directions[others].T
        cosines[np.arange(start, start + len(block))[:, None] == others] = -4.0
        cosines -= cosines.max(axis=1, keepdims=True)
        low, high = np.zeros((len(block), 1), np.float32), np.full((len(block), 1), 200, "f4")
        for _ in range(12):
            middle = (low + high) / 2
            odds = np.exp(cosines * middle)
            total = odds.sum(axis=1, keepdims=True)
            entropy = np.log(total) - middle * (odds * cosines).sum(axis=1, keepdims=True) / total
            low = np.where(entropy > perplexity, middle, low)
            high = np.where(entropy > perplexity, high, middle)
        sharpness[start : start + len(block)] = middle
    return sharpness


def _chances(logits: np.ndarray) -> np.ndarray:
    """Softmax of each row, an item never seeing itself; changes `logits`."""
    np.fill_diagonal(logits, -np.inf)
    logits -= logits.max(axis=1, keepdims=True)
    odds = np.exp(logits, out=logits)
    odds /= odds.sum(axis=1, keepdims=True)
    return odds


# --- Training -------------------------------------------------------------------------------------


def _start(
    inputs: np.ndarray, affinities: list[_Affinity], num_bits: int, rng: np.random.Generator
) -> np.ndarray:
    """Rotate, as ITQ does, what a linear map of the components tells of the affinities' mean."""
    seen = sum(affinity.weight * affinity.directions for affinity in affinities)
    inputs = inputs.astype(np.float64)
    covariance = inputs.T @ inputs
    ridge = _RIDGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    smoothing = np.linalg.solve(covariance + ridge, inputs.T @ seen)
    smoothed = inputs @ smoothing
    axes = np.linalg.eigh(smoothed.T @ smoothed)[1][:, ::-1]
    axes = smoothing @ axes
    return axes @ _itq_kernel((inputs @ axes).astype(np.float32), num_bits, rng)


def _train(
    inputs: np.ndarray,
    kernel: np.ndarray,
    affinities: list[_Affinity],
    rng: np.random.Generator,
    progress: Callable[[int, int], None] | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Descend the divergence of the codes' chances from the affinities', with soft bits."""
    num_items, batch = len(inputs), min(_BATCH, len(inputs))
    inputs = inputs.astype(np.float32)
    kernel = (kernel / np.abs(inputs @ kernel).mean(axis=0)).astype(np.float32)
    bias = np.zeros(kernel.shape[1], np.float32)
    rates = (_LEARNING_RATE * np.abs(kernel).mean(), _LEARNING_RATE)
    descents = [_Adam(weights, rate) for weights, rate in zip((kernel, bias), rates, strict=True)]
    # A batch of all items is the same each time, whatever their order.
    rows, waiting = np.arange(num_items), np.empty(0, np.int64)
    wanted = [affinity.wanted(rows) for affinity in affinities] if batch == num_items else []
    for step in range(_STEPS):
        if batch < num_items:
            if len(waiting) < batch:
                waiting = rng.permutation(num_items)
            rows, waiting = waiting[:batch], waiting[batch:]
            wanted = [affinity.wanted(rows) for affinity in affinities]
        gradients = _gradients(inputs[rows], kernel, bias, affinities, wanted)
        fade = (1 + math.cos(math.pi * (step + 1) / _STEPS)) / 2
        for descent, gradient in zip(descents, gradients, strict=True):
            descent.descend(gradient, fade)
        if progress:
            progress(step + 1, _STEPS)
    return kernel, bias


def _gradients(
    inputs: np.ndarray,
    kernel: np.ndarray,
    bias: np.ndarray,
    affinities: list[_Affinity],
    wanted: list[np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Differentiate the loss of one batch by kernel and bias."""
    soft = np.tanh(inputs @ kernel + bias)  # (batch, num_bits), -1..1
    agreement = soft @ soft.T / soft.shape[1]  # (batch, batch), -1..1
    pull = np.zeros_like(agreement)
    for affinity, chances in zip(affinities, wanted, strict=True):
        given = _chances(agreement * np.float32(affinity.code_sharpness))
        pull += np.float32(affinity.weight * affinity.code_sharpness) * (given - chances)
    pull /= np.float32(len(inputs) * soft.shape[1])
    by_cut = (pull + pull.T) @ soft * (1 - soft * soft)  # (batch, num_bits)
    return inputs.T @ by_cut, by_cut.sum(axis=0)


class _Adam:
    """Adaptive steps, in place, for one array of weights."""

    def __init__(self, weights: np.ndarray, rate: float) -> None:
        self.weights, self.rate, self.steps = weights, rate, 0
        self.mean, self.square = np.zeros_like(weights), np.zeros_like(weights)

    def descend(self, gradient: np.ndarray, fade: float) -> None:
        self.steps += 1
        self.mean += np.float32(0.1) * (gradient - self.mean)
        self.square += np.float32(0.01) * (gradient * gradient - self.square)
        mean = self.mean / np.float32(1 - 0.9**self.steps)
        square = self.square / np.float32(1 - 0.99**self.steps)
        self.weights -= np.float32(self.rate * fade) * mean / (np.sqrt(square) + 1e-12)


# --- Inside ---------------------------------------------------------------------------------------


def _directions(vectors: np.ndarray) -> np.ndarray:
    """Scale rows to length 1; a row of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def _sampled(features: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if len(features) <= MAX_ITEMS:
        return features
    return features[np.sort(rng.permutation(len(features))[:MAX_ITEMS])]


def _filled_up(features: np.ndarray, prior: np.ndarray | None) -> np.ndarray:
    if prior is None:
        return features
    prior = _checked("prior", prior)
    if prior.shape[1] != features.shape[1]:
        raise ShapeError(
            "The prior has features of the same backbone.",
            f"prior.shape={prior.shape}, features.shape={features.shape}",
            "Pass prior=None for another backbone.",
        )
    missing = max(FEW_ITEMS - len(features), 0)
    # The prior tells how photos differ, the collection around which mean: the prior moves there,
    # half way for a single photo, whose own mean would be the photo itself.
    share = len(features) / (len(features) + 1)
    shift = share * (features.mean(axis=0) - prior.mean(axis=0))
    return np.concatenate([features, prior[:missing] + shift])


def _checked(name: str, features: np.ndarray) -> np.ndarray:
    features = np.asarray(features)
    if features.ndim != 2 or not np.issubdtype(features.dtype, np.floating):
        raise ShapeError(
            "Features are a float array of shape (n, feature_dim).",
            f"{name}.dtype={features.dtype}, {name}.shape={features.shape}",
            "Pass the feature output of the network, images along the first axis.",
        )
    if not features.size:
        raise ArgumentError(
            "There is at least one feature to learn from.",
            f"{name}.shape={features.shape}",
            "Is the folder empty?",
        )
    features = features.astype(np.float32, copy=False)
    if not np.isfinite(features).all():
        raise ArgumentError(
            "Features are finite.", f"NaN or infinity in {name}", "Look for NaN in the images."
        )
    return features
