"""One meaning for every kind of pixels: whatever the mode or dtype, RGB of 8 bits, upright."""

import functools
import io
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from hashnet.errors import ImageError

_ORIENTATION = 0x0112  # the EXIF tag
_NEAR = 48  # so near, a colour is lost on its ground
_MOST_PROFILE = 2**23  # bytes; those of printing presses take a third of it
_AT_ONCE = 2**20  # pixels or samples
_SAME_COLOUR = 3  # so near, a profile is that of sRGB in other words
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
    key, profile = image.info.get("transparency"), image.info.get("icc_profile")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or (image.mode == "P" and key is not None):
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        return _composed(in_srgb(image.convert("RGB"), profile), image.getchannel("A"))
    alpha = None if key is None else _seen(image, key)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        # Pillow scales Netpbm's grey of more than 8 bits to 16; of all else the values say it.
        rgb = Image.fromarray(to_bytes(np.asarray(image), 65535 if image.format == "PPM" else None))
        rgb = rgb.convert("RGB")
    else:
        rgb = in_srgb(image, profile)
    if alpha is None:
        return rgb
    return _composed(rgb.copy() if rgb is image else rgb, alpha)


def _seen(image: Image.Image, key: Any) -> Image.Image:
    """255, and 0 where a picture has the one colour that is transparent."""
    alpha = Image.new("L", image.size)
    for box in _strips(image):
        same = np.asarray(image.crop(box)) == np.asarray(key)
        hidden = same if same.ndim == 2 else same.all(axis=2)
        alpha.paste(Image.fromarray(np.where(hidden, 0, 255).astype(np.uint8)), box)
    return alpha


def _composed(image: Image.Image, alpha: Image.Image) -> Image.Image:
    """A picture in RGB, which changes, laid on the ground that it stands out from; see `read`."""
    least, most = alpha.getextrema()
    if least == 255 or most == 0:  # nothing shines through, or nobody filled it in
        return image
    ground = (_ground(image, alpha),) * 3
    for box in _strips(image):  # in its place: there is no room for another large one
        laid = Image.new("RGB", (image.width, box[3] - box[1]), ground)
        laid.paste(image.crop(box), mask=alpha.crop(box))
        image.paste(laid, box)
    return image


def _ground(image: Image.Image, alpha: Image.Image) -> int:
    """White, unless more than a quarter of what is seen were lost on it; else what loses least."""
    seen = sum(weight * count for weight, count in enumerate(alpha.histogram()))
    if 4 * _lost(image, alpha, 255) <= seen:
        return 255
    return min((0, 128), key=lambda ground: _lost(image, alpha, ground))


def _lost(image: Image.Image, alpha: Image.Image, ground: int) -> int:
    """How much of a picture is not seen on a ground."""
    lost = 0
    for box in _strips(image):
        red, green, blue = map(np.asarray, image.crop(box).split())
        near = np.minimum(np.minimum(red, green), blue) >= max(ground - _NEAR, 0)
        near &= np.maximum(np.maximum(red, green), blue) <= min(ground + _NEAR, 255)
        lost += int((np.asarray(alpha.crop(box)) * near).sum(dtype=np.int64))
    return lost


def _strips(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    """Boxes of a million pixels, from the top down."""
    step = max(1, _AT_ONCE // image.width)
    for top in range(0, image.height, step):
        yield 0, top, image.width, min(top + step, image.height)


def in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """A picture in RGB, its colours those that its profile (ICC) means."""
    if profile and len(profile) <= _MOST_PROFILE and image.mode in ("L", "P", "CMYK", "RGB"):
        image = image.convert("RGB") if image.mode == "P" else image
        transform = _to_srgb(profile, image.mode)
        if transform is not None:
            converted: Image.Image = transform.apply(image)
            return converted
    return image if image.mode == "RGB" else image.convert("RGB")


@functools.lru_cache(maxsize=16)
def _to_srgb(profile: bytes, mode: str) -> Any:
    """What takes colours to sRGB; None where the profile is that, or none that can be used."""
    from PIL import ImageCms  # few pictures need it

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None
    if mode == "CMYK":
        return transform
    steps = range(0, 256, 15)
    colours = itertools.product(steps, steps, steps) if mode == "RGB" else steps
    probe = Image.fromarray(np.array([*colours], np.uint8)[None])
    change = np.asarray(transform.apply(probe)).astype(int) - np.asarray(probe.convert("RGB"))
    return transform if np.abs(change).max() > _SAME_COLOUR else None


def to_bytes(values: np.ndarray, most: float | None = None) -> np.ndarray:
    """Values of any dtype as uint8: 0 to `most` as 0 to 255, or by the rules of `read`."""
    answer = np.empty(values.shape, dtype=np.uint8)
    source, target = values.reshape(-1), answer.reshape(-1)
    if most is not None:
        low, high = 0.0, most
    elif values.dtype.kind == "u":
        low, high = 0.0, 65535.0
    else:
        low, high = _range(source)
        if low >= 0 and high <= 255:
            low, high = 0.0, 1.0 if values.dtype.kind == "f" and high <= 1 else 255.0
        elif low >= 0 and high <= 65535 and values.dtype.kind == "i":
            low, high = 0.0, 65535.0
    # Of a large picture many values are the same, and there are not many.
    table = None
    if values.dtype == np.uint16 and source.size > _AT_ONCE:
        table = _scaled(np.arange(2**16, dtype=np.uint16), low, high)
    for start in range(0, source.size, _AT_ONCE):
        block = source[start : start + _AT_ONCE]
        scaled = _scaled(block, low, high) if table is None else table[block]
        target[start : start + _AT_ONCE] = scaled
    return answer


def _range(values: np.ndarray) -> tuple[float, float]:
    """The least and the greatest finite value; 0 and 0 where there is none."""
    low, high = np.inf, -np.inf
    for start in range(0, values.size, _AT_ONCE):
        block = values[start : start + _AT_ONCE]
        block = block[np.isfinite(block)] if block.dtype.kind == "f" else block
        if block.size:
            low, high = min(low, float(block.min())), max(high, float(block.max()))
    return (low, high) if low <= high else (0.0, 0.0)


def _scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """`low` to `high` as 0 to 255, in float64, which is why few are scaled at once."""
    span = high - low if high > low else np.inf
    block = np.nan_to_num(values.astype(np.float64), nan=low, posinf=np.inf, neginf=low)
    infinite = np.isinf(block)
    block[infinite] = low
    block = np.rint(np.clip((block - low) * 255 / span, 0, 255))
    block[infinite] = 255
    return block.astype(np.uint8)


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
    """An array as a picture in RGB, transparency composed as `read` says.

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
