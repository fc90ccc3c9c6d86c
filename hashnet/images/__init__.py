"""From files to pixels and back: finding, reading, resizing and writing pictures.

No other file touches Pillow. Whatever the bytes of a file, the answer is an image, uint8 RGB
`(height, width, 3)` and upright, or an `ImageError` that names the file and says why.

A file is judged by its content, never by its name. Only the six formats of `ALLOWED_FORMATS` are
tried, each by its own decoder; the header's size is checked before a pixel is decoded; only the
first frame or page is. Colour profiles (ICC) are ignored: the numbers in the file are the colours.
All functions may run in many threads at once.
"""

import contextlib
import dataclasses
import functools
import io
import logging
import os
import re
import stat
import struct
import threading
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO, Protocol, runtime_checkable

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageDraw,
    ImageFile,
    ImageFont,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from hashnet import files
from hashnet.errors import ArgumentError, HashnetError, ImageError, ShapeError

ALLOWED_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
MAX_PIXELS = 50_000_000
MAX_BYTES = 256 * 2**20
MAX_SCANS = 200

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


@runtime_checkable
class Readable(Protocol):
    """A binary file object: bytes, `size` of them at most, and none at its end."""

    def read(self, size: int, /) -> bytes: ...


Source = str | os.PathLike[str] | bytes | bytearray | memoryview | Readable
Box = tuple[float, float, float, float]

# A side is first reduced, by the JPEG decoder or by box averages, to no less than this many times
# the side asked for; the filter does the rest. At 2 the difference cannot be seen.
REDUCING_GAP = 2.0

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

_ORIENTATION = 0x0112  # the EXIF tag
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """A file that `find` found.

    Attributes:
        path: str. The root as it was given, joined with the names below it, kept as they are.
        size: int, bytes.
        mtime_ns: int, nanoseconds since 1970. Time of the last change.
        folder: str or None. The first folder below the root, which serves as class label; `None`
            for a file that lies directly in the root or was named itself.
    """

    path: str
    size: int
    mtime_ns: int
    folder: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """A path that `find` could not take, and why.

    Attributes:
        path: str, as it was given or found.
        reason: str, for a person.
    """

    path: str
    reason: str


# Reading


