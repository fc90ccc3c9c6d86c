"""Many indexes searched as one: the very answer of the single index that holds all their images."""

import dataclasses
import itertools
import os
import time
import types

import numpy as np
import pytest

from hashnet.errors import (
    ArgumentError,
    FingerprintError,
    StoreError,
    UnknownIdError,
    UnknownNameError,
)
from hashnet.retrieval.index import Index, open_sharded
from hashnet.retrieval.search.engine import Engine
from hashnet.retrieval.search.finder import threshold_of
from hashnet.retrieval.search.query import Query
from hashnet.retrieval.search.sharded import ShardedEngine
from hashnet.retrieval.store.folder.store import Store
from hashnet.retrieval.store.items import Item
from tests.bench import shards as simulation
from tests.test_contracts import DESCRIPTOR_DIM, DETAILS, MOST_REGIONS, made_with_details, seen


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
    {"histogram": True},
    {"histogram": True, "pool": 7, "labels": "cat"},
    {"right": ["3", "70"], "wrong": ["299", "52", "10"]},
    {"right": ["51"], "histogram": True, "pool": 20, "ids": [f"{n}" for n in range(0, 300, 7)]},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_answer_is_that_of_a_single_index(world, options):
    single, sharded = world
    rng = np.random.default_rng(5)
    for _ in range(8):
        code = rng.integers(0, 4, 2, dtype=np.uint8)
        feature = rng.integers(0, 3, 4).astype(np.float32)
        expected = single.search_encoded(code, feature, Query(**options))
        answer = sharded.search_encoded(code, feature, Query(**options))
        assert answer.histogram == expected.histogram
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


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("id", ["0", "50", "299"])
def test_a_search_by_id_is_that_of_a_single_index(world, id, options):
    expected, answer = (one.search_id(id, Query(**options)) for one in world)
    assert answer.hits == expected.hits and answer.histogram == expected.histogram
    assert (answer.threshold, answer.pool) == (expected.threshold, expected.pool)


def test_ids_that_no_shard_has_are_named(world):
    for one in world:
        for query in (Query(ids=["nobody"]), Query(right=["3", "nobody"])):
            with pytest.raises(UnknownIdError, match="'nobody'"):
                one.search_id("0", query)
        with pytest.raises(UnknownIdError, match="'nobody'"):
            one.search_id("nobody")


def test_a_label_that_no_shard_has_is_named_with_those_of_all(world):
    with pytest.raises(UnknownNameError, match="cat, dog, rare"):
        world[1].search_encoded(np.zeros(2, np.uint8), np.zeros(4, np.float32), Query(labels="cow"))


def test_shards_are_of_one_encoder(tmp_path):
    arrays = np.zeros((1, 2), np.uint8), np.zeros((1, 4), np.float32)
    engines = [engine(tmp_path / name, [Item("a")], *arrays, name) for name in ("f", "g")]
    with pytest.raises(FingerprintError, match="f, g.*--bundle INDEX of the first"):
        ShardedEngine(engines)
    with pytest.raises(ArgumentError):
        ShardedEngine([])


def test_shards_have_one_kind_of_local_features(tmp_path):
    """DELF's of another head cannot be compared, though their extractor has the same name."""
    engines = []
    for dim in (40, 64):
        facts = {"num_bits": 16, "feature_dim": 3, "fingerprint": "f", "extractor": "delf"}
        store = Store.create(tmp_path / f"{dim}", **facts, descriptor_dim=dim)
        engines.append(Engine(types.SimpleNamespace(store=store, encoder=None, extractor=None)))
    with pytest.raises(FingerprintError, match="delf of 40 numbers, delf of 64 numbers"):
        ShardedEngine(engines)
    assert len(ShardedEngine([engines[0], engines[0]]).engines) == 2


# --- Local features and regions -------------------------------------------------------------------


class Network:
    """Stands for the networks: gives what `seen` and the ties of `made_with_details` would."""

    descriptor_dim = DESCRIPTOR_DIM

    def encode_one(self, photo):
        _, codes, features, _, _ = made_with_details(9, 2)
        number = int(photo.full()[0, 0, 0]) % 9
        return codes[number], features[number]

    def extract(self, image):
        return seen(int(image[0, 0, 0]), np.random.default_rng(0))


