"""Files and folders that appear whole or not at all, and are on the disk when they appear.

What is written lies beside its place under a hidden name, is made durable, and is then renamed:
a reader sees what was there before or what is there now, whenever the writer is killed or the
power fails. A writer that is killed leaves its hidden file, which `remove_leftovers` finds.
"""

import contextlib
import glob
import os
import pathlib
import secrets
import shutil
import tempfile
import time
import tomllib
from collections.abc import Iterator
from typing import Any, BinaryIO

from hashnet import system
from hashnet.errors import ArgumentError
from hashnet.system import StrPath

# Bytes of settings. What tomllib takes grows with the square of a key's parts, a name and a dot.
MOST_TOML = 1 << 13
_DEEPEST = 8  # tables and arrays in each other

_MARK = ".hashnet-"
_CLAIM = ".lock"
_SCRATCH = "hashnet-"


def read_at_most(path: StrPath, most: int) -> bytes:
    """Read a file of a kind that is never large.

    Args:
        path: str or path-like, of whatever opens: devices have no end.
        most: int, bytes.

    Returns:
        bytes, all there are.

    Raises:
        ArgumentError: there are more. No more than these have been read.
        OSError: it cannot be read.

    Example:
        >>> read_at_most("/dev/zero", 1000)
        Traceback (most recent call last):
        ...
        hashnet.errors.ArgumentError: A file of this kind has 1000 bytes at most. ...
    """
    with open(path, "rb") as file:
        return read_stream(file, most, path)


def read_toml(path: StrPath) -> dict[str, Any]:
    """Read a file of settings.

    Args:
        path: str or path-like.

    Returns:
        dict.

    Raises:
        ValueError: it is no TOML, of another encoding, too deep or too long (`ArgumentError`).
        OSError: it cannot be read.

    Example:
        >>> with open("settings.toml", "w") as file:
        ...     _ = file.write("rate = 0.5")
        >>> read_toml("settings.toml")
        {'rate': 0.5}
    """
    content = read_at_most(path, MOST_TOML).decode()
    rule = "its arrays or tables lie too deep in each other"
    try:
        values = tomllib.loads(content)
    except RecursionError as error:
        raise ValueError(rule) from error
    # A key of many names makes tables that whoever shows or compares them cannot go down into.
    depth, inner = 0, [*values.values()]
    while inner := [one for one in inner if isinstance(one, dict | list)]:
        depth += 1
        if depth > _DEEPEST:
            raise ValueError(rule)
        inner = [
            one for some in inner for one in (some.values() if isinstance(some, dict) else some)
        ]
    return values


def read_stream(stream: BinaryIO, most: int, name: StrPath) -> bytes:
    """Read a binary stream that should end; otherwise as `read_at_most`.

    Args:
        stream: open for reading.
        most: int, bytes.
        name: str or path-like, what messages call it.

    Returns:
        bytes, all there are.

    Raises:
        ArgumentError: there are more. No more than these have been read.
    """
    content = stream.read(most + 1)
    if len(content) > most:
        raise ArgumentError(
            f"A file of this kind has {most} bytes at most.", f"more from {os.fspath(name)!r}"
        )
    return content


def fsync_tree(folder: StrPath) -> None:
    """Wait until all files below a folder, and their names, are on the disk.

    Args:
        folder: str or path-like.
    """
    for where, _, names in os.walk(folder, topdown=False):
        for name in names:
            system.fsync(os.path.join(where, name))
        system.fsync(where)


@contextlib.contextmanager
def whole_file(path: StrPath) -> Iterator[BinaryIO]:
    """Write a file that replaces the one of its name at the end of the block, durably.

    Args:
        path: str or path-like.

    Yields:
        An open binary file. Where the block raises, the old file stays as it was.

    Raises:
        OSError: the disk refuses.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with whole_file(os.path.join(folder, "answer")) as file:
        ...         _ = file.write(b"42")
        ...     os.listdir(folder)
        ['answer']
    """
    path = pathlib.Path(path)
    beside = hidden_beside(path)
    try:
        with open(beside, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        system.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError, ValueError):
            os.unlink(beside)
        raise
    system.fsync(path.parent)


