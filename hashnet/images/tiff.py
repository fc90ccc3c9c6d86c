"""Opening TIFF: what Pillow reads wrong or not at all is read here, sample by sample.

Pillow is right for 1 to 8 bits a sample in one plane. All else (planes apart, 10 to 64 bits,
floats) is unpacked here; Pillow only undoes the compression, of one strip or tile at a time, as if
it held grey bytes. What is none of this is refused by name.
"""

import io
import struct
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin

from hashnet.images import pixels
from hashnet.images.directories import is_bounded

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_FILL_ORDER, _STRIPS, _ORIENTATION, _SAMPLES, _ROWS, _STRIP_BYTES = 266, 273, 274, 277, 278, 279
_GREATEST, _PLANES, _PREDICTOR, _PALETTE = 281, 284, 317, 320
_TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES = 322, 323, 324, 325
_EXTRA, _KIND, _PROFILE = 338, 339, 34675
_SUBTYPE, _SUB_PAGES, _DNG_VERSION = 254, 330, 50706
_COMPRESSIONS = (1, 5, 8, 32773, 32946, 34925, 50000)  # none, LZW, deflate, packed, LZMA, Zstandard
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _CMYK = 0, 1, 2, 5
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3
_PREMULTIPLIED, _ALPHA = 1, 2
# What cameras and scanners put into 16 bits, or more, of which they leave some empty.
_USED_BITS = (8, 10, 12, 14, 16, 24, 32, 64)
_AT_ONCE = 2**20  # samples that are unpacked
_HEADERS = 2**12  # bytes that a compression puts before a part, and behind it
# Strips of a row each, of the longest pictures that cameras and scanners make.
MOST_PARTS = 2**15


def open_tiff(content: bytes) -> ImageFile.ImageFile:
    """The first page with its header read, by Pillow or by `TiffFile`."""
    tags = _tags(content)
    bits, kinds = _all(tags, _BITS, 1), _all(tags, _KIND, _UNSIGNED)
    is_apart = tags.get(_PLANES, 1) == 2 and tags.get(_SAMPLES, 1) > 1
    as_bytes = all(one in (1, 2, 4, 8) for one in bits) and set(kinds) <= {_UNSIGNED, 4}
    is_for_pillow = as_bytes and not (is_apart and tags.get(_COMPRESSION, 1) in _COMPRESSIONS)
    if not is_for_pillow or tags.get(_COMPRESSION, 1) == 1:  # libtiff unpacks all others at once
        _check_parts(tags)
    if is_for_pillow:
        image = TiffImagePlugin.TiffImageFile(io.BytesIO(content))
        colours = tags.get(_PALETTE)
        if image.mode == "P" and colours and max(colours) < 256:  # bytes where words should be
            image.putpalette(np.array(colours, np.uint8).reshape(3, -1).T.tobytes())
        return image
    return TiffFile(content, tags)


def is_raw(content: bytes) -> bool:
    """Whether this is a camera's raw file, whose first page is a small preview."""
    tags = _tags(content)
    return _DNG_VERSION in tags or (tags.get(_SUBTYPE, 0) & 1 == 1 and _SUB_PAGES in tags)


