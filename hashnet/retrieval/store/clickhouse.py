"""An index in a ClickHouse table. `search.clickhouse_finder` has the SQL of searching it.

    clickhouse://[USER[:PASSWORD]@]HOST:PORT/DB/TABLE    a server (clickhouses:// with TLS)
    chdb:///FOLDER/DB/TABLE                              the engine in this process (chdb)

    TABLE              one entry per image or region, and one per entry that was taken out
    TABLE_descriptors  local features, by the row of their image
    TABLE_encoder      the facts of the index, and the bundle that made its codes

An entry is never changed. `row` numbers entries in the order in which they came; an entry with
`kills` above 0 is no image but says that the row of that number is out. One insert holds the new
rows of a batch and the entries that take out what they replace, and becomes one part of the
table, which is there wholly or not at all: killed at any moment, an image is there as before or
as after. A snapshot is the highest row at its time, so it goes on seeing what it saw, until a
compaction takes the dead rows away.

As in a folder, the entry of an image is followed by those of its regions, which have its words.
Its local features are hundreds of times the bytes of all else and asked for by few rows at a time,
so they lie in a table of their own, ordered by row. They are inserted before their image is: what
a kill leaves there belongs to no row, and goes with the next compaction. Tables without
`TABLE_descriptors` or the column `region`, made before there were any, are used as they are, for
indexes that need neither.

Entries are sorted by code, so that the pool of a query lies together where codes repeat, as
learned ones do. The statement of a search reads the codes of all entries, and of the granules
that hold a pool the rest. Every value in a statement is a bound parameter; names of databases
and tables are checked to be plain words.

There is to be one writer at a time, as for a folder; no lock makes sure of it. Two that write
the same id at the same time may leave it twice, until it is written or removed again.
"""

import contextlib
import functools
import hashlib
import json
import os
import pathlib
import re
import threading
import time
import urllib.parse
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from hashnet import extras, files
from hashnet.codes import code_bytes
from hashnet.errors import ArgumentError, BackendError, StoreError
from hashnet.network import bundle as bundles
from hashnet.retrieval.store.items import (
    CompactReport,
    Item,
    StoredFeatures,
    bytes_of_local,
    check_extractor,
    check_images,
    check_items,
    check_regions_per_image,
    items_of_rows,
    no_local_features,
)

# Of indexes with regions. Those without are of version 2 with local features and else of version 1.
FORMAT_VERSION = 3
SCHEMES = ("clickhouse", "clickhouses", "chdb")
DEFAULT_PORTS = {"clickhouse": 8123, "clickhouses": 8443}
CONNECT_SECONDS = 10
QUERY_SECONDS = 60
INSERT_TRIES = 4
RETRY_SECONDS = 0.2
# Of features in an insert: as Python numbers eight times the bytes, and far from what a server
# would cut into several parts.
BATCH_BYTES = 16 << 20
BATCH_ROWS = 1 << 16
# Images whose local features are in memory at one time, written or to be compared.
BATCH_LOCAL = 128
CANDIDATES_AT_ONCE = 16
# A server refuses a bound value of more than 128 KB, whatever the statement asks for.
VALUE_BYTES = 100_000
# The features of a granule are read whole for one row of the pool.
GRANULE_ROWS = 256
# All rows are below, so this makes one partition; but a part of a partitioned table knows its
# highest row, which need not be read then.
PARTITION_ROWS = 10**19
# Codes of errors that pass: timeouts, a lost network or Keeper, too many parts at the moment.
PASSING = {159, 203, 209, 210, 242, 252, 319, 999}
# Every limit throws: a partial answer looks like a whole one.
SETTINGS = {
    "max_execution_time": QUERY_SECONDS,
    "timeout_overflow_mode": "throw",
    "read_overflow_mode": "throw",
    "result_overflow_mode": "throw",
    "set_overflow_mode": "throw",
    "group_by_overflow_mode": "throw",
    "sort_overflow_mode": "throw",
    "skip_unavailable_shards": 0,
    "distributed_foreground_insert": 1,
    "distributed_product_mode": "local",  # dead rows lie on the shard of their images
    "mutations_sync": 2,
    "allow_nondeterministic_mutations": 1,  # of replicated tables: what a compaction looks up
}
ITEM = "id, path, label, size, mtime_ns"
NONE_DEAD = "kills = 0 AND row <= {last:UInt64}"
NOT_DEAD = (
    f"{NONE_DEAD} AND row NOT IN "
    "(SELECT kills FROM {table} WHERE kills > 0 AND row <= {last:UInt64})"
)
OF_IDS = "id IN (SELECT unhex(arrayJoin({ids:Array(String)})))"
KEY_OF_IDS = "key IN (SELECT cityHash64(unhex(arrayJoin({ids:Array(String)}))))"
_PLAIN_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


