"""Codes without labels, in worlds where the answer is obvious."""

import numpy as np
import pytest

from hashnet import metrics, threads
from hashnet.errors import ArgumentError, HashnetError, ShapeError
from hashnet.train import unsupervised_codes

METHODS = [
    unsupervised_codes.fit,
    unsupervised_codes.itq,
    unsupervised_codes.pca_sign,
    unsupervised_codes.lsh,
]
DIM = 40


def normalised(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def photos(n, *, num_clusters=6, spread=0.1, seed=0):
    """Features like a network's: not negative, of length 1, in clusters; and their clusters."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).uniform(0, 1, (num_clusters, DIM))
    clusters = np.arange(n) % num_clusters
    noise = rng.uniform(0, spread, (n, DIM))
    return normalised(centres[clusters] + noise), clusters


def bits_of(weights, features):
    """The slow way: one dot product for each bit of each item."""
    cuts = list(zip(weights.kernel.T, weights.bias, strict=True))
    return np.array([[row @ column + shift >= 0 for column, shift in cuts] for row in features])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("num_bits", [1, 5, DIM, 100])
def test_weights_have_the_shape_and_type_of_a_dense_layer(method, num_bits):
    weights = method(photos(60)[0], num_bits)
    assert weights.kernel.shape == (DIM, num_bits) and weights.kernel.dtype == np.float32
    assert weights.bias.shape == (num_bits,) and weights.bias.dtype == np.float32
    assert np.isfinite(weights.kernel).all() and np.isfinite(weights.bias).all()


def test_bits_are_where_the_sigmoid_is_at_least_one_half():
    features = photos(20)[0]
    weights = unsupervised_codes.itq(features, 9)
    np.testing.assert_array_equal(weights.bits(features), bits_of(weights, features))


@pytest.mark.parametrize("method", METHODS)
def test_new_photos_of_separate_clusters_are_told_apart(method):
    weights = method(photos(240)[0], 64)
    features, clusters = photos(60, seed=1)
    bits = weights.bits(features)
    apart = (bits[:, None] != bits[None]).sum(axis=2)
    same = clusters[:, None] == clusters
    assert apart[same].mean() < 0.7 * apart[~same].mean()
    np.fill_diagonal(apart, 99)
    assert (clusters[apart.argmin(axis=1)] == clusters).mean() > 0.95


@pytest.mark.parametrize("method", METHODS)
def test_bits_are_balanced_over_the_collection(method):
    features = photos(500, num_clusters=50)[0]
    ones = method(features, 32).bits(features).mean(axis=0)
    assert 0.4 < ones.mean() < 0.6
    assert ones.min() > 0.1 and ones.max() < 0.9


def seen_again(n=400, num_kinds=20, dim=64):
    """Photos of kinds of things, their kinds, photos of other things, and those photos' kinds.

    As in features of a network, what tells things apart lies along axes of falling strength.
    """
    rng = np.random.default_rng(0)
    axes = rng.standard_normal((dim, dim)) / np.arange(1, dim + 1)[:, None] ** 0.5
    kinds = np.arange(n) % num_kinds
    centres = rng.standard_normal((num_kinds, dim))
    things, others = (centres[kinds] + 0.7 * rng.standard_normal((n, dim)) for _ in range(2))
    middle = 3 * rng.standard_normal(dim)
    return normalised(middle + things @ axes), kinds, normalised(middle + others @ axes), kinds


@pytest.fixture(scope="module")
def qualities():
    """Of each method: mAP by kind, and the share of the exact ten in the first twentieth."""
    database, kinds, queries, query_kinds = seen_again()
    nearest = np.argsort(-(queries @ database.T), axis=1, kind="stable")[:, :10]
    found = {}
    for method in METHODS:
        weights = method(database, 32)
        bits, asked = weights.bits(database), weights.bits(queries)
        apart = (asked[:, None] != bits[None]).sum(axis=2)
        pairs = zip(apart, query_kinds[:, None] == kinds, strict=True)
        by_kind = [metrics.tie_aware_average_precision(*pair).expected for pair in pairs]
        first = np.argsort(apart, axis=1, kind="stable")[:, : len(database) // 20]
        held = [np.isin(*pair).mean() for pair in zip(nearest, first, strict=True)]
        found[method.__name__] = np.mean(by_kind), np.mean(held)
    return found


@pytest.mark.thorough
@pytest.mark.parametrize("other", ["itq", "pca_sign", "lsh"])
def test_codes_find_kinds_and_hold_the_nearest_better_than_projections_do(qualities, other):
    ours, theirs = qualities["fit"], qualities[other]
    assert ours[0] > theirs[0] + 0.01 and ours[1] > theirs[1] + 0.01


def test_codes_are_the_same_on_any_number_of_threads():
    features = photos(120)[0]
    with threads.blas_threads(1):
        one = unsupervised_codes.fit(features, 16)
    with threads.blas_threads(2):
        two = unsupervised_codes.fit(features, 16)
    np.testing.assert_array_equal(one.kernel, two.kernel)
    np.testing.assert_array_equal(one.bias, two.bias)


def test_photos_that_repeat_do_not_hide_the_others():
    different = photos(60, num_clusters=60)[0]
    features = np.concatenate([different, np.repeat(different[:1], 200, axis=0)])
    bits = unsupervised_codes.fit(features, 64).bits(different)
    assert len(np.unique(bits, axis=0)) == 60


def test_the_prior_counts_for_less_with_every_photo_of_the_collection():
    shares = []
    for num_own in (1, 12, 100):
        weights = unsupervised_codes._weights(num_own, 256)
        assert weights.mean() == pytest.approx(1)
        shares.append(weights[:num_own].sum() / weights.sum())
    assert shares == sorted(shares) and shares[0] < 0.1 and shares[-1] > 0.8
    assert (unsupervised_codes._weights(256, 256) == 1).all()


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_weights(method):
    features = photos(80)[0]
    first, again, other = (method(features, 16, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.kernel, again.kernel)
    np.testing.assert_array_equal(first.bias, again.bias)
    if method is not unsupervised_codes.pca_sign:
        assert not np.array_equal(first.kernel, other.kernel)


@pytest.mark.parametrize("method", METHODS)
def test_features_are_left_as_they_were(method):
    features = photos(30)[0]
    before = features.copy()
    method(features, 8)
    np.testing.assert_array_equal(features, before)


def test_the_unit_of_features_does_not_change_codes():
    features = photos(100)[0]
    small, large = (unsupervised_codes.fit(features * unit, 24) for unit in (1, np.float32(1024)))
    agree = small.bits(features) == large.bits(features * np.float32(1024))
    assert agree.mean() > 0.99


def test_itq_rounds_bring_components_nearer_to_their_bits():
    features = photos(300, num_clusters=30, spread=0.5)[0]
    errors = []
    for method in (unsupervised_codes.pca_sign, unsupervised_codes.itq):
        weights = method(features, 16)
        cuts = features @ weights.kernel + weights.bias
        errors.append(((np.where(cuts >= 0, 1, -1) * np.abs(cuts).mean() - cuts) ** 2).sum())
    assert errors[1] < errors[0]


def test_pca_bits_cut_the_strongest_axis_first():
    rng = np.random.default_rng(0)
    features = (rng.normal(0, 1, (200, 3)) * [1, 9, 3] + 5).astype(np.float32)
    kernel = unsupervised_codes.pca_sign(features, 3).kernel
    np.testing.assert_array_equal(np.abs(kernel).argmax(axis=0), [1, 2, 0])


# --- Small, odd and wrong collections -------------------------------------------------------------


@pytest.mark.fast("50")
@pytest.mark.parametrize("n", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 5)), 50])
def test_with_a_prior_a_handful_of_photos_is_coded_like_any_others(n):
    prior = photos(600, num_clusters=60, seed=5)[0]
    weights = unsupervised_codes.fit(photos(n)[0], 64, prior=prior)
    features, clusters = photos(60, seed=1)
    bits = weights.bits(features)
    assert len(np.unique(bits, axis=0)) >= 6
    apart = (bits[:, None] != bits[None]).sum(axis=2)
    np.fill_diagonal(apart, 99)
    assert (clusters[apart.argmin(axis=1)] == clusters).mean() > 0.95


@pytest.mark.thorough
def test_a_prior_is_not_used_where_there_are_enough_photos():
    features = photos(unsupervised_codes.FEW_ITEMS, spread=0.5)[0]
    alone = unsupervised_codes.fit(features, 8)
    helped = unsupervised_codes.fit(features, 8, prior=photos(700, seed=5)[0])
    np.testing.assert_array_equal(alone.kernel, helped.kernel)


@pytest.mark.parametrize("n", [2, 3, 5, 50])
def test_distinct_photos_of_a_tiny_collection_get_distinct_codes(n):
    features = photos(n, num_clusters=n)[0]
    bits = unsupervised_codes.fit(features, 64).bits(features)
    assert len(np.unique(bits, axis=0)) == n


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [1, 7, 600])
def test_photos_that_are_all_alike_get_one_code_and_no_nan(method, n):
    features = np.repeat(photos(1)[0], n, axis=0)
    weights = method(features, 32)
    assert np.isfinite(weights.kernel).all() and np.isfinite(weights.bias).all()


@pytest.mark.parametrize("n", [1, 7, 600])
def test_a_collection_of_one_photo_still_tells_other_photos_apart(n):
    weights = unsupervised_codes.fit(np.repeat(photos(1)[0], n, axis=0), 64)
    others = photos(6)[0]
    assert len(np.unique(weights.bits(others), axis=0)) > 1


@pytest.mark.parametrize("method", METHODS)
def test_features_of_zeros_give_finite_weights(method):
    weights = method(np.zeros((4, DIM), np.float32), 16)
    assert np.isfinite(weights.kernel).all() and np.isfinite(weights.bias).all()


def test_of_a_large_collection_a_sample_is_enough(monkeypatch):
    monkeypatch.setattr(unsupervised_codes, "MAX_ITEMS", 200)
    features = photos(1000)[0]
    first, again = unsupervised_codes.fit(features, 16), unsupervised_codes.fit(features, 16)
    np.testing.assert_array_equal(first.kernel, again.kernel)
    assert len(np.unique(first.bits(features), axis=0)) >= 6


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_features_that_are_no_numbers_are_refused(method, wrong):
    features = photos(10)[0]
    features[3, 2] = wrong
    with pytest.raises(ArgumentError, match="finite"):
        method(features, 8)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("num_bits", [0, -1, 1025, 2.5, "64"])
def test_an_impossible_number_of_bits_is_refused(method, num_bits):
    with pytest.raises(HashnetError):
        method(photos(10)[0], num_bits)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_no_collection_of_features_is_refused(method):
    with pytest.raises(ArgumentError):
        method(np.zeros((0, DIM), np.float32), 8)
    with pytest.raises(ShapeError):
        method(np.zeros(DIM, np.float32), 8)
    with pytest.raises(ShapeError):
        method(np.zeros((3, DIM), np.int64), 8)


def test_a_prior_of_another_backbone_is_refused():
    with pytest.raises(ShapeError, match="same backbone"):
        unsupervised_codes.fit(photos(10)[0], 8, prior=np.ones((9, DIM + 1), np.float32))
