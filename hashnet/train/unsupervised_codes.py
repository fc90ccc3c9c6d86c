"""Codes without labels: weights of the hash layer H from a collection's own features.

A collection without labels still says much: which photos lie close together, and around which mean.
`fit` turns that into weights of H, so that such photos can be searched at once; `itq`,
`pca_sign` and `lsh` are the well-known baselines, in the same form. A bit is one where
`feature @ kernel + bias >= 0`, which is where the sigmoid of H is at least one half.

`fit` learns codes that serve whoever seeks a class and whoever seeks one thing. A query is one of
the photos, its feature moved; it picks photos with chances that fall with the distance (stochastic
neighbour embedding), and H is trained by gradient descent until the chances that codes give agree
with three wishes:

- *fine*: the few that the angles between features, about their mean, put first. The pool found by
  codes must hold what the features rank first.
- *coarse*: the tenth of the collection that is of a kind, half by the same angles, and half by
  those between features that were averaged with their ten nearest. Averaging keeps what neighbours
  have in common, a class more than a photo, and so brings together what belongs together but does
  not look alike.
- *origin*: the photo that the query was made of, among all the others.

A query is moved in two ways, so no photo has to be read twice: by noise of equal strength in all
directions, as edits of a photo move its feature by a little in hundreds of them, and by a part of
the difference of two other photos, as photos to come will differ from those at hand. Without that a
small collection is learned by heart, and its codes serve new photos worse.

Training starts at the ITQ rotation of what a linear map can tell of the angles.

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
    Qiu et al., "Unsupervised Hashing with Contrastive Information Bottleneck", IJCAI 2021: a view
    picks its photo among the others by its code.
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
FEW_ITEMS = 64  # a smaller collection is filled up from the prior
PRIOR_FOR_EACH = 4  # items of the prior for each that is missing
MEAN_PRIOR = 16  # photos that the prior's mean counts as

_DIMENSIONS = 512  # principal components that H is trained on
_NEIGHBOURS = 10  # averaged with each item for what they share
_FINE_REACH, _COARSE_REACH = 0.005, 0.1  # perplexity, as a share of the collection
_FINE_SHARPNESS, _COARSE_SHARPNESS = 40.0, 10.0  # how fast the chances of codes fall
_FINE_WEIGHT, _COARSE_WEIGHT = 0.4, 0.6  # in the loss
_ORIGIN_SHARPNESS, _ORIGIN_WEIGHT = 20.0, 0.5
_MOVED = 0.4  # how much of the difference of two other photos moves a query
_PRIOR_ITEMS = 16  # how many of the collection's own items all of the prior weighs as much as
_BATCH = 512  # items that see each other in one step
_STEPS = 600
_STEPS_OF_FEW = 300  # where each step sees all items
_LEARNING_RATE = 0.2  # for the bias; for the kernel, times its mean absolute weight
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

    def latents(self, features: np.ndarray) -> np.ndarray:
        """What H gives for features.

        Args:
            features: float array of shape `(n, feature_dim)`, or `(feature_dim,)`.

        Returns:
            float array of shape `(n, num_bits)`, or `(num_bits,)`, 0 to 1.

        Example:
            >>> weights = HashWeights(np.eye(2, dtype="float32"), np.float32([0, -2]))
            >>> weights.latents(np.float32([0, 2]))
            array([0.5, 0.5], dtype=float32)
        """
        latents: np.ndarray = 1 / (1 + np.exp(-(features @ self.kernel + self.bias)))
        return latents


class _Affinities(NamedTuple):
    """How near the items of a collection are to each other, by two measures and at two reaches."""

    near: np.ndarray  # float32 (n, dim), rows of length 1
    shared: np.ndarray  # float32 (n, dim), rows of length 1, averaged with their nearest
    # float32 (n, 1) each: how fast chances fall with the angle.
    fine_sharpness: np.ndarray
    near_sharpness: np.ndarray
    shared_sharpness: np.ndarray

    def mean(self) -> np.ndarray:
        """Both measures as they weigh in the loss, float32 `(n, dim)`."""
        shared = np.float32(_COARSE_WEIGHT / 2)
        return (1 - shared) * self.near + shared * self.shared

    def wanted(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The chances, fine and coarse, with which some items pick each other, `(n, n)` each."""
        near, shared = self.near[rows], self.shared[rows]
        cosines = near @ near.T
        fine = _chances(cosines * self.fine_sharpness[rows])
        coarse = _chances(cosines * self.near_sharpness[rows])
        coarse += _chances(shared @ shared.T * self.shared_sharpness[rows])
        coarse /= 2
        return fine, coarse


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
            its mean, `PRIOR_FOR_EACH` for each image that is missing: a handful of photos does
            not tell how photos differ.
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
    features = _sampled(_checked("features", features), rng)
    num_own = len(features)
    features = _filled_up(features, prior)
    num_steps = _STEPS if len(features) > _BATCH else _STEPS_OF_FEW
    tell = progress or (lambda done, total: None)
    tell(0, num_steps)
    space = _principal_space(features, min(_DIMENSIONS, features.shape[1]))
    if not space.deviations.size:  # All alike, so nothing to learn: every hyperplane is as good.
        kernel = rng.standard_normal((features.shape[1], num_bits))
        return HashWeights(kernel.astype(np.float32), np.zeros(num_bits, np.float32))
    inputs = space.project(features)
    affinities = _affinities(inputs, rng)
    kernel = _start(inputs, affinities, num_bits, rng)
    # Scaled so that the largest component has deviation 1: the steps then suit any features.
    scale = space.deviations[0]
    inputs = (inputs / scale).astype(np.float32)
    kernel = (kernel / np.abs(inputs @ kernel).mean(axis=0)).astype(np.float32)
    loss = _Loss(
        inputs,
        affinities,
        _weights(num_own, len(features)),
        # As much noise in all directions of a feature together as its mean square length.
        float(np.sqrt((inputs**2).sum(axis=1).mean() / features.shape[1])),
    )
    kernel, bias = _train(loss, kernel, num_steps, rng, tell)
    return space.fold(kernel / scale, bias)


