"""The formats that are read: each known by its first bytes, and opened by its own decoder.

The header's size is checked before a pixel is decoded, and what would take a decoder far more time
or memory than a picture needs is refused.
"""

import dataclasses
import functools
import importlib
import io
import re
import struct
from collections.abc import Callable, Sequence
from typing import Any

from PIL import ImageFile, TiffImagePlugin

from hashnet.images.counting import check_boxes, check_packets, check_riff, check_runs
from hashnet.images.directories import is_bounded, without_head
from hashnet.images.gif import open_gif
from hashnet.images.jpeg import REDUCTION, JpegFile
from hashnet.images.netpbm import netpbm_size, open_netpbm
from hashnet.images.others import jxl_size, open_heif, open_jxl, open_raw
from hashnet.images.png import open_png
from hashnet.images.resizing import Box
from hashnet.images.tiff import TiffFile, is_raw, open_tiff

_BYTES_A_PIXEL = 6  # of samples that Pillow does not unpack: those of RGB in 16 bits

HEAD_BYTES = 256  # by so many a format is known

Opener = Callable[[bytes], ImageFile.ImageFile]


@dataclasses.dataclass(frozen=True, slots=True)
class Format:
    """A format that is read.

    Attributes:
        name: str, as messages call it.
        suffixes: tuple of str, lower case. What its files are mostly called; never what decides,
            except for TGA.
        signature: compiled pattern of the first bytes.
        open: function of a file's content that reads its header; no pixel is decoded yet.
        reader: str. The library that decodes it.
        note: str, for the table of the documentation.
        is_dense: bool. Whether a picture's data ends in anything but many zeros.
        count: function of a file's content that raises OSError where what it is made of is far
            more than a picture needs; or None, where `open` sees to that.
        size: function of a file's content that gives (width, height), where `open` is not to be
            called for a size that is too large; or None.
    """

    name: str
    suffixes: tuple[str, ...]
    signature: re.Pattern[bytes]
    open: Opener
    reader: str
    note: str = ""
    is_dense: bool = False
    count: Callable[[bytes], None] | None = None
    size: Callable[[bytes], tuple[int, int]] | None = None


def _pillow(plugin: str, decoder: str) -> Opener:
    """One decoder of Pillow, loaded when it is first needed.

    The decoders are called by name, not through `Image.open`, which loads every plugin that Pillow
    has, hands some JPEG files to another one (MPO), and warns about large pictures.
    """

    def open(content: bytes) -> ImageFile.ImageFile:
        module = importlib.import_module(f"PIL.{plugin}")
        image: ImageFile.ImageFile = getattr(module, decoder)(io.BytesIO(content))
        return image

    return open


def _pattern(expression: bytes) -> re.Pattern[bytes]:
    return re.compile(expression, re.DOTALL)


def _open_icon(content: bytes) -> ImageFile.ImageFile:
    """The largest picture of an icon, which is a PNG of its own or rows of a BMP."""
    image: Any = _pillow("IcoImagePlugin", "IcoImageFile")(content)
    largest = image.ico.entry[0]
    inner = content[largest.offset : largest.offset + largest.size]
    if _OF_NAME["PNG"].signature.match(inner):
        return _OF_NAME["PNG"].open(inner)  # Pillow would decode one of any size
    check_runs(inner, 0)
    width, height = struct.unpack("<ii", inner[4:12])
    if (width, height) != (largest.width, 2 * largest.height):  # the mask comes below
        raise OSError(f"the icon of {largest.width} x {largest.height} holds another picture")
    return image


