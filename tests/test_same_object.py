"""The local pool in a search: what it adds to a verified one, and what it finds alone."""

import json
import shutil

import numpy as np
import pytest

from hashnet import cli, images
from hashnet.errors import ArgumentError, StoreError, UnknownIdError, UnknownNameError
from hashnet.local.codebook import Codebook
from hashnet.retrieval import vocabulary
from hashnet.retrieval.index import Index, open_sharded
from hashnet.retrieval.search import local_pool
from hashnet.retrieval.search.engine import Engine
from hashnet.retrieval.search.query import Query
from hashnet.retrieval.search.verify import MATCHING, verify
from hashnet.retrieval.store.folder.store import Store
from tests.test_engine_verify import soon, thing, view  # noqa: F401 - soon is a fixture
from tests.test_store import GOLDEN

pytest.importorskip("cv2", reason="needs OpenCV: pip install hashnet[delf]")

NUM_SCENES = 12


def scene(number):
    """A thing in a corner of something else, which is most of the picture."""
    rng = np.random.default_rng(100 + number)
    ground = np.full((400, 520, 3), rng.integers(0, 256, 3), np.uint8)
    ground[200:, :, :] = rng.integers(0, 256, (200, 520, 1), np.uint8) // 9
    ground[10:160, 10:205] = images.resize(thing(number), (150, 195))
    return ground


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    for number in range(NUM_SCENES):
        (folder / "db" / "even odd".split()[number % 2]).mkdir(parents=True, exist_ok=True)
        images.write(
            folder / "db" / "even odd".split()[number % 2] / f"{number}.png", scene(number)
        )
        images.write(folder / f"view {number}.png", view(number))
    images.write(folder / "blank.png", np.full((80, 90, 3), 99, np.uint8))
    return folder


@pytest.fixture(scope="module")
def index(folder, bundle_folder):
    index = Index.create(folder / "index", bundle_folder, local="sift")
    assert index.update([folder / "db"], label_from_folder=True).added == NUM_SCENES
    return index


@pytest.fixture(scope="module")
def engine(index):
    return Engine(index)


def id_of(number):
    return f"db/{'even odd'.split()[number % 2]}/{number}.png"


def by_definition(index, features, verify_top):
    """(id, inliers or None) of the local pool, best first: each image by itself, the slow way."""
    with index.store.snapshot() as snapshot:
        codebook, ids = snapshot.codebook, snapshot.ids()
        asked = codebook.signatures(features.descriptors, assignments=local_pool.ASSIGNMENTS)
        asked = dict(zip(*(one.tolist() for one in asked), strict=True))
        listed = []
        for place, local in enumerate(snapshot.local_features(snapshot.rows(ids))):
            words, signatures = codebook.signatures(local.descriptors)
            similarity = 0.0
            for word, signature in zip(words.tolist(), signatures.tolist(), strict=True):
                if word in asked:
                    apart = (signature ^ asked[word]).bit_count()
                    agreement = max(0, 1 - 2 * apart / codebook.num_bits) ** local_pool.ALPHA
                    similarity += round(agreement * 4096) / 4096
            if similarity:
                similarity = np.float32(similarity) / np.float32(len(words) ** local_pool.BY_LENGTH)
                listed.append((-similarity, place, local))
    listed.sort(key=lambda one: one[:2])
    compared = [
        (verify(features, local, MATCHING["sift"]).inliers, at, place)
        for at, (_, place, local) in enumerate(listed[:verify_top])
    ]
    compared.sort(key=lambda one: (-one[0] if one[0] >= 8 else 0, one[1]))
    rest = [(ids[place], None) for _, place, _ in listed[verify_top:]]
    return [(ids[place], inliers) for inliers, _, place in compared] + rest, len(listed)


