"""What is to be extracted: folders, files, lists of them, and object stores, as one list."""

import collections
import functools
import os
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from hashnet import extras, images
from hashnet.errors import HashnetError
from hashnet.retrieval.store.items import Item

if TYPE_CHECKING:
    from pyarrow import fs

_URI = re.compile(r"([a-z][a-z0-9+.-]+://[^/]*)(.*)", re.DOTALL)
_LIST_SUFFIX = ".txt"


def listed(
    sources: Iterable[str | os.PathLike[str]],
    *,
    label_from_folder: bool = False,
    exclusion: images.Exclusion | None = None,
) -> tuple[list[Item], list[images.Problem], dict[str, int]]:
    """List images by id, which for a file is its absolute path, and for an object its URI.

    Args:
        sources: list of str. Files and folders, searched as `images.find` does; URIs of
            objects or of what they lie under (`s3://bucket/photos`), whose names are taken as
            they are, without `%` escapes; and text files (`.txt`) that list any of these, one a
            line.
        label_from_folder: bool. Label each image with the first folder below its root.
        exclusion: as for `images.find`. Of objects, no `.hashnetignore` is read.

    Returns:
        items: list of `Item`, ascending by id, each id once.
        problems: list of `images.Problem`.
        passed_over: dict of str to int, as `images.Listing` has it.

    Raises:
        HashnetError: an object store cannot be reached, or pyarrow has none of this kind.

    Example:
        >>> listed(["no/such/folder"])
        ([], [Problem(path='no/such/folder', reason='No such file or directory')], {})
    """
    names, problems = _expanded([os.fsdecode(source) for source in sources])
    exclusion = images.Exclusion() if exclusion is None else exclusion
    files = [name for name in names if not is_uri(name)]
    found, unreadable, passed_over = images.find(files, exclusion=exclusion)
    found = images.distinct(found)
    problems += unreadable
    for name in filter(is_uri, names):
        objects, unreadable, others = _objects(name, exclusion)
        found += objects
        problems += unreadable
        passed_over = dict(collections.Counter(passed_over) + collections.Counter(others))
    items: dict[str, Item] = {}
    for file in found:
        path = file.path if is_uri(file.path) else os.path.abspath(file.path)
        label = file.folder if label_from_folder else None
        if not _is_utf8(path) or not _is_utf8(label or ""):
            problems.append(images.Problem(path, "its name is no UTF-8, as Parquet wants text"))
            continue
        items.setdefault(path, Item(path, path, label, file.size, file.mtime_ns))
    return [items[id] for id in sorted(items)], problems, passed_over


def is_uri(name: str) -> bool:
    """Whether a name is that of an object in a store.

    Args:
        name: str.

    Returns:
        bool.

    Example:
        >>> is_uri("s3://bucket/cat.jpg"), is_uri("/home/me/cat.jpg")
        (True, False)
    """
    return _URI.fullmatch(name) is not None


def opened(item: Item) -> "str | _Object":
    """An item's source as `images.read` takes it: a path, or a binary file.

    Args:
        item: a `Item`.

    Returns:
        str, or a binary file object that reads on demand.
    """
    return _Object(item.id) if is_uri(item.id) else item.id


class _Object:
    """An object of a store as a binary file, opened when it is first read."""

    def __init__(self, uri: str) -> None:
        self.name = uri
        self._stream: Any = None

    def read(self, size: int) -> bytes:
        """Up to `size` bytes more; none at the end."""
        if self._stream is None:
            filesystem, path = _placed(self.name)
            self._stream = filesystem.open_input_stream(path)
        content = self._stream.read(size)
        if not content:
            self._stream.close()
        return content


def _expanded(sources: list[str]) -> tuple[list[str], list[images.Problem]]:
    """The names given, with those that text files list in place of the files."""
    names, problems = [], []
    for source in sources:
        if is_uri(source) or not (source.endswith(_LIST_SUFFIX) and os.path.isfile(source)):
            names.append(source)
            continue
        try:
            with open(source, "rb") as file:
                lines = (line.rstrip(b"\r\n") for line in file)
                names += [os.fsdecode(line) for line in lines if line]
        except OSError as error:
            problems.append(images.Problem(source, error.strerror or str(error)))
    return names, problems


def _objects(uri: str, exclusion: images.Exclusion) -> images.Listing:
    """The pictures under a URI, by their suffixes: to look into an object is to fetch it."""
    from pyarrow import fs

    filesystem, root = _placed(uri)
    try:
        [info] = filesystem.get_file_info([root])
        if info.type == fs.FileType.NotFound:
            return images.Listing([], [images.Problem(uri, "No such object")], {})
        if info.type == fs.FileType.File:
            return images.Listing([images.Found(uri, info.size, info.mtime_ns, None)], [], {})
        infos = filesystem.get_file_info(fs.FileSelector(root, recursive=True))
    except OSError as error:
        raise HashnetError(
            "An object store must be reached to be listed.", f"{uri}: {error}"
        ) from error
    passed_over: collections.Counter[str] = collections.Counter()
    found, prefix, scope = [], root.rstrip("/") + "/", exclusion.begin(root)
    for info in infos:
        below = info.path.removeprefix(prefix)
        if info.type != fs.FileType.File:
            continue
        suffix = os.path.splitext(below)[1].lower()
        if reason := scope.reason_below(below):
            exclusion.count(reason, info.path, is_folder=False)
        elif suffix not in images.SUFFIXES:
            passed_over[suffix or "without suffix"] += 1
        else:
            parts = below.split("/")
            folder = parts[0] if len(parts) > 1 else None
            found.append(
                images.Found(f"{uri.rstrip('/')}/{below}", info.size, info.mtime_ns, folder)
            )
    return images.Listing(found, [], dict(passed_over))


def _placed(uri: str) -> tuple["fs.FileSystem", str]:
    """The file system of a URI, and the path in it."""
    parts = _URI.fullmatch(uri)
    assert parts, uri  # `is_uri` is asked before
    place, path = parts.groups()
    filesystem, base = _filesystem(place)
    return filesystem, base.rstrip("/") + path if path else base


@functools.lru_cache(maxsize=64)
def _filesystem(place: str) -> tuple["fs.FileSystem", str]:
    fs = extras.load("pyarrow.fs", "parquet", "Object stores are read with pyarrow.")
    try:
        return fs.FileSystem.from_uri(place if not place.endswith("://") else place + "/")
    except (ValueError, OSError) as error:
        raise HashnetError(
            "A URI is of a store that pyarrow knows, such as s3, gs or hdfs.",
            f"{place} ({error})",
        ) from error


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
