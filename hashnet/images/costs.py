"""What a picture may take to decode, told from its header.

Most take little and are decoded in the thread that asks. What may take long, or much memory, goes
to a process of its own, which ends where it does: see `workers`. So what is told here decides on no
picture, and is that of the costliest files of each format: `python -m tests.bench.largest`.
"""

from typing import Any, NamedTuple

from hashnet.images.jpeg import REDUCTION, JpegFile
from hashnet.images.pixels import orientation_of
from hashnet.images.tiff import TiffFile

LIGHT_SECONDS = 1.5
LIGHT_MEGABYTES = 490


class Cost(NamedTuple):
    """At most.

    Attributes:
        seconds: float, of processor time.
        megabytes: float.
    """

    seconds: float
    megabytes: float


class _Rates(NamedTuple):
    """Seconds a million pixels, seconds a megabyte of the file, and bytes a pixel."""

    of_pixels: float
    of_bytes: float
    memory: float


_RATES = {
    "PNG": _Rates(0.04, 0.02, 7.4),
    "WEBP": _Rates(0.03, 0.03, 17.0),
    "GIF": _Rates(0.01, 0.02, 8.0),
    "BMP": _Rates(0.01, 0.02, 7.4),  # those in runs, which take longer, are bounded
    "DIB": _Rates(0.01, 0.02, 7.4),
    "TIFF": _Rates(0.016, 0.02, 7.4),
    "AVIF": _Rates(0.03, 0.1, 16.0),
    "HEIF": _Rates(0.06, 0.1, 14.0),
    "JPEG2000": _Rates(0.06, 0.17, 20.0),
    "PPM": _Rates(0.01, 0.03, 8.0),
    "ICO": _Rates(0.04, 0.02, 7.4),
    "QOI": _Rates(0.02, 1.2, 7.4),
    "TGA": _Rates(0.03, 0.05, 8.6),
}
_OF_SAMPLES = _Rates(0.06, 0.03, 4.0)  # of TIFF, unpacked by NumPy, beside the samples
_A_SAMPLE_BYTE = 0.01e-6  # seconds, where many are in a pixel
_OTHERS = _Rates(0.4, 0.2, 14.0)  # JPEG XL among them
_OF_TRANSPARENCY = _Rates(0.015, 0.0, 2.0)  # more
_OF_JPEG = _Rates(0.012, 0.02, 7.0)
_A_BLOCK, _A_BLOCK_OF_MANY_SCANS = 0.02e-6, 0.06e-6  # seconds
_BLOCK_BYTES = 128  # of coefficients, which a JPEG of several scans keeps
_ASKED_FROM = 40  # million pixels
_MILLION_BYTES = 2**20 / 1e6  # a megabyte, in millions


def cost(image: Any, num_bytes: int, max_pixels: int) -> Cost:
    """What a picture takes, at most.

    Args:
        image: from `open_image`.
        num_bytes: int, of its file.
        max_pixels: int. No more of them are decoded.

    Returns:
        `Cost`.
    """
    million, megabytes = image.width * image.height / 1e6, num_bytes / 2**20
    if isinstance(image, JpegFile):
        # What is too large as it is can only be decoded at an eighth of its sides.
        million = min(million, max(max_pixels / 1e6, million / REDUCTION**2))
        return _cost_of_jpeg(image, million, megabytes)
    rates = _RATES.get(image.format or "", _OTHERS)
    rates = _OF_SAMPLES if isinstance(image, TiffFile) else rates
    more = _OF_TRANSPARENCY if _is_transparent(image) else _Rates(0.0, 0.0, 0.0)
    seconds = (rates.of_pixels + more.of_pixels) * million + rates.of_bytes * megabytes
    memory = rates.memory + more.memory + _of_turning(image, million)
    if isinstance(image, TiffFile):
        seconds = max(seconds, _A_SAMPLE_BYTE * image.num_bytes)
        megabytes += (image.num_bytes + 2 * image.part_bytes) / 2**20
    return Cost(seconds, memory * million / _MILLION_BYTES + megabytes)


def _is_transparent(image: Any) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def _of_turning(image: Any, million: float) -> float:
    """Bytes a pixel that a picture takes that lies on its side; of small ones it is not asked."""
    return 4.0 if million > _ASKED_FROM and orientation_of(image) != 1 else 0.0


def _cost_of_jpeg(image: JpegFile, million: float, megabytes: float) -> Cost:
    a_block = _A_BLOCK if image.is_sequential else _A_BLOCK_OF_MANY_SCANS
    seconds = _OF_JPEG.of_pixels * million + _OF_JPEG.of_bytes * megabytes
    seconds += a_block * image.blocks_sent
    if not image.is_huffman:
        seconds += _OTHERS.of_bytes * megabytes + _OTHERS.of_pixels * million
    memory = _OF_JPEG.memory + 4 * (image.mode == "CMYK") + 4 * (image.times > 1)
    memory += _of_turning(image, million)
    kept = 0 if image.is_sequential else _BLOCK_BYTES * image.blocks
    return Cost(seconds * image.times, memory * million / _MILLION_BYTES + kept / 2**20 + megabytes)


def is_costly(cost: Cost) -> bool:
    """Whether a picture may take long to decode, or much memory.

    Args:
        cost: `Cost`.

    Returns:
        bool.

    Example:
        >>> is_costly(Cost(0.3, 90)), is_costly(Cost(20, 90)), is_costly(Cost(0.3, 900))
        (False, True, True)
    """
    return cost.seconds > LIGHT_SECONDS or cost.megabytes > LIGHT_MEGABYTES
