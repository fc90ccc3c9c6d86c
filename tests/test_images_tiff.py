"""hashnet/images/tiff.py: samples of every kind give the picture, or are refused by name."""

import io
import itertools
import struct
import time

import numpy as np
import pytest
from PIL import Image

from hashnet import images
from hashnet.errors import ImageError
from hashnet.images import costs, pixels, tiff
from tests import make_images

tifffile = pytest.importorskip("tifffile")
PHOTO = make_images.photo(50, 70)
GREY = PHOTO[..., 0]
# The dtype of samples, and what stands for white.
KINDS = {
    "uint16": 2**16 - 1,
    "uint32": 2**32 - 1,
    "uint64": 2**64 - 1,
    "int16": 2**15 - 1,
    "float16": 1,
    "float32": 1,
    "float64": 1,
}
LAYOUTS = {
    "one strip": {},
    "strips": {"rowsperstrip": 7},
    "tiles": {"tile": (16, 32)},
    "deflate": {"compression": "zlib", "rowsperstrip": 9},
    "predicted": {"compression": "zlib", "predictor": True},
    "predicted tiles": {"compression": "zlib", "predictor": True, "tile": (32, 16)},
}


def encoded(samples, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, samples, **options)
    return file.getvalue()


def as_kind(colours, kind):
    if kind == "uint64":
        return colours.astype(np.uint64) * 0x0101010101010101
    return (colours / 255 * KINDS[kind]).astype(kind)


def of_grey(grey):
    return np.repeat(grey[..., None], 3, axis=2)


def differ(data, expected):
    """Most of the difference."""
    assert images.size(data) == expected.shape[:2]
    return np.abs(images.read(data).astype(int) - expected).max()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_samples_of_every_kind_give_the_picture(kind, layout):
    options = LAYOUTS[layout]
    if "predictor" in options and kind not in ("uint16", "uint32", "int16"):
        pytest.skip("nothing here writes this")
    for order, planes in itertools.product("<>", ("contig", "separate")):
        samples = as_kind(PHOTO, kind)
        samples = np.moveaxis(samples, 2, 0) if planes == "separate" else samples
        rgb = {"photometric": "rgb", "planarconfig": planes, "byteorder": order, **options}
        assert differ(encoded(samples, **rgb), PHOTO) <= 1, (order, planes)
    grey = {"photometric": "minisblack", **options}
    assert differ(encoded(as_kind(GREY, kind), **grey), of_grey(GREY)) <= 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_planes_apart_of_8_bits_give_the_picture(layout):
    options = {"photometric": "rgb", "planarconfig": "separate", **LAYOUTS[layout]}
    assert differ(encoded(np.moveaxis(PHOTO, 2, 0), **options), PHOTO) == 0


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "float32"])
def test_white_is_zero_where_the_file_says_so(dtype):
    white = {"uint8": 255, "uint16": 65535, "uint32": 2**32 - 1, "float32": 1}[dtype]
    samples = (white - GREY / 255 * white).astype(dtype)
    data = encoded(samples, photometric="miniswhite")
    assert differ(data, of_grey(GREY)) <= 1


@pytest.mark.parametrize("dtype", ["uint16", ">u2", "int16", "float32"])
def test_a_large_picture_has_the_values_of_a_small_one(dtype, monkeypatch):
    values = np.random.default_rng(0).permutation(2**15).astype(dtype)
    expected = {most: pixels.to_bytes(values, most) for most in (None, 1023.0)}
    monkeypatch.setattr(pixels, "_AT_ONCE", 1000)
    for most, small in expected.items():
        assert np.array_equal(pixels.to_bytes(values, most), small)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_16_bits_are_scaled_by_what_they_hold(bits):
    samples = (GREY / 255 * (2**bits - 1)).astype(np.uint16)
    assert samples.max() >= 2 ** (bits - 1)
    assert differ(encoded(samples, photometric="minisblack"), of_grey(GREY)) <= 1
    samples = (PHOTO / 255 * (2**bits - 1)).astype(np.uint32)
    assert differ(encoded(samples, photometric="rgb"), PHOTO) <= 1


