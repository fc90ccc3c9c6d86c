"""One contract for every kind of index: a folder and ClickHouse give identical answers.

The codes are short and the features small whole numbers, so that both stages are full of ties.
"""

import itertools
import os

import numpy as np
import pytest

from hashnet.errors import ArgumentError, StoreError, UnknownIdError, UnknownNameError
from retrieval.engine import Engine
from retrieval.index import Index
from retrieval.store import Item

NUM = 300
TABLES = itertools.count()
DISTANCE_TOLERANCE = 1e-6  # relative; both add float64, in another order
KINDS = ["folder", "chdb"]


def a_place(kind, request, tmp_path_factory):
    if kind == "folder":
        return str(tmp_path_factory.mktemp("contract") / "index")
    return f"chdb://{request.getfixturevalue('chdb_folder')}/contracts/t{next(TABLES)}"


@pytest.fixture(params=KINDS)
def place(request, tmp_path_factory):
    return a_place(request.param, request, tmp_path_factory)


def made(num, seed=0, dim=1280):
    """Items, codes and features, with many equal codes, equal features and equal distances."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 256, (12, 4), dtype=np.uint8)[rng.integers(0, 12, num)]
    features = np.zeros((num, dim), np.float32)
    features[:, :3] = rng.integers(-2, 3, (num, 3))
    labels = [["cat", "dog", "o'x\n", None][number] for number in rng.integers(0, 4, num)]
    items = [Item(f"i{n}", f"/p/{n}", label) for n, label in enumerate(labels)]
    return items, codes, features


def filled(place, bundle_folder):
    """An index in five commits, with some images replaced, relabelled and removed."""
    index = Index.create(place, bundle_folder, feature_dtype="float32")
    items, codes, features = made(NUM)
    with index.store.writer() as writer:
        for part in np.array_split(np.arange(NUM), 3):
            writer.add([items[at] for at in part], codes[part], features[part])
        again = np.arange(5, NUM, 7)
        writer.add([items[at] for at in again], codes[again][::-1].copy(), features[again])
        writer.remove([items[at].id for at in range(3, NUM, 11)])
        writer.update([Item("i1", "/moved", "dog", 5, 6), Item("i2", None, None)])
    return index


@pytest.fixture(scope="module", params=["chdb"])
def two(request, bundle_folder, tmp_path_factory):
    """Engines of the folder and of another kind, filled alike."""
    return [
        Engine(filled(a_place(kind, request, tmp_path_factory), bundle_folder))
        for kind in ("folder", request.param)
    ]


def assert_same(first, second):
    assert (first.threshold, first.pool) == (second.threshold, second.pool)
    fields = [
        [(hit.id, hit.path, hit.label, hit.bits_apart) for hit in result.hits]
        for result in (first, second)
    ]
    assert fields[0] == fields[1]
    distances = [[hit.distance for hit in result.hits] for result in (first, second)]
    np.testing.assert_allclose(*distances, rtol=DISTANCE_TOLERANCE, atol=DISTANCE_TOLERANCE)


POOLS = [{}, *({"threshold": t} for t in (0, 1, 9, 16, 33, 100)), {"pool": 1}, {"pool": 50}]
FILTERS = [
    {},
    {"label": "cat"},
    {"label": ["dog", "o'x\n"]},
    {"label": []},
    {"ids": ["i1", "i2", "i3", "i5", "nobody", "'; DROP"]},
    {"ids": []},
    {"label": "dog", "ids": [f"i{n}" for n in range(0, NUM, 2)]},
]


@pytest.mark.parametrize("pool", POOLS, ids=str)
@pytest.mark.parametrize("narrowed", FILTERS, ids=lambda filters: ",".join(filters) or "all")
def test_answers_are_identical(two, pool, narrowed):
    _, codes, features = made(NUM)
    for k, at in ((1, 0), (7, 1), (10 * NUM, 2)):
        answers = [
            engine.search_encoded(codes[at], features[at], k=k, **pool, **narrowed)
            for engine in two
        ]
        assert_same(*answers)


def test_ties_are_ordered_by_row(two):
    _, codes, features = made(NUM)
    for engine in two:
        hits = engine.search_encoded(codes[0], features[0], k=NUM, threshold=33).hits
        distances = [hit.distance for hit in hits]
        assert len(set(distances)) < len(hits) / 4 and distances == sorted(distances)
        rows = engine.snapshot.rows([hit.id for hit in hits])
        order = sorted(zip(distances, rows.tolist(), strict=True))
        assert [row for _, row in order] == rows.tolist()


def test_searches_by_id_are_identical(two):
    for id in ("i0", "i1", "i2", "i5"):
        for options in ({}, {"threshold": 9}, {"label": "dog", "k": 3}):
            assert_same(*(engine.search_id(id, **options) for engine in two))
        assert two[0].path(id) == two[1].path(id)


def test_duplicates_are_identical(two):
    pairs = [[(a.id, b.id, b.bits_apart) for a, b in engine.duplicates(2)] for engine in two]
    assert len(pairs[0]) > 100 and pairs[0] == pairs[1]


def ids_of(engine, rows):
    return [item.id for item in engine.snapshot.items(rows)]


@pytest.mark.parametrize("label", [None, "cat", "o'x\n"])
def test_lists_of_rows_are_identical(two, label):
    whole = [ids_of(engine, engine.finder.rows(label)) for engine in two]
    assert whole[0] == whole[1] and len(whole[0]) > 40
    if label is None:
        assert sorted(whole[0]) == sorted(all_ids(two[0].index))
    for offset, limit in ((0, 10), (7, 20), (len(whole[0]) - 3, 9), (10**6, 5), (3, None)):
        wanted = whole[0][offset:][:limit]
        for engine in two:
            assert ids_of(engine, engine.finder.rows(label, offset=offset, limit=limit)) == wanted
    for most in (1, 5, 40, 10**6):
        spread = [ids_of(engine, engine.finder.spread(label, most)) for engine in two]
        assert spread[0] == spread[1] and spread[0][0] == whole[0][0]
        assert min(most, len(whole[0])) / 2 <= len(spread[0]) <= most


@pytest.mark.parametrize("by", ["code", "feature"])
def test_the_most_like_are_identical_and_the_largest(two, by):
    index = two[0].index
    num = index.encoder.config.num_bits if by == "code" else index.encoder.config.feature_dim
    weights = np.random.default_rng(0).integers(-2, 3, num).astype(np.float32)
    found = [engine.finder.most_like(weights, 30, by=by) for engine in two]
    assert ids_of(two[0], found[0]) == ids_of(two[1], found[1])
    rows = two[0].finder.rows()
    snapshot = two[0].snapshot
    if by == "code":
        scores = [
            sum(weight for weight, bit in zip(weights, np.unpackbits(code), strict=True) if bit)
            for code in snapshot.codes[rows]
        ]
    else:
        scores = snapshot.features(rows) @ weights
    best = sorted(zip(scores, rows.tolist(), strict=True), key=lambda one: (-one[0], one[1]))
    assert [row for _, row in best[:30]] == found[0].tolist()


@pytest.mark.parametrize("start", ["", "i", "i1", "nothing", "'%\udcff"])
def test_ids_that_begin_so_and_the_others(two, start):
    everything = all_ids(two[0].index)
    inside = [id for id in everything if id.startswith(start)]
    for engine in two:
        ends = engine.snapshot.id_ends(start)
        assert len(ends) == (2 if inside else 0) and set(ends) <= set(inside)
        if inside:
            assert os.path.commonprefix(ends) == os.path.commonprefix(inside)
        outside = engine.snapshot.ids_outside(start)
        assert sorted(outside) == sorted(set(everything) - set(inside))


def test_infos_agree(two):
    infos = [engine.index.info() for engine in two]
    for name in ("images", "bits", "feature_dim", "labels", "fingerprint", "origin"):
        assert infos[0][name] == infos[1][name], name


# --- What every kind does, asked one at a time ----------------------------------------------------


def all_ids(index):
    code, feature = np.zeros(4, np.uint8), np.zeros(1280, np.float32)
    return [
        hit.id for hit in Engine(index).search_encoded(code, feature, k=10**6, threshold=99).hits
    ]


def test_an_empty_index_has_no_hits(place, bundle_folder):
    index = Index.create(place, bundle_folder)
    _, codes, features = made(1)
    result = Engine(index).search_encoded(codes[0], features[0])
    assert (result.hits, result.pool, result.threshold) == ((), 0, 0)
    assert index.num_items == 0 and index.info()["labels"] == {}


def test_wrong_arguments_are_refused_alike(place, bundle_folder):
    engine = Engine(filled(place, bundle_folder))
    _, codes, features = made(1)
    for wrong in ({"k": 0}, {"threshold": -1}, {"threshold": 1.5}, {"pool": 0}, {"ids": "i1"}):
        with pytest.raises(ArgumentError):
            engine.search_encoded(codes[0], features[0], **wrong)
    with pytest.raises(UnknownNameError, match="cat"):
        engine.search_encoded(codes[0], features[0], label="bird")
    with pytest.raises(UnknownIdError):
        engine.search_id("i3")  # removed
    with pytest.raises(StoreError):
        Index.create(place, bundle_folder)
    with pytest.raises(ArgumentError), engine.index.store.writer() as writer:
        writer.update([Item("nobody")])


def test_adding_twice_changes_nothing(place, bundle_folder):
    index = Index.create(place, bundle_folder, feature_dtype="float32")
    items, codes, features = made(20)
    for _ in range(3):
        with index.store.writer() as writer:
            writer.add(items, codes, features)
        assert sorted(all_ids(index)) == sorted(item.id for item in items)
        assert index.num_items == 20


def test_removed_images_come_back_only_when_added(place, bundle_folder):
    index = Index.create(place, bundle_folder, feature_dtype="float32")
    items, codes, features = made(4)
    with index.store.writer() as writer:
        writer.add(items, codes, features)
    assert index.remove(["i2", "nobody", "i2"]) == ["i2"] and index.remove(["i2"]) == []
    assert sorted(all_ids(index)) == ["i0", "i1", "i3"]
    with index.store.writer() as writer:
        writer.add([items[2]], codes[2:3], features[2:3])
    assert sorted(all_ids(index)) == ["i0", "i1", "i2", "i3"]


def test_an_engine_keeps_its_view_while_others_write(place, bundle_folder):
    index = Index.create(place, bundle_folder, feature_dtype="float32")
    items, codes, features = made(30)
    with index.store.writer() as writer:
        writer.add(items[:20], codes[:20], features[:20])
        engine = Engine(index)
        before = engine.search_encoded(codes[0], features[0], k=99, threshold=99)
        writer.add(items[10:], codes[10:][::-1].copy(), features[10:])
        writer.remove(["i0", "i15"])
    after = engine.search_encoded(codes[0], features[0], k=99, threshold=99)
    assert after.hits == before.hits and after.pool == before.pool == 20
    assert len(all_ids(index)) == 28


def test_a_version_changes_with_every_commit_and_only_then(place, bundle_folder):
    index = Index.create(place, bundle_folder, feature_dtype="float32")
    items, codes, features = made(4)
    versions = [index.store.version()]
    with index.store.writer() as writer:
        for change in (
            lambda: writer.add(items, codes, features),
            lambda: writer.add(items[:1], codes[:1], features[:1]),
            lambda: writer.update([Item("i1", "/moved")]),
            lambda: writer.remove(["i2"]),
            writer.compact,
        ):
            change()
            versions.append(index.store.version())
            assert index.store.version() == Index.open(place).store.version() == versions[-1]
    assert len(set(versions)) == len(versions)
    assert index.reopened() is index


def test_compaction_changes_no_answer(place, bundle_folder):
    index = filled(place, bundle_folder)
    _, codes, features = made(NUM)
    before = Engine(index).search_encoded(codes[0], features[0], k=NUM, pool=100)
    with index.store.writer() as writer:
        report = writer.compact()
    assert report.rows_after == index.num_items < report.rows_before
    after = Engine(index).search_encoded(codes[0], features[0], k=NUM, pool=100)
    assert after.hits == before.hits


def test_odd_names_are_kept(place, bundle_folder):
    index = Index.create(place, bundle_folder, feature_dtype="float32")
    ids = ["a'b", "\\", "\n\t", "ü 日本", "\udcff", "{x:String}", "%s", ""]
    items = [Item(id, id, id) for id in ids]
    _, codes, features = made(len(ids))
    with index.store.writer() as writer:
        writer.add(items, codes, features)
    engine = Engine(Index.open(place))
    for id in ids:
        [hit] = engine.search_encoded(codes[0], features[0], ids=[id], label=id).hits
        assert (hit.id, hit.path, hit.label) == (id, id, id)
    assert index.remove(ids) == ids and index.num_items == 0


def test_photos_are_followed_and_found_after_opening_again(place, bundle_folder, photos):
    index = Index.create(place, bundle_folder)
    assert index.update([photos], label_from_folder=True).added == 24
    assert index.update([photos], label_from_folder=True).unchanged == 24
    opened = Index.open(place)
    assert opened.encoder.fingerprint == index.encoder.fingerprint
    hits = Engine(opened).search(photos / "disc/3.png", k=6).hits
    assert hits[0].id == str(photos / "disc/3.png") and hits[0].bits_apart == 0
    assert {hit.label for hit in hits} == {"disc"}
    assert index.update([photos]).unchanged == 24
    assert index.info()["labels"] == {"checks": 6, "stripes": 6, "disc": 6, "ramp": 6}