def detailed_engine(folder, part, *, local, regions):
    items, codes, features, things, boxes = part
    store = Store.create(
        folder,
        num_bits=16,
        feature_dim=3,
        fingerprint="f",
        extractor="sift" if local else None,
        descriptor_dim=DESCRIPTOR_DIM if local else None,
        regions_per_image=MOST_REGIONS if regions else 0,
    )
    with store.writer() as writer:
        writer.add(items, codes, features, things, boxes)
    network = Network()
    return Engine(types.SimpleNamespace(store=store, encoder=network, extractor=network))


@pytest.fixture(scope="module", params=DETAILS, ids=lambda details: "+".join(details))
def detailed_world(request, tmp_path_factory):
    """The engine of 60 images with details, and that of the same in three uneven shards."""
    details = {"local": False, "regions": False} | request.param
    folder = tmp_path_factory.mktemp("details")
    items, codes, features, things, boxes = made_with_details(60, 0, **details)
    rows = np.cumsum([0, *([1 + len(one) for one in boxes] if boxes else [1] * 60)])

    def part(start, end):
        of_rows = slice(rows[start], rows[end])
        lists = (None if one is None else one[start:end] for one in (things, boxes))
        return items[start:end], codes[of_rows], features[of_rows], *lists

    borders = [(0, 20), (20, 21), (21, 60)]
    engines = [
        detailed_engine(folder / f"{n}", part(*ends), **details) for n, ends in enumerate(borders)
    ]
    single = detailed_engine(folder / "single", part(0, 60), **details)
    return single, ShardedEngine(engines), details


@pytest.mark.fast("local+regions-{}")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"k": 3, "verify_top": 20},
        {"labels": "dog", "verify_top": 5},
        {"pool": 9},
        {"threshold": 4, "histogram": True},
        {"right": ["i3", "i40"], "wrong": ["i20"]},
        {"ids": ["i1", "i10", "i19", "i28", "i55", "nobody"]},
    ],
    ids=str,
)
def test_details_are_as_those_of_a_single_index(detailed_world, options):
    single, sharded, details = detailed_world
    query = Query(verify=details["local"], **options)
    images = [np.full((9, 9, 3), number, np.uint8) for number in range(9)]
    confirmed = 0
    for ask in (
        *(lambda one, id=id: one.search_id(id, query) for id in ("i1", "i10", "i20", "i59")),
        *(lambda one, image=image: one.search(image, query) for image in images),
        lambda one: one.search(images[4], dataclasses.replace(query, region=(1, 2, 5, 8))),
    ):
        expected, answer = ask(single), ask(sharded)
        assert answer.hits == expected.hits and answer.histogram == expected.histogram
        assert (answer.threshold, answer.pool) == (expected.threshold, expected.pool)
        confirmed += sum((hit.inliers or 0) >= 8 for hit in answer.hits)
        for one, other in zip(
            answer.verifications or (), expected.verifications or (), strict=True
        ):
            assert (one is None) == (other is None)
            if one is not None:
                np.testing.assert_array_equal(one.query_yx, other.query_yx)
    assert bool(confirmed) == details["local"]
    if details["local"]:
        one, other = (engine.match_id("i10", "i28") for engine in (single, sharded))
        assert one.inliers == other.inliers >= 8


def test_shards_of_which_one_has_no_local_features_are_searched_without(tmp_path):
    parts = [made_with_details(5, seed, local=seed == 0) for seed in (0, 1)]
    parts[1] = ([Item(f"j{n}") for n in range(5)], *parts[1][1:])
    engines = [
        detailed_engine(tmp_path / f"{n}", part, local=n == 0, regions=False)
        for n, part in enumerate(parts)
    ]
    for order in (engines, engines[::-1]):
        sharded = ShardedEngine(order)
        assert len(sharded.search_id("i1").hits) == 9
        with pytest.raises(StoreError, match="--local sift"):
            sharded.search_id("i1", Query(verify=True, verify_top=1))


