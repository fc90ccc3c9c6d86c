"""Coarse to fine: a code finds a pool, the feature ranks it."""

import itertools

import numpy as np
import pytest

from hashnet import images
from hashnet.errors import ArgumentError, ImageError, UnknownIdError, UnknownNameError
from hashnet.retrieval.index import Index
from hashnet.retrieval.search import duplicates
from hashnet.retrieval.search.engine import Engine, default_pool
from hashnet.retrieval.search.query import Query


@pytest.fixture(scope="module")
def index(photos, bundle_folder, tmp_path_factory):
    index = Index.create(tmp_path_factory.mktemp("engine") / "index", bundle_folder)
    index.update([photos], label_from_folder=True)
    return index


@pytest.fixture(scope="module")
def engine(index):
    return Engine(index)


def slowly(index, query, threshold):
    """(id, bits apart, distance) of the pool, in the order the definition gives."""
    code, feature = index.encoder.encode_one(query)
    found = []
    with index.store.snapshot() as snapshot:
        for row, item in enumerate(snapshot.items(np.arange(snapshot.num_rows))):
            pairs = zip(snapshot.codes[row], code, strict=True)
            bits = sum((int(a) ^ int(b)).bit_count() for a, b in pairs)
            other = snapshot.features([row])[0]
            distance = sum((float(a) - float(b)) ** 2 for a, b in zip(feature, other, strict=True))
            if bits < threshold:
                found.append((distance**0.5, row, item.id, bits))
    return [(id, bits, distance) for distance, _, id, bits in sorted(found)]


@pytest.mark.parametrize("threshold", [1, 3, 8, 16, 33])
def test_a_search_follows_the_definition(engine, index, photos, threshold):
    query = photos / "stripes/2.png"
    expected = slowly(index, query, threshold)
    result = engine.search(query, Query(k=50, threshold=threshold))
    assert result.pool == len(expected) and result.threshold == threshold
    assert [(hit.id, hit.bits_apart) for hit in result.hits] == [e[:2] for e in expected]
    np.testing.assert_allclose(
        [hit.distance for hit in result.hits], [e[2] for e in expected], atol=1e-6
    )


@pytest.mark.parametrize("label", ["checks", "stripes", "disc", "ramp"])
def test_patterns_find_their_own_kind_and_themselves_first(engine, photos, label):
    path = photos / label / "3.png"
    hits = engine.search(path, Query(k=6)).hits
    assert hits[0].path == str(path)
    assert (hits[0].bits_apart, hits[0].distance < 1e-3) == (0, True)
    assert [hit.label for hit in hits] == [label] * 6


def test_a_pool_is_the_smallest_that_is_large_enough(engine, index, photos):
    query = photos / "disc/0.png"
    for wanted in (1, 5, 12, 24):
        result = engine.search(query, Query(k=1, pool=wanted))
        assert result.pool >= wanted
        assert len(slowly(index, query, result.threshold - 1)) < wanted
    assert engine.search(query, Query(pool=1000)).pool == 24


def test_by_default_a_small_index_is_searched_whole(engine, photos):
    assert engine.search(photos / "disc/0.png").pool == 24


def test_a_label_narrows_the_search(engine, photos):
    result = engine.search(photos / "disc/0.png", Query(k=50, labels="ramp"))
    assert {hit.label for hit in result.hits} == {"ramp"} and result.pool == 6
    with pytest.raises(UnknownNameError, match="checks.*disc.*ramp.*stripes"):
        engine.search(photos / "disc/0.png", Query(labels="circle"))


def test_images_are_counted_by_their_distance_from_a_code(engine, index, photos):
    code, _ = index.encoder.encode_one(photos / "disc/0.png")
    found = slowly(index, photos / "disc/0.png", 33)
    for label in (None, "disc"):
        bits = [bits for id, bits, _ in found if label is None or f"/{label}/" in id]
        wanted = np.bincount(bits, minlength=33)
        assert engine.histogram(code, Query(labels=label)).tolist() == wanted.tolist()


