"""One answer from many indexes: each searches its own images, and the answers are merged.

The answer is that of a single index that holds the images of the first, then those of the second,
and so on: the same pool, the same hits in the same order, the same distances. What makes it so:

- a threshold picks the same rows wherever they lie;
- the pool of a least size is set by a threshold that follows from a histogram of bits apart, and
  the histograms of the shards add up to that of the whole;
- a distance does not depend on what else is in the pool (see `fine`), so the k best of all
  are among the k best of each, ordered by distance, shard and row.

Only codes' histograms and k hits a shard would travel over a network.
"""

import heapq
import itertools
import time
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from hashnet import images
from hashnet.errors import ArgumentError, FingerprintError, UnknownNameError
from hashnet.retrieval.search.engine import Engine, default_pool
from hashnet.retrieval.search.finder import threshold_of
from hashnet.retrieval.search.hits import SearchResult


class ShardedEngine:
    """Searches several indexes as one.

    Args:
        engines: list of `Engine`, one or more, whose ids differ. Their order is
            that of the rows.

    Raises:
        ArgumentError: there is none.
        FingerprintError: their codes are of different encoders.

    Example:
        >>> from hashnet.retrieval.index import Index
        >>> shard = Index.create("more.index", bundle_folder)
        >>> _ = shard.add(["dog.png"], ids=["cow"])
        >>> engine = ShardedEngine([Engine(Index.open(index_folder)), Engine(shard)])
        >>> [(hit.id, hit.bits_apart) for hit in engine.search("dog.png", k=2).hits]
        [('dog', 0), ('cow', 0)]
    """

    def __init__(self, engines: Sequence[Engine]) -> None:
        self.engines = list(engines)
        if not self.engines:
            raise ArgumentError("A search needs a shard.", "no engine")
        fingerprints = {engine.index.store.fingerprint for engine in self.engines}
        if len(fingerprints) > 1:
            raise FingerprintError(
                "Shards that are searched as one have one encoder.",
                ", ".join(sorted(fingerprint[:12] for fingerprint in fingerprints)),
                "Build the others again with the first one's encoder.",
            )

    def search(
        self, query: images.Source | np.ndarray, *, k: int = 10, **options: Any
    ) -> SearchResult:
        """Find the images most like one image; encoded once.

        Args:
            query: path, bytes, binary file, or uint8 array `(height, width, 3)`.
            k, options: as for `search_encoded`.

        Returns:
            A `SearchResult`. For the errors, see `Engine.search`.
        """
        start = time.perf_counter()
        code, feature = self.engines[0].index.encoder.encode_one(query)
        encode = round((time.perf_counter() - start) * 1000, 3)
        result = self.search_encoded(code, feature, k=k, name=str(query), **options)
        result.milliseconds["encode"] = encode
        return result

    def search_encoded(
        self,
        code: np.ndarray,
        feature: np.ndarray,
        *,
        name: str = "code",
        k: int = 10,
        threshold: int | None = None,
        pool: int | None = None,
        label: str | Collection[str] | None = None,
        ids: Collection[str] | None = None,
    ) -> SearchResult:
        """Find by a code and a feature, as `Engine.search_encoded` does.

        Milliseconds are sums over the shards, which are searched one after another here.
        """
        if threshold is not None and pool is not None:
            raise ArgumentError(
                "A pool is set by a threshold or by its size.", f"{threshold=}, {pool=}"
            )
        filters = self._filters(label, ids)
        counting = 0.0
        if threshold is None:
            start = time.perf_counter()
            if pool is None:
                pool = default_pool(k, sum(one.snapshot.num_items for one in self.engines))
            if not isinstance(pool, int | np.integer) or pool < 1:
                raise ArgumentError("A pool has at least one image.", f"{pool=}")
            histograms = [engine.histogram(code, **options) for engine, options in filters]
            threshold = threshold_of(np.sum(histograms, axis=0), pool)
            counting = (time.perf_counter() - start) * 1000
        results = [
            engine.search_encoded(code, feature, name=name, k=k, threshold=threshold, **options)
            for engine, options in filters
        ]
        # Stable: of equal distances the hit of the earlier shard, and in it the earlier row, wins.
        merged = heapq.merge(*(result.hits for result in results), key=lambda hit: hit.distance)
        milliseconds: dict[str, float] = {
            stage: round(sum(result.milliseconds[stage] or 0.0 for result in results), 3)
            for stage in ("coarse", "fine")
        }
        milliseconds["coarse"] = round(milliseconds["coarse"] + counting, 3)
        return SearchResult(
            name,
            int(threshold),
            sum(result.pool for result in results),
            {"encode": None, **milliseconds, "verify": None},
            tuple(itertools.islice(merged, k)),
        )

    def _filters(
        self, label: str | Collection[str] | None, ids: Collection[str] | None
    ) -> list[tuple[Engine, dict[str, Any]]]:
        """Shards that may hold a hit, each with its filters: (engine, options) pairs."""
        if label is None:
            return [(engine, {"ids": ids}) for engine in self.engines]
        wanted = [label] if isinstance(label, str) else list(label)
        held = [set(engine.labels) for engine in self.engines]
        for name in wanted:
            if not any(name in labels for labels in held):
                raise UnknownNameError("label", name, set().union(*held))
        return [
            (engine, {"ids": ids, "label": [name for name in wanted if name in labels]})
            for engine, labels in zip(self.engines, held, strict=True)
            if labels.intersection(wanted) or not wanted
        ]
