"""The writer of an index folder: what it appends, and the commits that count it in."""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import os
import pathlib
import re
import shutil
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

import numpy as np

from hashnet import system
from hashnet.errors import ArgumentError, LockedError, ShapeError, StoreError
from hashnet.local.codebook import Codebook
from hashnet.retrieval.store.folder.catalogue import (
    CATALOGUE,
    LOCK,
    SqlError,
    change_catalogue,
    read_catalogue,
    remove_catalogue_leftovers,
    renew_digest,
)
from hashnet.retrieval.store.folder.contents import (
    ARRAY_NAMES,
    CODEBOOKS,
    EXIF_NAMES,
    FILE_NAMES,
    LOCAL_NAMES,
    LOOKUPS,
    REGION_NAMES,
    SEGMENTS,
    TEXT_NAMES,
    WORDS,
    Catalogue,
    Segment,
    open_data,
)
from hashnet.retrieval.store.folder.encoders import NEXT, copy_encoder, settle_encoder
from hashnet.retrieval.store.folder.lookups import (
    FAN_OUT,
    TOP_LEVEL,
    Entries,
    Run,
    num_absorbed,
)
from hashnet.retrieval.store.folder.paths import CHUNK_BYTES
from hashnet.retrieval.store.folder.records import as_bytes, encode_items, encode_local
from hashnet.retrieval.store.folder.rows import CommittedRows
from hashnet.retrieval.store.folder.words import StoredCodebook, WordRun, encoded
from hashnet.retrieval.store.items import (
    CompactReport,
    Described,
    Item,
    StoredFeatures,
    check_images,
    check_items,
    items_of_rows,
    no_local_pool,
)
from hashnet.retrieval.store.roots import Roots
from hashnet.retrieval.store.word_lists import Signatures, WordLists, nothing, signatures_of_all
from hashnet.system import StrPath

_FILES = "|".join(
    (
        *ARRAY_NAMES,
        *LOCAL_NAMES,
        *REGION_NAMES,
        *FILE_NAMES,
        *EXIF_NAMES,
        *TEXT_NAMES,
        LOOKUPS,
        WORDS,
        CODEBOOKS,
    )
)
_DATA_FILE = re.compile(rf"\d{{6,}}\.({_FILES})")
_COMPACT_ROWS = 1 << 16  # rows of a compacted segment, at most
_COMPACT_LOCAL_BYTES = 1 << 27  # local features of a compacted segment, about
_RUN_IMAGES = 1 << 16  # from so many on, images of one commit are a run of their own
_WORD_RUN_ROWS = FAN_OUT**TOP_LEVEL  # likewise, rows of a run of words, which takes more memory

P = ParamSpec("P")
R = TypeVar("R")


class _Part(NamedTuple):
    """Rows to be appended as one segment, an image's own right before those of its regions."""

    items: list[Item]
    codes: np.ndarray
    features: np.ndarray
    local_features: Sequence[Described] | None
    regions: np.ndarray | None
    signatures: Sequence[Signatures] | None = None  # of each row, where they are known


_open_writers: "weakref.WeakSet[Writer]" = weakref.WeakSet()


@functools.cache
def _let_go_in_children() -> None:
    """A forked process shares its parent's lock and must not keep it when the parent dies."""

    def let_go() -> None:
        for writer in list(_open_writers):
            writer._let_go()

    system.after_fork(let_go)


