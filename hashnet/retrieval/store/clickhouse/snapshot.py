"""What a table held at one time, asked for by statements."""

import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, Protocol

import numpy as np

from hashnet.codes import code_bytes
from hashnet.errors import StoreError
from hashnet.local.codebook import Codebook
from hashnet.retrieval.store.clickhouse.connection import Connection
from hashnet.retrieval.store.clickhouse.entries import (
    KEY_OF_IDS,
    OF_IDS,
    hexadecimal,
    item_columns,
    items_of_columns,
    region_of_numbers,
    taken_within,
)
from hashnet.retrieval.store.items import (
    Facts,
    Item,
    StoredFeatures,
    no_exif,
    no_local_features,
    to_bytes,
    to_text,
)
from hashnet.retrieval.store.protocol import Region, Rows, unsupported
from hashnet.retrieval.store.roots import Roots

CANDIDATES_AT_ONCE = 16
ITEMS_AT_ONCE = 4096
NONE_DEAD = "kills = 0 AND row <= {last:UInt64}"
NOT_DEAD = (
    f"{NONE_DEAD} AND row NOT IN "
    "(SELECT kills FROM {table} WHERE kills > 0 AND row <= {last:UInt64})"
)


class _Store(Facts, Protocol):
    """What a snapshot asks of its store."""

    @property
    def folder(self) -> str:
        """The URL, without its password."""

    @property
    def roots(self) -> Roots:
        """As they were last read or written."""

    @property
    def keeps_words(self) -> bool:
        """Whether it keeps a local pool, or may."""

    @property
    def codebook_number(self) -> int:
        """Of the codebook, as it was last read or written; 0 for none."""

    def codebook(self, number: int) -> Codebook | None:
        """The one of a number."""

    @property
    def made(self) -> tuple[Any, ...]:
        """What tells this index from another that was made in its place."""

    def caption_map(self) -> bytes | None:
        """What was learned of the captions."""

    def write_caption_map(self, content: bytes) -> None:
        """Put another in its place."""

    def forget_caption_map(self) -> None:
        """Delete it."""


class _Codes:
    """Codes by row, each read when it is asked for: what `Snapshot.codes` is to a folder."""

    def __init__(self, snapshot: "Snapshot") -> None:
        self._snapshot = snapshot

    def __getitem__(self, rows: Any, /) -> np.ndarray:
        codes = self._snapshot.codes_of(np.atleast_1d(np.asarray(rows, np.int64)))
        return codes[0] if np.ndim(rows) == 0 else codes


