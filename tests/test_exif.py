"""When, where and by which camera a photo was taken, as it says itself; nothing of it can hurt."""

import datetime
import io
import time

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from hashnet import images
from hashnet.images import Exif
from hashnet.images.exif import exif_of
from hashnet.images.formats import ALLOWED_FORMATS
from hashnet.retrieval.index import Index

NOON = datetime.datetime(2026, 5, 1, 12, 30, 59)  # noqa: DTZ001


def tags(taken="2026:05:01 12:30:59", place=((33, 30, 0), "S", (151, 12.6, 0), "E"), **of_image):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = taken
    if place:
        exif.get_ifd(0x8825).update(dict(zip((2, 1, 4, 3), place, strict=True)))
    exif.update({{"make": 0x010F, "model": 0x0110}[name]: text for name, text in of_image.items()})
    return exif


def photo(exif, kind="JPEG"):
    file, image = io.BytesIO(), Image.new("RGB", (64, 48), "red")
    if kind == "HEIF":
        pillow_heif = pytest.importorskip("pillow_heif")
        pillow_heif.from_pillow(image).save(file, exif=exif.tobytes())
    else:
        image.save(file, kind, exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "HEIF"])
def test_date_place_and_camera_are_read_from_every_format_that_has_them(kind):
    if kind not in ALLOWED_FORMATS:
        pytest.skip(f"no {kind} here")
    exif = images.Photo(photo(tags(make="Canon", model="Canon EOS 5D"), kind)).exif
    assert exif == Exif(NOON, -33.5, pytest.approx(151.21), "Canon EOS 5D")


@pytest.mark.parametrize("behind", [False, True])
def test_nothing_of_a_png_is_decoded_for_what_it_tells(monkeypatch, behind):
    data = photo(tags(model="D40"), "PNG")
    if behind:  # the tags stand behind the pixels
        start = data.index(b"eXIf") - 4
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        data = data[:start] + data[end:-12] + data[start:end] + data[-12:]
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda _: pytest.fail("decoded"))
    for content, camera in ((data, "D40"), (photo(Image.Exif(), "PNG"), None)):
        told = images.Photo(content)
        assert (told.exif.camera, told.description, told.size) == (camera, None, (48, 64))


def test_what_is_missing_is_none():
    assert images.Photo(photo(Image.Exif())).exif == Exif()
    assert images.Photo(np.zeros((9, 9), np.uint8)).exif == Exif()
    only = images.Photo(photo(tags(place=None, make="NIKON  CORPORATION\0", model="D40"))).exif
    assert only == Exif(NOON, camera="NIKON CORPORATION D40")


def test_the_date_of_the_file_stands_in_for_that_of_the_shot():
    exif = Image.Exif()
    exif[0x0132] = "2026:05:01 12:30:59"
    exif[0x0110] = "Scanner 3"
    for kind in ("JPEG", "TIFF"):
        assert images.Photo(photo(exif, kind)).exif == Exif(NOON, camera="Scanner 3")


@pytest.mark.parametrize(
    "taken", ["0000:00:00 00:00:00", "2026:13:01 00:00:00", "", "    :  :     :  :  ", "soon", "\0"]
)
def test_a_clock_that_was_never_set_is_no_date(taken):
    assert images.Photo(photo(tags(taken))).exif.taken is None


@pytest.mark.parametrize(
    "place",
    [
        ((91, 0, 0), "N", (1, 0, 0), "E"),
        ((1, 0, 0), "N", (181, 0, 0), "E"),
        ((1, 0), "N", (1, 0, 0), "E"),
    ],
)
def test_a_place_that_is_none_is_none(place):
    exif = images.Photo(photo(tags(place=place))).exif
    assert (exif.latitude, exif.longitude) == (None, None) and exif.taken == NOON


def test_damaged_data_costs_no_photo():
    whole = photo(tags(make="Canon", model="x" * 5000))
    start = whole.index(b"Exif\0\0")
    assert images.Photo(whole).exif.camera == ("Canon " + "x" * 5000)[:200]
    chance = np.random.default_rng(0)
    for _ in range(300):
        content = bytearray(whole)
        for at in chance.integers(start, start + 400, 4):
            content[at] = chance.integers(256)
        picture = images.Photo(bytes(content))
        assert isinstance(picture.exif, Exif) and picture.full().shape == (48, 64, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_head_that_is_said_again_and_again_costs_no_time(kind):
    """Pillow copies what is behind each, which is the more the more there are."""
    white = Image.new("RGB", (40, 30), "white")
    many = b"Exif\0\0" * 100_000
    data = io.BytesIO()
    if kind == "JPEG":
        white.save(data, kind)
        piece = b"Exif\0\0" + many[: 6 * 10_000]
        segment = b"\xff\xe1" + (len(piece) + 2).to_bytes(2, "big") + piece
        content = data.getvalue()[:2] + 8 * segment + data.getvalue()[2:]
    else:
        white.save(data, kind, exif=many + tags().tobytes())
        content = data.getvalue()
        if kind == "PNG":  # which takes the first away
            assert many[6:] in content
    began = time.process_time()
    photo = images.Photo(content)
    assert (photo.full() == 255).all() and photo.exif == Exif()
    assert time.process_time() - began < 0.25


@pytest.mark.parametrize("heads", [1, 2])
def test_a_head_that_is_said_twice_is_passed_over(heads):
    data = io.BytesIO()
    white = Image.new("RGB", (40, 30), "white")
    white.save(data, "JPEG", exif=(heads - 1) * b"Exif\0\0" + tags().tobytes())
    assert images.Photo(data.getvalue()).exif.taken == NOON


def test_what_pillow_raises_is_no_exif():
    class Broken:
        def getexif(self):
            raise SyntaxError("not a TIFF file")

    assert exif_of(Broken()) == Exif()


def test_an_index_keeps_it_where_it_was_asked_for(bundle_folder, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(photo(tags(make="Canon", model="5D")))
    (folder / "b.jpg").write_bytes(photo(Image.Exif()))
    for exif in (False, True):
        index = Index.create(tmp_path / f"{exif}", bundle_folder, exif=exif)
        assert index.update([folder]).added == 2 and index["photos/b.jpg"].exif is None
        kept = index["photos/a.jpg"].exif
        assert (kept.camera if exif else kept) == ("Canon 5D" if exif else None)