def read(
    source: Source, *, min_side: int | None = None, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Read a picture as RGB, upright, from its first frame or page.

    Each mode has one meaning:

    - grey, palette, CMYK (in JPEG as Adobe writes it, inverted), YCbCr, LAB and HSV become RGB;
    - transparency, as a channel, in the palette or as one colour, is laid on white;
    - 16 bits a pixel are scaled, 65535 to 255;
    - 32-bit integers and floats within 0..255 stay as they are, except floats within 0..1, which
      are scaled by 255. Integers within 0..65535 count as 16 bits. All others are stretched from
      their least to their greatest value; if these are equal, the picture is black. Not-a-number
      and minus infinity are black, infinity is white.

    A truncated file is refused. So are pictures of more than `max_pixels`, files of more than
    `MAX_BYTES`, progressive JPEG of more than `MAX_SCANS` scans, and anything but a regular file.
    Damage that the format itself cannot notice (a changed byte within JPEG data, say) is not seen.

    Args:
        source: path (str or `os.PathLike`), or the file's content (bytes, bytearray or memoryview),
            or a binary file object, which is read from where it stands to its end.
        min_side: positive int or None, pixels. If given, a JPEG picture may be decoded at 1/2, 1/4
            or 1/8 of its size, which is several times faster, as long as its shorter side keeps
            `min_side` pixels.
        max_pixels: positive int. Largest height times width.

    Returns:
        uint8 array of shape `(height, width, 3)`, writable.

    Raises:
        ImageError: if the file cannot be opened, or is not such a picture.
        ArgumentError: if `min_side` is below 1.

    Example:
        >>> white = np.full((2, 3, 3), 255, dtype="uint8")
        >>> read(to_png(white)).shape
        (2, 3, 3)
    """
    if min_side is not None and min_side < 1:
        raise ArgumentError("A side has at least one pixel.", f"min_side={min_side}")
    draft = None if min_side is None else (min_side, min_side)
    with _refusals(source):
        image, _ = _decode(source, max_pixels, draft)
        return np.array(image)


def read_resized(
    source: Source, size: tuple[int, int], *, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Read a picture and squash the whole of it to `size`: the fast way to a network's input.

    Equal to `resize(read(source), size)`, except that a JPEG picture whose sides are at least four
    times as long is decoded at 1/2, 1/4 or 1/8 of its size. The mean difference is then about 1
    of 255, and below 4 even for drawings full of fine lines.

    Args:
        source: as in `read`.
        size: (height, width), pixels. The aspect ratio is not kept.
        max_pixels: positive int. Largest height times width of the picture in the file.

    Returns:
        uint8 array of shape `(height, width, 3)`, writable.

    Raises:
        ImageError: as in `read`.

    Example:
        >>> grey = np.full((5, 9, 3), 128, dtype="uint8")
        >>> read_resized(to_png(grey), (2, 2)).tolist()[0]
        [[128, 128, 128], [128, 128, 128]]
    """
    height, width = _checked_size(size)
    draft = (int(REDUCING_GAP * height), int(REDUCING_GAP * width))
    with _refusals(source):
        image, box = _decode(source, max_pixels, draft)
        return np.array(_resized(image, height, width, box))


def size(source: Source, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """The size of a picture once it is upright, from its header: no pixel is decoded for it.

    Only a PNG may be, whose orientation can stand behind its pixels.

    Args:
        source, max_pixels: as in `read`.

    Returns:
        (height, width), pixels: what `read` gives.

    Raises:
        ImageError: as in `read`, except that damage behind the header is not seen.

    Example:
        >>> size(to_png(np.zeros((4, 6, 3), dtype="uint8")))
        (4, 6)
    """
    with _refusals(source):
        image = _open(_content(source), max_pixels)
        width, height = image.size
        # The size of a TIFF is that of the upright picture, as Pillow opens it.
        lies = image.format != "TIFF" and _orientation(image) >= 5
        return (width, height) if lies else (height, width)


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Squash the whole image to `size` with antialiased bicubic filtering.

    Args:
        image: uint8 array of shape `(height, width, 3)`.
        size: (height, width), pixels. The aspect ratio is not kept.

    Returns:
        uint8 array of shape `(*size, 3)`, writable.

    Raises:
        ShapeError: if `image` is of another dtype or shape.

    Example:
        >>> resize(np.zeros((4, 6, 3), dtype="uint8"), (2, 3)).shape
        (2, 3, 3)
    """
    height, width = _checked_size(size)
    return np.array(_resized(_to_pillow(image), height, width))


def _resized(image: Image.Image, height: int, width: int, box: Box | None = None) -> Image.Image:
    """The part of a Pillow image within the box, or all of it, at another size."""
    if image.size == (width, height) and box is None:
        return image
    return image.resize((width, height), Image.Resampling.BICUBIC, box, REDUCING_GAP)


def _checked_size(size: tuple[int, int]) -> tuple[int, int]:
    try:
        height, width = (int(side) for side in size)
    except (TypeError, ValueError):
        height = width = 0
    if height < 1 or width < 1:
        raise ArgumentError("A size is (height, width), each 1 or more.", f"size={size!r}")
    return height, width


class _Silence(threading.local):
    """Keeps Pillow's warnings and log lines to itself, in the threads that are decoding for us.

    Pillow warns about files that are a little broken; nobody can act on that, and with warnings
    turned into errors a good picture would be refused. `warnings.catch_warnings` is not for
    threads: it swaps one list that all of them share. This object stands in that list as the
    pattern for module names, and matches any name while its own thread decodes, and none else.
    """

    decoding = False

    def match(self, _module: str) -> bool:
        return self.decoding

    def filter(self, _record: logging.LogRecord) -> bool:
        return not self.decoding

    def __enter__(self) -> None:
        if not warnings.filters or warnings.filters[0] is not _SILENT:
            filters: Any = warnings.filters  # a list, which its stub keeps to itself
            filters.insert(0, _SILENT)
        logging.getLogger(TiffImagePlugin.__name__).addFilter(self)  # the one that logs errors
        self.decoding = True

    def __exit__(self, *_exception: object) -> None:
        self.decoding = False


_silence = _Silence()
_SILENT: tuple[Any, ...] = ("ignore", None, Warning, _silence, 0)


@contextlib.contextmanager
def _refusals(source: Source) -> Iterator[None]:
    """Turn whatever goes wrong inside into an `ImageError` that names the source."""
    try:
        with _silence:
            yield
    except HashnetError:
        raise
    except Exception as error:  # Pillow raises nearly anything, depending on the bytes
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        if isinstance(error, MemoryError):
            reason = "more memory is needed than there is"
        raise _refusal(_name(source), reason[:200] or type(error).__name__) from error


def _refusal(name: str, reason: str) -> ImageError:
    return ImageError(
        "An image must be a whole, regular file of a known format.",
        f"{name}: {reason}",
        f"Known formats: {', '.join(ALLOWED_FORMATS)}.",
    )


def _name(source: Source) -> str:
    """The source as messages call it; `repr` keeps odd names printable."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"{len(source)} bytes"
    if isinstance(source, (str, os.PathLike)):
        return repr(os.fsdecode(source))
    return repr(getattr(source, "name", type(source).__name__))


def _decode(
    source: Source, max_pixels: int, draft: tuple[int, int] | None
) -> tuple[Image.Image, Box | None]:
    """The source as an upright Pillow image of mode RGB, its sides no shorter than `draft`.

    Also the box that the picture fills, (left, top, right, bottom), or `None` for all of it: at
    1/8 of its size a picture of 60 pixels fills 7.5 of 8.
    """
    data = _content(source)
    image: Image.Image = _open(data, max_pixels)
    box = None
    if image.format == "JPEG":
        orientation = _orientation(image)
        if draft is not None:
            height, width = draft if orientation < 5 else draft[::-1]
            drafted = image.draft(None, (width, height))
            if drafted is not None:
                box = _turned(drafted[1], image.size, orientation)
        image.load()
    else:
        image.load()
        # Pillow itself turns a TIFF while it loads; in a PNG the tag may follow the pixels.
        orientation = 1 if image.format == "TIFF" else _orientation(image)
    image = _to_rgb(image)
    if orientation in _TRANSPOSITIONS:
        image = image.transpose(_TRANSPOSITIONS[orientation])
    return image, box if box != (0, 0, *image.size) else None


def _turned(box: Box, size: tuple[int, int], orientation: int) -> Box:
    """A box of the stored picture as a box of the upright one."""
    (left, top, right, bottom), (width, height) = box, size
    if orientation in (5, 6, 7, 8):
        left, top, right, bottom, width, height = top, left, bottom, right, height, width
    if orientation in (2, 3, 6, 7):
        left, right = width - right, width - left
    if orientation in (3, 4, 7, 8):
        top, bottom = height - bottom, height - top
    return left, top, right, bottom


def _content(source: Source) -> bytes:
    """All bytes of the source. They are read first and once, so that a file that changes
    meanwhile can end too early, which is noticed, but cannot pull mapped memory away."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        _check_bytes(len(source))
        return bytes(source)
    if isinstance(source, Readable):
        return _drained(source)
    # Opening must not wait for a writer to a pipe; and what was opened is what gets checked.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(source, flags)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"it is a {_kind(status.st_mode)}")
        with open(descriptor, "rb", closefd=False) as file:
            _decoder(file.peek(16))  # a file that is no picture is not read to its end
            _check_bytes(status.st_size)
            return file.read(status.st_size)
    finally:
        os.close(descriptor)


def _drained(file: Readable) -> bytes:
    content = bytearray()
    while chunk := file.read(2**20):
        if not isinstance(chunk, bytes):
            raise TypeError("the file object does not give bytes; open it in binary mode")
        content += chunk
        _check_bytes(len(content))
    return bytes(content)


def _check_bytes(count: int) -> None:
    if count > MAX_BYTES:
        raise OSError(f"{count} bytes are more than {MAX_BYTES}")


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "folder",
        stat.S_IFIFO: "pipe",
        stat.S_IFSOCK: "socket",
        stat.S_IFCHR: "device",
        stat.S_IFBLK: "device",
    }
    return kinds.get(stat.S_IFMT(mode), "special file")


def _decoder(data: bytes) -> tuple[str, Callable[[BinaryIO], ImageFile.ImageFile]]:
    """The format and decoder that the first bytes call for."""
    for signature, name, decoder in _DECODERS:
        if signature.match(data):
            return name, decoder
    raise OSError("the content is of none of the known formats" if data else "the file is empty")


def _open(data: bytes, max_pixels: int) -> ImageFile.ImageFile:
    """The image with its header read and its size found acceptable; no pixel is decoded yet."""
    name, decoder = _decoder(data)
    if name == "WEBP":
        _check_size(_webp_size(data), max_pixels)  # its decoder allocates on opening
    image = decoder(io.BytesIO(data))
    _check_size(image.size, max_pixels)
    if name == "JPEG" and "progressive" in image.info:
        _check_scans(data)
    if name == "PNG" and image.mode in ("L", "RGB") and "transparency" in image.info:
        _scale_transparency(image, bits=data[24])
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tile = [image.tag_v2.get(TiffImagePlugin.TILEWIDTH, 1)]
        tile += [image.tag_v2.get(TiffImagePlugin.TILELENGTH, 1)]
        _check_size(tile, max(max_pixels, 2**20))  # a small picture in one tile of gigabytes
    return image


def _check_size(size: Sequence[int], max_pixels: int) -> None:
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


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1, upright, where there is none or it cannot be read."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF data of a good picture
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any mode as RGB; see `read` for the rules."""
    key = image.info.get("transparency")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or (image.mode == "P" and key is not None):
        return _on_white(image.convert("RGBA"))
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image)
        grey = _to_grey(values)
    elif key is None:
        return image if image.mode == "RGB" else image.convert("RGB")
    else:
        values = np.asarray(image)
        grey = np.array(image.convert("RGB"))
    if key is not None:  # one colour is transparent: white, then
        same = values == np.asarray(key)
        grey[same if same.ndim == 2 else same.all(axis=2)] = 255
    return Image.fromarray(grey).convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image)
    return white


