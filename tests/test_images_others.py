"""Pictures that other libraries than Pillow decode, frames, and what ends in zeros."""

import io
import struct
import sys

import numpy as np
import pytest
from PIL import Image

from hashnet import images
from hashnet.errors import ImageError
from hashnet.images import others
from tests import make_images

PHOTO = make_images.photo(90, 130)
# The beginnings of files that need another library, by the package that is missing.
BEGINNINGS = {
    "pillow-heif": ("pillow_heif.as_plugin", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"),
    "imagecodecs": ("imagecodecs", b"\xff\x0a\xf8\xd4\x12\2\1\x40\0\xc9"),
    "rawpy": ("rawpy", b"II*\0\x10\0\0\0CR\2\0" + bytes(40)),
}


def mean_difference(one, other):
    assert one.shape == other.shape
    return np.abs(one.astype(int) - other.astype(int)).mean()


def a_heic(image, **options):
    pillow_heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(image)).save(file, quality=95, **options)
    return file.getvalue()


def a_jxl(image):
    return pytest.importorskip("imagecodecs").jpegxl_encode(image, lossless=True)


@pytest.mark.parametrize("make", [a_heic, a_jxl])
def test_heic_and_jpeg_xl_are_found_and_read_under_any_name(tmp_path, make):
    data = make(PHOTO)
    for name in ("IMG_1.HEIC", "a.jxl", "no suffix", "x.jpg"):
        (tmp_path / name).write_bytes(data)
    found, problems, passed_over = images.find([tmp_path])
    assert len(found) == 4 and not problems and not passed_over
    for file in found:
        assert images.size(file.path) == (90, 130)
        assert mean_difference(images.read(file.path), PHOTO) < 4
    for part in (0.02, 0.5, 0.9):
        with pytest.raises(ImageError):
            images.read(data[: int(len(data) * part)])
        with pytest.raises(ImageError):
            images.read(data[: int(len(data) * part)] + bytes(int(len(data) * (1 - part))))
    with pytest.raises(ImageError, match="130 x 90 pixels are more than 11699"):
        images.read(data, max_pixels=11_699)


@pytest.mark.fast("1-1", "256-256", "300-257", "7-9000", "300-400")
@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (256, 256), (300, 257), (7, 9000), (1000, 1000), (300, 400)]
)
def test_the_size_of_a_jpeg_xl_is_in_its_first_bits(height, width):
    data = a_jxl(np.zeros((height, width, 3), np.uint8))
    assert others.jxl_size(data) == (width, height)
    box = b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl \0\0\0\0jxl "
    whole = (len(data) + 8).to_bytes(4, "big") + b"jxlc" + data
    assert images.size(box + whole) == (height, width)
    assert images.read(box + whole).shape == (height, width, 3)


def test_a_jpeg_xl_of_16_bits_or_with_transparency_is_read():
    assert mean_difference(images.read(a_jxl(PHOTO.astype(np.uint16) * 257)), PHOTO) < 1
    opaque = np.dstack([PHOTO, np.full(PHOTO.shape[:2], 255, np.uint8)])
    assert np.array_equal(images.read(a_jxl(opaque)), PHOTO)


def test_a_heic_is_turned_as_it_says():
    data = a_heic(PHOTO, exif=make_images.exif(6))
    assert images.size(data) == images.read(data).shape[:2]


@pytest.mark.parametrize("package", BEGINNINGS)
def test_a_missing_library_is_named_with_its_command(tmp_path, monkeypatch, package):
    module, beginning = BEGINNINGS[package]
    monkeypatch.setitem(sys.modules, module, None)
    path = tmp_path / "photo"
    path.write_bytes(beginning)
    assert [file.path for file in images.find([tmp_path]).found] == [str(path)]
    with pytest.raises(ImageError, match=f'by {package}.* Install it: pip install "{package}'):
        images.read(path)


def test_a_raw_file_gives_the_preview_that_its_camera_put_into_it(tmp_path, monkeypatch):
    """In place of rawpy, which needs a camera's file, one that gives a preview."""

    class Raw:
        sizes = type("Sizes", (), {"flip": 6})

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def extract_thumb(self):
            return type("Thumbnail", (), {"format": "JPEG", "data": preview})

    class Rawpy:
        LibRawError = OSError
        ThumbFormat = type("ThumbFormat", (), {"JPEG": "JPEG"})

        @staticmethod
        def imread(_file):
            return Raw()

    preview = make_images.encoded(PHOTO, "JPEG", quality=95)
    monkeypatch.setitem(sys.modules, "rawpy", Rawpy)
    page = make_images.tiff(PHOTO, extra=[(50706, 0x01040000)])
    for name, content in (("a.dng", page), ("b.nef", make_images.tiff(PHOTO)), ("c", page)):
        (tmp_path / name).write_bytes(content)
        image = images.read(tmp_path / name)
        assert mean_difference(image, np.rot90(PHOTO, -1)) < 3
    assert mean_difference(images.read(make_images.tiff(PHOTO)), PHOTO) == 0


