"""An index follows a folder: only what is new or changed is encoded, and nothing is lost."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from hashnet import images
from hashnet.encode.encoder import Encoder
from hashnet.errors import ArgumentError, BundleError, FingerprintError
from hashnet.network import bundle
from hashnet.retrieval.index import Index
from hashnet.retrieval.ingest import KnownPhoto
from tests import make_images, needs
from tests.fixtures import GOLDEN


@pytest.fixture
def folder(photos, tmp_path):
    return shutil.copytree(photos, tmp_path / "photos")


@pytest.fixture
def index(bundle_folder, tmp_path):
    return Index.create(tmp_path / "photos.index", bundle_folder)


def contents(index):
    """Every live item with its code and feature."""
    with index.store.snapshot() as snapshot:
        live = (
            np.ones(snapshot.num_rows, bool)
            if snapshot.live_images is None
            else snapshot.live_images
        )
        rows = np.flatnonzero(live)
        features = snapshot.features(rows)
        return {
            item.id: (item.label, snapshot.codes[row].tobytes(), feature.tobytes())
            for row, item, feature in zip(rows, snapshot.items(rows), features, strict=True)
        }


def counts(report):
    return report.added, report.changed, report.unchanged, len(report.removed)


def test_every_photo_is_found_under_its_path_with_its_folder_as_label(index, folder):
    assert counts(index.update([folder], label_from_folder=True)) == (24, 0, 0, 0)
    held = contents(index)
    assert set(held) == {
        path.relative_to(folder.parent).as_posix() for path in folder.rglob("*.png")
    }
    assert {label for label, _, _ in held.values()} == {"checks", "stripes", "disc", "ramp"}


def test_codes_and_features_are_those_of_the_encoder(index, folder, bundle_folder):
    index.update([folder])
    code, feature = Encoder.open(bundle_folder).encode_one(folder / "disc/0.png")
    _, held_code, held_feature = contents(index)["photos/disc/0.png"]
    assert held_code == code.tobytes()
    np.testing.assert_array_equal(np.frombuffer(held_feature, np.float16), feature.astype("f2"))


def test_info_is_of_the_index_its_rows_and_the_network_that_it_carries(
    bundle_folder, folder, tmp_path
):
    place = tmp_path / "i"
    index = Index.create(place, bundle_folder, exif=True, feature_dtype="float32")
    index.update([folder], label_from_folder=True)
    index.add([images.read(folder / "disc/0.png")], ids=["mine"])
    index.remove(["photos/ramp/0.png"])
    carried = bundle.load(bundle_folder)
    assert index.info() == {
        "folder": str(place),
        "images": 24,
        "regions": 0,
        "rows": 25,
        "bits": 32,
        "feature_dim": carried.config.feature_dim,
        "feature_dtype": "float32",
        "local": None,
        "visual_words": None,
        "local_bytes": 0,
        "local_pool_bytes": 0,
        "regions_per_image": 0,
        "exif": True,
        "ocr": None,
        "ways": ["label", "name", "class"],
        "ways_missing": {
            "caption": "no image has a caption; see index --captions",
            "ocr": "it was made without --ocr",
            "learned": index.words.missing["learned"],
            "network": "its network came without one for texts",
        },
        "roots": {"photos": str(folder)},
        "backbone": carried.config.backbone,
        "image_size": 64,
        "classes": len(carried.config.classes),
        "labels": {"checks": 6, "disc": 6, "ramp": 5, "stripes": 6},
        "bytes": sum(path.stat().st_size for path in place.rglob("*") if path.is_file()),
        "created": index.store.created,
        "format_version": 7,
        "precision": "float32",
        "fingerprint": carried.fingerprint,
        "origin": carried.origin,
        "fitted_to": None,
        "balance": None,
        "outgrown": False,
    }


def test_a_second_run_encodes_nothing(index, folder, monkeypatch):
    index.update([folder])
    before = contents(index)
    monkeypatch.setattr(Encoder, "_encode_group", lambda *_: pytest.fail("something was encoded"))
    monkeypatch.setattr(Encoder, "_pixels", lambda *_: pytest.fail("something was read"))
    report = Index.open(index.store.folder).update([folder])
    assert counts(report) == (0, 0, 24, 0)
    assert contents(index) == before


def test_new_changed_and_vanished_files(index, folder):
    index.update([folder])
    shutil.copy(folder / "disc/0.png", folder / "ramp/new.png")
    os.remove(folder / "checks/5.png")
    images.write(folder / "stripes/0.png", images.read(folder / "ramp/0.png"))
    os.utime(folder / "stripes/0.png", ns=(1, 1))
    assert counts(index.update([folder])) == (1, 1, 22, 0)
    assert "photos/checks/5.png" in contents(index)
    report = index.update([folder], prune=True)
    assert report.removed == ["photos/checks/5.png"]
    held = contents(index)
    assert len(held) == 24 and "photos/checks/5.png" not in held
    assert held["photos/stripes/0.png"][1] == held["photos/ramp/0.png"][1]


def test_known_features_are_taken_for_the_very_same_files_only(index, folder, monkeypatch):
    index.update([folder])
    before = contents(index)
    files = sorted(folder.rglob("*.png"))
    features = index.encoder.encode(files).features
    known = {}
    for path, feature in zip(files, features, strict=True):
        version = str(path), path.stat().st_size, path.stat().st_mtime_ns
        known[version] = KnownPhoto(feature, images.content_hash(path), None)
    index.remove(list(before))
    os.utime(folder / "disc/0.png", ns=(1, 1))
    read = []
    pixels = Encoder._pixels
    monkeypatch.setattr(
        Encoder, "_pixels", lambda self, photo: read.append(photo.path) or pixels(self, photo)
    )
    assert counts(index.update([folder], known_features=known)) == (24, 0, 0, 0)
    assert read == [str(folder / "disc/0.png")]
    after = contents(index)
    assert {id: row[1] for id, row in after.items()} == {id: row[1] for id, row in before.items()}


def test_pruning_touches_only_what_lay_below_the_folder_given(index, folder, tmp_path):
    index.update([folder])
    shutil.rmtree(folder / "disc")
    assert index.update([folder / "ramp"], prune=True).removed == []
    assert len(index.update([folder], prune="all").removed) == 6


def test_pruning_keeps_what_is_still_there_though_a_folder_does_not_list_it(index, folder):
    hidden = folder / ".kept" / "photo.png"
    hidden.parent.mkdir()
    shutil.copy(folder / "disc/0.png", hidden)
    index.update([folder, hidden])
    assert "photos/.kept/photo.png" in contents(index)
    assert index.update([folder], prune=True).removed == []
    shutil.rmtree(hidden.parent)
    assert index.update([folder], prune=True).removed == ["photos/.kept/photo.png"]


def test_a_folder_that_is_not_there_empties_nothing(index, folder):
    index.update([folder])
    os.rename(folder, folder.with_name("unmounted"))
    report = index.update([folder], prune=True)
    assert report.removed == [] and len(report.problems) == 1
    assert len(index) == 24


def test_labels_follow_the_folders_without_encoding_again(index, folder, monkeypatch):
    index.update([folder])
    assert index.labels == {}
    monkeypatch.setattr(Encoder, "_pixels", lambda *_: pytest.fail("something was read"))
    assert counts(index.update([folder], label_from_folder=True)) == (0, 0, 24, 0)
    assert contents(index)["photos/disc/0.png"][0] == "disc"
    # Asking without labels later does not take them away.
    index.update([folder])
    assert contents(index)["photos/disc/0.png"][0] == "disc"


def test_good_photos_among_broken_huge_and_hostile_files_are_all_indexed(index, folder):
    bad = {
        "empty.jpg": b"",
        "text.jpg": b"these are words",
        "cut.png": (folder / "disc/0.png").read_bytes()[:900],
        "vast.jpg": make_images.jpeg_header(),
        "bomb.png": make_images.png_bomb(),
        "script.svg.png": b"<svg onload='alert(1)'/>",
        "ps.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n",
    }
    for name, content in bad.items():
        (folder / name).write_bytes(content)
    (folder / "notes.txt").write_text("no picture and not called one")
    report = index.update([folder])
    assert report.added == 24
    names = {os.path.basename(problem.path) for problem in report.problems}
    assert names == set(bad)
    assert all(problem.reason for problem in report.problems)


def test_good_photos_beside_a_pipe_and_a_loop_of_links_are_all_indexed(index, folder):
    needs.pipe(folder / "pipe.png")
    needs.link(folder / "loop", folder)
    report = index.update([folder])
    assert report.added == 24
    names = {os.path.basename(problem.path) for problem in report.problems}
    assert names == {"pipe.png", "loop"}


def test_a_photo_that_breaks_is_named_and_no_longer_found(index, folder):
    index.update([folder])
    path = folder / "disc/0.png"
    path.write_bytes(path.read_bytes()[:500])
    report = index.update([folder])
    assert [problem.path for problem in report.problems] == [str(path)]
    assert counts(report) == (0, 0, 23, 0)
    assert "photos/disc/0.png" not in contents(index)


def test_a_file_that_vanishes_between_listing_and_reading_is_named(index, folder, monkeypatch):
    find = images.find

    def find_then_lose(paths, **options):
        answer = find(paths, **options)
        os.remove(folder / "ramp/3.png")
        return answer

    monkeypatch.setattr(images, "find", find_then_lose)
    report = index.update([folder])
    assert report.added == 23
    assert [problem.path for problem in report.problems] == [str(folder / "ramp/3.png")]


def test_odd_names_come_back_as_they_are(index, photos, tmp_path):
    folder = os.fsencode(tmp_path / "odd")
    os.mkdir(folder)
    names = [
        "with space.png", "new\nline.png", "-dash.png", "caf\u00e9.png", "cafe\u0301.png",
        "n" * 251 + ".png", "<img onerror=x>.png", "a..b.png",
    ]  # fmt: skip
    names = [os.fsencode(name) for name in names] + [b"\xff\xfe.png"]
    for name in names:
        shutil.copy(photos / "disc/0.png", os.path.join(folder, name))
    assert index.update([folder]).added == len(names)
    held = {os.fsencode(os.path.basename(id)) for id in contents(index)}
    assert held == set(names)
    with index.store.snapshot() as snapshot:
        paths = [item.path for item in snapshot.items(np.arange(len(names)))]
    assert all(os.path.exists(path) for path in paths)


def test_a_known_id_that_cannot_be_read_is_not_counted_for_a_new_one_that_can(index, photos):
    good, bad = photos / "checks/0.png", b"no picture"
    assert index.add([good], ids=["a"]).added == 1
    report = index.add([bad, good], ids=["a", "b"])
    assert (report.added, report.changed, len(report.problems)) == (1, 0, 1)
    report = index.add([good, bad, good], ids=["a", "b", "c"])
    assert (report.added, report.changed, len(report.problems)) == (1, 1, 1)


def test_one_image_stands_for_a_list_of_one(index, photos):
    path = photos / "checks/0.png"
    for ids, sources in [
        ("a", [path]),
        (["b"], path),
        ("c", str(path)),
        (["d"], images.read(path)),
    ]:
        assert index.add(sources, ids=ids).added == 1
    assert list(index) == ["a", "b", "c", "d"]


def test_images_of_ones_own_are_added_under_ids_of_ones_own(index, photos):
    picture = images.read(photos / "disc/0.png")
    report = index.add([picture, photos / "disc/1.png"], ids=["a", "b"], labels=["x", None])
    assert counts(report) == (2, 0, 0, 0)
    assert counts(index.add([picture], ids=["a"], labels=["y"])) == (0, 1, 0, 0)
    assert contents(index)["a"][0] == "y" and len(index) == 2
    assert index.remove(["a", "never was"]) == ["a"]
    assert set(contents(index)) == {"b"}


def test_ids_that_do_not_fit_their_images_are_refused(index, photos):
    path = photos / "disc/0.png"
    with pytest.raises(ArgumentError, match="2 ids, 1 images"):
        index.add([path], ids=["a", "b"])
    with pytest.raises(ArgumentError, match="twice"):
        index.add([path, path], ids=["a", "a"])
    assert len(index) == 0


def test_an_encoder_that_does_not_open_leaves_no_index(bundle_folder, tmp_path):
    folder = shutil.copytree(bundle_folder, tmp_path / "bundle")
    (folder / "encoder.onnx").write_bytes(b"")
    description = json.loads((folder / "hashnet.json").read_text())
    description["sha256"]["encoder.onnx"] = hashlib.sha256(b"").hexdigest()
    (folder / "hashnet.json").write_text(json.dumps(description))
    with pytest.raises(BundleError):
        Index.create(tmp_path / "i", folder)
    assert not (tmp_path / "i").exists()


def test_an_index_with_anothers_encoder_is_refused(index, photos):
    index.update([photos])
    other = bundle.load(GOLDEN / "bundle_v3_int8")
    for name, path in other.files().items():
        shutil.copy(path, index.store.encoder_folder / name)
    with pytest.raises((FingerprintError, BundleError, ValueError), match="encoder"):
        Index.open(index.store.folder)


@pytest.mark.fast("0.9")
@pytest.mark.parametrize("after_seconds", [0.3, 0.9])
def test_a_killed_run_is_finished_by_the_next_and_ends_the_same(
    index, folder, bundle_folder, tmp_path, after_seconds
):
    for number in range(60):
        shutil.copy(folder / f"disc/{number % 6}.png", folder / f"ramp/copy{number}.png")
    code = (
        "import sys; from hashnet.retrieval import index, ingest; ingest.COMMIT_ITEMS = 8;"
        "print('begin', flush=True); index.Index.open(sys.argv[1]).update(sys.argv[2:])"
    )
    arguments = [sys.executable, "-c", code, index.store.folder, folder]
    child = subprocess.Popen(arguments, stdout=subprocess.PIPE)
    child.stdout.readline()
    time.sleep(after_seconds)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    done = len(Index.open(index.store.folder))
    assert Index.open(index.store.folder).update([folder]).added == 84 - done
    whole = Index.create(tmp_path / "whole.index", bundle_folder)
    whole.update([folder])
    assert contents(index) == contents(whole)
