"""What an index folder looks like on disk, and who reads and writes it.

How the files of numbers are made up stands in records.py, how the catalogue is in catalogue.py,
what names of files may be in folder.py. No other file knows.

    index/
      catalogue.sqlite          what is committed: sizes and checksums of all segments, which rows
                                are deleted, the encoder's files (SQLite; small)
      catalogue.sha256          checksum of the catalogue, as the last writer left it
      segments/000001.codes     uint8, (num_rows, code_bytes)
               000001.features  float32 or float16, (num_rows, feature_dim)
               000001.items     one record of 64 bytes per row: size, time, checksums, where its
                                words are
               000001.text      ids, paths and labels
               000001.spans     of local features: one record of 16 bytes per row
               000001.yx        float32, (num_local_features, 2)
               000001.descriptors  float16, (num_local_features, descriptor_dim)
               000001.regions   int32, (num_rows, 4): top, left, bottom, right; zeros where the
                                row is of the whole image
      encoder/                  the bundle that made the codes
      lock                      held by the writer, and names it

The files of numbers have no headers, are little-endian, and only ever grow: every commit appends
one *segment* to each, makes it durable, and then lets one SQLite transaction count it in. Bytes
that the catalogue does not count do not exist: a killed writer leaves some, the next writer cuts
them off. Bytes that it counts are never written again. Compaction writes a new set of files
under the next number (the *generation*), commits, and unlinks the old set, which snapshots that
have it mapped go on reading.

A row is a place in the order of commits, deleted rows included; it is stable until compaction,
which keeps the order. In an index with regions an image has several: the row of the whole image,
and right behind it, with the same item, one for each of its regions; they come and go together. An
index without local features has none of their three files, one without regions not theirs, and is
then of format version 1 or 2, as before there were any. Everything a snapshot shows lies in those
files, so a snapshot needs SQLite only while it opens, holds no database lock, and is safe to use
from many threads.

What is verified when:

- `Store.open`: the catalogue (every record of it carries a checksum), and the size and kind of
  every file it names, the encoder's included. Nothing is allocated or mapped before that.
- `Store.snapshot`: also the checksum of all codes and regions.
- `Snapshot.items`: the checksum of each item read. The first call of `rows`, `stats` or `labels`
  (and a writer's first look for an id): all items, wholly.
- `Snapshot.local_features`: the checksum of those of the row.
- `Snapshot.features`: nothing. `Snapshot.verify_features`: the checksum of each row asked for.
  Compaction and `Writer.update`: of each row they copy.
- `check`: every committed byte of every file. A byte of the catalogue that belongs to no record
  (free space inside SQLite's pages) is covered by `catalogue.sha256`, which is out of date from
  a writer's death until the next writer closes. Bytes that are not counted in are not looked at.

Checksums find accidents; they do not prove who made an index. No code of an index ever runs, and
file names are made from numbers or checked to stay inside the folder.

What must hold beneath: a POSIX system and a local file system, where a power loss while a file is
appended to leaves its older bytes as they were (SQLite asks for the same).
"""

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import itertools
import os
import pathlib
import re
import secrets
import shutil
import socket
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from zlib_ng.zlib_ng import crc32

from hashnet.codes import code_bytes
from hashnet.errors import ArgumentError, LockedError, ShapeError, StoreError
from hashnet.files import fsync
from hashnet.retrieval.store.folder.catalogue import (
    ARRAY_NAMES,
    CATALOGUE,
    LOCAL_NAMES,
    REGION_NAMES,
    SEGMENTS,
    Catalogue,
    Segment,
    SqlError,
    change_catalogue,
    check_catalogue,
    create_catalogue,
    map_array,
    on_newest,
    open_data,
    read_catalogue,
    remove_catalogue_leftovers,
    renew_digest,
    write_digest,
)
from hashnet.retrieval.store.folder.paths import (
    CHUNK_BYTES,
    copy_file,
    damaged,
    inner_name,
    inside,
    write_at,
)
from hashnet.retrieval.store.folder.records import (
    ITEM_BYTES,
    ITEM_HEAD,
    ITEM_RECORD,
    SPAN_HEAD,
    as_bytes,
    encode_items,
    encode_local,
    hash_id,
    to_bytes,
    to_text,
)
from hashnet.retrieval.store.items import (
    UNKNOWN,
    CompactReport,
    Item,
    StoredFeatures,
    check_extractor,
    check_images,
    check_items,
    check_regions_per_image,
    items_of_rows,
    no_local_features,
)

_LOCK = "lock"
_ENCODER = "encoder"
_DATA_FILE = re.compile(rf"\d{{6,}}\.({'|'.join(ARRAY_NAMES + LOCAL_NAMES + REGION_NAMES)})")
_CREATING = ".creating-index-"
_COMPACT_ROWS = 1 << 16  # rows of a compacted segment, at most
_COMPACT_LOCAL_BYTES = 1 << 27  # local features of a compacted segment, about
_REMEMBERED_IDS = 100_000  # changed ids that a writer holds before it sorts all ids anew


