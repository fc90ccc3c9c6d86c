"""Pictures made to cost a decoder far more than others, and good ones that look like them."""

import io
import struct
import time

import numpy as np
import pytest
from PIL import Image

from hashnet import images
from hashnet.errors import ImageError
from hashnet.images import counting, directories, gif, jpeg, netpbm, png, tiff
from tests import hostile_images, make_images

PHOTO = make_images.photo(32, 48)


class First:
    """Chooses the first, or the number that is given, of whatever is to be chosen."""

    def __init__(self, number=0):
        self.number = number

    def choice(self, several):
        return several[self.number % len(several)]

    def random(self):
        return 0.9 * (self.number == 0)

    def randrange(self, start, _end=None):
        return start


def refused(data, *words):
    before = time.process_time()
    with pytest.raises(ImageError) as caught:
        images.read(data)
    assert time.process_time() - before < 1
    for word in words:
        assert word in str(caught.value)


def segments(number, data):
    jpeg = make_images.encoded(PHOTO, "JPEG")
    return jpeg[:2] + hostile_images._segment(0xE1, data) * number + jpeg[2:]


@pytest.mark.parametrize("kind", ["jpeg_of_scans", "jpeg_of_progressive_scans"])
def test_scans_that_go_through_very_many_blocks_are_refused(kind):
    refused(hostile_images.KINDS[kind](First(2)), "its scans go through more than", "blocks")


def test_large_pictures_may_be_gone_through_several_times(monkeypatch):
    monkeypatch.setattr(jpeg, "MAX_BLOCKS", 0)
    data = make_images.encoded(PHOTO, "JPEG", progressive=True)
    assert images.read(data).shape == PHOTO.shape
    monkeypatch.setattr(jpeg, "MAX_PASSES", 2)
    refused(data, "blocks")


def test_a_picture_of_one_scan_is_read_however_many_blocks_it_has(monkeypatch):
    monkeypatch.setattr(jpeg, "MAX_BLOCKS", 2)
    monkeypatch.setattr(jpeg, "MAX_PASSES", 0)
    assert images.read(make_images.encoded(PHOTO, "JPEG")).shape == PHOTO.shape
    refused(make_images.encoded(PHOTO, "JPEG", progressive=True), "blocks")


def test_the_blocks_of_a_scan_are_those_of_its_components():
    # 48 x 32 pixels: 6 x 4 blocks of brightness, and a quarter of that of each colour.
    frame = struct.pack(">BHHB", 8, 32, 48, 3) + b"\1\x22\0\2\x11\1\3\x11\1"
    assert jpeg._blocks_of(frame) == {1: 24, 2: 6, 3: 6}


def test_exif_in_very_many_segments_is_left_out_and_the_picture_read():
    few, many = (segments(number, make_images.exif(6)) for number in (1, 100))
    assert images.size(few) == (48, 32)
    assert images.size(many) == (32, 48)
    refused(segments(jpeg.MAX_SEGMENTS, b""), f"more than {jpeg.MAX_SEGMENTS} segments")


def test_what_stands_between_and_within_other_segments_takes_no_time():
    data = make_images.encoded(PHOTO, "JPEG")
    expected = images.read(data)
    for between in (
        bytes(2**22),
        hostile_images._segment(0xED, b"Photoshop 3.0\0" + b"8BIM\0\0\0\0\0\0\0\0" * 5000) * 100,
    ):
        before = time.process_time()
        assert np.array_equal(images.read(data[:20] + between + data[20:]), expected)
        assert time.process_time() - before < 1
    refused(data[:20] + hostile_images._segment(0xF0, b"\xff\0" * 30_000) * 100 + data[20:])


def directory_of(number, size):
    entries = [(tag, 7, size, 8) for tag in range(1000, 1000 + number)]
    return b"II*\0\x08\0\0\0" + hostile_images._directory([(0x0112, 3, 1, 6), *entries])


