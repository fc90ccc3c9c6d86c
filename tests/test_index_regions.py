"""An index of photos with regions, from the files to the command line."""

import json
import os
import shutil

import numpy as np
import pytest

from hashnet import cli, images
from hashnet.local import extractors
from hashnet.retrieval.index import Index
from hashnet.retrieval.ingest import KnownPhoto
from hashnet.retrieval.search.engine import Engine
from hashnet.retrieval.search.query import Query
from tests.scenes import PLACES, bright_regions, scene, thing
from tests.test_service import client_of, upload

MOST = 3


@pytest.fixture(scope="module", autouse=True)
def proposals():
    with bright_regions():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    for number, place in enumerate(PLACES):
        images.write(folder / f"{number}.png", scene(number, *place))
    images.write(folder / "small.png", scene(9, 0, 0)[100:140, 100:140])
    return folder


@pytest.fixture(scope="module")
def index(folder, bundle_folder, tmp_path_factory):
    index = Index.create(tmp_path_factory.mktemp("index") / "i", bundle_folder, regions=MOST)
    assert index.update([folder]).added == 5
    return index


def rows_of(index):
    """{id: [(region, code, feature), ...]}"""
    found = {}
    with index.store.snapshot() as snapshot:
        kept = np.arange(snapshot.num_rows)
        kept = kept if snapshot.live is None else kept[snapshot.live]
        columns = (snapshot.regions(kept), snapshot.codes[kept], snapshot.features(kept))
        for item, *row in zip(snapshot.items(kept), *columns, strict=True):
            found.setdefault(item.id, []).append(row)
    return found


def id_of(path):
    return f"{path.parent.name}/{path.name}"


def check_rows(index, paths):
    """Every row is what the encoder makes of that part of the file."""
    held = rows_of(index)
    assert sorted(held) == sorted(map(id_of, paths))
    for path in paths:
        image = images.read(path)
        boxes = list(map(tuple, index.proposer.propose(image, MOST).tolist()))
        assert [region for region, _, _ in held[id_of(path)]] == [None, *boxes]
        for region, code, feature in held[id_of(path)]:
            top, left, bottom, right = region or (0, 0, *image.shape[:2])
            part = np.ascontiguousarray(image[top:bottom, left:right])
            # Rows were encoded in batches, where the last bits of sums may differ.
            wanted_code, wanted_feature = index.encoder.encode_one(part)
            assert np.unpackbits(code ^ wanted_code).sum() <= 1
            np.testing.assert_allclose(feature, wanted_feature, atol=1e-3)


def test_every_region_is_encoded_as_its_own_crop(index, folder):
    check_rows(index, sorted(folder.iterdir()))
    counts = {os.path.basename(id): len(rows) - 1 for id, rows in rows_of(index).items()}
    assert counts == {f"{n}.png": MOST for n in range(4)} | {"small.png": 0}


def test_a_small_object_is_found_where_it_is(index):
    engine = Engine(index)
    for number, (top, left) in enumerate(PLACES):
        first, *others = engine.search(thing(number), Query(k=10)).hits
        assert first.id.endswith(f"{number}.png") and len(others) == 4
        y0, x0, y1, x1 = first.region
        inside = np.minimum((y1, x1), (top + 64, left + 64)) - np.maximum((y0, x0), (top, left))
        assert (inside > 32).all()
        whole = engine.search(scene(number, top, left)).hits[0]
        assert whole.id == first.id and whole.region is None and whole.distance < 1e-2


def test_a_region_is_in_pixels_of_the_upright_original(index, bundle_folder, tmp_path):
    """A photo that lies on its side is turned first."""
    from PIL import Image

    from tests import make_images

    lying = np.rot90(scene(1, *PLACES[1]))  # what orientation 6 turns back
    content = make_images.encoded(
        Image.fromarray(np.ascontiguousarray(lying)), "PNG", exif=make_images.exif(6)
    )
    turned = Index.create(tmp_path / "index", bundle_folder, regions=MOST)
    turned.add([content], ids=["turned"])
    [rows] = rows_of(turned).values()
    wanted = rows_of(index)[next(id for id in rows_of(index) if id.endswith("1.png"))]
    assert [row[0] for row in rows] == [row[0] for row in wanted]


