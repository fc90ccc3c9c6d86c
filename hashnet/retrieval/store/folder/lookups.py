"""Look-ups of images by id, by what their ids begin with, and by label.

The images of consecutive rows make a *run*: their rows sorted by the hash of their ids, by their
ids, and by their labels. A run is written once, at the end of the file of look-ups, and never
changed. What a commit adds becomes a run; so that there are never many, it takes in the last runs
before it that are small (`num_absorbed`), and the catalogue names the new run in their place.

    fences         uint64, every 512th hash
    hashes         uint64, ascending
    rows by hash   uint32, rows counted from the first one of the run, as are all below
    rows by id     uint32, in the order of the bytes of their ids
    rows by label  uint32, of the first label ascending, then of the second...
    label sizes    uint32, how many rows each label has, in the order of the bytes of the labels

Every 4096 bytes of a run have a checksum in the catalogue; what is read of it is verified. Ids and
labels themselves stand in the items, whose checksums are their own. A run lists what was live
when it was written: whether a row still is, is for the reader to see.

Indexes of format versions 1 to 3 have no such file. Their runs are made in memory.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from zlib_ng.zlib_ng import crc32

from hashnet.errors import StoreError
from hashnet.retrieval.store.folder.records import hash_id
from hashnet.retrieval.store.items import Item, to_bytes

BLOCK_BYTES = 4096
FENCE = 512
# So many runs of about one size become one of the next; of the largest there may be any number.
FAN_OUT = 8
TOP_LEVEL = 5


@dataclasses.dataclass(frozen=True)
class Run:
    """What the catalogue says of one run.

    Attributes:
        first_row, num_rows: int. The rows whose images it lists.
        num_images: int. How many were live.
        num_labelled: int. How many of these have a label.
        num_labels: int. Different labels.
        start: int. Where in the file it begins, in bytes.
        checksums: bytes, one little-endian uint32 for every `BLOCK_BYTES`.
    """

    first_row: int
    num_rows: int
    num_images: int
    num_labelled: int
    num_labels: int
    start: int
    checksums: bytes

    @functools.cached_property
    def places(self) -> tuple[int, ...]:
        """tuple of 7 int: where its parts begin, in bytes from its start, and where it ends."""
        sizes = (
            -(-self.num_images // FENCE) * 8,
            self.num_images * 8,
            self.num_images * 4,
            self.num_images * 4,
            self.num_labelled * 4,
            self.num_labels * 4,
        )
        return 0, *itertools.accumulate(sizes)

    @property
    def num_bytes(self) -> int:
        """int. Its length in the file."""
        return self.places[-1]

    @property
    def end_row(self) -> int:
        """int. The first row behind its own."""
        return self.first_row + self.num_rows

    @property
    def end(self) -> int:
        """int. Where in the file it ends, in bytes."""
        return self.start + self.num_bytes


@dataclasses.dataclass
class Entries:
    """Images that are to make up a run.

    Attributes:
        first_row, num_rows: int, as those of `Run`.
        rows: list of int, ascending, of whole images.
        ids: list of bytes, as many.
        labels: list of bytes, or None where there is none; as many.
    """

    first_row: int
    num_rows: int
    rows: list[int]
    ids: list[bytes]
    labels: list[bytes | None]

    @classmethod
    def of(
        cls, first_row: int, num_rows: int, rows: Sequence[int], items: Sequence[Item]
    ) -> "Entries":
        """Those of some items.

        Args:
            first_row, num_rows: int.
            rows: of whole images, ascending.
            items: as many.

        Returns:
            `Entries`.
        """
        labels = [None if item.label is None else to_bytes(item.label) for item in items]
        return cls(first_row, num_rows, list(rows), [to_bytes(item.id) for item in items], labels)

    def followed_by(self, other: "Entries") -> "Entries":
        """These and those of the rows right behind them.

        Args:
            other: `Entries`.

        Returns:
            `Entries`.
        """
        return Entries(
            self.first_row,
            self.num_rows + other.num_rows,
            self.rows + other.rows,
            self.ids + other.ids,
            self.labels + other.labels,
        )

    def encoded(self, start: int) -> tuple[Run, bytes]:
        """The run that they make up.

        Args:
            start: int. Where in the file it will begin, in bytes.

        Returns:
            `Run`, and the bytes to be written there.
        """
        rows = np.array(self.rows, np.int64) - self.first_row
        hashes = np.array([hash_id(id) for id in self.ids], "<u8")
        by_hash = np.argsort(hashes, kind="stable")
        hashes = hashes[by_hash]
        by_id = sorted(range(len(rows)), key=self.ids.__getitem__)
        of_label: dict[bytes, list[int]] = {}
        for place, label in enumerate(self.labels):
            if label is not None:
                of_label.setdefault(label, []).append(place)
        groups = [of_label[label] for label in sorted(of_label)]
        by_label = list(itertools.chain.from_iterable(groups))
        parts = [
            hashes[::FENCE],
            hashes,
            *(rows[order].astype("<u4") for order in (by_hash, by_id, by_label) if len(order)),
            np.array([len(group) for group in groups], "<u4"),
        ]
        content = b"".join(part.tobytes() for part in parts)
        sums = [crc32(content[at : at + BLOCK_BYTES]) for at in range(0, len(content), BLOCK_BYTES)]
        run = Run(
            self.first_row,
            self.num_rows,
            len(rows),
            len(by_label),
            len(groups),
            start,
            np.array(sums, "<u4").tobytes(),
        )
        return run, content


def num_absorbed(sizes: Sequence[int], new_size: int) -> int:
    """How many of the last runs a new one takes in.

    Those that are smaller than it by a level, and those of its level where they are so many that
    together they make up the next; so no run is smaller by a level than one behind it, no level
    has `FAN_OUT` runs, and an image is written again once a level.

    Args:
        sizes: images of the runs that there are, in the order of their rows.
        new_size: int. Images that come behind them.

    Returns:
        int.

    Example:
        >>> num_absorbed([100, 1], 1), num_absorbed([100, 1, 1, 1, 1, 1, 1, 1], 1)
        (0, 7)
        >>> num_absorbed([100, 1, 1], 50)
        2
    """
    levels, absorbed = [_level(size) for size in sizes], 0
    while True:
        level, end = _level(new_size), len(sizes) - absorbed
        smaller = end
        while smaller and levels[smaller - 1] < level:
            smaller -= 1
        first = smaller
        while first and levels[first - 1] == level < TOP_LEVEL:
            first -= 1
        if smaller - first < FAN_OUT - 1:
            first = smaller
        if first == end:
            return absorbed
        new_size += sum(sizes[first:end])
        absorbed = len(sizes) - first


def _level(size: int) -> int:
    level = 0
    while level < TOP_LEVEL and size >= FAN_OUT ** (level + 1):
        level += 1
    return level


class Reader(Protocol):
    """What look-ups read items with."""

    def items(self, rows: np.ndarray) -> list[Item]:
        """Items of some rows, each verified.

        Args:
            rows: int64 `(n,)`.

        Returns:
            list of `Item`.
        """

    def ids_of(self, rows: np.ndarray) -> list[bytes]:
        """Ids of some rows whose segments have been verified wholly.

        Args:
            rows: int64 `(n,)`.

        Returns:
            list of bytes.
        """

    def rows_of_labels(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Of some rows, whose segments have been verified wholly, those of each label.

        Args:
            rows: int64 `(n,)`.

        Returns:
            dict of label to int64, ascending.
        """


