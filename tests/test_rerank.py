"""Fine ranking beside its slow definition: every distance in exact fractions, a full sort."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashnet.errors import ArgumentError, ShapeError
from hashnet.retrieval.search import compiled, fine
from hashnet.retrieval.search.fine import nearest_features


@pytest.fixture
def path(way, monkeypatch):
    """Both ways, and on as many threads and in as many parts as there may be."""
    monkeypatch.setattr(fine, "LEAST_VALUES_A_THREAD", 1)
    monkeypatch.setattr(fine, "CHUNK_VALUES", 1000)


def slow_nearest(query, rows, features, k):
    def squared(row):
        both = zip(features[row].tolist(), query.tolist(), strict=True)
        return sum((Fraction(a) - Fraction(b)) ** 2 for a, b in both)

    return sorted(rows, key=lambda row: (squared(row), row))[:k]


@pytest.mark.fast(
    "compiled-1-float32", "compiled-150-float16", "numpy-150-float16", "numpy-1-float32"
)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("dim", [1, 5, 63, 64, 65, 150])
def test_the_nearest_equal_exact_arithmetic_on_data_full_of_ties(path, dtype, dim):
    rng = np.random.default_rng(dim)
    features = (rng.integers(-3, 4, (300, dim)) / 4).astype(dtype)
    features[rng.integers(0, 300, 100)] = features[0]
    query = (rng.integers(-3, 4, dim) / 4).astype(np.float32)
    rows = np.sort(rng.choice(300, 120, replace=False))
    in_order = slow_nearest(query, rows, features, 500)
    for k in (7, 500):
        for num_threads in (1, 2, 3):
            found, distances = nearest_features(query, rows, features, k, num_threads=num_threads)
            assert found.tolist() == in_order[:k]
            assert found.dtype == np.int64 and distances.dtype == np.float64
            slow = np.linalg.norm(features[found].astype(float) - query, axis=1)
            np.testing.assert_allclose(distances, slow, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_numpy_and_compiled_code_on_any_threads_agree_to_the_last_bit(monkeypatch, dtype, kernels):
    monkeypatch.setattr(fine, "LEAST_VALUES_A_THREAD", 1)
    rng = np.random.default_rng(5)
    features = rng.standard_normal((500, 1300)) * 10.0 ** rng.integers(-6, 4, (500, 1))
    features = features.astype(dtype)
    query, rows = rng.standard_normal(1300).astype(np.float32), np.arange(500)
    answers = []
    for way in (None, kernels):
        monkeypatch.setattr(compiled, "kernels", lambda num_bytes, way=way: way)
        answers += [
            nearest_features(query, rows, features, 500, num_threads=num_threads)
            for num_threads in (1, 2, 7)
        ]
    for found, distances in answers[1:]:
        assert found.tolist() == answers[0][0].tolist()
        assert distances.tobytes() == answers[0][1].tobytes()


def rounded_twice(rng, dim):
    """Rows around one distance from the query, closer to each other than float32 can tell."""
    query = rng.standard_normal(dim)
    steps = rng.standard_normal((400, dim))
    steps *= 1e-3 / np.linalg.norm(steps, axis=1, keepdims=True)
    return (query + steps).astype(np.float32), query.astype(np.float32)


WORLDS = {
    "nearly one distance": rounded_twice,
    "a query that float32 cannot hold": lambda rng, dim: (
        rounded_twice(rng, dim)[0],
        rounded_twice(np.random.default_rng(3), dim)[1] + rng.standard_normal(dim) * 1e-9,
    ),
    "squares that vanish in float32": lambda rng, dim: (
        (rng.standard_normal((400, dim)) * 10.0 ** rng.uniform(-30, -17, (400, 1))).astype("f4"),
        np.zeros(dim, np.float32),
    ),
    "squares beyond float32": lambda rng, dim: (
        (rng.standard_normal((400, dim)) * 10.0 ** rng.uniform(15, 25, (400, 1))).astype("f4"),
        np.zeros(dim, np.float32),
    ),
    "not all numbers": lambda rng, dim: (
        np.where(rng.random((400, 1)) < 0.9, np.nan, rng.standard_normal((400, dim))).astype("f4"),
        np.zeros(dim, np.float32),
    ),
    "one row many times": lambda rng, dim: (
        np.repeat(rng.standard_normal((4, dim)), 100, axis=0).astype("f4"),
        np.ones(dim, np.float32),
    ),
}


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("dim", [3, 64, 130, 1280])
def test_distances_in_float32_first_lose_no_row_and_change_no_bit(monkeypatch, world, dim, kernels):
    monkeypatch.setattr(fine, "LEAST_VALUES_A_THREAD", 1)
    features, query = WORLDS[world](np.random.default_rng(dim), dim)
    rows = np.arange(0, 400, 3)
    for k in (1, 10, 60):
        monkeypatch.setattr(compiled, "kernels", lambda num_bytes: None)
        exact = nearest_features(query, rows, features, k)
        monkeypatch.setattr(compiled, "kernels", lambda num_bytes: kernels)
        for num_threads in (1, 3):
            found = nearest_features(query, rows, features, k, num_threads=num_threads)
            assert found[0].tolist() == exact[0].tolist()
            assert found[1].tobytes() == exact[1].tobytes()


def test_few_rows_of_a_large_pool_are_reckoned_to_the_last_bit(kernels):
    rng = np.random.default_rng(0)
    features = rng.standard_normal((1000, 256)).astype(np.float32)
    query, rows, none = features[3].astype(np.float64), np.arange(1000), np.empty(0)
    reckoned = [
        len(kernels.perhaps_nearest(features, query, none, none, rows[:count], 10, 0, count)[0])
        for count in (1000, 19)
    ]
    assert reckoned == [10, 19]


def test_every_float16_is_read_as_numpy_reads_it(path):
    values = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    features = values[np.isfinite(values)][:, None]
    rows = np.arange(len(features))
    found, distances = nearest_features(np.zeros(1, np.float32), rows, features, len(rows))
    assert np.array_equal(distances, np.abs(features[found, 0].astype(np.float64)))


def test_features_in_a_memory_map_are_ranked_where_they_lie(path, tmp_path):
    rng = np.random.default_rng(1)
    features = rng.standard_normal((100, 70)).astype(np.float32)
    features.tofile(tmp_path / "features")
    mapped = np.memmap(tmp_path / "features", np.float32, "r").reshape(100, 70)
    rows, query = np.array([0, 24, 25, 59, 60, 99]), features[59]
    found, distances = nearest_features(query, rows, mapped, 6)
    assert found.tolist() == slow_nearest(query, rows, features, 6)
    assert found[0] == 59 and distances[0] == 0
    in_memory = nearest_features(query, rows, features, 6)
    assert distances.tobytes() == in_memory[1].tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("dim", [1, 64, 90])
def test_about_a_mean_directions_are_compared_and_what_is_added_counts(path, dtype, dim):
    rng = np.random.default_rng(dim)
    mean, query = rng.standard_normal(dim), rng.standard_normal(dim).astype(np.float32)
    features = rng.standard_normal((60, dim)).astype(dtype)
    features[20] = features[7]
    rows, added = np.arange(0, 60, 2), rng.random(30)

    def direction(feature):
        return (feature - mean) / np.linalg.norm(feature - mean)

    steps = [direction(feature) - direction(query) for feature in features[rows].astype(float)]
    for more in (None, added):
        squared = [step @ step + (more[n] if more is added else 0) for n, step in enumerate(steps)]
        order = sorted(range(30), key=lambda place: (squared[place], place))
        for k in (4, 30):
            options = {"mean": mean, "added": more, "num_threads": 2}
            found, distances = nearest_features(query, rows, features, k, **options)
            np.testing.assert_allclose(distances, np.sqrt(squared)[order[:k]], atol=1e-6)
            if more is added:  # without ties
                assert found.tolist() == rows[order[:k]].tolist()


def test_what_lies_at_the_mean_is_1_from_all_that_lies_elsewhere(path):
    mean = np.array([3, 4], np.float32)
    features, rows = np.array([[3, 4], [3, 9], [8, 4]], np.float32), np.arange(3)
    found, distances = nearest_features(mean, rows, features, 3, mean=mean)
    assert (found.tolist(), distances.tolist()) == ([0, 1, 2], [0, 1, 1])
    found, distances = nearest_features(features[1], rows, features, 3, mean=mean)
    assert (found.tolist(), distances.round(6).tolist()) == ([1, 0, 2], [0, 1, 1.414214])


def test_an_empty_pool_gives_an_empty_answer(path):
    query, none = np.zeros(4, np.float32), np.empty(0, np.int64)
    for num_rows in (0, 3):
        features = np.zeros((num_rows, 4), np.float32)
        rows, distances = nearest_features(query, none, features, 5)
        assert rows.shape == distances.shape == (0,)
        assert rows.dtype == np.int64


def test_every_k_up_to_all_rows_and_beyond(path):
    rng = np.random.default_rng(3)
    features, query = rng.standard_normal((60, 2)).astype(np.float32), np.zeros(2, np.float32)
    rows = np.arange(0, 60, 2)
    ranked = slow_nearest(query, rows, features, 30)
    for k in range(1, 33):
        found, distances = nearest_features(query, rows, features, k)
        assert found.tolist() == ranked[:k] and len(distances) == min(k, 30)


def test_a_feature_that_is_no_number_is_farthest(path):
    features = np.array([[np.nan], [2], [np.nan], [1]], np.float32)
    for k, expected in ((1, [3]), (2, [3, 1]), (3, [3, 1, 0]), (4, [3, 1, 0, 2])):
        found, _ = nearest_features(np.zeros(1, np.float32), np.arange(4), features, k)
        assert found.tolist() == expected


def test_compiled_code_is_asked_for_by_cost_and_used_where_it_is_loaded(monkeypatch):
    costs = []

    class Kernels:
        @staticmethod
        def perhaps_nearest(features, query, mean, added, rows, k, first, last):
            return rows[first:last], np.full(last - first, 9.0)

    def kernels(num_bytes):
        costs.append(num_bytes)
        return Kernels

    monkeypatch.setattr(compiled, "kernels", kernels)
    features, query = np.zeros((3, 5), np.float32), np.ones(5, np.float32)
    _, distances = nearest_features(query, np.arange(3), features, 3)
    assert distances.tolist() == [3, 3, 3]
    assert costs == [fine.NUMPY_COST * features.nbytes]


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_reranking_only_permutes_and_orders(data):
    small = st.integers(-2, 2)
    features = np.array(
        data.draw(st.lists(st.lists(small, min_size=3, max_size=3), min_size=1)), np.float32
    )
    rows = np.array(sorted(data.draw(st.sets(st.integers(0, len(features) - 1)))), np.int64)
    query = np.array(data.draw(st.lists(small, min_size=3, max_size=3)), np.float32)
    found, distances = nearest_features(query, rows, features, len(features))
    assert sorted(found) == rows.tolist()
    keys = list(zip(distances.tolist(), found.tolist(), strict=True))
    assert keys == sorted(keys)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_query_that_is_not_finite_is_refused(bad):
    query = np.array([0, bad], np.float32)
    with pytest.raises(ArgumentError, match="1 of 2 values NaN or infinite"):
        nearest_features(query, np.array([0]), np.zeros((1, 2), np.float32), 1)


def test_what_does_not_fit_is_refused_naming_both_shapes():
    query, rows, features = np.zeros(2, np.float32), np.array([0]), np.zeros((1, 2), np.float32)
    with pytest.raises(ShapeError, match=r"\(n, 3\).*float32 array of shape \(1, 2\)"):
        nearest_features(np.zeros(3, np.float32), rows, features, 1)
    with pytest.raises(ShapeError, match="float64"):
        nearest_features(query, rows, features.astype(np.float64), 1)
    with pytest.raises(ShapeError, match=r"\(feature_dim,\)"):
        nearest_features(query[None], rows, features, 1)
    with pytest.raises(ShapeError, match=r"int64 array of rows"):
        nearest_features(query, rows.astype(np.int32), features, 1)
    with pytest.raises(ArgumentError, match="ascend"):
        nearest_features(query, np.array([0, 0]), features, 1)
    for stray in ([1], [-1], [0, 5]):
        with pytest.raises(ArgumentError, match="rows of the features"):
            nearest_features(query, np.array(stray), features, 1)
    for wrong in (features[:, ::-1], [[0.0, 0.0]]):
        with pytest.raises(ShapeError, match="C-contiguous"):
            nearest_features(query, rows, wrong, 1)
    for mean in (np.zeros(3), [0.0, 0.0], np.zeros(2, int), np.zeros(0)):
        with pytest.raises(ShapeError):
            nearest_features(query, rows, features, 1, mean=mean)
    for added in (np.zeros(2), np.zeros(1, np.float32)):
        with pytest.raises(ShapeError, match="one number a row"):
            nearest_features(query, rows, features, 1, added=added)
    for k in (0, -1, 1.5, True):
        with pytest.raises(ArgumentError, match="k is"):
            nearest_features(query, rows, features, k)