class _View:
    """The committed rows at one commit, mapped; what snapshots and writers read with."""

    def __init__(self, folder, catalogue):
        self.folder, self.catalogue = folder, catalogue
        self.num_rows = catalogue.num_rows
        maps = {name: map_array(folder, catalogue, name) for name in catalogue.array_names}
        self.feature_map = maps["features"]
        # Plain arrays over the maps: indexing them is several times faster.
        self.arrays = {name: np.asarray(array) for name, array in maps.items()}
        self.kept = catalogue.live()
        # Of plain bytes: NumPy copies records of named fields one field at a time, and what a
        # memory view cuts out reaches a checksum without an array for each row.
        self._records = self.arrays["items"].view(ITEM_BYTES)
        self._text = memoryview(self.arrays["text"])
        self._feature_bytes = memoryview(as_bytes(self.arrays["features"]))
        self.items_verified = False
        self._lock = threading.Lock()
        self._ids = None

    @functools.cached_property
    def owners(self) -> np.ndarray | None:
        """int64 (num_rows,): the row of the whole image of each row; None without regions."""
        if not self.catalogue.regions_per_image:
            return None
        # Copied, so that what is verified is what is used.
        self.arrays["regions"] = np.array(self.arrays["regions"])
        self.verify("regions")
        whole = ~self.arrays["regions"].any(axis=1)
        return np.maximum.accumulate(np.where(whole, np.arange(self.num_rows), 0))

    @functools.cached_property
    def live(self) -> np.ndarray | None:
        """bool (num_rows,): the rows of whole images that are kept; None where that is all."""
        if self.owners is None:
            return self.kept
        whole = self.owners == np.arange(self.num_rows)
        return whole if self.kept is None else whole & self.kept

    def live_rows(self) -> np.ndarray:
        return np.arange(self.num_rows) if self.live is None else np.flatnonzero(self.live)

    def kept_rows(self) -> np.ndarray:
        return np.arange(self.num_rows) if self.kept is None else np.flatnonzero(self.kept)

    def num_regions_gone(self) -> int:
        if self.owners is None or self.kept is None:
            return 0
        return int(np.count_nonzero(~self.kept & (self.owners != np.arange(self.num_rows))))

    def rows_of(self, row) -> range:
        """All rows of the image whose whole is at a row."""
        if self.owners is None:
            return range(row, row + 1)
        return range(row, int(np.searchsorted(self.owners, row, "right")))

    def check_rows(self, rows) -> np.ndarray:
        rows = np.asarray(rows)
        if rows.size == 0:
            rows = rows.astype(np.int64)
        if rows.ndim != 1 or rows.dtype.kind not in "iu":
            raise ShapeError(
                "Rows are whole numbers of shape (n,).", f"{rows.dtype} of shape {rows.shape}"
            )
        if rows.size and not (0 <= rows.min() and rows.max() < self.num_rows):
            raise ArgumentError(
                f"A row of this index is 0 to {self.num_rows - 1}.",
                f"rows {rows.min()} to {rows.max()}",
                "Rows of another snapshot may mean other images; ask for ids.",
            )
        return rows

    def damaged(self, name, what) -> StoreError:
        return damaged(self.folder, self.catalogue.file_name(name), what)

    def verify(self, name) -> None:
        """Compare one array, wholly, with the checksums of its segments."""
        content, at = as_bytes(self.arrays[name]), 0
        for number, segment in enumerate(self.catalogue.segments, 1):
            count, sha256 = segment.arrays[name]
            end = at + count * self.catalogue.row_bytes(name)
            if hashlib.sha256(content[at:end]).hexdigest() != sha256:
                raise self.damaged(name, f"segment {number} differs from its checksum")
            at = end

    def verify_items(self) -> None:
        """Verify all items, once."""
        if not self.items_verified:
            self.verify("items")
            self.verify("text")
            self.items_verified = True

    def features(self, rows) -> np.ndarray:
        return self.arrays["features"][self.check_rows(rows)]

    def verify_features(self, rows) -> list[Item]:
        rows = self.check_rows(rows)
        items, wanted = self._items_and_checksums(rows)
        content, size = self._feature_bytes, self.catalogue.row_bytes("features")
        for row, crc in zip(rows.tolist(), wanted, strict=True):
            if crc32(content[row * size : (row + 1) * size]) != crc:
                raise self.damaged("features", f"row {row} differs from its checksum")
        return items

    def local_features(self, rows) -> list[StoredFeatures]:
        if self.catalogue.extractor is None:
            raise no_local_features(self.folder)
        spans, yx, descriptors = (self.arrays[name] for name in LOCAL_NAMES)
        found = []
        for row in self.check_rows(rows).tolist():
            start, count, wanted = spans[row].item()
            places, stored = yx[:0], descriptors[:0]
            if 0 <= start <= len(yx) - count:
                places, stored = yx[start : start + count], descriptors[start : start + count]
            crc = crc32(as_bytes(places), crc32(SPAN_HEAD.pack(start, count)))
            if len(places) != count or crc32(as_bytes(stored), crc) != wanted:
                others = " or ".join(self.catalogue.file_name(name) for name in LOCAL_NAMES[1:])
                what = f"the span of row {row}, or what it spans in {others}, differs from its"
                raise self.damaged("spans", f"{what} checksum")
            found.append(StoredFeatures(places, stored))
        return found

    def items(self, rows) -> list[Item]:
        return self._items_and_checksums(self.check_rows(rows))[0]

    def _items_and_checksums(self, rows) -> tuple[list[Item], list[int]]:
        """Items of some rows, verified, and the checksums of their features."""
        text, content = self._text, self._records[rows].tobytes()
        items, feature_checksums = [], []
        for at, record in enumerate(ITEM_RECORD.iter_unpack(content)):
            _, start, label_start, size, mtime_ns, id_bytes, path_bytes, label_bytes = record[:8]
            end = start + id_bytes + max(0, path_bytes)
            # Copied, so that what is verified is what is returned.
            words = text[start:end].tobytes()
            label = text[label_start : label_start + max(0, label_bytes)].tobytes()
            head = content[at * ITEM_RECORD.size : at * ITEM_RECORD.size + ITEM_HEAD.size]
            feature_crc, crc, _ = record[8:]
            if crc32(head + words + label) != crc:
                text_name = self.catalogue.file_name("text")
                what = f"row {rows[at]}, or its words in {text_name}, differs from its checksum"
                raise self.damaged("items", what)
            feature_checksums.append(feature_crc)
            items.append(
                Item(
                    to_text(words[:id_bytes]),
                    None if path_bytes < 0 else to_text(words[id_bytes:]),
                    None if label_bytes < 0 else to_text(label),
                    None if size == UNKNOWN else size,
                    None if mtime_ns == UNKNOWN else mtime_ns,
                )
            )
        return items, feature_checksums

    def find(self, ids) -> np.ndarray:
        """int64 (len(ids),): the live row of each id, -1 where there is none."""
        with self._lock:
            if self._ids is None:
                self.verify_items()
                rows = self.live_rows()
                hashes = self.arrays["items"]["id_hash"][rows]
                order = np.argsort(hashes, kind="stable")
                self._ids = hashes[order], rows[order]
        hashes, rows = self._ids
        contents = [to_bytes(id) for id in ids]
        wanted = np.array([hash_id(content) for content in contents], np.uint64)
        firsts = np.searchsorted(hashes, wanted, "left")
        lasts = np.searchsorted(hashes, wanted, "right")
        found = np.full(len(contents), -1, np.int64)
        for place, (content, first, last) in enumerate(zip(contents, firsts, lasts, strict=True)):
            for row in rows[first:last]:
                if self._id_bytes(row) == content:
                    found[place] = row
        return found

    def _id_bytes(self, row) -> bytes:
        record = self.arrays["items"][row]
        return self._text[record["start"] : record["start"] + record["id_bytes"]].tobytes()

    def stats(self) -> dict[str, tuple[int | None, int | None]]:
        self.verify_items()
        records = self.arrays["items"][self.live_rows()]
        columns = ("start", "id_bytes", "size", "mtime_ns")
        return {
            to_text(self._text[start : start + length].tobytes()): (
                None if size == UNKNOWN else size,
                None if mtime_ns == UNKNOWN else mtime_ns,
            )
            for start, length, size, mtime_ns in zip(
                *(records[column].tolist() for column in columns), strict=True
            )
        }

    def labels(self) -> tuple[np.ndarray, list[str]]:
        self.verify_items()
        lengths = self.arrays["items"]["label_bytes"]
        rows = np.flatnonzero(lengths >= 0 if self.live is None else (lengths >= 0) & self.live)
        starts, lengths = self.arrays["items"]["label_start"][rows], lengths[rows]
        # An empty label lies where the next word begins; the last bit keeps the two apart.
        places = starts * 2 + (lengths > 0)
        _, firsts, inverse = np.unique(places, return_index=True, return_inverse=True)
        names, code_of_place = {}, np.empty(len(firsts), np.int32)
        for place in np.argsort(firsts):
            start, length = int(starts[firsts[place]]), int(lengths[firsts[place]])
            name = to_text(self._text[start : start + length].tobytes())
            code_of_place[place] = names.setdefault(name, len(names))
        codes = np.full(self.num_rows, -1, np.int32)
        codes[rows] = code_of_place[inverse]
        return codes, list(names)


