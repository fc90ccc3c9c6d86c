"""The way that an index learns from its captions: where among the features a text lies.

A linear map takes the vector of a caption to the direction in which the feature of its photo lies
from the mean of the captioned photos. It is fitted by ridge regression, whose penalty is the one
that errs least where each photo is left out in turn. So photos without a caption are found by
what captions of others say.

What is kept follows from the rows of the index: it is fitted again where it is missing or damaged,
and is no part of a commit.

References:
    Hoerl and Kennard, "Ridge Regression: Biased Estimation for Nonorthogonal Problems",
    Technometrics 1970; Allen, "The Relationship between Variable Selection and Data Augmentation
    and a Method for Prediction", Technometrics 1974, for the sum of what is left out (PRESS).
"""

import contextlib
import hashlib
import io
import os
import pathlib
from typing import Any, NamedTuple, Protocol

import numpy as np

from hashnet import files, threads
from hashnet.errors import HashnetError, StoreError
from hashnet.retrieval.search.engine import Engine
from hashnet.retrieval.search.finders import finder_of
from hashnet.retrieval.store.folder.paths import inside
from hashnet.retrieval.store.folder.snapshot import Snapshot
from hashnet.retrieval.words import sentence
from hashnet.retrieval.words.nearest import cosines, nearest
from hashnet.retrieval.words.plain import plain
from hashnet.retrieval.words.way import Matches

FILE = "captions.map"
LEAST, MOST = 100, 1000  # captions that a map is fitted to
LOOKED_AT = 5000  # images that captions are looked for in
GROWN = 1.5  # times as many captions as a map was fitted to ask for another
LEAST_SHARE = 0.5  # of the cosine of the best image that others need to be found
PENALTIES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)  # to choose from, for each caption
_SHA256_BYTES = 32
_DAMAGED = f"{FILE} is damaged; hashnet refit learns it again"


class CaptionMap(NamedTuple):
    """A linear map from vectors of texts to directions of features.

    Attributes:
        mean: float32 `(text_dim,)`, of the captions.
        kernel: float32 `(text_dim, feature_dim)`.
        num_captions: int. As many it was fitted to.
    """

    mean: np.ndarray
    kernel: np.ndarray
    num_captions: int

    def direction(self, vector: np.ndarray) -> np.ndarray:
        """Where photos lie that a text would be a caption of.

        Args:
            vector: float32 `(text_dim,)`.

        Returns:
            float32 `(feature_dim,)`, of length 1, as seen from the mean of the captioned photos.
        """
        # Not a product of matrices, whose sums have an order that depends on threads.
        towards = ((vector - self.mean)[:, None] * self.kernel).sum(axis=0)
        return towards / max(float(np.linalg.norm(towards)), 1e-12)


def fit(vectors: np.ndarray, features: np.ndarray) -> CaptionMap:
    """Fit a map to captions and what they are captions of.

    Args:
        vectors: float32 `(n, text_dim)`, of captions.
        features: float32 `(n, feature_dim)`, of their photos.

    Returns:
        `CaptionMap`.

    Example:
        >>> texts, photos = np.eye(4, dtype="f4"), np.eye(4, 6, dtype="f4")
        >>> [int(fit(texts, photos).direction(text).argmax()) for text in texts]
        [0, 1, 2, 3]
    """
    apart = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    apart /= np.maximum(np.linalg.norm(apart, axis=1, keepdims=True), 1e-12)
    mean = vectors.mean(axis=0, dtype=np.float64)
    with threads.blas_threads(1):  # so that answers do not depend on threads
        left, sizes, right = np.linalg.svd(vectors - mean, full_matrices=False)
        towards = left.T @ apart
        penalties = [penalty * len(vectors) for penalty in PENALTIES]
        best = min(penalties, key=lambda one: _error_left_out(left, sizes, towards, apart, one))
        kernel = right.T @ ((sizes / (sizes**2 + best))[:, None] * towards)
    return CaptionMap(mean.astype(np.float32), kernel.astype(np.float32), len(vectors))


