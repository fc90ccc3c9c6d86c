"""What an entry of a table holds, as statements ask for it and answers give it."""

from collections.abc import Iterable, Sequence
from typing import Any

from hashnet.retrieval.store.items import Item, to_bytes, to_text
from hashnet.retrieval.store.protocol import Region

ITEM = "id, path, label, size, mtime_ns"
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


def items_of_columns(columns: Sequence[Sequence[Any]]) -> list[Item]:
    """Items out of the columns that `ITEM` names.

    Args:
        columns: five sequences of the same length.

    Returns:
        list of `Item`.
    """
    return [
        Item(
            to_text(id),
            None if path is None else to_text(path),
            None if label is None else to_text(label),
            None if size is None else int(size),
            None if mtime_ns is None else int(mtime_ns),
        )
        for id, path, label, size, mtime_ns in zip(*columns, strict=True)
    ]