# ---------------------------------------------------------------- reading


class Snapshot:
    """One consistent view of an index, whatever writers do later, compaction included.

    Made by `Store.snapshot`. Safe to use from several threads. Close it, or use it as a context
    manager, when it is no longer needed: a compacted index gives its disk space back when the
    last snapshot of the old files is closed.

    Attributes:
        num_rows: int. Rows, those of regions and deleted ones included.
        num_items: int. Images that are not deleted.
        num_regions: int. Their regions.
        codes: uint8 array of shape `(num_rows, code_bytes)`, in memory, read-only.
        live: bool array of shape `(num_rows,)`, read-only: the rows of whole images that are not
            deleted; None when every row is such.
        kept: bool array of shape `(num_rows,)`, read-only: as `live`, with their regions.
        owners: int64 array of shape `(num_rows,)`, read-only, ascending: the row of the whole
            image that each row is of; None in an index without regions.
        feature_map: float32 or float16 array of shape `(num_rows, feature_dim)`: a read-only
            memory map, not verified: see `verify_features`.
    """

    def __init__(self, view: _View):
        # Read first, so that what was verified is what is searched.
        view.arrays["codes"] = np.array(view.arrays["codes"])
        view.verify("codes")
        self._view = view
        self.num_rows = view.num_rows
        self.codes = view.arrays["codes"]
        self.kept, self.live, self.owners = view.kept, view.live, view.owners
        for array in (self.codes, self.kept, self.live, self.owners):
            if array is not None:
                array.flags.writeable = False
        num_kept = view.num_rows - view.catalogue.num_deleted
        self.num_items = num_kept if self.owners is None else int(np.count_nonzero(self.live))
        self.num_regions = num_kept - self.num_items
        self.feature_map = view.feature_map

    def features(self, rows: np.ndarray) -> np.ndarray:
        """Features of some rows.

        Args:
            rows: int array of shape `(n,)`.

        Returns:
            An array of the index's feature dtype, of shape `(n, feature_dim)`, read from disk
            and not verified: see `verify_features`.
        """
        return self._opened().features(rows)

    def verify_features(self, rows: np.ndarray) -> list[Item]:
        """Compare the features of some rows with their checksums, which lie in their items.

        Args:
            rows: int64 `(n,)`.

        Returns:
            What `items` does: they have been read by then.

        Raises:
            StoreError: if one differs; the message names the file and the row.
        """
        return self._opened().verify_features(rows)

    def local_features(self, rows: np.ndarray) -> list[StoredFeatures]:
        """Local features of some rows, each verified.

        Args:
            rows: int64 `(n,)`.

        Returns:
            list of n `StoredFeatures`.

        Raises:
            StoreError: the index has none, or these are damaged.
        """
        return self._opened().local_features(rows)

    def candidates(self, rows: np.ndarray) -> list[Callable[[], StoredFeatures]]:
        """Local features of some rows, each to be read when its turn comes.

        Args:
            rows: int64 `(n,)`.

        Returns:
            list of n functions, for `verify.verify_all`; each to be called once, by any
            thread. They raise what `local_features` does.
        """

        def read(row):
            [features] = self.local_features([row])
            return features

        # Read where they are compared, so that threads share that work too.
        return [functools.partial(read, row) for row in rows]

    def regions(self, rows: np.ndarray) -> list[tuple[int, int, int, int] | None]:
        """The regions that some rows are of.

        Args:
            rows: int64 `(n,)`.

        Returns:
            list of n (top, left, bottom, right) in pixels, None for a whole image.
        """
        view = self._opened()
        rows = view.check_rows(rows)
        if view.owners is None:
            return [None] * len(rows)
        regions = view.arrays["regions"][rows].tolist()
        return [tuple(region) if any(region) else None for region in regions]

    def items(self, rows: np.ndarray) -> list[Item]:
        """Items of some rows, each verified; rows that are deleted still have theirs.

        A region has the item of its image.

        Args:
            rows: int64 `(n,)`.

        Returns:
            list of n `Item`.

        Raises:
            StoreError: one is damaged.
        """
        return self._opened().items(rows)

    def rows(self, ids: Sequence[str]) -> np.ndarray:
        """The row of each image.

        Args:
            ids: sequence of str.

        Returns:
            int64 array of shape `(len(ids),)`; -1 for an unknown id.
        """
        return self._opened().find(ids)

    def stats(self) -> dict[str, tuple[int | None, int | None]]:
        """`(size, mtime_ns)` of every id, to see which files have changed."""
        return self._opened().stats()

    def id_ends(self, start: str) -> tuple[str, ...]:
        """Of the ids that begin so, the first and the last in some order.

        The order goes by what ids begin with, so what these two begin with, all between do.

        Args:
            start: str.

        Returns:
            tuple of two str; of none where no id begins so.
        """
        ids = [id for id in self.stats() if id.startswith(start)]
        return (min(ids), max(ids)) if ids else ()

    def ids_outside(self, start: str) -> list[str]:
        """The ids that do not begin so.

        Args:
            start: str.

        Returns:
            list of str.
        """
        return [id for id in self.stats() if not id.startswith(start)]

    def labels(self) -> tuple[np.ndarray, list[str]]:
        """Labels of all rows.

        Returns:
            codes: int32 array of shape `(num_rows,)`: a place in `names`, -1 for a row that is
                not live or has no label.
            names: list of str, each once, in the order in which they first occur.
        """
        return self._opened().labels()

    def label_counts(self) -> dict[str, int]:
        """How many images have each label, in the order in which labels first occur."""
        places, names = self.labels()
        counts = np.bincount(places[places >= 0], minlength=len(names))
        return {name: int(count) for name, count in zip(names, counts, strict=True)}

    def close(self) -> None:
        """Let go of the files. Arrays that were handed out stay valid."""
        self._view = None

    def __enter__(self) -> "Snapshot":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _opened(self) -> _View:
        view = self._view
        if view is None:
            raise StoreError(
                "A snapshot is read while it is open.", "a closed snapshot", "Take a new one."
            )
        return view


