"""hashnet/images: each picture becomes one RGB array, each other file one error."""

import contextlib
import io
import logging
import os
import pathlib
import socket
import struct
import subprocess
import sys
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from hashnet import images
from hashnet.errors import ArgumentError, ImageError, ShapeError
from tests import make_images, needs

PHOTO = make_images.photo()
FORMATS = {
    "JPEG": {"quality": 90},
    "PNG": {},
    "WEBP": {"lossless": True},
    "BMP": {},
    "GIF": {},
    "TIFF": {},
}
MORE_FORMATS = {
    "AVIF": {"quality": 95},
    "JPEG2000": {},
    "MPO": {"quality": 95},
    "PPM": {},
    "PGM": {},
    "PBM": {},
    "ICO": {"sizes": [(64, 48)]},
    "QOI": {},
    "TGA": {},
}
OWN_SUFFIX = {"TGA": ".tga"}


def as_file(image, name, **options):
    options = {**FORMATS, **MORE_FORMATS}[name] | options
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    if name == "GIF":
        image = image if image.mode == "P" else image.quantize(64)
    if name in ("PGM", "PBM"):
        image, name = image.convert("L" if name == "PGM" else "1"), "PPM"
    return make_images.encoded(image, name, **options)


def refused(source, *words, **options):
    with pytest.raises(ImageError) as error:
        images.read(source, **options)
    message = str(error.value)
    for word in words:
        assert word in message
    with pytest.raises(ImageError):
        images.read_resized(source, (8, 8), **options)
    return message


def mean_difference(one, other):
    assert one.shape == other.shape
    return np.abs(one.astype(int) - other.astype(int)).mean()


# faults.md, Images 1 to 14


@pytest.mark.parametrize("name", ["empty.jpg", "text.jpg", "zeros.png"])
def test_a_file_that_is_no_picture_is_refused_by_name(tmp_path, name):  # 1, 2
    path = tmp_path / name
    path.write_bytes({"e": b"", "t": b"BMW and other cars\n", "z": bytes(1000)}[name[0]])
    refused(path, name, "Received: ", "Known formats: JPEG, PNG")