def test_an_engine_knows_where_the_file_of_an_image_lies(engine, photos):
    assert engine.path(f"{photos.name}/disc/0.png") == str(photos / "disc/0.png")
    with pytest.raises(UnknownIdError, match="nobody"):
        engine.path("nobody")


def test_a_region_is_searched_as_if_it_had_been_cut_out(engine, photos):
    picture = images.read(photos / "checks/0.png")
    region = (10, 20, 60, 90)
    cut = np.ascontiguousarray(picture[10:60, 20:90])
    by_region = engine.search(photos / "checks/0.png", Query(region=region))
    assert by_region.hits == engine.search(cut).hits
    whole = engine.search(photos / "checks/0.png", Query(region=(0, 0, 80, 100)))
    assert whole.hits == engine.search(photos / "checks/0.png").hits
    outside = [(0, 0, 81, 5), (0, 0, 5, 101), (-1, 0, 5, 5), (0, -1, 5, 5)]
    for wrong in [*outside, (0, 50, 5, 20), (0, 5, 5, 5), (5, 0, 5, 5), (9, 0, 5, 5)]:
        with pytest.raises(ImageError, match="region"):
            engine.search(photos / "checks/0.png", Query(region=wrong))


def test_answers_do_not_depend_on_threads(index, photos):
    one = Engine(index, num_threads=1).search(photos / "disc/0.png", Query(k=24))
    two = Engine(index, num_threads=2).search(photos / "disc/0.png", Query(k=24))
    assert one.hits == two.hits


def test_stages_report_their_time_and_json_has_the_agreed_fields(engine, photos):
    answer = engine.search(photos / "disc/0.png", Query(k=1)).to_dict()
    assert list(answer) == ["query", "threshold", "pool", "milliseconds", "hits"]
    assert list(answer["milliseconds"]) == ["encode", "coarse", "fine", "verify"]
    assert answer["milliseconds"]["encode"] > 0 and answer["milliseconds"]["verify"] is None
    scores = ["bits_apart", "distance", "inliers"]
    grades = ["likeness", "grade", "verified_by", "written"]
    assert list(answer["hits"][0]) == ["id", "path", "label", *scores, "region", *grades]
    assert answer["hits"][0]["region"] is None


@pytest.mark.parametrize(
    "arguments",
    [
        {"k": 0},
        {"k": 1.5},
        {"k": True},
        {"threshold": 0},  # no image is nearer than that
        {"threshold": -1},
        {"threshold": 2.5},
        {"pool": 0},
        {"threshold": 3, "pool": 3},
        {"verify_top": 0},
        {"labels": [1]},
        {"ids": "a"},
        {"ids": 5},
        {"right": "a"},
        {"wrong": [b"a"]},
        {"region": "0,0,5,5"},
        {"region": (0, 0, 5)},
        {"region": (0, 0, 5, 5.5)},
    ],
    ids=str,
)
def test_arguments_out_of_range_are_refused(arguments):
    with pytest.raises(ArgumentError, match=next(iter(arguments))):
        Query(**arguments)


def test_a_query_is_the_same_however_it_is_written():
    one = Query(labels="cat", ids=["a", "b"], region=[np.int64(1), 2, 3, 4], right=iter(["r"]))
    assert one == Query(
        k=np.int64(10), labels=("cat",), ids=("a", "b"), region=(1, 2, 3, 4), right=("r",)
    )
    assert hash(one) and one != Query()


def test_a_search_by_a_code_and_a_feature_is_named_as_the_caller_says(engine, index, photos):
    encoded = index.encoder.encode_one(photos / "disc/0.png")
    by_code = engine.search_encoded(*encoded)
    assert by_code.hits == engine.search(photos / "disc/0.png").hits
    assert by_code.query == "code" and by_code.milliseconds["encode"] is None
    assert engine.search_encoded(*encoded, name="marked").query == "marked"


def test_what_needs_a_picture_is_refused_where_there_is_none(engine, index, photos):
    code, feature = index.encoder.encode_one(photos / "disc/0.png")
    for query in (Query(region=(0, 0, 9, 9)), Query(verify=True)):
        with pytest.raises(ArgumentError, match="picture"):
            engine.search_encoded(code, feature, query)
    with pytest.raises(ArgumentError, match="picture"):
        engine.search_id(f"{photos.name}/disc/0.png", Query(region=(0, 0, 9, 9)))