class Store:
    """An index folder: made by `create`, opened by `open`, read through snapshots.

    Attributes:
        folder: pathlib.Path. The index.
        num_bits: int. Length of a code.
        feature_dim: int. Length of a feature.
        feature_dtype: "float32" or "float16". How features are stored.
        fingerprint: str. Of the encoder that made the codes.
        format_version: int. Of the folder.
        created: str. When, in UTC, as ISO 8601.
        extractor: str or None. Of the local features that every image has, or None.
        descriptor_dim: int or None. Numbers in the descriptor of one.
        regions_per_image: int. The most regions that an image has rows for; 0 for none.
        encoder_folder: pathlib.Path or None. The bundle that the index carries.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> store = Store.create(folder, num_bits=8, feature_dim=2, fingerprint="f")
        >>> with store.writer() as writer:
        ...     writer.add([Item("cat.jpg")], np.array([[7]], "uint8"), np.ones((1, 2), "float32"))
        1
        >>> with Store.open(folder).snapshot() as snapshot:
        ...     snapshot.items([0])[0].id, snapshot.codes.tolist()
        ('cat.jpg', [[7]])
    """

    FEATURE_DTYPE = "float16"

    def __init__(self, folder: pathlib.Path, catalogue: Catalogue):
        self.folder = folder
        self.num_bits = catalogue.num_bits
        self.feature_dim = catalogue.feature_dim
        self.feature_dtype = catalogue.feature_dtype
        self.fingerprint = catalogue.fingerprint
        self.format_version = catalogue.format_version
        self.extractor = catalogue.extractor
        self.descriptor_dim = catalogue.descriptor_dim
        self.regions_per_image = catalogue.regions_per_image
        self.created = catalogue.created
        self.encoder_folder = folder / _ENCODER if catalogue.encoder else None

    @classmethod
    def create(
        cls,
        folder: str | os.PathLike,
        *,
        num_bits: int,
        feature_dim: int,
        feature_dtype: str = "float32",
        fingerprint: str,
        encoder_files: Mapping[str, str | os.PathLike] | None = None,
        extractor: str | None = None,
        descriptor_dim: int | None = None,
        regions_per_image: int = 0,
    ) -> "Store":
        """Make an empty index; killed at any moment, there is a whole one or none.

        Args:
            folder: a path where nothing is yet, or an empty folder.
            num_bits: int, 1 to 1024.
            feature_dim: int, 1 or more.
            feature_dtype: "float32" or "float16". How features are stored.
            fingerprint: str. Of the encoder.
            encoder_files: dict of a name relative to the encoder's folder (`/` between its
                parts) to the file to copy there.
            extractor: str or None. Of local features, where each image has such.
            descriptor_dim: int, 1 to 65536, with an extractor.
            regions_per_image: int, 0 to 64. The most regions of an image.

        Returns:
            The opened `Store`.

        Raises:
            ArgumentError: if an argument is outside what is listed above.
            StoreError: if something is there already, or the disk refuses.

        Example:
            >>> import tempfile
            >>> folder = tempfile.mkdtemp()
            >>> store = Store.create(folder, num_bits=8, feature_dim=1, fingerprint="f")
            >>> with store.writer() as writer:
            ...     writer.add([Item("a")], np.ones((1, 1), "uint8"), np.ones((1, 1), "float32"))
            1
            >>> Store.open(folder).snapshot().rows(["a", "b"]).tolist()
            [0, -1]
        """
        code_bytes(num_bits)  # refuses what is no length of a code
        if not (isinstance(feature_dim, int) and feature_dim >= 1):
            raise ArgumentError("A feature has numbers.", f"feature_dim={feature_dim!r}")
        if feature_dtype not in ("float32", "float16"):
            raise ArgumentError(
                "Features are stored as float32 or float16.", f"feature_dtype={feature_dtype!r}"
            )
        if not isinstance(fingerprint, str):
            raise ArgumentError("A fingerprint is text.", f"fingerprint={fingerprint!r}")
        check_extractor(extractor, descriptor_dim)
        check_regions_per_image(regions_per_image)
        for name in encoder_files or {}:
            try:
                inner_name(name)
            except ValueError as error:
                raise ArgumentError(
                    "A file of an encoder lies inside its folder.", repr(name)
                ) from error
        folder = pathlib.Path(os.path.realpath(folder))
        if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
            raise StoreError(
                "A new index needs a place where nothing is.",
                f"{folder}, which is {'an index' if (folder / CATALOGUE).exists() else 'taken'}",
                "Open the index to add to it, or name another folder.",
            )
        catalogue = Catalogue(
            num_bits=int(num_bits),
            feature_dim=feature_dim,
            feature_dtype=feature_dtype,
            fingerprint=fingerprint,
            created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            encoder={},
            generation=1,
            commits=0,
            segments=(),
            extractor=extractor,
            descriptor_dim=descriptor_dim,
            regions_per_image=regions_per_image,
        )
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(folder.parent)
            _create_beside(folder, catalogue, encoder_files or {})
        except (OSError, SqlError) as error:
            raise StoreError(
                "An index is made where there is room and leave to write.",
                f"{folder}: {error}",
                "Nothing was made there; name another folder or free some space.",
            ) from error
        return cls.open(folder)

    @classmethod
    def open(cls, folder: str | os.PathLike) -> "Store":
        """Open an index; also one that may only be read.

        Args:
            folder: str or path-like.

        Returns:
            The opened `Store`.

        Raises:
            StoreError: if there is none, if it is damaged (the message names the file), or if
                a newer version of HashNet made it.
        """
        folder = pathlib.Path(os.path.realpath(folder))
        if not os.path.lexists(folder / CATALOGUE):
            raise StoreError(
                f"An index is a folder with a {CATALOGUE} in it.",
                str(folder),
                "Make one with `hashnet index`, or check the path.",
            )

        def verify(catalogue):
            _View(folder, catalogue)
            for name, (wanted, _) in catalogue.encoder.items():
                _, size = inside(folder, f"{_ENCODER}/{name}")
                if size != wanted:
                    raise damaged(folder, f"{_ENCODER}/{name}", f"{size} bytes, not {wanted}")
            return cls(folder, catalogue)

        return on_newest(folder, verify)

    @staticmethod
    def is_there(folder: str | os.PathLike) -> bool:
        """Whether a place is taken: something is there, and no empty folder.

        Args:
            folder: str or path-like.

        Returns:
            bool.
        """
        return os.path.lexists(folder) and not (os.path.isdir(folder) and not os.listdir(folder))

    def snapshot(self) -> Snapshot:
        """The index as it is now.

        Raises:
            StoreError: if it is damaged: see the top of this file for what is verified.
        """
        return on_newest(self.folder, lambda catalogue: Snapshot(_View(self.folder, catalogue)))

    def reopened(self) -> "Store":
        """What is in this index's place now. For the errors, see `open`."""
        return Store.open(self.folder)

    def version(self) -> tuple:
        """What changes with every commit, and with a new index in this one's place.

        Raises:
            StoreError: if the index is gone or damaged.
        """
        catalogue = read_catalogue(self.folder)
        return catalogue.created, catalogue.fingerprint, catalogue.generation, catalogue.commits

    def writer(self, *, wait_seconds: float = 0.0) -> "Writer":
        """The one writer of this index; a context manager.

        Args:
            wait_seconds: float. How long to wait for another writer to finish.

        Returns:
            The `Writer`.

        Raises:
            LockedError: if another process or thread is writing; the message names it.
            StoreError: if the index is damaged or may not be written.
        """
        return Writer(self.folder, wait_seconds)

    def check(self) -> list[str]:
        """See `check`."""
        return check(self.folder)

    def num_bytes(self) -> int:
        """Bytes of all files in the folder, the encoder's included."""
        return sum(
            os.path.getsize(os.path.join(where, name))
            for where, _, names in os.walk(self.folder)
            for name in names
        )


