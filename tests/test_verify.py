"""Geometric verification: worlds whose geometry is known, and sets that have none."""

import dataclasses

import numpy as np
import pytest

from hashnet.errors import ArgumentError, ShapeError
from hashnet.local.features import LocalFeatures
from hashnet.retrieval.search import verify
from hashnet.retrieval.search.verify import MATCHING, MODELS, Matching

pytest.importorskip("cv2", reason="needs OpenCV: pip install hashnet[delf]")

AFFINE = np.array([[0.8, 0.3, 40], [-0.2, 1.1, 15], [0, 0, 1]])
HOMOGRAPHY = np.array([[0.9, 0.2, 30], [-0.1, 1.2, 10], [2e-4, -1e-4, 1]])
ROTATED = np.array([[0.0, 2, 5], [-2, 0, 900], [0, 0, 1]])
PLAIN = Matching(ratio=None, max_distance=0.5, error=0.01, min_inliers=8)


def mapped(model, yx):
    """One place at a time, by the definition."""
    places = []
    for y, x in yx:
        row, column, depth = (model[i][0] * y + model[i][1] * x + model[i][2] for i in range(3))
        places.append((row / depth, column / depth))
    return np.array(places, np.float32)


def unit(rng, count, dim=32):
    descriptors = rng.normal(size=(count, dim))
    return (descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True)).astype(np.float32)


def world(model, true=40, false=60, seed=0):
    """Matched places of which the first `true` follow a model, and the others chance."""
    rng = np.random.default_rng(seed)
    yx = rng.uniform(0, 400, (true + false, 2)).astype(np.float32)
    other = mapped(model, yx)
    other[true:] = rng.uniform(other.min(), other.max(), (false, 2))
    return yx, other


# Matching


def slow_matches(query, descriptors, ratio, max_distance):
    """The definition, by loops."""

    def nearest(one, all):
        distances = [float(np.linalg.norm(one.astype(float) - other)) for other in all]
        order = sorted(range(len(all)), key=lambda place: (distances[place], place))
        return order[0], distances[order[0]], distances[order[1]] if len(order) > 1 else np.inf

    found = []
    for row, one in enumerate(query):
        place, best, second = nearest(one, descriptors)
        if max_distance is not None and best > max_distance:
            continue
        if ratio is not None and not best < ratio * second:
            continue
        if nearest(descriptors[place], query)[0] == row:
            found.append([row, place])
    return found


@pytest.mark.parametrize("max_distance", [None, 0.9, 1.1])
@pytest.mark.parametrize("ratio", [None, 0.05, 0.8, 0.95])
@pytest.mark.parametrize("sizes", [(40, 50), (50, 40), (1, 9), (9, 1), (2, 2)])
def test_matching_follows_the_definition(sizes, ratio, max_distance, way):
    rng = np.random.default_rng(sum(sizes))
    query, descriptors = unit(rng, sizes[0], 8), unit(rng, sizes[1], 8)
    got = verify.match(query, descriptors, ratio=ratio, max_distance=max_distance)
    assert got.dtype == np.int64
    assert got.tolist() == slow_matches(query, descriptors, ratio, max_distance)


