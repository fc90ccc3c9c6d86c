"""Where an index in ClickHouse is, and how statements get there and answers back."""

import contextlib
import copy
import os
import re
import time
import urllib.parse
from collections.abc import Iterator
from typing import Any

from hashnet import extras
from hashnet.errors import ArgumentError, BackendError, StoreError

SCHEMES = ("clickhouse", "clickhouses", "chdb")
DEFAULT_PORTS = {"clickhouse": 8123, "clickhouses": 8443}
CONNECT_SECONDS = 10
QUERY_SECONDS = 60
INSERT_TRIES = 4
RETRY_SECONDS = 0.2
# A server refuses a bound value of more than 128 KB, whatever the statement asks for.
VALUE_BYTES = 100_000
# Codes of errors that pass: timeouts, a lost network or Keeper, too many parts at the moment.
PASSING = {159, 203, 209, 210, 242, 252, 319, 999}
UNKNOWN_TABLE = 60
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
PLAIN_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


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

    def __init__(self, url: str) -> None:
        parts = None
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
            or not all(map(PLAIN_WORD.fullmatch, names))
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

    def client(self) -> Any:
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


class Connection:
    """Sends statements about one table; whatever goes wrong is a `BackendError`.

    Args:
        url: str, as for `Place`.

    Attributes:
        place: `Place`.
        entries: str. Name of the table of entries: the place's, or one that a refit made after it.
        encoder_table, descriptors_table, words_table: str, as statements name them.
    """

    def __init__(self, url: str) -> None:
        self.place = Place(url)
        self.entries = self.place.table
        self.encoder_table = f"`{self.place.database}`.`{self.place.table}_encoder`"
        self.descriptors_table = f"`{self.place.database}`.`{self.place.table}_descriptors`"
        self.words_table = f"`{self.place.database}`.`{self.place.table}_words`"
        with self._named():
            self._client = self.place.client()

    def of(self, entries: str) -> "Connection":
        """The same connection, to another table of entries of the same index.

        Args:
            entries: str, its name.

        Returns:
            `Connection`; this one stays as it is.
        """
        other = copy.copy(self)
        other.entries = entries
        return other

    @property
    def table(self) -> str:
        """str. The table of entries, as statements name it."""
        return f"`{self.place.database}`.`{self.entries}`"

    def ask(self, statement: str, *, width: int = 1, **parameters: Any) -> list[Any]:
        """Send a statement that is a question.

        Args:
            statement: str; `{table}` and the like stand for the names of the tables.
            width: int. Columns of the answer.
            **parameters: bound to the statement's.

        Returns:
            list of `width` columns, empty ones too; text as bytes.
        """
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

    def tell(self, statement: str, **parameters: Any) -> None:
        """Send a statement that answers nothing.

        Args:
            statement, **parameters: as for `ask`.
        """
        with self._named():
            self._client.command(
                self._named_tables(statement), parameters=parameters, settings=SETTINGS
            )

    def insert(
        self, table: str, names: list[str], types: list[str], columns: list[Any], token: str
    ) -> None:
        """Insert one batch; tried again with the same token, it comes in once.

        Args:
            table: str, as statements name it.
            names: list of str. Of the columns.
            types: list of str. ClickHouse's types of them.
            columns: list of sequences of the same length.
            token: str. Of this batch and no other.

        Raises:
            BackendError: the server refuses, or does not answer for the last time.
        """
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

    def has_index(self) -> bool:
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
        return bool(facts > 0)

    def columns(self) -> set[str]:
        """The columns that there are, as text `TABLE.COLUMN`; none without tables."""
        place = self.place
        tables, columns = self.ask(
            "SELECT table, name FROM system.columns WHERE database = {database:String} "
            "AND table IN {names:Array(String)}",
            width=2,
            database=place.database,
            names=[place.table, f"{place.table}_descriptors", f"{place.table}_words"],
        )
        return {
            f"{table.decode()}.{name.decode()}" for table, name in zip(tables, columns, strict=True)
        }

    def _named_tables(self, statement: str) -> str:
        statement = statement.replace("{encoder_table}", self.encoder_table)
        statement = statement.replace("{descriptors_table}", self.descriptors_table)
        statement = statement.replace("{words_table}", self.words_table)
        return statement.replace("{table}", self.table)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (StoreError, ArgumentError):
            raise
        except Exception as error:  # the client's own, urllib3's, the system's
            if not _is_of_the_backend(error):
                raise
            reason = " ".join(str(error).split())[:400]
            if getattr(error, "code", None) == UNKNOWN_TABLE:
                raise StoreError(
                    "An index in ClickHouse is read and written while its table is there.",
                    f"{self.place.shown}: {reason[:80]}...",
                    "Its codes were fitted again since, or it was dropped: open it again.",
                ) from error
            raise BackendError(
                "An index in ClickHouse is used while its server answers.",
                f"{self.place.shown}: {reason}",
                "Nothing was answered in part. See that the server runs and is not overloaded, "
                "then do it again: what was committed stays.",
            ) from error


def _in_pieces(statement: str, parameters: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The same statement with bound lists in so many values that each is one a server takes."""
    bound: dict[str, Any] = {}
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


def _pieces(values: list[Any]) -> list[list[Any]]:
    pieces: list[list[Any]] = [[]]
    room = VALUE_BYTES
    for value in values:
        size = len(str(value)) + 4  # quotes, a comma and a space
        if size > room and pieces[-1]:
            pieces.append([])
            room = VALUE_BYTES
        pieces[-1].append(value)
        room -= size
    return pieces


def _is_of_the_backend(error: Exception) -> bool:
    return isinstance(error, OSError) or type(error).__module__.split(".")[0] in (
        "chdb",
        "clickhouse_connect",
        "urllib3",
    )
