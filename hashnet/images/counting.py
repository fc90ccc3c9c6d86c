"""Structures that are counted before a decoder walks through them."""

import struct

_HOLDERS = {b"meta", b"iprp", b"ipco", b"iinf", b"iref", b"dinf", b"moov", b"trak", b"mdia"}
_HOLDERS |= {b"minf", b"stbl", b"jp2h", b"res ", b"asoc"}
_WITH_VERSION = {b"meta": 4, b"iinf": 6, b"iref": 4}  # bytes before what they hold
# A photo of a phone, of tiles, auxiliary pictures and a short film, has a few hundred.
MOST_BOXES = 20_000
MOST_DEPTH = 12
MOST_CHUNKS = 2**16
# Of tiles, qualities, sizes and places of a JPEG 2000 picture. A scan of a map has ten thousand.
MOST_PACKETS = 2**20
_SIZES, _CODING = b"\xff\x51", b"\xff\x52"
MOST_RUN_PIXELS, MOST_RUN_BYTES = 2**24, 2**22


def check_boxes(content: bytes) -> None:
    """Refuse a file of boxes (AVIF, HEIF, JPEG 2000, JPEG XL) that has far too many of them."""
    number, todo = 0, [(0, len(content), 0)]
    while todo:
        at, end, depth = todo.pop()
        if depth > MOST_DEPTH:
            raise OSError(f"its boxes lie {depth} deep in each other")
        while at + 8 <= end:
            number += 1
            if number > MOST_BOXES:
                raise OSError(f"it has more than {MOST_BOXES} boxes")
            size, kind, head = (
                int.from_bytes(content[at : at + 4], "big"),
                content[at + 4 : at + 8],
                8,
            )
            if size == 1:
                size, head = int.from_bytes(content[at + 8 : at + 16], "big"), 16
            stop = min(end, at + size) if size else end
            if stop < at + head:
                break
            if kind in _HOLDERS:
                todo.append((at + head + _WITH_VERSION.get(kind, 0), stop, depth + 1))
            at = stop


def check_riff(content: bytes) -> None:
    """Refuse a WebP of far too many chunks."""
    number, at = 0, 12
    while at + 8 <= len(content):
        number += 1
        if number > MOST_CHUNKS:
            raise OSError(f"it has more than {MOST_CHUNKS} chunks")
        size = int.from_bytes(content[at + 4 : at + 8], "little")
        at += 8 + size + size % 2


def check_packets(content: bytes) -> None:
    """Refuse a JPEG 2000 picture that its header cuts into far too many packets."""
    if not content.startswith(b"\xff\x4f"):
        check_boxes(content)
    sizes, coding = content.find(_SIZES), content.find(_CODING)
    try:
        right, bottom, left, top = struct.unpack_from(">4I", content, sizes + 6)
        tile = struct.unpack_from(">2I", content, sizes + 22)
        (channels,) = struct.unpack_from(">H", content, sizes + 38)
        style, _, layers, _, levels = struct.unpack_from(">BBHBB", content, coding + 4)
        precincts = content[coding + 14 : coding + 15 + levels]
    except struct.error:
        return  # no whole header, which its decoder will say
    width, height = right - left, bottom - top
    tiles = _parts(width, tile[0]) * _parts(height, tile[1])
    places = 0
    for level in range(min(levels, 32) + 1):
        sides = precincts[level] if style & 1 and level < len(precincts) else 0xFF
        scale = min(levels, 32) - level
        across, down = width >> scale, height >> scale
        places += max(tiles, _parts(across, 1 << (sides & 15)) * _parts(down, 1 << (sides >> 4)))
    number = places * channels * layers
    if number > MOST_PACKETS:
        raise OSError(f"it promises {number} packets, of {MOST_PACKETS} at most")


def _parts(length: int, part: int) -> int:
    return -(-length // part) if part else 0


def check_runs(content: bytes, start: int) -> None:
    """Refuse a BMP in runs, which are decoded one by one, of far too many pixels or bytes.

    Args:
        content: bytes.
        start: int, where its second header is.
    """
    head = content[start : start + 20]
    if len(head) < 20 or struct.unpack_from("<I", head, 16)[0] not in (1, 2):
        return
    width, height = struct.unpack_from("<ii", head, 4)
    pixels = abs(width * height)
    if pixels > MOST_RUN_PIXELS or len(content) > MOST_RUN_BYTES:
        taken = f"{pixels} pixels in runs, {len(content)} bytes, are more than"
        raise OSError(f"{taken} {MOST_RUN_PIXELS} in {MOST_RUN_BYTES}")