def test_an_update_takes_regions_along(folder, bundle_folder, tmp_path):
    path, other = tmp_path / "photos" / "one.png", tmp_path / "photos" / "two.png"
    path.parent.mkdir()
    images.write(path, scene(0, *PLACES[0]))
    images.write(other, scene(1, *PLACES[1]))
    index = Index.create(tmp_path / "index", bundle_folder, regions=MOST)
    assert index.update([path.parent]).added == 2
    before = rows_of(index)
    assert index.update([path.parent]).unchanged == 2
    images.write(path, scene(2, *PLACES[2]))
    assert index.update([path.parent], label_from_folder=True).changed == 1
    check_rows(index, [path, other])
    assert rows_of(index)[id_of(path)][1][0] != before[id_of(path)][1][0]
    path.write_bytes(b"no image")
    assert index.update([path.parent]).changed == 0
    check_rows(index, [other])
    info = index.info()
    assert (info["images"], info["regions"], info["regions_per_image"]) == (1, MOST, MOST)
    assert info["rows"] > 1 + MOST and info["format_version"] == 7
    assert index.remove([str(other)]) == [id_of(other)]
    info = index.info()
    assert (info["images"], info["regions"]) == (0, 0)
    assert index.store.check() == []


@pytest.mark.thorough
def test_features_that_are_known_go_with_regions_too(index, folder, bundle_folder, tmp_path):
    paths = sorted(folder.iterdir())
    known = {}
    for path in paths:
        status = path.stat()
        key = (str(path), status.st_size, status.st_mtime_ns)
        known[key] = KnownPhoto(index.encoder.encode_one(path)[1], None, None)
    again = Index.create(tmp_path / "index", bundle_folder, regions=MOST)
    assert again.update([folder], known_features=known).added == 5
    check_rows(again, paths)


def test_another_index_in_the_same_place_is_seen_when_it_is_reopened(bundle_folder, tmp_path):
    """Of the same encoder, but with regions: an image added to the old one would get none."""
    place = tmp_path / "index"
    old = Index.create(place, bundle_folder)
    assert old.reopened() is old
    shutil.rmtree(place)
    Index.create(place, bundle_folder, regions=MOST)
    new = old.reopened()
    assert new.store.regions_per_image == MOST and new.encoder is old.encoder
    new.add([scene(0, *PLACES[0])], ids=["scene"])
    assert new.info()["regions"] == MOST


def test_an_image_is_read_and_decoded_once_for_all_that_an_index_keeps_of_it(
    folder, bundle_folder, tmp_path, monkeypatch
):
    pytest.importorskip("cv2", reason="needs OpenCV: pip install hashnet[delf]")
    read, decoded = [], []
    content_of, to_rgb = images.reading.content_of, images.pixels.to_rgb
    monkeypatch.setattr(images.reading, "content_of", lambda s: read.append(s) or content_of(s))
    monkeypatch.setattr(images.pixels, "to_rgb", lambda i: decoded.append(i.format) or to_rgb(i))
    index = Index.create(tmp_path / "index", bundle_folder, local="sift", regions=MOST)
    index.update([folder])
    paths = sorted(map(str, folder.iterdir()))
    assert sorted(read) == paths
    assert decoded.count("PNG") == len(paths)


@pytest.mark.thorough
def test_local_features_stay_those_of_the_whole_image(folder, bundle_folder, tmp_path):
    pytest.importorskip("cv2", reason="needs OpenCV: pip install hashnet[delf]")
    index = Index.create(tmp_path / "index", bundle_folder, local="sift", regions=MOST)
    index.update([folder])
    check_rows(index, sorted(folder.iterdir()))
    path = folder / "2.png"
    wanted = extractors.open("sift").extract(images.read(path))
    with index.store.snapshot() as snapshot:
        [local] = snapshot.local_features(snapshot.rows([id_of(path)]))
    np.testing.assert_array_equal(local.yx, wanted.yx)
    first = Engine(index).search(path, Query(verify=True)).hits[0]
    assert first.id == id_of(path) and first.inliers >= 8
    assert index.store.check() == []