def test_a_picture_is_known_by_its_content_and_not_by_its_suffix(tmp_path):  # 2
    path = tmp_path / "picture.gif"
    path.write_bytes(as_file(PHOTO, "PNG"))
    assert np.array_equal(images.read(path), PHOTO)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("part", [0.02, 0.3, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_refused_or_whole(tmp_path, name, part):  # 3
    data = as_file(PHOTO, name)
    cut = data[: int(len(data) * part)]
    path = tmp_path / "cut.jpg"
    path.write_bytes(cut)
    if name == "TIFF" and part == 0.99:  # Pillow writes the pixels last
        assert len(cut) < len(data)
    refused(path, "cut.jpg")
    refused(cut, f"{len(cut)} bytes")


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_cut_anywhere_never_shows_other_pixels(name):  # 3
    data = as_file(make_images.photo(12, 16), name)
    whole = images.read(data)
    for end in range(len(data)):
        try:
            image = images.read(data[:end])
        except ImageError:
            continue
        assert np.array_equal(image, whole), end


def test_a_progressive_photo_cut_in_half_is_refused():  # 3
    data = as_file(make_images.photo(300, 400), "JPEG", progressive=True)
    refused(data[: len(data) // 2], "truncated")


BOMBS = """
import pathlib, sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from hashnet import images
from hashnet.errors import ImageError

def peak():
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024

images.read(images.to_jpeg(np.zeros((64, 64, 3), np.uint8)))
images.read(images.to_png(np.zeros((64, 64, 3), np.uint8)))
before = peak()
for path in sys.argv[2:]:
    for read in (images.read, lambda path: images.read_resized(path, (224, 224))):
        try:
            read(path)
            print("read", path)
        except ImageError as error:
            print("refused", error)
print(peak() - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory is read there")
def test_bombs_are_refused_without_memory(tmp_path):  # 4, 5
    bmp = as_file(PHOTO, "BMP")
    bombs = {
        "header.jpg": make_images.jpeg_header(),
        "one_bit.png": make_images.png_bomb(),
        "canvas.webp": make_images.webp_header(),
        "canvas2.webp": make_images.webp_header(9000, 9000),
        "canvas.bmp": bmp[:18] + b"\xff\xff\0\0\xff\xff\0\0" + bmp[26:],
        "canvas.gif": b"GIF89a\xff\xff\xff\xff" + as_file(PHOTO, "GIF")[10:],
        "frame.gif": as_file(PHOTO, "GIF").replace(b",\0\0\0\0", b",\0\xf0\0\xf0"),
        "canvas.tif": make_images.tiff(PHOTO, extra=[(256, 60000), (257, 60000)]),
        "tile.tif": make_images.tiff(PHOTO, extra=[(322, 60000), (323, 60000), (324, 16)]),
    }
    for name, data in bombs.items():
        (tmp_path / name).write_bytes(data)
    assert (tmp_path / "header.jpg").stat().st_size < 400
    assert (tmp_path / "one_bit.png").stat().st_size < 12_000
    root = str(pathlib.Path(images.__file__).parents[1])
    paths = [str(tmp_path / name) for name in bombs]
    command = [sys.executable, "-c", BOMBS, root, *paths]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr == ""
    *lines, rise = answer.stdout.splitlines()
    assert len(lines) == 2 * len(bombs)
    for line in lines:
        assert line.startswith("refused") and "pixels" in line
    assert float(rise) < 50


def test_a_jpeg_without_a_scan_is_refused():
    data = as_file(PHOTO, "JPEG")
    refused(data[: data.index(b"\xff\xda")] + b"\xff\xd9", "cannot load this image")


def test_the_pixel_limit_is_an_argument():
    refused(as_file(PHOTO, "PNG"), "64 x 48 pixels are more than 3071", max_pixels=3071)
    assert images.read(as_file(PHOTO, "PNG"), max_pixels=3072).shape == (48, 64, 3)


def test_a_file_of_too_many_bytes_is_refused_before_it_is_read(tmp_path):
    start = time.perf_counter()
    for name, beginning in [("long.png", as_file(PHOTO, "PNG")), ("zeros.png", b"")]:
        with open(tmp_path / name, "wb") as file:
            file.write(beginning)
            file.truncate(2**40)  # a hole, not a terabyte
    refused(tmp_path / "long.png", "1099511627776 bytes are more than")
    refused(tmp_path / "zeros.png", "none of the known formats")
    assert time.perf_counter() - start < 1


def test_an_endless_file_object_is_refused(monkeypatch):
    monkeypatch.setattr(images.sources, "MAX_BYTES", 2**22)
    with open("/dev/zero", "rb") as file:
        refused(file, "bytes are more than")


def test_a_jpeg_of_endless_scans_is_refused_and_one_of_many_is_not():
    many = make_images.jpeg_of_many_scans(PHOTO, 150)
    assert images.read(many).shape == PHOTO.shape
    refused(make_images.jpeg_of_many_scans(PHOTO, 300), "scans")


@pytest.mark.parametrize("kind", ["gif", "webp", "apng", "tiff"])
def test_only_the_first_of_ten_thousand_frames_is_read(kind):  # 6
    small = make_images.photo(16, 16)
    data, first = {
        "gif": lambda: (make_images.gif_of_many_frames(small, 10_000), None),
        "webp": lambda: (make_images.webp_of_many_frames(small, 10_000), small),
        "apng": lambda: (make_images.apng_of_many_frames(small, 10_000), small),
        "tiff": lambda: (make_images.tiff(small, pages=10_000), small),
    }[kind]()
    if first is None:
        first = images.read(make_images.encoded(Image.fromarray(small).quantize(16), "GIF"))
    with Image.open(io.BytesIO(data)) as image:
        image.seek(2)  # there are more frames indeed
    start = time.perf_counter()
    assert np.array_equal(images.read(data), first)
    assert time.perf_counter() - start < 1


OTHER_FORMATS = {
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n",
    "fits": b"SIMPLE  =                    T".ljust(80) + b"END".ljust(2800),
    "psd": b"8BPS\0\1" + bytes(6) + b"\0\3\0\0\0\x10\0\0\0\x10\0\x08\0\3" + bytes(1000),
    "gd": b"\xff\xfe\0\x10\0\x10\1" + bytes(2000),
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    "pdf": b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\n",
    "tga without a name": make_images.encoded(PHOTO, "TGA"),
    "cur": b"\0\0\2\0\1\0\x10\x10" + bytes(100),
    "dds": b"DDS |" + bytes(200),
    "sgi": b"\x01\xda\0\1\0\2" + bytes(600),
    "pcx": b"\x0a\5\1\x08" + bytes(200),
    "mp4": b"\0\0\0\x18ftypmp42" + bytes(200),
    "words": b"P1 of the plan\nBMW",
}


@pytest.mark.parametrize("kind", OTHER_FORMATS)
def test_other_formats_are_refused_and_their_decoders_never_called(monkeypatch, kind):  # 7
    Image.init()

    def called(*_arguments):
        raise AssertionError("another plugin was called")

    for name in set(Image.OPEN) - {one.upper().replace(" ", "") for one in images.ALLOWED_FORMATS}:
        monkeypatch.setitem(Image.OPEN, name, (called, lambda prefix: True))
    refused(OTHER_FORMATS[kind], "none of the known formats")


def turned(image, orientation):
    """What a camera stores for an upright image under an orientation: the definition."""
    stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: a.swapaxes(0, 1)[::-1],
        7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
        8: lambda a: a.swapaxes(0, 1)[:, ::-1],
    }
    return np.ascontiguousarray(stored[orientation](image))


@pytest.mark.parametrize("name", ["PNG", "WEBP", "TIFF", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_eight_orientations_give_the_upright_pixels(name, orientation):  # 8
    stored = turned(PHOTO, orientation)
    data = as_file(stored, name, exif=make_images.exif(orientation))
    if name == "JPEG":  # what was lost is lost in the stored order
        upright = [a for a in range(1, 9) if np.array_equal(turned(stored, a), PHOTO)]
        expected = turned(images.read(as_file(stored, name)), upright[0])
    else:
        expected = PHOTO
    assert np.array_equal(images.read(data), expected)
    assert images.size(data) == PHOTO.shape[:2]
    resized = images.read_resized(data, (20, 30))
    assert np.array_equal(resized, images.resize(expected, (20, 30)))


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_a_size_is_that_of_the_image_and_bounded(name):
    wide = make_images.photo(40, 90)
    data = as_file(wide, name)
    assert images.size(data) == images.read(data).shape[:2] == (40, 90)
    with pytest.raises(ImageError, match="pixels are more than"):
        images.size(data, max_pixels=50)


def test_a_size_needs_the_header_only():
    data = as_file(PHOTO, "JPEG")
    assert images.size(data[: len(data) // 2]) == PHOTO.shape[:2]
    for other in (b"", b"text", make_images.jpeg_header()):
        with pytest.raises(ImageError):
            images.size(other)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_counts_as_upright(value):  # 8
    exif = Image.Exif()
    exif[0x0112] = value
    assert np.array_equal(images.read(as_file(PHOTO, "PNG", exif=exif.tobytes())), PHOTO)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_large_turned_photo_is_drafted_along_its_own_sides(orientation):  # 8
    wide = make_images.photo(401, 1607)  # at an eighth, 50.125 and 200.875 pixels
    exif = make_images.exif(orientation)
    data = as_file(turned(wide, orientation), "JPEG", exif=exif, quality=95)
    drafted = images.read_resized(data, (25, 100))
    assert mean_difference(drafted, images.resize(images.read(data), (25, 100))) < 0.4


RAMP = np.linspace(0, 255, 48 * 64).reshape(48, 64)


def test_grey_modes_become_three_equal_channels():  # 9
    grey = RAMP.astype(np.uint8)
    for name in ("PNG", "TIFF", "BMP", "GIF"):
        image = images.read(make_images.encoded(Image.fromarray(grey), name))
        assert np.array_equal(image, np.stack([grey] * 3, axis=-1)), name
    bits = grey > 100
    for name in ("PNG", "TIFF", "BMP"):
        image = images.read(make_images.encoded(Image.fromarray(bits), name))
        assert np.array_equal(image, np.stack([bits * np.uint8(255)] * 3, axis=-1)), name


def test_palette_colours_are_looked_up():  # 9
    image = Image.fromarray(PHOTO).quantize(200)
    expected = np.array(image.getpalette(), np.uint8).reshape(-1, 3)[np.asarray(image)]
    for name in ("PNG", "TIFF", "BMP", "GIF"):
        assert np.array_equal(images.read(make_images.encoded(image, name)), expected), name


def on_white(colour, alpha):
    """The definition, in exact arithmetic."""
    alpha = alpha[..., None] / 255
    return colour * alpha + 255 * (1 - alpha)


@pytest.mark.parametrize("name", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_laid_on_white(name):  # 9
    alpha = np.ascontiguousarray(RAMP[:, ::-1].astype(np.uint8))
    rgba = np.dstack([PHOTO, alpha])
    options = {"lossless": True, "exact": True} if name == "WEBP" else {}
    image = images.read(make_images.encoded(rgba, name, **options))
    assert np.abs(image - on_white(PHOTO, alpha)).max() <= 1
    if name != "WEBP":  # which knows no grey
        grey = PHOTO[..., :1]
        image = images.read(make_images.encoded(Image.fromarray(np.dstack([grey, alpha])), name))
        assert np.abs(image - on_white(grey, alpha)).max() <= 1


def test_premultiplied_alpha_is_laid_on_white():  # 9
    solid = Image.new("RGBA", (4, 4), (200, 100, 0, 128)).convert("RGBa")
    image = images.pixels.to_rgb(solid)
    assert np.abs(np.array(image)[0, 0].astype(int) - [227, 177, 127]).max() <= 2


def test_transparent_palette_entries_are_laid_on_white():  # 9
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    data = make_images.encoded(image, "PNG", transparency=bytes([0, 128, 255]))
    expected = on_white(
        np.array([[[10, 20, 30], [40, 50, 60], [70, 80, 90]]]), np.array([[0, 128, 255]])
    )
    assert np.abs(images.read(data) - expected).max() <= 1
    data = make_images.encoded(image, "GIF", transparency=1)
    assert images.read(data).tolist() == [[[10, 20, 30], [255, 255, 255], [70, 80, 90]]]


@pytest.mark.parametrize(
    ("bits", "colour", "row", "key", "expected"),
    [
        (1, 0, b"\x40", b"\0\1", [0, 255]),
        (1, 0, b"\x40", b"\0\0", [0, 255]),  # white alone is seen: on black
        (2, 0, b"\x60", b"\0\2", [85, 255]),
        (4, 0, b"\x3a", b"\0\x0a", [51, 255]),
        (8, 0, b"\x03\x0a", b"\0\x0a", [3, 255]),
        (16, 0, b"\x80\x80\x12\x34", b"\x12\x34", [128, 255]),
        (8, 2, b"\1\1\1\2\3\4", b"\0\2\0\3\0\4", [1, 255]),
        (16, 2, b"\1\0" * 3 + b"\0\2" * 3, b"\0\2" * 3, [1, 255]),
    ],
)
def test_the_one_transparent_colour_of_a_png_is_the_ground(bits, colour, row, key, expected):  # 9
    data = make_images.png(2, 1, bits, colour, b"\0" + row, make_images.png_chunk(b"tRNS", key))
    assert images.read(data)[0, :, 0].tolist() == expected


def test_cmyk_is_read_as_ink_in_jpeg_and_tiff():  # 9
    ink = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    for name in ("JPEG", "TIFF"):
        red, green, blue = images.read(make_images.encoded(ink, name))[8, 8].tolist()
        assert red < 5 and green > 250 and blue > 250, name


def test_ycbcr_lab_and_hsv_become_rgb():  # 9
    colours = Image.fromarray(PHOTO)
    data = make_images.encoded(colours.convert("YCbCr"), "TIFF")
    assert np.abs(images.read(data).astype(int) - PHOTO).max() <= 3
    lab = Image.new("LAB", (4, 4), (255, 128, 128))  # the lightest
    assert images.read(make_images.encoded(lab, "TIFF")).min() > 250
    assert (
        np.abs(np.array(images.pixels.to_rgb(colours.convert("HSV"))) - PHOTO.astype(int)).max()
        < 12
    )


@pytest.mark.parametrize("mode", ["PNG", "I;16", "I;16B"])
def test_sixteen_bits_are_scaled_and_not_clipped(mode):  # 9
    values = (np.linspace(0, 65535, 48 * 64).reshape(48, 64)).astype(np.uint16)
    if mode == "I;16B":
        data = make_images.encoded(
            Image.frombytes(mode, (64, 48), values.astype(">u2").tobytes()), "TIFF"
        )
    else:
        data = make_images.encoded(values, "PNG" if mode == "PNG" else "TIFF")
    expected = np.rint(values / 257)
    assert np.array_equal(images.read(data)[..., 1], expected)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 100, 255], [0, 100, 255]),
        ([0, 257, 65535], [0, 1, 255]),
        ([-100, 0, 100], [0, 128, 255]),
        ([0, 1, 2**31 - 1], [0, 0, 255]),
        ([7000, 7000, 7000], [27, 27, 27]),
        ([-5, -5, -5], [0, 0, 0]),
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 99.6, 200.0], [0, 100, 200]),
        ([-1.0, 0.0, 1.0], [0, 128, 255]),
        ([-3e38, 0.0, 3e38], [0, 128, 255]),
        ([1e6, 1e6 + 1, 1e6 + 4], [0, 64, 255]),
        ([np.nan, 0.25, np.inf], [0, 64, 255]),
        ([-np.inf, 1000.0, 2000.0], [0, 0, 255]),
        ([np.nan, np.nan, np.nan], [0, 0, 0]),
        ([np.inf, np.inf, np.inf], [255, 255, 255]),
    ],
)
def test_integers_and_floats_are_scaled_by_their_rules(values, expected):  # 9
    kind = np.float32 if isinstance(values[0], float) else np.int32
    data = make_images.encoded(Image.fromarray(np.array([values], kind)), "TIFF")
    assert images.read(data)[0, :, 2].tolist() == expected


@pytest.mark.parametrize("shape", [(1, 1), (1, 10_000), (10_000, 1), (2, 3)])
@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP"])
def test_the_narrowest_pictures_have_an_answer(shape, name):  # 10
    for value in (0, 200):
        data = as_file(np.full((*shape, 3), value, np.uint8), name)
        assert images.read(data, min_side=5).shape == (*shape, 3)
        assert np.abs(images.read_resized(data, (32, 24)).astype(int) - value).max() <= 2


ODD_NAMES = [
    b"with space.jpg",
    "nfc-\u00e9.jpg".encode(),
    "nfd-e\u0301.jpg".encode(),
    b"new\nline.jpg",
    b"not-utf8-\xff\xfe.jpg",
    b"-leading.jpg",
    b"..two.jpg"[1:],
    b"..dots..jpg.JPG"[2:],
    b"x" * 251 + b".jpg",
    b"<img onerror=x>.JPEG",
]


def test_odd_names_are_found_kept_and_read(tmp_path):  # 11
    root = os.fsencode(tmp_path) + b"/odd"
    os.mkdir(root)
    for name in ODD_NAMES:
        try:
            with open(os.path.join(root, name), "wb") as file:
                file.write(as_file(PHOTO, "PNG"))
        except OSError:
            pytest.skip("this file system does not keep such names")
    found, problems, _ = images.find([tmp_path])
    assert not problems
    visible = sorted(os.fsdecode(name) for name in ODD_NAMES if not name.startswith(b"."))
    assert [os.path.basename(item.path) for item in found] == visible
    assert all(np.array_equal(images.read(item.path), PHOTO) for item in found)
    broken = root + b"/bad-\xff\n.jpg"
    with open(broken, "wb") as file:
        file.write(b"nothing")
    message = refused(os.fsdecode(broken))
    assert message.isprintable()
    message.encode("utf-8")


def test_a_path_through_its_parent_is_kept_as_given(tmp_path):  # 11
    (tmp_path / "a").mkdir()
    (tmp_path / "b.png").write_bytes(as_file(PHOTO, "PNG"))
    path = f"{tmp_path}/a/../b.png"
    assert images.find([path])[0][0].path == path
    assert images.read(path).shape == PHOTO.shape


def test_links_pipes_devices_and_unreadable_folders_are_problems_and_do_not_hang(tmp_path):  # 12
    good = tmp_path / "good.png"
    good.write_bytes(as_file(PHOTO, "PNG"))
    needs.link(tmp_path / "loop", tmp_path)
    needs.link(tmp_path / "itself.png", tmp_path / "itself.png")
    needs.link(tmp_path / "gone.png", tmp_path / "nowhere")
    needs.link(tmp_path / "linked.png", good)
    needs.link(tmp_path / "device.png", "/dev/zero")
    needs.pipe(tmp_path / "pipe.jpg")
    needs.pipe(tmp_path / "pipe")
    listener = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    os.chdir(tmp_path)  # the address of a socket must be short
    listener.bind("socket.gif")
    os.chdir(here)
    start = time.perf_counter()
    found, problems, _ = images.find([tmp_path])
    assert [os.path.basename(item.path) for item in found] == ["good.png", "linked.png"]
    reasons = {os.path.basename(problem.path): problem.reason for problem in problems}
    kept = ["device.png", "gone.png", "itself.png", "loop", "pipe", "pipe.jpg", "socket.gif"]
    assert sorted(reasons) == kept
    assert "device" in reasons["device.png"] and "pipe" in reasons["pipe"]
    for name in kept:
        refused(tmp_path / name, name)
    refused("/dev/zero", "device")
    assert time.perf_counter() - start < 5
    listener.close()


def test_what_may_not_be_read_is_reported(tmp_path):  # 12
    closed = tmp_path / "closed"
    closed.mkdir()
    secret = tmp_path / "secret.png"
    secret.write_bytes(as_file(PHOTO, "PNG"))
    secret.chmod(0)
    closed.chmod(0)
    try:
        if os.access(secret, os.R_OK):
            pytest.skip("this user may read everything")
        found, problems, _ = images.find([tmp_path])
        assert [item.path for item in found] == [str(secret)]
        assert problems == [images.Problem(str(closed), "Permission denied")]
        refused(secret, "Permission denied")
    finally:
        closed.chmod(0o700)


def test_a_folder_that_cannot_be_listed_is_a_problem_for_any_user(tmp_path, monkeypatch):  # 12
    (tmp_path / "closed").mkdir()
    (tmp_path / "open.png").write_bytes(as_file(PHOTO, "PNG"))
    scandir = os.scandir

    def guarded(path):
        if os.fspath(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    found, problems, _ = images.find([tmp_path])
    assert [problem.reason for problem in problems] == ["Permission denied"]
    assert len(found) == 1


def test_linked_folders_are_followed_on_request_and_each_once(tmp_path):  # 12
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(b"")
    needs.link(tmp_path / "a" / "up", tmp_path)
    other = tmp_path.parent / f"{tmp_path.name}-other"
    other.mkdir()
    (other / "2.png").write_bytes(b"")
    needs.link(tmp_path / "b", other)
    found, problems, _ = images.find([tmp_path], follow_links=True)
    assert [(os.path.relpath(item.path, tmp_path), item.folder) for item in found] == [
        ("a/1.png", "a"),
        ("b/2.png", "b"),
    ]
    assert problems == []


def test_a_file_deleted_or_changed_after_the_listing_is_refused(tmp_path):  # 13
    for name in ("deleted.png", "changed.png"):
        (tmp_path / name).write_bytes(as_file(PHOTO, "PNG"))
    found, *_ = images.find([tmp_path])
    (tmp_path / "deleted.png").unlink()
    (tmp_path / "changed.png").write_bytes(b"other content")
    refused(found[0].path, "changed.png")
    refused(found[1].path, "deleted.png", "No such file")
    assert found[0].size != os.stat(found[0].path).st_size  # what an index compares


def test_what_is_reached_twice_is_found_once(tmp_path):  # 14
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(b"same")
    (tmp_path / "a" / "2.png").write_bytes(b"same")
    file = tmp_path / "a" / "2.png"
    paths = [file, tmp_path, tmp_path / "a", f"{tmp_path}/a/../a/1.png", tmp_path, file]
    found, problems, _ = images.find(paths)
    assert [os.path.basename(item.path) for item in found] == ["2.png", "1.png"]
    assert problems == []
    assert images.find(paths)[:2] == (found, problems)


# What is seen of it


def line_art(colour, ground_alpha=0):
    """A ring and a bar in one colour on a transparent ground of the same."""
    rows, columns = np.indices((64, 64))
    ring = np.abs(np.hypot(rows - 32, columns - 32) - 20) < 4
    drawn = ring | ((np.abs(rows - 32) < 3) & (columns > 40))
    image = np.zeros((64, 64, 4), np.uint8)
    image[..., :3] = colour
    image[..., 3] = np.where(drawn, 255, ground_alpha)
    return image, drawn


@pytest.mark.parametrize("name", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("colour", [0, 40, 128, 200, 255])
def test_line_art_of_any_colour_stays_apart_from_its_ground(colour, name):
    art, drawn = line_art(colour)
    options = {"lossless": True, "exact": True} if name == "WEBP" else {}
    image = images.read(make_images.encoded(art, name, **options))
    assert (image[drawn] == colour).all()
    assert len(np.unique(image[~drawn])) == 1
    assert abs(int(image[0, 0, 0]) - colour) >= 55


def test_line_art_in_black_and_white_keeps_both():
    art, drawn = line_art(0)
    art[:30, :, :3] = 255
    image = images.read(make_images.encoded(art, "PNG"))
    assert image[0, 0].tolist() == [128] * 3
    assert set(np.unique(image[drawn])) == {0, 255}


def test_what_is_transparent_in_a_palette_or_as_one_colour_is_composed_alike():
    art, drawn = line_art(255)
    seen = np.where(drawn, 255, 0).astype(np.uint8)
    palette = Image.fromarray(np.where(drawn, 1, 0).astype(np.uint8))
    palette.putpalette([255, 255, 255] * 2)
    for data in (
        make_images.encoded(palette, "PNG", transparency=0),
        make_images.encoded(palette, "GIF", transparency=0),
        make_images.encoded(art, "PNG"),
    ):
        assert np.array_equal(images.read(data)[..., 0], seen)


@pytest.mark.parametrize("name", ["PNG", "WEBP", "TIFF", "BMP"])
def test_transparency_that_is_zero_everywhere_is_none(name):
    clear = np.dstack([PHOTO, np.zeros(PHOTO.shape[:2], np.uint8)])
    options = {"lossless": True, "exact": True} if name == "WEBP" else {}
    data = make_images.encoded(clear, name, **options)
    assert np.array_equal(images.read(data), PHOTO)


def profile_of(primaries, gamma):
    """A colour profile (ICC) of these primaries, XYZ under D50, and this gamma."""

    def tag(kind, values):
        return kind + bytes(4) + b"".join(values)

    def fixed(value):
        return struct.pack(">i", round(value * 65536))

    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    tags = {b"wtpt": tag(b"XYZ ", map(fixed, (0.9642, 1.0, 0.8249)))}
    for name, xyz in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True):
        tags[name] = tag(b"XYZ ", map(fixed, xyz))
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    tags[b"desc"] = b"desc" + bytes(4) + struct.pack(">I", 2) + b"x\0" + bytes(78)
    tags[b"cprt"] = b"text" + bytes(4) + b"x\0\0\0"
    table, body, at = b"", b"", 132 + 12 * len(tags)
    for name, value in tags.items():
        value += bytes(-len(value) % 4)
        table += name + struct.pack(">II", at + len(body), len(value))
        body += value
    size = at + len(body)
    head = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x02400000, b"mntr", b"RGB ", b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + b"".join(map(fixed, (0.9642, 1.0, 0.8249)))
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


# Of Adobe RGB (1998) and of sRGB, adapted to D50.
ADOBE = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_colours_of_a_wide_profile_become_srgb(name):
    """In Adobe RGB this green is sRGB's, in other numbers."""
    wide = np.full((16, 16, 3), (144, 255, 60), np.uint8)
    data = make_images.encoded(wide, name, icc_profile=profile_of(ADOBE, 2.19921875), quality=95)
    red, green, blue = images.read(data)[8, 8].tolist()
    assert red <= 12 and green >= 250 and blue <= 60


def test_a_picture_in_srgb_keeps_its_numbers_whatever_its_profile_is_called():
    from PIL import ImageCms

    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name in ("PNG", "JPEG"):
        for profile in (srgb, b"no profile", profile_of(ADOBE, 2.2)[:200]):
            plain = images.read(as_file(PHOTO, name))
            assert np.array_equal(images.read(as_file(PHOTO, name, icc_profile=profile)), plain)
    grey = make_images.encoded(PHOTO[..., 0], "PNG", icc_profile=profile_of(ADOBE, 2.2))
    assert np.array_equal(images.read(grey)[..., 0], PHOTO[..., 0])  # a profile of other colours


def test_a_wide_profile_changes_colours_behind_transparency_too():
    wide = np.full((16, 16, 4), (144, 255, 60, 255), np.uint8)
    wide[:, 8:, 3] = 0
    image = images.read(make_images.encoded(wide, "PNG", icc_profile=profile_of(ADOBE, 2.2)))
    assert image[8, 4, 0] <= 12 and image[8, 12].tolist() == [255] * 3


# Where a picture ends

SHAPES = {
    "baseline": {},
    "progressive": {"progressive": True},
    "with restarts": {"restart_marker_blocks": 2},
    "best": {"quality": 100, "subsampling": 0},
    "optimised": {"optimize": True},
}


def film(seed, size=20_000):
    """What phones put behind a picture: a trailer, and a film full of what looks like marks."""
    noise = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8).tobytes()
    return b"\0\0\x40\x0a\x13\0\0\0MotionPanorama_Data\0\0\0\x18ftypmp42" + noise


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_jpeg_is_whole_without_its_end_mark_and_with_a_film_behind(shape, mode):
    picture = Image.fromarray(make_images.photo(90, 130)).convert(mode)
    data = make_images.encoded(picture, "JPEG", **SHAPES[shape])
    expected = images.read(data)
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(np.array(image.convert("RGB")), expected)
    for seed in range(20):
        assert np.array_equal(images.read(data[:-2] + film(seed)), expected), seed
    for behind in (film(0), b"\0" * 5000, data, b"\xff\xd8\xff", b"\xff\xd9"):
        assert np.array_equal(images.read(data + behind), expected)
    assert np.array_equal(images.read(data[:-2] + b"\0" * 5000), expected)
    assert np.array_equal(images.read(data[:-2]), expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("part", [0.3, 0.5, 0.6, 0.7, 0.8, 0.9])
def test_a_part_of_a_jpeg_with_an_end_mark_is_found_out(shape, part):
    noise = np.random.default_rng(3).integers(0, 60, (200, 300, 3), dtype=np.uint8)
    data = make_images.encoded(make_images.photo(200, 300) // 2 + noise, "JPEG", **SHAPES[shape])
    cut = data[: int(len(data) * part)]
    for end in (b"\xff\xd9", b"", b"\0" * 5000):
        assert "truncated" in refused(cut + end)


def test_a_film_behind_a_part_of_a_picture_is_no_picture():
    data = make_images.encoded(make_images.photo(200, 300), "JPEG", progressive=True)
    assert "truncated" in refused(data[: len(data) // 2] + b"\xff\xd8" + film(1))


def test_huge_jpeg_photos_are_read_reduced_and_whole_only_within_the_limit():
    data = make_images.encoded(Image.new("RGB", (9000, 7500), "teal"), "JPEG", quality=30)
    assert images.read_resized(data, (64, 64)).shape == (64, 64, 3)
    assert images.size(data) == (7500, 9000)
    with pytest.raises(ImageError, match="9000 x 7500 pixels are more than 65000000"):
        images.read(data)
    images.set_max_pixels(10**6)
    try:
        with pytest.raises(ImageError, match="9000 x 7500 pixels are more than"):
            images.read_resized(data, (64, 64))
        with pytest.raises(ImageError, match="pixels are more than"):
            images.read(as_file(np.zeros((1001, 1000, 3), np.uint8), "PNG"))
    finally:
        images.set_max_pixels(images.MAX_PIXELS)
    for wrong in (0, -1, "many"):
        with pytest.raises(ArgumentError):
            images.set_max_pixels(wrong)


def test_a_progressive_photo_is_decoded_whole_so_it_has_the_limit_of_all_others():
    data = make_images.encoded(Image.new("L", (4000, 4000)), "JPEG", progressive=True)
    refused(data, "4000 x 4000 pixels are more than 15999999", max_pixels=15_999_999)
    assert images.read_resized(data, (8, 8), max_pixels=16_000_000).shape == (8, 8, 3)


# Beside the picture


def png_with(kind, body, check=None):
    """A PNG of `PHOTO` with one more chunk behind its header."""
    data = as_file(PHOTO, "PNG")
    chunk = make_images.png_chunk(kind, body)
    if check is not None:
        chunk = chunk[:-4] + check
    return data[:33] + chunk + data[33:]


LONG = zlib.compress(b"x" * (2 << 20))
SIDE_CHUNKS = {
    "long zTXt": (b"zTXt", b"workflow\0\0" + LONG),
    "long zTXt of EXIF": (b"zTXt", b"Raw profile type exif\0\0" + LONG),
    "long iTXt": (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + LONG),
    "long plain iTXt": (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b"x" * (2 << 20)),
    "long tEXt": (b"tEXt", b"parameters\0" + b"x" * (2 << 20)),
    "broken iTXt": (b"iTXt", b"XML:com.adobe.xmp\0\1"),
    "long iCCP": (b"iCCP", b"press\0\0" + zlib.compress(bytes(2 << 20))),
    "broken iCCP": (b"iCCP", b"press\0\0no stream"),
    "wrong sum of pHYs": (b"pHYs", bytes(9), b"\1\2\3\4"),
    "wrong sum of iCCP": (b"iCCP", b"x\0\0" + zlib.compress(b"y"), b"\1\2\3\4"),
    "wrong sum of tRNS": (b"tRNS", bytes(6), b"\1\2\3\4"),
    "wrong sum of eXIf": (b"eXIf", make_images.exif(6)[6:], b"\1\2\3\4"),
    "short gAMA": (b"gAMA", b"\0"),
    "short cHRM": (b"cHRM", b"\0"),
    "unknown": (b"zzZz", bytes(100)),
}


@pytest.mark.parametrize("kind", SIDE_CHUNKS)
def test_a_png_is_read_whatever_stands_beside_its_picture(kind):
    assert np.array_equal(images.read(png_with(*SIDE_CHUNKS[kind])), PHOTO)


def test_very_many_texts_beside_a_picture_do_no_harm():
    text = make_images.png_chunk(
        b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(2**19))
    )
    data = as_file(PHOTO, "PNG")
    start = time.perf_counter()
    assert np.array_equal(images.read(data[:33] + text * 5000 + data[33:]), PHOTO)
    assert time.perf_counter() - start < 5


def test_a_png_still_says_how_it_is_turned_in_texts_of_others():
    xmp = b'<x xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    for body in (b"\0\0\0\0" + xmp, b"\1\0\0\0" + zlib.compress(xmp)):
        data = png_with(b"iTXt", b"XML:com.adobe.xmp\0" + body)
        assert images.size(data) == (64, 48)


def test_a_png_whose_pixels_have_a_wrong_sum_is_refused():
    data = bytearray(as_file(PHOTO, "PNG"))
    at = data.index(b"IDAT")
    data[at + 20] ^= 1
    refused(bytes(data))


# Finding


def test_the_walk_is_sorted_labelled_and_counts_what_is_no_picture(tmp_path):
    names = ["z.PNG", "a.jpg", "notes.txt", ".hidden.jpg", "cat/3.webp", "cat/deep/er/1.TIFF"]
    names += ["dog/9.jpeg", ".git/x.jpg", "cat/2.jfif", "Cat/2.gif", "cat/README"]
    names += ["cat/1.MOV", "dog/2.mov", "dog/2.xmp", "Thumbs.db", ".DS_Store"]
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"12345")
        os.utime(path, ns=(7, 1_234_567_891))
    found, problems, passed_over = images.find([tmp_path])
    assert [(os.path.relpath(item.path, tmp_path), item.folder) for item in found] == [
        ("a.jpg", None),
        ("z.PNG", None),
        ("Cat/2.gif", "Cat"),
        ("cat/2.jfif", "cat"),
        ("cat/3.webp", "cat"),
        ("cat/deep/er/1.TIFF", "cat"),
        ("dog/9.jpeg", "dog"),
    ]
    assert {(item.size, item.mtime_ns) for item in found} == {(5, 1_234_567_891)}
    assert problems == []
    assert passed_over == {
        ".mov": 2, ".txt": 1, ".xmp": 1, ".db": 1, "hidden": 2, "without suffix": 1
    }  # fmt: skip
    said = images.passed_over_in_words(passed_over)
    assert said.startswith("passed over: 2 .mov, 2 hidden, 1 .db, 1 .txt")
    assert images.passed_over_in_words({}) == ""
    many = images.passed_over_in_words({f".{n:03}": n for n in range(1, 1201)})
    assert len(many) < 150 and many.endswith(f"{sum(range(1, 1193)):,} of other kinds")


def test_what_was_passed_over_is_counted_once_and_said_on_one_line(tmp_path):
    for name in ("a.mov", "b.a\nb", "c." + "x" * 40):
        try:
            (tmp_path / name).write_bytes(b"film")
        except OSError:
            pytest.skip("this file system does not keep such names")
    passed_over = images.find([tmp_path, tmp_path]).passed_over
    assert passed_over == {".mov": 1, "of other names": 2}


NAMES_OF_ANY_PICTURE = ["no suffix", "IMG_1.HEIC", "pic.jpg_large", "x.mpo", "y.txt", "z.pdf"]


@pytest.mark.parametrize("name", [*FORMATS, *MORE_FORMATS])
def test_a_picture_is_found_and_read_under_any_name(tmp_path, name):
    data = as_file(PHOTO, name)
    names = [f"right{OWN_SUFFIX[name]}"] if name == "TGA" else NAMES_OF_ANY_PICTURE
    for each in names:
        (tmp_path / each).write_bytes(data)
    found, problems, passed_over = images.find([tmp_path])
    assert sorted(os.path.basename(item.path) for item in found) == sorted(names)
    assert not problems and not passed_over
    image = images.read(found[0].path)
    for item in found:
        assert np.array_equal(images.read(item.path), image)
        with open(item.path, "rb") as file:
            assert images.size(file) == (48, 64)
    shown = Image.fromarray(PHOTO).convert({"PGM": "L", "PBM": "1"}.get(name, "RGB"))
    assert mean_difference(image, np.array(shown.convert("RGB"))) < (20 if name == "GIF" else 4)


def test_a_named_file_needs_no_suffix_and_a_missing_one_is_a_problem(tmp_path):
    path = tmp_path / ".download"
    path.write_bytes(b"")
    found, problems, _ = images.find([str(path), tmp_path / "missing", "nul\0", ""])
    assert [(item.path, item.folder) for item in found] == [(str(path), None)]
    assert [problem.path for problem in problems] == [str(tmp_path / "missing"), "nul\0", ""]
    assert images.find(str(path))[0] == found


def test_folders_may_be_nested_deeper_than_the_stack(tmp_path):
    here = os.getcwd()
    depth = 0
    try:
        os.chdir(tmp_path)
        for _ in range(1050):
            os.mkdir("d")
            os.chdir("d")
            depth += 1
        found, problems, _ = images.find([tmp_path])
        assert found == []
        assert len(problems) <= 1
    finally:
        for _ in range(depth):
            os.chdir("..")
            os.rmdir("d")
        os.chdir(here)


# Reading


@pytest.mark.parametrize("name", FORMATS)
def test_all_sources_of_one_picture_give_the_same_array(tmp_path, name):
    data = as_file(PHOTO, name)
    path = tmp_path / "picture"
    path.write_bytes(data)
    image = images.read(path)
    assert image.dtype == np.uint8 and image.shape == (48, 64, 3) and image.flags.writeable
    for source in (str(path), data, bytearray(data), memoryview(data), io.BytesIO(data)):
        assert np.array_equal(images.read(source), image)
    with open(path, "rb") as file:
        assert np.array_equal(images.read(file), image)
    with open(path, "rb", buffering=0) as file:
        assert np.array_equal(images.read_resized(file, (40, 9)), images.resize(image, (40, 9)))


@pytest.mark.parametrize("source", [None, 5, 3.5, io.StringIO("text"), "nul\0.jpg", ""])
def test_what_is_no_source_is_refused(source):
    with pytest.raises(ImageError):
        images.read(source)


def test_pil_images_and_arrays_are_sources_like_files():
    grey, white = PHOTO[..., 0], np.full((*PHOTO.shape[:2], 1), 255, np.uint8)
    pairs = [
        (Image.fromarray(PHOTO), PHOTO),
        (Image.fromarray(grey), np.stack([grey] * 3, axis=-1)),
        (PHOTO, PHOTO),
        (grey, np.stack([grey] * 3, axis=-1)),
        (grey[..., None], np.stack([grey] * 3, axis=-1)),
        (np.concatenate([PHOTO, white], axis=-1), PHOTO),
        (np.concatenate([PHOTO, 0 * white], axis=-1), PHOTO),
        (PHOTO / 255, PHOTO),
        ((PHOTO / 255).astype(np.float16), PHOTO),
        (np.concatenate([PHOTO, white], axis=-1).astype(np.float32) / 255, PHOTO),
    ]
    for source, expected in pairs:
        image = images.read(source)
        np.testing.assert_array_equal(image, expected)
        assert image.flags.writeable
        assert not (isinstance(source, np.ndarray) and np.shares_memory(image, source))
        assert np.array_equal(images.read_resized(source, (9, 7)), images.resize(expected, (9, 7)))
        assert images.size(source) == PHOTO.shape[:2]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_pil_image_is_turned_upright_and_left_as_it_is(orientation):
    data = as_file(PHOTO, "PNG", exif=make_images.exif(orientation))
    picture = Image.open(io.BytesIO(data))
    np.testing.assert_array_equal(images.read(picture), images.read(data))
    assert picture.size == PHOTO.shape[1::-1]


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4), np.int32),
        np.zeros((4, 4), bool),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((2, 4, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.full((4, 4, 3), 1.5),
        np.full((4, 4, 3), -0.5),
        np.full((4, 4, 3), np.nan),
    ],
)
def test_other_arrays_are_refused_by_dtype_shape_and_range(array):
    with pytest.raises(ImageError, match=f"An array is an image if .*{array.dtype}"):
        images.read(array)


def test_a_photo_gives_what_each_function_gives_and_is_read_once():
    for name in FORMATS:
        data = as_file(make_images.photo(400, 600), name)
        file = io.BytesIO(data)  # a second reading of it would find nothing
        photo = images.Photo(file)
        assert photo.size == (400, 600)
        for _ in range(2):
            assert np.array_equal(photo.resized((64, 48)), images.read_resized(data, (64, 48)))
            assert np.array_equal(photo.full(), images.read(data))
            assert np.array_equal(photo.at_least(90), images.read(data, min_side=90))
            assert np.array_equal(photo.resized((399, 9)), images.read_resized(data, (399, 9)))


def test_a_file_object_that_fails_is_refused():
    class Broken:
        name = "upload"

        def read(self, _size):
            raise ConnectionError("the client is gone")

    with pytest.raises(ImageError, match="'upload': the client is gone"):
        images.read(Broken())


def test_min_side_speeds_up_jpeg_and_keeps_the_shorter_side():
    data = as_file(make_images.photo(800, 1200), "JPEG")
    assert images.read(data).shape == (800, 1200, 3)
    for min_side, height in [(1, 100), (100, 100), (101, 200), (400, 400), (401, 800), (9999, 800)]:
        assert images.read(data, min_side=min_side).shape == (height, height * 3 // 2, 3)
    with pytest.raises(ArgumentError):
        images.read(data, min_side=0)


@pytest.mark.parametrize("name", FORMATS)
def test_the_fast_path_equals_reading_then_resizing(name):
    data = as_file(make_images.photo(90, 120), name)
    for size in [(64, 64), (90, 120), (7, 200), (1, 1)]:
        fast, slow = images.read_resized(data, size), images.resize(images.read(data), size)
        assert fast.shape == (*size, 3) and fast.flags.writeable
        if name != "JPEG" or size[0] > 90 / 4:  # else it is drafted
            assert np.array_equal(fast, slow)
        assert mean_difference(fast, slow) < 4


def test_a_resized_picture_is_an_average_and_not_a_sample():
    board = np.indices((240, 240)).sum(axis=0) % 2 * np.uint8(255)
    image = images.resize(np.stack([board] * 3, axis=-1).astype(np.uint8), (30, 30))
    assert np.abs(image[2:-2, 2:-2].astype(int) - 127).max() <= 2


def test_resizing_to_its_own_size_is_a_copy():
    image = images.resize(PHOTO, (48, 64))
    assert np.array_equal(image, PHOTO) and not np.shares_memory(image, PHOTO)


@pytest.mark.parametrize("size", [(0, 5), (5, -1), 5, (5,), "ab", (1, 2, 3), None])
def test_a_size_is_two_positive_numbers(size):
    with pytest.raises(ArgumentError):
        images.resize(PHOTO, size)
    with pytest.raises(ArgumentError):
        images.read_resized(b"", size)


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 4), (0, 4, 3), (4, 4, 1)])
def test_other_arrays_are_no_images(shape):
    with pytest.raises(ShapeError, match="uint8 of shape"):
        images.resize(np.zeros(shape, np.uint8), (2, 2))
    with pytest.raises(ShapeError):
        images.to_png(np.zeros((4, 4, 3), np.float32))


def a_tiff_that_warns():
    tag = (37500, 2**31)  # an offset far behind the end
    data = bytearray(make_images.tiff(PHOTO, extra=[tag]))
    at = data.rindex(b"\x7c\x92\4\0\1\0\0\0")
    data[at + 4 : at + 8] = b"\xff\xff\0\0"
    return bytes(data)


def a_jpeg_with_broken_exif():
    data = make_images.exif(6)[:-7] + b"\xff" * 20
    return as_file(PHOTO, "JPEG", exif=data)


def without_some(data):
    return data[:300] + bytes(100) + data[400:]


def test_pillows_warnings_do_not_leak(recwarn, capfd, caplog):
    sources = [
        a_tiff_that_warns(),
        a_jpeg_with_broken_exif(),
        make_images.apng_of_many_frames(PHOTO, 2).replace(b"acTL\0\0\0\2", b"acTL\0\0\0\0"),
        make_images.tiff(PHOTO, extra=[(277, 2**20)]),  # Pillow logs an error
        as_file(PHOTO, "TIFF", compression="tiff_lzw")[:-50],
        without_some(as_file(PHOTO, "TIFF", compression="tiff_adobe_deflate")),  # libtiff writes
    ]
    for source in sources:
        with contextlib.suppress(ImageError):
            images.read(source)
    # What another test left open is found when memory is cleared, in whichever test.
    left_open = (ResourceWarning, pytest.PytestUnraisableExceptionWarning)
    assert not [each for each in recwarn if not issubclass(each.category, left_open)]
    assert not caplog.records
    assert capfd.readouterr() == ("", "")
    with pytest.warns(UserWarning, match="."):  # whoever uses Pillow himself is still warned
        with Image.open(io.BytesIO(a_tiff_that_warns())) as image:
            image.load()
    if images.silence._libtiff._set is not None:  # not so where Pillow is built otherwise
        with contextlib.suppress(OSError), Image.open(io.BytesIO(sources[-1])) as image:
            image.load()
        assert "ZIPDecode" in capfd.readouterr().err
    logging.getLogger("PIL.TiffImagePlugin").error("heard")
    assert [record.message for record in caplog.records] == ["heard"]


def test_warnings_turned_into_errors_do_not_refuse_a_good_picture():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(images.read(a_tiff_that_warns()), PHOTO)
        assert images.read(a_jpeg_with_broken_exif()).shape == PHOTO.shape


def test_many_threads_read_what_one_reads():
    sources = [as_file(make_images.photo(60 + i, 80, seed=i), n) for i in range(6) for n in FORMATS]
    sources += [a_tiff_that_warns(), a_jpeg_with_broken_exif(), b"nothing"]

    def answer(data):
        try:
            return images.read(data).tobytes() + images.read_resized(data, (30, 30)).tobytes()
        except ImageError as error:
            return str(error)

    expected = [answer(data) for data in sources]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(answer, sources * 6)) == expected * 6


