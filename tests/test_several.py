"""Local features of several extractors in one index: kept as those of one, compared each alone."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest

from hashnet import cli, images
from hashnet.aggregating import aggregate
from hashnet.api import Index as PhotoIndex
from hashnet.errors import ArgumentError, FingerprintError, UnknownNameError
from hashnet.local import extractors, learned, lightglue, several
from hashnet.local.features import LocalFeatures
from hashnet.network import onnx_graph
from hashnet.retrieval import vocabulary
from hashnet.retrieval.evaluation.evaluate import evaluate
from hashnet.retrieval.index import Index, open_sharded
from hashnet.retrieval.search import local_pool, verify
from hashnet.retrieval.search.engine import Engine
from hashnet.retrieval.search.query import Query
from hashnet.retrieval.store.items import StoredFeatures
from tests.imagined import Imagined, picture
from tests.test_engine_verify import make_things, soon, thing, view  # noqa: F401 - soon is a fixture

pytest.importorskip("cv2", reason="needs OpenCV: pip install hashnet[delf]")

NUM_THINGS = 5
NAMES = ("sift", "xfeat")


def faint(number):
    """A picture in which SIFT finds nothing, and a network what it finds in any."""
    return (120 + picture(200, 260, 50 + number).astype(np.int16) // 24).astype(np.uint8)


@pytest.fixture(scope="module", autouse=True)
def small_pictures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learned.extractor, "SIDE", 256)
        yield


@pytest.fixture(scope="module")
def bundle(bundle_folder, tmp_path_factory):
    """A bundle that carries an extractor, whose weights nobody trained."""
    folder = tmp_path_factory.mktemp("bundle") / "b"
    shutil.copytree(bundle_folder, folder)
    content = onnx_graph.content(learned.NETWORKS["xfeat"].make(Imagined()))
    (folder / learned.file_of("xfeat")).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("things")
    make_things(folder, NUM_THINGS)
    for number in range(2):
        images.write(folder / "db" / f"faint {number}.png", faint(number))
    return folder


@pytest.fixture(scope="module")
def index(folder, bundle):
    index = Index.create(folder / "index", bundle, local="xfeat, sift")
    assert index.update([folder / "db"]).added == NUM_THINGS + 2
    return index


def stored(index):
    with index.store.snapshot() as snapshot:
        return snapshot.local_features(snapshot.rows(sorted(snapshot.ids())))


def test_sets_are_taken_apart_as_they_were_put_together():
    rng = np.random.default_rng(0)
    for sizes in ((5, 3), (0, 3), (4, 0), (0, 0)):
        found = []
        for size, dim in zip(sizes, (128, 64), strict=True):
            numbers = rng.normal(size=(size, dim)).astype(np.float32)
            numbers /= np.linalg.norm(numbers, axis=1, keepdims=True)
            yx = rng.uniform(0, 99, (size, 2)).astype(np.float32)
            found.append(LocalFeatures(yx, numbers, np.ones(size, np.float32)))
        both = several.joined(found, 129)
        assert len(both) == sum(sizes) and both.descriptors.shape[1] == 129
        # What is on disk in every index of several: nothing of it may change.
        kinds = np.repeat([0, 4], sizes)
        assert np.array_equal(both.descriptors[:, -1], kinds)
        assert not both.descriptors[kinds == 4, 64:-1].any()
        half = StoredFeatures(both.yx, both.descriptors.astype(np.float16))
        for parts, dtype in (
            (several.split(both, NAMES), "f4"),
            (several.split(half, NAMES), "f2"),
        ):
            for part, one in zip(parts, found, strict=True):
                assert np.array_equal(part.yx, one.yx)
                assert np.array_equal(part.descriptors, one.descriptors.astype(dtype))


def test_sizes_are_those_of_the_extractors(bundle):
    for name in NAMES:
        assert extractors.open(name, bundle).descriptor_dim == several.SIZES[name]
    assert {*several.SIZES, "delf"} == {*extractors.NAMES}


def test_an_index_holds_what_each_extractor_finds(index, folder, bundle):
    assert index.store.extractor == index.info()["local"] == "sift,xfeat"
    assert index.store.descriptor_dim == 129 and index.store.check() == []
    parts = [several.split(features, NAMES) for features in stored(index)]
    for number, name in enumerate(NAMES):
        extractor = extractors.open(name, bundle)
        for place in (1, -1):
            one = extractor.extract(images.read(sorted((folder / "db").iterdir())[place]))
            assert np.array_equal(parts[place][number].yx, one.yx)
            half = one.descriptors.astype(np.float16)
            assert np.array_equal(parts[place][number].descriptors, half)
    assert sum(len(part[0].yx) == 0 < len(part[1].yx) for part in parts) == 2  # the faint ones


def test_a_visual_word_is_of_one_extractor(index):
    codebook = index.store.snapshot().codebook
    words = [set(), set()]
    for features in stored(index):
        kinds = features.descriptors[:, -1] > 0
        for of, kind in zip(words, (~kinds, kinds), strict=True):
            for options in ({}, {"assignments": local_pool.ASSIGNMENTS}):
                found, _ = codebook.signatures(features.descriptors[kind], **options)
                of.update(found.tolist())
    assert len(words[0]) > 50 < len(words[1]) and not words[0] & words[1]


def by_definition(index, features, id):
    """The strongest of what the features of each extractor say of an image, the slow way."""
    with index.store.snapshot() as snapshot:
        [of_id] = snapshot.local_features(snapshot.rows([id]))
    found = [
        (one.inliers / verify.MATCHING[name].min_inliers, one.matches, name, one.inliers)
        for name, *pair in zip(
            NAMES, several.split(features, NAMES), several.split(of_id, NAMES), strict=True
        )
        for one in [verify.verify(*pair, verify.MATCHING[name])]
    ]
    return max(found, key=lambda one: one[:2])


@pytest.mark.fast("same_object")
@pytest.mark.parametrize(
    "query",
    [Query(verify=True), Query(same_object=True)],
    ids=["verify", "same_object"],
)
def test_a_hit_is_what_either_extractor_shows(index, folder, query):
    engine, by = Engine(index), []
    for path in [folder / "view 1.png", folder / "db" / "faint 1.png"]:
        result = engine.search(path, query)
        features = index.extractor.extract(images.read(path))
        strengths = []
        for hit, one in zip(result.hits, result.verifications, strict=True):
            strength, matches, name, inliers = by_definition(index, features, hit.id)
            assert (one.inliers, one.matches, one.extractor) == (inliers, matches, name)
            assert (one.same, hit.verified_by) == ((True, name) if strength >= 1 else (False, None))
            strengths.append(strength if strength >= 1 else 0)
        assert strengths == sorted(strengths, reverse=True) and strengths[0] > 1
        assert result.hits[0].id.removeprefix("db/") in (path.name, path.name[5:])
        by.append(result.hits[0].verified_by)
    assert by == ["sift", "xfeat"]
    for threads in (1, 2):
        assert Engine(index, num_threads=threads).search(path, query) == result


def test_images_of_the_index_are_compared_by_both(index, folder):
    engine = Engine(index)
    found = engine.match(folder / "db" / "faint 0.png", "db/faint 0.png")
    assert found.same and found.extractor == "xfeat"
    assert engine.match_id("db/faint 0.png", "db/faint 0.png").inliers == found.inliers
    by_id = engine.search_id("db/1.png", Query(verify=True))
    assert "db/1.png" not in [hit.id for hit in by_id.hits] and len(by_id.hits) == NUM_THINGS + 1


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["folder", "chdb"])
def test_an_index_of_both_follows_its_photos(folder, bundle, tmp_path, request, kind):
    place = str(tmp_path / "i")
    if kind == "chdb":
        place = f"chdb://{request.getfixturevalue('chdb_folder')}/several/things"
    shutil.copytree(folder / "db", tmp_path / "db")
    index = Index.create(place, bundle, local="sift,xfeat")
    index.update([tmp_path / "db"])

    def first(name, **options):
        result = Index.open(place).engine.search(folder / name, Query(**options))
        return [(hit.id, hit.verified_by) for hit in result.hits[:1]]

    wanted = {"view 3.png": [("db/3.png", "sift")], "db/faint 0.png": [("db/faint 0.png", "xfeat")]}
    for options in ({"verify": True}, {"same_object": True}):
        assert {name: first(name, **options) for name in wanted} == wanted
    index.remove(["db/3.png"])
    (tmp_path / "db" / "faint 0.png").rename(tmp_path / "db" / "moved.png")
    assert index.update([tmp_path / "db" / "moved.png"]).moved + index.update([]).unchanged >= 1
    with index.store.writer() as writer:
        writer.compact()
    assert first("view 3.png", verify=True) != wanted["view 3.png"]
    assert first("db/faint 0.png", same_object=True) == [("db/moved.png", "xfeat")]
    index.add([folder / "db" / "3.png"], ids=["three"])
    assert first("view 3.png", same_object=True) == [("three", "sift")]
    with index.store.writer() as writer, index.store.snapshot() as snapshot:
        assert vocabulary.fit(writer, snapshot, seed=1, num_threads=1)
    assert first("view 3.png", same_object=True) == [("three", "sift")]
    if kind == "folder":
        assert index.store.check() == []
        shutil.copytree(place, tmp_path / "copy")
        assert Index.open(tmp_path / "copy").engine.search_id(
            "three", Query(verify=True)
        ) == Index.open(place).engine.search_id("three", Query(verify=True))


@pytest.mark.thorough
def test_several_such_indexes_are_searched_as_one(index, folder, bundle, tmp_path):
    more = Index.create(tmp_path / "more", bundle, local="sift,xfeat")
    more.add([view(0)], ids=["view"])
    engine = open_sharded([index.store.folder, tmp_path / "more"])
    hits = engine.search(folder / "view 0.png", Query(verify=True)).hits
    assert hits[0].id == "view" and (hits[1].id, hits[1].verified_by) == ("db/0.png", "sift")
    other = Index.create(tmp_path / "other", bundle, local="sift")
    with pytest.raises(FingerprintError, match="sift,xfeat of 129 numbers, sift"):
        open_sharded([index.store.folder, other.store.folder])


class Chosen:
    """A matcher that finds only images of so many features, and knows whom it was asked."""

    def __init__(self, number):
        self.number, self.asked = number, []

    def match(self, query_yx, query, yx, descriptors):
        self.asked.append(descriptors.shape)
        size = min(len(query), len(yx)) if len(yx) == self.number else 0
        return np.stack([np.arange(size), np.arange(size)], axis=1)


def test_a_matcher_is_shown_what_either_extractor_has_found(index, folder, bundle, monkeypatch):
    engine, query = Engine(index), Query(verify=True, matcher="lightglue", matcher_top=2)
    row = engine.snapshot.rows(["db/1.png"])
    of_xfeat = several.split(engine.snapshot.local_features(row)[0], NAMES)[1]
    chosen = Chosen(len(of_xfeat.yx))
    monkeypatch.setattr(lightglue, "opened", lambda name: {"xfeat": chosen}[name])
    # Only SIFT knows the view, and what the matcher does not find stays as it was.
    plain = engine.search(folder / "view 2.png", Query(verify=True))
    found = engine.search(folder / "view 2.png", query)
    assert [dim for _, dim in chosen.asked] == [64, 64]
    assert plain.hits[0] == found.hits[0] and found.hits[0].verified_by == "sift"
    # What it does find and what SIFT shows are on one scale.
    of_sift = extractors.open("sift").extract(thing(2))
    features = several.joined([of_sift, extractors.open("xfeat", bundle).extract(thing(1))], 129)
    encoded = index.encoder.encode_one(thing(2))
    asked = dataclasses.replace(query, ids=["db/1.png", "db/2.png"])
    hits = engine.search_encoded(*encoded, asked, local=features).hits
    wanted = [("db/1.png", "xfeat", 25), ("db/2.png", "sift", 8)]
    wanted.sort(key=lambda one: -{hit.id: hit.inliers for hit in hits}[one[0]] / one[2])
    assert [(hit.id, hit.verified_by) for hit in hits] == [one[:2] for one in wanted]
    # Of an image that it finds, too, the surer of the two speaks.
    features = index.extractor.extract(thing(1))
    least = dataclasses.replace(verify.BY_LIGHTGLUE["xfeat"], min_inliers=len(of_xfeat.yx) // 2)
    monkeypatch.setitem(verify.BY_LIGHTGLUE, "xfeat", least)
    asked = dataclasses.replace(query, ids=["db/1.png"])
    [hit] = engine.search_encoded(*encoded, asked, local=features).hits
    assert (hit.id, hit.verified_by) == ("db/1.png", "sift")


def test_extractors_are_named_in_any_order_and_an_index_keeps_its_own(index, folder, bundle):
    assert extractors.names_of("xfeat,sift,xfeat") == NAMES
    photos = str(folder / "db")
    for local in ("sift,xfeat", "xfeat,sift", "auto"):
        again = PhotoIndex.of_photos(index.store.folder, photos, local=local)
        assert again.report.unchanged == NUM_THINGS + 2
    with pytest.raises(FingerprintError, match="local sift for sift,xfeat"):
        PhotoIndex.of_photos(index.store.folder, photos, local="sift")
    with pytest.raises(UnknownNameError, match="'surf'.*aliked, delf, disk, sift, xfeat"):
        PhotoIndex.of_photos(folder / "none", photos, local="sift,surf")
    for wrong in (["sift", "sift"], 5, b"sift"):
        with pytest.raises(ArgumentError, match="local is a str.*commas between"):
            PhotoIndex.of_photos(folder / "none", photos, local=wrong)
    for workers in (0, "2", [2]):
        with pytest.raises(ArgumentError, match="workers is an integer, 1 or more"):
            PhotoIndex.of_photos(folder / "none", photos, workers=workers)
    assert not (folder / "none").exists()


def test_auto_takes_sift_and_a_network(folder, bundle, tmp_path, monkeypatch, capsys):
    wanted = learned.NETWORKS["aliked"].package
    for installed, names in ((True, "aliked,sift"), (False, "delf,sift")):
        monkeypatch.setattr(type(wanted), "is_installed", installed)
        assert extractors.chosen() == names
    monkeypatch.setattr(extractors, "chosen", lambda: "sift,xfeat")
    place, photo = str(tmp_path / "i"), str(folder / "db" / "faint 0.png")
    make = ["index", place, photo, "--bundle", str(bundle), "--local", "auto"]
    assert cli.main(make) == 0
    err = capsys.readouterr().err
    assert re.search(r"features of sift and xfeat, for prints,.* in \d+ kB and \d+ ms of a", err)
    assert Index.open(place).store.extractor == "sift,xfeat"
    assert cli.main([*make[:3], "--local", "auto"]) == 0
    assert "features of" not in capsys.readouterr().err  # nothing was added
    plain = str(tmp_path / "plain")
    assert cli.main(["index", plain, photo, "--bundle", str(bundle)]) == 0
    capsys.readouterr()
    assert cli.main(["index", plain, photo, "--local", "auto"]) == 1
    assert "local auto (sift,xfeat) for an index without any" in capsys.readouterr().err
    for asked, said in (
        ("sift,surf", "'surf' is none of aliked, delf, disk, sift, xfeat and auto; several have a"),
        ("sift,", "'' is none of aliked, delf, disk, sift, xfeat and auto; several have a comma"),
        ("", "'' is none of"),
        ("sift,auto", "auto stands for two extractors, and comes by itself"),
    ):
        with pytest.raises(SystemExit, match=str(cli.WRONG_ARGUMENTS)):
            cli.main(["index", plain, photo, "--local", asked])
        assert said in capsys.readouterr().err


def test_the_commands_say_which_extractor_has_confirmed_a_hit(index, folder, capsys):
    query, place = str(folder / "view 4.png"), str(index.store.folder)
    assert cli.main(["search", place, query, "--verify", "--json"]) == 0
    hits = json.loads(capsys.readouterr().out)["hits"]
    assert hits[0]["verified_by"] == "sift" and hits[-1]["verified_by"] is None
    assert cli.main(["search", place, query, "--same-object"]) == 0
    assert "inliers by sift" in capsys.readouterr().out


@pytest.mark.thorough
def test_an_evaluation_takes_both(index, folder, tmp_path):
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps({"view 4.png": ["db/4.png"], "view 0.png": ["db/0.png"]}))
    options = {"ground_truth": truth, "baselines": {}, "query": Query(verify=True)}
    figures = evaluate(index, [folder / "view 4.png", folder / "view 0.png"], **options)
    assert figures.stages.to_dict()["verified"]["found_at_1"] == 1


def test_a_service_says_it_too(index):
    from starlette.testclient import TestClient

    from hashnet.retrieval.service import app

    with TestClient(app.create_app(index.store.folder), base_url="http://localhost") as client:
        assert client.get("/api/info").json()["local"] == "sift,xfeat"
        asked = {"id": "db/1.png", "verify": True}
        for hit in client.get("/api/search", params=asked).json()["hits"]:
            assert hit["verified_by"] is None
        for one, by in (("db/1.png", "sift"), ("db/faint 0.png", "xfeat")):
            answer = client.get("/api/matches", params={"query": one, "hit": one}).json()
            assert answer["inliers"] > 20
            assert answer["verified_by"] in ((by,) if by == "xfeat" else NAMES)


def test_vectors_are_aggregated_of_one_extractor(index, tmp_path):
    with pytest.raises(ArgumentError, match=r"of several: sift,xfeat\. Make an index with one"):
        aggregate(index, tmp_path / "v.npy", num_words=8)
    assert not any(tmp_path.iterdir())
