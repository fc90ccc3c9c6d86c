"""Find codes by the number of bits in which they differ from a query's code, exactly.

`CodeIndex` checks what comes in and chooses the way: the plain scan (`scan`), distinct
codes (`distinct`) or tables of substrings (`mih`). All give the same answer; without Numba, all
are the plain scan.
"""

import dataclasses
import itertools
import operator
import threading
from typing import Any, Generic, TypeVar

import numpy as np

from hashnet.checks import checked_integer
from hashnet.errors import ArgumentError, ShapeError, UnknownNameError
from hashnet.retrieval.search import compiled
from hashnet.retrieval.search.coarse import distinct, mih, plain
from hashnet.retrieval.search.coarse.scan import Answers, Scan, first_by_bits, query_by_query
from hashnet.retrieval.store.growing import Growing

Searcher = TypeVar("Searcher", distinct.DistinctCodes, mih.MultiIndex)

MAX_CODE_BYTES = 128
# Binary digits of a step of certainty, see hashnet.retrieval.search.ranking.
DIGITS = 4
METHODS = ("auto", "scan", "distinct", "mih")
# Grouping or tabulating the codes costs about as much as this many scans of them.
SEARCHES_BEFORE_GROUPING = 64
SEARCHES_BEFORE_TABLES = 1024
# Below this size a scan takes no longer than the calls around it.
LEAST_WORDS_TO_GROUP = 1 << 17
# Groups and tables go on being used when rows are added, which are scanned, or removed, which are
# left out, until these are more than one in so many; then new ones are made.
TAIL_SHARE = 16
# A filter that lets fewer than one row in so many pass is followed row by row.
RARE = 16


@dataclasses.dataclass(frozen=True)
class _Prepared(Generic[Searcher]):
    """Groups or tables, of the first rows as they were when these were made.

    Attributes:
        search: `DistinctCodes` or `MultiIndex`.
        num_rows: int. How many rows there were.
        live: bool `(num_rows,)` or None. Which of them could be found.
        gone: int64. Those that can be found no more.
    """

    search: Searcher
    num_rows: int
    live: np.ndarray | None
    gone: np.ndarray

    def after(self, live: np.ndarray | None, num_rows: int) -> "_Prepared[Searcher] | None":
        """The same where rows were added and removed; None where these are too many."""
        gone = np.empty(0, np.int64)
        if live is not None:
            left = live[: self.num_rows]
            gone = np.flatnonzero(~left if self.live is None else self.live & ~left)
        if (num_rows - self.num_rows + len(gone)) * TAIL_SHARE > self.num_rows:
            return None
        return dataclasses.replace(self, gone=gone)


