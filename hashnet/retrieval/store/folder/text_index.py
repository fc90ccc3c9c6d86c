"""Texts by the trigrams that they have, in SQLite's FTS5: what a folder looks texts up by.

What is kept here follows from the rows of the index, and is made again where it is missing,
damaged, or of another generation: it is no part of a commit. A *document* is one text of one row.

SQLite's own ranking is not asked for: it goes by whole phrases, and a misread one is none. Which
documents have one trigram is all that is asked, and what these add up to is for the caller.
"""

import contextlib
import functools
import itertools
import os
import pathlib
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from hashnet import files, system
from hashnet.errors import StoreError
from hashnet.retrieval.store.folder.paths import inside

FILE = "texts.sqlite"
KINDS = 4  # documents of a row are numbered KINDS * row + kind
_MOST_KNOWN = 4_000_000  # numbers of documents that are held, 8 bytes each
_AT_ONCE = 10_000
_SCHEMA = (
    "CREATE TABLE mark (of TEXT, end_row INTEGER)",
    "CREATE TABLE documents (number INTEGER PRIMARY KEY, text TEXT)",
    "CREATE VIRTUAL TABLE trigrams USING fts5(text, content='documents', content_rowid='number', "
    "tokenize='trigram case_sensitive 1', detail=none, columnsize=0)",
)

Documents = Iterable[tuple[int, str]]


class TextIndex:
    """Documents by their trigrams, in a file or in memory. Safe to use from several threads.

    Args:
        connection: of SQLite, which it closes.
        end_row: int. The rows that have their documents here end before it.

    Attributes:
        end_row: as given.

    Example:
        >>> index = TextIndex.in_memory([(0, " pale ale "), (4, " 啤 酒 ")], end_row=2)
        >>> index.having("ale").tolist(), index.having("啤 酒").tolist(), index.having('"x*')
        ([0], [4], array([], dtype=int64))
        >>> index.texts([4, 0]), index.has_kind(1)
        ([' 啤 酒 ', ' pale ale '], False)
    """

    def __init__(self, connection: sqlite3.Connection, end_row: int) -> None:
        self.end_row = end_row
        self._connection = connection
        self._lock = threading.Lock()
        self._known: dict[str, np.ndarray] = {}
        self._num_known = 0

    @classmethod
    def in_memory(cls, documents: Documents, end_row: int) -> "TextIndex":
        """One that nothing is kept of.

        Args:
            documents: iterable of (number, text).
            end_row: int, as for the class.

        Returns:
            `TextIndex`.
        """
        connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        connection.execute("BEGIN")
        _create(connection)
        _insert(connection, documents)
        connection.execute("COMMIT")
        return cls(connection, end_row)

    @classmethod
    def open(cls, folder: pathlib.Path, mark: str) -> "TextIndex | None":
        """What an index folder keeps.

        Args:
            folder: pathlib.Path of the index.
            mark: str, of what it is to be made of: see `write`.

        Returns:
            `TextIndex`; None where there is none of this mark that can be read.
        """
        try:
            path, _ = inside(folder, FILE)
            connection = _connected(path, "ro")
            try:
                return cls(connection, _end_row(connection, mark))
            except BaseException:
                connection.close()
                raise
        except (StoreError, OSError, sqlite3.Error, ValueError):
            return None

    def having(self, trigram: str) -> np.ndarray:
        """The documents that have a trigram.

        Args:
            trigram: str of three letters, blanks included.

        Returns:
            int64 `(n,)`, ascending.

        Raises:
            StoreError: the file is damaged.
        """
        known = self._known.get(trigram)
        if known is None:
            quoted = trigram.replace('"', '""')
            # As one text, which is read in a third of the time of as many records.
            [(numbers,)] = self._ask(
                "SELECT group_concat(rowid) FROM trigrams WHERE trigrams MATCH ?", (f'"{quoted}"',)
            )
            known = np.fromstring(str(numbers or ""), np.int64, sep=",")
            known.sort()
            with self._lock:
                self._num_known += len(known)
                if self._num_known > _MOST_KNOWN:
                    self._known, self._num_known = {}, len(known)
                self._known[trigram] = known
        return known

    def texts(self, documents: Sequence[int]) -> list[str]:
        """The texts of documents that are there.

        Args:
            documents: int, each once, some hundreds.

        Returns:
            list of str, as many.

        Raises:
            StoreError: the file is damaged.
        """
        marks = ",".join("?" * len(documents))
        found = {
            number: str(text)
            for number, text in self._ask(
                f"SELECT number, text FROM documents WHERE number IN ({marks})", tuple(documents)
            )
        }
        return [found.get(number, "") for number in documents]

    def has_kind(self, kind: int) -> bool:
        """Whether a document is of a kind.

        Args:
            kind: int, below `KINDS`.

        Returns:
            bool.

        Raises:
            StoreError: the file is damaged.
        """
        return bool(
            self._ask(
                f"SELECT 1 FROM documents WHERE number % {KINDS} = ? LIMIT 1",
                (kind,),
            )
        )

    def __del__(self) -> None:
        self._connection.close()

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._connection.close()

    def _ask(self, statement: str, values: tuple[object, ...]) -> list[tuple[object, ...]]:
        try:
            with self._lock:
                return self._connection.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise StoreError(
                "Texts are looked up in what was made of an index.",
                f"{FILE}: {error}",
                f"Remove {FILE} and run `hashnet index` again: nothing is encoded for it.",
            ) from error