# ---------------------------------------------------------------- creating


def _create_beside(folder, catalogue, encoder_files) -> None:
    beside = folder.parent / f"{_CREATING}{secrets.token_hex(8)}"
    os.mkdir(beside)
    try:
        # Held while the folder is made, so that others can tell it from an abandoned one.
        with open(beside / _LOCK, "xb") as lock:
            _lock_now(lock)
            (beside / SEGMENTS).mkdir()
            for name in catalogue.array_names:
                (beside / catalogue.file_name(name)).touch(exist_ok=False)
            fsync(beside / SEGMENTS)
            if encoder_files:
                encoder = _copy_encoder(beside / _ENCODER, encoder_files)
                catalogue = dataclasses.replace(catalogue, encoder=encoder)
            create_catalogue(beside / CATALOGUE, catalogue)
            write_digest(beside)
            fsync(beside)
            os.rename(beside, folder)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    fsync(folder.parent)


def _copy_encoder(folder, files) -> dict:
    folder.mkdir()
    copied = {}
    for name, source in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        copied[name] = copy_file(source, target)
    for path, _, _ in os.walk(folder):
        fsync(path)
    return copied


def _remove_abandoned(parent) -> None:
    """Remove what creations that were killed have left in a folder."""
    for path in parent.glob(f"{_CREATING}*"):
        with contextlib.suppress(OSError), open(path / _LOCK, "r+b") as lock:
            if _lock_now(lock):
                shutil.rmtree(path, ignore_errors=True)