def mean_feature(features: np.ndarray, prior: np.ndarray | None = None) -> np.ndarray:
    """The mean of a collection's features, about which searching ranks them.

    Args:
        features: float array of shape `(n, feature_dim)`, n at least 1.
        prior: as for `fit`. Its mean counts as that of `MEAN_PRIOR` more photos: one photo would
            otherwise be its own mean, and lie in no direction from it.

    Returns:
        mean: float32 array of shape `(feature_dim,)`.

    Example:
        >>> mean_feature(np.float32([[1, 0], [0, 1]]))
        array([0.5, 0.5], dtype=float32)
    """
    mean = features.mean(axis=0, dtype=np.float64)
    if prior is not None:
        share = MEAN_PRIOR / (len(features) + MEAN_PRIOR)
        mean += share * (prior.mean(axis=0, dtype=np.float64) - mean)
    return mean.astype(np.float32)


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


def _affinities(inputs: np.ndarray, rng: np.random.Generator) -> _Affinities:
    near = _directions(inputs)
    nearest = _nearest(near, min(_NEIGHBOURS, len(near) - 1))
    shared = near + near[nearest].sum(axis=1)
    shared = _directions(shared - shared.mean(axis=0))
    return _Affinities(
        near,
        shared,
        fine_sharpness=_sharpness(near, _FINE_REACH, rng),
        near_sharpness=_sharpness(near, _COARSE_REACH, rng),
        shared_sharpness=_sharpness(shared, _COARSE_REACH, rng),
    )


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
    return _softmax(logits)


def _softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax of each row; changes `logits`."""
    logits -= logits.max(axis=1, keepdims=True)
    odds = np.exp(logits, out=logits)
    odds /= odds.sum(axis=1, keepdims=True)
    return odds


# --- Training -------------------------------------------------------------------------------------


def _start(
    inputs: np.ndarray, affinities: _Affinities, num_bits: int, rng: np.random.Generator
) -> np.ndarray:
    """Rotate, as ITQ does, what a linear map of the components tells of the affinities' mean."""
    inputs = inputs.astype(np.float64)
    covariance = inputs.T @ inputs
    ridge = _RIDGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    smoothing = np.linalg.solve(covariance + ridge, inputs.T @ affinities.mean())
    smoothed = inputs @ smoothing
    axes = np.linalg.eigh(smoothed.T @ smoothed)[1][:, ::-1]
    axes = smoothing @ axes
    return axes @ _itq_kernel((inputs @ axes).astype(np.float32), num_bits, rng)


