"""Images with regions: each is found once, by its nearest row. The slow way stands beside."""

import itertools
import types

import numpy as np
import pytest

from hashnet.errors import ArgumentError, ShapeError
from hashnet.retrieval.search.engine import Engine
from hashnet.retrieval.search.query import Query
from hashnet.retrieval.search.sharded import ShardedEngine
from hashnet.retrieval.store.folder.store import Store
from hashnet.retrieval.store.items import Item

NUM, BITS, DIM, MOST = 60, 16, 3, 4
THRESHOLDS = (1, 3, 6, 9, 17, 99)


def made(num, seed):
    """Items, codes, features and regions, full of ties, with 0 to `MOST` regions an image."""
    rng = np.random.default_rng(seed)
    regions = [
        np.array([(place, number, place + 5, number + 7) for place in range(count)], int).reshape(
            -1, 4
        )
        for number, count in enumerate(rng.integers(0, MOST + 1, num))
    ]
    rows = num + sum(map(len, regions))
    codes = rng.integers(0, 256, (9, 2), dtype=np.uint8)[rng.integers(0, 9, rows)]
    features = rng.integers(-1, 2, (rows, DIM)).astype(np.float32)
    items = [Item(f"i{n}", f"/{n}", ["cat", "dog", None][n % 3], n, n) for n in range(num)]
    return items, codes, features, None, regions


def a_store(folder):
    return Store.create(
        folder, num_bits=BITS, feature_dim=DIM, fingerprint="f", regions_per_image=MOST
    )