# Whatever the bytes


def samples():
    image = make_images.photo(24, 40)
    rgba = np.dstack([image, image[..., 0]])
    exif = make_images.exif(6)
    return [
        as_file(image, "JPEG", exif=exif),
        as_file(image, "JPEG", progressive=True),
        as_file(image, "PNG", exif=exif),
        make_images.encoded(rgba, "PNG"),
        make_images.apng_of_many_frames(image, 3),
        as_file(image, "GIF"),
        as_file(image, "BMP"),
        as_file(image, "TIFF", exif=exif),
        as_file(image, "TIFF", compression="tiff_lzw"),
        as_file(image, "TIFF", compression="jpeg"),
        make_images.encoded(rgba, "WEBP", exif=exif),
        as_file(image, "WEBP", lossless=False),
        make_images.encoded(Image.fromarray(image).convert("CMYK"), "JPEG"),
        make_images.encoded(image[..., 0].astype(np.int32) * 999, "TIFF"),
    ]


SAMPLES = samples()


@st.composite
def damaged(draw):
    data = bytearray(draw(st.sampled_from(SAMPLES)))
    if draw(st.booleans()):
        del data[draw(st.integers(0, len(data))) :]
    for _ in range(draw(st.integers(0, 8))):
        if data:
            # The headers matter most.
            end = draw(st.sampled_from([min(64, len(data)), min(400, len(data)), len(data)]))
            data[draw(st.integers(0, end - 1))] = draw(st.integers(0, 255))
    return bytes(data)


