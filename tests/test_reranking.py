"""Ranking again beside the formulas of the papers, and as an option of every search."""

import json
import math
import types
from dataclasses import replace

import numpy as np
import pytest
from starlette.testclient import TestClient

from hashnet import codes, metrics
from hashnet.errors import ArgumentError, ShapeError, UnknownNameError
from hashnet.retrieval.evaluation.evaluate import evaluate
from hashnet.retrieval.index import Index
from hashnet.retrieval.search import reranking
from hashnet.retrieval.search.engine import Engine
from hashnet.retrieval.search.query import MOST_RERANKED, Query
from hashnet.retrieval.search.reranking import METHODS, rerank
from hashnet.retrieval.search.sharded import ShardedEngine
from hashnet.retrieval.service import app as service
from hashnet.retrieval.service import schemas, settings
from tests import test_engine_regions
from tests.test_contracts import NUM, a_place, assert_same, filled, made
from tests.test_ranking import BITS, Network, stored, world


def unit(rng, num, dim=6):
    """A query and images around a few centres, nearest first, some of them equal."""
    centres = rng.standard_normal((4, dim))
    rows = centres[rng.integers(0, 4, num + 1)] + 0.4 * rng.standard_normal((num + 1, dim))
    rows[num // 2 :: 5] = rows[1]
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    rows = np.rint(rows * 2**24) / 2**24
    order = np.argsort(-(rows[1:] @ rows[0]), kind="stable")
    return np.concatenate([rows[:1], rows[1:][order]])


# --- The slow definitions -------------------------------------------------------------------------


def dot(a, b):
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def mean_direction(rows, weights):
    total = [
        math.fsum(w * row[at] for w, row in zip(weights, rows, strict=True))
        for at in range(len(rows[0]))
    ]
    length = math.sqrt(dot(total, total))
    return [value / length for value in total]


def nearest(rows, at, k, others):
    """Itself and the k most similar of some others, equal ones by place."""
    found = sorted((-dot(rows[at], rows[one]), one) for one in others if one != at)
    return [at] + [one for _, one in found[:k]]


def aqe(rows, k):
    some = rows[: k + 1]
    asked = mean_direction(some, [1.0] * len(some))
    return [dot(asked, row) for row in rows[1:]]


def alpha_qe(rows, k):
    some = rows[1 : k + 1]
    weights = [1.0] + [max(dot(rows[0], row), 0) ** 3 for row in some]
    asked = mean_direction([rows[0], *some], weights)
    return [dot(asked, row) for row in rows[1:]]


def dba(rows, k):
    images = range(1, len(rows))
    smoothed = []
    for at in images:
        near = nearest(rows, at, k, images)
        smoothed.append(mean_direction([rows[one] for one in near], [1.0] * len(near)))
    return [dot(rows[0], row) for row in smoothed]


def k_reciprocal(rows, k):
    every = range(len(rows))
    squared = [[max(2 - 2 * dot(a, b), 0) for b in rows] for a in rows]
    distance = [[value / (max(line) or 1) for value in line] for line in squared]

    lists = {k: [nearest(rows, p, k, every) for p in every] for k in (k, round(k / 2), 5)}

    def reciprocal(p, k):
        return {g for g in lists[k][p] if p in lists[k][g]}

    def expanded(p):
        found = reciprocal(p, k)
        for q in reciprocal(p, k):
            half = reciprocal(q, round(k / 2))
            if len(reciprocal(p, k) & half) >= 2 / 3 * len(half) - 1e-12:
                found |= half
        return found

    sets = [expanded(p) for p in every]
    encoded = [[math.exp(-distance[p][g]) if g in sets[p] else 0.0 for g in every] for p in every]
    encoded = [
        [math.fsum(encoded[one][g] for one in near) / len(near) for g in every] for near in lists[5]
    ]
    scores = []
    for g in every[1:]:
        least = math.fsum(map(min, encoded[0], encoded[g]))
        most = math.fsum(map(max, encoded[0], encoded[g]))
        scores.append(-(0.7 * (1 - least / most) + 0.3 * distance[0][g]))
    return scores


def diffusion(rows, k):
    images = range(1, len(rows))
    near = {at: set(nearest(rows, at, k, images)) for at in images}
    affinity = np.zeros((len(images), len(images)))
    for a in images:
        for b in near[a] - {a}:
            if a in near[b]:
                affinity[a - 1, b - 1] = max(dot(rows[a], rows[b]), 0) ** 3
    degrees = affinity.sum(axis=1)
    scale = np.array([value**-0.5 if value else 0.0 for value in degrees])
    walk = np.diag(scale) @ affinity @ np.diag(scale)
    start = [max(dot(rows[0], row), 0) ** 3 for row in rows[1:]]
    start[min(10, k) :] = [0.0] * len(start[min(10, k) :])
    return np.linalg.solve(np.eye(len(walk)) - 0.99 * walk, 0.01 * np.array(start)).tolist()


SLOW = {
    "aqe": aqe,
    "alpha_qe": alpha_qe,
    "dba": dba,
    "k_reciprocal": k_reciprocal,
    "diffusion": diffusion,
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("num", "neighbours"), [(1, 3), (12, 1), (30, 4), (14, 40)])
def test_each_method_is_its_papers_formula(method, num, neighbours):
    rows = unit(np.random.default_rng(num + neighbours), num)
    slow = np.array(SLOW[method](rows.tolist(), neighbours))
    found = METHODS[method].scores(rows, neighbours)
    # An expanded query is not scaled to length 1, which orders nothing anew.
    scale = found[0] / slow[0] if method.endswith("qe") else 1.0
    np.testing.assert_allclose(found, scale * slow, rtol=1e-9, atol=1e-12)
    order = rerank(rows, method, neighbours)
    assert sorted(order.tolist()) == list(range(num))
    assert (np.diff(found[order]) <= 0).all()
    equal = np.diff(found[order]) == 0
    assert (np.diff(order)[equal] > 0).all()


def test_every_method_has_a_slow_definition():
    assert SLOW.keys() == METHODS.keys()


def crowds(seed):
    """Images around six centres, and a query that is some way off the first of these.

    Returns the vectors, nearest first, and which of the images are of that centre.
    """
    rng = np.random.default_rng(seed)

    def unit_rows(rows):
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    centres = np.repeat(unit_rows(rng.standard_normal((6, 24))), 20, axis=0)
    query, *images = unit_rows(rng.standard_normal((121, 24)))
    rows = unit_rows(centres + 1.1 * np.array(images))
    query = unit_rows(centres[:1] + 1.4 * query)
    order = np.argsort(-(rows @ query[0]), kind="stable")
    return np.concatenate([query, rows[order]]), order < 20


@pytest.mark.fast("k_reciprocal", "diffusion")
@pytest.mark.parametrize("method", METHODS)
def test_of_many_images_of_one_thing_more_are_found(method):
    before, after = [], []
    for seed in range(20):
        rows, relevant = crowds(seed)
        before.append(metrics.average_precision(relevant))
        after.append(metrics.average_precision(relevant[rerank(rows, method, 10)]))
    assert np.mean(after) > np.mean(before) + 0.05


def test_answers_are_the_same_in_whatever_order_products_are_added():
    rng = np.random.default_rng(2)
    rows = rng.standard_normal((200, 700))
    made_rows = reranking._rounded(reranking.directions(rows, np.zeros(700)))
    back = np.ascontiguousarray(made_rows[:, ::-1])
    assert (made_rows @ made_rows.T).tobytes() == (back @ back.T).tobytes()
    for method in METHODS:
        assert rerank(made_rows, method).tolist() == rerank(back, method).tolist()


# --- The vectors ----------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["both", "feature"])
def test_vectors_lie_apart_as_the_fine_stage_says(tmp_path, by):
    features, packed, network = world()
    engine = Engine(stored(tmp_path / "index", network, features, packed))
    asked = Query(k=len(features), rank_by=by)
    ranking = engine.ranking(packed[3], features[3], asked)
    hits = engine.search_encoded(packed[3], features[3], asked).hits
    rows = [int(hit.id[1:]) for hit in hits]
    vectors = reranking.vectors(packed[3], features[3], packed[rows], features[rows], ranking)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    apart = np.linalg.norm(vectors[1:] - vectors[0], axis=1)
    distances = np.array([hit.distance for hit in hits])
    scale = apart[-1] / distances[-1]
    np.testing.assert_allclose(apart, scale * distances, atol=1e-5)
    with pytest.raises(ShapeError, match="as wide as the query's"):
        reranking.vectors(packed[3], features[3], packed, features[:, 1:], ranking)


# --- In a search ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_search_permutes_the_first_and_leaves_the_rest_and_all_distances(tmp_path, method):
    features, packed, network = world()
    engine = Engine(stored(tmp_path / "index", network, features, packed))
    asked = packed[1], features[1]
    plain = engine.search_encoded(*asked, Query(k=80))
    again = engine.search_encoded(*asked, Query(k=80, rerank=method, rerank_top=30))
    assert sorted(again.hits[:30], key=plain.hits.index) == list(plain.hits[:30])
    assert again.hits[30:] == plain.hits[30:]
    assert (again.pool, again.threshold) == (plain.pool, plain.threshold)
    assert list(again.milliseconds) == ["encode", "coarse", "fine", "rerank", "verify"]
    assert "rerank" not in plain.milliseconds
    # As many hits as are wanted, of as many ranked again.
    few = engine.search_encoded(*asked, Query(k=5, rerank=method, rerank_top=30))
    assert few.hits == again.hits[:5]
    # By the formula, over what the fine stage found.
    rows = [int(hit.id[1:]) for hit in plain.hits[:30]]
    ranking = engine.ranking(*asked)
    vectors = reranking.vectors(*asked, packed[rows], features[rows], ranking)
    scores = np.array(SLOW[method](vectors.tolist(), METHODS[method].neighbours))
    places = [plain.hits.index(hit) for hit in again.hits[:30]]
    assert (np.diff(scores[places]) <= 1e-12).all()


def test_shards_and_threads_rank_again_alike(tmp_path):
    features, packed, network = world()
    whole = stored(tmp_path / "whole", network, features, packed)
    parts = [
        stored(tmp_path / f"part{at}", network, features[at : at + 40], packed[at : at + 40])
        for at in (0, 40)
    ]
    engines = [
        *(Engine(whole, num_threads=number) for number in (1, 2)),
        ShardedEngine([Engine(part) for part in parts]),
    ]
    for method in METHODS:
        query = Query(k=60, rerank=method, rerank_neighbours=4)
        first, second, sharded = (
            engine.search_encoded(packed[1], features[1], query).hits for engine in engines
        )
        assert first == second  # ids of shards begin anew
        assert [hit.distance for hit in first] == [hit.distance for hit in sharded]
        assert [hit.bits_apart for hit in first] == [hit.bits_apart for hit in sharded]


def test_clickhouse_ranks_again_as_a_folder_does(bundle_folder, tmp_path_factory, request):
    engines = []
    _, packed, features = made(NUM)
    mean = np.zeros(64, np.float32)
    mean[:3] = 0.3, -0.2, 0.1
    for kind in ("folder", "chdb"):
        index = filled(a_place(kind, request, tmp_path_factory), bundle_folder)
        with_mean = types.SimpleNamespace(store=index.store, encoder=Network(32, 64, mean))
        engines.append(Engine(with_mean))
    for method in METHODS:
        query = Query(k=50, rerank=method, rerank_top=40)
        assert_same(*(one.search_encoded(packed[2], features[2], query) for one in engines))


def test_what_makes_no_sense_is_refused():
    with pytest.raises(UnknownNameError, match="alpha_qe, aqe, dba, diffusion, k_reciprocal"):
        Query(rerank="magic")
    with pytest.raises(UnknownNameError, match=r"\['aqe'\]"):
        Query(rerank=["aqe"])
    with pytest.raises(UnknownNameError, match="alpha_qe, aqe"):
        rerank(np.eye(3), "magic")
    with pytest.raises(ArgumentError, match="rerank_neighbours=3 without rerank"):
        Query(rerank_neighbours=3)
    with pytest.raises(ArgumentError, match=f"At most {MOST_RERANKED} images"):
        Query(rerank="aqe", rerank_top=MOST_RERANKED + 1)
    with pytest.raises(ArgumentError, match="rerank_neighbours is an integer, 1 or more"):
        Query(rerank="aqe", rerank_neighbours=0)
    with pytest.raises(ArgumentError, match="same_object=True and rerank"):
        Query(rerank="aqe", same_object=True)


def test_nothing_found_is_nothing_ranked_again(tmp_path):
    features, packed, network = world()
    engine = Engine(stored(tmp_path / "index", network, features[:1], packed[:1]))
    far = codes.pack(~codes.unpack(packed[0], BITS))
    for method in METHODS:
        query = Query(rerank=method, threshold=1)
        assert engine.search_encoded(far, features[5], query).hits == ()
        assert len(engine.search_encoded(packed[0], features[0], query).hits) == 1


@pytest.mark.parametrize("method", METHODS)
def test_images_with_regions_are_ranked_again_by_the_rows_that_were_found(tmp_path, method):
    store, _ = test_engine_regions.filled(tmp_path / "index")
    engine = test_engine_regions.engine_of(store)
    for code, feature in test_engine_regions.queries():
        plain = engine.search_encoded(code, feature, Query(k=60)).hits
        again = engine.search_encoded(code, feature, Query(k=60, rerank=method)).hits
        assert sorted(again, key=plain.index) == list(plain)
        rows = engine.finder.find(code, feature, 60, at_least=1000).rows
        packed, features = engine.finder.of_rows(rows)
        vectors = reranking.vectors(code, feature, packed, features, None)
        assert [plain.index(hit) for hit in again] == rerank(vectors, method).tolist()


def test_marks_move_the_query_that_is_ranked_again(tmp_path):
    features, packed, network = world()
    engine = Engine(stored(tmp_path / "index", network, features, packed))
    marked = Query(k=80, right=["i9"], wrong=["i30"])
    plain = engine.search_encoded(packed[1], features[1], marked).hits
    again = engine.search_encoded(packed[1], features[1], replace(marked, rerank="dba")).hits
    assert sorted(again, key=plain.index) == list(plain) and again != plain


# --- Over HTTP, in an evaluation, and on the command line ----------------------------------------


@pytest.fixture(scope="module")
def photo_index(unsupervised_bundle, photos, tmp_path_factory):
    index = Index.create(tmp_path_factory.mktemp("reranking") / "photos", unsupervised_bundle)
    index.update([photos], label_from_folder=True)
    return index


@pytest.mark.thorough
def test_an_evaluation_sets_it_beside_coarse_to_fine(photo_index, photos):
    plain = evaluate(photo_index, [photos])
    both = evaluate(photo_index, [photos], Query(rerank="dba", rerank_neighbours=1))
    assert both.rows["coarse_to_fine"].map_all == plain.rows["coarse_to_fine"].map_all
    figures = both.to_dict()
    assert figures["reranked"]["map_all"] == both.rows["reranked"].map_all
    assert figures["baselines"]["coarse_to_fine_f7"] == {
        **plain.to_dict()["baselines"]["coarse_to_fine_f7"],
        "milliseconds": figures["baselines"]["coarse_to_fine_f7"]["milliseconds"],
    }
    assert "reranked" not in figures["baselines"] and "reranked" not in plain.to_dict()
    assert "ranked again by dba, with 1 neighbours" in both.protocol


def test_the_service_ranks_again(photo_index, photos):
    wanted = {"k": 24, "rerank": "k_reciprocal", "rerank_neighbours": 3}
    app = service.create_app(photo_index.store.folder, settings.Settings())
    with TestClient(app, base_url="http://localhost") as client:
        content = {"image": ("q.png", (photos / "disc/0.png").read_bytes())}
        asked = wanted | {"id": client.post("/api/search", files=content).json()["hits"][0]["id"]}
        answer = client.get("/api/search", params=asked).json()
        refused = client.get("/api/search", params=asked | {"rerank": "magic"})
        far = client.get("/api/search", params=asked | {"rerank_top": MOST_RERANKED + 1})
    [id] = (id for id in photo_index if id.endswith("disc/0.png"))
    found = photo_index.search(id, **wanted)
    assert [hit["distance"] for hit in answer["hits"]] == [hit.distance for hit in found]
    assert schemas.Found.model_validate(answer).milliseconds["rerank"] >= 0
    assert refused.status_code == far.status_code == 422


def test_the_command_line_ranks_again(photo_index, photos, run):
    picture, place = next(photos.rglob("*.png")), photo_index.store.folder
    options = ["--rerank", "k_reciprocal", "--rerank-top", "9", "--rerank-neighbours", "2"]
    status, out, _ = run("search", place, picture, "--json", *options)
    answer = json.loads(out)
    assert status == 0 and answer["milliseconds"]["rerank"] >= 0 and answer["hits"]
    status, out, _ = run("evaluate", place, photos, *options)
    assert status == 0 and "coarse, fine, re-ranked" in out
    status, _, err = run("search", place, picture, "--rerank-neighbours", "2")
    assert status == 2 and "Give rerank, one of" in err