class Snapshot:
    """All entries up to a row, whatever is written later; see `protocol.Snapshot`.

    Made by `Store.snapshot`. Rows are not dense, and arrays with an element for each row are not
    to be had.

    Attributes:
        last: int. The highest row.
        store: as given.
        roots: `Roots`.
        made: str. Tells the features from those of other indexes.
        keeps_words: as that of the store.
        codebook_number: int, as that of the store was.
        item_columns: tuple of str. The columns that make up items.
        hit_columns: tuple of str. Those of them that tell of a hit, which are all but its texts: a
            statement that ranks a pool would read those of all that is in it.
    """

    def __init__(self, connection: Connection, store: _Store) -> None:
        self._connection = connection
        self.store, self.roots = store, store.roots
        self.made = " ".join(store.made)
        self.item_columns = item_columns(self.roots, exif=store.exif, texts=store.texts)
        self.hit_columns = item_columns(self.roots, exif=store.exif, texts=False)
        self._item = ", ".join(self.item_columns)
        [[last]] = connection.ask("SELECT max(row) FROM {table}")
        self.last = int(last)
        self._live = NOT_DEAD
        [[rows], [live], [images]] = self.ask(
            "SELECT countIf(kills = 0), countIf({live}), countIf({image}) FROM {table} "
            "WHERE row <= {last:UInt64}",
            width=3,
        )
        self.num_rows, self.num_items = int(rows), int(images)
        self.num_regions = int(live) - self.num_items
        if rows == live:
            self._live = NONE_DEAD
        self.codes = _Codes(self)
        self.keeps_words, self.codebook_number = store.keeps_words, store.codebook_number

    def ask(self, statement: str, *, width: int = 1, **parameters: Any) -> list[Any]:
        """Ask about this snapshot.

        Args:
            statement: str. `{image}` stands for the condition that a row is a whole image, and
                `{live}` for the one that it is that or a region.
            width: int. Columns of the answer.
            parameters: bound to their names in the statement.

        Returns:
            list of `width` sequences, one a column.
        """
        whole = " AND empty(region)" if self.store.regions_per_image else ""
        statement = statement.replace("{image}", "{live}" + whole).replace("{live}", self._live)
        return self._connection.ask(statement, width=width, last=self.last, **parameters)

    def codes_of(self, rows: np.ndarray) -> np.ndarray:
        """Codes of some rows.

        Args:
            rows: int64 `(n,)`.

        Returns:
            uint8 `(n, code_bytes)`.
        """
        found, codes = self.ask(
            "SELECT row, code FROM {table} WHERE kills = 0 AND row IN {rows:Array(UInt64)}",
            width=2,
            rows=rows.tolist(),
        )
        content = b"".join(codes[at] for at in self._order(found, rows))
        return np.frombuffer(content, np.uint8).reshape(len(rows), code_bytes(self.store.num_bits))

    def encoded(self, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        """Codes and features of some rows.

        Args:
            rows: int64 `(n,)`.

        Returns:
            codes: uint8 `(n, code_bytes)`.
            features: float32 `(n, feature_dim)`.
        """
        num_bytes = code_bytes(self.store.num_bits)
        if not len(rows):
            dim = self.store.feature_dim
            return np.empty((0, num_bytes), np.uint8), np.empty((0, dim), np.float32)
        found, codes, features = self.ask(
            "SELECT row, code, feature FROM {table} WHERE kills = 0 "
            "AND row IN {rows:Array(UInt64)}",
            width=3,
            rows=[int(row) for row in rows],
        )
        order = self._order(found, rows)
        of_codes = [np.frombuffer(codes[at], np.uint8) for at in order]
        of_features = [np.asarray(features[at], np.float32) for at in order]
        return (
            np.array(of_codes, np.uint8).reshape(len(order), num_bytes),
            np.array(of_features, np.float32).reshape(len(order), self.store.feature_dim),
        )

    def features(self, rows: Rows) -> np.ndarray:
        return self.encoded(rows)[1]

    def local_features(self, rows: Rows) -> list[StoredFeatures]:
        if self.store.extractor is None:
            raise no_local_features(self.store.folder)
        if not len(rows):
            return []
        found, yx, descriptors = self._connection.ask(
            "SELECT row, yx, descriptors FROM {descriptors_table} "
            "WHERE row IN {rows:Array(UInt64)}",
            width=3,
            rows=[int(row) for row in rows],
        )
        order, dim = self._order(found, rows), self.store.descriptor_dim or 1
        try:
            return [StoredFeatures.from_bytes(yx[at], descriptors[at], dim) for at in order]
        except ValueError as error:
            raise StoreError(
                "Local features are as HashNet wrote them.",
                f"{error} in {self.store.folder}_descriptors",
                "Restore the table from a copy, or build the index again.",
            ) from error

    def candidates(self, rows: Rows) -> list[Callable[[], StoredFeatures]]:
        """Several are asked for at once; for the rest see `protocol.Snapshot.candidates`."""
        parts = (
            _Candidates(self, rows[start : start + CANDIDATES_AT_ONCE])
            for start in range(0, len(rows), CANDIDATES_AT_ONCE)
        )
        return [
            functools.partial(part.take, place) for part in parts for place in range(len(part.rows))
        ]

    @property
    def codebook(self) -> Codebook | None:
        return self.store.codebook(self.codebook_number)

    def local_pool_bytes(self) -> int:
        if self.codebook is None:
            return 0
        [[size]] = self._connection.ask(
            "SELECT sum(bytes_on_disk) FROM system.parts WHERE active "
            "AND database = {database:String} AND table IN {names:Array(String)}",
            database=self._connection.place.database,
            names=[f"{self._connection.place.table}_words{end}" for end in ("", "_local")],
        )
        return int(size) + len(self.codebook.to_bytes())

    @property
    def num_local_features(self) -> int:
        [[num_bytes]] = self._connection.ask("SELECT sum(length(yx)) FROM {descriptors_table}")
        return int(num_bytes) // 8

    def local_counts(self) -> tuple[np.ndarray, np.ndarray]:
        if self.store.extractor is None:
            raise no_local_features(self.store.folder)
        rows, num_bytes = self.ask(
            "SELECT row, length(yx) FROM {descriptors_table} "
            "WHERE row IN (SELECT row FROM {table} WHERE {image}) ORDER BY row",
            width=2,
        )
        return np.array(rows, np.int64), np.array(num_bytes, np.int64) // 8

    def regions(self, rows: Rows) -> list[Region | None]:
        if not self.store.regions_per_image or not len(rows):
            return [None] * len(rows)
        found, regions = self.ask(
            "SELECT row, region FROM {table} WHERE kills = 0 AND row IN {rows:Array(UInt64)}",
            width=2,
            rows=[int(row) for row in rows],
        )
        return [region_of_numbers(regions[at]) for at in self._order(found, rows)]

    def items(self, rows: Rows) -> list[Item]:
        if not len(rows):
            return []
        found, *columns = self.ask(
            f"SELECT row, {self._item} FROM {{table}} "
            "WHERE kills = 0 AND row IN {rows:Array(UInt64)}",
            width=1 + len(self.item_columns),
            rows=[int(row) for row in rows],
        )
        items = self.items_of_columns(columns)
        return [items[at] for at in self._order(found, rows)]

    def items_of_columns(self, columns: Sequence[Sequence[Any]]) -> list[Item]:
        """Items out of the columns that `item_columns` or `hit_columns` names.

        Args:
            columns: as many sequences, of the same length.

        Returns:
            list of `Item`.

        Raises:
            StoreError: texts are damaged.
        """
        texts = self.store.texts and len(columns) == len(self.item_columns)
        try:
            return items_of_columns(columns, self.roots, exif=self.store.exif, texts=texts)
        except ValueError as error:
            raise StoreError(
                "Texts are as HashNet wrote them.",
                f"{error} in {self.store.folder}",
                "Restore the table from a copy, or build the index again.",
            ) from error

    def items_in_order(self) -> Iterator[Item]:
        last = -1
        while True:
            rows, *columns = self.ask(
                f"SELECT row, {self._item} FROM {{table}} "
                "WHERE {image} AND row > {after:Int64} ORDER BY row LIMIT {limit:UInt64}",
                width=1 + len(self.item_columns),
                after=last,
                limit=ITEMS_AT_ONCE,
            )
            if not len(rows):
                return
            yield from self.items_of_columns(columns)
            last = int(rows[-1])

    def ids(self, offset: int = 0, limit: int | None = None) -> list[str]:
        page = "" if limit is None else "LIMIT {limit:UInt64} "
        [ids] = self.ask(
            f"SELECT id FROM {{table}} WHERE {{image}} ORDER BY row {page}OFFSET {{offset:UInt64}}",
            offset=int(offset),
            limit=limit,
        )
        return [to_text(id) for id in ids]

    def rows_beginning_with(self, start: str) -> np.ndarray:
        [rows] = self.ask(
            "SELECT row FROM {table} WHERE {image} AND startsWith(id, unhex({start:String})) "
            "ORDER BY row",
            start=to_bytes(start).hex(),
        )
        return np.array(rows, np.int64)

    def rows_of_label(self, label: str) -> np.ndarray:
        [rows] = self.ask(
            "SELECT row FROM {table} WHERE {image} AND label = unhex({label:String}) ORDER BY row",
            label=to_bytes(label).hex(),
        )
        return np.array(rows, np.int64)

    def rows(self, ids: Sequence[str]) -> np.ndarray:
        found, rows = self.ask(
            f"SELECT id, max(row) FROM {{table}} PREWHERE {KEY_OF_IDS} "
            f"WHERE {{image}} AND {OF_IDS} GROUP BY id",
            width=2,
            ids=hexadecimal(ids),
        )
        known = dict(zip(found, rows, strict=True))
        return np.array([int(known.get(to_bytes(id), -1)) for id in ids], np.int64)

    def rows_of_sizes(self, sizes: Sequence[int]) -> np.ndarray:
        [rows] = self.ask(
            "SELECT row FROM {table} WHERE {image} AND size IN {sizes:Array(Int64)} ORDER BY row",
            sizes=[int(size) for size in sizes],
        )
        return np.array(rows, np.int64)

    def rows_taken(self, after: datetime | None, before: datetime | None) -> np.ndarray:
        if not self.store.exif:
            raise no_exif(self.store.folder)
        condition, parameters = taken_within(after, before)
        [rows] = self.ask(
            f"SELECT row FROM {{table}} WHERE {{image}}{condition} ORDER BY row", **parameters
        )
        return np.array(rows, np.int64)

    def id_ends(self, start: str) -> tuple[str, str] | None:
        [[first], [last], [found]] = self.ask(
            "SELECT min(id), max(id), count() FROM {table} "
            "WHERE {image} AND startsWith(id, unhex({start:String}))",
            width=3,
            start=to_bytes(start).hex(),
        )
        return (to_text(first), to_text(last)) if found else None

    def ids_outside(self, start: str) -> frozenset[str]:
        [ids] = self.ask(
            "SELECT id FROM {table} WHERE {image} AND NOT startsWith(id, unhex({start:String}))",
            start=to_bytes(start).hex(),
        )
        return frozenset(map(to_text, ids))

    def label_counts(self) -> dict[str, int]:
        labels, counts = self.ask(
            "SELECT label, count() FROM {table} WHERE {image} AND label IS NOT NULL "
            "GROUP BY label ORDER BY min(row)",
            width=2,
        )
        return {to_text(label): int(count) for label, count in zip(labels, counts, strict=True)}

    def bit_shares(self, most: int) -> np.ndarray:
        # Its bits as text are bytes 48 and 49.
        [[shares]] = self.ask(
            "SELECT avgForEach(arrayMap(bit -> bit - 48, reinterpret(bin(code), 'Array(UInt8)'))) "
            "FROM {table} WHERE {image} AND cityHash64(row) % {step:UInt64} = 0",
            step=max(1, self.num_items // most),
        )
        num_bits = self.store.num_bits
        return np.array(shares[:num_bits] or np.zeros(num_bits), np.float64)

    @property
    def live(self) -> np.ndarray | None:
        raise self._no_arrays()

    @property
    def live_images(self) -> np.ndarray | None:
        raise self._no_arrays()

    @property
    def owners(self) -> np.ndarray | None:
        raise self._no_arrays()

    def feature_map(self, rows: Rows) -> np.ndarray:
        raise self._no_arrays()

    def labels(self) -> tuple[np.ndarray, list[str]]:
        raise self._no_arrays()

    def _no_arrays(self) -> StoreError:
        return unsupported("an array with an element for each row", self.store.folder)

    def close(self) -> None:
        """Nothing is held."""

    def __enter__(self) -> "Snapshot":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _order(self, found: Iterable[Any], rows: Rows) -> list[int]:
        """Where each row is among those that were found."""
        place = {int(row): at for at, row in enumerate(found)}
        try:
            return [place[int(row)] for row in rows]
        except KeyError as error:
            raise StoreError(
                "A snapshot is read while its rows are there.",
                f"row {error} of {self.store.folder}",
                "The table was compacted since: take a new snapshot.",
            ) from error


class _Candidates:
    """Local features of some rows: the first one that is taken reads all, and each goes once."""

    def __init__(self, snapshot: Snapshot, rows: Rows) -> None:
        self.rows = rows
        self._snapshot = snapshot
        self._lock = threading.Lock()
        self._features: dict[int, StoredFeatures] | None = None

    def take(self, place: int) -> StoredFeatures:
        with self._lock:
            if self._features is None:
                self._features = dict(enumerate(self._snapshot.local_features(self.rows)))
            return self._features.pop(place)
