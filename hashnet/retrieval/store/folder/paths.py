"""Files of an index folder that anybody may have written to: none leads out of it."""

import hashlib
import os
import pathlib
import stat

from hashnet.errors import StoreError
from hashnet.system import StrPath

CHUNK_BYTES = 1 << 24  # how much of a file is held in memory at once


def damaged(folder: StrPath, name: str, what: object) -> StoreError:
    """The error for a file of an index that is not as its writer left it.

    Args:
        folder: path of the index.
        name: str, of the file inside it.
        what: what is wrong with it: a str or an exception.

    Returns:
        `StoreError`, to be raised.
    """
    return StoreError(
        "An index holds what its writer left in it.",
        f"{pathlib.Path(folder, name)}: {what}",
        "Restore the folder from a copy, or build the index again.",
    )


def inner_name(name: str) -> str:
    """A relative file name that stays inside its folder.

    Args:
        name: str, with `/` between its parts.

    Returns:
        str, the same.

    Raises:
        ValueError: it leads out of the folder.
    """
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\0" in name or "\\" in name:
        raise ValueError(f"the file name {name!r} leads out of its folder")
    return name


def inside(folder: StrPath, name: str) -> tuple[pathlib.Path, int]:
    """Path and size of a regular file of the index, reached through no symbolic link.

    Args:
        folder: path of the index.
        name: str, as for `inner_name`.

    Returns:
        pathlib.Path, and int, bytes.

    Raises:
        StoreError: no such file is there.
    """
    path = pathlib.Path(folder)
    *parents, _ = parts = name.split("/")
    try:
        for depth, part in enumerate(parts):
            path = path / part
            status = os.lstat(path)
            wanted = stat.S_ISDIR if depth < len(parents) else stat.S_ISREG
            if not wanted(status.st_mode):
                raise damaged(folder, name, "not a plain file in a plain folder")
    except OSError as error:
        raise damaged(folder, name, error.strerror) from error
    return path, status.st_size


def copy_file(source: StrPath, target: StrPath) -> tuple[int, str]:
    """Copy one file durably.

    Args:
        source: path.
        target: path where nothing is.

    Returns:
        int, its bytes, and str, its sha256 as hex.
    """
    digest, size = hashlib.sha256(), 0
    with open(source, "rb") as reading, open(target, "xb") as writing:
        while content := reading.read(CHUNK_BYTES):
            digest.update(content)
            size += len(content)
            writing.write(content)
        writing.flush()
        os.fsync(writing.fileno())
    return size, digest.hexdigest()