def _error_left_out(
    left: np.ndarray, sizes: np.ndarray, towards: np.ndarray, wanted: np.ndarray, penalty: float
) -> float:
    """The sum of squared errors for each row, by a map fitted to all others."""
    shares = sizes**2 / (sizes**2 + penalty)
    errors = wanted - wanted.mean(axis=0) - left @ (shares[:, None] * towards)
    leverage = (left**2 * shares).sum(axis=1) + 1 / len(left)
    return float(np.square(errors / np.maximum(1 - leverage, 1e-6)[:, None]).sum())


def settle(snapshot: Any, *, anew: bool = False) -> None:
    """Fit the map of an index that has enough captions and none, or has outgrown it.

    Under the writer's lock. Where the sentence network is not installed, or the disk or the server
    refuses, the index is as it was.

    Args:
        snapshot: `Snapshot`, of the last commit.
        anew: bool. Fit it in any case.
    """
    is_old_table = not isinstance(snapshot, Snapshot) and not snapshot.store.texts
    if is_old_table or sentence.missing() is not None:
        return
    with contextlib.suppress(HashnetError, OSError):
        rows, captions = _captions(snapshot)
        if len(rows) < LEAST and check(snapshot):  # which nothing would ever make good
            _kept_of(snapshot).forget_caption_map()
        known = None if anew else _read(snapshot)
        if len(rows) < LEAST or (known and len(rows) < GROWN * known.num_captions):
            return
        # Of many photos of one thing the captions are the same.
        distinct, places = np.unique(captions, return_inverse=True)
        vectors = sentence.opened().vectors(distinct.tolist())[places]
        features = snapshot.features(rows).astype(np.float32)
        _write(snapshot, fit(vectors, features))


def check(snapshot: Any) -> list[str]:
    """Whether what an index keeps of its captions is as it was written.

    Args:
        snapshot: `Snapshot`.

    Returns:
        list of str: what is wrong.
    """
    try:
        _stored(snapshot)
    except StoreError:
        return [_DAMAGED]
    return []


class LearnedWay:
    """The photos that lie where a text would be a caption of them.

    Args:
        engine: `Engine`.
    """

    name = "learned"

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: CaptionMap | None = None

    @property
    def _map(self) -> CaptionMap | None:
        # It is written behind the commit that this snapshot may be of.
        if self._known is None:
            self._known = _read(self._engine.snapshot)
        return self._known

    @property
    def missing(self) -> str | None:
        """str or None. Why this index is not searched this way; None where it is."""
        if (reason := sentence.missing()) is not None:
            return reason
        if self._map is not None:
            return None
        if check(self._engine.snapshot):
            return _DAMAGED
        return f"from {LEAST} captions on, index and refit learn what photos without one show"

    def find(self, text: str, most: int, allowed: Any) -> Matches:
        direction, engine = self.direction(text), self._engine
        if direction is None or not engine.snapshot.num_items:
            return Matches(np.empty(0, np.int64), np.empty(0, np.float32))
        code, feature = engine.along(direction)
        found = nearest(engine, code, feature, most, engine.ranking(code, feature), allowed)
        apart = engine.snapshot.features(found.rows).astype(np.float32)
        if engine.mean is not None:
            apart -= engine.mean
        alike = cosines(apart, direction)
        like = alike >= max(LEAST_SHARE * alike.max(initial=0), 1e-6)
        return Matches.ordered(found.image_rows[like], alike[like], most)

    def suggest(self, text: str, most: int) -> list[str]:
        return []

    def direction(self, text: str) -> np.ndarray | None:
        if self._map is None:
            return None
        return self._map.direction(sentence.opened().vectors([text])[0])


