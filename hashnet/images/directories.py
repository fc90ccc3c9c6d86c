"""Directories of TIFF and Exif, looked at before they are read: what they claim to hold."""

import struct

_ORDERS = {b"II": "<", b"MM": ">"}
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_TYPE_BYTES |= {16: 8, 17: 8, 18: 8}
_TEXTS = (1, 2, 7)  # whose values stay bytes
# A raw file of a camera has some hundred entries; the parts of a picture are in two of them.
MOST_ENTRIES = 4096
# Some programs write it twice. Who reads Exif copies what is behind each.
_HEAD, _MOST_HEADS = b"Exif\0\0", 4
MOST_NUMBERS = 2**18


def is_bounded(data: bytes, at: int | None = None) -> bool:
    """Whether a directory is read in no more time and memory than its bytes suggest.

    Each entry says by itself where its values lie, so that very many may claim the same bytes.

    Args:
        data: bytes that begin with the header of a TIFF.
        at: int, where the directory stands; None for the first one.

    Returns:
        bool. True also where there is no directory, which who reads it will find.

    Example:
        >>> is_bounded(b"II*\\0\\x08\\0\\0\\0\\xff\\xff")
        False
    """
    if data.startswith(_HEAD):  # behind those that `without_head` takes away
        return False
    order, is_big = _ORDERS.get(data[:2]), b"+" in data[2:4]
    if order is None:
        return True
    offset, count, entry = ("Q", "Q", "HHQQ") if is_big else ("I", "H", "HHII")
    try:
        if at is None:
            (at,) = struct.unpack_from(order + offset, data, 8 if is_big else 4)
        (number,) = struct.unpack_from(order + count, data, at)
    except (struct.error, OverflowError):
        return True
    if number > MOST_ENTRIES:
        return False
    at += struct.calcsize(order + count)
    size = struct.calcsize(order + entry)
    entries = data[at : at + size * number]
    total = numbers = 0
    whole = entries[: len(entries) // size * size]
    for _, kind, values, offset in struct.iter_unpack(order + entry, whole):
        each = _TYPE_BYTES.get(kind, 0)
        if values * each <= len(data) - offset:  # what cannot be read costs nothing
            total += values * each
            numbers += 0 if kind in _TEXTS else values
    return total <= 2 * len(data) and numbers <= MOST_NUMBERS


def without_head(exif: bytes) -> bytes:
    """The TIFF within Exif data.

    Args:
        exif: bytes, with the letters Exif before it or without.

    Example:
        >>> without_head(b"Exif\\0\\0II*\\0")
        b'II*\\x00'
    """
    for _ in range(_MOST_HEADS):
        exif = exif.removeprefix(_HEAD)
    return exif
