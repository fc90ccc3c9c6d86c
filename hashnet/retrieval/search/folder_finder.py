"""How an index folder is searched: over its codes in memory and its features on disk."""

import functools
import time
from collections.abc import Sequence
from datetime import datetime

import numpy as np

from hashnet import codes, deadline
from hashnet.checks import checked_integer
from hashnet.retrieval.search import local_pool
from hashnet.retrieval.search.coarse.hamming import CodeIndex
from hashnet.retrieval.search.finder import Found, Similar, most_similar
from hashnet.retrieval.search.fine import nearest_features
from hashnet.retrieval.search.ranking import Certainty, Ranking
from hashnet.retrieval.store.folder.snapshot import Snapshot
from hashnet.retrieval.store.roots import starts_named


class FolderFinder:
    """Finds in a snapshot of an index folder.

    Its filters are bool `(num_rows,)`.

    Args:
        snapshot: a `Snapshot`.
        num_threads: int. Threads of the coarse and fine stages; answers do not depend on it.
        after: `FolderFinder` of an earlier snapshot, or None. What it has made ready is taken
            over where the snapshot continues that one.
    """

    def __init__(
        self, snapshot: Snapshot, num_threads: int, after: "FolderFinder | None" = None
    ) -> None:
        if after is not None and snapshot.history is not after._snapshot.history:
            after = None
        if after is not None and after._snapshot.num_rows > snapshot.num_rows:
            after = None
        self._snapshot: Snapshot = snapshot
        self._num_threads = num_threads
        self._codes: CodeIndex = CodeIndex(
            snapshot.codes,
            live=snapshot.live,
            num_threads=num_threads,
            after=None if after is None else after._codes,
        )
        self._owners = snapshot.owners
        self._most_rows: int = 1 if after is None else after._most_rows  # of an image
        if self._owners is not None:
            start = 0 if after is None else after._snapshot.num_rows
            firsts = np.flatnonzero(np.diff(self._owners[start:], prepend=-1))
            sizes = np.diff(firsts, append=len(self._owners) - start)
            self._most_rows = int(sizes.max(initial=self._most_rows))

    @functools.cached_property
    def labels(self) -> list[str]:
        return list(self._snapshot.label_counts())

    def allowed(
        self,
        labels: Sequence[str] | None = None,
        ids: Sequence[str] | None = None,
        *,
        after: datetime | None = None,
        before: datetime | None = None,
        under: Sequence[str] | None = None,
    ) -> np.ndarray | None:
        filters = []
        if labels is not None:
            filters.append([self._snapshot.rows_of_label(label) for label in labels])
        if ids is not None:
            rows = self._snapshot.rows(ids)
            filters.append([rows[rows >= 0]])
        if after is not None or before is not None:
            filters.append([self._snapshot.rows_taken(after, before)])
        if under is not None:
            starts = [start for name in under for start in starts_named(self._snapshot, name)]
            filters.append([self._snapshot.rows_beginning_with(start) for start in starts])
        allowed = None
        for rows_of in filters:
            among = self._among(rows_of)
            allowed = among if allowed is None else allowed & among
        if allowed is not None and self._owners is not None:
            allowed = allowed[self._owners]
        return allowed

    def is_folder(self, name: str) -> bool:
        return bool(starts_named(self._snapshot, name))

    def encoded(self, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows = self._snapshot.rows(ids)
        known = rows[rows >= 0]
        features = self._snapshot.features(known).astype(np.float32)
        return rows, self._snapshot.codes[known], features

    def at(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.of_rows(self.rows()[places])

    def of_rows(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._snapshot.codes[rows], self._snapshot.features(rows).astype(np.float32)

    def _among(self, rows: list[np.ndarray]) -> np.ndarray:
        among = np.zeros(self._snapshot.num_rows, bool)
        for some in rows:
            among[some] = True
        return among

    def histogram(self, code: np.ndarray, *, allowed: np.ndarray | None = None) -> np.ndarray:
        if self._owners is None:
            return self._codes.histogram(code, allowed=allowed)
        num_bits = 8 * self._codes.code_bytes
        rows, bits = self._codes.within(code, num_bits + 1, allowed=allowed)
        return np.bincount(self._least_bits(rows, bits), minlength=num_bits + 1)

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
        allowed: np.ndarray | None = None,
    ) -> Found:
        start = time.perf_counter()
        steps: np.ndarray | None = None
        if ranking is None or threshold is not None:
            rows, bits, threshold, pool = self._pool(code, threshold, at_least, allowed)
        else:
            rows, steps, pool = self._pool_by_steps(code, ranking.certainty, at_least, allowed)
            if steps_below is not None:
                near = steps < steps_below
                rows, steps = rows[near], steps[near]
                pool = len(self._least_bits(rows, steps))
            bits = self._codes.bits_apart(code, rows)
            threshold = int(bits.max(initial=-1)) + 1
        if ranking is not None and ranking.mean is not None and steps is None:
            steps = self._codes.steps_apart(code, ranking.certainty.steps, rows)
        deadline.check()
        middle = time.perf_counter()
        best, distances = nearest_features(
            feature,
            rows,
            self._snapshot.feature_map(rows),
            k * self._most_rows,  # among so many rows there are k images
            mean=None if ranking is None else ranking.mean,
            added=None if ranking is None or steps is None else ranking.weight * steps,
            num_threads=self._num_threads,
        )
        if self._owners is not None:
            _, firsts = np.unique(self._owners[best], return_index=True)
            firsts = np.sort(firsts)[:k]
            best, distances = best[firsts], distances[firsts]
        items, owners = self._snapshot.items(best), self._owners
        end = time.perf_counter()
        return Found(
            best,
            items,
            bits[np.searchsorted(rows, best)],
            distances,
            int(threshold),
            pool,
            middle - start,
            end - middle,
            None if self._owners is None else self._snapshot.regions(best),
            None if owners is None else lambda: owners[best],
        )

    def similar(
        self, descriptors: np.ndarray, most: int, *, allowed: np.ndarray | None = None
    ) -> Similar | None:
        codebook = self._snapshot.codebook
        if codebook is None:
            return None
        words, signatures = codebook.signatures(
            descriptors, assignments=local_pool.ASSIGNMENTS, num_threads=self._num_threads
        )
        found = local_pool.similarities(
            self._snapshot.word_lists(words),
            self._snapshot.num_rows,
            words,
            signatures,
            num_threads=self._num_threads,
        )
        for passing in (self._snapshot.live, allowed):
            if passing is not None:
                found[~passing] = 0
        return most_similar(np.flatnonzero(found), found[found > 0], most)

    def passing(self, rows: np.ndarray, allowed: np.ndarray | None) -> np.ndarray:
        return np.ones(len(rows), bool) if allowed is None else allowed[rows]

    def among(self, rows: np.ndarray) -> np.ndarray:
        among = self._among([rows])
        return among if self._owners is None else among[self._owners]

    def rows(
        self, label: str | None = None, *, offset: int = 0, limit: int | None = None
    ) -> np.ndarray:
        if label is not None:
            rows = self._snapshot.rows_of_label(label)
        elif self._snapshot.live_images is not None:
            rows = np.flatnonzero(self._snapshot.live_images)
        else:
            rows = np.arange(self._snapshot.num_rows)
        return rows[offset:][:limit]

    def spread(self, label: str, most: int) -> np.ndarray:
        rows = self.rows(label)
        return rows[:: max(1, -(-len(rows) // most))]

    def most_like(self, weights: np.ndarray, most: int, *, by: str) -> np.ndarray:
        scores = np.empty(self._snapshot.num_rows, np.float32)
        if by == "code":
            for rows in _parts(len(scores)):
                bits = codes.unpack(self._snapshot.codes[rows], len(weights))
                scores[rows] = bits.astype(np.float32) @ weights
        else:
            features = self._snapshot.feature_map(np.arange(len(scores)))
            for rows in _parts(len(scores)):
                scores[rows] = features[rows].astype(np.float32) @ weights
        live = self.rows()
        return live[np.argsort(-scores[live], kind="stable")[:most]]

    def _pool(
        self,
        code: np.ndarray,
        threshold: int | None,
        at_least: int | None,
        allowed: np.ndarray | None,
    ) -> tuple[np.ndarray, np.ndarray, int, int]:
        """Rows of the pool, their Hamming distances, the threshold, and the number of images."""
        if self._owners is None or threshold is not None:
            rows, bits, threshold = self._codes.pool(
                code, threshold=threshold, at_least=at_least, allowed=allowed
            )
            return rows, bits, threshold, len(self._least_bits(rows, bits))
        at_least = checked_integer(at_least, 1, "at_least")
        # So many rows show enough images, or all there are; perhaps at a threshold too high.
        rows, bits, _ = self._codes.pool(code, at_least=at_least * self._most_rows, allowed=allowed)
        least = np.sort(self._least_bits(rows, bits))
        threshold = int(least[:at_least][-1]) + 1 if len(least) else 0
        near = bits < threshold
        return rows[near], bits[near], threshold, int(np.count_nonzero(least < threshold))

    def _pool_by_steps(
        self,
        code: np.ndarray,
        certainty: Certainty,
        at_least: int | None,
        allowed: np.ndarray | None,
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Rows of the pool, their steps of certainty, and the number of images."""
        at_least = checked_integer(at_least, 1, "at_least")
        rows, steps = self._codes.pool_by_steps(
            code, certainty.steps, at_least=at_least * self._most_rows, allowed=allowed
        )
        if self._owners is None:
            return rows, steps, len(rows)
        least = np.sort(self._least_bits(rows, steps))
        near = steps <= (least[:at_least][-1] if len(least) else 0)
        rows, steps = rows[near], steps[near]
        return rows, steps, len(self._least_bits(rows, steps))

    def step_counts(
        self,
        code: np.ndarray,
        certainty: Certainty,
        at_least: int,
        *,
        allowed: np.ndarray | None = None,
    ) -> np.ndarray:
        rows, steps, _ = self._pool_by_steps(code, certainty, at_least, allowed)
        return np.bincount(self._least_bits(rows, steps), minlength=1)

    def _least_bits(self, rows: np.ndarray, bits: np.ndarray) -> np.ndarray:
        """Distance, by codes, of the nearest row of each image that some rows, ascending, show."""
        if not len(rows) or self._owners is None:
            return bits
        firsts = np.flatnonzero(np.diff(self._owners[rows], prepend=-1))
        return np.minimum.reduceat(bits, firsts)


def _parts(num_rows: int, step: int = 8192) -> list[slice]:
    return [slice(start, min(start + step, num_rows)) for start in range(0, num_rows, step)]
