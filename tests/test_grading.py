"""How like a hit is, beside its slow definition, and where a search ends that is to end there."""

import dataclasses
import itertools
import json
import pathlib
import re
import statistics
import types

import numpy as np
import pytest
from starlette.testclient import TestClient

from hashnet import images
from hashnet.errors import ArgumentError
from hashnet.images import sheets
from hashnet.retrieval.evaluation.evaluate import evaluate
from hashnet.retrieval.index import Index
from hashnet.retrieval.search import grading
from hashnet.retrieval.search.engine import Engine
from hashnet.retrieval.search.grading import Background, drawn
from hashnet.retrieval.search.query import Query
from hashnet.retrieval.search.sharded import ShardedEngine
from hashnet.retrieval.service import app as service
from hashnet.retrieval.service import settings
from hashnet.retrieval.store.folder.store import Store
from hashnet.retrieval.store.items import Item
from tests.bench import figures
from tests.test_contracts import NUM, a_place, filled, made
from tests.test_ranking import Network, slow_distance, stored, world

ALL = Query(k=10_000, threshold=1025)


def graded(engine, code, feature, query=ALL):
    hits = engine.search_encoded(code, feature, query).hits
    return {hit.id: (hit.likeness, hit.grade) for hit in hits}


def slow_grade(distances, distance, unsupervised):
    """As the head of `grading` says it."""
    ordered = sorted(distances)
    median = statistics.median(ordered)
    place = 0.8413 * (len(ordered) - 1)
    below, part = int(place), place % 1
    spread = ordered[below] * (1 - part) + ordered[min(below + 1, len(ordered) - 1)] * part - median
    if unsupervised:
        weight = len(ordered) / (len(ordered) + 25)
        median = max(1.4, weight * median + (1 - weight) * 2.06)
        spread = weight * spread + (1 - weight) * 0.087
    if distance >= median:
        return 0.0, "copy" if unsupervised and distance <= 0.5 else "unlike"
    contrast = (median - distance) / (spread * distance) if distance else float("inf")
    likeness = 1 / (1 + (6 / contrast) ** 1.8)
    if unsupervised and distance <= 0.5:
        return likeness, "copy"
    return likeness, "alike" if likeness >= 0.5 else "unlike"


@pytest.mark.parametrize("num", [1, 12, 200])
@pytest.mark.parametrize("unsupervised", [True, False])
def test_a_likeness_is_what_its_definition_says(tmp_path, num, unsupervised):
    features, packed, network = world(num=200)
    network.bundle.is_label_free = unsupervised
    engine = Engine(stored(tmp_path / "index", network, features[:num], packed[:num]))
    seen = set()
    for at in range(0, 200, 9):
        distances = [
            slow_distance(network, features[at], packed[at], *row)
            for row in zip(features[:num], packed[:num], strict=True)
        ]
        found = graded(engine, packed[at], features[at])
        assert len(found) == num
        for row, distance in enumerate(distances):
            if not unsupervised and num < 50:
                assert found[f"i{row}"] == (None, None)
                continue
            likeness, grade = slow_grade(distances, distance, unsupervised)
            # Steps of certainty round distances, and the slow ones are not rounded.
            assert found[f"i{row}"][0] == pytest.approx(likeness, abs=0.05)
            if abs(likeness - 0.5) > 0.05 and abs(distance - 0.5) > 0.05:
                assert found[f"i{row}"][1] == grade
            seen.add(found[f"i{row}"][1])
    if num == 200:
        assert seen == ({"copy", "unlike", "alike"} if unsupervised else {"alike", "unlike"})


def test_a_grade_depends_on_nothing_else_that_is_asked_for(tmp_path):
    features, packed, network = world(num=300)
    engine = Engine(stored(tmp_path / "index", network, features, packed))
    whole = graded(engine, packed[4], features[4])
    assert len(whole) == 300
    for query in (
        Query(k=1),
        Query(k=50, pool=60),
        Query(k=50, threshold=6),
        Query(ids=["i7", "i8", "i299"]),
        Query(until_unlike=True, k=300),
    ):
        found = graded(engine, packed[4], features[4], query)
        assert found and found.items() <= whole.items()


def test_likeness_falls_with_the_distance(tmp_path):
    features, packed, network = world(num=200)
    hits = (
        Engine(stored(tmp_path / "index", network, features, packed))
        .search_encoded(packed[11], features[11], ALL)
        .hits
    )
    likenesses = [hit.likeness for hit in hits]
    assert likenesses == sorted(likenesses, reverse=True)
    assert likenesses[0] == 1.0 and likenesses[-1] == 0.0
    order = [grading.GRADES.index(hit.grade) for hit in hits]
    assert order == sorted(order) and set(order) == {0, 1, 2}


