"""The formats that are read: each known by its first bytes, and opened by its own decoder.

The header's size is checked before a pixel is decoded, and what would take a decoder far more time
or memory than a picture needs is refused.
"""

import io
import re
import struct
from collections.abc import Callable, Sequence
from typing import BinaryIO

from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

ALLOWED_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
MAX_SCANS = 200

# The decoders are called by name, not through `Image.open`, which loads every plugin that Pillow
# has, hands some JPEG files to another one (MPO), and warns about large pictures.
_DECODERS = (
    (re.compile(rb"\xff\xd8\xff"), "JPEG", JpegImagePlugin.JpegImageFile),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "PNG", PngImagePlugin.PngImageFile),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "WEBP", WebPImagePlugin.WebPImageFile),
    (re.compile(rb"GIF8[79]a"), "GIF", GifImagePlugin.GifImageFile),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), "TIFF", TiffImagePlugin.TiffImageFile),
    (re.compile(rb"BM"), "BMP", BmpImagePlugin.BmpImageFile),
)


def open_image(data: bytes, max_pixels: int) -> ImageFile.ImageFile:
    """The image with its header read and its size found acceptable; no pixel is decoded yet."""
    name, decoder = decoder_for(data)
    if name == "WEBP":
        check_size(_webp_size(data), max_pixels)  # its decoder allocates on opening
    image = decoder(io.BytesIO(data))
    check_size(image.size, max_pixels)
    if name == "JPEG" and "progressive" in image.info:
        _check_scans(data)
    if name == "PNG" and image.mode in ("L", "RGB") and "transparency" in image.info:
        _scale_transparency(image, bits=data[24])
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tile = [image.tag_v2.get(TiffImagePlugin.TILEWIDTH, 1)]
        tile += [image.tag_v2.get(TiffImagePlugin.TILELENGTH, 1)]
        check_size(tile, max(max_pixels, 2**20))  # a small picture in one tile of gigabytes
    return image


def decoder_for(data: bytes) -> tuple[str, Callable[[BinaryIO], ImageFile.ImageFile]]:
    """The format and decoder that the first bytes call for."""
    for signature, name, decoder in _DECODERS:
        if signature.match(data):
            return name, decoder
    raise OSError("the content is of none of the known formats" if data else "the file is empty")


def check_size(size: Sequence[int], max_pixels: int) -> None:
    """Refuse a size, (width, height), of more pixels than these."""
    width, height = size
    if width * height > max_pixels:
        raise OSError(f"{width} x {height} pixels are more than {max_pixels}")


def _webp_size(data: bytes) -> tuple[int, int]:
    """(width, height) of the canvas, from the header of any of the three kinds of WebP."""
    kind, start = data[12:16], data[20:30].ljust(10, b"\0")
    if kind == b"VP8X":
        width, height = (int.from_bytes(start[at : at + 3], "little") + 1 for at in (4, 7))
        return width, height
    if kind == b"VP8L":
        bits = int.from_bytes(start[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack("<HH", start[6:10])
    return width & 0x3FFF, height & 0x3FFF


def _check_scans(data: bytes) -> None:
    """Refuse a progressive JPEG that asks to be decoded over and over."""
    scans = 0
    # The segments come one after another, each with its length; after the start of a scan come
    # its data, where a byte ff followed by 0 or by a restart mark is no mark of a segment.
    mark = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
    found = mark.search(data, 2)
    while found and found.group() != b"\xff\xd9" and scans <= MAX_SCANS:
        scans += found.group() == b"\xff\xda"
        length = int.from_bytes(data[found.end() : found.end() + 2], "big")
        found = mark.search(data, found.end() + length)
    if scans > MAX_SCANS:
        raise OSError(f"it has more than {MAX_SCANS} scans")


def _scale_transparency(image: Image.Image, bits: int) -> None:
    """Bring a PNG's transparent colour from the file's bits to the eight that Pillow gives."""
    key = image.info["transparency"]
    if isinstance(key, tuple):
        image.info["transparency"] = tuple(part >> (bits - 8) for part in key)
    else:
        image.info["transparency"] = key * 255 // (2**bits - 1)