def _to_grey(values: np.ndarray) -> np.ndarray:
    """Grey values of 16 or 32 bits as uint8, by the rules of `read`."""
    grey = np.empty(values.shape, dtype=np.uint8)
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if values.dtype.kind == "u":
        low, high = 0.0, 65535.0
    elif values.dtype.kind == "f" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    elif low >= 0 and high <= 255:
        low, high = 0.0, 255.0
    elif values.dtype.kind == "i" and low >= 0 and high <= 65535:
        low, high = 0.0, 65535.0
    span = high - low if high > low else np.inf
    # In float64, and in blocks, so that it takes no eightfold memory.
    source, target = values.reshape(-1), grey.reshape(-1)
    for start in range(0, source.size, 2**20):
        block = source[start : start + 2**20].astype(np.float64)
        block = np.nan_to_num(block, nan=low, posinf=np.inf, neginf=low)
        infinite = np.isinf(block)
        block[infinite] = low
        block = np.rint(np.clip((block - low) * 255 / span, 0, 255))
        block[infinite] = 255
        target[start : start + 2**20] = block.astype(np.uint8)
    return grey


# Finding


def find(
    paths: Iterable[str | os.PathLike[str]], *, follow_links: bool = False
) -> tuple[list[Found], list[Problem]]:
    """List the pictures in files and folders, in an order that is always the same.

    A file that is named itself is taken whatever its name. In a folder the files come first, by
    name, then the folders, by name, each with all below it. Hidden ones (`.name`) and files whose
    name does not end as a picture's does (`SUFFIXES`) are passed over in silence. Content is not
    looked at: `read` does that. A link to a file counts as a file under the link's name. Links to
    folders, pipes, devices, folders that may not be read, and paths that do not exist are
    problems. What is reached twice is listed the first time only.

    Args:
        paths: files and folders, each str or `os.PathLike`.
        follow_links: bool. Enter linked folders too; each folder is entered once, so loops end.

    Returns:
        found: list of `Found`.
        problems: list of `Problem`.

    Example:
        >>> find(["no/such/folder"])
        ([], [Problem(path='no/such/folder', reason='No such file or directory')])
    """
    if isinstance(paths, (str, bytes, os.PathLike)):
        paths = [paths]
    walk = _Walk(follow_links)
    for path in paths:
        walk.add(os.fsdecode(path))
    return walk.found, walk.problems


