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
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from hashnet import images
from hashnet.errors import ArgumentError, FingerprintError, UnknownNameError
from hashnet.retrieval.search.engine import DEFAULT, Engine, least_pool
from hashnet.retrieval.search.finder import threshold_of
from hashnet.retrieval.search.hits import SearchResult
from hashnet.retrieval.search.query import Query


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
        >>> [(hit.id, hit.bits_apart) for hit in engine.search("dog.png", Query(k=2)).hits]
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

    def search(self, image: images.Source | np.ndarray, query: Query = DEFAULT) -> SearchResult:
        """Find the images most like one image; encoded once.

        Args:
            image: path, bytes, binary file, or uint8 array `(height, width, 3)`.
            query: a `Query`.

        Returns:
            A `SearchResult`. For the errors, see `Engine.search`.
        """
        start = time.perf_counter()
        code, feature = self.engines[0].index.encoder.encode_one(image)
        encode = round((time.perf_counter() - start) * 1000, 3)
        result = self.search_encoded(code, feature, query, name=str(image))
        result.milliseconds["encode"] = encode
        return result

    def search_encoded(
        self, code: np.ndarray, feature: np.ndarray, query: Query = DEFAULT, *, name: str = "code"
    ) -> SearchResult:
        """Find by a code and a feature, as `Engine.search_encoded` does.

        Milliseconds are sums over the shards, which are searched one after another here.
        """
        shards = self._shards(query)
        counting = 0.0
        threshold = query.threshold
        if threshold is None:
            start = time.perf_counter()
            pool = least_pool(query, sum(one.snapshot.num_items for one in self.engines))
            histograms = [engine.histogram(code, narrowed) for engine, narrowed in shards]
            threshold = threshold_of(np.sum(histograms, axis=0), pool)
            counting = (time.perf_counter() - start) * 1000
        if not threshold:  # there is no image
            milliseconds = {"encode": None, "coarse": round(counting, 3), "fine": 0.0}
            return SearchResult(name, 0, 0, {**milliseconds, "verify": None}, ())
        results = [
            engine.search_encoded(
                code, feature, replace(narrowed, threshold=threshold, pool=None), name=name
            )
            for engine, narrowed in shards
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
            tuple(itertools.islice(merged, query.k)),
        )

    def _shards(self, query: Query) -> list[tuple[Engine, Query]]:
        """The shards, each with the query as it is for that shard."""
        labels, shards = query.labels, []
        known = set().union(*(engine.labels for engine in self.engines))
        for name in labels or ():
            if name not in known:
                raise UnknownNameError("label", name, known)
        for engine in self.engines:
            narrowed = query
            if labels is not None:
                narrowed = replace(query, labels=[one for one in labels if one in engine.labels])
            if query.ids is not None:
                rows = engine.snapshot.rows(query.ids).tolist()
                held = [id for id, row in zip(query.ids, rows, strict=True) if row >= 0]
                narrowed = replace(narrowed, ids=held)
            shards.append((engine, narrowed))
        return shards