@pytest.mark.parametrize(
    "options", [{}, {"histogram": True}, {"threshold": 33}, {"labels": "disc"}]
)
def test_ids_that_nobody_has_are_said(engine, photos, options):
    query = photos / "disc/0.png"
    with pytest.raises(UnknownIdError, match="'a', 'b', 'c' and 2 more"):
        engine.search(query, Query(ids="a b c d e".split(), **options))
    with pytest.raises(UnknownIdError, match="'a'"):
        engine.search_id(f"{photos.name}/disc/0.png", Query(ids=["a"], **options))
    # One that is there, and none near enough, is an answer.
    assert (
        engine.search(query, Query(ids=["a", f"{photos.name}/ramp/0.png"], threshold=1)).pool == 0
    )


def test_a_broken_query_raises(engine, tmp_path):
    (tmp_path / "q.jpg").write_bytes(b"no")
    with pytest.raises(ImageError, match="q.jpg"):
        engine.search(tmp_path / "q.jpg")


def test_an_empty_index_has_no_hits(bundle_folder, photos, tmp_path):
    result = Engine(Index.create(tmp_path / "empty", bundle_folder)).search(photos / "disc/0.png")
    assert result.hits == () and result.pool == 0


def test_removed_images_are_not_found(bundle_folder, photos, tmp_path):
    index = Index.create(tmp_path / "index", bundle_folder)
    index.update([photos])
    gone = engine_hits(index, photos)[0]
    index.remove([gone])
    assert gone not in engine_hits(index, photos)
    with index.store.writer() as writer:
        writer.compact()
    assert len(engine_hits(index, photos)) == 23 and gone not in engine_hits(index, photos)


def engine_hits(index, photos):
    return [hit.id for hit in Engine(index).search(photos / "disc/0.png", Query(k=50)).hits]


def test_an_engine_keeps_its_view_while_others_write(bundle_folder, photos, tmp_path):
    index = Index.create(tmp_path / "index", bundle_folder)
    index.update([photos / "disc"])
    engine = Engine(index)
    before = engine.search(photos / "disc/0.png").hits
    index.update([photos])
    index.remove([hit.id for hit in before[:3]])
    with index.store.writer() as writer:
        writer.compact()
    assert engine.search(photos / "disc/0.png").hits == before


def test_duplicates_without_files_are_those_of_near_equal_features(bundle_folder, photos, tmp_path):
    index = Index.create(tmp_path / "index", bundle_folder)
    copy = images.read(photos / "disc/0.png")
    index.add([copy, copy.copy()], ids=["first", "second"])
    others = sorted((photos / "stripes").iterdir())
    index.add([images.read(path) for path in others], ids=[path.name for path in others])
    with pytest.raises(ArgumentError, match="threshold=0"):
        next(Engine(index).duplicates(0))
    features, ids = index.features(), list(index)
    codes = index.codes()
    near = {
        (ids[i], ids[j])
        for i, j in itertools.combinations(range(len(ids)), 2)
        if np.bitwise_count(codes[i] ^ codes[j]).sum() < 9
        and np.linalg.norm(features[i] - features[j]) <= duplicates.DISTANCE_ALONE
    }
    joined = {id: {id} for id in ids}
    for one, other in near:
        joined[one] |= joined[other]
        for id in joined[one]:
            joined[id] = joined[one]
    wanted = {frozenset(group) for group in joined.values() if len(group) > 1}
    groups = list(Engine(index).duplicates(9))
    found = {frozenset([one.keep.id, *(copy.id for copy in one.copies)]) for one in groups}
    assert found == wanted and {"first", "second"} in found
    assert all(group.keep.bits_apart == group.keep.distance == 0 for group in groups)


def test_a_search_changes_nothing_on_disk(index, photos):
    before = {path: path.stat().st_mtime_ns for path in index.store.folder.rglob("*")}
    Engine(index).search(photos / "disc/0.png")
    assert {path: path.stat().st_mtime_ns for path in index.store.folder.rglob("*")} == before


