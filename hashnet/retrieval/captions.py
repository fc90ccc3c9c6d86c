"""Captions that people give images of an index: in a file of paths and texts, or by hand."""

import csv
import io
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from hashnet import files
from hashnet.errors import ArgumentError
from hashnet.images.descriptions import joined
from hashnet.images.sidecars import encoding_of
from hashnet.retrieval.store.roots import ids_named
from hashnet.retrieval.store.texts import MOST_LETTERS, Texts
from hashnet.system import StrPath

MOST_BYTES = 1 << 28  # of a file of captions
MOST_NAMES = 4_000_000  # in one; each takes some hundred bytes of memory
_HEADER = ["path", "caption"]


class CaptionReport(NamedTuple):
    """What `Index.caption` did.

    Attributes:
        captioned, unchanged: int. Images that have another caption now, or had the same.
        unknown: list of str. What named no image of the index.
    """

    captioned: int
    unchanged: int
    unknown: list[str]


def read(path: StrPath) -> dict[str, str]:
    """A file of captions.

    Args:
        path: str or path-like. Comma-separated, in UTF-8 (or UTF-16 with its mark): a path or an
            id, and its caption. A first line `path,caption` is a head. Of an image that comes
            several times all captions count.

    Returns:
        dict of what was named, as it stands there, to the caption.

    Raises:
        ArgumentError: it cannot be read, is in another encoding, or a line has another form.

    Example:
        >>> with open("captions.csv", "w") as file:
        ...     _ = file.write("path,caption\\ncat.png,a cat\\ncat.png,Rex\\n")
        >>> read("captions.csv")
        {'cat.png': 'a cat\\nRex'}
    """
    rule = "Captions come from a file of lines `path,caption`, in UTF-8."
    try:
        content = files.read_at_most(path, MOST_BYTES)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ArgumentError(rule, f"{os.fspath(path)!r}: {reason}") from error
    captions: dict[str, list[str]] = {}
    # One letter may make a text four times as long in memory as its file: so line by line.
    lines = io.TextIOWrapper(io.BytesIO(content), encoding_of(content), newline="")
    reader = csv.reader(lines, strict=True)
    try:
        for fields in reader:
            if len(captions) > MOST_NAMES:
                raise ArgumentError(
                    rule,
                    f"{os.fspath(path)!r}: more than {MOST_NAMES:,} of them",
                    "Give several files, one after the other.",
                )
            if not fields or (reader.line_num == 1 and [*map(str.lower, fields)] == _HEADER):
                continue
            if len(fields) != 2 or not fields[0] or len(fields[1]) > MOST_LETTERS:
                shown = ",".join(fields)[:60]
                raise ArgumentError(
                    rule,
                    f"line {reader.line_num} of {os.fspath(path)!r}: {shown!r}",
                    f"Put a caption with commas in quotes; it has at most {MOST_LETTERS:,} "
                    "letters.",
                )
            captions.setdefault(fields[0], []).append(fields[1])
    except UnicodeDecodeError as error:
        what = f"{os.fspath(path)!r}: it is not in {error.encoding}: {error.reason}"
        raise ArgumentError(rule, what, "Save it as UTF-8.") from error
    except csv.Error as error:
        what = f"line {reader.line_num} of {os.fspath(path)!r}: {error}"
        raise ArgumentError(rule, what) from error
    return {name: joined(texts) for name, texts in captions.items()}


def give(writer: Any, snapshot: Any, captions: Mapping[str, str], folder: StrPath) -> CaptionReport:
    """Give images of an index their captions, in one commit.

    Args:
        writer: `Writer` of the index.
        snapshot: `Snapshot`, of its last commit.
        captions: dict of path or id to text; "" takes a caption away.
        folder: str or path-like, which paths are tried from first.

    Returns:
        `CaptionReport`.

    Raises:
        ArgumentError: a caption is too long, or no str.
    """
    names = list(captions)
    ids = ids_named(snapshot, [os.path.join(folder, name) for name in names])
    as_named = ids_named(snapshot, names)
    text_of: dict[str, str] = {}
    unknown = []
    known = zip(snapshot.rows(ids).tolist(), snapshot.rows(as_named).tolist(), strict=True)
    for name, id, other, (row, other_row) in zip(names, ids, as_named, known, strict=True):
        if row < 0 and other_row < 0:
            unknown.append(name)
        else:
            text_of[id if row >= 0 else other] = captions[name]
    changed = []
    for item in snapshot.items(snapshot.rows(list(text_of))):
        texts = (item.texts or Texts())._replace(given=text_of[item.id] or None)
        if texts != (item.texts or Texts()):
            changed.append(item._replace(texts=None if texts == Texts() else texts))
    writer.update(changed)
    return CaptionReport(len(changed), len(text_of) - len(changed), unknown)