def test_a_directory_whose_entries_share_all_bytes_is_not_read():
    bomb = (directory_of(1000, 50_000)).ljust(60_000, b"\1")
    plain = directory_of(3, 50).ljust(200, b"\1")
    assert directories.is_bounded(plain)
    assert not directories.is_bounded(bomb)
    for name in ("PNG", "WEBP", "JPEG"):
        assert images.size(make_images.encoded(PHOTO, name, exif=b"Exif\0\0" + plain)) == (48, 32)
        assert images.size(make_images.encoded(PHOTO, name, exif=b"Exif\0\0" + bomb)) == (32, 48)


@pytest.mark.parametrize("number", [directories.MOST_ENTRIES, directories.MOST_ENTRIES + 1])
def test_a_directory_has_so_many_entries_and_no_more(number):
    data = b"II*\0\x08\0\0\0" + hostile_images._directory([(tag, 3, 1, 0) for tag in range(number)])
    assert directories.is_bounded(data) == (number <= directories.MOST_ENTRIES)


def test_exif_blocks_that_share_all_bytes_are_passed_over():
    """The directory of the exposure is a bomb; the one that points to it is none."""
    inner = hostile_images._directory([(tag, 7, 30_000, 8) for tag in range(500)])
    head = hostile_images._directory([(0x0110, 2, 4, 0x434241), (0x8769, 4, 1, 100)])
    exif = (b"II*\0\x08\0\0\0" + head).ljust(100, b"\0") + inner
    photo = images.Photo(
        make_images.encoded(PHOTO, "PNG", exif=b"Exif\0\0" + exif.ljust(60_000, b"\1"))
    )
    before = time.process_time()
    assert photo.exif.camera == "ABC"
    assert time.process_time() - before < 0.3


def test_a_tiff_of_very_many_entries_or_parts_is_refused():
    refused(hostile_images.tiff_of_entries(First()), "claims far more than the file has")
    refused(hostile_images.tiff_of_parts(First(1)), "claims far more")
    narrow = make_images.tiff(make_images.photo(tiff.MOST_PARTS + 1, 1), extra=[(278, 1)])
    refused(narrow, f"{tiff.MOST_PARTS + 1} strips or tiles")
    # libtiff unpacks strip by strip what Pillow gives it, in no time.
    tall = make_images.photo(tiff.MOST_PARTS + 1, 1)
    packed = make_images.encoded(tall, "TIFF", compression="tiff_lzw", tiffinfo={278: 1})
    assert np.array_equal(images.read(packed), tall)


def test_comments_of_a_gif_are_left_out_and_so_are_letters_on_end():
    data = make_images.encoded(Image.fromarray(PHOTO).quantize(16), "GIF")
    start = data.index(b"!\xf9") if b"!\xf9" in data else data.index(b",")
    comment = b"!\xfe" + b"\1a" * 1000 + b"\0"
    commented = data[:start] + comment + data[start:]
    assert np.array_equal(images.read(commented), images.read(data))
    assert "comment" not in gif.open_gif(commented).info
    refused(hostile_images.gif_of_comments(First()), "blocks")


