"""Pictures that may take long go to a process of their own, which ends where they do; others do
not."""

import os
import pathlib
import signal
import threading
import time
import types

import numpy as np
import pytest

from hashnet import images, system
from hashnet.cli import main
from hashnet.errors import ImageError
from hashnet.images import apart, costs, jpeg, reading, workers
from tests import make_images, needs

PHOTO = make_images.photo(60, 80)
forks = pytest.mark.skipif(not system.has_forks(), reason="pictures are decoded here then")


@pytest.fixture
def costly(monkeypatch):
    """However small a picture is, it may take long."""
    monkeypatch.setattr(reading, "is_costly", lambda *_: True)


@forks
@pytest.mark.parametrize("name", ["JPEG", "PNG", "JPEG2000", "TGA"])
def test_what_may_take_long_gives_the_same_pixels(costly, monkeypatch, tmp_path, name):
    exif = {"exif": make_images.exif(6)} if name in ("JPEG", "PNG") else {}
    path = tmp_path / f"a.{name.lower()}"
    path.write_bytes(make_images.encoded(PHOTO, name, **exif))
    there = images.Photo(path)
    got = [there.resized((8, 9)), there.full(), there.at_least(20), there.within(30)]
    assert there.size == got[1].shape[:2]
    monkeypatch.setattr(reading, "is_costly", lambda *_: False)
    here = images.Photo(path)
    for one, other in zip(
        got, [here.resized((8, 9)), here.full(), here.at_least(20), here.within(30)], strict=True
    ):
        assert np.array_equal(one, other)
        one[:] = 0  # is the caller's


@forks
def test_damage_is_told_in_the_same_words(costly, monkeypatch, tmp_path):
    path = tmp_path / "cut.png"
    path.write_bytes(make_images.encoded(PHOTO, "PNG")[:3000])
    with pytest.raises(ImageError) as there:
        images.read(path)
    monkeypatch.setattr(reading, "is_costly", lambda *_: False)
    with pytest.raises(ImageError) as here:
        images.read(path)
    assert str(here.value) == str(there.value) and "cut.png" in str(there.value)


@forks
def test_a_folder_is_indexed_without_what_takes_too_long(
    bundle_folder, monkeypatch, tmp_path, capsys
):
    """QOI is decoded in Python, a second for a megabyte."""
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "long.qoi").write_bytes(make_images.long_qoi(1500))
    (photos / "good.png").write_bytes(make_images.encoded(PHOTO, "PNG"))
    monkeypatch.setattr(workers, "PROCESSOR_SECONDS", 1)
    command = ["index", str(tmp_path / "photos.index"), str(photos), "--bundle", str(bundle_folder)]
    assert main(command) == 3
    said = capsys.readouterr()
    assert "1 added" in said.out and "long.qoi" in said.err
    assert "1 s of processor time" in said.err and "it takes longer" in said.err
    assert "--max-pixels" in said.err


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="addresses are counted there")
def test_what_takes_too_much_memory_is_refused_by_name(costly, monkeypatch, tmp_path):
    path = tmp_path / "large.png"
    path.write_bytes(make_images.png_bomb(7000))
    monkeypatch.setattr(workers, "MEMORY_MB", 40)
    with pytest.raises(ImageError, match=r"large\.png': it takes more memory"):
        images.read(path)
    # Who allows more pixels allows more memory.
    photo = images.Photo(path, max_pixels=10 * images.MAX_PIXELS)
    assert photo.size == (7000, 7000)
    assert (photo.resized((4, 4)) == photo.resized((4, 4))[0, 0]).all()


@forks
def test_what_fails_where_it_needs_more_memory_seems_to_take_it(costly, monkeypatch):
    """A decoder that gets none says that the picture is broken."""
    data = make_images.encoded(PHOTO, "PNG")[:3000]
    with pytest.raises(ImageError, match="truncated"):
        images.read(data)
    monkeypatch.setattr(reading, "cost", lambda *_: costs.Cost(9.0, workers.MEMORY_MB + 9))
    with pytest.raises(ImageError, match="3000 bytes: it seems to take more memory, or to be "):
        images.read(data)


@forks
def test_a_decoder_that_ends_is_tried_once_more(costly, monkeypatch):
    data = make_images.encoded(PHOTO, "PNG")
    for times in (1, 2):
        left = [None] * times
        real = workers.Worker.send

        def send(self, *arguments, left=left, real=real):
            if left:
                left.pop()
                os.kill(self._pid, signal.SIGKILL)
                raise BrokenPipeError
            real(self, *arguments)

        monkeypatch.setattr(workers.Worker, "send", send)
        if times == 1:
            assert np.array_equal(images.read(data), PHOTO)
        else:
            with pytest.raises(ImageError, match="it ended its decoder"):
                images.read(data)
        monkeypatch.setattr(workers.Worker, "send", real)


@forks
def test_pictures_are_decoded_where_what_decoders_are_forked_from_has_died(costly):
    data = make_images.encoded(PHOTO, "PNG")
    images.read(data)
    os.kill(workers.mother()._process.pid, signal.SIGKILL)
    assert np.array_equal(images.read(data), PHOTO)


