"""Pictures that take a decoder as long as it can, or as much memory: as many pixels as are allowed,
or as many bytes as a request may have, of each format and of the kinds of each that are slowest."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

from tests import hostile_images, make_images
from tests.hostile_images import MOST_BYTES

SIDE = 8062  # of a square of as many pixels as are allowed


def noise(side, channels):
    """What is hardest to decode."""
    return np.random.default_rng(0).integers(0, 256, (side, side, channels), dtype=np.uint8)


def smooth(side, channels):
    """What takes few bytes; transparent where there is a fourth channel."""
    steps = np.add.outer(np.arange(side) // 7, np.arange(side) // 5).astype(np.uint8)
    return np.repeat(steps[:, :, None], channels, 2)


def fitting(name, side, pixels=noise, channels=3, **options):
    """As large a square as fits into a request."""
    while True:
        image = Image.fromarray(pixels(side, channels))
        data = make_images.encoded(image, name, **options)
        if len(data) <= MOST_BYTES:
            return data
        side = int(side * min(0.97, (MOST_BYTES / len(data)) ** 0.5))


def jpeg(**options):
    return fitting("JPEG", SIDE, quality=20, subsampling=0, **options)


def jpeg_without_end(**options):
    return jpeg(**options)[:-2]


def jpeg_of_blocks(side, components):
    """More pixels than are decoded whole: no block differs from the one before."""
    tables = hostile_images._segment(0xDB, b"\0" + bytes([1] * 64))
    numbers = range(1, components + 1)
    frame = struct.pack(">BHHB", 8, side, side, components)
    frame += b"".join(bytes([number, 0x11, 0]) for number in numbers)
    codes = b"\1" + bytes(15) + b"\0"
    huffman = hostile_images._segment(0xC4, b"\0" + codes + b"\x10" + codes)
    head = bytes([components]) + b"".join(bytes([number, 0]) for number in numbers)
    scan = hostile_images._segment(0xDA, head + b"\0\x3f\0")
    data = bytes(components * ((side + 7) // 8) ** 2 // 4 + 8)
    head = tables + hostile_images._segment(0xC0, frame) + huffman + scan
    return b"\xff\xd8" + head + data + b"\xff\xd9"


def png(bits, colour, samples, interlaced=False):
    """Rows that differ, each to be predicted from the one above."""
    packer, parts = zlib.compressobj(1), []
    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4)]
        passes += [(1, 0, 2, 2), (0, 1, 1, 2)]
    for left, top, across, down in passes:
        size = (-(-(SIDE - left) // across) * samples * bits + 7) // 8
        line = b"\4" + (bytes(range(256)) * (size // 256 + 1))[:size]
        parts += [packer.compress(line) for _ in range(-(-(SIDE - top) // down))]
    header = struct.pack(">IIBBBBB", SIDE, SIDE, bits, colour, 0, 0, interlaced)
    chunks = [(b"IHDR", header)]
    if colour == 3:
        chunks += [(b"PLTE", bytes(768)), (b"tRNS", bytes(range(256)))]
    chunks += [(b"IDAT", b"".join([*parts, packer.flush()])), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(make_images.png_chunk(*one) for one in chunks)


def tiff(bits, samples=1, planes=1):
    """One strip of samples for each plane, each told by what it is more than the one before."""
    size = -(-SIDE * bits // 8)
    packer, line = zlib.compressobj(1), (bytes(range(256)) * (size // 256 + 1))[:size]
    strip = b"".join([*(packer.compress(line) for _ in range(SIDE)), packer.flush()])
    strip += bytes(len(strip) % 2)
    beyond, where = [], 8 + len(strip)

    def many(tag, letter, value, number):
        kind, packed = {"H": 3, "I": 4}[letter], struct.pack(letter, value) * number
        if len(packed) <= 4:
            return tag, kind, number, int.from_bytes(packed, "little")
        beyond.append(packed)
        return tag, kind, number, where + sum(map(len, beyond[:-1]))

    tags = [(256, 4, 1, SIDE), (257, 4, 1, SIDE), many(258, "H", bits, samples), (259, 3, 1, 8)]
    tags += [(262, 3, 1, 2 if samples > 2 else 1), many(273, "I", 8, planes), (277, 3, 1, samples)]
    tags += [(278, 4, 1, SIDE), many(279, "I", len(strip), planes)]
    tags += [(284, 3, 1, 2 if planes > 1 else 1), (317, 3, 1, 2)]
    tags += [(338, 3, 1, 2)] if samples > 3 else []
    tail = b"".join(beyond)
    head = struct.pack("<4sI", b"II*\0", where + len(tail))
    return head + strip + tail + hostile_images._directory(tags)


def packed_tiff(compression, mode):
    pixels = smooth(SIDE, len(mode))
    image = Image.frombytes(mode, (SIDE, SIDE), pixels.tobytes())
    return make_images.encoded(image, "TIFF", compression=compression)


def heif(side, pixels, quality):
    import pillow_heif

    file = io.BytesIO()
    image = pillow_heif.from_pillow(Image.fromarray(pixels(side, 3)))
    image.save(file, quality=quality)
    return file.getvalue()


def jxl(side, pixels, **options):
    import imagecodecs

    return imagecodecs.jpegxl_encode(pixels(side, 3), **options)


def qoi(number, byte):
    """A QOI of one step again and again."""
    head = struct.pack(">4sIIBB", b"qoif", SIDE, SIDE, 4, 0)
    return head + byte * number + bytes(7) + b"\1"


def tga(bits):
    """Runs of 128 pixels."""
    pixel = bytes(range(1, bits // 8 + 1))
    row = (b"\xff" + pixel) * (SIDE // 128) + bytes([127 + SIDE % 128]) + pixel
    flags = 8 if bits == 32 else 0
    head = struct.pack("<BBBHHBHHHHBB", 0, 0, 10, 0, 0, 0, 0, 0, SIDE, SIDE, bits, flags)
    return head + row * SIDE


def plain_netpbm(kind, side, number):
    depth = b"" if kind == 1 else b"65535 "
    return b"P%d %d %d " % (kind, side, side) + depth + number * (side * side)


KINDS = {
    "JPEG": jpeg,
    "JPEG, progressive": lambda: jpeg(progressive=True),
    "JPEG without its end": jpeg_without_end,
    "JPEG without its end, progressive": lambda: jpeg_without_end(progressive=True),
    "JPEG of 4,160 million pixels": lambda: jpeg_of_blocks(64_496, 1),
    "JPEG of 2,600 million pixels, in colour": lambda: jpeg_of_blocks(51_000, 3),
    "PNG, 16 bits, transparent": lambda: png(16, 6, 4),
    "PNG, 16 bits, transparent, interlaced": lambda: png(16, 6, 4, interlaced=True),
    "PNG, 16 bits": lambda: png(16, 2, 3),
    "PNG": lambda: png(8, 2, 3),
    "PNG, palette, transparent": lambda: png(8, 3, 1),
    "PNG, 1 bit": lambda: png(1, 0, 1),
    "WebP": lambda: fitting("WEBP", SIDE, quality=10, method=0),
    "WebP, lossless": lambda: fitting("WEBP", 3300, lossless=True, method=0),
    "WebP, transparent": lambda: fitting("WEBP", SIDE, smooth, 4, quality=10, method=0),
    "GIF": lambda: make_images.encoded(Image.fromarray(smooth(SIDE, 1)[..., 0]), "GIF"),
    "BMP": lambda: fitting("BMP", 3300),
    "BMP, 1 bit": lambda: make_images.encoded(Image.fromarray(noise(SIDE, 1)[..., 0] > 127), "BMP"),
    "TIFF, Zstandard, transparent": lambda: packed_tiff("zstd", "RGBA"),
    "TIFF, Zstandard, CMYK": lambda: packed_tiff("zstd", "CMYK"),
    "TIFF, 17 bits": lambda: tiff(17),
    "TIFF, 16 bits": lambda: tiff(16),
    "TIFF, planes apart, transparent": lambda: tiff(8, samples=4, planes=4),
    "AVIF": lambda: fitting("AVIF", 4000, quality=95, subsampling="4:4:4", speed=10),
    "AVIF, large": lambda: fitting("AVIF", SIDE, smooth, speed=10, quality=50),
    "AVIF, transparent": lambda: fitting("AVIF", SIDE, smooth, 4, speed=10, quality=50),
    "HEIF": lambda: heif(3000, noise, 90),
    "HEIF, large": lambda: heif(4000, smooth, 50),
    "JPEG XL": lambda: jxl(1500, noise, lossless=True, effort=7),
    "JPEG XL, large": lambda: jxl(SIDE, smooth, lossless=True, effort=1),
    "JPEG 2000": lambda: fitting("JPEG2000", 3200),
    "JPEG 2000, large": lambda: fitting(
        "JPEG2000", SIDE, smooth, quality_mode="rates", quality_layers=[100], irreversible=True
    ),
    "PBM, plain": lambda: plain_netpbm(1, 5790, b"1"),
    "PPM, plain": lambda: plain_netpbm(2, 4090, b"9 "),
    "QOI, of bytes": lambda: qoi(MOST_BYTES - 30, b"\x6a"),
    "QOI, of runs": lambda: qoi(SIDE * SIDE // 62 + 1, b"\xfd"),
    "TGA, transparent": lambda: tga(32),
    "TGA, 16 bits": lambda: tga(16),
}
