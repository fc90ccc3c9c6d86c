"""What a distance is made of, beside its slow definition, in every kind of index."""

import json
import math
import shutil
import types

import numpy as np
import pytest

from hashnet import codes
from hashnet.errors import BundleError, UnknownNameError
from hashnet.network import bundle as bundles
from hashnet.retrieval.evaluation.evaluate import evaluate
from hashnet.retrieval.index import Index
from hashnet.retrieval.search import compiled, fine
from hashnet.retrieval.search.coarse import scan
from hashnet.retrieval.search.coarse.hamming import CodeIndex
from hashnet.retrieval.search.engine import Engine
from hashnet.retrieval.search.fine import nearest_features
from hashnet.retrieval.search.query import Query
from hashnet.retrieval.search.ranking import Certainty
from hashnet.retrieval.search.sharded import ShardedEngine
from hashnet.retrieval.store.folder.store import Store
from hashnet.retrieval.store.items import Item
from tests.test_contracts import NUM, a_place, assert_same, filled, made

BITS, DIM = 12, 20


class Network:
    """Stands for an encoder: H is a matrix, so that a latent follows from a feature."""

    def __init__(self, num_bits, dim, mean, seed=0):
        rng = np.random.default_rng(seed)
        self.kernel, self.config = (
            rng.standard_normal((dim, num_bits)),
            types.SimpleNamespace(num_bits=num_bits),
        )
        self.bundle = types.SimpleNamespace(mean=mean, is_label_free=True)

    def latent_of(self, feature):
        return 1 / (1 + np.exp(-(feature @ self.kernel)))

    def code_of(self, feature):
        return codes.from_latent(self.latent_of(feature))


def world(seed=0, num=80):
    """Features of length 1 around a mean, many of them equal, and the network that codes them."""
    rng = np.random.default_rng(seed)
    features = np.abs(rng.standard_normal((num, DIM)))
    features[num // 2 :: 3] = features[0]
    features = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)
    network = Network(BITS, DIM, features.mean(axis=0))
    return features, np.stack([network.code_of(feature) for feature in features]), network


def stored(folder, network, features, packed, names="i"):
    store = Store.create(
        folder, num_bits=BITS, feature_dim=DIM, fingerprint="f", feature_dtype="float32"
    )
    with store.writer() as writer:
        items = [Item(f"{names}{number}") for number in range(len(features))]
        writer.add(items, packed, features)
    return types.SimpleNamespace(store=store, encoder=network)


def slow_distance(network, query, code, feature, other):
    """As the head of `ranking` says it, with numbers for certainties and not steps of them."""
    mean = network.bundle.mean.astype(float)
    directions = []
    for one in (query, feature):
        length = math.dist(one, mean)
        directions.append([(a - b) / length for a, b in zip(one, mean, strict=True)])
    latent = network.latent_of(query)
    apart = sum(
        abs(2 * sure - 1)
        for sure, mine, its in zip(
            latent, codes.unpack(code, BITS), codes.unpack(other, BITS), strict=True
        )
        if mine != its
    )
    strange = math.dist(query, mean) ** 2 / (1 - sum(value * value for value in mean))
    fading = min(1, strange**-8)
    return math.sqrt(math.dist(*directions) ** 2 + 8 * fading * apart / BITS)


@pytest.mark.parametrize("seed", range(3))
def test_a_distance_joins_features_about_the_mean_and_certain_bits(tmp_path, seed):
    features, packed, network = world(seed)
    engine = Engine(stored(tmp_path / "index", network, features, packed))
    rng = np.random.default_rng(seed)
    for strange in (0, 0.5, 3):  # how far the query is from what the network was made from
        query = features[seed] + strange * rng.standard_normal(DIM).astype(np.float32)
        query /= np.linalg.norm(query)
        code = network.code_of(query)
        hits = engine.search_encoded(code, query, Query(k=len(features))).hits
        for hit in hits:
            row = int(hit.id[1:])
            slow = slow_distance(network, query, code, features[row], packed[row])
            assert hit.distance**2 == pytest.approx(slow**2, abs=8 * 0.5 / 15)
        found = [(hit.distance, int(hit.id[1:])) for hit in hits]
        assert found == sorted(found) and len(found) == len(features)
    assert engine.search_encoded(packed[seed], features[seed], Query(k=1)).hits[0].distance == 0