class Place:
    """Where a table is, out of its URL.

    Args:
        url: str, `clickhouse://[USER[:PASSWORD]@]HOST[:PORT]/DB/TABLE`, the same with
            `clickhouses://` for TLS, or `chdb:///FOLDER/DB/TABLE`.

    Attributes:
        scheme, database, table: str.
        shown: str. The URL without its password.

    Raises:
        ArgumentError: the URL has another form.

    Example:
        >>> Place("clickhouse://me:secret@db.example:8123/photos/holidays").shown
        'clickhouse://me@db.example:8123/photos/holidays'
    """

    def __init__(self, url):
        try:
            parts = urllib.parse.urlsplit(url)
            self.host, port = parts.hostname, parts.port
        except ValueError:
            parts = None
        names = parts.path.split("/")[-2:] if parts else []
        if (
            parts is None
            or parts.scheme not in SCHEMES
            or len(names) != 2
            or not all(map(_PLAIN_WORD.fullmatch, names))
            or parts.query
            or parts.fragment
            or (parts.scheme == "chdb") == bool(parts.netloc)
            or (parts.scheme != "chdb" and parts.path.count("/") != 2)
        ):
            raise ArgumentError(
                "An index in ClickHouse is clickhouse://HOST:PORT/DB/TABLE or "
                "chdb:///FOLDER/DB/TABLE, with plain words for DB and TABLE.",
                repr(re.sub(r"//[^@/]*@", "//...@", str(url))),
            )
        self.scheme = parts.scheme
        self.database, self.table = names
        self.folder = urllib.parse.unquote(parts.path.rsplit("/", 2)[0])
        self.port = port or DEFAULT_PORTS.get(parts.scheme)
        self.user = urllib.parse.unquote(parts.username or "") or "default"
        self._password = urllib.parse.unquote(parts.password or "")
        user = f"{parts.username}@" if parts.username else ""
        netloc = f"{user}{self.host}:{self.port}" if self.host else ""
        self.shown = f"{self.scheme}://{netloc}{parts.path}"

    def client(self):
        """A `clickhouse_connect` client; the password may also be in CLICKHOUSE_PASSWORD.

        Raises:
            BackendError: `clickhouse_connect` is not installed.
        """
        rule = "An index in ClickHouse needs its client."
        clickhouse_connect = extras.load("clickhouse_connect", "clickhouse", rule, BackendError)
        if self.scheme == "chdb":
            os.makedirs(self.folder, exist_ok=True)
            return clickhouse_connect.get_client(interface="chdb", path=self.folder)
        return clickhouse_connect.get_client(
            host=self.host,
            port=self.port,
            username=self.user,
            password=self._password or os.environ.get("CLICKHOUSE_PASSWORD", ""),
            secure=self.scheme == "clickhouses",
            connect_timeout=CONNECT_SECONDS,
            send_receive_timeout=QUERY_SECONDS + CONNECT_SECONDS,
            form_encode_query_params=True,
            # A session takes one statement at a time; a service asks several at once.
            autogenerate_session_id=False,
        )


class _Connection:
    """Sends statements about one table; whatever goes wrong is a `BackendError`."""

    def __init__(self, url):
        self.place = Place(url)
        self.table = f"`{self.place.database}`.`{self.place.table}`"
        self.encoder_table = f"`{self.place.database}`.`{self.place.table}_encoder`"
        self.descriptors_table = f"`{self.place.database}`.`{self.place.table}_descriptors`"
        with self._named():
            self._client = self.place.client()

    def ask(self, statement, *, width=1, **parameters):
        """The columns of an answer, `width` sequences, empty ones too; text as bytes."""
        statement, parameters = _in_pieces(self._named_tables(statement), parameters)
        with self._named():
            answer = self._client.query(
                statement,
                parameters=parameters,
                # An error that comes late is an error too, and no end of the answer.
                settings={**SETTINGS, "wait_end_of_query": 1},
                query_formats={"String": "bytes", "FixedString": "bytes"},
                column_oriented=True,
            )
            columns = answer.result_columns
        return columns or [[]] * width

    def tell(self, statement, **parameters):
        """Run a statement that answers nothing."""
        with self._named():
            self._client.command(
                self._named_tables(statement), parameters=parameters, settings=SETTINGS
            )

    def insert(self, table, names, types, columns, token):
        """Insert one batch; tried again with the same token, it comes in once."""
        settings = {
            **SETTINGS,
            "insert_deduplication_token": token,
            "insert_deduplicate": 1,
            "async_insert": 0,
        }
        for left in reversed(range(INSERT_TRIES)):
            try:
                with self._named():
                    self._client.insert(
                        table,
                        columns,
                        column_names=names,
                        column_type_names=types,
                        column_oriented=True,
                        settings=settings,
                    )
                return
            except BackendError as error:
                code = getattr(error.__cause__, "code", None)
                if not left or (code is not None and code not in PASSING):
                    raise
                time.sleep(RETRY_SECONDS * 2 ** (INSERT_TRIES - 1 - left))

    def has_index(self):
        """Whether the facts of an index are there; they are written last."""
        [[found]] = self.ask(
            "SELECT count() FROM system.tables WHERE database = {database:String} "
            "AND name = {name:String}",
            database=self.place.database,
            name=f"{self.place.table}_encoder",
        )
        if not found:
            return False
        [[facts]] = self.ask("SELECT count() FROM {encoder_table} WHERE name = 'facts'")
        return facts > 0

    def columns(self):
        """The columns that there are, as text `TABLE.COLUMN`; none without tables."""
        place = self.place
        tables, columns = self.ask(
            "SELECT table, name FROM system.columns WHERE database = {database:String} "
            "AND table IN {names:Array(String)}",
            width=2,
            database=place.database,
            names=[place.table, f"{place.table}_descriptors"],
        )
        return {
            f"{table.decode()}.{name.decode()}" for table, name in zip(tables, columns, strict=True)
        }

    def _named_tables(self, statement):
        statement = statement.replace("{encoder_table}", self.encoder_table)
        statement = statement.replace("{descriptors_table}", self.descriptors_table)
        return statement.replace("{table}", self.table)

    @contextlib.contextmanager
    def _named(self):
        try:
            yield
        except (StoreError, ArgumentError):
            raise
        except Exception as error:  # the client's own, urllib3's, the system's
            if not _is_of_the_backend(error):
                raise
            reason = " ".join(str(error).split())[:400]
            raise BackendError(
                "An index in ClickHouse is used while its server answers.",
                f"{self.place.shown}: {reason}",
                "Nothing was answered in part. See that the server runs and is not overloaded, "
                "then do it again: what was committed stays.",
            ) from error