def filled(folder):
    """A store in four commits, with images replaced, relabelled and removed; and its images.

    The images are what the slow way searches: {id: (item, [(code, feature, region), ...])}, in
    the order of their rows.
    """
    store, images = a_store(folder), {}

    def add(writer, items, codes, features, local, regions):
        writer.add(items, codes, features, local, regions)
        rows = iter(zip(codes, features, strict=True))
        for item, boxes in zip(items, regions, strict=True):
            images.pop(item.id, None)
            wheres = [None, *map(tuple, boxes.tolist())]
            images[item.id] = item, [(*next(rows), where) for where in wheres]

    with store.writer() as writer:
        add(writer, *made(NUM, 0))
        add(writer, *made(NUM // 4, 1))
    with store.writer() as writer:
        assert writer.remove([f"i{n}" for n in range(3, NUM, 7)] + ["nobody"])
        for number in range(3, NUM, 7):
            del images[f"i{number}"]
        changed = [Item("i1", "/moved", "bird"), Item("i30", None, "dog")]
        writer.update(changed)
        for item in changed:
            images[item.id] = item, images.pop(item.id)[1]
    return store, images


def engine_of(store):
    config = types.SimpleNamespace(num_bits=BITS)
    return Engine(types.SimpleNamespace(store=store, encoder=types.SimpleNamespace(config=config)))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    store, images = filled(tmp_path_factory.mktemp("regions") / "index")
    return engine_of(store), images


def apart(code, other):
    return sum((int(a) ^ int(b)).bit_count() for a, b in zip(code, other, strict=True))


def slowly(images, code, feature, threshold):
    """(id, region, bits apart, distance) of the images of a pool, by the definition."""
    found = []
    for place, (item, rows) in enumerate(images.values()):
        near = [
            (sum((float(a) - float(b)) ** 2 for a, b in zip(feature, other, strict=True)), row)
            for row, (other_code, other, _) in enumerate(rows)
            if apart(code, other_code) < threshold
        ]
        if near:
            squared, row = min(near)
            found.append((squared, place, item.id, rows[row][2], apart(code, rows[row][0])))
    return [(id, region, bits, squared**0.5) for squared, _, id, region, bits in sorted(found)]


def fields(result):
    return [(hit.id, hit.region, hit.bits_apart, hit.distance) for hit in result.hits]


def queries():
    _, codes, features, _, _ = made(3, 7)
    return list(zip(codes[:3], features[:3] + np.float32(0.25), strict=True))


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_a_search_follows_the_definition(world, threshold):
    engine, images = world
    for (code, feature), k in itertools.product(queries(), (1, 2, 7, 1000)):
        wanted = slowly(images, code, feature, threshold)
        result = engine.search_encoded(code, feature, Query(k=k, threshold=threshold))
        assert result.pool == len(wanted)
        assert fields(result) == wanted[:k]
        assert len({hit.id for hit in result.hits}) == len(result.hits)
    if threshold == 99:
        assert {region is None for _, region, _, _ in wanted} == {True, False}


@pytest.mark.parametrize(
    "options", [{}, {"labels": "cat"}, {"ids": ["i0", "i1", "i3", "i18", "x"]}]
)
@pytest.mark.parametrize("wanted", [1, 2, 13, 40, 1000])
def test_a_pool_counts_images_and_is_the_smallest_that_is_large_enough(world, wanted, options):
    engine, images = world
    allowed = {
        id: image
        for id, image in images.items()
        if id in options.get("ids", images) and options.get("labels") in (None, image[0].label)
    }
    for code, feature in queries():
        result = engine.search_encoded(code, feature, Query(k=1000, pool=wanted, **options))
        assert fields(result) == slowly(allowed, code, feature, result.threshold)
        assert result.pool == len(result.hits) >= min(wanted, len(allowed))
        fewer = slowly(allowed, code, feature, result.threshold - 1)
        assert len(fewer) < min(wanted, len(allowed))


def test_the_histogram_counts_each_image_once(world):
    engine, images = world
    for code, feature in queries():
        least = [min(apart(code, row[0]) for row in rows) for _, rows in images.values()]
        result = engine.search_encoded(code, feature, Query(histogram=True))
        assert list(result.histogram) == np.bincount(least, minlength=BITS + 1).tolist()
        for threshold in THRESHOLDS:
            pool = engine.search_encoded(code, feature, Query(threshold=threshold)).pool
            assert pool == sum(result.histogram[:threshold])


def test_a_search_by_id_asks_with_the_whole_image_and_leaves_it_out(world):
    engine, images = world
    code, feature, _ = images["i18"][1][0]
    others = {id: image for id, image in images.items() if id != "i18"}
    for k in (1, 5, 1000):
        wanted = slowly(others, code, feature, 99)[:k]
        assert fields(engine.search_id("i18", Query(k=k, threshold=99))) == wanted


def test_duplicates_are_of_whole_images(world):
    engine, images = world
    rows = engine.finder.rows()
    assert len(rows) == len(images) and set(engine.snapshot.regions(rows)) == {None}
    grouped = [image.id for group in engine.duplicates(3) for image in (group.keep, *group.copies)]
    assert len(grouped) == len(set(grouped)) and set(grouped) <= set(images)


def test_shards_answer_as_one_index(world, tmp_path):
    engine, images = world
    engines = []
    for number in range(2):
        store = a_store(tmp_path / str(number))
        kept = [image for place, image in enumerate(images.values()) if place % 2 == number]
        rows = [row for _, rows in kept for row in rows]
        with store.writer() as writer:
            writer.add(
                [item for item, _ in kept],
                np.array([row[0] for row in rows]),
                np.array([row[1] for row in rows]),
                None,
                [np.array([row[2] for row in rows[1:]], int).reshape(-1, 4) for _, rows in kept],
            )
        engines.append(engine_of(store))
    for code, feature in queries():
        for options in ({"threshold": 6}, {"pool": 9}):
            one = engine.search_encoded(code, feature, Query(k=1000, **options))
            many = ShardedEngine(engines).search_encoded(code, feature, Query(k=1000, **options))
            assert (one.pool, one.threshold) == (many.pool, many.threshold)
            assert sorted(fields(one), key=str) == sorted(fields(many), key=str)


def test_compaction_keeps_every_answer(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "hashnet.retrieval.store.folder.writer._COMPACT_ROWS", 7
    )  # parts end within images
    store, images = filled(tmp_path / "index")
    before = store.snapshot()
    with store.writer() as writer:
        report = writer.compact()
    after = store.snapshot()
    assert before.num_items == after.num_items == len(images)
    assert before.num_regions == after.num_regions == sum(len(r) - 1 for _, r in images.values())
    assert report.rows_after == after.num_rows == after.num_items + after.num_regions
    assert 0 < report.regions_gone < report.rows_before - report.rows_after
    assert store.check() == []
    for code, feature in queries():
        result = engine_of(store).search_encoded(code, feature, Query(k=1000, threshold=99))
        assert fields(result) == slowly(images, code, feature, 99)


def test_regions_go_with_their_image_whatever_writers_do(tmp_path):
    """Many writes at random, beside a dictionary."""
    rng = np.random.default_rng(5)
    store, images = a_store(tmp_path / "index"), {}
    writer = store.writer()
    for step in range(60):
        ids = [f"i{n}" for n in rng.permutation(12)[: rng.integers(1, 4)]]
        kind = ["add", "add", "remove", "update", "compact", "reopen"][rng.integers(6)]
        if kind == "add":
            _, codes, features, _, regions = made(len(ids), step)
            writer.add([Item(id) for id in ids], codes, features, None, regions)
            for id, boxes in zip(ids, regions, strict=True):
                images[id] = Item(id), [None, *map(tuple, boxes.tolist())]
        elif kind == "remove":
            assert writer.remove(ids) == [id for id in ids if images.pop(id, None)]
        elif kind == "update":
            ids = [id for id in ids if id in images]
            writer.update([Item(id, None, f"step {step}") for id in ids])
            images |= {id: (Item(id, None, f"step {step}"), images[id][1]) for id in ids}
        elif kind == "compact":
            writer.compact()
        else:
            writer.close()
            writer = store.writer()
        with store.snapshot() as snapshot:
            kept = (
                np.flatnonzero(snapshot.live)
                if snapshot.live is not None
                else range(snapshot.num_rows)
            )
            held = {}
            for item, region in zip(snapshot.items(kept), snapshot.regions(kept), strict=True):
                held.setdefault(item.id, (item, []))[1].append(region)
            assert held == images
            assert snapshot.num_items == len(images) == len(list(snapshot.items_in_order()))
            live = snapshot.rows(list(images))
            assert [snapshot.regions([row])[0] for row in live] == [None] * len(images)
    writer.close()
    assert store.check() == []


def test_what_does_not_fit_is_refused_and_changes_nothing(tmp_path):
    store = a_store(tmp_path / "index")
    code, feature = np.zeros((2, 2), np.uint8), np.zeros((2, DIM), np.float32)
    plain = Store.create(tmp_path / "plain", num_bits=BITS, feature_dim=DIM, fingerprint="f")
    with plain.writer() as writer, pytest.raises(ArgumentError, match="of all its images or of"):
        writer.add([Item("a")], code, feature, None, [[(0, 0, 1, 1)]])
    wrong = {
        "none for an index with": None,
        "0 of 1": [],
        "with an area": [[(3, 0, 3, 9)]],
        "up to 4 regions": [[(0, 0, 1, 1)] * 5],
        "whole numbers": [[(0.5, 0, 1, 1)]],
        r"shape \(r, 4\)": [[(0, 1, 1)]],
        r"shape \(1, 2\)": [np.empty((0, 4), int)],  # a row too many
        "-1": [[(-1, 0, 1, 1)]],
        "2147483648": [[(0, 0, 1, 2**31)]],
    }
    with store.writer() as writer:
        for match, regions in wrong.items():
            with pytest.raises((ArgumentError, ShapeError), match=match):
                writer.add([Item("a")], code, feature, None, regions)
    assert store.snapshot().num_rows == 0 and store.check() == []
    for number in (-1, 65, 1.5):
        with pytest.raises(ArgumentError, match="0 to 64 regions"):
            Store.create(
                tmp_path / "x", num_bits=8, feature_dim=1, fingerprint="f", regions_per_image=number
            )


def test_an_empty_index_with_regions_has_no_hits(tmp_path):
    result = engine_of(a_store(tmp_path / "index")).search_encoded(
        *queries()[0], Query(histogram=True)
    )
    assert (result.hits, result.pool, result.threshold, sum(result.histogram)) == ((), 0, 0, 0)