def _webp_size(content: bytes) -> tuple[int, int]:
    """(width, height) of the canvas, from the header of any of the three kinds of WebP."""
    kind, start = content[12:16], content[20:30].ljust(10, b"\0")
    if kind == b"VP8X":
        width, height = (int.from_bytes(start[at : at + 3], "little") + 1 for at in (4, 7))
        return width, height
    if kind == b"VP8L":
        bits = int.from_bytes(start[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack("<HH", start[6:10])
    return width & 0x3FFF, height & 0x3FFF


def _check_jxl(content: bytes) -> None:
    if not content.startswith(b"\xff\x0a"):
        check_boxes(content)


FORMATS = (
    Format(
        "JPEG",
        (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
        _pattern(rb"\xff\xd8\xff"),
        JpegFile,
        "Pillow",
        "of an MPO, the first picture; a film behind the picture (motion photos) is passed over",
    ),
    Format(
        "PNG",
        (".png", ".apng"),
        _pattern(rb"\x89PNG\r\n\x1a\n"),
        open_png,
        "Pillow",
    ),
    Format(
        "WebP",
        (".webp",),
        _pattern(rb"RIFF....WEBP"),
        _pillow("WebPImagePlugin", "WebPImageFile"),
        "Pillow",
        is_dense=True,
        count=check_riff,
        size=_webp_size,  # its decoder allocates on opening
    ),
    Format(
        "GIF",
        (".gif",),
        _pattern(rb"GIF8[79]a"),
        open_gif,
        "Pillow",
    ),
    Format(
        "BMP",
        (".bmp", ".dib"),
        _pattern(rb"BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0"),
        _pillow("BmpImagePlugin", "BmpImageFile"),
        "Pillow",
        count=functools.partial(check_runs, start=14),
    ),
    Format(
        "RAW",
        (".dng", ".cr2", ".cr3", ".nef", ".nrw", ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw"),
        _pattern(rb"II\*\0.{4}CR|.{4}ftypcrx |FUJIFILMCCD-RAW|IIR[OS]|MMOR|IIU\0"),
        open_raw,
        "rawpy (extra `raw`)",
        "the preview that the camera has put into the file",
    ),
    Format(
        "TIFF",
        (".tif", ".tiff"),
        _pattern(rb"II[*+]\0|MM\0[*+]"),
        open_tiff,
        "Pillow",
        "the first page",
    ),
    Format(
        "AVIF",
        (".avif", ".avifs"),
        _pattern(rb".{4}ftyp(?:avi[fs]|(?:mif1|miaf|msf1).{4}(?:.{4}){0,12}?avi[fs])"),
        _pillow("AvifImagePlugin", "AvifImageFile"),
        "Pillow",
        is_dense=True,
        count=check_boxes,
    ),
    Format(
        "HEIF",
        (".heic", ".heif", ".hif", ".heics", ".heifs"),
        _pattern(rb".{4}ftyp(?:hei[cmsx]|hev[cmsx]|heif|mif1|miaf|msf1)"),
        open_heif,
        "pillow-heif",
        "HEIC too; the primary picture",
        is_dense=True,
        count=check_boxes,
    ),
    Format(
        "JPEG XL",
        (".jxl",),
        _pattern(rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n"),
        open_jxl,
        "imagecodecs (extra `jxl`)",
        "no colour profile",
        is_dense=True,
        count=_check_jxl,
        size=jxl_size,
    ),
    Format(
        "JPEG 2000",
        (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
        _pattern(rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n"),
        _pillow("Jpeg2KImagePlugin", "Jpeg2KImageFile"),
        "Pillow",
        is_dense=True,
        count=check_packets,
    ),
    Format(
        "PPM",
        (".ppm", ".pgm", ".pbm", ".pnm"),
        _pattern(rb"P[1-6]\s(?:\s|#[^\n]*\n)*\d"),
        open_netpbm,
        "Pillow",
        "PPM, PGM and PBM, binary and plain",
        size=netpbm_size,
    ),
    Format(
        "ICO",
        (".ico",),
        _pattern(rb"\0\0\x01\0[\x01-\x40]\0...\0"),
        _open_icon,
        "Pillow",
        "the largest picture",
    ),
    Format(
        "QOI",
        (".qoi",),
        _pattern(rb"qoif"),
        _pillow("QoiImagePlugin", "QoiImageFile"),
        "Pillow",
    ),
    # It has no signature: its header is looked at where the suffix says so, see `format_of`.
    Format(
        "TGA",
        (".tga", ".icb", ".vda", ".vst"),
        _pattern(
            rb".(?:\x01[\x01\x09].{4}[\x0f\x10\x18\x20].{4}(?!\0\0)..(?!\0\0)..\x08"
            rb"|\0[\x02\x0a].{5}.{4}(?!\0\0)..(?!\0\0)..[\x10\x18\x20]"
            rb"|\0[\x03\x0b].{5}.{4}(?!\0\0)..(?!\0\0)..[\x08\x10])[\0-\x3f]"
        ),
        _pillow("TgaImagePlugin", "TgaImageFile"),
        "Pillow",
        "known by its suffix and its header: it has no signature",
    ),
)
_PLUGINS = ("WebP", "Gif", "Bmp", "Avif", "Jpeg2K", "Ico", "Qoi", "Tga")
_OF_NAME = {one.name: one for one in FORMATS}
_OF_SUFFIX = {suffix: one for one in FORMATS for suffix in one.suffixes}
_RAW = _OF_NAME["RAW"]
_WITHOUT_SIGNATURE = ("TGA",)

ALLOWED_FORMATS = tuple(one.name for one in FORMATS)
SUFFIXES = tuple(_OF_SUFFIX)


def load_plugins() -> None:
    """Load the decoders of Pillow that are else loaded when a file needs them, for one thread."""
    for name in _PLUGINS:
        importlib.import_module(f"PIL.{name}ImagePlugin")
    importlib.import_module("PIL.ImageCms")
    # Each thread takes addresses for its stack, of which there are so many to a picture.
    avif: Any = importlib.import_module("PIL.AvifImagePlugin")
    avif.DEFAULT_MAX_THREADS = 1


def format_of(head: bytes, suffix: str = "") -> Format | None:
    """The format that a file's first bytes are of.

    Args:
        head: bytes, the first `HEAD_BYTES` or more.
        suffix: str, of the file's name, or "". Only TGA asks for it.

    Returns:
        A `Format`, or None.

    Example:
        >>> format_of(b"\\x89PNG\\r\\n\\x1a\\n").name, format_of(b"text")
        ('PNG', None)
    """
    for one in FORMATS:
        if one.name not in _WITHOUT_SIGNATURE and one.signature.match(head):
            return one
    named = _OF_SUFFIX.get(suffix.lower())
    if named and named.name in _WITHOUT_SIGNATURE and named.signature.match(head):
        return named
    return None


def known_format(head: bytes, suffix: str) -> Format:
    """The same; an `OSError` where there is none."""
    known = format_of(head, suffix)
    if known is None:
        raise OSError(
            "the content is of none of the known formats" if head else "the file is empty"
        )
    return known


def open_image(content: bytes, suffix: str, max_pixels: int) -> ImageFile.ImageFile:
    """The image with its header read and its size found acceptable; no pixel is decoded yet."""
    known = known_format(content, suffix)
    if known.name == "TIFF" and (_OF_SUFFIX.get(suffix.lower()) is _RAW or is_raw(content)):
        known = _RAW
    if known.count is not None:
        known.count(content)
    if known.size is not None:
        check_size(known.size(content), max_pixels)
    image = known.open(content)
    exif = image.info.get("exif")
    if isinstance(exif, bytes) and not is_bounded(without_head(exif)):
        del image.info["exif"]  # of a good picture, it may be
    can_reduce = image.format == "JPEG2000" or (isinstance(image, JpegFile) and image.is_sequential)
    check_size(image.size, REDUCTION**2 * max_pixels if can_reduce else max_pixels)
    if known.is_dense:
        _check_tail(content, image.width * image.height)
    if isinstance(image, TiffFile) and image.num_bytes > _BYTES_A_PIXEL * max_pixels:
        taken = f"{image.width} x {image.height} pixels, {image.num_bytes} bytes of samples,"
        raise TooManyPixelsError(f"{taken} take more memory than {max_pixels} pixels")
    if isinstance(image, TiffFile | TiffImagePlugin.TiffImageFile):
        tile = [image.tag_v2.get(TiffImagePlugin.TILEWIDTH, 1)]
        tile += [image.tag_v2.get(TiffImagePlugin.TILELENGTH, 1)]
        check_size(tile, max(max_pixels, 2**20))  # a small picture in one tile of gigabytes
    return image


def reduce(image: Any, content: bytes, size: tuple[int, int]) -> Box | None:
    """Have a picture decoded at 1/2, 1/4 or 1/8, if its format can; no side below `size`.

    Args:
        image: from `open_image`, not decoded yet.
        content: bytes of its file.
        size: (width, height), pixels.

    Returns:
        The box, (left, top, right, bottom), that the picture fills when it has been decoded; None
        if it will be decoded whole.
    """
    (width, height) = whole = image.size
    if isinstance(image, JpegFile):
        drafted = image.draft(None, size)
        box: Box | None = drafted[1] if drafted and image.size != whole else None
        return box
    if image.format != "JPEG2000":
        return None
    # Each level halves what the next one has, rounded up, and Pillow reckons with the nearest.
    coding = content.find(b"\xff\x52")
    levels = content[coding + 9] if 0 <= coding < len(content) - 9 else 0
    for level in range(min(levels, REDUCTION.bit_length() - 1), 0, -1):
        part = 2**level
        fits = all(-(-side // part) == (side + part // 2) // part for side in whole)
        if fits and width // part >= size[0] and height // part >= size[1]:
            image.reduce = level
            return 0.0, 0.0, width / part, height / part
    return None


def _check_tail(content: bytes, pixels: int) -> None:
    """Refuse a picture whose end is zeros: a disk was to hold it, and does not."""
    if content.startswith(b"RIFF"):  # what comes behind is not of it
        content = content[: 8 + int.from_bytes(content[4:8], "little")]
    held = content.rstrip(b"\0")
    zeros = len(content) - len(held)
    # A picture that is all of one colour below may end in some: bits for thousands of pixels each.
    if zeros > 64 + pixels // 1024 and not held.endswith(b"\xff\xd9"):
        raise OSError(f"the picture is truncated: its last {zeros} bytes are zeros")


class TooManyPixelsError(OSError):
    """A picture of more pixels than the limit, which can be set."""


def check_size(size: Sequence[int], max_pixels: int) -> None:
    """Refuse a size, (width, height), of more pixels than these."""
    width, height = size
    if width * height > max_pixels:
        raise TooManyPixelsError(f"{width} x {height} pixels are more than {max_pixels}")