def blank_and_photo():
    frames = [Image.new("P", (20, 10)), Image.fromarray(make_images.photo(10, 20)).quantize(8)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


def test_the_second_frame_of_a_gif_is_seen_and_none_that_is_larger():
    data = blank_and_photo()
    assert len(np.unique(images.read(data))) > 1
    last = data.rindex(b",\0\0\0\0\x14\0\x0a\0")
    larger = data[: last + 5] + b"\xff\xff\xff\xff" + data[last + 9 :]
    assert len(np.unique(images.read(larger))) == 1


def test_fewer_of_large_blank_frames_are_looked_at(monkeypatch):
    monkeypatch.setattr(images.reading, "MAX_PIXELS", 2 * 20 * 10)
    assert len(np.unique(images.read(blank_and_photo()))) > 1
    monkeypatch.setattr(images.reading, "MAX_PIXELS", 2 * 20 * 10 - 1)
    assert len(np.unique(images.read(blank_and_photo()))) == 1


def test_a_png_of_very_many_chunks_is_refused():
    refused(hostile_images.png_of_chunks(First(1)), f"more than {png.MAX_CHUNKS} chunks")


def test_a_bmp_of_very_many_runs_is_refused_and_one_of_some_is_read():
    refused(hostile_images.bmp_of_runs(First()), "pixels in runs")
    head = struct.pack("<2sIHHI", b"BM", 0, 0, 0, 54 + 1024)
    head += struct.pack("<IiiHHIIiiII", 40, 4, 2, 1, 8, 1, 0, 0, 0, 0, 0)
    palette = b"".join(bytes([k, k, k, 0]) for k in range(256))
    small = head + palette + b"\4\x07\0\0\4\x09\0\1"
    assert images.read(small)[:, :, 0].tolist() == [[9] * 4, [7] * 4]


@pytest.mark.parametrize("kind", ["P1", "P2", "P3", "P5", "P6"])
@pytest.mark.parametrize("most", [1, 100, 255, 1000, 65535])
def test_netpbm_means_what_each_number_says(kind, most):
    rng = np.random.default_rng(most)
    channels = 3 if kind in ("P3", "P6") else 1
    values = rng.integers(0, (1 if kind == "P1" else most) + 1, (5, 7 * channels))
    depth = "" if kind == "P1" else f"{most}\n"
    head = f"{kind} # a comment 3 4\n7\n#\n 5 {depth}".encode()
    if kind in ("P5", "P6"):
        data = head + values.astype(">u2" if most > 255 else np.uint8).tobytes()
    else:
        text = "\n".join(" ".join(map(str, row)) for row in values.tolist())
        data = head + f"# again\n{text} # end".encode()
    if kind == "P1":
        expected = 255 * (1 - values)
    elif most > 255 and channels == 1:
        expected = np.rint(np.rint(values / most * 65535) * 255 / 65535)
    else:
        expected = np.rint(values / most * 255)
    got = images.read(data)
    assert got.shape == (5, 7, 3)
    wanted = expected.reshape(5, 7, channels)
    assert np.array_equal(got, np.broadcast_to(wanted, (5, 7, 3)))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"P2 2 2 9 1 2 3", "not"),
        (b"P2 2 2 9 1 2 3 10", "within 0 and 9"),
        (b"P2 2 2 0 0 0 0 0", "greatest value"),
        (b"P1 2 2 0 1 1 2", "neither 0 nor 1"),
        (b"P1 2 2 011", "3 pixels"),
        (b"P5 2 2 99 abc", "buffer"),
        (b"P1 1 1 " + b"#\n" * 100_001 + b"1", "comments"),
        (b"P2 1 1#" + b"a" * netpbm._MOST_HEAD, "no header"),
    ],
)
def test_damaged_netpbm_is_refused_by_what_is_wrong(data, words):
    refused(data, words)


def test_boxes_chunks_and_packets_are_counted():
    refused(hostile_images.boxes(First()), f"more than {counting.MOST_BOXES} boxes")
    refused(hostile_images.jpeg_2000_of_packets(First()), "packets")
    nested = b""
    for _ in range(20):
        nested = hostile_images._box(b"jp2h", nested)
    data = make_images.encoded(PHOTO, "JPEG2000")
    refused(data[:12] + nested + data[12:], "deep in each other")
    riff = make_images.encoded(PHOTO, "WEBP")
    refused(riff + (b"ABCD" + bytes(4)) * counting.MOST_CHUNKS, "chunks")


@pytest.mark.thorough
@pytest.mark.parametrize("kind", sorted(hostile_images.KINDS))
def test_hostile_files_of_each_kind_cost_little_or_are_refused(kind):
    if kind == "qoi_of_pixels":
        pytest.skip("Pillow reads QOI pixel by pixel: as long as it has bytes, and no longer")
    for number in range(3):
        data = hostile_images.KINDS[kind](First(number))
        before = time.process_time()
        try:
            images.read(data, max_pixels=50_000_000)
        except ImageError as error:
            assert "Received: " in str(error)  # noqa: PT017  either is right
        assert time.process_time() - before < hostile_images.MOST_SECONDS