@pytest.mark.parametrize("query", [Query(threshold=17), Query(pool=3), Query(histogram=True)])
def test_milliseconds_are_those_of_all_shards(world, monkeypatch, query):
    """Each shard says that it took a second for one stage and ten for the other."""
    sharded = ShardedEngine(world[1].engines)

    def slow(find):
        def found(*arguments, **options):
            return dataclasses.replace(
                find(*arguments, **options), coarse_seconds=1.0, fine_seconds=10.0
            )

        return found

    for one in sharded.engines:
        monkeypatch.setattr(one.finder, "find", slow(one.finder.find))
    zeros = np.zeros(2, np.uint8), np.zeros(4, np.float32)
    took = sharded.search_encoded(*zeros, query).milliseconds
    assert list(took) == ["encode", "coarse", "fine", "verify"]
    assert (took["encode"], took["fine"], took["verify"]) == (None, 40_000, None)
    # The threshold of a pool is counted first, in the time of the coarse stage.
    counting = took["coarse"] - 4000
    assert 0 < counting < 1000 if query.pool else 0 <= counting < 1


def test_counting_takes_part_in_the_coarse_stage(world, monkeypatch):
    sharded = ShardedEngine(world[1].engines)
    for one in sharded.engines:

        def slowly(code, *, allowed=None, histogram=one.finder.histogram):
            time.sleep(0.02)
            return histogram(code, allowed=allowed)

        monkeypatch.setattr(one.finder, "histogram", slowly)
    zeros = np.zeros(2, np.uint8), np.zeros(4, np.float32)
    assert sharded.search_encoded(*zeros, Query(pool=3)).milliseconds["coarse"] >= 80


@pytest.mark.fast("folder")
@pytest.mark.parametrize("second", ["folder", "chdb"])
def test_indexes_are_opened_by_their_places(photos, bundle_folder, tmp_path, request, second):
    places = [str(tmp_path / "discs"), str(tmp_path / "ramps")]
    if second == "chdb":
        places[1] = f"chdb://{request.getfixturevalue('chdb_folder')}/sharded/ramps"
    whole = Index.create(tmp_path / "whole", bundle_folder, feature_dtype="float32")
    for place, kind in zip(places, ("disc", "ramp"), strict=True):
        for index in (Index.create(place, bundle_folder, feature_dtype="float32"), whole):
            index.update([photos / kind])
    query = photos / "ramp/3.png"
    wanted = Engine(whole).search(query, Query(k=12, pool=12))
    sharded = open_sharded(places, runtime="soonest", num_threads=1)
    assert [engine.num_threads for engine in sharded.engines] == [1, 1]
    assert sharded.engines[0].index.encoder.num_threads == 1
    found = sharded.search(query, Query(k=12, pool=12))
    assert [hit.id for hit in found.hits] == [hit.id for hit in wanted.hits]
    assert {os.path.dirname(hit.id) for hit in found.hits} == {"disc", "ramp"}
    assert found.query == str(query) and found.milliseconds["encode"] > 0
    with pytest.raises(ArgumentError, match="twice"):
        open_sharded([places[0], places[0]])
    for none in ([], places[0]):
        with pytest.raises(ArgumentError, match="list"):
            open_sharded(none)


def test_what_needs_one_index_says_so(world):
    with pytest.raises(ArgumentError, match="one index"):
        next(world[1].duplicates(2))


def test_an_id_that_several_shards_hold_is_left_out_of_all_and_takes_no_place(tmp_path):
    codes, features = np.arange(8, dtype=np.uint8).reshape(4, 2), np.eye(4, dtype=np.float32)
    shards = [
        engine(tmp_path / str(number), [Item(id) for id in ids], codes[rows], features[rows])
        for number, (ids, rows) in enumerate([("ab", [0, 1]), ("ac", [2, 3])])
    ]
    found = ShardedEngine(shards).search_id("a", Query(k=2))
    assert sorted(hit.id for hit in found) == ["b", "c"]
    assert found.pool == 4 and min(hit.bits_apart for hit in found) > 0
    first = ShardedEngine(shards[::-1]).search_id("a", Query(k=1))
    assert first[0].id == "c"  # of equal distances the hit of the earlier shard


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
