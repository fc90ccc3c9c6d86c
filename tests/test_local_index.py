"""Retrieval by local features alone."""

import dataclasses

import numpy as np
import pytest

from hashnet.errors import ArgumentError, ShapeError, StoreError
from hashnet.local.features import LocalFeatures
from hashnet.retrieval.search import verify
from hashnet.retrieval.search.local_index import METHODS, LocalIndex
from hashnet.retrieval.store.folder.store import Store
from hashnet.retrieval.store.items import Item

pytest.importorskip("cv2", reason="needs OpenCV: pip install hashnet[delf]")

DIM = 40
AFFINE = np.array([[0.8, 0.3], [-0.2, 1.1]], np.float32)


def unit(rng, count):
    descriptors = rng.normal(size=(count, DIM))
    return (descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True)).astype(np.float32)


def image(seed, count=80):
    rng = np.random.default_rng(seed)
    yx = rng.uniform(0, 400, (count, 2)).astype(np.float32)
    return LocalFeatures(yx, unit(rng, count), np.zeros(count, np.float32))


def seen_otherwise(features, seed=0, kept=50):
    """Most of an image's features after a change of view, with noise, among others."""
    rng = np.random.default_rng(seed)
    noisy = features.descriptors[:kept] + rng.normal(0, 0.03, (kept, DIM))
    noisy = noisy / np.linalg.norm(noisy, axis=1, keepdims=True)
    yx = np.vstack([features.yx[:kept] @ AFFINE.T + 20, rng.uniform(0, 400, (30, 2))])
    descriptors = np.vstack([noisy, unit(rng, 30)])
    return LocalFeatures(
        yx.astype(np.float32), descriptors.astype(np.float32), np.zeros(kept + 30, np.float32)
    )


@pytest.fixture
def store(tmp_path):
    """Images 0 to 11, of which 3 is removed and 5 shows nothing."""
    store = Store.create(
        tmp_path / "index",
        num_bits=8,
        feature_dim=1,
        fingerprint="f",
        extractor="delf",
        descriptor_dim=DIM,
    )
    local = [image(seed, 0 if seed == 5 else 80) for seed in range(12)]
    with store.writer() as writer:
        items = [Item(str(seed)) for seed in range(12)]
        writer.add(items, np.zeros((12, 1), "u1"), np.zeros((12, 1), "f4"), local)
        writer.remove(["3"])
    return store


@pytest.fixture
def snapshot(store):
    with store.snapshot() as snapshot:
        yield snapshot


def slow_nearest(index_features, queries, k):
    """(distances) of the k nearest, by loops."""
    found = []
    for query in queries:
        distances = [np.linalg.norm(query - other.astype(np.float32)) for other in index_features]
        found.append(sorted(distances)[:k])
    return np.array(found)


def all_descriptors(snapshot):
    stored = snapshot.local_features(np.flatnonzero(snapshot.live_images))
    return np.concatenate([one.descriptors for one in stored])


@pytest.mark.parametrize("method", ["exact", "tree"])
@pytest.mark.parametrize("k", [1, 7, 60])
def test_nearest_features_follow_the_definition(snapshot, method, k, monkeypatch):
    monkeypatch.setattr(
        "hashnet.retrieval.search.local_index.SIMILARITIES_AT_ONCE", 1000
    )  # many blocks
    index = LocalIndex(snapshot, "delf", method=method)
    queries = unit(np.random.default_rng(1), 9)
    places, distances = index.nearest(queries, k)
    everything = all_descriptors(snapshot)
    assert len(index) == len(everything) == 10 * 80
    np.testing.assert_allclose(distances, slow_nearest(everything, queries, k), atol=2e-3)
    own = np.linalg.norm(everything[places].astype(np.float32) - queries[:, None], axis=2)
    np.testing.assert_allclose(own, distances, atol=2e-3)
    assert all(len(set(row)) == k for row in places.tolist())


@pytest.mark.parametrize("at_once", [1, 300, 1 << 23])
def test_features_as_near_as_each_other_come_in_their_order(snapshot, at_once, monkeypatch):
    monkeypatch.setattr("hashnet.retrieval.search.local_index.SIMILARITIES_AT_ONCE", at_once)
    index = LocalIndex(snapshot, "delf")
    # Every third feature is the same one.
    index._descriptors = index._descriptors.copy()
    index._descriptors[::3] = index._descriptors[0]
    queries = index._descriptors[:2].astype(np.float32)
    places, distances = index.nearest(queries, 20)
    assert places[0].tolist() == list(range(0, 60, 3))
    assert places[1, 0] == 1 and len(set(distances[0].tolist())) == 1


@pytest.mark.parametrize("method", ["exact", "tree"])
def test_half_precision_changes_the_length_of_a_descriptor_but_not_what_is_nearest(
    snapshot, method
):
    queries = unit(np.random.default_rng(8), 20)
    known = all_descriptors(snapshot)
    places, distances = LocalIndex(snapshot, "delf", method=method).nearest(queries, 60)
    found = [
        np.linalg.norm(known[near].astype(np.float64) - query, axis=1)
        for near, query in zip(places, queries, strict=True)
    ]
    np.testing.assert_allclose(found, slow_nearest(known, queries, 60), atol=1e-6)
    np.testing.assert_allclose(np.square(distances), np.square(found), atol=1e-6)