@pytest.mark.fast("3")
@pytest.mark.parametrize("verify_top", [100, 3])
def test_the_hits_are_those_of_the_definition(index, engine, folder, verify_top):
    for number in (0, 5, 11):
        path = folder / f"view {number}.png"
        features = index.extractor.extract(images.read(path))
        wanted, pool = by_definition(index, features, verify_top)
        query = Query(same_object=True, verify_top=verify_top, k=9)
        result = engine.search(path, query)
        assert [(hit.id, hit.inliers) for hit in result.hits] == wanted[:9]
        assert (result.pool, result.threshold) == (pool, None)
        assert result.hits[0].id == id_of(number) and result.hits[0].inliers > 8
        for threads in (1, 2):
            assert Engine(index, num_threads=threads).search(path, query) == result
        # The scores of codes and features are those of any search.
        plain = {hit.id: hit for hit in engine.search(path, Query(k=NUM_SCENES)).hits}
        for hit in result.hits:
            assert (hit.bits_apart, hit.distance, hit.path, hit.label) == (
                plain[hit.id].bits_apart,
                plain[hit.id].distance,
                plain[hit.id].path,
                plain[hit.id].label,
            )
        assert result.milliseconds["verify"] > 0 and "local pool of" in repr(result)


def test_a_verified_search_finds_what_the_hash_pool_lacks(engine, folder):
    found = 0
    for number in range(NUM_SCENES):
        path = folder / f"view {number}.png"
        plain = engine.search(path, Query(pool=1, k=5))
        result = engine.search(path, Query(pool=1, k=5, verify=True))
        assert result.hits[0].id == id_of(number) and result.hits[0].inliers >= 8
        verified = [hit.id for hit in result.hits if (hit.inliers or 0) >= 8]
        others = [hit.id for hit in plain.hits if hit.id not in verified]
        # Of what the local pool adds, only that which geometry confirms is a hit.
        assert [hit.id for hit in result.hits] == [*verified, *others]
        assert (result.pool, result.threshold) == (plain.pool, plain.threshold)
        found += id_of(number) not in others and id_of(number) not in [h.id for h in plain.hits]
        # A threshold is one of codes, and the local pool adds nothing outside it.
        [hit] = [hit for hit in result.hits if hit.id == id_of(number)]
        for threshold, is_found in ((hit.bits_apart, False), (hit.bits_apart + 1, True)):
            if threshold:
                ids = [
                    hit.id
                    for hit in engine.search(path, Query(threshold=threshold, verify=True)).hits
                ]
                assert (id_of(number) in ids) == is_found
    assert found > 6


def test_filters_hold_for_the_local_pool(engine, folder):
    path = folder / "view 4.png"
    for options, ids in (
        ({"labels": "even"}, {id_of(number) for number in range(0, NUM_SCENES, 2)}),
        ({"labels": "odd"}, {id_of(number) for number in range(1, NUM_SCENES, 2)}),
        ({"under": "db/odd"}, {id_of(number) for number in range(1, NUM_SCENES, 2)}),
        ({"ids": [id_of(4), id_of(5), "nobody"]}, {id_of(4), id_of(5)}),
        ({"labels": []}, set()),
    ):
        for kind in ({"same_object": True}, {"verify": True, "pool": 1}):
            found = {hit.id for hit in engine.search(path, Query(**options, **kind)).hits}
            assert found <= ids and (id_of(4) in found) == (id_of(4) in ids)
    for options, error in (
        ({"labels": "cow"}, UnknownNameError),
        ({"ids": ["nobody"]}, UnknownIdError),
        ({"under": "nowhere"}, ArgumentError),
    ):
        with pytest.raises(error):
            engine.search(path, Query(same_object=True, **options))


def test_a_search_by_id_leaves_itself_out(index, engine):
    result = engine.search_id(id_of(3), Query(same_object=True, k=99))
    assert id_of(3) not in [hit.id for hit in result.hits] and len(result.hits) > 3
    assert result.pool == len(result.hits) + 1
    verified = engine.search_id(id_of(3), Query(verify=True, pool=1))
    assert id_of(3) not in [hit.id for hit in verified.hits]