def test_threads_shards_and_kinds_of_index_grade_alike(tmp_path, monkeypatch):
    monkeypatch.setattr(grading, "SAMPLE", 100)
    monkeypatch.setattr(grading.drawn, "__kwdefaults__", {"most": 100, "seed": 0})
    features, packed, network = world(num=300)
    whole = stored(tmp_path / "whole", network, features, packed)
    borders = [0, 7, 7, 180, 300]
    parts = [
        stored(
            tmp_path / f"part{a}-{b}-{number}", network, features[a:b], packed[a:b], f"{number} "
        )
        for number, (a, b) in enumerate(itertools.pairwise(borders))
    ]
    engines = [
        Engine(whole, num_threads=1),
        Engine(whole, num_threads=2),
        ShardedEngine([Engine(part) for part in parts]),
    ]
    for at in (0, 5, 200):
        one, two, sharded = (
            [
                (hit.likeness, hit.grade)
                for hit in engine.search_encoded(packed[at], features[at], ALL).hits
            ]
            for engine in engines
        )
        assert one == two == sharded
        assert len(set(one)) > 20


def test_clickhouse_grades_as_a_folder_does(bundle_folder, tmp_path_factory, request):
    answers = []
    for kind in ("folder", "chdb"):
        store = filled(a_place(kind, request, tmp_path_factory), bundle_folder).store
        _, packed, features = made(NUM)
        network = Network(8 * packed.shape[1], features.shape[1], features.mean(axis=0) / 9)
        engine = Engine(types.SimpleNamespace(store=store, encoder=network))
        places = np.array([0, 5, 44, 45, engine.snapshot.num_items - 1])
        hits = engine.search_encoded(packed[3], features[3], Query(k=NUM, threshold=99)).hits
        answers.append((engine.finder.at(places), [hit.likeness for hit in hits]))
    for (codes, features), _ in answers:
        assert (codes == answers[0][0][0]).all() and (features == answers[0][0][1]).all()
        assert len(codes) == len(features) == 5
    np.testing.assert_allclose(answers[0][1], answers[1][1], atol=1e-3)


def test_the_sample_is_drawn_evenly_and_stays_as_an_index_grows():
    for num in (0, 1, 511, 512, 513, 5000, 100_000):
        places = drawn(num)
        assert len(places) == min(num, 512) and places.dtype == np.int64
        assert (np.diff(places) > 0).all() and ((places >= 0) & (places < num)).all()
    assert (drawn(5000) == drawn(5000)).all() and (drawn(5000) != drawn(5000, seed=1)).any()
    # Of a tenth more, about a tenth of the sample is new.
    assert 430 < len(np.intersect1d(drawn(50_000), drawn(55_000))) < 500
    counts = np.zeros(40)
    for seed in range(2000):
        counts[drawn(40, most=10, seed=seed)] += 1
    assert abs(counts / 2000 - 0.25).max() < 0.04


def test_a_search_ends_where_likeness_does(tmp_path):
    features, packed, network = world(num=200)
    engine = Engine(stored(tmp_path / "index", network, features, packed))
    query = Query(k=200, threshold=1025)
    whole = engine.search_encoded(packed[4], features[4], query)
    ended = engine.search_encoded(
        packed[4], features[4], dataclasses.replace(query, until_unlike=True)
    )
    like = tuple(hit for hit in whole if hit.grade != "unlike")
    assert 0 < len(like) < 200
    assert ended.hits == like == whole.hits[: len(like)]
    assert (ended.pool, ended.threshold) == (whole.pool, whole.threshold)
    first = engine.search_encoded(packed[4], features[4], Query(k=1, until_unlike=True))
    assert first.hits == whole.hits[:1]


def test_a_search_may_end_before_the_first_hit(tmp_path):
    features, packed, network = world(num=200)
    engine = Engine(stored(tmp_path / "index", network, features, packed))
    strange = -features[0] + np.float32(0.3)
    found = engine.search_encoded(network.code_of(strange), strange, Query(until_unlike=True))
    assert found.hits == () and found.pool > 0