def check_any(data):
    try:
        image = images.read(data, max_pixels=10**6)
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size
        assert images.read_resized(data, (8, 9), max_pixels=10**6).shape == (8, 9, 3)
    except ImageError as error:
        assert "Received: " in str(error)  # noqa: PT017  either is right: an image or such an error


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(damaged())
def test_damaged_files_are_an_image_or_an_image_error(data):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_any(data)


@pytest.mark.slow
@settings(max_examples=20_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(damaged())
def test_very_many_damaged_files_are_an_image_or_an_image_error(data):
    check_any(data)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([data[:8] for data in SAMPLES]), st.binary(max_size=300))
def test_a_known_beginning_with_any_end_is_an_image_or_an_image_error(start, end):
    check_any(start + end)


# Writing


def test_png_keeps_every_pixel_and_jpeg_keeps_the_look():
    assert np.array_equal(images.read(images.to_png(PHOTO)), PHOTO)
    assert mean_difference(images.read(images.to_jpeg(PHOTO)), PHOTO) < 3
    assert len(images.to_jpeg(PHOTO, quality=20)) < len(images.to_jpeg(PHOTO, quality=95))
    with pytest.raises(ArgumentError):
        images.to_jpeg(PHOTO, quality=0)


def test_written_pictures_carry_no_metadata():
    image = images.read(as_file(PHOTO, "JPEG", exif=make_images.exif(3), comment=b"secret"))
    for data in (images.to_png(image), images.to_jpeg(image)):
        with Image.open(io.BytesIO(data)) as written:
            assert not written.getexif()
            assert set(written.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}