def _in_pieces(statement, parameters):
    """The same statement with bound lists in so many values that each is one a server takes."""
    bound = {}
    for name, value in parameters.items():
        pieces = _pieces(value) if isinstance(value, list) else [value]
        if len(pieces) == 1:
            bound[name] = value
            continue
        [mark] = {*re.findall(rf"\{{{name}:[^}}]*\}}", statement)}
        kind = mark.removeprefix(f"{{{name}:").removesuffix("}")
        marks = [f"{{{name}_{number}:{kind}}}" for number in range(len(pieces))]
        statement = statement.replace(mark, f"arrayConcat({', '.join(marks)})")
        bound |= {f"{name}_{number}": piece for number, piece in enumerate(pieces)}
    return statement, bound


def _pieces(values):
    pieces, room = [[]], VALUE_BYTES
    for value in values:
        size = len(str(value)) + 4  # quotes, a comma and a space
        if size > room and pieces[-1]:
            pieces.append([])
            room = VALUE_BYTES
        pieces[-1].append(value)
        room -= size
    return pieces


def _is_of_the_backend(error):
    return isinstance(error, OSError) or type(error).__module__.split(".")[0] in (
        "chdb",
        "clickhouse_connect",
        "urllib3",
    )


def ddl(url, *, num_bits: int, cluster: str | None = None) -> list:
    """The statements that make the tables of an index.

    Args:
        url: str, as in the head of this file.
        num_bits: int. Of the codes.
        cluster: str or None. Name of a cluster: entries are then spread over its shards by id,
            and every shard is replicated.

    Returns:
        list of str.

    Raises:
        ArgumentError: the URL or the cluster's name has another form.

    Example:
        >>> for statement in ddl("clickhouse://db/photos/all", num_bits=48, cluster="main"):
        ...     print(statement.split("(")[0].strip())
        CREATE DATABASE IF NOT EXISTS `photos` ON CLUSTER `main`
        CREATE TABLE IF NOT EXISTS `photos`.`all_encoder` ON CLUSTER `main`
        CREATE TABLE IF NOT EXISTS `photos`.`all_descriptors_local` ON CLUSTER `main`
        CREATE TABLE IF NOT EXISTS `photos`.`all_descriptors` ON CLUSTER `main` AS
            `photos`.`all_descriptors_local` ENGINE = Distributed
        CREATE TABLE IF NOT EXISTS `photos`.`all_local` ON CLUSTER `main`
        CREATE TABLE IF NOT EXISTS `photos`.`all` ON CLUSTER `main` AS `photos`.`all_local`
            ENGINE = Distributed
    """
    place = Place(url)
    if cluster is not None and not _PLAIN_WORD.fullmatch(cluster):
        raise ArgumentError("A cluster's name is a plain word.", repr(cluster))
    on = f" ON CLUSTER `{cluster}`" if cluster else ""
    database, table = place.database, place.table
    columns = (
        "row UInt64 CODEC(NONE), kills UInt64, id String, key UInt64 MATERIALIZED cityHash64(id), "
        "path Nullable(String), label LowCardinality(Nullable(String)), size Nullable(Int64), "
        f"mtime_ns Nullable(Int64), code FixedString({code_bytes(num_bits)}) CODEC(NONE), "
        "feature Array(Float32) CODEC(NONE), region Array(Int32)"
    )
    order = (
        f"PARTITION BY intDiv(row, {PARTITION_ROWS}) ORDER BY (kills, code) "
        f"SETTINGS index_granularity = {GRANULE_ROWS}"
    )
    # Those of one image are read alone; `id` only says which shard is theirs.
    descriptors = "row UInt64, id String, yx String, descriptors String CODEC(NONE)"
    descriptors_order = "ORDER BY row SETTINGS index_granularity = 1"
    encoder = "(name String, content String) "
    statements = [f"CREATE DATABASE IF NOT EXISTS `{database}`{on}"]
    # The table that says that all are there comes last.
    tables = [
        (f"{table}_descriptors", descriptors, descriptors_order),
        (table, columns, order),
    ]
    if cluster is None:
        window = "non_replicated_deduplication_window = 1000"
        return [
            *statements,
            f"CREATE TABLE IF NOT EXISTS `{database}`.`{table}_encoder` {encoder}"
            f"ENGINE = MergeTree ORDER BY name SETTINGS {window}",
            *(
                f"CREATE TABLE IF NOT EXISTS `{database}`.`{name}` ({columns}) "
                f"ENGINE = MergeTree {order}, {window}"
                for name, columns, order in tables
            ),
        ]
    path = f"/clickhouse/tables/{{shard}}/{database}"
    statements.append(
        f"CREATE TABLE IF NOT EXISTS `{database}`.`{table}_encoder`{on} {encoder}"
        f"ENGINE = ReplicatedMergeTree('/clickhouse/tables/all/{database}/{table}_encoder', "
        "'{shard}-{replica}') ORDER BY name"
    )
    for name, columns, order in tables:
        statements += [
            f"CREATE TABLE IF NOT EXISTS `{database}`.`{name}_local`{on} ({columns}) "
            f"ENGINE = ReplicatedMergeTree('{path}/{name}', '{{replica}}') {order}",
            f"CREATE TABLE IF NOT EXISTS `{database}`.`{name}`{on} AS `{database}`.`{name}_local` "
            f"ENGINE = Distributed('{cluster}', '{database}', '{name}_local', cityHash64(id))",
        ]
    return statements


