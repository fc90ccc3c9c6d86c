"""The plain scan: compare a query's code with every code, in NumPy or compiled."""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, TypeVar

import numpy as np

from hashnet import threads
from hashnet.retrieval.search import compiled
from hashnet.retrieval.search.coarse import plain

# Rows int64 and bits int32 of all queries, and int64 `(num_queries + 1,)` borders by query.
Answers = tuple[np.ndarray, np.ndarray, np.ndarray]

QUERIES_A_PASS = 64
# A thread of its own is handed over in some 30 us, in which a scan reads about a megabyte.
LEAST_WORDS_A_THREAD = 1 << 18
ROW_BITS = 48

T = TypeVar("T")


class Scan:
    """Exact Hamming search by comparing with every code, read once for every 64 queries.

    Args:
        words: uint64 `(n, num_words)`, C-contiguous. The codes, padded to whole words.
        live: bool `(n,)` or None. Rows that may be found.
        num_threads: int. The most threads at one time; the answers do not depend on it.
    """

    def __init__(self, words: np.ndarray, live: np.ndarray | None, num_threads: int) -> None:
        self.words = read_only(words)
        self.live = live
        self._flat, self._live_mask = self.words.reshape(-1), mask(live)
        self.num_threads = num_threads

    def within(
        self, queries: np.ndarray, threshold: int, allowed: np.ndarray | None = None
    ) -> Answers:
        """Find the rows fewer than `threshold` bits from each query.

        Args:
            queries: uint64 `(num_queries, num_words)`.
            threshold: int, bits.
            allowed: bool `(n,)` or None. Rows that may be found, besides being live.

        Returns:
            rows int64 and bits int32, query after query, a query's by row; and int64
            `(num_queries + 1,)` borders of the queries in them.
        """
        passes = [
            self._within_pass(queries[first : first + QUERIES_A_PASS], threshold, allowed)
            for first in range(0, len(queries), QUERIES_A_PASS)
        ]
        return joined(passes)

    def _within_pass(
        self, queries: np.ndarray, threshold: int, allowed: np.ndarray | None
    ) -> Answers:
        threshold = min(threshold, self.words.shape[1] * 64 + 1)
        kernels = self._kernels(len(queries))
        if kernels is None:
            masks = (self._live_mask, mask(allowed))
            by_part = self._in_parts(
                lambda *part: plain.within(self.words, queries, threshold, *masks, *part),
                len(queries),
            )
            found = [plain.joined(list(of_query)) for of_query in zip(*by_part, strict=True)]
            return joined([(*answer, np.array([0, len(answer[0])])) for answer in found])
        parts = self._by_kernel(kernels, kernels.within, queries, threshold, allowed)
        if len(parts) == len(queries) == 1:
            rows, bits = parts[0][:2]
            return rows, bits, np.array([0, len(rows)])
        rows = np.concatenate([part[0] for part in parts])
        bits = np.concatenate([part[1] for part in parts])
        if len(queries) == 1:
            return rows, bits, np.array([0, len(rows)])
        run_query = np.concatenate([part[2] for part in parts])
        starts = np.cumsum([0] + [len(part[0]) for part in parts])
        run_start = np.concatenate([part[3] + at for part, at in zip(parts, starts, strict=False)])
        return kernels.group_runs(rows, bits, run_query, run_start, len(queries))

    def nearest(
        self, queries: np.ndarray, k: int, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find each query's `k` nearest rows, by bits and then by row.

        Args:
            queries: uint64 `(num_queries, num_words)`.
            k: int, 1 or more.
            allowed: bool `(n,)` or None. Rows that may be found, besides being live.

        Returns:
            rows int64 and bits int32, each `(num_queries, min(k, rows that pass))`.
        """
        k = min(k, self._num_passing(allowed))
        rows = np.empty((len(queries), k), np.int64)
        bits = np.empty((len(queries), k), np.int32)
        if k == 0:
            return rows, bits
        for first in range(0, len(queries), QUERIES_A_PASS):
            chosen = slice(first, first + QUERIES_A_PASS)
            rows[chosen], bits[chosen] = self._nearest_pass(queries[chosen], k, allowed)
        return rows, bits

    def _nearest_pass(
        self, queries: np.ndarray, k: int, allowed: np.ndarray | None
    ) -> tuple[Sequence[np.ndarray] | np.ndarray, Sequence[np.ndarray] | np.ndarray]:
        kernels = self._kernels(len(queries))
        if kernels is None:
            pools = (self.pool(query[None], k, allowed) for query in queries)
            answers = [first_by_bits(rows, bits, k) for rows, bits in pools]
            return [rows for rows, _ in answers], [bits for _, bits in answers]
        parts = self._by_kernel(kernels, kernels.nearest, queries, k, allowed)
        if len(parts) == 1:
            return parts[0][0], parts[0][1]
        answers = []
        for number in range(len(queries)):
            held = [part[2][number] for part in parts]
            rows = [part[0][number, :n] for part, n in zip(parts, held, strict=True)]
            bits = [part[1][number, :n] for part, n in zip(parts, held, strict=True)]
            answers.append(first_by_bits(np.concatenate(rows), np.concatenate(bits), k))
        return [rows for rows, _ in answers], [bits for _, bits in answers]

    def pool(
        self, query: np.ndarray, at_least: int, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the nearest `at_least` rows and all that tie with the last.

        Args:
            query: uint64 `(1, num_words)`.
            at_least: int, 1 or more.
            allowed: bool `(n,)` or None. Rows that may be found, besides being live.

        Returns:
            rows int64, ascending, and bits int32.
        """
        kernels = self._kernels(1)
        if kernels is None:
            apart, max_bits = self._bits_apart(query[0], allowed), self.words.shape[1] * 64
            counts = np.cumsum(plain.histogram(apart, max_bits))
            rows = np.flatnonzero(apart <= min(np.searchsorted(counts, at_least), max_bits))
            return rows, apart[rows].astype(np.int32)
        return _nearest_of(
            self._by_kernel(kernels, kernels.pool, query, at_least, allowed), at_least
        )

    def pool_by_steps(
        self,
        query: np.ndarray,
        planes: np.ndarray,
        at_least: int,
        allowed: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the `at_least` rows whose differing bits weigh least, and what ties with the last.

        Args:
            query: uint64 `(1, num_words)`.
            planes: uint64 `(4, num_words)`, the binary digits of each bit's steps of certainty.
            at_least: int, 1 or more.
            allowed: bool `(n,)` or None. Rows that may be found, besides being live.

        Returns:
            rows int64, ascending, and steps int32.
        """
        most = plain.most_steps(planes)
        kernels = self._kernels(len(planes))
        if kernels is None:
            steps = self._steps_apart(query[0], planes, allowed)
            counts = np.cumsum(plain.histogram(steps, most))
            rows = np.flatnonzero(steps <= min(np.searchsorted(counts, at_least), most))
            return rows, steps[rows]
        queries, flat = read_only(query), read_only(planes.reshape(-1))
        like = kernels.query_like(queries)
        masks = (self._live_mask, mask(allowed))
        arguments = (tuple(flat) if isinstance(like, tuple) else flat, most, at_least, *masks)
        parts = self._in_parts(
            lambda *part: kernels.pool_by_steps(self._flat, queries, like, *arguments, *part), 1
        )
        return _nearest_of(parts, at_least)

    def histogram(self, query: np.ndarray, allowed: np.ndarray | None = None) -> np.ndarray:
        """Count the rows at each number of bits from a query.

        Args:
            query: uint64 `(1, num_words)`.
            allowed: bool `(n,)` or None. Rows that may be found, besides being live.

        Returns:
            int64 `(num_words * 64 + 1,)`; element d counts the rows at Hamming distance d.
        """
        kernels = self._kernels(1)
        if kernels is None:
            return plain.histogram(
                self._bits_apart(query[0], allowed), max_bits=self.words.shape[1] * 64
            )
        return sum(self._by_kernel(kernels, kernels.histogram, query, None, allowed))

    def _kernels(self, num_queries: int) -> ModuleType | None:
        return compiled.kernels(self.words.nbytes * num_queries)

    def _by_kernel(
        self,
        kernels: ModuleType,
        kernel: Callable[..., Any],
        queries: np.ndarray,
        argument: int | None,
        allowed: np.ndarray | None,
    ) -> list[Any]:
        queries = read_only(queries)
        arguments: tuple[Any, ...] = (self._flat, queries, kernels.query_like(queries))
        if argument is not None:
            arguments += (argument,)
        masks = (self._live_mask, mask(allowed))
        return self._in_parts(lambda *part: kernel(*arguments, *masks, *part), len(queries))

    def _bits_apart(self, query: np.ndarray, allowed: np.ndarray | None) -> np.ndarray:
        masks = (self._live_mask, mask(allowed))
        parts = self._in_parts(lambda *part: plain.bits_apart(self.words, query, *masks, *part), 1)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _steps_apart(
        self, query: np.ndarray, planes: np.ndarray, allowed: np.ndarray | None
    ) -> np.ndarray:
        """Steps of certainty of all rows, int32; of those that do not pass, more than any other."""
        masks = (self._live_mask, mask(allowed))
        parts = self._in_parts(
            lambda *part: plain.steps_apart(self.words, query, planes, *masks, *part), 1
        )
        return np.concatenate(parts)

    def _in_parts(self, function: Callable[[int, int], T], num_queries: int) -> list[T]:
        """Call `function(first, last)` over parts of the rows, on several threads."""
        least = LEAST_WORDS_A_THREAD // (self.words.shape[1] * num_queries) + 1
        return threads.in_parts(function, len(self.words), self.num_threads, least)

    def _num_passing(self, allowed: np.ndarray | None) -> int:
        passing = self.live
        if allowed is not None:
            passing = allowed if passing is None else passing & allowed
        return len(self.words) if passing is None else int(np.count_nonzero(passing))


def _nearest_of(
    parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], at_least: int
) -> tuple[np.ndarray, np.ndarray]:
    """Join what the kernels of pools found in parts of the rows: rows, distances and counts."""
    if len(parts) == 1:
        return parts[0][:2]
    # Up to the least limit every part counted every row; at it, some part has enough.
    most = min(len(counts) for _, _, counts in parts)
    counts = np.cumsum(sum(counts[:most] for _, _, counts in parts))
    rows, apart = (np.concatenate([part[at] for part in parts]) for at in (0, 1))
    kept = apart <= np.searchsorted(counts, at_least)
    return rows[kept], apart[kept]


def first_by_bits(rows: np.ndarray, bits: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first of some rows by bits, ties by row.

    Args:
        rows: int64 `(m,)`, ascending.
        bits: int32 `(m,)`.
        k: int. How many.

    Returns:
        rows int64 and bits int32, each `(min(k, m),)`.

    Example:
        >>> rows, bits = first_by_bits(np.array([2, 5, 9]), np.array([3, 1, 1], np.int32), 2)
        >>> rows.tolist(), bits.tolist()
        ([5, 9], [1, 1])
    """
    keys = (bits.astype(np.int64) << ROW_BITS) | rows
    keys.sort()
    return keys[:k] & ((1 << ROW_BITS) - 1), (keys[:k] >> ROW_BITS).astype(np.int32)


def joined(passes: Sequence[Answers]) -> Answers:
    """Join what was found for consecutive queries into one.

    Args:
        passes: list of rows, bits and borders, as `Scan.within` returns them.

    Returns:
        One such triple.
    """
    if len(passes) == 1:
        return passes[0]
    rows = np.concatenate([np.empty(0, np.int64), *(rows for rows, _, _ in passes)])
    bits = np.concatenate([np.empty(0, np.int32), *(bits for _, bits, _ in passes)])
    sizes = [np.diff(borders) for _, _, borders in passes]
    return rows, bits, np.cumsum(np.concatenate([[0], *sizes]))


def query_by_query(first: Answers, second: Answers) -> Answers:
    """Put two answers to the same queries together, for each query the first before the second.

    Args:
        first, second: rows, bits and borders, as `Scan.within` returns them.

    Returns:
        One such triple.
    """
    numbers = [np.repeat(np.arange(len(one[2]) - 1), np.diff(one[2])) for one in (first, second)]
    order = np.argsort(np.concatenate(numbers), kind="stable")
    rows = np.concatenate([first[0], second[0]])[order]
    return rows, np.concatenate([first[1], second[1]])[order], first[2] + second[2]


def read_only(array: np.ndarray) -> np.ndarray:
    """Return a plain read-only view, so that every array is one type to the compiler.

    Args:
        array: array of any dtype and any shape.

    Returns:
        The view; its memory is the array's.
    """
    view = np.asarray(array).view()
    view.flags.writeable = False
    return view


def mask(rows: np.ndarray | None) -> np.ndarray:
    """Return a mask as the kernels take it; None lets every row pass.

    Args:
        rows: bool `(n,)` or None.

    Returns:
        bool `(n,)`, or of length 0 where every row passes.
    """
    return _EVERY_ROW if rows is None else read_only(np.ascontiguousarray(rows))


_EVERY_ROW = read_only(np.empty(0, bool))
