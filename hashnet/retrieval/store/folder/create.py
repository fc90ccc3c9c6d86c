"""How an index folder is made: beside its place, then moved there whole."""

import dataclasses
import os
import pathlib
import secrets
import shutil
from collections.abc import Mapping

from hashnet import files, system
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
    files.remove_unclaimed(folder.parent, _CREATING)
    beside = folder.parent / f"{_CREATING}{secrets.token_hex(8)}"
    with files.claimed(beside):
        try:
            _fill(beside, catalogue, encoder_files)
            system.move_folder(beside, folder)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
    system.fsync(folder.parent)


def _fill(beside: pathlib.Path, catalogue: Catalogue, encoder_files: Mapping[str, StrPath]) -> None:
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
