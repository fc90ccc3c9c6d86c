"""The committed rows of an index folder at one commit, as its snapshots and its writer read them.

What is verified is verified once: rows that follow those of an earlier commit take over what that
had verified, looked up or counted, and add only what has been committed since.
"""

import functools
import hashlib
import math
import pathlib
import threading
from collections.abc import Collection, Iterator, Sequence

import numpy as np
from zlib_ng.zlib_ng import crc32

from hashnet.errors import ArgumentError, ShapeError, StoreError
from hashnet.images import Exif
from hashnet.local.codebook import Codebook
from hashnet.retrieval.store.folder.contents import (
    CODEBOOKS,
    LOCAL_NAMES,
    LOOKUPS,
    WORDS,
    Catalogue,
)
from hashnet.retrieval.store.folder.lookups import (
    Lookup,
    MemoryLookup,
    StoredLookup,
    num_absorbed,
)
from hashnet.retrieval.store.folder.mapped import MappedFiles
from hashnet.retrieval.store.folder.paths import damaged
from hashnet.retrieval.store.folder.records import (
    EXIF_HEAD,
    EXIF_RECORD,
    FILE_HEAD,
    FILE_RECORD,
    ITEM_BYTES,
    ITEM_HEAD,
    ITEM_RECORD,
    NO_PATH,
    PATH_OF_ID,
    SPAN_HEAD,
    TEXTS_HEAD,
    TEXTS_RECORD,
    as_bytes,
    hash_id,
)
from hashnet.retrieval.store.folder.words import StoredWordLists
from hashnet.retrieval.store.growing import Growing
from hashnet.retrieval.store.items import (
    UNKNOWN,
    Item,
    StoredFeatures,
    date_of,
    no_local_features,
    to_bytes,
    to_text,
)
from hashnet.retrieval.store.roots import Roots
from hashnet.retrieval.store.texts import Texts, of_bytes
from hashnet.retrieval.store.word_lists import Signatures

_IDS_AT_ONCE = 1024
_READ_AT_ONCE = 2**20  # bytes


