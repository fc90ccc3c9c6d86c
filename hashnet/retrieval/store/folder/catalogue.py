"""The catalogue of an index folder: a small SQLite file that says what is committed.

Every record carries a checksum; `change_catalogue` is the one moment at which a commit takes place.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
from zlib_ng.zlib_ng import crc32

from hashnet import files, system
from hashnet.codes import MAX_BITS
from hashnet.errors import ArgumentError, LockedError, StoreError
from hashnet.local.codebook import MOST_WORDS
from hashnet.retrieval.store.folder.contents import (
    Catalogue,
    Segment,
    names_of_arrays,
)
from hashnet.retrieval.store.folder.lookups import BLOCK_BYTES, Run
from hashnet.retrieval.store.folder.paths import damaged, inner_name, inside
from hashnet.retrieval.store.folder.words import StoredCodebook, WordRun
from hashnet.retrieval.store.items import check_extractor, check_ocr, check_regions_per_image
from hashnet.retrieval.store.roots import Roots
from hashnet.system import StrPath

T = TypeVar("T")
Read = Callable[[sqlite3.Connection, pathlib.Path], T]
Record = tuple[Any, ...]

# Of new indexes. Older ones stay of their version: 1, 2 with local features, 3 with regions, which
# have no look-ups, 4, which has no roots, 5, which has no local pool, or 6, which keeps no texts.
FORMAT_VERSION = 7

CATALOGUE = "catalogue.sqlite"

_APPLICATION_ID = 0x486E6978  # "Hnix", in the header of catalogue.sqlite
_JOURNAL = "catalogue.sqlite-journal"  # SQLite's own, while a transaction lasts
_DIGEST = "catalogue.sha256"
LOCK = "lock"  # held by the writer
# Arrays with as many rows of their own as the segment has; the others have any number.
_PER_ROW = ("codes", "features", "items", "spans", "regions", "files", "exif", "texts")
_SETTLED_NS = 3 * 10**9  # no file system keeps coarser times than of two seconds
_TORN_SECONDS = 2.0  # a commit writes for milliseconds only
_BUSY_SECONDS = 60.0  # other connections hold the catalogue for milliseconds only

_FACTS = (
    "CREATE TABLE facts (only_row INTEGER PRIMARY KEY, num_bits INTEGER, feature_dim INTEGER, "
    "feature_dtype TEXT, fingerprint TEXT, created TEXT, encoder TEXT, generation INTEGER, "
    "commits INTEGER, num_segments INTEGER, num_rows INTEGER, "
)
_SEGMENTS_TABLE = (
    "CREATE TABLE segments (number INTEGER PRIMARY KEY, num_rows INTEGER, arrays TEXT, "
    "deleted BLOB, seal INTEGER)"
)
# `changed` is the commit that wrote the record: who knows an earlier one reads the rest.
_WITH_LOOKUPS = {
    "segments": "CREATE TABLE segments (number INTEGER PRIMARY KEY, num_rows INTEGER, "
    "arrays TEXT, deleted BLOB, changed INTEGER, seal INTEGER)",
    "segments_changed": "CREATE INDEX segments_changed ON segments (changed)",
    "runs": "CREATE TABLE runs (number INTEGER PRIMARY KEY, num_rows INTEGER, "
    "num_images INTEGER, num_labelled INTEGER, num_labels INTEGER, start INTEGER, "
    "checksums BLOB, seal INTEGER)",
}
_WITH_WORDS = {
    **_WITH_LOOKUPS,
    "word_runs": "CREATE TABLE word_runs (number INTEGER PRIMARY KEY, num_rows INTEGER, "
    "num_words INTEGER, num_signatures INTEGER, start INTEGER, crc INTEGER, seal INTEGER)",
}
_FACTS_WITH_WORDS = (
    _FACTS + "extractor TEXT, descriptor_dim INTEGER, regions_per_image INTEGER, "
    "identity TEXT, num_runs INTEGER, roots TEXT, exif INTEGER, codebook TEXT, "
    "num_word_runs INTEGER, "
)
_SCHEMAS = {  # by format version
    1: {"facts": _FACTS + "seal INTEGER)", "segments": _SEGMENTS_TABLE},
    2: {
        "facts": _FACTS + "extractor TEXT, descriptor_dim INTEGER, seal INTEGER)",
        "segments": _SEGMENTS_TABLE,
    },
    3: {
        "facts": _FACTS + "extractor TEXT, descriptor_dim INTEGER, regions_per_image INTEGER, "
        "seal INTEGER)",
        "segments": _SEGMENTS_TABLE,
    },
    4: {
        "facts": _FACTS + "extractor TEXT, descriptor_dim INTEGER, regions_per_image INTEGER, "
        "identity TEXT, num_runs INTEGER, seal INTEGER)",
        **_WITH_LOOKUPS,
    },
    5: {
        "facts": _FACTS + "extractor TEXT, descriptor_dim INTEGER, regions_per_image INTEGER, "
        "identity TEXT, num_runs INTEGER, roots TEXT, exif INTEGER, seal INTEGER)",
        **_WITH_LOOKUPS,
    },
    6: {"facts": _FACTS_WITH_WORDS + "seal INTEGER)", **_WITH_WORDS},
    7: {"facts": _FACTS_WITH_WORDS + "ocr TEXT, seal INTEGER)", **_WITH_WORDS},
}

# What SQLite raises, for those who write beside the catalogue.
SqlError = sqlite3.Error
# What reading a catalogue raises when a stranger made it, with checksums that fit.
_NONSENSE = (
    ArgumentError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    OverflowError,
    RecursionError,
)


def _seal(*values: object) -> int:
    """A checksum of the fields of one record of the catalogue."""
    plain = [value.hex() if isinstance(value, bytes) else value for value in values]
    return crc32(json.dumps(plain).encode())


def _facts_record(catalogue: Catalogue) -> Record:
    local = (catalogue.extractor, catalogue.descriptor_dim)
    with_regions = (*local, catalogue.regions_per_image)
    with_lookups = (*with_regions, catalogue.identity, len(catalogue.runs or ()))
    with_roots = (*with_lookups, json.dumps(catalogue.roots), int(catalogue.exif))
    codebook = None if catalogue.codebook is None else dataclasses.astuple(catalogue.codebook)
    with_words = (*with_roots, json.dumps(codebook), len(catalogue.word_runs or ()))
    with_texts = (*with_words, catalogue.ocr)
    more: dict[int, Record] = {1: (), 2: local, 3: with_regions, 4: with_lookups, 5: with_roots}
    more |= {6: with_words, 7: with_texts}
    return (
        1,
        catalogue.num_bits,
        catalogue.feature_dim,
        catalogue.feature_dtype,
        catalogue.fingerprint,
        catalogue.created,
        json.dumps(catalogue.encoder, sort_keys=True),
        catalogue.generation,
        catalogue.commits,
        len(catalogue.segments),
        catalogue.num_rows,
        *more[catalogue.format_version],
    )


def _segment_record(number: int, segment: Segment, catalogue: Catalogue) -> Record:
    deleted = None if segment.deleted is None else np.packbits(segment.deleted).tobytes()
    record = number, segment.num_rows, json.dumps(segment.arrays), deleted
    return record if catalogue.runs is None else (*record, catalogue.commits)


def _run_record(number: int, run: Run) -> Record:
    counts = run.num_rows, run.num_images, run.num_labelled, run.num_labels
    return number, *counts, run.start, run.checksums


def _word_run_record(number: int, run: WordRun) -> Record:
    return number, run.num_rows, run.num_words, run.num_signatures, run.start, run.crc


def _parse_segment(
    names: tuple[str, ...],
    before: Segment | None,
    num_rows: int,
    arrays: str,
    deleted: bytes | None,
) -> Segment:
    parsed = {name: (count, sha256) for name, (count, sha256) in json.loads(arrays).items()}
    if sorted(parsed) != sorted(names) or num_rows < 1:
        raise ValueError(f"a segment of {num_rows} rows with the arrays {sorted(parsed)}")
    for name, (count, _) in parsed.items():
        if count < 0 or (name in _PER_ROW and count != num_rows):
            raise ValueError(f"a segment of {num_rows} rows with {count} of {name}")
    if "yx" in parsed and parsed["yx"][0] != parsed["descriptors"][0]:
        raise ValueError("a segment whose local features lack places or descriptors")
    bits = None
    if deleted is not None:
        if len(deleted) != (num_rows + 7) // 8:
            raise ValueError(f"{len(deleted)} bytes of deletions for {num_rows} rows")
        bits = np.unpackbits(np.frombuffer(deleted, np.uint8), count=num_rows).astype(bool)
    if before is None:
        return Segment(num_rows, parsed, bits, 0, dict.fromkeys(names, 0))
    return Segment(num_rows, parsed, bits, before.end_row, before.ends)


def _parse_run(before: Run | None, *fields: Any) -> Run:
    num_rows, num_images, num_labelled, num_labels, start, checksums = fields
    counts = (num_rows, num_images, num_labelled, num_labels, start)
    first_row, least_start = (0, 0) if before is None else (before.end_row, before.end)
    if not (
        all(isinstance(count, int) for count in counts)
        and 0 <= num_labels <= num_labelled <= num_images <= num_rows
        and num_images >= 1
        and start >= least_start
    ):
        raise ValueError(f"a run of {counts}")
    run = Run(first_row, num_rows, num_images, num_labelled, num_labels, start, checksums)
    if len(checksums) != 4 * -(-run.num_bytes // BLOCK_BYTES):
        raise ValueError(f"{len(checksums)} bytes of checksums for {run.num_bytes} of a run")
    return run


def _parse_codebook(text: str) -> StoredCodebook | None:
    fields = json.loads(text)
    if fields is None:
        return None
    codebook = StoredCodebook(*fields)
    num_words, num_bits, start, num_bytes, sha256 = fields
    counts = num_words, num_bits, start, num_bytes
    whole = all(isinstance(count, int) for count in counts) and isinstance(sha256, str)
    if not (
        whole
        and num_bits in (32, 64)
        and 1 <= num_words <= MOST_WORDS
        and num_bytes >= 1
        and start >= 0
    ):
        raise ValueError(f"a codebook of {fields}")
    return codebook


def _parse_word_run(before: WordRun | None, signature_bytes: int, *fields: Any) -> WordRun:
    num_rows, num_words, num_signatures, start, crc = fields
    first_row, least_start = (0, 0) if before is None else (before.end_row, before.end)
    if not (
        all(isinstance(field, int) for field in fields)
        and 0 <= num_words <= num_signatures
        and num_rows >= 1
        and start >= least_start
        and start % WordRun.ALIGNED == 0
    ):
        raise ValueError(f"a run of words of {fields}")
    return WordRun(first_row, num_rows, num_words, num_signatures, signature_bytes, start, crc)


def _load_catalogue(
    connection: sqlite3.Connection, path: pathlib.Path, known: Catalogue | None = None
) -> Catalogue:
    """Read and verify the catalogue, inside the caller's transaction.

    Of a catalogue that is known from earlier, only the records that were written since are read,
    where the format tells which they are.
    """
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (journal_mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    if application_id == _APPLICATION_ID and version > FORMAT_VERSION:
        raise StoreError(
            f"This version of HashNet reads indexes of format {FORMAT_VERSION} or older.",
            f"format version {version} in {CATALOGUE}",
            "Upgrade HashNet, or build the index again with this version.",
        )
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
    size = os.stat(path).st_size
    if size != pages * page_bytes:  # SQLite would read a page that is cut off as if it were not
        raise ValueError(f"{size} bytes instead of {pages * page_bytes}")
    schema = dict(connection.execute("SELECT name, sql FROM sqlite_master").fetchall())
    if (application_id, journal_mode, schema) != (
        _APPLICATION_ID,
        "delete",
        _SCHEMAS.get(version),
    ):
        raise ValueError("not the tables of an index")
    facts = connection.execute("SELECT * FROM facts").fetchall()
    if len(facts) != 1:
        raise ValueError(f"{len(facts)} records of facts")
    _, bits, dim, dtype, fingerprint, created, encoder, generation, commits, *totals = _unsealed(
        facts[0]
    )
    num_segments, num_rows, *more = totals
    extractor, descriptor_dim = more[:2] or (None, None)
    regions_per_image = more[2] if version > 2 else 0
    identity, num_runs = more[3:5] or ("", 0)
    roots, exif = (None, 0) if version < 5 else (Roots(json.loads(more[5])).all, more[6])
    check_extractor(extractor, descriptor_dim)
    check_regions_per_image(regions_per_image)
    if (version == 2 and extractor is None) or (version == 3 and not regions_per_image):
        raise ValueError(f"{extractor=}, {regions_per_image=} in format version {version}")
    counts = (bits, dim, generation, commits)
    if not all(isinstance(count, int) for count in counts) or min(dim, generation) < 1:
        raise ValueError(f"feature_dim={dim!r}, generation={generation!r}, commits={commits!r}")
    if dtype not in ("float32", "float16") or not 1 <= bits <= MAX_BITS:
        raise ValueError(f"num_bits={bits}, feature_dtype={dtype!r}")
    if not isinstance(identity, str) or (version >= 4 and not identity):
        raise ValueError(f"identity={identity!r}")
    if exif not in (0, 1) or (version >= 5 and roots is None):
        raise ValueError(f"{roots=}, {exif=}")
    codebook = _parse_codebook(more[7]) if version >= 6 else None
    if codebook is not None and extractor is None:
        raise ValueError("a codebook without local features")
    texts, ocr = version >= 7, more[9] if version >= 7 else None
    check_ocr(ocr)
    names = names_of_arrays(
        extractor, regions_per_image, files=roots is not None, exif=bool(exif), texts=texts
    )
    segments: list[Segment] = []
    since = -1
    same = known is not None and (known.identity, known.generation) == (identity, generation)
    if known is not None and same and identity and known.commits <= commits:
        if known.commits == commits:
            return known
        segments, since = list(known.segments), known.commits
    _read_segments(connection, names, segments, since)
    if len(segments) != num_segments:
        raise ValueError(f"{len(segments)} segments instead of {num_segments}")
    catalogue = Catalogue(
        num_bits=bits,
        feature_dim=dim,
        feature_dtype=dtype,
        fingerprint=fingerprint,
        created=created,
        encoder={inner_name(name): tuple(v) for name, v in json.loads(encoder).items()},
        generation=generation,
        commits=commits,
        segments=tuple(segments),
        extractor=extractor,
        descriptor_dim=descriptor_dim,
        regions_per_image=regions_per_image,
        runs=None if version < 4 else _read_runs(connection, num_runs),
        identity=identity,
        roots=roots,
        exif=bool(exif),
        word_runs=None if version < 6 else _read_word_runs(connection, codebook, more[8]),
        codebook=codebook,
        texts=texts,
        ocr=ocr,
    )
    in_runs = catalogue.runs[-1].end_row if catalogue.runs else 0
    listed = catalogue.word_runs[-1].end_row if catalogue.word_runs else 0
    if codebook is not None and listed != num_rows:
        raise ValueError(f"the words of {listed} of {num_rows} rows")
    if catalogue.num_rows != num_rows or (version >= 4 and in_runs != num_rows):
        raise ValueError(f"{catalogue.num_rows} rows, {in_runs} in runs, instead of {num_rows}")
    return catalogue


def _read_segments(
    connection: sqlite3.Connection,
    names: tuple[str, ...],
    segments: list[Segment],
    since: int,
) -> None:
    """Bring a list of segments up to date, as of a commit, with the records written since."""
    where = "" if since < 0 else f"WHERE changed > {since} "
    records = connection.execute(f"SELECT * FROM segments {where}ORDER BY number").fetchall()
    for record in records:
        number, num_rows, arrays, deleted, *_ = _unsealed(record)
        if not isinstance(number, int) or not 1 <= number <= len(segments) + 1:
            raise ValueError(f"segment {number!r} behind {len(segments)} segments")
        before = segments[number - 2] if number > 1 else None
        segment = _parse_segment(names, before, num_rows, arrays, deleted)
        segments[number - 1 : number] = [segment]


def _read_runs(connection: sqlite3.Connection, num_runs: int) -> tuple[Run, ...]:
    runs: list[Run] = []
    for record in connection.execute("SELECT * FROM runs ORDER BY number").fetchall():
        number, *fields = _unsealed(record)
        if number != len(runs) + 1:
            raise ValueError(f"run {number!r} behind {len(runs)} runs")
        runs.append(_parse_run(runs[-1] if runs else None, *fields))
    if len(runs) != num_runs:
        raise ValueError(f"{len(runs)} runs instead of {num_runs}")
    return tuple(runs)


def _read_word_runs(
    connection: sqlite3.Connection, codebook: StoredCodebook | None, num_runs: int
) -> tuple[WordRun, ...]:
    runs: list[WordRun] = []
    records = connection.execute("SELECT * FROM word_runs ORDER BY number").fetchall()
    if len(records) != num_runs or (records and codebook is None):
        raise ValueError(f"{len(records)} runs of words instead of {num_runs}")
    for record in records:
        number, *fields = _unsealed(record)
        if number != len(runs) + 1 or codebook is None:
            raise ValueError(f"run of words {number!r} behind {len(runs)} runs")
        before = runs[-1] if runs else None
        runs.append(_parse_word_run(before, codebook.dtype.itemsize, *fields))
    return tuple(runs)


def _unsealed(record: Record) -> Record:
    *fields, seal = record
    if _seal(*fields) != seal:
        raise ValueError("a record differs from its checksum")
    return tuple(fields)


@contextlib.contextmanager
def _connected(path: StrPath, mode: str) -> Iterator[sqlite3.Connection]:
    uri = f"{system.file_uri(path)}?mode={mode}"
    if not _has_locks(path):
        uri += "&vfs=unix-none"  # which undoes transactions of killed writers all the same
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=_BUSY_SECONDS)
    try:
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cell_size_check = ON")
        # EXTRA also makes the end of a transaction durable, without which files that a
        # compaction unlinks could come to be missed after a power loss.
        connection.execute("PRAGMA synchronous = EXTRA")
        yield connection
    finally:
        connection.close()


def _has_locks(path: StrPath) -> bool:
    # Asked of the writer's lock: to close the catalogue would let go of SQLite's own locks on it.
    return system.has_record_locks(pathlib.Path(path).with_name(LOCK))


def _read_at_once(path: pathlib.Path, mode: str, read: Read[T]) -> T:
    with _connected(path, mode) as connection:
        connection.execute("BEGIN")
        return read(connection, path)


def read_catalogue(folder: StrPath, known: Catalogue | None = None) -> Catalogue:
    """Read and verify what is committed.

    Args:
        folder: path of the index.
        known: `Catalogue` that was read earlier, or None: what it says need not be read again.

    Returns:
        `Catalogue`.

    Raises:
        LockedError: another process holds it for long.
        StoreError: it is damaged, or a newer version of HashNet made it.
    """
    return _consult(folder, lambda connection, path: _load_catalogue(connection, path, known))


def unchanged_mark(folder: StrPath) -> tuple[int, ...] | None:
    """What tells the catalogue from any later one, if that can be told without opening it.

    Its file is not read: to close it would let go of the locks that SQLite holds for this process.

    Args:
        folder: path of the index.

    Returns:
        tuple of int; None where the catalogue is gone, or was written so lately that a further
        commit could leave the same time behind.
    """
    try:
        status = os.stat(os.path.join(folder, CATALOGUE))
    except OSError:
        return None
    if time.time_ns() - status.st_mtime_ns < _SETTLED_NS:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _consult(folder: StrPath, read: Read[T]) -> T:
    """`read(connection, path)` in one transaction, after undoing that of a killed writer."""
    path, _ = inside(folder, CATALOGUE)
    try:
        return _consult_whole(path, read)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
            raise LockedError(
                "The catalogue of an index is held for moments only.",
                f"{path} was busy for {_BUSY_SECONDS:.0f} s",
                "Look for a writer that is stuck.",
            ) from error
        raise damaged(folder, CATALOGUE, error) from error
    except StoreError:
        raise
    except (sqlite3.Error, OSError, *_NONSENSE) as error:
        raise damaged(folder, CATALOGUE, error) from error


def _consult_whole(path: pathlib.Path, read: Read[T]) -> T:
    """Without locks, pages may be of two commits, which checksums tell: they are read again."""
    deadline = time.monotonic() + (0 if _has_locks(path) else _TORN_SECONDS)
    while True:
        try:
            return _consult_once(path, read)
        except StoreError:
            raise
        except (sqlite3.Error, OSError, *_NONSENSE):
            if time.monotonic() >= deadline:
                raise
        time.sleep(0.02)


def _consult_once(path: pathlib.Path, read: Read[T]) -> T:
    try:
        return _read_at_once(path, "ro", read)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
            raise
    return _consult_after_kill(path, read)


def _consult_after_kill(path: pathlib.Path, read: Read[T]) -> T:
    """Undo the transaction of a killed writer, here or in a copy.

    In a copy, where nothing may be written, or where without locks nobody knows that it is dead.
    """
    journal = path.with_name(_JOURNAL)
    # A journal may name a file for SQLite to delete; ours never does, so such a one is foreign.
    with contextlib.suppress(FileNotFoundError):
        if journal.is_symlink() or journal.read_bytes()[-8:] == bytes.fromhex("d9d505f920a163d7"):
            raise ValueError(f"{journal.name} was not written by HashNet")
    if _has_locks(path):
        with contextlib.suppress(sqlite3.OperationalError):
            return _read_at_once(path, "rw", read)
    with tempfile.TemporaryDirectory() as copy:
        for file in (path, journal, path.with_name(LOCK)):
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(file, pathlib.Path(copy, file.name))
        return _read_at_once(pathlib.Path(copy, path.name), "rw", read)


def create_catalogue(path: StrPath, catalogue: Catalogue) -> None:
    """Write the catalogue of a new index.

    Args:
        path: of the file.
        catalogue: `Catalogue`.
    """
    with _connected(path, "rwc") as connection:
        connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {catalogue.format_version}")
        connection.execute("BEGIN IMMEDIATE")
        for statement in _SCHEMAS[catalogue.format_version].values():
            connection.execute(statement)
        _insert(connection, "facts", _facts_record(catalogue))
        connection.execute("COMMIT")


def change_catalogue(path: StrPath, old: Catalogue, new: Catalogue) -> None:
    """The commit point: one catalogue in place of another, in one durable transaction.

    Args:
        path: of the file.
        old: `Catalogue`, as the caller read it.
        new: `Catalogue`.

    Raises:
        StoreError: another process has changed it since.
    """
    with _connected(path, "rw") as connection:
        connection.execute("BEGIN IMMEDIATE")
        named = "commits, created, fingerprint" + (", identity" if old.identity else "")
        there = connection.execute(f"SELECT {named} FROM facts").fetchone()
        known = (old.commits, old.created, old.fingerprint, old.identity)
        if there != known[: len(there)]:
            raise StoreError(
                "An index has one writer at a time.",
                "a catalogue that another process changed meanwhile, or another index's",
                "Do not delete the lock file while a writer is at work.",
            )
        before = old.segments
        if new.generation != old.generation:
            connection.execute("DELETE FROM segments")
            before = ()
        pairs = itertools.zip_longest(before, new.segments)
        for number, (old_one, segment) in enumerate(pairs, 1):
            if segment is not old_one:
                _insert(connection, "segments", _segment_record(number, segment, new))
        _change_runs(connection, "runs", old.runs or (), new.runs or (), _run_record)
        _change_runs(
            connection, "word_runs", old.word_runs or (), new.word_runs or (), _word_run_record
        )
        _insert(connection, "facts", _facts_record(new))
        connection.execute("COMMIT")


def _change_runs(
    connection: sqlite3.Connection,
    table: str,
    old: tuple[T, ...],
    new: tuple[T, ...],
    record: Callable[[int, T], Record],
) -> None:
    same = 0
    while same < min(len(old), len(new)) and old[same] is new[same]:
        same += 1
    if same < len(old):
        connection.execute(f"DELETE FROM {table} WHERE number > ?", (same,))
    for number, run in enumerate(new[same:], same + 1):
        _insert(connection, table, record(number, run))


def _insert(connection: sqlite3.Connection, table: str, fields: Record) -> None:
    marks = ", ".join("?" * (len(fields) + 1))
    connection.execute(
        f"INSERT OR REPLACE INTO {table} VALUES ({marks})", (*fields, _seal(*fields))
    )


def on_newest(folder: StrPath, use: Callable[[Catalogue], T], known: Catalogue | None = None) -> T:
    """Do something with what is committed, again where a compaction takes its files away.

    Args:
        folder: path of the index.
        use: function of a `Catalogue`.
        known: as for `read_catalogue`.

    Returns:
        What `use` returns.
    """
    while True:
        catalogue = read_catalogue(folder, known)
        try:
            return use(catalogue)
        except StoreError:
            if read_catalogue(folder).generation == catalogue.generation:
                raise


def write_digest(folder: StrPath, known: Catalogue | None = None) -> None:
    """Record the checksum of the whole catalogue file, for `check_catalogue`.

    Args:
        folder: path of the index.
        known: as for `read_catalogue`.
    """
    commits, content = _consult(
        folder, lambda connection, path: _read_image(connection, path, known)
    )
    line = f"{commits} {len(content)} {hashlib.sha256(content).hexdigest()}"
    with files.whole_file(pathlib.Path(folder, _DIGEST)) as file:
        file.write(f"{line} {crc32(line.encode()):08x}\n".encode())


def renew_digest(folder: StrPath, catalogue: Catalogue) -> None:
    """As `write_digest`, unless the record is whole and of this very commit.

    Args:
        folder: path of the index.
        catalogue: `Catalogue`, as the caller left it.
    """
    with contextlib.suppress(StoreError):
        if _read_digest(folder)[0] == catalogue.commits:
            return
    write_digest(folder, catalogue)


def _read_image(
    connection: sqlite3.Connection, path: pathlib.Path, known: Catalogue | None = None
) -> tuple[int, bytes]:
    """Commits, and all bytes of the catalogue file."""
    # Through SQLite: to open and close its file beside it would release its locks.
    return _load_catalogue(connection, path, known).commits, connection.serialize()


def _read_digest(folder: StrPath) -> tuple[int, int, str]:
    """Commits, size and sha256 of the catalogue as the last writer to close left it."""
    path, size = inside(folder, _DIGEST)
    content = path.read_bytes() if size < 1000 else b""
    line, _, _crc = content.removesuffix(b"\n").rpartition(b" ")
    if content != b"%s %08x\n" % (line, crc32(line)) or line.count(b" ") != 2:
        raise damaged(folder, _DIGEST, "the file differs from its checksum")
    commits, num_bytes, sha256 = line.decode().split()
    return int(commits), int(num_bytes), sha256


def check_catalogue(folder: StrPath) -> list[str]:
    """What SQLite says of its file, and whether the file is as the last writer left it.

    Args:
        folder: path of the index.

    Returns:
        list of str: what is wrong.
    """
    problems, digest = [], None
    try:
        digest = _read_digest(folder)  # before the catalogue, than which it is never newer
    except StoreError as error:
        problems.append(str(error))
    (commits, content), verdicts = _consult(
        folder,
        lambda connection, path: (
            _read_image(connection, path),
            connection.execute("PRAGMA integrity_check(10)").fetchall(),
        ),
    )
    whats = [verdict for (verdict,) in verdicts if verdict != "ok"]
    if digest is not None and digest[0] > commits:
        whats.append(f"commit {commits}, but there was a commit {digest[0]}")
    found = (commits, len(content), hashlib.sha256(content).hexdigest())
    if digest is not None and digest[0] == commits and digest != found:
        whats.append(f"the file differs from its checksum in {_DIGEST}")
    return problems + [str(damaged(folder, CATALOGUE, what)) for what in whats]


def remove_catalogue_leftovers(folder: pathlib.Path) -> None:
    """Remove what a killed writer left beside the catalogue.

    Args:
        folder: pathlib.Path of the index.
    """
    files.remove_leftovers(folder / _DIGEST)
    system.remove_unless_in_use(folder / (_DIGEST + ".new"))  # as version 0.1 named it
    if os.path.lexists(folder / _JOURNAL):
        # One that is to be played back has been by now; SQLite ignores it, and would keep it.
        with _connected(folder / CATALOGUE, "rw") as connection:
            connection.execute("BEGIN EXCLUSIVE")
            system.remove_unless_in_use(folder / _JOURNAL)