def test_features_alone_rank_by_option_and_where_no_mean_is_known(tmp_path):
    features, packed, network = world()
    index = stored(tmp_path / "index", network, features, packed)
    query = features[3] + np.float32(0.1)
    both, alone = (
        Engine(index).search_encoded(packed[3], query, Query(k=80, rank_by=by)).hits
        for by in ("both", "feature")
    )
    network.bundle.mean = None
    assert Engine(index).search_encoded(packed[3], query, Query(k=80)).hits == alone
    index.encoder = None
    assert Engine(index).search_encoded(packed[3], query, Query(k=80)).hits == alone
    assert {hit.id for hit in both} == {hit.id for hit in alone} and both != alone
    for hit in alone:
        exact = np.linalg.norm(features[int(hit.id[1:])].astype(float) - query)
        assert hit.distance == pytest.approx(exact)
    with pytest.raises(UnknownNameError, match="both, feature"):
        Query(rank_by="code")


def test_a_pool_of_a_least_size_is_taken_by_certainty_and_a_threshold_is_exact(tmp_path):
    features, packed, network = world(num=300)
    engine = Engine(stored(tmp_path / "index", network, features, packed))
    certainty = Certainty.of(network.latent_of(features[5]), packed[5])
    steps = np.array(
        [sum(certainty.steps[bits]) for bits in codes.unpack(packed ^ packed[5], BITS)]
    )
    bits = np.bitwise_count(packed ^ packed[5]).sum(axis=1)
    for at_least in (1, 10, 100, 999):
        for rank_by in ("both", "feature"):
            query = Query(k=300, pool=at_least, rank_by=rank_by)
            found = engine.search_encoded(packed[5], features[5], query)
            wanted = np.flatnonzero(steps <= np.sort(steps)[:at_least][-1])
            assert sorted(int(hit.id[1:]) for hit in found.hits) == wanted.tolist()
            assert found.pool == len(wanted) and found.threshold == bits[wanted].max() + 1
    for threshold in (1, 3, 13):
        query = Query(k=300, threshold=threshold)
        found = engine.search_encoded(packed[5], features[5], query)
        wanted = np.flatnonzero(bits < threshold)
        assert sorted(int(hit.id[1:]) for hit in found.hits) == wanted.tolist()
        assert found.threshold == threshold and found.pool == len(wanted)


def test_shards_and_threads_change_nothing(tmp_path, way, monkeypatch):
    monkeypatch.setattr(fine, "LEAST_VALUES_A_THREAD", 1)
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
    for query in (Query(k=9), Query(k=80, pool=20), Query(k=5, threshold=4)):
        answers = [engine.search_encoded(packed[1], features[1], query) for engine in engines]
        distances = [[hit.distance for hit in answer.hits] for answer in answers]
        assert distances[0] == distances[1] == distances[2]
        assert answers[0] == answers[1]
        assert {(answer.pool, answer.threshold) for answer in answers} == {
            (answers[0].pool, answers[0].threshold)
        }


@pytest.mark.fast("query2")
@pytest.mark.parametrize("query", [Query(k=7), Query(k=NUM, threshold=17), Query(k=40, pool=60)])
def test_clickhouse_gives_the_same_distances(bundle_folder, tmp_path_factory, request, query):
    engines = []
    _, packed, features = made(NUM)
    mean = np.zeros(64, np.float32)
    mean[:3] = 0.3, -0.2, 0.1
    for kind in ("folder", "chdb"):
        index = filled(a_place(kind, request, tmp_path_factory), bundle_folder)
        with_mean = types.SimpleNamespace(store=index.store, encoder=Network(32, 64, mean))
        engines.append(Engine(with_mean))
    for at in range(3):
        assert_same(*(one.search_encoded(packed[at], features[at], query) for one in engines))


