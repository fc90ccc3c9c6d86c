"""Picture files for tests, good and hostile, built byte by byte where no encoder would do it."""

import io
import re
import struct
import zlib

import numpy as np
from PIL import Image


def photo(height=48, width=64, seed=0):
    """A smooth coloured picture with no symmetry: uint8 `(height, width, 3)`."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    return np.array(coarse.resize((width, height), Image.Resampling.BICUBIC))


def encoded(image, name, **options):
    """A Pillow image or an array as the bytes of a file."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, name, **options)
    return file.getvalue()


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, bits, colour, rows, *chunks):
    """A PNG from its header's fields, raw rows (each after its filter byte), and more chunks."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = [png_chunk(b"IHDR", header), *chunks, png_chunk(b"IDAT", zlib.compress(rows, 9))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body) + png_chunk(b"IEND", b"")


def png_bomb(side=9000):
    """A 1-bit picture that is small as a file and large as pixels."""
    return png(side, side, 1, 0, bytes((1 + (side + 7) // 8) * side))


def jpeg_header(width=20000, height=20000):
    """A JPEG of a few hundred bytes whose header claims a huge picture."""
    size = struct.pack(">BHHB", 8, height, width, 3)
    parts = [
        (b"\xff\xe0", b"JFIF\0\1\1\0\0\1\0\1\0\0"),
        (b"\xff\xdb", b"\0" + bytes([1] * 64)),
        (b"\xff\xdb", b"\1" + bytes([1] * 64)),
        (b"\xff\xc0", size + b"\1\x22\0\2\x11\1\3\x11\1"),
        (b"\xff\xfe", b" " * 100),
        (b"\xff\xda", b"\3\1\0\2\x11\3\x11\0\x3f\0"),
    ]
    body = b"".join(mark + struct.pack(">H", len(data) + 2) + data for mark, data in parts)
    return b"\xff\xd8" + body + b"\0\0\xff\xd9"


def jpeg_of_many_scans(image, scans):
    """A progressive JPEG that repeats the one scan that may be: the last bits of all means."""
    data = encoded(image, "JPEG", progressive=True, quality=50)
    bits = re.search(rb"\xff\xda\0\x0c\x03.{6}\0\0\x10(?:[^\xff]|\xff\0)+", data, re.DOTALL)
    return data[: bits.start()] + bits.group() * scans + data[bits.end() :]


def long_qoi(side):
    """A QOI of which Pillow decodes pixel by pixel, a microsecond each, and no more is wrong."""
    head = struct.pack(">4sIIBB", b"qoif", side, side, 3, 0)
    return head + b"\x6a" * side**2 + bytes(7) + b"\1"


def webp_header(width=16000, height=16000):
    """A WebP of some hundred bytes whose canvas is huge."""
    small = encoded(photo(8, 8), "WEBP")
    canvas = bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBP" + b"VP8X" + struct.pack("<I", 10) + canvas + small[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


def gif_of_many_frames(image, frames):
    data = encoded(Image.fromarray(image).quantize(16), "GIF")
    start = data.index(b"!\xf9") if b"!\xf9" in data else data.index(b",")
    return data[:start] + data[start:-1] * frames + b";"


def webp_of_many_frames(image, frames):
    others = [Image.fromarray(255 - image)]
    data = encoded(image, "WEBP", save_all=True, append_images=others, lossless=True)
    last = data.rindex(b"ANMF")
    body = data[8:] + data[last:] * (frames - 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def apng_of_many_frames(image, frames):
    height, width = image.shape[:2]

    def rows(pixels):
        return zlib.compress(b"".join(b"\0" + row.tobytes() for row in pixels))

    def control(number):
        fields = (number, width, height, 0, 0, 1, 10, 0, 0)
        return png_chunk(b"fcTL", struct.pack(">IIIIIHHBB", *fields))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [
        b"\x89PNG\r\n\x1a\n",
        png_chunk(b"IHDR", header),
        png_chunk(b"acTL", struct.pack(">II", frames, 0)),
        control(0),
        png_chunk(b"IDAT", rows(image)),
    ]
    other = rows(255 - image)
    for number in range(1, 2 * frames - 1, 2):
        parts += [control(number), png_chunk(b"fdAT", struct.pack(">I", number + 1) + other)]
    return b"".join(parts) + png_chunk(b"IEND", b"")


def tiff(image, *, pages=1, extra=()):
    """An uncompressed RGB TIFF; all pages share the same pixels. `extra`: (tag, long) pairs."""
    height, width = image.shape[:2]
    start = 8 + 8 + image.nbytes  # header, bits per sample, pixels
    tags = {256: width, 257: height, 259: 1, 262: 2, 273: 16, 277: 3, 278: height}
    tags |= {279: image.nbytes} | dict(extra)
    length = 2 + 12 * (len(tags) + 1) + 4
    parts = [b"II*\0", struct.pack("<I", start), struct.pack("<HHHH", 8, 8, 8, 0), image.tobytes()]
    for page in range(pages):
        entries = [(tag, 4, 1, value) for tag, value in tags.items()] + [(258, 3, 3, 8)]
        parts.append(struct.pack("<H", len(entries)))
        parts += [struct.pack("<HHII", *entry) for entry in sorted(entries)]
        following = start + (page + 1) * length if page + 1 < pages else 0
        parts.append(struct.pack("<I", following))
    return b"".join(parts)


def exif(orientation):
    """EXIF data that says only how the picture is to be turned."""
    data = Image.Exif()
    data[0x0112] = orientation
    return data.tobytes()
