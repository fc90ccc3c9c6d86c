"""An index in ClickHouse: what its tables say of it, and the bundle that they carry."""

import functools
import hashlib
import json
import os
import pathlib
import re
import time
from collections.abc import Mapping
from typing import Any

from hashnet import files
from hashnet.errors import ArgumentError, BackendError, StoreError
from hashnet.local.codebook import Codebook
from hashnet.network import bundle as bundles
from hashnet.retrieval.store.clickhouse import generations
from hashnet.retrieval.store.clickhouse.connection import Connection
from hashnet.retrieval.store.clickhouse.snapshot import Snapshot
from hashnet.retrieval.store.clickhouse.tables import ddl, execute
from hashnet.retrieval.store.clickhouse.writer import Writer
from hashnet.retrieval.store.items import (
    check_extractor,
    check_ocr,
    check_regions_per_image,
)
from hashnet.retrieval.store.roots import Roots

StrPath = str | os.PathLike[str]

# Of new indexes. Older ones stay of their version: 1, 2 with local features, or 3 with regions,
# which have no roots, 4, which has no local pool, or 5, which keeps no texts.
FORMAT_VERSION = 6
# What records are named: those of facts, but for the first, with a slash and a number behind it,
# those of roots, codebooks and what was learned of captions with the time.
_FACTS, _ROOTS, _CODEBOOK, _CAPTIONS = "facts", "roots/", "codebook/", "captions/"
# Columns that tables of older versions lack.
_NEEDED = ("_descriptors.yx", ".region", ".content", ".camera", "_words.signature", ".spaced_ocr")


