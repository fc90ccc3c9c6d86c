"""The encoder's folder inside an index, and how another encoder takes its place.

A new one is made beside the old, the catalogue names its files in the commit, and then the folders
change names. Whoever comes between, or after a kill, tells by a checksum which of the two counts.
"""

import contextlib
import hashlib
import os
import pathlib
import shutil
from collections.abc import Mapping

from hashnet import system
from hashnet.retrieval.store.folder.contents import Catalogue
from hashnet.retrieval.store.folder.paths import copy_file
from hashnet.system import StrPath

ENCODER = "encoder"
NEXT, _OLD = "encoder.next", "encoder.old"


def name_of_encoder(folder: pathlib.Path, catalogue: Catalogue) -> str:
    """Which folder of an index holds the encoder that the catalogue names.

    Args:
        folder: pathlib.Path of the index.
        catalogue: `Catalogue`, with an encoder.

    Returns:
        str, its name.
    """
    if not os.path.lexists(folder / NEXT):
        return ENCODER
    # Two encoders differ in every file that names a checksum of another; the smallest does.
    name, (size, sha256) = min(catalogue.encoder.items(), key=lambda item: (item[1][0], item[0]))
    with contextlib.suppress(OSError):
        content = (folder / NEXT / name).read_bytes() if size < 1 << 24 else b""
        if hashlib.sha256(content).hexdigest() == sha256:
            return NEXT
    return ENCODER


def copy_encoder(folder: pathlib.Path, files: Mapping[str, StrPath]) -> dict[str, tuple[int, str]]:
    """Copy an encoder's files durably.

    Args:
        folder: pathlib.Path where nothing is.
        files: dict of a name inside the encoder's folder to the file to copy.

    Returns:
        dict of name to its bytes and its sha256 as hex.
    """
    folder.mkdir()
    copied = {}
    for name, source in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        copied[name] = copy_file(source, target)
    for path, _, _ in os.walk(folder):
        system.fsync(path)
    return copied


def settle_encoder(folder: pathlib.Path, catalogue: Catalogue) -> None:
    """Give the encoder that counts its place, and remove what killed writers left beside it.

    Args:
        folder: pathlib.Path of the index.
        catalogue: `Catalogue`, as committed.
    """
    if catalogue.encoder and name_of_encoder(folder, catalogue) == NEXT:
        with contextlib.suppress(OSError):  # a reader has it open: a later writer does it
            if os.path.lexists(folder / ENCODER):
                shutil.rmtree(folder / _OLD, ignore_errors=True)
                os.rename(folder / ENCODER, folder / _OLD)
            os.rename(folder / NEXT, folder / ENCODER)
            system.fsync(folder)
    if not catalogue.encoder or name_of_encoder(folder, catalogue) == ENCODER:
        shutil.rmtree(folder / NEXT, ignore_errors=True)
        shutil.rmtree(folder / _OLD, ignore_errors=True)
