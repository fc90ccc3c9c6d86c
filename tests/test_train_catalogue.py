"""Pictures of a catalogue, beside the photos of a training."""

import numpy as np
import pytest

import hashnet
from hashnet import images
from hashnet.errors import ArgumentError
from hashnet.train import catalogue, data

WHITE, RED, GREEN = (255, 255, 255), (200, 30, 30), (20, 160, 40)


def cut_out(side=40, thing=RED):
    """A square thing on white, with a white spot within."""
    picture = np.full((side, side, 3), WHITE, "uint8")
    picture[10:30, 10:30] = thing
    picture[18:22, 18:22] = WHITE
    return picture


def reds(picture):
    """How many pixels are red."""
    return int((picture[..., 0] > picture[..., 1].astype(int) + 60).sum())


def test_the_ground_is_what_leads_to_the_border():
    ground = catalogue.ground_of(cut_out())
    wanted = np.ones((40, 40), bool)
    wanted[10:30, 10:30] = False
    np.testing.assert_array_equal(ground, wanted)


def test_a_ground_that_winds_is_followed_to_its_end():
    picture = np.full((9, 9, 3), RED, "uint8")
    path = [(0, 4), (1, 4), (2, 4), (2, 3), (2, 2), (3, 2), (4, 2), (4, 3), (4, 4), (4, 5)]
    picture[0, :] = picture[-1, :] = picture[:, 0] = picture[:, -1] = WHITE
    for place in path:
        picture[place] = WHITE
    ground = catalogue.ground_of(picture)
    assert ground[4, 5] and ground.sum() == 32 + len(path) - 1


def test_half_of_the_pictures_lie_on_a_photo():
    photo = np.full((40, 40, 3), GREEN, "uint8")
    random = np.random.default_rng(0)
    made = [catalogue.changed(cut_out(), photo, random) for _ in range(200)]
    on_a_photo = [one for one in made if (one == GREEN).all(axis=2).any()]
    assert 70 < len(on_a_photo) < 130
    for one in made:
        red = reds(one)
        assert 90 < red <= 400  # the thing is there, whole or smaller
    sizes = {reds(one) for one in on_a_photo}
    assert min(sizes) < 0.6 * max(sizes)


def test_a_picture_without_an_even_ground_stays_in_its_place():
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (40, 40, 3)).astype("uint8")
    photo = np.full((40, 40, 3), GREEN, "uint8")
    made = [catalogue.changed(noise, photo, random) for _ in range(20)]
    assert not any((one == GREEN).all(axis=2).mean() > 0.01 for one in made)


def test_what_is_taken_depends_on_seed_and_rows_and_photos_stay():
    pixels = np.stack([np.full((40, 40, 3), GREEN, "uint8")] * 3 + [cut_out()] * 2)
    before = pixels.copy()
    views, again, other = (catalogue.Views(pixels, 2, seed) for seed in (0, 0, 1))
    rows = np.array([3, 0, 4])
    taken = views[rows]
    np.testing.assert_array_equal(taken, again[rows])
    assert (taken != other[rows]).any()
    np.testing.assert_array_equal(taken[1], pixels[0])
    assert (taken[0] != pixels[3]).any() and (taken[0] != taken[2]).any()
    np.testing.assert_array_equal(pixels, before)


def test_a_catalogue_is_a_flat_folder_or_class_folders(tmp_path):
    (tmp_path / "Lime").mkdir()
    for name in ("Kiwi.png", "Pear.png", "Lime/front.png", "Lime/back.png"):
        images.write(str(tmp_path / name), cut_out())
    found = data.load_catalogue(tmp_path)
    assert sorted(found.labels.tolist()) == ["Kiwi", "Lime", "Lime", "Pear"]
    listed = tmp_path / "list.csv"
    listed.write_text("path,label\nKiwi.png,Kiwi\nPear.png,Pear\n")
    assert data.load_catalogue(listed).classes == ("Kiwi", "Pear")


def test_a_catalogue_of_one_class_is_refused_as_a_catalogue(tmp_path):
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ArgumentError, match="catalogue has.*0 classes.*first problem: .*gone"):
        data.load_catalogue(tmp_path)
    images.write(str(tmp_path / "Kiwi.png"), cut_out())
    with pytest.raises(ArgumentError, match="with 1 classes and 1 images.*named after their class"):
        data.load_catalogue(tmp_path)
    listed = tmp_path / "list.csv"
    listed.write_text("path,label\nKiwi.png,Kiwi\n")
    with pytest.raises(ArgumentError, match="pictures of the catalogue do not serve.*two classes"):
        data.load_catalogue(listed)


def test_a_message_on_broken_images_has_one_full_stop(tmp_path):
    for name in ("Kiwi.png", "Lime.png"):
        (tmp_path / name).write_bytes(b"broken")
    with pytest.raises(ArgumentError, match="do not serve.*first problem") as error:
        with data.naming_catalogue():
            data.load_catalogue(tmp_path).decoded(4)
    assert ".." not in str(error.value).replace(str(tmp_path), "")


def test_images_of_classes_have_their_columns():
    names = ["ape", "cat", "dog", "cat"]
    pixels = np.arange(4, dtype="uint8")[:, None, None, None] * np.ones((1, 2, 2, 3), "uint8")
    some = data.from_arrays(pixels, names).of(["dog", "fox", "cat"])
    assert some.classes == ("dog", "fox", "cat")
    assert some.sources[:, 0, 0, 0].tolist() == [1, 2, 3]
    assert some.targets.argmax(axis=1).tolist() == [2, 0, 2]
    assert not len(data.from_arrays(pixels, names).of(["fox"]))


def test_a_catalogue_needs_a_loss_of_features_and_classes_that_are_learned(tmp_path):
    photos = data.from_arrays(np.zeros((8, 32, 32, 3), "uint8"), ["cat", "dog"] * 4)
    others = data.from_arrays(np.zeros((2, 32, 32, 3), "uint8"), ["ape", "fox"])
    features = {"loss": "supcon", "batch": 4, "images_of_class": 2}
    for pictures, settings, said in (
        (photos, {}, "goes with a loss of features"),
        (others, features, "ape, fox. Those are cat, dog"),
    ):
        with pytest.raises(ArgumentError, match=said):
            hashnet.train(photos, tmp_path / "b", catalogue=pictures, **settings)
    assert not list(tmp_path.iterdir())
