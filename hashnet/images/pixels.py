"""One meaning for every kind of pixels: whatever the mode or dtype, RGB of 8 bits, upright."""

import numpy as np
from PIL import Image

from hashnet.errors import ImageError

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


def to_rgb(image: Image.Image) -> Image.Image:
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


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1, upright, where there is none or it cannot be read."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF data of a good picture
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """The image upright, if it was stored with an EXIF orientation of 2 to 8."""
    if orientation in _TRANSPOSITIONS:
        return image.transpose(_TRANSPOSITIONS[orientation])
    return image


def turned_box(
    box: tuple[float, float, float, float], size: tuple[int, int], orientation: int
) -> tuple[float, float, float, float]:
    """A box of the stored picture as a box of the upright one."""
    (left, top, right, bottom), (width, height) = box, size
    if orientation in (5, 6, 7, 8):
        left, top, right, bottom, width, height = top, left, bottom, right, height, width
    if orientation in (2, 3, 6, 7):
        left, right = width - right, width - left
    if orientation in (3, 4, 7, 8):
        top, bottom = height - bottom, height - top
    return left, top, right, bottom


def from_array(array: np.ndarray) -> Image.Image:
    """An array as a picture in RGB, transparency laid on white.

    Args:
        array: uint8, or float within 0..1; of shape `(height, width)`, `(height, width, 1)`,
            `(height, width, 3)` or `(height, width, 4)`.

    Raises:
        ImageError: it is of another dtype or shape, has no pixels, or numbers outside 0..1.

    Example:
        >>> from_array(np.full((1, 2), 0.5)).getpixel((0, 0))
        (128, 128, 128)
    """
    fits = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))
    if not fits or not array.size or not (array.dtype == np.uint8 or array.dtype.kind == "f"):
        received = f"{array.dtype} of shape {array.shape}"
    elif array.dtype.kind == "f" and not (array.min() >= 0 and array.max() <= 1):
        received = f"{array.dtype} from {array.min()} to {array.max()}"
    else:
        if array.dtype.kind == "f":
            array = np.rint(array.astype(np.float32) * 255).astype(np.uint8)
        if array.ndim == 3 and array.shape[2] == 1:
            array = array[..., 0]
        return to_rgb(Image.fromarray(array))
    raise ImageError(
        "An array is an image if it is uint8, or float within 0..1, of shape (height, width), "
        "(height, width, 3) or (height, width, 4), each side 1 or more.",
        received,
    )
