"""Visual words: local features of an image, aggregated to a signature of some bits a word.

A codebook divides the space of descriptors into cells, and each cell into *words*. All features of
an image that fall to one word are aggregated to one signature: the signs of the sum of their
differences from the word, seen in as many random directions as it has bits. Two images are alike
where signatures of words they share differ in few bits (`hashnet.retrieval.search.local_pool`).

Reference:
    Tolias, Avrithis and Jegou, "Image search with selective match kernels: aggregation across
    single and multiple images", IJCV 2016: the binary aggregated selective match kernel, ASMK*.
"""

import itertools
import math
import struct
import zlib
from typing import Any

import numpy as np

from hashnet import threads
from hashnet.checks import checked_integer, described
from hashnet.errors import ArgumentError, ShapeError, StoreError

# Descriptors that a codebook is fitted to, at most: more make it no better.
MOST_DESCRIPTORS = 1 << 20
DESCRIPTORS_A_WORD = 16
LEAST_WORDS, MOST_WORDS = 256, 65536
NUM_BITS = 32
# An index has outgrown its codebook when it deserves so many times the words.
OUTGROWN = 4
# Cells whose words are looked at for the nearest ones.
PROBES = 3
ROUNDS = 8
# Descriptors a cell from which cells are learned.
DESCRIPTORS_A_CELL = 256
# Descriptors that are compared at one time: the same on any number of threads, since products of
# other shapes may be rounded otherwise.
AT_ONCE = 1024

# Cells worth a thread of their own, for the features of one image.
LEAST_CELLS = 16

_MAGIC, _VERSION = b"HNCB", 1
# Magic, version, bits, descriptor_dim, cells, words, CRC-32 of what follows.
_HEADER = struct.Struct("<4sHHIIII")
_MOST_DIM = 4096


def num_words_for(num_descriptors: int) -> int:
    """The number of words that so many descriptors deserve, the nearest power of two.

    Args:
        num_descriptors: int, of a whole index.

    Returns:
        int, 256 to 65,536.

    Example:
        >>> num_words_for(100), num_words_for(100_000), num_words_for(10**9)
        (256, 8192, 65536)
    """
    deserved = max(num_descriptors / DESCRIPTORS_A_WORD, 1.0)
    return min(max(1 << round(math.log2(deserved)), LEAST_WORDS), MOST_WORDS)


def sample(counts: np.ndarray, most: int = MOST_DESCRIPTORS, *, seed: int = 0) -> np.ndarray:
    """Draw images whose descriptors a codebook is fitted to.

    Args:
        counts: int `(n,)`. How many descriptors each row has.
        most: int. Descriptors wanted; those of the rows drawn are no more.
        seed: int.

    Returns:
        int64, ascending: rows that have descriptors. All of them, if these are not too many.

    Example:
        >>> sample(np.array([3, 0, 4, 9]), 16).tolist()
        [0, 2, 3]
        >>> sample(np.array([5, 5, 5, 5]), 10).tolist()
        [0, 2]
    """
    order = np.random.default_rng(seed).permutation(len(counts))
    order = order[counts[order] > 0]
    return np.sort(order[np.cumsum(counts[order], dtype=np.int64) <= most]).astype(np.int64)


