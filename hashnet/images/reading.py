"""Reading: one picture, decoded once, gives the whole image and every size that is asked for."""

import functools
import math
import os
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from hashnet.checks import checked_integer
from hashnet.errors import ArgumentError, ImageError
from hashnet.images import pixels, workers
from hashnet.images.costs import cost, is_costly
from hashnet.images.descriptions import description_of
from hashnet.images.exif import Exif, exif_of
from hashnet.images.formats import check_size, open_image, reduce
from hashnet.images.gif import FRAMES
from hashnet.images.resizing import REDUCING_GAP, Box, checked_size, resize, resized
from hashnet.images.sources import (
    FILES,
    File,
    content_hash,
    content_of,
    file_name_of,
    name_of,
    refusals,
    suffix_of,
)

MAX_PIXELS = 65_000_000

_ANIMATED = ("GIF", "PNG", "WEBP", "AVIF")
_REDUCIBLE = ("JPEG", "JPEG2000")
USUAL_BYTES = 2**25  # of a file; a longer one may take longer
_AT_ONCE = 2**22  # pixels that are copied

Source = File | Image.Image | np.ndarray


class _Limit:
    """How many pixels are decoded where nobody says otherwise."""

    max_pixels = MAX_PIXELS


def set_max_pixels(max_pixels: int) -> None:
    """Say how large pictures may be, in this process, wherever nothing else is asked for.

    Memory grows with it, by four bytes a pixel while a picture is decoded.

    Args:
        max_pixels: positive int. Largest height times width that is decoded.

    Raises:
        ArgumentError: it is no positive int.

    Example:
        >>> set_max_pixels(MAX_PIXELS)
    """
    _Limit.max_pixels = checked_integer(max_pixels, 1, "max_pixels")