def test_a_picture_is_written_whole_under_its_name_alone(tmp_path):
    for name in ("a.png", "b.JPG", "c" * 250 + ".jpeg"):
        images.write(tmp_path / name, PHOTO)
        images.write(tmp_path / name, PHOTO)  # over the first one
        assert images.read(tmp_path / name).shape == PHOTO.shape
    assert len(list(tmp_path.iterdir())) == 3


def test_a_picture_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    (tmp_path / "folder.png").mkdir()
    for path in (tmp_path / "folder.png", tmp_path / "missing" / "a.png", "nul\0.png"):
        with pytest.raises(ImageError):
            images.write(path, PHOTO)
    with pytest.raises(ArgumentError, match=r"\.png, \.jpg, \.jpeg"):
        images.write(tmp_path / "a.gif", PHOTO)
    with pytest.raises(ImageError):
        images.to_jpeg(np.zeros((1, 70_000, 3), np.uint8))
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


# Text


@settings(max_examples=150, deadline=None)
@given(st.text(st.characters(), max_size=40), st.integers(1, 40))
@example("\ud800\udfff \udc80 \x00\n\t\x7f", 14)
@example("👩‍👩‍👧 مرحبا e\u0301\u0301\u0301 \u202e abc", 14)
@example("", 14)
@example("x" * 100_000, 14)
def test_any_line_can_be_drawn(line, height):
    mask = images.text(line, height)
    assert mask.dtype == np.uint8 and mask.shape[0] == height and mask.shape[1] >= 1