def write(
    folder: pathlib.Path, mark: str, documents: Callable[[int], Documents], end_row: int
) -> None:
    """Bring what an index folder keeps up to date; the caller holds the lock of the index.

    Killed at any moment, there is what was there before, or what is to be.

    Args:
        folder: pathlib.Path of the index.
        mark: str. What is kept for another one is made anew.
        documents: function of a row, which gives the documents of the rows from there on.
        end_row: int. Where these rows end.

    Raises:
        StoreError: the disk refuses. All else of the index is as it was.
    """
    try:
        _write(folder, mark, documents, end_row)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(
            "What texts are looked up by is written where there is room and leave to write.",
            f"{folder}: {error}",
            "Without it a search in words reads all texts first.",
        ) from error


def _write(
    folder: pathlib.Path, mark: str, documents: Callable[[int], Documents], end_row: int
) -> None:
    path = folder / FILE
    files.remove_leftovers(path)
    with contextlib.suppress(StoreError, sqlite3.DatabaseError, ValueError):
        inside(folder, FILE)
        with contextlib.closing(_connected(path, "rw")) as connection:
            known = _end_row(connection, mark)
            if known < end_row:
                connection.execute("BEGIN IMMEDIATE")
                _insert(connection, documents(known))
                connection.execute("UPDATE mark SET end_row = ?", (end_row,))
                connection.execute("COMMIT")
            return
    beside = files.hidden_beside(path)
    try:
        with contextlib.closing(_connected(beside, "rwc")) as connection:
            connection.execute("PRAGMA synchronous = OFF")  # it is waited for as a whole below
            connection.execute("BEGIN")
            _create(connection)
            _insert(connection, documents(0))
            connection.execute("INSERT INTO mark VALUES (?, ?)", (mark, end_row))
            connection.execute("COMMIT")
        system.fsync(beside)
        system.replace(beside, path)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(beside)


def check(folder: pathlib.Path, mark: str, documents: Documents) -> list[str]:
    """Compare what an index folder keeps with what it is made of.

    Args:
        folder: pathlib.Path of the index.
        mark: str, as for `write`.
        documents: of all rows, in their order.

    Returns:
        list of str: what is wrong; empty where nothing is kept, or for another mark.
    """
    index = TextIndex.open(folder, mark)
    if index is None:
        return []
    with contextlib.closing(index):
        try:
            wanted = (one for one in documents if one[0] < KINDS * index.end_row)
            copy = sqlite3.connect(":memory:", isolation_level=None)
            with contextlib.closing(copy):
                index._connection.backup(copy)
                held = copy.execute("SELECT number, text FROM documents ORDER BY number")
                if any(one != other for one, other in itertools.zip_longest(wanted, held)):
                    return ["it holds other texts than the index"]
                [(verdict,)] = copy.execute("PRAGMA integrity_check(1)").fetchall()
                copy.execute("INSERT INTO trigrams(trigrams, rank) VALUES('integrity-check', 1)")
                return [] if verdict == "ok" else [str(verdict)]
        except sqlite3.Error as error:
            return [str(error)]


@functools.cache
def is_available() -> bool:
    """Whether this Python's SQLite looks up trigrams: 3.34 and later do.

    Returns:
        bool.

    Example:
        >>> is_available()
        True
    """
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        try:
            _create(connection)
        except sqlite3.Error:
            return False
    return True


def _create(connection: sqlite3.Connection) -> None:
    for statement in _SCHEMA:
        connection.execute(statement)


@functools.cache
def _tables() -> frozenset[tuple[str, str]]:
    """Names and statements of all that `_create` makes, those of FTS5 included."""
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        _create(connection)
        return frozenset(connection.execute("SELECT name, sql FROM sqlite_master").fetchall())


def _connected(path: pathlib.Path, mode: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{system.file_uri(path)}?mode={mode}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
    )
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    return connection


def _end_row(connection: sqlite3.Connection, mark: str) -> int:
    """Refuses what is not this mark's, with a ValueError."""
    tables = connection.execute("SELECT name, sql FROM sqlite_master").fetchall()
    if frozenset(tables) != _tables():
        raise ValueError("other tables")
    [(of, end_row)] = connection.execute("SELECT of, end_row FROM mark").fetchall()
    if of != mark or not isinstance(end_row, int):
        raise ValueError(f"texts of {of!r}")
    return end_row


def _insert(connection: sqlite3.Connection, documents: Documents) -> None:
    waiting = iter(documents)
    while some := list(itertools.islice(waiting, _AT_ONCE)):
        connection.executemany("INSERT INTO documents VALUES (?, ?)", some)
        connection.executemany("INSERT INTO trigrams(rowid, text) VALUES (?, ?)", some)