@forks
def test_where_there_is_no_process_for_it_a_picture_is_refused(costly, monkeypatch):
    def fails(*_):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(workers, "mother", fails)
    with pytest.raises(ImageError, match="there is none, .*temporarily unavailable"):
        images.read(make_images.encoded(PHOTO, "PNG"))


def test_where_nothing_forks_it_is_decoded_here(costly, monkeypatch):
    monkeypatch.setattr(system, "has_forks", bool)
    monkeypatch.setattr(workers, "mother", lambda: pytest.fail("it was asked for a process"))
    assert np.array_equal(images.read(make_images.encoded(PHOTO, "PNG")), PHOTO)


@pytest.mark.parametrize(
    ("name", "million", "megabytes", "is_costly"),
    [
        ("PNG", 24, 20, False),
        ("PNG", 65, 2, True),
        ("WEBP", 24, 3, False),
        ("WEBP", 40, 3, True),
        ("HEIF", 12, 3, False),
        ("AVIF", 12, 2, False),
        ("GIF", 2, 5, False),
        ("TIFF", 60, 24, False),
        ("QOI", 0.3, 0.5, False),
        ("QOI", 12, 8, True),
        ("JPEG2000", 12, 3, False),
        ("JPEG2000", 60, 1, True),
        ("JXL", 2, 1, False),
        ("JXL", 12, 2, True),
        ("nothing known", 12, 2, True),
    ],
)
def test_usual_pictures_cost_little_and_large_ones_of_slow_formats_may_not(
    name, million, megabytes, is_costly
):
    image = types.SimpleNamespace(
        format=name, width=1000, height=int(1000 * million), mode="RGB", info={}, getexif=dict
    )
    told = costs.is_costly(costs.cost(image, int(megabytes * 2**20), images.MAX_PIXELS))
    assert told == is_costly


@pytest.mark.parametrize(("mode", "info"), [("RGBA", {}), ("P", {"transparency": 3})])
def test_transparency_takes_more_and_so_does_turning(mode, info):
    image = types.SimpleNamespace(
        format="TIFF", width=7900, height=7900, mode="RGB", info={}, getexif=dict
    )
    assert not costs.is_costly(costs.cost(image, 10**6, images.MAX_PIXELS))
    image.getexif = lambda: {0x0112: 6}
    assert costs.is_costly(costs.cost(image, 10**6, images.MAX_PIXELS))
    image.getexif, image.mode, image.info = dict, mode, info
    assert costs.is_costly(costs.cost(image, 10**6, images.MAX_PIXELS))


def jpeg_of(width, height, **options):
    return jpeg.JpegFile(make_images.encoded(make_images.photo(height, width), "JPEG", **options))


def test_a_photo_of_a_camera_is_decoded_here_and_a_long_jpeg_is_not():
    image = jpeg_of(800, 600)
    many = jpeg_of(800, 600, progressive=True)
    assert (image.blocks, image.blocks_sent, image.times) == (11_300, 11_300, 1)
    assert many.blocks == 11_300 and many.blocks_sent > 3 * 11_300
    seconds = costs.cost(image, 10**5, images.MAX_PIXELS).seconds
    assert seconds < costs.cost(many, 10**5, images.MAX_PIXELS).seconds < 4 * seconds
    cut = jpeg.JpegFile(make_images.encoded(PHOTO, "JPEG")[:-2])
    assert cut.times == 4
    # Of a camera of 50 million pixels, beside one of four thousand million.
    for one, is_costly in ((image, False), (many, True)):
        one._size = 8660, 5774
        one.blocks, one.blocks_sent = 1_200_000, 1_200_000
        if one is many:
            one.blocks_sent = 24 * one.blocks
        assert costs.is_costly(costs.cost(one, 30 * 2**20, images.MAX_PIXELS)) == is_costly


def test_a_worker_ends_that_takes_more_memory_where_the_system_has_no_limit():
    child = needs.fork()
    if not child:
        apart._end_beyond(50 * 2**20)
        held = np.ones(5 * 2**20, np.uint8)
        time.sleep(0.1)
        held = np.ones(200 * 2**20, np.uint8)
        time.sleep(9)
        os._exit(int(held[0]) - 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


@forks
def test_many_threads_may_have_pictures_decoded(costly):
    data, got = make_images.encoded(PHOTO, "PNG"), []
    threads = [threading.Thread(target=lambda: got.append(images.read(data))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 8 and all(np.array_equal(one, PHOTO) for one in got)


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="processes are counted there")
@forks
def test_no_process_is_left_behind_by_a_picture(costly):
    images.read(make_images.encoded(PHOTO, "PNG"))
    mother = workers.mother()._process.pid

    def children():
        found = []
        for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
            try:
                _, _, rest = path.read_text().rpartition(")")
            except OSError:
                continue
            state, parent = rest.split()[:2]
            if int(parent) == mother and state != "Z":
                found.append(path)
        return found

    deadline = time.monotonic() + 5
    while children():
        assert time.monotonic() < deadline
        time.sleep(0.02)