def test_text_is_drawn_within_its_height_and_wider_for_more():
    mask = images.text("Agfjpqy|", height=20)
    assert mask.max() > 200
    assert mask[0].max() < 128  # not cut off above,
    assert mask[-1].max() < 128  # nor below
    assert images.text("cat cat").shape[1] > images.text("cat").shape[1]
    assert np.array_equal(images.text("\u00e9t\u00e9"), images.text("ete"))
    with pytest.raises(ArgumentError):
        images.text("cat", height=0)


# Real pictures


@pytest.mark.thorough
def test_all_real_pictures_can_be_read(shared_data):
    for folder, step in [("beer_labels", 1), ("landmarks", 2), ("clothing10", 40)]:
        found, problems, _ = images.find([shared_data / folder])
        assert found and not problems
        for item in found[::step]:
            image = images.read(item.path)
            assert image.ndim == 3 and image.size


@pytest.mark.thorough
def test_the_draft_of_a_real_photo_looks_like_the_photo(shared_data):
    found, *_ = images.find([shared_data / "landmarks", shared_data / "beer_labels"])
    differences = []
    for item in found[::6]:
        whole = images.read(item.path)
        for part in (5, 10, 20):
            size = (whole.shape[0] // part, whole.shape[1] // part)
            drafted = images.read_resized(item.path, size)
            differences.append(mean_difference(drafted, images.resize(whole, size)))
    assert max(differences) < 4
    assert np.mean(differences) < 1.2


@pytest.mark.parametrize("shape", [(800, 1200), (801, 1207), (1600, 1600)])
def test_jpeg_2000_is_read_reduced(shape):
    picture = make_images.photo(*shape)
    data = make_images.encoded(picture, "JPEG2000")
    reduced = images.read_resized(data, (50, 60))
    assert mean_difference(reduced, images.resize(picture, (50, 60))) < 4
    pixels = shape[0] * shape[1] // 3
    assert np.array_equal(images.read_resized(data, (50, 60), max_pixels=pixels), reduced)
    with pytest.raises(ImageError, match="pixels are more than"):
        images.read(data, max_pixels=pixels)


def test_a_message_says_what_can_be_done(tmp_path):
    with pytest.raises(ImageError, match=r"no more pixels than the limit.*--max-pixels"):
        images.read(as_file(PHOTO, "PNG"), max_pixels=3071)
    with pytest.raises(ImageError, match=r"can be read.*No such file") as refusal:
        images.read(tmp_path / "nowhere.jpg")
    assert "Known formats" not in str(refusal.value)
    with pytest.raises(ImageError, match="Known formats: JPEG"):
        images.read(b"no picture")
