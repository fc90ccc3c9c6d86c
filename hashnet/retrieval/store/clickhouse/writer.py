"""How images get into a table, and out of it."""

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from hashnet.codes import code_bytes
from hashnet.errors import ArgumentError, BackendError, StoreError
from hashnet.images import Exif
from hashnet.local.codebook import Codebook
from hashnet.retrieval.store.clickhouse import generations, tables
from hashnet.retrieval.store.clickhouse.connection import Connection
from hashnet.retrieval.store.clickhouse.entries import (
    KEY_OF_IDS,
    OF_IDS,
    SPACED,
    hexadecimal,
)
from hashnet.retrieval.store.clickhouse.snapshot import Snapshot
from hashnet.retrieval.store.documents import texts_of
from hashnet.retrieval.store.items import (
    CompactReport,
    Described,
    Facts,
    Item,
    bytes_of_local,
    check_images,
    check_items,
    items_of_rows,
    no_local_pool,
    seconds_of,
    to_bytes,
    to_text,
)
from hashnet.retrieval.store.roots import Roots
from hashnet.retrieval.store.texts import bytes_of
from hashnet.retrieval.store.word_lists import signatures_of_all

# Of features in an insert: as Python numbers eight times the bytes, and far from what a server
# would cut into several parts.
BATCH_BYTES = 16 << 20
BATCH_ROWS = 1 << 16
# Images whose local features are in memory at one time, written or to be compared.
BATCH_LOCAL = 128


class _Store(Facts, Protocol):
    """What a writer asks of the store it writes to."""

    def snapshot(self) -> Snapshot:
        """The index as it is now."""

    @property
    def folder(self) -> str:
        """The URL, without its password."""

    @property
    def roots(self) -> Roots:
        """As they were last read or written."""

    def write_roots(self, roots: Roots) -> None:
        """Put others in their place."""

    @property
    def keeps_words(self) -> bool:
        """Whether it keeps a local pool, or may."""

    @property
    def codebook_number(self) -> int:
        """Of the codebook, as it was last read or written; 0 for none."""

    def codebook(self, number: int) -> Codebook | None:
        """The one of a number."""

    def write_codebook(self, codebook: Codebook, number: int) -> None:
        """Put another in its place."""

    @property
    def followed(self) -> tuple[str, int] | None:
        """The table of entries that this one's follows, and the last row that was taken over."""

    def next_entries(self) -> str:
        """A name for the table of entries that is to follow."""

    def follow_with(
        self,
        entries: str,
        encoder_files: Mapping[str, str | os.PathLike[str]],
        fingerprint: str,
        row: int,
    ) -> "_Store":
        """Let another table of entries follow."""

    def forget_caption_map(self) -> None:
        """Delete what was learned of the captions."""

    def forget_encoders(self) -> None:
        """Delete the files of encoders of before."""

    def num_bytes(self) -> int:
        """Bytes on the disk of the server."""