@pytest.mark.thorough
def test_the_command_line_makes_and_keeps_regions(folder, bundle_folder, tmp_path, capsys):
    place, query = str(tmp_path / "index"), tmp_path / "query.png"
    images.write(query, thing(3))

    def run(*arguments):
        capsys.readouterr()
        return cli.main([str(argument) for argument in arguments]), *capsys.readouterr()

    make = ["index", place, folder, "--bundle", bundle_folder]
    assert run(*make, "--regions", 2)[0] == cli.DONE
    assert run(*make)[:2] == (0, "0 added, 0 changed, 5 unchanged, 0 removed, 0 skipped\n")
    assert run(*make, "--regions", 2)[0] == cli.DONE
    status, _, said = run(*make, "--regions", 3)
    assert status == cli.FAILED and "keeps its number of regions" in said and "for 2" in said
    status, out, _ = run("search", place, query, "-k", 1, "--json")
    [hit] = json.loads(out)["hits"]
    assert hit["id"].endswith("3.png") and len(hit["region"]) == 4
    sheet = tmp_path / "sheet.png"
    status, out, _ = run("search", place, query, "-k", 3, "--picture", sheet)
    assert ",".join(map(str, hit["region"])) in out and sheet.is_file()
    info = json.loads(run("info", place, "--json")[1])
    assert (info["images"], info["regions"], info["rows"]) == (5, 8, 13)
    assert run("remove", place, folder / "1.png")[0] == cli.DONE
    status, out, _ = run("compact", place)
    assert out.startswith("1 removed rows and 2 of their regions dropped")
    assert run("check", place)[0] == cli.DONE
    plain = str(tmp_path / "plain")
    assert run("index", plain, folder, "--bundle", bundle_folder)[0] == cli.DONE
    assert run("index", plain, folder, "--regions", 2)[0] == cli.FAILED
    assert run("index", tmp_path / "x", folder, "--bundle", bundle_folder, "--regions", 99)[0] == 2
    assert not (tmp_path / "x").exists()


@pytest.mark.thorough
@pytest.mark.thorough
def test_a_database_gives_the_same_regions(index, folder, bundle_folder, chdb_folder):
    place = f"chdb://{chdb_folder}/regions/photos"
    assert Index.create(place, bundle_folder, regions=MOST).update([folder]).added == 5
    opened = Index.open(place)
    box = opened.proposer.propose(scene(0, *PLACES[0]), MOST)
    np.testing.assert_array_equal(box, index.proposer.propose(scene(0, *PLACES[0]), MOST))
    engines = Engine(index), Engine(opened)
    for number in range(len(PLACES)):
        one, other = (
            [(hit.id, hit.region) for hit in e.search(thing(number)).hits] for e in engines
        )
        assert one == other and one[0][1] is not None
    info = opened.info()
    assert (info["images"], info["regions"], info["format_version"]) == (5, 4 * MOST, 6)


def test_the_service_says_which_part_of_a_photo_was_found(bundle_folder, tmp_path):
    photos = tmp_path / "scenes"
    photos.mkdir()
    for number, place in enumerate(PLACES):
        images.write(photos / f"{number}.png", scene(number, *place))
    with bright_regions():
        index = Index.create(tmp_path / "index", bundle_folder, regions=3)
    assert index.update([photos]).added == 4
    with client_of(tmp_path / "index") as client:
        content = images.to_png(thing(0))
        hit = client.post("/api/search", files=upload(content)).json()["hits"][0]
        assert hit["id"] == "scenes/0.png" and hit["region"] == [16, 32, 80, 96]
        # Its pixels are those of this size.
        known = client.get("/api/images/scenes%2F0.png").json()
        assert (known["height"], known["width"]) == (320, 512)
        whole = client.post("/api/search", files=upload(photos / "0.png")).json()["hits"][0]
        assert whole["id"] == "scenes/0.png" and whole["region"] is None
