"""Labelled images from every kind of source, good and bad."""

import gzip
import struct
import time
import zlib

import numpy as np
import pytest

from hashnet import images
from hashnet.errors import ArgumentError, ShapeError
from hashnet.train import data


def picture(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    images.write(path, np.full((6, 8, 3), value, "uint8"))
    return path


@pytest.fixture
def zoo(tmp_path):
    for name, number in (("cat", 3), ("dog", 2)):
        for i in range(number):
            picture(tmp_path / "zoo" / name / f"{i}.png", 10 * i)
    return tmp_path / "zoo"


def test_a_folder_of_class_folders_gives_its_classes(zoo):
    labelled = data.load(zoo)
    assert labelled.classes == ("cat", "dog")
    assert labelled.labels.tolist() == ["cat"] * 3 + ["dog"] * 2
    assert labelled.problems == []


def test_an_empty_class_folder_is_skipped_and_named(zoo):
    (zoo / "fox").mkdir()
    labelled = data.load(zoo)
    assert labelled.classes == ("cat", "dog")
    assert [problem.path for problem in labelled.problems] == [str(zoo / "fox")]
    assert "no pictures" in labelled.problems[0].reason


def test_a_picture_outside_the_class_folders_is_skipped_and_named(zoo):
    stray = picture(zoo / "stray.png")
    labelled = data.load(zoo)
    assert len(labelled) == 5
    assert [problem.path for problem in labelled.problems] == [str(stray)]


def test_one_class_only_is_refused(tmp_path):
    picture(tmp_path / "zoo" / "cat" / "0.png")
    with pytest.raises(ArgumentError, match="at least two classes.*Received: 1 classes"):
        data.load(tmp_path / "zoo")


def test_unreadable_images_are_skipped_and_named(zoo):
    (zoo / "cat" / "1.png").write_bytes(b"this is no picture")
    labelled = data.load(zoo).decoded(4)
    assert labelled.sources.shape == (4, 4, 4, 3)
    assert labelled.labels.tolist() == ["cat"] * 2 + ["dog"] * 2
    assert [problem.path for problem in labelled.problems] == [str(zoo / "cat" / "1.png")]


def test_a_class_without_any_readable_image_is_dropped(zoo):
    broken = zoo / "ant" / "0.png"
    broken.parent.mkdir()
    broken.write_bytes(b"")
    labelled = data.load(zoo).decoded(4)
    assert labelled.classes == ("cat", "dog")
    assert labelled.targets.shape == (5, 2)


def test_if_one_class_is_left_after_reading_the_training_is_refused(zoo):
    for path in (zoo / "dog").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ArgumentError, match="at least two classes.*the first problem: .*dog"):
        data.load(zoo).decoded(4)


def test_training_sees_the_pixels_that_encoding_sees(zoo):
    labelled = data.load(zoo)
    pixels = labelled.decoded(4).sources
    for path, seen in zip(labelled.sources, pixels, strict=True):
        assert (images.read_resized(path, (4, 4)) == seen).all()


def csv_file(zoo, text):
    path = zoo / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "text",
    [
        "path,label\ncat/0.png,cat\ndog/0.png,dog|wet\n",
        "cat/0.png,cat\ndog/0.png,wet | dog\n",
        "path,a,b\ncat/0.png,cat,\ndog/0.png,dog,wet\n",
    ],
)
def test_a_csv_file_gives_one_label_or_several(zoo, text):
    labelled = data.load(csv_file(zoo, text))
    assert labelled.classes == ("cat", "dog", "wet")
    assert labelled.targets.tolist() == [[True, False, False], [False, True, True]]
    assert labelled.labels.dtype == np.bool_  # several labels: what the metrics take


def test_a_csv_file_that_names_missing_files_is_refused_with_their_names(zoo):
    path = csv_file(zoo, "cat/0.png,cat\ncat/77.png,cat\ndog/0.png,dog\n")
    with pytest.raises(ArgumentError, match=r"1 of 3 missing: .*77\.png"):
        data.load(path)


def test_a_csv_line_without_a_label_is_refused_with_its_number(zoo):
    with pytest.raises(ArgumentError, match="line 2"):
        data.load(csv_file(zoo, "cat/0.png,cat\ndog/0.png, \n"))


def test_a_csv_file_of_other_bytes_is_refused(zoo):
    path = zoo / "labels.csv"
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ArgumentError, match="UTF-8"):
        data.load(path)


def test_a_place_without_anything_is_refused(tmp_path):
    with pytest.raises(ArgumentError, match="Received: .*nowhere"):
        data.load(tmp_path / "nowhere")


def write_idx(folder, part, pixels, labels):
    for kind, array in (("images-idx3", pixels), ("labels-idx1", labels)):
        header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
        with gzip.open(folder / f"{part}-{kind}-ubyte.gz", "wb") as file:
            file.write(header + array.astype("uint8").tobytes())