def test_what_is_verified_is_not_unlike(tmp_path):
    features, packed, network = world(num=200)
    engine = Engine(stored(tmp_path / "index", network, features, packed))
    graded = engine.search_encoded(packed[4], features[4], ALL).hits
    last = len(graded) - 1
    assert graded[last].grade == "unlike"
    asked = packed[4], features[4]
    ranking = engine.ranking(*asked, ALL)
    background = engine._background(*asked, ranking)
    found = engine.finder.find(*asked, ALL.k, ranking=ranking, threshold=ALL.threshold)
    for same, grade in ((False, "unlike"), (True, "alike")):
        compared = {last: types.SimpleNamespace(same=same)}
        [one] = engine._graded(found, np.array([last]), compared, background)
        assert one == (graded[last].likeness, grade)


def test_what_cannot_be_known_is_none_and_not_searched_by(tmp_path):
    features, packed, network = world()
    index = stored(tmp_path / "index", network, features, packed)
    asked = packed[3], features[3]
    alone = Engine(index).search_encoded(*asked, Query(rank_by="feature"))
    assert {(hit.likeness, hit.grade) for hit in alone} == {(None, None)}
    with pytest.raises(ArgumentError, match="Where likeness ends .*rank_by='feature'"):
        Query(rank_by="feature", until_unlike=True)
    few = stored(tmp_path / "few", network, features[:49], packed[:49])
    network.bundle.is_label_free = False
    with pytest.raises(ArgumentError, match="50 images or more.*an index of 49"):
        Engine(few).search_encoded(*asked, Query(until_unlike=True))
    assert Engine(index).search_encoded(*asked, Query(until_unlike=True)).hits
    network.bundle.mean = None
    assert Engine(index).search_encoded(*asked)[0].grade is None
    with pytest.raises(ArgumentError, match="knows the mean.*make the index anew"):
        Engine(index).search_encoded(*asked, Query(until_unlike=True))


@pytest.mark.parametrize("wrong", ["yes", 1, None])
def test_until_unlike_is_true_or_false(wrong):
    with pytest.raises(ArgumentError, match="until_unlike is True or False"):
        Query(until_unlike=wrong)


def test_an_index_of_nothing_but_copies_calls_them_copies(tmp_path):
    features, packed, network = world(num=60)
    features[:], packed[:] = features[0], packed[0]
    engine = Engine(stored(tmp_path / "index", network, features, packed))
    hits = engine.search_encoded(packed[0], features[0], ALL).hits
    assert len(hits) == 60
    assert {(hit.likeness, hit.grade) for hit in hits} == {(1.0, "copy")}


def test_a_background_without_spread_grades_all_that_is_nearer():
    flat = Background(1.0, 0.0, knows_copies=False)
    assert flat.grade(0.9) == (1.0, "alike")
    assert Background(1.0, 0.1, knows_copies=False).grade(0.0) == (1.0, "alike")
    assert Background(1.0, 0.1, knows_copies=False).grade(1.0) == (0.0, "unlike")


def test_features_that_are_not_finite_are_no_part_of_the_background(tmp_path):
    features, packed, network = world(num=100)
    ranking = Engine(stored(tmp_path / "index", network, features, packed)).ranking(
        packed[0], features[0]
    )
    broken = features.copy()
    broken[50:, 3] = np.nan
    wanted, found = (
        grading.Sample(
            packed[: len(ones)], ones, network.bundle.mean, unsupervised=True
        ).background(packed[0], features[0], ranking)
        for ones in (features[:50], broken)
    )
    assert found == wanted


def test_of_an_index_without_images_nothing_is_alike(tmp_path):
    features, packed, network = world()
    store = Store.create(
        tmp_path / "index", num_bits=12, feature_dim=20, fingerprint="f", feature_dtype="float32"
    )
    index = types.SimpleNamespace(store=store, encoder=network)
    found = Engine(index).search_encoded(packed[0], features[0], Query(until_unlike=True))
    assert found.hits == ()
    with store.writer() as writer:
        writer.add([Item("only")], packed[:1], features[:1])
    [hit] = Engine(index).search_encoded(packed[0], features[0], Query(until_unlike=True)).hits
    assert (hit.likeness, hit.grade) == (1.0, "copy")


def test_the_numbers_are_those_that_were_fitted():
    measured = figures.read("likeness_line")["fitted"]
    assert pytest.approx(measured["slope"], rel=0.1) == grading.SLOPE
    assert pytest.approx(measured["middle"], rel=0.1) == grading.MIDDLE
    assert pytest.approx(measured["median"], rel=0.05) == grading.PRIOR_MEDIAN
    assert pytest.approx(measured["spread"], rel=0.1) == grading.PRIOR_SPREAD


# --- What people and machines are shown -----------------------------------------------------------


