"""Retrieval by local features alone: what global features do not find, a part may.

The system of Noh et al., "Large-scale image retrieval with attentive deep local features", 2017,
section 5: every local feature of the query asks for its nearest ones among those of all images,
matches are gathered by image, and the images with most of them are verified by geometry. The
score of an image is its inliers. There is one difference: fewer inliers than tell things apart are
luck and say less than the number of matches, so they do not count.
"""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from hashnet import extras, threads
from hashnet.errors import ArgumentError, ShapeError, StoreError
from hashnet.retrieval.search import verify
from hashnet.retrieval.store.protocol import Snapshot

# Places int64 and distances float32, each `(m, k)`.
Nearest = tuple[np.ndarray, np.ndarray]

NEIGHBOURS = 60
VERIFY_TOP = 100
METHODS = ("exact", "tree", "faiss")
# Similarities that are in memory at one time.
SIMILARITIES_AT_ONCE = 1 << 23
# The paper's index: an inverted file of 8192 lists, and 50 bits a feature in 10 parts of 5 bits.
FAISS_LISTS, FAISS_PROBES, FAISS_PARTS, FAISS_BITS = 8192, 64, 10, 5
FAISS_TRAINING_PER_LIST = 64


@dataclass(frozen=True)
class LocalHit:
    """One image that was found.

    Attributes:
        row: int. Its row in the snapshot.
        matches: int. Features of the query that found one of its features among their nearest.
        verification: `Verification`, or None where it was not among the best.
    """

    row: int
    matches: int
    verification: verify.Verification | None

    @property
    def inliers(self) -> int | None:
        """int or None, the score."""
        return None if self.verification is None else self.verification.inliers


