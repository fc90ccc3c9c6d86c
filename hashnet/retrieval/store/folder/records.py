"""The records of an index's files of numbers: what a row keeps of its item and local features."""

import hashlib
import struct
from collections.abc import Iterable, Sequence

import numpy as np
from zlib_ng.zlib_ng import crc32

from hashnet.retrieval.store.items import UNKNOWN, Described, Item, bytes_of_local, to_bytes

# One record of the file of items. `label_start` is shared by the rows of a segment that have the
# same label. `item_crc` covers the fields before it and the three words.
ITEM = np.dtype(
    [
        ("id_hash", "<u8"),
        ("start", "<i8"),  # of the id in the text; the path follows it
        ("label_start", "<i8"),
        ("size", "<i8"),
        ("mtime_ns", "<i8"),
        ("id_bytes", "<i4"),
        ("path_bytes", "<i4"),  # -1: there is none
        ("label_bytes", "<i4"),  # -1: there is none
        ("feature_crc", "<u4"),
        ("item_crc", "<u4"),
        ("zero", "<u4"),
    ]
)
# One record of the file of spans: where the local features of a row lie. `crc` covers the places,
# the descriptors, and the fields before it.
SPAN = np.dtype([("start", "<i8"), ("count", "<u4"), ("crc", "<u4")])
SPAN_HEAD = struct.Struct("<qI")
ITEM_HEAD = struct.Struct("<QqqqqiiiI")
_ITEM_TAIL = struct.Struct("<II")
ITEM_RECORD = struct.Struct(ITEM_HEAD.format + "II")
ITEM_BYTES = np.dtype((np.void, ITEM.itemsize))


def as_bytes(array: np.ndarray) -> np.ndarray:
    """An array as the bytes that it consists of.

    Args:
        array: any dtype, any shape.

    Returns:
        uint8 array of shape `(n,)`; a view where that is possible.
    """
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def hash_id(id_bytes: bytes) -> int:
    """What ids are sorted by.

    Args:
        id_bytes: bytes, of `to_bytes`.

    Returns:
        int, 64 bits.
    """
    return int.from_bytes(hashlib.blake2b(id_bytes, digest_size=8).digest(), "little")


def encode_items(
    items: Sequence[Item], features: np.ndarray, text_start: int
) -> tuple[bytes, bytes]:
    """Records and text of one segment.

    Args:
        items: sequence of `Item`, one for each row.
        features: float32 or float16 array of shape `(n, feature_dim)`, whose checksums they keep.
        text_start: int. Where in the file of text the segment's begins.

    Returns:
        bytes, records of `ITEM`, and bytes, text.
    """
    records, text = bytearray(), bytearray()
    label_places: dict[str | None, tuple[int, int]] = {None: (0, -1)}
    last, start = None, 0
    feature_bytes = as_bytes(features).reshape(len(items), -1)
    for item, feature in zip(items, feature_bytes, strict=True):
        id_bytes = to_bytes(item.id)
        words = id_bytes + (b"" if item.path is None else to_bytes(item.path))
        label = b"" if item.label is None else to_bytes(item.label)
        if item.label not in label_places:
            label_places[item.label] = text_start + len(text), len(label)
            text += label
        label_start, label_bytes = label_places[item.label]
        if item != last:  # the rows of one image share its words
            start = text_start + len(text)
            text += words
            last = item
        head = ITEM_HEAD.pack(
            hash_id(id_bytes),
            start,
            label_start,
            UNKNOWN if item.size is None else item.size,
            UNKNOWN if item.mtime_ns is None else item.mtime_ns,
            len(id_bytes),
            -1 if item.path is None else len(words) - len(id_bytes),
            label_bytes,
            crc32(feature),
        )
        records += head + _ITEM_TAIL.pack(crc32(head + words + label), 0)
    return bytes(records), bytes(text)


def encode_local(local_features: Iterable[Described], start: int) -> tuple[bytes, bytes, bytes]:
    """Spans, places and descriptors of one segment.

    Args:
        local_features: sequence of objects with `yx` and `descriptors`, one for each row.
        start: int. How many local features the files hold before.

    Returns:
        bytes, records of `SPAN`, bytes of places, and bytes of descriptors.
    """
    spans, places, descriptors = bytearray(), bytearray(), bytearray()
    for features in local_features:
        head = SPAN_HEAD.pack(start, len(features.yx))
        yx, stored = bytes_of_local(features)
        spans += head + crc32(stored, crc32(yx, crc32(head))).to_bytes(4, "little")
        places += yx
        descriptors += stored
        start += len(features.yx)
    return bytes(spans), bytes(places), bytes(descriptors)
