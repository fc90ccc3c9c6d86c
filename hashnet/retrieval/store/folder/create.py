"""How an index folder is made: beside its place, then moved there whole."""

import contextlib
import dataclasses
import os
import pathlib
import secrets
import shutil
import time
from collections.abc import Mapping

from hashnet import system
from hashnet.retrieval.store.folder.catalogue import (
    CATALOGUE,
    LOCK,
    create_catalogue,
    write_digest,
)
from hashnet.retrieval.store.folder.contents import (
    SEGMENTS,
    Catalogue,
)
from hashnet.retrieval.store.folder.encoders import ENCODER, copy_encoder
from hashnet.system import StrPath

_CREATING = ".creating-index-"
_LOCK_SUFFIX = ".lock"


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
    # Held while the folder is made, so that others can tell it from an abandoned one; beside it,
    # as Windows moves no folder in which a file is open.
    lock = system.FileLock(f"{beside}{_LOCK_SUFFIX}")
    try:
        while not lock.take():  # one who removes what is abandoned looks at it
            time.sleep(0.02)
        os.mkdir(beside)
        (beside / LOCK).touch()
        (beside / SEGMENTS).mkdir()
        for name in catalogue.file_names:
            (beside / catalogue.file_name(name)).touch(exist_ok=False)
        system.fsync(beside / SEGMENTS)
        if encoder_files:
            encoder = copy_encoder(beside / ENCODER, encoder_files)
            catalogue = dataclasses.replace(catalogue, encoder=encoder)
        create_catalogue(beside / CATALOGUE, catalogue)
        write_digest(beside)
        system.fsync(beside)
        system.move_folder(beside, folder)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    finally:
        _remove_lock(beside, lock)
    system.fsync(folder.parent)


def _remove_abandoned(parent: pathlib.Path) -> None:
    """Remove what creations that were killed have left in a folder."""
    for path in parent.glob(f"{_CREATING}*{_LOCK_SUFFIX}"):
        with contextlib.suppress(OSError):
            lock = system.FileLock(path)
            if lock.take():
                beside = path.with_name(path.name.removesuffix(_LOCK_SUFFIX))
                shutil.rmtree(beside, ignore_errors=True)
                _remove_lock(beside, lock)
            else:
                lock.forget()


def _remove_lock(beside: pathlib.Path, lock: system.FileLock) -> None:
    lock.release()
    with contextlib.suppress(OSError):
        system.remove_unless_in_use(f"{beside}{_LOCK_SUFFIX}")