# ---------------------------------------------------------------- writing


def _lock_now(lock) -> bool:
    """Whether the lock could be had. The system gives it back when its owner dies."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


_open_writers = weakref.WeakSet()


@functools.cache
def _let_go_in_children() -> None:
    """A forked process shares its parent's lock and must not keep it when the parent dies."""

    def let_go():
        for writer in list(_open_writers):
            writer._let_go()

    os.register_at_fork(after_in_child=let_go)


def _change(method):
    """A writer's method that changes the index wholly or not at all."""

    @functools.wraps(method)
    def wrapped(self, *args):
        if self._catalogue is None:
            raise StoreError(
                "A writer writes while it is open and the disk takes what it writes.",
                "a closed writer, or one that failed",
                "Open another one.",
            )
        try:
            return method(self, *args)
        except (ArgumentError, ShapeError):
            raise  # refused before anything was written
        except BaseException as error:
            # Whether the commit took place is for the disk to say.
            with contextlib.suppress(StoreError, OSError, SqlError):
                self._settle()
            if isinstance(error, (OSError, SqlError)):
                raise StoreError(
                    "An index is changed where there is room and leave to write.",
                    f"{self._folder}: {error}",
                    "Every earlier change is kept, and this one wholly or not at all.",
                ) from error
            raise

    return wrapped


