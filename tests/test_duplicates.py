"""`hashnet duplicates`: groups of copies, which to keep, and what is done with the others."""

import csv
import errno
import io
import itertools
import json
import os
import shutil
import tempfile

import numpy as np
import pytest

from hashnet import cli, images
from hashnet.errors import StoreError
from hashnet.images import likeness
from hashnet.retrieval import tidying
from hashnet.retrieval.index import Index
from hashnet.retrieval.search import duplicates
from hashnet.retrieval.search.finders import finder_of
from hashnet.retrieval.store.folder.store import Store
from hashnet.retrieval.store.items import Item
from tests.test_likeness import EDITS, picture


def make_library(place, bundle):
    """Four pictures and some copies, indexed: (index folder, folder of the pictures)."""
    folder = place / "photos"
    folder.mkdir()
    for seed in range(4):
        images.write(folder / f"{seed}.png", picture(seed))
    images.write(folder / "0 half.png", EDITS["half size"](picture(0)))
    images.write(folder / "0 grey.jpg", EDITS["grey"](picture(0)))
    images.write(folder / "1 cut.png", EDITS["cut"](picture(1)))
    images.write(folder / "2 on a side.png", np.rot90(picture(2)))
    images.write(folder / "3 mirrored.png", picture(3)[:, ::-1])
    os.utime(folder / "0.png", (1e9, 1e9))
    shutil.copy(folder / "0.png", folder / "0 again.png")
    index = Index.create(place / "i", bundle)
    assert index.add(folder).added == 10
    return place / "i", folder


@pytest.fixture(scope="module")
def library(tmp_path_factory, bundle_folder):
    """What `make_library` makes, for tests that only look."""
    return make_library(tmp_path_factory.mktemp("library"), bundle_folder)


@pytest.fixture
def own_library(tmp_path, bundle_folder):
    """What `make_library` makes, for a test that changes it."""
    return make_library(tmp_path, bundle_folder)


def lines(out):
    return [json.loads(line) for line in out.splitlines()]


def names(paths):
    return [os.path.basename(path) for path in paths]


def test_copies_are_found_and_the_largest_oldest_is_kept(run, library):
    status, out, _ = run("duplicates", library[0], "--json")
    found = lines(out)
    assert status == cli.DONE
    assert [names(one["paths"]) for one in found] == [
        ["0.png", "0 again.png"],
        ["0.png", "0 grey.jpg"],
        ["0.png", "0 half.png"],
        ["1.png", "1 cut.png"],
    ]
    assert [one["group"] for one in found] == [1, 1, 1, 2]
    assert [one["images"] for one in found] == [4, 4, 4, 2]
    assert found[2]["sizes"] == [[180, 240], [90, 120]]
    assert found[0]["bits_apart"] == found[0]["distance"] == 0


def test_people_read_a_line_for_each_group(run, library):
    status, out, _ = run("duplicates", library[0])
    assert status == cli.DONE and len(out.splitlines()) == 2
    assert "4 images: keep" in out and "0.png (240 x 180)  of  " in out


def test_csv_has_a_line_for_each_image(run, library):
    rows = list(csv.DictReader(io.StringIO(run("duplicates", library[0], "--csv")[1])))
    assert [row["keep"] for row in rows] == ["yes", "no", "no", "no", "yes", "no"]
    assert [row["group"] for row in rows] == list("111122")
    assert int(rows[0]["bytes"]) == (library[1] / "0.png").stat().st_size


def test_turned_and_mirrored_copies_are_found_where_they_are_asked_for(run, library):
    found = lines(run("duplicates", library[0], "--turned", "--json")[1])
    pairs = {frozenset(names(one["paths"])) for one in found}
    assert {frozenset({"2.png", "2 on a side.png"}), frozenset({"3.png", "3 mirrored.png"})} < pairs
    assert len(pairs) == 6
    index = Index.open(library[0])
    for found_in in (index, index.engine):
        assert len(list(found_in.duplicates(2))) == 2
        assert len(list(found_in.duplicates(2, turned=True))) == 4


