"""Every committed byte of an index folder, compared with its checksum."""

import contextlib
import hashlib
import os
import pathlib
from collections.abc import Callable

import numpy as np
from zlib_ng.zlib_ng import crc32

from hashnet import system
from hashnet.errors import StoreError
from hashnet.retrieval.store.folder.catalogue import (
    check_catalogue,
    on_newest,
    read_catalogue,
)
from hashnet.retrieval.store.folder.contents import (
    CODEBOOKS,
    LOOKUPS,
    WORDS,
    Catalogue,
    open_data,
)
from hashnet.retrieval.store.folder.encoders import name_of_encoder
from hashnet.retrieval.store.folder.lookups import BLOCK_BYTES
from hashnet.retrieval.store.folder.paths import CHUNK_BYTES, damaged, inside
from hashnet.retrieval.store.folder.words import BLOCK_BYTES as WORD_BLOCK_BYTES
from hashnet.system import StrPath


def check(folder: StrPath) -> list[str]:
    """Verify every committed byte of an index.

    Args:
        folder: the index; one that does not open can be checked, too.

    Returns:
        list of str: what is wrong, each naming its file. Empty for a sound index.
    """
    folder = pathlib.Path(os.path.realpath(folder))
    try:
        return on_newest(folder, lambda catalogue: _check_all(folder, catalogue))
    except StoreError as error:
        return [str(error)]


def _check_all(folder: pathlib.Path, catalogue: Catalogue) -> list[str]:
    with contextlib.ExitStack() as stack:
        problems = check_catalogue(folder)
        files = {}
        for name in catalogue.file_names:
            try:
                files[name] = open_data(folder, catalogue, name)
                stack.callback(os.close, files[name])
            except StoreError as error:
                problems.append(str(error))
        if problems and read_catalogue(folder).generation != catalogue.generation:
            raise StoreError("The index was compacted meanwhile.")  # and is checked anew
        checks = {LOOKUPS: _check_lookups, WORDS: _check_words, CODEBOOKS: _check_codebook}
        for name, file in files.items():
            whats = checks.get(name, _check_array)(catalogue, name, file)
            problems += [str(damaged(folder, catalogue.file_name(name), what)) for what in whats]
    encoder = name_of_encoder(folder, catalogue) if catalogue.encoder else ""
    for name, (size, sha256) in catalogue.encoder.items():
        try:
            compare_encoder_file(folder, f"{encoder}/{name}", size, sha256)
        except StoreError as error:
            problems.append(str(error))
    return problems


def _check_array(catalogue: Catalogue, name: str, file: int) -> list[str]:
    """What is wrong with one array of the segments."""
    whats, row_bytes = [], catalogue.row_bytes(name)
    for number, segment in enumerate(catalogue.segments, 1):
        count, sha256 = segment.arrays[name]
        what = _compare(file, segment.starts[name] * row_bytes, count * row_bytes, sha256)
        if what:
            rows = f"rows {segment.first_row} to {segment.end_row - 1}"
            whats.append(f"segment {number} ({rows}) {what}")
    return whats


def _check_lookups(catalogue: Catalogue, name: str, file: int) -> list[str]:
    """What is wrong with the look-ups."""
    whats = []
    for run in catalogue.runs or ():
        what, sums = _checksums(file, run.start, run.num_bytes, BLOCK_BYTES)
        if what is None and np.array(sums, "<u4").tobytes() != run.checksums:
            what = "differ from their checksum"
        if what:
            whats.append(f"the look-ups of rows {run.first_row} to {run.end_row - 1}: {what}")
    return whats


def _check_words(catalogue: Catalogue, name: str, file: int) -> list[str]:
    """What is wrong with the inverted lists."""
    whats = []
    for run in catalogue.word_runs or ():
        behind = bytearray()
        covered, end = run.places[-2:]
        what, sums = _checksums(file, run.start, covered, WORD_BLOCK_BYTES)
        what = what or _read(file, run.start + covered, end - covered, CHUNK_BYTES, behind.extend)
        if what is None:
            checksums = np.frombuffer(behind, "<u4")[: run.num_blocks].tolist()
            if crc32(behind) != run.crc or checksums != sums:
                what = "differ from their checksum"
        if what:
            whats.append(f"the lists of rows {run.first_row} to {run.end_row - 1}: {what}")
    return whats


def _check_codebook(catalogue: Catalogue, name: str, file: int) -> list[str]:
    """What is wrong with the codebook."""
    stored = catalogue.codebook
    if stored is None:
        return []
    what = _compare(file, stored.start, stored.num_bytes, stored.sha256)
    return [f"the codebook {what}"] if what else []


def compare_encoder_file(folder: pathlib.Path, name: str, size: int, sha256: str) -> None:
    """Compare one file of the encoder with what the catalogue says of it.

    Args:
        folder: pathlib.Path of the index.
        name: str, of the file inside it.
        size: int, bytes.
        sha256: str, as hex.

    Raises:
        StoreError: it is missing, differs, or cannot be read.
    """
    path, found = inside(folder, name)
    if found != size:
        raise damaged(folder, name, f"{found} bytes instead of {size}")
    try:
        file = system.open_file(path)
    except OSError as error:
        raise damaged(folder, name, error.strerror) from error
    try:
        what = _compare(file, 0, size, sha256)
    finally:
        os.close(file)
    if what:
        raise damaged(folder, name, what)


def _compare(file: int, at: int, length: int, sha256: str) -> str | None:
    """What is wrong with a part of a file, if anything is."""
    digest = hashlib.sha256()
    what = _read(file, at, length, CHUNK_BYTES, digest.update)
    return what or (None if digest.hexdigest() == sha256 else "differs from its checksum")


def _checksums(file: int, at: int, length: int, step: int) -> tuple[str | None, list[int]]:
    """What is wrong with a part of a file, if anything is, and the checksum of every block."""
    sums: list[int] = []
    return _read(file, at, length, step, lambda block: sums.append(crc32(block))), sums


def _read(file: int, at: int, length: int, step: int, use: Callable[[bytes], object]) -> str | None:
    """Read from the file (not a map, where a bad disk kills); returns why that cannot be."""
    try:
        for start in range(at, at + length, step):
            wanted = min(step, at + length - start)
            content = system.read_at(file, wanted, start)
            if len(content) < wanted:
                return "is cut off"
            use(content)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None
