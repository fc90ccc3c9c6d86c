"""How an index folder is made: beside its place, then moved there whole."""

import contextlib
import dataclasses
import os
import pathlib
import secrets
import shutil
from collections.abc import Mapping

from hashnet.files import fsync
from hashnet.retrieval.store.folder.catalogue import (
    CATALOGUE,
    create_catalogue,
    write_digest,
)
from hashnet.retrieval.store.folder.check import ENCODER
from hashnet.retrieval.store.folder.contents import (
    SEGMENTS,
    Catalogue,
)
from hashnet.retrieval.store.folder.paths import StrPath, copy_file
from hashnet.retrieval.store.folder.writer import LOCK, lock_now

_CREATING = ".creating-index-"


def create_folder(
    folder: pathlib.Path, catalogue: Catalogue, encoder_files: Mapping[str, StrPath]
) -> None:
    """Make an index folder, wholly or not at all.

    Args:
        folder: pathlib.Path where nothing is, or an empty folder.
        catalogue: `Catalogue` without an encoder.
        encoder_files: dict of a name inside the encoder's folder to the file to copy.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(folder.parent)
    beside = folder.parent / f"{_CREATING}{secrets.token_hex(8)}"
    os.mkdir(beside)
    try:
        # Held while the folder is made, so that others can tell it from an abandoned one.
        with open(beside / LOCK, "xb") as lock:
            lock_now(lock)
            (beside / SEGMENTS).mkdir()
            for name in catalogue.file_names:
                (beside / catalogue.file_name(name)).touch(exist_ok=False)
            fsync(beside / SEGMENTS)
            if encoder_files:
                encoder = _copy_encoder(beside / ENCODER, encoder_files)
                catalogue = dataclasses.replace(catalogue, encoder=encoder)
            create_catalogue(beside / CATALOGUE, catalogue)
            write_digest(beside)
            fsync(beside)
            os.rename(beside, folder)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    fsync(folder.parent)


def _copy_encoder(folder: pathlib.Path, files: Mapping[str, StrPath]) -> dict[str, tuple[int, str]]:
    folder.mkdir()
    copied = {}
    for name, source in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        copied[name] = copy_file(source, target)
    for path, _, _ in os.walk(folder):
        fsync(path)
    return copied


def _remove_abandoned(parent: pathlib.Path) -> None:
    """Remove what creations that were killed have left in a folder."""
    for path in parent.glob(f"{_CREATING}*"):
        with contextlib.suppress(OSError), open(path / LOCK, "r+b") as lock:
            if lock_now(lock):
                shutil.rmtree(path, ignore_errors=True)
