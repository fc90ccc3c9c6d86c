"""What an index folder looks like on disk, and who reads and writes it.

How the files of numbers are made up stands in contents.py, records.py, lookups.py and words.py, how
the catalogue is in catalogue.py, what names of files may be in paths.py. rows.py and snapshot.py
read, writer.py and create.py write, check.py checks. No other file knows.

    index/
      catalogue.sqlite          what is committed: sizes and checksums of all segments, which rows
                                are deleted, the encoder's files (SQLite; small)
      catalogue.sha256          checksum of the catalogue, as the last writer left it
      segments/000001.codes     uint8, (num_rows, code_bytes)
               000001.features  float32 or float16, (num_rows, feature_dim)
               000001.items     one record of 64 bytes per row: size, time, checksums, where its
                                words are
               000001.text      ids, labels, cameras, and paths that ids do not tell
               000001.spans     of local features: one record of 16 bytes per row
               000001.yx        float32, (num_local_features, 2)
               000001.descriptors  float16, (num_local_features, descriptor_dim)
               000001.regions   int32, (num_rows, 4): top, left, bottom, right; zeros where the
                                row is of the whole image
               000001.files     one record of 40 bytes per row: what tells its file from others
               000001.exif      one record of 40 bytes per row: what the camera wrote
               000001.texts     one record of 16 bytes per row: where its captions and what was read
                                in its pixels are in the text
               000001.lookups   rows sorted by id and by label, of parts of the index: lookups.py
               000001.words     inverted lists of the images of each visual word, likewise: words.py
               000001.codebooks the codebook that they are by, and before it those that it followed
      texts-FORM-STATE.sqlite   which texts of the first rows have which trigrams: text_index.py;
                                it follows from the rows, is no part of a commit, and is made again
                                where it is missing, damaged or of another state
      encoder/                  the bundle that made the codes (encoder.next/: one that is to take
                                its place)
      lock                      held by the writer, and names it (without locks: lock.owner/)

The files of numbers have no headers, are little-endian, and only ever grow: every commit appends
one *segment* to each, makes it durable, and then lets one SQLite transaction count it in. Bytes
that the catalogue does not count do not exist: a killed writer leaves some, the next writer cuts
them off. Bytes that it counts are never written again. Compaction writes a new set of files
under the next number (the *generation*), commits, and removes the old set, which snapshots that
have it mapped go on reading.

A row is a place in the order of commits, deleted rows included; it is stable until compaction,
which keeps the order. In an index with regions an image has several: the row of the whole image,
and right behind it, with the same item, one for each of its regions; they come and go together. An
index without local features has none of their five files, one without regions or what cameras
wrote not theirs. Indexes of older format versions stay as they are: 1 to 6 have no texts of
images, 1 to 5 no inverted lists and no codebook, 1 to 4 keep no roots and no `files`, and 1 to 3
no look-ups either; 1 has no local features and no regions, 2 no regions.
Everything a snapshot shows lies in those files, so a snapshot needs SQLite only while it opens,
holds no database lock, and is safe to use from many threads.

Work at a commit is for what it adds: a snapshot that is taken while an earlier one of the same
`Store` is open, and a writer likewise, takes over what that one has read and verified.

What is verified when, once for each snapshot or those before it:

- `Store.open`: the catalogue (every record of it carries a checksum), and the size and kind of
  every file it names, the encoder's included. Nothing is allocated or mapped before that.
- `Store.snapshot`: also the checksum of all codes and regions.
- `Snapshot.items`: the checksum of each item read. `rows_of_sizes`: all items, wholly.
- `rows`, `labels` and what else looks up: the checksum of what is read of the look-ups, and of
  each item found; in format versions 1 to 3, all items, wholly.
- `Snapshot.local_features`: the checksum of those of the row.
- `Snapshot.codebook`: the checksum of the codebook. `word_lists`: of what is read of the lists,
  when it is read for the first time.
- `Snapshot.features` and `feature_map`: the checksum of each row asked for, so of each row that a
  search ranks, when it is asked for for the first time; the item of a row holds it, in every format
  version. `local_counts`: of all spans.
  Compaction and `Writer.update`: of each row they copy, once more.
- What texts are looked up by: its checksum, once in a process, and which segments it covers.
- `Store.verify_encoder`: of a file of the encoder, whenever it is opened.
- `check`: every committed byte of every file. A byte of the catalogue that belongs to no record
  (free space inside SQLite's pages) is covered by `catalogue.sha256`, which is out of date from
  a writer's death until the next writer closes. Bytes that are not counted in are not looked at,
  nor are look-ups, lists and codebooks in whose place a commit wrote others.

Checksums find accidents; they do not prove who made an index. No code of an index ever runs, and
file names are made from numbers or checked to stay inside the folder.

What must hold beneath: a file system where a power loss while a file is appended to leaves its
older bytes as they were (SQLite asks for the same), and locks exclude those who may write. Where it
has no locks, a folder that names the writer stands for one (`system.FileLock`), and who reads tells
by the checksums that a commit is under way. On Windows, where a file that is mapped cannot be
removed, the old set of a compaction stays until a writer comes when nobody reads it any more.
"""

