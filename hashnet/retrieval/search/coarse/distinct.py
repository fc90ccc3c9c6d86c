"""Search the distinct codes only, and list their rows.

Learned codes repeat: images of one class gather on few codes. Each distinct code is kept once,
and its rows beside it in compressed-sparse-row form, so that a search costs what the distinct
codes cost, and its answer. Only compiled: in NumPy, listing rows costs as much as the scan saves.
"""

from collections.abc import Callable
from types import ModuleType
from typing import TypeVar

import numpy as np

from hashnet import threads
from hashnet.retrieval.search.coarse.scan import Answers, Scan, joined, mask, read_only

# Below this many rows to a code, looking rows up costs more than scanning fewer codes saves.
LEAST_REPEATS = 4
# So many words of codes stay in the processor's cache, where each query may go over all of them.
MOST_WORDS_IN_CACHE = 1 << 16
# Fewer queries than this are not worth a thread of their own.
LEAST_QUERIES_A_THREAD = 8

T = TypeVar("T")


class DistinctCodes:
    """Exact Hamming search over distinct codes; the answers of `Scan`.

    Made by `grouped`, which says whether the codes repeat enough.
    """

    def __init__(
        self,
        kernels: ModuleType,
        words: np.ndarray,
        num_rows: int,
        borders: np.ndarray,
        rows: np.ndarray,
        num_threads: int,
    ) -> None:
        self._kernels = kernels
        self._scan = Scan(words, None, num_threads)
        self._num_rows = num_rows
        self._num_threads = num_threads
        self._borders = read_only(borders)
        self._rows = read_only(rows)

    def within(
        self, queries: np.ndarray, threshold: int, allowed: np.ndarray | None = None
    ) -> Answers:
        """As for `Scan.within`."""
        return self._all_rows(*self._scan.within(queries, threshold), allowed)

    def pool(self, query: np.ndarray, at_least: int) -> tuple[np.ndarray, np.ndarray]:
        """As for `Scan.pool`."""
        return self._all_rows(*self._nearest_codes(query, at_least), None)[:2]

    def nearest(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """As for `Scan.nearest`."""
        k = min(k, len(self._rows))
        codes, bits, ends = self._nearest_codes(queries, k)
        parts = self._by_query(
            lambda ends: self._kernels.first_rows_of_codes(
                codes, bits, ends, k, self._borders, self._rows
            ),
            ends,
        )
        if len(parts) == 1:
            return parts[0]
        rows, bits = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return rows, bits

    def histogram(self, query: np.ndarray) -> np.ndarray:
        """As for `Scan.histogram`."""
        max_bits = self._scan.words.shape[1] * 64
        codes, bits, _ = self._scan.within(query, max_bits + 1)
        counts = np.zeros(max_bits + 1, np.int64)
        np.add.at(counts, bits, np.diff(self._borders)[codes])
        return counts

    def _nearest_codes(self, queries: np.ndarray, at_least: int) -> Answers:
        """Return the codes, their bits, and borders by query, that hold the nearest rows."""
        words = self._scan.words
        if words.size > MOST_WORDS_IN_CACHE:
            single = (queries[number : number + 1] for number in range(len(queries)))
            return joined([self._nearest_of_many(query, at_least) for query in single])
        kernels, queries = self._kernels, read_only(queries)
        like, words = kernels.query_like(queries), words.reshape(-1)
        parts = threads.in_parts(
            lambda first, last: kernels.nearest_codes(
                words, queries, like, at_least, self._borders, first, last
            ),
            len(queries),
            self._num_threads,
            LEAST_QUERIES_A_THREAD,
        )
        return joined(parts)

    def _nearest_of_many(self, query: np.ndarray, at_least: int) -> Answers:
        # Every distinct code has a row, so the nearest `at_least` codes are always enough.
        codes, bits = self._scan.pool(query, at_least)
        sizes = self._borders[codes + 1] - self._borders[codes]
        counts = np.cumsum(np.bincount(bits, weights=sizes))
        kept = bits <= np.searchsorted(counts, min(at_least, counts[-1] if counts.size else 0))
        return codes[kept], bits[kept], np.array([0, np.count_nonzero(kept)])

    def _all_rows(
        self, codes: np.ndarray, bits: np.ndarray, ends: np.ndarray, allowed: np.ndarray | None
    ) -> Answers:
        kernels, allowed = self._kernels, mask(allowed)
        return joined(
            self._by_query(
                lambda ends: kernels.rows_of_codes(
                    codes, bits, ends, self._borders, self._rows, self._num_rows, allowed
                ),
                ends,
            )
        )

    def _by_query(self, function: Callable[[np.ndarray], T], ends: np.ndarray) -> list[T]:
        """Call `function` with the borders of parts of the queries, on several threads."""
        return threads.in_parts(
            lambda first, last: function(ends[first : last + 1]),
            len(ends) - 1,
            self._num_threads,
            LEAST_QUERIES_A_THREAD,
        )


def grouped(
    kernels: ModuleType,
    words: np.ndarray,
    live: np.ndarray | None,
    num_threads: int,
    *,
    least_repeats: int = LEAST_REPEATS,
) -> DistinctCodes | None:
    """Group equal codes; return DistinctCodes, or None where too few repeat.

    Args:
        kernels: the module of compiled kernels.
        words: uint64 `(n, num_words)`, C-contiguous.
        live: bool `(n,)` or None. Rows that may be found.
        num_threads: int. The most threads at one time.
        least_repeats: int. How many rows a distinct code must stand for, on average.

    Returns:
        `DistinctCodes`, or None.
    """
    num_live = len(words) if live is None else int(np.count_nonzero(live))
    most = num_live // least_repeats
    live = read_only(np.empty(0, bool) if live is None else live)
    flat = read_only(words).reshape(-1)
    first_rows, numbers = kernels.number_codes(flat, words.shape[1], live, most)
    if num_live and not first_rows.size:
        return None
    borders, rows = kernels.post_rows(numbers, live, len(first_rows))
    return DistinctCodes(kernels, words[first_rows], len(words), borders, rows, num_threads)
