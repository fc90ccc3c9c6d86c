"""What an index keeps of its images: the bytes of local features, and what is refused."""

import datetime
import math
import types

import numpy as np
import pytest

from hashnet.errors import ArgumentError, ShapeError
from hashnet.images import Exif
from hashnet.retrieval.store.items import (
    MAX_DESCRIPTOR_DIM,
    MAX_REGIONS,
    UNKNOWN,
    Item,
    StoredFeatures,
    bytes_of_local,
    check_extractor,
    check_images,
    check_items,
    check_regions_per_image,
    date_of,
    seconds_of,
)

NOON = datetime.datetime(2026, 5, 1, 12)  # noqa: DTZ001


def test_local_features_of_any_numbers_are_kept_in_the_same_bytes():
    yx, descriptors = [[1.5, 2.25], [0, 300]], [[0.5, 0.25, 1], [1, 0, 0]]
    wanted = bytes_of_local(StoredFeatures(np.array(yx, "<f4"), np.array(descriptors, "<f2")))
    for dtype in (">f4", "f8"):
        given = StoredFeatures(np.array(yx, dtype), np.array(descriptors, dtype))
        assert bytes_of_local(given) == wanted
    assert len(wanted[0]) == 2 * 2 * 4 and len(wanted[1]) == 2 * 3 * 2


def test_local_features_come_back_from_their_bytes():
    yx, descriptors = bytes_of_local(
        StoredFeatures(np.array([[1, 2], [3, 4.5]]), np.eye(2, 3, dtype="f2"))
    )
    again = StoredFeatures.from_bytes(yx, descriptors, 3)
    assert again.yx.tolist() == [[1, 2], [3, 4.5]] and again.yx.dtype == "<f4"
    assert again.descriptors.tolist() == [[1, 0, 0], [0, 1, 0]]
    assert again.descriptors.dtype == "<f2"
    assert len(StoredFeatures.from_bytes(b"", b"", 3).yx) == 0
    for wrong in ((yx[:8], descriptors), (yx, descriptors[:6]), (yx[:-1], descriptors)):
        with pytest.raises(ValueError, match="places|reshape|multiple"):
            StoredFeatures.from_bytes(*wrong, 3)


@pytest.mark.parametrize(
    "item",
    [
        Item("a", path=b"a.jpg"),
        Item("a", label=5),
        Item("a", size=UNKNOWN),  # which stands for none
        Item("a", mtime_ns=2**63),
        Item("a", ctime_ns=0.5),
        Item("a", inode=-1),
        Item("a", inode=2**64),
        Item("a", content=bytes(15)),
        Item("a", content="sixteen letters!"),
        Item("a", exif=Exif(taken="2026-05-01")),
        Item("a", exif=Exif(camera=5)),
        Item("a", exif=Exif(latitude=math.inf)),
        Item("a", exif=Exif(longitude=math.nan)),
        Item("a", exif=Exif(latitude=1)),
    ],
)
def test_an_item_with_a_field_of_another_kind_or_range_is_refused(item):
    with pytest.raises(ArgumentError, match="item|camera"):
        check_items([Item("b"), item])


def test_an_item_is_taken_with_the_first_and_the_last_of_each_range():
    check_items(
        [
            Item("a", "", "", UNKNOWN + 1, UNKNOWN + 1, UNKNOWN + 1, 0, bytes(16), Exif()),
            Item("b", None, None, 2**63 - 1, np.int64(5), 2**63 - 1, 2**64 - 1),
            Item("c", exif=Exif(NOON, -90.0, 180.0, "")),
        ]
    )


@pytest.mark.parametrize(
    ("extractor", "descriptor_dim", "sound"),
    [
        (None, None, True),
        ("sift", 1, True),
        ("sift", MAX_DESCRIPTOR_DIM, True),
        (None, 4, False),
        ("sift", None, False),
        (5, 4, False),
        ("sift", 4.0, False),
        ("sift", 0, False),
        ("sift", MAX_DESCRIPTOR_DIM + 1, False),
    ],
)
def test_an_extractor_comes_with_the_size_of_its_descriptors(extractor, descriptor_dim, sound):
    if sound:
        check_extractor(extractor, descriptor_dim)
    else:
        with pytest.raises(ArgumentError, match="size of a descriptor"):
            check_extractor(extractor, descriptor_dim)


def test_a_number_of_regions_is_within_its_range():
    for number in (0, MAX_REGIONS):
        check_regions_per_image(number)
    for number in (-1, MAX_REGIONS + 1, 1.0, None):
        with pytest.raises(ArgumentError, match=f"0 to {MAX_REGIONS}"):
            check_regions_per_image(number)


def check_boxes(*boxes_of_images, most=2):
    """Check images that have nothing but an id and these regions."""
    facts = types.SimpleNamespace(
        num_bits=8, feature_dim=1, feature_dtype="float32", descriptor_dim=None,
        regions_per_image=most,
    )  # fmt: skip
    items = [Item(str(number)) for number in range(len(boxes_of_images))]
    num_rows = len(items) + sum(map(len, boxes_of_images))
    codes, features = np.zeros((num_rows, 1), np.uint8), np.zeros((num_rows, 1), np.float32)
    return check_images(facts, items, codes, features, None, boxes_of_images)


def test_each_image_has_a_row_before_those_of_its_regions():
    last = 2**31 - 1
    none = np.empty((0, 4), np.int64)
    counts, boxes = check_boxes(none, np.array([[0, 0, 1, 1], [5, 6, last, last]]), none)
    assert counts == [1, 3, 1] and boxes.dtype == np.int32
    whole = [0, 0, 0, 0]
    assert boxes.tolist() == [whole, whole, [0, 0, 1, 1], [5, 6, last, last], whole]


@pytest.mark.parametrize(
    "box",
    [
        *([-1, 0, 5, 5], [0, -1, 5, 5], [5, 0, 5, 5], [0, 5, 5, 5], [6, 0, 5, 5], [0, 6, 5, 5]),
        *([0, 0, 2**31, 5], [0, 0, 5, 2**31]),
    ],
)
def test_a_region_without_an_area_or_too_far_out_is_refused(box):
    with pytest.raises(ArgumentError, match="'1'"):
        check_boxes(np.empty((0, 4), np.int64), np.array([[0, 0, 1, 1], box]))


def test_regions_that_are_too_many_or_no_boxes_are_refused():
    boxes = np.array([[0, 0, 1, 1]] * 3)
    check_boxes(boxes, most=3)
    with pytest.raises(ArgumentError, match="up to 2 regions"):
        check_boxes(boxes)
    for wrong in (boxes[0], boxes[:, :3], boxes.astype(float)):
        with pytest.raises(ShapeError, match="whole numbers"):
            check_boxes(wrong, most=3)


def test_a_date_is_kept_to_the_second_by_the_clock_that_was_read():
    assert (seconds_of(date_of(-1)), seconds_of(date_of(10**9))) == (-1, 10**9)
    before = datetime.datetime(1969, 12, 31, 23, 59, 58, 999_999)  # noqa: DTZ001
    assert seconds_of(before) == -2
    away = NOON.replace(tzinfo=datetime.timezone(datetime.timedelta(hours=9)))
    assert date_of(seconds_of(away)) == NOON