def execute(url, statements):
    """Run the statements of `ddl`.

    Args:
        url: str; see `Place`.
        statements: list of str, from `ddl`.

    Raises:
        BackendError: the server does not answer, or refuses.
    """
    connection = _Connection(url)
    for statement in statements:
        connection.tell(statement)


class Store:
    """An index in ClickHouse, with the face of `Store`.

    Made by `create` or `open`.

    Attributes:
        folder: str. The URL, without its password.
        num_bits: int. Length of a code.
        feature_dim: int. Length of a feature.
        feature_dtype: "float32". How features are stored.
        extractor, descriptor_dim, regions_per_image: as for `Store`.
        fingerprint: str. Of the encoder that made the codes.
        format_version: int. Of the tables.
        created: str. When, in UTC, as ISO 8601.
    """

    FEATURE_DTYPE = "float32"

    def __init__(self, connection, facts):
        self._connection = connection
        self.folder = connection.place.shown
        self.num_bits = facts["num_bits"]
        self.feature_dim = facts["feature_dim"]
        self.feature_dtype = self.FEATURE_DTYPE
        self.extractor = facts.get("extractor")
        self.descriptor_dim = facts.get("descriptor_dim")
        self.regions_per_image = facts.get("regions_per_image", 0)
        self._encoder_files = facts.get("encoder_files")
        self.fingerprint = facts["fingerprint"]
        self.format_version = facts["format_version"]
        self.created = facts["created"]

    @classmethod
    def create(
        cls,
        url,
        *,
        num_bits,
        feature_dim,
        feature_dtype,
        fingerprint,
        encoder_files,
        extractor=None,
        descriptor_dim=None,
        regions_per_image=0,
    ):
        """Make an empty index, in tables that are made, or were by `hashnet clickhouse init`.

        Args:
            url: str; see `Place`.
            num_bits, feature_dim: as for `Store.create`.
            feature_dtype: "float32".
            fingerprint, encoder_files, extractor, descriptor_dim, regions_per_image: as for
                `Store.create`.

        Returns:
            The opened `Store`.

        Raises:
            ArgumentError: the URL has another form, features are to be no float32, or an
                argument is outside of its range.
            StoreError: an index is there already, or tables of an older version that keep no
                local features or regions.
            BackendError: the server does not answer.
        """
        if feature_dtype != cls.FEATURE_DTYPE:
            raise ArgumentError(
                "ClickHouse stores features as float32.", f"feature_dtype={feature_dtype!r}"
            )
        check_extractor(extractor, descriptor_dim)
        check_regions_per_image(regions_per_image)
        connection = _Connection(url)
        if connection.has_index():
            raise StoreError(
                "A new index needs a table where nothing is.",
                connection.place.shown,
                "Open the index to add to it, or name another table.",
            )
        needed = {"_descriptors.yx"} if extractor is not None else set()
        needed |= {".region"} if regions_per_image else set()
        columns = connection.columns()
        if not any(column.startswith(f"{connection.place.table}.") for column in columns):
            execute(url, ddl(url, num_bits=num_bits))
        elif not {connection.place.table + column for column in needed} <= columns:
            raise StoreError(
                "Local features and regions need tables that have room for them.",
                f"tables of an older version: {connection.place.shown}",
                "Name another table, or drop these and run `hashnet clickhouse init` again.",
            )
        contents = {name: pathlib.Path(path).read_bytes() for name, path in encoder_files.items()}
        facts = {
            "format_version": 3 if regions_per_image else 1 if extractor is None else 2,
            "num_bits": num_bits,
            "feature_dim": feature_dim,
            "fingerprint": fingerprint,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "extractor": extractor,
            "descriptor_dim": descriptor_dim,
            "regions_per_image": regions_per_image,
            "encoder_files": {
                name: hashlib.sha256(content).hexdigest() for name, content in contents.items()
            },
        }
        # The facts come last: what a killed creation leaves behind is no index. A file that it
        # left is the same or, of another encoder, told apart by the fingerprint in its name.
        for name, content in [
            *((f"{fingerprint}/{name}", content) for name, content in contents.items()),
            ("facts", json.dumps(facts).encode()),
        ]:
            connection.insert(
                connection.encoder_table,
                ["name", "content"],
                ["String", "String"],
                [[name.encode()], [content]],
                hashlib.sha256(name.encode() + b"\0" + content).hexdigest(),
            )
        return cls.open(url)

    @classmethod
    def open(cls, url):
        """Open an index.

        Args:
            url: str; see `Place`.

        Returns:
            The opened `Store`.

        Raises:
            ArgumentError: the URL has another form.
            StoreError: there is none, or a newer version of HashNet made it.
            BackendError: the server does not answer.
        """
        return cls._on(_Connection(url))

    @classmethod
    def _on(cls, connection):
        if not connection.has_index():
            raise StoreError(
                "An index in ClickHouse is a table that HashNet made.",
                f"none in {connection.place.shown}",
                "Make one with `hashnet index`, or check the URL.",
            )
        [[content]] = connection.ask(
            "SELECT content FROM {encoder_table} WHERE name = 'facts' LIMIT 1"
        )
        try:
            facts = json.loads(content)
            if facts["format_version"] > FORMAT_VERSION:
                raise StoreError(
                    f"This HashNet reads tables up to format {FORMAT_VERSION}.",
                    f"format {facts['format_version']} in {connection.place.shown}",
                    "Upgrade: pip install -U hashnet",
                )
            return cls(connection, facts)
        except StoreError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise StoreError(
                "The facts of an index are as HashNet wrote them.",
                f"{error!r} in {connection.place.shown}_encoder",
                "Restore the table from a copy, or build the index again.",
            ) from error

    @staticmethod
    def is_there(url) -> bool:
        """Whether an index is there.

        Args:
            url: str; see `Place`.

        Returns:
            bool.

        Raises:
            ArgumentError: the URL has another form.
            BackendError: the server does not answer.
        """
        return _Connection(url).has_index()

    @functools.cached_property
    def encoder_folder(self):
        """pathlib.Path: the bundle, copied from the table to a cache of this machine if need be.

        Raises:
            StoreError: a file of the bundle is not in the table.
            BackendError: the server does not answer.
        """
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        name, sums = _plain_fingerprint(self.fingerprint), self._encoder_files
        if sums is None:  # as before there were others
            sums = dict.fromkeys((bundles.DESCRIPTION, bundles.MODEL, bundles.ENCODER))
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

    def _fetch_encoder(self, folder, sums):
        with files.whole_folder(folder) as fresh:
            for file, sha256 in sums.items():
                [contents] = self._connection.ask(
                    "SELECT content FROM {encoder_table} WHERE name = {name:String} LIMIT 1",
                    name=f"{self.fingerprint}/{_plain_name(file)}",
                )
                if not contents:
                    raise StoreError("An index carries its encoder.", f"no {file} in {self.folder}")
                if sha256 not in (None, hashlib.sha256(contents[0]).hexdigest()):
                    raise StoreError(
                        "An index carries its encoder as it was.", f"{file} in {self.folder}"
                    )
                (fresh / file).write_bytes(contents[0])

    def reopened(self):
        """What is in this index's place now. For the errors, see `open`."""
        return self._on(self._connection)

    def version(self) -> tuple:
        """What changes with every commit, and with a new index in this one's place.

        Raises:
            StoreError: the index is gone.
            BackendError: the server does not answer.
        """
        facts = self.reopened()
        [[last], [entries]] = self._connection.ask("SELECT max(row), count() FROM {table}", width=2)
        return facts.created, facts.fingerprint, int(last), int(entries)

    def snapshot(self):
        """The index as it is now, a `Snapshot`."""
        return Snapshot(self._connection, self)

    def writer(self):
        """A `Writer`; there is to be one at a time."""
        return Writer(self._connection, self)

    def num_bytes(self) -> int:
        """Bytes on the disk of the server asked; of a cluster, its own share only."""
        [[size]] = self._connection.ask(
            "SELECT sum(bytes_on_disk) FROM system.parts WHERE active "
            "AND database = {database:String} AND table IN {names:Array(String)}",
            database=self._connection.place.database,
            names=[
                self._connection.place.table + end
                for end in ("", "_local", "_encoder", "_descriptors", "_descriptors_local")
            ],
        )
        return int(size)


