"""One contract for every kind of index: a folder and ClickHouse give identical answers.

The codes are short and the features small whole numbers, so that both stages are full of ties.
"""

import itertools
import os
import pickle
import types

import numpy as np
import pytest

from hashnet.errors import ArgumentError, ShapeError, StoreError, UnknownIdError, UnknownNameError
from hashnet.retrieval import vocabulary
from hashnet.retrieval.index import Index
from hashnet.retrieval.search.engine import Engine
from hashnet.retrieval.search.finders import finder_of
from hashnet.retrieval.search.query import Query
from hashnet.retrieval.store.items import Item, StoredFeatures
from hashnet.retrieval.store.kinds import kind_of

NUM = 300
TABLES = itertools.count()
DISTANCE_TOLERANCE = 1e-6  # relative; both add float64, in another order
KINDS = ["folder", "chdb"]


def a_place(kind, request, tmp_path_factory):
    if kind == "folder":
        return str(tmp_path_factory.mktemp("contract") / "index")
    return f"chdb://{request.getfixturevalue('chdb_folder')}/contracts/t{next(TABLES)}"


@pytest.fixture(params=["folder", pytest.param("chdb", marks=pytest.mark.thorough)])
def place(request, tmp_path_factory):
    return a_place(request.param, request, tmp_path_factory)


def made(num, seed=0, dim=64):
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
        [
            (hit.id, hit.path, hit.label, hit.bits_apart, hit.region, hit.inliers)
            for hit in result.hits
        ]
        for result in (first, second)
    ]
    assert fields[0] == fields[1]
    distances = [[hit.distance for hit in result.hits] for result in (first, second)]
    np.testing.assert_allclose(*distances, rtol=DISTANCE_TOLERANCE, atol=DISTANCE_TOLERANCE)


POOLS = [{}, *({"threshold": t} for t in (1, 9, 16, 33, 100)), {"pool": 1}, {"pool": 50}]
FILTERS = [
    {},
    {"labels": "cat"},
    {"labels": ["dog", "o'x\n"]},
    {"labels": []},
    {"ids": ["i1", "i2", "i3", "i5", "nobody", "'; DROP"]},
    {"ids": []},
    {"labels": "dog", "ids": [f"i{n}" for n in range(0, NUM, 2)]},
]


@pytest.mark.fast(
    "chdb-all-{}",
    "chdb-labels1-{'threshold': 9}",
    "chdb-ids0-{'pool': 50}",
    "chdb-labels,ids-{'threshold': 33}",
    "chdb-all-{'pool': 1}",
)
@pytest.mark.parametrize("pool", POOLS, ids=str)
@pytest.mark.parametrize("narrowed", FILTERS, ids=lambda filters: ",".join(filters) or "all")
def test_answers_are_identical(two, pool, narrowed):
    _, codes, features = made(NUM)
    for k, at in ((1, 0), (7, 1), (10 * NUM, 2)):
        answers = [
            engine.search_encoded(codes[at], features[at], Query(k=k, **pool, **narrowed))
            for engine in two
        ]
        assert_same(*answers)


def test_ties_are_ordered_by_row(two):
    _, codes, features = made(NUM)
    for engine in two:
        hits = engine.search_encoded(codes[0], features[0], Query(k=NUM, threshold=33)).hits
        distances = [hit.distance for hit in hits]
        assert len(set(distances)) < len(hits) / 4 and distances == sorted(distances)
        rows = engine.snapshot.rows([hit.id for hit in hits])
        order = sorted(zip(distances, rows.tolist(), strict=True))
        assert [row for _, row in order] == rows.tolist()


def test_searches_by_id_are_identical(two):
    for id in ("i0", "i1", "i2", "i5"):
        for options in ({}, {"threshold": 9}, {"labels": "dog", "k": 3}):
            assert_same(*(engine.search_id(id, Query(**options)) for engine in two))
        assert two[0].path(id) == two[1].path(id)


@pytest.mark.thorough
def test_duplicates_are_identical(two):
    groups = [list(engine.duplicates(2)) for engine in two]
    assert groups[0] and groups[0] == groups[1]


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
        ends = engine.snapshot.id_ends(start) or ()
        assert len(ends) == (2 if inside else 0) and set(ends) <= set(inside)
        if inside:
            assert os.path.commonprefix(ends) == os.path.commonprefix(inside)
        outside = engine.snapshot.ids_outside(start)
        assert sorted(outside) == sorted(set(everything) - set(inside))