def test_a_region_of_the_query_is_searched_by_itself(engine, folder):
    """Two things in one picture: each finds its own scene."""
    path = folder / "two.png"
    images.write(path, np.concatenate([view(2), view(7)], axis=1))
    width = view(2).shape[1]
    for number, region in ((2, (0, 0, 264, width)), (7, (0, width, 264, 2 * width))):
        result = engine.search(path, Query(region=region, same_object=True))
        assert result.hits[0].id == id_of(number)
        [places] = [one.query_yx for one in result.verifications[:1]]
        assert ((places >= region[:2]) & (places <= region[2:])).all()
    hits = engine.search(path, Query(same_object=True)).hits
    assert {hit.id for hit in hits[:2]} == {id_of(2), id_of(7)}


def test_what_else_a_query_says_holds_or_is_refused(engine, folder):
    path = folder / "view 1.png"
    for options in (
        {"verify": True},
        {"threshold": 9},
        {"pool": 9},
        {"right": ["a"]},
        {"wrong": ["a"]},
    ):
        with pytest.raises(ArgumentError, match=f"same_object=True and {next(iter(options))}"):
            Query(same_object=True, **options)
    with pytest.raises(ArgumentError, match="same_object is True or False"):
        Query(same_object="yes")
    code, feature = np.zeros(4, np.uint8), np.ones(engine.index.store.feature_dim, np.float32)
    with pytest.raises(ArgumentError, match="same_object=True for a code"):
        engine.search_encoded(code, feature, Query(same_object=True))
    with_histogram = engine.search(path, Query(same_object=True, histogram=True))
    assert sum(with_histogram.histogram) == NUM_SCENES
    by_feature = engine.search(path, Query(same_object=True, rank_by="feature"))
    assert [hit.id for hit in by_feature.hits] == [hit.id for hit in with_histogram.hits]
    features = engine.index.extractor.extract(images.read(path))
    encoded = engine.index.encoder.encode_one(images.read(path))
    for query in (Query(same_object=True), Query(verify=True)):
        result = engine.search_encoded(*encoded, query, name=str(path), local=features)
        assert result == engine.search(path, query)


def test_a_picture_without_local_features_finds_nothing_by_them(engine, folder):
    result = engine.search(folder / "blank.png", Query(same_object=True))
    assert (result.hits, result.pool) == ((), 0)
    plain = engine.search(folder / "blank.png")
    verified = engine.search(folder / "blank.png", Query(verify=True)).hits
    assert [hit.id for hit in verified] == [hit.id for hit in plain.hits]


@pytest.mark.thorough
def test_the_local_pool_follows_the_index(folder, bundle_folder, tmp_path):
    index = Index.create(tmp_path / "index", bundle_folder, local="sift")

    def first(number):
        hits = Engine(index).search(folder / f"view {number}.png", Query(same_object=True)).hits
        return hits[0].id if hits and hits[0].inliers >= 8 else None

    assert first(0) is None  # an empty index, and no error
    shutil.copytree(folder / "db", tmp_path / "db")
    index.update([tmp_path / "db" / "even"])
    assert (first(0), first(1)) == ("even/0.png", None)
    index.add([str(folder / "db" / "odd" / "1.png")], ids=["one"])
    assert first(1) == "one"
    index.remove(["even/0.png"])
    assert first(0) is None
    (tmp_path / "db" / "even" / "2.png").rename(tmp_path / "db" / "even" / "renamed.png")
    assert index.update([tmp_path / "db" / "even"]).moved == 1
    assert first(2) == "even/renamed.png"
    images.write(tmp_path / "db" / "even" / "4.png", scene(5))
    index.update([tmp_path / "db" / "even"])
    assert (first(4), first(5)) == (None, "even/4.png")
    before = [hit.id for hit in Engine(index).search_id("one", Query(same_object=True)).hits]
    with index.store.writer() as writer:
        writer.compact()
    after = [hit.id for hit in Engine(index).search_id("one", Query(same_object=True)).hits]
    assert before == after and index.store.check() == []
    info = index.info()
    assert info["visual_words"] > 100 and info["local_pool_bytes"] > 1000