def test_the_approximate_index_finds_most_of_the_exact_ones(snapshot):
    pytest.importorskip("faiss")
    queries = unit(np.random.default_rng(1), 20)
    exact, _ = LocalIndex(snapshot, "delf").nearest(queries, 60)
    near, _ = LocalIndex(snapshot, "delf", method="faiss").nearest(queries, 60)
    recall = np.mean([len(set(a) & set(b)) / 60 for a, b in zip(exact, near, strict=True)])
    assert recall > 2 * 60 / 800  # chance gives a thirteenth


@pytest.mark.parametrize("method", METHODS)
def test_an_image_seen_otherwise_is_found_with_its_geometry(snapshot, method):
    if method == "faiss":
        pytest.importorskip("faiss")
    index = LocalIndex(snapshot, "delf", method=method)
    for seed in (0, 4, 11):
        first, *others = index.search(seen_otherwise(image(seed)), k=20)
        assert first.row == seed and 48 <= first.inliers <= 52
        assert all(hit.inliers < 10 for hit in others)
        np.testing.assert_allclose(
            first.verification.yx @ AFFINE.T + 20, first.verification.query_yx, atol=5
        )


def test_removed_images_and_the_query_itself_are_left_out(snapshot):
    index = LocalIndex(snapshot, "delf")
    assert 3 not in [hit.row for hit in index.search(seen_otherwise(image(3)), k=20)]
    seven, nine = image(7), image(9)
    both = LocalFeatures(
        np.vstack([seven.yx, nine.yx]),
        np.vstack([seven.descriptors, nine.descriptors]),
        np.zeros(160, np.float32),
    )
    assert [hit.row for hit in index.search(both)] == [7, 9]
    assert [hit.row for hit in index.search(both, without=7)] == [9]


def test_only_the_best_are_verified_and_the_others_follow(snapshot):
    index = LocalIndex(snapshot, "delf", num_threads=2)
    query = seen_otherwise(image(8))
    whole, some = index.search(query, k=20), index.search(query, k=20, verify_top=2)
    assert [hit.inliers is None for hit in some] == [n >= 2 for n in range(len(some))]
    assert {hit.row for hit in whole} == {hit.row for hit in some}
    assert some[0].row == whole[0].row == 8 and some[0].inliers == whole[0].inliers
    assert [hit.matches for hit in some[2:]] == sorted((h.matches for h in some[2:]), reverse=True)


def test_too_few_inliers_do_not_count(snapshot, monkeypatch):
    """Of three images that are found, that with fewest matches has most inliers, and so on."""
    least = verify.MATCHING["delf"].min_inliers
    parts = [(image(0), 60), (image(1), 40), (image(2), 20)]
    yx, descriptors = (
        np.vstack([getattr(one, name)[:count] for one, count in parts])
        for name in ("yx", "descriptors")
    )

    def inliers(query, candidates, *_, **options):
        nothing = verify.estimate(yx[:0], yx[:0], error=3)
        return [dataclasses.replace(nothing, inliers=n) for n in (0, least - 1, least)]

    monkeypatch.setattr(verify, "verify_all", inliers)
    query = LocalFeatures(yx, descriptors, np.zeros(len(yx), np.float32))
    hits = LocalIndex(snapshot, "delf").search(query, neighbours=1)
    assert [(hit.row, hit.inliers) for hit in hits] == [(2, least), (0, 0), (1, least - 1)]


def test_the_answer_does_not_depend_on_threads(snapshot):
    query = seen_otherwise(image(2))
    one = LocalIndex(snapshot, "delf").search(query, k=20)
    two = LocalIndex(snapshot, "delf", num_threads=2).search(query, k=20)
    assert [(h.row, h.matches, h.inliers) for h in one] == [
        (h.row, h.matches, h.inliers) for h in two
    ]


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_found_in_nothing_and_by_nothing(store, snapshot, method):
    index = LocalIndex(snapshot, "delf", method=method)
    assert index.search(image(5, 0)) == []
    with store.writer() as writer:
        writer.remove([str(seed) for seed in range(12)])
    with store.snapshot() as empty:
        index = LocalIndex(empty, "delf", method=method)
        assert len(index) == 0 and index.search(image(1)) == []


def test_fewer_features_than_neighbours_are_filled_up(snapshot):
    places, distances = LocalIndex(snapshot, "delf").nearest(unit(np.random.default_rng(0), 2), 900)
    assert (places[:, 800:] == -1).all() and np.isinf(distances[:, 800:]).all()
    assert (places[:, :800] >= 0).all()


def test_what_does_not_fit_is_refused(snapshot):
    with pytest.raises(ArgumentError, match="exact, tree, faiss"):
        LocalIndex(snapshot, "delf", method="magic")
    with pytest.raises(StoreError, match="orb"):
        LocalIndex(snapshot, "orb")
    with pytest.raises(ShapeError, match="128.*40"):
        LocalIndex(snapshot, "delf").nearest(np.ones((2, 128), np.float32))
