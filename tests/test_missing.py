"""Nothing of an index is dropped that may come back, and what can be dropped is said."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from hashnet import cli, images, system
from hashnet.errors import ArgumentError
from hashnet.retrieval import missing as judging
from hashnet.retrieval.index import Index
from tests import needs


@pytest.fixture
def folder(photos, tmp_path):
    """40 photos: 6 in each of checks, stripes, disc and ramp, and 16 in many."""
    copied = shutil.copytree(photos, tmp_path / "photos")
    (copied / "many").mkdir()
    for number in range(16):
        shutil.copy(photos / "disc" / "0.png", copied / "many" / f"{number}.png")
    return copied


@pytest.fixture
def index(bundle_folder, tmp_path, folder):
    index = Index.create(tmp_path / "photos.index", bundle_folder)
    assert index.update([folder]).added == 40
    return index


def ids(folder, *names):
    return [f"{folder.name}/{name}" for name in names]


def test_what_is_deleted_from_a_folder_that_is_there_is_dropped(index, folder):
    os.remove(folder / "disc/0.png")
    os.remove(folder / "disc/1.png")
    report = index.update([folder])
    assert report.removed == [] and report.away == {} and len(index) == 40
    assert report.prunable == ids(folder, "disc/0.png", "disc/1.png")
    report = index.update([folder], prune=True)
    assert report.removed == ids(folder, "disc/0.png", "disc/1.png") and report.prunable == []


def test_a_file_that_is_named_and_gone_is_no_problem_once_it_is_dropped(index, folder, monkeypatch):
    os.remove(folder / "disc/0.png")
    os.remove(folder / "disc/1.png")
    monkeypatch.chdir(folder)
    named = os.path.join("disc", "0.png")
    assert [one.path for one in index.update([named]).problems] == [named]
    report = index.update([named, "disc/1.png\0"], prune=True)
    assert report.removed == ids(folder, "disc/0.png")
    assert [one.path for one in report.problems] == ["disc/1.png\0"]


def test_more_than_a_tenth_at_once_is_dropped_only_if_all_is_asked_for(index, folder):
    for number in range(5):
        os.remove(folder / f"many/{number}.png")
    report = index.update([folder], prune=True)
    assert report.removed == [] and len(report.prunable) == 5 and len(index) == 40
    shutil.copy(folder / "many/5.png", folder / "many/4.png")
    assert len(index.update([folder], prune=True).removed) == 4  # of 40
    for number in range(5, 8):
        os.remove(folder / f"many/{number}.png")
    assert len(index.update([folder], prune=True).removed) == 3  # of 36
    for number in range(8, 12):
        os.remove(folder / f"many/{number}.png")
    assert len(index.update([folder], prune="all").removed) == 4  # of 33


def test_one_image_is_never_too_many(bundle_folder, tmp_path, folder):
    index = Index.create(tmp_path / "i", bundle_folder)
    index.update([folder / "disc"])
    os.remove(folder / "disc/0.png")
    assert index.update([folder / "disc"], prune=True).removed == ["disc/0.png"]


@pytest.mark.parametrize("left", [(), (".DS_Store",)])
def test_an_empty_folder_may_be_a_disk_that_is_not_mounted(index, folder, left):
    shutil.rmtree(folder / "disc")
    (folder / "disc").mkdir()
    for name in left:
        (folder / "disc" / name).write_bytes(b"x")
    report = index.update([folder], prune="all")
    assert report.removed == [] and report.away == {str(folder / "disc"): 6} and len(index) == 40
    (folder / "disc").rename(folder / "old")
    assert len(index.update([folder], prune="all").removed) == 6


@pytest.mark.parametrize("left", [".", "disc", "usb/of/mine"])
def test_a_root_that_is_empty_keeps_all_that_was_below_it(index, folder, left):
    shutil.rmtree(folder)
    (folder / left).mkdir(parents=True)
    report = index.update([folder], prune="all")
    assert report.removed == [] and sum(report.away.values()) == 40
    assert report.away[str(folder)] == (34 if left == "disc" else 40)


@pytest.mark.parametrize("error", [PermissionError, OSError, TimeoutError])
def test_a_folder_that_cannot_be_listed_keeps_its_images(index, folder, monkeypatch, error):
    os.remove(folder / "disc/0.png")
    scandir, lstat = os.scandir, os.lstat

    def refuse(call):
        def refusing(path, **options):
            if isinstance(path, str | os.PathLike) and "disc" in os.fspath(path):
                raise error(13, "not now", os.fspath(path))
            return call(path, **options)

        return refusing

    monkeypatch.setattr(os, "scandir", refuse(scandir))
    report = index.update([folder], prune="all")
    assert report.away == {str(folder / "disc"): 1}  # the others are there
    monkeypatch.setattr(os, "lstat", refuse(lstat))
    report = index.update([folder], prune="all")
    assert report.removed == [] and report.away == {str(folder / "disc"): 6}
    assert [problem.path for problem in report.problems] == [str(folder / "disc")]


def test_a_link_that_leads_nowhere_stands_for_a_disk(index, folder, tmp_path):
    shutil.move(folder / "disc", tmp_path / "usb")
    needs.link(folder / "disc", tmp_path / "nowhere")
    assert index.update([folder], prune="all").away == {str(folder / "disc"): 6}


def test_a_renamed_folder_can_be_pruned_under_its_old_path(index, folder, tmp_path):
    folder.rename(tmp_path / "pictures")
    report = index.update([folder], prune=True)
    assert len(report.problems) == 1 and len(report.prunable) == 40 and len(index) == 40
    report = index.update([folder], prune="all")
    assert report.problems == [] and len(report.removed) == 40 and len(index) == 0


def test_a_renamed_subfolder_is_gone_from_under_its_old_name(index, folder):
    (folder / "disc").rename(folder / "discs")
    report = index.update([folder])
    assert (report.moved, report.added, report.prunable) == (6, 0, []) and len(index) == 40
    assert "photos/discs/0.png" in index and "photos/disc/0.png" not in index


def test_a_file_that_was_named_and_is_gone_is_dropped(index, folder):
    os.remove(folder / "disc/0.png")
    report = index.update([folder / "disc/0.png"], prune=True)
    assert report.removed == ids(folder, "disc/0.png") and report.problems == []


def test_what_the_system_mounts_elsewhere_at_other_times_is_away(index, folder, monkeypatch):
    monkeypatch.setattr(system, "_mount_table", lambda: frozenset({str(folder / "disc")}))
    os.remove(folder / "disc/0.png")  # what is left lies under the mount point
    assert index.update([folder], prune="all").away == {str(folder / "disc"): 1}
    shutil.rmtree(folder / "disc")
    assert index.update([folder], prune="all").away == {str(folder / "disc"): 6}


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/media/me/usb/a/b.png", "/media/me/usb"),
        ("/run/media/me/usb/b.png", "/run/media/me/usb"),
        ("/Volumes/Photos/2020/b.png", "/Volumes/Photos"),
        ("/mnt/no such disk/b.png", "/mnt/no such disk"),
        ("/no such folder/b.png", None),
    ],
)
def test_desktops_put_the_folder_of_a_disk_where_they_keep_such(path, place):
    assert system.unmounted(path) == place


def test_a_table_of_mounts_is_read_as_the_system_reads_it(monkeypatch, tmp_path):
    table = tmp_path / "fstab"
    table.write_text("# /dev/sdz /commented ext4\nUUID=1 /my\\040disk/ ext4\n\nswap none swap\nx\n")
    opened = open
    monkeypatch.setattr("builtins.open", lambda path, *a, **o: opened(
        table if path == "/etc/fstab" else path, *a, **o
    ))  # fmt: skip
    assert system._mount_table() == {"/my disk"}


def test_what_is_left_out_now_stays_until_it_is_pruned(index, folder):
    (folder / ".hashnetignore").write_text("disc/\n")
    report = index.update([folder])
    assert report.left_out == {".hashnetignore": 6} and len(report.prunable) == 6
    assert index.update([folder], exclude="!disc/").prunable == []
    assert len(index.update([folder], prune="all").removed) == 6


def test_a_file_stays_where_its_ignore_file_cannot_be_read(index, folder):
    (folder / "disc" / ".hashnetignore").write_text("*\n!\n")
    assert index.update([folder], prune="all").removed == []


def test_names_of_one_file_are_one_image_and_a_known_one_stays(index, folder):
    needs.link(folder / "a.png", folder / "disc/0.png")
    os.link(folder / "disc/1.png", folder / "b.png")
    report = index.update([folder])
    assert (report.added, report.unchanged, report.prunable) == (0, 40, [])
    index.remove(ids(folder, "disc/1.png"))
    assert index.update([folder]).added == 1 and "photos/b.png" in index
    os.remove(folder / "b.png")
    assert index.update([folder]).moved == 1 and "photos/disc/1.png" in index


def test_two_names_that_older_indexes_hold_of_one_file_become_one(index, folder):
    os.remove(folder / "disc/1.png")
    os.link(folder / "disc/0.png", folder / "disc/1.png")
    os.remove(folder / "disc/2.png")
    needs.link(folder / "disc/2.png", folder / "disc/0.png")
    report = index.update([folder])
    assert report.prunable == ids(folder, "disc/1.png", "disc/2.png")
    assert index.update([folder], prune=True).removed == report.prunable


def test_pictures_of_one_inode_that_differ_are_several(tmp_path):
    one = images.Found("a.png", 5, 7, None, (1, 2))
    others = [images.Found("b.png", 6, 7, None, (1, 2)), images.Found("c.png", 5, 7, None)]
    assert images.distinct([one, *others]) == [one, *others]


def test_prune_is_one_of_three(index, folder):
    with pytest.raises(ArgumentError, match=r'False, True or "all"'):
        index.update([folder], prune="al")


def test_an_image_of_an_id_of_its_own_is_nothing_that_can_be_missing():
    judge = judging.Judge()
    assert judging.missing(["cat", "nul\0"], ["."], {}, images.Exclusion(), judge).prunable == []


# What the command says


def test_index_says_what_is_away_what_could_go_and_how(run, index, folder, tmp_path):
    place = index.store.folder
    shutil.rmtree(folder / "disc")
    (folder / "disc").mkdir()
    for number in range(5):
        os.remove(folder / f"many/{number}.png")
    status, out, err = run("index", place, folder)
    assert status == cli.DONE and out.endswith("0 removed, 0 skipped\n")
    assert f"away: 6 images in {folder / 'disc'}, which is empty or cannot be reached" in err
    assert "kept: 5 images whose files are gone or left out now; --prune removes them" in err
    status, out, err = run("index", place, "--prune", folder)
    assert status == cli.SKIPPED_SOME and "more than a tenth" in err and "--prune=all" in err
    assert "--prune=all" in run("index", place, "--prune", folder, "-q")[2]
    status, out, err = run("index", place, "--prune=all", folder)
    assert status == cli.DONE and "5 removed" in out and "kept" not in err


# Labels


def test_labels_of_a_wider_folder_stay_and_it_is_said(run, index, folder):
    (folder / "disc" / "2019").mkdir()
    os.rename(folder / "disc/1.png", folder / "disc/2019/1.png")
    place = index.store.folder
    assert run("index", place, folder, "--label-from", "folder", "--prune")[0] == cli.DONE
    status, _, err = run("index", place, folder / "disc", "--label-from", "folder")
    assert status == cli.DONE and "kept: 6 labels" in err and "--relabel" in err
    assert index.labels["disc"] == 6
    report = index.update([folder / "disc"], label_from_folder=True, relabel=True)
    assert report.labels_kept == 0 and index.labels["2019"] == 1 and "disc" not in index.labels
    report = index.update([folder], label_from_folder=True)
    assert report.labels_kept == 0 and index.labels["disc"] == 6


def test_a_changed_file_keeps_its_label(index, folder):
    index.update([folder], label_from_folder=True)
    shutil.copy(folder / "ramp/1.png", folder / "disc/0.png")
    assert index.update([folder]).changed == 1
    assert index["photos/disc/0.png"].label == "disc"
    shutil.copy(folder / "ramp/2.png", folder / "disc/0.png")
    report = index.update([folder / "disc"], label_from_folder=True)
    assert report.changed == 1 and report.labels_kept == 6
    assert index["photos/disc/0.png"].label == "disc"


# Times


@pytest.mark.parametrize("seconds", [910692730085, -910692730085])
def test_impossible_dates_are_clamped(run, photos, bundle_folder, tmp_path, monkeypatch, seconds):
    folder = shutil.copytree(photos / "disc", tmp_path / "p")
    os.utime(folder / "0.png", (seconds, seconds))
    if abs(os.stat(folder / "0.png").st_mtime_ns) < 2**63:
        # This disk keeps no such time: let it be told as if it did.
        add_file = images.finding._Walk._add_file

        def told(self, path, home, status, label, is_link):
            if path.endswith("0.png"):
                fields = {name: getattr(status, name) for name in dir(status) if name[:3] == "st_"}
                status = type("Status", (), fields | {"st_mtime_ns": seconds * 10**9})
            return add_file(self, path, home, status, label, is_link)

        monkeypatch.setattr(images.finding._Walk, "_add_file", told)
    status, out, _ = run("index", tmp_path / "i", folder, "--bundle", bundle_folder)
    assert status == cli.DONE and out.startswith("6 added")
    nearest = 2**63 - 1 if seconds > 0 else 1 - 2**63
    with Index.open(tmp_path / "i") as index:
        assert index["p/0.png"].mtime_ns == nearest
    assert run("index", tmp_path / "i", folder)[1].startswith("0 added, 0 changed, 6 unchanged")
    pytest.importorskip("pyarrow")
    assert run("extract", folder, tmp_path / "out", "--bundle", bundle_folder)[0] == cli.DONE
    status, out, _ = run("index", tmp_path / "i", "--from-parquet", tmp_path / "out")
    assert status == cli.DONE and out == "0 added, 0 changed, 6 unchanged\n"


# Reading all again


def test_files_that_change_names_are_seen(run, index, folder):
    place, names = index.store.folder, ("disc/0.png", "ramp/0.png")
    one, other = (folder / name for name in names)
    for path in (one, other):  # as BMP, of one size whatever they show
        Image.fromarray(images.read(path)).save(path, "BMP")
        os.utime(path, ns=(10**18, 10**18))
    index.update([folder])
    before = index.codes(ids(folder, *names))
    one.rename(folder / "t")
    other.rename(one)
    (folder / "t").rename(other)
    status, out, _ = run("index", place, folder)
    assert status == cli.DONE and out == "0 added, 2 changed, 38 unchanged, 0 removed, 0 skipped\n"
    np.testing.assert_array_equal(index.codes(ids(folder, *names)), before[::-1])


def test_reading_all_again_stores_no_image_that_is_as_it_was(index, folder):
    os.utime(folder / "disc/0.png", ns=(1, 1))
    (folder / "disc/1.png").write_bytes(b"no picture any more")
    shutil.copy(folder / "ramp/0.png", folder / "disc/2.png")
    with index.store.snapshot() as snapshot:
        num_rows = snapshot.num_rows
    seen = []
    report = index.update([folder], rehash=True, progress=lambda *told: seen.append(told))
    assert (report.added, report.changed, report.unchanged, len(report.problems)) == (0, 1, 38, 1)
    assert seen[-1] == (40, 40)
    with index.store.snapshot() as snapshot:
        # Of the one whose time is another now, and of the one that is another.
        assert snapshot.num_rows == num_rows + 2
    assert len(index) == 39 and index["photos/disc/0.png"].mtime_ns == 1
    codes = index.codes(ids(folder, "disc/2.png", "ramp/0.png"))
    np.testing.assert_array_equal(codes[0], codes[1])
    assert index["photos/disc/2.png"].content == index["photos/ramp/0.png"].content


@pytest.mark.parametrize(
    ("path", "folder", "itself", "below"),
    [
        ("/photos/2026/a.jpg", "/photos", True, True),
        ("/photos/a.jpg", "/photos/", True, True),
        ("/photos of cats/a.jpg", "/photos", True, False),
        ("/other/a.jpg", "/photos", True, False),
        ("/photos", "/photos", True, True),
        ("/photos", "/photos", False, False),
        ("/photos/a.jpg", "/photos", False, True),
    ],
)
def test_a_path_is_below_a_folder_that_it_begins_with_and_no_other(path, folder, itself, below):
    assert judging.is_below(path, folder, itself=itself) is below


def test_a_folder_is_empty_if_it_holds_but_hidden_files_and_folders_like_itself(tmp_path):
    place = tmp_path / "place"
    (place / "empty" / "too").mkdir(parents=True)
    for number in range(20):
        (place / f".{number}").write_bytes(b"x")
    assert judging._is_empty(str(place))
    (place / "empty" / "photo.png").write_bytes(b"x")
    assert not judging._is_empty(str(place)) and not judging._is_empty(str(place / "empty"))
    (place / "photo.png").write_bytes(b"x")
    shutil.rmtree(place / "empty")
    assert not judging._is_empty(str(place))


def test_a_folder_of_a_link_is_not_empty(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "place").mkdir()
    needs.link(tmp_path / "place" / "linked", tmp_path / "elsewhere")
    assert not judging._is_empty(str(tmp_path / "place"))