class CommittedRows:
    """The committed rows at one commit, mapped.

    Args:
        folder: pathlib.Path of the index.
        catalogue: `Catalogue` of the commit.
        older: `CommittedRows` of an earlier commit, or None. What it has verified is taken over
            where all of its rows are rows of this commit, too.

    Attributes:
        folder, catalogue: as given.
        num_rows: int.
        roots: `Roots`.
        live: bool `(num_rows,)`: rows that are not deleted; None where none is.
        history: object. The same one for commits of which the later continue the earlier.
    """

    def __init__(
        self, folder: pathlib.Path, catalogue: Catalogue, older: "CommittedRows | None" = None
    ) -> None:
        self.folder, self.catalogue = folder, catalogue
        self.num_rows = catalogue.num_rows
        self.roots = Roots(catalogue.roots)
        self._files_mapped = MappedFiles(folder, catalogue)
        self._feature_map = self._files_mapped.maps["features"]
        # Plain arrays over the maps: indexing them is several times faster.
        self._arrays = {name: np.asarray(one) for name, one in self._files_mapped.maps.items()}
        self.live = catalogue.live()
        # Of plain bytes: NumPy copies records of named fields one field at a time, and what a
        # memory view cuts out reaches a checksum without an array for each row.
        self._records = self._arrays["items"].view(ITEM_BYTES)
        self._text = memoryview(self._arrays["text"].data)
        self._lock = threading.RLock()
        if older is not None and not catalogue.continues(older.catalogue):
            older = None
        self.history: object = object() if older is None else older.history
        # How many segments.
        self._items_verified: int = 0 if older is None else older._items_verified
        self._codes: Growing | None = None if older is None else older._codes
        self._regions: Growing | None = None if older is None else older._regions
        self._owners: Growing | None = None if older is None else older._owners
        self._taken: Growing | None = None if older is None else older._taken
        self._codes_verified: set[int] = set()  # segments, on the disk
        # A byte a row: a look at those of a pool takes a hundredth of reading its features.
        self._features_verified = np.zeros(self.num_rows, bool)
        self._spans_verified: int = 0 if older is None else older._spans_verified  # segments
        self._lookups: tuple[Lookup, ...] | None = None
        self._older_lookups: tuple[Lookup, ...] = ()
        self._word_lists: tuple[StoredWordLists, ...] | None = None
        self._older_word_lists: tuple[StoredWordLists, ...] = ()
        self._codebook: Codebook | None = None
        if older is not None:
            self._features_verified[: older.num_rows] = older._features_verified
            self._older_lookups = older._lookups or older._older_lookups
            self._older_word_lists = older._word_lists or older._older_word_lists
            if older.catalogue.codebook == catalogue.codebook:
                self._codebook = older._codebook

    def check_files(self) -> None:
        """Refuse files that have been cut off since they were opened; see `MappedFiles.check`."""
        self._files_mapped.check()

    @property
    def codes(self) -> np.ndarray:
        """uint8 `(num_rows, code_bytes)`, verified, in memory."""
        with self._lock:
            self._codes = self._verified_copy("codes", self._codes)
            return self._codes.array

    @property
    def owners(self) -> np.ndarray | None:
        """int64 `(num_rows,)`: the row of the whole image of each row; None without regions."""
        if not self.catalogue.regions_per_image:
            return None
        with self._lock:
            if self._owners is None or len(self._owners.array) < self.num_rows:
                self._regions = self._verified_copy("regions", self._regions)
                start = 0 if self._owners is None else len(self._owners.array)
                whole = ~self._regions.array[start:].any(axis=1)
                rows = np.arange(start, self.num_rows)
                # No image is cut by a commit, so the first new row is of a whole image.
                new = np.maximum.accumulate(np.where(whole, rows, 0))
                known = Growing(new[:0]) if self._owners is None else self._owners
                self._owners = known.followed_by(new)
            return self._owners.array

    @property
    def live_images(self) -> np.ndarray | None:
        """bool `(num_rows,)`: the live rows of whole images; None where that is all."""
        owners = self.owners
        if owners is None:
            return self.live
        whole = owners == np.arange(self.num_rows)
        return whole if self.live is None else whole & self.live

    def rows_of_images(self) -> np.ndarray:
        """int64, ascending: the live rows of whole images."""
        live = self.live_images
        return np.arange(self.num_rows) if live is None else np.flatnonzero(live)

    def live_rows(self) -> np.ndarray:
        """int64, ascending: all live rows."""
        return np.arange(self.num_rows) if self.live is None else np.flatnonzero(self.live)

    def num_regions_gone(self) -> int:
        """Rows of regions that are deleted."""
        owners = self.owners
        if owners is None or self.live is None:
            return 0
        return int(np.count_nonzero(~self.live & (owners != np.arange(self.num_rows))))

    def rows_of(self, row: int) -> range:
        """All rows of an image.

        Args:
            row: int, of the whole image.

        Returns:
            range: that row, and those of its regions.
        """
        owners = self.owners
        if owners is None:
            return range(row, row + 1)
        return range(row, int(np.searchsorted(owners, row, "right")))

    def regions(self, rows: np.ndarray) -> np.ndarray:
        """int32 `(n, 4)`, verified, of some rows of an index with regions; zeros: whole image."""
        with self._lock:
            self._regions = self._verified_copy("regions", self._regions)
            return self._regions.array[rows]

    def check_rows(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Rows as an array, refused where there are no such.

        Args:
            rows: sequence of int, or integers of any dtype `(n,)`.

        Returns:
            The same, integers of any dtype `(n,)`.

        Raises:
            ShapeError: they are no integers, or not in one axis.
            ArgumentError: one is not in the index.
        """
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

    def features(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Features of some rows, verified."""
        rows = self.check_rows(rows)
        self._verify_new_features(rows)
        return self._arrays["features"][rows]

    def feature_map(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """All features, a memory map, of which those of some rows are verified.

        Args:
            rows: int `(n,)`.

        Returns:
            float32 or float16 `(num_rows, feature_dim)`.
        """
        self._verify_new_features(self.check_rows(rows))
        return self._feature_map

    def features_anew(self, rows: np.ndarray) -> np.ndarray:
        """Features of some rows, verified whether or not they have been: what is to be copied.

        What changed since it was verified would else be given a checksum that fits.

        Args:
            rows: int `(n,)`.

        Returns:
            An array of the index's feature dtype, of shape `(n, feature_dim)`.
        """
        self._verify_features(rows)
        return self._arrays["features"][rows]

    def _verify_new_features(self, rows: np.ndarray) -> None:
        """The same of those of some rows that have not been verified."""
        if not (known := self._features_verified[rows]).all():
            self._verify_features(rows[~known])

    def _verify_features(self, rows: np.ndarray) -> None:
        """Compare features with the checksums in their items' records.

        The records need not be verified for it: a checksum that has changed differs, too.
        """
        size, read = self.catalogue.row_bytes("features"), self._files_mapped.read
        wanted = self._arrays["items"]["feature_crc"][rows].tolist()
        content, first, end = b"", 0, 0  # what has been read, of rows that follow each other
        for number, row in enumerate(rows.tolist()):
            if not first <= row < end:
                most = max(1, _READ_AT_ONCE // size)
                count = _run_length(rows[number : number + most])
                content, first, end = read("features", row * size, count * size), row, row + count
            at = (row - first) * size
            if crc32(memoryview(content)[at : at + size]) != wanted[number]:
                what = f"row {row} differs from its checksum in {self.catalogue.file_name('items')}"
                raise self._damaged("features", what)
        self._features_verified[rows] = True

    def local_features(self, rows: Sequence[int] | np.ndarray) -> list[StoredFeatures]:
        """Local features of some rows, each verified."""
        if self.catalogue.extractor is None:
            raise no_local_features(self.folder)
        spans, yx, descriptors = (self._arrays[name] for name in LOCAL_NAMES)
        found = []
        for row in self.check_rows(rows).tolist():
            start, count, wanted = spans[row].item()
            places, stored = yx[:0], descriptors[:0]
            if 0 <= start <= len(yx) - count:
                places, stored = (self._read_rows(name, start, count) for name in LOCAL_NAMES[1:])
            crc = crc32(as_bytes(places), crc32(SPAN_HEAD.pack(start, count)))
            if len(places) != count or crc32(as_bytes(stored), crc) != wanted:
                others = " or ".join(self.catalogue.file_name(name) for name in LOCAL_NAMES[1:])
                what = f"the span of row {row}, or what it spans in {others}, differs from its"
                raise self._damaged("spans", f"{what} checksum")
            found.append(StoredFeatures(places, stored))
        return found

    def _read_rows(self, name: str, start: int, count: int) -> np.ndarray:
        """Some rows of an array that follow each other, in memory."""
        size, array = self.catalogue.row_bytes(name), self._arrays[name]
        content = self._files_mapped.read(name, start * size, count * size)
        return np.frombuffer(content, array.dtype).reshape(count, *array.shape[1:])

    def most_local_features(self) -> int:
        """The most local features that a row has."""
        return int(self._verified_spans()["count"].max()) if self.num_rows else 0

    def items(self, rows: Sequence[int] | np.ndarray) -> list[Item]:
        """Items of some rows, each verified."""
        rows = self.check_rows(rows)
        text, content = self._text, self._records[rows].tobytes()
        files, exifs, texts = self._files(rows), self._exif(rows), self.texts(rows)
        items = []
        for at, record in enumerate(ITEM_RECORD.iter_unpack(content)):
            _, start, label_start, size, mtime_ns, id_bytes, path_bytes, label_bytes = record[:8]
            end = start + id_bytes + max(0, path_bytes)
            # Copied, so that what is verified is what is returned.
            words = text[start:end].tobytes()
            label = text[label_start : label_start + max(0, label_bytes)].tobytes()
            head = content[at * ITEM_RECORD.size : at * ITEM_RECORD.size + ITEM_HEAD.size]
            if crc32(head + words + label) != record[9]:
                text_name = self.catalogue.file_name("text")
                what = f"row {rows[at]}, or its words in {text_name}, differs from its checksum"
                raise self._damaged("items", what)
            id = to_text(words[:id_bytes])
            path = self.roots.path_of(id) if path_bytes == PATH_OF_ID else None
            items.append(
                Item(
                    id,
                    path if path_bytes <= NO_PATH else to_text(words[id_bytes:]),
                    None if label_bytes < 0 else to_text(label),
                    None if size == UNKNOWN else size,
                    None if mtime_ns == UNKNOWN else mtime_ns,
                    *files[at],
                    exifs[at],
                    texts[at],
                )
            )
        return items

    def _files(self, rows: np.ndarray) -> list[tuple[int | None, int | None, bytes | None]]:
        """What tells the file of each row from others, verified: (ctime_ns, inode, content)."""
        if self.catalogue.roots is None:
            return [(None, None, None)] * len(rows)
        content, found = self._record_bytes("files", rows), []
        for at, (ctime_ns, inode, of_file, crc, _) in enumerate(FILE_RECORD.iter_unpack(content)):
            start = at * FILE_RECORD.size
            if crc32(content[start : start + FILE_HEAD.size]) != crc:
                raise self._damaged("files", f"row {rows[at]} differs from its checksum")
            found.append(
                (
                    None if ctime_ns == UNKNOWN else ctime_ns,
                    inode or None,
                    of_file if any(of_file) else None,
                )
            )
        return found

    def _exif(self, rows: np.ndarray) -> list[Exif | None]:
        """What the camera wrote into the photo of each row, verified."""
        if not self.catalogue.exif:
            return [None] * len(rows)
        content = self._record_bytes("exif", rows)
        found: list[Exif | None] = []
        for at, record in enumerate(EXIF_RECORD.iter_unpack(content)):
            taken, latitude, longitude, camera_start, camera_bytes, crc = record
            camera = self._text[camera_start : camera_start + max(0, camera_bytes)].tobytes()
            start = at * EXIF_RECORD.size
            if crc32(content[start : start + EXIF_HEAD.size] + camera) != crc:
                text_name = self.catalogue.file_name("text")
                what = f"row {rows[at]}, or its camera in {text_name}, differs from its checksum"
                raise self._damaged("exif", what)
            try:
                date = None if taken == UNKNOWN else date_of(taken)
            except OverflowError as error:
                raise self._damaged("exif", f"row {rows[at]}: {error}") from error
            exif = Exif(
                date,
                None if math.isnan(latitude) else latitude,
                None if math.isnan(longitude) else longitude,
                None if camera_bytes < 0 else to_text(camera),
            )
            found.append(None if exif == Exif() else exif)
        return found

    def texts(self, rows: np.ndarray) -> list[Texts | None]:
        """The texts of each row, verified; None where there are none.

        Args:
            rows: int64 `(n,)`.

        Returns:
            list of n `Texts` or None.
        """
        if not self.catalogue.texts:
            return [None] * len(rows)
        content = self._record_bytes("texts", rows)
        found: list[Texts | None] = []
        for at, (start, num_bytes, crc) in enumerate(TEXTS_RECORD.iter_unpack(content)):
            of_row = self._text[start : start + num_bytes].tobytes()
            head = content[at * TEXTS_RECORD.size :][: TEXTS_HEAD.size]
            text_name = self.catalogue.file_name("text")
            what = f"row {rows[at]}, or its texts in {text_name}, differs from its checksum"
            if crc32(head + of_row) != crc:
                raise self._damaged("texts", what)
            try:
                found.append(of_bytes(of_row))
            except ValueError as error:
                raise self._damaged("texts", f"row {rows[at]}: {error}") from error
        return found

    def _record_bytes(self, name: str, rows: np.ndarray) -> bytes:
        """Copied, so that what is verified is what is returned."""
        array = self._arrays[name]
        content: bytes = array.view((np.void, array.itemsize))[rows].tobytes()
        return content

    def rows_of_sizes(self, sizes: Sequence[int]) -> np.ndarray:
        """int64, ascending: the live rows of whole images whose files have one of these sizes."""
        self._verify_items()
        rows = self.rows_of_images()
        return rows[np.isin(self._arrays["items"]["size"][rows], np.asarray(sizes, np.int64))]

    def rows_taken(self, after: int | None, before: int | None) -> np.ndarray:
        """int64, ascending: the live rows of whole images that were taken in some time.

        Args:
            after, before: int or None, seconds; the first one and the one behind the last.

        Returns:
            int64 `(n,)`.
        """
        with self._lock:
            self._taken = self._verified_copy("exif", self._taken)
            taken = self._taken.array["taken"]
        rows = self.rows_of_images()
        taken = taken[rows]
        kept = taken != UNKNOWN
        if after is not None:
            kept &= taken >= after
        if before is not None:
            kept &= taken < before
        return rows[kept]

    def ids_of(self, rows: np.ndarray) -> list[bytes]:
        """Ids of some rows, as `Reader.ids_of`."""
        records, text = self._arrays["items"][rows], self._text
        starts, lengths = records["start"].tolist(), records["id_bytes"].tolist()
        return [
            text[start : start + length].tobytes()
            for start, length in zip(starts, lengths, strict=True)
        ]

    def rows_of_labels(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Rows by label, as `Reader.rows_of_labels`."""
        records = self._arrays["items"][rows]
        lengths = records["label_bytes"]
        rows, lengths = rows[lengths >= 0], lengths[lengths >= 0]
        starts = records["label_start"][records["label_bytes"] >= 0]
        # An empty label lies where the next word begins; the last bit keeps the two apart.
        order = np.argsort(places := starts * 2 + (lengths > 0), kind="stable")
        borders = np.flatnonzero(np.diff(places[order], prepend=-1))
        groups: dict[str, list[np.ndarray]] = {}
        for group in np.split(order, borders[1:]) if len(order) else ():
            start, length = int(starts[group[0]]), int(lengths[group[0]])
            name = to_text(self._text[start : start + length].tobytes())
            groups.setdefault(name, []).append(rows[group])
        return {name: np.sort(np.concatenate(parts)) for name, parts in groups.items()}

    # Look-ups

    def find(self, ids: Sequence[str]) -> np.ndarray:
        """The live row of each id.

        Args:
            ids: sequence of str.

        Returns:
            int64 `(n,)`, -1 where there is none.
        """
        wanted = np.array([hash_id(to_bytes(id)) for id in ids], np.uint64)
        found = np.full(len(ids), -1, np.int64)
        for lookup in self.lookups():
            places, rows = lookup.candidates(wanted)
            if self.live is not None:
                live = self.live[rows]
                places, rows = places[live], rows[live]
            for place, row, item in zip(places, rows, self.items(rows), strict=True):
                if item.id == ids[place]:
                    found[place] = row
        return found

    def rows_beginning_with(self, start: str) -> np.ndarray:
        """int64, ascending: the live rows of whole images whose ids begin so."""
        found = [np.empty(0, np.int64)]
        for lookup in self.lookups():
            places = lookup.beginning_with(to_bytes(start), self)
            found.append(self._alive(lookup.rows_by_id(*places, self)))
        return np.sort(np.concatenate(found))

    def first_and_last_id(self, start: str) -> tuple[str, str] | None:
        """Of the ids that begin so, the first and the last in the order of their bytes.

        Args:
            start: str.

        Returns:
            (first, last), or None where no id begins so.
        """
        ends: list[bytes] = []
        for lookup in self.lookups():
            first, last = lookup.beginning_with(to_bytes(start), self)
            steps = range(first, last, _IDS_AT_ONCE)
            for parts, which in ((steps, 0), (reversed(steps), -1)):
                for at in parts:  # up to the first part where some row is live
                    part = lookup.rows_by_id(at, min(at + _IDS_AT_ONCE, last), self)
                    rows = self._alive(part)
                    if len(rows):
                        ends.append(to_bytes(self.items(rows[which : which + 1 or None])[0].id))
                        break
        return (to_text(min(ends)), to_text(max(ends))) if ends else None

    def ids_outside(self, start: str) -> "IdsOutside":
        """The ids that do not begin so."""
        content = to_bytes(start)
        return IdsOutside([lookup.outside(content, self) for lookup in self.lookups()], self.live)

    def rows_of_label(self, label: str) -> np.ndarray:
        """int64, ascending: the live rows of whole images that have a label."""
        none = np.empty(0, np.int64)
        found = [lookup.labels(self).get(label, none) for lookup in self.lookups()]
        return self._alive(np.concatenate([none, *found]))

    def label_counts(self) -> dict[str, int]:
        """How many images have each label, in the order in which labels first occur."""
        firsts: dict[str, int] = {}
        counts: dict[str, int] = {}
        for lookup in self.lookups():
            for label, (first, count) in lookup.counts(self.live, self).items():
                firsts[label] = min(first, firsts.get(label, first))
                counts[label] = counts.get(label, 0) + count
        return {label: counts[label] for label in sorted(firsts, key=firsts.__getitem__)}

    def lookups(self) -> tuple[Lookup, ...]:
        """The look-ups of all rows, in the order of their rows."""
        with self._lock:
            if self._lookups is None:
                if self.catalogue.runs is None:
                    self._lookups = self._made_in_memory()
                else:
                    self._lookups = tuple(self._stored())
                self._older_lookups = ()
            return self._lookups

    def labels(self) -> tuple[np.ndarray, list[str]]:
        """Of each row a place in a list of labels, -1 for none, and that list."""
        names = list(self.label_counts())
        place_of = {name: place for place, name in enumerate(names)}
        places = np.full(self.num_rows, -1, np.int32)
        for lookup in self.lookups():
            for label, rows in lookup.labels(self).items():
                if len(rows := self._alive(rows)):
                    places[rows] = place_of[label]
        return places, names

    def _stored(self) -> Iterator[Lookup]:
        known = {one.run: one for one in self._older_lookups if isinstance(one, StoredLookup)}
        content = self._arrays[LOOKUPS]
        # Of this object itself it holds nothing, which else would stay as long as the run does.
        wrong = functools.partial(damaged, self.folder, self.catalogue.file_name(LOOKUPS))
        for run in self.catalogue.runs or ():
            if run in known:
                yield known[run]
            else:
                part = content[run.start : run.end]
                yield StoredLookup(run, part, wrong)

    def _made_in_memory(self) -> tuple[Lookup, ...]:
        """Of an index that keeps no look-ups: those known from earlier, and the rows behind."""
        self._verify_items()
        known = list(self._older_lookups)
        start = known[-1].end_row if known else 0
        if start == self.num_rows:
            return tuple(known)
        rows = self.rows_of_images()
        num_new = len(rows) - int(np.searchsorted(rows, start))
        absorbed = num_absorbed([lookup.num_images for lookup in known], num_new)
        if absorbed:
            start = known[-absorbed].first_row
            del known[-absorbed:]
        rows = rows[rows >= start]
        hashes = self._arrays["items"]["id_hash"][rows]
        return *known, MemoryLookup(start, self.num_rows - start, rows, hashes)

    def _alive(self, rows: np.ndarray) -> np.ndarray:
        return rows if self.live is None else rows[self.live[rows]]

    # The local pool

    @property
    def codebook(self) -> Codebook | None:
        """`Codebook`, verified; None where there is none."""
        stored = self.catalogue.codebook
        if stored is None:
            return None
        with self._lock:
            if self._codebook is None:
                self._codebook = Codebook.from_bytes(self.codebook_bytes())
                found = self._codebook.num_words, self._codebook.num_bits
                if found != (stored.num_words, stored.num_bits):
                    raise self._damaged(CODEBOOKS, f"a codebook of {found} words and bits")
            return self._codebook

    def codebook_bytes(self) -> bytes:
        """The bytes of the codebook, of which there is one, verified."""
        stored = self.catalogue.codebook
        assert stored is not None
        content = self._arrays[CODEBOOKS][stored.start : stored.end].tobytes()
        if hashlib.sha256(content).hexdigest() != stored.sha256:
            raise self._damaged(CODEBOOKS, "the codebook differs from its checksum")
        return content

    def word_lists(self) -> tuple[StoredWordLists, ...]:
        """The inverted lists of all rows, in the order of their rows; none without a codebook."""
        with self._lock:
            if self._word_lists is None:
                known = {one.run: one for one in self._older_word_lists}
                wrong = functools.partial(damaged, self.folder, self.catalogue.file_name(WORDS))
                self._word_lists = tuple(
                    known.get(run)
                    or StoredWordLists(run, self._arrays[WORDS][run.start : run.end], wrong)
                    for run in self.catalogue.word_runs or ()
                )
                self._older_word_lists = ()
            return self._word_lists

    def signatures_of(self, rows: np.ndarray) -> list[Signatures]:
        """Signatures of some rows of an index with a codebook, verified.

        Args:
            rows: int64 `(n,)`.

        Returns:
            list of `Signatures`.
        """
        lists = self.word_lists()
        numbers = np.searchsorted([one.run.end_row for one in lists], rows, "right")
        found: dict[int, Signatures] = {}
        for number in np.unique(numbers).tolist():
            places = np.flatnonzero(numbers == number)
            found.update(
                zip(places.tolist(), lists[number].whole().of_rows(rows[places]), strict=True)
            )
        return [found[place] for place in range(len(rows))]

    def local_counts(self) -> np.ndarray:
        """int64 `(num_rows,)`: how many local features each row has, 0 of those that are dead."""
        counts = self._verified_spans()["count"].astype(np.int64)
        return counts if self.live is None else np.where(self.live, counts, 0)

    # Verifying

    def codes_of(self, rows: np.ndarray) -> np.ndarray:
        """Codes of some rows, whose segments are verified, and not all others.

        Args:
            rows: int64 `(n,)`.

        Returns:
            uint8 `(n, code_bytes)`.
        """
        for number in {self.catalogue.number_of_segment(row) for row in rows.tolist()}:
            if number not in self._codes_verified:
                self._verify("codes", self._arrays["codes"], number, number + 1)
                self._codes_verified.add(number)
        return self._arrays["codes"][rows]

    def _verified_spans(self) -> np.ndarray:
        """Where the local features of all rows lie, verified once."""
        with self._lock:
            self._verify("spans", self._arrays["spans"], self._spans_verified)
            self._spans_verified = len(self.catalogue.segments)
        return self._arrays["spans"]

    def _verify_items(self) -> None:
        """Verify all items, once."""
        with self._lock:
            for name in ("items", "text"):
                self._verify(name, self._arrays[name], self._items_verified)
            self._items_verified = len(self.catalogue.segments)

    def _verified_copy(self, name: str, known: Growing | None) -> Growing:
        """One array by row, copied before it is verified: what is used is what was verified."""
        start = 0 if known is None else len(known.array)
        if known is not None and start == self.num_rows:
            return known
        more = self._arrays[name][start:]
        size = self.catalogue.row_bytes(name)
        self._files_mapped.fetch(name, start * size, len(more) * size)
        copy = Growing(more) if known is None else known.followed_by(more)
        self._verify(name, copy.array, self.catalogue.number_of_segment(start) if start else 0)
        return copy

    def _verify(self, name: str, array: np.ndarray, first: int, end: int | None = None) -> None:
        """Compare one array with the checksums of its segments, from one on, up to another."""
        content, row_bytes = as_bytes(array).data, self.catalogue.row_bytes(name)
        for number, segment in enumerate(self.catalogue.segments[first:end], first + 1):
            count, sha256 = segment.arrays[name]
            at = segment.starts[name] * row_bytes
            if array is self._arrays[name]:
                self._files_mapped.fetch(name, at, count * row_bytes)
            if hashlib.sha256(content[at : at + count * row_bytes]).hexdigest() != sha256:
                raise self._damaged(name, f"segment {number} differs from its checksum")

    def _damaged(self, name: str, what: str) -> StoreError:
        return damaged(self.folder, self.catalogue.file_name(name), what)


def _run_length(rows: np.ndarray) -> int:
    """How many of some rows, from the first on, follow each other without a gap."""
    breaks = np.flatnonzero(np.diff(rows) != 1)
    return int(breaks[0]) + 1 if len(breaks) else len(rows)


class IdsOutside(Collection[str]):
    """Live ids that do not begin in some way, looked up and counted without a copy of them.

    Args:
        rows: of each look-up, a dict of id to row; deleted ones included.
        live: bool `(num_rows,)`, or None where all are.
    """

    def __init__(self, rows: Sequence[dict[str, int]], live: np.ndarray | None) -> None:
        self._rows = [one for one in rows if one]
        self._live = live

    def __contains__(self, id: object) -> bool:
        return any(self._is_live(rows[id]) for rows in self._rows if id in rows)

    def __iter__(self) -> Iterator[str]:
        for rows in self._rows:
            yield from (id for id, row in rows.items() if self._is_live(row))

    def __len__(self) -> int:
        if self._live is None:
            return sum(map(len, self._rows))
        return sum(1 for _ in self)

    def _is_live(self, row: int) -> bool:
        return self._live is None or bool(self._live[row])