def test_images_come_in_the_order_of_their_rows(two):
    wanted = [(item.id, item.label, item.path) for item in two[0].snapshot.items_in_order()]
    assert len(wanted) == two[0].snapshot.num_items
    for engine in two:
        snapshot = engine.snapshot
        items = list(snapshot.items_in_order())
        assert [(item.id, item.label, item.path) for item in items] == wanted
        ids = [id for id, _, _ in wanted]
        assert snapshot.ids() == ids and snapshot.ids(3, 4) == ids[3:7]
        assert snapshot.ids(len(ids)) == [] and snapshot.ids(2) == ids[2:]
        assert snapshot.rows(ids).tolist() == sorted(snapshot.rows(ids).tolist())


@pytest.mark.parametrize("start", ["", "i", "i1", "nothing", "'%\udcff"])
def test_rows_of_ids_that_begin_so_and_of_a_label(two, start):
    for engine in two:
        snapshot = engine.snapshot
        items = list(snapshot.items_in_order())
        inside = [item.id for item in items if item.id.startswith(start)]
        assert snapshot.rows_beginning_with(start).tolist() == snapshot.rows(inside).tolist()
        for label in [*engine.labels, start]:
            ids = [item.id for item in items if item.label == label]
            assert snapshot.rows_of_label(label).tolist() == snapshot.rows(ids).tolist()


def test_what_a_table_lacks_it_says_with_one_error(two):
    folder, table = (engine.snapshot for engine in two)
    folder.feature_map([0])
    with pytest.raises(StoreError, match="does not offer an array"):
        table.feature_map([0])
    for lacking in ("live", "live_images", "owners"):
        getattr(folder, lacking)
        with pytest.raises(StoreError, match=r"does not offer an array.*Make an index in a folder"):
            getattr(table, lacking)
    with pytest.raises(StoreError, match="does not offer an array"):
        table.labels()