def a_dng(preview, raw):
    """A raw file as cameras write it: a page with a preview in JPEG, and the sensor's below it."""
    jpeg = make_images.encoded(preview, "JPEG", quality=90)
    jpeg += bytes(len(jpeg) % 2)
    (height, width), (rows, columns) = preview.shape[:2], raw.shape
    start = 8 + len(jpeg) + raw.nbytes

    def directory(at, entries):
        head, extra = struct.pack("<H", len(entries)), b""
        for tag, kind, values in sorted(entries):
            letter = {1: "B", 2: "B", 3: "H", 4: "I", 10: "i"}[kind]
            data = struct.pack(f"<{len(values)}{letter}", *values)
            count = len(values) // 2 if kind == 10 else len(values)
            place = struct.pack("<I", at + 2 + 12 * len(entries) + 4 + len(extra))
            head += struct.pack("<HHI", tag, kind, count)
            head += data.ljust(4, b"\0") if len(data) <= 4 else place
            extra += b"" if len(data) <= 4 else data + bytes(len(data) % 2)
        return head + bytes(4) + extra

    def first(below):
        matrix = [1, 1, 0, 1, 0, 1, 0, 1, 1, 1, 0, 1, 0, 1, 0, 1, 1, 1]
        pages = [(254, 4, [1]), (256, 4, [width]), (257, 4, [height]), (258, 3, [8, 8, 8])]
        pages += [(259, 3, [7]), (262, 3, [6]), (271, 2, b"Test\0"), (272, 2, b"Camera\0")]
        pages += [(273, 4, [8]), (277, 3, [3]), (278, 4, [height]), (279, 4, [len(jpeg)])]
        pages += [(330, 4, [below]), (50706, 1, [1, 4, 0, 0]), (50708, 2, b"Test Camera\0")]
        return directory(start, [*pages, (50721, 10, matrix)])

    below = start + len(first(0))
    sensor = [(254, 4, [0]), (256, 4, [columns]), (257, 4, [rows]), (258, 3, [16]), (259, 3, [1])]
    sensor += [(262, 3, [32803]), (273, 4, [8 + len(jpeg)]), (277, 3, [1]), (278, 4, [rows])]
    sensor += [(279, 4, [raw.nbytes]), (33421, 3, [2, 2]), (33422, 1, [0, 1, 1, 2])]
    head = b"II*\0" + struct.pack("<I", start)
    return head + jpeg + raw.tobytes() + first(below) + directory(below, sensor)


def test_a_raw_file_as_cameras_write_it_gives_its_preview():
    pytest.importorskip("rawpy")
    sensor = np.random.default_rng(0).integers(200, 4000, (480, 640), dtype=np.uint16)
    preview = make_images.photo(240, 320)
    data = a_dng(preview, sensor)
    assert images.size(data) == (240, 320)
    assert mean_difference(images.read(data), preview) < 3
    with pytest.raises(ImageError):
        images.read(data[: len(data) // 2])


def frames(name, *pictures):
    first, *rest = [Image.fromarray(picture) for picture in pictures]
    options = {"lossless": True} if name == "WEBP" else {}
    return make_images.encoded(first, name, save_all=True, append_images=rest, **options)


@pytest.mark.parametrize("name", ["GIF", "PNG", "WEBP", "AVIF"])
def test_of_frames_the_first_that_shows_something_is_read(name):
    black, white = np.zeros_like(PHOTO), np.full_like(PHOTO, 255)
    shown = images.read(frames(name, black, white, PHOTO, 255 - PHOTO))
    assert mean_difference(shown, PHOTO) < 12
    assert mean_difference(images.read(frames(name, PHOTO, black)), PHOTO) < 12
    assert mean_difference(images.read(frames(name, black, white)), black) < 1


def test_frames_behind_an_empty_one_may_be_damaged():
    data = frames("GIF", np.zeros_like(PHOTO), PHOTO)
    assert images.read(data[:-3000]).max() <= 8


def test_very_many_empty_frames_take_no_time():
    data = make_images.gif_of_many_frames(np.zeros((64, 64, 3), np.uint8), 10_000)
    assert images.read(data).max() == 0


@pytest.mark.parametrize("name", ["WEBP", "AVIF", "JPEG2000", "GIF", "PNG", "JPEG"])
@pytest.mark.parametrize("part", [0.5, 0.8, 0.95])
def test_a_file_whose_end_is_zeros_is_refused(name, part):
    noise = np.random.default_rng(0).integers(0, 40, PHOTO.shape, dtype=np.uint8)
    data = make_images.encoded(PHOTO // 2 + noise, name)
    end = int(len(data) * part)
    with pytest.raises(ImageError):
        images.read(data[:end] + bytes(len(data) - end))


def test_a_picture_that_is_empty_below_is_whole():
    for name, options in (("WEBP", {}), ("WEBP", {"lossless": True}), ("AVIF", {})):
        for colour in (0, 255):
            drawing = np.full((1000, 700, 3), colour, np.uint8)
            drawing[:90, :130] = PHOTO
            assert images.read(make_images.encoded(drawing, name, **options)).shape[0] == 1000