def test_idx_files_give_grey_images_as_rgb(tmp_path):
    pixels = np.arange(3 * 4 * 5).reshape(3, 4, 5)
    write_idx(tmp_path, "train", pixels, np.array([2, 0, 2]))
    write_idx(tmp_path, "t10k", pixels[:2], np.array([1, 0]))
    labelled = data.load(tmp_path)
    assert labelled.labels.tolist() == ["2", "0", "2"]
    assert (labelled.sources == pixels[..., None]).all()
    assert labelled.sources.shape == (3, 4, 5, 3)
    assert len(data.load(tmp_path / "t10k-images-idx3-ubyte.gz")) == 2


@pytest.mark.parametrize(
    ("lengths", "held", "words"),
    [
        ((2**15, 2**15, 2), 10, "2147483648 bytes of numbers"),
        ((1, 2, 2), 2**28, "more than the 4 bytes"),
        ((-1, 2, 2), 4, "-4 bytes"),
    ],
)
def test_of_an_idx_file_no_more_is_unpacked_than_it_says(tmp_path, lengths, held, words):
    packer = zlib.compressobj(1, wbits=31)
    body = b"\0\0\x08\3" + struct.pack(">3i", *lengths)
    parts = [packer.compress(body)]
    parts += [packer.compress(bytes(min(held, 2**20))) for _ in range(max(1, held >> 20))]
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"".join([*parts, packer.flush()]))
    before = time.process_time()
    with pytest.raises(ArgumentError, match=words):
        data.load(tmp_path / "train-images-idx3-ubyte.gz")
    assert time.process_time() - before < 0.1


def test_a_cut_idx_file_is_refused(tmp_path):
    write_idx(tmp_path, "train", np.zeros((2, 4, 4)), np.array([0, 1]))
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(ArgumentError, match="IDX"):
        data.load(tmp_path)


def test_arrays_take_names_numbers_and_rows_of_bools():
    pixels = np.zeros((3, 4, 4, 3), "uint8")
    names = data.from_arrays(pixels, ["b", "a", "b"])
    numbers = data.from_arrays(pixels, np.array([1, 0, 1]), ["a", "b"])
    bools = data.from_arrays(pixels, names.targets, ["a", "b"])
    assert (names.targets == numbers.targets).all() and (names.targets == bools.targets).all()


@pytest.mark.parametrize(
    ("pixels", "labels", "classes"),
    [
        (np.zeros((2, 4, 4, 3)), ["a", "b"], None),
        (np.zeros((2, 4, 4, 4), "uint8"), ["a", "b"], None),
        (np.zeros((2, 4, 4, 3), "uint8"), ["a", "b", "c"], None),
        (np.zeros((2, 4, 4, 3), "uint8"), [0, 1], None),
        (np.zeros((2, 4, 4, 3), "uint8"), [0, 2], ["a", "b"]),
        (np.zeros((2, 4, 4, 3), "uint8"), np.ones((2, 3), bool), ["a", "b"]),
    ],
)
def test_arrays_that_do_not_fit_each_other_are_refused(pixels, labels, classes):
    with pytest.raises(ShapeError):
        data.from_arrays(pixels, labels, classes)


def test_an_image_without_a_class_is_refused():
    targets = np.array([[True, False], [False, False], [False, True]])
    with pytest.raises(ArgumentError, match="image 1"):
        data.from_arrays(np.zeros((3, 4, 4, 3), "uint8"), targets, ["a", "b"])


def test_held_out_classes_leave_with_their_images():
    labelled = data.from_arrays(np.zeros((4, 4, 4, 3), "uint8"), ["a", "b", "c", "a"])
    rest = labelled.without(["b"])
    assert rest.classes == ("a", "c") and rest.labels.tolist() == ["a", "c", "a"]
    with pytest.raises(ArgumentError, match="There are: a, b, c"):
        labelled.without(["d"])
    with pytest.raises(ArgumentError, match="two classes"):
        labelled.without(["a", "b"])


def test_a_split_takes_its_part_of_every_class_and_leaves_single_images_to_learn_from():
    names = ["a"] * 50 + ["b"] * 20 + ["rare"]
    labelled = data.from_arrays(np.arange(71 * 12).reshape(71, 2, 2, 3).astype("uint8"), names)
    rest, part = labelled.split(0.1, seed=4)
    assert sorted(part.labels.tolist()) == ["a"] * 5 + ["b"] * 2
    assert len(rest) == 64 and "rare" in rest.labels
    again = labelled.split(0.1, seed=4)[1]
    assert (again.sources == part.sources).all()
    other = labelled.split(0.1, seed=5)[1]
    assert (other.sources != part.sources).any()


def test_the_real_photos_load(shared_data):
    labelled = data.load(shared_data / "clothing10" / "validation")
    assert len(labelled.classes) == 10 and not labelled.problems
