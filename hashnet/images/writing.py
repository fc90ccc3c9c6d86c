"""Writing pictures as PNG and JPEG."""

import io
import os

import numpy as np

from hashnet import files
from hashnet.errors import ArgumentError, ImageError
from hashnet.images.resizing import to_pillow


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


# By the end of a file's name.
_ENCODERS = {".png": to_png, ".jpg": to_jpeg, ".jpeg": to_jpeg}


def check_target(path: str | os.PathLike[str]) -> None:
    """Refuse a path that `write` could not write to, before there is a picture.

    Args:
        path: str or `os.PathLike`.

    Raises:
        ArgumentError: if it does not end in `.png`, `.jpg` or `.jpeg`.
        ImageError: if its folder is not there.

    Example:
        >>> check_target("hits.png")
    """
    path = os.fsdecode(path)
    if os.path.splitext(path)[1].lower() not in _ENCODERS:
        raise ArgumentError(
            "A picture is written as PNG or JPEG.",
            repr(path),
            f"End the name in one of: {', '.join(_ENCODERS)}.",
        )
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise ImageError("The picture could not be written.", f"{path!r}: {folder!r} is no folder")


def write(path: str | os.PathLike[str], image: np.ndarray) -> None:
    """Write an image as PNG or JPEG, whichever the path's suffix says.

    It is written beside and then renamed, so that nobody sees half a picture.

    Args:
        path: str or `os.PathLike`, ending in `.png`, `.jpg` or `.jpeg`.
        image: uint8 array of shape `(height, width, 3)`.

    Raises:
        ArgumentError: if it does not end in `.png`, `.jpg` or `.jpeg`.
        ImageError: if the file cannot be written.

    Example:
        >>> import os, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write(os.path.join(folder, "black.png"), np.zeros((2, 2, 3), dtype="uint8"))
        ...     os.listdir(folder)
        ['black.png']
    """
    path = os.fsdecode(path)
    check_target(path)
    content = _ENCODERS[os.path.splitext(path)[1].lower()](image)
    try:
        with files.whole_file(path) as file:
            file.write(content)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageError("The picture could not be written.", f"{path!r}: {reason}") from error


def _encode(image: np.ndarray, name: str, **options: int) -> bytes:
    picture = to_pillow(image)
    file = io.BytesIO()
    try:
        picture.save(file, name, **options)
    except (OSError, ValueError) as error:  # a side longer than the format allows
        width, height = picture.size
        raise ImageError(
            f"The picture cannot be written as {name}.", f"{width} x {height} pixels: {error}"
        ) from error
    return file.getvalue()