class Store:
    """An index in ClickHouse, made by `create` or `open`; see `protocol.Store`.

    Attributes:
        folder: str. The URL, without its password.
        feature_dtype: "float32". How features are stored.
        roots: `Roots`, as they were last read or written.
        keeps_words: bool. Whether it keeps a local pool, or may.
        codebook_number: int. Of the codebook, as it was last read or written; 0 for none.
        made: tuple. What tells this index from another that was made in its place.
        followed: (str, int) or None. The table of entries that this one's follows, and the last
            row of it that was taken over before it did.
    """

    FEATURE_DTYPE = "float32"

    def __init__(
        self,
        connection: Connection,
        record: str,
        facts: dict[str, Any],
        roots: list[list[str]] | None,
        codebook: str = "",
    ) -> None:
        entries = facts.get("entries", connection.place.table)
        generations.number_of(connection.place.table, entries)  # refuses other names
        self._connection = connection.of(entries)
        self._record, self._facts = record, facts
        self.folder: str = connection.place.shown
        self.num_bits: int = facts["num_bits"]
        self.feature_dim: int = facts["feature_dim"]
        self.feature_dtype = self.FEATURE_DTYPE
        self.extractor: str | None = facts.get("extractor")
        self.descriptor_dim: int | None = facts.get("descriptor_dim")
        self.regions_per_image: int = facts.get("regions_per_image", 0)
        self._encoder_files: dict[str, str] | None = facts.get("encoder_files")
        self.fingerprint: str = facts["fingerprint"]
        self.format_version: int = facts["format_version"]
        self.created: str = facts["created"]
        self.exif: bool = facts.get("exif", False)
        self.texts = self.format_version >= 6
        self.ocr: str | None = facts.get("ocr") if self.texts else None
        self.made = (self.created, self.fingerprint, entries)
        self.followed: tuple[str, int] | None = None
        if "followed" in facts:
            entries, row = facts["followed"]
            generations.number_of(connection.place.table, entries)
            self.followed = entries, int(row)
        self.roots = Roots(roots)
        self.keeps_words = self.format_version >= 5 and self.extractor is not None
        self.codebook_number = int(codebook.removeprefix(_CODEBOOK) or 0)
        self._codebook: tuple[int, Codebook | None] = (0, None)

    @classmethod
    def create(
        cls,
        url: str,
        *,
        num_bits: int,
        feature_dim: int,
        feature_dtype: str = FEATURE_DTYPE,
        fingerprint: str,
        encoder_files: Mapping[str, StrPath] | None = None,
        extractor: str | None = None,
        descriptor_dim: int | None = None,
        regions_per_image: int = 0,
        exif: bool = False,
        ocr: str | None = None,
    ) -> "Store":
        """Make an empty index; for the rest see `protocol.Store.create`.

        The tables are made, or were by `hashnet clickhouse init`; those of an older version have
        no room for what an index keeps now, which is a `StoreError`.
        """
        if feature_dtype != cls.FEATURE_DTYPE:
            raise ArgumentError(
                "ClickHouse stores features as float32.", f"feature_dtype={feature_dtype!r}"
            )
        check_ocr(ocr)
        check_extractor(extractor, descriptor_dim)
        check_regions_per_image(regions_per_image)
        connection = Connection(url)
        if connection.has_index():
            raise StoreError(
                "A new index needs a table where nothing is.",
                connection.place.shown,
                "Open the index to add to it, or name another table.",
            )
        columns = connection.columns()
        if not any(column.startswith(f"{connection.place.table}.") for column in columns):
            execute(url, ddl(url, num_bits=num_bits))
        elif not {connection.place.table + column for column in _NEEDED} <= columns:
            raise StoreError(
                "A new index needs tables that have room for all it keeps.",
                f"tables of an older version: {connection.place.shown}",
                "Name another table, or drop these and run `hashnet clickhouse init` again.",
            )
        contents = {
            name: pathlib.Path(path).read_bytes() for name, path in (encoder_files or {}).items()
        }
        facts = {
            "format_version": FORMAT_VERSION,
            "num_bits": num_bits,
            "feature_dim": feature_dim,
            "fingerprint": fingerprint,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "extractor": extractor,
            "descriptor_dim": descriptor_dim,
            "regions_per_image": regions_per_image,
            "exif": exif,
            "ocr": ocr,
            "encoder_files": _sums(contents),
        }
        # The facts come last: what a killed creation leaves behind is no index. A file that it
        # left is the same or, of another encoder, told apart by the fingerprint in its name.
        for name, content in [
            *((f"{fingerprint}/{name}", content) for name, content in contents.items()),
            (_FACTS, json.dumps(facts).encode()),
        ]:
            cls._insert_record(connection, name, content)
        return cls.open(url)

    @classmethod
    def open(cls, url: str) -> "Store":
        return cls._on(Connection(url))

    @classmethod
    def _on(cls, connection: Connection) -> "Store":
        if not connection.has_index():
            raise StoreError(
                "An index in ClickHouse is a table that HashNet made.",
                f"none in {connection.place.shown}",
                "Make one with `hashnet index`, or check the URL.",
            )
        # Of each kind the last is the latest.
        names, contents = connection.ask(
            "SELECT name, if(startsWith(name, {codebook:String}), '', content) "
            "FROM {encoder_table} WHERE name = {facts:String} OR startsWith(name, {later:String}) "
            "OR startsWith(name, {roots:String}) OR startsWith(name, {codebook:String}) "
            "ORDER BY name",
            width=2,
            facts=_FACTS,
            later=f"{_FACTS}/",
            roots=_ROOTS,
            codebook=_CODEBOOK,
        )
        latest = {
            name.decode().split("/")[0]: (name.decode(), content)
            for name, content in zip(names, contents, strict=True)
        }
        try:
            record, content = latest[_FACTS]
            facts = json.loads(content)
            if facts["format_version"] > FORMAT_VERSION:
                raise StoreError(
                    f"This HashNet reads tables up to format {FORMAT_VERSION}.",
                    f"format {facts['format_version']} in {connection.place.shown}",
                    "Upgrade: pip install -U hashnet",
                )
            roots = None
            if facts["format_version"] >= 4:
                roots = json.loads(latest["roots"][1]) if "roots" in latest else []
            codebook, _ = latest.get("codebook", ("", b""))
            return cls(connection, record, facts, roots, codebook)
        except StoreError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise StoreError(
                "The facts of an index are as HashNet wrote them.",
                f"{error!r} in {connection.place.shown}_encoder",
                "Restore the table from a copy, or build the index again.",
            ) from error

    @staticmethod
    def is_there(url: str) -> bool:
        return Connection(url).has_index()

    @property
    def entries(self) -> str:
        """str. Name of the table of entries, which a refit changes."""
        return self._connection.entries

    @functools.cached_property
    def encoder_folder(self) -> pathlib.Path:
        """pathlib.Path: the bundle, copied from the table to a cache of this machine if need be."""
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        name, sums = _plain_fingerprint(self.fingerprint), self._encoder_files
        if sums is None:  # as before there were others
            sums = dict.fromkeys((bundles.DESCRIPTION, bundles.MODEL, bundles.ENCODER), "")
        else:
            # Two indexes may share a network, and not what finds local features or regions.
            name += "-" + hashlib.sha256(json.dumps(sorted(sums.items())).encode()).hexdigest()[:16]
        folder = cache / "hashnet" / "encoders" / name
        if not _holds(folder, sums, self.fingerprint):
            try:
                self._fetch_encoder(folder, sums)
            except OSError:
                if not _holds(folder, sums, self.fingerprint):  # another process was quicker
                    raise
        return folder

    def verify_encoder(self, *names: str) -> None:
        """What `encoder_folder` finds in the cache it has compared; see `protocol.Store`."""
        _ = self.encoder_folder

    def _fetch_encoder(self, folder: pathlib.Path, sums: dict[str, str]) -> None:
        with files.whole_folder(folder) as fresh:
            for file, sha256 in sums.items():
                [contents] = self._connection.ask(
                    "SELECT content FROM {encoder_table} WHERE name = {name:String}",
                    name=f"{self.fingerprint}/{_plain_name(file)}",
                )
                if not contents:
                    raise StoreError("An index carries its encoder.", f"no {file} in {self.folder}")
                # Two of one network may differ in what is said of it.
                for content in contents:
                    if sha256 in ("", hashlib.sha256(content).hexdigest()):
                        (fresh / file).write_bytes(content)
                        break
                else:
                    raise StoreError(
                        "An index carries its encoder as it was.", f"{file} in {self.folder}"
                    )

    def reopened(self) -> "Store":
        return self._on(self._connection)

    def version(self) -> tuple[Any, ...]:
        now = self.reopened()
        [[last], [entries]] = now._connection.ask("SELECT max(row), count() FROM {table}", width=2)
        return *now.made, now.roots.all, now.codebook_number, int(last), int(entries)

    def write_roots(self, roots: Roots) -> None:
        """Put other roots in place of these.

        Args:
            roots: `Roots`.
        """
        name = f"{_ROOTS}{time.time_ns():020}"
        content = json.dumps(roots.all).encode()
        self._insert_record(self._connection, name, content)
        self.roots = roots

    def codebook(self, number: int) -> Codebook | None:
        """A codebook that the index has, or had a moment ago.

        Args:
            number: int, as `codebook_number`.

        Returns:
            `Codebook`; None of the number 0.

        Raises:
            StoreError: another one has followed it.
        """
        if number and self._codebook[0] != number:
            [contents] = self._connection.ask(
                "SELECT content FROM {encoder_table} WHERE name = {name:String}",
                name=f"{_CODEBOOK}{number:020}",
            )
            if not contents:
                raise StoreError(
                    "A codebook is read while it is there.",
                    f"none of the number {number} in {self.folder}",
                    "Another one followed it: open the index again.",
                )
            self._codebook = number, Codebook.from_bytes(contents[0])
        return self._codebook[1] if number else None

    def write_codebook(self, codebook: Codebook, number: int) -> None:
        """Let another codebook, by which all images are listed by now, take the place of this one.

        Args:
            codebook: `Codebook`.
            number: int. Higher than that of this one.
        """
        self._insert_record(
            self._connection, f"{_CODEBOOK}{number:020}", codebook.to_bytes(), f"codebook {number}"
        )
        self.codebook_number, self._codebook = number, (number, codebook)
        self._connection.tell(
            "ALTER TABLE {encoder_table} DELETE WHERE startsWith(name, {codebook:String}) "
            "AND name < {name:String}",
            codebook=_CODEBOOK,
            name=f"{_CODEBOOK}{number:020}",
        )

    def caption_map(self) -> bytes | None:
        """What was learned of the captions, which nothing else depends on.

        Returns:
            bytes, as `write_caption_map` was given them; None where there are none.
        """
        [contents] = self._connection.ask(
            "SELECT content FROM {encoder_table} WHERE startsWith(name, {captions:String}) "
            "ORDER BY name DESC LIMIT 1",
            captions=_CAPTIONS,
        )
        return bytes(contents[0]) if len(contents) else None

    def write_caption_map(self, content: bytes) -> None:
        """Put what was learned of the captions in the place of what was before.

        Args:
            content: bytes.
        """
        name = f"{_CAPTIONS}{time.time_ns():020}"
        self._insert_record(self._connection, name, content)
        self._forget_captions(name)

    def forget_caption_map(self) -> None:
        """Delete what was learned of the captions."""
        self._forget_captions(f"{_CAPTIONS}{'9' * 20}")

    def _forget_captions(self, end: str) -> None:
        self._connection.tell(
            "ALTER TABLE {encoder_table} DELETE WHERE startsWith(name, {captions:String}) "
            "AND name < {end:String}",
            captions=_CAPTIONS,
            end=end,
        )

    @staticmethod
    def _insert_record(
        connection: Connection, name: str, content: bytes, token: str | None = None
    ) -> None:
        connection.insert(
            connection.encoder_table,
            ["name", "content"],
            ["String", "String"],
            [[name.encode()], [content]],
            token or hashlib.sha256(name.encode() + b"\0" + content).hexdigest(),
        )

    def next_entries(self) -> str:
        """A name for the table of entries that is to follow this one's, and that no other has."""
        table = self._connection.place.table
        before = generations.number_of(table, self._connection.entries)
        return generations.name_of(table, max(time.time_ns(), before + 1))

    def follow_with(
        self, entries: str, encoder_files: Mapping[str, StrPath], fingerprint: str, row: int
    ) -> "Store":
        """Let another table of entries follow this one's, with its encoder: by one record.

        Args:
            entries: str, from `next_entries`. Name of the table, filled by now.
            encoder_files, fingerprint: as for `create`.
            row: int. The last row that was taken over.

        Returns:
            `Store`.

        Raises:
            StoreError: another one has followed, and this one will never do so.
            BackendError: the server does not answer; what follows is not known.
        """
        connection = self._connection
        contents = {name: pathlib.Path(path).read_bytes() for name, path in encoder_files.items()}
        for name, content in contents.items():
            self._insert_record(connection, f"{fingerprint}/{name}", content)
        number = generations.number_of(connection.place.table, entries)
        facts = {
            **self._facts,
            "fingerprint": fingerprint,
            "encoder_files": _sums(contents),
            "entries": entries,
            "followed": [connection.entries, row],
        }
        # Of all records that come in with the token of one that they follow, one does.
        self._insert_record(
            connection,
            f"{_FACTS}/{number:020}",
            json.dumps(facts).encode(),
            token=f"what follows {self._record}",
        )
        now = self.reopened()
        if now.made == self.made:
            raise BackendError(
                "A server answers with what was written to it.",
                f"no new record in {self.folder}_encoder",
                "See with `hashnet info` which codes the index has, and fit them again.",
            )
        if now._facts != facts:
            raise StoreError(
                "Codes are fitted again by one at a time.",
                f"others have been since, in {self.folder}",
                "Open the index again: these are thrown away.",
            )
        return now

    def forget_encoders(self) -> None:
        """Delete the files of encoders that an index had before this one's."""
        [records] = self._connection.ask(
            "SELECT content FROM {encoder_table} WHERE name = {facts:String} "
            "OR startsWith(name, {later:String})",
            facts=_FACTS,
            later=f"{_FACTS}/",
        )
        for fingerprint in sorted({json.loads(one)["fingerprint"] for one in records}):
            if fingerprint != self.fingerprint:
                self._connection.tell(
                    f"ALTER TABLE {self._connection.encoder_table} "
                    "DELETE WHERE startsWith(name, {files:String})",
                    files=f"{fingerprint}/",
                )

    def snapshot(self) -> Snapshot:
        return Snapshot(self._connection, self)

    def writer(self) -> Writer:
        now = self.reopened()
        if now.made != self.made:
            raise StoreError(
                "An index is written by those who opened it.",
                f"another one in its place, {self.folder}",
                "Open that one.",
            )
        # Another may have changed them.
        self.roots, self.codebook_number = now.roots, now.codebook_number
        return Writer(self._connection, self)

    def num_bytes(self) -> int:
        table = self._connection.place.table
        [[size]] = self._connection.ask(
            "SELECT sum(bytes_on_disk) FROM system.parts WHERE active "
            "AND database = {database:String} "
            "AND (table IN {names:Array(String)} OR startsWith(table, {later:String}))",
            database=self._connection.place.database,
            names=[
                table + end
                for end in (
                    *("", "_local", "_encoder", "_descriptors", "_descriptors_local"),
                    *("_words", "_words_local"),
                )
            ],
            later=table + generations.LATER,
        )
        return int(size)


def _sums(contents: Mapping[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}


def _plain_fingerprint(fingerprint: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{8,64}", fingerprint):
        raise StoreError("A fingerprint is hexadecimal.", repr(fingerprint))
    return fingerprint


def _plain_name(name: str) -> str:
    if "/" in name or "\\" in name or name in ("", ".", ".."):
        raise StoreError("A file of an encoder lies inside its folder.", repr(name))
    return name


def _holds(folder: pathlib.Path, sums: Mapping[str, str], fingerprint: str) -> bool:
    try:
        return bundles.load(folder).fingerprint == fingerprint and all(
            sha256 in ("", hashlib.sha256((folder / _plain_name(name)).read_bytes()).hexdigest())
            for name, sha256 in sums.items()
        )
    except (OSError, ValueError):
        return False