def _weights(num_own: int, num_items: int) -> np.ndarray:
    """How much each item counts in the loss, float32 `(n, 1)`, 1 on average.

    The prior counts for little as soon as the collection speaks for itself, but its photos remain
    those from which the collection's have to be told.
    """
    weights = np.ones((num_items, 1), np.float32)
    if num_own < num_items:
        own = num_own / (num_own + _PRIOR_ITEMS)
        weights[:num_own] = own * num_items / num_own
        weights[num_own:] = (1 - own) * num_items / (num_items - num_own)
    return weights


class _Loss(NamedTuple):
    """The divergence of the chances that soft bits give from those that are wanted."""

    inputs: np.ndarray  # float32 (n, dim)
    affinities: _Affinities
    weights: np.ndarray  # float32 (n, 1)
    noise: float  # of queries, its deviation in each direction

    def _moved(self, inputs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Queries that are made of some items."""
        asked = inputs + np.float32(self.noise) * rng.standard_normal(inputs.shape, np.float32)
        ones, others = (rng.permutation(inputs) for _ in range(2))
        asked += np.float32(_MOVED) * (ones - others)
        return asked

    def gradients(
        self,
        rows: np.ndarray,
        wanted: tuple[np.ndarray, np.ndarray],
        kernel: np.ndarray,
        bias: np.ndarray,
        rng: np.random.Generator,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Differentiate the loss of one batch by kernel and bias."""
        inputs = self.inputs[rows]
        asked = self._moved(inputs, rng)
        soft, soft_asked = np.tanh(inputs @ kernel + bias), np.tanh(asked @ kernel + bias)
        agreement = soft_asked @ soft.T / np.float32(soft.shape[1])  # (batch, batch), -1..1
        pull = _softmax(agreement * np.float32(_ORIGIN_SHARPNESS))
        pull[np.diag_indices_from(pull)] -= 1
        pull *= np.float32(_ORIGIN_WEIGHT * _ORIGIN_SHARPNESS)
        for chances, sharpness, weight in zip(
            wanted,
            (_FINE_SHARPNESS, _COARSE_SHARPNESS),
            (_FINE_WEIGHT, _COARSE_WEIGHT),
            strict=True,
        ):
            given = _chances(agreement * np.float32(sharpness))
            pull += np.float32(weight * sharpness) * (given - chances)
        pull *= self.weights[rows] / np.float32(soft.size)
        by_cut = pull.T @ soft_asked * (1 - soft * soft)  # (batch, num_bits)
        by_asked = pull @ soft * (1 - soft_asked * soft_asked)
        by_kernel = inputs.T @ by_cut + asked.T @ by_asked
        return by_kernel, by_cut.sum(axis=0) + by_asked.sum(axis=0)


def _train(
    loss: _Loss,
    kernel: np.ndarray,
    num_steps: int,
    rng: np.random.Generator,
    tell: Callable[[int, int], None],
) -> tuple[np.ndarray, np.ndarray]:
    """Descend the loss, in steps that fade."""
    num_items, batch = len(loss.inputs), min(_BATCH, len(loss.inputs))
    bias = np.zeros(kernel.shape[1], np.float32)
    rates = (_LEARNING_RATE * np.abs(kernel).mean(), _LEARNING_RATE)
    descents = [_Adam(weights, rate) for weights, rate in zip((kernel, bias), rates, strict=True)]
    # A batch of all items is the same each time, whatever their order.
    rows, waiting = np.arange(num_items), np.empty(0, np.int64)
    wanted = loss.affinities.wanted(rows) if batch == num_items else None
    for step in range(num_steps):
        if batch < num_items:
            if len(waiting) < batch:
                waiting = rng.permutation(num_items)
            rows, waiting = waiting[:batch], waiting[batch:]
        gradients = loss.gradients(rows, wanted or loss.affinities.wanted(rows), kernel, bias, rng)
        fade = (1 + math.cos(math.pi * (step + 1) / num_steps)) / 2
        for descent, gradient in zip(descents, gradients, strict=True):
            descent.descend(gradient, fade)
        tell(step + 1, num_steps)
    return kernel, bias


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
    missing = PRIOR_FOR_EACH * max(FEW_ITEMS - len(features), 0)
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
