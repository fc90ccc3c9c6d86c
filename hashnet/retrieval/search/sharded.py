"""One answer from many indexes: what each finds among its own images, put in order.

The answer is that of a single index that holds the images of the first, then those of the second,
and so on: the same pool, the same hits in the same order, the same distances. What makes it so:

- a threshold picks the same rows wherever they lie;
- the pool of a least size is set by a threshold that follows from a histogram of Hamming
  distances, and the histograms of the shards add up to that of the whole;
- a distance does not depend on what else is in the pool (see `fine`), so the k best of all
  are among the k best of each, ordered by distance, shard and row;
- what is verified, or moves a query, is looked at one image at a time.

Of the local pool this holds as far as the codebooks agree: each index has its own, by which the
similarities of its images are reckoned.

So the order of the stages is the engine's own; only what finds, and what reads rows, is joined
here. Only codes' histograms and k rows a shard would travel over a network.
"""

import itertools
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime
from typing import Any, TypeVar, cast

import numpy as np

from hashnet.errors import ArgumentError, FingerprintError, StoreError
from hashnet.retrieval.search.duplicates import DuplicateGroup, Progress
from hashnet.retrieval.search.engine import Answer, Engine
from hashnet.retrieval.search.finder import (
    Finder,
    Found,
    Similar,
    most_similar,
    threshold_of,
)
from hashnet.retrieval.search.ranking import Certainty, Ranking
from hashnet.retrieval.store.items import Item
from hashnet.retrieval.store.protocol import Snapshot

Part = TypeVar("Part")

# The rows of each shard begin at a multiple of this; no shard has so many.
ROWS_A_SHARD = 1 << 40


class ShardedEngine(Engine):
    """Searches several indexes as one, in all the ways that an `Engine` searches one.

    Args:
        engines: list of `Engine`, one or more. Their order is that of the rows. An id that
            several of them hold is a hit for each; who searches by it means the first.

    Attributes:
        engines: as given.

    Raises:
        ArgumentError: there is none.
        FingerprintError: their codes are of different encoders, or their local features of
            different extractors.

    Example:
        >>> from hashnet.retrieval.index import Index
        >>> from hashnet.retrieval.search.query import Query
        >>> shard = Index.create("more.index", bundle_folder)
        >>> _ = shard.add(["dog.png"], ids=["cow"])
        >>> engine = ShardedEngine([Engine(Index.open(index_folder)), Engine(shard)])
        >>> [(hit.id, hit.bits_apart) for hit in engine.search("dog.png", Query(k=2)).hits]
        [('dog', 0), ('cow', 0)]
    """

    def __init__(self, engines: Sequence[Engine]) -> None:
        self.engines = list(engines)
        if not self.engines:
            raise ArgumentError("A sharded search needs at least one index.", "no engine")
        stores = [engine.index.store for engine in self.engines]
        for what, ones, way_out in (
            (
                "encoder",
                [store.fingerprint[:12] for store in stores],
                "Make the other with --bundle INDEX of the first one.",
            ),
            (
                "kind of local features",
                [
                    f"{store.extractor} of {store.descriptor_dim} numbers"
                    for store in stores
                    if store.extractor
                ],
                "Build the others again as the first one was.",
            ),
        ):
            if len(set(ones)) > 1:
                raise FingerprintError(
                    f"Indexes that are searched as one have one {what}.",
                    ", ".join(dict.fromkeys(ones)),
                    way_out,
                )
        self.index = self.engines[0].index
        self.num_threads = self.engines[0].num_threads
        # A snapshot as far as an engine reads it.
        joined = _JoinedSnapshot([engine.snapshot for engine in self.engines])
        self.snapshot = cast(Snapshot, joined)
        self._most_of_an_id = len(self.engines)
        self.finder = _JoinedFinder(
            [engine.finder for engine in self.engines],
            [engine.snapshot.num_items for engine in self.engines],
        )

    def ids_of(self, names: Sequence[str]) -> list[str]:
        """By the first index that knows a name; for the rest see `Engine.ids_of`.

        Args:
            names: list of str.

        Returns:
            list of str.
        """
        names = list(names)
        for engine in self.engines:
            names = engine.ids_of(names)
        return names

    def _by_local_pool(self, *asked: Any) -> Answer:
        """Refused where some have local pools and others none: nothing tells which are similar."""
        filled = [engine for engine in self.engines if engine.snapshot.num_items]
        without = [engine for engine in filled if engine.snapshot.codebook is None]
        if without and len(without) < len(filled):
            raise StoreError(
                "Indexes that are searched as one for the same object have a local pool each, or "
                "none does.",
                f"none in {without[0].index.store.folder}",
                "Search it by itself.",
            )
        return super()._by_local_pool(*asked)

    def duplicates(
        self,
        threshold: int,
        *,
        turned: bool = False,
        progress: Progress | None = None,
    ) -> Iterator[DuplicateGroup]:
        """Refused: copies are looked for in one index at a time.

        Args:
            threshold, turned, progress: as for `Engine.duplicates`.

        Raises:
            ArgumentError: always.
        """
        raise _of_one_index("Duplicates are looked for")


