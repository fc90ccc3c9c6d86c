"""Inverted lists: of each visual word, the images that have it, and their signatures of it.

An image falls to some visual words of a codebook (`hashnet.local.codebook`), each with one
signature. Lists turn that round, so that a query reads those of its own words only.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from hashnet import system, threads
from hashnet.local.codebook import Codebook

# Of one image: words, uint32 `(w,)`, ascending, each once; and signatures, as many.
Signatures = tuple[np.ndarray, np.ndarray]
# Of an image, as `WordLists.lengths` count them.
MOST_SIGNATURES = 2**16 - 1


@dataclasses.dataclass(frozen=True, eq=False)
class WordLists:
    """The inverted lists of some consecutive rows.

    Attributes:
        first_row: int. The first one.
        lengths: uint16 `(num_rows,)`, the signatures of each row; 0 of regions, and of rows that
            were dead when the lists were made.
        words: uint32 `(w,)`, ascending: the words that some row has.
        ends: uint32 `(w,)`. Where in the next two the list of each word ends.
        rows: uint32 `(n,)`, counted from `first_row`, ascending within a word.
        signatures: uint32 or uint64 `(n,)`.

    Example:
        >>> some = np.array([3, 7], np.uint32), np.array([1, 2], np.uint64)
        >>> lists = WordLists.of(10, [some, nothing(64), some])
        >>> lists.words.tolist(), lists.ends.tolist(), lists.rows.tolist()
        ([3, 7], [2, 4], [0, 2, 0, 2])
        >>> lists.of_rows([12])[0][1].tolist()
        [1, 2]
    """

    first_row: int
    lengths: np.ndarray
    words: np.ndarray
    ends: np.ndarray
    rows: np.ndarray
    signatures: np.ndarray

    @property
    def num_rows(self) -> int:
        """int. The rows that they are of."""
        return len(self.lengths)

    @property
    def end_row(self) -> int:
        """int. The first row behind them."""
        return self.first_row + self.num_rows

    @classmethod
    def of(cls, first_row: int, of_rows: Sequence[Signatures]) -> "WordLists":
        """Those of rows whose signatures are known.

        Args:
            first_row: int.
            of_rows: the `Signatures` of each row from there on, one or more.

        Returns:
            `WordLists`.
        """
        lengths = np.array([len(words) for words, _ in of_rows])
        rows = np.repeat(np.arange(len(lengths), dtype=np.uint32), lengths)
        words, signatures = (np.concatenate(arrays) for arrays in zip(*of_rows, strict=True))
        order = np.argsort(words, kind="stable")
        return cls._listed(first_row, len(lengths), words[order], rows[order], signatures[order])

    @classmethod
    def joined(cls, parts: Sequence["WordLists"]) -> "WordLists":
        """One for the rows of several, which follow one another.

        Args:
            parts: one or more `WordLists`.

        Returns:
            `WordLists`.
        """
        if len(parts) == 1:
            return parts[0]
        first_row, num_entries = parts[0].first_row, sum(len(part.rows) for part in parts)
        words = np.unique(np.concatenate([part.words for part in parts]))
        counts = np.zeros(len(words), np.int64)
        for part in parts:
            counts[np.searchsorted(words, part.words)] += part.sizes()
        ends = np.cumsum(counts)
        free = ends - counts  # where in the list of each word the next entry goes
        rows = np.empty(num_entries, np.uint32)
        signatures = np.empty(num_entries, parts[0].signatures.dtype)
        for part in parts:
            at, sizes = np.searchsorted(words, part.words), part.sizes()
            places = np.repeat(free[at] - (part.ends - sizes), sizes) + np.arange(len(part.rows))
            rows[places] = part.rows + np.uint32(part.first_row - first_row)
            signatures[places] = part.signatures
            free[at] += sizes
        lengths = np.concatenate([part.lengths for part in parts])
        return cls(first_row, lengths, words, ends.astype(np.uint32), rows, signatures)

    @classmethod
    def _listed(
        cls,
        first_row: int,
        num_rows: int,
        words: np.ndarray,
        rows: np.ndarray,
        signatures: np.ndarray,
    ) -> "WordLists":
        """Lists of entries that are in their order."""
        last = np.flatnonzero(np.append(words[1:] != words[:-1], True)[: len(words)])
        lengths = np.bincount(rows, minlength=num_rows).astype(np.uint16)
        ends = (last + 1).astype(np.uint32)
        return cls(first_row, lengths, words[last].astype(np.uint32), ends, rows, signatures)

    def sizes(self) -> np.ndarray:
        """int64 `(w,)`: how many entries the list of each word has."""
        sizes: np.ndarray = np.diff(self.ends.astype(np.int64), prepend=0)
        return sizes

    def of_entries(self) -> np.ndarray:
        """uint32 `(n,)`: the word of each signature."""
        return np.repeat(self.words, self.sizes())

    def moved(self, first_row: int, kept: np.ndarray) -> "WordLists":
        """Those of some of the rows, which follow one another in their order from another row on.

        Args:
            first_row: int.
            kept: bool `(num_rows,)`. The rows that stay.

        Returns:
            `WordLists`.
        """
        to = np.cumsum(kept, dtype=np.uint32) - np.uint32(1)
        stay = kept[self.rows]
        words, rows = self.of_entries()[stay], to[self.rows[stay]]
        return self._listed(
            first_row, int(np.count_nonzero(kept)), words, rows, self.signatures[stay]
        )

    def without(self, dead: np.ndarray) -> "WordLists":
        """The same rows, some of which have no signatures any more.

        Args:
            dead: bool `(num_rows,)`. These.

        Returns:
            `WordLists`.
        """
        if not dead.any():
            return self
        stay = ~dead[self.rows]
        words, rows = self.of_entries()[stay], self.rows[stay]
        return self._listed(self.first_row, self.num_rows, words, rows, self.signatures[stay])

    def of_rows(self, rows: Iterable[int]) -> list[Signatures]:
        """Turned round again: the signatures of some rows.

        Args:
            rows: int, of the index; they may repeat.

        Returns:
            list of `Signatures`.
        """
        wanted, which = np.unique(np.fromiter(rows, np.int64) - self.first_row, return_inverse=True)
        is_wanted = np.zeros(self.num_rows, bool)
        is_wanted[wanted] = True
        at = np.flatnonzero(is_wanted[self.rows])
        at = at[np.argsort(self.rows[at], kind="stable")]
        words = self.words[np.searchsorted(self.ends, at, "right")]
        borders = np.cumsum(self.lengths[wanted], dtype=np.int64)[:-1]
        found = list(
            zip(np.split(words, borders), np.split(self.signatures[at], borders), strict=True)
        )
        return [found[place] for place in which.tolist()]


def signatures_of(codebook: Codebook, descriptors: np.ndarray) -> Signatures:
    """The signatures that an index keeps of an image: those of what it keeps of its descriptors.

    Args:
        codebook: `Codebook`.
        descriptors: float32 or float16 `(m, descriptor_dim)`.

    Returns:
        `Signatures`.
    """
    words, signatures = codebook.signatures(np.asarray(descriptors, np.float16))
    return words[:MOST_SIGNATURES], signatures[:MOST_SIGNATURES]


def signatures_of_all(codebook: Codebook, descriptors: Sequence[np.ndarray]) -> list[Signatures]:
    """The signatures of several images, on all cores.

    Args:
        codebook: `Codebook`.
        descriptors: arrays as for `signatures_of`.

    Returns:
        list of `Signatures`.
    """
    with threads.blas_threads(1):
        return threads.mapped(lambda one: signatures_of(codebook, one), descriptors, system.cores())


def nothing(num_bits: int) -> Signatures:
    """The `Signatures` of an image without local features, and of each region.

    Args:
        num_bits: int, 32 or 64.

    Returns:
        `Signatures`.
    """
    return np.empty(0, np.uint32), np.empty(0, f"u{num_bits // 8}")