def test_the_shares_of_bits_are_those_of_all_images_or_near_them(two):
    index = two[0].index
    bits = np.unpackbits(index.codes(), axis=1)[:, : index.store.num_bits]
    for engine in two:
        shares = engine.snapshot.bit_shares(NUM)
        assert shares.dtype == np.float64
        np.testing.assert_allclose(shares, bits.mean(axis=0), atol=1e-12)
        some = engine.snapshot.bit_shares(NUM // 5)
        assert (some != shares).any() and abs(some - shares).max() < 0.3


def test_an_empty_index_has_no_share_of_bits(place, bundle_folder):
    index = Index.create(place, bundle_folder)
    with index.store.snapshot() as snapshot:
        assert snapshot.bit_shares(9).tolist() == [0] * index.store.num_bits


def test_infos_agree(two):
    infos = [engine.index.info() for engine in two]
    for name in ("images", "bits", "feature_dim", "labels", "fingerprint", "origin"):
        assert infos[0][name] == infos[1][name], name


# --- Local features and regions -------------------------------------------------------------------

MOST_REGIONS, DESCRIPTOR_DIM, NUM_THINGS = 3, 32, 9
DETAILS = [{"local": True}, {"regions": True}, {"local": True, "regions": True}]


def seen(number, rng):
    """Local features of one of a few things, from somewhere, among others; sometimes none."""
    thing = np.random.default_rng(number % NUM_THINGS)
    yx = thing.uniform(0, 300, (40, 2)) * rng.uniform(0.7, 1.4) + rng.uniform(0, 50, 2)
    descriptors = np.concatenate(
        [thing.normal(size=(40, DESCRIPTOR_DIM)), rng.normal(size=(9, 32))]
    )
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    yx = np.concatenate([yx, rng.uniform(0, 300, (9, 2))])
    kept = rng.permutation(49)[: 0 if number % 13 == 0 else rng.integers(15, 49)]
    return StoredFeatures(yx[kept].astype(np.float32), descriptors[kept].astype(np.float16))


def made_with_details(num, seed, *, local=False, regions=False):
    """Arguments of `add`, full of ties; of every image the things that it shows, and its parts."""
    rng = np.random.default_rng(seed)
    boxes = None
    if regions:
        boxes = [
            np.array([(at, n, at + 2, n + 9) for at in range(count)], int).reshape(-1, 4)
            for n, count in enumerate(rng.integers(0, MOST_REGIONS + 1, num))
        ]
    rows = num + sum(map(len, boxes or []))
    codes = rng.integers(0, 256, (9, 2), dtype=np.uint8)[rng.integers(0, 9, rows)]
    features = rng.integers(-1, 2, (rows, 3)).astype(np.float32)
    items = [Item(f"i{n}", f"/p/{n}", ["cat", "dog", None][n % 3], n) for n in range(num)]
    seen_things = [seen(n, rng) for n in range(num)] if local else None
    return items, codes, features, seen_things, boxes


def detailed(place, *, local=False, regions=False):
    """An engine over images in several commits, some replaced, removed and changed."""
    store = kind_of(place).create(
        place,
        num_bits=16,
        feature_dim=3,
        feature_dtype="float32",
        fingerprint="0123456789abcdef",
        encoder_files={},
        extractor="sift" if local else None,
        descriptor_dim=DESCRIPTOR_DIM if local else None,
        regions_per_image=MOST_REGIONS if regions else 0,
    )
    with store.writer() as writer:
        writer.add(*made_with_details(80, 0, local=local, regions=regions))
        if local:
            assert vocabulary.fit(writer, store.snapshot(), num_threads=1)
        writer.add(*made_with_details(25, 1, local=local, regions=regions))
        assert writer.remove(["i7", "nobody", "i33"]) == ["i7", "i33"]
        assert writer.update([Item("i1", "/moved", "bird"), Item("i50", None, "dog")]) == 2
    return engine_of(store)


def engine_of(store, **options):
    return Engine(types.SimpleNamespace(store=store), **options)


@pytest.fixture(scope="module", params=DETAILS, ids="+".join)
def both(request, tmp_path_factory):
    """Engines of both kinds with the same local features, regions or both; and which."""
    engines = [
        detailed(a_place(kind, request, tmp_path_factory), **request.param) for kind in KINDS
    ]
    return engines, request.param


@pytest.mark.fast(
    "local+regions-{}", "local+regions-{'threshold': 100}", "local+regions-{'pool': 1}"
)
@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_answers_with_details_are_identical(both, pool):
    engines, details = both
    _, codes, features, _, _ = made_with_details(5, 2)
    regions = set()
    for k, at, narrowed in (
        (1, 0, {}),
        (7, 1, {"labels": "dog"}),
        (999, 2, {}),
        (9, 3, {"ids": ["i1", "i2", "i3", "i50", "i7"]}),
    ):
        found = [
            engine.search_encoded(
                codes[at], features[at], Query(k=k, histogram=True, **pool, **narrowed)
            )
            for engine in engines
        ]
        assert_same(*found)
        assert found[0].histogram == found[1].histogram
        regions |= {hit.region for hit in found[0].hits}
    if pool == {"threshold": 100} and "regions" in details:
        assert len(regions) > 20 and None in regions


@pytest.mark.thorough
def test_verified_answers_are_identical(both):
    engines, details = both
    if "local" not in details:
        for engine in engines:
            with pytest.raises(StoreError, match="--local sift"):
                engine.search_id("i1", Query(verify=True))
        return
    pytest.importorskip("cv2", reason="needs OpenCV: pip install hashnet[delf]")
    confirmed = 0
    for id in ("i0", "i5", "i10", "i79"):  # i0 has no local features
        for options in ({}, {"k": 3, "verify_top": 40}, {"labels": "dog"}, {"pool": 9}):
            found = [engine.search_id(id, Query(verify=True, **options)) for engine in engines]
            assert_same(*found)
            confirmed += sum(hit.inliers >= 8 for hit in found[0].hits if hit.inliers)
        threaded = engine_of(engines[1].index.store, num_threads=3)
        assert (
            threaded.search_id(id, Query(verify=True)).hits
            == engines[1].search_id(id, Query(verify=True)).hits
        )
    assert confirmed > 20
    one, other = (engine.match_id("i10", "i19") for engine in engines)
    assert one.inliers == other.inliers >= 8
    np.testing.assert_array_equal(one.yx, other.yx)


@pytest.mark.fast("local+regions")
def test_answers_of_the_local_pool_are_identical(both):
    engines, details = both
    if "local" not in details:
        for engine in engines:
            with pytest.raises(StoreError, match="--local sift"):
                engine.search_id("i1", Query(same_object=True))
        return
    pytest.importorskip("cv2", reason="needs OpenCV: pip install hashnet[delf]")
    confirmed = 0
    for id in ("i0", "i5", "i10", "i79"):  # i0 has no local features
        for options in (
            {},
            {"k": 30, "verify_top": 5},
            {"labels": "dog"},
            {"ids": ["i1", "i14", "i19", "i5", "i7"]},
            {"histogram": True, "k": 2},
        ):
            found = [engine.search_id(id, Query(same_object=True, **options)) for engine in engines]
            assert_same(*found)
            assert found[0].histogram == found[1].histogram
            assert found[0].threshold is None and id not in [hit.id for hit in found[0].hits]
            assert (found[0].pool > 0) == (id != "i0")
            confirmed += sum(hit.inliers >= 8 for hit in found[0].hits if hit.inliers)
    assert confirmed > 20


@pytest.mark.thorough
def test_the_most_similar_are_identical_before_and_after_a_compaction(request, tmp_path_factory):
    places = [a_place(kind, request, tmp_path_factory) for kind in KINDS]
    engines = [detailed(place, local=True, regions=True) for place in places]
    descriptors = seen(10, np.random.default_rng(5)).descriptors

    def most_similar():
        answers = []
        for place in places:
            snapshot = kind_of(place).open(place).snapshot()
            finder = finder_of(snapshot)
            for allowed in (None, finder.allowed(labels=["dog"])):
                found = finder.similar(descriptors, 50, allowed=allowed)
                ids = [item.id for item in snapshot.items(found.rows)]
                answers.append((ids, found.similarities.tolist(), found.pool))
        return answers

    before = most_similar()
    assert before[:2] == before[2:] and before[0][2] > before[1][2] > 9
    for engine in engines:
        with engine.index.store.writer() as writer:
            writer.compact()
    assert most_similar() == before
    for engine in engines:
        store = engine.index.store
        with store.writer() as writer, store.snapshot() as snapshot:
            assert vocabulary.fit(writer, snapshot, seed=1, num_threads=2)
    after = most_similar()
    assert after[:2] == after[2:] and after != before


@pytest.mark.fast("plain")
@pytest.mark.parametrize("regions", [False, True], ids=["plain", "regions"])
def test_a_search_by_id_sends_three_statements(request, tmp_path_factory, monkeypatch, regions):
    """What the image is, how far the others are, and which are nearest."""
    place = a_place("chdb", request, tmp_path_factory)
    engine = detailed(place, local=True, regions=regions)
    sent, real = [], type(engine.snapshot).ask

    def counted(self, statement, **parameters):
        sent.append(statement)
        return real(self, statement, **parameters)

    monkeypatch.setattr(type(engine.snapshot), "ask", counted)
    assert len(engine.search_id("i10", Query(histogram=True)).hits) == 10
    assert len(sent) == 3
    sent.clear()
    assert len(engine.search_id("i10", Query(right=["i1"], wrong=["i2", "i3"])).hits) == 10
    assert len(sent) == 4


@pytest.mark.fast("local+regions")
def test_nothing_found_is_looked_up_by_its_id(both, monkeypatch):
    engines, details = both
    if "local" in details:
        pytest.importorskip("cv2", reason="needs OpenCV: pip install hashnet[delf]")
    _, codes, features, _, _ = made_with_details(5, 2)
    asked = []
    for engine in engines:
        real = type(engine.snapshot).rows
        monkeypatch.setattr(
            type(engine.snapshot),
            "rows",
            lambda self, ids, real=real: asked.append(len(ids)) or real(self, ids),
        )
        engine.search_encoded(codes[0], features[0])
    assert asked == []
    engines[0].search_id("i10", Query(verify="local" in details))
    assert asked == [1]


@pytest.mark.thorough
def test_details_are_identical_before_and_after_a_compaction(request, tmp_path_factory):
    details = {"local": True, "regions": True}
    places = [a_place(kind, request, tmp_path_factory) for kind in KINDS]
    stores = [detailed(place, **details).index.store for place in places]
    for compacted in (False, True):
        reports = []
        if compacted:
            for store in stores:
                with store.writer() as writer:
                    reports.append(writer.compact())
            assert len({(r.rows_before, r.rows_after, r.regions_gone) for r in reports}) == 1
        one, other = (kind_of(place).open(place).snapshot() for place in places)
        assert (one.num_items, one.num_regions) == (other.num_items, other.num_regions)
        assert one.num_rows == other.num_rows
        assert list(one.items_in_order()) == list(other.items_in_order())
        ids = sorted(item.id for item in one.items_in_order())
        assert len(ids) == 78
        rows = one.rows(ids), other.rows(ids)
        for kept, theirs in zip(
            one.local_features(rows[0]), other.local_features(rows[1]), strict=True
        ):
            for array, other_array in (
                (kept.yx, theirs.yx),
                (kept.descriptors, theirs.descriptors),
            ):
                np.testing.assert_array_equal(array, other_array)
                assert array.dtype == other_array.dtype
        assert one.regions(rows[0]) == other.regions(rows[1]) == [None] * 78
        labels = [snapshot.label_counts() for snapshot in (one, other)]
        assert labels[0] == labels[1] and list(labels[0]) == list(labels[1])
        lists = [
            [item.id for item in snapshot.items(finder_of(snapshot).rows())]
            for snapshot in (one, other)
        ]
        assert lists[0] == lists[1] and sorted(lists[0]) == ids


@pytest.mark.fast("folder")
@pytest.mark.parametrize("kind", KINDS)
def test_only_candidates_have_their_local_features_read(
    kind, request, tmp_path_factory, monkeypatch
):
    pytest.importorskip("cv2", reason="needs OpenCV: pip install hashnet[delf]")
    engine = detailed(a_place(kind, request, tmp_path_factory), local=True)
    read, real = [], type(engine.snapshot).local_features

    def counted(self, rows):
        read.extend(int(row) for row in rows)
        return real(self, rows)

    monkeypatch.setattr(type(engine.snapshot), "local_features", counted)
    engine.search_id("i10", Query(k=3))
    assert read == []
    hits = engine.search_id("i10", Query(verify=True, verify_top=21)).hits
    wanted = engine.snapshot.rows(["i10", *(hit.id for hit in hits if hit.inliers is not None)])
    assert len(read) == len(set(read)) == 22 and set(wanted.tolist()) <= set(read)


@pytest.mark.fast("folder")
@pytest.mark.parametrize("kind", KINDS)
def test_images_whose_details_do_not_fit_are_refused_alike(kind, request, tmp_path_factory):
    place = a_place(kind, request, tmp_path_factory)
    engine = detailed(place, local=True, regions=True)
    items, codes, features, local, _boxes = made_with_details(1, 3, local=True, regions=True)
    short = StoredFeatures(local[0].yx, local[0].descriptors[:, :5])
    odd = StoredFeatures(np.full((1, 2), np.nan, np.float32), np.zeros((1, 32), np.float16))
    box = np.array([[0, 0, 1, 1]])
    none = np.empty((0, 4), int)
    refusals = [
        (items, codes[:1], features[:1], None, [none]),
        (items, codes[:1], features[:1], local, None),
        (items, codes[:1], features[:1], [short], [none]),
        (items, codes[:1], features[:1], [odd], [none]),
        (items, codes[:1], features[:1], local, [box]),  # a row too few
        (items, np.repeat(codes[:1], 5, 0), np.repeat(features[:1], 5, 0), local, [[*box] * 4]),
        ([Item(5)], codes[:1], features[:1], local, [none]),
        ([items[0]] * 2, codes[[0, 0]], features[[0, 0]], local * 2, [none] * 2),
        (items, codes[:1], features[:1] + np.float32("inf"), local, [none]),
    ]
    with engine.index.store.writer() as writer:
        for arguments in refusals:
            with pytest.raises((ArgumentError, ShapeError)):
                writer.add(*arguments)
    after = engine.index.store.snapshot()
    assert (after.num_rows, after.num_items) == (engine.snapshot.num_rows, 78)


# --- What every kind does, asked one at a time ----------------------------------------------------


def all_ids(index):
    code, feature = np.zeros(4, np.uint8), np.zeros(64, np.float32)
    return [
        hit.id
        for hit in Engine(index).search_encoded(code, feature, Query(k=10**6, threshold=99)).hits
    ]


def test_an_empty_index_has_no_hits(place, bundle_folder):
    index = Index.create(place, bundle_folder)
    _, codes, features = made(1)
    result = Engine(index).search_encoded(codes[0], features[0])
    assert (result.hits, result.pool, result.threshold) == ((), 0, 0)
    assert len(index) == 0 and index.info()["labels"] == {}


def test_wrong_arguments_are_refused_alike(place, bundle_folder):
    engine = Engine(filled(place, bundle_folder))
    _, codes, features = made(1)
    for wrong in ({"k": 0}, {"threshold": -1}, {"threshold": 1.5}, {"pool": 0}, {"ids": "i1"}):
        with pytest.raises(ArgumentError):
            engine.search_encoded(codes[0], features[0], Query(**wrong))
    with pytest.raises(UnknownIdError, match="i3"):  # removed
        engine.search_encoded(codes[0], features[0], Query(ids=["i3", "nobody"]))
    with pytest.raises(UnknownNameError, match="cat"):
        engine.search_encoded(codes[0], features[0], Query(labels="bird"))
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
        assert len(index) == 20


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
        before = engine.search_encoded(codes[0], features[0], Query(k=99, threshold=99))
        writer.add(items[10:], codes[10:][::-1].copy(), features[10:])
        writer.remove(["i0", "i15"])
    after = engine.search_encoded(codes[0], features[0], Query(k=99, threshold=99))
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
    before = Engine(index).search_encoded(codes[0], features[0], Query(k=NUM, pool=100))
    with index.store.writer() as writer:
        report = writer.compact()
    assert report.rows_after == len(index) < report.rows_before
    after = Engine(index).search_encoded(codes[0], features[0], Query(k=NUM, pool=100))
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
        [hit] = engine.search_encoded(codes[0], features[0], Query(ids=[id], labels=id)).hits
        assert (hit.id, hit.path, hit.label) == (id, id, id)
    assert index.remove(ids) == ids and len(index) == 0


def test_photos_are_followed_and_found_after_opening_again(place, bundle_folder, photos):
    index = Index.create(place, bundle_folder)
    assert index.update([photos], label_from_folder=True).added == 24
    assert index.update([photos], label_from_folder=True).unchanged == 24
    opened = Index.open(place)
    assert opened.encoder.fingerprint == index.encoder.fingerprint
    hits = Engine(opened).search(photos / "disc/3.png", Query(k=6)).hits
    assert hits[0].id == f"{photos.name}/disc/3.png" and hits[0].bits_apart == 0
    assert {hit.label for hit in hits} == {"disc"}
    assert index.update([photos]).unchanged == 24
    assert index.info()["labels"] == {"checks": 6, "stripes": 6, "disc": 6, "ramp": 6}


def test_an_index_is_a_mapping_of_ids_to_items(place, bundle_folder):
    index = filled(place, bundle_folder)
    ids, by_id = list(index), dict(index.items())
    assert sorted(ids) == sorted(all_ids(index)) and list(by_id) == ids and len(index) == len(ids)
    assert "i1" in index and "i3" not in index and "nobody" not in index
    assert index["i1"] == by_id["i1"] == Item("i1", "/moved", "dog", 5, 6)
    with pytest.raises(KeyError):
        index["i3"]
    counts = {}
    for item in index.values():
        if item.label is not None:
            counts[item.label] = counts.get(item.label, 0) + 1
    assert index.labels == counts

    rows = index.engine.snapshot.rows(ids)
    np.testing.assert_array_equal(index.codes(), index.engine.snapshot.codes[rows])
    assert (np.diff(rows) > 0).all()
    two = ["i2", "i1"]
    np.testing.assert_array_equal(index.codes(two), index.codes()[[ids.index(id) for id in two]])
    _, _, features = made(NUM)
    np.testing.assert_array_equal(index.features(["i7", "i0"]), features[[7, 0]])
    assert index.features().shape == (len(ids), 64) and index.codes([]).shape == (0, 4)

    again = pickle.loads(pickle.dumps(index))
    assert (
        list(again) == ids and again.search("i0", k=3).hits == index.search(by_id["i0"], k=3).hits
    )
    with index.store.writer() as writer:
        writer.remove(ids[:10])
    assert len(index) == len(again) == len(ids) - 10 and ids[0] not in again
    with index:
        assert index.search(ids[10], k=1)
    with pytest.raises(StoreError, match="closed"):
        len(index)
