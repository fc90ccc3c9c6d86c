"""Formats that other libraries than Pillow decode, each loaded when a file needs it."""

import functools
import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from hashnet import extras
from hashnet.errors import ImageError
from hashnet.images.jpeg import JpegFile

_HEIF = "HEIC and HEIF pictures are decoded by pillow-heif."
_JXL = "JPEG XL pictures are decoded by imagecodecs."
_RAW = "Of a raw photo the preview is read, by rawpy."
# A JPEG XL picture says its width, or its ratio to the height.
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_SIZE_BITS = (9, 13, 18, 30)


class _Later(ImageFile.ImageFile):
    """A picture whose size is known, and whose pixels another library gives when they are wanted.

    Args:
        size: (width, height), pixels.
        decode: function that gives the picture.
    """

    format = "JXL"

    def __init__(self, size: tuple[int, int], decode: Callable[[], Image.Image]) -> None:
        self._decode = decode
        self._wanted = size
        super().__init__(io.BytesIO())

    def _open(self) -> None:
        self._size, self._mode = self._wanted, "RGB"

    def load(self) -> Any:
        """Decode, as Pillow calls it."""
        if self._im is None:
            image = self._decode()
            self._mode, self._size, self.im = image.mode, image.size, image.im
        return Image.Image.load(self)


def open_heif(content: bytes) -> ImageFile.ImageFile:
    """The primary picture of a HEIC or HEIF file, turned as the file says."""
    plugin = extras.load("pillow_heif.as_plugin", "pillow-heif>=1.8", _HEIF, ImageError)
    image: ImageFile.ImageFile = plugin.HeifImageFile(io.BytesIO(content))
    return image


def open_jxl(content: bytes) -> ImageFile.ImageFile:
    """A JPEG XL picture; of an animation, the first frame."""
    imagecodecs = extras.load("imagecodecs", "jxl", _JXL, ImageError)

    def decode() -> Image.Image:
        values = imagecodecs.jpegxl_decode(content)
        if values.ndim == 4:
            values = values[0]
        if values.dtype != np.uint8:
            from hashnet.images import pixels

            values = pixels.to_bytes(values)
        return Image.fromarray(values)

    width, height, orientation = _jxl_head(content)
    return _Later((height, width) if orientation >= 5 else (width, height), decode)


def jxl_size(content: bytes) -> tuple[int, int]:
    """(width, height) of a JPEG XL picture as it is stored, from its first bits."""
    return _jxl_head(content)[:2]


def _jxl_head(content: bytes) -> tuple[int, int, int]:
    """Width, height and orientation."""
    start = content[:40]
    if not content.startswith(b"\xff\x0a"):  # boxes, as in MP4
        at = 0
        while content[at + 4 : at + 8] not in (b"jxlc", b"jxlp", b""):
            size = int.from_bytes(content[at : at + 4], "big")
            if size < 8:
                break
            at += size
        at += 8 if content[at + 4 : at + 8] == b"jxlc" else 12
        start = content[at : at + 40]
    if not start.startswith(b"\xff\x0a"):
        raise OSError("the picture is truncated: its header is missing")
    bits = int.from_bytes(start[2:], "little")

    def take(count: int) -> int:
        nonlocal bits
        value = bits & ((1 << count) - 1)
        bits >>= count
        return value

    is_small = take(1)

    def side() -> int:
        return 8 * (take(5) + 1) if is_small else take(_SIZE_BITS[take(2)]) + 1

    height = side()
    ratio = take(3)
    width = height * _RATIOS[ratio - 1][0] // _RATIOS[ratio - 1][1] if ratio else side()
    has_more = not take(1) and take(1)
    return width, height, take(3) + 1 if has_more else 1


def open_raw(content: bytes) -> ImageFile.ImageFile:
    """The preview that a camera has put into its raw file, upright."""
    rawpy = extras.load("rawpy", "raw", _RAW, ImageError)
    try:
        with rawpy.imread(io.BytesIO(content)) as raw:
            thumbnail, flip = raw.extract_thumb(), raw.sizes.flip
    except rawpy.LibRawError as error:
        reason = error.args[0] if error.args else "it is damaged"
        text = reason.decode() if isinstance(reason, bytes) else str(reason)
        raise OSError(f"no preview can be read from this raw file: {text}") from error
    if thumbnail.format == rawpy.ThumbFormat.JPEG:
        image: ImageFile.ImageFile = JpegFile(thumbnail.data)
        if 0x0112 not in image.getexif():
            image.getexif()[0x0112] = {3: 3, 5: 8, 6: 6}.get(flip, 1)
        return image
    pixels = thumbnail.data
    size = pixels.shape[1], pixels.shape[0]
    return _Later(size, functools.partial(Image.fromarray, pixels))