def test_the_greatest_value_that_a_file_states_is_white():
    samples = GREY.astype(np.uint16) * 2
    stated = [(281, "H", 1, 1023, True)]
    data = encoded(samples, photometric="minisblack", extratags=stated)
    assert differ(data, of_grey(np.rint(samples / 1023 * 255))) <= 1


def packed(samples, bits, photometric):
    """An uncompressed TIFF of samples that fill no whole bytes."""
    height, width, count = samples.shape
    single = samples[..., None].astype(np.uint32) >> np.arange(bits - 1, -1, -1) & 1
    rows = np.packbits(single.reshape(height, -1).astype(np.uint8), axis=1).tobytes()
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: count}
    tags |= {278: height, 279: len(rows)}
    head = struct.pack("<4sI", b"II*\0", 8 + len(rows) + len(rows) % 2)
    fields = b"".join(struct.pack("<HHII", tag, 4, 1, tags[tag]) for tag in sorted(tags))
    return head + rows + bytes(len(rows) % 2) + struct.pack("<H", len(tags)) + fields + bytes(4)


@pytest.mark.parametrize("bits", [10, 12, 14, 24])
def test_bits_that_fill_no_whole_bytes_are_unpacked(bits):
    for colours, photometric in ((PHOTO, 2), (GREY[..., None], 1), (255 - GREY[..., None], 0)):
        samples = np.rint(colours / 255 * (2**bits - 1)).astype(np.uint32)
        expected = PHOTO if photometric == 2 else of_grey(GREY)
        assert differ(packed(samples, bits, photometric), expected) == 0


def test_transparency_of_16_bits_is_composed():
    alpha = np.zeros(GREY.shape, np.uint16)
    alpha[:, 20:] = 65535
    for kind, planes in itertools.product(("unassalpha", "assocalpha"), ("contig", "separate")):
        samples = np.dstack([PHOTO.astype(np.uint16) * 257, alpha])
        if kind == "assocalpha":
            samples[:, :20] = 0
        samples = np.moveaxis(samples, 2, 0) if planes == "separate" else samples
        options = {"photometric": "rgb", "planarconfig": planes, "extrasamples": [kind]}
        expected = PHOTO.copy()
        expected[:, :20] = 255
        assert differ(encoded(samples, **options), expected) <= 1


def test_cmyk_of_16_bits_is_ink():
    ink = np.zeros((8, 8, 4), np.uint16)
    ink[..., 0] = 65535
    red, green, blue = images.read(encoded(ink, photometric="separated"))[4, 4].tolist()
    assert red < 5 and green > 250 and blue > 250


@pytest.mark.parametrize("orientation", range(1, 9))
def test_planes_apart_are_turned_upright(orientation):
    tag = (274, "H", 1, orientation, True)
    data = encoded(PHOTO.astype(np.uint16) * 257, photometric="rgb", extratags=[tag])
    bytes_of = encoded(PHOTO, photometric="rgb", extratags=[tag])
    assert np.array_equal(images.read(data), images.read(bytes_of))
    assert images.size(data) == images.size(bytes_of)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (lambda: encoded(PHOTO.astype(np.uint16), photometric="cielab"), "colour space 8"),
        (lambda: encoded(GREY.astype(np.complex64), photometric="minisblack"), "kind 6"),
    ],
)
def test_other_samples_are_refused_by_name(data, reason):
    with pytest.raises(ImageError, match=f"a TIFF of .*{reason}.* is not read"):
        images.read(data())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("samples_at_once", [1, 1500])
def test_parts_are_unpacked_some_at_a_time(layout, samples_at_once, monkeypatch):
    monkeypatch.setattr(tiff, "_AT_ONCE", samples_at_once)
    for planes in ("contig", "separate"):
        samples = PHOTO.astype(np.uint16) * 257
        samples = np.moveaxis(samples, 2, 0) if planes == "separate" else samples
        rgb = {"photometric": "rgb", "planarconfig": planes, **LAYOUTS[layout]}
        assert differ(encoded(samples, **rgb), PHOTO) == 0


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_many_strips_take_little_longer_than_one(compression):
    """As OpenCV writes TIFF: a strip for each row, of large pictures that are not compressed."""
    samples = np.resize(np.arange(4000, dtype=np.uint16), (2000, 4000))
    seconds = {}
    for rows in (2000, 1):
        options = {"compression": compression, "rowsperstrip": rows}
        data = encoded(samples, photometric="minisblack", **options)
        taken = []
        for _ in range(2):
            began = time.process_time()
            images.read(data)
            taken.append(time.process_time() - began)
        seconds[rows] = min(taken)
    assert seconds[1] < 3 * seconds[2000] + 0.1


