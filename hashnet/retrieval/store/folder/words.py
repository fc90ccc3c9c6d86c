"""The local pool of an index folder: a codebook, and inverted lists by its words.

Images of consecutive rows make a *run*, as in lookups.py: what a commit adds is one, which takes in
the last runs before it that are small. Another codebook makes new runs of all rows.

    signatures   uint32 or uint64, of the first word ascending by row, then of the second...
    rows         uint32, as many, counted from the first one of the run
    words        uint32, ascending
    ends         uint32, as many: where the list of each word ends in the first two
    lengths      uint16, how many signatures each row has; of rows of regions none
    checksums    uint32, of every 4096 bytes of all of these

Each part begins at a multiple of 8 bytes. The checksums have one of their own in the catalogue,
which so stays small; what is read of a run is verified when it is read for the first time.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from zlib_ng.zlib_ng import crc32

from hashnet.errors import StoreError
from hashnet.retrieval.store.word_lists import WordLists

BLOCK_BYTES = 4096


@dataclasses.dataclass(frozen=True)
class StoredCodebook:
    """What the catalogue says of the codebook.

    Attributes:
        num_words, num_bits: int, as those of `Codebook`.
        start, num_bytes: int. Where in the file of codebooks it lies.
        sha256: str, of its bytes, as hex.
    """

    num_words: int
    num_bits: int
    start: int
    num_bytes: int
    sha256: str

    @property
    def end(self) -> int:
        """int. Where in the file it ends, in bytes."""
        return self.start + self.num_bytes

    @property
    def dtype(self) -> np.dtype[Any]:
        """numpy.dtype of signatures."""
        return np.dtype(f"<u{self.num_bits // 8}")


@dataclasses.dataclass(frozen=True)
class WordRun:
    """What the catalogue says of one run.

    Attributes:
        first_row, num_rows: int. The rows whose images it lists.
        num_words: int. Different words.
        num_signatures: int.
        signature_bytes: int, 4 or 8.
        start: int. Where in the file it begins, in bytes.
        crc: int, of its checksums.
        ALIGNED: int. Parts begin at multiples of so many bytes.
    """

    ALIGNED: ClassVar[int] = 8

    first_row: int
    num_rows: int
    num_words: int
    num_signatures: int
    signature_bytes: int
    start: int
    crc: int

    @functools.cached_property
    def places(self) -> tuple[int, ...]:
        """tuple of 7 int: where its parts begin, in bytes from its start, and where it ends."""
        sizes = [
            self.num_signatures * self.signature_bytes,
            self.num_signatures * 4,
            self.num_words * 4,
            self.num_words * 4,
            self.num_rows * 2,
        ]
        sizes = list(map(self._aligned, sizes))
        checksums = -(-sum(sizes) // BLOCK_BYTES) * 4
        return 0, *itertools.accumulate([*sizes, self._aligned(checksums)])

    @classmethod
    def _aligned(cls, size: int) -> int:
        return -(-size // cls.ALIGNED) * cls.ALIGNED

    @property
    def num_blocks(self) -> int:
        """int. Checksums."""
        return -(-self.places[5] // BLOCK_BYTES)

    @property
    def end_row(self) -> int:
        """int. The first row behind its own."""
        return self.first_row + self.num_rows

    @property
    def end(self) -> int:
        """int. Where in the file it ends, in bytes."""
        return self.start + self.places[-1]


def encoded(lists: WordLists, start: int) -> tuple[WordRun, memoryview]:
    """The run that some lists make up.

    Args:
        lists: `WordLists`.
        start: int. Where in the file it will begin, in bytes; a multiple of 8.

    Returns:
        `WordRun`, and the bytes to be written there.
    """
    run = WordRun(
        lists.first_row,
        lists.num_rows,
        len(lists.words),
        len(lists.rows),
        lists.signatures.dtype.itemsize,
        start,
        0,
    )
    content = np.zeros(run.places[-1], np.uint8)
    for number, (part, dtype) in enumerate(
        (
            (lists.signatures, f"<u{run.signature_bytes}"),
            (lists.rows, "<u4"),
            (lists.words, "<u4"),
            (lists.ends, "<u4"),
            (lists.lengths, "<u2"),
        )
    ):
        begin = run.places[number]
        content[begin : begin + part.nbytes].view(dtype)[:] = part
    covered = content[: run.places[5]]
    blocks = range(0, len(covered), BLOCK_BYTES)
    checksums = [crc32(covered[at : at + BLOCK_BYTES]) for at in blocks]
    behind = content[run.places[5] :]
    behind.view("<u4")[: len(checksums)] = checksums
    return dataclasses.replace(run, crc=crc32(behind)), content.data


class StoredWordLists:
    """A run in the file of lists; what is read of it is verified.

    Args:
        run: `WordRun`.
        content: uint8 `(run.places[-1],)`, mapped.
        damaged: gives the error to raise for what is wrong with it.
    """

    def __init__(
        self, run: WordRun, content: np.ndarray, damaged: Callable[[str], StoreError]
    ) -> None:
        self.run = run
        self._content, self._damaged = content, damaged
        self._is_verified = np.zeros(run.num_blocks, bool)
        self._lists: WordLists | None = None

    def of_words(self, words: np.ndarray) -> WordLists:
        """All lists, of which those of some words are verified.

        Args:
            words: uint32 `(n,)`.

        Returns:
            `WordLists`, mapped.

        Raises:
            StoreError: one of them is damaged.
        """
        lists = self._opened()
        at = np.searchsorted(lists.words, words)
        at = at[at < len(lists.words)]
        at = at[np.isin(lists.words[at], words)]
        ends = lists.ends.astype(np.int64)
        self._verify_entries(np.where(at > 0, ends[at - 1], 0), ends[at])
        return lists

    def whole(self) -> WordLists:
        """All lists, verified.

        Returns:
            `WordLists`, mapped.

        Raises:
            StoreError: they are damaged.
        """
        self._verify_entries(np.array([0]), np.array([self.run.num_signatures]))
        return self._opened()

    def _opened(self) -> WordLists:
        """All lists, of which it is verified where they lie."""
        if self._lists is None:
            run, places = self.run, self.run.places
            if crc32(self._content[places[5] :]) != run.crc:
                raise self._wrong()
            self._verify(np.array([places[2]]), np.array([places[5]]))
            lists = WordLists(
                run.first_row,
                self._part(4, run.num_rows, "<u2"),
                self._part(2, run.num_words, "<u4"),
                self._part(3, run.num_words, "<u4"),
                self._part(1, run.num_signatures, "<u4"),
                self._part(0, run.num_signatures, f"<u{run.signature_bytes}"),
            )
            ends = np.diff(lists.ends.astype(np.int64), prepend=0)
            if (
                not (np.diff(lists.words.astype(np.int64)) > 0).all()
                or not (ends > 0).all()
                or ends.sum() != run.num_signatures
                or lists.lengths.sum(dtype=np.int64) != run.num_signatures
            ):
                raise self._damaged("the lengths of the lists of words do not add up")
            self._lists = lists
        return self._lists

    def _part(self, number: int, count: int, dtype: str) -> np.ndarray:
        begin = self.run.places[number]
        return self._content[begin : begin + count * np.dtype(dtype).itemsize].view(dtype)

    def _verify_entries(self, starts: np.ndarray, ends: np.ndarray) -> None:
        """Verify entries from some places up to others."""
        for part, size in ((0, self.run.signature_bytes), (1, 4)):
            begin = self.run.places[part]
            self._verify(begin + starts * size, begin + ends * size)

    def _verify(self, begins: np.ndarray, ends: np.ndarray) -> None:
        """Verify the blocks of bytes from some places up to others that have not been yet."""
        some = ends > begins
        wanted = np.zeros(self.run.num_blocks + 1, np.int64)
        np.add.at(wanted, begins[some] // BLOCK_BYTES, 1)
        np.add.at(wanted, -(-ends[some] // BLOCK_BYTES), -1)
        new = np.flatnonzero((np.cumsum(wanted)[:-1] > 0) & ~self._is_verified)
        if not len(new):
            return
        checksums = self._part(5, self.run.num_blocks, "<u4")[new].tolist()
        covered, rows = self.run.places[5], self.run.places[1:3]
        for number, checksum in zip(new.tolist(), checksums, strict=True):
            start = number * BLOCK_BYTES
            end = min(start + BLOCK_BYTES, covered)
            if crc32(self._content[start:end]) != checksum:
                raise self._wrong()
            # A stranger's checksums fit what would send a search outside of its arrays.
            begin, behind = max(start, rows[0]), min(end, rows[1])
            if begin < behind and self._content[begin:behind].view("<u4").max() >= max(
                1, self.run.num_rows
            ):
                raise self._damaged("a list of words names a row that there is not")
        self._is_verified[new] = True

    def _wrong(self) -> StoreError:
        last = self.run.end_row - 1
        what = f"the lists of rows {self.run.first_row} to {last} differ from their checksum"
        return self._damaged(what)
