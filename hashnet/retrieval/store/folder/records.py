"""The records of an index's files of numbers: what a row keeps of its item and local features."""

import hashlib
import math
import struct
from collections.abc import Iterable, Sequence

import numpy as np
from zlib_ng.zlib_ng import crc32

from hashnet.images import CONTENT_BYTES, Exif
from hashnet.retrieval.store.items import (
    UNKNOWN,
    Described,
    Item,
    bytes_of_local,
    seconds_of,
    to_bytes,
)
from hashnet.retrieval.store.roots import Roots
from hashnet.retrieval.store.texts import bytes_of

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
        ("path_bytes", "<i4"),  # -1: there is none; -2: it is what the roots make of the id
        ("label_bytes", "<i4"),  # -1: there is none
        ("feature_crc", "<u4"),
        ("item_crc", "<u4"),
        ("zero", "<u4"),
    ]
)
NO_PATH, PATH_OF_ID = -1, -2
# One record of the file of files: what tells a row's file from all others, and from itself before
# it was changed. `crc` covers the fields before it.
FILE = np.dtype(
    [
        ("ctime_ns", "<i8"),
        ("inode", "<u8"),  # 0: it is not known
        ("content", "u1", CONTENT_BYTES),  # zeros: it is not known
        ("crc", "<u4"),
        ("zero", "<u4"),
    ]
)
FILE_HEAD = struct.Struct(f"<qQ{CONTENT_BYTES}s")
FILE_RECORD = struct.Struct(FILE_HEAD.format + "II")
# One record of the file of what cameras write. `crc` covers the fields before it and the camera.
EXIF = np.dtype(
    [
        ("taken", "<i8"),  # in seconds
        ("latitude", "<f8"),  # not-a-number: it is not known
        ("longitude", "<f8"),
        ("camera_start", "<i8"),  # in the text, shared as labels are
        ("camera_bytes", "<i4"),  # -1: there is none
        ("crc", "<u4"),
    ]
)
EXIF_HEAD = struct.Struct("<qddqi")
EXIF_RECORD = struct.Struct(EXIF_HEAD.format + "I")
# One record of the file of texts: where in the text those of a row lie, as `texts.bytes_of` gives
# them. `crc` covers the fields before it and these bytes.
TEXTS = np.dtype([("start", "<i8"), ("num_bytes", "<u4"), ("crc", "<u4")])
TEXTS_HEAD = struct.Struct("<qI")
TEXTS_RECORD = struct.Struct(TEXTS_HEAD.format + "I")
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
    items: Sequence[Item],
    features: np.ndarray,
    text_start: int,
    roots: Roots,
    *,
    exif: bool,
    texts: bool,
) -> dict[str, bytes]:
    """What one segment keeps of its items.

    Args:
        items: sequence of `Item`, one for each row.
        features: float32 or float16 array of shape `(n, feature_dim)`, whose checksums they keep.
        text_start: int. Where in the file of text the segment's begins.
        roots: `Roots` of the index.
        exif, texts: bool. Whether the index keeps what cameras write, and texts.

    Returns:
        dict of bytes: `items`, records of `ITEM`, and `text`; `files`, records of `FILE`, where
        the index has roots; `exif` and `texts`, records of `EXIF` and `TEXTS`, where it keeps such.
    """
    records, files, of_cameras, of_texts = bytearray(), bytearray(), bytearray(), bytearray()
    text = _Text(text_start)
    last, start = None, 0
    feature_bytes = as_bytes(features).reshape(len(items), -1)
    for item, feature in zip(items, feature_bytes, strict=True):
        id_bytes = to_bytes(item.id)
        words, path_bytes = id_bytes, NO_PATH
        if item.path is not None:
            if item.path == roots.path_of(item.id):
                path_bytes = PATH_OF_ID
            else:
                words += to_bytes(item.path)
                path_bytes = len(words) - len(id_bytes)
        label, label_start, label_bytes = text.shared(item.label)
        if item != last:  # the rows of one image share its words
            start = text.add(words)
            last = item
        head = ITEM_HEAD.pack(
            hash_id(id_bytes),
            start,
            label_start,
            UNKNOWN if item.size is None else item.size,
            UNKNOWN if item.mtime_ns is None else item.mtime_ns,
            len(id_bytes),
            path_bytes,
            label_bytes,
            crc32(feature),
        )
        records += head + _ITEM_TAIL.pack(crc32(head + words + label), 0)
        if roots.all is not None:
            files += _file_record(item)
        if exif:
            of_cameras += _exif_record(item.exif or Exif(), text)
        if texts:
            of_texts += _texts_record(item, text)
    encoded = {"items": bytes(records), "text": bytes(text.content)}
    if roots.all is not None:
        encoded["files"] = bytes(files)
    if exif:
        encoded["exif"] = bytes(of_cameras)
    if texts:
        encoded["texts"] = bytes(of_texts)
    return encoded


class _Text:
    """The text of one segment, and where its words are."""

    def __init__(self, start: int) -> None:
        self.content = bytearray()
        self._start = start
        self._shared: dict[str | None, tuple[bytes, int, int]] = {None: (b"", 0, -1)}
        self._last = b"", 0

    def add(self, words: bytes) -> int:
        """Append words; returns where they begin."""
        start = self._start + len(self.content)
        self.content += words
        return start

    def repeated(self, content: bytes) -> int:
        """Append what the rows of one image share; returns where it begins."""
        if content != self._last[0]:
            self._last = content, self.add(content)
        return self._last[1]

    def shared(self, word: str | None) -> tuple[bytes, int, int]:
        """A word that many rows have: its bytes, where they begin, how many they are (-1: None)."""
        if word not in self._shared:
            content = to_bytes(word or "")
            self._shared[word] = content, self.add(content), len(content)
        return self._shared[word]


def _file_record(item: Item) -> bytes:
    head = FILE_HEAD.pack(
        UNKNOWN if item.ctime_ns is None else item.ctime_ns,
        item.inode or 0,
        item.content or bytes(CONTENT_BYTES),
    )
    return head + _ITEM_TAIL.pack(crc32(head), 0)


def _exif_record(exif: Exif, text: _Text) -> bytes:
    camera, start, length = text.shared(exif.camera)
    head = EXIF_HEAD.pack(
        UNKNOWN if exif.taken is None else seconds_of(exif.taken),
        math.nan if exif.latitude is None else exif.latitude,
        math.nan if exif.longitude is None else exif.longitude,
        start,
        length,
    )
    return head + crc32(head + camera).to_bytes(4, "little")


def _texts_record(item: Item, text: _Text) -> bytes:
    content = bytes_of(item.texts)
    head = TEXTS_HEAD.pack(text.repeated(content) if content else 0, len(content))
    return head + crc32(head + content).to_bytes(4, "little")


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