class _Walk:
    """What one call of `find` has seen so far."""

    def __init__(self, follow_links: bool) -> None:
        self.follow_links = follow_links
        self.found: list[Found] = []
        self.problems: list[Problem] = []
        self.files_seen: set[str] = set()
        self.folders_seen: set[str] = set()

    def add(self, path: str) -> None:
        """Take a path that was named."""
        try:
            status = os.stat(path)
            if stat.S_ISDIR(status.st_mode):
                self._add_tree(path)
            else:
                self._add_file(path, os.path.realpath(os.path.dirname(path)), status, None)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            self._add_problem(path, error)

    def _add_tree(self, root: str) -> None:
        # A list and no recursion: folders may lie deeper than Python's stack.
        todo: list[tuple[str, str, str | None]] = [(root, os.path.realpath(root), None)]
        while todo:
            path, home, label = todo.pop()
            if home in self.folders_seen:
                continue
            self.folders_seen.add(home)
            try:
                with os.scandir(path) as scan:
                    entries = sorted(scan, key=lambda entry: entry.name)
            except OSError as error:
                self._add_problem(path, error)
                continue
            below = []
            for entry in entries:
                if self._is_folder(entry, home, label):
                    real = os.path.join(home, entry.name)
                    real = os.path.realpath(real) if entry.is_symlink() else real
                    below.append((entry.path, real, label or entry.name))
            todo += reversed(below)

    def _is_folder(self, entry: os.DirEntry[str], home: str, label: str | None) -> bool:
        """Say whether the entry is a folder to enter; if it is a file, take it."""
        if entry.name.startswith("."):
            return False
        if entry.is_dir(follow_symlinks=False):
            return True
        is_picture = entry.name.lower().endswith(SUFFIXES)
        if entry.is_file(follow_symlinks=False) and not is_picture:
            return False
        try:
            status = entry.stat()
        except OSError as error:
            if is_picture:
                self._add_problem(entry.path, error)
            return False
        if stat.S_ISDIR(status.st_mode):
            if not self.follow_links:
                self._add_problem(entry.path, "it is a link to a folder, which is not followed")
            return self.follow_links
        if is_picture or not stat.S_ISREG(status.st_mode):
            self._add_file(entry.path, home, status, label)
        return False

    def _add_file(self, path: str, home: str, status: os.stat_result, label: str | None) -> None:
        place = os.path.join(home, os.path.basename(path))
        if place in self.files_seen:
            return
        self.files_seen.add(place)
        if stat.S_ISREG(status.st_mode):
            self.found.append(Found(path, status.st_size, status.st_mtime_ns, label))
        else:
            self._add_problem(path, f"it is a {_kind(status.st_mode)}")

    def _add_problem(self, path: str, reason: str | Exception) -> None:
        if isinstance(reason, Exception):
            reason = getattr(reason, "strerror", None) or str(reason)
        self.problems.append(Problem(path, reason))