class LocalIndex:
    """All local features of a snapshot, for nearest-neighbour search.

    Args:
        snapshot: a `Snapshot` of an index with local features.
        extractor: str. Their extractor; says how they are matched.
        method: "exact" compares with all features, in blocks; "tree" is SciPy's KD-tree, the
            reference for small sets (`pip install scipy`); "faiss" is approximate and small: an
            inverted file with product codes of 50 bits (`pip install faiss-cpu`).
        num_threads: int.

    Raises:
        StoreError: the index has no local features, or they are damaged.

    Example:
        >>> import tempfile
        >>> from hashnet.retrieval.store.items import Item, StoredFeatures
        >>> from hashnet.retrieval.store.folder.store import Store
        >>> folder = tempfile.mkdtemp()
        >>> store = Store.create(folder, num_bits=8, feature_dim=1, fingerprint="f",
        ...                      extractor="delf", descriptor_dim=2)
        >>> local = StoredFeatures(np.ones((2, 2), "f4"), np.eye(2, dtype="f2"))
        >>> with store.writer() as writer:
        ...     writer.add([Item("a")], np.ones((1, 1), "u1"), np.ones((1, 1), "f4"), [local])
        1
        >>> index = LocalIndex(store.snapshot(), "delf")
        >>> index.nearest(np.array([[0, 1]], "f4"), k=2)[0].tolist()
        [[1, 0]]
    """

    def __init__(
        self, snapshot: Snapshot, extractor: str, *, method: str = "exact", num_threads: int = 1
    ) -> None:
        if method not in METHODS:
            raise ArgumentError(f"A method is one of {', '.join(METHODS)}.", f"method={method!r}")
        if extractor not in verify.MATCHING:
            raise StoreError("Local features are matched as their extractor asks.", repr(extractor))
        self.num_threads = num_threads
        self._matching = verify.MATCHING[extractor]
        live = snapshot.live_images
        rows = np.arange(snapshot.num_rows) if live is None else np.flatnonzero(live)
        stored = snapshot.local_features(rows)
        self._stored = dict(zip(rows.tolist(), stored, strict=True))
        counts = [len(one.yx) for one in stored]
        self._row_of = np.repeat(rows, counts)
        self._descriptors = (
            np.concatenate([one.descriptors for one in stored])
            if stored
            else np.zeros((0, 0), np.float16)
        )
        self._nearest = {
            "exact": self._nearest_exactly,
            "tree": self._nearest_in_tree,
            "faiss": self._nearest_by_faiss,
        }[method]

    def __len__(self) -> int:
        return len(self._row_of)

    def nearest(self, descriptors: np.ndarray, k: int = NEIGHBOURS) -> Nearest:
        """The nearest features of each of some descriptors.

        Args:
            descriptors: float32 `(m, d)`, of length 1.
            k: int, 1 or more.

        Returns:
            places: int64 `(m, k)`, ascending by distance; -1 where there are fewer.
            distances: float32 `(m, k)`, Euclidean; infinite where there are fewer.

        Raises:
            ShapeError: the descriptors have another size than those of the index.
            HashnetError: FAISS or the tree is asked for, and FAISS or SciPy not installed.
        """
        descriptors = np.ascontiguousarray(descriptors, np.float32)
        m, found = len(descriptors), min(k, len(self))
        places = np.full((m, k), -1, np.int64)
        distances = np.full((m, k), np.inf, np.float32)
        if m and found:
            if descriptors.shape[1:] != self._descriptors.shape[1:]:
                raise ShapeError(
                    "Descriptors have the size of those of the index.",
                    f"{descriptors.shape[1:]} for {self._descriptors.shape[1:]}",
                    "Extract them by the extractor of the index.",
                )
            places[:, :found], distances[:, :found] = self._nearest(descriptors, found)
        return places, distances

    def search(
        self,
        features: verify.Features,
        *,
        k: int = 10,
        neighbours: int = NEIGHBOURS,
        verify_top: int = VERIFY_TOP,
        seed: int = verify.SEED,
        without: int | None = None,
    ) -> list[LocalHit]:
        """Find the images that show what a query shows.

        Args:
            features: the query's `LocalFeatures`.
            k: int. Hits wanted.
            neighbours: int. Nearest features that each of the query's asks for.
            verify_top: int. How many images, those with most matches, geometry verifies.
            seed: int. Of the geometry.
            without: int or None. A row that is left out.

        Returns:
            list of `LocalHit`, by (most inliers, most matches, row), where fewer inliers than
            `MATCHING` asks for count as none.
        """
        places, distances = self.nearest(features.descriptors, neighbours)
        limit = self._limits(distances)
        asked, kept = np.nonzero((places >= 0) & (distances <= limit[:, None]))
        rows = self._row_of[places[asked, kept]]
        # An image counts once for each feature of the query.
        pairs = np.unique(np.stack([rows, asked]), axis=1)
        rows, matches = np.unique(pairs[0], return_counts=True)
        if without is not None:
            others = rows != without
            rows, matches = rows[others], matches[others]
        order = np.lexsort([rows, -matches])
        best = order[:verify_top]
        found = verify.verify_all(
            features,
            [self._stored[row] for row in rows[best].tolist()],
            self._matching,
            seed=seed,
            num_threads=self.num_threads,
        )
        inliers = np.array([one.inliers for one in found], np.int64)
        counted = np.where(inliers >= self._matching.min_inliers, inliers, 0)
        # Stable: then by matches, then by row.
        hits = [
            LocalHit(int(rows[best[at]]), int(matches[best[at]]), found[at])
            for at in np.argsort(-counted, kind="stable").tolist()
        ]
        hits += [
            LocalHit(int(rows[place]), int(matches[place]), None) for place in order[len(best) :]
        ]
        return hits[:k]

    def _limits(self, distances: np.ndarray) -> np.ndarray:
        """float32 `(m,)`: up to which distance neighbours of each feature count as matches."""
        if self._matching.max_distance is not None:
            return np.full(len(distances), self._matching.max_distance, np.float32)
        # The last of many neighbours is what chance gives; a match is nearer than that.
        assert self._matching.ratio is not None
        limits: np.ndarray = self._matching.ratio * distances[:, -1]
        return limits

    def _nearest_exactly(self, queries: np.ndarray, k: int) -> Nearest:
        step = max(k, SIMILARITIES_AT_ONCE // len(queries))
        asked = places = np.empty(0, np.int64)
        best: np.ndarray = np.empty(0, np.float32)
        for start in range(0, len(self), step):
            block = self._descriptors[start : start + step].astype(np.float32)
            with threads.blas_threads(self.num_threads):
                similarity = queries @ block.T
            # Half precision leaves descriptors a little longer or shorter than 1.
            similarity -= np.square(block).sum(axis=1) / 2
            if start == 0:
                least = np.partition(similarity, len(block) - k, axis=1)[:, len(block) - k]
                rows, columns = np.nonzero(similarity >= least[:, None])
            else:  # few are nearer than all k so far, and what is as near comes later
                rows, columns = np.nonzero(similarity > best[k - 1 :: k, None])
            asked = np.concatenate([asked, rows])
            places = np.concatenate([places, columns + start])
            best = np.concatenate([best, similarity[rows, columns]])
            order = np.lexsort([places, -best, asked])
            firsts = np.searchsorted(asked[order], np.arange(len(queries)))
            kept = order[(firsts[:, None] + np.arange(k)).reshape(-1)]
            asked, places, best = asked[kept], places[kept], best[kept]
        squares = np.square(queries).sum(axis=1, keepdims=True)
        distances = np.sqrt(np.maximum(squares - 2 * best.reshape(-1, k), 0))
        return places.reshape(-1, k), distances

    @functools.cached_property
    def _tree(self) -> Any:
        rule = "The KD-tree of local features is SciPy's; the exact search does without."
        spatial = extras.load("scipy.spatial", "bench", rule)
        return spatial.cKDTree(self._descriptors.astype(np.float32))

    def _nearest_in_tree(self, queries: np.ndarray, k: int) -> Nearest:
        distances, places = self._tree.query(queries, k=list(range(1, k + 1)))
        return places, distances

    @functools.cached_property
    def _faiss(self) -> Any:
        rule = "The approximate index of local features needs FAISS; the exact one does not."
        faiss = extras.load("faiss", "bench", rule)
        count, dim = self._descriptors.shape
        lists = max(1, min(FAISS_LISTS, count // FAISS_TRAINING_PER_LIST))
        # Parts must divide the size of a descriptor: 10 of DELF's 40 numbers, 8 of SIFT's 128.
        parts = max(part for part in range(1, FAISS_PARTS + 1) if dim % part == 0)
        bits = min(FAISS_BITS, max(1, int(np.log2(count))))
        index = faiss.IndexIVFPQ(faiss.IndexFlatL2(dim), dim, lists, parts, bits)
        index.nprobe = min(FAISS_PROBES, lists)
        everything = self._descriptors.astype(np.float32)
        index.train(everything)
        index.add(everything)
        return index

    def _nearest_by_faiss(self, queries: np.ndarray, k: int) -> Nearest:
        squared, places = self._faiss.search(queries, k)
        return places, np.where(places < 0, np.inf, np.sqrt(np.maximum(squared, 0)))
