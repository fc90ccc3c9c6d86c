"""Geometric verification: which images show the same thing, by their local features.

Matches of descriptors are cheap and often wrong; those that one affine map or homography explains
together are seldom wrong. Their number, the inliers, is the score. (Noh et al., "Large-scale
image retrieval with attentive deep local features", 2017, section 5; the robust estimate is
MAGSAC++, Barath et al. 2020, by OpenCV.)
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Protocol

import numpy as np

from hashnet import deadline, threads
from hashnet.errors import ArgumentError, ShapeError
from hashnet.local.features import opencv
from hashnet.retrieval.search import compiled
from hashnet.retrieval.search.coarse.scan import read_only

# Descriptors in whole steps, int16 `(n, d)` of even d, and the rows that they are of.
Whole = tuple[np.ndarray, np.ndarray]

MODELS = ("affine", "homography")
SEED = 0
# Matches that fix a model exactly. They agree with it by construction, and prove nothing.
SAMPLE = {"affine": 3, "homography": 4}
# Places in agreement beyond those, without which a model is luck.
BEYOND_SAMPLE = 3
# How far a model may shrink, enlarge or squash: beyond it lie maps onto a point or a line.
MAX_SCALE = 16.0
MAX_STRETCH = 6.0
# Inliers on a line, or nearly, fix no model: least spread across, as a part of that along.
LEAST_SPREAD = 0.03
ITERATIONS = 2000
CONFIDENCE = 0.999
# Descriptors are compared as whole numbers, in steps of 1 / SCALE. A unit vector then has a sum of
# squares under 2 ** 24, even when rounded, so all sums of products on the way to another's are
# whole numbers that float32 and int32 hold exactly. In whatever order they are added, by whatever
# library and on however many threads, they are the same.
SCALE = 4000
LARGEST = 1 << 24
# Products, and the passes over them, take NumPy about as long as it takes to move so many bytes.
NUMPY_COST = 8


class Features(Protocol):
    """The local features of one image, such as `LocalFeatures`."""

    @property
    def yx(self) -> np.ndarray:
        """float32 `(m, 2)`, (row, column) in pixels of the image."""

    @property
    def descriptors(self) -> np.ndarray:
        """float32 or float16 `(m, d)`, each of length 1."""


@dataclass(frozen=True)
class Matching:
    """How descriptors of one extractor are matched.

    Attributes:
        ratio: float or None. A match is nearer than this part of the second nearest (Lowe's
            ratio test).
        max_distance: float or None. A match is at most so far, Euclidean, between unit vectors.
        error: float. Largest error of an inlier, as a part of the longer side of the area that
            the features of the other image take up; 3 pixels at least.
        min_inliers: int. From here on, two images show the same thing.
    """

    ratio: float | None
    max_distance: float | None
    error: float
    min_inliers: int


class Matcher(Protocol):
    """What matches the local features of two images, such as `lightglue.LightGlue`."""

    def match(
        self, query_yx: np.ndarray, query: np.ndarray, yx: np.ndarray, descriptors: np.ndarray
    ) -> np.ndarray:
        """Match the features of two images.

        Args:
            query_yx, yx: float32 `(m, 2)` and `(n, 2)`, (row, column) in pixels.
            query, descriptors: float32 or float16 `(m, d)` and `(n, d)`.

        Returns:
            int64 `(matches, 2)`: a place in `query` and one in `descriptors`.
        """


# DELF has features of neighbouring places and scales that are nearly the same, so the second
# nearest says nothing there, and its places are 5 pixels apart at best, so its errors are large.
# SIFT's are few and sharp. Chosen on a quarter of the queries of tests/bench/local.py: the best mAP
# of the two sets together, and so many inliers that one in a thousand pairs of different prints and
# scenes passes. There, what else geometry tells of a pair (matches, errors, the area of inliers)
# told true pairs from false ones no better than their number, at equal shares of false ones. DISK's
# were chosen on landmarks alone, by the share of relevant pairs that pass.
MATCHING = {
    "sift": Matching(ratio=0.85, max_distance=None, error=0.015, min_inliers=8),
    "delf": Matching(ratio=None, max_distance=0.8, error=0.04, min_inliers=18),
    "aliked": Matching(ratio=0.9, max_distance=None, error=0.015, min_inliers=10),
    "disk": Matching(ratio=None, max_distance=None, error=0.02, min_inliers=11),
    "xfeat": Matching(ratio=0.9, max_distance=None, error=0.03, min_inliers=12),
}
# Of matches by `lightglue.LightGlue`, which says itself which descriptors match; chosen likewise on
# features of ALIKED, and taken for the others as they are.
BY_LIGHTGLUE = {
    "aliked": Matching(ratio=None, max_distance=None, error=0.01, min_inliers=25),
    "disk": Matching(ratio=None, max_distance=None, error=0.01, min_inliers=25),
    "xfeat": Matching(ratio=None, max_distance=None, error=0.01, min_inliers=25),
}


@dataclass(frozen=True, eq=False)
class Verification:
    """What geometry says of two images.

    Attributes:
        inliers: int. Distinct places that match and that `model` explains; 0 where there is none.
        query_yx, yx: float32 `(inliers, 2)`. The matched places, (row, column), in the query and
            in the other image; no place occurs twice.
        model: float64 `(3, 3)` or None. Takes (row, column, 1) of the query to the other image,
            up to scale.
        matches: int. What `model` was sought among: features that are each other's nearest, or
            the places given. Where too few inliers decide nothing, these still order images.
        same: bool. Whether the inliers are as many as `Matching.min_inliers` asks for, so that
            both images show the same thing; False where nothing was asked for.
        strength: float. The inliers as a multiple of those; 0 where nothing was asked for. Inliers
            of different extractors are not on one scale, these are.
        extractor: str or None. Whose features were compared, where that is known.
    """

    inliers: int
    query_yx: np.ndarray
    yx: np.ndarray
    model: np.ndarray | None
    matches: int
    same: bool = False
    strength: float = 0.0
    extractor: str | None = None

    def moved(self, corner: tuple[int, int]) -> "Verification":
        """The same of an image of which the query was a part.

        Args:
            corner: (row, column) in pixels of that image, where the part begins.

        Returns:
            A `Verification`, whose places and model are in pixels of that image.

        Example:
            >>> places = np.random.default_rng(0).uniform(0, 300, (40, 2)).astype(np.float32)
            >>> part = estimate(places, places + 5, error=3)
            >>> whole = part.moved((70, 20))
            >>> bool(np.allclose(whole.query_yx, part.query_yx + (70, 20)))
            True
        """
        if corner == (0, 0):
            return self
        back = np.array([[1.0, 0.0, -corner[0]], [0.0, 1.0, -corner[1]], [0.0, 0.0, 1.0]])
        return replace(
            self,
            query_yx=self.query_yx + np.array(corner, np.float32),
            model=None if self.model is None else self.model @ back,
        )


def strongest(found: Sequence[Verification]) -> Verification:
    """What the features of one extractor say of two images, of all that were compared.

    Args:
        found: one or more `Verification` of the same two images.

    Returns:
        The `Verification` of most strength, then most matches, then the first.

    Example:
        >>> one = replace(_NOTHING, inliers=20, strength=1.1, extractor="delf")
        >>> strongest([one, replace(one, inliers=19, strength=2.4, extractor="sift")]).extractor
        'sift'
    """
    return max(found, key=lambda one: (one.strength, one.matches))


_NOTHING = Verification(0, np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32), None, 0)


def match(
    query: np.ndarray,
    descriptors: np.ndarray,
    *,
    ratio: float | None = None,
    max_distance: float | None = None,
) -> np.ndarray:
    """Match descriptors that are each other's nearest.

    Args:
        query: float32 `(m, d)`, of length 1; rows that are not finite, or longer, match nothing.
        descriptors: float32 `(n, d)`, likewise. Both are rounded to steps of 1 / 4000.
        ratio: float or None. The nearest must be nearer than `ratio` times the second nearest;
            where there is no second, it is.
        max_distance: float or None. The nearest must be at most so far.

    Returns:
        int64 `(matches, 2)`: a place in `query` and one in `descriptors`, ascending by the first.

    Raises:
        ShapeError: the arrays are not of such shapes.

    Example:
        >>> east_north = np.eye(2, dtype=np.float32)
        >>> match(east_north, east_north[::-1]).tolist()
        [[0, 1], [1, 0]]
    """
    query, descriptors = np.asarray(query, np.float32), np.asarray(descriptors, np.float32)
    return _matches(_whole(query), _checked(query, descriptors), ratio, max_distance)


def _checked(query: np.ndarray, descriptors: np.ndarray) -> np.ndarray:
    if query.ndim != 2 or descriptors.ndim != 2 or query.shape[1] != descriptors.shape[1]:
        raise ShapeError(
            "Descriptors that are matched have the shapes (m, d) and (n, d).",
            f"{query.shape} and {descriptors.shape}",
            "Were both extracted by the same extractor?",
        )
    return descriptors


def _whole(descriptors: np.ndarray, kernels: ModuleType | None = None) -> Whole:
    """(numbers, rows): descriptors in steps of 1 / SCALE, int16, without rows of no length."""
    half = descriptors.dtype == np.float16
    if kernels is not None:
        descriptors = descriptors.view(np.uint16) if half else descriptors.astype(np.float32)
        return kernels.fixed_point(read_only(descriptors), np.float32(SCALE), LARGEST)
    with np.errstate(invalid="ignore", over="ignore"):
        rounded = np.rint(descriptors.astype(np.float32) * np.float32(SCALE))
        rows = np.flatnonzero(np.square(rounded, dtype=np.float64).sum(axis=1) <= LARGEST)
    numbers = rounded[rows].astype(np.int16)
    return np.pad(numbers, ((0, 0), (0, numbers.shape[1] % 2))), rows


def _matches(
    whole: Whole, descriptors: np.ndarray, ratio: float | None, max_distance: float | None
) -> np.ndarray:
    """As `match`, of a query of whole numbers."""
    query, query_rows = whole
    kernels = compiled.kernels(len(query) * len(descriptors) * NUMPY_COST)
    others, other_rows = _whole(descriptors, kernels)
    if not len(query) or not len(others):
        return np.zeros((0, 2), np.int64)
    if kernels is None:
        nearest, best, second, back = _nearest_in_numpy(query, others)
    else:
        nearest, best, second, back = kernels.nearest_two(query.view("i4"), others.view("i4"))
    keep = back[nearest] == np.arange(len(query))
    # Between unit vectors: distance ** 2 == 2 - 2 * product. Rounding may lengthen them a little.
    distance, next_distance = (1 - np.minimum(one / SCALE**2, 1) for one in (best, second))
    if max_distance is not None:
        keep &= distance <= max_distance**2 / 2
    if ratio is not None and len(others) > 1:
        keep &= distance < ratio**2 * next_distance
    return np.stack([query_rows[keep], other_rows[nearest[keep]]], axis=1)


def _nearest_in_numpy(
    query: np.ndarray, others: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """As `kernels.nearest_two`, and with the same answer."""
    products = query.astype(np.float32) @ others.astype(np.float32).T
    rows, nearest, back = np.arange(len(query)), products.argmax(axis=1), products.argmax(axis=0)
    best = products[rows, nearest]
    products[rows, nearest] = -np.inf
    return nearest, best, products.max(axis=1), back


def estimate(
    query_yx: np.ndarray,
    yx: np.ndarray,
    *,
    error: float,
    model: str = "homography",
    seed: int = SEED,
) -> Verification:
    """Find the model that explains most matches.

    Whatever the matches are, this answers; a degenerate set, or a model that no camera would
    give, has 0 inliers.

    Args:
        query_yx: float32 `(m, 2)`, (row, column).
        yx: float32 `(m, 2)`, the places that they match.
        error: float, pixels. An inlier lies at most so far from where the model puts it.
        model: "affine" or "homography".
        seed: int. Of the sampling; the same seed gives the same answer on any number of threads.

    Returns:
        A `Verification`.

    Raises:
        ArgumentError: there is no such model.
        ShapeError: the arrays are not of such shapes.

    Example:
        >>> places = np.random.default_rng(0).uniform(0, 300, (40, 2)).astype(np.float32)
        >>> estimate(places, places + 5, error=3).inliers
        40
        >>> estimate(places[:4], places[:4] + 5, error=3).inliers
        0
    """
    if model not in MODELS:
        raise ArgumentError(f"A model is one of {', '.join(MODELS)}.", f"model={model!r}")
    query_yx, yx = np.asarray(query_yx, np.float32), np.asarray(yx, np.float32)
    if query_yx.ndim != 2 or query_yx.shape[1] != 2 or query_yx.shape != yx.shape:
        raise ShapeError("Matched places have the shape (m, 2).", f"{query_yx.shape}, {yx.shape}")
    nothing = replace(_NOTHING, matches=len(yx))
    finite = np.isfinite(query_yx).all(axis=1) & np.isfinite(yx).all(axis=1)
    query_yx, yx = query_yx[finite], yx[finite]
    least = SAMPLE[model] + BEYOND_SAMPLE
    distinct = _distinct(query_yx, yx)
    query_yx, yx = query_yx[distinct], yx[distinct]
    if len(yx) < least or not (_spread(query_yx) and _spread(yx)):
        return nothing
    matrix = _robust(query_yx, yx, error, model, seed)
    if matrix is None:
        return nothing
    inliers = _explained(matrix, query_yx, yx, error)
    query_yx, yx = query_yx[inliers], yx[inliers]
    if len(yx) < least or not (_spread(query_yx) and _spread(yx)):
        return nothing
    return Verification(len(yx), query_yx, yx, matrix, nothing.matches)


def verify(
    query: Features,
    candidate: Features,
    matching: Matching,
    *,
    model: str = "homography",
    seed: int = SEED,
) -> Verification:
    """Compare the local features of two images.

    Fewer matches than `matching.min_inliers` are not looked at: they have 0 inliers.

    Args:
        query, candidate: objects with `yx`, `(m, 2)`, and `descriptors`, `(m, d)`, such as
            `LocalFeatures`.
        matching: `Matching`, as `MATCHING` has it for each extractor.
        model: "affine" or "homography".
        seed: int. Of the sampling.

    Returns:
        A `Verification`.

    Example:
        >>> from hashnet.local.features import LocalFeatures
        >>> rng = np.random.default_rng(0)
        >>> descriptors = np.linalg.qr(rng.normal(size=(64, 64)))[0].astype(np.float32)
        >>> yx = rng.uniform(0, 300, (64, 2)).astype(np.float32)
        >>> features = LocalFeatures(yx, descriptors, np.ones(64, np.float32))
        >>> verify(features, features, MATCHING["sift"]).inliers
        64
    """
    return verify_all(query, [candidate], matching, model=model, seed=seed)[0]


def verify_all(
    query: Features,
    candidates: Iterable[Features | Callable[[], Features]],
    matching: Matching,
    *,
    model: str = "homography",
    seed: int = SEED,
    num_threads: int = 1,
    matcher: Matcher | None = None,
) -> list[Verification]:
    """Compare the local features of a query with those of several images, in their order.

    The answer does not depend on `num_threads`. For the other arguments see `verify`.

    Args:
        candidates: iterable of local features, or of functions that return some, called when their
            turn comes, by the thread that compares them.
        num_threads: int. How many are compared at one time.
        matcher: `Matcher` or None. What matches features; None matches those that are each other's
            nearest, as `matching` asks.

    Example:
        >>> from hashnet.local.features import LocalFeatures
        >>> none = LocalFeatures(*(np.empty(shape, "f4") for shape in ((0, 2), (0, 128), 0)))
        >>> [one.inliers for one in verify_all(none, [none, none], MATCHING["sift"])]
        [0, 0]
    """
    query_numbers = _whole(query.descriptors)

    def one(given: Features | Callable[[], Features]) -> Verification:
        deadline.check()
        candidate = given() if callable(given) else given
        others = _checked(query.descriptors, candidate.descriptors)
        if matcher is None:
            matches = _matches(query_numbers, others, matching.ratio, matching.max_distance)
        else:
            matches = matcher.match(query.yx, query.descriptors, candidate.yx, others)
        if len(matches) < max(matching.min_inliers, SAMPLE[model] + BEYOND_SAMPLE):
            return replace(_NOTHING, matches=len(matches))
        found = estimate(
            query.yx[matches[:, 0]],
            candidate.yx[matches[:, 1]],
            error=max(3.0, matching.error * _extent(candidate.yx)),
            model=model,
            seed=seed,
        )
        strength = found.inliers / matching.min_inliers
        return replace(found, same=strength >= 1, strength=strength)

    with threads.blas_threads(1):
        return threads.mapped(one, candidates, num_threads)


def _extent(yx: np.ndarray) -> float:
    """float, pixels: the longer side of the area that places take up."""
    by_axis = np.ascontiguousarray(yx.T)
    extent = np.ptp(by_axis, axis=1).max() if len(yx) else 0.0
    if not np.isfinite(extent):
        finite = yx[np.isfinite(yx).all(axis=1)]
        extent = np.ptp(finite, axis=0).max() if len(finite) else 0.0
    return float(extent)


def _distinct(query_yx: np.ndarray, yx: np.ndarray) -> np.ndarray:
    """Matches whose place occurred in neither image before, to the pixel."""
    seen: set[complex] = set()
    other_seen: set[complex] = set()
    keep = []
    # As complex numbers, which compare as wholes.
    places, others = (np.rint(one).view(np.complex64).ravel().tolist() for one in (query_yx, yx))
    for number, (place, other) in enumerate(zip(places, others, strict=True)):
        if place not in seen and other not in other_seen:
            keep.append(number)
            seen.add(place)
            other_seen.add(other)
    return np.array(keep, np.int64)


def _spread(yx: np.ndarray) -> bool:
    """Whether places fill an area, and not a point or a line."""
    offsets = yx.astype(np.float64)
    offsets -= offsets.mean(axis=0)
    (yy, both), (_, xx) = (offsets.T @ offsets / len(offsets)).tolist()
    # Variances along and across, the eigenvalues of that matrix, written out: it is asked often.
    along = (yy + xx) / 2 + math.hypot((yy - xx) / 2, both)
    across = (yy + xx) - along
    return bool(across > max(1.0, LEAST_SPREAD**2 * along))


def _robust(
    query_yx: np.ndarray, yx: np.ndarray, error: float, model: str, seed: int
) -> np.ndarray | None:
    cv2 = opencv()
    parameters = cv2.UsacParams()
    parameters.score = cv2.SCORE_METHOD_MAGSAC
    parameters.sampler = cv2.SAMPLING_UNIFORM
    parameters.loMethod = cv2.LOCAL_OPTIM_SIGMA
    parameters.threshold = float(error)
    parameters.confidence = CONFIDENCE
    parameters.maxIterations = ITERATIONS
    parameters.randomGeneratorState = int(seed)
    parameters.isParallel = False
    try:
        if model == "affine":
            rows, _ = cv2.estimateAffine2D(query_yx, yx, parameters)
            matrix = None if rows is None else np.vstack([rows, [0.0, 0.0, 1.0]])
        else:
            matrix, _ = cv2.findHomography(query_yx, yx, parameters)
    except cv2.error:  # of sets that it finds degenerate itself
        return None
    if matrix is None or matrix.shape != (3, 3) or not np.isfinite(matrix).all():
        return None
    return matrix


def _explained(
    matrix: np.ndarray, query_yx: np.ndarray, yx: np.ndarray, error: float
) -> np.ndarray:
    """bool `(m,)`: matches where the model fits and is what a change of view can be."""
    places = np.column_stack([query_yx.astype(np.float64), np.ones(len(query_yx))])
    mapped = places @ matrix.T
    # A model is the same under another sign; with this one most matches are before the camera.
    if np.count_nonzero(mapped[:, 2] > 0) * 2 < len(mapped):
        matrix, mapped = -matrix, -mapped
    depth = mapped[:, 2]
    ahead = depth > 1e-9 * np.abs(depth).max()
    depth = np.where(ahead, depth, 1.0)
    mapped = mapped[:, :2] / depth[:, None]
    near = ahead & (np.square(mapped - yx).sum(axis=1) <= error**2)
    rows = np.flatnonzero(near)
    if len(rows) < SAMPLE["affine"] + BEYOND_SAMPLE:
        return np.zeros(len(near), bool)  # too few, whatever they look like
    # The derivative of the model at each match: how it enlarges, turns and squashes there.
    derivatives = matrix[:2, :2] - mapped[rows, :, None] * matrix[2, :2]
    near[rows] = _plausible(derivatives / depth[rows, None, None])
    return near


def _plausible(derivatives: np.ndarray) -> np.ndarray:
    """bool `(m,)`: which matrices `(m, 2, 2)` a change of view can have as its derivative."""
    (a, b), (c, d) = derivatives.transpose(1, 2, 0)
    # The singular values, written out: as a sum and a difference of two lengths.
    turned, mirrored = np.hypot(a + d, c - b), np.hypot(a - d, c + b)
    large, small = (turned + mirrored) / 2, np.abs(turned - mirrored) / 2
    return np.asarray(
        (turned > mirrored)  # the determinant is above 0: nothing is mirrored
        & (large <= MAX_SCALE)
        & (small >= 1 / MAX_SCALE)
        & (large <= MAX_STRETCH * small)
    )