# Writing


def to_png(image: np.ndarray) -> bytes:
    """Encode an image as PNG, without loss and without metadata.

    Args:
        image: uint8 array of shape `(height, width, 3)`.

    Returns:
        bytes, the whole file.

    Raises:
        ShapeError: if the image has another dtype or shape, or no pixels.
        ImageError: if it cannot be written as PNG.

    Example:
        >>> to_png(np.zeros((1, 1, 3), dtype="uint8"))[:4]
        b'\x89PNG'
    """
    return _encode(image, "PNG")


def to_jpeg(image: np.ndarray, quality: int = 90) -> bytes:
    """Encode an image as JPEG without metadata.

    Args:
        image: uint8 array of shape `(height, width, 3)`, each side 65,500 pixels at most.
        quality: int, 1 to 100.

    Returns:
        bytes, the whole file.

    Raises:
        ArgumentError: if the quality is out of range.
        ShapeError: if the image has another dtype or shape, or no pixels.
        ImageError: if a side is too long for JPEG.

    Example:
        >>> to_jpeg(np.zeros((1, 1, 3), dtype="uint8"))[:2]
        b'\xff\xd8'
    """
    if not 1 <= quality <= 100:
        raise ArgumentError("The quality of a JPEG is 1 to 100.", f"quality={quality}")
    return _encode(image, "JPEG", quality=quality)


