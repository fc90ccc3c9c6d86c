"""What an entry of a table holds, as statements ask for it and answers give it."""

import datetime
from collections.abc import Iterable, Sequence
from typing import Any

from hashnet.images import Exif
from hashnet.retrieval.store.items import Item, date_of, seconds_of, to_bytes, to_text
from hashnet.retrieval.store.protocol import Region
from hashnet.retrieval.store.roots import Roots
from hashnet.retrieval.store.texts import of_bytes

_ITEM = ("id", "path", "label", "size", "mtime_ns")
# `rooted` says that the path is what the roots make of the id.
_FILE = ("rooted", "ctime_ns", "inode", "content")
_EXIF = ("taken", "latitude", "longitude", "camera")
_TEXTS = ("texts",)
# What images are looked up by, by kind as `documents` numbers them.
SPACED = ("spaced_name", "spaced_caption", "spaced_ocr")
OF_IDS = "id IN (SELECT unhex(arrayJoin({ids:Array(String)})))"
KEY_OF_IDS = "key IN (SELECT cityHash64(unhex(arrayJoin({ids:Array(String)}))))"


def region_of_numbers(numbers: Iterable[int]) -> Region | None:
    """A region out of the column.

    Args:
        numbers: four of int, or none.

    Returns:
        (top, left, bottom, right), or None for a whole image.
    """
    region = tuple(map(int, numbers))
    return (region[0], region[1], region[2], region[3]) if region else None


def hexadecimal(texts: Iterable[str]) -> list[str]:
    """Texts as bound parameters take them, whatever bytes they hold.

    Args:
        texts: iterable of str.

    Returns:
        list of str.
    """
    return [to_bytes(text).hex() for text in texts]


def item_columns(roots: Roots, *, exif: bool, texts: bool) -> tuple[str, ...]:
    """The columns that make up items.

    Args:
        roots: `Roots` of the index.
        exif: bool. Whether it keeps what cameras write.
        texts: bool. Whether it keeps texts, and these are wanted.

    Returns:
        tuple of str.
    """
    more = (_EXIF if exif else ()) + (_TEXTS if texts else ())
    return _ITEM + (() if roots.all is None else _FILE) + more


def items_of_columns(
    columns: Sequence[Sequence[Any]], roots: Roots, *, exif: bool, texts: bool
) -> list[Item]:
    """Items out of the columns that `item_columns` names.

    Args:
        columns: as many sequences, of the same length.
        roots, exif, texts: as for `item_columns`.

    Returns:
        list of `Item`.

    Raises:
        ValueError: texts are nothing of the kind.
    """
    items = []
    for id, path, label, size, mtime_ns, *more in zip(*columns, strict=True):
        item = Item(
            to_text(id),
            None if path is None else to_text(path),
            None if label is None else to_text(label),
            None if size is None else int(size),
            None if mtime_ns is None else int(mtime_ns),
        )
        if roots.all is not None:
            rooted, ctime_ns, inode, content = more[:4]
            item = item._replace(
                path=roots.path_of(item.id) if rooted else item.path,
                ctime_ns=None if ctime_ns is None else int(ctime_ns),
                inode=int(inode) or None,
                content=bytes(content) or None,
            )
        if texts:
            item = item._replace(texts=of_bytes(bytes(more.pop())))
        if exif:
            item = item._replace(exif=_exif(*more[-4:]))
        items.append(item)
    return items


def _exif(taken: Any, latitude: Any, longitude: Any, camera: Any) -> Exif | None:
    exif = Exif(
        None if taken is None else date_of(int(taken)),
        None if latitude is None else float(latitude),
        None if longitude is None else float(longitude),
        None if camera is None else to_text(camera),
    )
    return None if exif == Exif() else exif


def taken_within(
    after: datetime.datetime | None, before: datetime.datetime | None
) -> tuple[str, dict[str, Any]]:
    """The condition that a photo was taken in some time, as for `Snapshot.rows_taken`.

    Args:
        after, before: datetime.datetime or None.

    Returns:
        str, which begins with `AND`, and the parameters that are bound to it.
    """
    condition, parameters = " AND taken IS NOT NULL", {}
    if after is not None:
        condition += " AND taken >= {after:Int64}"
        parameters["after"] = seconds_of(after)
    if before is not None:
        condition += " AND taken < {before:Int64}"
        parameters["before"] = seconds_of(before)
    return condition, parameters