@pytest.mark.parametrize("dim", [1, 2, 7, 40, 128])
def test_compiled_comparison_is_the_same_whole_numbers(dim, kernels):
    """Sizes about those of tiles and panels, and few values, so that many products are equal."""
    rng = np.random.default_rng(dim)
    for sizes in ((1, 1), (3, 16), (4, 17), (5, 15), (63, 66), (130, 65)):
        some = [rng.integers(-2, 3, (size, dim)) for size in sizes]
        some = [(one / np.maximum(1, np.linalg.norm(one, axis=1))[:, None]) for one in some]
        for dtype in (np.float32, np.float16):
            query, others = (
                verify._whole(one.astype(dtype), kernels)[0].astype(int) for one in some
            )
            pairs = (verify._whole(one.astype(dtype), kernels)[0].view("i4") for one in some)
            nearest, best, second, back = kernels.nearest_two(*pairs)
            products = query @ others.T
            rows = np.arange(len(query))
            assert products.max() <= verify.LARGEST
            np.testing.assert_array_equal(nearest, products.argmax(axis=1))
            np.testing.assert_array_equal(best, products.max(axis=1))
            np.testing.assert_array_equal(back, products.argmax(axis=0))
            products[rows, nearest] = -(2**31)
            np.testing.assert_array_equal(second, products.max(axis=1))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_compiled_rounding_is_that_of_numpy(dtype, kernels):
    descriptors = unit(np.random.default_rng(0), 50, 9).astype(dtype)
    descriptors[3, 2], descriptors[7, 8], descriptors[11] = np.nan, -np.inf, 1
    descriptors[13], descriptors[17] = 0, np.eye(9)[4]
    numbers, rows = verify._whole(descriptors, kernels)
    assert [row for row in range(50) if row not in rows] == [3, 7, 11]
    wanted = [[round(float(value) * 4000) for value in row] + [0] for row in descriptors[rows]]
    assert numbers.dtype == np.int16 and numbers.tolist() == wanted
    for one, other in zip((numbers, rows), verify._whole(descriptors), strict=True):
        assert one.dtype == other.dtype and np.array_equal(one, other)


def test_among_equals_the_first_matches(way):
    rng = np.random.default_rng(0)
    query, descriptors = unit(rng, 12, 4), unit(rng, 15, 4)
    query[[3, 7, 8]], descriptors[[2, 9, 14]] = query[0], query[0]
    query[10], descriptors[5] = query[5], query[5]
    got = verify.match(query, descriptors, max_distance=0.9).tolist()
    assert got == slow_matches(query, descriptors, None, 0.9)
    assert [0, 2] in got and [5, 5] in got


def test_what_is_longer_than_a_descriptor_matches_nothing(way):
    rng = np.random.default_rng(0)
    for length in (3e38, 1e9, 1.1):
        long = np.abs(unit(rng, 20)) * np.float32(length)
        assert len(verify.match(long, long, max_distance=0.3)) == 0


def test_two_places_that_look_the_same_are_not_told_apart_by_rounding(way):
    rng = np.random.default_rng(0)
    query = unit(rng, 20)
    assert len(verify.match(query, np.vstack([query, query]), ratio=0.99)) == 0


def test_descriptors_that_are_not_finite_match_nothing(way):
    rng = np.random.default_rng(0)
    query, descriptors = unit(rng, 20), unit(rng, 20)
    descriptors[:10] = query[:10]
    query[3], descriptors[5] = np.nan, np.inf
    got = verify.match(query, descriptors, max_distance=0.3)
    assert got.tolist() == [[n, n] for n in range(10) if n not in (3, 5)]
    assert len(verify.match(np.full((4, 32), np.nan, "f4"), descriptors)) == 0


def test_matching_nothing_gives_nothing_and_other_sizes_are_refused(way):
    rng = np.random.default_rng(0)
    some, none = unit(rng, 5), unit(rng, 0)
    for pair in ((some, none), (none, some), (none, none)):
        assert verify.match(*pair, ratio=0.8).shape == (0, 2)
    with pytest.raises(ShapeError, match="32.*16"):
        verify.match(some, unit(rng, 5, 16))


# Worlds with a known answer


@pytest.mark.parametrize(
    ("model", "world_of"),
    [
        ("affine", AFFINE),
        ("affine", ROTATED),
        ("homography", AFFINE),
        ("homography", HOMOGRAPHY),
        ("homography", ROTATED),
    ],
)
def test_the_geometry_of_a_known_world_is_found(model, world_of):
    yx, other = world(world_of)
    found = verify.estimate(yx, other, error=3, model=model)
    assert 40 <= found.inliers <= 44  # chance may put a false match where the model does
    assert found.query_yx.shape == found.yx.shape == (found.inliers, 2)
    rows = [np.flatnonzero((yx == place).all(axis=1))[0] for place in found.query_yx]
    assert set(range(40)) <= set(rows)
    assert (other[rows] == found.yx).all()
    corners = np.array([(0, 0), (0, 400), (400, 0), (400, 400)])
    np.testing.assert_allclose(mapped(found.model, corners), mapped(world_of, corners), atol=0.5)


def test_chance_alone_is_not_geometry():
    for seed in range(20):
        yx, other = world(AFFINE, true=0, false=30, seed=seed)
        for model in MODELS:
            assert verify.estimate(yx, other, error=3, model=model).inliers < 8