class Photo:
    """One picture, whose bytes are read once and whose pixels are decoded once.

    The one exception is a large picture in JPEG or JPEG 2000, which `resized` and `at_least` decode
    again at 1/2, 1/4 or 1/8 of its size: other numbers than the whole image reduced, and several
    times faster where the whole image is not asked for.

    Args:
        source: a path (str or `os.PathLike`), the content of a file (bytes, bytearray or
            memoryview), a binary file object, which is read from where it stands to its end, a
            PIL image, or an array: uint8, or float within 0..1; grey `(height, width)` or
            `(height, width, 1)`, RGB `(height, width, 3)` or RGBA `(height, width, 4)`.
        max_pixels: positive int, or None: what `set_max_pixels` said, or `MAX_PIXELS`. Largest
            height times width that is decoded. In JPEG, unless it is progressive, and in JPEG
            2000, an eighth of each side is decoded where no more is asked for.

    Attributes:
        path: str or None. Where the source is a path, that path.

    Raises:
        ImageError: the source cannot be opened, or is not such a picture. Damage behind a file's
            header is seen only when it is decoded, and raised then.

    Example:
        >>> photo = Photo(np.zeros((4, 6), dtype="uint8"))
        >>> photo.size, photo.full().shape, photo.resized((2, 2)).shape
        ((4, 6), (4, 6, 3), (2, 2, 3))
    """

    def __init__(self, source: Source, *, max_pixels: int | None = None) -> None:
        self.path = os.fsdecode(source) if isinstance(source, str | os.PathLike) else None
        self._name, self._suffix = name_of(source), suffix_of(source)
        self._file_name = file_name_of(source)
        self._max_pixels = _Limit.max_pixels if max_pixels is None else max_pixels
        self._content: bytes | None = None
        self._undecoded: ImageFile.ImageFile | None = None
        self._upright: Image.Image | None = None
        self._can_reduce = self._goes_apart = False
        with refusals(self._name):
            if isinstance(source, np.ndarray):
                self._upright = pixels.from_array(source)
            elif isinstance(source, Image.Image):
                check_size(source.size, self._max_pixels)
                source.load()
                self._upright = self._turned_upright(source)
            elif isinstance(source, FILES):
                self._content = content_of(source)
                self._undecoded = open_image(self._content, self._suffix, self._max_pixels)
                self._can_reduce = self._undecoded.format in _REDUCIBLE
                self._cost = cost(self._undecoded, len(self._content), self._max_pixels)
                self._goes_apart = is_costly(self._cost) and workers.are_there()
            else:
                raise ImageError(
                    "An image is a path, bytes, a binary file, a PIL image or an array.",
                    f"{self._name} {source!r}"[:200],
                )

    @classmethod
    def of(cls, source: "Source | Photo") -> "Photo":
        """Make a photo of a source, or return it where it is one already.

        Args:
            source: as for the class, or a `Photo`.

        Returns:
            A `Photo`.
        """
        return source if isinstance(source, Photo) else cls(source)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the upright image, pixels; nothing is decoded for it."""
        if self._upright is not None:
            return self._upright.height, self._upright.width
        with refusals(self._name):
            image = self._taken()
            self._undecoded = image
            width, height = image.size
            # The size of a TIFF is that of the upright picture, as Pillow opens it.
            lies = image.format != "TIFF" and pixels.orientation_of(image) >= 5
            return (width, height) if lies else (height, width)

    @functools.cached_property
    def content_hash(self) -> bytes | None:
        """bytes: that of the file, as the function gives it; None for pixels."""
        return None if self._content is None else content_hash(self._content)

    @functools.cached_property
    def exif(self) -> Exif:
        """`Exif`: what the camera wrote into the file; all None for pixels."""
        if self._content is None:
            return Exif()
        with refusals(self._name):
            return exif_of(self._told, self._content if self._told.format == "TIFF" else None)

    @functools.cached_property
    def description(self) -> str | None:
        """str or None: what the file says of the photo beside the pixels; None for pixels."""
        if self._content is None:
            return None
        with refusals(self._name):
            return description_of(self._told)

    @functools.cached_property
    def _told(self) -> ImageFile.ImageFile:
        """The file as opened, for what it says beside the pixels: decoding takes another."""
        assert self._content is not None
        return open_image(self._content, self._suffix, self._max_pixels)

    def full(self) -> np.ndarray:
        """The whole image.

        Returns:
            uint8 array of shape `(height, width, 3)`, RGB and upright, writable and the caller's.

        Raises:
            ImageError: the picture is damaged.
        """
        with refusals(self._name):
            return _array_of(self._decoded())

    def resized(self, size: tuple[int, int]) -> np.ndarray:
        """The whole image squashed to another size: see `read_resized`.

        Args:
            size: (height, width), pixels. The aspect ratio is not kept.

        Returns:
            uint8 array of shape `(*size, 3)`, writable and the caller's.

        Raises:
            ImageError: the picture is damaged.
        """
        height, width = checked_size(size)
        if self._goes_apart and self._can_reduce:
            return self._apart("resized", height, width)
        with refusals(self._name):
            image, box = self._reduced(int(REDUCING_GAP * height), int(REDUCING_GAP * width))
            return np.array(resized(image, height, width, box))

    def at_least(self, min_side: int) -> np.ndarray:
        """The image, or a reduced one, whose shorter side keeps `min_side` pixels: see `read`."""
        if min_side < 1:
            raise ArgumentError("A side has at least one pixel.", f"min_side={min_side}")
        if self._goes_apart and self._can_reduce:
            return self._apart("at_least", min_side)
        with refusals(self._name):
            return np.array(self._reduced(min_side, min_side)[0])

    def within(self, side: int) -> np.ndarray:
        """The image at a size to look at: see `read_within`."""
        image = self.at_least(side)
        scale = min(1, side / max(image.shape[:2]))
        height, width = (max(1, round(length * scale)) for length in image.shape[:2])
        return resize(image, (height, width))

    def _taken(self) -> ImageFile.ImageFile:
        """The file as opened, for one use: decoding changes it."""
        assert self._content is not None
        image, self._undecoded = self._undecoded, None
        return open_image(self._content, self._suffix, self._max_pixels) if image is None else image

    def _apart(self, *wish: Any) -> np.ndarray:
        """What a process of its own decodes, which ends where that takes too much."""
        assert self._content is not None
        scale = max(1, len(self._content) / USUAL_BYTES, self._max_pixels / MAX_PIXELS)
        decoded: np.ndarray = workers.decoded(
            self._content,
            self._file_name,
            self._max_pixels,
            wish,
            scale=scale,
            megabytes=self._cost.megabytes,
        )
        return decoded

    def _decoded(self) -> Image.Image:
        if self._upright is None and self._goes_apart:
            self._upright = Image.fromarray(self._apart("full"))
        if self._upright is None:
            image = self._taken()
            check_size(image.size, self._max_pixels)  # of a JPEG, it may be too large for this
            image.load()
            self._upright = self._shown(image)
        return self._upright

    def _reduced(self, height: int, width: int) -> tuple[Image.Image, Box | None]:
        """The upright image, its sides no shorter than asked for if they were not before.

        Also the box that the picture fills, (left, top, right, bottom), or `None` for all of it:
        at 1/8 of its size a picture of 60 pixels fills 7.5 of 8.
        """
        if self._content is None or not self._can_reduce:
            return self._decoded(), None
        image = self._taken()
        orientation = pixels.orientation_of(image)
        size = (height, width) if orientation >= 5 else (width, height)
        part = reduce(image, self._content, size)
        if part is None:
            if self._upright is None:  # a file can be reduced once: this is its use
                self._undecoded = image
            return self._decoded(), None
        check_size([math.ceil(side) for side in part[2:]], self._max_pixels)
        image.load()
        box = pixels.turned_box(part, image.size, orientation)
        upright = self._turned_upright(image)
        return upright, box if box != (0, 0, *upright.size) else None

    @classmethod
    def _shown(cls, image: ImageFile.ImageFile) -> Image.Image:
        """The first frame, or the first of some that is not of one colour all over."""
        frame = first = cls._turned_upright(image)
        # Of large frames fewer are looked at: together they have no more pixels than one picture.
        most = min(FRAMES, MAX_PIXELS // (image.width * image.height))
        for number in range(1, most if image.format in _ANIMATED else 0):
            if frame.getcolors(1) is None:  # it has more than one
                return frame
            first = first.copy() if number == 1 else first  # its pixels are about to change
            try:
                image.seek(number)
                image.load()
            except Exception:  # there is none, or it is damaged: the picture is what came first
                return first
            frame = cls._turned_upright(image)
        return first if frame is first or frame.getcolors(1) else frame

    @staticmethod
    def _turned_upright(image: Image.Image) -> Image.Image:
        # Pillow itself turns a TIFF while it loads; in a PNG the tag may follow the pixels.
        orientation = 1 if image.format == "TIFF" else pixels.orientation_of(image)
        return pixels.turned(pixels.to_rgb(image), orientation)


def _array_of(image: Image.Image) -> np.ndarray:
    """The pixels as an array, strip by strip: Pillow hands out copies."""
    step = max(1, _AT_ONCE // image.width)
    if image.height <= step:
        return np.array(image)
    array = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, step):
        strip = image.crop((0, top, image.width, min(top + step, image.height)))
        array[top : top + step] = np.asarray(strip)
    return array


def is_one(source: object) -> bool:
    """Whether this is one image as `Photo` takes it, and no list of images.

    Pixels in three axes are one image; images of equal size, stacked, have four.

    Args:
        source: anything.

    Returns:
        bool.

    Example:
        >>> is_one("cat.png"), is_one(["cat.png"]), is_one(np.zeros((9, 9, 3)))
        (True, False, True)
    """
    if isinstance(source, np.ndarray):
        return source.ndim in (2, 3)
    return isinstance(source, (Photo, Image.Image, *FILES))


def read(
    source: Source, *, min_side: int | None = None, max_pixels: int | None = None
) -> np.ndarray:
    """Read a picture as RGB, upright, from its first page, or its first frame that is not of one
    colour all over.

    Each mode has one meaning:

    - grey, palette, CMYK (in JPEG as Adobe writes it, inverted), YCbCr, LAB and HSV become RGB;
    - colours of a profile (ICC) that is not sRGB become sRGB;
    - transparency, as a channel, in the palette or as one colour, is laid on white, unless more
      than a quarter of what is seen were lost on it, being within 48 of white; then on black or
      mid-grey (128), whichever loses less. Transparency that is full everywhere is ignored;
    - 16 bits a pixel are scaled, 65535 to 255; in TIFF, by the least of 8, 10, 12, 14, 16, 24 and
      32 bits that hold the greatest value, or by the greatest value that the file states;
    - other 32-bit integers and floats within 0..255 stay as they are, except floats within 0..1,
      which are scaled by 255. Integers within 0..65535 count as 16 bits. All others are stretched
      from their least to their greatest value; if these are equal, the picture is black.
      Not-a-number and minus infinity are black, infinity is white.

    A truncated file is refused, also one that was given an end mark again. So are pictures of more
    than `max_pixels`, files of more than `MAX_BYTES`, progressive JPEG of more than `MAX_SCANS`
    scans, and anything but a regular file. Damage that the format itself cannot notice (a changed
    byte within JPEG data, say) is not seen.

    Args:
        source: as for `Photo`: a path, bytes, a binary file, a PIL image or pixels.
        min_side: positive int or None, pixels. If given, a JPEG picture may be decoded at 1/2, 1/4
            or 1/8 of its size, which is several times faster, as long as its shorter side keeps
            `min_side` pixels.
        max_pixels: positive int or None, as for `Photo`.

    Returns:
        uint8 array of shape `(height, width, 3)`, writable.

    Raises:
        ImageError: if the file cannot be opened, or is not such a picture.
        ArgumentError: if `min_side` is below 1.

    Example:
        >>> white = np.full((2, 3, 3), 255, dtype="uint8")
        >>> from hashnet.images import to_png
        >>> read(to_png(white)).shape
        (2, 3, 3)
    """
    if min_side is not None and min_side < 1:
        raise ArgumentError("A side has at least one pixel.", f"min_side={min_side}")
    photo = Photo(source, max_pixels=max_pixels)
    return photo.full() if min_side is None else photo.at_least(min_side)


def read_resized(
    source: Source, size: tuple[int, int], *, max_pixels: int | None = None
) -> np.ndarray:
    """Read a picture and squash the whole of it to `size`: the fast way to a network's input.

    Equal to `resize(read(source), size)`, except that a JPEG picture whose sides are at least four
    times as long is decoded at 1/2, 1/4 or 1/8 of its size. The mean difference is then about 1
    of 255, and below 4 even for drawings full of fine lines.

    Args:
        source: as for `Photo`.
        size: (height, width), pixels. The aspect ratio is not kept.
        max_pixels: positive int or None, as for `Photo`.

    Returns:
        uint8 array of shape `(height, width, 3)`, writable.

    Raises:
        ImageError: as in `read`.

    Example:
        >>> grey = np.full((5, 9, 3), 128, dtype="uint8")
        >>> from hashnet.images import to_png
        >>> read_resized(to_png(grey), (2, 2)).tolist()[0]
        [[128, 128, 128], [128, 128, 128]]
    """
    checked_size(size)
    return Photo(source, max_pixels=max_pixels).resized(size)


def read_within(source: Source, side: int) -> np.ndarray:
    """Read a picture at a size to look at: its longer side `side` pixels or less.

    Args:
        source: as for `Photo`.
        side: positive int, pixels. Nothing is enlarged.

    Returns:
        uint8 array of shape `(height, width, 3)`, writable.

    Raises:
        ImageError: as in `read`.

    Example:
        >>> read_within(np.zeros((40, 100), dtype="uint8"), 50).shape
        (20, 50, 3)
    """
    return Photo(source).within(side)


def size(source: Source, *, max_pixels: int | None = None) -> tuple[int, int]:
    """The size of a picture once it is upright, from its header: no pixel is decoded for it.

    Only a PNG may be, whose orientation can stand behind its pixels.

    Args:
        source, max_pixels: as in `read`.

    Returns:
        (height, width), pixels: what `read` gives.

    Raises:
        ImageError: as in `read`, except that damage behind the header is not seen.

    Example:
        >>> from hashnet.images import to_png
        >>> size(to_png(np.zeros((4, 6, 3), dtype="uint8")))
        (4, 6)
    """
    return Photo(source, max_pixels=max_pixels).size