def _check_parts(tags: Any) -> None:
    """Refuse a picture in far too many strips or tiles, each of which is unpacked by itself."""
    width, height = (int(tags.get(tag, 0)) for tag in (_WIDTH, _HEIGHT))
    down = int(tags.get(_TILE_HEIGHT, tags.get(_ROWS, height))) or height
    across = int(tags.get(_TILE_WIDTH, width))
    planes = int(tags.get(_SAMPLES, 1)) if tags.get(_PLANES, 1) == 2 else 1
    parts = -(-height // max(down, 1)) * -(-width // max(across, 1)) * planes
    if parts > MOST_PARTS:
        raise OSError(f"it has {parts} strips or tiles, of {MOST_PARTS} at most")


def _tags(content: bytes) -> Any:
    if not is_bounded(content):
        raise OSError("its directory claims far more than the file has")
    file = io.BytesIO(content)
    header = file.read(8)
    if header[2:4] in (b"\x2b\0", b"\0\x2b"):
        header += file.read(8)
    tags = TiffImagePlugin.ImageFileDirectory_v2(header)
    file.seek(tags.next)
    tags.load(file)
    return tags


def _all(tags: Any, tag: int, default: int) -> tuple[int, ...]:
    value = tags.get(tag, default)
    return tuple(value) if isinstance(value, tuple) else (value,)


class _Part(NamedTuple):
    """A strip or a tile: where it begins, its rows, and its data as they are in the file."""

    top: int
    left: int
    plane: int
    rows: int
    data: memoryview


class _Bytes(TiffImagePlugin.TiffImageFile):
    """Bytes as grey pixels, which may be more than Pillow allows: those of the picture count."""

    def load_prepare(self) -> None:
        ImageFile.ImageFile.load_prepare(self)


class TiffFile(ImageFile.ImageFile):
    """A TIFF file whose samples are unpacked here.

    Args:
        content: bytes of the file.
        tags: its first directory, as Pillow reads it.

    Attributes:
        num_bytes: int. What its samples take.
        part_bytes: int. What those of one strip or tile take that is decompressed; else 0.
    """

    format = "TIFF"

    def __init__(self, content: bytes, tags: Any) -> None:
        self._content, self.tag_v2 = content, tags
        super().__init__(io.BytesIO(content))

    def _open(self) -> None:
        tags = self.tag_v2
        self._shape = int(tags[_HEIGHT]), int(tags[_WIDTH]), int(tags.get(_SAMPLES, 1))
        bits, kinds = set(_all(tags, _BITS, 1)), set(_all(tags, _KIND, _UNSIGNED))
        self._bits, self._kind = bits.pop(), kinds.pop()
        self._photometric = tags.get(_PHOTOMETRIC, _BLACK_IS_ZERO)
        self._orientation = tags.get(_ORIENTATION, 1)
        compression, order = tags.get(_COMPRESSION, 1), tags.get(_FILL_ORDER, 1)
        needed = {_RGB: 3, _CMYK: 4}.get(self._photometric, 1)
        for is_so, reason in (
            (bits or kinds, "samples of several kinds"),
            (not self._dtype_or_none(), f"{self._bits} bits of kind {self._kind}"),
            (compression not in _COMPRESSIONS, f"{self._bits} bits in compression {compression}"),
            (order != 1, f"{self._bits} bits in fill order {order}"),
            (
                self._photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _CMYK)
                or self._shape[2] < needed,
                f"{self._bits} bits, {self._shape[2]} samples, in colour space {self._photometric}",
            ),
        ):
            if is_so:
                raise OSError(f"a TIFF of {reason} is not read")
        height, width = self._shape[:2]
        self.num_bytes = height * width * self._shape[2] * -(-self._bits // 8)
        rows = int(tags.get(_TILE_HEIGHT, min(int(tags.get(_ROWS, height)), height)))
        part = rows * int(tags.get(_TILE_WIDTH, width)) * self.num_bytes // max(height * width, 1)
        part //= self._shape[2] if tags.get(_PLANES, 1) == 2 else 1
        self.part_bytes = 0 if compression == 1 else part
        self._size = (height, width) if self._orientation >= 5 else (width, height)
        self._mode = "RGB"
        if _PROFILE in tags:
            self.info["icc_profile"] = tags[_PROFILE]

    def _dtype_or_none(self) -> np.dtype[Any] | None:
        """What a sample becomes; its byte order only where it fills whole bytes."""
        letter = {_UNSIGNED: "u", _SIGNED: "i", _FLOAT: "f"}.get(self._kind)
        if letter == "u" and self._bits <= 32 and self._bits not in (8, 16, 32):
            return np.dtype(np.uint32)
        if letter and self._bits in ((16, 32, 64) if letter == "f" else (8, 16, 32, 64)):
            order = "<" if self.tag_v2.prefix == b"II" else ">"
            return np.dtype(f"{order}{letter}{self._bits // 8}")
        return None

    def load(self) -> Any:
        """Decode, as Pillow calls it.

        Raises:
            OSError: a part of the picture is missing or damaged.
        """
        if self._im is None:
            image = self._coloured(self._samples())
            self._mode, self.im = image.mode, image.im
        return Image.Image.load(self)

    def _samples(self) -> np.ndarray:
        """All samples, `(height, width, samples)`."""
        height, width, samples = self._shape
        planes = samples if self.tag_v2.get(_PLANES, 1) == 2 else 1
        across = samples // planes
        dtype = self._dtype_or_none()
        assert dtype is not None
        answer = np.empty((height, width, samples), dtype.newbyteorder("="))
        size, parts = self._parts(planes)
        # Some at a time, since to begin to decompress takes longer than a row does.
        step = max(1, _AT_ONCE // max(size[0] * size[1] * across, 1))
        each_plane = len(parts) // planes
        for start in range(0, len(parts), each_plane):
            for first in range(start, start + each_plane, step):
                some = parts[first : min(first + step, start + each_plane)]
                unpacked = self._unpacked(some, size, across, dtype)
                at = 0
                for part in some:
                    rows = min(part.rows, height - part.top)
                    answer[
                        part.top : part.top + rows,
                        part.left : part.left + size[1],
                        part.plane : part.plane + across,
                    ] = unpacked[at : at + rows, : width - part.left]
                    at += part.rows
        return answer

    def _parts(self, planes: int) -> tuple[tuple[int, int], list[_Part]]:
        """The rows and columns of a strip or tile, and all of them, plane by plane."""
        tags, (height, width, samples) = self.tag_v2, self._shape
        is_tiled = _TILE_WIDTH in tags
        if is_tiled:
            size = int(tags[_TILE_HEIGHT]), int(tags[_TILE_WIDTH])
            offsets, counts = _all(tags, _TILES, 0), _all(tags, _TILE_BYTES, 0)
        else:
            size = min(int(tags.get(_ROWS, height)) or height, height), width
            offsets, counts = _all(tags, _STRIPS, 0), _all(tags, _STRIP_BYTES, 0)
        places = [
            (top, left, plane)
            for plane in range(planes)
            for top in range(0, height, size[0])
            for left in range(0, width, size[1])
        ]
        if len(offsets) < len(places):
            raise OSError(f"the picture is truncated: {len(offsets)} of {len(places)} parts")
        # No compression makes a part twice as long, whatever the file claims, or does not say.
        most = 2 * size[0] * self._row_bytes(size[1], samples // planes) + _HEADERS
        content = memoryview(self._content)  # of which a part is no copy
        parts = []
        for number, (top, left, plane) in enumerate(places):
            held = counts[number] if number < len(counts) else 0
            start = offsets[number]
            data = content[start : start + min(held or most, most)]
            # A strip is as high as what is left; a tile is whole.
            rows = size[0] if is_tiled else min(size[0], height - top)
            parts.append(_Part(top, left, plane, rows, data))
        return size, parts

    def _row_bytes(self, width: int, samples: int) -> int:
        return -(-width * samples * self._bits // 8)

    def _unpacked(
        self, parts: Sequence[_Part], size: tuple[int, int], samples: int, dtype: np.dtype[Any]
    ) -> np.ndarray:
        """Strips or tiles, each below the one before: `(rows, width, samples)`."""
        width, rows = size[1], sum(part.rows for part in parts)
        lines = self._decompressed(parts, size[0], self._row_bytes(width, samples))
        predictor = self.tag_v2.get(_PREDICTOR, 1)
        if predictor == 3 and self._kind == _FLOAT:
            each = self._bits // 8
            lines = np.cumsum(lines.reshape(rows, -1, samples), axis=1, dtype=np.uint8)
            lines = lines.reshape(rows, each, width * samples).swapaxes(1, 2)
            return np.ascontiguousarray(lines).view(f">f{each}").reshape(rows, width, samples)
        if self._bits in (8, 16, 32, 64):
            part = lines.view(dtype).reshape(rows, width, samples)
        else:
            part = _of_odd_bits(lines, width * samples, self._bits).reshape(rows, width, samples)
        if predictor == 2:
            part = np.cumsum(part, axis=1, dtype=part.dtype.newbyteorder("="))
            if self._bits not in (8, 16, 32, 64):
                part &= 2**self._bits - 1
        elif predictor != 1:
            raise OSError(f"a TIFF of {self._bits} bits with predictor {predictor} is not read")
        return part

    def _decompressed(self, parts: Sequence[_Part], high: int, row_bytes: int) -> np.ndarray:
        """Strips or tiles, all but the last `high` rows high: uint8 `(rows, row_bytes)`."""
        compression, rows = self.tag_v2.get(_COMPRESSION, 1), sum(part.rows for part in parts)
        if compression == 1:
            if any(len(part.data) < part.rows * row_bytes for part in parts):
                raise OSError("the picture is truncated: a part of it is too short")
            whole = b"".join(part.data[: part.rows * row_bytes] for part in parts)
            return np.frombuffer(whole, np.uint8).reshape(rows, row_bytes)
        lengths = [len(part.data) for part in parts]
        starts = list(accumulate(lengths[:-1], initial=8))
        end = 8 + sum(lengths) + sum(lengths) % 2
        # Two lists of numbers stand behind the data, but a single number in its field.
        many = len(parts) > 1
        places = (end, end + 4 * len(parts)) if many else (8, lengths[0])
        fields = (
            (_WIDTH, 1, row_bytes), (_HEIGHT, 1, rows), (_BITS, 1, 8),
            (_COMPRESSION, 1, compression), (_PHOTOMETRIC, 1, _BLACK_IS_ZERO),
            (_STRIPS, len(parts), places[0]), (_SAMPLES, 1, 1), (_ROWS, 1, high),
            (_STRIP_BYTES, len(parts), places[1]),
        )  # fmt: skip
        lists = struct.pack(f"<{2 * len(parts)}I", *starts, *lengths) if many else b""
        directory = [struct.pack("<H", len(fields))]
        directory += [struct.pack("<HHII", tag, 4, count, value) for tag, count, value in fields]
        file: list[bytes | memoryview] = [struct.pack("<4sI", b"II*\0", end + len(lists))]
        file += [part.data for part in parts]
        file += [bytes(sum(lengths) % 2), lists, *directory, bytes(4)]
        image = _Bytes(io.BytesIO(b"".join(file)))
        image.load()
        return np.asarray(image)

    def _coloured(self, samples: np.ndarray) -> Image.Image:
        colours = {_RGB: 3, _CMYK: 4}.get(self._photometric, 1)
        most = self._greatest(samples[..., :colours])
        values, alpha = pixels.to_bytes(samples[..., :colours], most), None
        extra = _all(self.tag_v2, _EXTRA, 0)[0] if samples.shape[2] > colours else 0
        if self._photometric != _CMYK and extra in (_PREMULTIPLIED, _ALPHA):
            alpha = pixels.to_bytes(samples[..., colours], self._greatest(samples, whole=True))
        del samples  # several times what is left to be made, which needs the room
        if self._photometric == _WHITE_IS_ZERO:
            values = 255 - values
        image = Image.fromarray(values[..., 0] if colours == 1 else values, None)
        if self._photometric == _CMYK:
            image = Image.frombytes("CMYK", image.size, values.tobytes())
        if alpha is not None:
            image = image.convert("RGB")
            image.putalpha(Image.fromarray(alpha))
            if extra == _PREMULTIPLIED:
                image = Image.frombytes("RGBa", image.size, image.tobytes()).convert("RGBA")
        return pixels.turned(image, self._orientation)

    def _greatest(self, samples: np.ndarray, whole: bool = False) -> float | None:
        """What stands for white; None where the values alone say it (see `read`)."""
        if self._kind == _FLOAT:
            return 1.0 if whole else None
        if self._kind == _SIGNED:
            is_small = self._bits <= 16 and samples.min() >= 0
            return float(2 ** (self._bits - 1) - 1) if is_small or whole else None
        if whole or self._bits not in (16, 32, 64):
            return float(2**self._bits - 1)
        greatest = int(samples.max())
        stated = _all(self.tag_v2, _GREATEST, 0)[0]
        if greatest <= stated < 2**self._bits:
            return float(stated)
        return float(2 ** next(bits for bits in _USED_BITS if greatest < 2**bits) - 1)


def _of_odd_bits(lines: np.ndarray, count: int, bits: int) -> np.ndarray:
    """Samples that fill no whole bytes, highest bit first; each row begins with a byte."""
    answer = np.empty((len(lines), count), np.uint32)
    weights = (1 << np.arange(bits - 1, -1, -1)).astype(np.uint32)
    for rows in _blocks(len(lines), count):
        single = np.unpackbits(lines[rows], axis=1)[:, : count * bits]
        answer[rows] = single.reshape(-1, count, bits) @ weights
    return answer


def _blocks(rows: int, row: int) -> Iterator[slice]:
    step = max(1, _AT_ONCE // max(row, 1))
    return (slice(start, start + step) for start in range(0, rows, step))