@pytest.mark.parametrize("model", MODELS)
def test_the_same_seed_gives_the_same_inliers(model):
    yx, other = world(HOMOGRAPHY, true=15, false=60)
    first = verify.estimate(yx, other, error=6, model=model, seed=3)
    for _ in range(3):
        again = verify.estimate(yx, other, error=6, model=model, seed=3)
        assert again.inliers == first.inliers and (again.yx == first.yx).all()
        assert np.array_equal(again.model, first.model)


def test_what_a_change_of_view_can_do_is_told_by_singular_values():
    rng = np.random.default_rng(0)
    some = rng.normal(size=(3000, 2, 2)) * np.exp(rng.uniform(-4, 4, (3000, 1, 1)))
    some[:4] = np.zeros((2, 2)), np.eye(2), np.diag([1, -1]), [[1, 2], [2, 4]]
    large, small = np.linalg.svd(some, compute_uv=False).T
    expected = (np.linalg.det(some) > 0) & (large <= 16) & (small >= 1 / 16) & (large <= 6 * small)
    assert 0.1 < expected.mean() < 0.9
    np.testing.assert_array_equal(verify._plausible(some), expected)


# What no geometry can be read from

rng = np.random.default_rng(5)
SPREAD = rng.uniform(0, 300, (30, 2)).astype(np.float32)
LINE = np.column_stack([np.linspace(0, 300, 30), np.linspace(10, 200, 30)]).astype(np.float32)
DEGENERATE = {
    "none": (SPREAD[:0], SPREAD[:0]),
    "one": (SPREAD[:1], SPREAD[:1]),
    "three": (SPREAD[:3], SPREAD[:3]),
    "four": (SPREAD[:4], SPREAD[:4]),
    "four, each many times": (np.repeat(SPREAD[:4], 20, 0), np.repeat(SPREAD[:4], 20, 0)),
    "all equal": (np.ones((30, 2), "f4"), np.ones((30, 2), "f4")),
    "onto one place": (SPREAD, np.ones((30, 2), "f4")),
    "from one place": (np.ones((30, 2), "f4"), SPREAD),
    "on a line": (LINE, LINE),
    "on an axis": (LINE * (1, 0), LINE * (1, 0)),
    "onto a line": (SPREAD, LINE),
    "nearly on a line": (LINE + rng.normal(0, 0.5, LINE.shape), LINE),
    "not a number": (SPREAD * np.nan, SPREAD),
    "infinite": (SPREAD, SPREAD * np.inf),
    "all but four not a number": (np.vstack([SPREAD[:4], SPREAD[4:] * np.nan]), SPREAD),
    "mirrored": (SPREAD, SPREAD * (1, -1)),
    "shrunk to nothing": (SPREAD, SPREAD / 100),
    "blown up": (SPREAD, SPREAD * 100),
    "squashed": (SPREAD, SPREAD * (1, 0.05)),
    "within a pixel": (SPREAD / 1000, SPREAD / 1000),
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", DEGENERATE)
def test_a_degenerate_set_has_no_inliers(name, model):
    query_yx, yx = (np.asarray(places, np.float32) for places in DEGENERATE[name])
    for error in (3, 20):
        found = verify.estimate(query_yx, yx, error=error, model=model)
        assert found.inliers == 0 and found.model is None
        assert found.yx.shape == found.query_yx.shape == (0, 2)


def test_immense_places_are_judged_without_overflow():
    for model in MODELS:
        verify.estimate(SPREAD * 1e30, SPREAD * 1e30, error=3, model=model)


def test_places_are_counted_once():
    yx, other = world(AFFINE, true=12, false=0)
    many = np.repeat(yx, 9, axis=0), np.repeat(other, 9, axis=0)
    assert verify.estimate(*many, error=3).inliers == 12
    # A place that matches everywhere votes once.
    fan = np.vstack([yx, np.repeat(yx[:1], 50, axis=0)])
    onto = np.vstack([other, other[:1] + np.random.default_rng(0).uniform(-2, 2, (50, 2))])
    assert verify.estimate(fan, onto, error=3).inliers == 12


def test_a_set_that_is_not_finite_in_part_is_judged_by_the_rest():
    yx, other = world(AFFINE, true=20, false=0)
    yx[3], other[7, 1] = np.nan, np.inf
    assert verify.estimate(yx, other, error=3).inliers == 18


def test_what_is_no_set_of_matches_is_refused():
    with pytest.raises(ArgumentError, match="affine, homography"):
        verify.estimate(SPREAD, SPREAD, error=3, model="rigid")
    with pytest.raises(ShapeError, match="30.*29"):
        verify.estimate(SPREAD, SPREAD[1:], error=3)


# Images


def features(yx, descriptors):
    return LocalFeatures(yx, descriptors, np.zeros(len(yx), np.float32))


@pytest.fixture
def query_and_candidates():
    """A query, and a candidate that shows it, one that shows a part, and some that do not."""
    rng = np.random.default_rng(0)
    yx = rng.uniform(0, 400, (200, 2)).astype(np.float32)
    descriptors = unit(rng, 200)
    query = features(yx, descriptors)
    same = features(mapped(AFFINE, yx), descriptors)
    part = features(mapped(HOMOGRAPHY, yx), np.vstack([descriptors[:50], unit(rng, 150)]))
    strangers = [features(yx, unit(rng, 200)) for _ in range(6)]
    shuffled = features(rng.permutation(yx), descriptors)
    nothing = features(yx[:0], descriptors[:0])
    return query, [strangers[0], part, *strangers[1:], nothing, same, shuffled]


def test_images_that_show_the_same_thing_are_told_from_others(query_and_candidates):
    query, candidates = query_and_candidates
    found = [one.inliers for one in verify.verify_all(query, candidates, PLAIN)]
    assert found[-2] == 200 and 50 <= found[1] <= 55
    assert max(found[2:-2] + found[:1] + found[-1:]) < 8


def test_the_answer_does_not_depend_on_threads_or_company(query_and_candidates):
    query, candidates = query_and_candidates
    one = verify.verify_all(query, candidates, PLAIN, num_threads=1)
    for others in (
        verify.verify_all(query, candidates, PLAIN, num_threads=2),
        verify.verify_all(query, candidates, PLAIN, num_threads=5),
        [verify.verify_all(query, [candidate], PLAIN)[0] for candidate in candidates],
    ):
        for a, b in zip(one, others, strict=True):
            assert a.inliers == b.inliers and np.array_equal(a.yx, b.yx)
            assert np.array_equal(a.model, b.model)


def test_images_of_any_sizes_in_a_row_do_not_disturb_each_other(query_and_candidates):
    query, [stranger, part, *_] = query_and_candidates
    few = features(part.yx[:60], part.descriptors[:60])
    row = [part, few, stranger, lambda: few, features(part.yx[:1], part.descriptors[:1]), part]
    found = [one.inliers for one in verify.verify_all(query, row, PLAIN)]
    alone = [verify.verify(query, one, PLAIN).inliers for one in (part, few, stranger)]
    assert found == [*alone, alone[1], 0, alone[0]] and alone[1] >= 45


def test_fewer_matches_than_inliers_are_wanted_are_not_looked_at(query_and_candidates, monkeypatch):
    query, [_, part, *_] = query_and_candidates
    assert verify.verify(query, part, dataclasses.replace(PLAIN, min_inliers=50)).inliers >= 50
    monkeypatch.setattr(verify, "estimate", None)
    assert verify.verify(query, part, dataclasses.replace(PLAIN, min_inliers=60)).inliers == 0


def test_matches_are_counted_whether_or_not_they_are_inliers(query_and_candidates):
    query, candidates = query_and_candidates
    for matching in (PLAIN, dataclasses.replace(PLAIN, min_inliers=201)):
        for candidate in candidates:
            found = verify.verify(query, candidate, matching)
            wanted = verify.match(query.descriptors, candidate.descriptors, max_distance=0.5)
            assert found.matches == len(wanted) >= found.inliers
    assert verify.estimate(SPREAD, LINE, error=3).matches == len(SPREAD)


def test_every_extractor_has_its_matching():
    from hashnet.local.extractors import NAMES

    assert set(NAMES) == set(MATCHING)