@contextlib.contextmanager
def whole_folder(path: StrPath) -> Iterator[pathlib.Path]:
    """Fill a folder that replaces the one of its name at the end of the block, durably.

    Args:
        path: str or path-like. Folders above it are made.

    Yields:
        pathlib.Path of an empty folder. Where the block raises, what was at `path` stays.

    Raises:
        OSError: the disk refuses.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with whole_folder(os.path.join(folder, "answers")) as beside:
        ...         _ = (beside / "first").write_bytes(b"42")
        ...     os.listdir(folder), os.listdir(os.path.join(folder, "answers"))
        (['answers'], ['first'])
    """
    # The real path: a name such as "." cannot be renamed to.
    path = pathlib.Path(os.path.abspath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    beside, replaced = hidden_beside(path), hidden_beside(path)
    beside.mkdir(mode=0o755)
    try:
        yield beside
        fsync_tree(beside)
        if path.exists():
            system.move_folder(path, replaced)
        system.move_folder(beside, path)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        if replaced.exists() and not path.exists():
            system.move_folder(replaced, path)
        raise
    system.fsync(path.parent)
    shutil.rmtree(replaced, ignore_errors=True)


@contextlib.contextmanager
def claimed(path: StrPath) -> Iterator[None]:
    """Hold a name while what bears it is made or used: `remove_unclaimed` tells it from leftovers.

    Args:
        path: str or path-like, where nothing is. Nothing is made there.

    Raises:
        OSError: nothing can be written beside it.
    """
    # Beside it, as Windows moves no folder in which a file is open.
    lock = system.FileLock(f"{os.fspath(path)}{_CLAIM}")
    try:
        while not lock.take():  # one who removes what is left looks at it
            time.sleep(0.02)
        yield
    finally:
        _give_up(path, lock)


def remove_unclaimed(place: StrPath, start: str) -> None:
    """Remove what processes have left that were killed while they had claimed it.

    Args:
        place: str or path-like, a folder.
        start: str. What the names begin with.
    """
    for claim in pathlib.Path(place).glob(f"{glob.escape(start)}*{_CLAIM}"):
        with contextlib.suppress(OSError):
            lock = system.FileLock(claim)
            if lock.take():
                path = claim.with_name(claim.name.removesuffix(_CLAIM))
                shutil.rmtree(path, ignore_errors=True)
                _give_up(path, lock)
            else:
                lock.forget()


def _give_up(path: StrPath, lock: system.FileLock) -> None:
    lock.release()
    with contextlib.suppress(OSError):
        system.remove_unless_in_use(f"{os.fspath(path)}{_CLAIM}")


@contextlib.contextmanager
def scratch_folder() -> Iterator[str]:
    """A folder for what is needed for a while only; those of processes that were killed go first.

    Yields:
        str, its path. At the end of the block it is removed with all that is in it.

    Raises:
        OSError: there is no room, or no leave to write.

    Example:
        >>> with scratch_folder() as folder:
        ...     os.path.isdir(folder)
        True
        >>> os.path.exists(folder)
        False
    """
    place = tempfile.gettempdir()
    remove_unclaimed(place, _SCRATCH)
    path = os.path.join(place, f"{_SCRATCH}{secrets.token_hex(8)}")
    with claimed(path):
        os.mkdir(path, mode=0o700)
        # Within it, as who fills a folder whole makes others beside it, which go with it, too.
        inner = os.path.join(path, "scratch")
        os.mkdir(inner)
        try:
            yield inner
        finally:
            shutil.rmtree(path, ignore_errors=True)


def remove_leftovers(path: StrPath) -> None:
    """Remove what killed writers of a file or folder have left beside it.

    Args:
        path: str or path-like, which nobody writes now.
    """
    path = pathlib.Path(os.path.abspath(path))
    mark = _mark_of(path)
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(path.parent):
            if name.startswith(mark):
                left = path.parent / name
                if left.is_dir() and not left.is_symlink():
                    shutil.rmtree(left, ignore_errors=True)
                else:
                    system.remove_unless_in_use(left)


def is_leftover(name: str) -> bool:
    """Whether a name is one of those under which files and folders are written.

    Args:
        name: str, without the folder it is in.

    Returns:
        bool.

    Example:
        >>> is_leftover(".answer.hashnet-0123456789abcdef"), is_leftover("answer")
        (True, False)
    """
    return name.startswith(".") and _MARK in name


def hidden_beside(path: pathlib.Path) -> pathlib.Path:
    """A hidden name beside a path, for what is about to be renamed to it.

    Args:
        path: pathlib.Path.

    Returns:
        pathlib.Path, another one each time; `is_leftover` knows its name.

    Example:
        >>> is_leftover(hidden_beside(pathlib.Path("photos/cat.jpg")).name)
        True
    """
    return path.with_name(f"{_mark_of(path)}{secrets.token_hex(8)}")


def _mark_of(path: pathlib.Path) -> str:
    """How names beside a path begin, cut so that they fit where the path's own does: 255 bytes."""
    return f".{os.fsdecode(os.fsencode(path.name)[:200])}{_MARK}"
