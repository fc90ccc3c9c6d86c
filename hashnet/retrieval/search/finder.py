"""What a *finder* answers, which finds in one snapshot; `finders` says which finds in which.

The engine knows the order of the stages and what an answer looks like; a finder knows how codes
are compared and features ranked where they lie. `FolderFinder` searches arrays and memory maps,
`ClickHouseFinder` asks a database, and both give the same answers (tests/test_contracts.py).
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from hashnet.checks import checked_integer
from hashnet.retrieval.search.ranking import Certainty, Ranking
from hashnet.retrieval.store.items import Item

# What a finder makes of labels and ids, for its own methods only.
Filter = TypeVar("Filter")


@dataclass(frozen=True)
class Found:
    """What a finder answers.

    Attributes:
        rows: int64 `(m,)`, ordered by (distance, row); each of another image.
        items: list of m `Item`; of a table, without their texts.
        bits: int `(m,)`, Hamming distances.
        distances: float64 `(m,)`.
        threshold: int. Of the pool.
        pool: int. Images in the pool.
        coarse_seconds, fine_seconds: float; what one statement does is counted as fine.
        regions: list of m (top, left, bottom, right), None for a whole image; or None, where
            the index has no regions.
        owners: function that gives the row of the whole image of each of `rows`; None where
            these are of whole images.
    """

    rows: np.ndarray
    items: list[Item]
    bits: np.ndarray
    distances: np.ndarray
    threshold: int
    pool: int
    coarse_seconds: float
    fine_seconds: float
    regions: list[tuple[int, int, int, int] | None] | None = None
    owners: Callable[[], np.ndarray] | None = None

    def followed_by(self, other: "Found") -> "Found":
        """These and others behind them, of other images; pool and seconds stay what they are.

        Args:
            other: `Found`.

        Returns:
            `Found`, whose rows are in the order of the two.
        """
        if not len(other.rows):
            return self
        regions = None
        if self.regions is not None and other.regions is not None:
            regions = [*self.regions, *other.regions]
        rows = np.concatenate([self.image_rows, other.image_rows])
        return replace(
            self,
            rows=np.concatenate([self.rows, other.rows]),
            items=[*self.items, *other.items],
            bits=np.concatenate([self.bits, other.bits]),
            distances=np.concatenate([self.distances, other.distances]),
            regions=regions,
            owners=lambda: rows,
        )

    @functools.cached_property
    def image_rows(self) -> np.ndarray:
        """int64 `(m,)`: the row of the whole image of each of `rows`."""
        return self.rows if self.owners is None else self.owners()


class Similar(NamedTuple):
    """Images of the local pool that are most similar to a query.

    Attributes:
        rows: int64 `(m,)`, of whole images, ordered by (largest similarity, row).
        similarities: float32 `(m,)`, above 0; see `local_pool`.
        pool: int. How many images have any similarity.
    """

    rows: np.ndarray
    similarities: np.ndarray
    pool: int


def threshold_of(histogram: np.ndarray, at_least: int) -> int:
    """The smallest threshold whose pool has so many images, or has them all.

    Args:
        histogram: int64 `(num_bits + 1,)`; element d counts the images at Hamming distance d.
        at_least: int, 1 or more.

    Returns:
        int. 0 where there is no image.

    Raises:
        ArgumentError: `at_least` is no such number.

    Example:
        >>> threshold_of(np.array([0, 2, 0, 5]), 2), threshold_of(np.array([0, 2, 0, 5]), 3)
        (2, 4)
    """
    counts = np.cumsum(histogram)
    wanted = min(checked_integer(at_least, 1, "at_least"), int(counts[-1]))
    return int(np.searchsorted(counts, wanted)) + 1 if wanted else 0


def most_similar(rows: np.ndarray, similarities: np.ndarray, most: int) -> Similar:
    """The best of a local pool.

    Args:
        rows: int64 `(n,)`, of whole images.
        similarities: float32 `(n,)`, above 0.
        most: int, 1 or more. Images wanted.

    Returns:
        `Similar`.

    Example:
        >>> similar = most_similar(np.array([7, 8, 9]), np.array([1, 2, 1], np.float32), 2)
        >>> similar.rows.tolist(), similar.pool
        ([8, 7], 3)
    """
    pool = len(rows)
    if most < pool:
        near = similarities >= np.partition(similarities, pool - most)[pool - most]
        rows, similarities = rows[near], similarities[near]
    order = np.lexsort((rows, -similarities))[:most]
    return Similar(rows[order], similarities[order], pool)


class Finder(Protocol[Filter]):
    """What finds in one snapshot of an index.

    Where images have regions, the pool is of rows, whole images and regions alike, and an image
    is found once, by its row in the pool that is nearest. Filters are for images and all of
    their regions.
    """

    @property
    def labels(self) -> list[str]:
        """list of str, the labels that images have."""

    def allowed(
        self,
        labels: Sequence[str] | None = None,
        ids: Sequence[str] | None = None,
        *,
        after: datetime | None = None,
        before: datetime | None = None,
        under: Sequence[str] | None = None,
    ) -> Filter | None:
        """What passes the filters, for the methods below; None where all do.

        Args:
            labels: list of known labels, or None.
            ids: list of str, or None; an unknown one stands for no image.
            after, before: datetime or None. As for `Snapshot.rows_taken`.
            under: list of str, or None. Folders, as for `Query`.

        Returns:
            What the methods below take as `allowed`; None where all images pass.

        Raises:
            StoreError: dates are asked for that the index does not keep.
        """

    def is_folder(self, name: str) -> bool:
        """Whether images lie in or below a folder of this name.

        Args:
            name: str, as for `Query.under`.

        Returns:
            bool.
        """

    def encoded(self, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What is stored of images, all at once.

        Args:
            ids: sequence of str.

        Returns:
            rows: int64 `(n,)`; -1 for an unknown id.
            codes: uint8 `(m, code_bytes)`, of those that are known.
            features: float32 `(m, feature_dim)`, likewise; compared with their checksums.
        """

    def at(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What is stored of images, by their places in the order of rows.

        Args:
            places: int64 `(n,)`, each from 0 to less than the number of images.

        Returns:
            codes: uint8 `(n, code_bytes)`.
            features: float32 `(n, feature_dim)`; not compared with their checksums.
        """

    def of_rows(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What is stored of some rows.

        Args:
            rows: int64 `(n,)`, as `Found` has them, in any order.

        Returns:
            As for `at`.
        """

    def histogram(self, code: np.ndarray, *, allowed: Filter | None = None) -> np.ndarray:
        """Count the images at each number of bits from a code.

        Args:
            code: uint8 `(code_bytes,)`.
            allowed: from `allowed`.

        Returns:
            int64 `(8 * code_bytes + 1,)`; element d counts the images at Hamming distance d.
        """

    def step_counts(
        self,
        code: np.ndarray,
        certainty: Certainty,
        at_least: int,
        *,
        allowed: Filter | None = None,
    ) -> np.ndarray:
        """Count the images at each number of steps of certainty from a code.

        Args:
            code: uint8 `(code_bytes,)`.
            certainty: `Certainty` of its bits.
            at_least: int, 1 or more. Images that are counted for certain, the nearest.
            allowed: from `allowed`.

        Returns:
            int64 `(m,)`; element s counts the images whose differing bits add up to s steps.
        """

    def find(
        self,
        code: np.ndarray,
        feature: np.ndarray,
        k: int,
        *,
        ranking: Ranking | None = None,
        threshold: int | None = None,
        at_least: int | None = None,
        steps_below: int | None = None,
        allowed: Filter | None = None,
    ) -> Found:
        """The `k` images of the pool that lie nearest.

        Args:
            code: uint8 `(code_bytes,)`.
            feature: float32 `(feature_dim,)`.
            k: int, 1 or more.
            ranking: how certain the bits are, by which a pool of a least size is taken, and what
                the distance is made of; see `ranking`. None for Hamming distances, and the
                distance of the features alone.
            threshold, at_least: as for `CodeIndex.pool`, of images. A pool of a least size has no
                threshold of its own where certainty decides: then `Found.threshold` is the least
                that would hold it.
            steps_below: int or None. With `at_least` and a ranking: pass over images that are not
                below so many steps of certainty from the code.
            allowed: from `allowed`.

        Returns:
            A `Found`.
        """

    def similar(
        self, descriptors: np.ndarray, most: int, *, allowed: Filter | None = None
    ) -> Similar | None:
        """The images whose local features are most similar to a query's, by their signatures.

        Args:
            descriptors: float32 or float16 `(m, descriptor_dim)`, of the query.
            most: int, 1 or more. Images wanted.
            allowed: from `allowed`.

        Returns:
            `Similar`; None where the index has no codebook.
        """

    def passing(self, rows: np.ndarray, allowed: Filter | None) -> np.ndarray:
        """Which of some images pass.

        Args:
            rows: int64 `(n,)`, of whole images.
            allowed: from `allowed`.

        Returns:
            bool `(n,)`.
        """

    def among(self, rows: np.ndarray) -> Filter:
        """What lets some images pass, for the methods above, as `allowed` gives it.

        Args:
            rows: int64 `(n,)`, of whole images.

        Returns:
            What these methods take as `allowed`.
        """

    def rows(
        self, label: str | None = None, *, offset: int = 0, limit: int | None = None
    ) -> np.ndarray:
        """Rows of one label, or of all images.

        Args:
            label: a known label, or None.
            offset: int. How many of them to pass over.
            limit: int, or None for all that follow.

        Returns:
            int64 `(n,)`, ascending.
        """

    def spread(self, label: str, most: int) -> np.ndarray:
        """Rows of a label, every so many-th of them.

        Args:
            label: a known label.
            most: int, 1 or more. Rows at most.

        Returns:
            int64 `(m,)`, ascending.
        """

    def most_like(self, weights: np.ndarray, most: int, *, by: str) -> np.ndarray:
        """The rows whose weighted sum is the largest, best first, equal sums by row.

        Args:
            weights: float32, one for each bit of a code or number of a feature.
            most: int.
            by: "code", whose ones are summed, or "feature".

        Returns:
            int64 `(min(most, num_items),)`.
        """
