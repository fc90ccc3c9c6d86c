"""Contact sheets show what was found, and survive what cannot be shown."""

from dataclasses import dataclass

import numpy as np

from hashnet import images
from hashnet.images import sheets


@dataclass
class Hit:
    id: str
    path: str | None
    label: str | None = None
    bits_apart: int = 3
    distance: float = 0.5
    grade: str | None = None
    inliers: int | None = None
    region: tuple | None = None
    verified_by: str | None = None


def solid(colour, shape=(30, 40)):
    return np.full((*shape, 3), colour, dtype=np.uint8)


def test_each_tile_shows_its_picture_in_order(tmp_path):
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    hits = []
    for number, colour in enumerate(colours):
        images.write(tmp_path / f"{number}.png", solid(colour))
        hits.append(Hit(str(number), str(tmp_path / f"{number}.png")))
    sheet = sheets.contact_sheet([(solid((9, 9, 9)), hits)], columns=4)
    step = sheets.TILE + sheets.GAP
    centres = [sheet[sheets.GAP + 80, sheets.GAP + 80 + i * step] for i in range(4)]
    np.testing.assert_array_equal(centres, [(9, 9, 9), *colours])


def test_more_hits_than_columns_go_on_below():
    one = sheets.contact_sheet([(solid(9), [Hit("a", None)])], columns=2)
    three = sheets.contact_sheet([(solid(9), [Hit("a", None)] * 3)], columns=2)
    assert three.shape[1] == one.shape[1] and three.shape[0] > 1.8 * one.shape[0]


def test_the_whole_of_long_and_flat_pictures_is_shown():
    for shape in [(1, 1), (2, 900), (900, 2)]:
        sheet = sheets.contact_sheet([(solid((200, 0, 0), shape), [])], columns=1)
        red = np.all(sheet == (200, 0, 0), axis=2)
        assert red.any()


def test_a_hit_whose_file_is_gone_or_never_was_leaves_a_blank(tmp_path):
    hits = [Hit("a", str(tmp_path / "gone.png")), Hit("b", None, label="\x1b[31m\n<img>\udcff")]
    assert sheets.contact_sheet([(solid(9), hits)]).dtype == np.uint8


def test_a_region_is_outlined_where_it_is(tmp_path):
    path = str(tmp_path / "a.png")
    images.write(path, solid(100, (308, 308)))  # twice a picture in its tile
    hits = [Hit("a", path), Hit("a", path, region=(100, 20, 200, 280))]
    whole, part = (sheets.contact_sheet([(solid(9), [hit])], columns=2) for hit in hits)
    changed = np.argwhere((whole != part).any(axis=2))
    start = np.array([sheets.GAP + 3, 2 * sheets.GAP + sheets.TILE + 3])
    expected = [start + (50, 10), start + (99, 139)]
    np.testing.assert_allclose([changed.min(axis=0), changed.max(axis=0)], expected, atol=1)
    assert len(changed) == 2 * 130 + 2 * 48  # its border only


def test_inliers_are_written_where_there_are_any(tmp_path):
    path = str(tmp_path / "a.png")
    images.write(path, solid(100))
    plain = sheets.contact_sheet([(solid(9), [Hit("a", path)])])
    verified = sheets.contact_sheet([(solid(9), [Hit("a", path, inliers=12)])])
    by = Hit("a", path, inliers=12, verified_by="sift")
    told = sheets.contact_sheet([(solid(9), [by])])
    assert (plain != verified).any() and (verified != told).any()


def test_matches_are_lines_between_the_two_pictures(tmp_path):
    images.write(tmp_path / "a.png", solid((9, 9, 9)))
    hit = Hit("a", str(tmp_path / "a.png"), inliers=2)
    places = np.array([[0, 0], [29, 39]])
    plain = sheets.match_sheet([(solid((9, 9, 9)), hit, places[:0], places[:0])])
    drawn = sheets.match_sheet([(solid((9, 9, 9)), hit, places, places)])
    assert plain.shape == drawn.shape
    rows, columns = np.nonzero((plain != drawn).any(axis=2))
    side, gap = sheets.MATCH_TILE, sheets.GAP
    assert columns.min() == gap + 5 and columns.max() >= 2 * side
    assert (drawn[rows, columns] == (40, 200, 60)).all()


def test_the_region_of_a_matched_hit_is_outlined(tmp_path):
    path, none = str(tmp_path / "a.png"), np.empty((0, 2))
    images.write(path, solid(100, (200, 200)))  # half of a picture on the sheet
    hits = [Hit("a", path, inliers=0), Hit("a", path, inliers=0, region=(20, 30, 120, 180))]
    whole, part = (sheets.match_sheet([(solid(9), hit, none, none)]) for hit in hits)
    changed = np.argwhere((whole != part).any(axis=2))
    start = np.array([sheets.GAP, 2 * sheets.GAP + sheets.MATCH_TILE])
    expected = [start + (40, 60), start + (239, 359)]
    np.testing.assert_allclose([changed.min(axis=0), changed.max(axis=0)], expected, atol=1)


def test_matches_outside_the_pictures_are_not_drawn_outside():
    hit = Hit("a", None, inliers=1)
    far = np.array([[-5e3, -5e3], [1e4, 1e4]])
    assert sheets.match_sheet([(solid(9), hit, far, far)]).dtype == np.uint8