def test_several_labels_and_ids_narrow_the_search(engine, index, photos):
    query = photos / "disc/0.png"
    both = engine.search(query, Query(k=50, labels=["ramp", "checks"]))
    assert {hit.label for hit in both.hits} == {"ramp", "checks"} and both.pool == 12
    some = [f"{photos.name}/disc/1.png", f"{photos.name}/ramp/2.png", "/no/such/file.png"]
    found = engine.search(query, Query(k=50, ids=some))
    assert [hit.id for hit in found.hits] == some[:2] and found.pool == 2
    assert [hit.id for hit in engine.search(query, Query(ids=set(some), labels="ramp")).hits] == [
        some[1]
    ]
    assert (
        engine.search(query, Query(ids=[])).hits
        == ()
        == engine.search(query, Query(labels=[])).hits
    )


@pytest.mark.parametrize("filters", [{}, {"labels": "disc"}, {"labels": ["ramp", "disc"]}])
@pytest.mark.parametrize("k", [1, 5, 50])
def test_a_search_by_id_is_the_search_by_its_file_without_itself(engine, photos, k, filters):
    id, path = f"{photos.name}/disc/2.png", photos / "disc/2.png"
    by_file = [hit for hit in engine.search(path, Query(k=k + 1, **filters)).hits if hit.id != id]
    by_id = engine.search_id(id, Query(k=k, **filters))
    assert by_id.query == id and by_id.milliseconds["encode"] is None
    assert [hit.id for hit in by_id.hits] == [hit.id for hit in by_file[:k]]
    np.testing.assert_allclose(
        [hit.distance for hit in by_id.hits],
        [hit.distance for hit in by_file[:k]],
        atol=2e-3,  # what is stored of the query is rounded to float16
    )


def test_a_search_by_id_finds_an_exact_copy_of_the_image(bundle_folder, photos, tmp_path):
    index = Index.create(tmp_path / "index", bundle_folder)
    copy = images.read(photos / "disc/0.png")
    index.add([copy, copy, photos / "ramp/0.png"], ids=["first", "second", "other"])
    for asked, other in (("first", "second"), ("second", "first")):
        [hit] = Engine(index).search_id(asked, Query(k=1)).hits
        assert (hit.id, hit.bits_apart, hit.distance) == (other, 0, 0.0)


def test_a_search_by_an_unknown_or_removed_id_is_refused(bundle_folder, photos, tmp_path):
    index = Index.create(tmp_path / "index", bundle_folder)
    index.add([photos / "disc/0.png", photos / "ramp/0.png"], ids=["a", "b"])
    index.remove(["b"])
    for id in ("b", "c"):
        with pytest.raises(UnknownIdError, match=id):
            Engine(index).search_id(id)
    assert Engine(index).search_id("a").hits == ()


def test_features_are_stored_in_half_the_bytes_unless_asked(bundle_folder, photos, tmp_path):
    index = Index.create(tmp_path / "half", bundle_folder)
    whole = Index.create(tmp_path / "whole", bundle_folder, feature_dtype="float32")
    for one in (index, whole):
        one.update([photos], label_from_folder=True)
    assert (index.info()["feature_dtype"], whole.info()["feature_dtype"]) == ("float16", "float32")
    for query in photos.glob("*/0.png"):
        half, full = (Engine(one).search(query, Query(k=6)).hits for one in (index, whole))
        assert {hit.id for hit in half} == {hit.id for hit in full}
        np.testing.assert_allclose(
            [hit.distance for hit in half], [hit.distance for hit in full], atol=2e-3
        )


def test_the_default_pool_grows_with_the_root_of_the_index():
    # tests/bench/pool_size.py: a share of the index would read ever more for the same answers.
    assert [default_pool(10, n) for n in (0, 100, 40_000)] == [1000] * 3
    assert default_pool(10, 4_000_000) == 2 * default_pool(10, 1_000_000) == 10_000
    assert default_pool(700, 100) == 7000
