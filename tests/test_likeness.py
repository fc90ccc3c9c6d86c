"""Copies of a picture are told from other pictures, whatever was done to them."""

import numpy as np
import pytest

from hashnet import images
from hashnet.images import likeness


def picture(seed, height=180, width=240):
    """Blobs of all sizes, as photos have them."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for side in (4, 8, 16, 32):
        coarse = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
        total += images.resize(coarse, (height, width)) / 4
    return total.astype(np.uint8)


def bordered(image):
    return np.pad(image, ((16, 16), (16, 16), (0, 0)), constant_values=255)


def lettered(image):
    image = image.copy()
    image[140:165] = 255
    return image


EDITS = {
    "half size": lambda image: images.resize(image, (90, 120)),
    "quarter size": lambda image: images.resize(image, (45, 60)),
    "JPEG 10": lambda image: images.read(images.to_jpeg(image, quality=10)),
    "grey": lambda image: np.repeat((image @ [0.3, 0.6, 0.1]).astype(np.uint8)[..., None], 3, 2),
    "darker": lambda image: (image * 0.6).astype(np.uint8),
    "bordered": bordered,
    "lettered": lettered,
    "caption below": lambda image: np.pad(image, ((0, 22), (0, 0), (0, 0))),
    "cut": lambda image: image[18:-18, 24:-24],
    "cut at one side": lambda image: image[:, 24:],
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_copy_is_found_by_its_pixel_code_and_told_by_its_pixels(edit):
    sketches = np.stack([likeness.sketch(picture(seed)) for seed in range(4)])
    copies = np.stack([likeness.sketch(EDITS[edit](picture(seed))) for seed in range(4)])
    assert likeness.are_copies(sketches, copies).all()
    assert likeness.are_copies(copies, sketches).all()
    apart = [
        np.bitwise_count(likeness.pixel_codes(one, view) ^ likeness.pixel_codes(other)).sum(axis=1)
        for view in range(len(likeness.VIEWS))
        for one, other in ((sketches, copies), (copies, sketches))
    ]
    assert (np.min(apart, axis=0) < 27).all()


def test_other_pictures_are_not_copies_neither_are_those_without_structure():
    sketches = np.stack([likeness.sketch(picture(seed)) for seed in range(40)])
    assert not likeness.are_copies(sketches[:20], sketches[20:]).any()
    flat = np.full((3, 64, 64), 200, np.uint8)
    assert not likeness.are_copies(flat, sketches[:3]).any()
    assert likeness.are_copies(sketches[:0], sketches[:0]).shape == (0,)


@pytest.mark.parametrize("ink", [0, 255])
def test_like_margins_make_nothing_alike(ink):
    wide = ((24, 24), (24, 24), (0, 0))
    faint = [picture(seed) // 4 + 100 for seed in range(8)]
    framed = [np.pad(image, wide, constant_values=ink) for image in faint]
    sketches = np.stack([likeness.sketch(image) for image in framed])
    assert not likeness.are_copies(sketches[:4], sketches[4:]).any()


def test_different_pictures_of_like_things_are_not_copies():
    rows, columns = np.mgrid[:180, :240]
    ground = picture(0)
    things = []
    for seed in (1, 2):  # a disc of the same size at the same place, with another print on it
        thing = ground.copy() if seed == 1 else picture(3)
        inside = (rows - 90) ** 2 + (columns - 120) ** 2 < 70**2
        thing[inside] = 40 + picture(seed)[inside] // 4
        things.append(likeness.sketch(thing)[None])
    assert not likeness.are_copies(*things).any()


def test_every_way_a_picture_lies_is_one_of_eight():
    sketch = likeness.sketch(picture(5))[None]
    lying = [likeness.lying(sketch, way) for way in likeness.WAYS]
    wanted = [np.rot90(sketch[0], k) for k in range(4)]
    wanted += [np.rot90(sketch[0, :, ::-1], k) for k in range(4)]
    for one in wanted:
        assert sum((one == other[0]).all() for other in lying) == 1
    assert likeness.WAYS[0] == (False, False, False) and (lying[0] == sketch).all()


def test_what_was_compressed_less_is_sharper():
    for seed in range(3):
        image = picture(seed, 600, 800)
        image = (
            image // 2 + picture(seed + 9)[:180, :240].repeat(4, 0)[:600].repeat(4, 1)[:, :800] // 2
        )
        fine = np.random.default_rng(seed).integers(0, 30, image.shape, dtype=np.uint8)
        image = image // 2 + fine
        worse = images.read(images.to_jpeg(image, quality=30))
        assert likeness.sharpness(image) > 1.1 * likeness.sharpness(worse)


@pytest.mark.parametrize("view", range(len(likeness.VIEWS)))
def test_a_pixel_code_is_the_signs_of_the_lowest_frequencies_of_a_part(view):
    sketches = np.stack([likeness.sketch(picture(seed)) for seed in range(3)])
    places = (np.arange(32) + 0.5) / 32
    waves = np.cos(np.pi * np.outer(np.arange(10), places))
    for sketch, code in zip(sketches, likeness.pixel_codes(sketches, view), strict=True):
        small = sketch.reshape(32, 2, 32, 2).mean((1, 3))
        part = np.zeros((32, 32))
        for row, column in np.ndindex(32, 32):
            at = np.array([row, column]) / 16 + 1 / 32 - 1
            seen = (likeness.VIEWS[view] @ [*at, 1] + 1) * 16 - 0.5
            (top, left), (down, across) = np.clip(seen, 0, 30.999).astype(int), seen
            down, across = np.clip([down, across], 0, 30.999) - [top, left]
            weights = np.outer([1 - down, down], [1 - across, across])
            part[row, column] = (small[top : top + 2, left : left + 2] * weights).sum()
        frequencies = (waves @ part @ waves.T).ravel()[1:]
        sure = np.abs(frequencies) > 1
        assert sure.sum() > 80
        assert (np.unpackbits(code)[:99] == (frequencies > 0))[sure].all()


def test_flat_pictures_have_one_code_whatever_their_grey():
    flat = np.arange(256, dtype=np.uint8)[:, None, None] * np.ones((1, 64, 64), np.uint8)
    assert not likeness.pixel_codes(flat).any()