def test_the_picture_shows_each_group_and_replaces_no_file(run, library, tmp_path):
    sheet = tmp_path / "groups.png"
    assert run("duplicates", library[0], "--picture", sheet)[0] == cli.DONE
    assert images.size(sheet)[0] > 300
    status, _, err = run("duplicates", library[0], "--picture", sheet)
    assert status == cli.WRONG_ARGUMENTS and "groups.png" in err


@pytest.mark.parametrize("options", [["--move-to", "away"], ["--hardlink"]])
def test_nothing_changes_without_really(run, library, options, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    before = {path: path.stat() for path in library[1].iterdir()}
    status, _, err = run("duplicates", library[0], *options)
    assert status == cli.DONE and "would" in err and "--really" in err
    assert {path: path.stat() for path in library[1].iterdir()} == before
    assert not os.path.exists("away")


def test_copies_move_away_and_take_no_other_files_place(run, own_library, tmp_path):
    away = tmp_path / "away"
    away.mkdir()
    (away / "0 half.png").write_text("mine")
    status, _, err = run("duplicates", own_library[0], "--move-to", away, "--really")
    assert status == cli.DONE and "moved 4 files" in err
    assert (away / "0 half.png").read_text() == "mine"
    assert sorted(os.listdir(away)) == [
        "0 again.png",
        "0 grey.jpg",
        "0 half-2.png",
        "0 half.png",
        "1 cut.png",
    ]
    assert sorted(os.listdir(own_library[1])) == [
        "0.png",
        "1.png",
        "2 on a side.png",
        "2.png",
        "3 mirrored.png",
        "3.png",
    ]
    # Once more: their files are away, and nothing is left to be done.
    assert "moved 0 files" in run("duplicates", own_library[0], "--move-to", away, "--really")[2]


def test_only_files_of_equal_bytes_become_one(run, own_library):
    status, _, err = run("duplicates", own_library[0], "--hardlink", "--really")
    assert status == cli.SKIPPED_SOME and "linked 1 files, left 3 alone" in err
    assert os.path.samefile(own_library[1] / "0.png", own_library[1] / "0 again.png")
    assert not os.path.samefile(own_library[1] / "0.png", own_library[1] / "0 half.png")
    # A link to the kept file is no copy that could be moved: it would be the last one.
    (own_library[1] / "0.png").unlink()
    assert (own_library[1] / "0 again.png").exists()


def test_the_last_copy_stays(run, own_library, tmp_path):
    again, kept = own_library[1] / "0 again.png", own_library[1] / "0.png"
    again.unlink()
    os.link(kept, again)
    err = run("duplicates", own_library[0], "--move-to", tmp_path / "away", "--really")[2]
    assert "the kept file itself" in err and kept.exists() and again.exists()


def test_what_has_changed_since_it_was_planned_is_left_alone(tmp_path):
    for name in ("kept", "copy"):
        (tmp_path / name).write_text(name)
    step = tidying.Step(str(tmp_path / "copy"), str(tmp_path / "kept"), str(tmp_path / "to"))
    (tmp_path / "to").write_text("new")
    assert "there already" in tidying.do(step).refused
    (tmp_path / "to").unlink()
    (tmp_path / "kept").unlink()
    assert "away" in tidying.do(step).refused and (tmp_path / "copy").exists()


def test_really_needs_something_to_do(run, library):
    status, _, err = run("duplicates", library[0], "--really")
    assert status == cli.WRONG_ARGUMENTS and "--move-to or --hardlink" in err


def test_where_files_are_away_features_decide_alone(run, own_library):
    shutil.rmtree(own_library[1])
    found = lines(run("duplicates", own_library[0], "--json")[1])
    pairs = [set(names(one["paths"])) for one in found]
    assert {"0.png", "0 again.png"} in pairs or {"0 again.png", "0.png"} in pairs
    assert all(one["sizes"] == [None, None] for one in found)
    assert all(name[0] == other[0] for name, other in map(sorted, pairs))


def test_a_thousand_equal_rows_are_one_line(run, bundle_folder, tmp_path):
    index = Index.create(tmp_path / "i", bundle_folder)
    features = np.zeros((1000, index.store.feature_dim), np.float16)
    features[:, 0] = 1
    codes = np.zeros((1000, index.store.num_bits // 8), np.uint8)
    with index.store.writer() as writer:
        writer.add([Item(f"/p/{n:04}.jpg", f"/p/{n:04}.jpg") for n in range(1000)], codes, features)
    out = run("duplicates", tmp_path / "i")[1]
    assert len(out.splitlines()) == 1 and "1,000 images" in out and "and 996 more" in out
    assert len(lines(run("duplicates", tmp_path / "i", "--json")[1])) == 999


def test_groups_do_not_depend_on_threads(library):
    groups = [
        list(Index.open(library[0], num_threads=number).duplicates(turned=True))
        for number in (1, 2)
    ]
    assert groups[0] == groups[1] and len(groups[0]) == 4
    assert all(len(group) == 1 + len(group.copies) for group in groups[0])


def test_every_image_is_in_one_group_at_most(library):
    ids = [
        image.id
        for group in Index.open(library[0]).duplicates(turned=True)
        for image in itertools.chain([group.keep], group.copies)
    ]
    assert len(ids) == len(set(ids))


def found(place, codes, features, *, paths=None, **options):
    """Rows of the groups of copies, the image to keep first, of an index that is made for it."""
    kinds = {"num_bits": 8 * codes.shape[1], "feature_dim": features.shape[1]}
    store = Store.create(place, feature_dtype="float32", fingerprint="f", **kinds)
    with store.writer() as writer:
        items = [Item(str(row), paths[row] if paths else None) for row in range(len(codes))]
        writer.add(items, codes, features.astype(np.float32))
    snapshot = store.snapshot()
    groups = duplicates.find(snapshot, finder_of(snapshot), options.pop("threshold", 2), **options)
    return [[int(image.id) for image in (group.keep, *group.copies)] for group in groups]


def slow_nearest(codes, threshold, most):
    """For each code the places of so many that are nearest: (bits, place), itself left out."""
    bits = np.unpackbits(codes, axis=1).astype(int)
    apart = (bits[:, None] != bits).sum(axis=2)
    return [
        sorted((d, other) for other, d in enumerate(row) if d < threshold and other != place)[:most]
        for place, row in enumerate(apart.tolist())
    ]


def few_codes(kind, rng):
    if kind == "random":
        return rng.integers(0, 256, (300, 2), dtype=np.uint8)
    return rng.integers(0, 256, (6, 3), dtype=np.uint8)[rng.integers(0, 6, 300)] ^ (
        np.packbits(rng.random((300, 24)) < 0.04, axis=1)
    )


@pytest.mark.parametrize("most", [400, 20])
@pytest.mark.parametrize("kind", ["random", "clustered"])
def test_candidates_are_all_near_pairs_or_each_images_nearest(kind, most, monkeypatch):
    monkeypatch.setattr(duplicates, "CANDIDATES", most)
    codes = few_codes(kind, np.random.default_rng(0))
    near = duplicates._Nearest(codes, 4, num_threads=1)
    pairs = np.concatenate(
        [near.found(at, codes[at : at + 70], whole=True) for at in range(0, 300, 70)], axis=1
    )
    slowly = slow_nearest(codes, 4, most)
    # Of those that are as near as the last, any may be taken.
    for place, wanted in enumerate(slowly):
        of_place = pairs[1:, pairs[0] == place]
        assert sorted(of_place[1].tolist()) == [bits for bits, _ in wanted]
        inner = {pair for pair in wanted if pair[0] < wanted[-1][0]}
        assert inner <= set(zip(of_place[1].tolist(), of_place[0].tolist(), strict=True))
    once = near.once(pairs)
    assert {frozenset(pair) for pair in once[:2].T.tolist()} == {
        frozenset(pair) for pair in pairs[:2].T.tolist()
    }
    if most == 400:
        assert (once[0] < once[1]).all() and not near.crowded.any()
    else:
        assert near.crowded.any() == (kind == "clustered")


def test_groups_of_many_places_are_those_of_each():
    rng = np.random.default_rng(0)
    groups, names = duplicates._Groups(np.arange(200)), list(range(200))
    for one, other in rng.integers(0, 200, (120, 2)).tolist():
        groups.join(one, other)
        first, second = sorted((names[one], names[other]))
        names = [first if name == second else name for name in names]
        places = rng.integers(0, 200, 50)
        assert groups.of(places).tolist() == [names[place] for place in places]


@pytest.mark.parametrize("kind", ["equal codes", "equal rows"])
def test_where_all_are_alike_work_grows_with_the_images_alone(kind, tmp_path, monkeypatch):
    count = 20_000 if kind == "equal rows" else 4000
    pairs = []
    join = duplicates._Search._join

    def counted(self, ones, others, bits, way):
        pairs.append(len(ones))
        return join(self, ones, others, bits, way)

    monkeypatch.setattr(duplicates._Search, "_join", counted)
    features = np.ones((count, 4))
    if kind == "equal codes":
        features = np.random.default_rng(0).normal(size=(count, 4)) * 1e3
    groups = found(tmp_path / "i", np.zeros((count, 8), np.uint8), features)
    if kind == "equal rows":
        assert groups == [list(range(count))] and not sum(pairs)
    else:
        assert not groups and count <= sum(pairs) <= count * duplicates.CANDIDATES


def test_what_differs_to_the_network_and_in_its_pixels_is_not_looked_at():
    bits = np.array([0, 26, 13, 26, 0])
    distances = np.array([1.2, 0.4, 1.0, 0.8, 1.3])
    may_be = duplicates._may_be_copies(bits, distances, duplicates.MOST_DISTANCE)
    assert may_be.tolist() == [True, True, True, False, False]


def test_pixels_are_compared_of_candidates_alone(library, monkeypatch):
    compared = []
    are_copies = likeness.are_copies

    def counted(sketches, others):
        compared.append(len(sketches))
        return are_copies(sketches, others)

    monkeypatch.setattr(likeness, "are_copies", counted)
    assert len(list(Index.open(library[0]).duplicates())) == 2
    assert 0 < sum(compared) < 10


@pytest.mark.skipif(os.name == "nt", reason="files without names are of POSIX")
def test_sketches_have_no_name_so_that_nothing_is_left(library, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    said = []

    def progress(*step):
        said.append(step)
        assert not any(scratch.iterdir())

    assert len(list(Index.open(library[0]).duplicates(progress=progress))) == 2
    stages = list(dict.fromkeys(stage for stage, _, _ in said))
    assert stages == ["reading", "comparing codes", "comparing pixels"]
    for stage in stages:
        steps = [step[1:] for step in said if step[0] == stage]
        assert steps[0][0] == 0 and steps[-1][0] == steps[-1][1] > 0


def test_a_full_disk_is_an_error_that_says_what_to_do(library, monkeypatch):
    class Full(io.BytesIO):
        def write(self, content):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: Full())
    with pytest.raises(StoreError, match="TMPDIR"):
        list(Index.open(library[0]).duplicates())


def test_files_that_are_away_among_others_are_no_pictures(own_library):
    (own_library[1] / "0.png").unlink()
    groups = list(Index.open(own_library[0]).duplicates())
    together = [{os.path.basename(image.path) for image in (g.keep, *g.copies)} for g in groups]
    assert {"0 again.png", "0 half.png", "0 grey.jpg"} <= together[0] and len(together) == 2