def write(path: str | os.PathLike[str], image: np.ndarray) -> None:
    """Write an image as PNG or JPEG, whichever the path's suffix says.

    It is written beside and then renamed, so that nobody sees half a picture.

    Args:
        path: str or `os.PathLike`, ending in `.png`, `.jpg` or `.jpeg`.
        image: uint8 array of shape `(height, width, 3)`.

    Raises:
        ArgumentError: if the suffix is another one.
        ImageError: if the file cannot be written.

    Example:
        >>> import os, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write(os.path.join(folder, "black.png"), np.zeros((2, 2, 3), dtype="uint8"))
        ...     os.listdir(folder)
        ['black.png']
    """
    path = os.fsdecode(path)
    encoders = {".png": to_png, ".jpg": to_jpeg, ".jpeg": to_jpeg}
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in encoders:
        raise ArgumentError(
            "A picture is written as PNG or JPEG.",
            repr(path),
            f"End the name in one of: {', '.join(encoders)}.",
        )
    content = encoders[suffix](image)
    try:
        with files.whole_file(path) as file:
            file.write(content)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageError("The picture could not be written.", f"{path!r}: {reason}") from error


def _encode(image: np.ndarray, name: str, **options: int) -> bytes:
    picture = _to_pillow(image)
    file = io.BytesIO()
    try:
        picture.save(file, name, **options)
    except (OSError, ValueError) as error:  # a side longer than the format allows
        width, height = picture.size
        raise ImageError(
            f"The picture cannot be written as {name}.", f"{width} x {height} pixels: {error}"
        ) from error
    return file.getvalue()


def _to_pillow(image: np.ndarray) -> Image.Image:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ShapeError(
            "An image is a uint8 array of shape (height, width, 3), each side 1 or more.",
            f"{image.dtype} of shape {image.shape}",
        )
    return Image.fromarray(image)


def text(line: str, height: int = 14) -> np.ndarray:
    """Draw one line of text, for a picture's caption.

    The font is Pillow's own and knows plain Latin letters: others lose their accents, what is
    not printable (control characters, the stand-ins for bytes that are not UTF-8) becomes a
    question mark, and all else a box. Of a longer line the first 1,000 characters are drawn.

    Args:
        line: str.
        height: positive int, pixels.

    Returns:
        uint8 array of shape `(height, width)`: 0 the ground, 255 the letters. The width is as the
        text needs it, 1 or more.

    Raises:
        ArgumentError: if the height is below 1.

    Example:
        >>> text("cat", height=14).shape[0]
        14
    """
    if height < 1:
        raise ArgumentError("A line of text is one pixel high or more.", f"height={height}")
    line = unicodedata.normalize("NFKD", line[:1000])
    line = "".join(char if char.isprintable() else "?" for char in line if not _is_accent(char))
    font = _font(height)
    width = max(1, round(font.getlength(line)))
    mask = Image.new("L", (width, height))
    ImageDraw.Draw(mask).text((0, 0.78 * height), line, fill=255, font=font, anchor="ls")
    return np.array(mask)


def _is_accent(char: str) -> bool:
    return unicodedata.combining(char) > 0


@functools.lru_cache(maxsize=8)
def _font(height: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=max(1, 0.8 * height))  # the rest is room for descenders