import os
import pathlib
import secrets
import threading
import time
import weakref
from collections.abc import Mapping
from typing import Any

from hashnet.codes import code_bytes
from hashnet.errors import ArgumentError, StoreError
from hashnet.retrieval.store.folder.catalogue import (
    CATALOGUE,
    SqlError,
    on_newest,
    read_catalogue,
    unchanged_mark,
)
from hashnet.retrieval.store.folder.check import check, compare_encoder_file
from hashnet.retrieval.store.folder.contents import (
    Catalogue,
)
from hashnet.retrieval.store.folder.create import create_folder
from hashnet.retrieval.store.folder.encoders import name_of_encoder
from hashnet.retrieval.store.folder.paths import damaged, inner_name, inside
from hashnet.retrieval.store.folder.rows import CommittedRows
from hashnet.retrieval.store.folder.snapshot import Snapshot
from hashnet.retrieval.store.folder.writer import Writer
from hashnet.retrieval.store.items import check_extractor, check_ocr, check_regions_per_image
from hashnet.system import StrPath


class Store:
    """An index folder: made by `create`, opened by `open`, read through snapshots.

    See `protocol.Store`.

    Attributes:
        folder: pathlib.Path. The index.
        encoder_folder: pathlib.Path or None. The bundle that the index carries.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from hashnet.retrieval.store.items import Item
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

    def __init__(self, folder: pathlib.Path, catalogue: Catalogue) -> None:
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
        self.exif = catalogue.exif
        self.texts, self.ocr = catalogue.texts, catalogue.ocr
        self.encoder_folder = None
        if catalogue.encoder:
            self.encoder_folder = folder / name_of_encoder(folder, catalogue)
        self._encoder = catalogue.encoder
        self.made = catalogue.made
        self._known = catalogue
        self._seen: tuple[tuple[int, ...] | None, tuple[Any, ...]] = (None, ())
        self._rows: weakref.WeakSet[CommittedRows] = weakref.WeakSet()
        self._lock = threading.Lock()

    @classmethod
    def create(
        cls,
        folder: StrPath,
        *,
        num_bits: int,
        feature_dim: int,
        feature_dtype: str = "float32",
        fingerprint: str,
        encoder_files: Mapping[str, StrPath] | None = None,
        extractor: str | None = None,
        descriptor_dim: int | None = None,
        regions_per_image: int = 0,
        exif: bool = False,
        ocr: str | None = None,
    ) -> "Store":
        """Make an empty index; for the rest see `protocol.Store.create`.

        Example:
            >>> import tempfile
            >>> import numpy as np
            >>> from hashnet.retrieval.store.items import Item
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
        check_ocr(ocr)
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
            runs=(),
            identity=secrets.token_hex(8),
            roots=(),
            exif=exif,
            word_runs=(),
            texts=True,
            ocr=ocr,
        )
        try:
            create_folder(folder, catalogue, encoder_files or {})
        except (OSError, SqlError) as error:
            raise StoreError(
                "An index is made where there is room and leave to write.",
                f"{folder}: {error}",
                "Nothing was made there; name another folder or free some space.",
            ) from error
        return cls.open(folder)

    @classmethod
    def open(cls, folder: StrPath) -> "Store":
        """Open an index; for the rest see `protocol.Store.open`."""
        return cls._opened(folder, None)

    @classmethod
    def _opened(cls, folder: StrPath, known: Catalogue | None) -> "Store":
        folder = pathlib.Path(os.path.realpath(folder))
        if not os.path.lexists(folder / CATALOGUE):
            raise StoreError(
                f"An index is a folder with a {CATALOGUE} in it.",
                str(folder),
                "Make one with `hashnet index`, or check the path.",
            )

        def verify(catalogue: Catalogue) -> "Store":
            CommittedRows(folder, catalogue)
            encoder = name_of_encoder(folder, catalogue) if catalogue.encoder else ""
            for name, (wanted, _) in catalogue.encoder.items():
                _, size = inside(folder, f"{encoder}/{name}")
                if size != wanted:
                    raise damaged(folder, f"{encoder}/{name}", f"{size} bytes, not {wanted}")
            return cls(folder, catalogue)

        return on_newest(folder, verify, known)

    def verify_encoder(self, *names: str) -> None:
        """Compare files of the encoder with their checksums; see `protocol.Store`."""
        for name in names:
            if self.encoder_folder is not None and name in self._encoder:
                file = f"{self.encoder_folder.name}/{name}"
                compare_encoder_file(self.folder, file, *self._encoder[name])

    @staticmethod
    def is_there(folder: StrPath) -> bool:
        """Whether something is there, and no empty folder."""
        return os.path.lexists(folder) and not (os.path.isdir(folder) and not os.listdir(folder))

    def snapshot(self) -> Snapshot:
        """The index as it is now; see the top of this file for what is verified."""
        older = self._newest_rows()

        def take(catalogue: Catalogue) -> Snapshot:
            committed = CommittedRows(self.folder, catalogue, older)
            snapshot = Snapshot(committed)
            with self._lock:
                self._known = catalogue
                self._rows.add(committed)
            return snapshot

        return on_newest(self.folder, take, self._known)

    def reopened(self) -> "Store":
        return self._opened(self.folder, self._known)

    def version(self) -> tuple[Any, ...]:
        # Looked at first: what is committed while the catalogue is read is seen the next time.
        mark = unchanged_mark(self.folder)
        seen, version = self._seen
        if mark is None or mark != seen:
            catalogue = self._known = read_catalogue(self.folder, self._known)
            version = (*catalogue.made, catalogue.generation, catalogue.commits)
            self._seen = mark, version
        return version

    def writer(self, *, wait_seconds: float = 0.0) -> Writer:
        """The one writer of this index; for the rest see `protocol.Store.writer`.

        Args:
            wait_seconds: float. How long to wait for another writer to finish.

        Returns:
            `Writer`.
        """
        return Writer(self.folder, wait_seconds, self._newest_rows(), self._known, made=self.made)

    def check(self) -> list[str]:
        """What is wrong with the index: see `check.check`."""
        return check(self.folder)

    def _newest_rows(self) -> CommittedRows | None:
        """What the newest open snapshot has read: held by it, not by the store."""
        with self._lock:
            return max(self._rows, key=lambda rows: rows.catalogue.commits, default=None)

    def num_bytes(self) -> int:
        """Bytes of all files in the folder, the encoder's included."""
        return sum(
            os.path.getsize(os.path.join(where, name))
            for where, _, names in os.walk(self.folder)
            for name in names
        )