# --- To the last bit ------------------------------------------------------------------------------


def clustered(rng, dim):
    """Rows at nearly one distance from the query, closer than float32 can tell."""
    query = np.abs(rng.standard_normal(dim))
    steps = rng.standard_normal((400, dim))
    steps *= 1e-3 / np.linalg.norm(steps, axis=1, keepdims=True)
    return query + steps, query


WORLDS = {
    "nearly one distance": clustered,
    "some at the mean": lambda rng, dim: (
        np.where(np.arange(400)[:, None] % 50, rng.standard_normal((400, dim)), 0.0),
        rng.standard_normal(dim),
    ),
    "all close to a mean far away": lambda rng, dim: (
        rng.standard_normal((400, dim)) * 1e-3,
        rng.standard_normal(dim) * 1e-3,
    ),
    "squares that vanish in float32": lambda rng, dim: (
        rng.standard_normal((400, dim)) * 1e-25,
        rng.standard_normal(dim) * 1e-25,
    ),
}


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("dim", [5, 64, 150])
def test_numpy_and_compiled_code_agree_about_a_mean(monkeypatch, kernels, world, dtype, dim):
    monkeypatch.setattr(fine, "LEAST_VALUES_A_THREAD", 1)
    rng = np.random.default_rng(dim)
    features, query = WORLDS[world](rng, dim)
    mean = np.full(dim, 7.0) if "far away" in world else np.zeros(dim)
    features = (features + mean).astype(dtype)
    features[100:120] = features[7]
    query, rows = (query + mean).astype(np.float32), np.sort(rng.choice(400, 300, replace=False))
    for added in (None, rng.integers(0, 3, 300) * 1e-6):
        answers = []
        for way in (None, kernels):
            monkeypatch.setattr(compiled, "kernels", lambda num_bytes, way=way: way)
            answers += [
                [
                    nearest_features(
                        query, rows, features, k, mean=mean, added=added, num_threads=threads
                    )
                    for k in (10, 300)
                ]
                for threads in (1, 3)
            ]
        for answer in answers:
            for (found, distances), (wanted, exact) in zip(answer, answers[0], strict=True):
                assert found.tolist() == wanted.tolist()
                assert distances.tobytes() == exact.tobytes()
        (few, near), (every, far) = answers[0]
        assert few.tolist() == every[:10].tolist() and near.tobytes() == far[:10].tobytes()


def test_the_compiled_way_reckons_few_rows_to_the_last_bit(kernels):
    rng = np.random.default_rng(0)
    features = rng.standard_normal((1000, 256)).astype(np.float32)
    query, rows, mean = features[3].astype(float), np.arange(1000), np.full(256, 0.1)
    added = np.zeros(1000)
    reckoned, _ = kernels.perhaps_nearest(features, query, mean, added, rows, 10, 0, 1000)
    assert len(reckoned) == 10