class _JoinedSnapshot:
    """What the engine reads of several snapshots, whose rows follow one another."""

    def __init__(self, snapshots: Sequence[Any]) -> None:
        self._snapshots = snapshots
        self.num_items = sum(snapshot.num_items for snapshot in snapshots)

    @property
    def keeps_words(self) -> bool:
        return any(snapshot.keeps_words for snapshot in self._snapshots)

    @property
    def num_local_features(self) -> int:
        return sum(snapshot.num_local_features for snapshot in self._snapshots)

    def rows(self, ids: Sequence[str]) -> np.ndarray:
        rows = np.full(len(ids), -1, np.int64)
        for number, snapshot in enumerate(self._snapshots):
            held = snapshot.rows(ids)
            first = (rows < 0) & (held >= 0)
            rows = np.where(first, held + number * ROWS_A_SHARD, rows)
        return rows

    def items(self, rows: np.ndarray) -> list[Item]:
        return self._of_each(rows, lambda snapshot, own: snapshot.items(own))

    def local_features(self, rows: np.ndarray) -> list[Any]:
        return self._of_each(rows, lambda snapshot, own: snapshot.local_features(own))

    def candidates(self, rows: np.ndarray) -> list[Callable[[], Any]]:
        for snapshot in self._snapshots:  # one without any says so, whatever was found
            snapshot.local_features(np.empty(0, np.int64))
        return self._of_each(rows, lambda snapshot, own: snapshot.candidates(own))

    def _of_each(
        self, rows: np.ndarray, ask: Callable[[Any, np.ndarray], Sequence[Part]]
    ) -> list[Part]:
        """What the shards answer of their rows, in the order of `rows`."""
        rows = np.asarray(rows, np.int64)
        answers: dict[int, Part] = {}
        for number in np.unique(rows // ROWS_A_SHARD).tolist():
            places = np.flatnonzero(rows // ROWS_A_SHARD == number)
            own = rows[places] % ROWS_A_SHARD
            answers.update(zip(places.tolist(), ask(self._snapshots[number], own), strict=True))
        return [answers[place] for place in range(len(rows))]


class _JoinedFinder:
    """Finds in several snapshots as in one: see `Finder`. A filter is a list of theirs."""

    def __init__(self, finders: Sequence[Finder[Any]], num_items: Sequence[int]) -> None:
        self._finders = finders
        self._num_items = num_items

    @property
    def labels(self) -> list[str]:
        return list(dict.fromkeys(name for finder in self._finders for name in finder.labels))

    def allowed(
        self,
        labels: Sequence[str] | None = None,
        ids: Sequence[str] | None = None,
        *,
        after: datetime | None = None,
        before: datetime | None = None,
        under: Sequence[str] | None = None,
    ) -> list[Any] | None:
        if all(one is None for one in (labels, ids, after, before, under)):
            return None
        return [
            finder.allowed(
                None if labels is None else _among(labels, finder.labels),
                ids,
                after=after,
                before=before,
                under=under,
            )
            for finder in self._finders
        ]

    def is_folder(self, name: str) -> bool:
        return any(finder.is_folder(name) for finder in self._finders)

    def encoded(self, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows = np.full(len(ids), -1, np.int64)
        codes: dict[int, np.ndarray] = {}
        features: dict[int, np.ndarray] = {}
        for number, finder in reversed(list(enumerate(self._finders))):  # the first one wins
            held, held_codes, held_features = finder.encoded(ids)
            places = np.flatnonzero(held >= 0)
            rows[places] = held[places] + number * ROWS_A_SHARD
            codes.update(zip(places.tolist(), held_codes, strict=True))
            features.update(zip(places.tolist(), held_features, strict=True))
        known = np.flatnonzero(rows >= 0).tolist()
        return (
            rows,
            np.array([codes[place] for place in known]),
            np.array([features[place] for place in known]),
        )

    def at(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ends = np.cumsum(self._num_items)
        numbers = np.searchsorted(ends, places, "right")
        starts = ends - np.array(self._num_items)
        return _in_order(
            numbers,
            [
                finder.at(places[numbers == number] - starts[number])
                for number, finder in enumerate(self._finders)
            ],
        )

    def of_rows(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        numbers = rows // ROWS_A_SHARD
        return _in_order(
            numbers,
            [
                finder.of_rows(rows[numbers == number] % ROWS_A_SHARD)
                for number, finder in enumerate(self._finders)
            ],
        )

    def histogram(self, code: np.ndarray, *, allowed: list[Any] | None = None) -> np.ndarray:
        counts = [finder.histogram(code, allowed=one) for finder, one in self._with(allowed)]
        return np.sum(counts, axis=0)

    def step_counts(
        self,
        code: np.ndarray,
        certainty: Certainty,
        at_least: int,
        *,
        allowed: list[Any] | None = None,
    ) -> np.ndarray:
        counts = [
            finder.step_counts(code, certainty, at_least, allowed=one)
            for finder, one in self._with(allowed)
        ]
        # What one shard has not counted lies behind as many images as are asked for.
        total = np.zeros(max(map(len, counts)), np.int64)
        for one in counts:
            total[: len(one)] += one
        return total

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
        allowed: list[Any] | None = None,
    ) -> Found:
        """As `Finder.find`; seconds are sums, as one shard is searched after the other."""
        start = time.perf_counter()
        by_threshold = threshold is not None or ranking is None
        if threshold is None:
            assert at_least is not None
            if ranking is None:
                threshold = threshold_of(self.histogram(code, allowed=allowed), at_least)
            elif steps_below is None:
                counts = self.step_counts(code, ranking.certainty, at_least, allowed=allowed)
                steps_below = threshold_of(counts, at_least)
        counting = time.perf_counter() - start
        parts = [
            finder.find(
                code,
                feature,
                k,
                ranking=ranking,
                threshold=threshold,
                at_least=None if by_threshold else at_least,
                steps_below=steps_below,
                allowed=one,
            )
            for finder, one in self._with(allowed)
        ]
        rows = np.concatenate([_shifted(part.rows, n) for n, part in enumerate(parts)])
        distances = np.concatenate([part.distances for part in parts])
        best = np.lexsort((rows, distances))[:k]
        items = [item for part in parts for item in part.items]
        regions = [region for part in parts for region in part.regions or [None] * len(part.items)]

        def owners() -> np.ndarray:
            return np.concatenate([_shifted(part.image_rows, n) for n, part in enumerate(parts)])[
                best
            ]

        return Found(
            rows[best],
            [items[place] for place in best.tolist()],
            np.concatenate([part.bits for part in parts])[best],
            distances[best],
            max(part.threshold for part in parts) if threshold is None else threshold,
            sum(part.pool for part in parts),
            counting + sum(part.coarse_seconds for part in parts),
            sum(part.fine_seconds for part in parts),
            [regions[place] for place in best.tolist()],
            owners,
        )

    def similar(
        self, descriptors: np.ndarray, most: int, *, allowed: list[Any] | None = None
    ) -> Similar | None:
        """By each one's own codebook; an index that has none adds nothing, as `Finder.similar`."""
        parts = [
            finder.similar(descriptors, most, allowed=one) for finder, one in self._with(allowed)
        ]
        found = [(number, part) for number, part in enumerate(parts) if part is not None]
        if not found:
            return None
        best = most_similar(
            np.concatenate([_shifted(part.rows, number) for number, part in found]),
            np.concatenate([part.similarities for _, part in found]),
            most,
        )
        return best._replace(pool=sum(part.pool for _, part in found))

    def passing(self, rows: np.ndarray, allowed: list[Any] | None) -> np.ndarray:
        raise _of_one_index("Words are looked up")

    def among(self, rows: np.ndarray) -> list[Any]:
        return [
            finder.among(rows[rows // ROWS_A_SHARD == number] % ROWS_A_SHARD)
            for number, finder in enumerate(self._finders)
        ]

    def rows(
        self, label: str | None = None, *, offset: int = 0, limit: int | None = None
    ) -> np.ndarray:
        parts = [
            _shifted(finder.rows(label), number)
            for number, finder in enumerate(self._finders)
            if label is None or label in finder.labels
        ]
        return np.concatenate([np.empty(0, np.int64), *parts])[offset:][:limit]

    def spread(self, label: str, most: int) -> np.ndarray:
        rows = self.rows(label)
        return rows[:: max(1, -(-len(rows) // most))]

    def most_like(self, weights: np.ndarray, most: int, *, by: str) -> np.ndarray:
        raise _of_one_index("Classes of the network are looked up")

    def _with(self, allowed: list[Any] | None) -> Iterator[tuple[Finder[Any], Any]]:
        return zip(self._finders, allowed or itertools.repeat(None), strict=False)


def _among(labels: Sequence[str], known: Collection[str]) -> list[str]:
    return [name for name in labels if name in known]


def _in_order(
    numbers: np.ndarray, parts: Sequence[tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """Codes and features, which come in the order of shards, where they were asked for."""
    back = np.argsort(np.argsort(numbers, kind="stable"), kind="stable")
    codes, features = (np.concatenate(ones)[back] for ones in zip(*parts, strict=True))
    return codes, features


def _shifted(rows: np.ndarray, number: int) -> np.ndarray:
    return np.asarray(rows, np.int64) + number * ROWS_A_SHARD


def _of_one_index(what: str) -> ArgumentError:
    return ArgumentError(
        f"{what} in one index at a time.", "several that are searched as one", "Name one of them."
    )