class Codebook:
    """Words, and the directions in which differences from them are seen; it does not change.

    Made by `fit` or `from_bytes`.

    Attributes:
        num_words: int.
        descriptor_dim: int.
        num_bits: int. Of a signature: 32 or 64.

    Example:
        >>> around = np.random.default_rng(0).normal(size=(1000, 40)).astype(np.float32)
        >>> codebook = Codebook.fit(around)
        >>> words, signatures = codebook.signatures(around[:9])
        >>> codebook.num_words, len(words) <= 9, signatures.dtype == np.uint32
        (256, True, True)
    """

    def __init__(
        self, cells: np.ndarray, ends: np.ndarray, words: np.ndarray, directions: np.ndarray
    ) -> None:
        self._cells, self._words = cells, words  # float32 (cells, d) and (words, d)
        self._ends = ends  # uint32 (cells,): of the words of each cell
        self._directions = directions  # float32 (d, num_bits)
        self.num_words, self.descriptor_dim = words.shape
        self.num_bits: int = directions.shape[1]
        # Half the squared lengths: what products are compared with.
        self._cell_halves = np.square(cells).sum(axis=1) / 2
        self._word_halves = np.square(words).sum(axis=1) / 2
        self._projected = words @ directions

    @classmethod
    def fit(cls, descriptors: np.ndarray, *, seed: int = 0, num_threads: int = 1) -> "Codebook":
        """Learn a codebook by k-means, first of the cells, then of the words of each.

        Args:
            descriptors: float32 or float16 `(n, d)`, of the images that are to be searched; rows
                that are not finite are left out. `num_words_for(n)` words are learned of them.
            seed: int. Of the first words and of the directions.
            num_threads: int. The codebook does not depend on it.

        Returns:
            A `Codebook`.

        Raises:
            ShapeError: the descriptors are no such array.
            ArgumentError: there is no descriptor.
        """
        descriptors = _checked(descriptors, None)
        if not len(descriptors):
            raise ArgumentError(
                "A codebook is fitted to descriptors.",
                "none that is finite",
                "Give the local features of some images.",
            )
        rng = np.random.default_rng(seed)
        num_words = min(num_words_for(len(descriptors)), len(descriptors))
        num_cells = 1 << (num_words.bit_length() // 2)
        with threads.blas_threads(1):
            some = rng.permutation(len(descriptors))[: DESCRIPTORS_A_CELL * num_cells]
            cells = _halved(means(descriptors[np.sort(some)], num_cells, rng, num_threads))
            nearest = nearest_means(descriptors, cells, num_threads)
            found, counts = np.unique(nearest, return_counts=True)
            cells, shares = cells[found], _shares(counts, num_words)
            members = np.split(np.argsort(nearest, kind="stable"), np.cumsum(counts)[:-1])
            seeds = rng.integers(0, 2**63, len(cells))

            def words_of(cell: int) -> np.ndarray:
                own = np.random.default_rng(seeds[cell])
                return means(descriptors[members[cell]], int(shares[cell]), own, 1)

            words = threads.mapped(words_of, range(len(cells)), num_threads)
            directions = _directions(descriptors.shape[1], NUM_BITS, rng)
            ends = np.cumsum(shares, dtype=np.uint32)
            return cls(cells, ends, _halved(np.concatenate(words)), directions)

    def signatures(
        self, descriptors: np.ndarray, *, assignments: int = 1, num_threads: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """Aggregate the local features of one image.

        Args:
            descriptors: float32 or float16 `(n, descriptor_dim)`; rows that are not finite are
                left out.
            assignments: int, 1 or more. Nearest words that each descriptor falls to.
            num_threads: int. The answer does not depend on it.

        Returns:
            words: uint32 `(w,)`, ascending, each once; w is at most n * assignments.
            signatures: uint32 `(w,)`, or uint64 where `num_bits` is 64.

        Raises:
            ShapeError: the descriptors have another dtype or size.
            ArgumentError: `assignments` is under 1.
        """
        assignments = checked_integer(assignments, 1, "assignments")
        descriptors = _checked(descriptors, self.descriptor_dim)
        kind = np.uint32 if self.num_bits == 32 else np.uint64
        if not len(descriptors):
            return np.zeros(0, np.uint32), np.zeros(0, kind)
        with threads.blas_threads(1):
            nearest = self._nearest_words(
                descriptors, min(assignments, self.num_words), num_threads
            )
            rows, columns = np.nonzero(nearest >= 0)
            found = nearest[rows, columns]
            order = np.argsort(found, kind="stable")
            projected = descriptors @ self._directions
            words, starts = np.unique(found[order], return_index=True)
            differences = projected[rows[order]] - self._projected[found[order]]
            sums = np.add.reduceat(differences, starts, axis=0, dtype=np.float64)
        packed = np.packbits(sums > 0, axis=1, bitorder="little")
        return words.astype(np.uint32), packed.view(f"<u{self.num_bits // 8}")[:, 0].astype(kind)

    def _nearest_words(
        self, descriptors: np.ndarray, count: int, num_threads: int = 1
    ) -> np.ndarray:
        """int64 `(n, count)`: nearest words of the nearest cells, nearest first; -1 for none."""
        probes = min(PROBES, len(self._cells))
        apart = self._cell_halves - descriptors @ self._cells.T
        probed = np.argpartition(apart, probes - 1, axis=1)[:, :probes].reshape(-1)
        rows = np.repeat(np.arange(len(descriptors)), probes)
        order = np.argsort(probed, kind="stable")
        cells, firsts = np.unique(probed[order], return_index=True)
        borders = [*firsts.tolist(), len(order)]
        best = np.full((len(descriptors) * probes, count), -1, np.int64)
        distances = np.full(best.shape, np.inf, np.float32)
        starts = [0, *self._ends.tolist()]

        def compare(first: int, last: int) -> None:
            for number, cell in enumerate(cells[first:last].tolist(), first):
                entries = order[borders[number] : borders[number + 1]]
                words = slice(starts[cell], starts[cell + 1])
                apart = self._word_halves[words] - descriptors[rows[entries]] @ self._words[words].T
                places = _smallest(apart, min(count, apart.shape[1]))
                kept = slice(0, places.shape[1])
                best[entries, kept] = places + words.start
                distances[entries, kept] = apart[np.arange(len(entries))[:, None], places]

        threads.in_parts(compare, len(cells), num_threads, LEAST_CELLS)
        best = best.reshape(len(descriptors), -1)
        distances = distances.reshape(len(descriptors), -1)
        if count == 1:
            return best[np.arange(len(best)), distances.argmin(axis=1)][:, None]
        return np.take_along_axis(best, np.lexsort((best, distances), axis=1)[:, :count], 1)

    def is_outgrown(self, num_descriptors: int) -> bool:
        """Whether an index of so many descriptors deserves far more words.

        Args:
            num_descriptors: int.

        Returns:
            bool.
        """
        # Of fewer descriptors than words are deserved, each is a word.
        return min(num_words_for(num_descriptors), num_descriptors) > OUTGROWN * self.num_words

    def to_bytes(self) -> bytes:
        """The codebook as bytes, for `from_bytes`."""
        body = b"".join(
            [
                self._ends.astype("<u4").tobytes(),
                self._directions.astype("<f4").tobytes(),
                self._cells.astype("<f2").tobytes(),
                self._words.astype("<f2").tobytes(),
            ]
        )
        sizes = self.num_bits, self.descriptor_dim, len(self._cells), self.num_words
        return _HEADER.pack(_MAGIC, _VERSION, *sizes, zlib.crc32(body)) + body

    @classmethod
    def from_bytes(cls, content: bytes) -> "Codebook":
        """Read a codebook.

        Args:
            content: bytes of `to_bytes`.

        Returns:
            A `Codebook`.

        Raises:
            StoreError: these are others, damaged, or of a newer version.
        """
        try:
            magic, version, num_bits, dim, num_cells, num_words, crc = _HEADER.unpack_from(content)
        except struct.error as error:
            raise _damaged(f"{len(content)} bytes") from error
        if magic != _MAGIC:
            raise _damaged(f"bytes that begin with {magic!r}")
        if version != _VERSION:
            raise StoreError(
                f"This version reads codebooks of version {_VERSION}.",
                f"version {version}",
                "Was it written by a newer version of HashNet?",
            )
        sizes = (4 * num_cells, 4 * dim * num_bits, 2 * num_cells * dim, 2 * num_words * dim)
        body = memoryview(content)[_HEADER.size :]
        if (
            num_bits not in (32, 64)
            or not 1 <= dim <= _MOST_DIM
            or not 1 <= num_cells <= num_words <= MOST_WORDS
            or len(body) != sum(sizes)
            or zlib.crc32(body) != crc
        ):
            raise _damaged(f"{len(content)} bytes, {num_words} words of {dim} numbers")
        borders = np.cumsum([0, *sizes])
        parts = [body[first:last] for first, last in itertools.pairwise(borders)]
        ends = np.frombuffer(parts[0], "<u4").astype(np.uint32)
        directions = np.frombuffer(parts[1], "<f4").reshape(dim, num_bits).astype(np.float32)
        cells = np.frombuffer(parts[2], "<f2").reshape(num_cells, dim).astype(np.float32)
        words = np.frombuffer(parts[3], "<f2").reshape(num_words, dim).astype(np.float32)
        if (
            ends[-1] != num_words
            or (np.diff(ends.astype(np.int64), prepend=0) < 1).any()
            or not all(np.isfinite(array).all() for array in (directions, cells, words))
        ):
            raise _damaged("words that are not in cells, or not finite")
        return cls(cells, ends, words, directions)


def _damaged(received: str) -> StoreError:
    return StoreError("A codebook is bytes that Codebook.to_bytes gave.", received)


def _checked(descriptors: Any, size: int | None) -> np.ndarray:
    """The descriptors that are finite, as float32 `(m, d)`."""
    array = np.asarray(descriptors)
    right_size = array.ndim == 2 and array.shape[1] > 0 and size in (None, array.shape[1])
    if not right_size or array.dtype not in (np.float32, np.float16):
        raise ShapeError(
            f"Descriptors are a float32 or float16 array of shape (m, {size or 'd'}).",
            described(array),
            "Were they extracted by the extractor that the codebook was fitted for?",
        )
    finite = np.isfinite(array).all(axis=1)
    return np.ascontiguousarray(array if finite.all() else array[finite], np.float32)


def _halved(array: np.ndarray) -> np.ndarray:
    """Rounded as they are written, so that a codebook is the same when it is read."""
    return array.astype(np.float16).astype(np.float32)


def _smallest(apart: np.ndarray, count: int) -> np.ndarray:
    """int64 `(m, count)`: columns of the smallest of each row, the first of equals first."""
    if count == 1:
        return apart.argmin(axis=1)[:, None]
    near = np.sort(np.argpartition(apart, count - 1, axis=1)[:, :count], axis=1)
    order = np.argsort(np.take_along_axis(apart, near, 1), axis=1, kind="stable")
    return np.take_along_axis(near, order, 1)


def nearest_means(descriptors: np.ndarray, centres: np.ndarray, num_threads: int = 1) -> np.ndarray:
    """Which centre each descriptor lies nearest to.

    Args:
        descriptors: float32 `(m, d)`.
        centres: float32 `(k, d)`.
        num_threads: int.

    Returns:
        int64 `(m,)`.
    """
    halves = np.square(centres).sum(axis=1) / 2
    nearest = np.empty(len(descriptors), np.int64)

    def fill(first: int, last: int) -> None:
        for block in range(first, last):
            part = slice(block * AT_ONCE, (block + 1) * AT_ONCE)
            nearest[part] = (halves - descriptors[part] @ centres.T).argmin(axis=1)

    threads.in_parts(fill, -(-len(descriptors) // AT_ONCE), num_threads, 1)
    return nearest


def means(
    descriptors: np.ndarray, count: int, rng: np.random.Generator, num_threads: int = 1
) -> np.ndarray:
    """The centres that k-means finds: Lloyd's rounds from random descriptors.

    Args:
        descriptors: float32 `(m, d)`.
        count: int, m at most.
        rng: `numpy.random.Generator`.
        num_threads: int. Where products run on one thread each, the answer does not depend on it.

    Returns:
        float32 `(count, d)`.
    """
    centres = descriptors[np.sort(rng.choice(len(descriptors), count, replace=False))]
    for _ in range(ROUNDS if count > 1 else 1):
        nearest = nearest_means(descriptors, centres, num_threads)
        order = np.argsort(nearest, kind="stable")
        present, starts = np.unique(nearest[order], return_index=True)
        sums = np.add.reduceat(descriptors[order], starts, axis=0)
        # A centre that nothing falls to stays where it is.
        centres[present] = sums / np.diff(np.append(starts, len(order)))[:, None]
    return centres


def _shares(counts: np.ndarray, total: int) -> np.ndarray:
    """int64: `total` divided by the counts, which sum up to more; one each at least."""
    borders = np.cumsum(counts) * (total - len(counts)) // counts.sum()
    return np.minimum(1 + np.diff(borders, prepend=0), counts)


def _directions(dim: int, num_bits: int, rng: np.random.Generator) -> np.ndarray:
    """float32 `(dim, num_bits)`: random directions, at right angles as far as there is room."""
    rounds = [np.linalg.qr(rng.normal(size=(dim, dim)))[0] for _ in range(-(-num_bits // dim))]
    return np.concatenate(rounds, axis=1)[:, :num_bits].astype(np.float32)