@pytest.mark.parametrize("code_bytes", [1, 8, 15, 24, 32, 33, 128])
@pytest.mark.parametrize("num", [1, 70, 3000, 40_000])
def test_the_pool_of_the_least_certainty_is_that_of_a_full_sort(way, monkeypatch, code_bytes, num):
    if num == 40_000 and code_bytes not in (8, 33):
        pytest.skip("a first look at a sample is the same for all lengths")
    monkeypatch.setattr(scan, "LEAST_WORDS_A_THREAD", 64)
    rng = np.random.default_rng(num + code_bytes)
    packed = rng.integers(0, 256, (min(num, 500), code_bytes), dtype=np.uint8)
    packed = packed[rng.integers(0, len(packed), num)]
    live, allowed = rng.random(num) < 0.9, rng.random(num) < 0.5
    steps = rng.integers(0, 16, 8 * code_bytes).astype(np.uint8)
    apart = np.unpackbits(packed ^ packed[0], axis=1).astype(np.int64) @ steps
    for passing, options in (
        (np.ones(num, bool), {}),
        (live, {"live": live}),
        (live & allowed, {"live": live, "allowed": allowed}),
    ):
        for threads in (1, 3):
            index = CodeIndex(packed, live=options.get("live"), num_threads=threads)
            for at_least in (1, 7, num // 2 + 1, num + 5):
                rows, steps_apart = index.pool_by_steps(
                    packed[0], steps, at_least=at_least, allowed=options.get("allowed")
                )
                cut = np.sort(apart[passing])[:at_least]
                cut = cut[-1] if len(cut) else -1
                assert rows.tolist() == np.flatnonzero(passing & (apart <= cut)).tolist()
                assert steps_apart.tolist() == apart[rows].tolist()


@pytest.mark.parametrize("code_bytes", [1, 3, 9])
def test_certainties_add_up_over_the_bits_that_differ(code_bytes):
    rng = np.random.default_rng(code_bytes)
    packed = rng.integers(0, 256, (50, code_bytes), dtype=np.uint8)
    steps = rng.integers(0, 16, 8 * code_bytes - 3).astype(np.uint8)
    packed[:, -1] &= 0b11111000
    rows = np.arange(1, 50, 2)
    found = CodeIndex(packed).steps_apart(packed[0], steps, rows)
    bits = np.unpackbits(packed, axis=1)[:, : len(steps)] != 0
    slow = [sum(steps[bits[0] != bits[row]].tolist()) for row in rows]
    assert found.tolist() == slow


def test_a_bit_that_the_latent_speaks_against_counts_nothing():
    certainty = Certainty.of(np.array([0.9, 0.9, 0.5]), codes.pack(np.array([True, False, True])))
    assert certainty.steps.tolist() == [15, 0, 0]
    assert Certainty.of(np.full(9, 0.5), np.zeros(2, np.uint8)).unit == 0


# --- Where the mean is kept -----------------------------------------------------------------------


@pytest.fixture
def with_mean(bundle_folder, tmp_path):
    """The golden bundle, and a mean in its description."""
    folder = shutil.copytree(bundle_folder, tmp_path / "with_mean")
    described = json.loads((folder / bundles.DESCRIPTION).read_text())
    mean = np.full(64, 0.05, np.float32)
    described |= bundles._described(bundles.load(folder).config, {}, mean)
    (folder / bundles.DESCRIPTION).write_text(json.dumps(described))
    return folder


def test_a_bundle_keeps_its_mean_and_an_index_with_it(with_mean, bundle_folder, photos, tmp_path):
    opened, before = bundles.load(with_mean), bundles.load(bundle_folder)
    np.testing.assert_array_equal(opened.mean, np.full(64, 0.05, np.float32))
    assert before.mean is None and before.fingerprint == opened.fingerprint
    index = Index.create(tmp_path / "index", with_mean)
    index.update([photos], label_from_folder=True)
    np.testing.assert_array_equal(Index.open(tmp_path / "index").encoder.bundle.mean, opened.mean)
    report = evaluate(index, [photos])
    assert "coarse_to_fine_f7" in report.rows and "coarse_to_fine_f7" in report.protocol
    plain = evaluate(index, [photos], Query(rank_by="feature"))
    assert "coarse_to_fine_f7" not in plain.rows
    assert plain.rows["coarse_to_fine"].map_all == report.rows["coarse_to_fine_f7"].map_all


@pytest.mark.parametrize("damage", ["AAAA", "no base64", 7, "longer"])
def test_a_mean_that_is_none_is_refused(with_mean, damage):
    path = with_mean / bundles.DESCRIPTION
    described = json.loads(path.read_text())
    if damage == "longer":
        damage = bundles._described(bundles.load(with_mean).config, {}, np.ones(64))["mean"]
    path.write_text(json.dumps({**described, "mean": damage}))
    with pytest.raises(BundleError, match="of 64 numbers and of length 1"):
        bundles.load(with_mean)
