"""Search the distinct codes only, and list their rows.

Learned codes repeat: images of one class gather on few codes. Each distinct code is kept once,
and its rows beside it in compressed-sparse-row form, so that a search costs what the distinct
codes cost, and its answer.
"""

import numpy as np

from retrieval import compiled
from retrieval.scan import Scan, first_by_bits, joined, read_only

# Below this many rows to a code, looking rows up costs more than scanning fewer codes saves.
LEAST_REPEATS = 4
# From this share of all rows on, a bit map puts rows in order faster than a sort does.
SORT_SHARE = 1 / 128


class DistinctCodes:
    """Exact Hamming search over distinct codes; the answers of `Scan`, without `allowed`.

    Made by `grouped`, which says whether the codes repeat enough.
    """

    def __init__(self, words, numbers, borders, rows, num_threads):
        self.num_rows = len(numbers)
        self._scan = Scan(words, None, num_threads)
        self._numbers = read_only(numbers)
        self._borders = read_only(borders)
        self._rows = read_only(rows)

    def within(self, queries, threshold, allowed=None):
        """Return rows int64, bits int32, and int64 `(num_queries + 1,)` borders by query."""
        codes, bits, ends = self._scan.within(queries, threshold)
        passes = []
        for first, last in zip(ends[:-1], ends[1:], strict=True):
            rows, apart = self._all_rows(codes[first:last], bits[first:last])
            if allowed is not None:
                kept = allowed[rows]
                rows, apart = rows[kept], apart[kept]
            passes.append((rows, apart, np.array([0, len(rows)])))
        return joined(passes)

    def pool(self, query, at_least):
        """Return rows ascending and bits: the nearest `at_least` rows and all that tie."""
        return self._all_rows(*self._nearest_codes(query, at_least))

    def nearest(self, queries, k):
        """Return rows int64 and bits int32, each `(num_queries, min(k, rows that pass))`."""
        answers = []
        for number in range(len(queries)):
            codes, bits = self._nearest_codes(queries[number : number + 1], k)
            # Of one code, only the first k rows can be among the first k of all.
            answers.append(first_by_bits(*self._some_rows(codes, bits, k), k))
        shape = len(queries), min(k, len(self._rows))
        rows = np.array([rows for rows, _ in answers], np.int64).reshape(shape)
        return rows, np.array([bits for _, bits in answers], np.int32).reshape(shape)

    def histogram(self, query):
        """Return int64 `(num_words * 64 + 1,)`: how many rows lie at each number of bits."""
        max_bits = self._scan.words.shape[1] * 64
        codes, bits, _ = self._scan.within(query, max_bits + 1)
        counts = np.zeros(max_bits + 1, np.int64)
        np.add.at(counts, bits, np.diff(self._borders)[codes])
        return counts

    def _nearest_codes(self, query, at_least):
        """Return the codes, and their bits, that hold the nearest rows and all that tie."""
        # Every distinct code has a row, so the nearest `at_least` codes are always enough.
        codes, bits = self._scan.pool(query, at_least)
        sizes = self._borders[codes + 1] - self._borders[codes]
        counts = np.cumsum(np.bincount(bits, weights=sizes))
        kept = bits <= np.searchsorted(counts, min(at_least, counts[-1] if counts.size else 0))
        return codes[kept], bits[kept]

    def _all_rows(self, codes, bits):
        total = int((self._borders[codes + 1] - self._borders[codes]).sum())
        if total < self.num_rows * SORT_SHARE:
            return self._some_rows(codes, bits, total)
        return compiled.load().sorted_rows_of_codes(
            read_only(codes), read_only(bits), self._borders, self._rows, self._numbers, total
        )

    def _some_rows(self, codes, bits, most):
        keys = compiled.load().rows_of_codes(
            read_only(codes), read_only(bits), self._borders, self._rows, most
        )
        return unpacked(keys)


def unpacked(keys):
    """Sort keys row * 2048 + bits, and return rows int64 and bits int32."""
    keys.sort()
    return keys >> 11, (keys & 2047).astype(np.int32)


def grouped(words, live, num_threads, *, least_repeats=LEAST_REPEATS):
    """Group equal codes; return DistinctCodes, or None where too few repeat.

    Args:
        words: uint64 `(n, num_words)`, C-contiguous.
        live: bool `(n,)` or None. Rows that may be found.
        num_threads: int. The most threads at one time.
        least_repeats: int. How many rows a distinct code must stand for, on average.
    """
    kernels = compiled.load()
    num_live = len(words) if live is None else int(np.count_nonzero(live))
    most = num_live // least_repeats
    live = read_only(np.empty(0, bool) if live is None else live)
    flat = read_only(words).reshape(-1)
    first_rows, numbers = kernels.number_codes(flat, words.shape[1], live, most)
    if num_live and not first_rows.size:
        return None
    borders, rows = kernels.post_rows(numbers, live, len(first_rows))
    return DistinctCodes(words[first_rows], numbers, borders, rows, num_threads)
