"""Texts by the trigrams that they have, in SQLite's FTS5: what a folder looks texts up by.

What is kept here follows from the rows of the index: it is no part of a commit. A *document* is
one text of one row.

A file covers the first segments of the index, and its name says which (`Snapshot.states`), so that
one of a newer or a diverged state is no one's. It is a database of SQLite with the sha256 of its
name and of the database behind it, where SQLite does not look. It is never changed: another is put
beside it, and who has it open needs no lock and goes on reading it. Where it is missing, damaged,
or of another state, texts are read from the rows, and the next writer makes it anew.

SQLite's own ranking is not asked for: it goes by whole phrases, and a misread one is none. Which
documents have one trigram is all that is asked, and what these add up to is for the caller.
"""

import contextlib
import functools
import hashlib
import itertools
import os
import pathlib
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import BinaryIO

import numpy as np

from hashnet import files, system
from hashnet.errors import StoreError
from hashnet.retrieval.store.folder.paths import CHUNK_BYTES, inside

KINDS = 4  # documents of a row are numbered KINDS * row + kind
_MOST_KNOWN = 4_000_000  # numbers of documents that are held, 8 bytes each
_AT_ONCE = 10_000
# A file is written when the rows behind it are so many, and so large a part of those it covers:
# each write copies what there is, and each new snapshot that is searched reads the rows behind.
_FEWEST_ROWS, _LEAST_PART = 1000, 1 / 32
_START, _END = "texts-", ".sqlite"
_SEAL_BYTES = hashlib.sha256().digest_size
_SCHEMA = (
    "CREATE TABLE documents (number INTEGER PRIMARY KEY, text TEXT)",
    "CREATE VIRTUAL TABLE trigrams USING fts5(text, content='documents', content_rowid='number', "
    "tokenize='trigram case_sensitive 1', detail=none, columnsize=0)",
)

