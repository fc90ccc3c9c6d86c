"""Exact search by substrings of the code, for small thresholds on large indexes.

Multi-Index Hashing (Norouzi, Punjani and Fleet, "Fast Exact Search in Hamming Space with
Multi-Index Hashing", TPAMI 2014, sections 2 and 3) with the general pigeonhole principle's
uneven radii: codes that differ little agree, or nearly so, in some substring, and a table of
each substring's values leads to them. Only compiled: it visits candidates one by one.
"""

import functools
import math
from types import ModuleType

import numpy as np

from hashnet import threads
from hashnet.retrieval.search.coarse.scan import Answers, Scan, joined, read_only

MOST_TABLE_BITS = 24
# Costs measured against one word read by the scan of one query: a call, a bucket looked up, a
# candidate compared. In a batch the scan reads memory once for many queries, and costs less.
CALL_COST = 40_000
PROBE_COST = 160
CANDIDATE_COST = 240
BATCH_QUERIES = 16
BATCH_GAIN = 4
# A query whose buckets hold more than this share of all rows is scanned for instead.
CROWDED = 16
QUERIES_A_THREAD = 8


class MultiIndex:
    """Tables of substrings, and the plain scan where they would not pay.

    Args:
        kernels: the module of compiled kernels.
        words: uint64 `(n, num_words)`, C-contiguous.
        num_bits: int. How many of a row's bits carry the code; the rest are zero.
        live: bool `(n,)` or None. Rows that may be found.
        num_threads: int. The most threads at one time.
    """

    def __init__(
        self,
        kernels: ModuleType,
        words: np.ndarray,
        num_bits: int,
        live: np.ndarray | None,
        num_threads: int,
    ) -> None:
        self._kernels = kernels
        self._scan = Scan(words, live, num_threads)
        self._num_threads = num_threads
        mask = read_only(np.empty(0, bool) if live is None else live)
        flat = self._scan.words.reshape(-1)
        self._widths = substring_widths(len(words), num_bits)
        starts = np.cumsum([0, *self._widths[:-1]])
        tables = [
            kernels.fill_table(flat, words.shape[1], mask, start, width)
            for start, width in zip(starts, self._widths, strict=True)
        ]
        # How full the bucket of a code like the stored ones is, on average.
        self._like_buckets = tuple(
            float(np.square(np.diff(borders.astype(np.int64))).sum()) / max(1, len(rows))
            for borders, rows in tables
        )
        sizes = [[len(borders), len(rows)] for borders, rows in tables]
        at = np.cumsum([[0, 0], *sizes[:-1]], axis=0)
        self._tables = tuple(
            read_only(array)
            for array in (
                starts.astype(np.uint64),
                np.array(self._widths, np.uint64),
                np.concatenate([borders for borders, _ in tables]),
                np.concatenate([rows for _, rows in tables]),
                at[:, 0].astype(np.uint64),
                at[:, 1].astype(np.int64),
            )
        )

    def pays(self, threshold: int, num_queries: int) -> bool:
        """Say whether the tables are expected to beat the scan.

        Args:
            threshold: int, 1 or more.
            num_queries: int, asked at once.

        Returns:
            bool.
        """
        cost = expected_cost(len(self._scan.words), self._widths, threshold, self._like_buckets)
        return cost < scan_cost(self._scan.words.size, num_queries)

    def within(
        self, queries: np.ndarray, threshold: int, allowed: np.ndarray | None = None
    ) -> Answers:
        """As for `Scan.within`."""
        kernels = self._kernels
        if threshold == 0 or threshold > 64 * queries.shape[1]:
            return self._scan.within(queries, threshold, allowed)
        parts = threads.in_parts(
            lambda first, last: kernels.look_up(
                self._scan.words.reshape(-1),
                read_only(queries[first:last]),
                kernels.query_like(read_only(queries)),
                threshold,
                *self._tables,
                len(self._scan.words) // CROWDED,
            ),
            len(queries),
            self._num_threads,
            QUERIES_A_THREAD,
        )
        found = joined([(keys >> 11, (keys & 2047).astype(np.int32), at) for keys, at, _ in parts])
        crowded = np.concatenate([crowded for _, _, crowded in parts])
        rows, bits, borders = self._scan_for(queries, threshold, crowded, *found)
        if allowed is None:
            return rows, bits, borders
        kept = allowed[rows]
        counts = np.concatenate([[0], np.cumsum(kept)])
        return rows[kept], bits[kept], counts[borders]

    def _scan_for(
        self,
        queries: np.ndarray,
        threshold: int,
        crowded: np.ndarray,
        rows: np.ndarray,
        bits: np.ndarray,
        borders: np.ndarray,
    ) -> Answers:
        """Put the answers of the crowded queries, found by the scan, in their empty places."""
        if not crowded.any():
            return rows, bits, borders
        scanned = self._scan.within(queries[crowded], threshold)
        sizes = np.diff(borders)
        sizes[crowded] = np.diff(scanned[2])
        at = np.repeat(borders[:-1][crowded], sizes[crowded])
        rows, bits = np.insert(rows, at, scanned[0]), np.insert(bits, at, scanned[1])
        return rows, bits, np.cumsum([0, *sizes])


@functools.lru_cache
def substring_widths(num_rows: int, num_bits: int) -> tuple[int, ...]:
    """Cut a code into nearly equal substrings of about log2(n) bits, as the paper advises.

    Args:
        num_rows: int.
        num_bits: int, of a code.

    Returns:
        tuple of int, bits of each substring; they add up to `num_bits`.

    Example:
        >>> substring_widths(1_000_000, 48)
        (16, 16, 16)

    Reference:
        Norouzi, Punjani, Fleet, "Fast Exact Search in Hamming Space with Multi-Index Hashing",
        TPAMI 2014.
    """
    wanted = min(MOST_TABLE_BITS, max(1.0, math.log2(max(2, num_rows))))
    num_tables = math.ceil(num_bits / wanted)
    return tuple((num_bits + part) // num_tables for part in range(num_tables))


def scan_cost(num_words: int, num_queries: int) -> float:
    """Return the cost of scanning for one query of so many at once.

    Args:
        num_words: int, of all codes together.
        num_queries: int, asked at once.

    Returns:
        float, in words read by the scan of a lone query.
    """
    return num_words / (BATCH_GAIN if num_queries >= BATCH_QUERIES else 1)


@functools.lru_cache
def expected_cost(
    num_rows: int,
    widths: tuple[int, ...],
    threshold: int,
    like_buckets: tuple[float, ...] | None = None,
) -> float:
    """Estimate a look-up's cost, in words read by a scan.

    Args:
        num_rows: int.
        widths: tuple of int. The substrings' lengths.
        threshold: int, 1 or more.
        like_buckets: tuple of float or None. How full the bucket of a stored code is on average,
            table by table; even spread if None.

    Returns:
        float.
    """
    deepest, extra = divmod(threshold - 1, len(widths))
    cost = float(CALL_COST)
    for table, width in enumerate(widths):
        radius = deepest if table <= extra else deepest - 1
        if radius < 0:
            continue
        probes = sum(math.comb(width, weight) for weight in range(radius + 1))
        even = num_rows / 2.0**width
        own = like_buckets[table] if like_buckets else even
        cost += probes * PROBE_COST + (own + (probes - 1) * even) * CANDIDATE_COST
    return cost