@pytest.mark.thorough
def test_a_codebook_is_fitted_once_and_again_when_the_index_has_outgrown_it(
    folder, bundle_folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(local_pool, "LEAST_DESCRIPTORS", 1)
    index = Index.create(tmp_path / "index", bundle_folder, local="sift")
    index.add([str(folder / "blank.png")], ids=["blank"])
    assert index.store.snapshot().codebook is None  # of nothing
    index.add([str(folder / "db" / "even" / "0.png")], ids=["a"])
    first = index.store.snapshot().codebook.to_bytes()
    index.add([str(folder / "db" / "even" / "2.png")], ids=["b"])
    assert index.store.snapshot().codebook.to_bytes() == first
    asked = []
    monkeypatch.setattr(
        Codebook, "is_outgrown", lambda self, number: asked.append(number) or len(asked) == 2
    )
    monkeypatch.setattr(vocabulary.codebooks, "OUTGROWN", 0)
    index.add([str(folder / "db" / "even" / "4.png")], ids=["c"])
    assert index.store.snapshot().codebook.to_bytes() == first
    index.add([str(folder / "db" / "even" / "6.png")], ids=["d"])
    assert index.store.snapshot().codebook.to_bytes() != first
    counts = index.store.snapshot().local_counts()[1]
    assert asked == [counts[:-1].sum(), counts.sum()]
    # Whoever waits for it is told.
    told = []
    shutil.copytree(folder / "db" / "odd", tmp_path / "odd")
    asked[:] = [0]
    index.update([tmp_path / "odd"], listing=lambda done, total: told.append((done, total)))
    assert len(asked) == 2 and told[-1] == (len(index), len(index))


def test_an_index_that_has_no_local_pool_says_what_to_do(folder, bundle_folder, tmp_path, index):
    plain = Index.create(tmp_path / "plain", bundle_folder)
    plain.add([str(folder / "blank.png")], ids=["blank"])
    for query in (Query(same_object=True), Query(verify=True)):
        with pytest.raises(StoreError, match="--local sift"):
            Engine(plain).search(folder / "blank.png", query)
    # Written without an update's end, as one that was killed.
    other = Index.create(tmp_path / "other", bundle_folder, local="sift")
    with index.store.snapshot() as snapshot, other.store.writer() as writer:
        rows = snapshot.rows(snapshot.ids())
        writer.add(
            snapshot.items(rows),
            snapshot.codes[rows],
            snapshot.features(rows),
            snapshot.local_features(rows),
        )
    engine = Engine(other)
    with pytest.raises(StoreError, match="Run `hashnet index`.*again"):
        engine.search(folder / "view 0.png", Query(same_object=True))
    assert engine.search(folder / "view 0.png", Query(verify=True)).hits[0].inliers >= 8
    other.add([str(folder / "blank.png")], ids=["blank"])
    [hit] = Engine(other).search(folder / "view 0.png", Query(same_object=True, k=1)).hits
    assert hit.id == id_of(0) and hit.inliers >= 8


def test_an_index_of_an_older_format_is_verified_as_before(tmp_path):
    import types

    shutil.copytree(GOLDEN / "index_v5", tmp_path / "index")
    engine = Engine(types.SimpleNamespace(store=Store.open(tmp_path / "index")))
    hits = engine.search_id("cats/1.jpg", Query(verify=True)).hits
    assert len(hits) == 4 and hits[0].inliers == 0
    with pytest.raises(StoreError, match="Make the index anew"):
        engine.search_id("cats/1.jpg", Query(same_object=True))


@pytest.mark.thorough
def test_in_an_index_too_small_for_a_codebook_all_images_are_candidates(
    folder, bundle_folder, tmp_path, monkeypatch
):
    for name, least in (("LEAST_IMAGES", NUM_SCENES + 1), ("LEAST_DESCRIPTORS", 10**6)):
        with monkeypatch.context() as patch:
            patch.setattr(local_pool, name, least)
            index = Index.create(tmp_path / name, bundle_folder, local="sift")
            index.update([folder / "db"])
            engine = Engine(index)
            assert engine.snapshot.codebook is None and index.info()["visual_words"] is None
            for number in (0, 7):
                path = folder / f"view {number}.png"
                result = engine.search(path, Query(same_object=True, k=99))
                plain = [hit.id for hit in engine.search(path, Query(k=99)).hits]
                first, *others = [hit.id for hit in result.hits]
                assert first == id_of(number) and result.hits[0].inliers >= 8
                assert others == [id for id in plain if id != first]
                assert (result.pool, result.threshold) == (NUM_SCENES, None)
                assert result.milliseconds["verify"] > 0
                one = engine.search(path, Query(same_object=True, verify_top=1, k=99))
                compared = [hit.id for hit in one.hits if hit.inliers is not None]
                assert compared == plain[:1]
            found = engine.search_id(first, Query(same_object=True, ids=[first, id_of(1)]))
            assert [hit.id for hit in found.hits] == [id_of(1)]
            blank = engine.search(folder / "blank.png", Query(same_object=True))
            assert not any(hit.inliers for hit in blank.hits)
        assert index.update([folder / "db"]).unchanged == NUM_SCENES
        assert Engine(index).snapshot.codebook is not None


@pytest.mark.thorough
def test_several_indexes_are_searched_as_one(folder, bundle_folder, tmp_path, monkeypatch):
    places = []
    for name in ("even", "odd"):
        shard = Index.create(tmp_path / name, bundle_folder, local="sift")
        shard.update([folder / "db" / name])
        places.append(tmp_path / name)
    engine = open_sharded(places)
    for number in (0, 3, 8):
        for query in (Query(same_object=True), Query(verify=True, pool=1)):
            hits = engine.search(folder / f"view {number}.png", query).hits
            assert hits[0].id.endswith(f"/{number}.png") and hits[0].inliers >= 8
        own = hits[0].id
        result = engine.search_id(own, Query(same_object=True, k=99))
        assert own not in [hit.id for hit in result.hits] and len(result.hits) == result.pool - 1
    plain = Index.create(tmp_path / "plain", bundle_folder)
    with pytest.raises(StoreError, match="--local sift"):
        open_sharded([*places, tmp_path / "plain"]).search_id(own, Query(same_object=True))
    assert len(plain) == 0
    small = Index.create(tmp_path / "small", bundle_folder, local="sift")
    with monkeypatch.context() as patch:
        patch.setattr(local_pool, "LEAST_IMAGES", 9)
        small.add([str(folder / "db" / "even" / "0.png")], ids=["a"])
        engine = open_sharded([*places, tmp_path / "small"])
        with pytest.raises(StoreError, match="each, or none does.*small"):
            engine.search_id(own, Query(same_object=True))
        assert engine.search_id(own, Query(verify=True)).hits


def test_the_command_finds_the_same_object(folder, index, capsys, tmp_path):
    query, place = str(folder / "view 6.png"), str(index.store.folder)
    assert cli.main(["search", place, query, "--same-object", "-k", "2", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["hits"][0]["id"] == id_of(6) and answer["threshold"] is None
    picture = str(tmp_path / "hits.png")
    assert cli.main(["search", place, query, "--same-object", "--picture", picture]) == 0
    out = capsys.readouterr().out
    assert "local pool of" in out and "inliers" in out
    assert images.read(picture).shape[0] > 100
    assert cli.main(["search", place, query, "--same-object", "--verify"]) == 2
    assert "same_object=True and verify" in capsys.readouterr().err
    assert cli.main(["info", place]) == 0
    assert "visual_words" in capsys.readouterr().out