@pytest.fixture(scope="module")
def pictured(unsupervised_bundle, photos, tmp_path_factory):
    """An index of four patterns, six pictures each, that grades."""
    index = Index.create(tmp_path_factory.mktemp("graded") / "index", unsupervised_bundle)
    index.update([photos], label_from_folder=True)
    return index


def test_pictures_of_one_pattern_are_alike_and_no_others(pictured, photos):
    for pattern in ("disc", "stripes", "checks"):
        query = photos / pattern / "0.png"
        hits = pictured.search(query, k=24)
        like = pictured.search(query, k=24, until_unlike=True)
        assert (hits[0].grade, hits[0].label) == ("copy", pattern)
        assert 0 < len(like) < 24
        assert {hit.label for hit in like} == {pattern}
        assert list(like) == [hit for hit in hits if hit.grade != "unlike"]


def test_the_command_line_ends_where_likeness_does(run, pictured, photos):
    ask = ("search", pictured.store.folder, photos / "disc/0.png", "-k", 24)
    whole = json.loads(run(*ask, "--json")[1])["hits"]
    ended = json.loads(run(*ask, "--json", "--until-unlike")[1])["hits"]
    assert ended == [hit for hit in whole if hit["grade"] != "unlike"] and len(ended) < 24
    assert all(0 <= hit["likeness"] <= 1 for hit in whole)
    status, out, err = run(*ask, "--until-unlike")
    assert (status, err) == (0, "")
    lines = out.splitlines()[1:]
    assert len(lines) == len(ended)
    assert re.match(r" +1 +\d+ bits +0\.000\d  copy    \[disc\]  /", lines[0])
    assert all(("  copy  " in line) or ("  alike  " in line) for line in lines)
    assert "  unlike  " in run(*ask)[1]


def test_the_command_line_says_when_nothing_is_like_the_query(run, pictured, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    images.write(tmp_path / "noise.png", noise)
    ask = ("search", pictured.store.folder, tmp_path / "noise.png", "--until-unlike")
    status, out, err = run(*ask)
    assert status == 0 and len(out.splitlines()) == 1
    assert err.endswith("noise.png: nothing that was searched is like it\n")
    status, _, err = run(*ask, "--rank-by", "feature")
    assert status == 2 and "Where likeness ends is told" in err


def test_the_service_takes_and_gives_the_same(pictured, photos):
    app = service.create_app(pictured.store.folder, settings.Settings())
    content = {"image": ("q.png", (photos / "disc/0.png").read_bytes())}
    with TestClient(app, base_url="http://localhost") as client:
        assert client.get("/api/info").json()["grades"] is True
        whole = client.post("/api/search", files=content, data={"k": 24}).json()["hits"]
        posted = client.post(
            "/api/search", files=content, data={"k": 24, "until_unlike": "true"}
        ).json()["hits"]
        assert posted == [hit for hit in whole if hit["grade"] != "unlike"]
        assert 0 < len(posted) < 24
        asked = {"id": posted[0]["id"], "k": 24}
        by_id = client.get("/api/search", params={**asked, "until_unlike": "true"}).json()["hits"]
        assert by_id == [
            hit
            for hit in client.get("/api/search", params=asked).json()["hits"]
            if hit["grade"] != "unlike"
        ]
        assert by_id


def test_notebooks_and_contact_sheets_write_the_grade(pictured, photos):
    result = pictured.search(photos / "disc/0.png", k=24)
    assert ", copy" in result._repr_html_() and ", unlike" in result._repr_html_()
    hit = result[0]
    assert hit.grade == "copy"
    ungraded = hit._replace(grade=None)
    sheet, without = (sheets.contact_sheet([(None, [one])]) for one in (hit, ungraded))
    assert (sheet != without).any()


def test_an_evaluation_is_of_all_hits_wherever_likeness_ends(pictured, photos):
    with pytest.raises(ArgumentError, match="An evaluation searches the whole index"):
        evaluate(pictured, [photos], Query(until_unlike=True))


@pytest.mark.parametrize("version", [1, 5])
def test_what_an_older_index_cannot_tell_is_none(version):
    snapshot = Store.open(pathlib.Path(__file__).parent / "golden" / f"index_v{version}")
    engine = Engine(types.SimpleNamespace(store=snapshot))
    code, feature = engine.snapshot.codes[0], engine.snapshot.features([0])[0].astype(np.float32)
    hits = engine.search_encoded(code, feature).hits
    assert hits and {(hit.likeness, hit.grade) for hit in hits} == {(None, None)}
    with pytest.raises(ArgumentError, match="Where likeness ends"):
        engine.search_encoded(code, feature, Query(until_unlike=True))
