"""An index folder as of one commit; see `store.protocol`."""

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

import numpy as np

from hashnet import codes
from hashnet.errors import StoreError
from hashnet.local.codebook import Codebook
from hashnet.retrieval.store.folder.contents import CODEBOOKS, WORDS
from hashnet.retrieval.store.folder.rows import CommittedRows, IdsOutside
from hashnet.retrieval.store.items import (
    Item,
    StoredFeatures,
    no_exif,
    no_local_features,
    seconds_of,
)
from hashnet.retrieval.store.protocol import Region, Rows
from hashnet.retrieval.store.word_lists import WordLists

_ITEMS_AT_ONCE = 2048


class Snapshot:
    """An index folder as of one commit, whatever is committed later; see `protocol.Snapshot`.

    Made by `Store.snapshot`. Compaction leaves an open snapshot its files, and gives their disk
    space back when the last such snapshot is closed.

    Attributes:
        codes: uint8 `(num_rows, code_bytes)`, in memory, read-only.
        live, live_images, owners: as `protocol.Snapshot` says, read-only.
        roots: `Roots`.
        folder: pathlib.Path of the index.
        made: str. Tells the rows from those of other indexes, and from those before a compaction.
        history: object. The same one for two snapshots of which the later continues the earlier:
            all rows of the earlier are rows of the later, and the same ones.
    """

    def __init__(self, committed: CommittedRows) -> None:
        self._committed: CommittedRows | None = committed
        self.codes = committed.codes
        self.num_rows = committed.num_rows
        self.live, self.owners = committed.live, committed.owners
        self.live_images = committed.live_images
        for array in (self.live, self.live_images):
            if array is not None:
                array.flags.writeable = False
        num_live = committed.num_rows - committed.catalogue.num_deleted
        self.num_items = num_live
        if self.owners is not None and self.live_images is not None:
            self.num_items = int(np.count_nonzero(self.live_images))
        self.num_regions = num_live - self.num_items
        self.roots = committed.roots
        catalogue = committed.catalogue
        self.folder = committed.folder
        self.made = " ".join((*catalogue.made, str(catalogue.generation)))
        self.history = committed.history

    def states(self) -> list[tuple[int, str]]:
        """What tells the rows before one from those of all other states of all indexes.

        Returns:
            list of (int, str): where the rows of a segment end, ascending, and the sha256, as hex,
            of what the catalogue says of the segments up to there. Deletions change none of it.
        """
        digest, found = hashlib.sha256(self.made.encode()), []
        for segment in self._opened().catalogue.segments:
            if segment.num_rows:
                known = sorted(segment.arrays.items())
                digest.update(f"{segment.num_rows} {known}\n".encode())
                found.append((segment.end_row, digest.hexdigest()))
        return found

    def features(self, rows: Rows) -> np.ndarray:
        return self._opened().features(rows)

    def feature_map(self, rows: Rows) -> np.ndarray:
        return self._opened().feature_map(rows)

    def local_features(self, rows: Rows) -> list[StoredFeatures]:
        return self._opened().local_features(rows)

    def candidates(self, rows: Rows) -> list[Callable[[], StoredFeatures]]:
        def read(row: int) -> StoredFeatures:
            [features] = self.local_features([row])
            return features

        # Read where they are compared, so that threads share that work too.
        return [functools.partial(read, row) for row in rows]

    @property
    def keeps_words(self) -> bool:
        return self._opened().catalogue.keeps_words

    @property
    def codebook(self) -> Codebook | None:
        return self._opened().codebook

    def local_pool_bytes(self) -> int:
        ends = self._opened().catalogue.ends
        return ends.get(WORDS, 0) + ends.get(CODEBOOKS, 0)

    @property
    def num_local_features(self) -> int:
        return self._opened().catalogue.ends.get("yx", 0)

    def local_counts(self) -> tuple[np.ndarray, np.ndarray]:
        committed = self._opened()
        if committed.catalogue.extractor is None:
            raise no_local_features(committed.folder)
        rows = committed.rows_of_images()
        return rows, committed.local_counts()[rows]

    def word_lists(self, words: np.ndarray) -> list[WordLists]:
        """The inverted lists of all rows, of which those of some words are verified.

        Args:
            words: uint32 `(n,)`.

        Returns:
            list of `WordLists`, in the order of their rows; empty without a codebook.

        Raises:
            StoreError: one is damaged.
        """
        return [one.of_words(words) for one in self._opened().word_lists()]

    def regions(self, rows: Rows) -> list[Region | None]:
        committed = self._opened()
        rows = committed.check_rows(rows)
        if self.owners is None:
            return [None] * len(rows)
        regions = committed.regions(rows).tolist()
        return [
            (top, left, bottom, right) if bottom else None for top, left, bottom, right in regions
        ]

    def items(self, rows: Rows) -> list[Item]:
        return self._opened().items(rows)

    def items_in_order(self) -> Iterator[Item]:
        rows = self._opened().rows_of_images()
        for start in range(0, len(rows), _ITEMS_AT_ONCE):
            yield from self.items(rows[start : start + _ITEMS_AT_ONCE])

    def ids(self, offset: int = 0, limit: int | None = None) -> list[str]:
        rows = self._opened().rows_of_images()[offset:][:limit]
        return [item.id for item in self.items(rows)]

    def rows(self, ids: Sequence[str]) -> np.ndarray:
        return self._opened().find(ids)

    def rows_beginning_with(self, start: str) -> np.ndarray:
        return self._opened().rows_beginning_with(start)

    def rows_of_label(self, label: str) -> np.ndarray:
        return self._opened().rows_of_label(label)

    def rows_of_sizes(self, sizes: Sequence[int]) -> np.ndarray:
        return self._opened().rows_of_sizes(sizes)

    def rows_taken(self, after: datetime | None, before: datetime | None) -> np.ndarray:
        committed = self._opened()
        if not committed.catalogue.exif:
            raise no_exif(committed.folder)
        return committed.rows_taken(
            None if after is None else seconds_of(after),
            None if before is None else seconds_of(before),
        )

    def id_ends(self, start: str) -> tuple[str, str] | None:
        return self._opened().first_and_last_id(start)

    def ids_outside(self, start: str) -> IdsOutside:
        return self._opened().ids_outside(start)

    def labels(self) -> tuple[np.ndarray, list[str]]:
        return self._opened().labels()

    def label_counts(self) -> dict[str, int]:
        return self._opened().label_counts()

    def bit_shares(self, most: int) -> np.ndarray:
        committed = self._opened()
        rows = committed.rows_of_images()
        num_bits = committed.catalogue.num_bits
        chosen = self.codes[rows[:: max(1, len(rows) // most)]]
        return codes.unpack(chosen, num_bits).sum(axis=0) / max(1, len(chosen))

    def close(self) -> None:
        self._committed = None

    def __enter__(self) -> "Snapshot":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _opened(self) -> CommittedRows:
        if self._committed is None:
            raise StoreError(
                "A snapshot is read while it is open.", "a closed snapshot", "Take a new one."
            )
        self._committed.check_files()
        return self._committed