def _change(
    method: Callable[Concatenate["Writer", P], R], /
) -> Callable[Concatenate["Writer", P], R]:
    """A writer's method that changes the index wholly or not at all."""

    @functools.wraps(method)
    def wrapped(self: "Writer", /, *args: P.args, **options: P.kwargs) -> R:
        self._opened()
        self._refuse_another_place()
        try:
            return method(self, *args, **options)
        except (ArgumentError, ShapeError):
            raise  # refused before anything was written
        except BaseException as error:
            # Whether the commit took place is for the disk to say.
            with contextlib.suppress(StoreError, OSError, SqlError):
                self._refuse_another_place()
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
    """The one writer of an index folder; see `protocol.Writer`. Made by `Store.writer`.

    Args:
        folder: pathlib.Path of the index.
        wait_seconds: float. How long to wait for another writer to finish.
        older: `CommittedRows` of an earlier commit, or None; what it verified is taken over.
        known: `Catalogue` as it was read earlier, or None.
        made: `Catalogue.made` of the index that is meant.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        wait_seconds: float,
        older: CommittedRows | None = None,
        known: Catalogue | None = None,
        *,
        made: tuple[str, str, str],
    ) -> None:
        self._folder = folder
        self._committed: Catalogue | None = known
        self._files: dict[str, int] = {}
        self._older = older
        self._rows: CommittedRows | None = None
        self._lock: system.FileLock | None = self._acquire(wait_seconds)
        try:
            _let_go_in_children()
            _open_writers.add(self)
            self._settle()
            if self._opened().made != made:
                raise self._another()
        except BaseException as error:
            self._committed = None
            self.close()
            if isinstance(error, (OSError, SqlError)):
                raise self._unwritable(error) from error
            raise

    @_change
    def add(
        self,
        items: Iterable[Item],
        codes: np.ndarray,
        features: np.ndarray,
        local_features: Sequence[Described] | None = None,
        regions: Sequence[Any] | None = None,
    ) -> int:
        """Add images, as one segment in one commit; for the rest see `protocol.Writer.add`."""
        items = list(items)
        codes, features = np.asarray(codes), np.asarray(features)
        if not items and codes.size == features.size == 0:
            return 0
        catalogue = self._opened()
        counts, boxes = check_images(catalogue, items, codes, features, local_features, regions)
        rows = items_of_rows(items, counts)
        if local_features is not None:
            # Those of the image; its regions have none of their own.
            dim = catalogue.descriptor_dim or 0
            none = StoredFeatures(np.empty((0, 2), "<f4"), np.empty((0, dim), "<f2"))
            local_features = [
                features_of if place == 0 else none
                for features_of, count in zip(local_features, counts, strict=True)
                for place in range(count)
            ]
        part = _Part(rows, codes, features, local_features, boxes)
        codebook = self._refreshed().codebook
        if codebook is not None and local_features is not None:
            descriptors = [one.descriptors for one in local_features]
            part = part._replace(signatures=signatures_of_all(codebook, descriptors))
        self._add_segments([part])
        return len(items)

    def update(self, items: Iterable[Item]) -> int:
        """In one commit; for the rest see `protocol.Writer.update`."""
        items = list(items)
        return self.copy(items, [item.id for item in items])

    @_change
    def copy(self, items: Iterable[Item], ids: Iterable[str], gone: Iterable[str] = ()) -> int:
        """In one commit; for the rest see `protocol.Writer.copy`."""
        items, ids = list(items), list(ids)
        check_items(items)
        found = self._find(ids)
        for id, rows_of in zip(ids, found, strict=True):
            if not rows_of:
                raise ArgumentError("An image to update is in the index.", repr(id), "Add it.")
        if items:
            rows = np.concatenate([np.array(rows_of, np.int64) for rows_of in found])
            items_of = [item for item, rows in zip(items, found, strict=True) for _ in rows]
            self._add_segments(
                (
                    part._replace(
                        items=items_of[which], signatures=self._signatures_of(rows[which])
                    )
                    for which, part in self._verified_parts(rows)
                ),
                gone,
            )
        return len(items)

    @property
    def roots(self) -> Roots:
        """As of now; see `protocol.Snapshot.roots`."""
        return Roots(self._opened().roots)

    @_change
    def set_roots(self, roots: Roots) -> None:
        """In one commit; for the rest see `protocol.Writer.set_roots`."""
        old = self._opened()
        if (old.roots is None) != (roots.all is None):
            raise ArgumentError("An index has roots, or never has.", repr(roots.all))
        if roots.all != old.roots:
            self._commit((), old.runs, (), base=dataclasses.replace(old, roots=roots.all))

    @_change
    def remove(self, ids: Iterable[str]) -> list[str]:
        """In one commit; for the rest see `protocol.Writer.remove`."""
        ids = list(dict.fromkeys(ids))
        found = {id: rows for id, rows in zip(ids, self._find(ids), strict=True) if rows}
        if found:
            self._commit((), self._opened().runs, list(itertools.chain(*found.values())))
        return list(found)

    @_change
    def compact(self) -> CompactReport:
        """Into few segments; for the rest see `protocol.Writer.compact`."""
        old = self._opened()
        rows, regions_gone = self._refreshed().live_rows(), self._refreshed().num_regions_gone()
        bytes_before = self._count_bytes()
        if old.num_deleted or len(old.segments) > -(-len(rows) // self._rows_at_once()):
            self._write_anew(old, rows, lambda part: part)
        return CompactReport(
            rows_before=old.num_rows,
            rows_after=self._opened().num_rows,
            segments_before=len(old.segments),
            segments_after=len(self._opened().segments),
            bytes_freed=bytes_before - self._count_bytes(),
            regions_gone=regions_gone,
        )

    @_change
    def recode(
        self,
        encoder_files: Mapping[str, StrPath],
        fingerprint: str,
        recoded: Callable[[np.ndarray], np.ndarray],
    ) -> int:
        """In one commit; for the rest see `protocol.Writer.recode`."""
        old = self._opened()
        shutil.rmtree(self._folder / NEXT, ignore_errors=True)
        encoder = copy_encoder(self._folder / NEXT, encoder_files)
        system.fsync(self._folder)
        rows = self._refreshed().live_rows()
        self._write_anew(
            dataclasses.replace(old, encoder=encoder, fingerprint=fingerprint),
            rows,
            lambda part: part._replace(codes=recoded(part.features)),
        )
        return len(rows)

    @_change
    def set_codebook(
        self, codebook: Codebook, progress: Callable[[int, int], None] | None = None
    ) -> int:
        """In one commit; for the rest see `protocol.Writer.set_codebook`."""
        old, committed = self._opened(), self._refreshed()
        if not old.keeps_words:
            raise no_local_pool(self._folder)
        content = codebook.to_bytes()
        stored = StoredCodebook(
            codebook.num_words,
            codebook.num_bits,
            old.ends[CODEBOOKS],
            len(content),
            hashlib.sha256(content).hexdigest(),
        )
        system.write_at(self._files[CODEBOOKS], content, stored.start)
        appended = _AppendedWords(self._files[WORDS], old.ends[WORDS], ())
        live, step = committed.local_counts() > 0, self._rows_at_once()
        for start in range(0, old.num_rows, step):
            of_rows = [nothing(codebook.num_bits)] * min(step, old.num_rows - start)
            rows = start + np.flatnonzero(live[start : start + step])
            descriptors = [one.descriptors for one in committed.local_features(rows)]
            found = signatures_of_all(codebook, descriptors)
            for row, of_row in zip(rows.tolist(), found, strict=True):
                of_rows[row - start] = of_row
            appended.append(WordLists.of(start, of_rows))
            if progress:
                progress(start + len(of_rows), old.num_rows)
        base = dataclasses.replace(old, codebook=stored, word_runs=appended.finished())
        self._commit((), old.runs, (), base=base)
        return len(committed.rows_of_images())

    def _write_anew(
        self, base: Catalogue, rows: np.ndarray, changed: Callable[[_Part], _Part]
    ) -> None:
        """Write some rows into a new set of files, each part as it is to be, and commit it."""
        runs = None if base.runs is None else ()
        empty = dataclasses.replace(
            base,
            generation=base.generation + 1,
            segments=(),
            runs=runs,
            word_runs=None if base.word_runs is None else (),
            codebook=None,
        )
        committed = self._refreshed()
        parts = self._verified_parts(rows)
        # Of the old set, which is mapped by now.
        files = create_data_files(self._folder, empty)
        old_files, self._files = self._files, files
        _close_all(old_files)
        appended = _Appended(empty, self._files)
        for _, part in parts:
            appended.append(changed(part))
        with_words = empty
        if base.codebook is not None:
            with_words = self._words_anew(committed, base.codebook, empty)
        self._commit(appended.segments, appended.finished_runs(), (), base=with_words)
        # Not by this writer is the old set kept where what is mapped cannot be removed.
        self._rows = self._older = None
        del parts, committed
        with contextlib.suppress(OSError, SqlError):  # the next writer removes the rest
            _remove_leftovers(self._folder, self._opened())

    def _words_anew(
        self, committed: CommittedRows, stored: StoredCodebook, empty: Catalogue
    ) -> Catalogue:
        """Write the codebook and the lists of all live rows into a new set of files."""
        system.write_at(self._files[CODEBOOKS], committed.codebook_bytes(), 0)
        appended = _AppendedWords(self._files[WORDS], 0, ())
        row, live = 0, committed.live
        for one in committed.word_lists():
            lists = one.whole()
            kept = np.ones(lists.num_rows, bool)
            if live is not None:
                kept = live[lists.first_row : lists.end_row]
            if kept.any():
                moved = lists.moved(row, kept)
                appended.append(moved)
                row = moved.end_row
        codebook = dataclasses.replace(stored, start=0)
        return dataclasses.replace(empty, codebook=codebook, word_runs=appended.finished())

    def close(self) -> None:
        """Give the lock back. What was committed stays; closing twice is fine."""
        if self._lock is None:
            return
        if self._committed is not None and self._lock.is_in_place():
            # The digest serves `check` alone and the commits are safe without it.
            with contextlib.suppress(OSError, StoreError):
                renew_digest(self._folder, self._committed)
        self._lock.release()
        self._let_go()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # The lock

    def _acquire(self, wait_seconds: float) -> system.FileLock:
        try:
            lock = system.FileLock(self._folder / LOCK)
        except OSError as error:
            raise self._unwritable(error) from error
        deadline = time.monotonic() + wait_seconds
        try:
            while not lock.take():
                if time.monotonic() >= deadline:
                    raise LockedError(
                        "An index has one writer at a time.",
                        f"{self._folder} is being written by {lock.holder()}",
                        "Wait until it is done, or stop it.",
                    )
                time.sleep(0.02)
        except BaseException as error:
            lock.forget()
            if isinstance(error, OSError):
                raise self._unwritable(error) from error
            raise
        return lock

    def _let_go(self) -> None:
        self._committed = self._rows = self._older = None
        _close_all(self._files)
        self._files = {}
        if self._lock is not None:
            self._lock.forget()
        self._lock = None

    def _refuse_another_place(self) -> None:
        """Refuse to write by name what is no more where it was opened."""
        if self._lock is None or not self._lock.is_in_place():
            self._committed = None
            raise self._another()

    def _another(self) -> StoreError:
        return StoreError(
            "An index is written by those who opened it.",
            f"another one, or none, in its place, {self._folder}",
            "Open the one that is there.",
        )

    def _unwritable(self, error: object) -> StoreError:
        return StoreError(
            "A writer needs leave to write in the index.",
            f"{self._folder}: {error}",
            "The index can still be searched.",
        )

    # What is there

    def _opened(self) -> Catalogue:
        """What is committed, as this writer knows it."""
        if self._committed is None:
            raise StoreError(
                "A writer writes while it is open and the disk takes what it writes.",
                "a closed writer, or one that failed",
                "Open another one.",
            )
        return self._committed

    def _settle(self) -> None:
        """Begin from what the disk says is committed; cut off and remove the rest."""
        known, self._committed = self._committed, None
        _close_all(self._files)
        self._files = {}
        catalogue = read_catalogue(self._folder, known)
        for name in catalogue.file_names:
            file = open_data(self._folder, catalogue, name, os.O_RDWR)
            self._files[name] = file
            end = catalogue.ends[name] * catalogue.row_bytes(name)
            if os.fstat(file).st_size > end:
                system.cut(file, end)
        _remove_leftovers(self._folder, catalogue)
        self._committed = catalogue
        self._rows = None

    def _refreshed(self) -> CommittedRows:
        """What is committed by now."""
        rows = self._rows
        if rows is None or rows.catalogue is not self._opened():
            older = self._older if rows is None else rows
            rows = self._rows = CommittedRows(self._folder, self._opened(), older)
            self._older = None
        return rows

    def _find(self, ids: Sequence[str]) -> list[range]:
        """The rows of each image at this moment, none where there is no such image."""
        committed = self._refreshed()
        found = committed.find(ids).tolist()
        return [range(0) if row < 0 else committed.rows_of(row) for row in found]

    def _rows_at_once(self) -> int:
        catalogue = self._opened()
        rows = min(_COMPACT_ROWS, CHUNK_BYTES // catalogue.row_bytes("features"))
        if catalogue.extractor is not None:
            feature_bytes = catalogue.row_bytes("yx") + catalogue.row_bytes("descriptors")
            most = self._refreshed().most_local_features() * feature_bytes
            rows = min(rows, _COMPACT_LOCAL_BYTES // max(1, most))
        return max(1, rows)

    def _verified_parts(self, rows: np.ndarray) -> Iterator[tuple[slice, _Part]]:
        """Slices of `rows` with all that they hold, verified."""
        committed, step = self._refreshed(), self._rows_at_once()
        for start in range(0, len(rows), step):
            which = slice(start, start + step)
            part = rows[which]
            yield (
                which,
                _Part(
                    committed.items(part),
                    committed.codes_of(part),
                    committed.features_anew(part),
                    None
                    if committed.catalogue.extractor is None
                    else committed.local_features(part),
                    committed.regions(part) if committed.catalogue.regions_per_image else None,
                ),
            )

    def _signatures_of(self, rows: np.ndarray) -> list[Signatures] | None:
        """The signatures of some rows, where there is a codebook."""
        if self._opened().codebook is None:
            return None
        return self._refreshed().signatures_of(rows)

    def _count_bytes(self) -> int:
        return sum(os.fstat(file).st_size for file in self._files.values())

    # What is to be

    def _add_segments(self, parts: Iterable[_Part], gone: Iterable[str] = ()) -> None:
        """Append parts as segments and commit them together; old rows of their ids go, and others.

        `gone` are those others: ids that no part has.
        """
        appended, ids = _Appended(self._opened(), self._files), []
        for part in parts:
            ids += [item.id for item in appended.append(part)]
        ids += sorted(set(gone).difference(ids))
        dead = list(itertools.chain(*self._find(ids)))
        runs = appended.finished_runs(self._refreshed(), dead)
        word_runs = appended.finished_word_runs(self._refreshed(), dead)
        base = dataclasses.replace(self._opened(), word_runs=word_runs)
        self._commit(appended.segments, runs, dead, base=base)

    def _commit(
        self,
        new_segments: Sequence[Segment],
        runs: tuple[Run, ...] | None,
        dead_rows: Sequence[int],
        base: Catalogue | None = None,
    ) -> None:
        """Make what was appended durable, then let one transaction count it in.

        `base` is what is committed, but for what the commit changes besides rows.
        """
        old = self._opened()
        base = old if base is None else base
        segments = list(base.segments)
        of_segment: dict[int, list[int]] = {}
        for row in dead_rows:
            of_segment.setdefault(base.number_of_segment(row), []).append(row)
        for number, rows in of_segment.items():
            segment = segments[number]
            deleted = np.zeros(segment.num_rows, bool)
            if segment.deleted is not None:
                deleted |= segment.deleted
            deleted[np.array(rows) - segment.first_row] = True
            segments[number] = dataclasses.replace(segment, deleted=deleted)
        new = dataclasses.replace(
            base, commits=base.commits + 1, segments=(*segments, *new_segments), runs=runs
        )
        if new_segments or new.codebook is not old.codebook:
            for file in self._files.values():
                os.fsync(file)
        change_catalogue(self._folder / CATALOGUE, old, new)
        self._committed = new


class _Appended:
    """What has been appended to the files since a commit, and is not committed yet.

    Attributes:
        segments: list of `Segment`.
    """

    def __init__(self, base: Catalogue, files: dict[str, int]) -> None:
        self._base, self._files = base, files
        self._ends = dict(base.ends)
        self._row = base.num_rows
        self._runs: list[Run] = []
        self._entries: Entries | None = None
        self._words: _AppendedWords | None = None
        if base.codebook is not None and base.word_runs is not None:
            self._words = _AppendedWords(files[WORDS], base.ends[WORDS], base.word_runs)
        self.segments: list[Segment] = []

    def append(self, part: _Part) -> list[Item]:
        """Write one segment; returns the items of its images."""
        contents: dict[str, Any] = {
            "codes": as_bytes(part.codes),
            "features": as_bytes(part.features),
            **encode_items(
                part.items,
                part.features,
                self._ends["text"],
                Roots(self._base.roots),
                exif=self._base.exif,
                texts=self._base.texts,
            ),
        }
        if part.local_features is not None:
            local = encode_local(part.local_features, self._ends["yx"])
            contents |= dict(zip(LOCAL_NAMES, local, strict=True))
        if part.regions is not None:
            contents["regions"] = as_bytes(part.regions)
        arrays, starts = {}, {name: self._ends[name] for name in self._base.array_names}
        for name in self._base.array_names:
            content = contents[name]
            row_bytes = self._base.row_bytes(name)
            system.write_at(self._files[name], content, self._ends[name] * row_bytes)
            count = len(content) // row_bytes
            arrays[name] = count, hashlib.sha256(content).hexdigest()
            self._ends[name] += count
        self.segments.append(Segment(len(part.items), arrays, None, self._row, starts))
        images = part.items
        rows: Sequence[int] = range(self._row, self._row + len(part.items))
        if part.regions is not None:
            whole = np.flatnonzero(~part.regions.any(axis=1)).tolist()
            images = [part.items[at] for at in whole]
            rows = [self._row + at for at in whole]
        if self._base.runs is not None:
            self._list(Entries.of(self._row, len(part.items), rows, images))
        if self._words is not None and part.signatures is not None:
            self._words.append(WordLists.of(self._row, part.signatures))
        self._row += len(part.items)
        return images

    def _list(self, entries: Entries) -> None:
        if self._entries is not None:
            entries = self._entries.followed_by(entries)
        self._entries = entries
        if len(entries.rows) >= _RUN_IMAGES:
            self._runs.append(self._written(entries))
            self._entries = None

    def finished_runs(
        self, committed: CommittedRows | None = None, dead: Sequence[int] = ()
    ) -> tuple[Run, ...] | None:
        """Write what is left as a run, with the runs before it that it takes in.

        Args:
            committed: `CommittedRows` that all of this follows; None where it follows none.
            dead: rows of it that the commit will delete.

        Returns:
            tuple of `Run`, all there will be; None where the index keeps none.
        """
        if self._base.runs is None:
            return None
        runs = [*self._base.runs, *self._runs]
        if self._entries is None:
            return tuple(runs)
        entries = self._entries
        absorbed = num_absorbed([run.num_images for run in runs], len(entries.rows))
        if absorbed and committed is not None and not self._runs:
            first_row = runs[-absorbed].first_row
            gone = set(dead)
            rows = np.concatenate([one.rows() for one in committed.lookups()[-absorbed:]])
            if committed.live is not None:
                rows = rows[committed.live[rows]]
            left = [row for row in rows.tolist() if row not in gone]
            before = Entries.of(
                first_row, self._base.num_rows - first_row, left, committed.items(left)
            )
            entries = before.followed_by(entries)
            del runs[-absorbed:]
        return *runs, self._written(entries)

    def finished_word_runs(
        self, committed: CommittedRows, dead: Sequence[int]
    ) -> tuple[WordRun, ...] | None:
        """Write what is left as a run of words; for the rest see `finished_runs`."""
        if self._words is None:
            return self._base.word_runs
        return self._words.finished(committed, dead)

    def _written(self, entries: Entries) -> Run:
        run, content = entries.encoded(self._ends[LOOKUPS])
        system.write_at(self._files[LOOKUPS], content, run.start)
        self._ends[LOOKUPS] = run.end
        return run


class _AppendedWords:
    """Inverted lists that are appended to their file, and not committed yet.

    Args:
        file: descriptor.
        end: int. Where in it they begin, in bytes.
        before: `WordRun` of the rows before them.
    """

    def __init__(self, file: int, end: int, before: Sequence[WordRun]) -> None:
        self._file, self._end = file, end
        self._before, self._runs = tuple(before), list[WordRun]()
        self._waiting: list[WordLists] = []

    def append(self, lists: WordLists) -> None:
        """Add those of the next rows."""
        self._waiting.append(lists)
        if sum(one.num_rows for one in self._waiting) >= _WORD_RUN_ROWS:
            self._write(self._waiting)

    def finished(
        self, committed: CommittedRows | None = None, dead: Sequence[int] = ()
    ) -> tuple[WordRun, ...]:
        """Write what is left as a run, with the runs before it that it takes in.

        Args:
            committed: `CommittedRows` that all of this follows; None where it takes in none.
            dead: rows of it that the commit will delete.

        Returns:
            tuple of `WordRun`, all there will be.
        """
        before, absorbed = self._before, 0
        if self._waiting:
            if committed is not None and not self._runs:
                num_new = sum(one.num_rows for one in self._waiting)
                absorbed = num_absorbed([run.num_rows for run in before], num_new)
            if absorbed and committed is not None:
                gone = np.zeros(committed.num_rows, bool)
                if committed.live is not None:
                    gone |= ~committed.live
                gone[np.array(dead, np.int64)] = True
                taken = [one.whole() for one in committed.word_lists()[-absorbed:]]
                taken = [lists.without(gone[lists.first_row : lists.end_row]) for lists in taken]
                self._waiting = [*taken, *self._waiting]
                before = before[:-absorbed]
            self._write(self._waiting)
        return *before, *self._runs

    def _write(self, parts: Sequence[WordLists]) -> None:
        run, content = encoded(WordLists.joined(parts), self._end)
        system.write_at(self._file, content, run.start)
        self._runs.append(run)
        self._end, self._waiting = run.end, []


def create_data_files(folder: pathlib.Path, catalogue: Catalogue) -> dict[str, int]:
    """Make the files of numbers of a new generation.

    Args:
        folder: pathlib.Path of the index.
        catalogue: `Catalogue`.

    Returns:
        dict of name to descriptor; the caller closes them.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
    files: dict[str, int] = {}
    try:
        for name in catalogue.file_names:
            files[name] = system.open_file(folder / catalogue.file_name(name), flags)
        system.fsync(folder / SEGMENTS)
    except BaseException:
        _close_all(files)
        raise
    return files


def _close_all(files: dict[str, int]) -> None:
    for file in files.values():
        os.close(file)


def _remove_leftovers(folder: pathlib.Path, catalogue: Catalogue) -> None:
    """Remove files of other generations and half-written ones; files of others stay.

    Where a reader's files cannot be removed, a later writer removes them.
    """
    current = {catalogue.file_name(name) for name in catalogue.file_names}
    for entry in os.scandir(folder / SEGMENTS):
        if _DATA_FILE.fullmatch(entry.name) and f"{SEGMENTS}/{entry.name}" not in current:
            system.remove_unless_in_use(entry.path)
    settle_encoder(folder, catalogue)
    remove_catalogue_leftovers(folder)
