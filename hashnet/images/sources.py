"""The bytes of a picture, whatever holds them: a path, bytes or a binary file."""

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from hashnet import system
from hashnet.errors import HashnetError, ImageError
from hashnet.images.formats import ALLOWED_FORMATS, HEAD_BYTES, TooManyPixelsError, known_format
from hashnet.images.silence import silence

MAX_BYTES = 256 * 2**20
CONTENT_BYTES = 16  # of a `content_hash`
_CHUNK_BYTES = 2**20


@runtime_checkable
class Readable(Protocol):
    """A binary file object."""

    def read(self, size: int, /) -> bytes:
        """Read the next bytes.

        Args:
            size: int, how many at most.

        Returns:
            bytes, none at the end.
        """


class Named(bytes):
    """The content of a file that another process has read.

    Attributes:
        name: str or None, that of the file.
    """

    name: str | None = None


File = str | os.PathLike[str] | bytes | bytearray | memoryview | Readable
FILES = (str, os.PathLike, bytes, bytearray, memoryview, Readable)  # the same, for `isinstance`


def content_of(source: File) -> bytes:
    """All bytes of the source. They are read first and once, so that a file that changes
    meanwhile can end too early, which is noticed, but cannot pull mapped memory away."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        _check_bytes(len(source))
        return bytes(source)
    if isinstance(source, Readable):
        return _drained(source)
    # Opening must not wait for a writer to a pipe; and what was opened is what gets checked.
    descriptor = system.open_without_waiting(source)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"it is a {kind_of_file(status.st_mode)}")
        with open(descriptor, "rb", closefd=False) as file:
            known_format(
                file.peek(HEAD_BYTES), suffix_of(source)
            )  # a file that is no picture is not read to its end
            _check_bytes(status.st_size)
            return file.read(status.st_size)
    finally:
        os.close(descriptor)


def content_hash(source: str | os.PathLike[str] | bytes) -> bytes:
    """What tells the content of a file from any other.

    Args:
        source: path of a regular file, or what is in it.

    Returns:
        bytes, `CONTENT_BYTES` of BLAKE2b (RFC 7693).

    Raises:
        OSError: it cannot be read.

    Example:
        >>> content_hash(b"cat") == content_hash(b"cat"), len(content_hash(b""))
        (True, 16)
    """
    digest = hashlib.blake2b(digest_size=CONTENT_BYTES)
    if isinstance(source, bytes):
        digest.update(source)
        return digest.digest()
    descriptor = system.open_without_waiting(source)
    try:
        while chunk := os.read(descriptor, _CHUNK_BYTES):
            digest.update(chunk)
    finally:
        os.close(descriptor)
    return digest.digest()


def _drained(file: Readable) -> bytes:
    content = bytearray()
    while chunk := file.read(2**20):
        if not isinstance(chunk, bytes):
            raise TypeError("the file object does not give bytes; open it in binary mode")
        content += chunk
        _check_bytes(len(content))
    return bytes(content)


def _check_bytes(count: int) -> None:
    if count > MAX_BYTES:
        raise OSError(f"{count} bytes are more than {MAX_BYTES}")


def kind_of_file(mode: int) -> str:
    """What a path leads to, in words.

    Args:
        mode: int, `st_mode` of `os.stat`.

    Example:
        >>> kind_of_file(os.stat(".").st_mode)
        'folder'
    """
    kinds = {
        stat.S_IFDIR: "folder",
        stat.S_IFIFO: "pipe",
        stat.S_IFSOCK: "socket",
        stat.S_IFCHR: "device",
        stat.S_IFBLK: "device",
    }
    return kinds.get(stat.S_IFMT(mode), "special file")


def file_name_of(source: object) -> str | None:
    """The name of the file, or None where the source has none."""
    if isinstance(source, str | os.PathLike):
        return os.fsdecode(source)
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else None


def suffix_of(source: object) -> str:
    """What the name ends with where the source has a name, with its dot; else ""."""
    return os.path.splitext(file_name_of(source) or "")[1]


def name_of(source: object) -> str:
    """The source as messages call it; `repr` keeps odd names printable."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        name = getattr(source, "name", None)
        return f"{len(source)} bytes" if name is None else repr(name)
    if isinstance(source, (str, os.PathLike)):
        return repr(os.fsdecode(source))
    return repr(getattr(source, "name", type(source).__name__))


@contextlib.contextmanager
def refusals(name: str) -> Iterator[None]:
    """Turn whatever goes wrong inside into an `ImageError` that names the source."""
    try:
        with silence:
            yield
    except HashnetError:
        raise
    except Exception as error:  # Pillow raises nearly anything, depending on the bytes
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        if isinstance(error, MemoryError):
            reason = "more memory is needed than there is"
        rule = "An image must be a whole, regular file of a known format."
        way_out: str | None = f"Known formats: {', '.join(ALLOWED_FORMATS)}."
        if isinstance(error, TooManyPixelsError):
            rule = "An image has no more pixels than the limit."
            way_out = "Scale it down, or raise the limit: --max-pixels of most commands."
        elif isinstance(error, OSError) and error.errno is not None:
            rule, way_out = "An image must be a file that can be read.", None
        received = f"{name}: {reason[:200] or type(error).__name__}"
        raise ImageError(rule, received, way_out) from error
