"""Files of pictures that cost a decoder far more than they should, made from a seed, by kind."""

import random
import struct
import zlib

from PIL import Image

from tests import make_images

MOST_BYTES = 32 * 2**20 - 2**12  # in a body that the service takes
MOST_SECONDS = 3.0  # of processor time, before one is refused or read


def _segment(kind, data):
    return b"\xff" + bytes([kind]) + struct.pack(">H", len(data) + 2) + data


def _small_jpeg():
    return make_images.encoded(make_images.photo(16, 16), "JPEG")


def _box(kind, data):
    return struct.pack(">I", 8 + len(data)) + kind + data


def _directory(entries, following=0):
    """Of a TIFF: (tag, type, count, value) each."""
    rows = [struct.pack("<HHII", *entry) for entry in entries]
    return struct.pack("<H", len(rows)) + b"".join(rows) + struct.pack("<I", following)


def jpeg_of_scans(rng):
    """A sequential JPEG that sends its three components one by one, again and again."""
    side = rng.choice([2000, 4000, 7000])
    tables = b"".join(_segment(0xDB, bytes([number]) + bytes([1] * 64)) for number in (0, 1))
    frame = struct.pack(">BHHB", 8, side, side, 3) + b"\1\x11\0\2\x11\1\3\x11\1"
    codes = b"\1" + bytes(15) + b"\0"
    huffman = _segment(0xC4, b"\0" + codes + b"\x10" + codes)
    # Each block is two bits: no change of its mean, and its end.
    data = bytes(-(-(((side + 7) // 8) ** 2) // 4))
    scans = rng.choice([3, 30, 190, rng.randrange(2, 200)]) if side < 8000 else 3
    scan = [_segment(0xDA, bytes([1, number, 0, 0, 63, 0])) + data for number in (1, 2, 3)]
    body = b"".join(scan[number % 3] for number in range(scans))
    return b"\xff\xd8" + tables + _segment(0xC0, frame) + huffman + body + b"\xff\xd9"


def jpeg_of_progressive_scans(rng):
    """A large progressive JPEG whose scans all say that nothing changes."""
    side = rng.choice([2000, 5000, 7000])
    tables = _segment(0xDB, b"\0" + bytes([1] * 64))
    frame = struct.pack(">BHHB", 8, side, side, 1) + b"\1\x11\0"
    codes = b"\1" + bytes(15) + b"\0"
    # 15 bits of a run: an end of bands that says 16384 blocks have none.
    ends = b"\1" + bytes(15) + b"\xe0"
    huffman = _segment(0xC4, b"\0" + codes) + _segment(0xC4, b"\x10" + ends)
    blocks = ((side + 7) // 8) ** 2
    first = _segment(0xDA, b"\1\1\0\0\0\0") + bytes(-(-blocks // 8))
    runs = bytes(-(-blocks // 16384) * 2)
    scans = [_segment(0xDA, bytes([1, 1, 0, k, k, 0])) + runs for k in range(1, 64)]
    body = first + b"".join(scans * 3)[: 3 * 10**6]
    return b"\xff\xd8" + tables + _segment(0xC2, frame) + huffman + body + b"\xff\xd9"


def jpeg_of_segments(rng):
    """Exif in very many segments, segments of nothing, or bytes between them."""
    data, size = _small_jpeg(), rng.choice([2**20, 2**22, 2**24])
    between = rng.choice(
        [
            _segment(0xE1, b"Exif\0\0" + bytes(10)),
            _segment(0xE1, b"Exif\0\0" + bytes(60_000)),
            _segment(0xE5, b""),
            _segment(0xED, b"Photoshop 3.0\0" + (b"8BIM" + bytes(8)) * 5000),
            _segment(0xF0, b"\xff\0" * 30_000),
            b"\0",
            _segment(0xFE, b"a"),
        ]
    )
    return data[:2] + between * (size // len(between)) + data[2:]


def exif_of_everything(rng):
    """Exif each of whose many entries claims all the bytes that there are."""
    number, size = rng.choice([200, 4000]), 60_000
    start = 8 + 2 + 12 * number + 4
    size = max(size, start + 100)
    entries = [(tag, 7, size - 8, 8) for tag in range(1, number + 1)]
    exif = b"Exif\0\0" + (b"II*\0\x08\0\0\0" + _directory(entries)).ljust(size, b"\1")
    image, name = make_images.photo(16, 16), rng.choice(["PNG", "WEBP", "JPEG"])
    if name == "JPEG":
        data, parts = _small_jpeg(), b""
        for at in range(0, len(exif), 65_000):
            parts += _segment(0xE1, b"Exif\0\0"[: 6 * (at > 0)] + exif[at : at + 65_000])
        return data[:2] + parts + data[2:]
    return make_images.encoded(image, name, exif=exif)


def gif_of_comments(rng):
    """A GIF whose comments, or whose pixels, come letter by letter."""
    data = make_images.gif_of_many_frames(make_images.photo(16, 16), 1)
    start = data.index(b"!\xf9") if b"!\xf9" in data else data.index(b",")
    size = rng.choice([2**20, 2**23, 2**24])
    letters = rng.choice([b"!\xfe" + b"\1a" * (size // 2) + b"\0", b"!\xfe\1a\0" * (size // 5)])
    if rng.random() < 0.3:
        return data[:-2] + b"\1a" * (size // 2) + b"\0;"
    return data[:start] + letters + data[start:]


def blank_frames(rng):
    """Very large frames of one colour, each to be looked at for one that shows something."""
    side = rng.choice([3000, 5000, 7000])
    if rng.random() < 0.5:
        blank = Image.new("L", (side, side))
        data = make_images.encoded(blank, "GIF")
        start = data.index(b"!\xf9") if b"!\xf9" in data else data.index(b",")
        return data[:start] + data[start:-1] * 32 + b";"
    rows = zlib.compress(bytes((side + 7) // 8 + 1) * side)

    def control(number):
        return make_images.png_chunk(
            b"fcTL", struct.pack(">IIIIIHHBB", number, side, side, 0, 0, 1, 10, 0, 0)
        )

    parts = [b"\x89PNG\r\n\x1a\n"]
    parts += [make_images.png_chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))]
    parts += [make_images.png_chunk(b"acTL", struct.pack(">II", 32, 0)), control(0)]
    parts += [make_images.png_chunk(b"IDAT", rows)]
    for number in range(1, 63, 2):
        frame = make_images.png_chunk(b"fdAT", struct.pack(">I", number + 1) + rows)
        parts += [control(number), frame]
    return b"".join(parts) + make_images.png_chunk(b"IEND", b"")


def png_of_chunks(rng):
    """A PNG of very many chunks: empty ones, texts, or a byte of its pixels in each."""
    size = rng.choice([2**20, 2**23, 2**24])
    kind, body = rng.choice(
        [(b"teXt", b""), (b"IDAT", b""), (b"tEXt", b"a\0b"), (b"zTXt", b"a\0\0")]
    )
    chunk = make_images.png_chunk(kind, body)
    return make_images.png(16, 16, 8, 0, bytes(17 * 16), *([chunk] * (size // len(chunk))))


def png_of_pixels(rng):
    """As many pixels as a picture may have, in few bytes, of the costliest kinds."""
    side = rng.choice([3000, 7000])
    bits, colour, size = rng.choice([(8, 6, 4), (16, 6, 8), (8, 2, 3), (1, 0, 0)])
    line = bytes(1 + (side * size if size else (side + 7) // 8))
    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(line) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, bits, colour, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(make_images.png_chunk(*part) for part in parts)


def tiff_of_entries(rng):
    """A directory of very many entries, each with all the bytes that there are."""
    number = rng.choice([1000, 20_000, 43_000])
    size = 8 + 12 * number
    entries = [(tag, rng.choice([1, 3, 7]), size // 2, 8) for tag in range(number)]
    return b"II*\0\x08\0\0\0" + _directory(entries) + bytes(100)


def tiff_of_parts(rng):
    """A picture as narrow as can be, in a strip for each pixel."""
    height = rng.choice([10_000, 300_000, 800_000])
    bits = rng.choice([8, 16])
    packed = rng.choice([1, 8])
    part = bytes(bits // 8) if packed == 1 else zlib.compress(bytes(bits // 8))
    start = 8 + len(part)
    start += start % 2
    offsets = struct.pack("<I", 8) * height
    counts = struct.pack("<I", len(part)) * height
    where = start + 2 + 12 * 9 + 4
    tags = [(256, 4, 1, 1), (257, 4, 1, height), (258, 3, 1, bits), (259, 3, 1, packed)]
    tags += [(262, 3, 1, 1), (273, 4, height, where), (277, 3, 1, 1), (278, 4, 1, 1)]
    tags += [(279, 4, height, where + 4 * height)]
    head = struct.pack("<4sI", b"II*\0", start) + part
    return head.ljust(start, b"\0") + _directory(tags) + offsets + counts


def bmp_of_runs(rng):
    """A BMP whose runs are one pixel long, or that skips over all it has."""
    width = rng.choice([1000, 7000, 6 * 10**7])
    height = max(1, 4 * 10**7 // width)
    number = rng.choice([10**6, 8 * 10**6])
    runs = rng.choice([b"\1\0" * number, b"\0\2\xff\xff" * 1000, b"\0\0" * number])
    kind = rng.choice([1, 2])
    bits = {1: 8, 2: 4}[kind]
    palette = bytes(4 * 2**bits)
    start = 14 + 40 + len(palette)
    head = struct.pack("<2sIHHI", b"BM", start + len(runs), 0, 0, start)
    head += struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, kind, len(runs), 0, 0, 0, 0)
    return head + palette + runs


def netpbm_of_letters(rng):
    """A plain Netpbm file of millions of numbers, or of comments and little else."""
    size = rng.choice([2**20, 2**23, 2**24])
    kind = rng.choice([b"P1", b"P2", b"P3"])
    body = rng.choice([b"0 ", b"#\n", b"1", b"9\n", b"# \n1 "])
    head = rng.choice([b"", b"#" + b"a" * size + b"\n", b"\n" * size])
    depth = b"" if kind == b"P1" else b"255\n"
    return kind + b"\n" + head + b"3000 3000\n" + depth + body * (size // len(body))


def qoi_of_pixels(rng):
    """A QOI in which each pixel takes a step of its own."""
    side = rng.choice([1000, 3000, 5000])
    head = struct.pack(">4sIIBB", b"qoif", side, side, rng.choice([3, 4]), 0)
    number = side * side
    return (head + rng.choice([b"\x6a", b"\0", b"\xfd"]) * number)[:MOST_BYTES] + bytes(7) + b"\1"


def boxes(rng):
    """AVIF, HEIF or JPEG 2000 of very many boxes, one in another or one behind another."""
    size = rng.choice([2**20, 2**23])
    name = rng.choice(["AVIF", "JPEG2000", "HEIF"])
    if name == "HEIF":
        brand = b"heic" + bytes(4) + b"mif1heic"
        data = _box(b"ftyp", brand)
        inner = b"".join(_box(b"free", b"") for _ in range(size // 8))
        return data + _box(b"meta", bytes(4) + inner)
    data = make_images.encoded(make_images.photo(16, 16), name)
    start = struct.unpack(">I", data[:4])[0]
    if name == "JPEG2000":
        start += struct.unpack(">I", data[start : start + 4])[0]
    nothing = _box(b"free", b"") * (size // 8)
    if rng.random() < 0.5:
        for _ in range(2000):
            nothing = _box(b"meta", nothing[: 2**16])
    return data[:start] + nothing + data[start:]


def jpeg_2000_of_packets(rng):
    """A JPEG 2000 whose header promises more tiles, layers and precincts than it has bytes."""
    data = bytearray(make_images.encoded(make_images.photo(64, 64), "JPEG2000", no_jp2=True))
    coding = data.index(b"\xff\x52")
    size = data.index(b"\xff\x51")
    what = rng.choice(["layers", "tiles", "side"])
    if what == "layers":
        data[coding + 6 : coding + 8] = b"\xff\xff"
    side = 7000 if what == "side" else 2000
    data[size + 6 : size + 14] = struct.pack(">II", side, side)
    tile = 8 if what == "tiles" else side
    data[size + 22 : size + 30] = struct.pack(">II", tile, tile)
    return bytes(data)


def webp_of_frames(rng):
    """A WebP of a large canvas, or of very many frames."""
    if rng.random() < 0.5:
        side = rng.choice([4000, 7000])
        return make_images.encoded(Image.new("RGB", (side, side)), "WEBP", lossless=True, method=0)
    return make_images.webp_of_many_frames(make_images.photo(16, 16), rng.choice([10**3, 10**5]))


KINDS = {
    maker.__name__: maker
    for maker in (
        jpeg_of_scans,
        jpeg_of_progressive_scans,
        jpeg_of_segments,
        exif_of_everything,
        gif_of_comments,
        blank_frames,
        png_of_chunks,
        png_of_pixels,
        tiff_of_entries,
        tiff_of_parts,
        bmp_of_runs,
        netpbm_of_letters,
        qoi_of_pixels,
        boxes,
        jpeg_2000_of_packets,
        webp_of_frames,
    )
}


def files(number, seed=0):
    """So many hostile files, of all kinds alike, every other one damaged: (kind, bytes) each."""
    kinds = list(KINDS)
    for count in range(number):
        kind, rng = kinds[count % len(kinds)], random.Random(f"{seed} {count}")
        data = bytearray(KINDS[kind](rng)[:MOST_BYTES])
        for _ in range(rng.randrange(1, 9) * (count // len(kinds) % 2)):
            # The headers matter most.
            data[rng.randrange(min(len(data), rng.choice([64, 1000, MOST_BYTES])))] = rng.randrange(
                256
            )
        yield kind, bytes(data)