def _plain_fingerprint(fingerprint):
    if not re.fullmatch(r"[0-9a-f]{8,64}", fingerprint):
        raise StoreError("A fingerprint is hexadecimal.", repr(fingerprint))
    return fingerprint


def _plain_name(name):
    if "/" in name or "\\" in name or name in ("", ".", ".."):
        raise StoreError("A file of an encoder lies inside its folder.", repr(name))
    return name


def _holds(folder, files, fingerprint):
    try:
        return bundles.load(folder).fingerprint == fingerprint and all(
            (folder / _plain_name(name)).is_file() for name in files
        )
    except ValueError:
        return False


class _Codes:
    """Codes by row, each read when it is asked for: what `Snapshot.codes` is to a folder."""

    def __init__(self, snapshot):
        self._snapshot = snapshot

    def __getitem__(self, rows):
        wanted = np.atleast_1d(np.asarray(rows, np.int64))
        codes, _ = self._snapshot.encoded(wanted)
        return codes[0] if np.ndim(rows) == 0 else codes


class Snapshot:
    """One view of a table: all entries up to a row, whatever is written later.

    It has the face of `Snapshot`, but for whole arrays: `codes` is read row by
    row, and there are no feature blocks. Rows are not dense. Made by `Store.snapshot`.

    Attributes:
        last: int. The highest row.
        num_rows, num_items, num_regions: as for `Snapshot`.
    """

    def __init__(self, connection, store):
        self._connection = connection
        self.store = store
        [[last]] = connection.ask("SELECT max(row) FROM {table}")
        self.last = int(last)
        self._kept = NOT_DEAD
        [[rows], [kept], [live]] = self.ask(
            "SELECT countIf(kills = 0), countIf({kept}), countIf({live}) FROM {table} "
            "WHERE row <= {last:UInt64}",
            width=3,
        )
        self.num_rows, self.num_items = int(rows), int(live)
        self.num_regions = int(kept) - self.num_items
        if rows == kept:
            self._kept = NONE_DEAD
        self.codes = _Codes(self)

    def ask(self, statement: str, *, width: int = 1, **parameters: Any) -> list[Any]:
        """Ask about this snapshot.

        Args:
            statement: str. `{live}` stands for the condition that a row is a whole image, and
                `{kept}` for the one that it is that or a region.
            width: int. Columns of the answer.
            parameters: bound to their names in the statement.

        Returns:
            list of `width` sequences, one a column.
        """
        whole = " AND empty(region)" if self.store.regions_per_image else ""
        statement = statement.replace("{live}", "{kept}" + whole).replace("{kept}", self._kept)
        return self._connection.ask(statement, width=width, last=self.last, **parameters)

    def encoded(self, rows):
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
        codes = [np.frombuffer(codes[at], np.uint8) for at in order]
        features = [np.asarray(features[at], np.float32) for at in order]
        return (
            np.array(codes, np.uint8).reshape(len(order), num_bytes),
            np.array(features, np.float32).reshape(len(order), self.store.feature_dim),
        )

    def features(self, rows):
        """Features of some rows; see `encoded`."""
        return self.encoded(rows)[1]

    def verify_features(self, rows):
        """Items of some rows, as `items`; checksums are ClickHouse's, of every block it reads."""
        return self.items(rows)

    def local_features(self, rows):
        """As for `Snapshot.local_features`; checksums are ClickHouse's."""
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
        order = self._order(found, rows)
        try:
            return [
                StoredFeatures.from_bytes(yx[at], descriptors[at], self.store.descriptor_dim)
                for at in order
            ]
        except ValueError as error:
            raise StoreError(
                "Local features are as HashNet wrote them.",
                f"{error} in {self.store.folder}_descriptors",
                "Restore the table from a copy, or build the index again.",
            ) from error

    def candidates(self, rows):
        """As for `Snapshot.candidates`; several are asked for at once."""
        parts = (
            _Candidates(self, rows[start : start + CANDIDATES_AT_ONCE])
            for start in range(0, len(rows), CANDIDATES_AT_ONCE)
        )
        return [
            functools.partial(part.take, place) for part in parts for place in range(len(part.rows))
        ]

    def regions(self, rows):
        """As for `Snapshot.regions`."""
        if not self.store.regions_per_image or not len(rows):
            return [None] * len(rows)
        found, regions = self.ask(
            "SELECT row, region FROM {table} WHERE kills = 0 AND row IN {rows:Array(UInt64)}",
            width=2,
            rows=[int(row) for row in rows],
        )
        return [region_of_numbers(regions[at]) for at in self._order(found, rows)]

    def items(self, rows):
        """As for `Snapshot.items`."""
        if not len(rows):
            return []
        found, *columns = self.ask(
            f"SELECT row, {ITEM} FROM {{table}} WHERE kills = 0 AND row IN {{rows:Array(UInt64)}}",
            width=6,
            rows=[int(row) for row in rows],
        )
        items = items_of_columns(columns)
        return [items[at] for at in self._order(found, rows)]

    def rows(self, ids):
        """As for `Snapshot.rows`."""
        found, rows = self.ask(
            f"SELECT id, max(row) FROM {{table}} PREWHERE {KEY_OF_IDS} WHERE {{live}} AND {OF_IDS} "
            "GROUP BY id",
            width=2,
            ids=hexadecimal(ids),
        )
        known = dict(zip(found, rows, strict=True))
        return np.array([int(known.get(_bytes(id), -1)) for id in ids], np.int64)

    def stats(self):
        """`(size, mtime_ns)` of every id."""
        ids, sizes, times = self.ask("SELECT id, size, mtime_ns FROM {table} WHERE {live}", width=3)
        return {
            _text(id): (_int(size), _int(time_ns))
            for id, size, time_ns in zip(ids, sizes, times, strict=True)
        }

    def id_ends(self, start):
        """As for `Snapshot.id_ends`; the order is that of bytes."""
        [[first], [last], [found]] = self.ask(
            "SELECT min(id), max(id), count() FROM {table} "
            "WHERE {live} AND startsWith(id, unhex({start:String}))",
            width=3,
            start=_bytes(start).hex(),
        )
        return (_text(first), _text(last)) if found else None

    def ids_outside(self, start):
        """As for `Snapshot.ids_outside`."""
        [ids] = self.ask(
            "SELECT id FROM {table} WHERE {live} AND NOT startsWith(id, unhex({start:String}))",
            start=_bytes(start).hex(),
        )
        return [_text(id) for id in ids]

    def label_counts(self):
        """How many images have each label, in the order in which labels first occur."""
        labels, counts = self.ask(
            "SELECT label, count() FROM {table} WHERE {live} AND label IS NOT NULL "
            "GROUP BY label ORDER BY min(row)",
            width=2,
        )
        return {_text(label): int(count) for label, count in zip(labels, counts, strict=True)}

    def close(self):
        """Nothing is held."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _order(self, found, rows):
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

    def __init__(self, snapshot, rows):
        self.rows = rows
        self._snapshot = snapshot
        self._lock = threading.Lock()
        self._features = None

    def take(self, place):
        with self._lock:
            if self._features is None:
                self._features = dict(enumerate(self._snapshot.local_features(self.rows)))
            return self._features.pop(place)


class Writer:
    """Writes to a table, with the face of `Writer`.

    Each method commits in batches, of which every one is there wholly or not at all. Made by
    `Store.writer`.
    """

    def __init__(self, connection, store):
        self._connection = connection
        self._store = store
        self._last = 0

    def add(self, items, codes, features, local_features=None, regions=None) -> int:
        """As for `Writer.add`; many images in several commits."""
        items, codes, features = list(items), np.asarray(codes), np.asarray(features)
        if not items and codes.size == features.size == 0:
            return 0
        store = self._store
        counts, regions = check_images(store, items, codes, features, local_features, regions)
        firsts = np.cumsum([0, *counts])
        for start in range(0, len(items), self._images_at_once):
            part = slice(start, min(start + self._images_at_once, len(items)))
            rows = slice(firsts[part.start], firsts[part.stop])
            self._insert(
                items_of_rows(items[part], counts[part]),
                codes[rows],
                features[rows],
                None if local_features is None else local_features[part],
                None if regions is None else regions[rows],
                self._held([item.id for item in items[part]]),
            )
        return len(items)

    def update(self, items) -> int:
        """As for `Writer.update`; many images in several commits."""
        items = list(items)
        check_items(items)
        for start in range(0, len(items), self._images_at_once):
            part = items[start : start + self._images_at_once]
            snapshot = self._store.snapshot()
            firsts = snapshot.rows([item.id for item in part])
            if firsts.min() < 0:
                unknown = part[int(np.argmin(firsts))].id
                raise ArgumentError("An image to update is in the index.", repr(unknown), "Add it.")
            rows = firsts
            regions = local = None
            if self._store.extractor is not None:
                local = snapshot.local_features(firsts)
            if self._store.regions_per_image:
                rows_of = self._with_regions(part, firsts)
                rows = np.concatenate(rows_of)
                boxes = iter(snapshot.regions(rows))
                regions = [
                    np.array([next(boxes) for _ in rows][1:], np.int64).reshape(-1, 4)
                    for rows in rows_of
                ]
            self.add(part, *snapshot.encoded(rows), local, regions)
        return len(items)

    def _with_regions(self, items, firsts):
        """The rows of each image, its own first: a later entry of an id has a higher row."""
        rows_of = {item.id: [] for item in items}
        for id, row in self._held(list(rows_of)):
            rows_of[id].append(row)
        return [
            np.array(sorted(row for row in rows_of[item.id] if row >= first), np.int64)
            for item, first in zip(items, firsts.tolist(), strict=True)
        ]

    def remove(self, ids) -> list:
        """As for `Writer.remove`; many images in several commits."""
        ids = list(dict.fromkeys(ids))
        found = []
        for start in range(0, len(ids), BATCH_ROWS):
            held = self._held(ids[start : start + BATCH_ROWS])
            if held:
                self._insert([], None, None, None, None, held)
            there = {id for id, _ in held}
            found += [id for id in ids[start : start + BATCH_ROWS] if id in there]
        return found

    def compact(self) -> CompactReport:
        """Take dead rows away for good; open snapshots of them see errors, or fewer images."""
        bytes_before = self._store.num_bytes()
        rows_before, regions_before, parts_before = self._size()
        dead = "SELECT kills FROM {table} WHERE kills > 0"
        # First the dead, then what says that they are: between the two nothing comes back.
        local, where = self._local_table(self._connection.place.table)
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
        rows, regions, parts = self._size()
        return CompactReport(
            rows_before,
            rows,
            parts_before,
            parts,
            bytes_before - self._store.num_bytes(),
            regions_before - regions,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """Every method has committed."""

    def _change(self, statement, table):
        self._connection.tell(statement.replace("{table}", table))

    def _local_table(self, name):
        """The table that holds the entries of a table, and where else it is to be changed."""
        database = self._connection.place.database
        [engines] = self._connection.ask(
            "SELECT engine_full FROM system.tables WHERE database = {database:String} "
            "AND name = {name:String}",
            database=database,
            name=name,
        )
        found = re.match(rb"Distributed\('(\w+)'", engines[0])
        if not found:
            return f"`{database}`.`{name}`", ""
        return f"`{database}`.`{name}_local`", f" ON CLUSTER `{found[1].decode()}`"

    def _size(self):
        """Rows of images and regions, dead ones included; those of regions; parts."""
        region = "notEmpty(region)" if self._store.regions_per_image else "0"
        [[rows], [regions]] = self._connection.ask(
            f"SELECT count(), countIf({region}) FROM {{table}} WHERE kills = 0", width=2
        )
        [[parts]] = self._connection.ask(
            "SELECT count() FROM system.parts WHERE active "
            "AND database = {database:String} AND table IN {names:Array(String)}",
            database=self._connection.place.database,
            names=[self._connection.place.table, f"{self._connection.place.table}_local"],
        )
        return int(rows), int(regions), int(parts)

    @property
    def _images_at_once(self):
        row_bytes = 4 * self._store.feature_dim * (1 + self._store.regions_per_image)
        most = BATCH_ROWS if self._store.extractor is None else BATCH_LOCAL
        return max(1, min(most, BATCH_BYTES // row_bytes))

    def _held(self, ids):
        """(id, row) of all kept rows of these ids, those that a second writer left included."""
        snapshot = self._store.snapshot()
        self._last = max(self._last, snapshot.last)
        found, rows = snapshot.ask(
            f"SELECT id, row FROM {{table}} PREWHERE {KEY_OF_IDS} WHERE {{kept}} AND {OF_IDS}",
            width=2,
            ids=hexadecimal(ids),
        )
        return [(_text(id), int(row)) for id, row in zip(found, rows, strict=True)]

    def _insert(self, items, codes, features, local_features, regions, held):
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
        columns = {
            "row": ("UInt64", list(range(first, first + num_all))),
            "kills": ("UInt64", [0] * num_new + [row for _, row in held]),
            "id": ("String", [_bytes(item.id) for item in everything]),
            "path": ("Nullable(String)", [_bytes(item.path) for item in everything]),
            "label": (
                "LowCardinality(Nullable(String))",
                [_bytes(item.label) for item in everything],
            ),
            "size": ("Nullable(Int64)", [item.size for item in everything]),
            "mtime_ns": ("Nullable(Int64)", [item.mtime_ns for item in everything]),
            "code": (
                f"FixedString({len(zeros)})",
                ([code.tobytes() for code in codes] if num_new else []) + [zeros] * len(held),
            ),
            "feature": (
                "Array(Float32)",
                (features.tolist() if num_new else []) + [[]] * len(held),
            ),
        }
        if self._store.regions_per_image:
            boxes = [box if any(box) else [] for box in regions.tolist()] if num_new else []
            columns["region"] = "Array(Int32)", boxes + [[]] * len(held)
        self._send(self._connection.table, columns, f"{first}-{num_all}")

    def _insert_local(self, rows, items, places, local_features):
        """Local features come before the rows that they are of, without which nothing sees them."""
        yx, descriptors = zip(*map(bytes_of_local, local_features), strict=True)
        columns = {
            "row": ("UInt64", rows),
            "id": ("String", [_bytes(items[place].id) for place in places]),
            "yx": ("String", yx),
            "descriptors": ("String", descriptors),
        }
        self._send(self._connection.descriptors_table, columns, f"{rows[0]}-{len(rows)}")

    def _send(self, table, columns, token):
        types, values = zip(*columns.values(), strict=True)
        self._connection.insert(table, list(columns), list(types), list(values), token)


def _bytes(text):
    return None if text is None else text.encode("utf-8", "surrogatepass")


def _text(content):
    return None if content is None else content.decode("utf-8", "surrogatepass")


def region_of_numbers(numbers: Iterable[int]) -> tuple[int, int, int, int] | None:
    """A region as a snapshot gives it, out of the column: None for a whole image."""
    region = tuple(map(int, numbers))
    return (region[0], region[1], region[2], region[3]) if region else None


def hexadecimal(texts: Iterable[str]) -> list[str]:
    """Texts as bound parameters take them, whatever bytes they hold."""
    return [_bytes(text).hex() for text in texts]


def _int(value):
    return None if value is None else int(value)


def items_of_columns(columns: Sequence[Sequence[Any]]) -> list[Item]:
    """List of `Item` out of the columns that `ITEM` names."""
    return [
        Item(
            _text(id),
            _text(path),
            _text(label),
            _int(size),
            _int(mtime_ns),
        )
        for id, path, label, size, mtime_ns in zip(*columns, strict=True)
    ]
