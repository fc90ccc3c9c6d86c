"""The loops of the plain scan in NumPy, for where nothing is compiled.

As for the kernels, a mask of length 0 lets every row pass, and a range of rows `first..last` is
one thread's share. Rows are taken in blocks that stay in the nearest caches, from which the
next step reads what the last has written.
"""

import numpy as np

BLOCK_WORDS = 1 << 15


def bits_apart(
    words: np.ndarray,
    query: np.ndarray,
    live: np.ndarray,
    allowed: np.ndarray,
    first: int,
    last: int,
) -> np.ndarray:
    """The Hamming distances of a range of rows.

    Args:
        words: uint64 `(n, num_words)`.
        query: uint64 `(num_words,)`.
        live, allowed: bool `(n,)`, or of length 0.
        first, last: int. The range of rows, `last` not included.

    Returns:
        uint16 `(last - first,)`; one more than codes have bits where a row does not pass.

    Example:
        >>> words, every_row = np.array([[1], [7], [2]], np.uint64), np.zeros(0, bool)
        >>> bits_apart(words, words[0], np.array([True, True, False]), every_row, 0, 3).tolist()
        [0, 2, 65]
    """
    apart = np.empty(last - first, np.uint16)
    for start in range(first, last, _step(words)):
        stop = min(start + _step(words), last)
        # Column by column: NumPy takes many times as long to add up short rows.
        block = np.bitwise_count(words[start:stop, 0] ^ query[0]).astype(np.uint16)
        for place in range(1, len(query)):
            block += np.bitwise_count(words[start:stop, place] ^ query[place])
        for passing in (live, allowed):
            if passing.size:
                block[~passing[start:stop]] = 64 * len(query) + 1
        apart[start - first : stop - first] = block
    return apart


def steps_apart(
    words: np.ndarray,
    query: np.ndarray,
    planes: np.ndarray,
    live: np.ndarray,
    allowed: np.ndarray,
    first: int,
    last: int,
) -> np.ndarray:
    """The steps of certainty of the bits in which a range of rows differ from a query.

    Args:
        words, query, live, allowed, first, last: see `bits_apart`.
        planes: uint64 `(num_digits, num_words)`, see `hamming.planes`.

    Returns:
        int32 `(last - first,)`; one more than there can be where a row does not pass.

    Example:
        >>> words, every_row = np.array([[1], [3], [2]], np.uint64), np.zeros(0, bool)
        >>> planes = np.array([[1], [2]], np.uint64)  # one step for bit 0, two for bit 1
        >>> steps_apart(words, words[0], planes, every_row, every_row, 0, 3).tolist()
        [0, 2, 3]
    """
    most = most_steps(planes)
    apart = np.empty(last - first, np.int32)
    for start in range(first, last, _step(words)):
        stop = min(start + _step(words), last)
        block = np.zeros(stop - start, np.int32)
        for place in range(len(query)):
            differing = words[start:stop, place] ^ query[place]
            for digit, plane in enumerate(planes[:, place]):
                block += np.bitwise_count(differing & plane).astype(np.int32) << digit
        for passing in (live, allowed):
            if passing.size:
                block[~passing[start:stop]] = most + 1
        apart[start - first : stop - first] = block
    return apart


def most_steps(planes: np.ndarray) -> int:
    """How many steps of certainty all bits have together.

    Args:
        planes: uint64 `(num_digits, num_words)`, see `hamming.planes`.

    Returns:
        int.

    Example:
        >>> most_steps(np.array([[1], [2]], np.uint64))
        3
    """
    counts = np.bitwise_count(planes).sum(axis=1, dtype=np.int64)
    return int((counts << np.arange(len(planes))).sum())


def within(
    words: np.ndarray,
    queries: np.ndarray,
    threshold: int,
    live: np.ndarray,
    allowed: np.ndarray,
    first: int,
    last: int,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Find the rows of a range that are fewer than `threshold` bits from each query.

    A block of codes is compared with every query while it is in the cache.

    Args:
        words, live, allowed, first, last: see `bits_apart`.
        queries: uint64 `(num_queries, num_words)`.
        threshold: int, bits, at most one more than codes have.

    Returns:
        For each query rows int64, ascending, and bits int32.

    Example:
        >>> words, every_row = np.array([[1], [7], [2]], np.uint64), np.zeros(0, bool)
        >>> [(rows, bits)] = within(words, words[:1], 3, every_row, every_row, 0, 3)
        >>> rows.tolist(), bits.tolist()
        ([0, 1, 2], [0, 2, 2])
    """
    found: list[list[tuple[np.ndarray, np.ndarray]]] = [
        [(np.empty(0, np.int64), np.empty(0, np.int32))] for _ in queries
    ]
    for start in range(first, last, _step(words)):
        stop = min(start + _step(words), last)
        for query, runs in zip(queries, found, strict=True):
            apart = bits_apart(words, query, live, allowed, start, stop)
            near = np.flatnonzero(apart < threshold)
            if near.size:
                runs.append((near + start, apart[near].astype(np.int32)))
    return [joined(runs) for runs in found]


def histogram(apart: np.ndarray, max_bits: int) -> np.ndarray:
    """Count rows by their distance.

    Args:
        apart: uint16, as `bits_apart` returns it, or int32, as `steps_apart` does.
        max_bits: int. How many bits codes have, padding included; or steps.

    Returns:
        int64 `(max_bits + 1,)`; element d counts the rows at Hamming distance d.

    Example:
        >>> histogram(np.array([0, 2, 2, 9], np.uint16), max_bits=8).tolist()
        [1, 0, 2, 0, 0, 0, 0, 0, 0]
    """
    counts = np.zeros(max_bits + 2, np.int64)
    for start in range(0, len(apart), BLOCK_WORDS):
        counts += np.bincount(apart[start : start + BLOCK_WORDS], minlength=max_bits + 2)
    return counts[:-1]


def joined(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Join rows and bits of consecutive ranges.

    Args:
        parts: list of (rows int64, bits int32), one or more.

    Returns:
        One such pair.
    """
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([rows for rows, _ in parts]), np.concatenate([bits for _, bits in parts])


def _step(words: np.ndarray) -> int:
    return max(1, BLOCK_WORDS // words.shape[1])