class CodeIndex:
    """The codes of an index, made ready for exact Hamming search.

    A code is packed bytes, as hashnet.codes makes them: zero-padded to whole bytes, so padding
    never counts. The codes are used where they lie when a code fills whole 8-byte words, and
    are padded once otherwise. Equal distances are ordered by row. No answer depends on the
    method, on the number of threads, or on whether compiled code is loaded yet.

    With `method="auto"`, searches begin as plain scans. Once they have cost as much as grouping
    equal codes, the codes are grouped, and the groups kept if codes repeat; likewise tables of
    substrings, for thresholds at which they are expected to win. One index may be searched from
    many threads at once.

    When codes are added or removed, an index that comes after another takes over what that one
    has made ready, and scans what has been added.

    Args:
        codes: uint8 `(n, code_bytes)`, 1 to 128 bytes; an array or a memory map. Not copied
            where possible, so it must not change.
        live: bool `(n,)` or None. Rows that may be found; all if None.
        num_threads: int. The most threads one search runs on.
        method: str. "auto", "scan", "distinct" or "mih".
        after: `CodeIndex` or None. One whose codes are the first of these, of which some may be
            live no more; of the same method.

    Raises:
        ShapeError: the codes or `live` have another dtype or shape.
        ArgumentError: `num_threads` is not 1 or more.
        UnknownNameError: there is no such method.

    Example:
        >>> import numpy as np
        >>> index = CodeIndex(np.array([[0b1111_0000], [0b1111_0001], [0b0000_1111]], np.uint8))
        >>> rows, bits_apart = index.within(np.array([0b1111_0000], np.uint8), threshold=2)
        >>> rows.tolist(), bits_apart.tolist()
        ([0, 1], [0, 1])
    """

    def __init__(
        self,
        codes: np.ndarray,
        *,
        live: np.ndarray | None = None,
        num_threads: int = 1,
        method: str = "auto",
        after: "CodeIndex | None" = None,
    ) -> None:
        if method not in METHODS:
            raise UnknownNameError("search method", method, METHODS)
        codes = _checked_codes(codes)
        self.num_rows, self.code_bytes = codes.shape
        self.num_threads = checked_integer(num_threads, 1, "num_threads")
        self.method = method
        self._live = _checked_mask(live, self.num_rows, "live")
        self._padded: Growing | None = None
        if after is None or after._padded is None:
            words = to_words(codes)
            if not np.shares_memory(words, codes):
                self._padded = Growing(words)
        else:
            self._padded = after._padded.followed_by(to_words(codes[after.num_rows :]))
            words = self._padded.array
        self._scan = Scan(words, self._live, self.num_threads)
        self._groups: _Prepared[distinct.DistinctCodes] | None = None
        self._tables: _Prepared[mih.MultiIndex] | None = None
        self._searches = {"distinct": 0, "mih": 0}
        # How many rows there were when groups or tables were made, or were of no use.
        self._tried = {"distinct": 0, "mih": 0}
        self._preparing = threading.Lock()
        if after is not None:
            self._take_over(after)
        if method == "distinct" and self._groups is None:
            self._groups = self._grouped(least_repeats=1)
        if method == "mih" and self._tables is None:
            self._tables = self._tabulated()

    def _take_over(self, older: "CodeIndex") -> None:
        with older._preparing:
            groups, tables = older._groups, older._tables
            searches, tried = dict(older._searches), dict(older._tried)
        if groups is not None:
            self._groups = groups.after(self._live, self.num_rows)
        if tables is not None:
            self._tables = tables.after(self._live, self.num_rows)
        for method, old, new in (
            ("distinct", groups, self._groups),
            ("mih", tables, self._tables),
        ):
            grown = (self.num_rows - tried[method]) * TAIL_SHARE > tried[method]
            if (old is not None and new is None) or (tried[method] and grown):
                continue  # to be paid for, and tried, again
            self._searches[method], self._tried[method] = searches[method], tried[method]

    def prepare(self, threshold: int | None = None) -> None:
        """Do now what searches would otherwise do once they have been many.

        Loads the compiled kernels and, with `method="auto"`, groups equal codes if they repeat,
        or else builds the tables for this threshold if they are expected to win.

        Args:
            threshold: int or None. The threshold that searches will have, if known.
        """
        compiled.load()
        if self.method != "auto":
            return
        self._count_searches("distinct", SEARCHES_BEFORE_GROUPING)
        if threshold is not None:
            threshold = checked_integer(threshold, 0, "threshold")
            if self._groups is None and self._tables_may_pay(threshold, 1):
                self._count_searches("mih", SEARCHES_BEFORE_TABLES)

    def within(
        self, query: np.ndarray, threshold: int, *, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows that differ from the query in fewer than `threshold` bits.

        Args:
            query: uint8 `(code_bytes,)`.
            threshold: int, 0 or more; strict: 1 finds equal codes only, 0 finds nothing, more
                than the code has bits finds every row.
            allowed: bool `(n,)` or None. Rows that may be found, besides being live.

        Returns:
            rows int64 `(p,)`, ascending, and their Hamming distances int32 `(p,)`.

        Raises:
            ArgumentError: the threshold is negative or not an integer.
            ShapeError: the query or `allowed` has another dtype or shape.
        """
        queries = self._checked_query(query)
        threshold = checked_integer(threshold, 0, "threshold")
        rows, bits, _ = self._within(queries, threshold, allowed)
        return rows, bits

    def within_batch(
        self, queries: np.ndarray, threshold: int, *, allowed: np.ndarray | None = None
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return what `within` returns for each query; codes are read once for 64 of them.

        Args:
            queries: uint8 `(num_queries, code_bytes)`.
            threshold: int, 0 or more, as for `within`.
            allowed: bool `(n,)` or None, as for `within`; the same for every query.

        Returns:
            list of (rows, Hamming distances), one a query.

        Example:
            >>> import numpy as np
            >>> index = CodeIndex(np.array([[0], [1], [255]], np.uint8))
            >>> found = index.within_batch(np.array([[0], [254]], np.uint8), threshold=2)
            >>> [rows.tolist() for rows, bits_apart in found]
            [[0, 1], [2]]
        """
        queries = self._checked_queries(queries)
        threshold = checked_integer(threshold, 0, "threshold")
        rows, bits, borders = self._within(queries, threshold, allowed)
        return [(rows[first:last], bits[first:last]) for first, last in itertools.pairwise(borders)]

    def histogram(self, query: np.ndarray, *, allowed: np.ndarray | None = None) -> np.ndarray:
        """Count the rows at each number of bits from the query.

        Args:
            query: uint8 `(code_bytes,)`.
            allowed: bool `(n,)` or None. Rows that may be found, besides being live.

        Returns:
            int64 `(8 * code_bytes + 1,)`; element d counts the rows at Hamming distance d.

        Raises:
            ShapeError: the query or `allowed` has another dtype or shape.

        Example:
            >>> import numpy as np
            >>> index = CodeIndex(np.array([[0], [1], [255]], np.uint8))
            >>> index.histogram(np.array([0], np.uint8)).tolist()
            [1, 1, 0, 0, 0, 0, 0, 0, 1]
        """
        query = self._checked_query(query)
        groups = self._groups_for(1, allowed)
        if groups is not None:
            counts = groups.search.histogram(query)
            if len(groups.gone):
                counts = counts - Scan(self._scan.words[groups.gone], None, 1).histogram(query)
            if groups.num_rows < self.num_rows:
                counts = counts + self._tail(groups.num_rows).histogram(query)
        else:
            scan, allowed, _ = self._narrowed(allowed)
            counts = scan.histogram(query, allowed)
        return counts[: 8 * self.code_bytes + 1]

    def nearest(
        self, query: np.ndarray, k: int, *, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the `k` nearest rows, by Hamming distance and then by row; all if there are fewer.

        Args:
            query: uint8 `(code_bytes,)`.
            k: int, 1 or more.
            allowed: bool `(n,)` or None. Rows that may be found, besides being live.

        Returns:
            rows int64 `(m,)` and their Hamming distances int32 `(m,)`, m = min(k, rows that may be
            found).

        Raises:
            ArgumentError: `k` is not an integer, or below 1.
            ShapeError: the query or `allowed` has another dtype or shape.

        Example:
            >>> import numpy as np
            >>> index = CodeIndex(np.array([[3], [1], [2]], np.uint8))
            >>> rows, bits_apart = index.nearest(np.array([0], np.uint8), 2)
            >>> rows.tolist(), bits_apart.tolist()
            ([1, 2], [1, 1])
        """
        rows, bits = self._nearest(self._checked_query(query), k, allowed)
        return rows[0], bits[0]

    def nearest_batch(
        self, queries: np.ndarray, k: int, *, allowed: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return what `nearest` returns for each query; codes are read once for 64 of them.

        Args:
            queries: uint8 `(num_queries, code_bytes)`.
            k, allowed: as for `nearest`.

        Returns:
            rows int64 and Hamming distances int32, each `(num_queries, m)`.

        Raises:
            ArgumentError, ShapeError: as `nearest`.
        """
        return self._nearest(self._checked_queries(queries), k, allowed)

    def pool(
        self,
        query: np.ndarray,
        *,
        threshold: int | None = None,
        at_least: int | None = None,
        allowed: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Return the pool of a threshold, or the smallest pool of at least so many rows.

        Args:
            query: uint8 `(code_bytes,)`.
            threshold: int or None, as for `within`.
            at_least: int or None, 1 or more. The smallest threshold is taken whose pool has so
                many rows; with fewer rows in all, the smallest that has them all.
            allowed: bool `(n,)` or None. Rows that may be found, besides being live.

        Returns:
            rows int64 `(p,)`, ascending, their Hamming distances int32 `(p,)`, and the threshold,
            int.

        Raises:
            ArgumentError: not exactly one of `threshold` and `at_least` is given, or it is not
                an integer in its range.

        Example:
            >>> import numpy as np
            >>> index = CodeIndex(np.array([[3], [1], [2]], np.uint8))
            >>> rows, bits_apart, threshold = index.pool(np.array([0], np.uint8), at_least=1)
            >>> rows.tolist(), threshold
            ([1, 2], 2)
        """
        if (threshold is None) == (at_least is None):
            raise ArgumentError(
                "A pool is asked for by its threshold or by its least size.",
                f"threshold={threshold!r}, at_least={at_least!r}",
                "Give exactly one of them.",
            )
        if threshold is not None:
            return *self.within(query, threshold, allowed=allowed), operator.index(threshold)
        query = self._checked_query(query)
        at_least = checked_integer(at_least, 1, "at_least")
        groups = self._groups_for(1, allowed)
        if groups is not None:
            rows, bits = groups.search.pool(query, at_least + len(groups.gone))
            rows, bits = self._with_tail(
                groups, rows, bits, *self._tail_pool(groups, query, at_least)
            )
            if len(bits) > at_least:
                near = bits <= np.partition(bits, at_least - 1)[at_least - 1]
                rows, bits = rows[near], bits[near]
        else:
            scan, allowed, names = self._narrowed(allowed)
            rows, bits = scan.pool(query, at_least, allowed)
            rows = rows if names is None else names[rows]
        return rows, bits, int(bits.max()) + 1 if len(bits) else 0

    def steps_apart(self, query: np.ndarray, steps: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Add up the certainty of the bits in which the codes of some rows differ from a query's.

        Args:
            query: uint8 `(code_bytes,)`.
            steps: uint8 `(num_bits,)`, how sure the query is of each bit; see `Certainty`.
            rows: int64 `(p,)`.

        Returns:
            int32 `(p,)`.

        Raises:
            ShapeError: the query's code has another length than the index's.

        Example:
            >>> import numpy as np
            >>> index = CodeIndex(np.array([[3], [128], [2]], np.uint8))
            >>> steps = np.array([5, 0, 0, 0, 0, 0, 1, 2], np.uint8)
            >>> index.steps_apart(np.array([0], np.uint8), steps, np.arange(3)).tolist()
            [3, 5, 1]
        """
        query, none = self._checked_query(query), np.empty(0, bool)
        weighed = planes(steps, self.code_bytes)
        words = self._scan.words[rows]
        return plain.steps_apart(words, query[0], weighed, none, none, 0, len(rows))

    def pool_by_steps(
        self,
        query: np.ndarray,
        steps: np.ndarray,
        *,
        at_least: int,
        allowed: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return at least so many rows whose codes differ least, each bit by its certainty.

        All rows are compared. What ties with the last comes too.

        Args:
            query: uint8 `(code_bytes,)`.
            steps: uint8 `(num_bits,)`, 0 to 15, how sure the query is of each bit.
            at_least: int, 1 or more.
            allowed: bool `(n,)` or None. Rows that may be found, besides being live.

        Returns:
            rows int64 `(p,)`, ascending, and int32 `(p,)`, as from `steps_apart`.

        Raises:
            ArgumentError: `at_least` is not an integer, or below 1.
            ShapeError: the query or `allowed` has another dtype or shape.

        Example:
            >>> import numpy as np
            >>> index = CodeIndex(np.array([[3], [128], [2]], np.uint8))
            >>> steps = np.array([5, 0, 0, 0, 0, 0, 1, 2], np.uint8)
            >>> rows, apart = index.pool_by_steps(np.array([0], np.uint8), steps, at_least=2)
            >>> rows.tolist(), apart.tolist()
            ([0, 2], [3, 1])
        """
        query = self._checked_query(query)
        at_least = checked_integer(at_least, 1, "at_least")
        scan, allowed, names = self._narrowed(allowed)
        rows, apart = scan.pool_by_steps(query, planes(steps, self.code_bytes), at_least, allowed)
        return (rows if names is None else names[rows]), apart

    def bits_apart(self, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Hamming distances of some rows from a query.

        Args:
            query: uint8 `(code_bytes,)`.
            rows: int64 `(p,)`.

        Returns:
            int32 `(p,)`.

        Raises:
            ShapeError: the query's code has another length than the index's.

        Example:
            >>> import numpy as np
            >>> index = CodeIndex(np.array([[3], [1], [2]], np.uint8))
            >>> index.bits_apart(np.array([0], np.uint8), np.array([0, 2])).tolist()
            [2, 1]
        """
        query, none = self._checked_query(query), np.empty(0, bool)
        words = self._scan.words[rows]
        return plain.bits_apart(words, query[0], none, none, 0, len(rows)).astype(np.int32)

    def _within(self, queries: np.ndarray, threshold: int, allowed: np.ndarray | None) -> Answers:
        scan, mask, names = self._narrowed(allowed)
        if names is not None:
            rows, bits, borders = scan.within(queries, threshold, mask)
            return names[rows], bits, borders
        prepared = self._groups_for(len(queries)) or self._tables_for(threshold, len(queries))
        if prepared is not None:
            return self._prepared_within(prepared, queries, threshold, mask)
        return scan.within(queries, threshold, mask)

    def _nearest(
        self, queries: np.ndarray, k: int, allowed: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        k = checked_integer(k, 1, "k")
        groups = self._groups_for(len(queries), allowed)
        if groups is not None:
            return self._grouped_nearest(groups, queries, k)
        scan, allowed, names = self._narrowed(allowed)
        rows, bits = scan.nearest(queries, k, allowed)
        return rows if names is None else names[rows], bits

    def _prepared_within(
        self,
        prepared: "_Prepared[Any]",
        queries: np.ndarray,
        threshold: int,
        allowed: np.ndarray | None,
    ) -> Answers:
        end, mask = prepared.num_rows, None if allowed is None else allowed[: prepared.num_rows]
        if len(prepared.gone) and self._live is not None:
            mask = self._live[:end] if mask is None else mask & self._live[:end]
        found = prepared.search.within(queries, threshold, mask)
        if end == self.num_rows:
            return found
        behind = None if allowed is None else allowed[end:]
        rows, bits, borders = self._tail(end).within(queries, threshold, behind)
        return query_by_query(found, (rows + end, bits, borders))

    def _grouped_nearest(
        self, groups: "_Prepared[distinct.DistinctCodes]", queries: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        rows, bits = groups.search.nearest(queries, k + len(groups.gone))
        if groups.num_rows == self.num_rows and not len(groups.gone):
            return rows, bits
        tail_rows, tail_bits = self._tail(groups.num_rows).nearest(queries, k)
        found = [
            first_by_bits(*self._with_tail(groups, *one), k)
            for one in zip(rows, bits, tail_rows, tail_bits, strict=True)
        ]
        return np.array([rows for rows, _ in found]), np.array([bits for _, bits in found])

    def _tail_pool(
        self, groups: "_Prepared[distinct.DistinctCodes]", query: np.ndarray, at_least: int
    ) -> tuple[np.ndarray, np.ndarray]:
        if groups.num_rows == self.num_rows:
            return np.empty(0, np.int64), np.empty(0, np.int32)
        return self._tail(groups.num_rows).pool(query, at_least)

    def _with_tail(
        self,
        groups: "_Prepared[distinct.DistinctCodes]",
        rows: np.ndarray,
        bits: np.ndarray,
        tail_rows: np.ndarray,
        tail_bits: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """What the groups found without rows that are gone, then what was found in later rows."""
        if len(groups.gone) and self._live is not None:
            left = self._live[rows]
            rows, bits = rows[left], bits[left]
        return (
            np.concatenate([rows, tail_rows + groups.num_rows]),
            np.concatenate([bits, tail_bits]),
        )

    def _tail(self, start: int) -> Scan:
        live = None if self._live is None else self._live[start:]
        return Scan(self._scan.words[start:], live, self.num_threads)

    def _narrowed(
        self, allowed: np.ndarray | None
    ) -> tuple[Scan, np.ndarray | None, np.ndarray | None]:
        """Return a scan, its mask, and the rows' names where few are allowed."""
        allowed = _checked_mask(allowed, self.num_rows, "allowed")
        if allowed is None or np.count_nonzero(allowed) * RARE > self.num_rows:
            return self._scan, allowed, None
        rows = np.flatnonzero(allowed if self._live is None else allowed & self._live)
        return Scan(self._scan.words[rows], None, self.num_threads), None, rows

    def _groups_for(
        self, num_queries: int, allowed: np.ndarray | None = None
    ) -> _Prepared[distinct.DistinctCodes] | None:
        """Return the groups of equal codes if they are to be used now."""
        if allowed is not None:
            return None
        if self.method == "auto" and self._scan.words.size >= LEAST_WORDS_TO_GROUP:
            self._count_searches("distinct", num_queries)
        return self._groups

    def _tables_for(self, threshold: int, num_queries: int) -> _Prepared[mih.MultiIndex] | None:
        """Return the tables of substrings if they are to be used now."""
        if self.method == "auto":
            if not self._tables_may_pay(threshold, num_queries):
                return None
            self._count_searches("mih", num_queries)
            if self._tables is not None and not self._tables.search.pays(threshold, num_queries):
                return None
        return self._tables

    def _tables_may_pay(self, threshold: int, num_queries: int) -> bool:
        cost_of_scan = mih.scan_cost(self._scan.words.size, num_queries)
        if threshold == 0 or cost_of_scan <= mih.CALL_COST:
            return False
        widths = mih.substring_widths(self.num_rows, 8 * self.code_bytes)
        return mih.expected_cost(self.num_rows, widths, threshold) < cost_of_scan

    def _count_searches(self, method: str, num_queries: int) -> None:
        """Group or tabulate the codes when searches have paid for it; once, by one thread."""
        enough = SEARCHES_BEFORE_GROUPING if method == "distinct" else SEARCHES_BEFORE_TABLES
        if self._searches[method] >= enough:
            return
        with self._preparing:
            before = self._searches[method]
            self._searches[method] += num_queries
            if before < enough <= self._searches[method]:
                self._tried[method] = self.num_rows
                if method == "distinct":
                    self._groups = self._grouped()
                else:
                    self._tables = self._tabulated()

    def _grouped(self, **options: int) -> _Prepared[distinct.DistinctCodes] | None:
        kernels = compiled.load()
        if kernels is None:
            return None
        words, live = self._scan.words, self._live
        made = distinct.grouped(kernels, words, live, self.num_threads, **options)
        none = np.empty(0, np.int64)
        return None if made is None else _Prepared(made, self.num_rows, self._live, none)

    def _tabulated(self) -> _Prepared[mih.MultiIndex] | None:
        kernels = compiled.load()
        if kernels is None:
            return None
        words, num_bits = self._scan.words, 8 * self.code_bytes
        made = mih.MultiIndex(kernels, words, num_bits, self._live, self.num_threads)
        return _Prepared(made, self.num_rows, self._live, np.empty(0, np.int64))

    def _checked_query(self, query: np.ndarray) -> np.ndarray:
        if (
            not isinstance(query, np.ndarray)
            or query.dtype != np.uint8
            or query.shape != (self.code_bytes,)
        ):
            raise ShapeError(
                f"A query's code is a uint8 array of shape ({self.code_bytes},), like the"
                f" index's codes of {self.code_bytes} bytes.",
                _described(query),
                "Encode the query with the encoder that the index was built with.",
            )
        return to_words(query[None])

    def _checked_queries(self, queries: np.ndarray) -> np.ndarray:
        if (
            not isinstance(queries, np.ndarray)
            or queries.dtype != np.uint8
            or queries.ndim != 2
            or queries.shape[1] != self.code_bytes
        ):
            raise ShapeError(
                f"Queries' codes are a uint8 array of shape (num_queries, {self.code_bytes}),"
                f" like the index's codes of {self.code_bytes} bytes.",
                _described(queries),
                "Encode the queries with the encoder that the index was built with.",
            )
        return to_words(queries)


def planes(steps: np.ndarray, code_bytes: int) -> np.ndarray:
    """Write whole numbers, one a bit of a code, as codes: one for each binary digit.

    A sum of such numbers over some bits then is a count of bits for each digit.

    Args:
        steps: uint8 `(num_bits,)`, 0 to 15.
        code_bytes: int.

    Returns:
        uint64 `(4, num_words)`, the lowest digit first, as `to_words` gives them.

    Example:
        >>> import numpy as np
        >>> planes(np.array([0, 5, 2], np.uint8), code_bytes=1).shape
        (4, 1)
    """
    digits = (steps >> np.arange(DIGITS, dtype=np.uint8)[:, None]) & 1
    packed = np.zeros((DIGITS, code_bytes), np.uint8)
    packed[:, : -(-len(steps) // 8)] = np.packbits(digits, axis=1)
    return to_words(packed)


def to_words(codes: np.ndarray) -> np.ndarray:
    """Return codes as uint64 `(n, num_words)`, zero-padded; without a copy where they fit.

    The order of bits within a word is the machine's and never matters: distances only count.

    Args:
        codes: uint8 `(n, code_bytes)`.

    Returns:
        uint64 `(n, num_words)`, C-contiguous and aligned; a view where that is possible.

    Example:
        >>> import numpy as np
        >>> to_words(np.zeros((3, 9), np.uint8)).shape
        (3, 2)
    """
    num_rows, code_bytes = codes.shape
    if code_bytes % 8 == 0 and codes.flags.c_contiguous:
        words = np.asarray(codes).view(np.uint64)
        if words.flags.aligned:
            return words
    padded = np.zeros((num_rows, -(-code_bytes // 8) * 8), np.uint8)
    padded[:, :code_bytes] = codes
    return padded.view(np.uint64)


def _checked_codes(codes: np.ndarray) -> np.ndarray:
    if (
        not isinstance(codes, np.ndarray)
        or codes.dtype != np.uint8
        or codes.ndim != 2
        or not 1 <= codes.shape[1] <= MAX_CODE_BYTES
    ):
        raise ShapeError(
            f"Codes are a uint8 array of shape (n, code_bytes), 1 to {MAX_CODE_BYTES} bytes each.",
            _described(codes),
            "Pack bits with hashnet.codes first.",
        )
    return codes


def _checked_mask(mask: np.ndarray | None, num_rows: int, name: str) -> np.ndarray | None:
    if mask is None:
        return None
    if not isinstance(mask, np.ndarray) or mask.dtype != bool or mask.shape != (num_rows,):
        raise ShapeError(
            f"{name} is a bool array of shape ({num_rows},), one for each row.",
            _described(mask),
            "Pass a mask over the rows of this index.",
        )
    return mask


def _described(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} array of shape {value.shape}"
    return f"{type(value).__name__} {value!r}"