def test_a_strip_is_no_longer_than_it_can_be_whatever_the_file_says(monkeypatch):
    """Where that is not said at all, each ends with the file."""
    seen, real = [], tiff.TiffFile._decompressed
    noise = np.random.default_rng(0).integers(0, 2**16, (200, 500), np.uint16)
    data = encoded(noise, photometric="minisblack", compression="zlib", rowsperstrip=1)
    expected = images.read(data)

    def decompressed(self, parts, *arguments):
        seen.extend(len(part.data) for part in parts)
        return real(self, parts, *arguments)

    monkeypatch.setattr(tiff.TiffFile, "_decompressed", decompressed)
    entry = data.index(struct.pack("<HHI", 279, 3, 200))
    data = data[:entry] + struct.pack("<H", 65000) + data[entry + 2 :]
    assert np.array_equal(images.read(data), expected)
    assert len(seen) == 200 and max(seen) <= 2 * 2 * 500 + 4096 < len(data)


def test_a_large_picture_may_be_one_strip_of_many_bytes(monkeypatch):
    """Pillow would take each byte of it for a pixel."""
    data = encoded(PHOTO.astype(np.uint16) * 257, photometric="rgb", compression="zlib")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50 * 70)
    assert np.array_equal(images.read(data), PHOTO)


def test_a_part_that_is_missing_is_noticed():
    for compressed in ({}, {"compression": "zlib"}):
        whole = encoded(PHOTO.astype(np.uint16) * 257, photometric="rgb", **compressed)
        with pytest.raises(ImageError):
            images.read(whole[: len(whole) // 2])


def test_samples_that_take_too_much_memory_are_refused_before_they_are_unpacked():
    data = encoded(PHOTO.astype(np.float64) / 255, photometric="rgb", compression="zlib")
    with pytest.raises(ImageError, match="84000 bytes of samples, take more memory"):
        images.read(data, max_pixels=50 * 70)
    assert images.read(data, max_pixels=4 * 50 * 70).shape == PHOTO.shape
    # RGB of 16 bits may have as many pixels as any picture.
    data = encoded(PHOTO.astype(np.uint16) * 257, photometric="rgb", compression="zlib")
    assert images.read(data, max_pixels=50 * 70).shape == PHOTO.shape


def test_large_samples_take_more_than_small_ones():
    """Floats of 22 million pixels, which take 3 s and 400 MB, are not decoded here."""
    of_kind = {}
    for kind in ("uint16", "float32"):
        data = encoded(np.zeros((4, 4, 3), kind), photometric="rgb")
        image = tiff.open_tiff(data)
        image._size, image.num_bytes = (5500, 4000), image.num_bytes * 22 * 10**6 // 16
        of_kind[kind] = costs.cost(image, 2**20, images.MAX_PIXELS)
    assert not costs.is_costly(of_kind["uint16"])
    assert costs.is_costly(of_kind["float32"])
    more = of_kind["float32"].megabytes - of_kind["uint16"].megabytes
    assert round(more) == round(22e6 * 6 / 2**20)


def test_a_part_that_is_decompressed_is_there_twice_more():
    told = {}
    for rows in (5, 50):
        options = {"compression": "zlib", "rowsperstrip": rows}
        data = encoded(PHOTO.astype(np.uint16), photometric="rgb", **options)
        told[rows] = costs.cost(tiff.open_tiff(data), 10**5, images.MAX_PIXELS).megabytes
    assert told[50] - told[5] == pytest.approx(2 * 45 * 70 * 6 / 2**20)
