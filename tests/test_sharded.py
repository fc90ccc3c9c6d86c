"""Many indexes searched as one: the very answer of the single index that holds all their images."""

import itertools
import types

import numpy as np
import pytest

from hashnet.errors import ArgumentError, FingerprintError, UnknownNameError
from hashnet.retrieval.search.engine import Engine
from hashnet.retrieval.search.finder import threshold_of
from hashnet.retrieval.search.query import Query
from hashnet.retrieval.search.sharded import ShardedEngine
from hashnet.retrieval.store.folder.store import Store
from hashnet.retrieval.store.items import Item
from tests.bench import shards as simulation


def engine(folder, items, codes, features, fingerprint="f"):
    store = Store.create(
        folder,
        num_bits=8 * codes.shape[1],
        feature_dim=features.shape[1],
        fingerprint=fingerprint,
    )
    with store.writer() as writer:
        writer.add(items, codes, features)
    return Engine(types.SimpleNamespace(store=store))


@pytest.fixture(scope="module", params=[0, 1])
def world(request, tmp_path_factory):
    """The engine of 300 images full of ties, and that of the same in four uneven shards."""
    rng = np.random.default_rng(request.param)
    codes = rng.integers(0, 4, (300, 2), dtype=np.uint8)
    features = rng.integers(0, 3, (300, 4)).astype(np.float32)
    labels = ["cat", "dog", None]
    items = [Item(f"{row}", None, labels[row % 3]) for row in range(300)]
    items[7] = Item("7", None, "rare")  # in the first shard only
    folder = tmp_path_factory.mktemp("sharded")
    borders = [0, 50, 50, 51, 300]
    parts = [slice(a, b) for a, b in itertools.pairwise(borders)]
    sharded = ShardedEngine(
        [
            engine(folder / f"{n}", items[part], codes[part], features[part])
            for n, part in enumerate(parts)
        ]
    )
    return engine(folder / "single", items, codes, features), sharded


OPTIONS = [
    {},
    {"k": 1},
    {"k": 1000},
    {"threshold": 1},
    {"threshold": 3, "k": 50},
    {"threshold": 17},
    *({"pool": pool, "k": 40} for pool in (1, 2, 10, 50, 299, 300, 301, 10_000)),
    {"pool": 30, "labels": "dog"},
    {"pool": 30, "labels": ["cat", "rare"], "k": 300},
    {"labels": "rare"},
    {"labels": []},
    {"pool": 3, "ids": ["3", "7", "60", "299", "nobody"]},
    {"threshold": 5, "ids": ["7"], "labels": "rare"},
    {"ids": []},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_answer_is_that_of_a_single_index(world, options):
    single, sharded = world
    rng = np.random.default_rng(5)
    for _ in range(20):
        code = rng.integers(0, 4, 2, dtype=np.uint8)
        feature = rng.integers(0, 3, 4).astype(np.float32)
        expected = single.search_encoded(code, feature, Query(**options))
        answer = sharded.search_encoded(code, feature, Query(**options))
        assert answer.hits == expected.hits
        assert (answer.threshold, answer.pool) == (expected.threshold, expected.pool)
        assert answer.milliseconds.keys() == expected.milliseconds.keys()


@pytest.mark.parametrize(
    "options",
    [{"k": 0}, {"pool": 0}, {"pool": 1.5}, {"threshold": -1}, {"threshold": 1, "pool": 1}],
)
def test_what_a_single_index_refuses_is_refused(world, options):
    for one in world:
        with pytest.raises(ArgumentError):
            one.search_encoded(np.zeros(2, np.uint8), np.zeros(4, np.float32), Query(**options))


def test_a_label_that_no_shard_has_is_named_with_those_of_all(world):
    with pytest.raises(UnknownNameError, match="cat, dog, rare"):
        world[1].search_encoded(np.zeros(2, np.uint8), np.zeros(4, np.float32), Query(labels="cow"))


def test_shards_are_of_one_encoder(tmp_path):
    arrays = np.zeros((1, 2), np.uint8), np.zeros((1, 4), np.float32)
    engines = [engine(tmp_path / name, [Item("a")], *arrays, name) for name in ("f", "g")]
    with pytest.raises(FingerprintError, match="f, g"):
        ShardedEngine(engines)
    with pytest.raises(ArgumentError):
        ShardedEngine([])


def test_a_threshold_is_the_smallest_that_is_large_enough():
    rng = np.random.default_rng(0)
    for _ in range(200):
        histogram = rng.integers(0, 3, 9)
        for at_least in range(1, 12):
            wanted = min(at_least, histogram.sum())
            slowly = next(t for t in range(10) if histogram[:t].sum() >= wanted)
            assert threshold_of(histogram, at_least) == slowly


def test_the_simulation_compares_with_a_single_index():
    report = simulation.measure(rows=500, dimensions=16, bits=16, shards=[1, 3], queries=4, seed=0)
    assert [row["shards"] for row in report["rows"]] == [1, 3]
    assert all(row["answers_identical"] == row["answers"] == 12 for row in report["rows"])