class Writer:
    """Writes to a table; see `protocol.Writer`. Made by `Store.writer`.

    Each method commits in batches, of which every one is there wholly or not at all.
    """

    def __init__(self, connection: Connection, store: _Store) -> None:
        self._connection = connection
        self._store = store
        self._last = 0

    def add(
        self,
        items: Iterable[Item],
        codes: np.ndarray,
        features: np.ndarray,
        local_features: Sequence[Described] | None = None,
        regions: Sequence[Any] | None = None,
    ) -> int:
        items, codes, features = list(items), np.asarray(codes), np.asarray(features)
        if not items and codes.size == features.size == 0:
            return 0
        store = self._store
        counts, boxes = check_images(store, items, codes, features, local_features, regions)
        firsts = np.cumsum([0, *counts])
        for part in self._parts(items):
            rows = slice(firsts[part.start], firsts[part.stop])
            self._insert(
                items_of_rows(items[part], counts[part]),
                codes[rows],
                features[rows],
                None if local_features is None else local_features[part],
                None if boxes is None else boxes[rows],
                self._held([item.id for item in items[part]]),
            )
        return len(items)

    def _parts(self, items: Sequence[Item]) -> Iterator[slice]:
        """Where to cut images that are inserted, by their number and by what their texts take."""
        start = num_bytes = 0
        for end, item in enumerate(items, 1):
            # Each is there as it was written and as it is looked up, and again for every region.
            num_bytes += 2 * len(bytes_of(item.texts)) * (1 + self._store.regions_per_image)
            if end - start >= self._images_at_once or num_bytes >= BATCH_BYTES:
                yield slice(start, end)
                start, num_bytes = end, 0
        if start < len(items):
            yield slice(start, len(items))

    def update(self, items: Iterable[Item]) -> int:
        items = list(items)
        check_items(items)
        return self.copy(items, [item.id for item in items])

    def copy(self, items: Iterable[Item], ids: Iterable[str], gone: Iterable[str] = ()) -> int:
        items, ids, gone = list(items), list(ids), list(gone)
        check_items(items)
        # As they are before any of them becomes another.
        snapshot = self._store.snapshot()
        firsts = snapshot.rows(ids)
        if len(firsts) and firsts.min() < 0:
            unknown = ids[int(np.argmin(firsts))]
            raise ArgumentError("An image to update is in the index.", repr(unknown), "Add it.")
        for start in range(0, len(items), self._images_at_once):
            part = slice(start, start + self._images_at_once)
            rows = firsts[part]
            regions = local = None
            if self._store.extractor is not None:
                local = snapshot.local_features(rows)
            if self._store.regions_per_image:
                rows_of = self._with_regions(snapshot, ids[part], rows)
                rows = np.concatenate(rows_of)
                boxes = iter(snapshot.regions(rows))
                regions = [
                    np.array([next(boxes) for _ in rows][1:], np.int64).reshape(-1, 4)
                    for rows in rows_of
                ]
            self.add(items[part], *snapshot.encoded(rows), local, regions)
        self.remove(set(gone).difference(item.id for item in items))
        return len(items)

    def _with_regions(
        self, snapshot: Snapshot, ids: Sequence[str], firsts: np.ndarray
    ) -> list[np.ndarray]:
        """The rows of each image, its own first: a later entry of an id has a higher row."""
        rows_of: dict[str, list[int]] = {id: [] for id in ids}
        for id, row in self._held(list(rows_of), snapshot):
            rows_of[id].append(row)
        return [
            np.array(sorted(row for row in rows_of[id] if row >= first), np.int64)
            for id, first in zip(ids, firsts.tolist(), strict=True)
        ]

    @property
    def roots(self) -> Roots:
        return self._store.roots

    def set_roots(self, roots: Roots) -> None:
        if (self.roots.all is None) != (roots.all is None):
            raise ArgumentError("An index has roots, or never has.", repr(roots.all))
        if roots != self.roots:
            self._store.write_roots(roots)

    def remove(self, ids: Iterable[str]) -> list[str]:
        ids = list(dict.fromkeys(ids))
        found: list[str] = []
        for start in range(0, len(ids), BATCH_ROWS):
            held = self._held(ids[start : start + BATCH_ROWS])
            if held:
                self._insert([], None, None, None, None, held)
            there = {id for id, _ in held}
            found += [id for id in ids[start : start + BATCH_ROWS] if id in there]
        return found

    def recode(
        self,
        encoder_files: Mapping[str, str | os.PathLike[str]],
        fingerprint: str,
        recoded: Callable[[np.ndarray], np.ndarray],
    ) -> int:
        """Into another table of entries; for the rest see `protocol.Writer.recode`.

        Killed at any moment, the index is as before or has the new codes, and the next one that
        ends removes what is left.
        """
        old, before, cluster = self._connection, self._store, self._cluster()
        database, new = old.place.database, old.of(before.next_entries())
        rows_at_once = max(1, min(BATCH_ROWS, BATCH_BYTES // (4 * before.feature_dim)))
        filling = generations.Filling(new, recoded, rows_at_once)
        try:
            for statement in tables.entries_ddl(
                database, new.entries, num_bits=before.num_bits, cluster=cluster
            ):
                old.tell(statement)
            snapshot = before.snapshot()
            num_rows = filling.take_live(snapshot, old)
            if before.followed and (left := generations.left_behind(old, before.followed[0])):
                # A refit was killed before it took over what others wrote during its last step.
                left = generations.put_aside(left, cluster=cluster)
                filling.take_later(left, before.followed[1], known=old)
            row = filling.take_later(old, snapshot.last)
        except BaseException:
            with contextlib.suppress(StoreError):
                generations.drop(new, cluster=cluster)
            raise
        try:
            self._store = before.follow_with(new.entries, encoder_files, fingerprint, row)
        except BackendError:  # it may have come in
            raise
        except StoreError:
            generations.drop(new, cluster=cluster)
            raise
        self._connection = new
        filling.take_later(generations.put_aside(old, cluster=cluster), row)
        generations.drop_before(new, cluster=cluster)
        self._store.forget_encoders()
        return num_rows

    def set_codebook(
        self, codebook: Codebook, progress: Callable[[int, int], None] | None = None
    ) -> int:
        """By one record, once all images are listed; for the rest see `protocol`."""
        store = self._store
        if not store.keeps_words:
            raise no_local_pool(store.folder)
        number = max(time.time_ns(), store.codebook_number + 1)
        with store.snapshot() as snapshot:
            rows, _ = snapshot.local_counts()
            for start in range(0, len(rows), BATCH_LOCAL):
                part = rows[start : start + BATCH_LOCAL]
                ids = [item.id for item in snapshot.items(part)]
                descriptors = [one.descriptors for one in snapshot.local_features(part)]
                self._insert_words(part.tolist(), ids, descriptors, codebook, number)
                if progress:
                    progress(start + len(part), len(rows))
        store.write_codebook(codebook, number)
        self._drop_words()
        return len(rows)

    def _drop_words(self) -> None:
        """Delete what lists images by other codebooks, also where setting one was killed."""
        table, where = self._local_table(f"{self._connection.place.table}_words")
        self._change(
            f"ALTER TABLE {table}{where} DELETE WHERE codebook != {self._store.codebook_number}",
            "",
        )

    def compact(self) -> CompactReport:
        bytes_before = self._store.num_bytes()
        rows_before, regions_before, parts_before = self._size()
        dead = "SELECT kills FROM {table} WHERE kills > 0"
        # First the dead, then what says that they are: between the two nothing comes back.
        local, where = self._local_table(self._connection.entries)
        self._change(
            f"ALTER TABLE {local}{where} DELETE WHERE kills = 0 AND row IN ({dead})", local
        )
        self._change(f"ALTER TABLE {local}{where} DELETE WHERE kills > 0", local)
        self._change(f"OPTIMIZE TABLE {local}{where} FINAL", local)
        if self._store.extractor is not None:
            descriptors, where = self._local_table(f"{self._connection.place.table}_descriptors")
            self._change(
                f"ALTER TABLE {descriptors}{where} DELETE WHERE row NOT IN "
                "(SELECT row FROM {table})",
                local,
            )
        if self._store.keeps_words:
            words, where = self._local_table(f"{self._connection.place.table}_words")
            self._change(
                f"ALTER TABLE {words}{where} DELETE WHERE row NOT IN (SELECT row FROM {{table}})",
                local,
            )
            self._drop_words()
        if self._store.texts:
            self._store.forget_caption_map()  # it is learned again of the images that are left
        rows, regions, parts = self._size()
        return CompactReport(
            rows_before,
            rows,
            parts_before,
            parts,
            bytes_before - self._store.num_bytes(),
            regions_before - regions,
        )

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        """Every method has committed."""

    def _change(self, statement: str, table: str) -> None:
        self._connection.tell(statement.replace("{table}", table))

    def _local_table(self, name: str) -> tuple[str, str]:
        """The table that holds the entries of a table, and where else it is to be changed."""
        database, cluster = self._connection.place.database, self._cluster()
        if cluster is None:
            return f"`{database}`.`{name}`", ""
        return f"`{database}`.`{name}_local`", f" ON CLUSTER `{cluster}`"

    def _cluster(self) -> str | None:
        """Name of the cluster that the tables are on."""
        [engines] = self._connection.ask(
            "SELECT engine_full FROM system.tables WHERE database = {database:String} "
            "AND name = {name:String}",
            database=self._connection.place.database,
            name=self._connection.entries,
        )
        found = re.match(rb"Distributed\('(\w+)'", engines[0]) if engines else None
        return found[1].decode() if found else None

    def _size(self) -> tuple[int, int, int]:
        """Rows of images and regions, dead ones included; those of regions; parts."""
        region = "notEmpty(region)" if self._store.regions_per_image else "0"
        [[rows], [regions]] = self._connection.ask(
            f"SELECT count(), countIf({region}) FROM {{table}} WHERE kills = 0", width=2
        )
        [[parts]] = self._connection.ask(
            "SELECT count() FROM system.parts WHERE active "
            "AND database = {database:String} AND table IN {names:Array(String)}",
            database=self._connection.place.database,
            names=[self._connection.entries, f"{self._connection.entries}_local"],
        )
        return int(rows), int(regions), int(parts)

    @property
    def _images_at_once(self) -> int:
        row_bytes = 4 * self._store.feature_dim * (1 + self._store.regions_per_image)
        most = BATCH_ROWS if self._store.extractor is None else BATCH_LOCAL
        return max(1, min(most, BATCH_BYTES // row_bytes))

    def _held(self, ids: Sequence[str], snapshot: Snapshot | None = None) -> list[tuple[str, int]]:
        """(id, row) of all live rows of these ids, those that a second writer left included."""
        snapshot = snapshot or self._store.snapshot()
        self._last = max(self._last, snapshot.last)
        found, rows = snapshot.ask(
            f"SELECT id, row FROM {{table}} PREWHERE {KEY_OF_IDS} WHERE {{live}} AND {OF_IDS}",
            width=2,
            ids=hexadecimal(ids),
        )
        return [(to_text(id), int(row)) for id, row in zip(found, rows, strict=True)]

    def _insert(
        self,
        items: Sequence[Item],
        codes: np.ndarray | None,
        features: np.ndarray | None,
        local_features: Sequence[Described] | None,
        regions: np.ndarray | None,
        held: Sequence[tuple[str, int]],
    ) -> None:
        """Commit rows of images and the end of the rows that they replace, in one part."""
        num_new, num_all = len(items), len(items) + len(held)
        # Out of the clock, so that two writers never give the same number.
        first = max(self._last + 1, time.time_ns())
        self._last = first + num_all - 1
        if local_features is not None:
            whole = np.arange(num_new) if regions is None else np.flatnonzero(~regions.any(axis=1))
            self._insert_local([first + at for at in whole.tolist()], items, whole, local_features)
        zeros = bytes(code_bytes(self._store.num_bits))
        everything = [*items, *(Item(id) for id, _ in held)]
        roots = self.roots
        rooted = [
            item.path is not None and item.path == roots.path_of(item.id) for item in everything
        ]
        columns: dict[str, tuple[str, Sequence[Any]]] = {
            "row": ("UInt64", list(range(first, first + num_all))),
            "kills": ("UInt64", [0] * num_new + [row for _, row in held]),
            "id": ("String", [to_bytes(item.id) for item in everything]),
            "path": (
                "Nullable(String)",
                [
                    None if is_rooted else _or_none(item.path)
                    for item, is_rooted in zip(everything, rooted, strict=True)
                ],
            ),
            "label": (
                "LowCardinality(Nullable(String))",
                [_or_none(item.label) for item in everything],
            ),
            "size": ("Nullable(Int64)", [item.size for item in everything]),
            "mtime_ns": ("Nullable(Int64)", [item.mtime_ns for item in everything]),
            "code": (
                f"FixedString({len(zeros)})",
                ([] if codes is None else [code.tobytes() for code in codes]) + [zeros] * len(held),
            ),
            "feature": (
                "Array(Float32)",
                ([] if features is None else features.tolist()) + [[]] * len(held),
            ),
        }
        if self._store.regions_per_image:
            of_rows = [] if regions is None else regions.tolist()
            boxes = [box if any(box) else [] for box in of_rows]
            columns["region"] = "Array(Int32)", boxes + [[]] * len(held)
        if roots.all is not None:
            columns |= {
                "rooted": ("UInt8", list(map(int, rooted))),
                "ctime_ns": ("Nullable(Int64)", [item.ctime_ns for item in everything]),
                "inode": ("UInt64", [item.inode or 0 for item in everything]),
                "content": ("String", [item.content or b"" for item in everything]),
            }
        if self._store.exif:
            columns |= _exif_columns([item.exif or Exif() for item in everything])
        if self._store.texts:
            found = [texts_of(item) for item in items]
            if regions is not None:  # an image is looked up by its own row
                found = [{} if any(box) else one for one, box in zip(found, regions, strict=True)]
            found += [{}] * len(held)
            columns["texts"] = "String", [bytes_of(item.texts) for item in everything]
            for kind, name in enumerate(SPACED):
                columns[name] = "String", [one.get(kind, "").encode() for one in found]
        self._send(self._connection.table, columns, f"{first}-{num_all}")

    def _insert_local(
        self,
        rows: list[int],
        items: Sequence[Item],
        places: np.ndarray,
        local_features: Sequence[Described],
    ) -> None:
        """Local features come before the rows that they are of, without which nothing sees them."""
        yx, descriptors = zip(*map(bytes_of_local, local_features), strict=True)
        columns: dict[str, tuple[str, Sequence[Any]]] = {
            "row": ("UInt64", rows),
            "id": ("String", [to_bytes(items[place].id) for place in places]),
            "yx": ("String", yx),
            "descriptors": ("String", descriptors),
        }
        self._send(self._connection.descriptors_table, columns, f"{rows[0]}-{len(rows)}")
        number = self._store.codebook_number
        if (codebook := self._store.codebook(number)) is not None:
            self._insert_words(
                rows,
                [items[place].id for place in places],
                [one.descriptors for one in local_features],
                codebook,
                number,
            )

    def _insert_words(
        self,
        rows: list[int],
        ids: Sequence[str],
        descriptors: Sequence[np.ndarray],
        codebook: Codebook,
        number: int,
    ) -> None:
        """List images by their words."""
        found = signatures_of_all(codebook, descriptors)
        lengths = [len(words) for words, _ in found]
        if not sum(lengths):
            return
        words, signatures = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
        columns: dict[str, tuple[str, Sequence[Any]]] = {
            "codebook": ("UInt64", [number] * len(words)),
            "word": ("UInt32", words.tolist()),
            "row": ("UInt64", np.repeat(rows, lengths).tolist()),
            "id": (
                "String",
                [
                    id
                    for id, length in zip(map(to_bytes, ids), lengths, strict=True)
                    for _ in range(length)
                ],
            ),
            "signature": ("UInt64", signatures.tolist()),
            "length": ("UInt16", np.repeat(lengths, lengths).tolist()),
        }
        token = f"{number}-{rows[0]}-{len(rows)}"
        self._send(self._connection.words_table, columns, token)

    def _send(self, table: str, columns: dict[str, tuple[str, Sequence[Any]]], token: str) -> None:
        types, values = zip(*columns.values(), strict=True)
        self._connection.insert(table, list(columns), list(types), list(values), token)


def _exif_columns(exifs: Sequence[Exif]) -> dict[str, tuple[str, Sequence[Any]]]:
    taken = [None if exif.taken is None else seconds_of(exif.taken) for exif in exifs]
    cameras = [_or_none(exif.camera) for exif in exifs]
    return {
        "taken": ("Nullable(Int64)", taken),
        "latitude": ("Nullable(Float64)", [exif.latitude for exif in exifs]),
        "longitude": ("Nullable(Float64)", [exif.longitude for exif in exifs]),
        "camera": ("LowCardinality(Nullable(String))", cameras),
    }


def _or_none(text: str | None) -> bytes | None:
    return None if text is None else to_bytes(text)
