"""Files keep their rows when they are touched, renamed, moved or copied, and none is confused."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from hashnet import cli, images, system
from hashnet.errors import ArgumentError
from hashnet.retrieval import changes
from hashnet.retrieval.index import Index
from hashnet.retrieval.store.folder import store
from hashnet.retrieval.store.folder.contents import Catalogue


@pytest.fixture
def folder(tmp_path):
    """12 pictures of one size in bytes, in four folders, all of another content."""
    folder = tmp_path / "photos"
    chance = np.random.default_rng(1)
    for number in range(12):
        path = folder / "abcd"[number % 4] / f"{number}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(chance.integers(0, 256, (40, 40, 3), np.uint8)).save(path)
        os.utime(path, ns=(10**18, 10**18))
    return folder


@pytest.fixture(params=["folder", pytest.param("chdb", marks=pytest.mark.thorough)])
def index(request, bundle_folder, tmp_path, folder):
    place = tmp_path / "i"
    if request.param == "chdb":
        place = f"chdb://{request.getfixturevalue('chdb_folder')}/changes/{tmp_path.name}"
    index = Index.create(place, bundle_folder)
    assert index.update([folder], label_from_folder=True).added == 12
    return index


@pytest.fixture
def encoded(index, monkeypatch):
    """The files that were encoded since the last look."""
    done = []
    stream = type(index.encoder).stream

    def telling(self, sources, **options):
        sources = list(sources)
        done.extend(sources)
        return stream(self, sources, **options)

    monkeypatch.setattr(type(index.encoder), "stream", telling)
    return done


def held(index):
    """What the index holds, by the content of the files: label and code of each id."""
    ids = list(index)
    return {
        images.content_hash(index[id].path): (index[id].label, code.tobytes())
        for id, code in zip(ids, index.codes(ids), strict=True)
    }


def told(report):
    return report.added, report.changed, report.moved, report.unchanged


def test_a_renamed_file_keeps_its_row_and_label(index, folder, encoded):
    before = held(index)
    (folder / "a/0.bmp").rename(folder / "a/new name.bmp")
    (folder / "b/1.bmp").rename(folder / "one.bmp")
    report = index.update([folder])
    assert told(report) == (0, 0, 2, 10) and report.prunable == [] and encoded == []
    assert held(index) == before and index["photos/one.bmp"].label == "b"
    assert "photos/a/new name.bmp" in index and "photos/a/0.bmp" not in index
    assert told(index.update([folder])) == (0, 0, 0, 12)


def test_a_folder_that_moved_inside_its_root_keeps_its_rows(index, folder, encoded, monkeypatch):
    before = held(index)
    (folder / "deep").mkdir()
    (folder / "a").rename(folder / "deep/er")
    with monkeypatch.context() as patch:
        patch.setattr(changes.images, "content_hash", None)  # these are the same files
        report = index.update([folder / "deep"])
    assert told(report) == (0, 0, 3, 0) and encoded == [] and held(index) == before
    assert len(index) == 12 and "photos/deep/er/0.bmp" in index


def test_a_folder_that_moved_to_another_root_keeps_its_rows(index, folder, encoded, tmp_path):
    before = held(index)
    (folder / "a").rename(tmp_path / "a")
    report = index.update([tmp_path / "a"])
    assert told(report) == (0, 0, 3, 0) and encoded == [] and held(index) == before
    assert "a/0.bmp" in index and index.info()["roots"]["a"] == str(tmp_path / "a")


def test_a_root_that_moved_as_a_whole_is_found_out(index, folder, encoded, tmp_path):
    ids, num_rows = list(index), index.info()["rows"]
    folder.rename(tmp_path / "pictures")
    report = index.update([tmp_path / "pictures"])
    assert told(report) == (0, 0, 0, 12) and encoded == []
    assert report.roots_moved == {str(folder): str(tmp_path / "pictures")}
    assert list(index) == ids and index.info()["rows"] == num_rows
    assert index[ids[0]].path == str(tmp_path / "pictures/a/0.bmp")
    # What comes to the old place is something else.
    (folder / "x").mkdir(parents=True)
    Image.new("L", (9, 9)).save(folder / "x/0.bmp")
    report = index.update([folder])
    assert told(report) == (1, 0, 0, 0) and "photos-2/x/0.bmp" in index and len(index) == 13


def test_a_copy_to_another_disk_is_found_out_and_read_but_not_encoded(
    index, folder, encoded, tmp_path
):
    ids = list(index)
    shutil.copytree(folder, tmp_path / "usb")  # other inodes and times of change
    shutil.rmtree(folder)
    assert told(index.update([tmp_path / "usb"])) == (0, 0, 0, 12)
    assert encoded == [] and sorted(index) == sorted(ids)
    assert told(index.update([tmp_path / "usb"])) == (0, 0, 0, 12)


def test_another_folder_of_a_gone_root_is_none_that_moved(index, folder, tmp_path):
    shutil.rmtree(folder)
    (tmp_path / "other/a").mkdir(parents=True)
    Image.new("L", (9, 9)).save(tmp_path / "other/a/0.bmp")
    report = index.update([tmp_path / "other"])
    assert report.roots_moved == {} and told(report) == (1, 0, 0, 0) and len(index) == 13


def test_several_roots_that_moved_are_told_apart(bundle_folder, folder, tmp_path):
    index = Index.create(tmp_path / "i", bundle_folder)
    (folder / "b").rename(folder / "a/b")  # so that one holds more than the other
    index.update([folder / "a", folder / "c"])
    ids = list(index)
    (folder / "c").rename(folder / "new c")
    (folder / "a").rename(folder / "new a")
    report = index.update([folder / "new c"])
    assert report.roots_moved == {str(folder / "c"): str(folder / "new c")}
    assert told(report) == (0, 0, 0, 3)
    (folder / "new c").rename(folder / "c")
    report = index.update([folder / "new a", folder / "c"])
    assert report.roots_moved == {
        str(folder / "a"): str(folder / "new a"),
        str(folder / "new c"): str(folder / "c"),
    }
    assert told(report) == (0, 0, 0, 9) and list(index) == ids


def test_a_folder_is_moved_by_word_alone(run, index, folder, tmp_path, encoded):
    ids = list(index)
    place = index.store.folder
    if str(place).startswith("chdb"):
        index.move_root(folder, tmp_path / "nowhere yet")
    else:
        moved = run("index", place, "--moved", folder, tmp_path / "nowhere yet")
        assert moved[:2] == (cli.DONE, "") and "moved: " in moved[2]
    assert list(index) == ids and encoded == []
    assert index[ids[0]].path == str(tmp_path / "nowhere yet/a/0.bmp")
    with pytest.raises(ArgumentError, match="one that photos were taken from"):
        index.move_root(folder, tmp_path)


def test_files_that_changed_names_are_told_apart(index, folder, encoded):
    before = dict(zip(index, index.codes(), strict=True))
    one, other = folder / "a/0.bmp", folder / "b/1.bmp"
    one.rename(folder / "t")
    other.rename(one)
    (folder / "t").rename(other)
    assert told(index.update([folder])) == (0, 2, 0, 10) and encoded == []
    codes = index.codes(["photos/a/0.bmp", "photos/b/1.bmp"])
    assert (codes[0] == before["photos/b/1.bmp"]).all()
    assert (codes[1] == before["photos/a/0.bmp"]).all()
    assert index["photos/a/0.bmp"].label == "a"  # of the folder that it lies in
    assert told(index.update([folder])) == (0, 0, 0, 12)


def test_a_file_in_place_of_another_of_its_size_and_time_is_seen(index, folder, encoded):
    Image.new("RGB", (40, 40), "red").save(folder / "new.bmp")
    os.utime(folder / "new.bmp", ns=(10**18, 10**18))
    (folder / "new.bmp").rename(folder / "a/0.bmp")
    assert told(index.update([folder])) == (0, 1, 0, 11) and len(encoded) == 1


def test_a_file_put_over_another_takes_its_place(index, folder, encoded):
    (folder / "a/0.bmp").rename(folder / "b/1.bmp")
    report = index.update([folder])
    assert told(report) == (0, 0, 1, 10) and len(index) == 11 and encoded == []
    assert index["photos/b/1.bmp"].label == "b"


def test_a_copy_is_another_image_and_not_encoded(index, folder, encoded):
    shutil.copy(folder / "a/0.bmp", folder / "copy.bmp")
    report = index.update([folder])
    assert told(report) == (1, 0, 0, 12) and encoded == [] and len(index) == 13
    assert (index.codes(["photos/copy.bmp"]) == index.codes(["photos/a/0.bmp"])).all()
    assert index["photos/copy.bmp"].label is None


def test_a_touched_file_is_read_and_not_encoded(index, folder, encoded):
    os.utime(folder / "a/0.bmp", ns=(5, 5))
    os.chmod(folder / "b/1.bmp", 0o600)
    assert told(index.update([folder])) == (0, 0, 0, 12) and encoded == []
    assert index["photos/a/0.bmp"].mtime_ns == 5
    before = index.info()["rows"]
    assert told(index.update([folder])) == (0, 0, 0, 12) and index.info()["rows"] == before


def test_a_single_file_of_another_inode_is_read_and_not_encoded(index, folder, encoded):
    id = "photos/a/0.bmp"
    inode = index[id].inode
    with index.store.writer() as writer:
        writer.update([index[id]._replace(inode=inode + 1)])
    assert told(index.update([folder])) == (0, 0, 0, 12) and encoded == []
    assert index[id].inode == inode


def test_a_label_of_a_folder_further_up_is_kept_unless_labels_are_asked_for(
    bundle_folder, folder, tmp_path
):
    (folder / "a").rename(folder / "b/inner")
    (folder / "c").rename(folder / "b 2")
    (folder / "b 2/deep").mkdir()
    (folder / "b 2/2.bmp").rename(folder / "b 2/deep/2.bmp")
    index = Index.create(tmp_path / "i", bundle_folder)
    index.update([folder], label_from_folder=True)
    assert index.labels == {"b": 6, "b 2": 3, "d": 3}
    below = [folder / "b", folder / "b 2"]  # of which one name begins as the other
    report = index.update(below, label_from_folder=True)
    assert (told(report), report.labels_kept) == ((0, 0, 0, 9), 9)
    assert index.labels == {"b": 6, "b 2": 3, "d": 3}
    report = index.update(below, label_from_folder=True, relabel=True)
    assert (told(report), report.labels_kept) == ((0, 0, 0, 9), 0)
    assert index.labels == {"inner": 3, "deep": 1, "d": 3}
    assert index.update(below).labels_kept == 0


def test_what_is_away_is_not_moved_but_copied(index, folder, encoded, tmp_path, monkeypatch):
    shutil.copytree(folder, tmp_path / "backup")
    shutil.move(tmp_path / "backup/d", tmp_path / "backup/other")
    monkeypatch.setattr(system, "_mount_table", lambda: frozenset({str(folder)}))
    shutil.rmtree(folder / "a")
    report = index.update([tmp_path / "backup"])
    assert (report.added, report.moved) == (12, 0) and encoded == [] and len(index) == 24


def test_inodes_that_a_mount_makes_up_are_no_change(index, folder, monkeypatch):
    monkeypatch.setattr(changes, "_MANY", 3)
    monkeypatch.setattr(changes.images, "content_hash", None)  # not even read
    find = images.find

    def mounted(*given, **options):
        listing = find(*given, **options)
        found = [
            images.Found(one.path, one.size, one.mtime_ns, one.folder, (9, number), False,
                         one.ctime_ns)
            for number, one in enumerate(listing.found, 1)
        ]  # fmt: skip
        return listing._replace(found=found)

    monkeypatch.setattr(images, "find", mounted)
    before = index.info()["rows"]
    assert told(index.update([folder])) == (0, 0, 0, 12) and index.info()["rows"] == before


def test_a_file_that_goes_while_it_is_compared_is_a_problem_and_no_crash(
    index, folder, monkeypatch
):
    os.utime(folder / "a/0.bmp", ns=(5, 5))
    content_hash = images.content_hash

    def going(path):
        os.remove(path)
        return content_hash(path)

    monkeypatch.setattr(changes.images, "content_hash", going)
    report = index.update([folder])
    assert [problem.path for problem in report.problems] == [str(folder / "a/0.bmp")]


def test_all_kept_of_an_image_moves_with_it(bundle_folder, folder, tmp_path):
    pytest.importorskip("cv2")
    index = Index.create(tmp_path / "i", bundle_folder, local="sift", exif=True)
    exif = Image.Exif()
    exif[0x0110] = "Camera 7"
    Image.open(folder / "a/0.bmp").save(folder / "a/0.jpg", exif=exif)
    index.update([folder])
    with index.store.snapshot() as snapshot:
        [local] = snapshot.local_features(snapshot.rows(["photos/a/0.jpg"]))
    os.utime(folder / "a/0.jpg", ns=(5, 5))
    assert index.update([folder]).unchanged == 13
    assert index["photos/a/0.jpg"].exif.camera == "Camera 7"
    (folder / "a/0.jpg").rename(folder / "b/moved.jpg")
    assert index.update([folder]).moved == 1
    assert index["photos/b/moved.jpg"].exif.camera == "Camera 7"
    with index.store.snapshot() as snapshot:
        [after] = snapshot.local_features(snapshot.rows(["photos/b/moved.jpg"]))
    assert len(local.yx) > 0 and (after.descriptors == local.descriptors).all()


def test_an_id_of_the_callers_own_is_left_alone(index, folder, encoded):
    index.add([folder / "a/0.bmp"], ids=["mine"], labels=["own"])
    encoded.clear()
    (folder / "a/0.bmp").rename(folder / "new.bmp")
    assert told(index.update([folder])) == (0, 0, 1, 11) and encoded == [] and len(index) == 13
    assert index["mine"].path == str(folder / "a/0.bmp") and index["mine"].label == "own"
    assert index["photos/new.bmp"].label == "a"


def test_an_index_of_files_by_name_has_one_root_for_them(bundle_folder, folder, tmp_path):
    index = Index.create(tmp_path / "i", bundle_folder)
    index.add([folder / "a/0.bmp", folder / "a/4.bmp"], labels=["x", "y"])
    assert list(index) == ["a/0.bmp", "a/4.bmp"] and index["a/4.bmp"].label == "y"
    index.update([folder])
    assert "a/8.bmp" in index and "photos/b/1.bmp" in index and len(index) == 12


OLDER = {"roots": None, "word_runs": None, "texts": False}


def test_an_older_index_goes_by_path_size_and_time(bundle_folder, folder, tmp_path, monkeypatch):
    """Of format version 4: ids are paths, and contents are not known."""
    with monkeypatch.context() as patch:
        patch.setattr(store, "Catalogue", lambda **facts: Catalogue(**facts | OLDER))
        index = Index.create(tmp_path / "i", bundle_folder)
    assert index.update([folder], label_from_folder=True).added == 12
    assert index.info()["format_version"] == 4 and index.info()["roots"] is None
    assert set(index) == {str(path) for path in folder.rglob("*.bmp")}
    assert told(index.update([folder])) == (0, 0, 0, 12)
    os.utime(folder / "a/0.bmp", ns=(5, 5))
    (folder / "b/1.bmp").rename(folder / "b/new.bmp")
    report = index.update([folder], prune=True)
    assert told(report) == (1, 1, 0, 10) and report.removed == [str(folder / "b/1.bmp")]
    assert index[str(folder / "a/0.bmp")].mtime_ns == 5
    rows = index.info()["rows"]
    assert told(index.update([folder], rehash=True)) == (0, 0, 0, 12)
    assert index.info()["rows"] == rows  # nothing more can be kept of them
    os.utime(folder / "a/0.bmp", ns=(6, 6))
    assert told(index.update([folder], rehash=True)) == (0, 0, 0, 12)
    assert index[str(folder / "a/0.bmp")].mtime_ns == 6


def test_of_equal_files_the_one_whose_name_ends_most_alike_has_moved(bundle_folder, tmp_path):
    folder = tmp_path / "photos"
    for place in ("x/1.bmp", "x/2.bmp", "y/1.bmp", "y/blue.bmp"):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), "blue" if "blue" in place else "red").save(folder / place)
    index = Index.create(tmp_path / "i", bundle_folder)
    index.update([folder])
    for old, new in (("x/2.bmp", "z/2.bmp"), ("y/1.bmp", "z/y/1.bmp")):
        (folder / new).parent.mkdir(parents=True, exist_ok=True)
        (folder / old).rename(folder / new)
    labels = {"photos/x/1.bmp": "a", "photos/x/2.bmp": "b", "photos/y/1.bmp": "c"}
    with index.store.writer() as writer:
        writer.update(index[id]._replace(label=label) for id, label in labels.items())
    assert told(index.update([folder])) == (0, 0, 2, 2)
    assert [index[f"photos/{new}"].label for new in ("z/2.bmp", "z/y/1.bmp")] == ["b", "c"]