class Writer:
    """The one writer of an index; made by `Store.writer`, used as a context manager.

    Every method that changes the index commits before it returns: what it returned for is kept
    through a kill or a power loss. Not safe to use from several threads at once.
    """

    def __init__(self, folder: pathlib.Path, wait_seconds: float):
        self._folder = folder
        self._catalogue = None
        self._files = {}
        self._lock = self._acquire(wait_seconds)
        try:
            _let_go_in_children()
            _open_writers.add(self)
            self._items_verified = False
            self._settle()
        except BaseException as error:
            self.close()
            if isinstance(error, (OSError, SqlError)):
                raise self._unwritable(error) from error
            raise

    def add(
        self,
        items: Iterable[Item],
        codes: np.ndarray,
        features: np.ndarray,
        local_features: Sequence | None = None,
        regions: Sequence | None = None,
    ) -> int:
        """Add images, as one segment in one commit. An id that is there already is replaced.

        Args:
            items: of length n; ids may not repeat.
            codes: uint8 array of shape `(n, code_bytes)`.
            features: float32 or float16 array, as the index stores them, of shape
                `(n, feature_dim)`, finite.
            local_features: where the index has such, n objects with `yx`, `(m, 2)`, and
                `descriptors`, `(m, descriptor_dim)`, both finite; m may differ and be 0.
            regions: where the index has such, n int arrays of shape `(r, 4)`: top, left, bottom
                and right of each region of an image; r may differ and be 0. Codes and features
                then have a row for each image and, right behind it, one for each of its regions.

        Returns:
            int. How many were added, n.

        Raises:
            ArgumentError: if an id repeats, or a feature holds NaN or infinity.
            ShapeError: if an array has another dtype or shape.
            StoreError: if the disk refuses; the index is as it was.
        """
        return self._add(list(items), codes, features, local_features, regions)

    @_change
    def _add(self, items, codes, features, local_features, regions):
        codes, features = np.asarray(codes), np.asarray(features)
        if not items and codes.size == features.size == 0:
            return 0
        counts, regions = check_images(
            self._catalogue, items, codes, features, local_features, regions
        )
        rows = items_of_rows(items, counts)
        if local_features is not None:
            # Those of the image; its regions have none of their own.
            dim = self._catalogue.descriptor_dim
            none = StoredFeatures(np.empty((0, 2), "<f4"), np.empty((0, dim), "<f2"))
            local_features = [
                features_of if place == 0 else none
                for features_of, count in zip(local_features, counts, strict=True)
                for place in range(count)
            ]
        self._add_segments([(rows, codes, features, local_features, regions)])
        return len(items)

    @_change
    def update(self, items: Iterable[Item]) -> int:
        """Change path, label, size and time of images that are there, without encoding again.

        Their codes and features, local ones and those of regions included, are copied to new
        rows, in one commit and in pieces, so that memory stays bounded.

        Args:
            items: iterable of `Item`; their ids are in the index.

        Returns:
            int. How many were changed.

        Raises:
            ArgumentError: if an id is unknown or repeats.
        """
        items = list(items)
        check_items(items)
        found = self._find([item.id for item in items])
        for item, rows in zip(items, found, strict=True):
            if not rows:
                raise ArgumentError("An image to update is in the index.", repr(item.id), "Add it.")
        if items:
            rows = np.concatenate([np.array(rows, np.int64) for rows in found])
            items_of = [item for item, rows in zip(items, found, strict=True) for _ in rows]
            self._add_segments(
                (items_of[part], *arrays) for part, *arrays in self._verified_parts(rows)
            )
        return len(items)

    @_change
    def remove(self, ids: Iterable[str]) -> list[str]:
        """Remove images with their regions, in one commit.

        Args:
            ids: iterable of str; unknown ones are passed over.

        Returns:
            list of str: the ids that were there and are no more, in the order given.
        """
        ids = list(dict.fromkeys(ids))
        found = {id: rows for id, rows in zip(ids, self._find(ids), strict=True) if rows}
        if found:
            dead = list(itertools.chain(*found.values()))
            self._commit((), dead)
            self._gone.update(dead)
            for id in found:
                self._recent.pop(id, None)
        return list(found)

    @_change
    def compact(self) -> CompactReport:
        """Write the live rows anew, in their order, into few segments, and drop the deleted.

        Needs room for a second copy of the live rows meanwhile. Snapshots that are open keep
        working.

        Raises:
            StoreError: if a row is damaged (the old files stay), or the disk refuses.
        """
        old = self._catalogue
        self._refresh()
        rows, regions_gone = self._view.kept_rows(), self._view.num_regions_gone()
        step = self._rows_at_once()
        bytes_before = self._count_bytes()
        if old.num_deleted or len(old.segments) > -(-len(rows) // step):
            empty = dataclasses.replace(old, generation=old.generation + 1, segments=())
            files = _create_data_files(self._folder, empty)
            old_files, self._files = self._files, files
            _close_all(old_files)
            segments, ends = [], dict.fromkeys(old.array_names, 0)
            for part, *arrays in self._verified_parts(rows):
                items = self._view.items(rows[part])
                segments.append(self._append(ends, items, *arrays))
            self._commit(segments, (), base=empty)
            self._refresh()
            with contextlib.suppress(OSError, SqlError):  # the next writer removes the rest
                _remove_leftovers(self._folder, self._catalogue)
        return CompactReport(
            rows_before=old.num_rows,
            rows_after=self._catalogue.num_rows,
            segments_before=len(old.segments),
            segments_after=len(self._catalogue.segments),
            bytes_freed=bytes_before - self._count_bytes(),
            regions_gone=regions_gone,
        )

    def close(self) -> None:
        """Give the lock back. What was committed stays; closing twice is fine."""
        if self._lock is None:
            return
        if self._catalogue is not None:
            # The digest serves `check` alone and the commits are safe without it.
            with contextlib.suppress(OSError, StoreError):
                renew_digest(self._folder, self._catalogue.commits)
        with contextlib.suppress(OSError):
            os.ftruncate(self._lock.fileno(), 0)
        self._let_go()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    # The lock

    def _acquire(self, wait_seconds):
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            lock = open(os.open(self._folder / _LOCK, flags, 0o666), "r+b", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise self._unwritable(error) from error
        deadline = time.monotonic() + wait_seconds
        while not _lock_now(lock):
            if time.monotonic() >= deadline:
                with lock:
                    owner = lock.read(4096).decode("utf-8", "replace").strip()
                raise LockedError(
                    "An index has one writer at a time.",
                    f"{self._folder} is being written by {owner or 'a process that starts'}",
                    "Wait until it is done (wait_seconds), or stop it.",
                )
            time.sleep(0.02)
        command = " ".join(sys.argv)[:500].encode("utf-8", "replace").decode()
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        owner = f"process {os.getpid()} on {socket.gethostname()} since {since}: {command}"
        # Who holds it is a courtesy; a full disk must not forbid to remove images.
        with contextlib.suppress(OSError):
            os.ftruncate(lock.fileno(), 0)
            os.pwrite(lock.fileno(), owner.encode(), 0)
        return lock

    def _let_go(self):
        self._catalogue = None
        _close_all(self._files)
        self._files = {}
        if self._lock is not None:
            self._lock.close()
        self._lock = None

    def _unwritable(self, error):
        return StoreError(
            "A writer needs leave to write in the index.",
            f"{self._folder}: {error}",
            "The index can still be searched.",
        )

    # What is there

    def _settle(self):
        """Begin from what the disk says is committed; cut off and remove the rest."""
        self._catalogue = None
        _close_all(self._files)
        self._files = {}
        catalogue = read_catalogue(self._folder)
        for name in catalogue.array_names:
            file = open_data(self._folder, catalogue, name, os.O_RDWR)
            self._files[name] = file
            end = catalogue.ends[name] * catalogue.row_bytes(name)
            if os.fstat(file).st_size > end:
                os.ftruncate(file, end)
        _remove_leftovers(self._folder, catalogue)
        self._catalogue = catalogue
        self._view = None
        self._recent, self._gone = {}, set()

    def _refresh(self):
        """Map what is committed by now, and forget what was remembered beside the old view."""
        self._view = _View(self._folder, self._catalogue)
        # Rows that this writer has added are as it wrote them; the others are verified once.
        self._view.items_verified = self._items_verified
        self._recent, self._gone = {}, set()

    def _find(self, ids) -> list[range]:
        """The rows of each image at this moment, none where there is no such image."""
        if self._view is None or len(self._recent) + len(self._gone) > _REMEMBERED_IDS:
            self._refresh()
        found = self._view.find(ids).tolist()
        self._items_verified = True
        none = range(0)
        return [
            self._recent[id]
            if id in self._recent
            else none
            if row < 0 or row in self._gone
            else self._view.rows_of(row)
            for id, row in zip(ids, found, strict=True)
        ]

    def _rows_at_once(self) -> int:
        rows = min(_COMPACT_ROWS, CHUNK_BYTES // self._catalogue.row_bytes("features"))
        if self._catalogue.extractor is not None and self._catalogue.num_rows:
            feature_bytes = self._catalogue.row_bytes("yx")
            feature_bytes += self._catalogue.row_bytes("descriptors")
            most = int(self._view.arrays["spans"]["count"].max()) * feature_bytes
            rows = min(rows, _COMPACT_LOCAL_BYTES // max(1, most))
        return max(1, rows)

    def _verified_parts(self, rows):
        """Slices of `rows` with codes, features, local features and regions, all verified.

        Of the last two None where the index has none.
        """
        if self._recent or self._gone:
            self._refresh()
        view, step = self._view, self._rows_at_once()
        view.verify("codes")
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            view.verify_features(rows[part])
            local = None if view.catalogue.extractor is None else view.local_features(rows[part])
            regions = None if view.owners is None else view.arrays["regions"][rows[part]]
            yield part, view.arrays["codes"][rows[part]], view.features(rows[part]), local, regions

    def _count_bytes(self) -> int:
        return sum(os.fstat(file).st_size for file in self._files.values())

    # What is to be

    def _add_segments(self, parts):
        """Append parts as segments and commit them together; old rows of their ids go."""
        ends, segments, added = dict(self._catalogue.ends), [], {}
        row = self._catalogue.num_rows
        for items, *arrays in parts:
            segments.append(self._append(ends, items, *arrays))
            for item in items:
                first = added[item.id].start if item.id in added else row
                row += 1
                added[item.id] = range(first, row)
        dead = list(itertools.chain(*self._find(added)))
        self._commit(segments, dead)
        self._gone.update(dead)
        self._recent.update(added)

    def _append(self, ends, items, codes, features, local_features, regions) -> Segment:
        """Write one segment after `ends`, which is moved on; nothing is committed yet."""
        records, text = encode_items(items, features, ends["text"])
        contents = [as_bytes(codes), as_bytes(features), records, text]
        if local_features is not None:
            contents += encode_local(local_features, ends["yx"])
        if regions is not None:
            contents.append(as_bytes(regions))
        arrays = {}
        for name, content in zip(self._catalogue.array_names, contents, strict=True):
            row_bytes = self._catalogue.row_bytes(name)
            write_at(self._files[name], content, ends[name] * row_bytes)
            count = len(content) // row_bytes
            arrays[name] = count, hashlib.sha256(content).hexdigest()
            ends[name] += count
        return Segment(len(items), arrays, None)

    def _commit(self, new_segments, dead_rows, base=None):
        """Make what was appended durable, then let one transaction count it in."""
        base = self._catalogue if base is None else base
        segments = list(base.segments)
        dead_rows = np.array(dead_rows, np.int64)
        places = np.searchsorted(base.starts, dead_rows, "right") - 1
        for place in np.unique(places):
            segment = segments[place]
            deleted = np.zeros(segment.num_rows, bool)
            if segment.deleted is not None:
                deleted |= segment.deleted
            deleted[dead_rows[places == place] - base.starts[place]] = True
            segments[place] = dataclasses.replace(segment, deleted=deleted)
        new = dataclasses.replace(
            base, commits=base.commits + 1, segments=(*segments, *new_segments)
        )
        if new_segments:
            for file in self._files.values():
                os.fsync(file)
        change_catalogue(self._folder / CATALOGUE, self._catalogue, new)
        self._catalogue = new


def _create_data_files(folder, catalogue) -> dict:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    files = {}
    try:
        for name in catalogue.array_names:
            files[name] = os.open(folder / catalogue.file_name(name), flags, 0o666)
        fsync(folder / SEGMENTS)
    except BaseException:
        _close_all(files)
        raise
    return files


def _close_all(files) -> None:
    for file in files.values():
        os.close(file)


def _remove_leftovers(folder, catalogue) -> None:
    """Remove files of other generations and half-written ones; files of others stay."""
    current = {catalogue.file_name(name) for name in catalogue.array_names}
    for entry in os.scandir(folder / SEGMENTS):
        if _DATA_FILE.fullmatch(entry.name) and f"{SEGMENTS}/{entry.name}" not in current:
            os.unlink(entry.path)
    remove_catalogue_leftovers(folder)


# ---------------------------------------------------------------- checking


def check(folder: str | os.PathLike) -> list[str]:
    """Verify every committed byte of an index.

    Args:
        folder: the index; one that does not open can be checked, too.

    Returns:
        list of str: what is wrong, each naming its file. Empty for a sound index.
    """
    folder = pathlib.Path(os.path.realpath(folder))
    try:
        return on_newest(folder, lambda catalogue: _check_all(folder, catalogue))
    except StoreError as error:
        return [str(error)]


def _check_all(folder, catalogue) -> list[str]:
    with contextlib.ExitStack() as stack:
        problems = check_catalogue(folder)
        files = {}
        for name in catalogue.array_names:
            try:
                files[name] = open_data(folder, catalogue, name)
                stack.callback(os.close, files[name])
            except StoreError as error:
                problems.append(str(error))
        if problems and read_catalogue(folder).generation != catalogue.generation:
            raise StoreError("The index was compacted meanwhile.")  # and is checked anew
        for name, file in files.items():
            at = row = 0
            for number, segment in enumerate(catalogue.segments, 1):
                count, sha256 = segment.arrays[name]
                length = count * catalogue.row_bytes(name)
                what = _compare(file, at, length, sha256)
                if what:
                    last = row + segment.num_rows - 1
                    what = f"segment {number} (rows {row} to {last}) {what}"
                    problems.append(str(damaged(folder, catalogue.file_name(name), what)))
                at, row = at + length, row + segment.num_rows
    for name, (size, sha256) in catalogue.encoder.items():
        problems += _check_encoder_file(folder, f"{_ENCODER}/{name}", size, sha256)
    return problems


def _check_encoder_file(folder, name, size, sha256) -> list[str]:
    try:
        path, found = inside(folder, name)
        if found != size:
            raise damaged(folder, name, f"{found} bytes instead of {size}")
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except StoreError as error:
        return [str(error)]
    except OSError as error:
        return [str(damaged(folder, name, error.strerror))]
    try:
        what = _compare(file, 0, size, sha256)
    finally:
        os.close(file)
    return [str(damaged(folder, name, what))] if what else []


def _compare(file, at, length, sha256) -> str | None:
    """Read from the file (not a map, where a bad disk kills): what is wrong, if anything is."""
    digest, end = hashlib.sha256(), at + length
    try:
        while at < end:
            content = os.pread(file, min(CHUNK_BYTES, end - at), at)
            if not content:
                return "is cut off"
            digest.update(content)
            at += len(content)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None if digest.hexdigest() == sha256 else "differs from its checksum"
