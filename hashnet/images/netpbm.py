"""Opening PPM, PGM and PBM: numbers in letters, and those of a scale of its own, are read here.

Pillow reads these number by number, a hundred times as slowly.
"""

import io
import re

import numpy as np
from PIL import PpmImagePlugin

# A field comes behind white space and comments; what has been passed over is not tried again.
_FIELD = rb"(?:\s|#[^\r\n]*+[\r\n])++(\d{1,9}+)"
_HEADS = {
    kind: re.compile(rb"P%d" % kind + _FIELD * (2 if kind in (1, 4) else 3)) for kind in range(1, 7)
}
_COMMENT = re.compile(rb"#[^\r\n]*+")
_MOST_HEAD = 2**16
_MOST_COMMENTS = 100_000
_WHITE = b" \t\n\r\x0b\x0c"
_AT_ONCE = 2**20


def netpbm_size(content: bytes) -> tuple[int, int]:
    """(width, height), from the header."""
    _, width, height, _, _ = _head(content)
    return width, height


def open_netpbm(content: bytes) -> PpmImagePlugin.PpmImageFile:
    """The picture with its header read, as a binary file of 8 or 16 bits."""
    kind, width, height, most, start = _head(content)
    channels = 3 if kind in (3, 6) else 1
    as_it_is = kind == 4 or (kind in (5, 6) and (most == 255 or (most, channels) == (65535, 1)))
    if not as_it_is:
        body = content[start:]
        if kind == 1:
            rows = _bits(_without_comments(body), width, height)
            return _binary(4, width, height, 0, rows)
        if not 0 < most < 65536:
            raise OSError(f"a greatest value of {most} is none")
        count = width * height * channels
        if kind in (2, 3):
            values = np.fromstring(_without_comments(body), np.int32, count, sep=" ")
        else:
            values = np.frombuffer(body, ">u2" if most > 255 else np.uint8, count, offset=1)
        return _binary(5 + (channels == 3), width, height, *_scaled(values, most, channels))
    return _binary(kind, width, height, most, content[start + 1 :])


def _head(content: bytes) -> tuple[int, int, int, int, int]:
    """The kind, 1 to 6, width, height, what stands for white, and where the header ends."""
    kind = content[1] - ord("0")
    found = _HEADS[kind].match(content[:_MOST_HEAD])
    if found is None:
        raise OSError(f"the picture is damaged: its first {_MOST_HEAD} bytes are no header")
    width, height, most = (*map(int, found.groups()), 0)[:3]
    return kind, width, height, most, found.end()


def _binary(
    kind: int, width: int, height: int, most: int, rows: bytes
) -> PpmImagePlugin.PpmImageFile:
    most_or_none = f"{most} " if kind > 4 else ""
    head = f"P{kind} {width} {height} {most_or_none}".encode()
    return PpmImagePlugin.PpmImageFile(io.BytesIO(head + rows))


def _without_comments(body: bytes) -> bytes:
    number = body.count(b"#")
    if number > _MOST_COMMENTS:
        raise OSError(f"it has {number} comments, of {_MOST_COMMENTS} at most")
    return _COMMENT.sub(b" ", body) if number else body


def _bits(body: bytes, width: int, height: int) -> bytes:
    digits = np.frombuffer(body.translate(None, _WHITE), np.uint8)[: width * height]
    if len(digits) < width * height:
        raise OSError(f"the picture is truncated: it has {len(digits)} pixels")
    if not np.isin(digits, (ord("0"), ord("1"))).all():
        raise OSError("the picture is damaged: a pixel is neither 0 nor 1")
    return np.packbits((digits - ord("0")).reshape(height, width), axis=1).tobytes()


def _scaled(values: np.ndarray, most: int, channels: int) -> tuple[int, bytes]:
    """What stands for white, 255 or 65535, and the values so scaled, as bytes."""
    target = 65535 if most > 255 and channels == 1 else 255
    answer = np.empty(len(values), ">u2" if target > 255 else np.uint8)
    for start in range(0, len(values), _AT_ONCE):
        part = values[start : start + _AT_ONCE]
        if part.min() < 0 or part.max() > most:
            raise OSError(f"the picture is damaged: a value is not within 0 and {most}")
        answer[start : start + _AT_ONCE] = np.rint(part / most * target)
    return target, answer.tobytes()
