"""Codes without labels are fitted again to what an index holds now, whatever it began with."""

import itertools
import os
import shutil

import numpy as np
import pytest

from hashnet import cli, images
from hashnet.api import Index
from hashnet.encode import precision
from hashnet.errors import ArgumentError
from hashnet.network import bundle as bundles
from hashnet.network import onnx_graph
from hashnet.retrieval.drift import Drift
from hashnet.retrieval.index import open_sharded
from hashnet.retrieval.search import local_pool
from hashnet.retrieval.search.query import Query
from hashnet.train import unsupervised
from hashnet.train.unsupervised_codes import HashWeights
from tests import own_networks
from tests.fixtures import GOLDEN

TABLES = itertools.count()
pytestmark = pytest.mark.usefixtures("quick_fit")


@pytest.fixture
def quick_fit(monkeypatch):
    """Planes between photos, which follow from the features and nothing else."""

    def fit(features, num_bits, *, seed, progress, **_):
        chance = np.random.default_rng(seed)
        kernel = chance.normal(size=(features.shape[1], num_bits)).astype("f4")
        # Without an order of its own this sum would tell the order of the features.
        shift = np.cumsum(features, axis=0)[:: max(1, len(features) // 7)].mean(axis=0)
        progress(1, 1)
        return HashWeights(kernel, -(shift / np.linalg.norm(shift)) @ kernel)

    monkeypatch.setattr(unsupervised.unsupervised_codes, "fit", fit)


@pytest.fixture
def bundle(tmp_path):
    """A small network whose codes say that they were fitted to two photos."""
    source = bundles.load(GOLDEN / "bundle_v3_int8")
    network = onnx_graph.parsed(source.float32_encoder(), source.folder)
    features = np.eye(2, source.config.feature_dim, dtype="f4")
    return unsupervised.fit_hash_layer(tmp_path / "bundle", network, source.config, features).folder


@pytest.fixture
def folder(photos, tmp_path):
    return shutil.copytree(photos, tmp_path / "photos")


@pytest.fixture
def index(bundle, tmp_path, folder):
    index = Index.create(tmp_path / "i", bundle)
    index.update([folder], label_from_folder=True)
    return index


def test_codes_are_those_that_the_new_network_gives_and_all_else_stays(index, photos):
    before = {
        id: (index[id], feature.tobytes())
        for id, feature in zip(index, index.features(), strict=True)
    }
    old = index.encoder.fingerprint, index.codes()
    assert index.refit() == 24
    assert index.encoder.fingerprint == index.store.fingerprint != old[0]
    assert (index.codes() != old[1]).any() and index.store.check() == []
    after = {
        id: (index[id], feature.tobytes())
        for id, feature in zip(index, index.features(), strict=True)
    }
    assert after == before
    opened = Index.open(index.store.folder)
    paths = [item.path for item in opened.values()]
    encoded = opened.encoder.encode(paths)
    # What is stored of a feature is rounded, which moves a bit where its latent is near one half.
    sure = np.abs(encoded.latents - 0.5) > 1e-2
    bits = np.unpackbits(opened.codes(), axis=1)[:, : sure.shape[1]]
    assert ((encoded.latents >= 0.5) == bits)[sure].all()
    assert opened.encoder.bundle.origin["fitted_to"] == 24
    assert opened.search(photos / "disc/0.png", k=1)[0].path.endswith("disc/0.png")


def test_the_order_in_which_photos_came_is_nothing_to_a_fit(bundle, folder, tmp_path):
    paths = sorted(folder.rglob("*.png"))
    made = []
    for name, order in (("one", paths), ("two", paths[::-1])):
        index = Index.create(tmp_path / name, bundle)
        for path in order[::5]:
            index.update([path])
        index.update([folder])
        index.refit()
        made.append(index)
    assert made[0].encoder.fingerprint == made[1].encoder.fingerprint
    ids = sorted(made[0], key=lambda id: made[0][id].path)
    others = sorted(made[1], key=lambda id: made[1][id].path)
    assert (made[0].codes(ids) == made[1].codes(others)).all()


def test_a_seed_settles_the_sample_and_the_fit(index, monkeypatch):
    monkeypatch.setattr(unsupervised, "SAMPLE", 10)
    seen, fingerprints = [], []
    for seed in (0, 0, 1):
        assert index.refit(seed=seed, progress=lambda *told: seen.append(told)) == 24
        fingerprints.append(index.encoder.fingerprint)
        assert index.encoder.bundle.origin["seed"] == seed
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]
    stage, done, total = seen[-1]
    assert (stage, done, total) == ("computing codes", 24, 24)


def test_regions_and_local_features_stay(bundle, folder, tmp_path, monkeypatch):
    pytest.importorskip("cv2")
    monkeypatch.setattr(local_pool, "is_due", lambda images, descriptors: descriptors > 0)
    from tests.scenes import bright_regions

    with bright_regions():
        index = Index.create(tmp_path / "i", bundle, regions=2, local="sift")
    index.update([folder / "disc"])
    with index.store.snapshot() as snapshot:
        rows = snapshot.num_rows
        local = [one.descriptors.tobytes() for one in snapshot.local_features(range(rows))]
        codebook = snapshot.codebook.to_bytes()
    stages = []
    index.refit(seed=1, progress=lambda stage, done, total: stages.append(stage))
    assert "listing by visual words" in stages
    with index.store.snapshot() as snapshot:
        assert snapshot.num_rows == rows
        assert [one.descriptors.tobytes() for one in snapshot.local_features(range(rows))] == local
        # Of another sample, and all are listed by it.
        assert snapshot.codebook.to_bytes() != codebook
        words, _ = snapshot.codebook.signatures(snapshot.local_features([0])[0].descriptors)
        [lists] = snapshot.word_lists(words)
        assert lists.of_rows([0])[0][0].tolist() == words.tolist()
    assert (index.store.encoder_folder / "regions.onnx").is_file()
    assert index.update([folder / "ramp"]).added == 6


def test_an_index_that_is_open_follows(index, photos):
    other = Index.open(index.store.folder)
    query = photos / "disc/0.png"
    assert other.search(query, k=1)[0].bits_apart == 0
    index.refit()
    assert other.search(query, k=1)[0].bits_apart <= 1
    assert other.encoder.fingerprint == index.encoder.fingerprint
    assert other.add([images.read(query)], ids=["new"]).added == 1


def test_an_encoder_that_was_not_moved_to_its_place_is_used_and_moved_by_the_next(
    index, monkeypatch
):
    from hashnet.retrieval.store.folder import writer

    monkeypatch.setattr(writer, "settle_encoder", lambda *_: None)
    index.refit()
    assert os.path.isdir(index.store.folder / "encoder.next")
    assert Index.open(index.store.folder).store.encoder_folder.name == "encoder.next"
    assert index.store.check() == []
    monkeypatch.undo()
    opened = Index.open(index.store.folder)
    opened.remove(["nobody"])
    assert not os.path.isdir(index.store.folder / "encoder.next")
    assert Index.open(index.store.folder).encoder.fingerprint == index.encoder.fingerprint


def test_what_cannot_be_fitted_again_is_refused(bundle_folder, bundle, photos, tmp_path):
    trained = Index.create(tmp_path / "trained", bundle_folder)
    trained.add(photos / "disc/0.png")
    with pytest.raises(ArgumentError, match="without labels"):
        trained.refit()
    assert trained.drift() is None and trained.info()["outgrown"] is False
    empty = Index.create(tmp_path / "empty", bundle)
    with pytest.raises(ArgumentError, match="at least one"):
        empty.refit()
    assert empty.drift() is None


@pytest.fixture
def url(chdb_folder):
    return f"chdb://{chdb_folder}/refit/t{next(TABLES)}"


@pytest.mark.thorough
def test_a_table_has_the_codes_and_the_answers_of_a_folder(bundle, folder, tmp_path, url, run):
    places = [str(tmp_path / "i"), url]
    indexes = [
        Index.create(places[0], bundle, feature_dtype="float32"),
        Index.create(places[1], bundle),
    ]
    queries = [folder / "disc/0.png", folder / "checks/3.png"]
    seen = [[], []]
    for index, answers in zip(indexes, seen, strict=True):
        index.update([folder / "disc"], label_from_folder=True)
        index.update([folder], label_from_folder=True)
        index.remove(["photos/ramp/2.png"])
        answers.append(index.drift())
        assert run("refit", index.store.folder)[:2] == (cli.DONE, "codes fitted to 23 images\n")
        answers += [index.info()["fingerprint"], index.drift(), list(index)]
        answers += [index.codes().tolist(), index.features().tolist(), index.labels]
        index.update([folder], prune=True)  # with the new network
        answers += [index.codes(["photos/ramp/2.png"]).tolist()]
        for query in queries:
            for options in ({}, {"threshold": 9}, {"pool": 5, "k": 3}, {"labels": "disc"}):
                result = index.search(query, **options)
                answers.append((result.threshold, result.pool))
                answers += [
                    (hit.id, hit.label, hit.bits_apart, round(hit.distance, 5))
                    for hit in result.hits
                ]
    assert seen[0] == seen[1] and seen[1][0].fitted_to == 2 and seen[1][2].fitted_to == 23
    sharded = open_sharded(places).search(queries[0])
    assert [hit.bits_apart for hit in sharded.hits[:2]] == [0, 0]
    assert Index.open(url).info()["fingerprint"] == seen[0][1]


@pytest.mark.thorough
def test_a_table_that_is_open_follows(bundle, folder, url):
    index = Index.create(url, bundle)
    index.update([folder])
    other, query = Index.open(url), folder / "disc/0.png"
    assert other.search(query, k=1)[0].bits_apart == 0
    index.refit()
    index.refit(seed=1)  # one network or two: another table
    assert other.search(query, k=1)[0].bits_apart <= 1
    assert other.encoder.fingerprint == index.encoder.fingerprint
    assert other.add([images.read(query)], ids=["new"]).added == 1
    assert "new" in index and index.codes(["new"]).tolist() == other.codes(["new"]).tolist()


@pytest.mark.fast("folder")
@pytest.mark.parametrize("kind", ["folder", "table"])
def test_a_service_follows(bundle, folder, tmp_path, request, kind):
    pytest.importorskip("fastapi", reason='pip install "hashnet[serve]"')
    from hashnet.retrieval.service.served_index import ServedIndex

    place = str(tmp_path / "i") if kind == "folder" else request.getfixturevalue("url")
    index = Index.create(place, bundle)
    index.update([folder])
    served = ServedIndex(place, show_paths=True)
    assert not served.refresh()
    index.refit()
    assert served.refresh() and not served.refresh()
    assert served.current.index.encoder.fingerprint == index.encoder.fingerprint
    [hit] = served.current.engine.search(folder / "disc/0.png", Query(k=1)).hits
    assert hit.bits_apart <= 1 and hit.id == "photos/disc/0.png"


@pytest.mark.thorough
def test_regions_and_local_features_of_a_table_stay(bundle, folder, url, monkeypatch):
    pytest.importorskip("cv2")
    monkeypatch.setattr(local_pool, "is_due", lambda images, descriptors: descriptors > 0)
    from tests.scenes import bright_regions

    with bright_regions():
        index = Index.create(url, bundle, regions=2, local="sift")
    index.update([folder / "disc"])
    ids = list(index)

    def held():
        snapshot = index.engine.snapshot
        rows = snapshot.rows(ids)
        local = [one.descriptors.tobytes() for one in snapshot.local_features(rows)]
        return snapshot.num_rows, snapshot.num_regions, local

    before, codebook = held(), index.engine.snapshot.codebook.to_bytes()
    index.refit(seed=1)
    assert held() == before and before[1] > 0
    assert index.engine.snapshot.codebook.to_bytes() != codebook
    assert index.search(folder / "disc/0.png", same_object=True).pool > 1
    assert index.update([folder / "ramp"]).added == 6
    assert index.search(folder / "disc/0.png", verify=True, k=1)[0].id == "disc/0.png"


@pytest.mark.thorough
def test_int8_stays_int8_and_its_codes_are_those_of_its_network(bundle, folder, tmp_path):
    pytest.importorskip("onnxruntime")
    small = precision.convert(bundles.load(bundle), tmp_path / "int8", "int8", images_from=[folder])
    index = Index.create(tmp_path / "i", small.folder)
    index.update([folder])
    old = index.codes()
    assert index.refit() == 24
    opened = Index.open(index.store.folder)
    assert opened.encoder.precision == "int8" and (opened.codes() != old).any()
    encoded = opened.encoder.encode([item.path for item in opened.values()])
    sure = np.abs(encoded.latents - 0.5) > 1e-2
    bits = np.unpackbits(opened.codes(), axis=1)[:, : sure.shape[1]]
    assert ((encoded.latents >= 0.5) == bits)[sure].all()
    # The float32 that it was made from has the same H, so that it may be exported.
    int8, float32 = (
        onnx_graph.hash_layer(onnx_graph.parsed(content, "network"))
        for content in (
            opened.encoder.bundle.encoder_file.read_bytes(),
            opened.encoder.bundle.float32_encoder(),
        )
    )
    assert all((one == other).all() for one, other in zip(int8, float32, strict=True))
    # What was measured of the bits that it flips was measured of other codes.
    assert "precision" in small.origin and "precision" not in opened.encoder.bundle.origin
    assert opened.refit() == 24


def test_an_index_says_that_it_has_outgrown_its_codes(run, index, folder):
    status, _, err = run("index", index.store.folder, folder)
    assert status == cli.DONE and "outgrown: the codes were fitted to 2 images" in err
    assert index.info()["outgrown"] is True and index.info()["fitted_to"] == 2
    status, out, _ = run("refit", index.store.folder)
    assert (status, out) == (cli.DONE, "codes fitted to 24 images\n")
    assert "outgrown" not in run("index", index.store.folder, folder)[2] or (
        index.info()["balance"] < 0.95
    )
    assert index.info()["fitted_to"] == 24


def test_drift_is_growth_or_bits_that_tell_little():
    assert Drift(12, 24, 0.99).is_outgrown and not Drift(12, 23, 0.99).is_outgrown
    assert not Drift(10_000, 10**6, 0.99).is_outgrown
    assert Drift(10_000, 10**6, 0.9).is_outgrown
    assert Drift(0, 50, 0.99).is_outgrown and not Drift(0, 49, 0.9).is_outgrown  # of a training
    # Of four photos bits tell little, however they are fitted.
    assert Drift(4, 5, 0.6).is_outgrown and not Drift(4, 4, 0.6).is_outgrown


@pytest.mark.thorough
def test_a_table_carries_the_text_network_that_came_with_that_of_pictures(tmp_path, url):
    pytest.importorskip("tokenizers", reason='pip install "hashnet[text]"')
    pair = own_networks.write_pair(tmp_path / "pair")
    (photos := tmp_path / "photos").mkdir()
    index = Index.of_photos(url, own_networks.write_colours(photos), backbone=pair, bits=16)
    shutil.rmtree(pair.parent)
    before = Index.open(url).search_text("green", k=15)
    assert own_networks.colours(before) == ["green"] * 15
    assert {hit.ways for hit in before} == {("network",)}
    index.refit(seed=1)
    assert own_networks.colours(Index.open(url).search_text("green", k=15)) == ["green"] * 15