Documents = Iterable[tuple[int, str]]
States = Sequence[tuple[int, str]]


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
        >>> index.texts([4, 0]), index.has_kind(1, 2)
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
    def open(cls, folder: pathlib.Path, states: States) -> "TextIndex | None":
        """What an index folder keeps.

        Args:
            folder: pathlib.Path of the index.
            states: sequence of (int, str), of one snapshot, ascending: that the rows before one
                are these, says the str, of letters and digits.

        Returns:
            `TextIndex` of the last of the states that there is an undamaged file of; else None.
        """
        kept = set(_kept(folder))
        for end_row, state in reversed(states):
            name = _name(state)
            if name in kept and _is_whole(folder, name):
                with contextlib.suppress(sqlite3.Error, ValueError):
                    return cls(_opened(folder / name), end_row)
        return None

    def having(self, trigram: str) -> np.ndarray:
        """The documents that have a trigram.

        Args:
            trigram: str of three letters, blanks included.

        Returns:
            int64 `(n,)`, ascending.

        Raises:
            StoreError: the file cannot be read.
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
            StoreError: the file cannot be read.
        """
        marks = ",".join("?" * len(documents))
        found = {
            number: str(text)
            for number, text in self._ask(
                f"SELECT number, text FROM documents WHERE number IN ({marks})", tuple(documents)
            )
        }
        return [found.get(number, "") for number in documents]

    def has_kind(self, kind: int, end_row: int) -> bool:
        """Whether a document of the first rows is of a kind.

        Args:
            kind: int, below `KINDS`.
            end_row: int. These rows end before it.

        Returns:
            bool.

        Raises:
            StoreError: the file cannot be read.
        """
        return bool(
            self._ask(
                f"SELECT 1 FROM documents WHERE number % {KINDS} = ? AND number < ? LIMIT 1",
                (kind, KINDS * end_row),
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
                f"{_START}*{_END}: {error}",
                "Run `hashnet index` again, which makes it anew: nothing is encoded for it.",
            ) from error


def settle(folder: pathlib.Path, states: States, documents: Callable[[int], Documents]) -> None:
    """Keep in an index folder what is worth it; the caller holds the lock of the index.

    Few rows that came since are left to who searches. Killed at any moment, there is what was
    there before, or what is to be.

    Args:
        folder: pathlib.Path of the index.
        states: as for `TextIndex.open`, of what is committed. No other file is left.
        documents: function of a row, which gives the documents of the rows from there on.

    Raises:
        StoreError: the disk refuses. All else of the index is as it was.
    """
    try:
        _settle(folder, states, documents)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(
            "What texts are looked up by is written where there is room and leave to write.",
            f"{folder}: {error}",
            "Without it a search in words reads all texts first.",
        ) from error


def _settle(folder: pathlib.Path, states: States, documents: Callable[[int], Documents]) -> None:
    place = folder / f"{_START}{_END}"  # beside which all are written
    files.remove_leftovers(place)
    covered, wanted = _newest(folder, states)
    end_row, state = states[-1] if states else (0, "")
    if end_row - covered >= max(_FEWEST_ROWS, _LEAST_PART * covered):
        beside = files.hidden_beside(place)
        try:
            if wanted is None or not _copied(folder / wanted, beside):
                covered = 0
            with contextlib.closing(_connected(beside, "mode=rwc")) as connection:
                # Nobody has it yet, and it is waited for as a whole.
                connection.execute("PRAGMA journal_mode = OFF")
                connection.execute("PRAGMA synchronous = OFF")
                connection.execute("BEGIN")
                if covered == 0:
                    _create(connection)
                _insert(connection, documents(covered))
                connection.execute("COMMIT")
            wanted = _name(state)
            with open(beside, "r+b") as file:
                digest = _digest(file, wanted, beside.stat().st_size)
                file.write(digest)
                file.flush()
                os.fsync(file.fileno())
            system.replace(beside, folder / wanted)
            system.fsync(folder)
        finally:
            with contextlib.suppress(OSError):
                os.unlink(beside)
    for name in _kept(folder):
        if name != wanted:
            system.remove_unless_in_use(folder / name)


def check(folder: pathlib.Path, states: States, documents: Callable[[int], Documents]) -> list[str]:
    """Compare what an index folder keeps with what it is made of.

    Args:
        folder: pathlib.Path of the index.
        states, documents: as for `settle`.

    Returns:
        list of str: what is wrong, by file; empty where nothing is kept.
    """
    end_rows = {_name(state): end_row for end_row, state in states}
    problems = []
    for name in _kept(folder):
        if name not in end_rows:
            what = "it is of another state of the index"
        elif not _is_whole(folder, name, again=True):
            what = "it differs from its checksum"
        else:
            what = _compared(folder / name, documents(0), end_rows[name])
        if what:
            problems.append(f"{folder / name}: {what}; `hashnet index` makes it anew")
    return problems


def _compared(path: pathlib.Path, documents: Documents, end_row: int) -> str:
    """What is wrong with a file of documents, "" for nothing."""
    wanted = itertools.takewhile(lambda one: one[0] < KINDS * end_row, documents)
    try:
        copy = sqlite3.connect(":memory:", isolation_level=None)
        with contextlib.closing(copy), contextlib.closing(_opened(path)) as connection:
            connection.backup(copy)
            held = copy.execute("SELECT number, text FROM documents ORDER BY number")
            if any(one != other for one, other in itertools.zip_longest(wanted, held)):
                return "it holds other texts than the index"
            [(verdict,)] = copy.execute("PRAGMA integrity_check(1)").fetchall()
            copy.execute("INSERT INTO trigrams(trigrams, rank) VALUES('integrity-check', 1)")
            return "" if verdict == "ok" else str(verdict)
    except (sqlite3.Error, ValueError) as error:
        return str(error)


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


def _name(state: str) -> str:
    return f"{_START}{state}{_END}"


def _kept(folder: pathlib.Path) -> list[str]:
    """Names of all files of the kind, of whatever state, in their order."""
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    return sorted(name for name in names if name.startswith(_START) and name.endswith(_END))


def _newest(folder: pathlib.Path, states: States) -> tuple[int, str | None]:
    """Where the rows end that the file covers which `TextIndex.open` takes, and its name."""
    index = TextIndex.open(folder, states)
    if index is None:
        return 0, None
    index.close()
    return index.end_row, _name(dict(states)[index.end_row])


def _opened(path: pathlib.Path) -> sqlite3.Connection:
    """A file that is whole; a ValueError where others made its tables."""
    connection = _connected(path, "mode=ro&immutable=1")
    try:
        tables = connection.execute("SELECT name, sql FROM sqlite_master").fetchall()
        if frozenset(tables) != _tables():
            raise ValueError("it has other tables")
    except BaseException:
        connection.close()
        raise
    return connection


def _connected(path: pathlib.Path, options: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{system.file_uri(path)}?{options}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
    )
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    return connection


# What the files were when they were read as a whole, by path; of each folder one.
_whole: dict[pathlib.Path, tuple[object, ...]] = {}


def _is_whole(folder: pathlib.Path, name: str, *, again: bool = False) -> bool:
    """Whether a file is as it was written: once it was, it is read again only if asked to."""
    try:
        path, size = inside(folder, name)
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            found = name, status.st_dev, status.st_ino, size, status.st_mtime_ns
            if again or _whole.get(folder) != found:
                digest = _digest(file, name, size - _SEAL_BYTES)
                if file.read() != digest:
                    return False
                _whole[folder] = found
    except (StoreError, OSError):
        return False
    return True


def _copied(path: pathlib.Path, target: pathlib.Path) -> bool:
    """Copy the database of a file, unless the file is damaged by now."""
    with open(path, "rb") as file, open(target, "xb") as copy:
        digest = _digest(file, path.name, path.stat().st_size - _SEAL_BYTES, copy)
        if file.read() == digest:
            return True
        copy.truncate(0)
    return False


def _digest(file: BinaryIO, name: str, size: int, copy: BinaryIO | None = None) -> bytes:
    """sha256 of a name and of the first bytes of a file, which is left behind these."""
    digest = hashlib.sha256(name.encode())
    while size > 0 and (content := file.read(min(size, CHUNK_BYTES))):
        digest.update(content)
        if copy is not None:
            copy.write(content)
        size -= len(content)
    return digest.digest()


def _insert(connection: sqlite3.Connection, documents: Documents) -> None:
    waiting = iter(documents)
    while some := list(itertools.islice(waiting, _AT_ONCE)):
        connection.executemany("INSERT INTO documents VALUES (?, ?)", some)
        connection.executemany("INSERT INTO trigrams(rowid, text) VALUES (?, ?)", some)