def _captions(snapshot: Any) -> tuple[np.ndarray, list[str]]:
    """Rows of at most `MOST` images that have captions, ascending, and these."""
    rows = _rows(snapshot)
    rows = np.sort(np.random.default_rng(0).permutation(rows)[:LOOKED_AT])
    texts = [item.texts for item in snapshot.items(rows)]
    captions = [plain(one.caption) if one is not None else "" for one in texts]
    having = np.flatnonzero([bool(one) for one in captions])
    having = np.sort(np.random.default_rng(0).permutation(having)[:MOST])
    return rows[having], [captions[place] for place in having.tolist()]


def _rows(snapshot: Any) -> np.ndarray:
    """Rows of all images, ascending; of a folder without what a search makes ready."""
    if not isinstance(snapshot, Snapshot):
        return finder_of(snapshot).rows()
    rows = np.arange(snapshot.num_rows)
    return rows if snapshot.live_images is None else rows[snapshot.live_images]


class _Kept(Protocol):
    """Where an index keeps what it has learned, as bytes with their checksum."""

    def caption_map(self) -> bytes | None:
        """What is there; None where that is nothing."""

    def write_caption_map(self, content: bytes) -> None:
        """Put another in its place."""

    def forget_caption_map(self) -> None:
        """Delete it."""


class _File:
    """A file of an index folder."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder

    def caption_map(self) -> bytes | None:
        if not os.path.lexists(self._folder / FILE):
            return None
        path, _ = inside(self._folder, FILE)
        return path.read_bytes()

    def write_caption_map(self, content: bytes) -> None:
        with files.whole_file(self._folder / FILE) as file:
            file.write(content)

    def forget_caption_map(self) -> None:
        os.unlink(self._folder / FILE)


def _kept_of(snapshot: Any) -> _Kept:
    if isinstance(snapshot, Snapshot):
        return _File(snapshot.folder)
    table: _Kept = snapshot.store
    return table


def _read(snapshot: Any) -> CaptionMap | None:
    """What an index keeps; None where that is nothing, damaged, or of other features."""
    with contextlib.suppress(StoreError):
        return _stored(snapshot)
    return None


def _stored(snapshot: Any) -> CaptionMap | None:
    """What an index keeps; None where that is nothing, or of other features.

    Raises:
        StoreError: it is damaged.
    """
    try:
        content = _kept_of(snapshot).caption_map()
        if content is None:
            return None
        checksum, content = content[:_SHA256_BYTES], content[_SHA256_BYTES:]
        if hashlib.sha256(content).digest() != checksum:
            raise ValueError("it differs from its checksum")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            if str(arrays["made"]) != snapshot.made:
                return None
            mean, kernel = arrays["mean"], arrays["kernel"]
            num_captions = int(arrays["num_captions"])
        dims = sentence.DIM, snapshot.features(np.empty(0, np.int64)).shape[1]
        if (mean.shape, kernel.shape) != (dims[:1], dims):
            raise ValueError("it is a map of other vectors")
        if (mean.dtype, kernel.dtype) != (np.float32, np.float16) or num_captions < 1:
            raise ValueError("it holds other numbers")
        if not (np.isfinite(mean).all() and np.isfinite(kernel).all()):
            raise ValueError("it holds numbers that are not finite")
    except Exception as error:  # NumPy and zipfile raise nearly anything
        raise StoreError("What an index has learned is read as written.", f"{error}") from error
    return CaptionMap(mean, kernel.astype(np.float32), num_captions)


def _write(snapshot: Any, fitted: CaptionMap) -> None:
    content = io.BytesIO()
    np.savez(
        content,
        made=np.array(snapshot.made),
        mean=fitted.mean,
        kernel=fitted.kernel.astype(np.float16),
        num_captions=np.array(fitted.num_captions),
    )
    whole = hashlib.sha256(content.getvalue()).digest() + content.getvalue()
    _kept_of(snapshot).write_caption_map(whole)