class Lookup:
    """One run, as it is read: of a file (`StoredLookup`) or made in memory (`MemoryLookup`).

    Attributes:
        first_row, num_rows, num_images: int, as those of `Run`.
    """

    first_row: int
    num_rows: int
    num_images: int

    def __init__(self) -> None:
        self._spans: dict[bytes, tuple[int, int]] = {}
        self._outside: dict[bytes, dict[str, int]] = {}
        self._counts: tuple[int, dict[str, tuple[int, int]]] | None = None

    @property
    def end_row(self) -> int:
        """int. The first row behind its own."""
        return self.first_row + self.num_rows

    def candidates(self, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images whose ids have these hashes.

        Args:
            wanted: uint64 `(n,)`.

        Returns:
            places in `wanted`, int64 `(m,)`, and the row that each may be of, int64 `(m,)`.
        """
        fences = self._fences()
        firsts = np.maximum(np.searchsorted(fences, wanted, "left") - 1, 0)
        lasts = np.searchsorted(fences, wanted, "right") - 1  # -1: before all of them
        order = np.lexsort((firsts, lasts))
        order = order[lasts[order] >= 0]
        borders = np.flatnonzero(
            (np.diff(lasts[order], prepend=-1) != 0) | (np.diff(firsts[order], prepend=-1) != 0)
        )
        none = np.empty(0, np.int64)
        found = [(none, none)]
        for places in np.split(order, borders[1:]) if len(order) else ():
            start = int(firsts[places[0]]) * FENCE
            end = min(int(lasts[places[0]] + 1) * FENCE, self.num_images)
            hashes = self._hashes(start, end)
            lefts = np.searchsorted(hashes, wanted[places], "left")
            counts = np.searchsorted(hashes, wanted[places], "right") - lefts
            if counts.any():
                begins = np.cumsum(counts) - counts
                at = np.arange(counts.sum()) + np.repeat(lefts - begins, counts)
                found.append((np.repeat(places, counts), self._rows_by_hash(start, end)[at]))
        places, rows = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
        return places, rows

    def rows(self) -> np.ndarray:
        """All rows that it lists.

        Returns:
            int64 `(num_images,)`, ascending.
        """
        return np.sort(self._rows_by_hash(0, self.num_images))

    def beginning_with(self, start: bytes, reader: Reader) -> tuple[int, int]:
        """Where in the order of ids those lie that begin so.

        Args:
            start: bytes.
            reader: `Reader`.

        Returns:
            The place of the first one, and the place behind the last.
        """
        if start not in self._spans:
            self._spans[start] = (
                self._first_place(lambda id: id[: len(start)] >= start, reader),
                self._first_place(lambda id: id[: len(start)] > start, reader),
            )
        return self._spans[start]

    def _first_place(self, reached: Callable[[bytes], bool], reader: Reader) -> int:
        low, high = 0, self.num_images
        while low < high:
            middle = (low + high) // 2
            [item] = reader.items(self.rows_by_id(middle, middle + 1, reader))
            if reached(to_bytes(item.id)):
                high = middle
            else:
                low = middle + 1
        return low

    def outside(self, start: bytes, reader: Reader) -> dict[str, int]:
        """The ids that do not begin so, and their rows.

        Args:
            start: bytes.
            reader: `Reader`.

        Returns:
            dict of str to int.
        """
        if start not in self._outside:
            first, last = self.beginning_with(start, reader)
            parts = ((0, first), (last, self.num_images))
            rows = np.concatenate([self.rows_by_id(*part, reader) for part in parts])
            ids = [item.id for item in reader.items(rows)]
            self._outside = {start: dict(zip(ids, rows.tolist(), strict=True))}
        return self._outside[start]

    def counts(self, live: np.ndarray | None, reader: Reader) -> dict[str, tuple[int, int]]:
        """Of each label that a live row has, the first such row, and how many there are.

        Args:
            live: bool, of all rows of the index; None where all are live.
            reader: `Reader`.

        Returns:
            dict of label to (row, count).
        """
        dead = 0
        if live is not None:
            dead = self.num_rows - int(np.count_nonzero(live[self.first_row : self.end_row]))
        if self._counts is None or self._counts[0] != dead:  # what is dead stays so
            counts = {}
            for label, rows in self.labels(reader).items():
                if live is not None and dead:
                    rows = rows[live[rows]]
                if len(rows):
                    counts[label] = int(rows[0]), len(rows)
            self._counts = dead, counts
        return self._counts[1]

    def rows_by_id(self, start: int, end: int, reader: Reader) -> np.ndarray:
        """Rows at some places in the order of the bytes of their ids.

        Args:
            start, end: int. The places.
            reader: `Reader`, for what the look-up does not hold itself.

        Returns:
            int64 `(end - start,)`.
        """
        raise NotImplementedError

    def labels(self, reader: Reader) -> dict[str, np.ndarray]:
        """Rows of each label.

        Args:
            reader: as for `rows_by_id`.

        Returns:
            dict of label to int64, ascending.
        """
        raise NotImplementedError

    def _fences(self) -> np.ndarray:
        raise NotImplementedError

    def _hashes(self, start: int, end: int) -> np.ndarray:
        raise NotImplementedError

    def _rows_by_hash(self, start: int, end: int) -> np.ndarray:
        raise NotImplementedError


class StoredLookup(Lookup):
    """A run in the file of look-ups; what is read of it is verified, and held from then on.

    Args:
        run: `Run`.
        content: uint8 `(run.num_bytes,)`, mapped.
        damaged: gives the error to raise for what is wrong with it.
    """

    def __init__(self, run: Run, content: np.ndarray, damaged: Callable[[str], StoreError]) -> None:
        super().__init__()
        self.run = run
        self.first_row, self.num_rows = run.first_row, run.num_rows
        self.num_images = run.num_images
        self._content, self._damaged = content, damaged
        self._checksums = np.frombuffer(run.checksums, "<u4")
        self._blocks: dict[int, bytes] = {}
        self._by_label: dict[str, np.ndarray] | None = None

    def rows_by_id(self, start: int, end: int, reader: Reader) -> np.ndarray:
        """Read from the file; see `Lookup.rows_by_id`."""
        return self._rows(3, start, end)

    def labels(self, reader: Reader) -> dict[str, np.ndarray]:
        """Read from the file, once; see `Lookup.labels`."""
        if self._by_label is None:
            self._by_label = self._read_labels(reader)
        return self._by_label

    def _read_labels(self, reader: Reader) -> dict[str, np.ndarray]:
        if not self.run.num_labels:
            return {}
        rows = self._rows(4, 0, self.run.num_labelled)
        sizes = self._numbers(5, 0, self.run.num_labels, "<u4").astype(np.int64)
        if sizes.sum() != len(rows) or not sizes.all():
            raise self._damaged("the sizes of labels do not add up")
        begins = np.cumsum(sizes) - sizes
        names = [item.label for item in reader.items(rows[begins])]
        groups = np.split(rows, begins[1:])
        return {str(name): group for name, group in zip(names, groups, strict=True)}

    def _fences(self) -> np.ndarray:
        return self._numbers(0, 0, -(-self.num_images // FENCE), "<u8")

    def _hashes(self, start: int, end: int) -> np.ndarray:
        return self._numbers(1, start, end, "<u8")

    def _rows_by_hash(self, start: int, end: int) -> np.ndarray:
        return self._rows(2, start, end)

    def _rows(self, part: int, start: int, end: int) -> np.ndarray:
        rows = self._numbers(part, start, end, "<u4").astype(np.int64)
        if len(rows) and rows.max() >= self.num_rows:
            raise self._damaged(f"row {rows.max()} of {self.num_rows}")
        return rows + self.first_row

    def _numbers(self, part: int, start: int, end: int, dtype: str) -> np.ndarray:
        size, begin = np.dtype(dtype).itemsize, self.run.places[part]
        return np.frombuffer(self._verified(begin + start * size, begin + end * size), dtype)

    def _verified(self, start: int, end: int) -> bytes:
        first = start // BLOCK_BYTES
        blocks = [self._block(number) for number in range(first, -(-end // BLOCK_BYTES))]
        return b"".join(blocks)[start - first * BLOCK_BYTES : end - first * BLOCK_BYTES]

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            # Copied, so that what is verified is what is used.
            content = self._content[number * BLOCK_BYTES : (number + 1) * BLOCK_BYTES].tobytes()
            if crc32(content) != self._checksums[number]:
                last = self.end_row - 1
                what = f"the look-ups of rows {self.first_row} to {last} differ from their checksum"
                raise self._damaged(what)
            self._blocks[number] = content
        return self._blocks[number]


class MemoryLookup(Lookup):
    """A run made in memory, of items that have been verified wholly.

    Args:
        first_row, num_rows: int, as those of `Run`.
        rows: int64 `(num_images,)`, ascending, of whole images.
        hashes: uint64 `(num_images,)`, of their ids.
    """

    def __init__(self, first_row: int, num_rows: int, rows: np.ndarray, hashes: np.ndarray) -> None:
        super().__init__()
        self.first_row, self.num_rows, self.num_images = first_row, num_rows, len(rows)
        order = np.argsort(hashes, kind="stable")
        self._sorted_hashes, self._by_hash = hashes[order], rows[order]
        self._by_id: np.ndarray | None = None
        self._by_label: dict[str, np.ndarray] | None = None

    def rows_by_id(self, start: int, end: int, reader: Reader) -> np.ndarray:
        """Sorted when they are first wanted; see `Lookup.rows_by_id`."""
        if self._by_id is None:
            rows = self.rows()
            ids = reader.ids_of(rows)
            self._by_id = rows[sorted(range(len(rows)), key=ids.__getitem__)]
        return self._by_id[start:end]

    def labels(self, reader: Reader) -> dict[str, np.ndarray]:
        """Grouped when they are first wanted; see `Lookup.labels`."""
        if self._by_label is None:
            self._by_label = reader.rows_of_labels(self.rows())
        return self._by_label

    def _fences(self) -> np.ndarray:
        return self._sorted_hashes[::FENCE]

    def _hashes(self, start: int, end: int) -> np.ndarray:
        return self._sorted_hashes[start:end]

    def _rows_by_hash(self, start: int, end: int) -> np.ndarray:
        return self._by_hash[start:end]
