"""What cameras write into photos beside the pixels: when, where, and by which camera."""

import datetime
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from PIL import ExifTags, Image

from hashnet.images.directories import is_bounded, without_head

_WHEN = re.compile(r"(\d{4})\D(\d\d)\D(\d\d)\D(\d\d)\D(\d\d)\D(\d\d)")
_MOST_LETTERS = 200  # of a camera's name


class Exif(NamedTuple):
    """What a camera has written into a photo.

    Attributes:
        taken: datetime.datetime or None. When, by the camera's own clock, to the second.
        latitude, longitude: float or None. Where, in degrees north and east.
        camera: str or None. Its make and model.
    """

    taken: datetime.datetime | None = None
    latitude: float | None = None
    longitude: float | None = None
    camera: str | None = None


def exif_of(image: Image.Image, tiff: bytes | None = None) -> Exif:
    """Read what is to be had; what is missing or damaged is None.

    Args:
        image: PIL image, as it was opened.
        tiff: bytes of its file where that is a TIFF, in which the directories lie; else None.

    Returns:
        An `Exif`.

    Example:
        >>> image = Image.new("RGB", (1, 1))
        >>> image.getexif()[ExifTags.Base.DateTime] = "2026:05:01 12:30:00"
        >>> exif_of(image).taken.isoformat(), exif_of(image).camera
        ('2026-05-01T12:30:00', None)
    """
    try:
        tags = image.getexif()
    except Exception:  # damaged EXIF data of a good picture
        return Exif()
    within = without_head(image.info.get("exif", b"")) if tiff is None else tiff
    detail = _block(tags, ExifTags.IFD.Exif, within)
    place = _block(tags, ExifTags.IFD.GPSInfo, within)
    taken = _date(detail.get(ExifTags.Base.DateTimeOriginal)) or _date(
        tags.get(ExifTags.Base.DateTime)
    )
    north = _degrees(place, ExifTags.GPS.GPSLatitude, ExifTags.GPS.GPSLatitudeRef, "S", 90)
    east = _degrees(place, ExifTags.GPS.GPSLongitude, ExifTags.GPS.GPSLongitudeRef, "W", 180)
    if north is None or east is None:  # one without the other is no place
        north = east = None
    return Exif(taken, north, east, _camera(tags))


def _block(tags: Image.Exif, number: int, within: bytes) -> Mapping[int, Any]:
    at = tags.get(number)
    if isinstance(at, int) and not is_bounded(within, at):
        return {}
    try:
        return tags.get_ifd(number)
    except Exception:  # as above
        return {}


def _date(value: object) -> datetime.datetime | None:
    parts = _WHEN.match(value) if isinstance(value, str) else None
    try:
        year, month, day, hour, minute, second = map(int, parts.groups() if parts else ())
        # Cameras do not say in which zone they are.
        return datetime.datetime(year, month, day, hour, minute, second)  # noqa: DTZ001
    except ValueError:  # nothing of the kind, or 0000:00:00, where a clock was never set
        return None


def _degrees(
    place: Mapping[int, Any], of_angle: int, of_side: int, negative: str, most: float
) -> float | None:
    try:
        degrees, minutes, seconds = (float(part) for part in place[of_angle])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    angle = degrees + minutes / 60 + seconds / 3600
    if not (math.isfinite(angle) and 0 <= angle <= most):
        return None
    side = str(place.get(of_side, "")).strip("\0 ").upper()
    return -angle if side.startswith(negative) else angle


def _camera(tags: Image.Exif) -> str | None:
    make, model = (_name(tags.get(tag)) for tag in (ExifTags.Base.Make, ExifTags.Base.Model))
    # Many models begin with their make.
    whole = model if model.lower().startswith(make.lower()) else f"{make} {model}"
    return whole.strip()[:_MOST_LETTERS] or None


def _name(value: object) -> str:
    text = value if isinstance(value, str) else ""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())
