"""Other viewers show what is read here: OpenCV and ImageMagick, where they are installed."""

import io
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from hashnet import images
from tests import make_images

PHOTO = make_images.photo(120, 160)


def encoded(name, image=PHOTO, **options):
    return make_images.encoded(image, name, **options)


def a_tiff(samples, **options):
    tifffile = pytest.importorskip("tifffile")
    file = io.BytesIO()
    tifffile.imwrite(file, samples, **options)
    return file.getvalue()


def with_side_chunks(data):
    chunk = make_images.png_chunk(b"tEXt", b"workflow\0" + b"x" * (2 << 20))
    return data[:33] + chunk + data[33:]


WORDS = PHOTO.astype(np.uint16) * 257
RGB = {"photometric": "rgb"}
# What OpenCV cannot read, or reads as another picture than everybody else.
NOT_BY_OPENCV = {"icon", "true colour TGA"}
FILES = {
    "JPEG": lambda: encoded("JPEG", quality=92),
    "progressive JPEG": lambda: encoded("JPEG", progressive=True),
    "grey JPEG": lambda: encoded("JPEG", PHOTO[..., 0]),
    "a film behind": lambda: encoded("JPEG")[:-2] + b"\0\0\x40\x0afilm" * 100,
    "PNG": lambda: encoded("PNG"),
    "PNG of 16 bits": lambda: encoded("PNG", WORDS[..., 0]),
    "side chunks": lambda: with_side_chunks(encoded("PNG")),
    "palette": lambda: make_images.encoded(Image.fromarray(PHOTO).quantize(64), "PNG"),
    "WebP": lambda: encoded("WEBP", quality=90),
    "BMP": lambda: encoded("BMP"),
    "GIF": lambda: make_images.encoded(Image.fromarray(PHOTO).quantize(64), "GIF"),
    "AVIF": lambda: encoded("AVIF", quality=90),
    "JPEG 2000": lambda: encoded("JPEG2000"),
    "PPM": lambda: encoded("PPM"),
    "PGM": lambda: encoded("PPM", PHOTO[..., 0]),
    "icon": lambda: encoded("ICO", sizes=[(160, 120)]),
    "true colour TGA": lambda: encoded("TGA"),
    "TIFF": lambda: encoded("TIFF"),
    "TIFF in LZW": lambda: encoded("TIFF", compression="tiff_lzw"),
    "TIFF in strips": lambda: a_tiff(PHOTO, rowsperstrip=7, **RGB),
    "TIFF in tiles": lambda: a_tiff(PHOTO, tile=(64, 64), **RGB),
    "TIFF of 16 bits": lambda: a_tiff(WORDS, **RGB),
    "TIFF, big-endian": lambda: a_tiff(WORDS, byteorder=">", **RGB),
    "planes apart": lambda: a_tiff(np.moveaxis(WORDS, 2, 0), planarconfig="separate", **RGB),
    "white is zero": lambda: a_tiff(255 - PHOTO[..., 0], photometric="miniswhite"),
    "white is zero in 16 bits": lambda: a_tiff(65535 - WORDS[..., 0], photometric="miniswhite"),
}


def agrees(shown, data, tmp_path, suffix=""):
    path = tmp_path / f"picture{suffix}"
    path.write_bytes(data)
    image = images.read(path).astype(int)
    assert shown.shape == image.shape
    assert np.abs(shown.astype(int) - image).mean() <= 2


@pytest.mark.parametrize("name", sorted(set(FILES) - NOT_BY_OPENCV))
def test_opencv_shows_the_same(tmp_path, name):
    cv2 = pytest.importorskip("cv2")
    data = FILES[name]()
    shown = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if shown is None and name in ("AVIF", "JPEG 2000", "GIF"):
        pytest.skip("this OpenCV was built without it")
    agrees(shown[..., ::-1], data, tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_imagemagick_shows_the_same(tmp_path, name):
    program = shutil.which("magick") or shutil.which("convert")
    if program is None or sys.platform == "win32":  # where convert is a program for disks
        pytest.skip("ImageMagick is not installed")
    data, suffix = FILES[name](), {"true colour TGA": ".tga", "icon": ".ico"}.get(name, "")
    source = tmp_path / f"given{suffix}"
    source.write_bytes(data)
    command = [
        program,
        f"{source}[0]",
        "-auto-orient",
        "-depth",
        "8",
        "-colorspace",
        "sRGB",
        "rgb:-",
    ]
    run = subprocess.run(command, capture_output=True, check=False, timeout=60)
    if run.returncode and b"no decode delegate" in run.stderr:
        pytest.skip("this ImageMagick was built without it")
    shown = np.frombuffer(run.stdout, np.uint8).reshape(120, 160, 3)
    agrees(shown, data, tmp_path, suffix)
