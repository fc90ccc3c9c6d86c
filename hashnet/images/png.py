"""Opening PNG: what stands beside the picture may be long, broken or both, and does no harm."""

import io
import struct
import zlib

from PIL import Image, PngImagePlugin

from hashnet.images.directories import is_bounded, without_head

_SIGNATURE = 8
_TEXTS = (b"iTXt", b"zTXt", b"tEXt")
# What changes the pixels, or how they are turned; all else is left out.
_OF_PIXELS = (b"tRNS", b"acTL", b"fcTL", b"fdAT", b"eXIf", b"iCCP")
_TEXTS_OF_USE = (b"XML:com.adobe.xmp", b"Raw profile type exif", b"Raw profile type APP1")
_MAX_TEXT = 2**20  # what Pillow takes of one chunk, unpacked
_MAX_TEXTS = 8  # one would do
# Of 8 kB each, as encoders make them, this would be a gigabyte.
MAX_CHUNKS = 2**17


class PngFile(PngImagePlugin.PngImageFile):
    """A PNG of `open_png`, in which all that is beside the picture stands before it."""

    def getexif(self) -> Image.Exif:
        """What Pillow gives, which would decode the picture for what may stand behind it."""
        return Image.Image.getexif(self)


def open_png(content: bytes) -> PngFile:
    """The picture with its header read, from the chunks that make it.

    A check sum guards every chunk. Where it is wrong, a chunk that holds pixels is refused, which
    Pillow does not do, and one that does not is left out, as libpng does it.
    """
    image = PngFile(io.BytesIO(_without_side_chunks(content)))
    if image.mode in ("L", "RGB") and "transparency" in image.info:
        _scale_transparency(image, bits=content[24])
    return image


def _without_side_chunks(content: bytes) -> bytes:
    kept, start, at, texts, chunks = [], 0, _SIGNATURE, 0, 0
    # Where the first pixels are among what is kept, and what comes behind them.
    first, behind, is_as_it_was = None, [], True
    while at + 12 <= len(content):
        chunks += 1
        if chunks > MAX_CHUNKS:
            raise OSError(f"it has more than {MAX_CHUNKS} chunks")
        length, kind = struct.unpack(">I4s", content[at : at + 8])
        end = at + 12 + length
        if kind[:1].islower():
            is_text = kind in _TEXTS
            of_use = texts < _MAX_TEXTS if is_text else kind in _OF_PIXELS
            keep = of_use and _is_sound(content[at + 4 : end])
            texts += is_text and keep
            is_late = keep and first is not None and (is_text or kind == b"eXIf")
            if not keep and end > len(content):
                break  # of a length that is no length: what follows cannot be told
            if is_late:
                behind.append(content[at:end])
            if not keep or is_late:
                kept.append(content[start:at])
                start, is_as_it_was = end, False
        elif end <= len(content) and not _has_its_sum(content[at + 4 : end]):
            raise OSError("the picture is damaged: a check sum of its data is wrong")
        elif kind == b"IDAT" and first is None:
            kept.append(content[start:at])
            first, start = len(kept), at
        at = end
    if is_as_it_was:
        return content
    return b"".join([*kept[:first], *behind, *kept[first:], content[start:]])


def _is_sound(chunk: bytes) -> bool:
    """Whether a chunk's check sum is right, and what it holds is of use and not too long."""
    kind, body = chunk[:4], chunk[4:-4]
    if not _has_its_sum(chunk):
        return False
    if kind not in (*_TEXTS, b"iCCP"):
        return kind != b"eXIf" or is_bounded(without_head(body))
    name, _, rest = body.partition(b"\0")
    if kind == b"iCCP":
        return _unpacks(rest[1:])
    if name not in _TEXTS_OF_USE:
        return False
    if kind == b"tEXt":
        return len(rest) <= _MAX_TEXT
    if kind == b"zTXt":
        return _unpacks(rest[1:])
    packed, (_, _, text) = rest[:1] == b"\1", (rest[2:].split(b"\0", 2) + [b"", b"", b""])[:3]
    return _unpacks(text) if packed else len(text) <= _MAX_TEXT


def _has_its_sum(chunk: bytes) -> bool:
    return len(chunk) >= 8 and zlib.crc32(chunk[:-4]).to_bytes(4, "big") == chunk[-4:]


def _unpacks(data: bytes) -> bool:
    unpacking = zlib.decompressobj()
    try:
        unpacking.decompress(data, _MAX_TEXT)
    except zlib.error:
        return False
    return unpacking.eof


def _scale_transparency(image: PngImagePlugin.PngImageFile, bits: int) -> None:
    """Bring a transparent colour from the file's bits to the eight that Pillow gives."""
    key = image.info["transparency"]
    if isinstance(key, tuple):
        image.info["transparency"] = tuple(part >> (bits - 8) for part in key)
    else:
        image.info["transparency"] = key * 255 // (2**bits - 1)
